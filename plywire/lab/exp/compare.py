"""What the runs in a folder show: each cell's medians, and which variants differ on each wire."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from itertools import combinations
from pathlib import Path
from typing import Any, NamedTuple

from plywire.lab.exp.file import Experiment, parse
from plywire.lab.exp.folder import load_run, read_json
from plywire.lab.exp.statistics import LEVEL, Interval, holm, interval, rank_sum
from plywire.lab.rundir import LabError
from plywire.lab.views import table

METRICS: dict[str, tuple[str, float, str]] = {
    "goodput": ("Mbit/s", 1e6, "payload of both ways by the time from connect() to the last byte"),
    "duration": ("s", 1.0, "from connect() to the last byte"),
    "latency": ("ms", 1e-3, "a request's first write to its response, the median of each run"),
    "retransmissions": ("segments", 1.0, "sent again by the sender"),
    "pause": ("ms", 1e-3, "how long an exchanged layer stood still, the median of each run"),
}
"""What can be compared: unit, what a unit is in run.json, meaning."""


class CellResult(NamedTuple):
    """A cell's runs. values: of each metric, in its unit, in the order of the repetitions."""

    variant: str
    impairment: str
    expected: int
    records: list[dict[str, Any]]
    values: dict[str, list[float]]
    intervals: dict[str, Interval]

    @property
    def completed(self) -> int:
        """Runs in which all bytes arrived."""
        return sum(record["results"]["completed"] for record in self.records)


class Pair(NamedTuple):
    """Two variants on one wire. ratio: of the medians, other by one; chance: adjusted for all
    pairs on that wire; None where runs are missing."""

    impairment: str
    metric: str
    one: str
    other: str
    ratio: float | None
    chance: float | None

    @property
    def differs(self) -> bool:
        """Whether a difference is shown."""
        return self.chance is not None and self.chance < 1 - LEVEL


class Comparison(NamedTuple):
    """All that a folder shows."""

    experiment: Experiment
    directory: Path
    cells: list[CellResult]
    pairs: list[Pair]
    notes: list[str]


def load(directory: Path) -> Comparison:
    """Read a folder. Raises LabError when it is none of an experiment, or has no runs yet."""
    if not (directory / "experiment.json").is_file():
        raise LabError(f"{directory} is not the folder of an experiment: plywire exp run FILE")
    known = read_json(directory / "experiment.json")
    try:
        data, where = known["file"], known["where"]
    except (KeyError, TypeError):
        raise LabError(f"{directory / 'experiment.json'} does not describe an experiment") from None
    experiment = parse(data, str(directory / "experiment.toml"), where)
    found: dict[tuple[str, str], list[dict[str, Any]]] = defaultdict(list)
    for run in experiment.runs():
        record = load_run(directory / "runs" / run.name)
        if record is not None:
            found[run.cell.variant.name, run.cell.impairment].append(record)
    if not found:
        raise LabError(f"no run in {directory} is done yet: plywire exp run FILE -o {directory}")
    cells = [
        _cell(cell.variant.name, cell.impairment, experiment.repetitions,
              found[cell.variant.name, cell.impairment])
        for cell in experiment.cells()
    ]  # fmt: skip
    pairs = [
        pair
        for impairment in experiment.impairments
        for metric in METRICS
        for pair in _pairs(impairment, metric, [c for c in cells if c.impairment == impairment])
    ]
    return Comparison(experiment, directory, cells, pairs, _notes(cells))


def _cell(
    variant: str, impairment: str, expected: int, records: list[dict[str, Any]]
) -> CellResult:
    values = {}
    for metric, (_, unit, _) in METRICS.items():
        numbers = [record["results"][metric] for record in records]
        if numbers and None not in numbers:
            values[metric] = [number / unit for number in numbers]
    intervals = {metric: interval(numbers) for metric, numbers in values.items()}
    return CellResult(variant, impairment, expected, records, values, intervals)


def _pairs(impairment: str, metric: str, cells: Sequence[CellResult]) -> list[Pair]:
    """Each variant against each other; those without numbers are not tested."""
    both = list(combinations(cells, 2))
    tested = [pair for pair in both if all(metric in cell.values for cell in pair)]
    chances = holm([rank_sum(a.values[metric], b.values[metric]) for a, b in tested])
    found = {}
    for (one, other), chance in zip(tested, chances, strict=True):
        base = one.intervals[metric].median
        ratio = other.intervals[metric].median / base if base else None
        found[one.variant, other.variant] = ratio, chance
    return [
        Pair(impairment, metric, a.variant, b.variant,
             *found.get((a.variant, b.variant), (None, None)))
        for a, b in both
    ]  # fmt: skip


