"""Captures as files: blocks, the segments' encapsulation as tshark reads it, full disks."""

from __future__ import annotations

import io
import os
import shutil
import socket
import struct
import subprocess
import sys
from pathlib import Path

import pytest

from plywire.lab.capture.outputs import FileOutput, OutputError, ReaderGone, SocketOutput
from plywire.lab.capture.packets import Taken
from plywire.lab.capture.points import AT, Point
from plywire.lab.capture.recording import Recording
from plywire.pcapng import Writer, upper_pdu
from plywire.wire import icmp, tcp, udp
from tests.unit.capture_packets import A, B, frame, segment
from tests.unit.test_pcapng import blocks, options

TIME = 1_700_000_000_000_000_123
STATISTICS = 5


def points(*roles: str) -> list[Point]:
    return [Point(f"h1 {AT[role].boundary}", "h1", AT[role].boundary, 0, *AT[role][1:])
            for role in roles]  # fmt: skip


def tshark(path, *fields: str) -> list[list[str]]:
    command = ["tshark", "-r", str(path), "-T", "fields"]
    for check in ("tcp", "udp", "ip"):
        command += ["-o", f"{check}.check_checksum:TRUE"]
    for field in fields:
        command += ["-e", field]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    return [line.split("\t") for line in done.stdout.splitlines()]


def test_an_interface_for_each_point():
    file = io.BytesIO()
    Recording(file, points("link", "ip", "tcp"))
    interfaces = blocks(file.getvalue())[1:]
    assert [(kind, struct.unpack_from("<H", body)[0]) for kind, body in interfaces] == [
        (1, 1), (1, 101), (1, 252)
    ]  # fmt: skip
    assert [options(body[8:])[2].decode() for _, body in interfaces] == [
        "h1 link/wire", "h1 ip/link", "h1 tcp/ip"
    ]  # fmt: skip


def test_statistics_tell_of_what_was_dropped_once():
    file = io.BytesIO()
    Recording(file, points("link", "ip")).finish(TIME, [10, 20], [4, 5], 7)
    found = [body for kind, body in blocks(file.getvalue()) if kind == STATISTICS]
    assert [struct.unpack_from("<III", body) for body in found] == [
        (number, TIME >> 32, TIME & 0xFFFFFFFF) for number in (0, 1)
    ]
    first, second = (options(body[12:]) for body in found)
    assert b"dropped" in first.pop(1)
    numbers = [{code: int.from_bytes(value, "little") for code, value in item.items()}
               for item in (first, second)]  # fmt: skip
    assert numbers == [{4: 10, 5: 7, 6: 4, 8: 4}, {4: 20, 5: 0, 6: 5, 8: 5}]


def test_statistics_of_an_unknown_interface_are_refused():
    writer = Writer(io.BytesIO())
    with pytest.raises(ValueError, match="no interface 0"):
        writer.statistics(0, TIME, received=1, accepted=1, delivered=1, dropped=0)


def test_upper_pdu_tags_are_padded_to_32_bits():
    tags = upper_pdu("tcp", A, B)
    assert tags == b"\0\x0c\0\4tcp\0" + b"\0\x14\0\4" + A + b"\0\x15\0\4" + B + b"\0\0\0\0"
    assert len(upper_pdu("icmp", A, B)) == len(tags)


@pytest.mark.skipif(shutil.which("tshark") is None, reason="tshark is not installed")
def test_tshark_reads_each_kind_of_point(tmp_path):
    packet = segment(tcp.SYN, 1000, 0, options=tcp.build_options(tcp.Options(1460, 7, True)))
    path = tmp_path / "kinds.pcapng"
    with path.open("wb") as file:
        recording = Recording(file, points("link", "ip", "tcp"))
        recording.packet(Taken(0, TIME, 7, "out", frame(packet)))
        recording.packet(Taken(1, TIME + 1, 7, "out", packet))
        recording.packet(Taken(2, TIME + 2, 7, "in", packet[20:], A, B, 6))
        recording.finish(TIME, [1, 1, 1], [1, 1, 1], 0)
    found = tshark(path, "frame.interface_name", "frame.comment", "frame.time_epoch",
                   "frame.packet_flags_direction", "ip.src", "ip.dst", "tcp.srcport", "tcp.dstport",
                   "tcp.flags.str", "tcp.options.mss_val", "tcp.checksum.status",
                   "_ws.malformed")  # fmt: skip
    assert [(row[0], row[2][-3:], int(row[3], 16)) for row in found] == [
        ("h1 link/wire", "123", 2), ("h1 ip/link", "124", 2), ("h1 tcp/ip", "125", 1)
    ]  # fmt: skip
    for row in found:
        assert row[1] == "trace 7"
        assert row[4:8] == ["10.0.0.1", "10.0.0.2", "40000", "80"]
        assert row[8].strip("\u00b7") == "S"
        assert row[9:] == ["1460", "1", ""]


