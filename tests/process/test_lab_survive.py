"""Layer processes of a running lab are killed (kill -9) in mid-transfer, and the connection lives.

PLYWIRE_SOAK=1 (`make soak`) kills each layer 100 times during 100 MB, otherwise 5 times.
"""

from __future__ import annotations

import os
import signal
import time
from statistics import median

import pytest
from exchange import exchange
from programs import digest
from running import program, wait_until

from plywire.client import Stack
from plywire.lab.supervisor import Lab
from plywire.runtime.config import control_endpoint
from plywire.runtime.observer import ask

SOAK = bool(os.environ.get("PLYWIRE_SOAK"))
TIMES = 100 if SOAK else 5
SIZE = 100_000_000 if SOAK else 4_000_000 * TIMES


@pytest.fixture(scope="module")
def lab():
    with Lab() as lab:
        yield lab


def killed(lab: Lab, host: str, role: str) -> float:
    """Kill a layer; returns after how many seconds its successor was up."""
    before = lab.layer(host, role)
    at = time.monotonic()
    os.kill(before.pid, signal.SIGKILL)
    wait_until(
        lambda: (
            lab.layer(host, role).pid not in (None, before.pid)
            and lab.layer(host, role).state == "up"
        ),
        f"another {host}.{role}",
    )
    return time.monotonic() - at


def received(lab: Lab) -> int:
    """Bytes that h2's tcp has received in all its connections."""
    rows = ask(control_endpoint(lab.directory, "h2", "app"), "describe", "counters")
    return rows.get("bytes_received", 0)


@pytest.mark.parametrize("host", ["h1", "h2"])
@pytest.mark.parametrize("role", ["tcp", "ip", "link"])
def test_a_layer_is_killed_again_and_again_in_mid_transfer(lab, host, role, capsys):
    pauses = []
    with (
        program("receiver", lab.target("h2"), 700, 1000) as receiver,
        Stack(lab.target("h1")) as h1,
        Stack(lab.target("h2")) as h2,
        h2.create_server(("", 99)) as server,
        h1.create_connection(("10.0.0.2", 99), timeout=20) as idle,
    ):
        other, _ = server.accept()
        receiver.expect("listening")
        with program("sender", lab.target("h1"), "10.0.0.2", 700, SIZE) as sender:
            sender.expect("connected")
            receiver.expect("progress")
            start = received(lab)
            for number in range(TIMES):
                pauses.append(killed(lab, host, role))
                # Progress between two deaths: each is one in mid-transfer.
                goal = start + (number + 1) * SIZE * 8 // 10 // TIMES
                wait_until(lambda goal=goal: received(lab) >= goal, "progress", 120)
            ended = receiver.expect("end")
            sender.expect("sent")
            sender.expect("closed")
        assert ended == {"bytes": SIZE, "sha256": digest(SIZE)}
        idle.sendall(b"alive")
        other.settimeout(20)
        assert other.recv(10) == b"alive"
        other.sendall(b"too")
        assert idle.recv(10) == b"too"
    exchange(lab, 701)  # the listeners, the ports and everything else work
    with capsys.disabled():
        print(f"\n{host}.{role}: {TIMES} deaths, up again in {median(pauses) * 1000:.0f} ms "
              f"(median), {max(pauses) * 1000:.0f} ms at most", end="")  # fmt: skip
