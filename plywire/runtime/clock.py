"""The lab's clock: real time, until somebody pauses it or slows it down.

All layers of a lab map one small file in the run directory. A change is written there with the
moment, shortly ahead, from which it counts: so all layers change their pace at the same instant.
A file of zeros, which is what the first layer makes, is a clock that was never changed: lab time
is then the machine's monotonic time.
"""

from __future__ import annotations

import fcntl
import mmap
import os
import struct
import time
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple, Protocol

from plywire.errors import ConfigError

FILE = "clock"
LEAD = 50_000_000
"""Nanoseconds from when a change is planned to when it counts, so that all have it by then."""

TOO_LATE = "the change comes too late"

_MARGIN = 1_000_000  # ns in which a change is written
_HIGHEST = 1 << 62
_RATE_MAX = 1_000_000_000
_RECORD = struct.Struct("=9qQ")  # version, the pace, the one before it, a checksum of all that


class Pace(NamedTuple):
    """From the real time `at` on, when it is `lab` in the lab, time runs at num / den of its pace.

    at and lab: nanoseconds; num is 0 while the lab stands still.
    """

    at: int = 0
    lab: int = 0
    num: int = 1
    den: int = 1

    def time(self, real: int) -> int:
        """The lab's time at a real time."""
        return self.lab + (real - self.at) * self.num // self.den

    def real(self, when: int) -> int | None:
        """The first real time at which it is `when` in the lab; None when that never comes."""
        if not self.num:
            return None if when > self.lab else self.at
        return self.at - (self.lab - when) * self.den // self.num


class Clock(Protocol):
    """What a shell reads the time from."""

    def now(self) -> int:
        """The lab's time in nanoseconds."""

    def real(self, when: int) -> int | None:
        """The monotonic time at which it is `when` in the lab, None while the lab stands still."""


class _RealClock:
    now = staticmethod(time.monotonic_ns)

    @staticmethod
    def real(when: int) -> int:
        return when


REAL_CLOCK: Clock = _RealClock()
"""A clock that nobody can change."""


class LabClock:
    """The clock of the lab in a run directory; its file is made when it is not there yet.

    Raises ConfigError when the file cannot be used.
    """

    __slots__ = ("_before", "_map", "_monotonic", "_pace", "_path", "_plain", "_version", "_words")

    def __init__(
        self, directory: Path | str, monotonic: Callable[[], int] = time.monotonic_ns
    ) -> None:
        self._path = Path(directory) / FILE
        self._monotonic = monotonic
        try:
            fd = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                os.ftruncate(fd, _RECORD.size)
                self._map = mmap.mmap(fd, _RECORD.size)
            finally:
                os.close(fd)
        except OSError as error:
            raise ConfigError(str(self._path), f"cannot be used: {error.strerror}") from None
        self._words = memoryview(self._map).cast("q")
        self._pace = self._before = Pace()
        self._plain = True  # nobody has changed it: the common case, and worth a shortcut
        self._version = 0
        if self._words[0]:
            self._load()

    def now(self) -> int:
        """The lab's time in nanoseconds. It never goes back."""
        # Real time is read first: if there is an old record still after that, then the next one
        # counts from a later time only.
        real = self._monotonic()
        if self._words[0] != self._version:
            self._load()
        return real if self._plain else self._lab_time(real)

    def real(self, when: int) -> int | None:
        """The monotonic time at which it is `when` in the lab, None while the lab stands still."""
        if self._words[0] != self._version:
            self._load()
        if self._plain:
            return when
        pace = self._pace
        if when > pace.lab:
            return pace.real(when)
        before = self._before.real(when)
        return pace.at if before is None else min(before, pace.at)

    def describe(self) -> dict[str, int]:
        """The lab's time, and its pace: for up to LEAD after a change, the one that is to come."""
        return {"time": self.now(), **self._pace._asdict()}

    def plan(self, num: int, den: int, lead: int = LEAD) -> list[int]:
        """A change to num / den of real time's pace, as `adopt` takes it; it counts `lead` ns from
        now. Raises ValueError, and ConfigError while another change is still to come."""
        if not (0 <= num <= _RATE_MAX and 1 <= den <= _RATE_MAX):
            raise ValueError(f"a clock cannot run at {num}/{den}")
        self.now()
        before = self._pace
        now = self._monotonic()
        if before.at > now:
            raise ConfigError("clock", "another change is under way: try again")
        return [now + lead, before.time(now + lead), num, den, *before]

    def adopt(self, plan: Sequence[int]) -> None:
        """Let a planned change count for all who have this file. Raises ValueError, also when it
        comes too late: time would go back."""
        if len(plan) != 8 or not all(type(word) is int and 0 <= word < _HIGHEST for word in plan):
            raise ValueError("a clock's change is eight integers")
        if not plan[3] or not plan[7]:
            raise ValueError("a pace is a fraction")
        fd = os.open(self._path, os.O_RDWR | os.O_CLOEXEC)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX)  # until it is closed
            version, *now, _ = _RECORD.unpack(self._map)
            if now != list(plan):
                if plan[0] < self._monotonic() + _MARGIN:
                    raise ValueError(TOO_LATE)
                body = _RECORD.pack(version + 1, *plan, 0)[:-8]
                self._map[:] = body + struct.pack("=Q", zlib.crc32(body))
        finally:
            os.close(fd)

    def _load(self) -> None:
        """Read the record; one that is being written is read at the next look."""
        record = bytes(self._map)
        version, *paces, check = _RECORD.unpack(record)
        if zlib.crc32(record[:-8]) != check:
            return
        self._pace, self._before = Pace(*paces[:4]), Pace(*paces[4:])
        self._plain = False
        self._version = version

    def _lab_time(self, real: int) -> int:
        pace = self._pace
        return pace.time(real) if real >= pace.at else self._before.time(real)
