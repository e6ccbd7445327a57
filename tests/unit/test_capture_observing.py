"""What captures need of the lab's observation: boundaries alone, and marks."""

from __future__ import annotations

import asyncio

import pytest
import zmq

from plywire.lab import observation
from plywire.lab.observation import Hub, Observer
from plywire.messages import Segment
from plywire.runtime import observer as runtime
from plywire.trace import IN, OUT, STATE, Event, Tracer


def event(what: str, boundary: str, direction: str = "", *, time: int = 1) -> Event:
    return Event("h1", "tcp", time, 1, what, boundary, direction, "", {}, b"", {}, {})


def test_each_message_over_a_boundary_is_seen_once():
    async def run() -> list[Event | int]:
        observer = Observer([], ["tcp/ip"])
        observer.put([
            event(OUT, "tcp/ip", "down"), event(IN, "tcp/ip", "down"), event(OUT, "tcp/ip", "up"),
            event(IN, "tcp/ip", "up"), event(OUT, "ip/link", "down"), event(STATE, ""),
            event(IN, "link/wire", "up"),
        ])  # fmt: skip
        return (await observer.next())[1]

    assert [(seen.what, seen.direction) for seen in asyncio.run(run())] == [
        (OUT, "down"), (OUT, "up")
    ]  # fmt: skip


def test_what_comes_from_a_wire_was_sent_elsewhere():
    async def run() -> list[Event | int]:
        observer = Observer([], ["link/wire"])
        observer.put([event(OUT, "link/wire", "down"), event(IN, "link/wire", "up")])
        return (await observer.next())[1]

    assert len(asyncio.run(run())) == 2


def test_events_of_other_boundaries_take_no_room(monkeypatch):
    monkeypatch.setattr(observation, "QUEUE", 2)

    async def run() -> tuple[int, list[Event | int]]:
        observer = Observer([], ["tcp/ip"])
        observer.put([event(OUT, "app/tcp", "down")] * 10 + [event(OUT, "tcp/ip", "down")] * 3)
        return await observer.next()

    dropped, events = asyncio.run(run())
    assert (dropped, len(events)) == (1, 2)


class Layers:
    """Publishers of two layers, and a hub that observes them."""

    def __init__(self, context, directory) -> None:
        self.endpoints = {f"h1.{role}": f"ipc://{directory}/{role}" for role in ("tcp", "ip")}
        self.publishers = {}
        self.tracers = {}
        for name, endpoint in self.endpoints.items():
            self.publishers[name] = runtime.Publisher(context, endpoint)
            self.tracers[name] = Tracer("h1", name.partition(".")[2])
        self.hub = Hub(lambda: self.endpoints)

    def attend(self, *names: str) -> None:
        for name in names or self.endpoints:
            self.publishers[name].attend(self.tracers[name])

    async def until(self, observer: Observer) -> tuple[int, list[Event | int]]:
        """The next news; the layers look after their subscriptions meanwhile."""
        news = asyncio.ensure_future(observer.next())
        while not news.done():
            self.attend()
            await asyncio.sleep(0.001)
        return news.result()

    async def ready(self) -> Observer:
        observer = self.hub.observe()
        while not observer.ready.is_set():
            self.attend()
            await asyncio.sleep(0.001)
        return observer

    def close(self) -> None:
        for publisher in self.publishers.values():
            publisher.close()


@pytest.fixture
def layers(tmp_path):
    with zmq.Context() as context:
        layers = Layers(context, tmp_path)
        yield layers
        layers.close()


def test_a_mark_comes_behind_all_that_was_traced_before_it(layers):
    async def run() -> list[Event | int]:
        observer = await layers.ready()
        segment = Segment(1, 6, b"\0" * 4, b"\0" * 4, 0, 0, 0, b"")
        for number in range(1000):
            layers.tracers["h1.tcp"].crossing(OUT, segment, "ip", number)
            layers.tracers["h1.ip"].crossing(IN, segment, "tcp", number)
        layers.hub.mark(77)
        found: list[Event | int] = []
        while 77 not in found:
            found += (await layers.until(observer))[1]
        layers.hub.leave(observer)
        return found

    found = asyncio.run(run())
    assert len(found) == 2001
    assert found[-1] == 77


def test_marks_of_several_listeners_come_in_their_order(layers):
    async def run() -> list[Event | int]:
        observer = await layers.ready()
        for number in (1, 2, 3):
            layers.hub.mark(number)
        found: list[Event | int] = []
        while 3 not in found:
            found += (await layers.until(observer))[1]
        layers.hub.leave(observer)
        return found

    assert asyncio.run(run()) == [1, 2, 3]


def test_a_mark_does_not_wait_for_a_layer_that_has_died(layers, monkeypatch):
    monkeypatch.setattr(observation, "MARK_LIMIT", 0.01)

    async def run() -> list[Event | int]:
        observer = await layers.ready()
        layers.hub.mark(5)
        _, found = await observer.next()  # nobody attends to the layers
        layers.hub.leave(observer)
        return found

    assert asyncio.run(run()) == [5]


def test_marks_that_are_waited_for_are_bounded(layers, monkeypatch):
    monkeypatch.setattr(observation, "MARKS", 2)
    monkeypatch.setattr(observation, "MARK_LIMIT", 0.01)

    async def run() -> list[Event | int]:
        observer = await layers.ready()
        for number in (1, 2, 3):
            layers.hub.mark(number)
        found: list[Event | int] = []
        while 2 not in found:
            found += (await observer.next())[1]
        layers.hub.leave(observer)
        return found

    assert asyncio.run(run()) == [1, 2]
