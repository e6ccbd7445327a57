"""IPv4 headers (RFC 791)."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from wire_strategies import ADDRESS, PAYLOAD, U8, U16, flipped, refused, survived

from plywire.wire import ipv4
from plywire.wire.checksum import checksum
from plywire.wire.ipv4 import Ipv4Header

HEADERS = st.builds(
    Ipv4Header, ADDRESS, ADDRESS, U8, U8, U16, st.booleans(), st.booleans(),
    st.integers(0, 0x1FFF).map(lambda units: units * 8), U8,
    st.integers(0, 10).flatmap(lambda words: st.binary(min_size=4 * words, max_size=4 * words)),
)  # fmt: skip
HEADER = Ipv4Header(b"\x0a\0\0\1", b"\x0a\0\0\2", 6)


def with_checksum(packet: bytes) -> bytes:
    """The packet after somebody who knows how to sum has changed it."""
    head = packet[:10] + b"\0\0" + packet[12 : max(20, (packet[0] & 15) * 4)]
    return packet[:10] + checksum(head).to_bytes(2, "big") + packet[12:]


@given(HEADERS, PAYLOAD, st.binary(max_size=30))
def test_round_trip_and_padding(header, payload, padding):
    packet = ipv4.encode(header, payload)
    assert ipv4.decode(memoryview(packet + padding)) == (header, payload)


def test_layout_of_the_rfc():
    """The example that is quoted everywhere for its checksum, B861."""
    header = Ipv4Header(b"\xc0\xa8\0\1", b"\xc0\xa8\0\xc7", 17, dont_fragment=True, ttl=64, ident=0)
    assert ipv4.encode(header, bytes(95))[:20].hex() == "45000073000040004011b861c0a80001c0a800c7"


@given(HEADERS, PAYLOAD)
def test_every_truncation_is_refused(header, payload):
    packet = ipv4.encode(header, payload)
    for length in range(len(packet)):
        refused(ipv4.decode, packet[:length], "ipv4_truncated")


@given(HEADERS)
def test_any_bit_of_the_header_counts(header):
    packet = ipv4.encode(header, b"x" * 70)
    for _, data in flipped(packet, range((20 + len(header.options)) * 8)):
        refused(ipv4.decode, data)


@pytest.mark.parametrize(
    ("place", "value", "reason"),
    [
        (0, 0x65, "ipv4_bad_version"),
        (0, 0x05, "ipv4_bad_version"),
        (0, 0x44, "ipv4_bad_header_length"),
        (0, 0x40, "ipv4_bad_header_length"),
        (0, 0x4F, "ipv4_bad_header_length"),
        (3, 19, "ipv4_bad_header_length"),
        (2, 1, "ipv4_truncated"),
        (11, 0, "ipv4_bad_checksum"),
    ],
)
def test_what_is_wrong_is_named(place, value, reason):
    packet = bytearray(ipv4.encode(HEADER, b"x" * 20))
    packet[place] = value
    refused(ipv4.decode, bytes(packet), reason)


@given(st.binary(min_size=20, max_size=90))
def test_any_bytes_are_survived_with_a_good_checksum_too(data):
    survived(ipv4.decode, data)
    survived(ipv4.decode, with_checksum(bytes((0x40 | data[0] & 15,)) + data[1:]))
