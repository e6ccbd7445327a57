"""The embedded lab: one process per layer and host, started, watched and started again.

Everything waits on descriptors: a layer's output, its log, its end (a pidfd) and a pipe that wakes
the supervisor. Nothing is polled, so an idle lab costs nothing here.
"""

from __future__ import annotations

import contextlib
import os
import re
import selectors
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple, Self

from plywire.config import DEFAULT_IMPLEMENTATIONS, LabConfig
from plywire.lab.dump import dump_lab
from plywire.lab.rundir import Claim, LabError
from plywire.roles import LAYERS, Role, neighbours
from plywire.runtime import config as places
from plywire.runtime.logs import LogFile, tail

UP, STARTING, DOWN = "up", "starting", "down"

START_LIMIT = 30.0
"""Seconds that a layer may take to be ready."""
WAKE_AFTER = 0.5
"""Seconds between SIGTERM and the end of a layer's standard input."""
STOP_LIMIT = 3.0
"""Seconds between that and SIGKILL."""
_BACKOFF = (0.0, 0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 5.0)
"""Seconds before a layer is started again, by how often it has ended since it was healthy."""
HEALTHY = 10.0
"""Seconds up after which a layer's next restart is immediate again."""

LogListener = Callable[[str, Role, str], None]
_STAMP = re.compile(r"\d{4}-\d\d-\d\dT")


class LayerStatus(NamedTuple):
    """What a layer's process does now. uptime: seconds; pid: 0 when there is no process."""

    host: str
    role: Role
    implementation: str
    pid: int
    uptime: float
    state: str
    restarts: int


