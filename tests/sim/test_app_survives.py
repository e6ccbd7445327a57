"""app is killed at any moment, and its sockets live (docs/decisions/0010).

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
from plywire.lab.simulator.node import Node
from plywire.messages import Closed
from plywire.region import slot_size
from plywire.roles import APP, TCP
from services.app.survival import CONTROL

STRIDE = 8
SEEDS = 2000 if os.environ.get("PLYWIRE_SOAK") else 40


def steps(who: str) -> int:
    return session(lambda step: False, who, roles=(APP,)).steps


@pytest.mark.parametrize("who", ["h1", "h2"])
@pytest.mark.parametrize("part", range(STRIDE))
def test_app_dies_between_any_two_steps_of_a_connection(who, part):
    total = steps(who)
    assert total > 50
    for moment in range(1 + part, total + 1, STRIDE):
        fate = session(lambda step, moment=moment: step == moment, who, roles=(APP,))
        assert fate.deaths == 1, moment


@pytest.mark.parametrize("seed", range(SEEDS))
def test_both_apps_die_again_and_again(seed):
    rng = random.Random(seed)
    rate = rng.choice((0.002, 0.01, 0.03))
    session(lambda step: rng.random() < rate, "both", seed, roles=(APP,))


@pytest.mark.parametrize("seed", range(SEEDS))
def test_apps_and_tcps_die_again_and_again(seed):
    """In any order, also before one has heard of the death of the other."""
    rng = random.Random(seed)
    session(lambda step: rng.random() < 0.005, "both", seed, roles=(APP, TCP))


@pytest.mark.parametrize("seed", range(SEEDS // 2))
def test_both_apps_die_on_a_bad_wire(seed):
    rng = random.Random(seed)
    bad = {"loss": 0.05, "reorder": 0.1, "duplicate": 0.05}
    session(lambda step: rng.random() < 0.01, "both", seed, roles=(APP,), **bad)


@pytest.mark.parametrize("who", ["h1", "h2"])
def test_large_buffers_are_kept_too(who):
    rng = random.Random(who)
    big = random.Random(1).randbytes(3_000_000)
    fate = session(
        lambda step: rng.random() < 0.002, who, up=big, down=big[:1_000_000], roles=(APP,)
    )
    assert fate.deaths > 3


def test_what_the_program_may_not_have_got_can_be_had_again():
    world, _, h2, _, server = pair()
    for offset, data in enumerate((b"read by", b" nobody")):
        for _ in range(3):
            got = world.wait(h2.recv(server, 7, offset=7 * offset), limit=SECOND)
            assert got.data == data
            h2.crash("app")
    with pytest.raises(SocketError) as caught:
        world.wait(h2.recv(server, 7, offset=6))
    assert caught.value.name == "EINVAL"


def test_a_listener_with_its_options_and_what_is_bound_are_kept():
    world = World()
    h1, h2 = two_hosts(world)
    listening, bound = socket(h2), socket(h2)
    world.wait(h2.set_option(listening, "TCP_NODELAY", 1))
    world.wait(h2.bind(listening, ("", 80)))
    world.wait(h2.listen(listening, 5))
    local = world.wait(h2.bind(bound, ("10.0.0.2", 0)))
    h2.crash("app")
    world.advance(SECOND)
    assert world.wait(h2.get_socket(bound)).local == local
    accepted = h2.accept(listening)
    client = socket(h1)
    world.wait(h1.connect(client, ("10.0.0.2", 80)), limit=SECOND)
    server = world.wait(accepted, limit=SECOND).descriptor
    assert world.wait(h2.get_option(server, "TCP_NODELAY")) == 1
    listener(h1)
    assert world.wait(h2.connect(bound, ("10.0.0.1", 80)), limit=SECOND).local == local


def test_a_socket_that_was_only_made_is_kept():
    world = World()
    h1, h2 = two_hosts(world)
    session_of = world.wait(h1.open_session())
    made = world.wait(h1.create_socket(session=session_of))
    world.wait(h1.set_option(made, "TCP_NODELAY", 1))
    h1.crash("app")
    assert world.wait(h1.get_option(made, "TCP_NODELAY")) == 1
    later = world.wait(h1.create_socket())
    assert later > made
    listener(h2)
    world.wait(h1.connect(made, ("10.0.0.2", 80)), limit=SECOND)


def test_a_program_that_does_not_come_back_loses_its_sockets():
    world = World()
    h1, h2 = two_hosts(world)
    owner = world.wait(h1.open_session())
    listening = listener(h2)
    accepted = h2.accept(listening)
    client = world.wait(h1.create_socket(session=owner))
    world.wait(h1.connect(client, ("10.0.0.2", 80)))
    server = world.wait(accepted).descriptor
    h1.crash("app")
    ended = h2.recv(server, 1)
    world.advance(5 * SECOND)
    assert not ended.done
    assert world.wait(ended, limit=6 * SECOND).end_of_stream
    assert world.wait(h1.list_sockets()) == []


def test_an_app_that_had_not_met_tcp_yet_is_recovered_too():
    world = World()
    h1, h2 = two_hosts(world)
    listener(h2)
    layer = h1._make(APP)
    h1.nodes[APP].start(layer, h1._generation(APP), h1._keep(APP, layer))  # and is not introduced
    owner = world.wait(h1.open_session())
    bound, client = (world.wait(h1.create_socket(session=owner)) for _ in range(2))
    naming = h1.bind(bound, ("", 7))
    opening = h1.connect(client, ("10.0.0.2", 80))
    h1.crash(APP)
    assert world.wait(naming, limit=SECOND) == ("0.0.0.0", 7)
    assert world.wait(opening, limit=SECOND).remote == ("10.0.0.2", 80)
    world.advance(11 * SECOND)  # nobody has come back to the session
    assert world.wait(h1.list_sockets()) == []


def test_an_app_that_died_while_it_closed_a_session_goes_on_with_that():
    """The table says that the session is gone, and the socket's region does not yet."""
    world = World()
    h1, _ = two_hosts(world)
    owner = world.wait(h1.open_session())
    made = world.wait(h1.create_socket(session=owner))
    survival = h1.layer(APP).context.survival
    survival._save = lambda item: None
    h1.layer(APP)._sessions.pop(owner)
    survival.table = True
    survival.commit()
    h1.crash(APP)
    assert [row["descriptor"] for row in h1.describe(APP, "sockets")] == [made]
    world.advance(11 * SECOND)
    assert world.wait(h1.list_sockets()) == []


