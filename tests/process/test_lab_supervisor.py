"""What the supervisor does with processes that do not behave; stand-ins take the layers' places."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from plywire.config import LabConfig, host
from plywire.errors import ConfigError
from plywire.lab.child import DOWN, STARTING, UP
from plywire.lab.rundir import LabError, LabIsUp, supervisor_of
from plywire.lab.supervisor import Lab
from plywire.roles import LAYERS
from plywire.runtime.logs import tail

STANDIN = Path(__file__).with_name("standin.py")
CONFIG = LabConfig("test", {"h1": host("h1", "10.0.0.1/24")}, {})


@pytest.fixture
def lab_with(tmp_path):
    """Makes a lab of stand-ins: `lab_with(tcp="crash")`."""

    def make(**behaviours: str) -> Lab:
        commands = {
            role: [sys.executable, str(STANDIN), behaviours.get(role, "good"),
                   str(tmp_path / f"{role}.mark")]
            for role in LAYERS
        }  # fmt: skip
        return Lab(CONFIG, tmp_path / "run", commands)

    return make


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def test_start_and_stop_leave_logs_and_the_lock_only(lab_with):
    with lab_with() as lab:
        pids = [layer.pid for layer in lab.status()]
        assert [layer.state for layer in lab.status()] == [UP] * 4
        assert supervisor_of(lab.directory) == os.getpid()
        assert all(map(alive, pids))
    assert not any(map(alive, pids))
    assert supervisor_of(lab.directory) is None
    assert sorted(path.name for path in lab.directory.iterdir()) == ["lab.lock", "logs"]


def test_temporary_directory_goes_with_the_lab(lab_with):
    lab = Lab(CONFIG, commands=lab_with()._commands)
    with lab:
        assert lab.directory.stat().st_mode & 0o777 == 0o700
    assert not lab.directory.exists()


def test_stop_twice_and_stop_before_start(lab_with):
    lab_with().stop()
    lab = lab_with()
    lab.start()
    lab.stop()
    lab.stop()


def test_layer_that_refuses_to_start_says_why_in_one_line(lab_with):
    lab = lab_with(tcp="refuse")
    with pytest.raises(LabError, match=r"^h1\.tcp cannot start: no such thing: try another$"):
        lab.start()
    assert [layer.pid for layer in lab.status()] == [0] * 4
    assert supervisor_of(lab.directory) is None


def test_layer_that_crashes_at_the_start_says_its_last_line(lab_with):
    with pytest.raises(LabError, match=r"^h1\.ip cannot start: KeyError: 'nothing here'$"):
        lab_with(ip="crash").start()


def test_program_that_is_not_there(lab_with):
    lab = lab_with()
    lab._commands["link"] = ["/no/such/program"]
    with pytest.raises(LabError, match=r"^h1\.link cannot start: /no/such/program cannot be run"):
        lab.start()


def test_killed_layer_is_started_again_at_once(lab_with):
    with lab_with() as lab:
        others = [layer.pid for layer in lab.status() if layer.role != "ip"]
        first = lab.layer("h1", "ip").pid
        began = time.monotonic()
        os.kill(first, signal.SIGKILL)
        assert lab.wait_for(lambda lab: lab.layer("h1", "ip").restarts == 1)
        assert lab.wait_for(lambda lab: lab.layer("h1", "ip").state == UP)
        assert time.monotonic() - began < 5
        assert lab.layer("h1", "ip").pid not in (0, first)
        assert [layer.pid for layer in lab.status() if layer.role != "ip"] == others
        lines = tail(lab.directory / "logs" / "h1.ip.log", 10)
        assert any("killed by SIGKILL; starting it again at once" in line for line in lines)


def test_layer_that_keeps_failing_is_tried_less_and_less_often(lab_with):
    with lab_with(tcp="fail-later") as lab:
        lines: list[str] = []
        lab.read_logs(lambda host, role: True, 1, lambda host, role, line: lines.append(line))
        os.kill(lab.layer("h1", "tcp").pid, signal.SIGKILL)
        assert lab.wait_for(lambda lab: lab.layer("h1", "tcp").restarts == 4)
        assert lab.wait_for(lambda lab: lab.layer("h1", "tcp").state == DOWN)
        waits = [line.rpartition("starting it again ")[2] for line in lines if "; starting" in line]
        assert waits[:5] == ["at once", "at once", "in 0.1 s", "in 0.2 s", "in 0.4 s"]
        assert "not again" in lines


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_layer_that_is_killed_from_outside_is_always_started_again_at_once(lab_with, number):
    with lab_with() as lab:
        lines: list[str] = []
        lab.read_logs(lambda host, role: True, 1, lambda host, role, line: lines.append(line))
        for count in range(1, 5):
            os.kill(lab.layer("h1", "ip").pid, number)
            assert lab.wait_for(lambda lab, count=count: lab.layer("h1", "ip").restarts == count)
            assert lab.wait_for(lambda lab: lab.layer("h1", "ip").state == UP)
        waits = [line.rpartition("starting it again ")[2] for line in lines if "; starting" in line]
        assert waits == ["at once"] * 4


def test_layer_that_is_killed_before_it_is_ready_is_tried_less_and_less_often(lab_with):
    """Nobody can tell then that it would have worked."""
    with lab_with(tcp="slow-later") as lab:
        lines: list[str] = []
        lab.read_logs(lambda host, role: True, 1, lambda host, role, line: lines.append(line))
        for count in range(1, 4):
            os.kill(lab.layer("h1", "tcp").pid, signal.SIGKILL)
            assert lab.wait_for(lambda lab, count=count: lab.layer("h1", "tcp").restarts == count)
            assert lab.wait_for(lambda lab: lab.layer("h1", "tcp").state == STARTING)
        waits = [line.rpartition("starting it again ")[2] for line in lines if "; starting" in line]
        assert waits == ["at once", "at once", "in 0.1 s"]


def test_layer_that_ignores_sigterm_is_killed(lab_with, monkeypatch):
    monkeypatch.setattr("plywire.lab.supervisor.WAKE_AFTER", 0.1)
    monkeypatch.setattr("plywire.lab.supervisor.STOP_LIMIT", 0.3)
    lab = lab_with(app="stubborn")
    lab.start()
    pid = lab.layer("h1", "app").pid
    lab.stop()
    assert not alive(pid)


def test_layer_that_never_becomes_ready_fails_the_start(lab_with, monkeypatch):
    monkeypatch.setattr("plywire.lab.supervisor.START_LIMIT", 4.0)
    lab = lab_with()
    lab._commands["tcp"] = [sys.executable, "-c", "import sys; sys.stdin.read()"]
    with pytest.raises(LabError, match=r"h1\.tcp"):
        lab.start()
    assert lab.layer("h1", "tcp").pid == 0
    assert lab.layer("h1", "tcp").state != STARTING


def test_noise_on_standard_error_blocks_nobody(lab_with):
    over = threading.Event()

    def listen(host: str, role: str, line: str) -> None:
        if line == "noise is over":
            over.set()

    lab = lab_with(link="noisy")
    lab.read_logs(lambda host, role: True, 1, listen)
    with lab:
        assert over.wait(5)
        assert lab.layer("h1", "link").restarts == 0


def test_second_lab_in_the_same_directory_is_refused(lab_with):
    with lab_with() as lab:
        with pytest.raises(LabIsUp, match=f"pid {os.getpid()}.*plywire down") as caught:
            lab_with().start()
        assert caught.value.pid == os.getpid()
        assert [layer.state for layer in lab.status()] == [UP] * 4


def test_directory_of_a_dead_lab_is_swept(lab_with):
    directory = lab_with().directory
    directory.mkdir()
    for name in ("h9.tcp.trace", "h9.tcp.lock", "control.sock", "lab.lock"):
        (directory / name).write_text("1\n")
    with lab_with():
        assert not list(directory.glob("h9*"))


def test_run_directory_too_long_for_a_socket(lab_with, tmp_path):
    with pytest.raises(ConfigError, match="PLYWIRE_RUN_DIR"):
        Lab(CONFIG, tmp_path / ("x" * 100)).start()


def test_logs_of_all_layers_in_the_order_of_time(lab_with):
    with lab_with() as lab:
        os.kill(lab.layer("h1", "ip").pid, signal.SIGKILL)
        assert lab.wait_for(lambda lab: lab.layer("h1", "ip").restarts == 1)
        lines, _ = lab.read_logs(lambda host, role: role in ("ip", "tcp"), 1000)
        assert {role for _, role, _ in lines} <= {"ip", "tcp"}
        assert any("killed by SIGKILL" in text for _, _, text in lines)


def test_layers_die_with_a_supervisor_that_is_killed(tmp_path):
    program = f"""
