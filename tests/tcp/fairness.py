"""Flows that share a bottleneck, in virtual time: how evenly (Jain, Chiu and Hawe 1984).

`python -m tests.tcp.fairness` prints the table of docs/performance.md. Data of all flows goes
through one queue of one bandwidth-delay product that drops what does not fit; acknowledgements go
back with a jitter of a millisecond, without which flows of one deterministic simulation can
stay in phase with the queue for ever.
"""

from __future__ import annotations

import heapq
import itertools
import random
import sys
from collections.abc import Sequence
from typing import NamedTuple

from plywire.impair import Impairer, Impairments
from plywire.messages import Bind, Connect, Listen, Segment
from plywire.roles import APP, IP

from .harness import ANY, MS, SECOND, Side

RATE = 10_000_000  # bits a second
RTT = 50 * MS
HEADERS = 34  # Ethernet and IP, which the bottleneck carries as well
QUEUE = RATE * RTT // SECOND // 8 // 1514  # frames: one bandwidth-delay product
BUFFER = 512 << 10  # more than the path and the queue can hold, so that it limits nobody


class Shares(NamedTuple):
    """rates: Mbit/s of each flow over the time measured; index: Jain's; use: of the bottleneck."""

    rates: list[float]
    index: float
    use: float


class Flow:
    """Two layers that share a clock and a bottleneck with others; what `Side` expects of a Pair."""

    mtu = 1500
    watches = None

    def __init__(self, net: Bottleneck, number: int, control: str) -> None:
        self.net = net
        self.seed = f"{net.seed}/{number}"
        self.rng = random.Random(self.seed)
        options = {"congestion": control, "send_buffer": BUFFER, "receive_buffer": BUFFER}
        self.a = Side(self, "a", "10.0.0.1/24", None, options)
        self.b = Side(self, "b", "10.0.0.2/24", None, options)
        self.a.buffer = self.b.buffer = BUFFER

    @property
    def now(self) -> int:
        return self.net.now

    def start(self, size: int) -> None:
        self.b.app(Bind(0, 2, ANY, 80, 0))
        self.b.app(Listen(0, 2, 8, {}))
        self.a.handle = 4
        self.a.app(Connect(1, 4, self.b.address, 80, BUFFER, {}))
        self.a.send(bytes(size), close=False)

    def collect(self, end: Side) -> None:
        outputs = end.layer.outputs()
        for output in outputs:
            if output.to == IP:
                self.net.transmit(self, end, output.message)
        for output in outputs:
            if output.to == APP:
                end.heard(output.message)


class Bottleneck:
    """All flows, and the two directions of what is between them."""

    def __init__(self, controls: Sequence[str], seed: int = 1) -> None:
        self.seed = seed
        self.now = SECOND
        forth = Impairments(delay=RTT // 2, rate=RATE, queue=QUEUE)
        back = Impairments(delay=RTT // 2 - MS // 2, jitter=MS)
        self.forth = Impairer(forth, random.Random(seed))
        self.back = Impairer(back, random.Random(seed))
        self.flows = [Flow(self, number, control) for number, control in enumerate(controls)]
        self.ends = [end for flow in self.flows for end in (flow.a, flow.b)]
        self.arrivals: list = []
        self.order = itertools.count()

    def transmit(self, flow: Flow, end: Side, segment: Segment) -> None:
        forth = end is flow.a
        wire, other = (self.forth, flow.b) if forth else (self.back, flow.a)
        for when, _ in wire.apply(bytes(HEADERS) + segment.payload, self.now):
            heapq.heappush(self.arrivals, (when, next(self.order), other, segment))

    def run(self, until: int) -> None:
        """Let time pass until then."""
        while True:
            due = [when for end in self.ends if (when := end.layer.deadline()) is not None]
            if self.arrivals:
                due.append(self.arrivals[0][0])
            if not due or min(due) > until:
                self.now = until
                return
            self.now = max(self.now, min(due))
            while self.arrivals and self.arrivals[0][0] <= self.now:
                _, _, end, segment = heapq.heappop(self.arrivals)
                end.layer.receive(segment, IP, self.now)
                end.pair.collect(end)
            for end in self.ends:
                when = end.layer.deadline()
                if when is not None and when <= self.now:
                    end.layer.expire(self.now)
                    end.pair.collect(end)


def share(
    controls: Sequence[str], *, apart: int, after: int, seconds: int, seed: int = 1
) -> Shares:
    """Start the flows `apart` seconds one after the other; measure for `seconds` from `after` on,
    counted from the first start."""
    net = Bottleneck(controls, seed)
    began = net.now
    for number, flow in enumerate(net.flows):
        net.run(began + number * apart * SECOND)
        flow.start(RATE // 8 * (after + seconds))  # more than it can send
    net.run(began + after * SECOND)
    before = [len(flow.b.received) for flow in net.flows]
    net.run(began + (after + seconds) * SECOND)
    rates = [(len(flow.b.received) - had) * 8 / seconds / 1e6
             for flow, had in zip(net.flows, before, strict=True)]  # fmt: skip
    return Shares(rates, jain(rates), sum(rates) * 1e6 / RATE)


def jain(rates: Sequence[float]) -> float:
    """From 1/n, when one has all, to 1, when all have the same."""
    return sum(rates) ** 2 / (len(rates) * sum(rate * rate for rate in rates))


SCENARIOS: dict[str, tuple[Sequence[str], int, int, int]] = {
    "4 cubic, together": (["cubic"] * 4, 0, 5, 30),
    "4 cubic, 2 s apart": (["cubic"] * 4, 2, 15, 30),
    "4 newreno, together": (["newreno"] * 4, 0, 5, 30),
    "4 newreno, 2 s apart": (["newreno"] * 4, 2, 15, 30),
    "2 cubic, 2 newreno, together": (["cubic", "newreno"] * 2, 0, 5, 30),
}
"""Controls, seconds apart, seconds until the measurement begins, seconds that it lasts."""


if __name__ == "__main__":
    for seed in map(int, sys.argv[1:] or ["1"]):
        for name, (controls, apart, after, seconds) in SCENARIOS.items():
            found = share(controls, apart=apart, after=after, seconds=seconds, seed=seed)
            rates = " ".join(f"{rate:5.2f}" for rate in found.rates)
            print(f"{name:30} {rates}  Jain {found.index:.3f}  use {found.use:.2f}")
