"""The loss grid's snapshot is fresh, and what is owed is reached.

The thresholds are held against the snapshot, which `python -m tests.tcp.loss_grid --write` makes
from all cells and seeds; here the first seed of some cells is measured again.
"""

from __future__ import annotations

import pytest

from .loss_grid import CONTROLS, LOSSES, Cell, cells, kept, measure, pftk

AGAIN = [
    Cell(32, 0, "each way", "cubic"),
    Cell(32, 10, "each way", "cubic"),
    Cell(32, 30, "each way", "cubic"),
    Cell(32, 10, "each way", "newreno"),
    Cell(32, 30, "each way", "cubic", "thin"),
    Cell(128, 5, "each way", "newreno"),
    Cell(32, 20, "data", "cubic"),
    Cell(512, 0, "each way", "cubic", "reordered"),
]
KEPT = kept()


def test_the_snapshot_has_every_cell() -> None:
    assert list(KEPT) == cells()


@pytest.mark.parametrize("cell", AGAIN, ids=lambda cell: f"{cell.what} {cell.control}")
def test_a_cell_is_what_the_snapshot_says(cell: Cell) -> None:
    """When it is not: python -m tests.tcp.loss_grid --write, and look at the difference."""
    assert round(measure(cell, 1)[0], 1) == KEPT[cell].first


@pytest.mark.parametrize("cell", cells(), ids=lambda cell: f"{cell.what} {cell.control}")
def test_where_something_is_lost_it_is_no_slower_than_the_model(cell: Cell) -> None:
    """In every cell whose loss is the model's, of data. With loss each way, which the model does
    not know, in every one but those of 30 %, which are within a fifth of it."""
    share = 0.8 if cell.loss == 30 and cell.way == "each way" else 1
    if cell.loss:
        assert KEPT[cell].median >= share * round(pftk(cell), 1)


@pytest.mark.parametrize("control", CONTROLS)
@pytest.mark.parametrize("buffer", [32, 128, 512])
def test_without_loss_it_is_close_to_what_the_buffer_lets_through(
    buffer: int, control: str
) -> None:
    """The steady rate, since a transfer of 10 MiB spends some of its time in slow start."""
    row = KEPT[Cell(buffer, 0, "each way", control)]
    assert row.steady >= 0.9 * row.model


@pytest.mark.parametrize("control", CONTROLS)
@pytest.mark.parametrize(("loss", "times"), [(0, 1.0), (10, 1.05), (30, 2.8)])
def test_it_stands_beside_what_is_known(loss: int, times: float, control: str) -> None:
    """Wanted: equal, 1.2 and 3 times. Reached: 1.01, 1.16 and 2.9 by CUBIC, 1.01, 1.10 and 3.0 by
    NewReno. More is not to be had from a sender that is fair to Reno and doubles its timeouts:
    docs/decisions, number 9."""
    row = KEPT[Cell(32, loss, "each way", control)]
    assert row.median >= times * row.known


@pytest.mark.parametrize("loss", LOSSES[4:])
@pytest.mark.parametrize("control", CONTROLS)
def test_timeouts_without_back_off_are_worth_having(loss: int, control: str) -> None:
    plain, thin = Cell(32, loss, "each way", control), Cell(32, loss, "each way", control, "thin")
    assert KEPT[thin].median >= (1.8 if loss == 30 else 0.9) * KEPT[plain].median
