"""The app boundary of a TCP, up to where there is a connection: bind, listen, connect, close.

What is written in a control block is each TCP's own. Which port a socket gets, which errno a
program reads, and what waits until ip has told its Paths, is the same for all of them. Whoever
takes this up says what a listener is, opens connections, and says what is done with one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Protocol

from plywire.errors import SocketError
from plywire.messages import Bind, Bound, Close, Closed, Connect, Data, Info, Listen, Message, Query
from plywire.paths import ANY, LOOPBACK, Path, PathTable
from plywire.ports import Ports, Reservation
from plywire.roles import TCP
from plywire.timers import Timers

if TYPE_CHECKING:
    from plywire.config import TcpConfig

PATHS = "paths"
"""The timer of a Connect that waits for ip's first word: (handle, PATHS)."""

_PATHS_WAIT = 1_000_000_000
_MAX_WAITING = 1024

Key = tuple[bytes, int, bytes, int]
"""Local address and port, remote address and port."""


class Listener(Protocol):
    """A socket in LISTEN, or on its way there."""

    backlog: int
    reservation: Reservation

    def control(self) -> dict[str, int | str]:
        """For people."""


class Tables(Protocol):
    """A TCP's tables. reservations: what is bound, and neither listening nor connected; waiting:
    Connects before the first Paths; these and listeners and by_handle by handle."""

    cfg: TcpConfig
    trace: int
    paths: PathTable
    ports: Ports
    timers: Timers
    reservations: dict[int, Reservation]
    listeners: dict[int, Any]
    by_handle: dict[int, Any]
    waiting: dict[int, Connect]
    connections: Mapping[Key, Any]

    def tell(self, message: Message) -> None:
        """A message to the app."""

    def drop(self, reason: str, now: int) -> None:
        """Count what cannot be used."""


