"""Log lines: layers write them to stderr, the supervisor collects them in bounded files."""

from __future__ import annotations

import logging
import sys
import time
from collections import deque
from pathlib import Path

LINE_MAX = 4096
"""Bytes of a line that are kept."""


def set_up(name: str, level: int = logging.INFO) -> None:
    """Send this process's log to stderr, as `2026-11-20T13:00:00.123 h1.tcp INFO text`.

    name: what stands in the second column (`h1.tcp`). Times are UTC.
    """
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Formatter(name))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level)


class LogFile:
    """A log of lines: `path`, and `path`.1 with what was before it; together two max_bytes at most.

    The last line is kept in `last`, for a message about why a process ended. `lost` counts lines
    that could not be written.
    """

    def __init__(self, path: Path, max_bytes: int = 1 << 20) -> None:
        self.path = path
        self.last = ""
        self.lost = 0
        self._max = max_bytes
        self._rest = b""
        self._file = path.open("ab", buffering=0)
        self._size = self._file.tell()

    def feed(self, data: bytes) -> list[str]:
        """Take bytes as they come from a pipe; the whole lines in them are written and returned."""
        *lines, rest = (self._rest + data).split(b"\n")
        if len(rest) > LINE_MAX:  # no end of line in sight: what there is becomes a line
            lines.append(rest)
            rest = b""
        self._rest = rest
        return self._write(lines)

    def write(self, text: str) -> list[str]:
        """Add a line of one's own."""
        return self._write([text.encode()])

    def close(self) -> None:
        """Write what has no end of line yet, and close the file."""
        if self._rest:
            self._write([self._rest])
            self._rest = b""
        self._file.close()

    def _write(self, lines: list[bytes]) -> list[str]:
        if not lines:
            return []
        lines = [line[:LINE_MAX] for line in lines]
        block = b"".join(line + b"\n" for line in lines)
        try:
            self._append(block)
        except OSError:  # a full disk is no reason to end what is logged about
            self.lost += len(lines)
        texts = [line.decode(errors="replace") for line in lines]
        self.last = next((text for text in reversed(texts) if text.strip()), self.last)
        return texts

    def _append(self, block: bytes) -> None:
        if self._size and self._size + len(block) > self._max:
            self.path.replace(self.path.with_name(self.path.name + ".1"))
            self._file.close()
            self._file = self.path.open("ab", buffering=0)
            self._size = 0
        self._file.write(block)
        self._size += len(block)


def tail(path: Path, lines: int) -> list[str]:
    """The last lines of a log, the one before the rotation included; [] when there is none."""
    found: deque[str] = deque(maxlen=lines)
    for part in (path.with_name(path.name + ".1"), path):
        try:
            with part.open(encoding="utf-8", errors="replace") as file:
                found.extend(line.rstrip("\n") for line in file)
        except FileNotFoundError:
            continue
    return list(found)


class _Formatter(logging.Formatter):
    converter = time.gmtime

    def __init__(self, name: str) -> None:
        super().__init__(
            f"%(asctime)s.%(msecs)03d {name} %(levelname)s %(message)s", "%Y-%m-%dT%H:%M:%S"
        )
