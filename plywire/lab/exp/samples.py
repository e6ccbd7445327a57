"""What the sending TCP has written in its own socket, over time: `samples.csv`."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

COLUMNS = (
    "time_s", "cwnd", "ssthresh", "srtt_us", "rto_us", "snd_una", "snd_nxt", "snd_wnd",
    "bytes_acked", "bytes_received", "retransmits", "state",
)  # fmt: skip
"""time_s: seconds since connect() was called; cwnd, ssthresh, snd_wnd: bytes; snd_una and snd_nxt
are relative to the initial sequence number; bytes_received: what the receiving program has read. A
TCP that does not keep one of them leaves it empty."""

SAMPLES_MAX = 20_000
"""Of one run. When there are more, every second one goes, and from then on every second one is
taken."""
_WRAP = 1 << 32


class Samples:
    """The samples of one run. interval: nanoseconds from one to the next."""

    def __init__(self, interval: int) -> None:
        self.interval = interval
        self.rows: list[tuple] = []

    def take(self, time: int, row: Mapping[str, Any], received: int) -> None:
        """Add one. time: nanoseconds since connect(); row: of the topic `connections`."""
        iss = row.get("iss", 0)
        values = {
            **row,
            "time_s": f"{time / 1e9:.6f}",
            "bytes_received": received,
            "snd_una": (row["snd_una"] - iss) % _WRAP,
            "snd_nxt": (row["snd_nxt"] - iss) % _WRAP,
        }
        self.rows.append(tuple(values.get(name, "") for name in COLUMNS))
        if len(self.rows) > SAMPLES_MAX:
            del self.rows[1::2]
            self.interval *= 2

    def write(self, path: Path) -> None:
        """All of them, with a line of names."""
        with path.open("w", encoding="ascii", newline="") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(COLUMNS)
            writer.writerows(self.rows)


def read(path: Path) -> Iterable[dict[str, float | None]]:
    """The samples of a file; what is empty is None. Raises ValueError."""
    with path.open(encoding="ascii", newline="") as file:
        reader = csv.DictReader(file)
        if tuple(reader.fieldnames or ()) != COLUMNS:
            raise ValueError(f"{path} does not have the columns of samples")
        for row in reader:
            yield {name: float(row[name]) if row[name] else None for name in COLUMNS[:-1]}
