"""Memory of a host that outlives the crash of a layer: what files are to a process."""

from __future__ import annotations


class Memory:
    """Named pieces; see plywire.region.Store."""

    def __init__(self) -> None:
        self.pieces: dict[str, bytearray] = {}

    def names(self) -> list[str]:
        """All that is there."""
        return list(self.pieces)

    def create(self, name: str, size: int) -> memoryview:
        """A new piece of zeros, in place of one of that name."""
        self.pieces[name] = bytearray(size)
        return memoryview(self.pieces[name])

    def open(self, name: str) -> memoryview:
        """A piece that is there. Raises FileNotFoundError."""
        if name not in self.pieces:
            raise FileNotFoundError(name)
        return memoryview(self.pieces[name])

    def rename(self, old: str, new: str) -> None:
        """At once."""
        self.pieces[new] = self.pieces.pop(old)

    def remove(self, name: str) -> None:
        """Forget a piece; nothing happens when there is none."""
        self.pieces.pop(name, None)
