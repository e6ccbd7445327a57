"""The sockets of the operating system: none of them ever waits, one epoll watches them all.

What it is asked to do is answered through `expire` or `receive`: a port gives its messages to the
loop only there.
"""

from __future__ import annotations

import errno
import os
import random
import select
import socket
from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from plywire.config import HostConfig
from plywire.messages import Barrier, Message
from plywire.runtime.clock import REAL_CLOCK, Clock
from plywire.runtime.pipe import Context
from services.tcp_host import calls
from services.tcp_host.devices.view import congestion_controls, info_of, look

EVENTS_PER_TURN = 64
READ_SIZE = 65_536

_BAD = select.EPOLLERR | select.EPOLLHUP
_RESET = (1).to_bytes(4, "little") + bytes(4)  # struct linger: on, 0 seconds


class Socket:
    """One socket of the system's.

    mask: what epoll watches for, None when it does not know the socket. room: bytes that may be
    read. out: what the system has not taken yet. children: the handles and rooms of connections
    that may be accepted.
    """

    __slots__ = ("children", "dialing", "ended", "finishing", "handle", "leaving", "listening",
                 "mask", "open", "out", "room", "sock", "trace")  # fmt: skip

    def __init__(self, handle: int, sock: socket.socket, trace: int) -> None:
        self.handle, self.sock, self.trace = handle, sock, trace
        self.mask: int | None = None
        self.room = 0
        self.out: deque[memoryview] = deque()
        self.children: deque[tuple[int, int]] = deque()
        self.listening = self.dialing = self.open = False
        self.finishing = self.leaving = self.ended = False

    def wanted(self) -> int | None:
        """What to watch for; None for a socket that is only bound."""
        if self.listening:
            return select.EPOLLIN if self.children else None
        if self.dialing:
            return select.EPOLLOUT
        if not self.open:
            return None
        reads = self.room > 0 and not self.ended and not self.leaving
        return (select.EPOLLIN if reads else 0) | (select.EPOLLOUT if self.out else 0)


