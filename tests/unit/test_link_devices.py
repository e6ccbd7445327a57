"""Devices over the real thing: ZeroMQ sockets, and a TAP of the kernel's."""

from __future__ import annotations

import os
import select
import subprocess
import time
from contextlib import closing
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
import zmq

from plywire.config import SECOND, host
from plywire.errors import ConfigError
from plywire.messages import Credit, Frame, Hello, Join, Leave, Members
from plywire.runtime.lock import Held
from plywire.runtime.pipe import Inbox, Outlet
from services.link.devices import DEVICES, open_ports, wire
from services.link.devices.tap import TapPort
from services.link.devices.wire import MAX_STATIONS, WirePort

DEADLINE = 10.0
DATA = bytes(range(60))


def frame(number: int = 1, data: bytes = DATA) -> Frame:
    return Frame(number, 7, 0, data)


class Segment:
    """A wire of stations, driven by hand: each polled, its timers run, until something holds."""

    def __init__(self, tmp_path: Path, context: zmq.Context) -> None:
        self.directory = tmp_path
        self.context = context
        self.up: dict[str, WirePort] = {}
        self.got: dict[str, list[Frame]] = {}

    def endpoint(self, name: str) -> str:
        return f"ipc://{self.directory}/{name}"

    def start(self, name: str, *peers: str, at: str = "", given_out: str = "") -> WirePort:
        """A station; peers: names, or whole endpoints."""
        listen = at or self.endpoint(name)
        ends = [peer if "://" in peer else self.endpoint(peer) for peer in peers]
        port = WirePort(self.context, 3, name, listen, given_out or listen, ends)
        self.up[name] = port
        self.got[name] = []
        return port

    def kill(self, name: str) -> None:
        """As by SIGKILL: no word to the others."""
        port = self.up.pop(name)
        for station in port.stations.values():
            station.outlet.close()
        port._inbox.close()

    def leave(self, name: str) -> None:
        self.up.pop(name).close()

    def until(self, condition) -> None:
        end = time.monotonic() + DEADLINE
        while not condition():
            assert time.monotonic() < end, f"still waiting: {self.known()}"
            self.turn()

    def turn(self) -> None:
        poller = zmq.Poller()
        for port in self.up.values():
            poller.register(port.pollable(), zmq.POLLIN)
        poller.poll(5)
        for name, port in self.up.items():
            self.got[name] += port.receive()
            due = port.deadline()
            now = time.monotonic_ns()
            if due is not None and due <= now:
                port.expire(now)

    def known(self) -> dict[str, list[str]]:
        return {
            name: sorted(each.name for each in port.stations.values())
            for name, port in self.up.items()
        }

    def meshed(self) -> bool:
        """Everybody knows everybody, and nobody has anything more to say."""
        names = set(self.up)
        return all(
            port.deadline() is None
            and {each.name for each in port.stations.values()} == names - {name}
            for name, port in self.up.items()
        )

    def heard_by_all(self, sender: str, number: int) -> bool:
        """One frame, sent until the connections are there: who has it?"""
        self.up[sender].send([frame(number)])
        self.turn()
        return all(
            any(each.trace == number for each in self.got[name])
            for name in self.up
            if name != sender
        )


@pytest.fixture
def segment(tmp_path):
    context = zmq.Context()
    segment = Segment(tmp_path, context)
    yield segment
    for name in list(segment.up):
        segment.leave(name)
    context.destroy(0)


# --- wire: the mesh ---


@pytest.mark.parametrize("scheme", ["ipc", "inproc", "tcp"])
def test_two_stations_that_know_each_other_carry_frames(segment, scheme):
    a, b = {
        "ipc": (segment.endpoint("a"), segment.endpoint("b")),
        "inproc": ("inproc://a", "inproc://b"),
        "tcp": (f"tcp://127.0.0.1:{free_port()}", f"tcp://127.0.0.1:{free_port()}"),
    }[scheme]
    segment.start("a", b, at=a)
    segment.start("b", a, at=b)
    segment.until(segment.meshed)
    segment.up["a"].send([frame(1), frame(2, b"")])
    segment.until(lambda: len(segment.got["b"]) == 2)
    assert segment.got["b"] == [Frame(1, 3, 0, DATA), Frame(2, 3, 0, b"")]  # with b's ifindex
    assert segment.got["a"] == []


