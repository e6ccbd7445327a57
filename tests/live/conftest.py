"""plywire and the Linux kernel on one TAP: a namespace, a lab of one host with a TAP, a capture.

kernel 10.77.0.1  -- in a namespace that the fixture makes
   | the TAP interface, made by plywire's link and moved into the namespace
plywire 10.77.0.2 -- four layer processes
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tomllib
from contextlib import contextmanager
from pathlib import Path

import pytest

from plywire.client import Stack
from plywire.config import parse
from plywire.lab.service import Service
from plywire.lab.supervisor import Lab

KERNEL, PLYWIRE = "10.77.0.1", "10.77.0.2"
HERE = Path(__file__).parent

LAB = """
[hosts.ply]
interfaces = [{{ address = "10.77.0.2/24", device = "tap", tap = "{tap}" }}]
[hosts.ply.implementations]
{implementations}
[hosts.ply.tcp]
{tcp}
"""


def pytest_collection_modifyitems(items):
    for item in items:
        if HERE in item.path.parents:
            item.add_marker(pytest.mark.live)


def require() -> None:
    """Skip with the reason where the machine cannot do this."""
    if os.geteuid() != 0:
        pytest.skip("needs root: network namespaces and TAP")
    if not Path("/dev/net/tun").exists():
        pytest.skip("needs /dev/net/tun")
    for tool in ("ip", "tshark", "curl", "ping", "sysctl"):
        if not shutil.which(tool):
            pytest.skip(f"needs {tool}")


def run(*command: str, check: bool = True, timeout: float = 60) -> subprocess.CompletedProcess:
    result = subprocess.run(command, capture_output=True, text=True, timeout=timeout, check=False)
    if check:
        assert result.returncode == 0, f"{' '.join(command)}: {result.stderr or result.stdout}"
    return result


class Peer:
    """The program in peer.py, running in the namespace."""

    def __init__(self, namespace: str) -> None:
        self._process = subprocess.Popen(
            ["ip", "netns", "exec", namespace, sys.executable, str(HERE / "peer.py")],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip

    def start(self, do: str, **arguments) -> None:
        """Give a command; its answer is fetched with `answer`."""
        self._process.stdin.write(json.dumps({"do": do, **arguments}) + "\n")
        self._process.stdin.flush()

    def answer(self) -> dict:
        return json.loads(self._process.stdout.readline())

    def __call__(self, do: str, **arguments) -> dict:
        self.start(do, **arguments)
        return self.answer()

    def end(self) -> None:
        self._process.stdin.close()
        self._process.stdout.close()
        self._process.kill()
        self._process.wait()


class Capture:
    """The kernel's end of the TAP, captured by sniff.py; `finish` gives the file.

    also_expected: what tshark may note of it, beside what it may always.
    """

    def __init__(self, namespace: str, interface: str, path: Path) -> None:
        self.path = path
        self.also_expected: tuple[str, ...] = ()
        self._process = subprocess.Popen(
            ["ip", "netns", "exec", namespace, sys.executable, "-m", "tests.live.sniff",
             interface, str(path)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=HERE.parents[1],
        )  # fmt: skip
        assert self._process.stdout.readline() == "ready\n"

    def finish(self) -> Path:
        """The capture of all packets up to now; nothing more is captured."""
        if self._process.returncode is None:
            self._process.communicate(timeout=20)
            assert self._process.returncode == 0
        return self.path


class Setup:
    """What a live test works with."""

    def __init__(self, namespace: str, interface: str, lab: Lab, stack: Stack, peer: Peer) -> None:
        self.namespace, self.interface = namespace, interface
        self.lab, self.stack, self.peer = lab, stack, peer

    def kernel(self, *command: str, check: bool = True, timeout: float = 60):
        """Run a command on the kernel's side."""
        return run("ip", "netns", "exec", self.namespace, *command, check=check, timeout=timeout)

    def popen(self, *command: str, **options) -> subprocess.Popen:
        return subprocess.Popen(["ip", "netns", "exec", self.namespace, *command], **options)


@contextmanager
def joined(name: str, implementations: str = "", tcp: str = ""):
    """A Setup: a lab whose one host is on a TAP with a kernel namespace of its own.

    name: of the namespace and, with this process's number, of the TAP; four letters at most.
    implementations, tcp: lines of the lab file's tables of those names, as `timestamps = false`.
    """
    require()
    namespace, tap = f"plywire-{name}-{os.getpid()}", f"{name}{os.getpid()}"
    text = LAB.format(tap=tap, implementations=implementations, tcp=tcp)
    config = parse(tomllib.loads(text), "live test")
    run("ip", "netns", "add", namespace)
    try:
        with Lab(config) as lab:
            run("ip", "link", "set", tap, "netns", namespace)
            for words in (
                "link set lo up",
                f"addr add {KERNEL}/24 dev {tap}",
                f"link set {tap} up",
            ):
                run("ip", "-n", namespace, *words.split())
            peer = Peer(namespace)
            try:
                with Stack(lab.target("ply")) as stack:
                    yield Setup(namespace, tap, lab, stack, peer)
            finally:
                peer.end()
    finally:
        run("ip", "netns", "del", namespace)


@contextmanager
def command_line(lab: Lab):
    """A function that runs the `plywire` command for this lab and gives what it printed."""
    environment = os.environ | {"PLYWIRE_RUN_DIR": str(lab.directory.parent)}
    program = str(Path(sys.executable).with_name("plywire"))

    def command(*arguments: str) -> str:
        done = subprocess.run(
            [program, "--lab", lab.directory.name, *arguments],
            capture_output=True, text=True, timeout=30, env=environment, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        return done.stdout

    with Service(lab):
        yield command


@pytest.fixture(scope="session")
def setup():
    with joined("ply") as setup:
        yield setup


@pytest.fixture(autouse=True)
def capture(setup, tmp_path):
    """Every test's packets, judged by tshark when the test is over."""
    from tests.live.judge import judge

    running = Capture(setup.namespace, setup.interface, tmp_path / "kernel.pcapng")
    yield running
    judge(running.finish(), running.also_expected)
