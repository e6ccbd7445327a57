"""What ends a capture from outside, as a descriptor that one can wait for."""

from __future__ import annotations

import os
import signal
from typing import Self

STOPS = (signal.SIGINT, signal.SIGTERM)


class Wakeups:
    """SIGINT, SIGTERM and `wake` make `fd` readable. A context manager, for the main thread.

    Signals do not interrupt anything meanwhile, so no block is written by half.
    """

    def __init__(self) -> None:
        self.fd, self._writer = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self._before: list = []

    def __enter__(self) -> Self:
        self._before = [signal.signal(number, lambda *_: None) for number in STOPS]
        signal.set_wakeup_fd(self._writer, warn_on_full_buffer=False)
        return self

    def __exit__(self, *_: object) -> None:
        signal.set_wakeup_fd(-1)
        for number, handler in zip(STOPS, self._before, strict=True):
            signal.signal(number, handler)
        # The descriptors stay open: a thread that is not done yet may still want to wake somebody.

    def wake(self) -> None:
        """From any thread."""
        try:
            os.write(self._writer, b"\0")
        except BlockingIOError:
            return  # it is readable anyway

    def stops(self) -> int:
        """How many signals to stop have come since the last time."""
        try:
            return sum(number in STOPS for number in os.read(self.fd, 4096))
        except BlockingIOError:
            return 0
