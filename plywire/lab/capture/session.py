"""One capture: packets from the lab's control service to those who want them, in a thread."""

from __future__ import annotations

import random
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple, Protocol

import grpc

from plywire.lab.capture.filters import Filter
from plywire.lab.capture.outputs import ReaderGone
from plywire.lab.capture.packets import Packet, Taken, read
from plywire.lab.capture.points import Point
from plywire.lab.control import LabClient
from plywire.lab.rundir import LabError
from plywire.rpc import control_pb2 as pb

READY_LIMIT = 10.0
"""Seconds that the layers may take to begin to trace."""
STALLED = 5.0
"""Seconds without a packet after which a capture that was told to stop has all it can get."""


class Plan(NamedTuple):
    """What is captured. wanted: None for all packets; count: stop after so many, 0 for never."""

    points: Sequence[Point]
    wanted: Filter | None = None
    count: int = 0


class Sink(Protocol):
    """Where captured packets go; each raises ReaderGone or OutputError."""

    def packet(self, taken: Taken, packet: Packet | None) -> None:
        """Take a packet. packet: what is in it, None unless the session was to read it."""

    def finish(self, time: int, seen: Sequence[int], taken: Sequence[int], dropped: int) -> None:
        """No more come. Packets that each point has seen, those taken, those dropped by the lab."""


class Source:
    """The events of a lab that cross the points' boundaries.

    `stop` and `cancel` can be called from any thread. failure: why it ended when nobody ended it.
    """

    def __init__(self, client: LabClient, points: Sequence[Point]) -> None:
        self.dropped = 0
        self.epoch = 0
        """The time of day at which the lab's clock was 0, in ns."""
        self.failure: LabError | None = None
        self._client = client
        hosts = sorted({point.host for point in points})
        boundaries = sorted({point.boundary for point in points})
        request = pb.ObserveRequest(hosts=hosts, boundaries=boundaries)
        self._call = client.stub.Observe(request)
        self.received = 0
        """How many messages have come: it tells whether there is progress."""
        self._mark = 0
        self._cancelled = threading.Event()

    def wait(self) -> bool:
        """Wait until all layers trace; False when it was ended meanwhile. Raises LabError."""
        late = threading.Event()
        timer = threading.Timer(READY_LIMIT, lambda: (late.set(), self.cancel()))
        timer.start()
        first = next(self._responses(), None)
        timer.cancel()
        if late.is_set():
            raise LabError(f"not every layer traces after {READY_LIMIT:g} s: see `plywire status`")
        if self.failure is not None:
            raise self.failure
        if first is None:
            return False
        self.epoch = first.epoch
        return True

    def __iter__(self) -> Iterator[pb.Event]:
        for response in self._responses():
            self.received += 1
            if response.WhichOneof("item") == "event":
                yield response.event
            elif response.mark and response.mark == self._mark:
                return
            self.dropped += response.dropped

    def stop(self) -> None:
        """End it when all that was seen up to now has come."""
        if not self._mark:
            self._mark = random.getrandbits(63) + 1
            threading.Thread(target=self._drain, daemon=True).start()

    def cancel(self) -> None:
        """End it now."""
        self._cancelled.set()
        self._call.cancel()

    def _drain(self) -> None:
        """Much may be on its way, in the layers' pipes and in the lab: a mark comes behind it."""
        try:
            self._client.stub.Mark(pb.MarkRequest(mark=self._mark), timeout=STALLED)
        except grpc.RpcError:
            self.cancel()
        received = -1
        while received != self.received:
            received = self.received
            if self._cancelled.wait(STALLED):
                return
        self.cancel()

    def _responses(self) -> Iterator[pb.ObserveResponse]:
        try:
            yield from self._call
        except grpc.RpcError as error:
            if self._cancelled.is_set():
                return
            gone = error.code() in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED)
            self.failure = LabError("the lab has ended" if gone else error.details())
        else:
            if not self._cancelled.is_set():
                self.failure = LabError("the lab has ended")


class Session(threading.Thread):
    """Captures until it is stopped, has what it was to get, or nobody reads any more.

    open: makes the sinks once the lab is ready; reads: they need to know what is in a packet.
    ready and ended are called in this thread. over is set before ended is called; from then on
    captured, dropped and error are what they will be.
    """

    def __init__(
        self,
        client: LabClient,
        plan: Plan,
        open: Callable[[], list[Sink]],
        *,
        reads: bool = False,
        ready: Callable[[], object] = lambda: None,
        ended: Callable[[], object] = lambda: None,
    ) -> None:
        super().__init__(daemon=True)
        self.captured = 0
        self.error: Exception | None = None
        self.over = False
        self._plan = plan
        self._open = open
        self._reads = reads or plan.wanted is not None
        self._ready = ready
        self._ended = ended
        self._source = Source(client, plan.points)

    @property
    def dropped(self) -> int:
        """Packets that the lab had no room for, because this was too slow or too much came."""
        return self._source.dropped

    @property
    def progress(self) -> int:
        """Changes while something comes."""
        return self._source.received

    @property
    def summary(self) -> str:
        """As tcpdump says it at the end."""
        s = "" if self.captured == 1 else "s"
        return f"{self.captured} packet{s} captured, {self.dropped} dropped"

    def stop(self) -> None:
        """Let it end with what was seen up to now."""
        self._source.stop()

    def cancel(self) -> None:
        """Let it end now: nobody reads any more."""
        self._source.cancel()

    def run(self) -> None:
        try:
            if self._source.wait():
                self._run(self._open())
        except ReaderGone:
            pass  # `| head` has what it wanted
        except Exception as error:  # told by whoever waits for the end
            self.error = error
        finally:
            self._source.cancel()
            self.over = True
            self._ended()

    def _run(self, sinks: list[Sink]) -> None:
        self._ready()
        points = self._plan.points
        seen, taken = [0] * len(points), [0] * len(points)
        self._capture(sinks, seen, taken)
        for sink in sinks:
            sink.finish(time.time_ns(), seen, taken, self.dropped)
        if self._source.failure is not None:
            raise self._source.failure

    def _capture(self, sinks: list[Sink], seen: list[int], taken: list[int]) -> None:
        points, wanted, count = self._plan
        numbers = {
            (point.host, point.boundary, point.ifindex): number
            for number, point in enumerate(points)
        }
        subjects = [point.subject for point in points]
        linktypes = [point.linktype for point in points]
        at_wire = {point.boundary for point in points if point.ifindex}
        epoch, reads, packet = self._source.epoch, self._reads, None
        for event in self._source:
            ifindex = int(event.fields.get("ifindex", 0)) if event.boundary in at_wire else 0
            number = numbers.get((event.host, event.boundary, ifindex))
            if number is None or event.subject != subjects[number]:
                continue
            seen[number] += 1
            one = _taken(number, event, epoch)
            if reads:
                packet = read(linktypes[number], one)
                if wanted is not None and not wanted(packet):
                    continue
            for sink in sinks:
                sink.packet(one, packet)
            taken[number] += 1
            self.captured += 1
            if self.captured == count:
                return


def _taken(number: int, event: pb.Event, epoch: int) -> Taken:
    direction = "out" if event.direction == "down" else "in"
    common = (number, event.time + epoch, event.trace, direction, event.packet)
    fields = event.fields
    if "protocol" not in fields:
        return Taken(*common)
    src, dst = socket.inet_aton(fields["src"]), socket.inet_aton(fields["dst"])
    return Taken(*common, src, dst, int(fields["protocol"]))
