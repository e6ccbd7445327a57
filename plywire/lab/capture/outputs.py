"""What a capture is written to: a file, standard output, or a socket."""

from __future__ import annotations

import contextlib
import os
import socket
import stat
from pathlib import Path
from typing import Protocol

from plywire.lab.rundir import LabError


class ReaderGone(Exception):
    """Who read the capture has had enough: no failure."""


class OutputError(LabError):
    """It cannot be written."""


class Output(Protocol):
    """Takes whole blocks or lines, at once: whoever reads along sees them."""

    def write(self, data: bytes) -> object:
        """Write all of it. Raises OutputError or ReaderGone."""

    def close(self) -> None:
        """No more comes."""


class FileOutput:
    """A file by its path. Raises OutputError when it cannot be written.

    When the disk gets full, the file ends with the last block that fits. A file that was made here
    and never held a packet is removed by `discard`.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._new = not os.path.lexists(path)
        self._whole = 0
        try:
            self._fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o666)
        except OSError as error:
            raise OutputError(f"{_cannot(path, error)}: name another file with -o") from None
        self._regular = stat.S_ISREG(os.fstat(self._fd).st_mode)

    def write(self, data: bytes) -> None:
        try:
            _all(self._fd, data)
        except BrokenPipeError:
            raise ReaderGone from None
        except OSError as error:
            if self._regular:
                with contextlib.suppress(OSError):
                    os.ftruncate(self._fd, self._whole)
            held = f"; what was captured until then ({self._whole} bytes) can be read"
            raise OutputError(
                f"{_cannot(self.path, error)}: make room, or name another file with -o"
                f"{held if self._regular and self._whole else ''}"
            ) from None
        self._whole += len(data)

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def discard(self) -> None:
        """Close it, and remove it if it is of no use to anybody."""
        self.close()
        if self._new and self._regular:
            with contextlib.suppress(OSError):
                self.path.unlink()


class StandardOutput:
    """Descriptor 1, without Python's buffer: nothing is left in it when the reader goes."""

    fd = 1

    def write(self, data: bytes) -> None:
        try:
            _all(self.fd, data)
        except BrokenPipeError:
            raise ReaderGone from None
        except OSError as error:
            raise OutputError(_cannot("standard output", error)) from None

    def close(self) -> None:
        """It is not ours to close."""


class SocketOutput:
    """A reader's connection."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection

    def write(self, data: bytes) -> None:
        try:
            self._connection.sendall(data)
        except OSError:
            raise ReaderGone from None

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._connection.shutdown(socket.SHUT_WR)
        self._connection.close()


def _all(fd: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]


def _cannot(what: object, error: OSError) -> str:
    return f"{what} cannot be written ({error.strerror})"
