"""Long transfers between plywire and the kernel, both ways, over a wire that loses and reorders.

The base case is 50 MB each way on a lab of its own. While it runs, so do the rows: the same with
the kernel lacking an option, or with another congestion control. A row is 4 MB each way. With
`make soak` (PLYWIRE_SOAK=1) it is 50 MB as well, and the delay is twice as long.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

import pytest

from tests.live.conftest import KERNEL, PLYWIRE, command_line, joined
from tests.live.judge import LOST, REPEATS, fields, judge
from tests.live.transfer import SOAK, Transfer, transfer

BASE_SIZE = 50_000_000
ROW_SIZE = BASE_SIZE if SOAK else 4_000_000
SLOWEST = 1e6
"""Bits a second. By the square root law a loss of 1 % allows 3.4 million at 41 ms."""
LONGEST_SILENCE = 3.0
"""Seconds between two segments of a stream: room for timeouts in a row, but not for a stall."""

MSS, SCALE, SACK, TIMESTAMPS = "2", "3", "4", "8"
TRUE = ("1", "True")  # of which tshark writes the one or the other
ALL = {MSS, SCALE, SACK, TIMESTAMPS}


@dataclass(frozen=True)
class Row:
    """A case: the kernel's sysctls, its congestion control, and which options are not agreed on."""

    sysctls: dict[str, int] = field(default_factory=dict)
    congestion: str = "reno"
    without: str = ""

    @property
    def words(self) -> dict[str, bool]:
        """What `ss -i` says of an option, or not."""
        return {
            "ts": self.without != TIMESTAMPS,
            "sack": self.without != SACK,
            "wscale": self.without != SCALE,
        }


BASE = Row(congestion="reno")
ROWS = {
    "timestamps off": Row({"tcp_timestamps": 0}, without=TIMESTAMPS),
    "sack off": Row({"tcp_sack": 0}, without=SACK),
    "window scaling off": Row({"tcp_window_scaling": 0}, without=SCALE),
}
_THERE = Path("/proc/sys/net/ipv4/tcp_available_congestion_control")
for _name in _THERE.read_text().split() if _THERE.exists() else ():
    if _name != BASE.congestion:
        ROWS[f"kernel {_name}"] = Row(congestion=_name)


@pytest.fixture(autouse=True)
def capture():
    """In place of the folder's own: each transfer has its capture."""


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """The base case under way, on a lab of its own: two flows at what a loss of 1 % allows leave
    the processors idle, so the rows are not in its way."""
    path = tmp_path_factory.mktemp("base") / "kernel.pcapng"
    with (
        joined("base") as setup,
        command_line(setup.lab) as plywire,
        transfer(setup, plywire, path, BASE_SIZE, BASE.congestion) as running,
    ):
        check_agreement(running, BASE)
        running.begin()
        yield running


@pytest.fixture(scope="module")
def setup():
    with joined("rows") as setup:
        yield setup


@pytest.fixture
def plywire(setup):
    with command_line(setup.lab) as run:
        yield run


@pytest.fixture
def sysctls(setup):
    """A function that sets some in the kernel's namespace, until the test is over."""
    before = {}

    def change(values: dict[str, int]) -> None:
        for name, value in values.items():
            key = f"net.ipv4.{name}"
            before.setdefault(key, setup.kernel("sysctl", "-n", key).stdout.strip())
            setup.kernel("sysctl", "-w", f"{key}={value}")

    yield change
    for key, value in before.items():
        setup.kernel("sysctl", "-w", f"{key}={value}")


@pytest.mark.parametrize("name", ROWS)
def test_without_or_with_an_option(base, setup, plywire, sysctls, tmp_path, capsys, name):
    row = ROWS[name]
    sysctls(row.sysctls)
    with transfer(setup, plywire, tmp_path / "kernel.pcapng", ROW_SIZE, row.congestion) as running:
        check_agreement(running, row)
        running.begin()
        running.finish()
        check(running, row, name, capsys)


