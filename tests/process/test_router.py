"""Three hosts on two wires, in processes: the one in the middle forwards, cuts and reports."""

from __future__ import annotations

import errno
import tomllib
from concurrent.futures import ThreadPoolExecutor

import pytest

from plywire.client import Stack
from plywire.config import parse
from plywire.lab.control import LabClient
from plywire.lab.ping import run_ping
from plywire.lab.service import Service
from plywire.lab.supervisor import Lab
from tests.process.programs import block
from tests.process.running import DEADLINE, wait_until

LAB = """
[wires.left]
[wires.right]

[hosts.h1]
interfaces = [{ address = "10.0.1.1/24", wire = "left" }]
routes = [{ to = "0.0.0.0/0", via = "10.0.1.254" }]

[hosts.r]
interfaces = [
  { address = "10.0.1.254/24", wire = "left" },
  { address = "10.0.2.254/24", wire = "right", mtu = 1000 },
]

[hosts.h2]
interfaces = [{ address = "10.0.2.1/24", wire = "right", mtu = 1000 }]
routes = [{ to = "0.0.0.0/0", via = "10.0.2.254" }]
"""


@pytest.fixture(scope="module")
def routed():
    """(lab, its client, h1's sockets, h2's sockets)."""
    with (
        Lab(parse(tomllib.loads(LAB), "router.toml")) as lab,
        Service(lab),
        LabClient(lab.directory) as client,
        Stack(lab.target("h1")) as h1,
        Stack(lab.target("h2")) as h2,
    ):
        yield lab, client, h1, h2


def test_a_stream_crosses_the_router_both_ways(routed):
    _, client, h1, h2 = routed
    data = block(200_000)
    with (
        h2.create_server(("", 0)) as server,
        h1.create_connection(("h2.lab", server.getsockname()[1]), timeout=DEADLINE) as ours,
    ):
        server.settimeout(DEADLINE)
        theirs, (peer, _) = server.accept()
        with theirs:
            assert peer == "10.0.1.1"
            for one, other in ((ours, theirs), (theirs, ours)):
                with ThreadPoolExecutor() as pool:  # more than buffers hold before somebody reads
                    sent = pool.submit(one.sendall, data)
                    sent.add_done_callback(lambda _, one=one: one.shutdown(1))
                    assert other.makefile("rb").read() == data
                    sent.result()
    assert client.describe("r", "ip", "counters")["ip_forw_datagrams"] > 300


@pytest.mark.parametrize("size", [56, 5000])
def test_a_ping_crosses_it_and_one_with_dont_fragment_unset_is_cut(routed, size):
    _, client, _, _ = routed
    lines: list[str] = []
    code = run_ping(client, "h1", "h2", lines.append, count=1, interval=0.0, size=size, timeout=10)
    assert code == 0, lines
    assert any("ttl=63" in line for line in lines)


def test_the_router_says_that_a_network_is_not_there(routed):
    """An attempt goes on, as RFC 1122 4.2.3.9 wants; what the router said is kept for its end."""
    _, client, h1, _ = routed
    with h1.socket() as sock:
        sock.setblocking(False)
        assert sock.connect_ex(("192.0.2.1", 80)) == errno.EINPROGRESS
        wait_until(
            lambda: client.describe("r", "ip", "counters").get("drop_no_route"),
            "the router has no route",
        )
        wait_until(
            lambda: client.describe("h1", "ip", "counters").get("icmp_in_dest_unreachs"),
            "h1 has heard of it",
        )
