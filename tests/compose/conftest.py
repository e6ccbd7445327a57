"""plywire in containers on a real engine: an image, and the project that a session's tests share.

The image is built from a copy of what a clone has, without internet: on BASE_IMAGE, or on a base
made of Debian packages when there is none. Ports are free ones; everything is removed at the end.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SOURCES = ("compose.yaml", "Dockerfile", ".dockerignore", "pyproject.toml", "constraints.txt",
           "README.md", "plywire", "services", "examples", "docs", "deploy")  # fmt: skip
LAYERS = [f"{host}-{role}" for host in ("h1", "h2") for role in ("link", "ip", "tcp", "app")]
PORTS = ("LAB", "H1", "H2", "H3", "R1", "T1", "METRICS")
MADE_BASE = f"plywire-base:tests-{os.getpid()}"
DEADLINE = 60.0


def run(*command: str, check: bool = True, timeout: float = 180, **options) -> str:
    """What a command prints, both of its outputs."""
    result = subprocess.run(
        list(map(str, command)), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        timeout=timeout, check=False, **options,
    )  # fmt: skip
    assert result.returncode == 0 or not check, f"{' '.join(map(str, command))}: {result.stdout}"
    return result.stdout


def wait_until(condition: Callable[[], object], what: str, deadline: float = DEADLINE) -> object:
    """Ask `condition` until it holds; it is itself a call to the engine, which paces this loop."""
    end = time.monotonic() + deadline
    while True:
        value = condition()
        if value:
            return value
        assert time.monotonic() < end, f"not within {deadline:g} s: {what}"


def free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    try:
        for sock in sockets:
            sock.bind(("127.0.0.1", 0))
        return [sock.getsockname()[1] for sock in sockets]
    finally:
        for sock in sockets:
            sock.close()


class Project:
    """A compose project in a directory of its own. ports: on 127.0.0.1, by `LAB`, `H1`, ..."""

    def __init__(self, directory: Path, name: str, image: str, base: str) -> None:
        self.directory, self.name, self.image, self.base = directory, name, image, base
        self.ports = dict(zip(PORTS, free_ports(len(PORTS)), strict=True))
        # PLYWIRE_* of the one who runs the tests would win over the .env file.
        self.environment = {k: v for k, v in os.environ.items() if not k.startswith("PLYWIRE_")}
        self.environment.pop("BASE_IMAGE", None)
        lines = [f"BASE_IMAGE={base}", f"PLYWIRE_IMAGE={image}"]
        lines += [f"PLYWIRE_{key}_PORT={port}" for key, port in self.ports.items()]
        (directory / ".env").write_text("\n".join(lines) + "\n")

    @property
    def target(self) -> str:
        """Where the lab's control service is published."""
        return f"127.0.0.1:{self.ports['LAB']}"

    def command(self, *words: str) -> list[str]:
        return ["docker", "compose", "-p", self.name, *words]

    def compose(self, *words: str, **options) -> str:
        return run(*self.command(*words), cwd=self.directory, env=self.environment, **options)

    def plywire(self, *words: str, check: bool = True) -> str:
        """The command line outside, at the published port."""
        program = "from plywire.lab.cli import main; main()"
        command = (sys.executable, "-c", program, "--target", self.target, *words)
        return run(*command, check=check, env=self.environment)

    def container(self, service: str) -> str:
        return f"{self.name}-{service}-1"

    def inspect(self, service: str) -> dict:
        return json.loads(run("docker", "inspect", self.container(service)))[0]

    def pid(self, service: str) -> int:
        """The container's first process, as this machine sees it; 0 when there is none."""
        return self.inspect(service)["State"]["Pid"]

    def services(self) -> list[str]:
        """Those that have a container."""
        return self.compose("ps", "-a", "--services").split()

    def logs(self, service: str) -> str:
        return self.compose("logs", "--no-log-prefix", service)

    def left(self, *, volumes: bool) -> str:
        """What the engine still has of this project."""
        label = f"label=com.docker.compose.project={self.name}"
        found = run("docker", "ps", "-aq", "--filter", label)
        found += run("docker", "network", "ls", "-q", "--filter", label)
        return found + (run("docker", "volume", "ls", "-q", "--filter", label) if volumes else "")


def require() -> None:
    """Skip with the reason where there is no engine."""
    if not shutil.which("docker"):
        pytest.skip("needs docker")
    if "Server Version" not in run("docker", "info", check=False):
        pytest.skip("needs a running Docker (dockerd)")
    if "v2" not in (version := run("docker", "compose", "version", check=False)) and (
        "version 2" not in version
    ):
        pytest.skip("needs docker compose, version 2 or later")


@pytest.fixture(scope="session")
def base():
    """The base image: BASE_IMAGE, or one that is made here and removed again."""
    require()
    given = os.environ.get("BASE_IMAGE")
    if given:
        yield given
        return
    if os.geteuid() != 0 or not shutil.which("mmdebstrap"):
        pytest.skip("needs BASE_IMAGE, or root and mmdebstrap to make a base image")
    run(ROOT / "deploy" / "make-base", MADE_BASE, "nodejs")
    yield MADE_BASE
    run("docker", "image", "rm", "-f", MADE_BASE)


@pytest.fixture(scope="session")
def project(base, tmp_path_factory):
    """A copy of the sources with wheels for the base image, and its project, not yet up."""
    directory = tmp_path_factory.mktemp("compose")
    skipped = shutil.ignore_patterns("__pycache__", "*.egg-info", "*.pcapng", "*.whl")
    for name in SOURCES:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, directory / name, ignore=skipped)
        else:
            shutil.copy(ROOT / name, directory / name)
    script = "import sys; print('%d.%d' % sys.version_info[:2])"
    version = run("docker", "run", "--rm", "--network", "none", base, "python3", "-c", script)
    wheels = directory / "deploy" / "wheels"
    run(ROOT / "deploy" / "make-wheels", version.strip(), wheels, sys.executable)
    name = f"plywire-test-{os.getpid()}"
    project = Project(directory, name, f"{name}:local", base)
    yield project
    everything = ("--profile", "*", "down", "-v", "--remove-orphans", "-t", "2")
    project.compose(*everything, check=False)
    images = run("docker", "image", "ls", "-q", "--filter", f"reference={name}")
    run("docker", "image", "rm", "-f", *set(images.split()), check=False)


@pytest.fixture(scope="session")
def up(project):
    """The project, up as a user would have it."""
    project.compose("up", "-d", "--build", "--wait", "--wait-timeout", "120")
    return project
