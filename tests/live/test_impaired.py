"""A TAP whose frames are lost, doubled, reordered and held back: the kernel and plywire cope."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
import threading

import pytest

from tests.live.conftest import PLYWIRE, Capture, command_line
from tests.live.judge import LOST, REPEATS, judge
from tests.live.peer import pattern

TWO_MB = 2_000_000


@pytest.fixture(autouse=True)
def capture(setup, tmp_path):
    running = Capture(setup.namespace, setup.interface, tmp_path / "kernel.pcapng")
    yield running
    judge(running.finish(), also_expected=REPEATS + LOST)


@pytest.fixture
def plywire(setup):
    """The command line, for the lab of the live tests."""
    with command_line(setup.lab) as run:
        yield run
        run("impair", "reset")


def test_both_directions_are_delayed(setup, plywire):
    setup.kernel("ping", "-c", "1", "-W", "5", PLYWIRE)
    plywire("impair", "set", f"ply-{setup.interface}", "--delay", "20ms")
    said = setup.kernel("ping", "-c", "3", "-i", "0.2", "-W", "5", PLYWIRE).stdout
    least = float(said.rpartition("= ")[2].split("/")[0])
    assert 40 <= least < 80


def test_one_direction_alone_is_lost(setup, plywire):
    plywire("impair", "drop-next", f"{setup.interface}>ply", "1000")
    assert "0 received" in setup.kernel("ping", "-c", "2", "-i", "0.2", "-W", "1", PLYWIRE,
                                        check=False).stdout  # fmt: skip
    plywire("impair", "reset")
    setup.kernel("ping", "-c", "1", "-W", "5", PLYWIRE)


def test_both_streams_arrive_whole_over_a_bad_wire(setup, plywire):
    plywire("impair", "set", f"ply-{setup.interface}", "--loss", "1%", "--dup", "1%", "--reorder",
            "1%", "--delay", "1ms", "--seed", "5")  # fmt: skip
    data = pattern(TWO_MB)
    with setup.stack.create_server((PLYWIRE, 0)) as server:
        server.settimeout(30)

        def serve():
            connection, _ = server.accept()
            with connection:
                connection.settimeout(60)
                while part := connection.recv(65_536):
                    connection.sendall(part)

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        code = (
            "import socket, sys, threading\n"
            "sock = socket.create_connection((sys.argv[1], int(sys.argv[2])), 60)\n"
            "data = sys.stdin.buffer.read()\n"
            "def send():\n"
            "    sock.sendall(data)\n"
            "    sock.shutdown(socket.SHUT_WR)\n"
            "threading.Thread(target=send, daemon=True).start()\n"
            "while part := sock.recv(65536):\n"
            "    sys.stdout.buffer.write(part)\n"
        )
        client = setup.popen(
            sys.executable, "-c", code, PLYWIRE, str(server.getsockname()[1]),
            stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        )  # fmt: skip
        echoed, _ = client.communicate(data, timeout=90)
        thread.join(20)
    assert client.returncode == 0
    assert hashlib.sha256(echoed).hexdigest() == hashlib.sha256(data).hexdigest()
    rows = {row["from"]: row["counts"] for row in json.loads(plywire("impair", "show", "--json"))}
    for sender in ("ply", setup.interface):
        assert all(rows[sender].get(name) for name in ("lost", "duplicated", "reordered"))
