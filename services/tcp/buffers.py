"""A piece of a byte stream that is kept by reference, not copied together."""

from __future__ import annotations

from bisect import bisect_right

_SMALL = 4096  # small writes are joined up to this size, so that one byte a write stays cheap


class StreamBuffer:
    """The bytes of a stream from `start` to `end` (offsets that do not wrap)."""

    __slots__ = ("_chunks", "_starts", "end", "start")

    def __init__(self, start: int = 0, data: bytes = b"") -> None:
        self.start = start
        self.end = start
        self._chunks: list[bytes] = []
        self._starts: list[int] = []
        if data:
            self.append(data)

    def __len__(self) -> int:
        return self.end - self.start

    def append(self, data: bytes) -> None:
        """Add bytes at the end."""
        if self._chunks and len(self._chunks[-1]) + len(data) <= _SMALL:
            self._chunks[-1] += data
        else:
            self._chunks.append(data)
            self._starts.append(self.end)
        self.end += len(data)

    def read(self, offset: int, length: int) -> bytes:
        """`length` bytes from `offset` on; both must lie inside the buffer."""
        index = bisect_right(self._starts, offset) - 1
        chunk = self._chunks[index]
        at = offset - self._starts[index]
        part = chunk[at : at + length]
        if len(part) == length:
            return part
        parts = [part]
        missing = length - len(part)
        while missing:
            index += 1
            part = self._chunks[index][:missing]
            parts.append(part)
            missing -= len(part)
        return b"".join(parts)

    def trim(self, offset: int) -> None:
        """Let go of everything before `offset`, which is at most `end`."""
        self.start = offset
        if offset == self.end:
            self._chunks.clear()
            self._starts.clear()
            return
        index = bisect_right(self._starts, offset) - 1
        if index > 0:
            del self._chunks[:index]
            del self._starts[:index]

    def to_state(self) -> list:
        """The offset of the first byte, and the bytes."""
        data = self.read(self.start, len(self)) if len(self) else b""
        return [self.start, data]

    @classmethod
    def from_state(cls, state: list) -> StreamBuffer:
        """What `to_state` described."""
        return cls(*state)
