"""Starting the programs of programs.py, and waiting for what they say, with a deadline."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

DEADLINE = 60.0
ROOT = Path(__file__).resolve().parents[2]


class Program:
    """A running program of programs.py."""

    def __init__(self, *arguments: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.process.programs", *map(str, arguments)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT,
        )  # fmt: skip

    def expect(self, event: str) -> dict:
        """The program's next line, which must tell of `event`. A hanging program fails the test
        run's own time limit: the line comes, or the program has ended and the line is empty."""
        line = self.process.stdout.readline()
        assert line, f"the program ended with {self.process.wait()} before {event!r}"
        words = json.loads(line)
        assert words.pop("event") == event
        return words

    def tell(self) -> None:
        """Give the program the line that it looks out for."""
        self.process.stdin.write("\n")
        self.process.stdin.flush()

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()


@contextmanager
def program(*arguments: str) -> Iterator[Program]:
    running = Program(*arguments)
    try:
        yield running
    finally:
        running.kill()
        running.process.stdout.close()
        running.process.stdin.close()


def wait_until(condition: Callable[[], object], what: str, deadline: float = DEADLINE) -> object:
    """Ask `condition` until it holds; it is itself a call to a process, which paces this loop."""
    end = time.monotonic() + deadline
    while True:
        value = condition()
        if value:
            return value
        assert time.monotonic() < end, f"not within {deadline:g} s: {what}"