def test_settled_wire_has_nothing_to_do(segment):
    segment.start("a", "b")
    segment.start("b", "a")
    segment.until(segment.meshed)
    assert [port.deadline() for port in segment.up.values()] == [None, None]


def test_station_that_starts_late_is_met(segment):
    segment.start("a", "b")
    for _ in range(5):
        segment.turn()
    assert segment.up["a"].deadline() is not None
    segment.start("b")
    segment.until(segment.meshed)


def test_retries_back_off_to_two_seconds(segment):
    port = segment.start("a", "b")
    times = []
    for _ in range(14):
        times.append(port.deadline())
        port.expire(times[-1])
    waits = [later - earlier for earlier, later in pairwise(times)]
    assert waits == sorted(waits)
    assert waits[-1] == 2 * SECOND


def test_newcomer_needs_to_know_one_station_only(segment):
    segment.start("a", "b", "c")
    segment.start("b", "a", "c")
    segment.start("c", "a", "b")
    segment.until(segment.meshed)
    segment.start("new", "b")
    segment.until(segment.meshed)
    segment.up["new"].send([frame(5)])
    segment.until(lambda: all(segment.got[name] for name in "abc"))


def test_chain_of_introductions_becomes_a_mesh(segment):
    segment.start("d", "c")
    segment.start("c", "b")
    segment.start("b", "a")
    segment.start("a")
    segment.until(segment.meshed)


def test_stations_that_all_ask_one_who_asks_nobody(segment):
    segment.start("hub")
    for name in "abcde":
        segment.start(name, "hub")
    segment.until(segment.meshed)


def test_one_frame_reaches_each_station_once(segment):
    for name in "abcd":
        segment.start(name, *(set("abcd") - {name}))
    segment.until(segment.meshed)
    segment.up["a"].send([frame(9)])
    segment.until(lambda: all(segment.got[name] for name in "bcd"))
    segment.turn()
    assert [len(segment.got[name]) for name in "abcd"] == [0, 1, 1, 1]


def test_station_that_leaves_is_forgotten_when_nobody_configured_it(segment):
    segment.start("a")
    segment.start("b", "a")
    segment.until(segment.meshed)
    segment.leave("b")
    segment.until(lambda: segment.known() == {"a": []})
    segment.up["a"].send([frame()])
    assert not segment.up["a"].counters


def test_configured_station_that_left_is_asked_until_it_is_back(segment):
    segment.start("a", "b")
    segment.start("b")
    segment.until(segment.meshed)
    segment.leave("b")
    segment.until(lambda: segment.up["a"].deadline() is not None)
    segment.start("b")
    segment.until(segment.meshed)


def test_killed_station_comes_back_under_its_name(segment):
    for name in "abc":
        segment.start(name, *(set("abc") - {name}))
    segment.until(segment.meshed)
    segment.kill("b")
    segment.start("b", "a")  # it remembers less than it did: the others have to tell
    segment.until(segment.meshed)
    segment.until(lambda: segment.heard_by_all("a", 21))
    segment.until(lambda: segment.heard_by_all("b", 22))


def test_killed_station_comes_back_elsewhere(segment):
    segment.start("a")
    segment.start("b", "a")
    segment.until(segment.meshed)
    segment.kill("b")
    segment.start("b", "a", at=segment.endpoint("elsewhere"))
    segment.until(segment.meshed)
    (station,) = segment.up["a"].stations.values()
    assert station.endpoint == segment.endpoint("elsewhere")


def test_station_known_under_two_endpoints_gets_each_frame_once(segment):
    port = free_port()
    segment.start("b", at=f"tcp://127.0.0.1:{port}")
    segment.start("a", f"tcp://localhost:{port}")
    segment.until(segment.meshed)
    segment.up["a"].send([frame(1)])
    segment.until(lambda: segment.got["b"])
    segment.turn()
    assert len(segment.got["b"]) == 1