def test_a_session_that_was_closed_stays_closed():
    world = World()
    h1, _ = two_hosts(world)
    owner = world.wait(h1.open_session())
    world.wait(h1.create_socket(session=owner))
    h1.close_session(owner)
    h1.crash("app")
    assert h1.describe("app", "sessions") == {}
    assert world.wait(h1.list_sockets()) == []


def test_a_refusal_and_a_reset_are_told_after_a_death():
    world, h1, h2, client, server = pair()
    h1.recv(client, 100).result()
    h2.close_socket(server)  # with unread bytes: RST
    refused = socket(h1)
    attempt = h1.connect(refused, ("10.0.0.2", 99), timeout=0)
    world.advance(SECOND)
    assert attempt.error.name == "EINPROGRESS"
    h1.crash("app")
    world.advance(SECOND)
    assert world.wait(h1.get_option(refused, "SO_ERROR")) == 111
    with pytest.raises(SocketError) as caught:
        world.wait(h1.recv(client, 100), limit=SECOND)
    assert (caught.value.name, caught.value.cause) == ("ECONNRESET", "RST received")


def test_bytes_that_came_before_the_end_of_a_connection_outlive_it():
    """The connection is over on both sides, and the program has not read: tcp keeps the bytes until
    it has, through any number of deaths."""
    world, h1, h2, client, server = pair()
    h2.recv(server, 100).result()
    h1.recv(client, 100).result()
    h2.send(server, b"last words").result()
    h1.shutdown(client, "write")
    h2.close_socket(server)
    world.advance(120 * SECOND)
    assert h1.describe("tcp", "connections") == []
    for role in (APP, TCP, APP):
        h1.crash(role)
        world.advance(SECOND)
    offset = len(b"nor this")
    assert world.wait(h1.recv(client, 4, offset=offset)).data == b"last"
    h1.crash("app")
    got = world.wait(h1.recv(client, 100, offset=offset + 4))
    assert got.data == b" words"
    assert world.wait(h1.recv(client, 100, offset=offset + 10)).end_of_stream
    assert not h1.layer("tcp").stack.survival._ended
    h1.close_socket(client)
    world.advance(SECOND)
    assert set(h1.memory["tcp"].names()) <= {"stack", "slab-0"}


