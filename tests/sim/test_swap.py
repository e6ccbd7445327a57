"""Layers replaced and killed in mid-transfer: what a connection survives, and what it does not."""

from __future__ import annotations

import pytest
from sim_programs import MS, SECOND, Program, connected, exchange, listener, socket, two_hosts

from plywire.lab.simulator import World
from plywire.roles import LAYERS

UP = bytes(range(256)) * 1200
DOWN = bytes(reversed(range(256))) * 900


def transfer(world: World):
    """Two hosts in the middle of a transfer both ways, and their programs."""
    world.wire("lan", delay=2 * MS, rate=100_000_000)
    h1, h2 = two_hosts(world)
    client, server = connected(world, h1, h2)
    programs = Program(h1, client, UP), Program(h2, server, DOWN)
    world.advance(12 * MS)
    assert 0 < len(programs[1].received) < len(UP)
    return h1, h2, programs


def arrived(programs) -> None:
    assert bytes(programs[1].received) == UP
    assert bytes(programs[0].received) == DOWN


@pytest.mark.parametrize("role", ["tcp", "ip", "link"])
def test_a_layer_is_replaced_in_mid_transfer(role):
    world = World(strict=True)
    h1, h2, programs = transfer(world)
    for host in (h1, h2):
        before = host.layer(role)
        host.replace(role)
        assert host.layer(role) is not before
    exchange(world, *programs)
    arrived(programs)


@pytest.mark.parametrize("role", ["tcp", "ip", "link"])
def test_a_layer_is_replaced_again_and_again(role):
    world = World()
    h1, h2, programs = transfer(world)
    for _ in range(40):
        h1.replace(role)
        world.advance(1 * MS)
        h2.replace(role)
        world.advance(1 * MS)
    exchange(world, *programs)
    arrived(programs)


def test_app_is_replaced_and_its_connections_go_on():
    world = World()
    h1, h2 = two_hosts(world)
    client, server = connected(world, h1, h2)
    h1.send(client, b"before ").result()
    world.advance(SECOND)
    waiting = h2.recv(server, 7)
    assert waiting.result().data == b"before "
    interrupted = h2.recv(server, 100)
    h1.replace("app")
    h2.replace("app")
    assert interrupted.error.name == "EINTR"
    h1.send(client, b"after").result()
    assert world.wait(h2.recv(server, 100), limit=SECOND).data == b"after"
    sending = h2.send(server, UP)
    taken = b""
    while len(taken) < len(UP):
        taken += world.wait(h1.recv(client, 1 << 20), limit=SECOND).data
        h1.replace("app")
    assert taken == UP
    assert sending.error is None


@pytest.mark.parametrize("role", ["ip", "link"])
def test_a_packet_layer_is_killed_in_mid_transfer(role):
    world = World()
    h1, h2, programs = transfer(world)
    h1.crash(role)
    world.advance(3 * MS)
    h2.crash(role)
    exchange(world, *programs)
    arrived(programs)


def test_both_packet_layers_of_both_hosts_are_killed_every_50_ms():
    world = World()
    h1, h2, programs = transfer(world)
    for _ in range(10):
        for host in (h1, h2):
            host.crash("ip")
            host.crash("link")
        world.advance(50 * MS)
    exchange(world, *programs)
    arrived(programs)


def test_a_killed_tcp_that_keeps_nothing_resets_its_connections():
    world = World()
    h1, h2 = two_hosts(world, tcp={"survive": False})
    client, server = connected(world, h1, h2)
    waiting = h1.recv(client, 10)
    h1.crash("tcp")
    assert waiting.error.name == "ECONNRESET"
    assert "TCP" in waiting.error.cause
    call = h2.recv(server, 10)
    h2.send(server, b"is anybody there?").result()
    world.run(call, limit=10 * SECOND)
    assert call.error.name == "ECONNRESET"  # the new tcp knows no such connection: RST


def test_a_listener_outlives_its_tcp():
    world = World()
    h1, h2 = two_hosts(world)
    listening = listener(h2)
    h2.crash("tcp")
    accepted = h2.accept(listening)
    world.wait(h1.connect(socket(h1), ("10.0.0.2", 80)), limit=10 * SECOND)
    assert world.wait(accepted, limit=SECOND).remote[0] == "10.0.0.1"


@pytest.mark.parametrize("role", LAYERS)
def test_a_host_at_rest_is_replaced_and_works(role):
    world = World()
    h1, h2 = two_hosts(world)
    h1.replace(role)
    h2.replace(role)
    client, server = connected(world, h1, h2)
    exchange(world, Program(h1, client, b"a"), Program(h2, server, b"b"))
