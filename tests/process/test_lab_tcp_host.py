"""A lab whose TCP is the operating system's, in which programs of the API run as they are."""

from __future__ import annotations

import os
import signal
import socket
from pathlib import Path

import pytest

from plywire.client import Stack
from plywire.lab.control import LabClient
from tests.process.commanded import Commands
from tests.process.programs import digest
from tests.process.running import program, wait_until
from tests.process.test_examples import run, running

ROOT = Path(__file__).resolve().parents[2]
SIZE = 20_000_000


@pytest.fixture(scope="module")
def plywire(tmp_path_factory):
    commands = Commands(tmp_path_factory.mktemp("labs"))
    commands.up((ROOT / "examples/host.toml").read_text())
    yield commands
    try:
        commands.do("down")
    finally:
        commands.end()


@pytest.fixture
def client(plywire):
    with LabClient(plywire.directory()) as client:
        yield client


@pytest.fixture
def environment(plywire):
    return os.environ | plywire.environment


@pytest.fixture
def stacks(client):
    with Stack(client.target("h1")) as h1, Stack(client.target("h2")) as h2:
        yield h1, h2


def test_the_examples_run_unmodified(environment):
    said = run(environment, "examples/hello.py").stdout
    assert said == "b'over four processes down and four up'\n"
    with running(environment, "examples/http_server.py", "h2", "8080", "docs"):
        client = run(environment, "examples/http_client.py", "h1", "http://h2.lab:8080/client.md")
    assert client.stdout == (ROOT / "docs/client.md").read_text()
    assert "to 10.0.0.2 8080\n200 OK\n" in client.stderr


def test_bytes_arrive_as_they_were_sent(client):
    with program("receiver", client.target("h2"), 0, 1) as taking:
        port = taking.expect("listening")["port"]
        with program("sender", client.target("h1"), "10.0.0.2", port, SIZE) as giving:
            giving.expect("connected")
            taking.expect("progress")
            assert taking.expect("end") == {"bytes": SIZE, "sha256": digest(SIZE)}
            giving.expect("sent")
            giving.expect("closed")


def test_a_program_of_the_machine_and_one_of_the_api_meet(stacks):
    """It is the system's socket: h2's 10.0.0.2 is 127.128.0.2 for who does not know the API."""
    _, h2 = stacks
    with h2.create_server(("", 0)) as server:
        port = server.getsockname()[1]
        assert server.getsockname()[0] == "0.0.0.0"
        with socket.create_connection(("127.128.0.2", port), timeout=20) as outside:
            inside, address = server.accept()
            with inside:
                assert address == outside.getsockname()
                assert inside.getsockname() == ("10.0.0.2", port)
                outside.sendall(b"from the machine")
                assert inside.recv(100) == b"from the machine"


@pytest.fixture
def pair(stacks):
    """A connection from h1 to h2: h1's end, h2's, and the listener."""
    h1, h2 = stacks
    with h2.create_server(("10.0.0.2", 0)) as server:
        place = ("h2.lab", server.getsockname()[1])
        with h1.create_connection(place, timeout=20) as ours:
            theirs, _ = server.accept()
            with theirs:
                theirs.settimeout(20)
                yield ours, theirs, server


def test_addresses_are_the_lab_s(pair):
    ours, theirs, server = pair
    assert ours.getsockname() == theirs.getpeername()
    assert ours.getsockname()[0] == "10.0.0.1"
    assert ours.getpeername() == theirs.getsockname() == server.getsockname()
    assert server.getsockname()[0] == "10.0.0.2"


def test_errors_bear_the_names_that_socket_raises(stacks, pair):
    h1, h2 = stacks
    ours, theirs, server = pair
    with pytest.raises(ConnectionRefusedError):
        h1.create_connection(("10.0.0.2", 9), timeout=20)
    with pytest.raises(OSError, match="unreachable"):
        h1.create_connection(("192.0.2.1", 80), timeout=20)
    with pytest.raises(OSError, match="in use"):
        h2.create_server(("10.0.0.2", server.getsockname()[1]))
    theirs.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    theirs.close()
    with pytest.raises(ConnectionResetError):
        ours.recv(1)


