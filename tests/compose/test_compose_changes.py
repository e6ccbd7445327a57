"""Layers are exchanged and killed in their containers, while bytes go through them."""

from __future__ import annotations

import hashlib
import os
import re
import signal
import threading
from statistics import median

import pytest

from plywire.client import Stack
from tests.compose.conftest import run, wait_until
from tests.process.idle import idle_connections
from tests.process.programs import PIECE, block

KILLED = ("h1-link", "h2-ip", "h2-link", "h1-ip", "h1-tcp", "h2-tcp", "h1-app", "h2-app")
"""Containers that are killed under a transfer, one after the other."""
TIMES = 20 if os.environ.get("PLYWIRE_SOAK") else 1
"""How often each layer of a host is exchanged."""
IDLE = 5
DATA = block(PIECE * 16)
MORE = 1_000_000
"""Bytes that have to come after a change: the transfer goes on."""


class Transfer:
    """h1 sends to h2 as fast as it goes, from `with` on until its end. Reads what has come so far
    by `count`; `check` says whether all that was sent has come, once and in its order."""

    def __init__(self, project, port: int) -> None:
        self.count = self.sent = 0
        self._enough = threading.Event()
        self._sent, self._got = hashlib.sha256(), hashlib.sha256()
        self._errors: list[BaseException] = []
        self._stacks = [Stack(f"127.0.0.1:{project.ports[key]}") for key in ("H1", "H2")]
        self._server = self._stacks[1].create_server(("", port))
        self._port = port
        self._threads = [
            threading.Thread(target=self._guard, args=(what,)) for what in (self._take, self._send)
        ]

    def __enter__(self) -> Transfer:
        for thread in self._threads:
            thread.start()
        self.goes_on()
        return self

    def __exit__(self, *_: object) -> None:
        self._enough.set()
        for thread in self._threads:
            thread.join(120)
        self._server.close()
        for stack in self._stacks:
            stack.close()

    def goes_on(self) -> None:
        """Return when MORE bytes have come since now."""
        enough = self.count + MORE

        def come() -> bool:
            self.check_errors()
            self._threads[0].join(0.01)
            return self.count >= enough

        wait_until(come, "the transfer goes on")

    def check(self) -> None:
        """When it has ended."""
        self.check_errors()
        assert self.count == self.sent > 0
        assert self._got.digest() == self._sent.digest()

    def check_errors(self) -> None:
        for error in self._errors:
            raise error

    def _guard(self, what) -> None:
        try:
            what()
        except BaseException as error:  # shown by the test
            self._errors.append(error)

    def _send(self) -> None:
        with self._stacks[0].create_connection(("h2", self._port), timeout=60) as sock:
            while not self._enough.is_set():
                start = self.sent % (PIECE * 15)
                piece = DATA[start : start + PIECE]
                sock.sendall(piece)
                self.sent += len(piece)
                self._sent.update(piece)
            sock.shutdown(1)
            assert sock.recv(1) == b""

    def _take(self) -> None:
        sock, _ = self._server.accept()
        with sock:
            sock.settimeout(60)
            while data := sock.recv(PIECE):
                self._got.update(data)
                self.count += len(data)


@pytest.fixture(scope="module")
def idle(up):
    """Connections that are made before all changes, and used after them."""
    h1, h2 = (f"127.0.0.1:{up.ports[name]}" for name in ("H1", "H2"))
    with idle_connections(h1, h2, IDLE) as pairs:
        yield pairs


def all_alive(pairs) -> None:
    for number, (one, other) in enumerate(pairs):
        for here, there in ((one, other), (other, one)):
            there.settimeout(30)
            here.sendall(b"%d" % number)
            assert there.recv(10) == b"%d" % number


def pid(project, layer: str) -> int:
    """The layer's process, as its container has it; 0 when it is down."""
    for line in project.plywire("status").splitlines():
        if (words := line.split())[:1] == [layer]:
            return int(words[2]) if words[2].isdecimal() else 0
    raise AssertionError(f"no {layer}")


def kill_container(project, service: str) -> None:
    """kill -9 all there is in a container; the engine's restart policy makes it anew."""
    before = project.inspect(service)["State"]["StartedAt"]
    os.kill(project.pid(service), signal.SIGKILL)
    wait_until(lambda: project.inspect(service)["State"]["StartedAt"] != before, f"{service} again")


