"""One connection in a region: its control block and both its buffers, in memory that outlives the
process (a mapped file), laid out so that at every instant what is there is whole.

    0     header: magic, version, the rings' sizes, CRC-32; at 63 the slot that counts
    64    slot 0, slot 1: the control block twice; the one that does not count is written, then
          byte 63 is
    ...   the send ring, then the receive ring: a stream's byte `n` is at `n % size`

A slot says which bytes of the rings count, and has the CRC-32 of itself and of these bytes. Bytes
that the slot in force needs are never written over: a region whose ring is too small moves to a
file of its own, or to a new one that takes the old one's name when it is complete. So there is no
moment at which a death leaves half a change, and no slot to fall back to: one that is damaged is
damaged.

To make a file costs more than a connect should. So regions begin as entries of a slab, a file of
many that are made at once and used again.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import Protocol
from zlib import crc32

from plywire.errors import DecodeError

VERSION = 1
MAGIC = b"plywire\0"
FIRST_RING = 4 << 10
"""Bytes of each ring of a slab's entry."""
GROWN_RING = 64 << 10
"""At least, of a region with a file of its own; they are doubled as they are needed."""
ENTRIES = 32
"""Regions in a slab."""
MARK = 16 << 10
"""The sum up to each multiple of this offset is kept in mind while it is in a ring. So when the
start of what counts moves, less than this is summed again, and not all that it has passed."""
SLAB = "slab-"
"""What the names of slabs begin with."""

_HEADER = struct.Struct("<8sIIQQ")  # magic, version, size of the control block, the rings' sizes
_CRC = struct.Struct("<I")
_ACTIVE = 63
_MARKS = (0x5A, 0xA5)  # for slot 0 and slot 1: no flipped bit makes one the other
_SLOTS = 64
_RANGES = struct.Struct("<QQIIQQII")  # start, end, and the sums up to there, of each ring


class Store(Protocol):
    """Where regions are: named pieces of memory that outlive the layer. Raises OSError when there
    is no room for one, or none of this name."""

    def names(self) -> list[str]:
        """All that is there."""

    def create(self, name: str, size: int) -> memoryview:
        """A new piece of zeros, in place of one of that name."""

    def open(self, name: str) -> memoryview:
        """A piece that is there."""

    def rename(self, old: str, new: str) -> None:
        """At once: there is never none, or half of one, of the new name."""

    def remove(self, name: str) -> None:
        """Forget a piece; nothing happens when there is none."""