def test_frames_to_a_dead_station_are_dropped_and_counted(segment):
    segment.start("a", "b")
    segment.start("b", "a")
    segment.until(segment.meshed)
    segment.kill("b")

    def dropped() -> bool:
        segment.up["a"].send([frame()])
        segment.turn()
        return segment.up["a"].counters["drop_wire_station_away_or_full"] > 0

    segment.until(dropped)


def test_many_frames_at_once_arrive_in_order(segment):
    segment.start("a", "b")
    segment.start("b", "a")
    segment.until(segment.meshed)
    segment.up["a"].send([frame(number) for number in range(500)])
    segment.until(lambda: len(segment.got["b"]) == 500)
    assert [each.trace for each in segment.got["b"]] == list(range(500))


# --- wire: the protocol, as a station that is not plywire sees it ---


class Foreigner:
    """A station that is only an inbox and an outlet."""

    def __init__(self, segment: Segment, to: str) -> None:
        self.segment = segment
        self.endpoint = segment.endpoint("foreigner")
        self.inbox = Inbox(segment.context, self.endpoint, wire.Counter())
        self.outlet = Outlet(segment.context, segment.endpoint(to))
        self.got: list = []

    def say(self, *messages) -> None:
        self.segment.until(self.outlet.writable)
        assert self.outlet.send(messages)

    def hears(self, kind: type):
        """The next message of a kind."""
        found = []

        def arrived() -> bool:
            self.got += self.inbox.receive()
            found.extend(message for message in self.got if type(message) is kind)
            return bool(found)

        self.segment.until(arrived)
        self.got.remove(found[0])
        return found[0]

    def close(self) -> None:
        self.outlet.close()
        self.inbox.close()


@pytest.fixture
def foreigner(segment):
    segment.start("a")
    with closing(Foreigner(segment, "a")) as foreigner:
        yield foreigner


def test_join_is_answered_with_members_of_its_trace_the_senders_row_first(segment, foreigner):
    foreigner.say(Join(77, "x", foreigner.endpoint, 1))
    members = foreigner.hears(Members)
    assert members == Members(
        77, (("a", segment.endpoint("a")), ("x", foreigner.endpoint)),
    )  # fmt: skip
    foreigner.say(frame(5))
    segment.until(lambda: segment.got["a"] == [Frame(5, 3, 0, DATA)])
    segment.up["a"].send([frame(6)])
    assert foreigner.hears(Frame).trace == 6


def test_newcomer_is_asked_in_turn_until_it_answers(segment, foreigner):
    foreigner.say(Join(0, "x", foreigner.endpoint, 0))
    for _ in range(3):
        join = foreigner.hears(Join)
        assert join[1:] == ("a", segment.endpoint("a"), 1)
    assert segment.up["a"].deadline() is not None
    foreigner.say(Members(join.trace, (("x", foreigner.endpoint),)))
    segment.until(lambda: segment.up["a"].deadline() is None)


def test_newcomer_is_told_of(segment, foreigner):
    foreigner.say(Join(1, "x", foreigner.endpoint, 1))
    foreigner.hears(Members)
    foreigner.say(Members(0, (("x", foreigner.endpoint),)))
    segment.until(lambda: segment.up["a"].deadline() is None)
    foreigner.got.clear()
    segment.start("b", "a")
    assert foreigner.hears(Join)[1:] in (
        ("b", segment.endpoint("b"), 0),  # from a
        ("b", segment.endpoint("b"), 1),  # from b, who has it from a's answer
    )


def test_leave_of_a_stranger_and_empty_members_and_odd_messages_change_nothing(segment, foreigner):
    foreigner.say(Leave(0, "nobody"), Members(0, ()), Credit(0, 1, 0, 0), Hello(0, "ip", 1, 0))
    foreigner.say(frame())
    segment.until(lambda: segment.got["a"])
    counters = segment.up["a"].counters
    assert counters["drop_wire_no_members"] == 1
    assert counters["drop_wire_unexpected_message"] == 2
    assert segment.known() == {"a": []}


def test_garbage_on_the_inbox_is_counted(segment, foreigner):
    segment.until(foreigner.outlet.writable)
    for garbage in (b"", b"\xc1", b"\x91\x63", b"\x92\x01\x91\x63"):
        foreigner.outlet.socket.send(garbage)
    foreigner.say(frame())
    segment.until(lambda: segment.got["a"])
    counted = segment.up["a"].counters
    assert sum(n for name, n in counted.items() if name.startswith("drop_pipe_")) == 4


