"""The calls that wait for a connection to begin or to end."""

from __future__ import annotations

from plywire.errors import SocketError
from plywire.messages import Accepted
from services.app import names
from services.app.context import Context, Waiter
from services.app.replies import Key
from services.app.results import AcceptResult, ConnectResult
from services.app.sockets import CLOSED, CONNECTED, LISTEN, SYN_SENT, Socket


class Connecting(Waiter):
    """connect(): until the connection is open, or cannot be."""

    __slots__ = ("first",)
    socket: Socket

    def __init__(self, trace: int, socket: Socket, first: bool) -> None:
        super().__init__(trace, socket, socket.connects)
        self.first = first

    def attempt(self) -> ConnectResult | None:
        socket = self.socket
        if socket.state == SYN_SENT:
            return None
        if socket.state == CLOSED:
            error = socket.take_error() or SocketError("ECONNABORTED", "the attempt had failed")
            socket.disconnect()
            raise error
        socket.phase = CONNECTED
        return ConnectResult(False, names.unpacked(socket.local), names.unpacked(socket.remote))

    def give_up(self) -> ConnectResult:
        if not self.first:
            raise SocketError("EALREADY", "the connection is being opened")
        socket = self.socket
        return ConnectResult(True, names.unpacked(socket.local), names.unpacked(socket.remote))


class Accepting(Waiter):
    """accept(): until there is a connection to take."""

    __slots__ = ("context", "key", "session")
    socket: Socket

    def __init__(
        self, trace: int, socket: Socket, context: Context, session: str, key: Key
    ) -> None:
        super().__init__(trace, socket, socket.accepts)
        self.context = context
        self.session = session
        self.key = key

    def attempt(self) -> AcceptResult | None:
        listener, context = self.socket, self.context
        if listener.state != LISTEN:
            raise SocketError("EINVAL", "the socket listens no more")
        if not listener.queue:
            return None
        context.table.check_room()
        child = listener.queue.popleft()
        child.session = self.session
        if self.key[2]:
            child.requests["accept"] = self.key
        before = child.control() if context.tracer.enabled else {}
        context.table.add(child)
        context.touched[child] = None
        context.counters["connections_accepted"] += 1
        trace = context.trace_of(self.trace)
        if child.handle:  # not reset in the meantime
            context.tell(Accepted(trace, child.handle))
        if context.tracer.enabled:
            context.changed(trace, "Accept", before, child)
        return AcceptResult(
            False, child.descriptor, names.unpacked(child.local), names.unpacked(child.remote)
        )

    def give_up(self) -> AcceptResult:
        return AcceptResult(True)


class Closing(Waiter):
    """close() with SO_LINGER: until TCP has finished, or the time is over."""

    __slots__ = ("handle", "lingering", "over")

    def __init__(self, trace: int, lingering: dict[int, Closing], handle: int) -> None:
        super().__init__(trace)
        self.handle = handle
        self.lingering = lingering
        self.over = False
        lingering[handle] = self

    def attempt(self) -> bool | None:
        return True if self.over else None

    def give_up(self) -> bool:
        return True

    def leave(self) -> None:
        self.lingering.pop(self.handle, None)
