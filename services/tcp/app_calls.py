"""What the app asks of TCP: its messages, checked and handed to the RFC's user calls."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from plywire.errors import SocketError
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
    Info,
    Listen,
    Option,
    Query,
)
from plywire.roles import TCP
from services.tcp import listener, options, user_calls
from services.tcp.paths import ANY, LOOPBACK
from services.tcp.ports import Reservation
from services.tcp.sender import push
from services.tcp.stack import PATHS
from services.tcp.states import CLOSED, PASSIVE_OPEN
from services.tcp.tcb import CORK, KEEPALIVE

if TYPE_CHECKING:
    from services.tcp.stack import Stack

_PATHS_WAIT = 1_000_000_000  # a connect made before ip has spoken waits so long
_MAX_WAITING = 1024


class AppCalls:
    """The app boundary. `handlers` is what to run for each kind of message."""

    def __init__(self, stack: Stack, bind_seed: int) -> None:
        self.stack = stack
        self.bind_seed = bind_seed  # where the walk through free ports for bind(0) stands
        self.handlers: dict[type, Callable] = {
            Data: self._data,
            Credit: self._credit,
            End: self._end,
            Connect: self._connect,
            Close: self._close,
            Bind: self._bind,
            Listen: self._listen,
            Accepted: self._accepted,
            Option: self._option,
            Query: self._query,
        }

    def _bind(self, message: Bind, now: int) -> None:
        stack = self.stack
        try:
            known = self._bound(message)
            if known is None and self._knows(message.handle):
                raise SocketError("EINVAL", "the socket is bound already", TCP)
            if message.address != ANY and not stack.paths.is_local(message.address):
                raise SocketError("EADDRNOTAVAIL", "not an address of this host", TCP)
            reservation = known or self._reserve(
                message.handle, message.address, message.port, bool(message.reuse)
            )
        except SocketError as error:
            stack.tell(Bound(message.trace, message.handle, message.address, message.port,
                             error.name, error.cause))  # fmt: skip
            return
        stack.tell(Bound(message.trace, message.handle, reservation.address, reservation.port,
                         "", ""))  # fmt: skip

    def _bound(self, message: Bind) -> Reservation | None:
        """What the same Bind was given before: app repeats it when the answer may be lost."""
        known = self.stack.reservations.get(message.handle)
        same = known is not None and message.address == known.address
        return known if same and message.port in (0, known.port) else None

    def _reserve(self, handle: int, address: bytes, port: int, reuse: bool) -> Reservation:
        # The walk through ephemeral ports for bind begins at random, and goes on from there.
        self.bind_seed += 1
        reservation = self.stack.ports.reserve(handle, address, port, reuse, self.bind_seed)
        self.stack.reservations[handle] = reservation
        self.stack.tables_changed()
        return reservation

    def _knows(self, handle: int) -> bool:
        stack = self.stack
        return any(
            handle in table
            for table in (stack.reservations, stack.listeners, stack.by_handle, stack.waiting)
        )

    def _listen(self, message: Listen, now: int) -> None:
        stack = self.stack
        handle = message.handle
        item = stack.listeners.get(handle)
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
                item = listener.Listener(handle, reservation)
                listener.enter(stack, item)
        except SocketError as error:
            stack.tell(Bound(message.trace, handle, ANY, 0, error.name, error.cause))
            return
        item.backlog = min(message.backlog, stack.cfg.backlog_max)
        item.options = dict(message.options)
        stack.tables_changed()
        reservation = item.reservation
        if item.state == CLOSED:
            stack.change(item, PASSIVE_OPEN, now)
        stack.tell(Bound(message.trace, handle, reservation.address, reservation.port, "", ""))

    def _connect(self, message: Connect, now: int) -> None:
        stack = self.stack
        tcb = stack.by_handle.get(message.handle)
        if tcb is not None and (message.address, message.port) == tcb.key[2:]:
            return  # said again after a predecessor of this process had heard it
        if stack.paths.known:
            self.connect_now(message, now)
        elif len(stack.waiting) >= _MAX_WAITING:
            self._refuse(message, SocketError("ENOBUFS", "too many connects are waiting", TCP))
        else:
            stack.waiting[message.handle] = message
            stack.timers.set((message.handle, PATHS), now + _PATHS_WAIT)

    def connect_now(self, message: Connect, now: int) -> None:
        """Open a connection, or say why not."""
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
        if not stack.has_room(now):
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
        tcb = stack.new_tcb(handle, (local, local_port, remote, port), reuse)
        for name, value in message.options.items():
            options.set_option(tcb, name, value)
        user_calls.active_open(stack, tcb, path, message.limit, now)

    def _data(self, message: Data, now: int) -> None:
        tcb = self.stack.by_handle.get(message.handle)
        if tcb is None:
            self.stack.drop("unknown_handle", now)
        else:
            user_calls.send(self.stack, tcb, message.offset, message.payload, now)

    def _credit(self, message: Credit, now: int) -> None:
        tcb = self.stack.by_handle.get(message.handle)
        if tcb is not None:  # else the connection ended meanwhile
            user_calls.receive(self.stack, tcb, message.acked, message.limit, now)

    def _end(self, message: End, now: int) -> None:
        tcb = self.stack.by_handle.get(message.handle)
        if tcb is not None:
            user_calls.shut(self.stack, tcb, message.offset, now)

    def _close(self, message: Close, now: int) -> None:
        stack = self.stack
        handle = message.handle
        tcb = stack.by_handle.get(handle)
        if stack.survival is not None:
            stack.survival.confirmed(handle)
            stack.survival.tables |= handle in stack.listeners or handle in stack.reservations
        if tcb is not None:
            item = stack.listeners.get(tcb.listener)
            if item is not None:
                item.forget(tcb.id)
            if message.abort:
                user_calls.abort(stack, tcb, now)
            else:
                user_calls.close(stack, tcb, message.offset, now)
        elif handle in stack.listeners:
            listener.close_listener(stack, stack.listeners[handle], now)
            stack.tell(Closed(message.trace, handle, "", ""))
        elif handle in stack.reservations:
            stack.ports.release(stack.reservations.pop(handle))
            stack.tell(Closed(message.trace, handle, "", ""))
        elif stack.waiting.pop(handle, None) is not None:
            stack.timers.cancel((handle, PATHS))
            stack.tell(Closed(message.trace, handle, "", ""))

    def _accepted(self, message: Accepted, now: int) -> None:
        tcb = self.stack.by_handle.get(message.handle)
        if tcb is not None:
            listener.accepted(self.stack, tcb)

    def _option(self, message: Option, now: int) -> None:
        stack = self.stack
        item = stack.listeners.get(message.handle)
        if item is not None:
            item.options[message.name] = message.value
            stack.tables_changed()
            return
        tcb = stack.by_handle.get(message.handle)
        if tcb is None:
            return
        options.set_option(tcb, message.name, message.value)
        if message.name == "SO_KEEPALIVE" or message.name == "TCP_KEEPIDLE":
            if tcb.keepalive:
                stack.arm(tcb, KEEPALIVE, max(tcb.last_receive + tcb.keep_idle, now))
            else:
                stack.disarm(tcb, KEEPALIVE)
        if not tcb.cork:
            stack.disarm(tcb, CORK)
        push(stack, tcb, now)  # Nagle or a cork may have held something back

    def _query(self, message: Query, now: int) -> None:
        stack = self.stack
        item = stack.by_handle.get(message.handle) or stack.listeners.get(message.handle)
        if item is not None:
            fields = item.control()
        else:
            fields = {"state": CLOSED} if self._knows(message.handle) else {}
        stack.tell(Info(message.trace, message.handle, fields))
