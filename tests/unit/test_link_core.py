"""Ethernet: what goes into a frame, which frames are taken in, what is counted."""

from __future__ import annotations

from dataclasses import replace

import pytest
from link_harness import (
    NO_IP,
    OWN_IP,
    OWN_MAC,
    PACKET,
    PEER_IP,
    PEER_MAC,
    THIRD_MAC,
    Bench,
    frame_header,
)

from plywire.config import InterfaceConfig, host
from plywire.errors import DecodeError
from plywire.messages import (
    FLAG_BROADCAST,
    Credit,
    Datagram,
    Frame,
    Hello,
    Interface,
    Segment,
)
from plywire.roles import IP, TCP, WIRE
from plywire.trace import DROP, NOTE
from plywire.wire import ethernet


@pytest.fixture
def bench():
    """A link that knows its peer."""
    bench = Bench()
    bench.down()
    bench.reply()
    return bench


def two_interfaces() -> Bench:
    config = host("r", "10.0.0.1/24")
    second = InterfaceConfig("eth1", 2, bytes((10, 0, 1, 1)), 24, bytes.fromhex("02000a000101"))
    return Bench(replace(config, interfaces=(*config.interfaces, second)))


# --- down ---


def test_known_next_hop_gets_a_frame_with_the_packet_behind_14_bytes(bench):
    bench.now = 1234
    assert bench.down(trace=42) == [
        Frame(42, 1, 1234, PEER_MAC + OWN_MAC + b"\x08\x00" + PACKET),
    ]


def test_short_packet_is_padded_to_the_minimum_frame(bench):
    (frame,) = bench.down(packet=b"\x45" * 20)
    assert len(frame.frame) == ethernet.MIN_FRAME
    assert frame.frame[34:] == bytes(26)


@pytest.mark.parametrize("address", ["255.255.255.255", "10.0.0.255"])
def test_broadcast_next_hop_needs_no_arp(address):
    (frame,) = Bench().down(bytes(map(int, address.split("."))))
    assert frame_header(frame) == (ethernet.BROADCAST, OWN_MAC, ethernet.TYPE_IPV4)


def test_last_address_of_a_31_bit_network_is_a_station():
    bench = Bench(host("h1", "10.0.0.0/31"))
    (frame,) = bench.down(bytes((10, 0, 0, 1)))
    assert frame_header(frame).type == ethernet.TYPE_ARP


@pytest.mark.parametrize(
    ("group", "mac"),
    [
        ((224, 0, 0, 1), "01005e000001"),
        ((239, 129, 2, 3), "01005e010203"),  # RFC 1112 6.4: the low 23 bits only
    ],
)
def test_multicast_next_hop_is_mapped(group, mac):
    (frame,) = Bench().down(bytes(group))
    assert frame_header(frame).dst.hex() == mac


def test_packet_of_the_mtu_fits_and_one_byte_more_is_dropped(bench):
    assert len(bench.down(packet=bytes(1500))) == 1
    assert bench.down(packet=bytes(1501)) == []
    assert bench.counters["drop_packet_too_big"] == 1


@pytest.mark.parametrize("next_hop", [OWN_IP, NO_IP])
def test_next_hop_that_is_nobody_else_is_dropped(next_hop):
    bench = Bench()
    assert bench.down(next_hop) == []
    assert bench.counters["drop_bad_next_hop"] == 1


def test_unknown_interface_is_dropped_both_ways(bench):
    assert bench.down(ifindex=9) == []
    assert bench.up(OWN_MAC, PEER_MAC, ethernet.TYPE_IPV4, PACKET, ifindex=9) == []
    assert bench.counters["drop_unknown_interface"] == 2


def test_drop_is_traced_with_its_packet(bench):
    bench.down(packet=bytes(1501), trace=5)
    event = next(event for event in bench.events if event.what == DROP)
    assert (event.subject, event.trace, event.packet) == ("drop_packet_too_big", 5, bytes(1501))


# --- up ---


def test_own_unicast_goes_up(bench):
    out = bench.up(OWN_MAC, PEER_MAC, ethernet.TYPE_IPV4, PACKET, trace=3)
    assert out == [Datagram(3, 1, NO_IP, 0, PACKET)]


@pytest.mark.parametrize("dst", ["ffffffffffff", "01005e000001"])
def test_group_frame_goes_up_flagged(bench, dst):
    (datagram,) = bench.up(bytes.fromhex(dst), PEER_MAC, ethernet.TYPE_IPV4, PACKET)
    assert datagram.flags == FLAG_BROADCAST


@pytest.mark.parametrize("dst", [THIRD_MAC.hex(), "01005e7f0001", "333300000001"])
def test_frame_for_others_is_filtered(bench, dst):
    assert bench.up(bytes.fromhex(dst), PEER_MAC, ethernet.TYPE_IPV4, PACKET) == []
    assert bench.counters["rx_other_host"] == 1
    assert bench.counters["rx_packets"] == 1  # the ARP reply of the fixture alone


@pytest.mark.parametrize("dst", [OWN_MAC, ethernet.BROADCAST])
def test_own_frame_looped_back_is_dropped(bench, dst):
    assert bench.up(dst, OWN_MAC, ethernet.TYPE_IPV4, PACKET) == []
    assert bench.counters["drop_looped"] == 1


