"""UDP headers (RFC 768)."""

from __future__ import annotations

from functools import partial

from hypothesis import given
from hypothesis import strategies as st
from wire_strategies import ADDRESS, PAYLOAD, U16, flipped, refused, survived

from plywire.wire import udp
from plywire.wire.checksum import checksum, pseudo_header
from plywire.wire.udp import UdpHeader

SRC, DST = b"\x0a\0\0\1", b"\x0a\0\0\2"
HEADERS = st.builds(UdpHeader, U16, U16)
decode = partial(udp.decode, src=SRC, dst=DST)


@given(HEADERS, PAYLOAD, ADDRESS, ADDRESS, st.binary(max_size=9))
def test_round_trip_and_padding(header, payload, src, dst, padding):
    datagram = udp.encode(header, payload, src, dst)
    assert udp.decode(memoryview(datagram + padding), src, dst) == (header, payload)


@given(HEADERS, PAYLOAD)
def test_every_truncation_is_refused(header, payload):
    datagram = udp.encode(header, payload, SRC, DST)
    for length in range(len(datagram)):
        refused(decode, datagram[:length], "udp_truncated" if length < 8 else "udp_bad_length")


@given(HEADERS, PAYLOAD)
def test_any_bit_counts_except_where_it_makes_a_shorter_datagram(header, payload):
    datagram = udp.encode(header, payload, SRC, DST)
    for bit, data in flipped(datagram, range(len(datagram) * 8)):
        if 32 <= bit < 48:  # the length: what it cuts off may happen to sum up
            survived(decode, data)
        elif data[6:8] == b"\0\0":  # the flip said that there is no checksum
            assert decode(data)[1] == payload
        else:
            refused(decode, data, "udp_bad_checksum")


@given(HEADERS, PAYLOAD)
def test_datagram_without_checksum_is_taken(header, payload):
    datagram = udp.encode(header, payload, SRC, DST)
    assert decode(datagram[:6] + b"\0\0" + datagram[8:]) == (header, payload)


def test_checksum_of_zero_is_sent_as_all_ones():
    """A payload that brings the sum to zero, because 0 would mean that there is none."""
    head = UdpHeader(1, 2)
    rest = checksum(b"\0\1\0\2\0\x0a\0\0\0\0", pseudo_header(SRC, DST, 17, 10))
    datagram = udp.encode(head, rest.to_bytes(2, "big"), SRC, DST)
    assert datagram[6:8] == b"\xff\xff"
    assert decode(datagram)[0] == head


@given(st.binary(max_size=60))
def test_any_bytes_are_survived(data):
    survived(decode, data)
