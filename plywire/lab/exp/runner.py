"""A whole matrix, run by run: what is left of it, how long that will take, and the records."""

from __future__ import annotations

import os
import platform
import subprocess
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import asdict
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from plywire.lab.dump import dump_lab
from plywire.lab.exp import simulated
from plywire.lab.exp.file import HOSTS, LAB, Experiment, Run
from plywire.lab.exp.folder import FORMAT, Folder
from plywire.lab.exp.outcome import Outcome
from plywire.lab.rundir import LabError

_PACKAGES = ("plywire", "pyzmq", "msgpack", "grpcio", "protobuf")
_GIT_LIMIT = 10.0

Say = Callable[[str], None]


def run_all(experiment: Experiment, folder: Folder, say: Say) -> int:
    """Do what is not done yet; how many runs that were.

    say: told a line after each run, with the time left. Raises LabError, OSError.
    """
    todo = [run for run in experiment.runs() if not folder.is_done(run)]
    total = experiment.repetitions * len(list(experiment.cells()))
    done = total - len(todo)
    say(f"{total} runs, {done} of them are there already" if done else f"{total} runs")
    around = _surroundings()
    estimate = Estimate()
    for index, run in enumerate(todo):
        began = time.monotonic()
        results = _one(experiment, folder, run, around)
        estimate.took(run, time.monotonic() - began)
        left = estimate.left(todo[index + 1 :])
        say(f"{done + index + 1}/{total} {run.name}: {brief(results)}; {clock(left)} left")
    return len(todo)


def _one(experiment: Experiment, folder: Folder, run: Run, around: dict) -> dict[str, Any]:
    started, began = datetime.now(UTC), time.monotonic()
    try:
        part = folder.begin(run)
        outcome = _run(experiment, run, part)
        outcome.samples.write(part / "samples.csv")
        record = {
            "format": FORMAT,
            "name": run.name,
            "experiment": experiment.name,
            "where": experiment.where,
            "variant": run.cell.variant.name,
            "implementation": run.cell.variant.implementation,
            "option": run.cell.variant.option,
            "impairment": run.cell.impairment,
            "repetition": run.number,
            "seed": run.seed,
            "results": outcome.results,
            "config": config(experiment, run),
            **around,
            "started": started.isoformat(timespec="seconds"),
            "took": round(time.monotonic() - began, 3),
        }
        folder.finish(run, part, record)
    except OSError as error:
        raise LabError(
            f"{run.name} in {folder.directory} was not done: {error}; the runs before it are kept,"
            " and the same command goes on with the rest"
        ) from error
    return outcome.results


def _run(experiment: Experiment, run: Run, part: Path) -> Outcome:
    if experiment.where == LAB:
        from plywire.lab.exp import real  # it takes long to import

        return real.run(experiment, run, part)
    return simulated.run(experiment, run, part)


def config(experiment: Experiment, run: Run) -> dict[str, Any]:
    """What a run was told; times in nanoseconds, but in the lab file, which has seconds."""
    variant = run.cell.variant
    return {
        "lab": dump_lab(variant.lab),
        "hosts": dict(HOSTS),
        "sockets": {end: dict(options) for end, options in variant.sockets.items()},
        "swaps": [asdict(swap) for swap in variant.swaps],
        "impairments": {end: asdict(settings) for end, settings in run.cell.settings.items()},
        "workload": asdict(experiment.workload),
        "limit": experiment.limit,
        "sample": experiment.sample,
    }


class Estimate:
    """How long runs take, by cell; a cell that has not been run yet takes what others took."""

    def __init__(self) -> None:
        self._times: dict[str, list[float]] = defaultdict(list)

    def took(self, run: Run, seconds: float) -> None:
        """One run more."""
        self._times[run.cell.name].append(seconds)

    def left(self, runs: list[Run]) -> float:
        """Seconds for these."""
        means = {name: sum(times) / len(times) for name, times in self._times.items()}
        usual = sum(means.values()) / len(means) if means else 0.0
        return sum(means.get(run.cell.name, usual) for run in runs)


def clock(seconds: float) -> str:
    """1:02:03, 2:03."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


def brief(results: dict[str, Any]) -> str:
    """Results in a few words."""
    words = f"{results['goodput'] / 1e6:.3f} Mbit/s in {results['duration']:.3f} s"
    return words if results["completed"] else f"{words}, not completed ({results['error']})"


def _surroundings() -> dict[str, Any]:
    """What a run may depend on, and its file does not say."""
    return {
        "versions": {"python": platform.python_version(), **dict(map(_version, _PACKAGES))},
        **_commit(),
        "machine": {
            "system": platform.platform(),
            "processor": _processor(),
            "cores": os.cpu_count(),
            "name": platform.node(),
        },
    }


def _version(package: str) -> tuple[str, str]:
    try:
        return package, version(package)
    except PackageNotFoundError:
        return package, "unknown"


def _commit() -> dict[str, Any]:
    """The commit of the sources that run, and whether they differ from it; None outside of git."""
    here = Path(__file__).resolve().parent

    def git(*words: str) -> str | None:
        try:
            done = subprocess.run(
                ["git", "-C", str(here), *words], capture_output=True, text=True, timeout=_GIT_LIMIT
            )
        except (OSError, subprocess.TimeoutExpired):
            return None
        return done.stdout.strip() if done.returncode == 0 else None

    if git("ls-files", "--error-unmatch", __file__) is None:  # a checkout, but not of plywire
        return {"commit": None, "changed": None}
    changes = git("status", "--porcelain", "--untracked-files=no")
    return {
        "commit": git("rev-parse", "HEAD"),
        "changed": None if changes is None else changes != "",
    }


def _processor() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()
