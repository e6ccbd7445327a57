"""The main process of a layer's container: `python -m plywire.lab.keeper tcp --host h1 ...`.

It is a lab of one layer: it starts the layer, starts it again when it dies, and exchanges it as any
lab does. What the layer says is written to standard error, for the engine. It is asked for an
exchange at a unix socket in the host's run directory, by one JSON object in a line, and answers in
such lines: `{"say": text}`, any number of them, then `{"report": {...}}` (null after a dry run), or
`{"refused": why}`.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import logging
import os
import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from socketserver import StreamRequestHandler, ThreadingMixIn, UnixStreamServer
from typing import Any

from plywire.config import LabConfig
from plywire.errors import ConfigError
from plywire.lab.rundir import LabError
from plywire.lab.supervisor import Lab
from plywire.lab.swap import Report
from plywire.roles import LAYERS, Role
from plywire.runtime import config as places
from plywire.runtime import logs
from plywire.runtime.lock import Held, Lock

REQUEST = ("spec", "settings", "fresh", "dry_run")
"""What a request has: arguments of `plywire.lab.swap.swap`, by name."""
_LONGEST = 1 << 20
_PATIENCE = 45.0
"""Seconds without a word after which a keeper is given up; no step of an exchange takes as long."""

log = logging.getLogger(__name__)


class Keeper(Lab):
    """A lab of one layer. The other layers of its host are kept by others, in the same directory.

    file: the lab file of all hosts. What exchanges change is in `lab.toml` in the run directory,
    for all layers of the host, until `file` is another one. Raises ConfigError.
    """

    _place = ()  # it ends with its container, and shows by a file that it lives

    def __init__(
        self,
        file: Path,
        directory: Path,
        host: str,
        role: Role,
        on_failure: Callable[[], None] = lambda: None,
    ) -> None:
        config, self._origin = places.load_lab(file), _origin(file)
        if host not in config.hosts:
            known = ", ".join(config.hosts)
            raise ConfigError(f"--host {host}", f"not in the lab; there are {known}")
        super().__init__(exchanged(file, directory) or config, directory, on_failure=on_failure)
        self._origin_file = file
        self._key = host, role
        self._children = {self._key: self._children[self._key]}

    def swap(self, *arguments: Any, **fields: Any) -> Report | None:
        """Exchange the layer: `plywire.lab.swap.swap`, with the same arguments and errors."""
        self.config = places.load_lab(self._file)  # other layers of the host have changed it, too
        self._origin = _first_line(self._file)
        return super().swap(*arguments, **fields)

    def _claim_place(self) -> Lock:
        host, role = self._key
        places.make_run_dir(self.directory)
        lock = Lock(self.directory / f"{host}.{role}.keeper.lock")
        for old in self.directory.glob(f"{host}.{role}.swap-*"):  # of processes that were killed
            old.unlink(missing_ok=True)
        if exchanged(self._origin_file, self.directory) is None:
            self._use(self.config)
        server = _Server(self, host, role)  # before the layer: one that is up can be exchanged
        threading.Thread(target=server.serve_forever, args=(None,), daemon=True).start()
        return lock

    def _text(self, config: LabConfig) -> str:
        return f"{self._origin}\n{super()._text(config)}"

    def _let_them_meet(self) -> None:
        """That is for who sees all containers."""


def exchanged(file: Path, directory: Path) -> LabConfig | None:
    """The lab of `file` as exchanges have changed it, for the layers in this run directory; None
    when nothing is there, or is of a file that said something else."""
    kept = directory / "lab.toml"
    try:
        if _first_line(kept) != _origin(file):
            return None
    except FileNotFoundError:
        return None
    return places.load_lab(kept)


def ask_to_swap(
    directory: Path, host: str, role: Role, request: Mapping[str, Any], say: Callable[[str], None]
) -> Report | None:
    """Have a layer exchanged by its keeper, in another process of this machine.

    request: the arguments in REQUEST. Raises LabError with the keeper's reason, or when there is no
    keeper or it has gone.
    """
    name, look = f"{host}.{role}", f"see `docker compose logs {host}-{role}`"
    with socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(_PATIENCE)
        try:
            sock.connect(str(places.keeper_path(directory, host, role)))
        except OSError as error:
            reason = f"has no keeper to exchange it ({error.strerror})"
            raise LabError(f"{name} {reason}; {look}") from None
        try:
            sock.sendall(json.dumps(request).encode() + b"\n")
            with sock.makefile("rb") as lines:
                return _report(_hear(lines, say))
        except TimeoutError:
            raise LabError(f"{name}: its keeper does not go on; {look}") from None
        except (ConnectionError, EOFError):
            raise LabError(f"{name}: its keeper ended during the exchange; {look}") from None


def _hear(lines: Iterable[bytes], say: Callable[[str], None]) -> dict[str, Any] | None:
    """The report in a keeper's answers. Raises LabError when it refuses, EOFError when there are
    no more."""
    for line in lines:
        if not line.endswith(b"\n"):
            break
        answer = json.loads(line)
        if "say" in answer:
            say(answer["say"])
        elif "refused" in answer:
            raise LabError(answer["refused"])
        else:
            return answer["report"]
    raise EOFError


def _report(fields: dict[str, Any] | None) -> Report | None:
    """JSON has no tuples."""
    return fields and Report(**{**fields, "silent": tuple(fields["silent"])})


class _Server(ThreadingMixIn, UnixStreamServer):
    """Takes requests for exchanges, each in a thread of its own."""

    daemon_threads = True

    def __init__(self, keeper: Keeper, host: str, role: Role) -> None:
        path = places.keeper_path(keeper.directory, host, role)
        path.unlink(missing_ok=True)  # of a keeper that was killed: this one has the lock
        self.layer = host, role
        self.keeper = keeper
        super().__init__(str(path), _Request)

    def handle_error(self, request: object, client_address: object) -> None:
        if not isinstance(sys.exception(), ConnectionError):
            log.exception("a request for an exchange failed")


class _Request(StreamRequestHandler):
    """One exchange."""

    def handle(self) -> None:
        try:
            fields = json.loads(self.rfile.readline(_LONGEST))
            arguments = {name: fields[name] for name in REQUEST}
        except (ValueError, KeyError, TypeError) as error:
            self._answer(refused=f"not a request for an exchange: {type(error).__name__}: {error}")
            return
        host, role = self.server.layer
        try:
            report = self.server.keeper.swap(
                host, role, **arguments, say=lambda line: self._answer(say=line)
            )
        except (LabError, ConfigError) as error:
            self._answer(refused=str(error))
        else:
            self._answer(report=report and report._asdict())

    def _answer(self, **fields: object) -> None:
        self.wfile.write(json.dumps(fields).encode() + b"\n")


def main() -> None:
    """Keep the layer that the command line names until SIGTERM or SIGINT."""
    arguments = _arguments()
    logs.set_up(f"{arguments.host}.{arguments.role}")
    # A handler that raised would do so anywhere, with any lock held: signals only write to a pipe.
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    signal.set_wakeup_fd(writer)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: None)
    sys.exit(_keep(arguments, reader, writer))


def _keep(arguments: argparse.Namespace, reader: int, writer: int) -> int:
    """Keep until something is written to the pipe; returns the exit code."""
    failures: list[Exception] = []

    def fail(error: Exception) -> None:
        failures.append(error)
        os.write(writer, b"x")

    def start() -> None:
        try:
            keeper.start()
        except (LabError, ConfigError, Held) as error:
            fail(error)

    by_itself = LabError("the supervisor ended by itself; its traceback is above")
    try:
        keeper = Keeper(
            arguments.lab, arguments.run_dir, arguments.host, arguments.role,
            on_failure=lambda: fail(by_itself),
        )  # fmt: skip
    except ConfigError as error:
        log.error("%s", error)
        return 2
    keeper.read_logs(lambda *_: False, 0, lambda _h, _r, line: print(line, file=sys.stderr))
    starting = threading.Thread(target=start, daemon=True)
    starting.start()
    os.read(reader, 1)
    why = failures[0] if failures else None  # what comes after the word to stop is no failure
    keeper.stop()
    starting.join()
    if why is None:
        return 0
    log.error("%s", why)
    return 1 if isinstance(why, LabError) else 2


def _origin(file: Path) -> str:
    """The first line of what is made of a lab file."""
    return f"# made of a file with SHA-256 {hashlib.sha256(file.read_bytes()).hexdigest()}"


def _first_line(file: Path) -> str:
    with file.open(encoding="utf-8") as lines:
        return lines.readline().rstrip("\n")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m plywire.lab.keeper", description=__doc__)
    parser.add_argument("role", choices=LAYERS, help="which layer is kept")
    parser.add_argument("--lab", type=Path, required=True, help="the lab file of all hosts")
    parser.add_argument("--host", required=True, help="which host of the lab this is")
    parser.add_argument("--run-dir", type=Path, required=True, help="where the pipes are")
    return parser.parse_args()


if __name__ == "__main__":
    main()
