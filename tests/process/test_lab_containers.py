"""A lab without a supervisor: layers that are started one by one, and who finds them.

Compose does it with containers; here the same processes run beside one another.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from contextlib import contextmanager

import pytest

from plywire.client import Stack
from plywire.client.errors import ApiDown
from plywire.errors import ConfigError
from plywire.lab.containers import Containers
from plywire.lab.control import LabClient, find_lab
from plywire.lab.remote import FrontDoor
from plywire.lab.rundir import LabError, NoLab
from plywire.lab.service import Service
from plywire.roles import LAYERS
from plywire.runtime import config as places
from plywire.runtime.heartbeat import EVERY, Heartbeat, age
from plywire.runtime.lock import Held, Lock
from tests.process.running import DEADLINE, wait_until

LAB = """
[wires.lan]
[hosts.h1]
interfaces = [{{ address = "10.0.0.1/24", listen = "tcp://127.0.0.1:{0}" }}]
[hosts.h2]
interfaces = [{{ address = "10.0.0.2/24", listen = "tcp://127.0.0.1:{1}" }}]
[hosts.h3]
interfaces = [{{ address = "10.0.0.3/24" }}]
"""


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return sock.getsockname()[1]


class Parts:
    """The processes of a lab, each started as its container would."""

    def __init__(self, base) -> None:
        self.base = base
        self.file = base / "lab.toml"
        self.file.write_text(LAB.format(free_port(), free_port()))
        self.config = places.load_lab(self.file)
        self.running: dict[tuple[str, str], subprocess.Popen] = {}

    def start(self, host: str, role: str) -> subprocess.Popen:
        self.running[host, role] = subprocess.Popen(
            [sys.executable, "-P", "-m", f"services.{role}", "--lab", self.file, "--host", host,
             "--run-dir", self.base / host],
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        return self.running[host, role]

    def kill(self, host: str, role: str, number: int = signal.SIGKILL) -> int:
        process = self.running.pop((host, role))
        process.send_signal(number)
        return process.wait(20)

    def end(self) -> None:
        for process in self.running.values():
            process.kill()
            process.wait()


@pytest.fixture
def parts(tmp_path_factory):
    parts = Parts(tmp_path_factory.mktemp("c"))
    yield parts
    parts.end()


@pytest.fixture
def whole(parts):
    """All layers of h1 and h2 run."""
    for host in ("h1", "h2"):
        for role in LAYERS:
            parts.start(host, role)
    return parts


def view(parts: Parts) -> Containers:
    return Containers(parts.config, parts.base, ("h1", "h2"), {})


class Lines:
    """What the front door has said; `wait` until something is in it."""

    def __init__(self) -> None:
        self._lines: list[str] = []
        self._changed = threading.Condition()

    def add(self, line: str) -> None:
        with self._changed:
            self._lines.append(line)
            self._changed.notify_all()

    def wait(self, text: str) -> None:
        with self._changed:
            found = self._changed.wait_for(lambda: any(text in x for x in self._lines), DEADLINE)
            assert found, f"{text!r} is not in {self._lines}"


@contextmanager
def front_door(parts: Parts, lines: Lines):
    """The front door at work; yields its target."""
    stopping = threading.Event()
    target = f"127.0.0.1:{free_port()}"
    with Service(view(parts), target):
        door = FrontDoor(
            view(parts), target, ("h1", "h2", 80), parts.base / "healthy", stopping, lines.add
        )
        thread = threading.Thread(target=door.run)
        thread.start()
        try:
            yield target
        finally:
            stopping.set()
            thread.join(20)
    assert not thread.is_alive()
    assert not (parts.base / "healthy").exists()


def test_the_front_door_waits_shows_a_handshake_and_watches(whole, capsys):
    healthy, lines = whole.base / "healthy", Lines()
    with front_door(whole, lines) as target:
        lines.wait("8 layers are up")
        assert not healthy.exists(), "no handshake was made yet"
        with (
            LabClient(target=target) as client,
            Stack(client.target("h2")) as stack,
            stack.create_server(("", 80)) as server,
        ):
            assert client.status().lab == "default"
            server.accept()[0].close()
            lines.wait("READY")
            wait_until(healthy.exists, "health")
            whole.kill("h1", "ip")
            lines.wait("missing: h1.ip")
            states = {f"{item.name}.{layer.role}": layer.state
                      for item in client.status().hosts for layer in item.layers}  # fmt: skip
            assert states.pop("h1.ip") == "down"
            assert set(states.values()) == {"up"}
            whole.start("h1", "ip")
            lines.wait("all layers are up again")
    assert "SYN+ACK" in capsys.readouterr().out


def test_what_is_missing_is_named(parts, monkeypatch):
    monkeypatch.setattr("plywire.lab.remote.PATIENCE", 0.2)
    lines = Lines()
    for role in LAYERS:
        parts.start("h2", role)
    with front_door(parts, lines):
        lines.wait("s: h1.app, h1.tcp, h1.ip, h1.link;")


def test_a_host_that_need_not_be_there_counts_while_it_runs(parts):
    lab = view(parts)
    assert set(lab.config.hosts) == {"h1", "h2"}
    parts.start("h3", "tcp")
    wait_until(lambda: "h3" in lab.config.hosts, "h3")
    assert {"h3.app", "h3.ip", "h3.link"} < set(lab.missing())
    assert "h3.tcp" not in lab.missing()
    parts.kill("h3", "tcp", signal.SIGTERM)
    assert set(lab.config.hosts) == {"h1", "h2"}


def test_a_layer_that_was_started_again_is_counted(parts):
    lab = view(parts)

    def state() -> tuple[str, int]:
        item = lab.layer("h1", "ip")
        return item.state, item.restarts

    parts.start("h1", "ip")
    wait_until(lambda: state() == ("up", 0), "h1.ip")
    parts.kill("h1", "ip")
    assert state()[0] == "down", "at once, though its file is fresh"
    parts.start("h1", "ip")
    wait_until(lambda: state() == ("up", 1), "h1.ip again")


def test_a_layer_that_stands_still_does_not_live(parts):
    lab = view(parts)
    parts.start("h1", "ip")
    wait_until(lambda: "h1.ip" not in lab.missing(), "h1.ip")
    file = places.alive_path(parts.base / "h1", "h1", "ip")
    parts.running["h1", "ip"].send_signal(signal.SIGSTOP)
    os.utime(file, (0, 0))
    assert "h1.ip" in lab.missing()
    parts.running["h1", "ip"].send_signal(signal.SIGCONT)
    wait_until(lambda: "h1.ip" not in lab.missing(), "h1.ip goes on")


@pytest.mark.parametrize(
    ("call", "reason"),
    [
        (lambda client: list(client.logs("h1", "tcp")), "docker compose logs h1-tcp"),
        (
            lambda client: list(client.logs("h2", follow=True)),
            "logs -f h2-app h2-tcp h2-ip h2-link",
        ),
        (lambda client: client.shutdown(), "docker compose down"),
        (lambda client: list(client.swap("h1", "tcp")), "h1.tcp is down: there is nothing to exch"),
        (lambda client: client.describe("h1", "tcp", "connections"), "h1.tcp does not answer"),
        (lambda client: client.describe("h9", "tcp", "connections"), "there are h1, h2"),
    ],
)
def test_what_such_a_lab_cannot_do_says_who_can(parts, call, reason):
    target = f"127.0.0.1:{free_port()}"
    with (
        Service(view(parts), target),
        LabClient(target=target) as client,
        pytest.raises(LabError, match=reason),
    ):
        call(client)


def test_a_layer_that_runs_without_a_keeper_is_not_exchanged(parts):
    parts.start("h1", "ip")
    lab = view(parts)
    wait_until(lambda: lab.layer("h1", "ip").state == "up", "h1.ip")
    with pytest.raises(LabError, match=r"h1\.ip has no keeper.*see `docker compose logs h1-ip`"):
        lab.swap("h1", "ip")
    assert lab.layer("h1", "ip").state == "up"


def test_programs_find_hosts_by_the_lab_at_a_target(whole, monkeypatch):
    target = f"127.0.0.1:{free_port()}"
    monkeypatch.delenv("PLYWIRE_API", raising=False)
    monkeypatch.setenv("PLYWIRE_TARGET", target)
    wait_until(lambda: not view(whole).missing(), "all layers")
    with pytest.raises(ApiDown, match="does not answer"):
        Stack.find("h1")
    with Service(view(whole), target):
        with Stack.find("h2") as stack:
            assert stack.host == "h2"
        with pytest.raises(ApiDown, match="no host h9; there are h1, h2"):
            Stack.find("h9")
        api = f"unix:{whole.base}/{{host}}/{{host}}.api.sock"
        monkeypatch.setenv("PLYWIRE_API", api)
        with find_lab("ignored") as client:
            assert client.target("h1") == api.replace("{host}", "h1")
        with Stack.find("h1") as stack:
            assert stack.host == "h1"


def test_nobody_at_the_target(monkeypatch):
    monkeypatch.setenv("PLYWIRE_TARGET", f"127.0.0.1:{free_port()}")
    with pytest.raises(NoLab, match="Connection refused"):
        find_lab("default")


@pytest.mark.parametrize("target", ["localhost", ":1", "h:0", "h:65536", "h:x", "unix:here"])
def test_a_target_that_is_none(monkeypatch, target):
    monkeypatch.setenv("PLYWIRE_TARGET", target)
    with pytest.raises(ConfigError, match="is not HOST:PORT"):
        find_lab("default")


def test_two_front_doors_at_one_address(parts):
    target = f"127.0.0.1:{free_port()}"
    with (
        Service(view(parts), target),
        pytest.raises(LabError, match="cannot listen at"),
        Service(view(parts), target),
    ):
        pass


def test_a_heartbeat_ages_and_goes(tmp_path):
    file = tmp_path / "h1.tcp.alive"
    assert age(file) is None
    beat = Heartbeat(file)
    os.utime(file, (0, 0))
    assert age(file) > 1e9
    now = time.monotonic_ns()
    assert beat.deadline() <= now
    beat.expire(now)
    assert age(file) < 60
    assert beat.deadline() == now + EVERY
    beat.close()
    assert age(file) is None


def test_a_lock_names_the_machine_of_its_owner(tmp_path, monkeypatch):
    lock = Lock(tmp_path / "x.lock")
    monkeypatch.setattr(socket, "gethostname", lambda: "another")
    with pytest.raises(Held, match=rf"held by process {os.getpid()} on "):
        Lock(tmp_path / "x.lock")
    lock.release()
