"""Different stacks, the same rules: the lite TCP and the full one open, use and close connections
with each other, on wires that lose, double and reorder."""

from __future__ import annotations

import pytest
from sim_programs import MS, SECOND, Program, connected, exchange, listener, socket

from plywire.lab.simulator import Host, World
from plywire.trace import STATE

LITE = {"tcp": "services.tcp_lite:create"}
FULL: dict[str, str] = {}
PAIRS = {
    "lite to full": (LITE, FULL),
    "full to lite": (FULL, LITE),
    "lite to lite": (LITE, LITE),
}
UP = bytes(range(256)) * 400
DOWN = bytes(reversed(range(256))) * 300


def hosts(world: World, pair: str, **settings) -> tuple[Host, Host]:
    """h1, which connects, and h2, which listens, with the TCPs that `pair` names."""
    first, second = PAIRS[pair]
    return (
        world.host("h1", "10.0.0.1/24", implementations=first, **settings),
        world.host("h2", "10.0.0.2/24", implementations=second, **settings),
    )


@pytest.mark.parametrize("pair", PAIRS)
def test_a_transfer_both_ways_and_nothing_is_left(pair):
    world = World(strict=True)
    world.wire("lan", delay=1 * MS)
    h1, h2 = hosts(world, pair)
    client, server = connected(world, h1, h2)
    programs = Program(h1, client, UP), Program(h2, server, DOWN)
    exchange(world, *programs)
    assert bytes(programs[1].received) == UP
    assert bytes(programs[0].received) == DOWN
    world.advance(200 * SECOND)
    assert h1.describe("tcp", "connections") == h2.describe("tcp", "connections") == []
    for host in (h1, h2):
        drops = [name for name in host.describe("tcp", "counters") if name.startswith("drop_")]
        assert drops == []


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("pair", PAIRS)
def test_a_transfer_on_a_bad_wire(pair, seed):
    world = World(seed)
    world.wire("lan", delay=3 * MS, loss=0.1, duplicate=0.05, reorder=0.1, corrupt=0.02)
    h1, h2 = hosts(world, pair)
    client, server = connected(world, h1, h2)
    programs = Program(h1, client, UP), Program(h2, server, DOWN)
    exchange(world, *programs)
    assert bytes(programs[1].received) == UP
    assert bytes(programs[0].received) == DOWN


@pytest.mark.parametrize("pair", PAIRS)
def test_both_layers_are_replaced_in_mid_transfer(pair):
    world = World(3)
    world.wire("lan", delay=2 * MS, loss=0.05)
    h1, h2 = hosts(world, pair)
    client, server = connected(world, h1, h2)
    programs = Program(h1, client, UP), Program(h2, server, DOWN)
    for _ in range(30):
        world.advance(7 * MS)
        h1.replace("tcp")
        h2.replace("tcp")
    exchange(world, *programs)
    assert bytes(programs[1].received) == UP
    assert bytes(programs[0].received) == DOWN


@pytest.mark.parametrize("pair", PAIRS)
def test_a_reader_that_stops_for_minutes_and_goes_on(pair):
    world = World()
    world.wire("lan", delay=1 * MS)
    h1, h2 = hosts(world, pair, app={"receive_buffer": 8192}, tcp={"receive_buffer": 8192})
    client, server = connected(world, h1, h2)
    sending = h1.send(client, UP)
    world.advance(900 * SECOND)
    (row,) = h1.describe("tcp", "connections")
    assert row["state"] == "ESTABLISHED"
    received = b""
    while len(received) < len(UP):
        received += world.wait(h2.recv(server, 65_536), limit=300 * SECOND).data
    assert received == UP
    sending.result()


@pytest.mark.parametrize("pair", PAIRS)
def test_the_window_opens_and_the_word_of_it_is_lost(pair):
    """Then only a probe finds out (RFC 9293 3.8.6.1)."""
    world = World()
    wire = world.wire("lan", delay=1 * MS)
    h1, h2 = hosts(world, pair, app={"receive_buffer": 8192}, tcp={"receive_buffer": 8192})
    client, server = connected(world, h1, h2)
    sending = h1.send(client, UP)
    world.advance(20 * SECOND)
    wire.impair(loss=1.0)
    received = h2.recv(server, 65_536).result().data
    world.advance(1 * SECOND)
    wire.impair(loss=0.0)
    while len(received) < len(UP):
        received += world.wait(h2.recv(server, 65_536), limit=300 * SECOND).data
    assert received == UP
    sending.result()


