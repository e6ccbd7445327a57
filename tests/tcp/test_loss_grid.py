"""The loss grid's snapshot is fresh, and what is owed is reached."""

from __future__ import annotations

import pytest

from .loss_grid import BUFFERS, LOSSES, SNAPSHOT, cell


def kept() -> dict[tuple[str, str], tuple[int, int]]:
    """(what, congestion control) to (kB/s, model), as the snapshot has them."""
    found = {}
    for line in SNAPSHOT.read_text().splitlines()[1:]:
        rate, model = line[34:].split()
        found[line[:24].strip(), line[24:34].strip()] = int(rate), int(model)
    return found


def test_the_snapshot_has_every_cell() -> None:
    assert len(kept()) == 2 * (len(BUFFERS) * len(LOSSES) + 2)


@pytest.mark.parametrize("congestion", ["cubic", "newreno"])
@pytest.mark.parametrize(("buffer", "loss"), [(32, 0), (32, 2), (32, 10), (128, 5), (512, 0)])
def test_a_cell_is_what_the_snapshot_says(buffer: int, loss: int, congestion: str) -> None:
    """When it is not: python -m tests.tcp.loss_grid --write, and look at the difference."""
    what, control, rate, model = cell(buffer, loss, congestion)
    assert kept()[what, control] == (rate, model)


@pytest.mark.parametrize("what", sorted(kept()))
def test_up_to_a_tenth_lost_it_is_no_slower_than_the_model(what: tuple[str, str]) -> None:
    """Where nothing is lost the model has no slow start: half will do."""
    rate, model = kept()[what]
    if "% lost" not in what[0] or ", 0 %" in what[0]:
        assert rate >= 0.5 * model
    elif ", 20 %" not in what[0] and ", 30 %" not in what[0]:
        assert rate >= model
