"""Two TCPs of one make, joined below: what the suites of the tcp role talk to.

Each has an app above it that accepts, checks the offsets of what it gets, and reads. How they are
joined is the one thing that differs: by segments, or by the operating system.
"""

from __future__ import annotations

import random
import select

from plywire.config import SECOND, host
from plywire.envelope import decode, encode
from plywire.layer import Layer
from plywire.messages import (
    Accepted,
    Bind,
    Bound,
    Connect,
    Credit,
    Data,
    Listen,
    Message,
    Opened,
    Paths,
    Segment,
)
from plywire.registry import devices, load
from plywire.roles import APP, IP, WIRE
from plywire.trace import Tracer

MOMENT = 0.3
PATIENCE = 20  # seconds for the operating system, which needs a few microseconds

A, B, ANY = bytes((10, 0, 0, 1)), bytes((10, 0, 0, 2)), bytes(4)
HOST_A, HOST_B = host("a", "10.0.0.1/24"), host("b", "10.0.0.2/24")
DELAY = SECOND // 1000
BUFFER = 1 << 18


def make(spec: str, config=HOST_A, seed: int = 1, sink=None, paths: bool = True) -> Layer:
    layer = load(spec)(config, random.Random(seed), Tracer(config.name, "tcp", sink))
    if paths:
        own = config.interfaces[0].address
        rows = ((own, 32, own, 65_535), (config.interfaces[0].network, 24, own, 1500))
        layer.receive(Paths(0, rows), IP, SECOND)
    return layer


class Side:
    """A layer and the app above it, which echoes nothing and checks offsets."""

    def __init__(self, layer: Layer) -> None:
        self.layer = layer
        self.handle = 0
        self.limit = 0
        self.reads = self.accepts = True
        self.sent = 0
        self.received = b""
        self.told: list[Message] = []


