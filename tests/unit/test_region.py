"""The layout of a connection's region: whole at every instant, in memory and in files."""

from __future__ import annotations

import errno
import os
import random

import pytest

from plywire import region as regions
from plywire.errors import DecodeError
from plywire.lab.simulator.memory import Memory
from plywire.region import ENTRIES, FIRST_RING, MARK, Region, Slabs
from plywire.runtime.store import FileStore

SIZE = 100


class Model:
    """A connection as its region should have it."""

    def __init__(self, rng: random.Random) -> None:
        self.rng = rng
        self.up = self.down = b""  # all that ever was
        self.acked = self.read = 0
        self.control = bytes(SIZE)

    def change(self) -> bytes:
        """Something happens; returns what arrived."""
        rng = self.rng
        self.acked = rng.randint(self.acked, len(self.up))
        self.read = rng.randint(self.read, len(self.down))
        self.up += rng.randbytes(rng.choice((0, 1, 700, 9000)))
        arrived = rng.randbytes(rng.choice((0, 1, 700, 9000)))
        self.down += arrived
        self.control = rng.randbytes(SIZE)
        return arrived

    def arguments(self, arrived: bytes):
        def read(offset: int, length: int) -> bytes:
            return self.up[offset : offset + length]

        sending, receiving = (self.acked, len(self.up)), (self.read, len(self.down))
        return self.control, sending, read, receiving, (arrived,)

    def expected(self):
        return self.control, self.up[self.acked :], self.down[self.read :]


def found(store, name: str, slabs: Slabs):
    """What a successor reads."""
    memory = store.open(name) if name else slabs.open("slab-0")[0]
    region = Region(store, SIZE, name)
    control = region.load(memory)
    return control, region.unacknowledged(), region.received()


@pytest.mark.parametrize("kind", ["memory", "files"])
@pytest.mark.parametrize("seed", range(5))
def test_what_was_saved_is_found(kind, seed, tmp_path):
    store = Memory() if kind == "memory" else FileStore(tmp_path / "region")
    slabs = Slabs(store, bytes(SIZE))
    model = Model(random.Random(seed))
    region = slabs.take(0, 0)
    for _ in range(60):
        arguments = model.arguments(model.change())
        if not region.save(*arguments):
            region = region.moved("7", *arguments)
        other = FileStore(tmp_path / "region") if kind == "files" else store
        assert found(other, region.name, Slabs(other, bytes(SIZE))) == model.expected()
    assert region.name == "7"


def test_every_byte_counts():
    store = Memory()
    slabs = Slabs(store, bytes(SIZE))
    model = Model(random.Random(3))
    region = slabs.take(0, 0)
    model.up, model.down = b"up" * 50, b"down" * 50
    assert region.save(*model.arguments(model.down))
    piece = slabs.open("slab-0")[0]
    good = bytes(piece)
    missed = []
    for at in range(len(piece)):
        piece[at] ^= 1
        try:
            if found(store, "", slabs) != model.expected():
                missed.append(at)
        except DecodeError:
            pass
        piece[at] ^= 1
    assert bytes(piece) == good
    assert missed == []


def test_what_is_let_go_of_is_not_summed_again(monkeypatch):
    """But for what lies behind the last note, and the notes of what is gone are gone."""
    store, summed, crc32 = Memory(), [], regions.crc32

    def count(data, total=0):
        summed.append(len(data))
        return crc32(data, total)

    monkeypatch.setattr(regions, "crc32", count)
    model = Model(random.Random(5))
    region = Slabs(store, bytes(SIZE)).take(0, 0).moved("7", *model.arguments(b""))
    saves = 100
    for _ in range(saves):
        model.acked, model.read = len(model.up), len(model.down) // 2
        model.up += bytes(MARK + 999)
        model.down += bytes(100)
        if not region.save(*model.arguments(bytes(100))):
            region = region.moved("7", *model.arguments(bytes(100)))
        assert len(region._snd_marks) <= 2
    once = len(model.up) + len(model.down)
    assert once <= sum(summed) < once + saves * (MARK // 2 + 2 * SIZE + 1000)
    assert found(store, "7", Slabs(store, bytes(SIZE))) == model.expected()


def test_entries_are_used_again():
    store = Memory()
    slabs = Slabs(store, bytes(SIZE))
    taken = [slabs.take(0, 0) for _ in range(ENTRIES)]
    assert store.names() == ["slab-0"]
    for region in taken:
        assert region.save(b"x" * SIZE, (0, 0), lambda offset, length: b"", (0, 0), ())
        slabs.give(region)
    assert all(not any(Region(store, SIZE).load(piece)) for piece in slabs.open("slab-0"))
    again = [slabs.take(5, 9) for _ in range(ENTRIES)]
    assert store.names() == ["slab-0"]
    assert again[0].save(b"y" * SIZE, (5, 5), lambda offset, length: b"", (9, 9), ())
    slabs.take(0, 0)
    assert store.names() == ["slab-0", "slab-1"]


def test_a_region_that_cannot_grow_stays_as_it_was(tmp_path, monkeypatch):
    store = FileStore(tmp_path / "region")
    slabs = Slabs(store, bytes(SIZE))
    model = Model(random.Random(1))
    region = slabs.take(0, 0)
    model.up = bytes(100)
    assert region.save(*model.arguments(b""))
    before = model.expected()

    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "posix_fallocate", full)
    model.up = bytes(2 * FIRST_RING)
    assert not region.save(*model.arguments(b""))
    with pytest.raises(OSError, match="No space left"):
        region.moved("7", *model.arguments(b""))
    assert found(store, "", slabs) == before
    assert store.names() == ["slab-0"]


def test_a_region_of_another_boot_is_thrown_away(tmp_path):
    store = FileStore(tmp_path / "region")
    Slabs(store, bytes(SIZE)).take(0, 0)
    assert FileStore(tmp_path / "region").names() == ["slab-0"]
    (tmp_path / "region" / "boot").write_text("another one")
    assert FileStore(tmp_path / "region").names() == []


def test_half_made_leftovers_are_no_regions(tmp_path):
    (tmp_path / "region").mkdir()
    (tmp_path / "region" / "boot.new").write_bytes(b"")
    assert FileStore(tmp_path / "region").names() == []
