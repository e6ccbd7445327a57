"""What a wire does to frames: delay, loss, duplication, reordering, corruption, a rate, a queue.

Pure: time and randomness come from the caller. The simulator puts one `Impairer` behind each
station; the ports of real wires can do the same.
"""

from __future__ import annotations

import random
from collections import Counter, deque
from dataclasses import dataclass, fields, replace
from typing import Any

from plywire.errors import ConfigError

_SECOND = 1_000_000_000
_CHANCES = ("loss", "duplicate", "reorder", "corrupt")


@dataclass(frozen=True)
class Impairments:
    """One direction of a wire. Times in nanoseconds, chances from 0 to 1.

    Frames leave one after the other at `rate`, wait for that in a queue of `queue` frames, and
    arrive after `delay` and up to `jitter` more. Jitter alone keeps their order. A frame that
    `reorder` picks is held back by up to `reorder_by` more, so that later ones overtake it.
    `corrupt` flips one bit, which every checksum of the stack must notice.
    """

    delay: int = 0
    jitter: int = 0
    loss: float = 0.0
    duplicate: float = 0.0
    reorder: float = 0.0
    reorder_by: int = 5_000_000
    corrupt: float = 0.0
    rate: int = 0  # bits a second; 0 is no limit
    queue: int = 1000  # frames that may wait for the rate; later ones are dropped

    def __post_init__(self) -> None:
        for item in fields(self):
            value = getattr(self, item.name)
            if isinstance(value, bool) or not isinstance(value, int | float):
                raise ConfigError(f"impairment {item.name}", f"{value!r} is not a number")
            if item.name in _CHANCES:
                if not 0 <= value <= 1:
                    raise ConfigError(f"impairment {item.name}", f"{value} is not from 0 to 1")
            elif not isinstance(value, int) or value < 0:
                raise ConfigError(
                    f"impairment {item.name}", f"{value!r} is not a whole number >= 0"
                )

    def changed(self, **changes: Any) -> Impairments:
        """A copy with these fields changed. Raises ConfigError for what is not a field."""
        known = {item.name for item in fields(self)}
        for name in changes:
            if name not in known:
                reason = f"unknown; there are {', '.join(sorted(known))}"
                raise ConfigError(f"impairment {name}", reason)
        return replace(self, **changes)


class Impairer:
    """One direction of one wire, with its queue.

    settings: may be replaced at any time; counts: frames by what became of them, `sent` for all
    that were handed in.
    """

    __slots__ = ("_busy_until", "_drop_next", "_last_arrival", "_leaving", "_rng", "counts",
                 "settings")  # fmt: skip

    def __init__(self, settings: Impairments, rng: random.Random) -> None:
        self.settings = settings
        self.counts: Counter[str] = Counter()
        self._rng = rng
        self._busy_until = 0
        self._leaving: deque[int] = deque()  # when each frame that still waits will have left
        self._last_arrival = 0
        self._drop_next = 0

    def drop_next(self, count: int = 1) -> None:
        """Lose the next `count` frames for certain."""
        self._drop_next += count

    @property
    def dropping(self) -> int:
        """How many frames are still to be lost for certain."""
        return self._drop_next

    def reseed(self, rng: random.Random) -> None:
        """Decide by another source of randomness from now on."""
        self._rng = rng

    def apply(self, frame: bytes, now: int) -> list[tuple[int, bytes]]:
        """When and as what a frame that is sent now arrives; nothing when it is lost."""
        settings, rng, counts = self.settings, self._rng, self.counts
        counts["sent"] += 1
        if self._drop_next:
            self._drop_next -= 1
            counts["dropped_on_request"] += 1
            return []
        left_at = self._transmit(len(frame), now)
        if left_at is None:
            counts["queue_full"] += 1
            return []
        if settings.loss and rng.random() < settings.loss:
            counts["lost"] += 1
            return []
        copies = 1
        if settings.duplicate and rng.random() < settings.duplicate:
            counts["duplicated"] += 1
            copies = 2
        arrivals = []
        for _ in range(copies):
            data = frame
            if settings.corrupt and frame and rng.random() < settings.corrupt:
                counts["corrupted"] += 1
                data = _flip_bit(frame, rng.randrange(len(frame) * 8))
            arrivals.append((self._arrival(left_at), data))
        return arrivals

    def _transmit(self, length: int, now: int) -> int | None:
        """When the last bit has left, or None when the queue is full."""
        rate = self.settings.rate
        if not rate:
            return now
        leaving = self._leaving
        while leaving and leaving[0] <= now:
            leaving.popleft()
        if len(leaving) > self.settings.queue:  # the first of them is being sent, not waiting
            return None
        start = max(now, self._busy_until)
        self._busy_until = start + length * 8 * _SECOND // rate
        leaving.append(self._busy_until)
        return self._busy_until

    def _arrival(self, left_at: int) -> int:
        settings, rng = self.settings, self._rng
        at = left_at + settings.delay
        if settings.jitter:
            at += rng.randint(0, settings.jitter)
        if settings.reorder and rng.random() < settings.reorder:
            self.counts["reordered"] += 1
            return at + rng.randint(1, max(1, settings.reorder_by))
        self._last_arrival = at = max(at, self._last_arrival)
        return at


def _flip_bit(frame: bytes, bit: int) -> bytes:
    data = bytearray(frame)
    data[bit >> 3] ^= 1 << (bit & 7)
    return bytes(data)
