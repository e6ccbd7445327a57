"""app is killed (kill -9) under programs of several kinds, and they see nothing of it."""

from __future__ import annotations

import contextlib
import itertools
import os
import selectors
import signal
import threading

import pytest
from running import ROOT, wait_until

from plywire.client import ApiDown, Stack
from plywire.client.api import RESUME_WITHIN
from plywire.lab.rundir import LabError
from plywire.lab.supervisor import Lab
from plywire.lab.swap import swap

TIMES = 3
LINE = 1000
"""Bytes of a question and of its answer."""
NUMBERS = itertools.count()
"""No two questions are the same."""


@pytest.fixture(scope="module")
def lab():
    """Its processes find the implementations of tests/process/successors.py."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(ROOT))
        with Lab() as lab:
            yield lab


def kill(lab: Lab, host: str, *roles: str) -> None:
    """Kill layers of a host together, and wait for the processes that take their place."""
    before = {role: lab.layer(host, role).pid for role in roles}
    for pid in before.values():
        os.kill(pid, signal.SIGKILL)
    for role, pid in before.items():

        def back(role=role, pid=pid) -> bool:
            now = lab.layer(host, role)
            return now.pid not in (None, pid) and now.state == "up"

        wait_until(back, f"another {host}.{role}", 60)


class Programs:
    """Threads that go on until `stop`, each with a count of what it has done; an exception in one
    of them is the test's."""

    def __init__(self) -> None:
        self.stop = threading.Event()
        self.done: dict[str, int] = {}
        self.errors: list[BaseException] = []
        self._threads: list[threading.Thread] = []

    def start(self, name: str, work, *arguments) -> None:
        self.done[name] = 0

        def run() -> None:
            try:
                while not self.stop.is_set():
                    work(*arguments)
                    self.done[name] += 1
            except BaseException as error:
                self.errors.append(error)

        thread = threading.Thread(target=run, name=name)
        self._threads.append(thread)
        thread.start()

    def progress(self) -> None:
        """Wait until each of them has done something more, and raise what one of them raised."""
        before = dict(self.done)
        wait_until(
            lambda: self.errors or all(self.done[name] > count for name, count in before.items()),
            f"progress of each program beyond {before}",
            60,
        )
        if self.errors:
            raise self.errors[0]

    def __enter__(self) -> Programs:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop.set()
        for thread in self._threads:
            thread.join(60)
            assert not thread.is_alive(), thread.name


def exactly(sock, count: int) -> bytes:
    parts = b""
    while len(parts) < count:
        data = sock.recv(count - len(parts))
        if not data:
            return parts
        parts += data
    return parts


def serve(server) -> None:
    """Accept one connection, and give back what comes until it ends."""
    server.settimeout(0.5)
    try:
        sock, _ = server.accept()
    except TimeoutError:
        return
    sock.settimeout(60)
    with sock:
        while data := exactly(sock, LINE):
            sock.sendall(data[::-1])


def ask_once(stack, port: int) -> None:
    """A connection of its own for a question."""
    with stack.create_connection(("10.0.0.2", port), timeout=60) as sock:
        question = (f"{next(NUMBERS)} " * LINE).encode()[:LINE]
        sock.sendall(question)
        assert exactly(sock, LINE) == question[::-1]
        sock.shutdown(1)
        assert sock.recv(1) == b""


def ask_on(sock, selector) -> None:
    """A question on a connection that stays, by a program that waits with select."""
    question = (f"again {next(NUMBERS)} " * LINE).encode()[:LINE]
    sock.sendall(question)
    answer = b""
    while len(answer) < LINE:
        assert selector.select(60), "nothing became readable"
        with contextlib.suppress(BlockingIOError):
            data = sock.recv(LINE - len(answer))
            assert data, "the connection ended"
            answer += data
    assert answer == question[::-1]


def listen_anew(stack) -> None:
    """A socket that is bound, listens, and goes."""
    with stack.create_server(("", 0)) as server:
        assert server.getsockname()[1] > 0


@pytest.mark.parametrize("roles", [("app",), ("app", "tcp")], ids="+".join)
def test_programs_see_nothing_of_a_killed_app(lab, roles):
    with (
        Stack(lab.target("h1")) as h1,
        Stack(lab.target("h2")) as h2,
        h2.create_server(("", 70)) as short,
        h2.create_server(("", 71)) as long,
        h1.create_connection(("10.0.0.2", 71), timeout=60) as sock,
        selectors.DefaultSelector() as selector,
        Programs() as programs,
    ):
        programs.start("server", serve, short)
        stays = threading.Thread(target=serve, args=(long,))
        stays.start()
        sock.setblocking(True)
        selector.register(sock, selectors.EVENT_READ)
        programs.start("a connection each", ask_once, h1, 70)
        programs.start("one connection", ask_on, sock, selector)
        programs.start("listeners", listen_anew, h2)
        programs.progress()
        for _ in range(TIMES):
            for host in ("h1", "h2"):
                kill(lab, host, *roles)
                programs.progress()
        programs.stop.set()
        wait_until(lambda: not any(thread.name == "one connection" and thread.is_alive()
                                   for thread in threading.enumerate()), "its end", 60)  # fmt: skip
        selector.unregister(sock)
        sock.close()
        stays.join(60)
        assert not stays.is_alive()
    if programs.errors:
        raise programs.errors[0]


@pytest.mark.parametrize("role", ["app", "tcp"])
def test_a_successor_that_dies_on_probation_costs_no_connection(lab, role):
    """The old implementation goes on from what its predecessors have kept."""
    broken = f"tests.process.successors:{role}_dies_at_work"
    with (
        Stack(lab.target("h1")) as h1,
        Stack(lab.target("h2")) as h2,
        h2.create_server(("", 72)) as server,
        h1.create_connection(("10.0.0.2", 72), timeout=60) as sock,
        server.accept()[0] as peer,
    ):
        peer.settimeout(60)
        peer.sendall(b"read by nobody yet")
        with pytest.raises(LabError, match="within its probation: RuntimeError: not what I"):
            swap(lab, "h1", role, broken, probation=20)
        wait_until(lambda: lab.layer("h1", role).state == "up", "the old one", 60)
        assert lab.layer("h1", role).implementation == f"services.{role}:create"
        assert exactly(sock, 18) == b"read by nobody yet"
        sock.sendall(b"and on")
        assert exactly(peer, 6) == b"and on"


def test_an_api_that_ends_says_so():
    """Its programs do not wait for another one, as they do when it breaks."""
    with Lab() as other:
        stack = Stack(other.target("h1"))
        sock = stack.socket()
        session = stack.session()
    wait_until(lambda: session.ended, "the end of the session", RESUME_WITHIN / 2)
    with pytest.raises(ApiDown):
        sock.bind(("", 1))
    sock.close()
    stack.close()
