"""An app layer with its TCP played by hand: messages in, messages out, in virtual time."""

from __future__ import annotations

import random
from typing import Any

from plywire.calls import Call
from plywire.config import MS, SECOND, HostConfig, host
from plywire.errors import SocketError
from plywire.messages import (
    Bound,
    Closed,
    Credit,
    Data,
    End,
    Hello,
    Listen,
    Message,
    Opened,
)
from plywire.roles import TCP
from plywire.trace import Event, Tracer
from services.app import create
from services.app.core import AppLayer

H1, H2 = b"\x0a\0\0\x01", b"\x0a\0\0\x02"
T0 = 1000 * SECOND
PEER = ("10.0.0.2", 80)
LIMIT = 100_000


class Program:
    """One app layer and the scripted TCP below it. `events` is what it traced."""

    def __init__(self, config: HostConfig | None = None, hello: bool = True) -> None:
        names = {"h2.lab": H2, "h2": H2}
        self.config = config or host("h1", "10.0.0.1/24", names=names)
        self.events: list[Event] = []
        self.layer: AppLayer = create(
            self.config, random.Random(7), Tracer("h1", "app", self.events.append)
        )
        self.now = T0
        self.next_child = 1
        if hello:
            self.say(Hello(0, "tcp", 111, 0))

    def __getattr__(self, name: str) -> Any:
        """The operations of the layer, at the present time."""
        operation = getattr(self.layer, name)
        return lambda *args, **fields: operation(*args, now=self.now, **fields)

    def say(self, *messages: Message) -> None:
        """TCP says something."""
        for message in messages:
            self.layer.receive(message, TCP, self.now)

    def heard(self) -> list[Message]:
        """What TCP was told since the last time."""
        outputs = self.layer.outputs()
        assert all(output.to == TCP for output in outputs)
        return [output.message for output in outputs]

    def wait(self, milliseconds: int) -> None:
        """Let time pass, one timer after the other."""
        until = self.now + milliseconds * MS
        while (due := self.layer.deadline()) is not None and due <= until:
            self.now = max(self.now, due)
            self.layer.expire(self.now)
        self.now = until

    def handle(self, descriptor: int) -> int:
        return self.layer.context.table.find(descriptor).handle

    def connecting(self, timeout: float | None = None) -> tuple[int, Call]:
        """A descriptor in SYN-SENT, and the call that waits."""
        descriptor = self.create_socket().result()
        return descriptor, self.connect(descriptor, PEER, timeout=timeout)

    def open(self, descriptor: int, limit: int = LIMIT) -> None:
        """TCP opens the connection of a descriptor."""
        self.say(Opened(9, self.handle(descriptor), 0, H1, 40_000, H2, 80, limit))

    def connected(self, limit: int = LIMIT) -> int:
        """A descriptor in ESTABLISHED, with what was said until then thrown away."""
        descriptor, call = self.connecting()
        self.open(descriptor, limit)
        assert call.result().local == ("10.0.0.1", 40_000)
        self.heard()
        return descriptor

    def listening(self, port: int = 80, backlog: int = 8) -> int:
        """A descriptor that listens."""
        descriptor = self.create_socket().result()
        call = self.listen(descriptor, backlog)
        (listen,) = self.heard()
        assert isinstance(listen, Listen)
        self.say(Bound(8, listen.handle, bytes(4), port, "", ""))
        assert call.result() == ("0.0.0.0", port)
        return descriptor

    def comes_in(self, listener: int, port: int = 50_000) -> int:
        """A connection arrives at a listener; returns its handle."""
        handle, self.next_child = self.next_child, self.next_child + 2
        self.say(Opened(7, handle, self.handle(listener), H1, 80, H2, port, LIMIT))
        return handle

    def data(self, descriptor: int, payload: bytes, offset: int | None = None) -> None:
        """TCP hands up the next bytes."""
        socket = self.layer.context.table.find(descriptor)
        at = socket.receive.received if offset is None else offset
        self.say(Data(6, socket.handle, at, payload))

    def end(self, descriptor: int) -> None:
        """The peer ends its direction."""
        socket = self.layer.context.table.find(descriptor)
        self.say(End(6, socket.handle, socket.receive.received))

    def closed(self, descriptor: int, error: str = "", cause: str = "") -> None:
        """TCP's connection is over."""
        self.say(Closed(5, self.handle(descriptor), error, cause))

    def credit(self, descriptor: int, acked: int, limit: int) -> None:
        """TCP's credit for what the program sends."""
        self.say(Credit(4, self.handle(descriptor), acked, limit))

    def counter(self, name: str) -> int:
        return self.layer.counters[name]


def error(call: Call) -> str:
    """The errno's name of a failed call; "" when it succeeded."""
    assert call.done, "the call is pending"
    return call.error.name if call.error is not None else ""


def failure(call: Call) -> SocketError:
    """The error of a failed call."""
    assert call.error is not None
    return call.error
