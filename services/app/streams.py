"""The two directions of a connection between the program and TCP, by stream offsets.

Bytes from the program are accepted as far as TCP's credit reaches, handed down at once, and kept
until TCP says that it has them. Bytes from TCP are queued within the credit that was given, and
what the program took is kept for a while, so that a reply that got lost can be had again.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from typing import Any

from plywire.errors import DecodeError

PIECE = 65_536
"""Bytes that one Data message carries at most."""
REPLAY = 1 << 20
"""Bytes already given to the program that can be asked for again."""
CREDIT_STEP = 65_536
"""Bytes read after which TCP hears of it at the latest; a quarter of a buffer smaller than four."""

_SMALL = 512
_MERGED = 4096


class SendStream:
    """From the program to TCP.

    accepted: bytes taken from the program, which are also those handed to TCP; acked: those that
    TCP has for good; limit: how far TCP takes them; size: the send buffer, for `used`, as far as it
    is known: TCP may let it grow, unless it is `fixed` by SO_SNDBUF.
    """

    __slots__ = ("_retained", "_start", "accepted", "acked", "fixed", "limit", "size")

    def __init__(self, size: int) -> None:
        self.accepted = 0
        self.acked = 0
        self.limit = 0
        self.size = size
        self.fixed = False
        self._start = 0  # offset of the first retained chunk
        self._retained: deque[bytes] = deque()

    @property
    def space(self) -> int:
        """How many bytes TCP would take now."""
        return max(0, self.limit - self.accepted)

    @property
    def used(self) -> int:
        """How much of the send buffer is taken: not acknowledged by the peer."""
        return max(0, self.accepted - max(0, self.limit - self.size))

    @property
    def writable(self) -> bool:
        """A third of the buffer is free, which is when Linux reports POLLOUT."""
        return self.space > 0 and 2 * self.space >= self.used

    def push(self, data: bytes) -> int:
        """Take bytes that fit in `space`; returns the offset of the first."""
        offset = self.accepted
        self.accepted += len(data)
        _append(self._retained, data)
        return offset

    def acknowledge(self, acked: int, limit: int) -> None:
        """TCP's Credit. Raises DecodeError when it acknowledges what was never sent."""
        if acked > self.accepted:
            raise DecodeError("credit_beyond_stream", f"{acked}, sent up to {self.accepted}")
        self.limit = max(self.limit, limit)
        self.acked = max(self.acked, acked)
        if not self.fixed and limit - acked > self.size:
            self.size = limit - acked
        retained = self._retained
        while retained and self._start + len(retained[0]) <= acked:
            self._start += len(retained.popleft())

    def retained(self) -> Iterator[tuple[int, bytes]]:
        """(offset, bytes) of what TCP has not acknowledged yet."""
        offset = self._start
        for chunk in self._retained:
            yield offset, chunk
            offset += len(chunk)

    def read(self, offset: int, length: int) -> bytes:
        """The last `length` bytes, which begin at `offset`."""
        parts: list[bytes] = []
        at = self.accepted
        for chunk in reversed(self._retained):
            if at <= offset:
                break
            at -= len(chunk)
            parts.append(chunk if at >= offset else chunk[offset - at :])
        return parts[0] if len(parts) == 1 else b"".join(reversed(parts))

    def clear(self) -> None:
        """There is no TCP any more that could ask."""
        self._retained.clear()
        self._start = self.acked = self.accepted

    def to_state(self) -> list:
        """For a snapshot."""
        kept = b"".join(self._retained)
        return [self.accepted, self.acked, self.limit, self.size, self._start, kept, self.fixed]

    def to_region(self) -> list:
        """All but the bytes, which are in the region's ring from `acked` on."""
        return [self.limit, self.size, self.fixed]

    @classmethod
    def from_region(cls, state: list, acked: int, kept: bytes) -> SendStream:
        """From `to_region`; kept: the bytes from `acked` on."""
        return cls.from_state([acked + len(kept), acked, state[0], state[1], acked, kept, state[2]])

    @classmethod
    def from_state(cls, state: list) -> SendStream:
        """From `to_state`."""
        stream = cls(state[3])
        stream.accepted, stream.acked, stream.limit, _, stream._start, kept, stream.fixed = state
        if kept:
            stream._retained.append(kept)
        return stream


