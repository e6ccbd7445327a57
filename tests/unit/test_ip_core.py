"""The IP layer's own packets: down from the transport, up from the link, neighbours, snapshots."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from ip_harness import (
    BROADCAST,
    H1,
    H2,
    NONE,
    NOWHERE,
    Ip,
    echo,
    router_config,
    tcp_packet,
    the_error,
    the_icmp,
    udp_packet,
)

from plywire.config import IpConfig, host
from plywire.errors import DecodeError
from plywire.messages import (
    FLAG_BROADCAST,
    FLAG_DONT_FRAGMENT,
    Data,
    Datagram,
    Hello,
    Interface,
    NeighbourFailed,
    PacketError,
    Paths,
    Segment,
)
from plywire.trace import DROP
from plywire.wire import icmp, ipv4
from plywire.wire.ipv4 import Ipv4Header
from services.ip.fragments import Identifications

LOOPBACK = b"\x7f\0\0\1"


# --- down -----------------------------------------------------------------------------------------


def test_segment_leaves_as_a_packet_for_its_next_hop():
    (message,) = Ip().segment(H2, b"data", src=H1, flags=FLAG_DONT_FRAGMENT, tos=2)
    assert (message.trace, message.ifindex, message.next_hop, message.flags) == (9, 1, H2, 0)
    header, payload = ipv4.decode(message.packet)
    assert payload == b"data"
    assert header == Ipv4Header(H1, H2, 6, 2, 0, True, False, 0, 64, b"")


def test_segment_bears_the_ttl_it_asks_for():
    (message,) = Ip().segment(H2, b"data", ttl=3)
    assert ipv4.decode(message.packet)[0].ttl == 3


def test_segment_bears_its_dscp_and_ecn_to_the_wire_and_back_up():
    (message,) = Ip().segment(H2, b"data", tos=0xBA)
    assert ipv4.decode(message.packet)[0].tos == 0xBA
    (up,) = Ip().packet(tcp_packet(tos=0xBB))
    assert up.tos == 0xBB


def test_codepoints_that_come_in_are_counted():
    ip = Ip()
    for tos in (0, 1, 2, 2, 3, 0xB8 | 3):
        ip.packet(tcp_packet(tos=tos))
    names = ("ip_in_no_ect_pkts", "ip_in_ect1_pkts", "ip_in_ect0_pkts", "ip_in_ce_pkts")
    assert [ip.counters[name] for name in names] == [1, 1, 2, 2]


def test_segment_without_source_gets_the_interfaces_address():
    (message,) = Ip().segment(H2, b"data")
    assert ipv4.decode(message.packet)[0].src == H1


def test_segment_by_way_of_a_gateway_names_it_as_next_hop():
    (message,) = Ip(router_config()).segment(b"\xc0\xa8\x07\x07", b"data")
    assert (message.ifindex, message.next_hop) == (2, b"\x0a\0\x01\x02")
    header, _ = ipv4.decode(message.packet)
    assert (header.src, header.dst) == (b"\x0a\0\x01\x01", b"\xc0\xa8\x07\x07")


def test_segment_without_route_comes_back_as_net_unreachable():
    ip = Ip()
    error = the_error(ip.segment(NOWHERE, b"\1\2\3\4" * 20, src=H1))
    assert error == PacketError(9, 6, 1, H1, 3, 0, 0, H1, NOWHERE, b"\1\2\3\4" * 15)
    assert ip.counters["ip_out_no_routes"] == 1


@pytest.mark.parametrize("dst", [NONE, b"\xe0\0\0\1", b"\xff\xff\xff\xff", b"\xf0\0\0\1"])
def test_segment_to_what_is_no_host_has_no_route(dst):
    assert the_error(Ip(router_config()).segment(dst, b"data")).code == icmp.NET_UNREACHABLE


def test_segment_too_big_with_dont_fragment_comes_back_with_the_mtu():
    ip = Ip()
    error = the_error(ip.segment(H2, b"x" * 1481, src=H1, flags=FLAG_DONT_FRAGMENT))
    assert (error.local, error.type, error.code, error.mtu) == (1, 3, 4, 1500)
    assert len(ip.segment(H2, b"x" * 1480, flags=FLAG_DONT_FRAGMENT)) == 1


def test_segment_too_big_leaves_in_fragments():
    ip = Ip()
    messages = ip.segment(H2, bytes(range(256)) * 12, src=H1)
    headers = [ipv4.decode(message.packet)[0] for message in messages]
    assert [len(message.packet) for message in messages] == [1500, 1500, 132]
    assert [header.offset for header in headers] == [0, 1480, 2960]
    assert [header.more_fragments for header in headers] == [True, True, False]
    assert len({header.ident for header in headers}) == 1
    assert ip.counters["ip_frag_creates"] == 3


def test_segment_longer_than_a_packet_can_be_comes_back():
    error = the_error(Ip().segment(H2, b"x" * 65_516))
    assert (error.local, error.code, error.mtu) == (1, icmp.FRAGMENTATION_NEEDED, 1500)


def test_segment_with_a_foreign_source_is_dropped():
    ip = Ip()
    assert ip.segment(H2, b"data", src=NOWHERE) == []
    assert ip.segment(H2, b"data", src=LOOPBACK) == []
    assert ip.counters["drop_source_not_ours"] == 2


def test_idents_of_a_flow_count_up_and_packets_that_cannot_be_cut_need_none():
    ip = Ip()
    idents = [ipv4.decode(ip.segment(H2, b"x")[0].packet)[0].ident for _ in range(3)]
    assert [(ident - idents[0]) & 0xFFFF for ident in idents] == [0, 1, 2]
    (message,) = ip.segment(H2, b"x", flags=FLAG_DONT_FRAGMENT)
    assert ipv4.decode(message.packet)[0].ident == 0


def test_ident_of_a_whole_packet_means_nothing():
    """RFC 6864 4.2: the same one again is no duplicate."""
    ip = Ip()
    packets = [tcp_packet(ident=7, dont_fragment=bit, payload=b"t" * 20) for bit in (True, False)]
    assert [len(ip.packet(packet)) for packet in packets * 2] == [1] * 4


def test_idents_do_not_come_again_within_a_round():
    idents = Identifications(random.Random(3))
    assert len({idents.take(H1, H2, 17) for _ in range(65_536)}) == 65_536


# --- loopback -------------------------------------------------------------------------------------


@pytest.mark.parametrize(("dst", "src"), [(H1, H1), (LOOPBACK, LOOPBACK), (b"\x7f\1\2\3",) * 2])
def test_segment_to_an_own_address_comes_straight_back_up(dst, src):
    ip = Ip()
    assert ip.segment(dst, b"x" * 40_000) == [Segment(9, 6, src, dst, 0, 64, 0, b"x" * 40_000)]


def test_loopback_keeps_a_given_source():
    (message,) = Ip().segment(H1, b"x", src=LOOPBACK, ttl=5)
    assert (message.src, message.ttl) == (LOOPBACK, 5)


def test_loopback_to_a_protocol_nobody_has_comes_back_as_an_error():
    error = the_error(Ip().segment(H1, b"x", protocol=99))
    assert (error.local, error.type, error.code) == (1, 3, icmp.PROTOCOL_UNREACHABLE)


# --- up -------------------------------------------------------------------------------------------


def test_packet_for_this_host_goes_up_as_a_segment():
    ip = Ip()
    messages = ip.packet(tcp_packet(tos=3, ttl=9))
    assert messages == [Segment(7, 6, H2, H1, 3, 9, 0, b"t" * 20)]
    assert ip.counters["ip_in_delivers"] == ip.counters["ip_in_receives"] == 1


def test_padding_of_the_link_is_trimmed():
    (message,) = Ip().packet(tcp_packet(payload=b"abc") + b"\0" * 23)
    assert message.payload == b"abc"


def test_packet_in_a_broadcast_frame_keeps_the_flag():
    (message,) = Ip().packet(tcp_packet(), flags=FLAG_BROADCAST)
    assert message.flags == FLAG_BROADCAST


@pytest.mark.parametrize("dst", [BROADCAST, b"\xff\xff\xff\xff", b"\x0a\0\0\0"])
def test_packet_to_a_broadcast_address_is_marked(dst):
    (message,) = Ip().packet(tcp_packet(dst=dst))
    assert message.flags == FLAG_BROADCAST


@pytest.mark.parametrize(
    "src",
    [H1, NONE, b"\0\1\2\3", LOOPBACK, BROADCAST, b"\xff\xff\xff\xff", b"\xe0\0\0\1", b"\xf1\0\0\1"],
)
def test_martian_source_is_dropped(src):
    ip = Ip()
    assert ip.packet(tcp_packet(src=src)) == []
    assert ip.counters["drop_martian_source"] == ip.counters["ip_in_addr_errors"] == 1


@pytest.mark.parametrize("dst", [NOWHERE, LOOPBACK, b"\xe0\0\0\1", NONE])
def test_packet_for_another_host_is_dropped(dst):
    ip = Ip()
    assert ip.packet(tcp_packet(dst=dst)) == []
    assert ip.counters["drop_not_for_us"] == 1


def test_bad_checksum_is_counted_and_traced():
    ip = Ip()
    packet = bytearray(tcp_packet())
    packet[8] ^= 1
    assert ip.packet(bytes(packet)) == []
    assert ip.counters["drop_ipv4_bad_checksum"] == ip.counters["ip_in_hdr_errors"] == 1
    (event,) = ip.events
    assert (event.what, event.subject, event.trace) == (DROP, "drop_ipv4_bad_checksum", 7)
    assert event.packet == bytes(packet)


def test_packet_from_an_unknown_interface_is_dropped():
    ip = Ip()
    assert ip.packet(tcp_packet(), ifindex=9) == []
    assert ip.counters["drop_unknown_interface"] == 1


def test_options_are_skipped():
    (message,) = Ip().packet(tcp_packet(options=b"\x07\x07\x04\0\0\0\0\x01"))
    assert message.payload == b"t" * 20


@pytest.mark.parametrize("kind", [131, 137])
def test_source_routed_packet_is_dropped(kind):
    ip = Ip()
    assert ip.packet(tcp_packet(options=b"\x01" + bytes((kind, 7, 4)) + H2)) == []
    assert ip.counters["drop_source_route"] == 1


@pytest.mark.parametrize("options", [b"\x07\x01\0\0", b"\x01\x01\x01\x07", b"\x07\x09\0\0"])
def test_malformed_option_is_answered_with_its_place(options):
    ip = Ip()
    header, message = the_icmp(ip.packet(tcp_packet(options=options)))
    assert (message.type, message.code, header.dst) == (icmp.PARAMETER_PROBLEM, 0, H2)
    pointer = message.rest >> 24
    assert message.body[pointer] == 7
    assert ip.counters["drop_ipv4_bad_option"] == 1


def test_udp_is_answered_with_port_unreachable():
    ip = Ip()
    packet = udp_packet()
    header, message = the_icmp(ip.packet(packet + b"\0" * 8))
    assert (header.src, header.dst, header.tos) == (H1, H2, 0xC0)
    assert message == icmp.IcmpMessage(3, 3, 0, packet)
    assert ip.counters["udp_no_ports"] == ip.counters["icmp_out_dest_unreachs"] == 1


def test_udp_with_a_bad_checksum_is_not_answered():
    ip = Ip()
    packet = bytearray(udp_packet())
    packet[-1] ^= 1
    assert ip.packet(bytes(packet)) == []
    assert ip.counters["drop_udp_bad_checksum"] == 1


def test_unknown_protocol_is_answered_with_protocol_unreachable():
    ip = Ip()
    packet = ipv4.encode(Ipv4Header(H2, H1, 132), b"sctp....")
    _, message = the_icmp(ip.packet(packet))
    assert (message.type, message.code, message.body) == (3, 2, packet)
    assert ip.counters["ip_in_unknown_protos"] == 1


# --- neighbours -----------------------------------------------------------------------------------


def test_hello_of_a_new_tcp_is_answered_with_paths_once():
    ip = Ip(router_config())
    (paths,) = ip.put(Hello(0, "tcp", 5, 0), "tcp")
    assert paths.rows == (
        (b"\x0a\0\0\x01", 32, b"\x0a\0\0\x01", 65_535),
        (b"\x0a\0\x01\x01", 32, b"\x0a\0\x01\x01", 65_535),
        (b"\x0a\0\0\0", 24, b"\x0a\0\0\x01", 1500),
        (b"\x0a\0\x01\0", 24, b"\x0a\0\x01\x01", 1500),
        (b"\xc0\xa8\0\0", 16, b"\x0a\0\x01\x01", 1500),
        (b"\x7f\0\0\0", 8, LOOPBACK, 65_535),
    )
    assert ip.put(Hello(0, "tcp", 5, 1), "tcp") == []
    assert len(ip.put(Hello(0, "tcp", 6, 0), "tcp")) == 1


def test_interface_that_says_what_is_known_changes_nothing():
    ip = Ip()
    item = ip.config.interfaces[0]
    assert ip.put(Interface(0, 1, item.name, item.mac, item.mtu, 1), "link") == []


def test_change_that_moves_no_route_is_not_told_to_tcp():
    ip = Ip()
    assert ip.put(Interface(0, 1, "eth0", b"\6" * 6, 1500, 1), "link") == []
    assert ip.layer.describe("interfaces", ip.now)[0]["mac"] == "06:06:06:06:06:06"


def test_new_mtu_reaches_tcp_and_counts_at_once():
    ip = Ip()
    (paths,) = ip.put(Interface(0, 1, "eth0", b"\2" * 6, 1000, 1), "link")
    assert isinstance(paths, Paths)
    assert (b"\x0a\0\0\0", 24, H1, 1000) in paths.rows
    assert the_error(ip.segment(H2, b"x" * 981, flags=FLAG_DONT_FRAGMENT)).mtu == 1000


def test_interface_that_goes_down_takes_its_routes_along():
    ip = Ip()
    (paths,) = ip.put(Interface(0, 1, "eth0", b"\2" * 6, 1500, 0), "link")
    assert [row[1] for row in paths.rows] == [32, 8]
    assert the_error(ip.segment(H2, b"x")).code == icmp.NET_UNREACHABLE
    (paths,) = ip.put(Interface(0, 1, "eth0", b"\2" * 6, 1500, 1), "link")
    assert [row[1] for row in paths.rows] == [32, 24, 8]


def test_interface_that_is_not_configured_is_counted():
    ip = Ip()
    assert ip.put(Interface(0, 8, "eth7", b"\2" * 6, 1500, 1), "link") == []
    assert ip.counters["drop_unknown_interface"] == 1


def test_neighbour_that_fails_is_told_to_the_transport():
    ip = Ip()
    (message,) = ip.segment(H2, b"ports...rest", src=H1)
    failed = NeighbourFailed(message.trace, 1, H2, message.packet)
    error = the_error(ip.put(failed, "link"))
    assert error == PacketError(9, 6, 1, H1, 3, 1, 0, H1, H2, b"ports...rest")


def test_neighbour_that_fails_is_told_once_for_all_pieces_of_a_segment():
    ip = Ip()
    pieces = ip.segment(H2, b"x" * 4000, src=H1)
    told = [ip.put(NeighbourFailed(9, 1, H2, piece.packet), "link") for piece in pieces]
    assert [len(messages) for messages in told] == [1, 0, 0]


def test_neighbour_that_fails_for_icmp_is_only_counted():
    ip = Ip()
    (reply,) = ip.packet(echo())
    assert ip.put(NeighbourFailed(1, 1, H2, reply.packet), "link") == []
    assert ip.counters["ip_out_discards"] == 1


@pytest.mark.parametrize("source", ["tcp", "app", "wire"])
def test_message_from_the_wrong_side_is_dropped(source):
    ip = Ip()
    assert ip.put(Datagram(1, 1, NONE, 0, tcp_packet()), source) == []
    assert ip.put(Data(1, 2, 0, b"stream"), source) == []
    assert ip.counters["drop_unexpected_message"] == 2


# --- views and snapshots --------------------------------------------------------------------------


def test_describe_has_its_topics_and_no_others():
    ip = Ip(router_config())
    routes = ip.layer.describe("routes", ip.now)
    assert {"to": "192.168.0.0/16", "type": "gateway", "via": "10.0.1.2", "dev": "eth1",
            "src": "10.0.1.1", "mtu": 1500} in routes  # fmt: skip
    assert [row["address"] for row in ip.layer.describe("interfaces", ip.now)] == [
        "10.0.0.1/24",
        "10.0.1.1/24",
    ]
    assert ip.layer.describe("fragments", ip.now) == []
    ip.packet(b"")
    assert ip.layer.describe("counters", ip.now)["drop_ipv4_truncated"] == 1
    with pytest.raises(KeyError):
        ip.layer.describe("connections", ip.now)


def test_restored_layer_goes_on_where_the_first_one_stands():
    first = Ip(router_config(ip=IpConfig(icmp_burst=3)))
    first.put(Hello(0, "tcp", 5, 0), "tcp")
    first.put(Interface(0, 2, "eth1", b"\2" * 6, 900, 1), "link")
    pieces = first.segment(H2, b"warm")
    for _ in range(2):
        first.packet(udp_packet())
    half = ipv4.encode(Ipv4Header(H2, H1, 6, ident=5, more_fragments=True), b"f" * 24)
    first.packet(half)
    second = Ip(router_config(ip=IpConfig(icmp_burst=3)), seed=99)
    second.layer.restore(first.layer.snapshot(), first.now)
    rest = ipv4.encode(Ipv4Header(H2, H1, 6, ident=5, offset=24), b"g" * 8)
    for ip in (first, second):
        ip.answers = [
            ip.put(Hello(0, "tcp", 5, 0), "tcp"),
            ip.packet(rest),
            ip.segment(b"\x0a\0\x01\x07", b"x" * 2000),
            ip.segment(H2, b"x"),
            [ip.packet(udp_packet()) for _ in range(3)],
        ]
    assert pieces
    assert first.answers == second.answers
    assert first.answers[0] == []
    assert first.answers[1][0].payload == b"f" * 24 + b"g" * 8
    assert first.counters == second.counters
    assert first.layer.snapshot() == second.layer.snapshot()


@pytest.mark.parametrize("state", [b"", b"\xc1", b"\x90", b"\x80", b"\xa1x"])
def test_restore_refuses_what_is_no_snapshot(state):
    with pytest.raises(DecodeError):
        Ip().layer.restore(state, 0)


@given(st.binary(max_size=120), st.sampled_from([0, FLAG_BROADCAST]))
def test_any_bytes_from_the_link_are_dropped_or_delivered(packet, flags):
    Ip(router_config()).packet(packet, flags)


@given(st.data())
def test_any_change_to_a_packet_is_survived(data):
    packet = bytearray(data.draw(st.sampled_from([tcp_packet(), udp_packet(), echo(b"x" * 30)])))
    for _ in range(data.draw(st.integers(1, 4))):
        packet[data.draw(st.integers(0, len(packet) - 1))] = data.draw(st.integers(0, 255))
    cut = data.draw(st.integers(0, len(packet)))
    ip = Ip(host("h1", "10.0.0.1/24"))
    ip.packet(bytes(packet))
    ip.packet(bytes(packet[:cut]))
    ip.put(NeighbourFailed(1, 1, H2, bytes(packet[:cut])), "link")
