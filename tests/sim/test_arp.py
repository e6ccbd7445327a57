"""Neighbours in the simulator: what a whole host makes of ARP that works, fails, or changes."""

from __future__ import annotations

import pytest
from sim_programs import SECOND, Program, connected, exchange, listener, socket, two_hosts

from plywire.errors import SocketError
from plywire.lab.simulator import World
from plywire.wire import arp, ethernet


def arp_packets(wire, host: str) -> list[arp.ArpPacket]:
    """The ARP packets that a host has sent."""
    packets = []
    for item in wire.take():
        header, body = ethernet.decode(item.frame)
        if item.host == host and header.type == ethernet.TYPE_ARP:
            packets.append(arp.decode(body))
    return packets


def test_a_neighbour_that_does_not_answer_is_host_unreachable_at_connect():
    world = World()
    h1 = world.host("h1", "10.0.0.1/24")
    call = h1.connect(socket(h1), ("10.0.0.77", 80))
    with pytest.raises(SocketError) as caught:
        world.wait(call, limit=60 * SECOND)
    assert caught.value.name == "EHOSTUNREACH"
    assert 2 * SECOND <= world.now <= 10 * SECOND  # arp_tries requests, one a second
    asked = [
        item
        for item in arp_packets(world.wire("lan"), "h1")
        if item.target_ip == bytes((10, 0, 0, 77))
    ]
    assert len(asked) == 3


def test_no_route_is_network_unreachable_at_once():
    world = World()
    h1 = world.host("h1", "10.0.0.1/24")
    call = h1.connect(socket(h1), ("192.0.2.1", 80))
    assert call.error.name == "ENETUNREACH"
    assert world.now == 0


def test_one_lost_request_costs_a_second():
    world = World()
    h1, h2 = two_hosts(world)
    world.advance(10 * SECOND)
    world.wire("lan").drop_next(1, "h1")
    listener(h2)
    began = world.now
    world.wait(h1.connect(socket(h1), ("10.0.0.2", 80)), limit=60 * SECOND)
    assert 1 * SECOND <= world.now - began < 2 * SECOND


def test_a_connection_outlives_the_entry_of_its_neighbour():
    world = World()
    h1, h2 = two_hosts(world)
    client, server = connected(world, h1, h2)
    world.advance(3600 * SECOND)
    exchange(world, Program(h1, client, b"after an hour"), Program(h2, server, b"still there"))


def test_a_station_with_a_new_card_is_found_again():
    world = World()
    h1, h2 = two_hosts(world)
    client, server = connected(world, h1, h2)
    elsewhere = bytes.fromhex("020000000099")
    address = bytes((10, 0, 0, 2))
    wrong = arp.ArpPacket(arp.REPLY, elsewhere, address, h1.config.interfaces[0].mac,
                          h1.config.interfaces[0].address)  # fmt: skip
    header = ethernet.EthernetHeader(h1.config.interfaces[0].mac, elsewhere, ethernet.TYPE_ARP)
    world.wire("lan").inject(ethernet.encode(header, arp.encode(wrong)), to="h1")
    [row] = [item for item in h1.describe("link", "neighbours") if item["address"] == "10.0.0.2"]
    assert elsewhere.hex(":") in row.values()
    programs = Program(h1, client, b"x" * 100_000), Program(h2, server, b"y" * 100_000)
    exchange(world, *programs)
    assert bytes(programs[1].received) == b"x" * 100_000
