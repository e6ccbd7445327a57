"""Calls that look at sockets without touching them: poll, and the control information."""

from __future__ import annotations

from collections.abc import Sequence

from plywire.calls import Call
from plywire.config import SECOND
from plywire.messages import Info, Query
from services.app.context import Context, Waiter
from services.app.results import SocketInfo
from services.app.sockets import POLL_ALWAYS, POLLNVAL, Socket

PATIENCE = SECOND
"""How long TCP may take to tell what is in its control blocks; then what is known is told."""
MAX_ASKED = 512
"""Sockets that one listing asks TCP about; in a longer one the control blocks are left out."""

PollItems = list[tuple[int, int]]


class Readiness:
    """poll() and the views of sockets."""

    def __init__(self, context: Context) -> None:
        self.context = context
        self._asking: dict[int, list[_Inspecting]] = {}

    def poll(self, items: Sequence[tuple[int, int]], timeout: int | None, trace: int) -> Call:
        """Wait until one of (descriptor, events) is ready; answered with those that are."""
        return self.context.run(_Polling(trace, self.context, items), timeout)

    def inspect(self, sockets: Sequence[Socket], trace: int) -> Call:
        """The control information of sockets, a list of SocketInfo in the same order."""
        waiter = _Inspecting(trace, sockets, self._asking)
        context = self.context
        if context.tcp_generation is not None and len(sockets) <= MAX_ASKED:
            for handle in {socket.handle for socket in sockets if socket.handle}:
                waiter.missing.add(handle)
                self._asking.setdefault(handle, []).append(waiter)
                context.tell(Query(trace, handle))
        return context.run(waiter, PATIENCE)

    def on_info(self, message: Info) -> None:
        """TCP's control block of a socket, for those who asked."""
        for waiter in self._asking.pop(message.handle, ()):
            waiter.missing.discard(message.handle)
            waiter.known[message.handle] = message.fields
            self.context.settle(waiter)

    def replaced(self) -> None:
        """The TCP that was asked is gone."""
        for waiters in list(self._asking.values()):
            for waiter in list(waiters):
                waiter.missing.clear()
                if waiter.call in self.context.waiters:
                    self.context.settle(waiter)
        self._asking.clear()


class _Polling(Waiter):
    """poll(): until a socket is ready."""

    __slots__ = ("context", "items", "wanted")

    def __init__(self, trace: int, context: Context, items: Sequence[tuple[int, int]]) -> None:
        super().__init__(trace)
        self.context = context
        self.items = items
        self.wanted: dict[int, int] = {}
        for descriptor, events in items:
            self.wanted[descriptor] = self.wanted.get(descriptor, 0) | events | POLL_ALWAYS
        for descriptor in self.wanted:
            socket = context.table.get(descriptor)
            if socket is not None:
                socket.pollers[self] = None

    def concerns(self, socket: Socket) -> bool:
        """Whether this socket alone is enough for an answer."""
        if self.context.table.get(socket.descriptor) is not socket:
            return True
        return bool(socket.poll() & self.wanted[socket.descriptor])

    def attempt(self) -> PollItems | None:
        ready = []
        for descriptor, events in self.items:
            socket = self.context.table.get(descriptor)
            mask = POLLNVAL if socket is None else socket.poll() & (events | POLL_ALWAYS)
            if mask:
                ready.append((descriptor, mask))
        return ready or None

    def give_up(self) -> PollItems:
        return []

    def leave(self) -> None:
        for descriptor in self.wanted:
            socket = self.context.table.get(descriptor)
            if socket is not None:
                socket.pollers.pop(self, None)


class _Inspecting(Waiter):
    """Control information: until TCP has answered for each socket that it knows."""

    __slots__ = ("asking", "known", "missing", "sockets")

    def __init__(
        self, trace: int, sockets: Sequence[Socket], asking: dict[int, list[_Inspecting]]
    ) -> None:
        super().__init__(trace)
        self.sockets = sockets
        self.asking = asking
        self.missing: set[int] = set()
        self.known: dict[int, dict[str, int | str]] = {}

    def attempt(self) -> list[SocketInfo] | None:
        return None if self.missing else self.give_up()

    def give_up(self) -> list[SocketInfo]:
        return [socket.info(self.known.get(socket.handle)) for socket in self.sockets]

    def leave(self) -> None:
        for handle in self.missing:
            waiters = self.asking.get(handle, [])
            if self in waiters:
                waiters.remove(self)
            if not waiters:
                self.asking.pop(handle, None)