@pytest.mark.parametrize("role", ["app", "tcp", "ip", "link"])
def test_a_layer_is_exchanged_under_a_transfer(up, idle, role, capsys):
    pauses = []
    missing = up.logs("lab").count("missing: ")
    with Transfer(up, 7000) as transfer:
        for host in ("h1", "h2") * TIMES:
            layer = f"{host}.{role}"
            before = pid(up, layer)
            said = up.plywire("swap", layer)
            assert f"{layer}: services.{role}:create -> services.{role}:create" in said
            pauses += map(float, re.findall(r"done: pause ([0-9.]+) ms", said))
            assert "did not answer" not in said
            assert pid(up, layer) not in (0, before)
            transfer.goes_on()
    transfer.check()
    all_alive(idle)
    for host in ("h1", "h2"):
        state = up.inspect(f"{host}-{role}")
        assert (state["State"]["Running"], state["RestartCount"]) == (True, 0)
    assert up.logs("lab").count("missing: ") == missing, "no layer was missed"
    with capsys.disabled():
        print(f"\n{role} in its container: {len(pauses)} exchanges, pause {median(pauses):.0f} ms"
              f" (median), {max(pauses):.0f} ms at most, {transfer.count / 1e6:.0f} MB beside it",
              end="")  # fmt: skip
    assert len(pauses) == 2 * TIMES


def test_an_exchange_that_fails_changes_nothing(up, idle):
    with Transfer(up, 7000) as transfer:
        before = pid(up, "h1.ip")
        said = up.plywire("swap", "h1.ip", "--impl", "services.nowhere:create", check=False)
        assert "there is no module services.nowhere. h1.ip goes on as services.ip:create" in said
        assert pid(up, "h1.ip") == before
        transfer.goes_on()
    transfer.check()
    said = up.plywire("swap", "h1.tcp", "--impl", "services.tcp_lite:create", check=False)
    assert f"cannot take over {IDLE} open connections" in said
    assert "no host 'h9'" in up.plywire("swap", "h9.tcp", check=False)
    assert "r1.ip is down" in up.plywire("swap", "r1.ip", check=False)
    all_alive(idle)


def test_numbers_that_are_changed_from_a_container_last(up, idle):
    said = up.compose("run", "--rm", "-T", "cli", "swap", "h1.tcp", "--set", "congestion=newreno")
    assert f"{IDLE} connections are open and go on" in said
    assert "done: pause " in said

    def congestion(port: int) -> str:
        with (
            Stack(f"127.0.0.1:{up.ports['H1']}") as h1,
            h1.create_connection(("h2", 80), timeout=30) as sock,
        ):
            return sock.getsockopt(6, 13, 16).rstrip(b"\0").decode()

    assert congestion(80) == "newreno"
    kill_container(up, "h1-tcp")
    wait_until(lambda: pid(up, "h1.tcp"), "h1.tcp")
    assert congestion(80) == "newreno"
    up.plywire("swap", "h1.tcp", "--set", "congestion=cubic")
    assert congestion(80) == "cubic"
    all_alive(idle)


def test_an_ip_in_another_language_takes_over_where_the_image_has_what_it_needs(up, idle):
    """Node.js in the base image, and the packages in the sources; else it is said what to do."""
    node = run("docker", "run", "--rm", "--network", "none", up.base, "sh", "-c",
               "command -v node || echo none")  # fmt: skip
    packages = up.directory / "services" / "ip_js" / "node_modules" / "zeromq"
    said = up.plywire("swap", "h1.ip", "--impl", "services.ip_js:PROGRAM", check=False)
    if node.strip() == "none":
        assert "build their image on a BASE_IMAGE that has it. h1.ip goes on as services.ip" in said
    elif not packages.is_dir():
        assert "an npm package is missing: run `npm install --no-package-lock`" in said
    else:
        assert "done: pause " in said
        assert re.search(r"h1\.ip +services\.ip_js:PROGRAM", up.plywire("status"))
        all_alive(idle)
        up.plywire("swap", "h1.ip", "--impl", "services.ip:create")
    again = r"h1\.ip +services\.ip:create"
    wait_until(lambda: re.search(again, up.plywire("status", check=False)), "services.ip again")
    all_alive(idle)


def test_containers_are_killed_under_a_transfer(up, idle):
    before = {service: up.inspect(service)["RestartCount"] for service in KILLED}
    with Transfer(up, 7001) as transfer:
        for service in KILLED:
            kill_container(up, service)
            transfer.goes_on()
    transfer.check()
    for service in KILLED:
        assert up.inspect(service)["RestartCount"] == before[service] + 1
    all_alive(idle)


def test_a_layer_that_is_killed_in_its_container_is_started_by_its_keeper(up, idle):
    before = up.inspect("h1-tcp")["RestartCount"]
    with Transfer(up, 7002) as transfer:
        number = pid(up, "h1.tcp")
        run("docker", "exec", up.container("h1-tcp"), "sh", "-c", f"kill -9 {number}")
        wait_until(lambda: pid(up, "h1.tcp") not in (0, number), "h1.tcp again")
        transfer.goes_on()
    transfer.check()
    assert up.inspect("h1-tcp")["RestartCount"] == before
    assert "killed by SIGKILL; starting it again at once" in up.logs("h1-tcp")
    all_alive(idle)
