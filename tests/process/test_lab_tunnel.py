"""Two hosts over UDP on loopback, and a station of the test's own that speaks bare UDP to one."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from plywire.client import Stack
from plywire.lab.control import LabClient
from plywire.wire import icmp, ipv4
from tests.process.commanded import Commands
from tests.process.programs import digest
from tests.process.running import program, wait_until

SIZE = 2_000_000
EXAMPLE = Path(__file__).resolve().parents[2] / "examples/tunnel.toml"
H1, OURS = bytes((10, 0, 0, 1)), bytes((10, 0, 0, 9))
LAB = """
[wires.lan]
[hosts.h1]
interfaces = [{{ address = "10.0.0.1/24", device = "tunnel", peers = [
  "10.0.0.9=udp://127.0.0.1:{ours}",
], listen = "udp://127.0.0.1:{one}" }}]
implementations = {{ link = "services.link_tunnel:create" }}
[hosts.h2]
interfaces = [{{ address = "10.0.0.2/24", device = "tunnel", listen = "udp://127.0.0.1:{two}" }}]
implementations = {{ link = "services.link_tunnel:create" }}
"""


@pytest.fixture(scope="module")
def ours():
    """A socket of loopback that is h1's peer 10.0.0.9."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as opened:
        opened.bind(("127.0.0.1", 0))
        opened.settimeout(20)
        yield opened


@pytest.fixture(scope="module")
def lab(tmp_path_factory, ours):
    commands = Commands(tmp_path_factory.mktemp("labs"))
    with socket.socket(type=socket.SOCK_DGRAM) as one, socket.socket(type=socket.SOCK_DGRAM) as two:
        for probe in (one, two):
            probe.bind(("127.0.0.1", 0))
        ports = [probe.getsockname()[1] for probe in (one, two, ours)]
    commands.ports = dict(zip(("one", "two", "ours"), ports, strict=True))
    commands.up(LAB.format(**commands.ports))
    yield commands
    try:
        commands.do("down")
    finally:
        commands.end()


@pytest.fixture
def client(lab):
    with LabClient(lab.directory()) as client:
        yield client


@pytest.mark.parametrize(("sender", "receiver"), [("h1", "h2"), ("h2", "h1")])
def test_bytes_arrive_as_they_were_sent(client, sender, receiver):
    address = {"h1": "10.0.0.1", "h2": "10.0.0.2"}[receiver]
    with program("receiver", client.target(receiver), 0, 1) as taking:
        port = taking.expect("listening")["port"]
        with program("sender", client.target(sender), address, port, SIZE) as giving:
            giving.expect("connected")
            taking.expect("progress")
            assert taking.expect("end") == {"bytes": SIZE, "sha256": digest(SIZE)}
            giving.expect("sent")
            giving.expect("closed")


def test_the_tools_know_it(lab, client):
    assert "64 bytes from 10.0.0.2" in lab.do("ping", "h1", "h2", "-c", "1")
    (row,) = client.describe("h2", "link", "interfaces")
    assert row["mac"] == "00:00:00:00:00:00"
    assert client.describe("h2", "link", "neighbours") == []
    with Stack(client.target("h2")) as h2, h2.create_server(("", 81)):
        assert "malformed" not in lab.do("connect", "h1", "h2:81")
    assert "there is nobody" in lab.refused("impair", "set", "h1>h2", "--loss", "1%", code=1)


def test_nobody_is_there(client):
    with Stack(client.target("h1")) as h1, pytest.raises(OSError, match="No route to host"):
        h1.create_connection(("10.0.0.77", 80), timeout=20)


def test_a_station_of_another_make_is_answered_in_bare_datagrams(lab, client, ours):
    echo = icmp.encode(icmp.IcmpMessage(icmp.ECHO_REQUEST, 0, 0x00070001, b"from outside"))
    request = ipv4.encode(ipv4.Ipv4Header(OURS, H1, ipv4.PROTOCOL_ICMP), echo)
    ours.sendto(request, ("127.0.0.1", lab.ports["one"]))
    answer, source = ours.recvfrom(2000)
    header, payload = ipv4.decode(answer)
    assert (source[1], header.src, header.dst) == (lab.ports["one"], H1, OURS)
    assert payload[8:] == b"from outside"