class HostPort:
    """The sockets of one host."""

    def __init__(self) -> None:
        self.ifindex = calls.IFINDEX
        self.counters: Counter[str] = Counter()
        self._epoll = select.epoll()
        self._sockets: dict[int, Socket] = {}
        self._by_descriptor: dict[int, Socket] = {}
        self._answers: list[Any] = []
        self._trace = random.SystemRandom().getrandbits(48)

    # --- a Port -----------------------------------------------------------------------------------

    def pollable(self) -> int:
        """The epoll's descriptor, which is readable when one of the sockets is ready."""
        return self._epoll.fileno()

    def receive(self) -> list[Message]:
        """What has happened, of EVENTS_PER_TURN sockets at most; never waits."""
        for descriptor, events in self._epoll.poll(0, EVENTS_PER_TURN):
            item = self._by_descriptor.get(descriptor)
            if item is not None:
                self._ready(item, events)
        return self._take()

    def send(self, messages: Sequence[Any]) -> None:
        """Do what the core asks."""
        for message in messages:
            self._DO[type(message)](self, message)

    def answer(self, barrier: Barrier) -> None:
        """Nothing: nobody asks for barriers here."""

    def deadline(self) -> int | None:
        """At once when there are answers, else never: the system has the timers."""
        return 0 if self._answers else None

    def expire(self, now: int) -> list[Message]:
        """The answers to what was sent."""
        return self._take()

    def to_state(self) -> list:
        """Nothing: sockets stay with their process."""
        return []

    def restore(self, state: list) -> None:
        """Nothing came."""

    def close(self, successor: bool = False) -> None:
        """Let go of everything. Connections are reset: nobody will read what still comes."""
        for item in list(self._sockets.values()):
            self._drop(item, abort=True)
        self._epoll.close()

    def _take(self) -> list[Message]:
        taken, self._answers = self._answers, []
        return taken

    # --- what is asked ----------------------------------------------------------------------------

    def _reserve(self, ask: calls.Reserve) -> None:
        trace, handle, address, port, reuse = ask
        try:
            item = self._bound(trace, handle, address, port, reuse)
        except OSError as error:
            self._say(calls.Reserved(trace, handle, port, 0, *_words(error)))
        else:
            self._say(calls.Reserved(trace, handle, item.sock.getsockname()[1], 0, "", ""))

    def _bound(self, trace: int, handle: int, address: bytes, port: int, reuse: int) -> Socket:
        sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        try:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, reuse)
            sock.bind((socket.inet_ntoa(address), port))
        except OSError:
            sock.close()
            raise
        return self._add(handle, sock, trace)

    def _announce(self, ask: calls.Announce) -> None:
        trace, handle, address, port, reuse, backlog = ask
        item = self._sockets.get(handle)
        fresh = item is None
        try:
            if item is None:
                item = self._bound(trace, handle, address, port, reuse)
            item.sock.listen(backlog)
        except OSError as error:
            self._say(calls.Reserved(trace, handle, port, 1, *_words(error)))
            if fresh and item is not None:
                self._drop(item)
            return
        item.listening = True
        self._say(calls.Reserved(trace, handle, item.sock.getsockname()[1], 1, "", ""))

    def _admit(self, ask: calls.Admit) -> None:
        item = self._sockets.get(ask.handle)
        if item is not None:
            item.children.append((ask.child, ask.room))
            self._watch(item)

    def _dial(self, ask: calls.Dial) -> None:
        trace, handle, source, address, port, room, options = ask
        try:
            item = self._sockets.get(handle)
            if item is None:
                sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
                item = self._add(handle, sock, trace)
                # The port is chosen by connect(), which knows that a pair is what must be unique.
                sock.setsockopt(socket.SOL_IP, _BIND_NO_PORT, 1)
                sock.bind((socket.inet_ntoa(source), 0))
            for name, value in options.items():
                self._option(item.sock, name, value)
            item.trace, item.room, item.dialing = trace, room, True
            item.sock.connect((socket.inet_ntoa(address), port))
        except BlockingIOError:
            self._watch(item)
        except OSError as error:
            self._fail(handle, trace, error)
        else:
            self._opened(item)

    def _write(self, ask: calls.Write) -> None:
        item = self._sockets.get(ask.handle)
        if item is not None:
            item.trace = ask.trace
            item.out.append(memoryview(ask.payload))
            self._flush(item)

    def _more_room(self, ask: calls.Room) -> None:
        item = self._sockets.get(ask.handle)
        if item is not None:
            item.room += ask.count
            self._watch(item)

    def _finish(self, ask: calls.Finish) -> None:
        item = self._sockets.get(ask.handle)
        if item is not None:
            item.trace, item.finishing = ask.trace, True
            self._flush(item)

    def _leave(self, ask: calls.Leave) -> None:
        item = self._sockets.get(ask.handle)
        if item is None:
            return
        item.trace, item.leaving = ask.trace, True
        if ask.abort or item.listening:
            self._drop(item, abort=not item.listening)
        else:
            self._flush(item)

    def _set(self, ask: calls.Set) -> None:
        item = self._sockets.get(ask.handle)
        if item is not None:
            self._option(item.sock, ask.name, ask.value)

    def _option(self, sock: socket.socket, name: str, value: int | str) -> None:
        level = _LEVELS.get(name.partition("_")[0])
        number = _NUMBERS.get(name, getattr(socket, name, None))
        if level is None or number is None:
            return
        try:
            sock.setsockopt(level, number, value.encode() if isinstance(value, str) else value)
        except OSError as error:
            self.counters[f"drop_host_option_{_words(error)[0].lower()}"] += 1

    def _look(self, ask: calls.Look) -> None:
        item = self._sockets.get(ask.handle)
        fields: dict[str, int | str] = {}
        if ask.topic == "congestion":
            fields |= congestion_controls()
        elif item is not None and ask.topic == "tcp_info":
            fields = info_of(item.sock)
        elif item is not None and not ask.topic:
            fields = look(item.sock, sum(map(len, item.out)))
        self._say(calls.Looked(ask.trace, ask.handle, fields, ask.topic))

    _DO: Mapping[type, Callable[[HostPort, Any], None]] = {
        calls.Reserve: _reserve,
        calls.Announce: _announce,
        calls.Admit: _admit,
        calls.Dial: _dial,
        calls.Write: _write,
        calls.Room: _more_room,
        calls.Finish: _finish,
        calls.Leave: _leave,
        calls.Set: _set,
        calls.Look: _look,
    }

    # --- what happens -----------------------------------------------------------------------------

    def _ready(self, item: Socket, events: int) -> None:
        if item.listening:
            self._accept(item)
            return
        if item.dialing:
            code = item.sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
            if code:
                self._fail(item.handle, item.trace, OSError(code, os.strerror(code)))
            else:
                self._opened(item)
            return
        if events & select.EPOLLIN and item.room and not item.ended and not item.leaving:
            self._read(item)  # what came before a reset is read first
            events &= ~_BAD
        if events & select.EPOLLOUT and item.handle in self._sockets:
            self._flush(item)
        if events & _BAD and item.handle in self._sockets:
            self._over(item, events)

    def _accept(self, item: Socket) -> None:
        while item.children:
            try:
                sock, _ = item.sock.accept()
                sock.setblocking(False)
                local, remote = sock.getsockname(), sock.getpeername()
            except BlockingIOError:
                return
            except OSError as error:
                name = _words(error)[0]
                self.counters[f"drop_host_accept_{name.lower()}"] += 1
                if name in ("EMFILE", "ENFILE", "ENOMEM", "ENOBUFS"):
                    self._unwatch(item)  # until the core admits another: there may be room then
                    return
                continue  # that one has gone again
            handle, room = item.children.popleft()
            self._trace += 1
            child = self._add(handle, sock, self._trace)
            child.room = room
            self._connected(child, item.handle, local, remote)
        self._watch(item)

    def _opened(self, item: Socket) -> None:
        item.dialing = False
        self._connected(item, 0, item.sock.getsockname(), item.sock.getpeername())

    def _connected(self, item: Socket, listener: int, local: tuple, remote: tuple) -> None:
        ends = [(socket.inet_aton(host), port) for host, port in (local, remote)]
        item.open = True
        self._say(calls.Connected(item.trace, item.handle, listener, *ends[0], *ends[1]))
        self._watch(item)

    def _read(self, item: Socket) -> None:
        try:
            data = item.sock.recv(min(item.room, READ_SIZE))
        except BlockingIOError:
            return
        except OSError as error:
            self._fail(item.handle, item.trace, error)
            return
        self._trace += 1
        if data:
            item.room -= len(data)
            self._say(calls.Arrived(self._trace, item.handle, data))
        else:
            item.ended = True
            self._say(calls.Ended(self._trace, item.handle))
        self._watch(item)

    def _flush(self, item: Socket) -> None:
        """Give the system what it takes; then what was to come behind it."""
        written = 0
        try:
            while item.out:
                count = item.sock.send(item.out[0])
                written += count
                if count == len(item.out[0]):
                    item.out.popleft()
                else:
                    item.out[0] = item.out[0][count:]
        except BlockingIOError:
            pass
        except OSError as error:
            self._fail(item.handle, item.trace, error)
            return
        if written:
            self._say(calls.Wrote(item.trace, item.handle, written))
        if not item.out and item.leaving:
            self._drop(item)
            self._say(calls.Gone(item.trace, item.handle))
            return
        if not item.out and item.finishing:
            item.finishing = False
            try:
                item.sock.shutdown(socket.SHUT_WR)
            except OSError as error:
                self._fail(item.handle, item.trace, error)
                return
            self._say(calls.Finished(item.trace, item.handle))
        self._watch(item)

    def _over(self, item: Socket, events: int) -> None:
        """An error, or both directions have ended. What was read is not lost by that; what may
        not be read yet stays until there is room."""
        code = item.sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if code:
            self._fail(item.handle, item.trace, OSError(code, os.strerror(code)))
        elif not item.room or item.ended:
            self._unwatch(item)  # it would be told again and again

    # --- the table --------------------------------------------------------------------------------

    def _add(self, handle: int, sock: socket.socket, trace: int) -> Socket:
        item = self._sockets[handle] = Socket(handle, sock, trace)
        self._by_descriptor[sock.fileno()] = item
        return item

    def _watch(self, item: Socket) -> None:
        mask = item.wanted()
        if mask == item.mask:
            return
        if mask is None:
            self._unwatch(item)
        elif item.mask is None:
            self._epoll.register(item.sock.fileno(), mask)
        else:
            self._epoll.modify(item.sock.fileno(), mask)
        item.mask = mask

    def _unwatch(self, item: Socket) -> None:
        if item.mask is not None:
            self._epoll.unregister(item.sock.fileno())
            item.mask = None

    def _drop(self, item: Socket, abort: bool = False) -> None:
        self._unwatch(item)
        del self._sockets[item.handle]
        del self._by_descriptor[item.sock.fileno()]
        if abort:
            item.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        item.sock.close()

    def _fail(self, handle: int, trace: int, error: OSError) -> None:
        item = self._sockets.get(handle)
        if item is not None:
            self._drop(item)
        name, cause = _words(error)
        # EPIPE is what Linux says of a reset that came after the peer's FIN.
        self._say(calls.Failed(trace, handle, "ECONNRESET" if name == "EPIPE" else name, cause))

    def _say(self, message: Any) -> None:
        self._answers.append(message)


_LEVELS = {"SO": socket.SOL_SOCKET, "TCP": socket.SOL_TCP, "IP": socket.SOL_IP}
_NUMBERS = {"TCP_THIN_LINEAR_TIMEOUTS": 16}
"""tcp(7); Python 3.11 has no name for it."""
_BIND_NO_PORT = 24  # IP_BIND_ADDRESS_NO_PORT, ip(7); Python 3.11 has no name for it


def open_ports(
    host: HostConfig,
    context: Context,
    directory: Path | str,
    peers: Mapping[str, Sequence[str]],
    clock: Clock = REAL_CLOCK,
) -> list[HostPort]:
    """The one device: it needs no configuration."""
    return [HostPort()]


def _words(error: OSError) -> tuple[str, str]:
    """The errno's name, and what the system says."""
    return errno.errorcode.get(error.errno, "EIO"), f"the operating system: {error.strerror}"
