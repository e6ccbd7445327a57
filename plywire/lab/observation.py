"""What the layers trace, brought together: in order of time, kept for a while, handed to observers.

Layers trace only while somebody observes, so the lab subscribes with the first observer and leaves
with the last.
"""

from __future__ import annotations

import asyncio
from bisect import bisect_right
from collections import deque
from collections.abc import Callable, Collection, Mapping
from operator import attrgetter

from plywire.roles import LINK, WIRE, boundary
from plywire.runtime.watch import Watch
from plywire.trace import IN, OUT, Event

WINDOW = 0.02
"""Seconds that an event waits, so that earlier ones of other layers can come before it."""
KEPT = 100_000
"""Events that are kept for those who ask later."""
QUEUE = 50_000
"""Events that may wait for one observer; further ones are dropped and counted."""

MARKS = 100
"""Marks that may be waited for at once; further ones are not answered."""
MARK_LIMIT = 3.0
"""Seconds that a mark waits for the layers."""

_time = attrgetter("time")
_AT_WIRE = boundary(LINK, WIRE)


class Merge:
    """Events of several publishers in the order of their times.

    `tick`, called once a window, gives out what was there at the tick before: nothing waits for
    more than two windows, and no clock is needed.
    """

    def __init__(self) -> None:
        self._waiting: list[Event] = []
        self._horizon = -1

    def __len__(self) -> int:
        return len(self._waiting)

    def push(self, events: list[Event]) -> None:
        """Take events as they arrive."""
        self._waiting += events

    def tick(self) -> list[Event]:
        """What has waited for a window, the earliest first."""
        waiting = self._waiting
        if not waiting:
            return []
        waiting.sort(key=_time)
        split = bisect_right(waiting, self._horizon, key=_time)
        self._horizon = waiting[-1].time
        self._waiting = waiting[split:]
        return waiting[:split]


class Mark:
    """Asked for by a listener: where in the order of events all have come that were traced before.

    awaited: layers that have not said so yet. ticks: of the Merge, until what it has is given out.
    """

    def __init__(self, number: int, awaited: set[str]) -> None:
        self.number = number
        self.awaited = awaited
        self.ticks = 2


class Observer:
    """One listener's queue. Get it from `Hub.observe`, give it back with `Hub.leave`.

    With boundaries it is for what crosses those alone, each message once a host.
    """

    def __init__(self, hosts: Collection[str], boundaries: Collection[str] = ()) -> None:
        self.hosts = frozenset(hosts)
        self.boundaries = frozenset(boundaries)
        self.ready = asyncio.Event()
        self._events: deque[Event | int] = deque()
        self._dropped = 0
        self._news = asyncio.Event()

    async def next(self) -> tuple[int, list[Event | int]]:
        """Wait for news: how many events were dropped, and the events after that. A number among
        them is a mark's."""
        await self._news.wait()
        self._news.clear()
        dropped, self._dropped = self._dropped, 0
        events = list(self._events)
        self._events.clear()
        return dropped, events

    def put(self, events: list[Event]) -> None:
        for event in events:
            if self.hosts and event.host not in self.hosts:
                continue
            if self.boundaries and not self._crosses(event):
                continue
            if len(self._events) < QUEUE:
                self._events.append(event)
            else:
                self._dropped += 1
            self._news.set()

    def _crosses(self, event: Event) -> bool:
        """Sent over a boundary that is wanted; what comes from a wire was sent by another host."""
        return event.boundary in self.boundaries and (
            event.what == OUT or (event.what == IN and event.boundary == _AT_WIRE)
        )

    def mark(self, number: int) -> None:
        self._events.append(number)
        self._news.set()

    def lost(self, host: str, count: int) -> None:
        if not self.hosts or host in self.hosts:
            self._dropped += count
            self._news.set()


class Hub:
    """All observers of a lab. endpoints: gives the layers' trace endpoints by `host.role`, asked
    when the first observer comes."""

    def __init__(self, endpoints: Callable[[], Mapping[str, str]]) -> None:
        self.kept: deque[Event] = deque(maxlen=KEPT)
        self._endpoints = endpoints
        self._observers: list[Observer] = []
        self._watch: Watch | None = None
        self._merge = Merge()
        self._timer: asyncio.TimerHandle | None = None
        self._marks: list[Mark] = []

    def observe(self, hosts: Collection[str] = (), boundaries: Collection[str] = ()) -> Observer:
        """A new observer of these hosts (none: all); its `ready` is set when all layers trace."""
        observer = Observer(hosts, boundaries)
        self._observers.append(observer)
        if self._watch is None:
            self._watch = Watch(self._endpoints(), self._take)
            self._watch.attach(asyncio.get_running_loop())
        elif self._watch.complete:
            observer.ready.set()
        return observer

    def leave(self, observer: Observer) -> None:
        """An observer goes; with the last one the layers stop tracing."""
        self._observers.remove(observer)
        if not self._observers and self._watch is not None:
            self._watch.close()
            self._watch = None
            self._marks.clear()

    def mark(self, number: int) -> None:
        """Give all observers this number when they have all that was traced until now, or after
        MARK_LIMIT: a layer may have died."""
        if self._watch is not None and len(self._marks) < MARKS:
            mark = Mark(number, self._watch.mark())
            self._marks.append(mark)
            asyncio.get_running_loop().call_later(MARK_LIMIT, mark.awaited.clear)
            self._tick_later()

    def find(self, wanted: Callable[[Event], bool]) -> list[Event]:
        """The kept events that are wanted, in the order of time."""
        return [event for event in self.kept if wanted(event)]

    def _take(self, name: str, lost: int, events: list[Event]) -> None:
        if self._watch is not None and self._watch.complete:
            for observer in self._observers:
                observer.ready.set()
        if lost:
            host = name.partition(".")[0]
            for observer in self._observers:
                observer.lost(host, lost)
        if events:
            self._merge.push(events)
            self._tick_later()
            return
        for mark in self._marks:
            if name in mark.awaited:
                mark.awaited.remove(name)
                return

    def _tick_later(self) -> None:
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(WINDOW, self._tick)

    def _tick(self) -> None:
        self._timer = None
        events = self._merge.tick()
        self.kept.extend(events)
        for observer in self._observers:
            observer.put(events)
        for mark in self._marks:
            mark.ticks -= not mark.awaited
        for mark in [mark for mark in self._marks if mark.ticks <= 0]:
            self._marks.remove(mark)
            for observer in self._observers:
                observer.mark(mark.number)
        if self._merge or self._marks:
            self._tick_later()