@pytest.mark.parametrize("pair", PAIRS)
def test_nobody_listens(pair):
    world = World()
    h1, _ = hosts(world, pair)
    call = h1.connect(socket(h1), ("10.0.0.2", 81))
    world.run(call, limit=10 * SECOND)
    assert call.error.name == "ECONNREFUSED"


@pytest.mark.parametrize("pair", PAIRS)
def test_an_abort_is_econnreset(pair):
    world = World()
    h1, h2 = hosts(world, pair)
    client, server = connected(world, h1, h2)
    waiting = h2.recv(server, 1)
    h1.set_option(client, "SO_LINGER", 0).result()
    h1.close_socket(client).result()
    world.run(waiting, limit=10 * SECOND)
    assert waiting.error.name == "ECONNRESET"


def test_no_station_answers_for_the_address():
    world = World()
    h1, _ = hosts(world, "lite to full")
    call = h1.connect(socket(h1), ("10.0.0.77", 80))
    world.run(call, limit=10 * SECOND)
    assert call.error.name == "EHOSTUNREACH"


@pytest.mark.parametrize("pair", PAIRS)
def test_both_sides_call_connect(pair):
    """Simultaneous open (RFC 9293 3.5, figure 7)."""
    world = World()
    world.wire("lan", delay=5 * MS)
    h1, h2 = hosts(world, pair)
    sockets = socket(h1), socket(h2)
    world.wait(h1.bind(sockets[0], ("", 1001)))
    world.wait(h2.bind(sockets[1], ("", 1002)))
    calls = [
        h1.connect(sockets[0], ("10.0.0.2", 1002)),
        h2.connect(sockets[1], ("10.0.0.1", 1001)),
    ]
    world.run(calls, limit=30 * SECOND)
    assert [call.error for call in calls] == [None, None]
    programs = Program(h1, sockets[0], UP), Program(h2, sockets[1], DOWN)
    exchange(world, *programs)
    assert bytes(programs[1].received) == UP
    assert bytes(programs[0].received) == DOWN


@pytest.mark.parametrize("pair", PAIRS)
def test_both_stacks_go_through_the_same_states(pair):
    """DESIGN section 1, points 6 to 9: the client's way and the server's, whoever made them."""
    world = World()
    world.wire("lan", delay=1 * MS)
    h1, h2 = hosts(world, pair)
    seen: dict[str, list[str]] = {"h1": [], "h2": []}

    def watch(event) -> None:
        if event.layer == "tcp" and event.what == STATE and event.after.get("remote_port"):
            seen[event.host].append(event.after["state"])

    listening = listener(h2)
    accepted = h2.accept(listening)
    stop = world.observe(watch)
    client = socket(h1)
    world.wait(h1.connect(client, ("10.0.0.2", 80)), limit=10 * SECOND)
    server = world.wait(accepted, limit=10 * SECOND).descriptor
    h1.close_socket(client).result()
    assert world.wait(h2.recv(server, 1), limit=10 * SECOND).end_of_stream
    h2.close_socket(server).result()
    world.advance(100 * SECOND)
    stop()
    assert seen == {
        "h1": ["SYN-SENT", "ESTABLISHED", "FIN-WAIT-1", "FIN-WAIT-2", "TIME-WAIT", "CLOSED"],
        "h2": ["SYN-RECEIVED", "ESTABLISHED", "CLOSE-WAIT", "LAST-ACK", "CLOSED"],
    }


def test_what_each_stack_writes_in_its_socket_is_its_own_business():
    """DESIGN section 1, point 8."""
    world = World()
    h1, h2 = hosts(world, "lite to full")
    connected(world, h1, h2)
    (lite,), (full,) = h1.describe("tcp", "connections"), h2.describe("tcp", "connections")
    assert {"snd_una", "snd_nxt", "rcv_nxt", "snd_wnd"} <= set(lite) & set(full)
    assert {"cwnd", "ssthresh"} <= set(full) - set(lite)
    assert (lite["iss"], lite["irs"]) == (full["irs"], full["iss"])
