"""Which events of a busy lab belong to one connection."""

from __future__ import annotations

from plywire.lab.story.fields import Pair, decode, endpoints, number, socket_pair
from plywire.roles import APP, TCP, boundary
from plywire.trace import Event

_MAX_TRACES = 65_536


class Focus:
    """One connection, followed from its descriptor (or a name, or a trace id) on.

    What is known grows with what is seen: the calls on the descriptor give trace ids, these give
    handles and the four-tuple, and those the trace ids of later calls at both ends.
    """

    def __init__(
        self, host: str = "", descriptor: int | None = None, *, name: str = "", trace: int = 0
    ) -> None:
        self._descriptors = set() if descriptor is None else {(host, descriptor)}
        self._host = host
        self._name = name
        self._traces: dict[int, None] = {trace: None} if trace else {}
        self._one_trace = bool(trace)
        self._handles: set[tuple[str, int]] = set()
        self._pairs: set[Pair] = set()

    @property
    def pair(self) -> Pair | None:
        """The connection's (address, port, address, port), the caller's end first, once seen."""
        return min(self._pairs, key=self._age) if self._pairs else None

    def watch(self, host: str, descriptor: int) -> None:
        """Follow this descriptor too."""
        self._descriptors.add((host, descriptor))

    def admits(self, event: Event) -> bool:
        """The event belongs to the connection. Asked once for each event, in their order."""
        if self._one_trace:
            return event.trace in self._traces
        if not (event.trace in self._traces or self._knows(event)):
            return False
        self._learn(event)
        return True

    def _knows(self, event: Event) -> bool:
        if event.layer == APP and not event.boundary:
            if self._name and event.host == self._host and self._name in event.fields.values():
                return True
            return any((event.host, item) in self._descriptors for item in _descriptors(event))
        if event.boundary == boundary(APP, TCP):
            return (event.host, number(event.fields, "handle")) in self._handles
        if event.packet and self._pairs:
            pair = endpoints(decode(event), event)
            return pair is not None and pair in self._pairs
        return event.layer == TCP and socket_pair(event) in self._pairs

    def _learn(self, event: Event) -> None:
        if event.trace and len(self._traces) < _MAX_TRACES:
            self._traces[event.trace] = None
        if event.layer == APP and event.after.get("state", event.before.get("state")) != "LISTEN":
            self._descriptors |= {(event.host, item) for item in _descriptors(event) if item}
        if event.boundary == boundary(APP, TCP):
            for name in ("handle", "listener"):
                if handle := number(event.fields, name):
                    self._handles.add((event.host, handle))
        elif event.packet:
            pair = endpoints(decode(event), event)
            if pair is not None and pair not in self._pairs:
                self._pairs |= {pair, pair[2:] + pair[:2]}

    def _age(self, pair: Pair) -> int:
        return pair[1] < pair[3]  # the caller's port is the ephemeral one, the higher


def _descriptors(event: Event) -> set[int]:
    found = (event.fields, event.before, event.after)
    return {number(fields, "descriptor") for fields in found if "descriptor" in fields}
