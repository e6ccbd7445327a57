"""A lab that stays: what `plywire up` starts, in the background or in the foreground."""

from __future__ import annotations

import argparse
import asyncio
import functools
import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from plywire.config import LabConfig, address, part
from plywire.errors import ConfigError
from plywire.lab.rundir import LabError, LabIsUp
from plywire.lab.supervisor import START_LIMIT, Lab
from plywire.runtime import config as places
from plywire.runtime import logs


def start(
    file: Path | None, name: str | None, hosts: Sequence[str] = (), metrics: str | None = None
) -> tuple[LabConfig, Path]:
    """Start a lab in a process of its own and return when it is ready.

    file: the lab file (None: the default lab); name, metrics: the lab's name, and the address of
    its metrics, when not the file's; hosts: those to start, all when there are none. Raises
    ConfigError for a bad file or address, LabIsUp, or LabError with the reason why it cannot start.
    """
    config, directory = resolve(file, name, hosts, metrics)
    command = [sys.executable, "-P", "-m", "plywire.lab.daemon", "--name", config.name]
    if file is not None:
        command += ["--file", str(Path(file).absolute())]
    for host in hosts:
        command += ["--host", host]
    if metrics is not None:
        command += ["--metrics", metrics]
    process = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,  # the terminal's end and its Ctrl-C are not the lab's
    )
    try:
        report = _report(process)
    except BaseException:
        process.terminate()
        process.wait()
        raise
    finally:
        process.stdout.close()
        process.stderr.close()
    if "error" in report:
        process.wait()
        raise LabIsUp(report["pid"], directory) if report.get("pid") else LabError(report["error"])
    return config, directory


def run(
    file: Path | None,
    name: str | None,
    ready: Callable[[LabConfig, Path], None],
    hosts: Sequence[str] = (),
    metrics: str | None = None,
) -> None:
    """Run a lab in this process until SIGTERM, SIGINT or a client's Shutdown ends it.

    `ready(config, directory)` is called when everything is up. Raises as `start` does.
    """
    config, directory = resolve(file, name, hosts, metrics)
    signal.signal(signal.SIGTERM, _interrupt)
    fatal = functools.partial(signal.raise_signal, signal.SIGTERM)
    with Lab(config, directory, on_failure=fatal) as lab:
        asyncio.run(_serve(lab, lambda: ready(config, directory)))


def resolve(
    file: Path | None, name: str | None, hosts: Sequence[str] = (), metrics: str | None = None
) -> tuple[LabConfig, Path]:
    """The lab that a file describes, with this name and these metrics if given, and its run
    directory. Raises ConfigError."""
    config = places.load_lab(file)
    if hosts:
        config = part(config, hosts)
    if name:
        config = replace(config, name=name)
    if metrics is not None:
        try:
            address(metrics)
        except ValueError as error:
            raise ConfigError("--metrics", str(error)) from None
        config = replace(config, metrics=metrics)
    return config, places.run_dir(config.name)


def main() -> None:
    """The background process: says on standard output, in one line of JSON, how the start went."""
    parser = argparse.ArgumentParser(prog="python -m plywire.lab.daemon")
    parser.add_argument("--file", type=Path)
    parser.add_argument("--name")
    parser.add_argument("--host", action="append", default=[])
    parser.add_argument("--metrics")
    arguments = parser.parse_args()

    def ready(_config: LabConfig, directory: Path) -> None:
        # From here on there is nobody to read this process's output.
        log = os.open(directory / "logs" / "lab.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        os.dup2(log, 2)
        os.close(log)
        logs.set_up("lab")
        _say({})
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, 1)
        os.close(null)

    try:
        run(arguments.file, arguments.name, ready, arguments.host, arguments.metrics)
    except LabIsUp as error:
        _say({"error": str(error), "pid": error.pid})
        sys.exit(1)
    except (LabError, ConfigError) as error:
        _say({"error": str(error)})
        sys.exit(1)
    except KeyboardInterrupt:
        pass  # told to stop before it was up


async def _serve(lab: Lab, ready: Callable[[], None]) -> None:
    # gRPC takes long to import: the layers start meanwhile.
    from plywire.lab.service import serve

    loop = asyncio.get_running_loop()
    stopping = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopping.set)
    await serve(lab, stopping, ready)


def _report(process: subprocess.Popen) -> dict:
    """What the daemon says of its start, or an error about its silence."""
    deadline = time.monotonic() + START_LIMIT + 10
    data = b""
    while not data.endswith(b"\n"):
        left = deadline - time.monotonic()
        if left <= 0 or not select.select([process.stdout], [], [], left)[0]:
            raise LabError(f"the lab is not ready after {START_LIMIT + 10:g} s")
        part = os.read(process.stdout.fileno(), 65_536)
        if not part:
            words = process.stderr.read().decode(errors="replace").strip().splitlines()
            raise LabError(f"the lab's process ended: {words[-1] if words else 'it said nothing'}")
        data += part
    return json.loads(data)


def _say(report: dict) -> None:
    try:
        sys.stdout.write(json.dumps(report) + "\n")
        sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # who started this lab has gone; it stays


def _interrupt(_signal: int, _frame: object) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    main()
