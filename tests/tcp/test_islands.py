"""What came early: any order of arrival gives the same bytes, and none makes it costly."""

from __future__ import annotations

import random
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.tcp.islands import MAX_ISLANDS, Island, around, covers, store

from .work import lines

WINDOW = 1 << 20


def check(islands: list[Island]) -> None:
    """Sorted, apart, and in few pieces."""
    assert all(one.end < two.start for one, two in pairwise(islands))
    assert len(islands) <= MAX_ISLANDS
    for island in islands:
        assert sum(map(len, island.pieces)) == island.end - island.start > 0
        assert all(len(one) + len(two) > 4096 for one, two in pairwise(island.pieces))


@settings(max_examples=150, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 300), st.integers(1, 60)), max_size=60))
def test_any_order_against_a_row_of_bytes(parts: list[tuple[int, int]]) -> None:
    """Segments of one stream, and now and then other bytes for it: the first stay."""
    islands: list[Island] = []
    model: dict[int, int] = {}
    for number, (offset, size) in enumerate(parts):
        assert covers(islands, offset, offset + size) == all(
            at in model for at in range(offset, offset + size)
        )
        assert store(islands, offset, bytes((number,)) * size)
        for at in range(offset, offset + size):
            model.setdefault(at, number)
        check(islands)
        held = {
            island.start + at: byte
            for island in islands
            for at, byte in enumerate(island.read(island.start))
        }
        assert held == model
        for at in range(361):
            assert (around(islands, at) >= 0) == (at in model)


def test_no_more_islands_than_the_bound() -> None:
    islands: list[Island] = []
    assert all(store(islands, 2 * at, b"x") for at in range(MAX_ISLANDS))
    assert not store(islands, 2 * MAX_ISLANDS, b"x")
    assert not store(islands, 5000, b"x")
    assert store(islands, 1, b"y")  # what fills a hole is taken all the same
    check(islands)


def backwards(size: int) -> list[int]:
    """Each segment comes right before the one that came last."""
    return list(range(WINDOW - size, 0, -size))


def inside_out(size: int) -> list[int]:
    """In turn to the left and to the right of what is there."""
    middle = WINDOW // 2
    steps = range(0, middle - size, size)
    return [at for step in steps for at in (middle + step, middle - size - step)]


def combs(size: int) -> list[int]:
    """Teeth, and then the gaps between them, so that ever longer runs are joined."""
    found = []
    for base in range(size, WINDOW - 600 * size, 500 * size):
        found += range(base, base + 400 * size, 2 * size)
        found += range(base + size, base + 400 * size, 2 * size)
        found += range(base + 400 * size, base + 500 * size, size)
    return found


def scattered(size: int) -> list[int]:
    found = list(range(size, WINDOW - size, size))
    random.Random(1).shuffle(found)
    return found


@pytest.mark.parametrize("order", [backwards, inside_out, combs, scattered])
@pytest.mark.parametrize("size", [2, 100, 1460])
def test_the_order_of_arrival_makes_no_segment_costly(order, size) -> None:
    """Work is counted in lines of Python; a piece that is copied has 4 KiB or a segment."""
    offsets = order(size)[:20_000]
    islands: list[Island] = []

    def run() -> None:
        for offset in offsets:
            store(islands, offset, bytes(size))

    spent = lines(run)
    check(islands)
    held = sum(island.end - island.start for island in islands)
    assert held > min(len(offsets), MAX_ISLANDS) * size // 2
    assert spent / len(offsets) < 30
    pieces = [len(piece) for island in islands for piece in island.pieces]
    assert len(pieces) <= MAX_ISLANDS + 2 * held // 4096
    assert max(pieces) <= 4096 + size
