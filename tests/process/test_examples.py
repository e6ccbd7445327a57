"""The programs in examples/, run as their first lines say."""

import contextlib
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
LIMIT = 30


@pytest.fixture
def environment(lab):
    """How a program finds the lab of the tests."""
    directory = lab.directory
    return os.environ | {"PLYWIRE_RUN_DIR": str(directory.parent), "PLYWIRE_LAB": directory.name}


@contextlib.contextmanager
def running(environment, *command):
    """A server program, once it has written its first line."""
    process = subprocess.Popen(
        [sys.executable, *command], cwd=ROOT, env=environment, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        assert process.stdout.readline(), f"{command} ended with {process.wait(LIMIT)}"
        yield process
    finally:
        process.kill()
        process.communicate(timeout=LIMIT)


def run(environment, *command):
    return subprocess.run(
        [sys.executable, *command], cwd=ROOT, env=environment, text=True, capture_output=True,
        timeout=LIMIT, check=True,
    )  # fmt: skip


def test_echo(environment):
    with running(environment, "examples/echo.py", "serve", "h2") as server:
        client = run(environment, "examples/echo.py", "talk", "h1", "h2.lab", "good morning")
        assert client.stdout == "good morning\n"
        assert server.stdout.readline().startswith("served 10.0.0.1 ")


def test_http(environment):
    with running(environment, "examples/http_server.py", "h2", "8080", "docs"):
        client = run(environment, "examples/http_client.py", "h1", "http://h2.lab:8080/client.md")
    assert client.stdout == (ROOT / "docs/client.md").read_text()
    assert "to 10.0.0.2 8080\n200 OK\n" in client.stderr


def test_no_lab(environment, tmp_path):
    elsewhere = environment | {"PLYWIRE_RUN_DIR": str(tmp_path)}
    with pytest.raises(subprocess.CalledProcessError) as caught:
        run(elsewhere, "examples/echo.py", "talk", "h1", "h2.lab", "hello")
    assert "plywire up" in caught.value.stderr.splitlines()[-1]
