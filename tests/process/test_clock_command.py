"""`plywire clock`: time stands still, or goes slowly, in all layers of a running lab."""

from __future__ import annotations

import json
import os
import re
import select
import signal
import time

import pytest

from plywire.client import Stack
from plywire.lab.control import LabClient
from tests.process.commanded import QUIET, Commands
from tests.process.running import wait_until


@pytest.fixture(scope="module")
def plywire(tmp_path_factory):
    commands = Commands(tmp_path_factory.mktemp("labs"))
    commands.up(QUIET)
    yield commands
    try:
        commands.do("down")
    finally:
        commands.end()


@pytest.fixture
def client(plywire):
    with LabClient(plywire.directory()) as client:
        yield client
    plywire.do("clock", "resume")
    plywire.do("impair", "reset")


@pytest.fixture
def connection(client):
    """A connection from h1 to h2, both ends."""
    with (
        Stack(client.target("h1")) as h1,
        Stack(client.target("h2")) as h2,
        h2.create_server(("", 0)) as server,
        h1.create_connection(("10.0.0.2", server.getsockname()[1])) as one,
    ):
        two, _ = server.accept()
        with two:
            yield one, two


def readable(sock, seconds: float) -> bool:
    return bool(select.select([sock], [], [], seconds)[0])


def retransmissions(client) -> int:
    return client.describe("h1", "tcp", "counters").get("tcp_retrans_segs", 0)


def shown(plywire) -> dict:
    return json.loads(plywire.do("clock", "show", "--json"))


def test_show(plywire, client):
    before = shown(plywire)["time"]
    text = plywire.do("clock", "show")
    assert re.fullmatch(r"lab time \d+\.\d{6} s, at real time's pace\n", text)
    assert before < float(text.split()[2]) * 1e9 < shown(plywire)["time"]


def test_no_timer_fires_while_the_lab_stands_still(plywire, client, connection):
    one, two = connection
    plywire.do("clock", "pause")
    plywire.do("impair", "drop-next", "h1>h2")
    sent_again = retransmissions(client)
    one.sendall(b"lost at first")
    # Five times the retransmission timer, by real time: this is what must not happen.
    assert not readable(two, 1.0)
    assert retransmissions(client) == sent_again
    plywire.do("clock", "resume")
    assert readable(two, 10)
    assert two.recv(100) == b"lost at first"
    assert retransmissions(client) > sent_again


def test_messages_are_carried_while_the_lab_stands_still(plywire, client, connection):
    one, two = connection
    assert "standing still" in plywire.do("clock", "pause")
    first = shown(plywire)["time"]
    one.sendall(b"in no time")
    assert readable(two, 10)
    assert two.recv(100) == b"in no time"
    answer = client.ask("h1", "ip", "ping", "10.0.0.2", 56, 1000)
    assert answer["rtt_ns"] == 0
    assert shown(plywire)["time"] == first
    states = [
        client.ask(host, layer, "clock")["time"]
        for host in ("h1", "h2")
        for layer in ("app", "tcp", "ip", "link")
    ]
    assert states == [first] * 8


def test_a_delayed_frame_waits_for_lab_time(plywire, client):
    plywire.do("ping", "h1", "h2", "-c", "1")
    plywire.do("impair", "set", "h1-h2", "--delay", "20ms")
    assert "at 1/10 of" in plywire.do("clock", "slow", "10")
    began = time.monotonic()
    answer = client.ask("h1", "ip", "ping", "10.0.0.2", 56, 10_000)
    assert time.monotonic() - began >= 0.4
    assert answer["rtt_ns"] >= 40_000_000
    assert answer["rtt_ns"] / 1e9 < (time.monotonic() - began) / 9  # times are lab times


def test_a_slow_lab_retransmits_later(plywire, client, connection):
    one, two = connection
    plywire.do("clock", "slow", "5")
    plywire.do("impair", "drop-next", "h1>h2")
    began = time.monotonic()
    one.sendall(b"again")
    assert readable(two, 20)
    assert time.monotonic() - began >= 0.9  # the least retransmission timer is 0.2 s
    assert two.recv(100) == b"again"


def test_a_layer_that_is_started_again_goes_by_the_same_clock(plywire, client):
    plywire.do("clock", "pause")
    time_before = shown(plywire)["time"]

    def link():
        (host,) = (host for host in client.status().hosts if host.name == "h1")
        return next(layer for layer in host.layers if layer.role == "link")

    os.kill(link().pid, signal.SIGKILL)
    wait_until(lambda: link().restarts == 1 and link().state == "up", "link is up again")
    assert client.ask("h1", "link", "clock")["time"] == time_before
    plywire.do("clock", "resume")
    plywire.do("ping", "h1", "h2", "-c", "1")


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["clock", "slow", "0"], 2, "0"),
        (["clock", "slow", "0.5"], 2, "0.5"),
        (["clock", "slow", "ten"], 2, "ten"),
        (["clock", "slow"], 2, "Missing argument"),
        (["clock", "stop"], 2, "No such command 'stop'"),
        (["--lab", "none", "clock", "pause"], 3, "no lab 'none' is up"),
        (["--lab", "none", "clock", "show"], 3, "no lab 'none' is up"),
    ],
)
def test_what_is_refused(plywire, arguments, code, words):
    assert words in plywire.refused(*arguments, code=code)
