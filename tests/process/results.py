"""What the long series measured, kept: a JSON file and a table of it in Markdown for the docs.

They go to $PLYWIRE_RESULTS, or build/results. A series that is run again replaces its own row.
"""

from __future__ import annotations

import json
import os
from datetime import UTC, datetime
from pathlib import Path

DIRECTORY = Path(os.environ.get("PLYWIRE_RESULTS") or Path(__file__).parents[2] / "build/results")


def record(series: str, key: str, **row: object) -> None:
    """Put a row into `series`.json and `series`.md. load: of the machine, when it was measured."""
    DIRECTORY.mkdir(parents=True, exist_ok=True)
    file = DIRECTORY / f"{series}.json"
    rows = json.loads(file.read_text()) if file.exists() else {}
    when = datetime.now(UTC).isoformat(timespec="seconds")
    rows[key] = row | {"load": round(os.getloadavg()[0], 1), "cores": os.cpu_count(), "when": when}
    _put(file, json.dumps(rows, indent=2) + "\n")
    columns = list(dict.fromkeys(name for each in rows.values() for name in each))
    lines = [["layer", *columns], ["---"] * (len(columns) + 1)]
    lines += [[name, *(str(each.get(column, "")) for column in columns)]
              for name, each in rows.items()]  # fmt: skip
    _put(file.with_suffix(".md"), "".join(f"| {' | '.join(line)} |\n" for line in lines))


def milliseconds(seconds: float) -> int:
    return round(seconds * 1000)


def _put(file: Path, text: str) -> None:
    new = file.with_suffix(".new")
    new.write_text(text)
    new.replace(file)
