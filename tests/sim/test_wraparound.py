"""Sequence numbers that cross 2**32 in mid-transfer, in either direction."""

from __future__ import annotations

import pytest
from sim_programs import MS, SECOND, Program, exchange, listener, socket, two_hosts

from plywire.lab.simulator import World
from plywire.seq import MOD
from plywire.wire import ethernet, ipv4, tcp

TICK = 4_000
"""Nanoseconds by which an initial sequence number grows by one (RFC 9293 section 3.4.1)."""
DATA = bytes(range(256)) * 1024


def connection(start: int):
    """A connection of fixed ports in a world whose clock began at `start`."""
    world = World(seed=5, start=start)
    h1, h2 = two_hosts(world)
    accepted = h2.accept(listener(h2))
    client = socket(h1)
    h1.bind(client, ("10.0.0.1", 40_000)).result()
    world.wait(h1.connect(client, ("10.0.0.2", 80)), limit=SECOND)
    return world, h1, client, h2, world.wait(accepted, limit=SECOND).descriptor


def sequence_numbers(world: World, host: str) -> list[int]:
    found = []
    for item in world.wire("lan").take():
        header, packet = ethernet.decode(item.frame)
        if item.host == host and header.type == ethernet.TYPE_IPV4:
            ip, body = ipv4.decode(packet)
            found.append(tcp.decode(body, ip.src, ip.dst)[0].seq)
    return found


def start_for(host: str, wanted: int) -> int:
    """When the clock must begin so that `host` begins at about the sequence number `wanted`.

    The number is a keyed hash and a clock; equal seeds have equal keys.
    """
    world, *_ = connection(0)
    return (wanted - sequence_numbers(world, host)[0]) % MOD * TICK


@pytest.mark.parametrize("impaired", [False, True])
@pytest.mark.parametrize("host", ["h1", "h2"])
@pytest.mark.parametrize("before", [1, 100, 50_000, 130_000])
def test_a_stream_crosses_the_end_of_the_sequence_space(host, before, impaired):
    world, h1, client, h2, server = connection(start_for(host, MOD - before))
    if impaired:
        world.wire("lan", delay=1 * MS, loss=0.05, reorder=0.1, duplicate=0.05)
    programs = Program(h1, client, DATA), Program(h2, server, DATA[::-1])
    exchange(world, *programs)
    assert bytes(programs[1].received) == DATA
    assert bytes(programs[0].received) == DATA[::-1]
    numbers = sequence_numbers(world, host)
    assert MOD - 2 * before - 64 <= numbers[0] < MOD
    assert max(numbers[-3:]) <= len(DATA) + 1  # the end of the stream, behind its FIN


def test_the_buffers_are_full_while_it_crosses():
    world, h1, client, h2, server = connection(start_for("h1", MOD - 300_000))
    sending = [h1.send(client, DATA * 4) for _ in range(4)]
    world.advance(60 * SECOND)
    assert not sending[-1].done, "the reader has not read"
    taken = bytearray()
    while len(taken) < len(DATA) * 16:
        taken += world.wait(h2.recv(server, 65_536), limit=60 * SECOND).data
    assert bytes(taken) == DATA * 16
