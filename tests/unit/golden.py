"""Outputs kept as files in tests/golden. PLYWIRE_GOLDEN=write writes them anew."""

from __future__ import annotations

import os
from pathlib import Path

GOLDEN = Path(__file__).resolve().parents[1] / "golden"


def check(name: str, lines: list[str]) -> None:
    """The lines are those of the file."""
    file = GOLDEN / name
    text = "".join(f"{line}\n" for line in lines)
    if os.environ.get("PLYWIRE_GOLDEN") == "write":
        file.write_text(text)
    assert text == file.read_text(), f"{file} differs; if that is wanted: PLYWIRE_GOLDEN=write"
