"""Calls that look at sockets without touching them: poll, and the control information."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

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
Question = tuple[int, str]
"""A handle and the topic of a Query."""


class Readiness:
    """poll() and the views of sockets."""

    def __init__(self, context: Context) -> None:
        self.context = context
        self._asking: dict[Question, list[_Asking]] = {}

    def poll(self, items: Sequence[tuple[int, int]], timeout: int | None, trace: int) -> Call:
        """Wait until one of (descriptor, events) is ready; answered with those that are."""
        return self.context.run(_Polling(trace, self.context, items), timeout)

    def inspect(self, sockets: Sequence[Socket], trace: int) -> Call:
        """The control information of sockets, a list of SocketInfo in the same order."""
        waiter = _Inspecting(trace, sockets, self._asking)
        context = self.context
        if context.tcp_generation is not None and len(sockets) <= MAX_ASKED:
            for handle in {socket.handle for socket in sockets if socket.handle}:
                self._ask(waiter, (handle, ""), trace)
        return context.run(waiter, PATIENCE)

    def ask(self, handle: int, topic: str, trace: int) -> Call:
        """What TCP says of a topic; empty when it says nothing, or is not there."""
        waiter = _Asking(trace, self._asking)
        if self.context.tcp_generation is not None:
            self._ask(waiter, (handle, topic), trace)
        return self.context.run(waiter, PATIENCE)

    def _ask(self, waiter: _Asking, question: Question, trace: int) -> None:
        waiter.missing.add(question)
        self._asking.setdefault(question, []).append(waiter)
        self.context.tell(Query(trace, *question))

    def on_info(self, message: Info) -> None:
        """What TCP says, for those who asked."""
        question = (message.handle, message.topic)
        for waiter in self._asking.pop(question, ()):
            waiter.missing.discard(question)
            waiter.known[question] = message.fields
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


class _Asking(Waiter):
    """Until TCP has answered each question."""

    __slots__ = ("asking", "known", "missing")

    def __init__(self, trace: int, asking: dict[Question, list[_Asking]]) -> None:
        super().__init__(trace)
        self.asking = asking
        self.missing: set[Question] = set()
        self.known: dict[Question, dict[str, int | str]] = {}

    def attempt(self) -> Any:
        return None if self.missing else self.give_up()

    def give_up(self) -> Any:
        return next(iter(self.known.values()), {})

    def leave(self) -> None:
        for question in self.missing:
            waiters = self.asking.get(question, [])
            if self in waiters:
                waiters.remove(self)
            if not waiters:
                self.asking.pop(question, None)


class _Inspecting(_Asking):
    """Control information: until TCP has answered for each socket that it knows."""

    __slots__ = ("sockets",)

    def __init__(
        self, trace: int, sockets: Sequence[Socket], asking: dict[Question, list[_Asking]]
    ) -> None:
        super().__init__(trace, asking)
        self.sockets = sockets

    def give_up(self) -> list[SocketInfo]:
        return [socket.info(self.known.get((socket.handle, ""))) for socket in self.sockets]
