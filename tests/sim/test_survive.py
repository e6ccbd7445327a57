"""tcp is killed at any moment, and its connections live (docs/decisions/0007)."""

from __future__ import annotations

import random

import pytest
from mortal import Fate
from programs import MS, SECOND, Program, connected, exchange, two_hosts

from plywire.lab.simulator import World

UP = bytes(range(256)) * 100
DOWN = bytes(reversed(range(256))) * 60


def session(dies, who: str = "both", seed: int = 0, up: bytes = UP, down: bytes = DOWN, **wire):
    """connect, a transfer both ways, close; returns how often somebody died, in how many steps."""
    world = World(seed, strict=True)
    world.wire("lan", delay=2 * MS, rate=100_000_000, **wire)
    h1, h2 = two_hosts(world)
    fate = Fate(dies)
    for host in (h1, h2):
        if who in ("both", host.name):
            fate.over(host)
    client, server = connected(world, h1, h2)
    programs = Program(h1, client, up, 5000), Program(h2, server, down, 5000)
    exchange(world, *programs)
    assert bytes(programs[1].received) == up
    assert bytes(programs[0].received) == down
    world.advance(300 * SECOND)
    for host in (h1, h2):
        assert host.describe("tcp", "connections") == []
        assert host.describe("app", "waiting") == 0
        assert not host.layer("app").context.closing
        assert set(host.memory["tcp"].names()) <= {"stack"}
        assert host.counter("tcp", "tcp_estab_resets") == 0
    return fate


def steps(who: str) -> int:
    return session(lambda step: False, who).steps


@pytest.mark.parametrize("who", ["h1", "h2"])
@pytest.mark.parametrize("part", range(8))
def test_tcp_dies_between_any_two_steps_of_a_connection(who, part):
    total = steps(who)
    assert total > 100
    for moment in range(1 + part, total + 1, 8):
        assert session(lambda step, moment=moment: step == moment, who).deaths == 1, moment


@pytest.mark.parametrize("seed", range(40))
def test_both_tcps_die_again_and_again(seed):
    rng = random.Random(seed)
    rate = rng.choice((0.002, 0.01, 0.03))
    session(lambda step: rng.random() < rate, "both", seed)
