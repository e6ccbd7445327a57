"""All that one layer keeps in its store: a region for each of its items, and one table.

The table, `stack`, has what is not one item's. It is small and seldom changes: each time a new one
takes the old one's name. Items begin in slabs; one that outgrows its entry gets a file that is
named by its number, and while both are there the file is the newer one.
"""

from __future__ import annotations

import struct
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from typing import Any
from zlib import crc32

from plywire.envelope import dump_state, load_state
from plywire.errors import DecodeError
from plywire.region import FIRST_RING, SLAB, Region, Slabs, Store

TABLE = "stack"

_SUM = struct.Struct("<II")


class Regions:
    """What is in `store`. size: of an item's control block; rings: the sizes that its rings begin
    with; number: that of the item whose control block it is given.

    counters: `region_no_room` and `region_damaged` are counted there; say: takes a line for whoever
    runs the layer.
    """

    def __init__(
        self,
        store: Store,
        size: int,
        number: Callable[[bytes], int],
        counters: Counter[str],
        say: Callable[[str], object],
        rings: tuple[int, int] = (FIRST_RING, FIRST_RING),
    ) -> None:
        self.store = store
        self.counters = counters
        self.say = say
        self._size = size
        self._number = number
        self._slabs = Slabs(store, bytes(size), rings)

    def prepare(self) -> None:
        """Have room for the first items, when a layer starts: making it takes 0.3 ms."""
        self._slabs.prepare()

    def take(self, sending: int, receiving: int) -> Region:
        """A region for an item whose streams are at these offsets. Raises OSError without room."""
        return self._slabs.take(sending, receiving)

    def save(
        self,
        region: Region,
        number: int,
        control: bytes,
        sending: tuple[int, int],
        read: Callable[[int, int], bytes],
        receiving: tuple[int, int] = (0, 0),
        arrived: Iterable[bytes] = (),
    ) -> Region:
        """Make a region what its item is now; returns the one that it is in then, as it may have
        outgrown this one. Raises OSError without room, and leaves it as it was."""
        if region.save(control, sending, read, receiving, arrived):
            return region
        new = region.moved(str(number), control, sending, read, receiving, arrived)
        if not region.name:
            self._slabs.give(region)
        return new

    def let_go(self, region: Region) -> None:
        """Its item is over."""
        if region.name:
            self.remove(region.name)
        else:
            self._slabs.give(region)

    def save_table(self, state: object) -> bool:
        """Make this the table. False, counted, when there is no room."""
        data = dump_state(state)
        block = _SUM.pack(len(data), crc32(data)) + data
        try:
            self.store.create(f"{TABLE}.new", len(block))[:] = block
            self.store.rename(f"{TABLE}.new", TABLE)
        except OSError as error:
            self.counters["region_no_room"] += 1
            self.say(f"the table of the layer would not survive this process: {error}")
            return False
        return True

    def load_table(self) -> Any:
        """The table that a predecessor left; None when there is none that can be used, which is
        said and counted if there is one."""
        try:
            if TABLE not in self.store.names():
                return None
            block = bytes(self.store.open(TABLE))
            if len(block) < _SUM.size:
                raise DecodeError("region_damaged", "too short")
            size, total = _SUM.unpack_from(block)
            data = block[_SUM.size : _SUM.size + size]
            if len(data) != size or crc32(data) != total:
                raise DecodeError("region_damaged", "bad checksum")
            return load_state(data)
        except (OSError, DecodeError) as error:
            self.give_up("the table of the layer", error)
            return None

    def all(self) -> Iterator[tuple[str, Region, memoryview]]:
        """The regions that a predecessor left: what to call each, and the region with the memory
        that it can `load`. Half made ones are removed, outgrown ones emptied."""
        names = self.store.names()
        files = {name for name in names if name.isdecimal()}
        slabs = {name for name in names if name.startswith(SLAB) and not name.endswith(".new")}
        for name in set(names) - files - slabs - {TABLE}:
            self.remove(name)
        for name in sorted(files):
            try:
                memory = self.store.open(name)
            except OSError as error:
                self.give_up(name, error)
                continue
            yield name, Region(self.store, self._size, name), memory
        for name in sorted(slabs):
            try:
                entries = self._slabs.open(name)
            except (OSError, DecodeError) as error:
                self.give_up(name, error)
                self.remove(name)
                continue
            for place, memory in enumerate(entries):
                region = Region(self.store, self._size)
                if files and self._outgrown(region, memory, files):
                    self._slabs.blank(region, memory)
                else:
                    yield f"{name}/{place}", region, memory

    def discard(self, region: Region, memory: memoryview) -> None:
        """One of `all` that nobody uses, or that cannot be used."""
        if region.name:
            self.remove(region.name)
        else:
            self._slabs.blank(region, memory)

    def give_up(self, what: str, error: Exception) -> None:
        """Count and say what cannot be recovered."""
        self.counters["region_damaged"] += 1
        self.say(f"{what} cannot be recovered and ends: {error}")

    def clear(self) -> None:
        """Forget all that a predecessor left."""
        try:
            names = self.store.names()
        except OSError as error:
            self.say(f"what is left of a predecessor cannot be removed: {error}")
            return
        for name in names:
            self.remove(name)

    def remove(self, name: str) -> None:
        """Forget a piece."""
        try:
            self.store.remove(name)
        except OSError as error:
            self.say(f"{name} cannot be removed: {error}")

    def _outgrown(self, region: Region, memory: memoryview, files: set[str]) -> bool:
        try:
            control = region.load(memory)
        except DecodeError:
            return False
        return any(control) and str(self._number(control)) in files
