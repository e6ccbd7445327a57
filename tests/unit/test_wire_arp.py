"""ARP packets (RFC 826)."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from wire_strategies import ADDRESS, MAC, flipped, refused, survived

from plywire.wire import arp
from plywire.wire.arp import ArpPacket

PACKETS = st.builds(
    ArpPacket,
    st.sampled_from([arp.REQUEST, arp.REPLY]),
    MAC.map(lambda mac: bytes((mac[0] & 0xFE,)) + mac[1:]),
    ADDRESS,
    MAC,
    ADDRESS,
)
PACKET = ArpPacket(arp.REQUEST, b"\2\0\0\0\0\1", b"\x0a\0\0\1", b"\0" * 6, b"\x0a\0\0\2")


@given(PACKETS, st.binary(max_size=20))
def test_round_trip_and_padding(packet, padding):
    data = arp.encode(packet)
    assert len(data) == 28
    assert arp.decode(memoryview(data + padding)) == packet


def test_layout_of_the_rfc():
    assert arp.encode(PACKET).hex() == (
        "0001080006040001" + "020000000001" + "0a000001" + "000000000000" + "0a000002"
    )


def test_every_truncation_is_refused():
    for length in range(28):
        refused(arp.decode, arp.encode(PACKET)[:length], "arp_truncated")


def test_any_bit_of_the_kinds_and_lengths_counts():
    for _, data in flipped(arp.encode(PACKET), range(48)):
        refused(arp.decode, data, "arp_not_ipv4_over_ethernet")


@pytest.mark.parametrize("operation", [0, 3, 4, 0xFFFF])
def test_other_operations_are_refused(operation):
    refused(arp.decode, arp.encode(PACKET._replace(operation=operation)), "arp_bad_operation")


def test_group_address_as_a_sender_is_refused():
    refused(arp.decode, arp.encode(PACKET._replace(sender_mac=b"\xff" * 6)), "arp_group_sender")


@given(st.binary(max_size=60))
def test_any_bytes_are_survived(data):
    survived(arp.decode, data)