@pytest.mark.parametrize(
    ("src", "kind", "reason"),
    [
        (PEER_MAC, 0x86DD, "unknown_ethertype"),
        (PEER_MAC, 0x0026, "ethernet_length_field"),
        (ethernet.BROADCAST, ethernet.TYPE_IPV4, "ethernet_group_source"),
        (PEER_MAC, ethernet.TYPE_ARP, "arp_not_ipv4_over_ethernet"),
    ],
)
def test_bad_frame_is_counted_by_reason(bench, src, kind, reason):
    assert bench.up(OWN_MAC, src, kind, PACKET) == []
    assert bench.counters[f"drop_{reason}"] == 1


def test_truncated_and_oversize_frames_are_counted(bench):
    assert bench.feed(Frame(0, 1, 0, OWN_MAC + b"\x02"), WIRE) == []
    long = OWN_MAC + PEER_MAC + b"\x08\x00" + bytes(65_536)
    assert bench.feed(Frame(0, 1, 0, long), WIRE) == []
    assert bench.counters["drop_ethernet_truncated"] == 1
    assert bench.counters["drop_frame_too_long"] == 1


# --- pipes ---


def test_new_ip_is_told_each_interface_and_the_same_one_only_once():
    bench = two_interfaces()
    told = bench.hello(100)
    assert told == [
        Interface(0, 1, "eth0", OWN_MAC, 1500, 1),
        Interface(0, 2, "eth1", bytes.fromhex("02000a000101"), 1500, 1),
    ]
    assert bench.hello(100) == []
    assert bench.hello(101) == told


@pytest.mark.parametrize(
    ("message", "source"),
    [
        (Credit(0, 1, 0, 0), IP),
        (Segment(0, 6, OWN_IP, PEER_IP, 0, 0, 0, b""), TCP),
        (Datagram(0, 1, PEER_IP, 0, PACKET), WIRE),
        (Frame(0, 1, 0, PACKET), IP),
        (Hello(0, "x", 1, 0), WIRE),
    ],
)
def test_message_that_has_no_business_here_is_dropped(message, source):
    bench = Bench()
    assert bench.feed(message, source) == []
    assert bench.counters["drop_unexpected_message"] == 1


def test_interfaces_are_separate():
    bench = two_interfaces()
    (request,) = bench.down(bytes((10, 0, 1, 2)), ifindex=2)
    assert (request.ifindex, frame_header(request).src) == (2, bytes.fromhex("02000a000101"))
    assert bench.up(OWN_MAC, PEER_MAC, ethernet.TYPE_IPV4, PACKET, ifindex=2) == []
    assert bench.counters["rx_other_host"] == 1
    rows = bench.layer.describe("interfaces", 0)
    assert [(row["name"], row["tx_packets"]) for row in rows] == [("eth0", 0), ("eth1", 1)]


# --- views ---


def test_traffic_is_counted_in_all_and_per_interface(bench):
    sent, received = bench.counters["tx_bytes"], bench.counters["rx_bytes"]
    bench.down(packet=bytes(100))
    bench.up(OWN_MAC, PEER_MAC, ethernet.TYPE_IPV4, bytes(200))
    assert bench.counters["tx_bytes"] - sent == 114
    assert bench.counters["rx_bytes"] - received == 214
    (row,) = bench.layer.describe("interfaces", 0)
    for name in ("rx_packets", "tx_packets", "rx_bytes", "tx_bytes"):
        assert row[name] == bench.counters[name]
    assert row["address"] == "10.0.0.1/24"
    assert row["mac"] == OWN_MAC.hex(":")


def test_neighbours_are_described_as_ip_neigh_does(bench):
    bench.now += 1_500_000_000
    assert bench.layer.describe("neighbours", bench.now) == [
        {"address": "10.0.0.2", "dev": "eth0", "lladdr": PEER_MAC.hex(":"), "state": "REACHABLE",
         "age_ms": 1500},
    ]  # fmt: skip


def test_unknown_topic_is_a_key_error(bench):
    assert bench.layer.describe("counters", 0)["rx_packets"] == 1
    with pytest.raises(KeyError):
        bench.layer.describe("weather", 0)


def test_change_of_a_neighbour_is_noted_with_the_cause_trace():
    bench = Bench()
    bench.down(trace=77)
    bench.reply()
    notes = [event for event in bench.events if event.what == NOTE]
    assert [(note.trace, note.fields["before"], note.fields["state"]) for note in notes] == [
        (77, "NONE", "INCOMPLETE"),
        (9, "INCOMPLETE", "REACHABLE"),
    ]


# --- taking over ---


def test_successor_goes_on_where_the_snapshot_stood():
    bench = Bench()
    bench.hello(5)
    bench.down(trace=1)
    bench.down(trace=2)
    bench.advance(1_500_000_000)
    heir = bench.successor()
    assert heir.layer.snapshot() == bench.layer.snapshot()
    assert heir.hello(5) == []
    for both in (bench, heir):
        assert [frame.trace for frame in both.reply()] == [1, 2]
    assert heir.advance(200 * 10**9) == bench.advance(200 * 10**9)
    assert heir.layer.snapshot() == bench.layer.snapshot()


def test_successor_without_an_interface_leaves_it_out():
    bench = two_interfaces()
    bench.down(bytes((10, 0, 1, 2)), ifindex=2)
    single = Bench()
    single.layer.restore(bench.layer.snapshot(), 0)
    assert single.layer.describe("neighbours", 0) == []
    assert single.layer.deadline() is None


@pytest.mark.parametrize("state", [b"", b"\xc1", b"\x01", b"\x81\xa7version\x63"])
def test_snapshot_of_something_else_is_refused(state):
    with pytest.raises(DecodeError) as refusal:
        Bench().layer.restore(state, 0)
    assert refusal.value.reason == "bad_snapshot"