class AppCalls:
    """`handlers` is what to run for each kind of message, `connection_calls` what of these is done
    with a connection: `call(connection, message, now)`."""

    def __init__(self, stack: Tables, bind_seed: int) -> None:
        self.stack: Any = stack
        self.bind_seed = bind_seed  # where the walk through free ports for bind(0) stands
        self.connection_calls = self.calls()
        self.handlers: dict[type, Callable] = dict.fromkeys(self.connection_calls, self._call)
        self.handlers |= {
            Bind: self._bind,
            Listen: self._listen,
            Connect: self._connect,
            Close: self._close,
            Query: self._query,
        }

    # --- what a TCP says --------------------------------------------------------------------------

    def calls(self) -> dict[type, Callable]:
        """What is done with a connection, by the kind of message; Close is one of them."""
        raise NotImplementedError

    def new_listener(self, handle: int, reservation: Reservation) -> Listener:
        """Enter a listener in the tables."""
        raise NotImplementedError

    def passive_open(self, item: Any, now: int) -> None:
        """It is in LISTEN from now on."""
        raise NotImplementedError

    def close_listener(self, item: Any, now: int) -> None:
        """Take it out of them; what nobody has accepted is reset."""
        raise NotImplementedError

    def has_room(self, now: int) -> bool:
        """May there be a connection more?"""
        return len(self.stack.connections) < self.stack.cfg.max_connections

    def active_open(self, message: Connect, key: Key, reuse: bool, path: Path, now: int) -> None:
        """Open a connection; buffers are made and a SYN goes out."""
        raise NotImplementedError

    # --- what programs ask ------------------------------------------------------------------------

    def _bind(self, message: Bind, now: int) -> None:
        stack = self.stack
        trace, handle, address, port, reuse = message
        name = cause = ""
        try:
            tables = (stack.reservations, stack.listeners, stack.by_handle, stack.waiting)
            if any(handle in table for table in tables):
                raise SocketError("EINVAL", "the socket is bound already", TCP)
            if address != ANY and not stack.paths.is_local(address):
                raise SocketError("EADDRNOTAVAIL", "not an address of this host", TCP)
            port = self._reserve(handle, address, port, bool(reuse)).port
        except SocketError as error:
            name, cause = error.name, error.cause
        stack.tell(Bound(trace, handle, address, port, name, cause))

    def _reserve(self, handle: int, address: bytes, port: int, reuse: bool) -> Reservation:
        # The walk through ephemeral ports for bind begins at random, and goes on from there.
        self.bind_seed += 1
        reservation = self.stack.ports.reserve(handle, address, port, reuse, self.bind_seed)
        self.stack.reservations[handle] = reservation
        return reservation

    def _listen(self, message: Listen, now: int) -> None:
        stack = self.stack
        handle = message.handle
        item = stack.listeners.get(handle)
        fresh = item is None
        try:
            if item is None:
                if handle in stack.by_handle or handle in stack.waiting:
                    raise SocketError("EINVAL", "the socket is connected", TCP)
                reservation = stack.reservations.get(handle)
                if reservation is None:
                    reuse = bool(message.options.get("SO_REUSEADDR", 0))
                    reservation = self._reserve(handle, ANY, 0, reuse)
                stack.ports.listen(reservation)
                del stack.reservations[handle]
                item = self.new_listener(handle, reservation)
        except SocketError as error:
            stack.tell(Bound(message.trace, handle, ANY, 0, error.name, error.cause))
            return
        item.backlog = min(message.backlog, stack.cfg.backlog_max)
        item.options = dict(message.options)
        if fresh:
            self.passive_open(item, now)
        held = item.reservation
        stack.tell(Bound(message.trace, handle, held.address, held.port, "", ""))

    def _connect(self, message: Connect, now: int) -> None:
        stack = self.stack
        if stack.paths.known:
            self.connect_now(message, now)
        elif len(stack.waiting) >= _MAX_WAITING:
            self._refuse(message, SocketError("ENOBUFS", "too many connects are waiting", TCP))
        else:
            stack.waiting[message.handle] = message
            stack.timers.set((message.handle, PATHS), now + _PATHS_WAIT)

    def paths_came(self, now: int) -> None:
        """What waited for ip's first word goes on."""
        stack = self.stack
        waiting, stack.waiting = stack.waiting, {}
        for handle, connect in waiting.items():
            stack.timers.cancel((handle, PATHS))
            self.connect_now(connect, now)

    def forget_all(self) -> None:
        """A new app knows nothing of what is bound or waits to connect, and is not told."""
        stack = self.stack
        for reservation in stack.reservations.values():
            stack.ports.release(reservation)
        stack.reservations.clear()
        for handle in stack.waiting:
            stack.timers.cancel((handle, PATHS))
        stack.waiting.clear()

    def connect_now(self, message: Connect, now: int) -> None:
        """Open a connection, or say why not."""
        self.stack.trace = message.trace
        try:
            self._open(message, now)
        except SocketError as error:
            self._refuse(message, error)

    def _refuse(self, message: Connect, error: SocketError) -> None:
        self.stack.tell(Closed(message.trace, message.handle, error.name, error.cause))

    def _open(self, message: Connect, now: int) -> None:
        stack = self.stack
        handle, port = message.handle, message.port
        if handle in stack.by_handle or handle in stack.listeners:
            raise SocketError("EISCONN", "the socket is in use", TCP)
        remote = LOOPBACK if message.address == ANY else message.address  # as on Linux
        path = None if stack.paths.is_group(remote) else stack.paths.lookup(remote, now)
        if path is None:
            raise SocketError("ENETUNREACH", "no route", TCP)
        if not self.has_room(now):
            raise SocketError("ENOBUFS", "too many connections", TCP)
        reservation = stack.reservations.get(handle)
        local = path.source
        if reservation is not None and reservation.address != ANY:
            local = reservation.address
        if reservation is None:
            local_port = stack.ports.ephemeral(local, remote, port, stack.connections)
        elif (local, reservation.port, remote, port) in stack.connections:
            raise SocketError("EADDRNOTAVAIL", "this pair of sockets is in use", TCP)
        else:
            local_port = reservation.port
        reuse = reservation is not None and reservation.reuse
        self.active_open(message, (local, local_port, remote, port), reuse, path, now)

    def _call(self, message: Any, now: int) -> None:
        connection = self.stack.by_handle.get(message.handle)
        if connection is not None:
            self.connection_calls[type(message)](connection, message, now)
        elif isinstance(message, Data):  # the others may cross a Closed
            self.stack.drop("unknown_handle", now)

    def _close(self, message: Close, now: int) -> None:
        stack, handle = self.stack, message.handle
        if handle in stack.by_handle:
            self._call(message, now)
            return
        if handle in stack.listeners:
            self.close_listener(stack.listeners[handle], now)
        elif handle in stack.reservations:
            stack.ports.release(stack.reservations.pop(handle))
        elif stack.waiting.pop(handle, None) is not None:
            stack.timers.cancel((handle, PATHS))
        else:
            return
        stack.tell(Closed(message.trace, handle, "", ""))

    def _query(self, message: Query, now: int) -> None:
        handle, topic = message.handle, message.topic
        self.stack.tell(Info(message.trace, handle, self.about(handle, topic, now), topic))

    def about(self, handle: int, topic: str, now: int) -> dict[str, int | str]:
        """The fields of an Info; a TCP may know more topics than the control block."""
        item = self.stack.by_handle.get(handle) or self.stack.listeners.get(handle)
        return item.control() if item and not topic else {}
