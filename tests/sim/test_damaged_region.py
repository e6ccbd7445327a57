"""What cannot survive a death of tcp ends in RST and a clear line, never in a wrong byte."""

from __future__ import annotations

import pytest
from sim_programs import MS, SECOND, connected, listener, pair, socket, two_hosts

from plywire.errors import SocketError
from plywire.lab.simulator import World
from plywire.region import ENTRIES, FIRST_RING


def entry(host, number: int = 0) -> memoryview:
    """The region of a small connection; the first one has the first."""
    slab = host.memory["tcp"].pieces["slab-0"]
    stride = len(slab) // ENTRIES
    return memoryview(slab)[number * stride : (number + 1) * stride]


def flip(at: int):
    """One bit is another one."""

    def damage(piece) -> None:
        piece[at] ^= 0x40

    return damage


def flip_in_slot(at: int):
    """The same, in the slot that counts."""

    def damage(piece) -> None:
        size = (len(piece) - 64 - 2 * FIRST_RING) // 2
        slot = piece[63] == 0xA5
        piece[64 + slot * size + at] ^= 0x40

    return damage


@pytest.mark.parametrize(
    "damage", [*map(flip, (0, 8, 30, 63)), *map(flip_in_slot, (0, 30, 60, 400, 700))]
)
def test_a_damaged_control_block_ends_its_connection_and_no_other(damage):
    world, h1, h2, client, server = pair()
    second, other = connected_again(world, h1, h2)
    damage(entry(h1))
    h1.crash("tcp")
    assert_gone(world, h1, h2, client, server)
    assert h1.counter("tcp", "region_damaged") == 1
    assert any("connection slab-0/0" in line for line in h1.told), h1.told
    h1.send(second, b"still there").result()
    assert world.wait(h2.recv(other, 100), limit=SECOND).data == b"still there"


def assert_gone(world, h1, h2, client, server) -> None:
    """h1 has forgotten a connection of `pair`, and both programs learn it."""
    # App had this, and it is right.
    assert h1.recv(client, 100).result().data == b"nor this"
    with pytest.raises(SocketError) as caught:
        world.wait(h1.recv(client, 100), limit=SECOND)
    assert caught.value.name == "ECONNRESET"
    h2.recv(server, 100).result()
    h2.send(server, b"is anybody there?").result()
    with pytest.raises(SocketError) as caught:
        world.wait(h2.recv(server, 100), limit=SECOND)
    assert (caught.value.name, caught.value.cause) == ("ECONNRESET", "RST received")


@pytest.mark.parametrize("keep", [0, 50, 5000])
def test_a_slab_that_is_cut_off_ends_its_connections(keep):
    world, h1, h2, client, server = pair()
    pieces = h1.memory["tcp"].pieces
    pieces["slab-0"] = pieces["slab-0"][:keep]
    h1.crash("tcp")
    assert_gone(world, h1, h2, client, server)
    assert any("slab-0" in line for line in h1.told)
    works(world, h1, h2)


@pytest.mark.parametrize("keep", [0, 50, 5000])
def test_a_large_region_that_is_cut_off_ends_its_connection(keep):
    world, h1, h2, client, server = pair()
    h1.send(client, bytes(30_000)).result()  # more than a slab's entry holds
    world.advance(SECOND)
    pieces = h1.memory["tcp"].pieces
    (name,) = set(pieces) - {"stack", "slab-0"}
    pieces[name] = pieces[name][:keep]
    h1.crash("tcp")
    assert h2.recv(server, 1 << 20).result().data == b"read by nobody yet" + bytes(30_000)
    assert_gone_after_reading(world, h1, h2, client, server)


def assert_gone_after_reading(world, h1, h2, client, server) -> None:
    h1.recv(client, 100).result()
    h2.send(server, b"is anybody there?").result()
    for host, descriptor in ((h1, client), (h2, server)):
        with pytest.raises(SocketError) as caught:
            world.wait(host.recv(descriptor, 100), limit=SECOND)
        assert caught.value.name == "ECONNRESET"
    assert h1.counter("tcp", "region_damaged") == 1


def test_a_damaged_receive_buffer_ends_in_rst_and_not_in_a_wrong_byte():
    world, h1, h2, client, server = pair()
    piece = entry(h2)
    at = bytes(piece).index(b"read by nobody")
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
    piece = entry(h1)
    piece[bytes(piece).index(b"on its way")] ^= 1
    world.wire("lan", loss=0.0)
    h1.crash("tcp")
    h2.recv(server, 100).result()
    with pytest.raises(SocketError) as caught:
        world.wait(h2.recv(server, 100), limit=SECOND)
    assert caught.value.cause == "RST received"


@pytest.mark.parametrize("damage", [flip(3), flip(5), flip(60), None])
def test_a_damaged_table_ends_all_connections(damage):
    world, h1, h2, client, server = pair()
    pieces = h1.memory["tcp"].pieces
    if damage is None:
        pieces["stack"] = pieces["stack"][:50]
    else:
        damage(pieces["stack"])
    h1.crash("tcp")
    assert h1.counter("tcp", "region_damaged") == 1
    assert any("table" in line for line in h1.told)
    assert_gone(world, h1, h2, client, server)
    works(world, h1, h2)


def works(world, h1, h2) -> None:
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

    h1.memory["tcp"].pieces.clear()
    h1.memory["tcp"].create = full
    h1.crash("tcp")  # the next one begins without room
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
    h1.send(client, bytes(30_000)).result()
    world.advance(5 * SECOND)
    assert h2.counter("tcp", "region_no_room") == 1
    taken = 0
    while taken < 30_000:
        taken += len(world.wait(h2.recv(server, 1 << 20), limit=SECOND).data)
    assert set(h2.memory["tcp"].names()) == {"stack", "slab-0"}
