"""Captures that are too slow: what they lose is counted, and told in the file and at the end."""

from __future__ import annotations

import io
import threading

from plywire.lab import observation
from plywire.lab.capture.points import find
from plywire.lab.capture.recording import Recording
from plywire.lab.capture.session import Plan, Session
from plywire.lab.control import LabClient
from plywire.lab.service import Service
from tests.unit.test_pcapng import blocks, options

LIMIT = 60
MOST = 20_000
"""Pings. How much gRPC takes for one who does not read is its own affair: its window grows as it
sees fit."""


class Slow(Recording):
    """Takes the first packet only when told to."""

    def __init__(self, *arguments) -> None:
        super().__init__(*arguments)
        self.go_on = threading.Event()
        self.first = threading.Event()

    def packet(self, taken, packet=None) -> None:
        self.first.set()
        assert self.go_on.wait(LIMIT)
        super().packet(taken, packet)


def test_what_a_slow_reader_loses_is_counted(lab, monkeypatch):
    monkeypatch.setattr(observation, "QUEUE", 10)
    put, lost, pings = observation.Observer.put, threading.Event(), 0

    def watched(observer, events) -> None:
        put(observer, events)
        if observer._dropped:
            lost.set()

    monkeypatch.setattr(observation.Observer, "put", watched)
    file = io.BytesIO()
    with Service(lab), LabClient(lab.directory) as client:
        points = find(client, ["h1"], ["ip"])
        slow = Slow(file, points)
        ready = threading.Event()
        session = Session(client, Plan(points), lambda: [slow], ready=ready.set)
        session.start()
        assert ready.wait(LIMIT)
        while not lost.is_set():
            assert pings < MOST
            client.ask("h1", "ip", "ping", "10.0.0.2", 1400, 10_000)
            pings += 1
        assert slow.first.wait(LIMIT)
        session.stop()
        slow.go_on.set()
        session.join(LIMIT)
    assert session.over
    assert session.error is None
    assert session.dropped > 0
    assert session.captured + session.dropped == 2 * pings
    assert session.summary == f"{session.captured} packets captured, {session.dropped} dropped"
    (statistics,) = (options(body[12:]) for kind, body in blocks(file.getvalue()) if kind == 5)
    assert int.from_bytes(statistics[5], "little") == session.dropped
    assert int.from_bytes(statistics[8], "little") == session.captured