def test_wrong_datagrams_are_counted_and_nothing_else(lab, client, ours):
    where = ("127.0.0.1", lab.ports["one"])

    def counts() -> dict:
        found = client.describe("h1", "link", "counters")
        names = ("drop_not_ipv4", "drop_bad_length", "drop_packet_too_big",
                 "drop_tunnel_unknown_peer")  # fmt: skip
        return {name: found.get(name, 0) for name in names}

    before = counts()
    whole = ipv4.encode(ipv4.Ipv4Header(OURS, H1, 17), bytes(1_600))
    for data in (b"", b"nonsense", whole[:400], whole):
        ours.sendto(data, where)
    with socket.socket(type=socket.SOCK_DGRAM) as stranger:
        for _ in range(5):
            stranger.sendto(whole[:100], where)
    expected = dict(zip(before, (2, 1, 1, 5), strict=True))
    wait_until(lambda: {name: value - before[name] for name, value in counts().items()} == expected,
               f"{expected}")  # fmt: skip
    assert "64 bytes from 10.0.0.2" in lab.do("ping", "h1", "h2", "-c", "1")


def test_it_is_exchanged_under_a_connection(lab, client):
    with (
        Stack(client.target("h1")) as h1,
        Stack(client.target("h2")) as h2,
        h2.create_server(("", 0)) as server,
        h1.create_connection(("10.0.0.2", server.getsockname()[1]), timeout=20) as ours,
    ):
        theirs, _ = server.accept()
        with theirs:
            for link in ("h1.link", "h2.link"):
                lab.do("swap", link)
                ours.sendall(b"on and on")
                assert theirs.recv(9) == b"on and on"
            said = lab("swap", "h1.link", "--impl", "services.link:create")
            assert said.returncode == 1
            assert "goes on as services.link_tunnel:create" in said.stderr
            ours.sendall(b"all the same")
            assert theirs.recv(13) == b"all the same"


def test_a_lab_that_cannot_be(lab):
    taken = lab.base / "taken.toml"
    taken.write_text(LAB.format(**lab.ports))
    said = lab.refused("--lab", "taken", "up", "-f", str(taken), code=1)
    assert "listen: cannot listen at udp://127.0.0.1:" in said
    other = lab.base / "other.toml"
    other.write_text(LAB.format(**lab.ports).replace("services.link_tunnel", "services.link"))
    said = lab.refused("--lab", "other", "up", "-f", str(other), code=1)
    assert 'implementations = { link = "services.link_tunnel:create" }' in said


def test_two_labs_that_share_a_file_are_two_machines(tmp_path):
    """Each brings one host up, and knows the other only by where it listens."""
    with socket.socket(type=socket.SOCK_DGRAM) as one, socket.socket(type=socket.SOCK_DGRAM) as two:
        for probe in (one, two):
            probe.bind(("127.0.0.1", 0))
        places = [f":{probe.getsockname()[1]}" for probe in (one, two)]
    text = EXAMPLE.read_text().replace(":7001", places[0]).replace(":7002", places[1])
    machines = {}
    for name in ("h1", "h2"):
        (tmp_path / name).mkdir()
        machines[name] = Commands(tmp_path / name)
    try:
        for name, machine in machines.items():
            machine.up(text, "--host", name)
        with (
            LabClient(machines["h1"].directory()) as near,
            LabClient(machines["h2"].directory()) as far,
            Stack(near.target("h1")) as h1,
            Stack(far.target("h2")) as h2,
            h2.create_server(("", 0)) as server,
            h1.create_connection(("h2.lab", server.getsockname()[1]), timeout=20) as ours,
        ):
            theirs, address = server.accept()
            with theirs:
                assert address == ours.getsockname()
                ours.sendall(b"from one machine to the other")
                ours.shutdown(socket.SHUT_WR)
                assert theirs.makefile("rb").read() == b"from one machine to the other"
    finally:
        for machine in machines.values():
            machine("down")
            machine.end()
