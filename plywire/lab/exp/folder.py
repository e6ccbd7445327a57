"""The folder of an experiment: what is in it, written whole or not at all.

DIR/experiment.toml     the file it is run from
DIR/experiment.json     what that said, by which a changed file is noticed
DIR/runs/NAME/          one folder a run: run.json, samples.csv, capture.pcapng
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

from plywire.lab.exp.file import Experiment, Run
from plywire.lab.rundir import LabError
from plywire.runtime.lock import Held, Lock

FORMAT = 1
FILES = ("run.json", "samples.csv", "capture.pcapng")
_PART = ".part-"


class Folder:
    """An experiment's folder, while runs are added to it: a context manager that holds its lock.

    Raises LabError when it belongs to another experiment or another process, OSError when it
    cannot be written.
    """

    def __init__(self, directory: Path, experiment: Experiment, text: str) -> None:
        self.directory = directory
        self.runs = directory / "runs"
        self._experiment = experiment
        self._text = text

    def __enter__(self) -> Self:
        known = self.directory / "experiment.json"
        foreign = self.directory.is_dir() and not known.exists() and not _only_ours(self.directory)
        if foreign:
            raise LabError(
                f"{self.directory} has files in it that are no experiment: name another folder"
                " with -o"
            )
        self.runs.mkdir(parents=True, exist_ok=True)
        try:
            self._lock = Lock(self.directory / "lock")
        except Held as held:
            raise LabError(
                f"{self.directory}: process {held.pid} is running this experiment"
            ) from None
        try:
            self._claim(known)
        except BaseException:
            self._lock.release()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._sweep()
        self._lock.release()

    def _claim(self, known: Path) -> None:
        mine = identity(self._experiment)
        if known.exists():
            if read_json(known) != mine:
                raise LabError(
                    f"{self.directory} holds runs of another file, or of this one before it was"
                    " changed: name another folder with -o, or remove this one"
                )
        else:
            write_text(self.directory / "experiment.toml", self._text)
            write_text(known, json.dumps(mine, indent=2) + "\n")
        self._sweep()

    def _sweep(self) -> None:
        """Remove what was begun and not finished, for whatever reason."""
        for path in self.runs.glob(f"{_PART}*"):
            shutil.rmtree(path, ignore_errors=True)

    def is_done(self, run: Run) -> bool:
        """This run is in the folder, whole, and of this cell and seed."""
        record = load_run(self.runs / run.name)
        return record is not None and record["seed"] == run.seed and record["name"] == run.name

    def begin(self, run: Run) -> Path:
        """A folder for the files of a run, which is nobody's until `finish`."""
        part = self.runs / f"{_PART}{run.name}"
        part.mkdir()
        return part

    def finish(self, run: Run, part: Path, record: Mapping[str, Any]) -> None:
        """Put `run.json` beside the other files, and all of them in their place at once."""
        write_text(part / "run.json", json.dumps(record, indent=2) + "\n")
        for name in FILES[1:]:
            _sync(part / name)
        place = self.runs / run.name
        if place.exists():  # one that was not whole
            shutil.rmtree(place)
        part.rename(place)
        _sync(self.runs)


def identity(experiment: Experiment) -> dict[str, Any]:
    """What makes two files the same experiment: all that they say, and where it is run."""
    return {"format": FORMAT, "where": experiment.where, "file": experiment.data}


def load_run(place: Path) -> dict[str, Any] | None:
    """The record of a run whose files are all there; None else."""
    if not all((place / name).is_file() for name in FILES):
        return None
    try:
        record = read_json(place / "run.json")
    except LabError:
        return None
    whole = isinstance(record, dict) and record.get("format") == FORMAT and "results" in record
    return record if whole else None


def read_json(path: Path) -> Any:
    """Raises LabError."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, OSError) as error:
        raise LabError(f"{path} cannot be read: {error}") from None


def write_text(path: Path, text: str) -> None:
    """A file that is either the old one or the new one, whole."""
    new = path.with_name(path.name + ".new")
    try:
        new.write_text(text, encoding="utf-8")
        _sync(new)
        new.replace(path)
    except OSError:
        with contextlib.suppress(OSError):
            new.unlink()
        raise


def _only_ours(directory: Path) -> bool:
    """Nothing in it, or what an experiment leaves that was ended as it began."""
    ours = {"runs", "lock", "experiment.toml", "experiment.toml.new", "experiment.json.new"}
    return {path.name for path in directory.iterdir()} <= ours


def _sync(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
