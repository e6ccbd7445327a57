"""tcp is killed at any moment, and its connections live (docs/decisions/0007); and what holds
alike for tcp and app.

PLYWIRE_SOAK=1 takes 2,000 seeds of random moments."""

from __future__ import annotations

import os
import random

import pytest
from mortal import DOWN, UP, session
from sim_programs import (
    MS,
    SECOND,
    Program,
    connected,
    exchange,
    listener,
    pair,
    socket,
    two_hosts,
)

from plywire.errors import SocketError
from plywire.lab.simulator import World
from plywire.roles import APP, TCP

SEEDS = 2000 if os.environ.get("PLYWIRE_SOAK") else 40


def test_the_first_connection_finds_a_place_that_is_made():
    """A slab takes 0.3 ms to make, and connect() would wait for it."""
    world = World()
    h1, h2 = two_hosts(world)
    made = []
    for host in (h1, h2):
        memory = host.memory["tcp"]
        assert "slab-0" in memory.names()
        create = memory.create
        memory.create = lambda name, size, create=create: (made.append(name), create(name, size))[1]
    connected(world, h1, h2)
    assert not [name for name in made if name.startswith("slab")]
    assert made  # h2's listener


def steps(who: str) -> int:
    return session(lambda step: False, who).steps


@pytest.mark.parametrize("who", ["h1", "h2"])
@pytest.mark.parametrize("part", range(8))
def test_tcp_dies_between_any_two_steps_of_a_connection(who, part):
    total = steps(who)
    assert total > 100
    for moment in range(1 + part, total + 1, 8):
        assert session(lambda step, moment=moment: step == moment, who).deaths == 1, moment


@pytest.mark.parametrize("seed", range(SEEDS))
def test_both_tcps_die_again_and_again(seed):
    rng = random.Random(seed)
    rate = rng.choice((0.002, 0.01, 0.03))
    session(lambda step: rng.random() < rate, "both", seed)


@pytest.mark.parametrize("seed", range(SEEDS // 2))
def test_both_tcps_die_on_a_bad_wire(seed):
    rng = random.Random(seed)
    session(lambda step: rng.random() < 0.01, "both", seed, loss=0.05, reorder=0.1, duplicate=0.05)


@pytest.mark.parametrize("who", ["h1", "h2"])
def test_large_buffers_are_kept_too(who):
    """The rings of the region grow, and what is in them when they do is not lost."""
    rng = random.Random(who)
    big = random.Random(1).randbytes(3_000_000)
    fate = session(lambda step: rng.random() < 0.002, who, up=big, down=big[:1_000_000])
    assert fate.deaths > 3


@pytest.mark.parametrize("tcp", [{"sack": False}, {"timestamps": False}, {"window_scaling": False}])
def test_tcp_dies_with_fewer_options(tcp):
    rng = random.Random(7)
    world = World()
    world.wire("lan", delay=2 * MS, rate=100_000_000, loss=0.02)
    h1, h2 = two_hosts(world, tcp=tcp)
    client, server = connected(world, h1, h2)
    programs = Program(h1, client, UP * 10), Program(h2, server, DOWN * 10)
    for _ in range(12):
        world.advance(rng.randrange(30) * MS)
        rng.choice((h1, h2)).crash("tcp")
    exchange(world, *programs)
    assert bytes(programs[1].received) == UP * 10
    assert bytes(programs[0].received) == DOWN * 10


@pytest.mark.parametrize("role", [TCP, APP])
def test_what_nobody_has_read_is_kept(role):
    world, h1, h2, client, server = pair()
    h1.crash(role)
    h2.crash(role)
    assert world.wait(h2.recv(server, 100)).data == b"read by nobody yet"
    assert world.wait(h1.recv(client, 100)).data == b"nor this"


@pytest.mark.parametrize("role", [TCP, APP])
def test_calls_that_wait_go_on(role):
    world, h1, h2, client, server = pair()
    h2.recv(server, 100).result()
    waiting = h2.recv(server, 100, offset=18)
    accepted = h2.accept(listener(h2, 81))
    h2.crash(role)
    h1.crash(role)
    h1.send(client, b"after").result()
    assert world.wait(waiting, limit=SECOND).data == b"after"
    world.wait(h1.connect(socket(h1), ("10.0.0.2", 81)), limit=SECOND)
    assert world.wait(accepted, limit=SECOND).remote[0] == "10.0.0.1"


@pytest.mark.parametrize("role", [TCP, APP])
def test_a_connection_that_nobody_has_accepted_is_kept(role):
    world = World()
    h1, h2 = two_hosts(world)
    listening = listener(h2)
    client = socket(h1)
    world.wait(h1.connect(client, ("10.0.0.2", 80)))
    h1.send(client, b"early").result()
    world.advance(SECOND)
    h2.crash(role)
    server = world.wait(h2.accept(listening), limit=SECOND).descriptor
    assert world.wait(h2.recv(server, 10), limit=SECOND).data == b"early"
    (row,) = h2.describe("tcp", "listeners")
    assert row["receive_queue"] == 0


def test_time_wait_is_kept():
    world, h1, h2, client, server = pair()
    h1.recv(client, 100).result()
    h2.recv(server, 100).result()
    h1.close_socket(client)
    world.advance(SECOND)
    h2.close_socket(server)
    world.advance(SECOND)
    (row,) = h1.describe("tcp", "connections")
    assert row["state"] == "TIME-WAIT"
    h1.crash("tcp")
    assert [row["state"] for row in h1.describe("tcp", "connections")] == ["TIME-WAIT"]
    world.advance(61 * SECOND)
    assert h1.describe("tcp", "connections") == []


def test_a_reset_that_app_has_not_heard_of_is_said_again():
    """The program hears the true reason, whatever is lost between tcp and app."""
    world, h1, h2, client, server = pair()
    h1.recv(client, 100).result()
    out = h1.layer("tcp").outputs
    h1.layer("tcp").outputs = lambda: [each for each in out() if each.to != "app"]
    h2.close_socket(server)  # with unread bytes: RST
    world.advance(SECOND)
    assert h1.describe("tcp", "connections") == []
    h1.crash("tcp")
    with pytest.raises(SocketError) as caught:
        world.wait(h1.recv(client, 100), limit=SECOND)
    assert caught.value.name == "ECONNRESET"
    assert "RST received" in caught.value.cause
    assert not h1.layer("tcp").stack.survival._ended


@pytest.mark.parametrize("role", [TCP, APP])
def test_a_swap_and_a_death_behind_it(role):
    world, h1, h2, client, server = pair()
    for host in (h1, h2):
        host.replace(role)
        host.crash(role)
    assert world.wait(h2.recv(server, 100), limit=SECOND).data == b"read by nobody yet"
    assert world.wait(h1.recv(client, 100), limit=SECOND).data == b"nor this"
    h1.send(client, b"more").result()
    assert world.wait(h2.recv(server, 100), limit=SECOND).data == b"more"
