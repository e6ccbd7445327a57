"""Layers that are kept one by one, each by a keeper as in its container, and exchanged by them.

Here the keepers run beside one another; tests/compose has them in containers.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from plywire.client import Stack
from plywire.lab.containers import Containers
from plywire.lab.control import LabClient
from plywire.lab.keeper import ask_to_swap, exchanged
from plywire.lab.rundir import LabError
from plywire.lab.service import Service
from plywire.roles import LAYERS
from plywire.runtime import config as places
from tests.process.programs import digest
from tests.process.running import program, wait_until
from tests.process.test_lab_containers import free_port
from tests.process.test_lab_swap import all_alive

ROOT = Path(__file__).resolve().parents[2]
SIZE = 5_000_000
BROKEN = "tests.process.successors"
LAB = """
[wires.lan]
[wires.far]
[hosts.h1]
interfaces = [{{ address = "10.0.0.1/24", wire = "lan", listen = "tcp://127.0.0.1:{0}" }}]
[hosts.h2]
interfaces = [{{ address = "10.0.0.2/24", wire = "lan", listen = "tcp://127.0.0.1:{1}" }}]
[hosts.h3]
interfaces = [{{ address = "10.0.3.3/24", wire = "far" }}]
"""
NOTHING = {"spec": "", "settings": {}, "fresh": False, "dry_run": False}


class Kept:
    """The keepers of a lab's layers. logs: what each wrote, in `h1.tcp.err`."""

    def __init__(self, base: Path) -> None:
        self.base = base
        self.file = base / "lab.toml"
        self.file.write_text(LAB.format(free_port(), free_port()))
        self.running: dict[tuple[str, str], subprocess.Popen] = {}

    def start(self, host: str, role: str) -> subprocess.Popen:
        with (self.base / f"{host}.{role}.err").open("ab") as log:
            self.running[host, role] = process = subprocess.Popen(
                [sys.executable, "-P", "-m", "plywire.lab.keeper", role, "--lab", self.file,
                 "--host", host, "--run-dir", self.base / host],
                stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=log,
                env={**os.environ, "PYTHONPATH": str(ROOT)},
            )  # fmt: skip
        return process

    def stop(self, host: str, role: str) -> int:
        process = self.running.pop((host, role))
        process.terminate()
        return process.wait(20)

    def log(self, host: str, role: str) -> str:
        return (self.base / f"{host}.{role}.err").read_text()

    def end(self) -> None:
        for key in list(self.running):
            self.stop(*key)


@pytest.fixture
def kept(tmp_path_factory):
    kept = Kept(tmp_path_factory.mktemp("k"))
    yield kept
    kept.end()


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """All layers of h1 and h2 run."""
    kept = Kept(tmp_path_factory.mktemp("k"))
    for host in ("h1", "h2"):
        for role in LAYERS:
            kept.start(host, role)
    yield kept
    kept.end()


@pytest.fixture(scope="module")
def lab(whole):
    lab = view(whole)
    wait_until(lambda: not lab.missing(), "all layers")
    wait_until(lambda: not lab.strangers(), "all have met")
    return lab


@pytest.fixture(scope="module")
def idle(lab):
    """Connections that were made before all exchanges, and are used after each."""
    with (
        Stack(lab.target("h1")) as h1,
        Stack(lab.target("h2")) as h2,
        h2.create_server(("", 99), backlog=5) as server,
    ):
        clients = [h1.create_connection(("10.0.0.2", 99), timeout=20) for _ in range(5)]
        servers = [server.accept()[0] for _ in clients]
        by_port = {sock.getpeername()[1]: sock for sock in servers}
        yield [(sock, by_port[sock.getsockname()[1]]) for sock in clients]


def view(kept: Kept) -> Containers:
    return Containers(places.load_lab(kept.file), kept.base, ("h1", "h2"), {})


@pytest.mark.parametrize("role", LAYERS)
def test_a_layer_is_exchanged_under_load(lab, idle, role):
    with program("receiver", lab.target("h2"), 700, 100_000) as receiver:
        receiver.expect("listening")
        with program("sender", lab.target("h1"), "10.0.0.2", 700, SIZE) as sender:
            sender.expect("connected")
            receiver.expect("progress")
            for host in ("h1", "h2"):
                before = lab.layer(host, role)
                report = lab.swap(host, role)
                assert report.silent == ()
                assert report.before == report.after == before.implementation
                assert 0 < report.pause < 5
                after = lab.layer(host, role)
                assert after.pid != before.pid
                assert after.restarts == before.restarts
            ended = receiver.expect("end")
            sender.expect("sent")
    assert ended == {"bytes": SIZE, "sha256": digest(SIZE)}
    all_alive(idle)


