"""One run in the lab: eight processes of its own, real time, programs on the socket API."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

from plywire.client import Stack
from plywire.client.options import number_of
from plywire.lab.capture import points as at
from plywire.lab.capture.outputs import FileOutput
from plywire.lab.capture.recording import Recording
from plywire.lab.capture.session import READY_LIMIT, Plan, Session
from plywire.lab.control import LabClient
from plywire.lab.exp.file import ADDRESSES, HOSTS, PORT, RECEIVER, SENDER, Experiment, Run, Swap
from plywire.lab.exp.outcome import Exchange, Outcome
from plywire.lab.exp.samples import Samples
from plywire.lab.exp.workload import ClosedEarly, Program, Progress, Send
from plywire.lab.rundir import LabError
from plywire.lab.service import Service
from plywire.lab.supervisor import Lab
from plywire.roles import IP, LINK, TCP

_PING_LIMIT_MS = 5000
_LEAVE_LIMIT = 10.0
_PROBATION = 0.1


def run(experiment: Experiment, run: Run, folder: Path) -> Outcome:
    """Run it; the sender's capture goes to `capture.pcapng` in `folder`. Raises LabError."""
    with (
        Lab(run.cell.variant.lab) as lab,
        Service(lab),
        LabClient(lab.directory) as client,
    ):
        # So that ARP is no part of what is measured.
        client.ask(HOSTS[SENDER], IP, "ping", ADDRESSES[RECEIVER], 56, _PING_LIMIT_MS,
                   timeout=_PING_LIMIT_MS / 1000 + 1)  # fmt: skip
        for end, other in ((SENDER, RECEIVER), (RECEIVER, SENDER)):
            changes = asdict(run.cell.settings[end])
            client.ask(HOSTS[end], LINK, "impair", "set", HOSTS[other], "out", changes, run.seed)
        with _capture(client, folder / "capture.pcapng"):
            return _Connection(experiment, run, lab, client).run()


@contextmanager
def _capture(client: LabClient, path: Path) -> Iterator[None]:
    """What the sender's link sends and receives, in a file."""
    places = at.find(client, [HOSTS[SENDER]], [LINK])
    output = FileOutput(path)
    ready = threading.Event()
    session = Session(client, Plan(places), lambda: [Recording(output, places)], ready=ready.set,
                      ended=ready.set)  # fmt: skip
    session.start()
    try:
        ready.wait(READY_LIMIT * 2)
        yield
    finally:
        session.stop()
        session.join(_LEAVE_LIMIT)
        session.cancel()
        session.join(_LEAVE_LIMIT)
        output.close()
    if session.error is not None:
        raise session.error


class _Connection:
    """The one connection of a run: a thread for each program, and this one for the samples."""

    def __init__(self, experiment: Experiment, run: Run, lab: Lab, client: LabClient) -> None:
        self._run, self._lab, self._client = run, lab, client
        self._limit = experiment.limit
        self._progress = Progress(experiment.workload, time.monotonic_ns)
        self._samples = Samples(experiment.sample)
        self._swaps = list(run.cell.variant.swaps)
        self._swapping: threading.Thread | None = None
        self._swapped: list[Exchange] = []
        self._error = ""
        self._changed = threading.Event()
        self._row: dict[str, Any] = {}

    def run(self) -> Outcome:
        """From connect() to the last byte, or to the limit."""
        options = self._run.cell.variant.sockets
        with (
            Stack(self._lab.target(HOSTS[SENDER])) as one,
            Stack(self._lab.target(HOSTS[RECEIVER])) as other,
        ):
            listener = _socket(other, options[RECEIVER])
            listener.bind(("", PORT))
            listener.listen()
            client = _socket(one, options[SENDER])
            threads = [
                threading.Thread(target=self._guarded, args=(work, sock), daemon=True)
                for work, sock in ((self._receive, listener), (self._send, client))
            ]
            self._began = time.monotonic_ns()
            for thread in threads:
                thread.start()
            self._watch()
            outcome = Outcome.of(
                self._progress, self._began, self._error, self._row, self._samples,
                time.monotonic_ns(), len(self._run.cell.variant.swaps), self._swapped,
            )  # fmt: skip
        for thread in threads:  # closing its stack ends what a program waits for
            thread.join(_LEAVE_LIMIT)
        return outcome

    def _watch(self) -> None:
        end = self._began + self._limit
        while not self._over() and time.monotonic_ns() < end:
            self._sample()
            idle = self._swapping is None or not self._swapping.is_alive()
            if idle and self._swaps and self._progress.share >= self._swaps[0].after:
                swap = self._swaps.pop(0)
                self._swapping = threading.Thread(target=self._exchange, args=(swap,), daemon=True)
                self._swapping.start()
            if self._changed.wait(self._samples.interval / 1e9):
                self._changed.clear()
        self._sample()
        if self._swapping is not None:
            self._swapping.join()

    def _over(self) -> bool:
        return self._progress.ended is not None or bool(self._error)

    def _sample(self) -> None:
        now = time.monotonic_ns()
        try:
            rows = self._client.describe(HOSTS[SENDER], TCP, "connections")
        except LabError:
            return  # it is being exchanged
        for row in rows:
            if row["remote_port"] == PORT:
                self._row = row
                self._samples.take(now - self._began, row, self._progress.delivered)

    def _exchange(self, swap: Swap) -> None:
        settings = {
            key: str(value).lower() if isinstance(value, bool) else str(value)
            for key, value in swap.settings.items()
        }
        called = time.monotonic_ns()
        try:
            report = self._lab.swap(
                HOSTS[swap.end], swap.layer, swap.spec, settings, probation=_PROBATION
            )
        except LabError as error:
            self._fail(str(error))
        else:
            at = (called - self._began) / 1e9 + report.started
            self._swapped.append(Exchange(swap.end, swap.layer, at, report.pause))

    # --- the programs, each in a thread of its own ------------------------------------------------

    def _guarded(self, work: Any, sock: Any) -> None:
        try:
            work(sock)
        except ClosedEarly:
            self._fail("the stream ended early")
        except OSError as error:
            self._fail(str(error))
        finally:
            self._changed.set()

    def _fail(self, reason: str) -> None:
        if not self._over():
            self._error = reason
        self._changed.set()

    def _send(self, sock: Any) -> None:
        sock.settimeout(self._limit / 1e9)
        sock.connect((ADDRESSES[RECEIVER], PORT))
        _work(self._progress.sender(self._run.seed), sock)

    def _receive(self, listener: Any) -> None:
        listener.settimeout(self._limit / 1e9)
        sock, _ = listener.accept()
        sock.settimeout(self._limit / 1e9)
        _work(self._progress.receiver(), sock)


def _work(program: Program, sock: Any) -> None:
    answer = None
    with suppress(StopIteration):
        while True:
            wish = program.send(answer)
            answer = sock.sendall(wish.data) if isinstance(wish, Send) else sock.recv(wish.size)


def _socket(stack: Stack, options: Mapping[str, int]) -> Any:
    sock = stack.socket()
    for name, value in options.items():
        sock.setsockopt(*number_of(name), value)
    return sock
