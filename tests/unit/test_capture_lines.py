"""The lines of `plywire capture`: tcpdump's own, which is asked too where it is installed."""

from __future__ import annotations

import datetime
import random
import shutil
import subprocess

import pytest

from plywire.lab.capture import lines as module
from plywire.lab.capture.lines import Lines
from plywire.lab.capture.packets import IP, Packet, Taken, read
from plywire.lab.capture.points import AT, Point
from plywire.pcapng import (
    LINKTYPE_ETHERNET,
    LINKTYPE_RAW,
    LINKTYPE_WIRESHARK_UPPER_PDU,
    Writer,
)
from plywire.wire import tcp
from tests.unit.capture_packets import FRAMES, NOT_AS_TCPDUMP, A, B, segment

TIME = 1_700_000_000_000_000_000


def point(name: str = "h1 link/wire") -> Point:
    return Point(name, "h1", "link/wire", 1, *AT["link"][1:])


def printed(frames: list[bytes], linktype: int = LINKTYPE_ETHERNET) -> list[str]:
    """The lines without their times, all of one point."""
    lines = Lines([point()])
    return [
        lines.line(0, TIME, "out", read(linktype, Taken(0, TIME, 1, "out", data))).partition(" ")[2]
        for data in frames
    ]


def test_lines_are_those_of_tcpdump():
    frames, expected = zip(*FRAMES, strict=True)
    assert printed(list(frames)) == list(expected)


def tcpdump_is_4_99() -> bool:
    if shutil.which("tcpdump") is None:
        return False
    done = subprocess.run(["tcpdump", "--version"], capture_output=True, text=True, timeout=60)
    return "4.99" in done.stdout + done.stderr


@pytest.mark.skipif(not tcpdump_is_4_99(), reason="tcpdump 4.99 is not installed")
def test_tcpdump_itself_prints_them_so(tmp_path):
    path = tmp_path / "frames.pcapng"
    with path.open("wb") as file:
        writer = Writer(file)
        writer.interface("h1 link/wire", LINKTYPE_ETHERNET)
        for data, _ in FRAMES:
            writer.packet(0, TIME, data)
    command = ["tcpdump", "-n", "-t", "-r", str(path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    lines = [line for line in done.stdout.splitlines() if not line.startswith("\t")]
    assert [line.removesuffix(": HTTP") for line in lines] == [line for _, line in FRAMES]


@pytest.mark.parametrize(("data", "line"), NOT_AS_TCPDUMP, ids=lambda value: str(value)[-30:])
def test_what_is_broken_or_unknown_has_a_line_too(data, line):
    assert printed([data]) == [line]


def test_a_line_begins_with_the_time_of_day_in_microseconds():
    taken = Taken(0, TIME + 1_234_567, 1, "in", FRAMES[0][0])
    line = Lines([point()]).line(0, taken.time, "in", read(LINKTYPE_ETHERNET, taken))
    clock = datetime.datetime.fromtimestamp(TIME // 10**9).strftime("%H:%M:%S")
    assert line == f"{clock}.001234 {FRAMES[0][1]}"


def test_several_points_are_named_with_the_direction():
    lines = Lines([point("h1 link/wire"), point("h1 tcp/ip")])
    packet = read(LINKTYPE_ETHERNET, Taken(0, TIME, 1, "out", FRAMES[0][0]))
    assert [lines.line(0, TIME, "out", packet)[16:], lines.line(1, TIME, "in", packet)[16:]] == [
        f"h1 link/wire Out {FRAMES[0][1]}",
        f"h1 tcp/ip    In  {FRAMES[0][1]}",
    ]


def test_bare_packets_and_segments_have_the_lines_of_their_frames():
    packet = segment(tcp.SYN, 1000, 0)
    (line,) = printed([packet], LINKTYPE_RAW)
    taken = Taken(0, TIME, 1, "out", packet[20:], A, B, 6)
    other = Lines([point()]).line(0, TIME, "out", read(LINKTYPE_WIRESHARK_UPPER_PDU, taken))
    assert line == other[16:] == (
        "IP 10.0.0.1.40000 > 10.0.0.2.80: Flags [S], seq 1000, win 64240, length 0"
    )  # fmt: skip


def test_each_point_has_relative_numbers_of_its_own():
    """What is seen for the second time at another point is no second connection."""
    lines = Lines([point("a"), point("b")])
    packet = read(LINKTYPE_RAW, Taken(0, TIME, 1, "out", segment(tcp.ACK, 5, 7, b"x")))
    first, second = (lines.line(number, TIME, "out", packet) for number in (0, 1))
    assert "seq 5:6, ack 7," in first
    assert "seq 5:6, ack 7," in second
    assert "seq 0:1, ack 1," in lines.line(0, TIME, "out", packet)


def test_the_oldest_connections_are_forgotten(monkeypatch):
    monkeypatch.setattr(module, "MAX_CONVERSATIONS", 2)
    lines = Lines([point()])
    packet = read(LINKTYPE_RAW, Taken(0, TIME, 1, "out", segment(tcp.ACK, 5, 7)))
    for port in range(1, 10):
        lines.line(0, TIME, "out", packet._replace(src_port=port))
    assert len(lines._first) == 2
    assert "ack 1," in lines.line(0, TIME, "out", packet._replace(src_port=9))
    assert "ack 7," in lines.line(0, TIME, "out", packet._replace(src_port=1))


def test_no_bytes_are_too_strange_for_a_line():
    rng = random.Random(7)
    lines = Lines([point()])
    seeds = [data for data, _ in FRAMES + NOT_AS_TCPDUMP]
    for _ in range(3000):
        data = bytearray(rng.choice(seeds)[: rng.randrange(1, 120)])
        for _ in range(rng.randrange(4)):
            data[rng.randrange(len(data))] = rng.randrange(256)
        linktype = rng.choice([LINKTYPE_ETHERNET, LINKTYPE_RAW, LINKTYPE_WIRESHARK_UPPER_PDU])
        taken = Taken(0, TIME, 1, "in", bytes(data), A, B, rng.choice([1, 6, 17, 99]))
        packet = read(linktype, taken)
        assert isinstance(packet, Packet)
        assert lines.line(0, TIME, "in", packet).isprintable()
        assert packet.kind != IP or len(packet.src) == len(packet.dst) == 4