@pytest.mark.skipif(shutil.which("tshark") is None, reason="tshark is not installed")
def test_tshark_checks_the_checksum_of_a_segment_against_its_addresses(tmp_path):
    path = tmp_path / "addresses.pcapng"
    with path.open("wb") as file:
        recording = Recording(file, points("tcp"))
        payload = segment(tcp.SYN, 1000, 0)[20:]
        recording.packet(Taken(0, TIME, 7, "out", payload, A, B, 6))
        recording.packet(Taken(0, TIME, 7, "out", payload, A, b"\x0a\0\0\3", 6))
    assert tshark(path, "tcp.checksum.status") == [["1"], ["0"]]


@pytest.mark.skipif(shutil.which("tshark") is None, reason="tshark is not installed")
def test_other_protocols_than_tcp_are_read_too(tmp_path):
    path = tmp_path / "protocols.pcapng"
    echo = icmp.encode(icmp.IcmpMessage(icmp.ECHO_REQUEST, 0, 1, b"y" * 8))
    with path.open("wb") as file:
        recording = Recording(file, points("tcp"))
        recording.packet(Taken(0, TIME, 1, "out", udp.encode((5, 7), b"hi", A, B), A, B, 17))
        recording.packet(Taken(0, TIME, 1, "out", echo, A, B, 1))
        recording.packet(Taken(0, TIME, 1, "out", b"hello", A, B, 99))
    found = tshark(path, "frame.protocols", "_ws.malformed")
    assert [row[0].split(":")[1] for row in found] == ["udp", "icmp", "data"]
    assert {row[1] for row in found} == {""}


# --- outputs --------------------------------------------------------------------------------------


def test_what_was_written_can_be_read_at_once(tmp_path):
    output = FileOutput(tmp_path / "f")
    output.write(b"abc")
    assert (tmp_path / "f").read_bytes() == b"abc"
    output.close()


@pytest.mark.parametrize(
    ("path", "words"),
    [("no/such/f", "No such file"), (".", "Is a directory")],
)
def test_a_file_that_cannot_be_opened(tmp_path, path, words):
    with pytest.raises(OutputError) as caught:
        FileOutput(tmp_path / path)
    assert words in str(caught.value)
    assert "another file" in str(caught.value)


def test_a_new_file_that_is_discarded_is_gone_and_an_old_one_stays(tmp_path):
    FileOutput(tmp_path / "new").discard()
    (tmp_path / "old").touch()
    FileOutput(tmp_path / "old").discard()
    assert [path.name for path in tmp_path.iterdir()] == ["old"]


_FILL = """
import resource, sys
from pathlib import Path
from plywire.lab.capture.outputs import FileOutput, OutputError
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
output = FileOutput(Path(sys.argv[1]))
try:
    while True:
        output.write(b"x" * 300)
except OutputError as error:
    print(error)
"""


def test_a_file_that_gets_no_more_room_ends_with_a_whole_block(tmp_path):
    path = tmp_path / "f"
    done = subprocess.run([sys.executable, "-c", _FILL, path], capture_output=True, text=True)
    assert path.read_bytes() == b"x" * 900
    assert "cannot be written (File too large): make room" in done.stdout
    assert "(900 bytes) can be read" in done.stdout


def test_a_full_device():
    output = FileOutput(Path("/dev/full"))
    with pytest.raises(OutputError) as caught:
        output.write(b"x")
    output.discard()
    assert "No space left on device" in str(caught.value)
    assert os.path.exists("/dev/full")


def test_readers_that_have_gone(tmp_path):
    ours, theirs = socket.socketpair()
    theirs.close()
    with pytest.raises(ReaderGone):
        SocketOutput(ours).write(b"x" * 10)
    ours.close()
    os.mkfifo(tmp_path / "fifo")
    reader = os.open(tmp_path / "fifo", os.O_RDONLY | os.O_NONBLOCK)
    output = FileOutput(tmp_path / "fifo")
    os.close(reader)
    with pytest.raises(ReaderGone):
        output.write(b"x")
    output.close()