@pytest.mark.parametrize(
    "endpoint",
    ["", "nonsense", "tcp://host", "tcp://host:0", "tcp://host:99999", "tcp://*:5000", "ipc://",
     "pgm://eth0;239.1.1.1:5555", "ipc://" + "x" * 200, "tcp://a b:1"],
)  # fmt: skip
def test_endpoint_that_cannot_be_is_counted_and_not_joined(segment, foreigner, endpoint):
    foreigner.say(Join(0, "x", endpoint, 1), frame())
    segment.until(lambda: segment.got["a"])
    assert segment.up["a"].counters["drop_wire_bad_endpoint"] == 1
    assert segment.known() == {"a": []}


def test_own_name_or_endpoint_cannot_be_taken(segment, foreigner):
    own = segment.endpoint("a")
    foreigner.say(
        Join(0, "a", foreigner.endpoint, 1),
        Join(0, "x", own, 1),
        Members(0, (("a", own),)),
        frame(),
    )
    segment.until(lambda: segment.got["a"])
    assert segment.up["a"].counters["drop_wire_name_taken"] == 3
    assert segment.known() == {"a": []}


def test_hearsay_moves_no_station(segment, foreigner):
    segment.start("b", "a")
    segment.until(segment.meshed)
    stale = ("b", segment.endpoint("where-b-was"))
    foreigner.say(Join(0, "x", foreigner.endpoint, 0))
    foreigner.say(Members(0, (("x", foreigner.endpoint), stale)), frame())
    segment.until(lambda: segment.got["a"])
    assert segment.endpoint("b") in segment.up["a"].stations
    assert segment.endpoint("where-b-was") not in segment.up["a"].stations


def test_number_of_stations_is_bounded(segment, foreigner):
    rows = [(f"s{n}", segment.endpoint(f"s{n}")) for n in range(MAX_STATIONS + 10)]
    foreigner.say(Join(0, "x", foreigner.endpoint, 0))
    foreigner.say(Members(0, (("x", foreigner.endpoint), *rows)), frame())
    segment.until(lambda: segment.got["a"])
    assert len(segment.up["a"].stations) == MAX_STATIONS


def test_station_that_is_gone_makes_room(segment, foreigner, monkeypatch):
    monkeypatch.setattr(wire, "MAX_STATIONS", 2)
    foreigner.say(Join(0, "x", foreigner.endpoint, 0))
    foreigner.hears(Join)
    foreigner.say(Members(0, (("x", foreigner.endpoint), ("s", segment.endpoint("gone")))))
    segment.start("b", "a")
    segment.until(lambda: segment.known()["a"] == ["b", "x"])


# --- opening ---


def test_open_ports_opens_the_device_of_each_interface(tmp_path):
    context = zmq.Context()
    h1, h2 = host("h1", "10.0.0.1/24"), host("h2", "10.0.0.2/24")
    peers = {"h1": f"ipc://{tmp_path}/h1.eth0.wire", "h2": f"ipc://{tmp_path}/h2.eth0.wire"}
    (one,) = open_ports(h1, context, tmp_path, {"eth0": [peers["h2"]]})
    (two,) = open_ports(h2, context, str(tmp_path), {"eth0": [peers["h1"]]})
    assert (one.ifindex, one.name, one.endpoint) == (1, "h1.eth0", peers["h1"])
    with pytest.raises(Held):  # the place is taken as long as its holder lives
        open_ports(h1, context, tmp_path, {})
    one.close()
    two.close()
    (again,) = open_ports(h1, context, tmp_path, {})
    again.close()
    context.destroy(0)


def test_lab_file_accepts_the_devices_there_are():
    from plywire import config

    assert set(DEVICES) | {"tunnel"} == set(config._DEVICES)  # that one is services.link_tunnel's


