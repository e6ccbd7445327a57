"""The host under test: a TCP layer, with the sockets of a program that does what the script says.

The sockets are what `services/app` is to tcp, without gRPC: credit, offsets, errno's names.
"""

from __future__ import annotations

import random
from dataclasses import replace

from plywire.config import parse
from plywire.layer import Layer
from plywire.messages import (
    Accepted,
    Bind,
    Bound,
    Close,
    Closed,
    Connect,
    Credit,
    Data,
    End,
    Listen,
    Message,
    Opened,
    Option,
)
from plywire.messages import Segment as Packet
from plywire.roles import APP, IP
from plywire.trace import Tracer
from tests.tcp.harness import ANY, LOCAL, REMOTE, _Fixed, paths_of

from .language import Scenario

START = 10_000_000_000
_PATTERN = bytes(value * 7 % 251 for value in range(251)) * 300


def pattern(offset: int, size: int) -> bytes:
    """What the bytes of every stream are, on both sides."""
    at = offset % 251
    if at + size > len(_PATTERN):
        return bytes((offset + index) % 251 * 7 % 251 for index in range(size))
    return _PATTERN[at : at + size]


class Socket:
    """What a program sees of one socket."""

    def __init__(self, handle: int, buffer: int) -> None:
        self.handle, self.buffer = handle, buffer
        self.opened = self.closed = self.ended = self.shut = False
        self.error = ""
        self.limit = buffer  # how far the stream may be written
        self.written = self.received = self.read_to = 0
        self.port = 0  # the peer's
        self.waiting: list[Opened] = []  # of a listener

    @property
    def unread(self) -> int:
        return self.received - self.read_to

    @property
    def status(self) -> str:
        if self.closed:
            return self.error or "closed"
        return "connected" if self.opened else "connecting"


