"""Impairments at the ports: what goes on, what is held back, what is remembered."""

from __future__ import annotations

import os
import subprocess
from collections import Counter
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace

import pytest
import zmq

from plywire.errors import ConfigError
from plywire.messages import Frame, Join
from plywire.runtime.pipe import Inbox, Outlet
from services.link.devices import impairing
from services.link.devices.impairing import IN, OUT, Impairing, answer
from services.link.devices.tap import TapPort
from services.link.devices.wire import WirePort
from tests.process.running import wait_until

MS = 1_000_000


def frames(count: int) -> list[Frame]:
    return [Frame(number, 1, 0, bytes([number]) * 60) for number in range(count)]


class Time:
    """A clock that the test sets."""

    def __init__(self) -> None:
        self.time = 1000 * MS

    def now(self) -> int:
        return self.time

    def real(self, when: int) -> int:
        return when


@pytest.fixture
def time():
    return Time()


@pytest.fixture
def port(time):
    return Impairing("h1", time)


def test_frames_to_others_are_left_alone(port):
    port.change("h2", OUT, {"loss": 1.0}, None)
    batch = frames(3)
    assert port.apply("h3", OUT, "there", batch) is batch
    assert port.apply("h2", IN, "there", batch) is batch
    assert port.apply("h2", OUT, "there", batch) == []


def test_delayed_frames_go_on_at_their_time(port, time):
    port.change("h2", OUT, {"delay": 20 * MS}, None)
    first, second = frames(2)
    assert port.apply("h2", OUT, "a", [first]) == []
    time.time += 5 * MS
    port.apply("h2", OUT, "b", [second])
    assert port.held == 2
    assert port.deadline() == 1020 * MS
    time.time = 1020 * MS - 1
    assert port.take_due() == []
    time.time += 1
    assert port.take_due() == [("a", first)]
    time.time = 1100 * MS
    assert port.take_due() == [("b", second)]
    assert port.deadline() is None


def test_a_corrupt_frame_differs_in_one_bit_and_keeps_its_trace(port):
    port.change("h2", OUT, {"corrupt": 1.0}, 1)
    (sent,) = frames(1)
    (got,) = port.apply("h2", OUT, "a", [sent])
    assert (got.trace, got.ifindex, len(got.frame)) == (sent.trace, 1, 60)
    differing = int.from_bytes(got.frame, "big") ^ int.from_bytes(sent.frame, "big")
    assert differing.bit_count() == 1


def test_equal_seeds_are_equal_fates_and_each_direction_has_its_own(time):
    def fates(host: str, peer: str, direction: str, seed: int) -> list[int]:
        port = Impairing(host, time)
        port.change(peer, direction, {"loss": 0.5}, seed)
        return [frame.trace for frame in port.apply(peer, direction, "a", frames(200))]

    assert fates("h1", "h2", OUT, 7) == fates("h1", "h2", OUT, 7)
    assert fates("h1", "h2", OUT, 7) != fates("h1", "h2", OUT, 8)
    assert fates("h1", "h2", OUT, 7) != fates("h2", "h1", OUT, 7)
    assert fates("h1", "h2", OUT, 7) == fates("h2", "h1", IN, 7)  # the same direction


def test_a_change_leaves_the_rest_and_a_new_seed_begins_anew(port):
    port.change("h2", OUT, {"loss": 0.5}, 7)
    before = [frame.trace for frame in port.apply("h2", OUT, "a", frames(50))]
    port.change("h2", OUT, {"corrupt": 0.0}, 7)
    assert [frame.trace for frame in port.apply("h2", OUT, "a", frames(50))] == before
    (row,) = port.describe()
    assert row["settings"]["loss"] == 0.5
    assert row["counts"]["sent"] == 100


def test_next_frames_are_dropped_without_any_other_setting(port):
    port.drop_next("h2", OUT, 2)
    assert [frame.trace for frame in port.apply("h2", OUT, "a", frames(4))] == [2, 3]
    assert port.describe()[0]["counts"] == {"sent": 4, "dropped_on_request": 2}


def test_what_is_held_back_is_bounded(port, monkeypatch):
    monkeypatch.setattr(impairing, "HELD_MAX", 10)
    port.change("h2", OUT, {"delay": MS}, None)
    port.apply("h2", OUT, "a", frames(25))
    assert port.held == 10
    assert port.describe()[0]["counts"]["held_full"] == 15


def test_bytes_held_back_are_bounded_and_given_free_again(port, time, monkeypatch):
    monkeypatch.setattr(impairing, "HELD_BYTES_MAX", 600)
    port.change("h2", OUT, {"delay": MS}, None)
    port.apply("h2", OUT, "a", frames(25))
    assert port.held == 10
    time.time += MS
    assert len(port.take_due()) == 10
    port.apply("h2", OUT, "a", frames(25))
    assert port.held == 10


