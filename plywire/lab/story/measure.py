"""Counts and times of a story: segments, hops, the handshake, and the share of each layer in it.

The share is read along the critical path, backwards from connect()'s return: what a layer sent is
traced to what it had received just before, and that to the neighbour who sent it. Time inside a
layer is that layer's, time between two links is the wire's, other time between layers the pipes'.
"""

from __future__ import annotations

from typing import NamedTuple

from plywire.lab.story.fields import number
from plywire.roles import APP, LAYERS, LINK, TCP, WIRE, boundary
from plywire.trace import IN, NOTE, OUT, STATE, Event
from plywire.wire import tcp

_MAX_EVENTS = 4096
PIPES = "pipes"


class _Step(NamedTuple):
    time: int
    host: str
    role: str
    what: str
    boundary: str
    subject: str
    packet: bytes


class Measure:
    """Takes each event of a story once; the properties say what has come of it."""

    def __init__(self) -> None:
        self.called: Event | None = None
        self.returned: Event | None = None
        self.established: int | None = None
        self.syn: int | None = None
        self._steps: list[_Step] = []
        self._opened = False

    @property
    def connect(self) -> int | None:
        """Nanoseconds from the call of connect() to its return."""
        if self.called is None or self.returned is None:
            return None
        return self.returned.time - self.called.time

    @property
    def handshake(self) -> int | None:
        """Nanoseconds from the first SYN leaving TCP until that end was ESTABLISHED."""
        if self.syn is None or self.established is None:
            return None
        return self.established - self.syn

    def take(self, event: Event) -> None:
        """Note what matters of the connect() that is seen first."""
        if event.what == NOTE and event.layer == APP:
            if self.called is None and event.subject == "Connect":
                self.called = event
            elif (
                self.returned is None
                and event.subject == "Connect returned"
                and self._is_mine(event)
            ):
                self.returned = event
            return
        called = self.called
        if called is None or event.trace != called.trace:
            return
        mine = event.host == called.host
        if event.what == STATE and event.layer == TCP and mine and self.established is None:
            if event.after.get("state") == "ESTABLISHED":
                self.established = event.time
        elif event.what in (IN, OUT):
            if self._opened or len(self._steps) >= _MAX_EVENTS:
                return
            self._steps.append(_Step(event.time, event.host, event.layer, event.what,
                                     event.boundary, event.subject, event.packet))  # fmt: skip
            answer = event.subject in ("Opened", "Closed") and event.layer == APP
            self._opened = answer and event.what == IN and mine
            if self.syn is None and _is_syn(event):
                self.syn = event.time

    def shares(self) -> dict[str, int]:
        """Nanoseconds of connect() by layer, "wire" and "pipes"; empty when it did not return."""
        if self.called is None or self.returned is None or not self._opened:
            return {}
        totals = dict.fromkeys((*LAYERS, WIRE, PIPES), 0)
        steps = self._steps
        at = len(steps) - 1
        # Stamped by the loop round of the layer, the return may seem to precede its own cause.
        totals[APP] += max(0, self.returned.time - steps[at].time)
        while at is not None:
            step = steps[at]
            before = self._cause(at)
            if before is None:
                totals[APP] += max(0, step.time - self.called.time)
                break
            passed = max(0, step.time - steps[before].time)
            if step.what == OUT:
                totals[step.role] += passed
            else:
                totals[WIRE if step.boundary == boundary(LINK, WIRE) else PIPES] += passed
            at = before
        return totals

    def _is_mine(self, event: Event) -> bool:
        called = self.called
        if called is None or event.host != called.host:
            return False
        same = number(event.fields, "descriptor") == number(called.fields, "descriptor")
        return event.trace == called.trace or same

    def _cause(self, at: int) -> int | None:
        """The step that led to this one: for OUT what came in, for IN who sent it."""
        step = self._steps[at]
        wire = step.boundary == boundary(LINK, WIRE)
        for index in range(at - 1, -1, -1):
            other = self._steps[index]
            if step.what == OUT:
                if (other.host, other.role, other.what) == (step.host, step.role, IN):
                    return index
            elif (
                other.what == OUT
                and (other.boundary, other.subject) == (step.boundary, step.subject)
                and other.packet == step.packet
                and (other.host != step.host) == wire
                and (other.role != step.role) != wire
            ):
                return index
        return None


def _is_syn(event: Event) -> bool:
    if event.what != OUT or event.layer != TCP or event.subject != "Segment":
        return False
    return len(event.packet) >= tcp.MIN_HEADER and bool(event.packet[13] & tcp.SYN)
