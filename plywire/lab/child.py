"""A layer's process: how it is started, heard and ended. The supervisor decides when."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, NamedTuple

from plywire.roles import Role
from plywire.runtime.logs import LogFile

UP, STARTING, DOWN = "up", "starting", "down"
PREPARED = "prepared"
"""A successor that waits to take over."""

HEALTHY = 10.0
"""Seconds up after which a layer's next restart is immediate again."""
_BACKOFF = (0.0, 0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 5.0)
"""Seconds before a layer is started again, by how often it has failed since it was healthy."""
_FROM_OUTSIDE = frozenset({-signal.SIGKILL, -signal.SIGTERM})
"""Ends that no process comes to by itself. One that worked until then has not failed: the next is
started at once, however often that happens. The kernel's killer for want of memory cannot make
that a busy loop: it takes one that has started and filled the memory again."""


class LayerStatus(NamedTuple):
    """What a layer's process does now. uptime: seconds; pid: 0 when there is no process."""

    host: str
    role: Role
    implementation: str
    pid: int
    uptime: float
    state: str
    restarts: int


class Child:
    """A layer: its process now, and what became of those before.

    due: when the supervisor has something to do for it (seconds of the monotonic clock): to start
    it again, or, when it has a process, to give up waiting for `ready`. ending: how the last
    process ended, in words. was_up: some process was ready once. on_probation: it has just taken
    over from another implementation; when it ends, that is called instead of starting it again.
    leaves: it has been told to end, and a successor takes over: it is not started again.
    """

    def __init__(self, host: str, role: Role, implementation: str, log: Path) -> None:
        self.host = host
        self.role = role
        self.name = f"{host}.{role}"
        self.implementation = implementation
        self.process: subprocess.Popen[bytes] | None = None
        self.pidfd = -1
        self.state = DOWN
        self.due: float | None = None
        self.ending = ""
        self.was_up = False
        self.restarts = 0
        self.on_probation: Callable[[], None] | None = None
        self.leaves = False
        self.log_path = log
        self._log: LogFile | None = None
        self._since = time.monotonic()
        self._failures = 0  # since it was last healthy: ends by itself, or before it was ready
        self._said = b""

    def spawn(self, command: list[str]) -> bool:
        """Start a process; False (and `ending` says why) when there is no such program."""
        if self._log is None:
            self._log = LogFile(self.log_path)
        self._since = time.monotonic()
        try:
            # A process group of its own: Ctrl-C at the terminal is for the supervisor.
            self.process = subprocess.Popen(
                command,
                bufsize=0,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                process_group=0,
            )
        except OSError as error:
            self._end(f"{command[0]} cannot be run: {error.strerror}")
            return False
        self.state = STARTING
        self.pidfd = os.pidfd_open(self.process.pid)
        for stream in (self.process.stdout, self.process.stderr):
            os.set_blocking(stream.fileno(), False)
        return True

    def hear(self, data: bytes) -> list[str]:
        """Take what it writes to standard output: `ready`, once; a successor says `prepared`
        before. Any other line is one of its log, and returned."""
        *lines, rest = (self._said + data).split(b"\n")
        self._said = rest[-4096:]
        told = []
        for line in lines:
            if line == b"prepared" and self.state == STARTING:
                self.state = PREPARED
            elif line == b"ready" and self.state in (STARTING, PREPARED):
                self.state = UP
                self.was_up = True
                self.due = None
                self._since = time.monotonic()
            else:
                told += self._note(line.decode(errors="replace"))
        return told

    def log(self, data: bytes) -> list[str]:
        """Take what it writes to standard error; returns the whole lines."""
        return self._log.feed(data)

    def say(self, text: str) -> list[str]:
        """Write a line of the supervisor's own into its log."""
        now = datetime.now(UTC).isoformat(timespec="milliseconds").removesuffix("+00:00")
        return self._note(f"{now} {self.name} INFO supervisor: {text}")

    def reap(self) -> float:
        """Note how its process ended; returns the seconds to wait before the next one."""
        process = self.process
        code = process.wait()
        for stream in (process.stdin, process.stdout, process.stderr):
            stream.close()
        os.close(self.pidfd)
        self.process, self.pidfd, self._said = None, -1, b""
        return self._end(_ending(code), failed=self.state != UP or code not in _FROM_OUTSIDE)

    def delay(self) -> float:
        """The seconds to wait before the next process, by how often it has failed lately."""
        return _BACKOFF[min(self._failures, len(_BACKOFF)) - 1]

    def failure(self) -> str | None:
        """When it ended before it was ever ready: why, by its own last words if it said any."""
        if not self.ending or self.was_up:
            return None
        return f"{self.name} cannot start: {self.last_words or self.ending}"

    @property
    def last_words(self) -> str:
        """The last line that it logged, without time and name."""
        return re.sub(rf"^\S+ {re.escape(self.name)} [A-Z]+ ", "", self._log.last)

    def status(self) -> LayerStatus:
        """What it does now."""
        pid = self.process.pid if self.process is not None else 0
        uptime = time.monotonic() - self._since if pid else 0.0
        return LayerStatus(
            self.host, self.role, self.implementation, pid, uptime, self.state, self.restarts
        )

    def terminate(self) -> None:
        if self.process is not None:
            self.process.terminate()

    def end_input(self) -> None:
        if self.process is not None:
            self.process.stdin.close()

    def kill(self) -> None:
        if self.process is not None:
            self.process.kill()

    def close(self) -> None:
        """Close the log of a layer that has no process any more."""
        if self._log is not None:
            self._log.close()

    def _note(self, text: str) -> list[str]:
        """Add a line to its log that does not say why it ended: that it logs itself."""
        last = self._log.last
        lines = self._log.write(text)
        self._log.last = last
        return lines

    def _end(self, how: str, failed: bool = True) -> float:
        if self.state == UP and time.monotonic() - self._since >= HEALTHY:
            self._failures = 0
        self._failures += failed
        self.state = DOWN
        self.ending = how
        return self.delay() if failed else 0.0


def read(stream: IO[bytes]) -> bytes | None:
    """What a pipe holds now: b"" at its end, None when there is nothing yet."""
    return None if stream.closed else stream.read(65_536)


def _ending(code: int) -> str:
    """An exit code in words."""
    if code >= 0:
        return f"ended with exit code {code}"
    with contextlib.suppress(ValueError):
        return f"killed by {signal.Signals(-code).name}"
    return f"killed by signal {-code}"
