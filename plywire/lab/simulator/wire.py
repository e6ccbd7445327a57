"""A wire: a shared segment that hands each frame to every other station on it."""

from __future__ import annotations

from collections import Counter, deque
from typing import TYPE_CHECKING, Any, NamedTuple

from plywire.errors import ConfigError
from plywire.impair import Impairer, Impairments, with_ce
from plywire.messages import MAX_FRAME, Frame
from plywire.roles import LINK, WIRE

if TYPE_CHECKING:
    from plywire.lab.simulator.host import Host
    from plywire.lab.simulator.world import World

DEFAULT_DELAY = 10_000
"""Nanoseconds from station to station unless told otherwise: a short cable and two cards."""
SENT_KEPT = 65_536
"""Frames that wait for `take`; the oldest is forgotten when there are more."""


class Sent(NamedTuple):
    """A frame (a bare IP packet on a raw wire) that a host has sent.

    time: nanoseconds, when it was sent; host and interface: by name. What the wire then did to
    it is not in here.
    """

    time: int
    host: str
    interface: str
    frame: bytes


class _Station:
    """An interface of a host on this wire, and what happens to what it sends."""

    __slots__ = ("host", "ifindex", "impairer", "name")

    def __init__(self, host: Host, ifindex: int, name: str, impairer: Impairer) -> None:
        self.host, self.ifindex, self.name, self.impairer = host, ifindex, name, impairer


class Wire:
    """Made by `World.wire`. raw: it carries bare IP packets."""

    def __init__(self, world: World, name: str, *, raw: bool) -> None:
        self.world = world
        self.name = name
        self.raw = raw
        self.settings = Impairments(delay=DEFAULT_DELAY)
        """What stations that join from now on get; `impair` changes it."""
        self.forgotten = 0
        """Frames that were sent so long ago that `take` no longer has them."""
        self._stations: list[_Station] = []
        self._sent: deque[Sent] = deque()
        self._drop_next = 0

    def impair(self, sender: str | None = None, **changes: Any) -> None:
        """Change impairments from now on; sender: of one host's direction only.

        changes: fields of `plywire.impair.Impairments`. Raises ConfigError.
        """
        if sender is None:
            self.settings = self.settings.changed(**changes)
        for station in self._of(sender):
            station.impairer.settings = station.impairer.settings.changed(**changes)

    def drop_next(self, count: int = 1, sender: str | None = None) -> None:
        """Lose the next `count` frames for certain, whoever sends them, or those of one sender."""
        if sender is None:
            self._drop_next += count
        for station in self._of(sender) if sender is not None else ():
            station.impairer.drop_next(count)

    def inject(self, frame: bytes, at: int | None = None, to: str | None = None) -> None:
        """Hand a frame (or bare packet) to the stations, at a time: now unless told.

        It comes from nobody and is not impaired. to: one host only.
        """
        if len(frame) > MAX_FRAME:
            raise ValueError(f"{len(frame)} bytes; a frame has {MAX_FRAME} at most")
        time = self.world.now if at is None else at
        if time < self.world.now:
            raise ValueError(f"{time} ns is past: it is {self.world.now}")
        for station in self._of(to):
            self._deliver(station, 0, time, time, bytes(frame))
        self.world.settle()

    def take(self) -> list[Sent]:
        """What hosts have sent since the last take, in order."""
        sent = list(self._sent)
        self._sent.clear()
        return sent

    def counts(self, sender: str | None = None) -> Counter[str]:
        """Frames by what became of them, `sent` among them: of all senders, or of one."""
        total: Counter[str] = Counter()
        for station in self._of(sender):
            total.update(station.impairer.counts)
        return total

    # --- for hosts --------------------------------------------------------------------------------

    def join(self, host: Host, ifindex: int, name: str) -> None:
        """Another interface is on this wire."""
        rng = self.world.random("wire", self.name, host.name, ifindex)
        self._stations.append(_Station(host, ifindex, name, Impairer(self.settings, rng)))

    def transmit(self, host: Host, message: Frame) -> None:
        """A host sends a frame."""
        world, now = self.world, self.world.now
        sender = next(
            item for item in self._stations if item.host is host and item.ifindex == message.ifindex
        )
        if len(self._sent) == SENT_KEPT:
            self._sent.popleft()
            self.forgotten += 1
        frame = message.frame
        self._sent.append(Sent(now, host.name, sender.name, frame))
        if self._drop_next:
            self._drop_next -= 1
            sender.impairer.drop_next()
        arrivals = sender.impairer.apply(frame, now)
        world.captured(self, now, frame, _comment(host.name, message.trace, frame, arrivals))
        for at, data in arrivals:
            for station in self._stations:
                if station is not sender:
                    self._deliver(station, message.trace, at, message.sent_at, data)

    def _deliver(self, station: _Station, trace: int, at: int, sent_at: int, data: bytes) -> None:
        message = Frame(trace, station.ifindex, sent_at, data)
        self.world.arrive(at, station.host.nodes[LINK], message, WIRE)

    def _of(self, host: str | None) -> list[_Station]:
        if host is None:
            return self._stations
        found = [item for item in self._stations if item.host.name == host]
        if not found:
            raise ConfigError(f"wire {self.name}", f"no station of a host {host!r} is on it")
        return found


def _comment(host: str, trace: int, frame: bytes, arrivals: list[tuple[int, bytes]]) -> str:
    """What a capture says of a frame: who sent it, and what the wire did to it."""
    words = [host, f"trace {trace:x}"]
    if not arrivals:
        words.append("lost")
    elif len(arrivals) > 1:
        words.append("duplicated")
    changed = [data for _, data in arrivals if data != frame]
    marked = with_ce(frame) if changed else None
    if marked in changed:
        words.append("marked CE")
    if any(data != marked for data in changed):
        words.append("corrupted")
    return ", ".join(words)