def test_ecn_is_used_both_ways(base, tmp_path, capsys):
    """RFC 3168: a frame in a hundred is marked; each side reports it, and says when it answered."""
    path = tmp_path / "kernel.pcapng"
    with (
        joined("ecn", tcp='ecn = "on"') as setup,
        command_line(setup.lab) as plywire,
    ):
        setup.kernel("sysctl", "-w", "net.ipv4.tcp_ecn=1")
        marks = ("--ecn-mark", "1%")
        with transfer(setup, plywire, path, ROW_SIZE, BASE.congestion, marks) as running:
            check_agreement(running, BASE)
            for stream in running.streams:
                assert "ecn" in running.ss(stream)
            running.begin()
            running.finish()
            check(running, BASE, "ecn on", capsys)
            assert running.harm()["ecn_marked"]
    syns = fields(path, "tcp.flags.syn == 1", "tcp.flags.ack", "tcp.flags.ece", "tcp.flags.cwr")
    asked = [(ece in TRUE, cwr in TRUE) for ack, ece, cwr in syns if ack not in TRUE]
    granted = [(ece in TRUE, cwr in TRUE) for ack, ece, cwr in syns if ack in TRUE]
    assert set(asked) == {(True, True)}
    assert set(granted) == {(True, False)}
    for source in (PLYWIRE, KERNEL):
        here = f"ip.src == {source} && tcp.flags.syn == 0"
        assert fields(path, f"{here} && tcp.flags.ece == 1", "frame.number")
        assert fields(path, f"{here} && tcp.flags.cwr == 1", "frame.number")
        assert fields(path, f"{here} && tcp.len > 0 && ip.dsfield.ecn == 2", "frame.number")


def test_fifty_megabytes_each_way(base, capsys):
    base.finish()
    check(base, BASE, "50 MB, kernel reno", capsys)
    ours, theirs = base.streams
    assert ours.seconds < 2 * theirs.seconds, "on one wire, CUBIC's least is what Reno does"


def check_agreement(running: Transfer, row: Row) -> None:
    """plywire's `ss -i` names the options agreed on, the kernel's its congestion control."""
    for stream in running.streams:
        said = {word.partition(":")[0] for word in running.ss(stream)}
        assert {word: word in said for word in row.words} == row.words, stream
    assert row.congestion in running.kernel_ss(running.streams[1])


def check(running: Transfer, row: Row, name: str, capsys) -> None:
    """After the end: no stall, the SYNs, what tshark says, no more repeats than the wire's harm."""
    ours, theirs = running.streams
    harm = running.harm()
    with capsys.disabled():
        print(f"\n  {name}: {ours}, {theirs}; {ours.retransmits} of plywire's segments sent again, "
              f"{harm['lost']} of its frames lost, {harm['reordered']} reordered")  # fmt: skip
    path = running.capture.finish()
    judge(path, also_expected=REPEATS + LOST)
    packets = fields(path, "tcp.len > 0 || tcp.flags.syn == 1", "frame.time_relative", "ip.src",
                     "tcp.port", "tcp.flags.syn", "tcp.flags.ack", "tcp.option_kind")  # fmt: skip
    for stream in running.streams:
        seen = [packet for packet in packets if str(stream.ply_port) in packet[2].split("|")]
        check_syns([packet for packet in seen if packet[3] in TRUE], row)
        times = [float(packet[0]) for packet in seen if packet[3] not in TRUE]
        silence = max(later - earlier for earlier, later in pairwise(times))
        assert silence < LONGEST_SILENCE, stream
        assert stream.size * 8 / stream.seconds > SLOWEST
    assert harm["lost"]
    assert harm["reordered"]
    if row.without != SACK:  # NewReno takes reordering for loss, and then sends a window again
        assert ours.retransmits <= harm["lost"] + harm["reordered"]


def check_syns(packets: list[list[str]], row: Row) -> None:
    """plywire's own SYN offers all, its SYN+ACK what the kernel's SYN offered, and no more."""
    agreed = ALL - {row.without}
    for _, source, _, _, is_answer, kinds in packets:
        mine = source == PLYWIRE and is_answer not in TRUE
        assert set(kinds.split("|")) - {"1"} == (ALL if mine else agreed), packets
    assert len({packet[1] for packet in packets}) == 2
