"""A wire of `raw` devices: bare IP packets between two hosts, beside an Ethernet one."""

from __future__ import annotations

import pytest

from plywire.client import Stack
from plywire.lab.control import LabClient
from tests.process.commanded import Commands

LAB = """
[wires.lan]
[wires.tunnel]
[hosts.h1]
interfaces = [{ address = "10.0.0.1/24" }]
routes = [{ to = "10.9.0.0/24", via = "10.0.0.9" }]
[hosts.r]
interfaces = [
  { address = "10.0.0.9/24" },
  { address = "10.9.0.9/24", device = "raw", wire = "tunnel", mtu = 1400 },
]
[hosts.far]
interfaces = [{ address = "10.9.0.2/24", device = "raw", wire = "tunnel", mtu = 1400 }]
routes = [{ to = "0.0.0.0/0", via = "10.9.0.9" }]
"""


@pytest.fixture(scope="module")
def plywire(tmp_path_factory):
    commands = Commands(tmp_path_factory.mktemp("labs"))
    commands.up(LAB)
    yield commands
    try:
        commands.do("down")
    finally:
        commands.end()


@pytest.fixture
def client(plywire):
    with LabClient(plywire.directory()) as client:
        yield client


def test_packets_cross_both_kinds_of_wire(plywire, client):
    assert "64 bytes from 10.9.0.2" in plywire.do("ping", "h1", "far", "-c", "1")
    (row,) = client.describe("far", "link", "interfaces")
    assert row["mac"] == "00:00:00:00:00:00"
    assert row["rx_bytes"] == row["tx_bytes"] == 84  # a bare packet, no Ethernet header
    assert client.describe("far", "link", "neighbours") == []
    assert [item["address"] for item in client.describe("r", "link", "neighbours")] == ["10.0.0.1"]


def test_a_connection_over_a_raw_wire(client):
    with (
        Stack(client.target("h1")) as h1,
        Stack(client.target("far")) as far,
        far.create_server(("", 80)) as server,
        h1.create_connection(("far.lab", 80)) as sock,
    ):
        peer, _ = server.accept()
        with peer:
            sock.sendall(b"through the tunnel")
            sock.shutdown(1)
            assert peer.makefile("rb").read() == b"through the tunnel"


def test_a_connection_is_drawn(plywire, client):
    with Stack(client.target("far")) as far, far.create_server(("", 81)):
        said = plywire.do("connect", "r", "far:81")
    assert "malformed" not in said


def test_a_wire_is_of_one_kind(plywire):
    mixed = plywire.base / "mixed.toml"
    mixed.write_text(LAB.replace('{ address = "10.0.0.1/24" }',
                                 '{ address = "10.0.0.1/24", device = "raw" }'))  # fmt: skip
    said = plywire.refused("--lab", "mixed", "up", "-f", str(mixed), code=1)
    assert "eth0 is of the device 'wire', but others on the wire 'lan' are of 'raw'" in said
