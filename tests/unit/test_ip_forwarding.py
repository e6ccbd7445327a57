"""A host with two links is a router (RFC 1812 section 5)."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from ip_harness import FAR, H1, H2, H3, NOWHERE, Ip, router_config, tcp_packet, the_icmp

from plywire.messages import FLAG_BROADCAST, Datagram, NeighbourFailed
from plywire.wire import icmp, ipv4
from plywire.wire.ipv4 import Ipv4Header
from services.ip.forwarding import with_ttl_decremented

NEAR_SIDE = H1
FAR_SIDE = b"\x0a\0\x01\x01"


def test_packet_goes_on_with_its_ttl_lowered_and_nothing_else_changed():
    ip = Ip(router_config())
    packet = tcp_packet(dst=FAR, ttl=17, tos=5, ident=99, options=b"\x94\x04\0\0")
    (message,) = ip.packet(packet + b"\0" * 6, trace=31)
    assert message[:4] == (31, 2, FAR, 0)
    before, after = ipv4.decode(packet), ipv4.decode(message.packet)
    assert after == (before[0]._replace(ttl=16), before[1])
    assert ip.counters["ip_forw_datagrams"] == 1
    assert ip.counters["ip_in_delivers"] == 0


def test_packet_for_a_network_behind_a_gateway_goes_to_the_gateway():
    (message,) = Ip(router_config()).packet(tcp_packet(dst=b"\xc0\xa8\x01\x01"))
    assert (message.ifindex, message.next_hop) == (2, b"\x0a\0\x01\x02")


def test_packet_may_leave_by_the_interface_it_came_by():
    (message,) = Ip(router_config()).packet(tcp_packet(dst=H3))
    assert (message.ifindex, message.next_hop) == (1, H3)


@given(st.integers(2, 255), st.integers(0, 0xFFFF), st.binary(max_size=9), st.integers(0, 255))
def test_lowered_ttl_keeps_the_checksum_right(ttl, ident, payload, protocol):
    packet = ipv4.encode(Ipv4Header(H2, FAR, protocol, ident=ident, ttl=ttl), payload)
    changed = with_ttl_decremented(packet)
    assert ipv4.decode(changed)[0].ttl == ttl - 1
    assert changed == ipv4.encode(Ipv4Header(H2, FAR, protocol, ident=ident, ttl=ttl - 1), payload)


@pytest.mark.parametrize("ttl", [0, 1])
def test_packet_without_time_left_is_answered(ttl):
    ip = Ip(router_config())
    packet = tcp_packet(dst=FAR, ttl=ttl)
    header, error = the_icmp(ip.packet(packet))
    assert (header.src, header.dst) == (NEAR_SIDE, H2)
    assert (error.type, error.code, error.body) == (11, 0, packet)
    assert ip.counters["drop_ttl_exceeded"] == 1


def test_packet_for_this_host_needs_no_time_left():
    assert len(Ip(router_config()).packet(tcp_packet(dst=FAR_SIDE, ttl=0))) == 1


def test_packet_without_route_is_answered_with_net_unreachable():
    _, error = the_icmp(Ip(router_config()).packet(tcp_packet(dst=NOWHERE)))
    assert (error.type, error.code) == (3, 0)


def test_packet_too_big_with_dont_fragment_is_answered_with_the_mtu():
    ip = Ip(router_config(mtu_b=600))
    packet = tcp_packet(dst=FAR, payload=b"x" * 1000, dont_fragment=True)
    _, error = the_icmp(ip.packet(packet))
    assert (error.type, error.code, error.rest) == (3, 4, 600)
    assert ip.counters["ip_frag_fails"] == 1


def test_packet_too_big_goes_on_in_fragments():
    ip = Ip(router_config(mtu_b=600))
    payload = bytes(range(250)) * 4
    messages = ip.packet(tcp_packet(dst=FAR, payload=payload, ident=7, ttl=9, tos=0x22))
    headers = [ipv4.decode(message.packet)[0] for message in messages]
    assert [header.offset for header in headers] == [0, 576]
    assert {(header.ident, header.ttl, header.tos) for header in headers} == {(7, 8, 0x22)}
    assert b"".join(ipv4.decode(message.packet)[1] for message in messages) == payload
    assert ip.counters["ip_forw_datagrams"] == 1


def test_packet_as_long_as_the_mtu_is_not_cut():
    ip = Ip(router_config(mtu_b=600))
    assert len(ip.packet(tcp_packet(dst=FAR, payload=b"x" * 580, dont_fragment=True))) == 1
    assert ip.counters["ip_frag_creates"] == ip.counters["ip_frag_fails"] == 0


def test_fragment_is_cut_again_and_keeps_its_place():
    ip = Ip(router_config(mtu_b=600))
    packet = tcp_packet(dst=FAR, payload=b"x" * 1000, ident=7, offset=800, more_fragments=True)
    headers = [ipv4.decode(message.packet)[0] for message in ip.packet(packet)]
    assert [(item.offset, item.more_fragments) for item in headers] == [(800, True), (1376, True)]


def test_fragments_are_forwarded_without_being_put_together():
    ip = Ip(router_config())
    assert len(ip.packet(tcp_packet(dst=FAR, offset=64))) == 1
    assert ip.layer.deadline() is None


@pytest.mark.parametrize(
    ("packet", "flags", "reason"),
    [
        (tcp_packet(dst=FAR), FLAG_BROADCAST, "not_for_us"),
        (tcp_packet(dst=b"\x7f\0\0\1"), 0, "martian_destination"),
        (tcp_packet(dst=b"\0\0\0\1"), 0, "martian_destination"),
        (tcp_packet(dst=b"\xe0\0\0\5"), 0, "martian_destination"),
        (tcp_packet(dst=b"\xf0\0\0\5"), 0, "martian_destination"),
        (tcp_packet(dst=b"\xa9\xfe\1\1"), 0, "martian_destination"),
        (tcp_packet(src=b"\xa9\xfe\1\1", dst=FAR), 0, "martian_destination"),
        (tcp_packet(src=FAR_SIDE, dst=FAR), 0, "martian_source"),
    ],
)
def test_what_is_never_forwarded(packet, flags, reason):
    ip = Ip(router_config())
    assert ip.packet(packet, flags) == []
    assert ip.counters[f"drop_{reason}"] == 1


def test_directed_broadcast_of_the_other_network_is_not_forwarded():
    """RFC 2644: it is taken as one for this host."""
    (message,) = Ip(router_config()).packet(tcp_packet(dst=b"\x0a\0\x01\xff"))
    assert message.flags == FLAG_BROADCAST


def test_next_hop_that_fails_is_told_to_the_source():
    ip = Ip(router_config())
    (message,) = ip.packet(tcp_packet(dst=FAR))
    assert isinstance(message, Datagram)
    header, error = the_icmp(ip.put(NeighbourFailed(31, 2, FAR, message.packet), "link"))
    assert (header.dst, error.type, error.code) == (H2, 3, icmp.HOST_UNREACHABLE)
