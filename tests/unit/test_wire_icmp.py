"""ICMP messages (RFC 792)."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from wire_strategies import PAYLOAD, U8, U32, flipped, refused, survived

from plywire.wire import icmp
from plywire.wire.icmp import IcmpMessage

MESSAGES = st.builds(IcmpMessage, U8, U8, U32, PAYLOAD)


@given(MESSAGES)
def test_round_trip(message):
    assert icmp.decode(memoryview(icmp.encode(message))) == message


def test_layout_of_an_echo_request():
    data = icmp.encode(IcmpMessage(icmp.ECHO_REQUEST, 0, 0x1234_0001, b"ab"))
    assert data[:2].hex() + data[4:].hex() == "0800" + "12340001" + "6162"


@given(MESSAGES)
def test_every_truncation_of_the_header_is_refused(message):
    for length in range(8):
        refused(icmp.decode, icmp.encode(message)[:length], "icmp_truncated")


@given(MESSAGES)
def test_any_bit_counts(message):
    data = icmp.encode(message)
    for _, changed in flipped(data, range(len(data) * 8)):
        refused(icmp.decode, changed, "icmp_bad_checksum")


@given(st.binary(max_size=60))
def test_any_bytes_are_survived(data):
    survived(icmp.decode, data)
