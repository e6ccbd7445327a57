"""`plywire demo` as a user runs it: processes, programs, a drawing, a capture, nothing left."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

LIMIT = 60
COMMAND = [str(Path(sys.executable).with_name("plywire")), "demo"]


@pytest.fixture
def place():
    """A short temporary directory, for the run directory (its socket paths have a limit), too."""
    with tempfile.TemporaryDirectory(prefix="plyw", dir="/tmp") as name:
        yield Path(name)


def environment(place: Path, **changes: str) -> dict[str, str]:
    plain = {key: value for key, value in os.environ.items() if key != "NO_COLOR"}
    return plain | {"TMPDIR": str(place), "PYTHONIOENCODING": "utf-8"} | changes


def demo(place: Path, *options: str, **changes: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [*COMMAND, *options], cwd=place, env=environment(place, **changes), capture_output=True,
        text=True, timeout=LIMIT, check=False,
    )  # fmt: skip


def left_over(place: Path) -> list[str]:
    """Processes that were started with a path in `place`, and directories still there."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            command = path.read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue
        if str(place) in command:
            found.append(command)
    return found + [str(path) for path in place.iterdir() if path.is_dir()]


def test_demo_tells_the_whole_story(place):
    done = demo(place)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stderr == ""
    text = done.stdout
    at = 0
    for word in (
        "8 in all", "h2 tcp: CLOSED -> LISTEN", "name resolved name=h2.lab", "address=10.0.0.2",
        "h1 app socket 3: no socket -> CLOSED", "h1 tcp: CLOSED -> SYN-SENT", "+TCP SYN ",
        "+IPv4", "+Ethernet", "-Ethernet", "-IPv4", "h2 tcp: LISTEN -> SYN-RECEIVED",
        "+TCP SYN+ACK", "h1 tcp: SYN-SENT -> ESTABLISHED", "h2 tcp: SYN-RECEIVED -> ESTABLISHED",
        "The other host cannot see this", "+TCP PSH+ACK", "FIN-WAIT-1", "TIME-WAIT",
        "TCP segments", "handshake:", "connect():", "pipes", "the program on h1 got:", "200 OK",
        f"capture: {place}/demo.pcapng",
    ):  # fmt: skip
        assert word in text[at:], f"{word} is not in its place in:\n{text}"
        at = text.index(word, at) + len(word)
    assert "\x1b" not in text
    assert max(map(len, text.splitlines())) <= 100
    assert left_over(place) == []


def test_demo_draws_bits_when_asked_and_puts_the_capture_elsewhere_when_it_must(place):
    done = demo(place, "--bits", "-o", f"{place}/no/such/place.pcapng")
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{place}/no/such/place.pcapng cannot be written" in done.stdout
    assert re.search(rf"capture: {place}/plywire-\S+\.pcapng", done.stdout)
    assert re.search(r"│ +16 src_port +\d+", done.stdout)


def test_demo_draws_in_ascii_where_there_is_nothing_else(place):
    done = demo(place, PYTHONIOENCODING="ascii")
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.isascii()
    assert "|--->|" in done.stdout


def test_demo_interrupted_leaves_nothing_behind(place):
    process = subprocess.Popen(
        COMMAND, cwd=place, env=environment(place), stdout=subprocess.PIPE,
        stderr=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip
    try:
        for line in process.stdout:
            if "LISTEN" in line:
                break
        process.send_signal(signal.SIGINT)
        rest, errors = process.communicate(timeout=LIMIT)
    finally:
        process.kill()
    assert process.returncode == 130, rest + errors
    assert "interrupted" in rest
    assert errors == ""
    assert left_over(place) == []


@pytest.mark.skipif(shutil.which("tshark") is None, reason="tshark is not installed")
def test_tshark_agrees_with_the_capture(place):
    assert demo(place).returncode == 0
    read = ["tshark", "-r", str(place / "demo.pcapng"), "-o", "tcp.check_checksum:TRUE",
            "-o", "ip.check_checksum:TRUE"]  # fmt: skip
    flags = subprocess.run(
        [*read, "-Y", "tcp", "-T", "fields", "-e", "tcp.flags.str", "-e", "http.request.uri"],
        capture_output=True, text=True, timeout=LIMIT, check=True,
    ).stdout.splitlines()  # fmt: skip
    assert [re.sub(r"[^A-Z]", "", line.partition("\t")[0]) for line in flags[:3]] == [
        "S", "AS", "A",
    ]  # fmt: skip
    assert any(line.endswith("\t/") for line in flags)
    complaints = subprocess.run(
        [*read, "-Y", "_ws.malformed || tcp.analysis.flags || tcp.checksum.status == 0"],
        capture_output=True, text=True, timeout=LIMIT, check=True,
    )  # fmt: skip
    assert complaints.stdout == ""
