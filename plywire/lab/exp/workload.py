"""The programs of both ends, the same in the simulator and in the lab.

A program is a generator: it yields what it wants done (`Send`, `Recv`) and is sent the answer. Who
runs it decides how: by calls in virtual time, or by sockets in a thread.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable, Generator
from typing import NamedTuple

from plywire.lab.exp.file import REQUESTS, Workload

PIECE = 65_536
LATENCIES_MAX = 100_000
"""Requests whose times are kept; the median is that of the first ones."""


class Send(NamedTuple):
    """Write all of it."""

    data: bytes


class Recv(NamedTuple):
    """Read this much at most; the answer is b"" at the end of the stream."""

    size: int


Program = Generator[Send | Recv, bytes | None, None]


class ClosedEarly(Exception):
    """The stream ended before all was there."""


class Progress:
    """How far a run is. clock: nanoseconds.

    delivered: bytes of the sender that the receiver's program has; ended: when the last thing that
    the workload asks for was done, None before; latencies: nanoseconds of each request.
    """

    def __init__(self, workload: Workload, clock: Callable[[], int]) -> None:
        self.workload = workload
        self.clock = clock
        self.delivered = 0
        self.answered = 0
        self.ended: int | None = None
        self.latencies: list[int] = []
        self._written = hashlib.sha256()
        self._read = hashlib.sha256()

    @property
    def share(self) -> float:
        """From 0 to 1."""
        return self.delivered / self.workload.forward

    @property
    def intact(self) -> bool:
        """What was read is what was written, all of it."""
        return self._written.digest() == self._read.digest()

    def sender(self, seed: int) -> Program:
        """The program of the end that connects."""
        noise = random.Random(f"payload/{seed}").randbytes(PIECE)
        workload = self.workload
        if workload.kind != REQUESTS:
            left = workload.bytes
            while left:
                piece = noise[: min(left, PIECE)]
                left -= len(piece)
                self._written.update(piece)
                yield Send(piece)
            return
        for _ in range(workload.count):
            began = self.clock()
            for size in workload.writes:
                piece = (noise * (size // PIECE + 1))[:size]
                self._written.update(piece)
                yield Send(piece)
            want = workload.response
            while want:
                data = yield Recv(want)
                if not data:
                    raise ClosedEarly
                want -= len(data)
                self.answered += len(data)
            if len(self.latencies) < LATENCIES_MAX:
                self.latencies.append(self.clock() - began)
        self.ended = self.clock()

    def receiver(self) -> Program:
        """The program of the end that accepts."""
        workload = self.workload
        if workload.kind != REQUESTS:
            yield from self._take(workload.bytes)
            self.ended = self.clock()
            return
        response = bytes(workload.response)
        for _ in range(workload.count):
            yield from self._take(sum(workload.writes))
            yield Send(response)

    def _take(self, want: int) -> Program:
        while want:
            data = yield Recv(min(want, PIECE))
            if not data:
                raise ClosedEarly
            self._read.update(data)
            want -= len(data)
            self.delivered += len(data)
