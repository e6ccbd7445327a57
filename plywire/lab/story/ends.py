"""The two ends of the connection that a story is about: what is in their sockets."""

from __future__ import annotations

from plywire.lab.story.fields import Pair, socket_pair, told
from plywire.lab.story.items import Socket
from plywire.trace import Event

_ENDED = frozenset({"", "CLOSED", "TIME-WAIT"})


class Ends:
    """Control information by host, of the connection whose state changed first."""

    def __init__(self, hosts: tuple[str, ...]) -> None:
        self._hosts = hosts
        self._pair: Pair | None = None
        self._sockets: dict[str, Socket] = {}

    def take(self, event: Event) -> None:
        """Note a change of state in TCP, when it is of one of these ends."""
        pair = socket_pair(event)
        if pair is None:
            return
        self._pair = self._pair or pair
        if self._pair not in (pair, pair[2:] + pair[:2]):
            return
        known = self._sockets.get(event.host)
        before = known.before if known else told(event.before)
        self._sockets[event.host] = Socket(event.host, before, told(event.after))

    def sockets(self) -> tuple[Socket, ...]:
        """What was seen, in the order of the hosts."""
        return tuple(self._sockets[host] for host in self._hosts if host in self._sockets)

    @property
    def established(self) -> bool:
        """Both ends are."""
        return len(self._sockets) == len(self._hosts) and all(
            state == "ESTABLISHED" for state in self._states()
        )

    @property
    def over(self) -> bool:
        """Every end that was seen has ended."""
        return bool(self._sockets) and all(state in _ENDED for state in self._states())

    def _states(self) -> list[str]:
        return [str(socket.after.get("state", "")) for socket in self._sockets.values()]
