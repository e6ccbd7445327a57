"""A folder of mapped files: memory that outlives the process that writes it.

A file's blocks are reserved when it is made, so that a full disk is an error then, and not a SIGBUS
in the middle of a write. What is written is in the kernel's page cache at once, which a killed
process does not take with it; a machine that stops does, and a region of another boot is not used.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import shutil
from pathlib import Path

_BOOT = "boot"
_LINE = "generations"
LINE_MAX = 64
"""Deaths, one after the other, that a neighbour may miss."""
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


class FileStore:
    """Named pieces of memory in `directory`, made if need be; see plywire.region.Store.

    One process at a time: whoever holds the layer's lock. Raises OSError when the folder cannot be
    made or read.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        boot = _BOOT_ID.read_bytes() if _BOOT_ID.exists() else b""
        mark = directory / _BOOT
        if mark.exists() and mark.read_bytes() == boot:
            return
        if directory.exists():
            shutil.rmtree(directory)
        directory.mkdir(mode=0o700, parents=True)
        new = directory / f"{_BOOT}.new"
        new.write_bytes(boot)
        new.rename(mark)  # at once: a process that dies here leaves no half of it

    def names(self) -> list[str]:
        """All that is there."""
        return [name for name in os.listdir(self._directory) if name not in (_BOOT, _LINE)]

    def stands_for(self, generation: int, heir: bool) -> list[int]:
        """The generations whose place this process takes, its own first. heir: it has recovered
        what the last one had. Raises OSError without room."""
        path = self._directory / _LINE
        line = [generation]
        if heir and path.exists():
            line += [int(word) for word in path.read_text().split() if word.isdecimal()]
        line = list(dict.fromkeys(line))[:LINE_MAX]
        new = path.with_suffix(".new")
        new.write_text(" ".join(map(str, line)))
        new.rename(path)
        return line

    def create(self, name: str, size: int) -> memoryview:
        """A new piece of zeros, in place of one of that name. Raises OSError without room."""
        path = self._directory / name
        flags = os.O_RDWR | os.O_CREAT | os.O_TRUNC
        try:
            file = os.open(path, flags, 0o600)
            try:
                os.posix_fallocate(file, 0, size)
                return memoryview(mmap.mmap(file, size))
            finally:
                os.close(file)
        except OSError:
            with contextlib.suppress(OSError):
                self.remove(name)
            raise

    def open(self, name: str) -> memoryview:
        """A piece that is there. Raises OSError."""
        file = os.open(self._directory / name, os.O_RDWR)
        try:
            size = os.fstat(file).st_size
            if size == 0:
                return memoryview(b"")
            return memoryview(mmap.mmap(file, size))
        finally:
            os.close(file)

    def rename(self, old: str, new: str) -> None:
        """At once: there is never none, or half of one, of the new name."""
        os.rename(self._directory / old, self._directory / new)

    def remove(self, name: str) -> None:
        """Forget a piece; nothing happens when there is none."""
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self._directory / name)
