"""What came before its turn: runs of bytes kept apart by holes.

A peer chooses the order in which bytes come. So the work for a segment may not grow with what is
kept: a run is a row of pieces, joined only while they are small. No two neighbours together fit
into `_SMALL`, which bounds their number whatever the segments' sizes are.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections import deque
from operator import attrgetter

MAX_ISLANDS = 256
"""Runs kept for one connection. More only come from a peer that wants to cost memory."""

_SMALL = 4096  # bytes
_START = attrgetter("start")
_END = attrgetter("end")


class Island:
    """The stream's bytes from offset `start` to `end`."""

    __slots__ = ("end", "pieces", "start")

    def __init__(self, start: int, data: bytes) -> None:
        self.start = start
        self.end = start + len(data)
        self.pieces: deque[bytes] = deque((data,))

    def append(self, data: bytes) -> None:
        """Bytes that follow the last one."""
        self.end += len(data)
        pieces = self.pieces
        if len(pieces[-1]) + len(data) <= _SMALL:
            pieces[-1] += data
        else:
            pieces.append(data)

    def prepend(self, data: bytes) -> None:
        """Bytes that lead to the first one."""
        self.start -= len(data)
        pieces = self.pieces
        if len(pieces[0]) + len(data) <= _SMALL:
            pieces[0] = data + pieces[0]
        else:
            pieces.appendleft(data)

    def join(self, right: Island) -> Island:
        """Both in one, for the next one touches this. The longer row takes in the shorter one, so
        that a piece is moved a few times at most, however a peer arranges it."""
        if len(self.pieces) >= len(right.pieces):
            for piece in right.pieces:
                self.append(piece)
            return self
        for piece in reversed(self.pieces):
            right.prepend(piece)
        return right

    def read(self, offset: int) -> bytes:
        """All of it from an offset on."""
        return b"".join(self.pieces)[offset - self.start :]


def around(islands: list[Island], offset: int) -> int:
    """The index of the island that has the byte at an offset, or -1."""
    index = bisect_right(islands, offset, key=_START) - 1
    return index if index >= 0 and offset < islands[index].end else -1


def covers(islands: list[Island], start: int, end: int) -> bool:
    """Is all of a range kept already?"""
    index = around(islands, start)
    return index >= 0 and end <= islands[index].end


def repeated(islands: list[Island], start: int, end: int) -> tuple[int, int] | None:
    """The first part of a range that is kept already, or None when there is none."""
    index = bisect_right(islands, start, key=_END)
    if index == len(islands) or islands[index].start >= end:
        return None
    return max(islands[index].start, start), min(islands[index].end, end)


def store(islands: list[Island], offset: int, data: bytes) -> bool:
    """Keep bytes. False when islands run out. They are sorted and never touch; where bytes
    overlap, those that came first stay."""
    end = offset + len(data)
    first = bisect_left(islands, offset, key=_END)
    if first == len(islands) or islands[first].start > end:
        if len(islands) >= MAX_ISLANDS:
            return False
        islands.insert(first, Island(offset, data))
        return True
    island = islands[first]
    if offset < island.start:
        island.prepend(data[: island.start - offset])
    following = first + 1
    while following < len(islands) and islands[following].start <= end:
        right = islands[following]
        if island.end < right.start:
            island.append(data[island.end - offset : right.start - offset])
        island = island.join(right)
        following += 1
    if island.end < end:
        island.append(data[island.end - offset :])
    islands[first:following] = [island]
    return True
