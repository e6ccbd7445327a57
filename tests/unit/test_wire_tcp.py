"""TCP headers and options (RFC 9293 3.1 and 3.2, RFC 7323, RFC 2018)."""

from __future__ import annotations

from functools import partial

import pytest
from hypothesis import given
from hypothesis import strategies as st
from wire_strategies import ADDRESS, PAYLOAD, U8, U16, U32, flipped, refused, survived

from plywire.wire import tcp
from plywire.wire.checksum import checksum, pseudo_header
from plywire.wire.tcp import NO_OPTIONS, Options, TcpHeader

SRC, DST = b"\x0a\0\0\1", b"\x0a\0\0\2"
HEADERS = st.builds(
    TcpHeader, U16, U16, U32, U32, U8, U16, U16,
    st.integers(0, 10).flatmap(lambda words: st.binary(min_size=4 * words, max_size=4 * words)),
    st.just(0),
)  # fmt: skip
OPTIONS = st.builds(
    Options,
    st.none() | U16,
    st.none() | st.integers(0, 14),
    st.booleans(),
    st.lists(st.tuples(U32, U32), max_size=2).map(tuple),
    st.none() | st.tuples(U32, U32),
    st.none()
    | st.integers(0, 0x7FFF)
    | st.integers(0x7FFF // 60 + 1, 0x7FFF).map(lambda m: 60 * m),
).filter(lambda options: len(tcp.build_options(options)) <= tcp.MAX_OPTIONS)
decode = partial(tcp.decode, src=SRC, dst=DST)


@given(HEADERS, PAYLOAD, ADDRESS, ADDRESS)
def test_round_trip(header, payload, src, dst):
    segment = tcp.encode(header, payload, src, dst)
    found, data = tcp.decode(memoryview(segment), src, dst)
    assert (found._replace(checksum=0), data) == (header, payload)
    assert checksum(segment, pseudo_header(src, dst, 6, len(segment))) == 0


def test_options_are_padded_to_words():
    found, data = decode(
        tcp.encode(TcpHeader(1, 2, 3, 4, 16, 5, 0, b"\x03\x03\x07"), b"d", SRC, DST)
    )
    assert (found.options, data) == (b"\x03\x03\x07\0", b"d")


def test_layout_of_the_rfc():
    header = TcpHeader(0x1122, 0x3344, 0x55667788, 0x99AABBCC, tcp.SYN | tcp.ACK, 0xDDEE, 0x0102)
    segment = tcp.encode(header, b"", SRC, DST)
    assert segment[:16].hex() == "112233445566778899aabbcc5012ddee"
    assert segment[18:].hex() == "0102"
    assert sum(width for _, width in tcp.BIT_WIDTHS) == 160


@given(HEADERS)
def test_every_truncation_of_the_header_is_refused(header):
    segment = tcp.encode(header, b"", SRC, DST)
    for length in range(len(segment)):
        refused(decode, segment[:length])
        refused(
            tcp.decode_unchecked,
            segment[:length],
            "tcp_truncated" if length < 20 else "tcp_bad_data_offset",
        )


@given(HEADERS, PAYLOAD)
def test_any_bit_counts(header, payload):
    segment = tcp.encode(header, payload, SRC, DST)
    for _, data in flipped(segment, range(len(segment) * 8)):
        refused(decode, data, "tcp_bad_checksum")


def test_addresses_count():
    """Not their order: a sum does not see it, as RFC 1071 says."""
    segment = tcp.encode(TcpHeader(1, 2, 3, 4, 16, 5), b"data", SRC, DST)
    refused(partial(tcp.decode, src=SRC, dst=b"\x0a\0\0\3"), segment, "tcp_bad_checksum")


@pytest.mark.parametrize("words", [0, 1, 4, 7, 15])
def test_data_offset_that_cannot_be_is_refused(words):
    segment = bytearray(tcp.encode(TcpHeader(1, 2, 3, 4, 16, 5), b"data", SRC, DST))
    segment[12] = words << 4
    refused(tcp.decode_unchecked, bytes(segment), "tcp_bad_data_offset")


@given(st.binary(max_size=80))
def test_any_bytes_are_survived(data):
    survived(decode, data)
    survived(tcp.decode_unchecked, data)
    survived(tcp.parse_options, data[:40])


# --- options --------------------------------------------------------------------------------------


@given(OPTIONS)
def test_options_round_trip(options):
    data = tcp.build_options(options)
    assert len(data) % 4 == 0
    assert tcp.parse_options(data) == options


def test_options_of_a_syn_as_linux_orders_them():
    options = Options(1460, 7, True, (), (1, 0))
    assert tcp.build_options(options).hex() == (
        "020405b4" + "0402" + "080a0000000100000000" + "01" + "030307"
    )


def test_no_options():
    assert tcp.parse_options(b"") is NO_OPTIONS
    assert tcp.parse_options(b"\1\1\1\0") == NO_OPTIONS
    assert tcp.build_options(NO_OPTIONS) == b""


@given(st.binary(max_size=6), st.sampled_from([6, 7, 9, 30, 69, 253, 255]))
def test_unknown_options_are_skipped_by_their_length(body, kind):
    """MUST-6."""
    data = bytes((kind, len(body) + 2)) + body + b"\x02\x04\x05\xb4"
    assert tcp.parse_options(data) == Options(mss=1460)


def test_nothing_behind_the_end_is_read():
    assert tcp.parse_options(b"\0\x02\x04\x05\xb4\x02\x00") == NO_OPTIONS


@pytest.mark.parametrize(
    "data",
    [
        b"\x02",
        b"\x02\0",
        b"\x02\1",
        b"\x02\3\5",
        b"\x02\4\5",
        b"\x02\5\1\2\3",
        b"\x03\4\1\2",
        b"\x04\3\0",
        b"\x05\2",
        b"\x05\x09" + bytes(7),
        b"\x08\x09" + bytes(7),
        b"\xfd\x28",
        b"\1\1\1\xfd",
    ],
)
def test_lengths_that_cannot_be_are_refused(data):
    """MUST-7."""
    refused(tcp.parse_options, data, "tcp_bad_option_length")


@pytest.mark.parametrize(("shift", "found"), [(0, 0), (14, 14), (15, 14), (255, 14)])
def test_window_scale_is_at_most_14(shift, found):
    """RFC 7323 2.3."""
    assert tcp.parse_options(b"\x03\x03" + bytes((shift,))).window_scale == found


def test_flags_have_names():
    assert tcp.flag_names(0) == "-"
    assert tcp.flag_names(tcp.SYN | tcp.ACK) == "SYN|ACK"
    assert tcp.flag_names(0xFF) == "FIN|SYN|RST|PSH|ACK|URG|ECE|CWR"