@pytest.mark.parametrize("role", [APP, TCP])
def test_what_was_sent_right_before_close_arrives(role):
    """tcp has not heard of the bytes, nor of Close, when one of the two dies."""
    world = World()
    h1, h2 = two_hosts(world)
    client, server = connected(world, h1, h2)
    program = Program(h2, server, b"")
    layer = h1.layer("app")
    out = layer.outputs
    layer.outputs = lambda: [each for each in out() if each.to != TCP]  # all of it is lost
    h1.send(client, UP).result()
    h1.close_socket(client)
    layer.outputs = out
    h1.crash(role)
    exchange(world, program)
    assert bytes(program.received) == UP


def test_what_was_meant_for_the_dead_app_does_not_reach_its_heir(monkeypatch):
    """ZeroMQ hands on to the next process what the one before had not taken. The bytes went to the
    dead one, the Closed behind them comes to its heir: the stream is not at its end by that."""
    world, h1, h2, client, server = pair()
    h2.recv(server, 100).result()
    assert h1.recv(client, 3, offset=0).result().data == b"nor"
    (row,) = h1.describe("tcp", "connections")
    greet = Node.greet

    def late(node, other) -> None:
        world.post(world.now, node, Closed(0, row["handle"], "", ""), TCP)
        greet(node, other)
        world.post(world.now, node, Closed(0, row["handle"], "", ""), TCP)

    monkeypatch.setattr(Node, "greet", late)
    h1.crash("app")
    assert h1.counter("app", "drop_for_predecessor") == 2
    assert world.wait(h1.recv(client, 100, offset=3), limit=SECOND).data == b" this"
    h2.send(server, b", but this").result()
    assert world.wait(h1.recv(client, 100, offset=8), limit=SECOND).data == b", but this"


def test_a_swap_of_tcp_between_two_deaths():
    world, _, h2, _, server = pair()
    assert world.wait(h2.recv(server, 4, offset=0)).data == b"read"
    h2.crash("app")
    h2.replace("tcp")
    h2.crash("app")
    h2.crash("tcp")
    assert world.wait(h2.recv(server, 100, offset=0), limit=SECOND).data == b"read"
    assert world.wait(h2.recv(server, 100, offset=4), limit=SECOND).data == b" by nobody yet"


@pytest.mark.parametrize("settings", [{"app": {"survive": False}}, {"tcp": {"survive": False}}])
def test_without_survival_a_killed_app_closes_what_its_programs_had_open(settings):
    world = World()
    h1, h2 = world.host("h1", "10.0.0.1/24", **settings), world.host("h2", "10.0.0.2/24")
    client, server = connected(world, h1, h2)
    waiting = h2.recv(server, 10)
    h1.crash("app")
    world.run(waiting, limit=10 * SECOND)
    assert waiting.error.name == "ECONNRESET"
    assert h1.describe("tcp", "connections") == []
    with pytest.raises(SocketError) as caught:
        world.wait(h1.recv(client, 10))
    assert caught.value.name in ("EBADF", "ECONNRESET")


