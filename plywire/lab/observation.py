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

from plywire.runtime.watch import Watch
from plywire.trace import Event

WINDOW = 0.02
"""Seconds that an event waits, so that earlier ones of other layers can come before it."""
KEPT = 100_000
"""Events that are kept for those who ask later."""
QUEUE = 50_000
"""Events that may wait for one observer; further ones are dropped and counted."""

_time = attrgetter("time")


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


class Observer:
    """One listener's queue. Get it from `Hub.observe`, give it back with `Hub.leave`."""

    def __init__(self, hosts: Collection[str]) -> None:
        self.hosts = frozenset(hosts)
        self.ready = asyncio.Event()
        self._events: deque[Event] = deque()
        self._dropped = 0
        self._news = asyncio.Event()

    async def next(self) -> tuple[int, list[Event]]:
        """Wait for news: how many events were dropped, and the events after that."""
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
            if len(self._events) < QUEUE:
                self._events.append(event)
            else:
                self._dropped += 1
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

    def observe(self, hosts: Collection[str] = ()) -> Observer:
        """A new observer of these hosts (none: all); its `ready` is set when all layers trace."""
        observer = Observer(hosts)
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
            if self._timer is None:
                self._tick_later()

    def _tick_later(self) -> None:
        self._timer = asyncio.get_running_loop().call_later(WINDOW, self._tick)

    def _tick(self) -> None:
        self._timer = None
        events = self._merge.tick()
        self.kept.extend(events)
        for observer in self._observers:
            observer.put(events)
        if self._merge:
            self._tick_later()
