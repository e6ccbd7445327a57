"""Three hosts: a router in the middle, TTL, fragments and path MTU across links."""

from __future__ import annotations

import pytest
from sim_programs import SECOND, Program, connected, exchange, listener, socket

from plywire.errors import SocketError
from plywire.lab.simulator import Host, World
from plywire.wire import ethernet, icmp, ipv4

LEFT, RIGHT = "10.0.1.1", "10.0.2.2"


def packed(address: str) -> bytes:
    return bytes(map(int, address.split(".")))


def routed(world: World, *, right_mtu: int = 1500, forwarding: bool | None = None):
    """h1 - left - r - right - h2."""
    h1 = world.host("h1", f"{LEFT}/24", wire="left", routes=[("0.0.0.0/0", "10.0.1.254")])
    router = world.host(
        "r",
        interfaces=[
            {"address": "10.0.1.254/24", "wire": "left"},
            {"address": "10.0.2.254/24", "wire": "right", "mtu": right_mtu},
        ],
        forwarding=forwarding,
    )
    h2 = world.host("h2", f"{RIGHT}/24", wire="right", routes=[("0.0.0.0/0", "10.0.2.254")])
    return h1, router, h2


def packets(world: World, wire: str, host: str) -> list[tuple[ipv4.Ipv4Header, bytes]]:
    """The IP packets that a host has sent on a wire since they were last taken."""
    found = []
    for item in world.wire(wire).take():
        header, body = ethernet.decode(item.frame)
        if item.host == host and header.type == ethernet.TYPE_IPV4:
            found.append(ipv4.decode(body))
    return found


def inject(world: World, wire: str, host: Host, ifindex: int, packet: bytes) -> None:
    """Hand a packet to one interface of a host, from a station with the address .9 there."""
    interface = host.config.interfaces[ifindex - 1]
    source = b"\x02\x00" + interface.address[:3] + b"\x09"
    header = ethernet.EthernetHeader(interface.mac, source, ethernet.TYPE_IPV4)
    world.wire(wire).inject(ethernet.encode(header, packet), to=host.name)


def test_a_connection_crosses_the_router():
    world = World()
    h1, router, h2 = routed(world)
    client, server = connected(world, h1, h2, to=RIGHT)
    programs = Program(h1, client, b"question" * 10_000), Program(h2, server, b"answer" * 20_000)
    exchange(world, *programs)
    assert bytes(programs[0].received) == b"answer" * 20_000
    assert bytes(programs[1].received) == b"question" * 10_000
    assert router.counter("ip", "ip_forw_datagrams") > 100


def test_each_hop_takes_one_from_the_ttl():
    world = World()
    h1, _, h2 = routed(world)
    connected(world, h1, h2, to=RIGHT)
    assert {header.ttl for header, _ in packets(world, "left", "h1")} == {64}
    assert {header.ttl for header, _ in packets(world, "right", "r")} == {63}


def test_a_ttl_that_is_used_up_is_reported_by_the_router():
    world = World()
    _, router, _ = routed(world)
    probe = ipv4.encode(
        ipv4.Ipv4Header(packed("10.0.1.9"), packed(RIGHT), 17, ttl=1), b"\0\1\0\2\0\x08\0\0"
    )
    world.wire("left").take()
    world.host("probe", "10.0.1.9/24", wire="left")  # somebody must answer the router's ARP
    inject(world, "left", router, 1, probe)
    world.advance(SECOND)
    [(header, body)] = packets(world, "left", "r")
    message = icmp.decode(body)
    assert header.dst == packed("10.0.1.9")
    assert (message.type, message.code) == (icmp.TIME_EXCEEDED, icmp.TTL_EXCEEDED)
    assert probe[:20] in message.body
    assert packets(world, "right", "r") == []


def test_a_packet_larger_than_the_next_link_is_fragmented_and_reassembled():
    world = World()
    h1, router, h2 = routed(world, right_mtu=600)
    world.host("probe", "10.0.1.9/24", wire="left")
    body = bytes(range(256)) * 4
    ping = icmp.encode(icmp.IcmpMessage(icmp.ECHO_REQUEST, 0, 1 << 16 | 1, body))
    packet = ipv4.encode(ipv4.Ipv4Header(packed("10.0.1.9"), packed(RIGHT), 1, ident=77), ping)
    inject(world, "left", router, 1, packet)
    world.advance(2 * SECOND)
    outward = packets(world, "right", "r")
    assert len(outward) == 2
    assert outward[0][0].more_fragments
    assert outward[1][0].offset == len(outward[0][1])
    assert h2.counter("ip", "ip_reasm_oks") == 1
    forwarded = [
        icmp.decode(part)
        for header, part in packets(world, "left", "r")
        if header.protocol == ipv4.PROTOCOL_ICMP
    ]
    assert [(item.type, item.body) for item in forwarded] == [(icmp.ECHO_REPLY, body)]
    assert h1.counter("ip", "ip_reasm_oks") == 0


def test_a_small_link_behind_the_router_is_discovered():
    world = World()
    h1, router, h2 = routed(world, right_mtu=600)
    client, server = connected(world, h1, h2, to=RIGHT)
    data = bytes(200_000)
    programs = Program(h1, client, data), Program(h2, server, b"")
    exchange(world, *programs, limit=600 * SECOND)
    assert bytes(programs[1].received) == data
    assert router.counter("ip", "ip_frag_creates") == 0  # TCP sets DF
    assert max(len(body) for _, body in packets(world, "right", "r")) <= 580


def test_a_host_that_does_not_forward_is_a_dead_end():
    world = World()
    h1, router, h2 = routed(world, forwarding=False)
    listener(h2)
    call = h1.connect(socket(h1), (RIGHT, 80), timeout=5)
    world.run(call, limit=10 * SECOND)
    assert call.error.name == "EINPROGRESS"
    assert router.counter("ip", "ip_forw_datagrams") == 0


def test_a_network_that_the_router_does_not_know_is_unreachable():
    world = World()
    h1, _, _ = routed(world)
    with pytest.raises(SocketError) as caught:
        world.wait(h1.connect(socket(h1), ("192.0.2.1", 80)), limit=600 * SECOND)
    assert caught.value.name == "ENETUNREACH"


def test_a_host_of_a_connected_network_that_is_not_there_is_unreachable():
    world = World()
    h1, _, _ = routed(world)
    with pytest.raises(SocketError) as caught:
        world.wait(h1.connect(socket(h1), ("10.0.2.77", 80)), limit=600 * SECOND)
    assert caught.value.name == "EHOSTUNREACH"


def test_a_router_can_be_connected_to_at_either_address():
    world = World()
    h1, router, _ = routed(world)
    listener(router)
    for address in ("10.0.1.254", "10.0.2.254"):
        world.wait(h1.connect(socket(h1), (address, 80)), limit=10 * SECOND)
