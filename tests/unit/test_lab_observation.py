"""Events of several layers in one order, and the queues of those who listen."""

from __future__ import annotations

import asyncio

from plywire.lab import observation
from plywire.lab.observation import Merge, Observer
from plywire.trace import NOTE, Event


def event(time: int, host: str = "h1", subject: str = "") -> Event:
    return Event(host, "tcp", time, 1, NOTE, "", "", subject, {}, b"", {}, {})


def times(events: list[Event]) -> list[int]:
    return [item.time for item in events]


def test_merge_of_nothing():
    assert Merge().tick() == []


def test_merge_holds_events_for_a_window():
    merge = Merge()
    merge.push([event(5)])
    assert merge.tick() == []
    assert times(merge.tick()) == [5]
    assert not merge


def test_merge_orders_what_comes_within_a_window():
    merge = Merge()
    merge.push([event(30), event(40)])
    assert merge.tick() == []
    merge.push([event(10), event(35), event(50)])
    assert times(merge.tick()) == [10, 30, 35, 40]
    assert times(merge.tick()) == [50]


def test_merge_keeps_the_order_of_arrival_of_equal_times():
    merge = Merge()
    merge.push([event(1, subject="a"), event(1, subject="b")])
    merge.tick()
    assert [item.subject for item in merge.tick()] == ["a", "b"]


def test_merge_gives_out_late_events_at_once():
    merge = Merge()
    merge.push([event(100)])
    merge.tick()
    merge.tick()
    merge.push([event(50)])
    assert times(merge.tick()) == [50]


def test_observer_gets_events_of_its_hosts_only():
    async def run() -> tuple[int, list[Event]]:
        observer = Observer(["h2"])
        observer.put([event(1, "h1"), event(2, "h2")])
        observer.lost("h1", 7)
        return await observer.next()

    dropped, events = asyncio.run(run())
    assert (dropped, times(events)) == (0, [2])


def test_observer_that_is_slow_loses_events_and_is_told(monkeypatch):
    monkeypatch.setattr(observation, "QUEUE", 3)

    async def run() -> list[tuple[int, list[Event]]]:
        observer = Observer([])
        observer.put([event(number) for number in range(5)])
        observer.lost("h1", 10)
        first = await observer.next()
        observer.put([event(9)])
        return [first, await observer.next()]

    (dropped, events), (later, rest) = asyncio.run(run())
    assert (dropped, times(events)) == (12, [0, 1, 2])
    assert (later, times(rest)) == (0, [9])