class Lab:
    """All processes of a lab, from `start` to `stop`; a context manager does both.

    config: what to run (the default lab when absent). directory: the run directory; when absent a
    temporary one that goes with the lab. commands: what starts a role instead of
    `python -m services.<role>`; the arguments of a layer are added. on_failure: called, in the
    supervisor's thread, when that ends by a bug. A layer dies with the process that holds its Lab,
    however that ends. Methods may be called from any thread.
    """

    def __init__(
        self,
        config: LabConfig | None = None,
        directory: Path | str | None = None,
        commands: Mapping[Role, list[str]] | None = None,
        on_failure: Callable[[], None] = lambda: None,
    ) -> None:
        self.config = config or places.load_lab()
        self._temporary = directory is None
        self.directory = Path(directory or tempfile.mkdtemp(prefix="plywire-")).absolute()
        self._commands = dict(commands or {})
        self._on_failure = on_failure
        self._layers = {
            (host, role): _Layer(host, role, item.implementations.get(role))
            for host, item in self.config.hosts.items()
            for role in LAYERS
        }
        for host, role in self._layers:  # a path that is too long is better refused before a start
            places.api_path(self.directory, host)
            for neighbour in neighbours(role):
                places.inbox(self.directory, host, role, neighbour)
        self._listeners: list[LogListener] = []
        self._changed = threading.Condition()
        self._selector = selectors.DefaultSelector()
        self._wake_read = self._wake_write = -1
        self._stopping = False
        self._ended = threading.Event()
        self._claim: Claim | None = None
        self._thread: threading.Thread | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self) -> None:
        """Start every layer and return when all are ready.

        Raises LabIsUp when the run directory has a lab, LabError with the reason when a layer
        cannot start (the others are ended again), ConfigError when the directory cannot be used.
        """
        try:
            self._claim = Claim(self.directory)
            (self.directory / "lab.toml").write_text(dump_lab(self.config), encoding="utf-8")
            self._wake_read, self._wake_write = os.pipe()
            self._watch(self._wake_read, self._woken)
            self._thread = threading.Thread(target=self._run, name="supervisor", daemon=True)
            self._thread.start()
            with self._changed:
                self._changed.wait_for(self._settled, START_LIMIT)
                late = [layer.name for layer in self._layers.values() if layer.state != UP]
                reason = self._failure()
            if late or reason:
                limit = f"{', '.join(late)} not ready within {START_LIMIT:g} s"
                raise LabError(reason or f"{limit}; see {self.directory}/logs")
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """End every layer, gently first, and leave nothing behind but the logs."""
        self._stopping = True
        if self._thread is not None:
            with contextlib.suppress(BrokenPipeError):  # the thread has ended by itself
                os.write(self._wake_write, b"x")
            self._thread.join()
            os.close(self._wake_write)
            self._thread = None
        if self._claim is not None:
            self._claim.release()
            self._claim = None
        if self._temporary:
            shutil.rmtree(self.directory, ignore_errors=True)

    def target(self, host: str) -> str:
        """The gRPC target of a host's socket API. Raises LabError for an unknown host."""
        if host not in self.config.hosts:
            raise LabError(
                f"no host {host!r} in this lab; there are {', '.join(self.config.hosts)}"
            )
        listen = self.config.hosts[host].app.listen
        return listen or f"unix:{places.api_path(self.directory, host)}"

    def status(self) -> list[LayerStatus]:
        """Every layer, host by host, from app down to link."""
        with self._changed:
            now = time.monotonic()
            return [layer.status(now) for layer in self._layers.values()]

    def layer(self, host: str, role: Role) -> LayerStatus:
        """One layer. Raises KeyError when there is none."""
        with self._changed:
            return self._layers[host, role].status(time.monotonic())

    def wait_for(self, condition: Callable[[Lab], bool], timeout: float = 10.0) -> bool:
        """Wait until `condition(self)` holds, looked at whenever a layer's state changes."""
        with self._changed:
            return self._changed.wait_for(lambda: condition(self), timeout)

    def read_logs(
        self, wanted: Callable[[str, Role], bool], lines: int, listener: LogListener | None = None
    ) -> tuple[list[tuple[str, Role, str]], Callable[[], None]]:
        """The last lines of each wanted layer as (host, role, line), in the order of their times.

        listener: called as `listener(host, role, line)` for each line to come of any layer, in the
        supervisor's thread. The function that is returned ends that.
        """
        found: list[tuple[str, str, Role, str]] = []
        with self._changed:  # no line is written meanwhile, so none is missed or told twice
            for host, role in filter(lambda key: wanted(*key), self._layers):
                when = ""
                for line in tail(places.log_path(self.directory, host, role), lines):
                    when = line[:23] if _STAMP.match(line) else when
                    found.append((when, host, role, line))
            if listener is not None:
                self._listeners.append(listener)
        found.sort(key=lambda item: item[0])

        def leave() -> None:
            if listener in self._listeners:
                self._listeners.remove(listener)

        return [item[1:] for item in found], leave

    # --- the supervisor's thread ---

    def _run(self) -> None:
        try:
            with self._changed:
                for layer in self._layers.values():
                    layer.log = LogFile(places.log_path(self.directory, layer.host, layer.role))
                    self._spawn(layer)
            while not self._stopping:
                self._turn(self._patience())
                with self._changed:
                    self._run_due()
        finally:
            failed = not self._stopping
            self._end_all()
            self._selector.close()
            os.close(self._wake_read)
            self._ended.set()
            with self._changed:
                self._changed.notify_all()
            if failed:
                self._on_failure()

    def _turn(self, timeout: float | None) -> None:
        for key, _ in self._selector.select(timeout):
            with self._changed:
                key.data()

    def _patience(self) -> float | None:
        times = [layer.due for layer in self._layers.values() if layer.due is not None]
        return max(0.0, min(times) - time.monotonic()) if times else None

    def _run_due(self) -> None:
        now = time.monotonic()
        for layer in self._layers.values():
            if layer.due is None or layer.due > now:
                continue
            layer.due = None
            if layer.process is None:
                layer.restarts += 1
                self._spawn(layer)
            else:  # it never became ready
                self._say(layer, f"not ready within {START_LIMIT:g} s: killed")
                layer.process.kill()

    def _spawn(self, layer: _Layer) -> None:
        command = self._commands.get(layer.role) or [
            sys.executable, "-P", "-m", f"services.{layer.role}",
        ]  # fmt: skip
        command = [*command, "--lab", str(self.directory / "lab.toml"), "--host", layer.host,
                   "--run-dir", str(self.directory), "--supervised"]  # fmt: skip
        now = time.monotonic()
        layer.since = now
        layer.ready = False
        layer.state = STARTING
        try:
            # A process group of its own: Ctrl-C at the terminal is for the supervisor.
            layer.process = subprocess.Popen(
                command,
                bufsize=0,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                process_group=0,
            )
        except OSError as error:
            self._failed(layer, f"{command[0]} cannot be run: {error.strerror}")
            return
        layer.due = now + START_LIMIT
        layer.pidfd = os.pidfd_open(layer.process.pid)
        self._watch(layer.pidfd, lambda: self._exited(layer))
        for stream, take in (
            (layer.process.stdout, self._heard),
            (layer.process.stderr, self._logged),
        ):
            os.set_blocking(stream.fileno(), False)
            self._watch(
                stream.fileno(), lambda stream=stream, take=take: self._read(layer, stream, take)
            )
        self._changed.notify_all()

    def _watch(self, descriptor: int, call: Callable[[], None]) -> None:
        self._selector.register(descriptor, selectors.EVENT_READ, call)

    def _unwatch(self, descriptor: int) -> None:
        with contextlib.suppress(KeyError):
            self._selector.unregister(descriptor)

    def _read(self, layer: _Layer, stream, take: Callable[[_Layer, bytes], None]) -> bool:
        """Take what a pipe holds now; False when there was nothing more."""
        data = stream.read(65_536) if not stream.closed else None
        if data:
            take(layer, data)
        elif data is not None:  # the end: the process closes it, or has ended
            self._unwatch(stream.fileno())
        return bool(data)

    def _heard(self, layer: _Layer, data: bytes) -> None:
        """Standard output says `ready`, once."""
        layer.said = (layer.said + data)[-4096:]
        if not layer.ready and b"ready\n" in layer.said:
            layer.ready = True
            layer.due = None
            layer.since = time.monotonic()
            layer.state = UP
            self._changed.notify_all()

    def _logged(self, layer: _Layer, data: bytes) -> None:
        self._tell(layer, layer.log.feed(data))

    def _say(self, layer: _Layer, text: str) -> None:
        """A line of the supervisor's own in a layer's log."""
        now = datetime.now(UTC).isoformat(timespec="milliseconds").removesuffix("+00:00")
        last = layer.log.last  # why a process ended is what it said itself
        self._tell(layer, layer.log.write(f"{now} {layer.name} INFO supervisor: {text}"))
        layer.log.last = last

    def _tell(self, layer: _Layer, lines: list[str]) -> None:
        for listener in list(self._listeners):
            for line in lines:
                listener(layer.host, layer.role, line)

    def _exited(self, layer: _Layer) -> None:
        process = layer.process
        code = process.wait()
        for stream, take in ((process.stdout, self._heard), (process.stderr, self._logged)):
            while self._read(layer, stream, take):
                pass
            self._unwatch(stream.fileno())
            stream.close()
        process.stdin.close()
        self._unwatch(layer.pidfd)
        os.close(layer.pidfd)
        layer.process, layer.pidfd, layer.said = None, -1, b""
        self._failed(layer, _ending(code))

    def _failed(self, layer: _Layer, why: str) -> None:
        """A layer has ended: note why, and when to start it again."""
        now = time.monotonic()
        layer.ending = why
        layer.failures = 0 if layer.ready and now - layer.since >= HEALTHY else layer.failures
        delay = _BACKOFF[min(layer.failures, len(_BACKOFF) - 1)]
        layer.state = DOWN
        layer.due = None if self._stopping else now + delay
        layer.since = now
        layer.was_up |= layer.ready
        layer.failures += 1
        if not self._stopping:
            when = f"in {delay:g} s" if delay else "at once"
            self._say(layer, f"{why}; starting it again {when}")
        self._changed.notify_all()

    def _woken(self) -> None:
        os.read(self._wake_read, 4096)

    def _end_all(self) -> None:
        self._stopping = True
        # A signal that comes just before a layer goes to sleep may be noticed late: the end of its
        # standard input wakes it.
        for tell, limit in (
            (_terminate, WAKE_AFTER),
            (_end_input, STOP_LIMIT),
            (_kill, STOP_LIMIT),
        ):
            deadline = time.monotonic() + limit
            for layer in self._layers.values():
                if layer.process is not None:
                    tell(layer.process)
            while any(layer.process is not None for layer in self._layers.values()):
                left = deadline - time.monotonic()
                if left <= 0:
                    break
                self._turn(left)
        for layer in self._layers.values():
            if layer.log is not None:
                layer.log.close()

    # --- under the lock ---

    def _settled(self) -> bool:
        layers = self._layers.values()
        return (
            self._stopping
            or self._ended.is_set()
            or all(layer.state == UP for layer in layers)
            or self._failure() is not None
        )

    def _failure(self) -> str | None:
        """Why the lab cannot start: what a layer said that ended before it was ever ready."""
        for layer in self._layers.values():
            if layer.ending and not layer.was_up:
                said = re.sub(rf"^\S+ {re.escape(layer.name)} [A-Z]+ ", "", layer.log.last)
                return f"{layer.name} cannot start: {said or layer.ending}"
        return "the supervisor ended; see its traceback" if self._ended.is_set() else None