@pytest.mark.parametrize(
    ("changes", "peers", "key"),
    [
        ({"listen": "nonsense"}, [], "listen"),
        ({"listen": "tcp://127.0.0.1"}, [], "listen"),
        ({"listen": "tcp://192.0.2.1:5000"}, [], "listen"),  # nobody's address here
        ({"name": "e" * 70}, [], "name"),
        ({}, ["tcp://h2"], "peers"),
    ],
)
def test_wire_that_cannot_be_is_refused_with_its_key(tmp_path, changes, peers, key):
    context = zmq.Context()
    base = host("h1", "10.0.0.1/24")
    (interface,) = base.interfaces
    changed = replace(base, interfaces=(replace(interface, **changes),))
    with pytest.raises(ConfigError) as refusal:
        open_ports(changed, context, tmp_path, {changed.interfaces[0].name: peers})
    assert refusal.value.where == f"hosts.h1.{changed.interfaces[0].name}.{key}"
    context.destroy(0)


def test_inbox_on_all_addresses_is_given_out_under_the_machines_name():
    name = os.uname().nodename
    assert wire._advertised("tcp://*:5000") == f"tcp://{name}:5000"
    assert wire._advertised("tcp://0.0.0.0:5000") == f"tcp://{name}:5000"
    assert wire._advertised("tcp://10.1.1.1:5000") == "tcp://10.1.1.1:5000"


# --- tap ---

TAP = f"pw{os.getpid() % 100_000}"


@pytest.fixture
def tap():
    if os.geteuid() != 0:
        pytest.skip("a TAP needs root")
    if not Path("/dev/net/tun").exists():
        pytest.skip("a TAP needs /dev/net/tun")
    with closing(TapPort(4, TAP)) as port:
        yield port


def ip(*words: str) -> None:
    subprocess.run(("ip", *words), check=True, capture_output=True, timeout=10)


def read_until(port: TapPort, wanted) -> list[Frame]:
    """Frames from the kernel until one of them is wanted."""
    got: list[Frame] = []
    end = time.monotonic() + DEADLINE
    while not any(map(wanted, got)):
        assert time.monotonic() < end, got
        select.select([port.pollable()], [], [], 0.1)
        got += port.receive()
    return got


def test_tap_carries_frames_both_ways(tap):
    ip("link", "set", TAP, "up")
    ip("addr", "add", "198.18.77.1/30", "dev", TAP)
    ask = bytes.fromhex(
        "ffffffffffff 020000000002 0806 0001080006040001020000000002 c6124d02 000000000000 c6124d01"
    ).ljust(60, b"\0")
    tap.send([Frame(1, 4, 0, ask)])
    got = read_until(tap, lambda each: each.frame[20:22] == b"\0\x02")  # the kernel's ARP reply
    (reply,) = [each for each in got if each.frame[20:22] == b"\0\x02"]
    assert reply.ifindex == 4
    assert reply.frame[:6] == ask[6:12]
    assert reply.frame[28:32] == bytes((198, 18, 77, 1))
    assert len({each.trace for each in got}) == len(got)  # an id for each
    assert tap.receive() == []


def test_tap_that_is_down_or_refuses_a_frame_counts_it(tap):
    tap.send([frame()])
    assert tap.counters["drop_tap_eio"] == 1
    ip("link", "set", TAP, "up")
    tap.send([frame(1, b"short")])
    assert tap.counters["drop_tap_einval"] == 1
    assert tap.deadline() is None


@pytest.mark.parametrize(
    ("name", "reason"),
    [(TAP, "in use"), ("lo", "not a TAP"), ("x" * 16, "15 char"), ("a/b", "name"), ("", "1 to")],
)  # fmt: skip
def test_tap_that_cannot_be_opened_says_why(tap, name, reason):
    with pytest.raises(ConfigError, match=reason):
        TapPort(4, name)


def test_tap_without_the_right_says_how_to_get_it(tap):
    """In a child that has given up root, since this process needs it."""
    code = (
        "import os\n"
        "from services.link.devices.tap import TapPort\n"
        "os.setgid(65534); os.setuid(65534)\n"
        "TapPort(1, 'pwnobody')"
    )
    root = Path(__file__).resolve().parents[2]
    result = subprocess.run(
        [os.sys.executable, "-c", code], capture_output=True, text=True, timeout=30, cwd=root
    )
    assert "ConfigError: tap: may not open pwnobody" in result.stderr


def free_port() -> int:
    import socket

    with closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