def test_reset_forgets_the_line_but_not_the_frames_under_way(port, time):
    port.change("h2", OUT, {"delay": MS}, None)
    port.change("h3", OUT, {"delay": MS}, None)
    port.apply("h2", OUT, "a", frames(1))
    assert port.reset("h2", OUT) == 1
    assert [row["to"] for row in port.describe()] == ["h3"]
    assert port.reset() == 1
    time.time += MS
    assert port.take_due() == [("a", frames(1)[0])]


def test_the_next_process_goes_on_with_the_settings(time, tmp_path):
    path = tmp_path / "h1.eth0.impair"
    port = Impairing("h1", time, path)
    port.change("h2", OUT, {"loss": 0.5, "delay": MS}, 7)
    again = Impairing("h1", time, path).describe()
    assert [(row["settings"], row["seed"]) for row in again] == [
        (row["settings"], row["seed"]) for row in port.describe()
    ]
    port.reset()
    assert Impairing("h1", time, path).describe() == []


@pytest.mark.parametrize("text", ["", "{", "[[1]]", '[["h2", "out", {"losss": 1}, 3]]', "3"])
def test_a_file_that_cannot_be_read_impairs_nothing(time, tmp_path, text, caplog):
    path = tmp_path / "h1.eth0.impair"
    path.write_text(text)
    assert Impairing("h1", time, path).describe() == []
    assert "cannot be read" in caplog.text


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["set", "h9", OUT, {"loss": 1.0}, None], "there are h2"),
        (["set", "h2", IN, {"loss": 1.0}, None], "not a station"),
        (["set", "h2", OUT, {"loss": 2.0}, None], "0 to 1"),
        (["set", "h2", OUT, {"losss": 1.0}, None], "losss"),
        (["drop_next", "h2", OUT, 0], "from 1"),
        (["drop_next", "h2", OUT, "1"], "from 1"),
    ],
)
def test_what_cannot_be_asked_for(port, arguments, words):
    shell = SimpleNamespace(
        ports={1: SimpleNamespace(impairing=port, peers=lambda: {"h2": (OUT,)})}
    )
    with pytest.raises(ConfigError, match=words):
        answer(shell, arguments)
    assert answer(shell, ["show"]) == []


# --- the ports ---


def test_wire_delays_what_goes_to_one_station_alone(tmp_path, time):
    context = zmq.Context()
    own = f"ipc://{tmp_path}/h1.eth0"
    port = WirePort(context, 1, "h1.eth0", own, own, [], Impairing("h1", time))
    inboxes = {}
    for name in ("h2", "h3"):
        end = f"ipc://{tmp_path}/{name}"
        inboxes[name] = Inbox(context, end, Counter())
        outlet = Outlet(context, own)
        wait_until(outlet.writable, "the port hears us")
        outlet.send([Join(0, f"{name}.eth0", end, 0)])
        wait_until(lambda: port.receive() == [] and len(port.peers()) == len(inboxes), name)
        outlet.close()
    for station in port.stations.values():
        wait_until(station.outlet.writable, "the stations hear the port")
        station.settle(Join)
    port.impairing.change("h2", OUT, {"delay": MS}, None)

    def got(name: str) -> list[Frame]:
        return [item for item in inboxes[name].receive() if type(item) is Frame]

    port.send(frames(2))
    wait_until(lambda: len(got("h3")) == 2, "the frames to h3")
    assert port.deadline() == time.time + MS
    assert got("h2") == []
    time.time += MS
    assert port.expire(time.time) == []
    wait_until(lambda: got("h2") == frames(2), "the frames to h2")
    port.close()
    for inbox in inboxes.values():
        inbox.close()
    context.destroy(0)


@pytest.mark.live
def test_tap_impairs_both_directions(time):
    if os.geteuid() != 0 or not Path("/dev/net/tun").exists():
        pytest.skip("a TAP needs root and /dev/net/tun")
    name = f"pwi{os.getpid() % 100_000}"
    with closing(TapPort(1, name, impairing=Impairing("h1", time))) as port:
        assert port.peers() == {name: (OUT, IN)}
        port.impairing.change(name, IN, {"delay": MS}, None)
        subprocess.run(("ip", "link", "set", name, "up"), check=True, timeout=10)
        wait_until(lambda: port.receive() == [] and port.impairing.held, "the kernel sends")
        held = port.impairing.held
        time.time += MS
        assert len(port.expire(time.time)) == held
        port.impairing.change(name, OUT, {"loss": 1.0}, None)
        port.send([Frame(1, 1, 0, b"short")])  # which the kernel would have refused
        assert port.counters == {}