class _Layer:
    """A layer: its process now, and what became of those before."""

    __slots__ = ("due", "ending", "failures", "host", "implementation", "log", "name", "pidfd",
                 "process", "ready", "restarts", "role", "said", "since", "state",
                 "was_up")  # fmt: skip

    def __init__(self, host: str, role: Role, implementation: str | None) -> None:
        self.host = host
        self.role = role
        self.name = f"{host}.{role}"
        self.implementation = implementation or DEFAULT_IMPLEMENTATIONS[role]
        self.process: subprocess.Popen | None = None
        self.pidfd = -1
        self.log: LogFile | None = None
        self.said = b""
        self.state = DOWN
        self.since = time.monotonic()  # of the state, in seconds
        self.due: float | None = None  # to start again; or, with a process, to be ready
        self.ready = False
        self.was_up = False
        self.ending = ""
        self.failures = 0  # since it was last healthy
        self.restarts = 0

    def status(self, now: float) -> LayerStatus:
        pid = self.process.pid if self.process is not None else 0
        return LayerStatus(self.host, self.role, self.implementation, pid,
                           now - self.since if pid else 0.0, self.state, self.restarts)  # fmt: skip


def _terminate(process: subprocess.Popen) -> None:
    process.terminate()


def _end_input(process: subprocess.Popen) -> None:
    process.stdin.close()


def _kill(process: subprocess.Popen) -> None:
    process.kill()


def _ending(code: int) -> str:
    """An exit code in words."""
    if code >= 0:
        return f"ended with exit code {code}"
    with contextlib.suppress(ValueError):
        return f"killed by {signal.Signals(-code).name}"
    return f"killed by signal {-code}"
