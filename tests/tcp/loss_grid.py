"""Throughput in virtual time: 10 or 4 MiB over 100 ms with bounded buffers and a wire that loses.

`python -m tests.tcp.loss_grid` prints the table (some minutes on two cores); `--write` keeps it in
loss_grid.txt, against which test_loss_grid.py checks. Columns, in kB/s:

- `median`, `least`, `most`: connect to last byte read, of seeds 1 to 5 at 32 KiB with loss each
  way, else of seeds 1 to 3; `first`: of seed 1, which is what CI measures again; `steady`: the
  median of the second half of the bytes.
- `model`: PFTK (Padhye et al. 1998, equation 32) for that loss, 100 ms, an RTO of 300 ms, two
  segments an acknowledgement, and the buffer as the greatest window.
- `known`: smoltcp's netsim table, whose wire loses the same share of everything, both ways.

The model's loss is of data. So there are two kinds of loss here: `each way`, as netsim has it,
where acknowledgements are lost as often, and `data`, where only what the sender sends is lost.
"""

from __future__ import annotations

import sys
from math import sqrt
from multiprocessing import Pool
from pathlib import Path
from statistics import median
from typing import NamedTuple

from .harness import MS, SECOND, Pair

SNAPSHOT = Path(__file__).with_suffix(".txt")
BUFFERS = (32, 128, 512)  # KiB
LOSSES = (0, 1, 2, 5, 10, 20, 30)  # per cent
CONTROLS = ("cubic", "newreno")
MSS = 1448
RTT = 100 * MS
KNOWN = {0: 323.0, 2: 167.0, 10: 38.0, 30: 1.2}  # by loss, at 32 KiB


class Cell(NamedTuple):
    """One line of the table. buffer: KiB; loss: per cent; way: `each way` or `data`; extra: what
    else the wire or the host does."""

    buffer: int
    loss: int
    way: str
    control: str
    extra: str = ""

    @property
    def what(self) -> str:
        """The first column."""
        loss = f", {self.loss} % {self.way}" if self.loss or not self.extra else ""
        return f"{self.buffer} KiB{loss}{', ' + self.extra if self.extra else ''}"


EXTRAS: dict[str, dict[str, object]] = {
    "reordered": {"delay": 30 * MS, "jitter": 40 * MS},
    "duplicated": {"duplicate": 0.1},
    "thin": {"thin_linear_timeouts": True},
}


class Row(NamedTuple):
    """What a cell came to, in kB/s; known is None where netsim has no such cell."""

    median: float
    least: float
    most: float
    first: float
    steady: float
    model: float
    known: float | None


def cells() -> list[Cell]:
    """The whole table."""
    found = []
    for control in CONTROLS:
        found += [Cell(buffer, loss, "each way", control) for buffer in BUFFERS for loss in LOSSES]
        found += [Cell(buffer, loss, "data", control) for buffer in BUFFERS for loss in LOSSES[1:]]
        found += [Cell(32, loss, "each way", control, "thin") for loss in (10, 20, 30)]
        found += [Cell(512, 0, "each way", control, name) for name in ("reordered", "duplicated")]
    return found


def effort(cell: Cell) -> tuple[int, int]:
    """(seeds, MiB): most where netsim is the measure, one seed where nothing is left to chance."""
    if not cell.loss:
        return 1, 10
    if cell.buffer == 32 and cell.way == "each way" and not cell.extra:
        return 5, 10
    return 3, 10 if cell.loss <= 2 and cell.way == "each way" else 4


def measure(cell: Cell, seed: int) -> tuple[float, float]:
    """(from connect to the last byte read, of the second half of the bytes), in kB/s."""
    buffer = cell.buffer << 10
    size = effort(cell)[1] << 20
    options: dict[str, object] = {"delay": RTT // 2, "send_buffer": buffer,
                                  "receive_buffer": buffer, "congestion": cell.control,
                                  "tune_buffers": False}  # fmt: skip
    pair = Pair(seed, loss=cell.loss / 100, **options | EXTRAS.get(cell.extra, {}))
    if cell.way == "data":
        pair.loss_back = 0.0
    pair.a.buffer = pair.b.buffer = buffer
    started = pair.now
    pair.open()
    pair.a.send(bytes(size))
    received = pair.b.received
    pair.run(lambda: len(received) >= size // 2, limit=200_000 * SECOND)
    half, had = pair.now, len(received)
    pair.run(lambda: len(received) == size, limit=200_000 * SECOND)
    return (
        size * SECOND / (pair.now - started) / 1000,
        (size - had) * SECOND / (pair.now - half) / 1000,
    )


def pftk(cell: Cell, rtt: float = 0.1, rto: float = 0.3) -> float:
    """kB/s by the model."""
    limit = (cell.buffer << 10) / rtt / 1000
    loss = cell.loss / 100
    if not loss:
        return limit
    acked = 2
    rate = 1 / (
        rtt * sqrt(2 * acked * loss / 3)
        + rto * min(1, 3 * sqrt(3 * acked * loss / 8)) * loss * (1 + 32 * loss**2)
    )
    return min(limit, rate * MSS / 1000)


def known(cell: Cell) -> float | None:
    """netsim's figure."""
    return KNOWN.get(cell.loss) if cell.buffer == 32 and cell.way == "each way" else None


def _run(task: tuple[Cell, int]) -> tuple[float, float]:
    return measure(*task)


def rows() -> dict[Cell, Row]:
    """Measure all of it, two at a time."""
    wanted = [(cell, seed) for cell in cells() for seed in range(1, effort(cell)[0] + 1)]
    with Pool(2) as pool:
        found = pool.map(_run, wanted, chunksize=1)
    by_cell: dict[Cell, list[tuple[float, float]]] = {}
    for (cell, _), pair in zip(wanted, found, strict=True):
        by_cell.setdefault(cell, []).append(pair)
    table = {}
    for cell, pairs in by_cell.items():
        whole = [rate for rate, _ in pairs]
        table[cell] = Row(median(whole), min(whole), max(whole), whole[0],
                          median(rate for _, rate in pairs), pftk(cell), known(cell))  # fmt: skip
    return table


def text(table: dict[Cell, Row]) -> str:
    """The snapshot."""
    lines = [f"{'what':28}{'MiB':>4} {'control':9}" + "".join(f"{name:>8}" for name in Row._fields)]
    for cell, row in table.items():
        numbers = "".join("       -" if value is None else f"{value:8.1f}" for value in row)
        lines.append(f"{cell.what:28}{effort(cell)[1]:4} {cell.control:9}{numbers}")
    return "\n".join(lines) + "\n"


def kept() -> dict[Cell, Row]:
    """The snapshot as it is in the repository."""
    by_name = {(cell.what, cell.control): cell for cell in cells()}
    table = {}
    for line in SNAPSHOT.read_text().splitlines()[1:]:
        numbers = [None if field == "-" else float(field) for field in line[42:].split()]
        table[by_name[line[:28].strip(), line[33:42].strip()]] = Row(*numbers)
    return table


if __name__ == "__main__":
    found = text(rows())
    print(found, end="")
    if "--write" in sys.argv:
        SNAPSHOT.write_text(found)