import sys
from pathlib import Path
sys.path.insert(0, {str(STANDIN.parent)!r})
from test_lab_supervisor import CONFIG, STANDIN, LAYERS, Lab
commands = {{role: [sys.executable, str(STANDIN), "good", {str(tmp_path / "mark")!r}]
            for role in LAYERS}}
lab = Lab(CONFIG, {str(tmp_path / "run")!r}, commands)
lab.start()
print(*[layer.pid for layer in lab.status()], flush=True)
sys.stdin.read()
"""
    holder = subprocess.Popen(
        [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    pids = [int(word) for word in holder.stdout.readline().split()]
    watched = [os.pidfd_open(pid) for pid in pids]
    assert len(pids) == 4
    holder.kill()
    holder.wait()
    for stream in (holder.stdin, holder.stdout):
        stream.close()
    assert all_end(watched, 5.0)


def all_end(pidfds: list[int], limit: float) -> bool:
    """Wait until every process has ended; its descriptors are closed."""
    deadline = time.monotonic() + limit
    left = list(pidfds)
    while left and time.monotonic() < deadline:
        ended, _, _ = select.select(left, [], [], deadline - time.monotonic())
        left = [fd for fd in left if fd not in ended]
    for fd in pidfds:
        os.close(fd)
    return not left