class Host:
    """A layer of `create`, its clock, what it sent, and the sockets.

    sent: (when, packet) in order; the runner takes them from there.
    """

    def __init__(self, scenario: Scenario, create) -> None:
        interface = {"name": "eth0", "address": "10.0.0.1/24", "wire": "lan"}
        entry = {"profile": scenario.profile, "interfaces": [interface]}
        config = parse({"wires": {"lan": {}}, "hosts": {"h1": entry}}).hosts["h1"]
        self.config = replace(config, tcp=replace(config.tcp, **scenario.tcp))
        self.create = create
        self.now = START
        self.layer: Layer = self._make()
        if scenario.iss is not None:
            self.layer.stack.isn = _Fixed(self.layer.stack.isn.key, scenario.iss)
        self.sent: list[tuple[int, Packet]] = []
        self.sockets: dict[int, Socket] = {}
        self.listener: Socket | None = None
        self.socket: Socket | None = None  # the one that calls are about
        self.next_handle = 2
        self.told: list[Message] = []
        self.give(paths_of(self.config, scenario.mtu), IP)

    def _make(self) -> Layer:
        return self.create(self.config, random.Random(1), Tracer("h1", "tcp", lambda event: None))

    # --- the layer --------------------------------------------------------------------------------

    def give(self, message: Message, source: str) -> None:
        """Hand a message to the layer and take what it says."""
        self.layer.receive(message, source, self.now)
        self._collect()

    def advance(self, until: int) -> None:
        """Let time pass, timers and all."""
        while (due := self.layer.deadline()) is not None and due <= until:
            self._expire(due)
        self.now = max(self.now, until)

    def advance_until_sent(self, until: int) -> None:
        """Let time pass until a segment goes out, but not beyond."""
        while not self.sent and (due := self.layer.deadline()) is not None and due <= until:
            self._expire(due)

    def _expire(self, due: int) -> None:
        self.now = max(due, self.now)
        self.layer.expire(self.now)
        self._collect()

    def swap(self) -> None:
        """Put a new layer in the old one's place."""
        state = self.layer.snapshot()
        self.layer = self._make()
        self.layer.restore(state, self.now)
        self._collect()

    def _collect(self) -> None:
        for output in self.layer.outputs():
            if output.to == IP:
                self.sent.append((self.now, output.message))
            else:
                self._hear(output.message)

    def _hear(self, message: Message) -> None:
        self.told.append(message)
        if isinstance(message, Opened):
            if message.listener:
                accepted = Socket(message.handle, self.config.tcp.receive_buffer)
                self.sockets[message.handle] = accepted
                self.sockets[message.listener].waiting.append(message)
            opened = self.sockets[message.handle]
            opened.opened, opened.limit = True, message.limit
            opened.port = message.remote_port
            return
        found = self.sockets.get(getattr(message, "handle", 0))
        if found is None:
            return
        if isinstance(message, Data):
            assert message.offset == found.received, "a gap or a repeat in what the program gets"
            size = len(message.payload)
            assert bytes(message.payload) == pattern(found.received, size), "other bytes than sent"
            found.received += size
        elif isinstance(message, Credit):
            found.limit = max(found.limit, message.limit)
        elif isinstance(message, End):
            found.ended = True
        elif isinstance(message, Closed):
            found.closed, found.error = True, message.error

    def rows(self) -> list[dict]:
        """The layer's connections, as `ss` shows them."""
        return self.layer.describe("connections", self.now)

    # --- what a program calls: each gives its result as a word ------------------------------------

    def call(self, name: str, amount: int, fields: dict) -> str:
        """Make one of the calls of the language."""
        if name == "swap":
            self.swap()
            return "ok"
        if name in ("listen", "connect", "accept"):
            return getattr(self, "_" + name)(**fields)
        if self.socket is None:
            return "EBADF"
        if name == "set":
            ((option, value),) = fields.items()
            self.give(Option(0, self.socket.handle, option, value), APP)
            return "ok"
        return getattr(self, "_" + name)(self.socket, amount)

    def _new(self) -> Socket:
        found = Socket(self.next_handle, self.config.tcp.receive_buffer)
        found.limit = self.config.tcp.send_buffer
        self.sockets[self.next_handle] = self.socket = found
        self.next_handle += 2
        return found

    def _listen(self, port: int = 80, backlog: int = 8, **options: int) -> str:
        found = self.listener = self._new()
        self.told.clear()
        reuse = options.get("SO_REUSEADDR", 0)
        self.give(Bind(0, found.handle, ANY, port, reuse), APP)
        self.give(Listen(0, found.handle, backlog, options), APP)
        errors = [item.error for item in self.told if isinstance(item, Bound) and item.error]
        return errors[0] if errors else "ok"

    def _connect(self, port: int = 80, **options: int) -> str:
        found = self._new()
        found.port = port
        limit = self.config.tcp.receive_buffer
        self.give(Connect(7, found.handle, REMOTE, port, limit, options), APP)
        return found.error or "ok"

    def _accept(self, port: int = 0) -> str:
        if self.listener is None:
            return "EINVAL"
        waiting = self.listener.waiting
        for index, opened in enumerate(waiting):
            if port in (0, opened.remote_port):
                del waiting[index]
                self.socket = self.sockets[opened.handle]
                self.give(Accepted(0, opened.handle), APP)
                return "ok"
        return "EAGAIN"

    def _write(self, found: Socket, amount: int) -> str:
        if found.error:
            return found.error
        if found.closed or found.shut:
            return "EPIPE"
        size = min(amount, found.limit - found.written)
        if size <= 0:
            return "EAGAIN"
        data = pattern(found.written, size)
        offset, found.written = found.written, found.written + size
        self.give(Data(9, found.handle, offset, data), APP)
        return str(size)

    def _read(self, found: Socket, amount: int) -> str:
        size = min(amount, found.unread)
        if size:
            found.read_to += size
            limit = found.read_to + found.buffer
            self.give(Credit(0, found.handle, found.read_to, limit), APP)
            return str(size)
        if found.error:
            return found.error
        return "0" if found.ended or found.closed else "EAGAIN"

    def _shutdown(self, found: Socket, amount: int) -> str:
        found.shut = True
        self.give(End(9, found.handle, found.written), APP)
        return "ok"

    def _close(self, found: Socket, amount: int) -> str:
        # What was not read is lost, and the peer must learn that (RFC 1122 4.2.2.13).
        abort = int(found.opened and found.unread > 0 and not found.closed)
        self.give(Close(9, found.handle, found.written, abort), APP)
        return "ok"

    def _abort(self, found: Socket, amount: int) -> str:
        """SO_LINGER of 0 seconds, and close."""
        self.give(Close(9, found.handle, found.written, 1), APP)
        return "ok"


__all__ = ["LOCAL", "REMOTE", "START", "Host", "Socket", "pattern"]
