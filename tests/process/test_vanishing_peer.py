"""A peer that is gone in mid-transfer, between real processes: ETIMEDOUT after the retries."""

from __future__ import annotations

import errno
import os
import signal
import tomllib
from contextlib import contextmanager

import pytest
from exchange import works_again

from plywire.client import Stack
from plywire.config import parse
from plywire.lab.supervisor import Lab
from plywire.runtime.config import control_endpoint
from plywire.runtime.observer import ask
from tests.process.running import DEADLINE

LAB = """
[wires.lan]

[hosts.h1]
interfaces = [{ address = "10.0.0.1/24" }]
tcp = { retries2 = 3 }       # 0.2 + 0.4 + 0.8 + 1.6 s

[hosts.h2]
interfaces = [{ address = "10.0.0.2/24" }]
"""


@contextmanager
def frozen(pid: int):
    """A process that does nothing, as if its machine had lost power."""
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


@contextmanager
def acquainted_lab():
    """A lab that has carried something: no SYN is lost any more, which would make RTO 3 s."""
    with Lab(parse(tomllib.loads(LAB), "vanish.toml")) as lab:
        works_again(lab, 6)
        yield lab


def sending(sock):
    while True:
        sock.sendall(bytes(100_000))


def receiving(sock):
    sock.sendall(b"is anybody there?")
    sock.recv(1)


WAITS = {"sendall": sending, "recv": receiving}


@pytest.mark.parametrize("waits_in", WAITS)
def test_a_peer_that_vanishes_in_mid_transfer_is_etimedout(waits_in):
    with (
        acquainted_lab() as lab,
        Stack(lab.target("h1")) as h1,
        Stack(lab.target("h2")) as h2,
        h2.create_server(("", 0)) as server,
        h1.create_connection(("10.0.0.2", server.getsockname()[1]), timeout=DEADLINE) as ours,
    ):
        server.settimeout(DEADLINE)
        theirs, _ = server.accept()
        with theirs:
            ours.sendall(b"x" * 100_000)
            assert theirs.recv(1)
            port = ours.getpeername()[1]
            assert f"10.0.0.2:{port}" in peers(lab)
            with frozen(lab.layer("h2", "link").pid):
                with pytest.raises(TimeoutError) as caught:
                    WAITS[waits_in](ours)
                assert caught.value.errno == errno.ETIMEDOUT
                assert f"10.0.0.2:{port}" not in peers(lab), "TCP has let it go"
            works_again(lab, 7)


def peers(lab):
    """The other ends of h1's connections."""
    where = control_endpoint(lab.directory, "h1", "tcp")
    return [row["peer"] for row in ask(where, "describe", "connections", timeout=10)]
