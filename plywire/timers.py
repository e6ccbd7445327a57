"""A table of timers with one deadline.

Re-arming is the common case (the retransmission timer moves with every ACK), so the heap is lazy:
a key has at most one entry in it, and an entry that comes up too early is put back. Entries of
keys that are not armed any more are swept out before they are most of the heap: a peer that opens
connections and resets them would else leave a keep-alive's entry each, for two hours.
"""

from __future__ import annotations

import heapq
from collections.abc import Hashable, Iterator

_SWEEP = 64  # entries of which it does not matter how many are dead


class Timers:
    """Deadlines by key, in nanoseconds of the clock that the caller passes in."""

    __slots__ = ("_due", "_heap", "_queued", "_tick")

    def __init__(self) -> None:
        self._due: dict[Hashable, int] = {}
        self._heap: list[tuple[int, int, Hashable]] = []
        self._queued: dict[Hashable, int] = {}
        self._tick = 0  # breaks ties in the order of arming, so that runs are repeatable

    def __contains__(self, key: Hashable) -> bool:
        return key in self._due

    def __len__(self) -> int:
        return len(self._due)

    def get(self, key: Hashable) -> int | None:
        """When `key` is due, or None when it is not armed."""
        return self._due.get(key)

    def set(self, key: Hashable, when: int) -> None:
        """Arm or re-arm `key` to be due at `when`."""
        self._due[key] = when
        queued = self._queued.get(key)
        if queued is None or queued > when:
            self._push(key, when)
            self._sweep()

    def cancel(self, key: Hashable) -> None:
        """Disarm `key`; nothing happens when it is not armed."""
        if self._due.pop(key, None) is not None and len(self._heap) > _SWEEP:
            self._sweep()

    def deadline(self) -> int | None:
        """The earliest time at which a timer is due, or None."""
        self._settle()
        return self._heap[0][0] if self._heap else None

    def expire(self, now: int) -> Iterator[Hashable]:
        """Disarm and yield each key that is due, in the order of their times.

        A key that is re-armed while this runs for a time that has come is yielded again.
        """
        while True:
            self._settle()
            if not self._heap or self._heap[0][0] > now:
                return
            _, _, key = heapq.heappop(self._heap)
            del self._queued[key]
            del self._due[key]
            yield key

    def items(self) -> list[tuple[Hashable, int]]:
        """What is armed, with its time, the earliest first."""
        return sorted(self._due.items(), key=lambda item: item[1])

    def _push(self, key: Hashable, when: int) -> None:
        self._tick += 1
        self._queued[key] = when
        heapq.heappush(self._heap, (when, self._tick, key))

    def _sweep(self) -> None:
        """Drop the entries of what is not armed, and those that were overtaken, once they are more
        than the others."""
        if len(self._heap) <= _SWEEP + 2 * len(self._due):
            return
        due, queued = self._due, self._queued
        self._heap = [item for item in self._heap if item[2] in due and queued[item[2]] == item[0]]
        heapq.heapify(self._heap)
        self._queued = {key: when for when, _, key in self._heap}

    def _settle(self) -> None:
        """Bring the true earliest timer to the top of the heap."""
        heap = self._heap
        while heap:
            when, _, key = heap[0]
            if self._queued.get(key) != when:  # overtaken by an entry armed for an earlier time
                heapq.heappop(heap)
                continue
            due = self._due.get(key)
            if due == when:
                return
            heapq.heappop(heap)
            del self._queued[key]
            if due is not None:  # re-armed for later since
                self._push(key, due)
