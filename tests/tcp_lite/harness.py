"""A lite TCP between a scripted peer below and a scripted program above."""

from __future__ import annotations

import random
from dataclasses import replace

from plywire.config import SECOND, host
from plywire.messages import Accepted, Bind, Connect, Listen, Message, Opened, Paths, Segment
from plywire.roles import APP, IP
from plywire.seq import add
from plywire.trace import Tracer
from plywire.wire import tcp as wire
from plywire.wire.tcp import ACK, SYN, Options, TcpHeader
from services.tcp_lite import create

HERE, PEER, ANY = bytes((10, 0, 0, 1)), bytes((10, 0, 0, 2)), bytes(4)
ISS, IRS = 1000, 5000
MSS = 1460
EVERYTHING = wire.build_options(Options(MSS, 7, True, (), (1, 0)))
"""What a peer offers that can do everything."""


class FixedNumber:
    """An initial sequence number of the test's choice."""

    def __init__(self, iss: int) -> None:
        self.iss, self.key = iss, b""

    def choose(self, *_: object) -> int:
        return self.iss


class Script:
    """Numbers of the peer's segments count from its SYN, as those of `ack` do from ours."""

    def __init__(self, iss: int = ISS, mtu: int = 1500, **tcp: int) -> None:
        config = host("h1", "10.0.0.1/24")
        self.config = replace(config, tcp=replace(config.tcp, **tcp))
        self.iss, self.now, self.port, self.handle = iss, 10 * SECOND, 0, 0
        self.layer = self._make()
        self.layer.receive(Paths(0, ((bytes((10, 0, 0, 0)), 24, HERE, mtu),)), IP, self.now)

    def _make(self):
        layer = create(self.config, random.Random(1), Tracer("h1", "tcp", lambda event: None))
        layer.isn = FixedNumber(self.iss)
        return layer

    def app(self, message: Message) -> list:
        self.layer.receive(message, APP, self.now)
        return self.out()

    def out(self) -> list:
        """What came out: messages to the app, and (header, data) of segments."""
        found = []
        for output in self.layer.outputs():
            item = output.message
            if isinstance(item, Segment):
                found.append(wire.decode(item.payload, item.src, item.dst))
            else:
                found.append(item)
        return found

    def segment(
        self,
        flags: int,
        seq: int = 1,
        ack: int = 1,
        data: bytes = b"",
        window: int = 60_000,
        options: bytes = b"",
        source: int = 80,
    ) -> list:
        """The peer sends; returns what comes out."""
        header = TcpHeader(
            source, self.port, add(IRS, seq),
            add(self.iss, ack) if flags & ACK else 0, flags, window, 0, options,
        )  # fmt: skip
        payload = wire.encode(header, data, PEER, HERE)
        self.layer.receive(Segment(1, 6, PEER, HERE, 0, 64, 0, payload), IP, self.now)
        return self.out()

    def expire(self) -> list:
        """Go to the next deadline."""
        self.now = self.layer.deadline()
        self.layer.expire(self.now)
        return self.out()

    def connect(self, limit: int = 1 << 18) -> TcpHeader:
        ((syn, _),) = self.app(Connect(7, 2, PEER, 80, limit, {}))
        self.port, self.handle = syn.src_port, 2
        return syn

    def open(self, limit: int = 1 << 18, window: int = 60_000, options: bytes = EVERYTHING):
        """An ESTABLISHED connection that this side opened."""
        self.connect(limit)
        opened, (ack, _) = self.segment(SYN | ACK, 0, 1, window=window, options=options)
        assert isinstance(opened, Opened)
        assert ack.flags == ACK
        return self

    def listen(self, backlog: int = 4) -> None:
        self.port = 8080
        self.app(Bind(1, 2, ANY, 8080, 0))
        self.app(Listen(1, 2, backlog, {}))

    def accept(self):
        """An ESTABLISHED connection that came in."""
        self.listen()
        self.segment(SYN, 0)
        (opened,) = self.segment(ACK)
        self.handle = opened.handle
        self.app(Accepted(1, self.handle))
        return self

    def swap(self) -> None:
        """Another layer goes on."""
        state = self.layer.snapshot()
        self.layer = self._make()
        self.layer.restore(state, self.now)
        assert self.layer.snapshot() == state

    @property
    def states(self) -> list[str]:
        return [row["state"] for row in self.layer.describe("connections", self.now)]

    @property
    def row(self) -> dict:
        (row,) = self.layer.describe("connections", self.now)
        return row
