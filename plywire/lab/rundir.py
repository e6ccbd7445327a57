"""A lab's claim on its run directory: one lab at a time, and nothing left of a dead one."""

from __future__ import annotations

import contextlib
import shutil
import time
from pathlib import Path

from plywire.runtime import config as places
from plywire.runtime.lock import Held, Lock, holder

LOCK = "lab.lock"
_ORPHANS_LEAVE = 5.0
"""Seconds that the layers of a lab that was killed may take to notice."""


class LabError(Exception):
    """A lab cannot do what was asked; the text is for people."""


class NoLab(LabError):
    """No lab is up where one was looked for."""


class LabIsUp(LabError):
    """The run directory belongs to a lab that runs. pid: its supervisor's."""

    def __init__(self, pid: int, directory: Path) -> None:
        super().__init__(
            f"a lab is already up (pid {pid}) in {directory}: end it with `plywire down`"
        )
        self.pid = pid


class Claim:
    """The run directory `directory`, made if need be, swept, and ours until `release`.

    Raises LabIsUp when a lab has it, ConfigError when it cannot be used, LabError when layers of a
    dead lab are still in it.
    """

    def __init__(self, directory: Path) -> None:
        places.make_run_dir(directory)
        self.directory = directory
        self._lock = _lock(directory)
        try:
            _wait_for_orphans(directory)
        except LabError:
            self._lock.release()
            raise
        shutil.rmtree(directory / "logs", ignore_errors=True)
        (directory / "logs").mkdir(mode=0o700, exist_ok=True)
        self._sweep()

    def release(self) -> None:
        """Remove the sockets and give the directory up. The logs stay until the next lab."""
        self._sweep()
        self._lock.release()

    def _sweep(self) -> None:
        """Remove all files but locks that are held, what belongs to who holds them, and ours."""
        held = tuple(f"{name}." for name in _held(self.directory))
        for path in self.directory.iterdir():
            if path.name == LOCK or path.name.startswith(held):
                continue
            if path.name.endswith(".region"):
                shutil.rmtree(path, ignore_errors=True)
            elif not path.is_dir():
                path.unlink(missing_ok=True)


def supervisor_of(directory: Path) -> int | None:
    """The pid of the lab that is up in a run directory, or None."""
    return holder(directory / LOCK)


def labs_up(lab: str) -> list[str]:
    """The names of the labs that are up beside `lab`."""
    found = []
    with contextlib.suppress(OSError):
        for directory in sorted(places.run_dir(lab).parent.iterdir()):
            if directory.name != lab and supervisor_of(directory) is not None:
                found.append(directory.name)
    return found


def _lock(directory: Path) -> Lock:
    try:
        return Lock(directory / LOCK)
    except Held as held:
        raise LabIsUp(held.pid, directory) from None


def _held(directory: Path) -> dict[str, int]:
    """The locks in a run directory that somebody holds, less the lab's own: name and pid."""
    found = {}
    for path in directory.glob("*.lock"):
        pid = holder(path) if path.name != LOCK else None
        if pid is not None:
            found[path.name.removesuffix(".lock")] = pid
    return found


def _wait_for_orphans(directory: Path) -> None:
    """Layers end with their supervisor, but after it: wait for those that are still about it."""
    deadline = time.monotonic() + _ORPHANS_LEAVE
    while held := _held(directory):
        if time.monotonic() > deadline:
            pids = sorted(set(held.values()))
            raise LabError(
                f"processes that are no part of a lab are in {directory}: end them first"
                f" (kill {' '.join(map(str, pids))})"
            )
        time.sleep(0.02)
