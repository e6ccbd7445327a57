"""Layer processes of a running lab are killed (kill -9) in mid-transfer, and the connection lives.

Each layer is killed 5 times in 5 MB, 100 times in 100 MB with PLYWIRE_SOAK=1 (`make soak`), or as
often as PLYWIRE_KILLS says. What that measured is kept: tests/process/results.py.
"""

from __future__ import annotations

import operator
import os
import random
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor, wait
from statistics import median

import pytest

from plywire.client import Stack
from plywire.lab.supervisor import Lab
from tests.process.exchange import exchange
from tests.process.programs import block, digest
from tests.process.results import milliseconds, record
from tests.process.running import program

SOAK = bool(os.environ.get("PLYWIRE_SOAK"))
TIMES = int(os.environ.get("PLYWIRE_KILLS") or (100 if SOAK else 5))
SLICE = 1_000_000
"""One kill falls into each slice of so many bytes."""
HOSTS = ["h1", "h2"]
ROLES = ["app", "tcp", "ip", "link"]
SEND_BUFFER = {("h1", "app"): SLICE // 8}
"""What tcp sends while its app is dead must be less than a slice: one kill falls into each."""
LIMIT = 60.0
SHORT = 30_000


@pytest.fixture(scope="module")
def lab():
    with Lab() as lab:
        yield lab


def killed(lab: Lab, host: str, role: str) -> float:
    """Kill a layer; returns after how many seconds its successor was up."""
    before = lab.layer(host, role)
    at = time.monotonic()
    os.kill(before.pid, signal.SIGKILL)
    assert lab.wait_for(
        lambda lab: (
            lab.layer(host, role).pid not in (0, before.pid) and lab.layer(host, role).state == "up"
        ),
        LIMIT,
    ), f"no other {host}.{role}"
    return time.monotonic() - at


@pytest.mark.parametrize("host", HOSTS)
@pytest.mark.parametrize("role", ROLES)
def test_a_layer_is_killed_again_and_again_in_mid_transfer(lab, host, role, capsys):
    """The moments are bytes that have been received: one anywhere in each slice of the stream."""
    rng = random.Random(f"{host}.{role}")
    size = TIMES * SLICE
    moments = [start + rng.randrange(SLICE) for start in range(0, size, SLICE)]
    restarts, silences = [], []
    began = time.monotonic()
    with (
        program(
            "receiver", lab.target("h2"), 700, ",".join(map(str, [*moments, size]))
        ) as receiver,
        Stack(lab.target("h1")) as h1,
        Stack(lab.target("h2")) as h2,
        h2.create_server(("", 99)) as server,
        h1.create_connection(("10.0.0.2", 99), timeout=20) as idle,
    ):
        other, _ = server.accept()
        receiver.expect("listening")
        room = SEND_BUFFER.get((host, role), 0)
        with program("sender", lab.target("h1"), "10.0.0.2", 700, size, room) as sender:
            sender.expect("connected")
            for _ in moments:
                silences.append(receiver.expect("progress")["silence"])
                restarts.append(killed(lab, host, role))
            silences.append(receiver.expect("progress")["silence"])
            ended = receiver.expect("end")
            sender.expect("sent")
            sender.expect("closed")
        assert ended == {"bytes": size, "sha256": digest(size)}
        idle.sendall(b"alive")
        other.settimeout(20)
        assert other.recv(10) == b"alive"
        other.sendall(b"too")
        assert idle.recv(10) == b"too"
    exchange(lab, 701)  # the listeners, the ports and everything else work
    row = {
        "deaths": TIMES,
        "MB": size / 1e6,
        "up again, median ms": milliseconds(median(restarts)),
        "at most": milliseconds(max(restarts)),
        "nothing to read, median ms": milliseconds(median(silences[1:])),
        "at the longest": milliseconds(max(silences[1:])),
        "s in all": round(time.monotonic() - began),
    }
    record("kills", f"{host}.{role}", **row)
    with capsys.disabled():
        print(f"\n{host}.{role}: {row}", end="")


class Short:
    """A connection from h1 to h2 that sends SHORT bytes, and what is known of its course.

    phases: set when connect() is called, and when all has been handed over and the end is said.
    """

    def __init__(self, h1: Stack, server) -> None:
        self.phases = {"connect": threading.Event(), "close": threading.Event()}
        self.lasted = dict.fromkeys(self.phases, 0.0)
        self._h1, self._server = h1, server

    def client(self) -> bytes:
        with self._h1.socket() as sock:
            sock.settimeout(LIMIT)
            self._pass("connect", lambda: sock.connect(self._server.getsockname()))
            sock.sendall(block(SHORT))
            return self._pass("close", lambda: sock.shutdown(1) or sock.recv(1))

    def host(self) -> bytes:
        sock, _ = self._server.accept()
        with sock:
            sock.settimeout(LIMIT)
            parts = list(iter(lambda: sock.recv(1 << 16), b""))
        return b"".join(parts)

    def _pass(self, phase: str, act):
        began = time.monotonic()
        self.phases[phase].set()
        result = act()
        self.lasted[phase] = time.monotonic() - began
        return result


@pytest.mark.parametrize("host", HOSTS)
@pytest.mark.parametrize("role", ROLES)
@pytest.mark.parametrize("phase", ["connect", "close"])
def test_a_layer_is_killed_while_connections_begin_and_end(lab, host, role, phase, capsys):
    """At moments that are drawn from the time that the phase takes undisturbed, and half as long
    again: in the middle of it, just before its end, and just behind it."""
    rng = random.Random(f"{host}.{role}.{phase}")
    with (
        Stack(lab.target("h1")) as h1,
        Stack(lab.target("h2")) as h2,
        h2.create_server(("10.0.0.2", 702)) as server,
        ThreadPoolExecutor() as pool,
    ):
        server.settimeout(LIMIT)

        def one(moment: float | None) -> float:
            short = Short(h1, server)
            both = [pool.submit(short.client), pool.submit(short.host)]
            assert short.phases[phase].wait(LIMIT)
            if moment is not None:
                wait(both, moment)
                killed(lab, host, role)
            assert [future.result() for future in both] == [b"", block(SHORT)]
            return short.lasted[phase]

        one(None)  # ARP, and whatever else is done once
        usual = median(one(None) for _ in range(5))
        moments = [rng.uniform(0, 1.5 * usual) for _ in range(max(2, TIMES // 5))]
        lasted = [one(moment) for moment in moments]
    row = {
        "deaths": len(moments),
        "before its end": sum(map(operator.lt, moments, lasted)),
        "undisturbed, median ms": round(usual * 1000, 1),
        "with a death, median ms": milliseconds(median(lasted)),
        "at most": milliseconds(max(lasted)),
    }
    record("kills-in-short-connections", f"{host}.{role}, {phase}", **row)
    with capsys.disabled():
        print(f"\n{host}.{role} in {phase}: {row}", end="")
