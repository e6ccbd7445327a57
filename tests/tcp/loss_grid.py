"""Throughput in virtual time: a transfer over 100 ms with small buffers and a wire that loses.

`python -m tests.tcp.loss_grid` prints the table; `--write` keeps it in loss_grid.txt, against which
test_loss_grid.py checks. Beside each figure stands what the PFTK model (Padhye et al. 1998,
equation 32) predicts for that loss, round trip, window and RTO.
"""

from __future__ import annotations

import sys
from math import sqrt
from pathlib import Path

from .harness import MS, SECOND, Pair

SNAPSHOT = Path(__file__).with_suffix(".txt")
BUFFERS = (32, 128, 512)  # KiB
LOSSES = (0, 1, 2, 5, 10, 20, 30)  # per cent, each way
MSS = 1448
DELAY = 50 * MS


def measure(
    buffer: int,
    loss: float,
    congestion: str,
    size: int,
    *,
    seed: int = 1,
    jitter: int = 0,
    duplicate: float = 0.0,
) -> float:
    """Bytes a second from connect to the last byte read. buffer: bytes; loss: a share."""
    pair = Pair(
        seed,
        delay=DELAY - jitter // 2,
        jitter=jitter,
        loss=loss,
        duplicate=duplicate,
        send_buffer=buffer,
        receive_buffer=buffer,
        congestion=congestion,
        tune_buffers=False,
    )
    pair.a.buffer = pair.b.buffer = buffer
    started = pair.now
    pair.open()
    pair.a.send(bytes(size))
    pair.run(lambda: len(pair.b.received) == size, limit=50_000 * SECOND)
    return size * SECOND / (pair.now - started)


def pftk(buffer: int, loss: float, rtt: float = 0.1, rto: float = 0.3) -> float:
    """Bytes a second by the model; two segments are acknowledged at once."""
    if not loss:
        return buffer / rtt
    acked = 2
    rate = 1 / (
        rtt * sqrt(2 * acked * loss / 3)
        + rto * min(1, 3 * sqrt(3 * acked * loss / 8)) * loss * (1 + 32 * loss**2)
    )
    return min(buffer / rtt, rate * MSS)


def cell(buffer: int, loss: int, congestion: str) -> tuple[str, str, int, int]:
    """(what, congestion control, kB/s, kB/s by the model). buffer: KiB; loss: per cent."""
    size = (10 if loss < 5 else 2) << 20
    rate = measure(buffer << 10, loss / 100, congestion, size)
    model = pftk(buffer << 10, loss / 100)
    return f"{buffer} KiB, {loss} % lost", congestion, round(rate / 1000), round(model / 1000)


def rows() -> list[tuple[str, str, int, int]]:
    """The whole table: each cell, and a wire that reorders or duplicates."""
    found = []
    for congestion in ("cubic", "newreno"):
        found += [cell(buffer, loss, congestion) for buffer in BUFFERS for loss in LOSSES]
        for name, extra in (("reordered", {"jitter": 40 * MS}), ("duplicated", {"duplicate": 0.1})):
            rate = measure(512 << 10, 0, congestion, 10 << 20, **extra)
            found.append((f"512 KiB, {name}", congestion, round(rate / 1000),
                          round(pftk(512 << 10, 0) / 1000)))  # fmt: skip
    return found


def table(found: list[tuple[str, str, int, int]]) -> str:
    """The snapshot's text."""
    lines = [f"{'what':24}{'control':10}{'kB/s':>8}{'model':>8}"]
    lines += [f"{what:24}{control:10}{rate:8}{model:8}" for what, control, rate, model in found]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    text = table(rows())
    print(text, end="")
    if "--write" in sys.argv:
        SNAPSHOT.write_text(text)
