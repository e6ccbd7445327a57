"""A peer that is gone: the retries, and the errno after them, in virtual minutes."""

from __future__ import annotations

from sim_programs import SECOND, Program, connected, exchange, listener, socket, two_hosts

from plywire.lab.simulator import World

MINUTE = 60 * SECOND


def test_a_peer_that_vanishes_in_mid_transfer_is_timed_out_after_the_retries():
    world = World()
    h1, h2 = two_hosts(world)
    client, _ = connected(world, h1, h2)
    h1.send(client, b"lost").result()
    world.wire("lan", loss=1.0)
    h1.send(client, b"x" * 1000).result()
    waiting = h1.recv(client, 10)
    began = world.now
    world.advance(5 * MINUTE)
    assert not waiting.done
    world.run(waiting, limit=60 * MINUTE)
    assert waiting.error.name in ("ETIMEDOUT", "EHOSTUNREACH")  # the last soft error, as Linux
    # 15 retries from 200 ms, doubled up to 64 s: 550.2 s
    assert 9 * MINUTE < world.now - began < 10 * MINUTE
    assert h1.describe("tcp", "connections") == []


def test_a_peer_behind_a_dead_wire_without_arp_is_etimedout():
    world = World()
    world.wire("lan", raw=True)
    h1, h2 = two_hosts(world)
    client, _ = connected(world, h1, h2)
    world.wire("lan", loss=1.0)
    h1.send(client, b"x").result()
    call = h1.recv(client, 10)
    began = world.now
    world.run(call, limit=60 * MINUTE)
    assert call.error.name == "ETIMEDOUT"
    assert 540 * SECOND < world.now - began < 600 * SECOND


def test_with_linuxs_longest_timeout_it_takes_as_long_as_there():
    """15 retries from 200 ms, doubled up to 120 s: 924.6 s (tcp_retries2)."""
    world = World()
    world.wire("lan", raw=True)
    h1, h2 = two_hosts(world, tcp={"rto_max": 120 * SECOND})
    client, _ = connected(world, h1, h2)
    world.wire("lan", loss=1.0)
    h1.send(client, b"x").result()
    call = h1.recv(client, 10)
    began = world.now
    world.run(call, limit=60 * MINUTE)
    assert call.error.name == "ETIMEDOUT"
    assert 900 * SECOND < world.now - began < 1000 * SECOND


def test_connect_to_nobody_is_etimedout_after_the_syn_retries():
    world = World()
    world.wire("lan", raw=True)
    h1 = world.host("h1", "10.0.0.1/24")
    call = h1.connect(socket(h1), ("10.0.0.2", 80))
    world.run(call, limit=60 * MINUTE)
    assert call.error.name == "ETIMEDOUT"
    assert world.now == 127 * SECOND  # 1 + 2 + 4 + ... + 64


def test_fewer_retries_are_an_option_of_the_host():
    world = World()
    world.wire("lan", raw=True)
    h1 = world.host("h1", "10.0.0.1/24", tcp={"syn_retries": 2})
    call = h1.connect(socket(h1), ("10.0.0.2", 80))
    world.run(call, limit=MINUTE)
    assert call.error.name == "ETIMEDOUT"
    assert world.now == 7 * SECOND


def test_a_silent_peer_of_an_idle_connection_is_not_noticed():
    world = World()
    h1, h2 = two_hosts(world)
    client, _ = connected(world, h1, h2)
    call = h1.recv(client, 1)
    world.wire("lan", loss=1.0)
    world.advance(100 * MINUTE)
    assert not call.done


def test_keep_alive_notices_a_silent_peer():
    world = World()
    world.wire("lan", raw=True)
    h1, h2 = two_hosts(world)
    client, _ = connected(world, h1, h2)
    for name, value in (("TCP_KEEPIDLE", 60), ("TCP_KEEPINTVL", 10), ("TCP_KEEPCNT", 3),
                        ("SO_KEEPALIVE", 1)):  # fmt: skip
        h1.set_option(client, name, value).result()
    call = h1.recv(client, 1)
    world.advance(10 * MINUTE)
    assert not call.done, "the peer answers"
    world.wire("lan", loss=1.0)
    began = world.now
    world.run(call, limit=10 * MINUTE)
    assert call.error.name == "ETIMEDOUT"
    assert world.now - began <= 90 * SECOND


def test_a_peer_that_comes_back_in_time_is_forgiven():
    world = World()
    h1, h2 = two_hosts(world)
    client, server = connected(world, h1, h2)
    programs = Program(h1, client, b"u" * 500_000), Program(h2, server, b"d" * 500_000)
    world.wire("lan", loss=1.0)
    world.advance(5 * MINUTE)
    world.wire("lan", loss=0.0)
    exchange(world, *programs)
    assert bytes(programs[1].received) == b"u" * 500_000


def test_a_peer_that_was_reset_answers_with_rst():
    world = World()
    h1, h2 = two_hosts(world)
    client, _ = connected(world, h1, h2)
    h2.reset()
    listener(h2)
    call = h1.recv(client, 10)
    h1.send(client, b"do you remember me?").result()
    world.run(call, limit=MINUTE)
    assert call.error.name == "ECONNRESET"