@pytest.mark.parametrize(
    ("spec", "why"),
    [
        ("services.ip_of_nowhere:create", "there is no module services.ip_of_nowhere"),
        ("services.link:create", "is link, and cannot be ip"),
        (f"{BROKEN}:cannot_read", "cannot read it: KeyError: 'routes'"),
        (f"{BROKEN}:dies_at_work", "within its probation: RuntimeError: not what I expected"),
    ],
)
def test_an_exchange_that_fails_says_why_and_the_old_layer_goes_on(lab, idle, spec, why):
    with pytest.raises(LabError) as caught:
        lab.swap("h1", "ip", spec)
    assert why in str(caught.value)
    assert "h1.ip goes on as services.ip:create" in str(caught.value)
    wait_until(lambda: lab.layer("h1", "ip").state == "up", "h1.ip")
    assert lab.layer("h1", "ip").implementation == "services.ip:create"
    all_alive(idle)


def test_what_is_said_comes_before_the_exchange(whole, lab, idle):
    target = f"127.0.0.1:{free_port()}"
    with Service(view(whole), target), LabClient(target=target) as client:
        answers = list(client.swap("h1", "tcp", dry_run=True))
        assert [answer.WhichOneof("item") for answer in answers] == ["line", "line"]
        assert answers[1].line.startswith("5 connections are open and go on")
        *lines, last = client.swap("h1", "tcp", "", {"congestion": "newreno"})
        assert lines == answers
        assert last.report.size > 0
        with pytest.raises(LabError, match="cannot take over 5 open connections"):
            list(client.swap("h1", "tcp", "services.tcp_lite:create"))
        with pytest.raises(LabError, match="unknown key"):
            list(client.swap("h1", "tcp", "", {"no_such_key": "1"}))
        with pytest.raises(LabError, match="no host 'h9'"):
            list(client.swap("h9", "tcp"))
        with pytest.raises(LabError, match=r"h3\.tcp is down: there is nothing to exchange"):
            list(client.swap("h3", "tcp"))
    all_alive(idle)


def test_one_exchange_at_a_time(lab):
    refused = []

    def second(_line: str) -> None:
        for host, role in (("h2", "link"), ("h1", "link")):
            with pytest.raises(LabError, match="another exchange is under way"):
                lab.swap(host, role)
        refused.append(True)

    lab.swap("h1", "link", dry_run=True, say=second)
    assert refused == [True, True], "one for each line that was said"


def test_what_is_changed_lasts_until_the_lab_file_is_another(kept):
    lab = view(kept)

    def runs() -> str:
        item = lab.layer("h1", "ip")
        return item.implementation if item.state == "up" else ""

    kept.start("h1", "ip")
    wait_until(runs, "h1.ip")
    lab.swap("h1", "ip", f"{BROKEN}:of_another_kind", {"ttl": "7"})
    assert runs() == f"{BROKEN}:of_another_kind"
    os.kill(lab.layer("h1", "ip").pid, signal.SIGKILL)
    wait_until(lambda: lab.layer("h1", "ip").restarts == 1 and runs(), "h1.ip, kept")
    assert runs() == f"{BROKEN}:of_another_kind"
    kept.stop("h1", "ip")
    assert exchanged(kept.file, kept.base / "h1").hosts["h1"].ip.ttl == 7
    kept.start("h1", "ip")
    wait_until(runs, "h1.ip of another keeper")
    assert runs() == f"{BROKEN}:of_another_kind"
    lab.swap("h1", "ip", "services.ip:create")
    assert exchanged(kept.file, kept.base / "h1").hosts["h1"].ip.ttl == 7, "only the rest changes"
    kept.stop("h1", "ip")
    kept.file.write_text(kept.file.read_text() + "\n")
    assert exchanged(kept.file, kept.base / "h1") is None
    kept.start("h1", "ip")
    wait_until(runs, "h1.ip by the lab file")
    assert exchanged(kept.file, kept.base / "h1").hosts["h1"].ip.ttl == 64


