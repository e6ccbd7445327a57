"""The listener's side of the trace: events of many layers, received in an asyncio loop."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping

import zmq

from plywire import envelope
from plywire.errors import DecodeError
from plywire.trace import Event

_HIGH_WATER = 1000
_MESSAGES_PER_TURN = 32
_TYPES = (str, str, int, int, str, str, str, str, dict, bytes, dict, dict)
"""What an event's fields are: a layer may be anybody's program."""


class Watch:
    """Subscriptions to layers' trace endpoints, from `attach` to `close`.

    endpoints: by the name that a layer goes by here. take: called as `take(name, lost, events)`;
    lost events were dropped before these. A layer begins to trace when it has the subscription; it
    is in `confirmed` then. Layers that start later, or again, are subscribed to by themselves.
    """

    def __init__(
        self,
        endpoints: Mapping[str, str],
        take: Callable[[str, int, list[Event]], None],
    ) -> None:
        self.confirmed: set[str] = set()
        self._take = take
        self._loop: asyncio.AbstractEventLoop | None = None
        self._marks = 0
        self._context = zmq.Context()
        self._sockets: dict[str, zmq.Socket] = {}
        for name, endpoint in endpoints.items():
            socket = self._context.socket(zmq.SUB)
            socket.set(zmq.LINGER, 0)
            socket.set(zmq.RCVHWM, _HIGH_WATER)
            socket.set(zmq.MAXMSGSIZE, envelope.MAX_BATCH * 8)
            socket.set(zmq.RECONNECT_IVL, 10)
            socket.set(zmq.RECONNECT_IVL_MAX, 200)
            socket.subscribe(b"")
            socket.connect(endpoint)
            self._sockets[name] = socket

    @property
    def complete(self) -> bool:
        """Every layer has confirmed its subscription."""
        return len(self.confirmed) == len(self._sockets)

    def attach(self, loop: asyncio.AbstractEventLoop) -> None:
        """Receive in `loop` from now on."""
        self._loop = loop
        for name, socket in self._sockets.items():
            loop.add_reader(socket.get(zmq.FD), self._drain, name)
            loop.call_soon(self._drain, name)

    def mark(self) -> set[str]:
        """Have each confirmed layer publish a message without events, behind all that it has traced
        until it hears of this. The names of these layers."""
        self._marks += 1
        prefix = b"mark %d" % self._marks  # no message begins so; that somebody asks is enough
        for name in self.confirmed:
            self._sockets[name].subscribe(prefix)
            self._sockets[name].unsubscribe(prefix)
        return set(self.confirmed)

    def close(self) -> None:
        """End the subscriptions."""
        for socket in self._sockets.values():
            if self._loop is not None:
                self._loop.remove_reader(socket.get(zmq.FD))
            socket.close(0)
        self._context.term()

    def _drain(self, name: str) -> None:
        """Take all (the descriptors tell of changes only), but let others have their turn."""
        socket = self._sockets[name]
        for _ in range(_MESSAGES_PER_TURN):
            if socket.closed:
                return
            try:
                message = socket.recv(zmq.NOBLOCK)
            except zmq.Again:
                return
            self.confirmed.add(name)
            self._take(name, *_events(message))
        self._loop.call_soon(self._drain, name)


def _events(message: bytes) -> tuple[int, list[Event]]:
    """(events lost, events) of a publisher's message; what cannot be read counts as lost."""
    try:
        lost, rows = envelope.load_state(message)
        events = [Event(*row) for row in rows]
    except (DecodeError, TypeError, ValueError):
        return 1, []
    good = [event for event in events if tuple(map(type, event)) == _TYPES and event.time >= 0]
    return (lost if type(lost) is int else 0) + len(events) - len(good), good