def test_half_close(pair):
    ours, theirs, _ = pair
    ours.sendall(b"question")
    ours.shutdown(socket.SHUT_WR)
    assert theirs.makefile("rb").read() == b"question"
    theirs.sendall(b"answer")
    theirs.close()
    assert ours.makefile("rb").read() == b"answer"


def test_a_reader_that_stops_stops_the_writer(pair):
    ours, theirs, _ = pair
    ours.settimeout(0.5)
    sent, blocked = 0, False
    while not blocked and sent < 1 << 28:
        try:
            sent += ours.send(bytes(1 << 18))
        except TimeoutError:
            blocked = True
    assert blocked
    assert sent > 1 << 20
    ours.shutdown(socket.SHUT_WR)
    received = 0
    while data := theirs.recv(1 << 18):
        received += len(data)
    assert received >= sent


def test_the_tools_know_it(plywire, client, pair):
    port = pair[2].getsockname()[1]
    assert "services.tcp_host:create" in plywire.do("status")
    assert f"10.0.0.2:{port}" in plywire.do("ss", "-tan", "h1")
    (row,) = (row for row in client.describe("h1", "tcp", "connections")
              if row["state"] == "ESTABLISHED")  # fmt: skip
    assert row["peer"] == f"10.0.0.2:{port}"
    assert "ESTABLISHED" in plywire.do("connect", "h1", f"h2:{port}")


def test_a_process_that_is_killed_ends_its_connections_and_listens_again(client, stacks, pair):
    h1, _ = stacks
    ours, theirs, server = pair
    os.kill(client.describe("h2", "tcp", "runtime")["pid"], signal.SIGKILL)
    with pytest.raises(ConnectionResetError):
        theirs.recv(1)
    assert ours.recv(1) == b""  # the system closes what a process leaves behind
    place = server.getsockname()
    with wait_until(lambda: connected(h1, place), "h2 listens again"):
        server.accept()[0].close()


def test_a_swap_says_that_it_would_end_connections_and_does_it_when_told(plywire, stacks):
    h1, h2 = stacks
    with h2.create_server(("", 0)) as server:
        place = ("10.0.0.2", server.getsockname()[1])
        with h1.create_connection(place, timeout=20):
            theirs, _ = server.accept()
            with theirs:
                said = plywire("swap", "h2.tcp").stderr
                assert "cannot take over 1 open connections" in said
                assert "--fresh ends them" in said
                theirs.sendall(b"still there")
                plywire.do("swap", "h2.tcp", "--fresh")
                with pytest.raises(ConnectionResetError):
                    theirs.recv(1)
        ours = wait_until(lambda: connected(h1, place), "h2 listens again")
        with ours:
            server.accept()[0].close()


def connected(stack, place):
    """A connection, or None while nobody listens."""
    try:
        return stack.create_connection(place, timeout=20)
    except ConnectionRefusedError:
        return None


def test_two_interfaces_cannot_be(plywire):
    file = plywire.base / "two.toml"
    text = (ROOT / "examples/host.toml").read_text()
    one = '{ address = "10.0.0.1/24" }'
    file.write_text(text.replace(one, one + ', { address = "10.1.0.1/24" }'))
    said = plywire.refused("--lab", "two", "up", "-f", str(file), code=1)
    assert "hosts.h1.interfaces" in said
    assert "has one interface" in said


def test_nothing_leaves_the_machine(client, pair):
    """Every socket of the two TCP processes is of a loopback address."""
    pids = {client.describe(host, "tcp", "runtime")["pid"] for host in ("h1", "h2")}
    places = [place for pid in pids for place in tcp_sockets(pid)]
    assert len(places) >= 3  # a listener and two ends
    assert all(place.startswith("127.128.0.") for place in places)


def tcp_sockets(pid: int) -> list[str]:
    """The local addresses of a process's TCP sockets, by /proc (proc(5))."""
    mine = set()
    for link in Path(f"/proc/{pid}/fd").iterdir():
        try:
            mine.add(os.readlink(link))
        except FileNotFoundError:
            continue
    found = []
    for line in Path(f"/proc/{pid}/net/tcp").read_text().splitlines()[1:]:
        fields = line.split()
        if f"socket:[{fields[9]}]" in mine:
            address = bytes.fromhex(fields[1].partition(":")[0])[::-1]
            found.append(".".join(map(str, address)))
    return found