def test_keepers_of_one_host_know_of_one_anothers_changes(kept):
    lab = view(kept)
    for role in ("ip", "tcp"):
        kept.start("h1", role)
    for role, settings in (("ip", {"ttl": "7"}), ("tcp", {"congestion": "newreno"})):
        wait_until(lambda role=role: lab.layer("h1", role).state == "up", role)
        lab.swap("h1", role, "", settings)
    host = exchanged(kept.file, kept.base / "h1").hosts["h1"]
    assert (host.ip.ttl, host.tcp.congestion) == (7, "newreno")


def test_a_layer_that_is_killed_is_started_again_and_what_it_says_is_told(kept):
    lab = view(kept)
    keeper = kept.start("h1", "ip")
    wait_until(lambda: lab.layer("h1", "ip").state == "up", "h1.ip")
    first = lab.layer("h1", "ip").pid
    os.kill(first, signal.SIGKILL)
    wait_until(lambda: lab.layer("h1", "ip").pid not in (0, first), "h1.ip again")
    assert keeper.poll() is None
    lab.swap("h1", "ip", f"{BROKEN}:talks")
    assert kept.stop("h1", "ip") == 0
    said = kept.log("h1", "ip")
    assert said.count("ip runs as services.ip:create") == 2
    assert "\na word of its own\n" in said
    assert "killed by SIGKILL; starting it again at once" in said
    assert lab.layer("h1", "ip").state == "down"


@pytest.mark.parametrize(
    ("addition", "code", "why"),
    [
        ("\n[hosts.h1.implementations]\nip = 'services.nowhere:create'\n", 1,
         "h1.ip cannot start: implementation 'services.nowhere:create': there is no module"),
        ("\n[hosts.h1.ip]\nttl = 1000\n", 2, "hosts.h1.ip.ttl"),
    ],
)  # fmt: skip
def test_a_layer_that_cannot_start_ends_its_keeper(kept, addition, code, why):
    kept.file.write_text(kept.file.read_text() + addition)
    assert kept.start("h1", "ip").wait(30) == code
    assert why in kept.log("h1", "ip")
    kept.running.clear()


def test_a_second_keeper_of_a_layer_is_refused(kept):
    kept.start("h1", "ip")
    lab = view(kept)
    wait_until(lambda: lab.layer("h1", "ip").state == "up", "h1.ip")
    first = kept.running["h1", "ip"]
    assert kept.start("h1", "ip").wait(30) == 2
    assert f"h1.ip.keeper.lock is held by process {first.pid}: stop it first" in kept.log(
        "h1", "ip"
    )
    kept.running["h1", "ip"] = first
    assert lab.swap("h1", "ip") is not None, "the first is still asked"


def test_a_keeper_that_stops_during_an_exchange_is_told_of(kept):
    kept.start("h1", "ip")
    lab = view(kept)
    wait_until(lambda: lab.layer("h1", "ip").state == "up", "h1.ip")
    before = lab.layer("h1", "ip").pid
    with pytest.raises(LabError, match=r"h1\.ip: its keeper ended during the exchange; see `"):
        lab.swap("h1", "ip", say=lambda _: kept.running and kept.stop("h1", "ip"))
    assert lab.layer("h1", "ip").state == "down"
    with pytest.raises(LabError, match=r"h1\.ip is down"):
        lab.swap("h1", "ip")
    assert not Path(f"/proc/{before}").exists()


def test_a_layer_without_a_keeper_is_not_exchanged(tmp_path):
    (tmp_path / "h1").mkdir()
    with pytest.raises(LabError, match=r"h1\.ip has no keeper to exchange it \(No such file"):
        ask_to_swap(tmp_path / "h1", "h1", "ip", NOTHING, print)


@pytest.mark.parametrize("request_line", [b"?\n", b"[]\n", b'{"spec": ""}\n', b"\n"])
def test_a_request_that_is_none_is_refused(kept, request_line):
    kept.start("h1", "ip")
    path = places.keeper_path(kept.base / "h1", "h1", "ip")
    wait_until(path.exists, "a keeper")
    with socket.socket(socket.AF_UNIX) as sock:
        wait_until(lambda: sock.connect_ex(str(path)) == 0, "a keeper that answers")
        sock.sendall(request_line)
        assert b'"refused": "not a request for an exchange' in sock.makefile("rb").readline()
