"""What cannot survive a death of tcp ends in RST and a clear line, never in a wrong byte."""

from __future__ import annotations

import pytest
from programs import MS, SECOND, connected, listener, pair, socket, two_hosts

from plywire.errors import SocketError
from plywire.lab.simulator import World
from services.tcp.region import FIRST_RING


def connection(host) -> str:
    (name,) = set(host.memory["tcp"].names()) - {"stack"}
    return name


def flip(at: int):
    """One bit of a piece is another one."""

    def damage(memory, name):
        memory.pieces[name][at] ^= 0x40

    return damage


def flip_in_slot(at: int):
    """The same, in the slot that counts."""

    def damage(memory, name):
        piece = memory.pieces[name]
        size = (len(piece) - 64 - 2 * FIRST_RING) // 2
        piece[64 + piece[63] * size + at] ^= 0x40

    return damage


def cut(memory, name):
    memory.pieces[name] = memory.pieces[name][:50]


def empty(memory, name):
    memory.pieces[name] = bytearray()


@pytest.mark.parametrize(
    "damage",
    [flip(0), flip(8), flip(30), flip(63), *map(flip_in_slot, (0, 30, 60, 400, 700)), cut, empty],
)
def test_a_damaged_control_block_ends_its_connection_and_no_other(damage):
    world, h1, h2, client, server = pair()
    one = connection(h1)
    second = socket(h1)
    accepted = h2.accept(listener(h2, 81))
    world.wait(h1.connect(second, ("10.0.0.2", 81)))
    other = world.wait(accepted).descriptor
    damage(h1.memory["tcp"], one)
    h1.crash("tcp")
    assert h1.recv(client, 100).result().data == b"nor this"  # app had it, and it is right
    with pytest.raises(SocketError) as caught:
        world.wait(h1.recv(client, 100), limit=SECOND)
    assert caught.value.name == "ECONNRESET"
    assert h1.counter("tcp", "region_damaged") == 1
    assert any(f"connection {one}" in line for line in h1.told), h1.told
    h2.recv(server, 100).result()
    h2.send(server, b"is anybody there?")
    with pytest.raises(SocketError) as caught:
        world.wait(h2.recv(server, 100), limit=SECOND)
    assert caught.value.name == "ECONNRESET"
    h1.send(second, b"still there").result()
    assert world.wait(h2.recv(other, 100), limit=SECOND).data == b"still there"


def test_a_damaged_receive_buffer_ends_in_rst_and_not_in_a_wrong_byte():
    world, h1, h2, client, server = pair()
    piece = h2.memory["tcp"].pieces[connection(h2)]
    at = piece.index(b"read by nobody")
    piece[at] ^= 1
    taken = h1.recv(client, 100).result()
    assert taken.data == b"nor this"
    waiting = h1.recv(client, 100)
    h2.crash("tcp")
    with pytest.raises(SocketError) as caught:
        world.wait(waiting, limit=SECOND)
    assert (caught.value.name, caught.value.cause) == ("ECONNRESET", "RST received")
    assert h2.counter("tcp", "region_damaged") == 1
    # What app had already is right, and the program may read it before it hears of the end.
    assert world.wait(h2.recv(server, 100)).data == b"read by nobody yet"
    with pytest.raises(SocketError) as caught:
        world.wait(h2.recv(server, 100), limit=SECOND)
    assert caught.value.name == "ECONNRESET"
    assert "damaged" in caught.value.cause


def test_a_damaged_send_buffer_ends_in_rst_and_not_in_a_wrong_byte():
    world, h1, h2, client, server = pair()
    world.wire("lan", loss=1.0)
    h1.send(client, b"on its way").result()
    world.advance(MS)
    piece = h1.memory["tcp"].pieces[connection(h1)]
    piece[piece.index(b"on its way")] ^= 1
    world.wire("lan", loss=0.0)
    h1.crash("tcp")
    h2.recv(server, 100).result()
    with pytest.raises(SocketError) as caught:
        world.wait(h2.recv(server, 100), limit=SECOND)
    assert caught.value.cause == "RST received"


@pytest.mark.parametrize("damage", [flip(3), flip(5), flip(60), empty, cut])
def test_a_damaged_table_ends_all_connections(damage):
    world, h1, h2, client, server = pair()
    damage(h1.memory["tcp"], "stack")
    h1.crash("tcp")
    assert h1.counter("tcp", "region_damaged") == 1
    assert any("table" in line for line in h1.told)
    for host, descriptor in ((h1, client), (h2, server)):
        host.recv(descriptor, 100).result()
        if host is h2:
            h2.send(server, b"is anybody there?").result()
        with pytest.raises(SocketError) as caught:
            world.wait(host.recv(descriptor, 100), limit=SECOND)
        assert caught.value.name == "ECONNRESET"
    fresh, other = connected_again(world, h1, h2)
    h1.send(fresh, b"works").result()
    assert world.wait(h2.recv(other, 10), limit=SECOND).data == b"works"


def connected_again(world, h1, h2):
    accepted = h2.accept(listener(h2, 82))
    client = socket(h1)
    world.wait(h1.connect(client, ("10.0.0.2", 82)), limit=SECOND)
    return client, world.wait(accepted, limit=SECOND).descriptor


def test_the_region_is_deleted():
    _, h1, _, client, _ = pair()
    h1.memory["tcp"].pieces.clear()
    h1.recv(client, 100).result()
    waiting = h1.recv(client, 100)
    h1.crash("tcp")
    with pytest.raises(SocketError) as caught:
        waiting.result()
    assert caught.value.name == "ECONNRESET"


def test_a_full_disk_costs_survival_and_not_the_connection():
    world = World()
    h1, h2 = two_hosts(world)
    create = h1.memory["tcp"].create

    def full(name, size):
        if name.startswith("stack"):
            return create(name, size)
        raise OSError(28, "No space left on device")

    h1.memory["tcp"].create = full
    client, server = connected(world, h1, h2)
    assert h1.counter("tcp", "region_no_room") == 1
    assert any("No space left" in line for line in h1.told)
    h1.send(client, b"goes on").result()
    assert world.wait(h2.recv(server, 100)).data == b"goes on"
    h1.memory["tcp"].create = create
    fresh, other = connected_again(world, h1, h2)  # there is room again
    waiting = h1.recv(client, 100)
    h1.crash("tcp")
    assert waiting.error.name == "ECONNRESET"
    h1.send(fresh, b"this one lives").result()
    assert world.wait(h2.recv(other, 100), limit=SECOND).data == b"this one lives"


def test_a_disk_that_fills_up_while_a_connection_grows():
    world = World()
    h1, h2 = two_hosts(world)
    client, server = connected(world, h1, h2)
    create = h2.memory["tcp"].create

    def full(name, size):
        if size > 100_000:
            raise OSError(28, "No space left on device")
        return create(name, size)

    h2.memory["tcp"].create = full
    h1.send(client, bytes(900_000)).result()
    world.advance(5 * SECOND)
    assert h2.counter("tcp", "region_no_room") == 1
    taken = 0
    while taken < 900_000:
        taken += len(world.wait(h2.recv(server, 1 << 20), limit=SECOND).data)
    assert h2.memory["tcp"].names() == ["stack"]
