"""A lock on a path, held as long as the process lives: who has it is known by pid.

libzmq removes an ipc path that another process has bound without asking, so whoever binds one
holds this lock first.
"""

from __future__ import annotations

import fcntl
import os
import socket
import time
from pathlib import Path

_ATTEMPTS = 6
_INSTANT = 0.02


class Held(OSError):
    """Somebody else holds the lock. pid: who, or 0 when that cannot be read; machine: its host
    name there, which tells one container from another."""

    def __init__(self, path: Path, pid: int, machine: str = "") -> None:
        where = f" on {machine}" if machine and machine != socket.gethostname() else ""
        super().__init__(f"{path} is held by process {pid or 'unknown'}{where}: stop it first")
        self.path = path
        self.pid = pid
        self.machine = machine


class Lock:
    """An exclusive lock on the file `path`, which is made when it is not there.

    Raises Held at once when it is taken. The kernel lets go of it when the process dies.
    """

    def __init__(self, path: str | os.PathLike) -> None:
        self.path = Path(path)
        self._fd = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        for attempt in range(_ATTEMPTS):
            try:
                fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if attempt + 1 < _ATTEMPTS:  # `holder` has it for an instant while it looks
                    time.sleep(_INSTANT)
        else:
            pid, machine = _owner(self._fd)
            os.close(self._fd)
            raise Held(self.path, pid, machine)
        os.ftruncate(self._fd, 0)
        os.pwrite(self._fd, f"{os.getpid()} {socket.gethostname()}\n".encode(), 0)

    def release(self) -> None:
        """Let go. The file stays: removing it could take away a lock that somebody just got."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


def holder(path: str | os.PathLike) -> int | None:
    """The pid that holds the lock on `path` now, or None when nobody does."""
    try:
        fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return _owner(fd)[0]
    finally:
        os.close(fd)
    return None


def _owner(fd: int) -> tuple[int, str]:
    """The pid and the host name in a lock file; (0, "") when it does not say."""
    pid, _, machine = os.pread(fd, 128, 0).decode(errors="replace").strip().partition(" ")
    return (int(pid), machine) if pid.isdecimal() else (0, "")
