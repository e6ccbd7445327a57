"""A wire that others can join: examples/station.py, barriers, and a host alone."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import threading
from collections import Counter

import pytest
import zmq

from plywire.client import Stack
from plywire.lab.control import LabClient
from plywire.messages import Barrier, BarrierDone, Frame, Join, Members
from plywire.runtime.pipe import Inbox, Outlet
from plywire.wire import arp, ethernet, icmp, ipv4
from tests.process.commanded import QUIET, Commands
from tests.process.running import ROOT, wait_until

HOST, ME = bytes((10, 0, 0, 1)), bytes((10, 0, 0, 66))
HOST_MAC, MAC = b"\x02\0" + HOST, b"\x02\0" + ME


@pytest.fixture(scope="module")
def plywire(tmp_path_factory):
    """h1 of the default lab, alone."""
    commands = Commands(tmp_path_factory.mktemp("labs"))
    said = commands.up(QUIET, "--host", "h1")
    assert "4 layers" in said
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
def wire(plywire):
    return f"ipc://{plywire.directory()}/h1.eth0.wire"


def station(*arguments: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, ROOT / "examples" / "station.py", *arguments],
        capture_output=True, text=True, timeout=60, env={"PATH": os.environ["PATH"]},
    )  # fmt: skip


def test_one_host_alone_knows_the_others_by_name(plywire, client):
    assert [host.name for host in client.status().hosts] == ["h1"]
    with Stack(client.target("h1")) as h1:
        assert h1.gethostbyname("h2.lab") == "10.0.0.2"


def test_a_host_that_the_lab_does_not_have(plywire):
    said = plywire.refused("--lab", "other", "up", "--host", "h9", code=1)
    assert "not in the lab; there are h1, h2" in said


def test_the_station_pings_and_connects_and_closes(client, wire):
    seen = []

    def serve(server) -> None:
        peer, address = server.accept()
        with peer:
            seen.append((address[0], peer.recv(100)))

    with Stack(client.target("h1")) as h1, h1.create_server(("", 80)) as server:
        thread = threading.Thread(target=serve, args=(server,), daemon=True)
        thread.start()
        done = station(wire, "10.0.0.1", "80")
        thread.join(20)
    assert (done.returncode, done.stderr) == (0, "")
    joined, found, ping, opened, closed = done.stdout.splitlines()
    assert joined == "joined: h1.eth0"
    assert found == "arp: 10.0.0.1 is at 02:00:0a:00:00:01"
    assert re.fullmatch(r"ping: \d+\.\d ms", ping)
    assert opened == "tcp: SYN, SYN+ACK, ACK; worked through by all layers of h1.eth0"
    assert closed == "tcp: FIN, ACK, FIN, ACK"
    assert seen == [("10.0.0.77", b"")]


def test_the_station_and_a_port_where_nobody_listens(wire):
    done = station(wire, "10.0.0.1", "81")
    assert (done.returncode, done.stderr) == (1, "nobody listens on port 81\n")


def test_the_example_is_short_and_imports_no_plywire():
    lines = (ROOT / "examples" / "station.py").read_text().splitlines()
    assert not [line for line in lines if re.match(r"\s*(from|import) (plywire|services)", line)]
    assert len(lines) < 120


class Tool:
    """A station of a test: it sends h1 what it likes, and sees in what order the answers come."""

    def __init__(self, wire: str, own: str) -> None:
        self.context = zmq.Context()
        self.inbox = Inbox(self.context, own, Counter())
        self.outlet = Outlet(self.context, wire)
        self.heard: list = []
        wait_until(self.outlet.writable, "the wire")
        self.say(Join(5, "tool", own, 1))
        members = self.until(Members)
        assert members.rows[0][0] == "h1.eth0"

    def say(self, *messages) -> None:
        assert self.outlet.send(messages)

    def until(self, kind: type):
        """The next message of a kind; what came before it is left in `heard`."""
        found = []

        def there():
            self.inbox.socket.poll(100)
            self.heard += self.inbox.receive()
            found.extend(item for item in self.heard if type(item) is kind)
            return found

        wait_until(there, kind.__name__)
        return found[0]

    def frame(self, kind: int, payload: bytes, trace: int) -> Frame:
        header = ethernet.EthernetHeader(HOST_MAC, MAC, kind)
        return Frame(trace, 9, 0, ethernet.encode(header, payload))

    def echo(self, number: int) -> Frame:
        body = icmp.encode(icmp.IcmpMessage(8, 0, number, b"x" * 100))
        return self.frame(0x0800, ipv4.encode(ipv4.Ipv4Header(ME, HOST, 1), body), number)

    def close(self) -> None:
        self.outlet.close()
        self.inbox.close()
        self.context.destroy(0)


@pytest.fixture
def tool(wire, tmp_path):
    tool = Tool(wire, f"ipc://{tmp_path}/tool")
    packet = arp.ArpPacket(arp.REQUEST, MAC, ME, b"\0" * 6, HOST)
    tool.say(tool.frame(0x0806, arp.encode(packet), 1))  # so that h1 knows where to answer
    tool.until(Frame)
    tool.heard.clear()
    yield tool
    tool.close()


@pytest.mark.parametrize("count", [0, 1, 200])
def test_a_barrier_comes_back_behind_all_answers(tool, count):
    echoes = [tool.echo(number) for number in range(1, count + 1)]
    for start in range(0, count, 32):
        tool.say(*echoes[start : start + 32])
    tool.say(Barrier(77, 9, "tool", 4711))
    assert tool.until(BarrierDone) == BarrierDone(77, "h1.eth0", 4711)
    before = tool.heard[: tool.heard.index(BarrierDone(77, "h1.eth0", 4711))]
    answered = [item.trace for item in before if type(item) is Frame and item.frame[12] == 8
                and item.frame[13] == 0]  # fmt: skip
    assert answered == [echo.trace for echo in echoes]


def test_a_barrier_from_a_stranger_is_dropped_and_counted(tool, client):
    def dropped() -> int:
        counters = client.describe("h1", "link", "counters")
        return counters.get("drop_wire_station_away_or_full", 0)

    before = dropped()
    tool.say(Barrier(1, 1, "nobody", 1), Barrier(1, 1, "tool", 2))
    assert tool.until(BarrierDone).token == 2
    assert dropped() == before + 1


def test_what_a_station_sends_cannot_be_impaired_but_what_it_gets_can(tool, plywire):
    assert "set" in plywire("impair", "set", "--help").stdout
    said = plywire.refused("impair", "set", "tool>h1", "--loss", "1%", code=1)
    assert "tool is not plywire" in said
    plywire.do("impair", "drop-next", "h1>tool")
    tool.say(tool.echo(1), tool.echo(2), Barrier(1, 1, "tool", 3))
    tool.until(BarrierDone)
    assert [item.trace for item in tool.heard if type(item) is Frame] == [2]
    plywire.do("impair", "reset")
