"""What a wire does to frames: delay, loss, marks, duplication, reordering, corruption, a rate, a
queue.

Pure: time and randomness come from the caller. The simulator puts one `Impairer` behind each
station; the ports of real wires can do the same.
"""

from __future__ import annotations

import random
from collections import Counter, deque
from dataclasses import dataclass, fields, replace
from typing import Any

from plywire.errors import ConfigError
from plywire.wire.checksum import checksum, update
from plywire.wire.ethernet import HEADER_LENGTH, TYPE_IPV4
from plywire.wire.ipv4 import MIN_HEADER

_SECOND = 1_000_000_000
_CE = 3
_CHANCES = ("loss", "ecn_mark", "duplicate", "reorder", "corrupt")


@dataclass(frozen=True)
class Impairments:
    """One direction of a wire. Times in nanoseconds, chances from 0 to 1.

    Frames leave one after the other at `rate`, wait for that in a queue of `queue` frames, and
    arrive after `delay` and up to `jitter` more. Jitter alone keeps their order. A frame that
    `reorder` picks is held back by up to `reorder_by` more, so that later ones overtake it.
    `corrupt` flips one bit, which every checksum of the stack must notice. Where a router would
    rather say than drop, IPv4 packets that are ECN capable are marked CE (RFC 3168 5): by the
    chance `ecn_mark`, and while more than `ecn_queue` frames wait for the rate.
    """

    delay: int = 0
    jitter: int = 0
    loss: float = 0.0
    ecn_mark: float = 0.0
    duplicate: float = 0.0
    reorder: float = 0.0
    reorder_by: int = 5_000_000
    corrupt: float = 0.0
    rate: int = 0  # bits a second; 0 is no limit
    queue: int = 1000  # frames that may wait for the rate; later ones are dropped
    ecn_queue: int = 0  # 0: no such threshold

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
        if settings.ecn_mark or settings.ecn_queue:
            frame = self._mark(frame)
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

    def _mark(self, frame: bytes) -> bytes:
        """The frame with CE, when it is its turn and it can have it."""
        settings = self.settings
        marked = with_ce(frame)
        if marked is None:
            return frame
        # `_transmit` has let this frame in; the first of them is being sent, not waiting.
        crowded = settings.rate and 0 < settings.ecn_queue < len(self._leaving) - 1
        if not crowded and not (settings.ecn_mark and self._rng.random() < settings.ecn_mark):
            return frame
        self.counts["ecn_marked"] += 1
        return marked

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


def with_ce(frame: bytes) -> bytes | None:
    """The frame with CE in its IPv4 header, on Ethernet or bare; None when it is not ECN capable.

    A sound header checksum tells that there is a header; it is mended (RFC 1624).
    """
    ethernet = frame[HEADER_LENGTH - 2 : HEADER_LENGTH] == TYPE_IPV4.to_bytes(2, "big")
    for at in (HEADER_LENGTH, 0) if ethernet else (0,):
        head = frame[at : at + ((frame[at] & 0xF) << 2)] if at < len(frame) else b""
        if len(head) >= MIN_HEADER and head[0] >> 4 == 4 and not checksum(head):
            if head[1] & _CE in (0, _CE):
                return None
            data = bytearray(frame)
            data[at + 1] |= _CE
            old, new = head[0] << 8 | head[1], head[0] << 8 | data[at + 1]
            mended = update(head[10] << 8 | head[11], old, new)
            data[at + 10 : at + 12] = mended.to_bytes(2, "big")
            return bytes(data)
    return None


def _flip_bit(frame: bytes, bit: int) -> bytes:
    data = bytearray(frame)
    data[bit >> 3] ^= 1 << (bit & 7)
    return bytes(data)
