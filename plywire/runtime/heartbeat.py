"""A sign of life for those who cannot see a layer's process: a file, touched by its loop.

Containers do not see one another's processes, and asking each layer costs far more than a look at a
file's age. Only a layer without a supervisor makes one: an idle lab stays idle.
"""

from __future__ import annotations

import time
from pathlib import Path

EVERY = 2_000_000_000
"""Nanoseconds between two touches."""
STALE = 8.0
"""Seconds after which a layer that has not touched its file is not well: its loop stands still."""


class Heartbeat:
    """Touches `path` as long as the loop that runs it turns. Its time is monotonic, not the lab's.

    In it is a number that each process has of its own: another one means that the layer was started
    again.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._due = time.monotonic_ns()
        path.write_text(f"{self._due}\n", encoding="ascii")

    def deadline(self) -> int:
        """When `expire` is next needed."""
        return self._due

    def expire(self, now: int) -> None:
        """Touch the file."""
        self._due = now + EVERY
        self._path.touch(0o600)

    def close(self) -> None:
        """Remove the file: this end was meant."""
        self._path.unlink(missing_ok=True)


def age(path: Path) -> float | None:
    """Seconds since a layer last touched its file; None when there is none."""
    try:
        return max(0.0, time.time() - path.stat().st_mtime)
    except FileNotFoundError:
        return None