def test_another_tcp_that_keeps_nothing_is_told_of_listeners_again():
    world = World()
    lite = {"tcp": "services.tcp_lite:create"}
    h1 = world.host("h1", "10.0.0.1/24")
    h2 = world.host("h2", "10.0.0.2/24", implementations=lite)
    listening = listener(h2)
    h2.crash("app")
    world.advance(SECOND)
    accepted = h2.accept(listening)
    client = socket(h1)
    world.wait(h1.connect(client, ("10.0.0.2", 80)), limit=SECOND)
    server = world.wait(accepted, limit=SECOND).descriptor
    h2.crash("app")  # now with a connection, which ends
    with pytest.raises(SocketError) as caught:
        world.wait(h2.recv(server, 1), limit=SECOND)
    assert caught.value.name == "ECONNRESET"
    with pytest.raises(SocketError) as caught:
        world.wait(h1.recv(client, 1), limit=SECOND)
    assert caught.value.name == "ECONNRESET"


def test_a_damaged_socket_ends_and_its_peer_hears_of_it():
    world, h1, h2, client, server = pair()
    other = listener(h1, 7)
    h1.recv(client, 100).result()
    h2.recv(server, 100).result()

    piece = h1.memory["app"].pieces["slab-0"]
    for slot in range(2):  # of the first region: the one that counts, and the other
        piece[64 + slot * slot_size(CONTROL) + 60] ^= 0xFF
    h1.crash("app")
    world.advance(SECOND)
    assert h1.counter("app", "region_damaged") == 1
    assert any("cannot be recovered" in line for line in h1.told)
    with pytest.raises(SocketError) as caught:
        world.wait(h1.recv(client, 1))
    assert caught.value.name == "EBADF"
    with pytest.raises(SocketError) as caught:
        world.wait(h2.recv(server, 1), limit=SECOND)
    assert caught.value.name == "ECONNRESET"
    accepted = h1.accept(other)  # the other one is there
    world.wait(h2.connect(socket(h2), ("10.0.0.1", 7)), limit=SECOND)
    world.wait(accepted, limit=SECOND)


def flip(pieces: dict[str, bytearray]) -> None:
    pieces["stack"][9] ^= 1


@pytest.mark.parametrize("harm", [flip, dict.clear], ids=["damaged", "deleted"])
def test_without_its_table_all_ends_and_the_host_works(harm):
    world, h1, h2, _, server = pair()
    h2.recv(server, 100).result()
    harm(h1.memory["app"].pieces)
    h1.crash("app")
    world.advance(SECOND)
    assert world.wait(h1.list_sockets()) == []
    assert h1.describe("tcp", "connections") == []
    with pytest.raises(SocketError) as caught:
        world.wait(h2.recv(server, 1), limit=SECOND)
    assert caught.value.name == "ECONNRESET"
    h2.close_socket(server)
    accepted = h2.accept(listener(h2, 81))
    world.wait(h1.connect(socket(h1), ("10.0.0.2", 81)), limit=SECOND)
    world.wait(accepted, limit=SECOND)


def test_no_room_costs_survival_and_nothing_else():
    world = World()
    h1, h2 = two_hosts(world)
    create = h1.memory["app"].create

    def full(name: str, size: int):
        raise OSError(28, "No space left on device")

    h1.memory["app"].create = full
    client, server = connected(world, h1, h2)
    exchange(world, Program(h1, client, UP), Program(h2, server, DOWN))
    assert h1.counter("app", "region_no_room") > 0
    assert any("would not survive" in line for line in h1.told)
    h1.memory["app"].create = create
    client = socket(h1)
    world.wait(h1.connect(client, ("10.0.0.2", 80)), limit=SECOND)
    h1.crash("app")
    world.advance(10 * MS)
    assert world.wait(h1.get_socket(client)).state == "ESTABLISHED"
