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
import sys
import tempfile
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import IO, Any, Self

from plywire.config import LabConfig
from plywire.lab.child import UP, Child, LayerStatus, read
from plywire.lab.dump import dump_lab
from plywire.lab.rundir import Claim, LabError
from plywire.registry import implementation
from plywire.roles import LAYERS, Role, neighbours
from plywire.runtime import config as places
from plywire.runtime.lock import Lock
from plywire.runtime.logs import tail
from plywire.runtime.observer import ask

START_LIMIT = 30.0
"""Seconds that a layer may take to be ready."""
_MEETING_LIMIT = 0.5
WAKE_AFTER = 0.5
"""Seconds between SIGTERM and the end of a layer's standard input."""
STOP_LIMIT = 3.0
"""Seconds between that and SIGKILL."""

LogListener = Callable[[str, Role, str], None]
_STAMP = re.compile(r"\d{4}-\d\d-\d\dT")


class Lab:
    """All processes of a lab, from `start` to `stop`; a context manager does both.

    config: what to run (the default lab when absent). directory: the run directory; when absent a
    temporary one that goes with the lab. commands: what starts a role instead of
    `python -m services.<role>`; the arguments of a layer are added. on_failure: called, in the
    supervisor's thread, when that ends by a bug. A layer dies with the process that holds its Lab,
    however that ends. Methods may be called from any thread.
    """

    endless = ""
    """Why a client may not end this lab: it may."""

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
        self._children = {
            (host, role): Child(
                host,
                role,
                implementation(item, role),
                places.log_path(self.directory, host, role),
            )
            for host, item in self.config.hosts.items()
            for role in LAYERS
        }
        self._file = self.directory / "lab.toml"
        self._others: list[Child] = []  # successors that wait, and processes that were replaced
        self._jobs: deque[Callable[[], None]] = deque()
        self.swapping = threading.Lock()
        """Held by who exchanges a layer: one at a time."""
        self._listeners: list[LogListener] = []
        self._changed = threading.Condition()
        self._selector = selectors.DefaultSelector()
        self._wake_read = self._wake_write = -1
        self._stopping = False
        self._ending = threading.Lock()
        self._ended = False
        self._claim: Claim | Lock | None = None
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
            for host, role in self._children:  # a path that is too long is refused right here
                for neighbour in neighbours(role):
                    places.inbox(self.directory, host, role, neighbour)
            self._claim = self._claim_place()
            self._wake_read, self._wake_write = os.pipe()
            self._watch(self._wake_read, self._woken)
            self._thread = threading.Thread(target=self._run, name="supervisor", daemon=True)
            self._thread.start()
            with self._changed:
                self._changed.wait_for(self._settled, START_LIMIT)
                late = [child.name for child in self._children.values() if child.state != UP]
                reason = self._failure()
            if late or reason:
                limit = f"{', '.join(late)} not ready within {START_LIMIT:g} s"
                raise LabError(reason or f"{limit}; see {self.directory}/logs")
            self._let_them_meet()
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """End every layer, gently first, and leave nothing behind but the logs."""
        self._stopping = True
        with self._ending:  # whoever comes second waits
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

    def place(self, host: str) -> Path:
        """The run directory of a host: all have the lab's."""
        return self.directory

    def status(self) -> list[LayerStatus]:
        """Every layer, host by host, from app down to link."""
        with self._changed:
            return [child.status() for child in self._children.values()]

    def layer(self, host: str, role: Role) -> LayerStatus:
        """One layer. Raises KeyError when there is none."""
        with self._changed:
            return self._children[host, role].status()

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
            for host, role in filter(lambda key: wanted(*key), self._children):
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

    def swap(self, *arguments: Any, **fields: Any) -> Any:
        """Exchange a layer: `plywire.lab.swap.swap`, with the same arguments and errors."""
        from plywire.lab.swap import swap

        return swap(self, *arguments, **fields)

    # --- for plywire.lab.swap: one layer's process in place of another ---

    def start_successor(self, host: str, role: Role, implementation: str, file: Path) -> Child:
        """Start a process by another lab file that waits to take over from a layer that runs."""
        child = Child(host, role, implementation, places.log_path(self.directory, host, role))
        self._others.append(child)
        self._do(lambda: self._spawn(child, file, ["--successor"]))
        return child

    def expect_end(self, host: str, role: Role, expected: bool) -> None:
        """A layer's process is about to end for a successor, and may have done so before the
        successor is adopted. expected: False when it stays after all."""
        with self._changed:
            child = self._children[host, role]
            child.leaves = expected
            if not expected and child.process is None:
                child.due = time.monotonic()
                self._do(lambda: None)

    def adopt(self, child: Child, config: LabConfig) -> None:
        """From now on this process is the layer, by this configuration; what it was before may
        end."""
        with self._changed:
            key = child.host, child.role
            before = self._children[key]
            child.restarts = before.restarts
            self._children[key] = child
            self._others.remove(child)
            if before.process is not None:
                self._others.append(before)
            else:
                before.close()
            self._use(config)
            self._changed.notify_all()

    def go_back(self, child: Child, config: LabConfig) -> None:
        """In the supervisor's thread: a successor on probation has ended. What the layer was by
        this configuration, before, is started in its place."""
        host, role = child.host, child.role
        again = Child(host, role, implementation(config.hosts[host], role), child.log_path)
        again.restarts = child.restarts + 1
        again.was_up = True
        self._children[host, role] = again
        child.close()
        self._use(config)
        self._spawn(again)

    def kill(self, child: Child) -> None:
        """End a process that is not needed."""
        with self._changed:
            child.kill()

    def _use(self, config: LabConfig) -> None:
        """From now on this is the lab, for layers that are started from here on, too."""
        self.config = config
        with tempfile.NamedTemporaryFile(
            "w", encoding="utf-8", dir=self.directory, prefix="lab.", delete=False
        ) as new:
            new.write(self._text(config))
        Path(new.name).replace(self._file)

    def _do(self, job: Callable[[], None]) -> None:
        """Run something in the supervisor's thread, soon."""
        self._jobs.append(job)
        os.write(self._wake_write, b"x")

    # --- what differs where this lab is one layer in a container (plywire.lab.keeper) ---

    _place: tuple[str, ...] = ("--supervised",)
    """What a layer is told about where it runs."""

    def _claim_place(self) -> Claim | Lock:
        """Make the run directory ours, with the lab's file in it."""
        claim = Claim(self.directory)
        self._use(self.config)
        return claim

    def _text(self, config: LabConfig) -> str:
        """The lab's file."""
        return dump_lab(config)

    # --- the supervisor's thread ---

    def _run(self) -> None:
        try:
            with self._changed:
                for child in self._children.values():
                    self._spawn(child)
            while not self._stopping:
                self._turn(self._patience())
                with self._changed:
                    self._run_due()
        finally:
            failed = not self._stopping
            self._end_all()
            self._selector.close()
            os.close(self._wake_read)
            with self._changed:
                self._ended = True
                self._changed.notify_all()
            if failed:
                self._on_failure()

    def _turn(self, timeout: float | None) -> None:
        """Wait for something to happen, and see to it."""
        for key, _ in self._selector.select(timeout):
            with self._changed:
                key.data()

    def _patience(self) -> float | None:
        times = [child.due for child in self._children.values() if child.due is not None]
        return max(0.0, min(times) - time.monotonic()) if times else None

    def _run_due(self) -> None:
        now = time.monotonic()
        for child in self._children.values():
            if child.due is None or child.due > now:
                continue
            child.due = None
            if child.process is None:
                child.restarts += 1
                self._spawn(child)
            else:
                self._tell(child, child.say(f"not ready within {START_LIMIT:g} s: killed"))
                child.kill()

    def _spawn(self, child: Child, file: Path | None = None, extra: Sequence[str] = ()) -> None:
        program = self._commands.get(child.role) or [
            sys.executable, "-P", "-m", f"services.{child.role}",
        ]  # fmt: skip
        place = ["--lab", str(file or self._file), "--host", child.host,
                 "--run-dir", str(self.directory), *self._place]  # fmt: skip
        if child.spawn([*program, *place, *extra]):
            child.due = time.monotonic() + START_LIMIT
            self._watch(child.pidfd, partial(self._ended_one, child))
            for stream, take in self._streams(child):
                self._watch(stream.fileno(), partial(self._read, child, stream, take))
        else:
            self._start_again(child, child.delay())
        self._changed.notify_all()

    def _streams(self, child: Child) -> list[tuple[IO[bytes], Callable[[bytes], list[str]]]]:
        return [(child.process.stdout, child.hear), (child.process.stderr, child.log)]

    def _watch(self, descriptor: int, call: Callable[[], object]) -> None:
        self._selector.register(descriptor, selectors.EVENT_READ, call)

    def _unwatch(self, descriptor: int) -> None:
        with contextlib.suppress(KeyError):
            self._selector.unregister(descriptor)

    def _read(self, child: Child, stream: IO[bytes], take: Callable[[bytes], list[str]]) -> bool:
        """Take what a pipe holds now; False when there was nothing more."""
        data = read(stream)
        if data == b"":
            self._unwatch(stream.fileno())
        if not data:
            return False
        state = child.state
        self._tell(child, take(data))
        if child.state != state:
            self._changed.notify_all()
        return True

    def _tell(self, child: Child, lines: list[str]) -> None:
        for listener in list(self._listeners):
            for line in lines:
                listener(child.host, child.role, line)

    def _ended_one(self, child: Child) -> None:
        """A layer's process has ended: what it still said, how it ended, and when the next."""
        for stream, take in self._streams(child):
            while self._read(child, stream, take):
                pass
            self._unwatch(stream.fileno())
        self._unwatch(child.pidfd)
        pid = child.process.pid
        delay = child.reap()
        swap = places.handover_endpoint(self.directory, child.host, child.role, pid)
        Path(swap.removeprefix("ipc://")).unlink(missing_ok=True)  # of one that was killed
        if child.on_probation is not None and not self._stopping:
            child.on_probation()
        elif self._children.get((child.host, child.role)) is child:
            if not child.leaves:
                self._start_again(child, delay)
        else:
            child.close()
            with contextlib.suppress(ValueError):
                self._others.remove(child)
        self._changed.notify_all()

    def _start_again(self, child: Child, delay: float) -> None:
        child.due = None
        if not self._stopping:
            child.due = time.monotonic() + delay
            when = f"in {delay:g} s" if delay else "at once"
            self._tell(child, child.say(f"{child.ending}; starting it again {when}"))
        self._changed.notify_all()

    def _woken(self) -> None:
        os.read(self._wake_read, 4096)
        while self._jobs:
            self._jobs.popleft()()

    def _end_all(self) -> None:
        self._stopping = True
        # A signal that comes just before a layer goes to sleep may be noticed late: the end of its
        # standard input wakes it.
        steps = ((Child.terminate, WAKE_AFTER), (Child.end_input, STOP_LIMIT),
                 (Child.kill, STOP_LIMIT))  # fmt: skip
        children = [*self._children.values(), *self._others]
        for step, limit in steps:
            deadline = time.monotonic() + limit
            for child in children:
                step(child)
            while any(child.process is not None for child in children):
                left = deadline - time.monotonic()
                if left <= 0:
                    break
                self._turn(left)
        for child in children:
            child.close()

    def _let_them_meet(self) -> None:
        """Wait until neighbours, and the stations of each wire, know one another: the first
        packet is not lost then. A station outside this lab is not waited for long."""
        strangers = list(self._children)
        end = time.monotonic() + _MEETING_LIMIT
        while strangers and time.monotonic() < end:
            strangers = [which for which in strangers if not self._has_met(*which)]

    def _has_met(self, host: str, role: Role) -> bool:
        endpoint = places.control_endpoint(self.directory, host, role)
        try:
            answer = ask(endpoint, "describe", "runtime", timeout=_MEETING_LIMIT)
        except (TimeoutError, ValueError):
            return True  # an implementation that does not tell
        return all(row["connected"] for row in answer["traffic"].values())

    # --- under the lock ---

    def _settled(self) -> bool:
        return (
            self._stopping
            or all(child.state == UP for child in self._children.values())
            or self._failure() is not None
        )

    def _failure(self) -> str | None:
        """Why the lab cannot start, or None."""
        for child in self._children.values():
            if reason := child.failure():
                return reason
        return "the supervisor ended by itself; see its traceback" if self._ended else None