class Region:
    """The region of one connection: an entry of a slab, or a file by the name of `name`.

    size: of the control block in bytes. `snd_start`, `snd_end`, `rcv_start`, `rcv_end` are the
    stream offsets that are in it.
    """

    __slots__ = ("_buffer", "_rcv_marks", "_rcv_size", "_size", "_slot", "_slot_size", "_snd_marks",
                 "_snd_size", "_start", "_store", "name", "rcv_end", "rcv_start", "rcv_sums",
                 "snd_end", "snd_start", "snd_sums")  # fmt: skip

    def __init__(self, store: Store, size: int, name: str = "") -> None:
        self._store = store
        self.name = name
        self._size = size
        self._slot_size = slot_size(size)
        self._buffer = memoryview(b"")
        self._slot = 0
        self._start = _SLOTS + 2 * self._slot_size
        self._snd_size = self._rcv_size = 0
        self.snd_start = self.snd_end = self.rcv_start = self.rcv_end = 0
        self.snd_sums = self.rcv_sums = (0, 0)
        self._snd_marks: dict[int, int] = {}
        self._rcv_marks: dict[int, int] = {}

    def save(
        self,
        control: bytes,
        sending: tuple[int, int],
        read: Callable[[int, int], bytes],
        receiving: tuple[int, int],
        arrived: Iterable[bytes],
    ) -> bool:
        """Make the region what the connection is now, at once. False when a ring is too small: it
        is as it was then, and `moved` is the way on.

        sending: start and end of the send buffer, `read(offset, length)` its bytes. receiving: of
        what the program has not read; arrived: the bytes since the last save, which end there.
        """
        snd_start, snd_end = sending
        rcv_start, rcv_end = receiving
        if snd_end - self.snd_start > self._snd_size or rcv_end - self.rcv_start > self._rcv_size:
            return False
        slot = 1 - self._slot
        snd_sums = self.snd_sums
        if sending != (self.snd_start, self.snd_end):
            low, high = snd_sums
            marks = self._snd_marks
            at = self.snd_end
            if snd_start > at:
                at, low, high = snd_start, 0, 0
                marks.clear()
            elif snd_start > self.snd_start:
                low = self._sum(self._start, self._snd_size, self.snd_start, snd_start, low, marks)
            if snd_end > at:
                data = read(at, snd_end - at)
                self._put(self._start, self._snd_size, at, data)
                high = _continued(high, at, data, marks)
            snd_sums = low, high
        rcv_sums = self.rcv_sums
        if receiving != (self.rcv_start, self.rcv_end):
            low, high = rcv_sums
            marks = self._rcv_marks
            base = self._start + self._snd_size
            at = self.rcv_end
            for data in arrived:
                self._put(base, self._rcv_size, at, data)
                high = _continued(high, at, data, marks)
                at += len(data)
            if rcv_start == rcv_end:
                low = high = 0
                marks.clear()
            elif at != rcv_end:
                raise AssertionError(f"bytes up to {at} came for the region, not up to {rcv_end}")
            elif rcv_start > self.rcv_start:
                low = self._sum(base, self._rcv_size, self.rcv_start, rcv_start, low, marks)
            rcv_sums = low, high
        self._write(slot, control, sending, snd_sums, receiving, rcv_sums)
        self._buffer[_ACTIVE] = _MARKS[slot]
        self._slot = slot
        self.snd_start, self.snd_end, self.snd_sums = snd_start, snd_end, snd_sums
        self.rcv_start, self.rcv_end, self.rcv_sums = rcv_start, rcv_end, rcv_sums
        return True

    def begin(self, sending: int, receiving: int) -> None:
        """Empty, for a connection whose streams are at these offsets."""
        self.snd_start = self.snd_end = sending
        self.rcv_start = self.rcv_end = receiving
        self.snd_sums = self.rcv_sums = (0, 0)
        self._snd_marks.clear()
        self._rcv_marks.clear()

    def load(self, buffer: memoryview) -> bytes:
        """Take what is there: the control block. Raises DecodeError with what is wrong; the rings
        are looked at by `received` and `unacknowledged`."""
        self._buffer = buffer
        if len(buffer) < _SLOTS:
            raise DecodeError("region_damaged", "too short")
        magic, version, size, snd_size, rcv_size = _HEADER.unpack(buffer[: _HEADER.size])
        (total,) = _CRC.unpack(buffer[_HEADER.size : _HEADER.size + _CRC.size])
        if magic != MAGIC or total != crc32(buffer[: _HEADER.size]):
            raise DecodeError("region_damaged", "no header")
        if version != VERSION or size != self._size:
            raise DecodeError("region_damaged", f"version {version} of {size} bytes")
        if len(buffer) != self._start + snd_size + rcv_size:
            raise DecodeError("region_damaged", "not the size it says")
        if buffer[_ACTIVE] not in _MARKS:
            raise DecodeError("region_damaged", f"no slot {buffer[_ACTIVE]}")
        slot = _MARKS.index(buffer[_ACTIVE])
        at = _SLOTS + slot * self._slot_size
        end = at + _RANGES.size + size
        (total,) = _CRC.unpack(buffer[end : end + _CRC.size])
        if total != crc32(buffer[at:end]):
            raise DecodeError("region_damaged", "bad checksum of the control block")
        ranges = _RANGES.unpack(buffer[at : at + _RANGES.size])
        for low, high, ring in ((*ranges[0:2], snd_size), (*ranges[4:6], rcv_size)):
            if not low <= high <= low + ring:
                raise DecodeError("region_damaged", f"impossible range {low} to {high}")
        self._slot = slot
        self._snd_size, self._rcv_size = snd_size, rcv_size
        self.snd_start, self.snd_end, self.snd_sums = ranges[0], ranges[1], ranges[2:4]
        self.rcv_start, self.rcv_end, self.rcv_sums = ranges[4], ranges[5], ranges[6:8]
        self._snd_marks.clear()
        self._rcv_marks.clear()
        return bytes(buffer[at + _RANGES.size : end])

    def unacknowledged(self) -> bytes:
        """The bytes of the send ring. Raises DecodeError when they are not what was written."""
        data = self._get(self._start, self._snd_size, self.snd_start, self.snd_end)
        if crc32(data, self.snd_sums[0]) != self.snd_sums[1]:
            raise DecodeError("region_damaged", "bad checksum of the send buffer")
        return data

    def received(self) -> bytes:
        """The bytes of the receive ring. Raises DecodeError when they are not what was written."""
        base = self._start + self._snd_size
        data = self._get(base, self._rcv_size, self.rcv_start, self.rcv_end)
        if crc32(data, self.rcv_sums[0]) != self.rcv_sums[1]:
            raise DecodeError("region_damaged", "bad checksum of the receive buffer")
        return data

    def format(self, buffer: memoryview, ring: tuple[int, int], control: bytes) -> None:
        """Make a region of zeros a whole one, with this control block and rings of these sizes."""
        self._buffer = buffer
        self._snd_size, self._rcv_size = ring
        header = _HEADER.pack(MAGIC, VERSION, self._size, *ring)
        header += _CRC.pack(crc32(header))
        buffer[: len(header)] = header
        self._write(0, control, (0, 0), (0, 0), (0, 0), (0, 0))
        buffer[_ACTIVE] = _MARKS[0]
        self._slot = 0

    def moved(
        self,
        name: str,
        control: bytes,
        sending: tuple[int, int],
        read: Callable[[int, int], bytes],
        receiving: tuple[int, int],
        arrived: Iterable[bytes],
    ) -> Region:
        """The same as `save`, in a larger region, which has the name when it is complete. This one
        is as it was. Raises OSError when there is no room."""
        new = Region(self._store, self._size, name)
        ring = _room(self._snd_size, sending), _room(self._rcv_size, receiving)
        temporary = f"{name}.new"
        new.format(self._store.create(temporary, new._start + sum(ring)), ring, control)
        old = b""
        if self.rcv_end > receiving[0]:
            base = self._start + self._snd_size
            old = self._get(base, self._rcv_size, receiving[0], self.rcv_end)
        new.begin(sending[0], receiving[0])
        # What arrived may begin before the first byte that is still to be read.
        count = receiving[1] - receiving[0]
        data = (old + b"".join(arrived))[-count:] if count else b""
        new.save(control, sending, read, receiving, (data,))
        self._store.rename(temporary, name)
        return new

    # --- parts ---

    def _write(
        self,
        slot: int,
        control: bytes,
        sending: tuple[int, int],
        snd_sums: tuple[int, int],
        receiving: tuple[int, int],
        rcv_sums: tuple[int, int],
    ) -> None:
        block = _RANGES.pack(*sending, *snd_sums, *receiving, *rcv_sums) + control
        at = _SLOTS + slot * self._slot_size
        block += _CRC.pack(crc32(block))
        self._buffer[at : at + len(block)] = block

    def _put(self, base: int, size: int, offset: int, data: bytes) -> None:
        at = offset % size
        room = size - at
        buffer = self._buffer
        if len(data) <= room:
            buffer[base + at : base + at + len(data)] = data
        else:
            buffer[base + at : base + size] = data[:room]
            buffer[base : base + len(data) - room] = data[room:]

    def _get(self, base: int, size: int, start: int, end: int) -> bytes:
        return b"".join(self._parts(base, size, start, end))

    def _sum(
        self, base: int, size: int, start: int, end: int, total: int, marks: dict[int, int]
    ) -> int:
        """The sum continued over the bytes from start to end: from the last mark between them,
        which with all before it is not needed any more."""
        for mark in range(-(-start // MARK) * MARK, end + 1, MARK):
            known = marks.pop(mark, None)
            if known is not None:
                start, total = mark, known
        for part in self._parts(base, size, start, end):
            total = crc32(part, total)
        return total

    def _parts(self, base: int, size: int, start: int, end: int) -> list[memoryview]:
        at = start % size
        length = end - start
        first = min(length, size - at)
        buffer = self._buffer
        return [buffer[base + at : base + at + first], buffer[base : base + length - first]]


def _continued(total: int, at: int, data: bytes, marks: dict[int, int]) -> int:
    """The sum continued over data, whose first byte is at offset `at`, and noted at each mark."""
    rest = memoryview(data)
    while rest:
        step = MARK - at % MARK
        part = rest[:step]
        total = crc32(part, total)
        at += len(part)
        if len(part) == step:
            marks[at] = total
        rest = rest[step:]
    return total


def _room(size: int, span: tuple[int, int]) -> int:
    """The size of a ring for these offsets: twice what is in it, so that what is acknowledged in
    one batch and what comes in the same batch both have a place."""
    if not size:
        return 0
    size = max(size, GROWN_RING)
    while size < 2 * (span[1] - span[0]):
        size *= 2
    return size


def slot_size(size: int) -> int:
    """Bytes of a slot with a control block of `size`."""
    return -(-(_RANGES.size + size + _CRC.size) // 64) * 64


class Slabs:
    """The entries of all slabs. blank: the control block of one that nobody uses; rings: the sizes
    of its rings, 0 for one that is not needed."""

    def __init__(
        self, store: Store, blank: bytes, rings: tuple[int, int] = (FIRST_RING, FIRST_RING)
    ) -> None:
        self._store = store
        self._blank = blank
        self._rings = rings
        self._stride = _SLOTS + 2 * slot_size(len(blank)) + sum(rings)
        self._count = 0
        self.free: list[Region] = []

    def take(self, sending: int, receiving: int) -> Region:
        """An entry for a connection whose streams are at these offsets; in the memory it stays
        unused until it is saved. Raises OSError when there is no room for another slab."""
        if not self.free:
            self._make()
        region = self.free.pop()
        region.begin(sending, receiving)
        return region

    def prepare(self) -> None:
        """Have entries that are free, when a layer starts: to make a slab takes 0.3 ms, and
        the first connection would wait for it."""
        if not self.free:
            with suppress(OSError):  # whoever needs one tries again, and says so
                self._make()

    def _make(self) -> None:
        name = f"{SLAB}{self._count}"
        temporary = f"{name}.new"
        memory = self._store.create(temporary, ENTRIES * self._stride)
        made = []
        for at in range(0, ENTRIES * self._stride, self._stride):
            region = Region(self._store, len(self._blank))
            region.format(memory[at : at + self._stride], self._rings, self._blank)
            made.append(region)
        self._store.rename(temporary, name)
        self._count += 1
        self.free = made[::-1]

    def blank(self, region: Region, memory: memoryview) -> None:
        """Make an entry that was found one that nobody uses, also a damaged one."""
        try:
            region.load(memory)
        except DecodeError:
            region.format(memory, self._rings, self._blank)
        self.give(region)

    def give(self, region: Region) -> None:
        """Nobody uses an entry any more."""
        empty = (region.snd_end, region.snd_end), (region.rcv_end, region.rcv_end)
        region.save(self._blank, empty[0], _nothing, empty[1], ())
        self.free.append(region)

    def open(self, name: str) -> list[memoryview]:
        """The entries of a slab that is there. Raises OSError, or DecodeError when it is none."""
        memory = self._store.open(name)
        number = name.removeprefix(SLAB)
        if not number.isdecimal() or len(memory) != ENTRIES * self._stride:
            raise DecodeError("region_damaged", f"a slab of {len(memory)} bytes")
        self._count = max(self._count, int(number) + 1)
        return [memory[at : at + self._stride] for at in range(0, len(memory), self._stride)]


def _nothing(offset: int, length: int) -> bytes:
    return b""
