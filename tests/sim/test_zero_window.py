"""A reader that stops: the window closes, stays closed for minutes, and opens again."""

from __future__ import annotations

from itertools import pairwise

from sim_programs import MS, SECOND, connected, two_hosts

from plywire.lab.simulator import Host, World
from plywire.wire import ethernet, ipv4, tcp

BUFFER = 16_384
SETTINGS = {
    "app": {"receive_buffer": BUFFER},
    "tcp": {"receive_buffer": BUFFER, "send_buffer": BUFFER},
}
DATA = bytes(range(256)) * 1024


def segments(world: World, host: str) -> list[tuple[int, tcp.TcpHeader, bytes]]:
    """What a host's TCP has sent since it was last taken."""
    found = []
    for item in world.wire("lan").take():
        header, packet = ethernet.decode(item.frame)
        if item.host == host and header.type == ethernet.TYPE_IPV4:
            ip, body = ipv4.decode(packet)
            found.append((item.time, *tcp.decode(body, ip.src, ip.dst)))
    return found


def stuffed(world: World) -> tuple[Host, int, Host, int, object]:
    """A connection whose reader has stopped, with a send that waits."""
    h1, h2 = two_hosts(world, **SETTINGS)
    client, server = connected(world, h1, h2)
    call = h1.send(client, DATA)
    world.advance(10 * SECOND)
    assert not call.done
    return h1, client, h2, server, call


def read_all(world: World, host: Host, descriptor: int, wanted: int) -> bytes:
    taken = b""
    while len(taken) < wanted:
        taken += world.wait(host.recv(descriptor, 4096), limit=300 * SECOND).data
    return taken


def test_a_slow_reader_closes_the_window():
    world = World()
    stuffed(world)
    assert segments(world, "h2")[-1][1].window == 0


def test_probes_go_on_while_the_peer_answers_for_an_hour():
    world = World()
    h1, client, h2, server, call = stuffed(world)
    segments(world, "h1")
    world.advance(3600 * SECOND)
    probes = segments(world, "h1")
    assert len(probes) >= 25  # every 120 s at most
    gaps = [after[0] - before[0] for before, after in pairwise(probes)]
    assert max(gaps) <= 121 * SECOND
    assert not call.done, "zero windows are no reason to give up (RFC 9293 3.8.6.1)"
    assert read_all(world, h2, server, len(DATA)) == DATA
    assert call.done
    assert call.error is None
    assert h1.get_socket(client).result().state == "ESTABLISHED"


def test_the_window_opens_at_once_when_the_reader_goes_on():
    world = World()
    _, _, h2, server, _ = stuffed(world)
    world.advance(600 * SECOND)
    began = world.now
    assert read_all(world, h2, server, len(DATA)) == DATA
    assert world.now - began < 100 * MS, "no need to wait for the next probe"


def test_a_lost_window_update_costs_one_probe():
    world = World()
    _, _, h2, server, _ = stuffed(world)
    world.wire("lan").impair("h2", loss=1.0)
    first = h2.recv(server, BUFFER).result().data
    world.advance(50 * MS)
    world.wire("lan").impair("h2", loss=0.0)
    rest = read_all(world, h2, server, len(DATA) - len(first))
    assert first + rest == DATA


def test_a_reader_of_single_bytes_does_not_open_silly_windows():
    world = World()
    _, _, h2, server, _ = stuffed(world)
    segments(world, "h1")
    for _ in range(1000):
        h2.recv(server, 1).result()
        world.advance(1 * MS)
    small = [data for _, _, data in segments(world, "h1") if 1 < len(data) < 536]
    assert small == []