def _notes(cells: Sequence[CellResult]) -> list[str]:
    """What a reader of the numbers has to know."""
    notes = []
    missing = sum(cell.expected - len(cell.records) for cell in cells)
    if missing:
        notes.append(f"{missing} runs are not done yet: `plywire exp run` goes on with them")
    records = [record for cell in cells for record in cell.records]
    failed = [record for record in records if not record["results"]["completed"]]
    if failed:
        first = failed[0]
        notes.append(
            f"{len(failed)} runs were not completed; they count with what they delivered until"
            f" they ended ({first['name']}: {first['results']['error']})"
        )
    late = [record for record in records if record["results"]["late"]]
    if late:
        notes.append(
            f"in {len(late)} runs exchanges of layers came after the last byte, or not at all"
            f" ({late[0]['name']}: {late[0]['results']['late']}): they say little of it"
        )
    for key, word in (("commit", "commits"), ("versions", "sets of versions")):
        different = {str(record.get(key)) for record in records}
        if len(different) > 1:
            notes.append(
                f"the runs are of {len(different)} {word}: what differs may be due to that"
            )
    if any(record.get("changed") for record in records):
        notes.append("runs were made with sources that differ from their commit")
    few = [item for cell in cells for item in cell.intervals.values() if item.confidence < LEVEL]
    if few:
        notes.append(
            f"too few runs for {LEVEL:.0%}: intervals are from the lowest to the highest, with a"
            f" confidence of {min(item.confidence for item in few):.1%} or more"
        )
    return notes


def lines(comparison: Comparison, metric: str) -> list[str]:
    """For the terminal: a table of cells, and what each pair of variants shows."""
    experiment = comparison.experiment
    unit, _, meaning = METRICS[metric]
    found = [f"{experiment.name} ({experiment.where}): {metric} in {unit}, {meaning}"]
    if experiment.about:
        found.append(experiment.about)
    for impairment in experiment.impairments:
        rows = [_row(cell, metric) for cell in comparison.cells if cell.impairment == impairment]
        found += ["", impairment]
        columns = ["VARIANT", "DONE", "MEDIAN", f"{LEVEL:.0%}-INTERVAL", "RETRANS"]
        found += [f"  {line}" for line in table(columns, rows)]
        pairs = [item for item in comparison.pairs if item.impairment == impairment]
        found += [f"  {verdict(item)}" for item in pairs if item.metric == metric]
    return found + (
        [""] + [f"note: {note}" for note in comparison.notes] if comparison.notes else []
    )


def verdict(pair: Pair) -> str:
    """What a pair shows, in words."""
    name = f"{pair.other} and {pair.one}"
    if pair.chance is None:
        return f"{name}: nothing to compare"
    if not pair.differs:
        return f"{name}: no difference shown (p={pair.chance:.3g})"
    if pair.ratio is None:
        return f"{name} differ (p={pair.chance:.3g})"
    return f"{pair.other} has {pair.ratio - 1:+.1%} against {pair.one} (p={pair.chance:.3g})"


def _row(cell: CellResult, metric: str) -> list[str]:
    done = f"{cell.completed}/{cell.expected}"
    again = cell.intervals.get("retransmissions")
    last = f"{again.median:g}" if again else "-"
    if metric not in cell.intervals:
        return [cell.variant, done, "-", "-", last]
    item = cell.intervals[metric]
    shown = f"{item.low:.4g} .. {item.high:.4g}"
    return [cell.variant, done, f"{item.median:.4g}", shown, last]


def as_json(comparison: Comparison) -> dict[str, Any]:
    """Everything, for programs."""
    return {
        "experiment": comparison.experiment.name,
        "where": comparison.experiment.where,
        "units": {metric: unit for metric, (unit, _, _) in METRICS.items()},
        "cells": [
            {
                "variant": cell.variant,
                "impairment": cell.impairment,
                "expected": cell.expected,
                "runs": len(cell.records),
                "completed": cell.completed,
                **{
                    metric: {**item._asdict(), "values": cell.values[metric]}
                    for metric, item in cell.intervals.items()
                },
            }
            for cell in comparison.cells
        ],
        "pairs": [{**pair._asdict(), "differs": pair.differs} for pair in comparison.pairs],
        "notes": comparison.notes,
    }