class ReceiveStream:
    """From TCP to the program.

    received: bytes that came; delivered: bytes that the program took; end: where the peer ended
    the stream, if it did; limit: the credit given; buffer: bytes that may wait; step: bytes read
    that TCP hears of at once; told: how far it has heard; answered: what the program had sent when
    it last read.

    In a process that has recovered, received stands behind delivered until TCP has said again what
    comes from `needed` on.
    """

    __slots__ = (
        "_head", "_queue", "_tail", "_tail_size", "answered", "buffer", "delivered", "end", "limit",
        "received", "step", "told",
    )  # fmt: skip

    def __init__(self, buffer: int, limit: int, step: int = CREDIT_STEP) -> None:
        self.received = 0
        self.delivered = 0
        self.end: int | None = None
        self.limit = limit
        self.buffer = buffer
        self.step = step
        self.told = 0
        self.answered = 0
        self._queue: deque[bytes] = deque()
        self._head = 0  # bytes of the first chunk that are gone
        self._tail: deque[bytes] = deque()
        self._tail_size = 0

    @property
    def waiting(self) -> int:
        """Bytes that can be read."""
        return max(0, self.received - self.delivered)

    @property
    def needed(self) -> int:
        """Where the bytes begin that the program may not have for good."""
        return min(self.received, self.delivered) - self._tail_size

    @property
    def needs_tcp(self) -> bool:
        """There are bytes that the program may not have for good."""
        return self.needed < self.received

    @property
    def ended(self) -> bool:
        """The end was reached: all was read and no byte will follow."""
        return self.end is not None and self.delivered == self.received

    def push(self, offset: int, payload: bytes) -> None:
        """TCP's Data. Raises DecodeError for what leaves a gap or goes beyond limit or end."""
        end = offset + len(payload)
        if offset > self.received:
            raise DecodeError("data_gap", f"{offset}, received up to {self.received}")
        if end > self.limit:
            raise DecodeError("data_beyond_credit", f"{end}, credit to {self.limit}")
        if end <= self.received:
            return  # a repeat
        if self.end is not None:
            raise DecodeError("data_after_end", f"{end}, ended at {self.end}")
        if offset < self.received:
            payload = payload[self.received - offset :]
        missing = self.delivered - self.received
        if missing > 0:
            _append(self._tail, payload[:missing])
            self._tail_size += min(missing, len(payload))
            payload = payload[missing:]
        _append(self._queue, payload)
        self.received = end

    def finish(self, offset: int) -> None:
        """TCP's End. Raises DecodeError when bytes before it are missing."""
        if offset != self.received:
            raise DecodeError("end_elsewhere", f"{offset}, received up to {self.received}")
        self.end = offset

    def read(self, count: int, keep: bool) -> bytes:
        """Take up to `count` bytes; with `keep` they can be had again by `replay`."""
        data = self._take(count)
        self.delivered += len(data)
        if keep and data:
            _append(self._tail, data)
            self._tail_size += len(data)
            while self._tail_size - len(self._tail[0]) >= REPLAY:
                self._tail_size -= len(self._tail.popleft())
        return data

    def peek(self, count: int) -> bytes:
        """Up to `count` bytes that stay unread."""
        return _span(self._queue, self._head, count)

    def replay(self, offset: int, count: int) -> bytes | None:
        """Up to `count` delivered bytes from `offset` on, or None when they are not kept."""
        start = self.needed
        if offset < start:
            return None
        return _span(self._tail, offset - start, count)

    def forget(self, before: int) -> None:
        """The program has all bytes before an offset for good."""
        tail = self._tail
        while tail and self.needed + len(tail[0]) <= before:
            self._tail_size -= len(tail.popleft())

    def credit(self, sent: int | None = None) -> bool:
        """Whether TCP should hear of what was read; `limit` is the new credit then.

        When it is a good part; and when a program has read all there was and has sent nothing since
        it read before. It does not answer, so TCP need not wait for an answer to acknowledge with
        (Linux: tcp_cleanup_rbuf). sent: how much it has sent by now, None if it did not read.
        """
        limit = max(self.limit, self.delivered + self.buffer)
        fresh = max(self.delivered - self.told, limit - self.limit)
        all_read = sent is not None and sent == self.answered and fresh > 0 and not self.waiting
        if sent is not None:
            self.answered = sent
        if fresh < min(self.step, self.buffer // 4) and not all_read:
            return False
        self.limit, self.told = limit, self.delivered
        return True

    def to_state(self) -> list:
        """For a snapshot."""
        return [*self.to_region(), self.peek(self.waiting), b"".join(self._tail)]

    def to_region(self) -> list:
        """All but the bytes, which TCP has from `needed` on."""
        return [self.needed, self.delivered, self.received, self.end, self.limit, self.buffer,
                self.step, self.told, self.answered]  # fmt: skip

    @classmethod
    def from_state(cls, state: list) -> ReceiveStream:
        """From `to_state`."""
        *kept, queue, tail = state
        stream = cls.from_region(kept)
        stream.received, stream.end = kept[2:4]
        if queue:
            stream._queue.append(queue)
        if tail:
            stream._tail.append(tail)
            stream._tail_size = len(tail)
        return stream

    @classmethod
    def from_region(cls, state: list) -> ReceiveStream:
        """From `to_region`. TCP says again all that comes from `needed` on, and where it ends."""
        needed, delivered, _, _, limit, buffer, step, told, answered = state
        stream = cls(buffer, limit, step)
        stream.received, stream.delivered = needed, delivered
        stream.told, stream.answered = told, answered
        return stream

    def _take(self, count: int) -> bytes:
        queue, head = self._queue, self._head
        if not queue:
            return b""
        first = queue[0]
        if len(first) - head > count:  # the common small read: one slice, the chunk stays
            self._head = head + count
            return first[head : head + count]
        parts = []
        while queue and count:
            part = queue[0][head:] if head else queue[0]
            if len(part) > count:
                parts.append(part[:count])
                head += count
                break
            parts.append(part)
            count -= len(part)
            queue.popleft()
            head = 0
        self._head = head
        return parts[0] if len(parts) == 1 else b"".join(parts)


def _append(chunks: deque[bytes], data: bytes) -> None:
    """Small pieces are merged: a stream of single bytes would cost 40 bytes of memory each."""
    if chunks and len(data) < _SMALL and len(chunks[-1]) < _MERGED:
        chunks[-1] += data
    elif data:
        chunks.append(data)


def _span(chunks: deque[bytes], skip: int, count: int) -> bytes:
    """`count` bytes of `chunks` after `skip` of them, or what there is."""
    parts: list[Any] = []
    for chunk in chunks:
        if count <= 0:
            break
        if skip >= len(chunk):
            skip -= len(chunk)
            continue
        part = chunk[skip : skip + count]
        parts.append(part)
        count -= len(part)
        skip = 0
    return b"".join(parts)
