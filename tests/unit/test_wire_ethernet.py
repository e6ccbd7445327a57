"""Ethernet II frames (RFC 894)."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from wire_strategies import MAC, refused, survived

from plywire.wire import ethernet
from plywire.wire.ethernet import EthernetHeader

HEADERS = st.builds(EthernetHeader, MAC, MAC, st.integers(0x0600, 0xFFFF))


@given(HEADERS, st.binary(max_size=1500))
def test_round_trip(header, payload):
    frame = ethernet.encode(header, payload)
    assert len(frame) == max(60, 14 + len(payload))
    found, rest = ethernet.decode(memoryview(frame))
    assert found == header
    assert rest == payload.ljust(46, b"\0")


@given(HEADERS)
def test_every_truncation_is_refused(header):
    frame = ethernet.encode(header, b"")
    for length in range(14):
        refused(ethernet.decode, frame[:length], "ethernet_truncated")
    assert ethernet.decode(frame[:14]) == (header, b"")


@given(MAC, MAC, st.integers(0, 0x05FF))
def test_lengths_in_place_of_a_type_are_refused(dst, src, length):
    refused(ethernet.decode, dst + src + length.to_bytes(2, "big"), "ethernet_length_field")


@given(st.binary(max_size=80))
def test_any_bytes_are_survived(data):
    survived(ethernet.decode, data)


@given(MAC)
def test_group_addresses_have_the_lowest_bit_of_the_first_byte(address):
    assert ethernet.is_group(address) == (address[0] % 2 == 1)
    assert ethernet.is_group(ethernet.BROADCAST)
