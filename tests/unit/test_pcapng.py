"""The pcapng writer: block structure, and tshark as the reader who has to agree."""

from __future__ import annotations

import io
import shutil
import struct
import subprocess

import pytest

from plywire.pcapng import LINKTYPE_ETHERNET, LINKTYPE_RAW, Writer
from plywire.wire import ethernet, ipv4, tcp

A, B = b"\x0a\0\0\1", b"\x0a\0\0\2"


def blocks(data: bytes) -> list[tuple[int, bytes]]:
    """(type, body) of each block; both lengths of each are checked."""
    found = []
    while data:
        kind, length = struct.unpack_from("<II", data)
        assert length % 4 == 0
        assert struct.unpack_from("<I", data, length - 4) == (length,)
        found.append((kind, data[8 : length - 4]))
        data = data[length:]
    return found


def options(data: bytes) -> dict[int, bytes]:
    found = {}
    while data:
        code, length = struct.unpack_from("<HH", data)
        if code == 0:
            assert data == b"\0\0\0\0"
            break
        found[code] = data[4 : 4 + length]
        data = data[4 + length + (-length & 3) :]
    return found


def syn() -> bytes:
    header = tcp.TcpHeader(40_000, 80, 1000, 0, tcp.SYN, 64_240)
    segment = tcp.encode(header, b"", A, B)
    return ipv4.encode(ipv4.Ipv4Header(A, B, ipv4.PROTOCOL_TCP), segment)


def test_section_header_has_byte_order_version_and_options():
    file = io.BytesIO()
    Writer(file, hardware="paper", os="none")
    ((kind, body),) = blocks(file.getvalue())
    assert kind == 0x0A0D0D0A
    assert struct.unpack_from("<IHHq", body) == (0x1A2B3C4D, 1, 0, -1)
    assert options(body[16:]) == {2: b"paper", 3: b"none", 4: b"plywire"}


def test_interface_says_nanoseconds():
    file = io.BytesIO()
    writer = Writer(file)
    assert writer.interface("lan", LINKTYPE_ETHERNET, "the wire") == 0
    assert writer.interface("h1 ip/link", LINKTYPE_RAW) == 1
    (_, first), (_, second) = blocks(file.getvalue())[1:]
    assert struct.unpack_from("<HHI", first) == (1, 0, 0)
    assert options(first[8:]) == {2: b"lan", 3: b"the wire", 9: b"\x09"}
    assert struct.unpack_from("<HHI", second) == (101, 0, 0)
    assert options(second[8:]) == {2: b"h1 ip/link", 9: b"\x09"}


def test_packet_has_time_data_padding_comment_and_direction():
    file = io.BytesIO()
    writer = Writer(file)
    lan = writer.interface("lan", LINKTYPE_ETHERNET)
    time = 1_800_000_000_123_456_789
    writer.packet(lan, time, b"abcde", comment="trace 7", direction="out")
    kind, body = blocks(file.getvalue())[-1]
    assert kind == 6
    number, high, low, captured, original = struct.unpack_from("<IIIII", body)
    assert (number, high << 32 | low, captured, original) == (0, time, 5, 5)
    assert body[20:28] == b"abcde\0\0\0"
    assert options(body[28:]) == {1: b"trace 7", 2: struct.pack("<I", 2)}


def test_packet_without_options_ends_with_its_data():
    file = io.BytesIO()
    writer = Writer(file)
    writer.packet(writer.interface("lan", LINKTYPE_ETHERNET), 0, b"abcd")
    assert blocks(file.getvalue())[-1][1][20:] == b"abcd"


def test_misuse_is_refused():
    writer = Writer(io.BytesIO())
    with pytest.raises(ValueError, match="no interface 0"):
        writer.packet(0, 0, b"")
    lan = writer.interface("lan", LINKTYPE_ETHERNET)
    with pytest.raises(ValueError, match="sideways"):
        writer.packet(lan, 0, b"", direction="sideways")


@pytest.mark.skipif(shutil.which("tshark") is None, reason="tshark is not installed")
def test_tshark_reads_it_back(tmp_path):
    path = tmp_path / "one.pcapng"
    frame = ethernet.encode(
        ethernet.EthernetHeader(b"\2\0" + B, b"\2\0" + A, ethernet.TYPE_IPV4), syn()
    )
    with path.open("wb") as file:
        writer = Writer(file, os="plywire")
        lan = writer.interface("lan", LINKTYPE_ETHERNET)
        raw = writer.interface("h1 ip/link", LINKTYPE_RAW)
        writer.packet(lan, 1_700_000_000_000_000_001, frame, comment="trace 7", direction="out")
        writer.packet(raw, 1_700_000_000_000_000_002, syn(), direction="in")
    fields = ("frame.time_epoch", "frame.interface_name", "frame.comment", "tcp.dstport",
              "tcp.checksum.status", "_ws.malformed")  # fmt: skip
    command = ["tshark", "-r", str(path), "-o", "tcp.check_checksum:TRUE", "-T", "fields"]
    for field in fields:
        command += ["-e", field]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    first, second = [line.split("\t") for line in done.stdout.splitlines()]
    assert first[0].endswith("000000001")
    assert second[0].endswith("000000002")
    assert first[1:] == ["lan", "trace 7", "80", "1", ""]
    assert second[1:] == ["h1 ip/link", "", "80", "1", ""]