class SegmentTwins:
    """Two layers, a lossy wire, and one connection from a to b."""

    def __init__(self, spec: str, loss: float = 0.0, seed: int = 1) -> None:
        self.spec, self.now, self.loss = spec, 2 * SECOND, loss
        self.rng = random.Random(seed)
        self.a, self.b = Side(make(spec, HOST_A)), Side(make(spec, HOST_B, 2))
        self.wire: list[tuple[int, Side, Segment]] = []
        self.segments: list[Segment] = []

    def app(self, side: Side, message: Message) -> None:
        side.layer.receive(message, APP, self.now)
        self.collect(side)

    def listen(self, port: int = 0) -> int:
        """b listens under the handle 2; returns the port."""
        self.app(self.b, Bind(1, 2, ANY, port, 0))
        self.run(lambda: told(self.b, Bound))
        self.app(self.b, Listen(1, 2, 4, {}))
        self.run(lambda: len(told(self.b, Bound)) == 2)
        return told(self.b, Bound)[1].port

    def open(self, port: int = 0) -> None:
        """A connection from a (handle 4) to b, who has accepted it."""
        port = self.listen(port)
        self.a.handle = 4
        self.app(self.a, Connect(1, 4, B, port, BUFFER, {}))
        self.run(lambda: self.a.limit and self.b.limit)

    def collect(self, side: Side) -> None:
        other = self.b if side is self.a else self.a
        for output in side.layer.outputs():
            (message,), errors = decode(encode([output.message]))
            assert errors == []
            if output.to == IP:
                assert isinstance(message, Segment)
                self.segments.append(message)
                if self.rng.random() >= self.loss:
                    self.wire.append((self.now + DELAY, other, message))
                continue
            assert output.to == APP
            self.hear(side, message)

    def hear(self, side: Side, message: Message) -> None:
        """The app's part: it accepts, checks offsets, and reads unless it is told not to."""
        side.told.append(message)
        if isinstance(message, Opened):
            side.limit = message.limit
            if message.listener:
                assert message.handle & 1
                side.handle = message.handle
                if side.accepts:
                    side.layer.receive(Accepted(1, message.handle), APP, self.now)
        elif isinstance(message, Credit):
            side.limit = message.limit
        elif isinstance(message, Data):
            assert message.offset == len(side.received)
            side.received += message.payload
            read = len(side.received)
            if not side.reads:
                return
            side.layer.receive(Credit(0, side.handle, read, read + BUFFER), APP, self.now)

    def send(self, side: Side, data: bytes) -> None:
        """As much as there is credit for, until all is sent."""
        end = side.sent + len(data)
        start = side.sent
        while side.sent < end:
            part = data[side.sent - start : min(side.limit, end, side.sent + 65_536) - start]
            if part:
                offset = side.sent
                side.sent += len(part)
                self.app(side, Data(1, side.handle, offset, part))
            else:
                before = side.limit
                self.run(lambda before=before: side.limit > before)

    def step(self, patience: float = PATIENCE) -> bool:
        """Go to what happens next; False when nothing will."""
        times = [due for side in (self.a, self.b) if (due := side.layer.deadline()) is not None]
        if self.wire:
            times.append(self.wire[0][0])
        if not times:
            return False
        self.now = max(self.now, min(times))
        for side in (self.a, self.b):
            due = side.layer.deadline()
            if due is not None and due <= self.now:
                side.layer.expire(self.now)
        while self.wire and self.wire[0][0] <= self.now:
            _, side, segment = self.wire.pop(0)
            side.layer.receive(segment, IP, self.now)
            self.collect(side)
        self.collect(self.a)
        self.collect(self.b)
        return True

    def run(self, until, limit: int = 4000) -> None:
        stop = self.now + limit * SECOND
        while not until():
            assert self.step(), "nothing more can happen"
            assert self.now < stop, "the time is up"

    def moves(self, until, steps: int = 400) -> bool:
        """Does `until` come true, with all that can happen? The system is given a moment."""
        return any(until() or not self.step(MOMENT) for _ in range(steps)) and bool(until())

    @property
    def room(self) -> int:
        """How much may come up before b reads."""
        return max(BUFFER, HOST_B.tcp.receive_buffer)

    def swap(self, side: Side) -> None:
        config = HOST_A if side is self.a else HOST_B
        state = side.layer.snapshot()
        side.layer = make(self.spec, config, 77, paths=False)
        side.layer.restore(state, self.now)

    def close(self) -> None:
        """Nothing is left that would have to be closed."""


def told(side: Side, kind: type) -> list:
    return [message for message in side.told if isinstance(message, kind)]


class SystemTwins(SegmentTwins):
    """Two layers that are joined by the operating system's sockets, which keep real time."""

    def __init__(self, spec: str, loss: float = 0.0, seed: int = 1) -> None:
        super().__init__(spec, loss, seed)
        assert not loss, "the system loses nothing on loopback"
        for side in (self.a, self.b):
            self._plug(side)

    def _plug(self, side: Side) -> None:
        (side.port,) = devices(self.spec)(side.layer, None, "", {})

    def collect(self, side: Side) -> None:
        moved = True
        while moved:
            moved = False
            for output in side.layer.outputs():
                moved = True
                if output.to == WIRE:
                    side.port.send([output.message])
                    continue
                (message,), errors = decode(encode([output.message]))
                assert errors == []
                assert output.to == APP
                self.hear(side, message)
            for message in side.port.expire(0):
                moved = True
                side.layer.receive(message, WIRE, self.now)

    def step(self, patience: float = PATIENCE) -> bool:
        ports = {side.port.pollable(): side for side in (self.a, self.b)}
        ready = select.select(list(ports), [], [], patience)[0]
        for descriptor in ready:
            side = ports[descriptor]
            for message in side.port.receive():
                side.layer.receive(message, WIRE, self.now)
            self.collect(side)
        return bool(ready)

    def swap(self, side: Side) -> None:
        super().swap(side)
        side.port.close()
        self._plug(side)
        self.collect(side)

    def close(self) -> None:
        for side in (self.a, self.b):
            side.port.close()
