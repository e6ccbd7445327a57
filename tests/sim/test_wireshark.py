"""tshark over captures of simulated worlds: nothing malformed, no bad checksum, no surprise."""

from __future__ import annotations

import shutil

import pytest
from sim_programs import MS, SECOND, Program, connected, exchange, listener, socket, two_hosts

from plywire.lab.simulator import World

if shutil.which("tshark") is None:
    pytest.skip("tshark is not installed", allow_module_level=True)

from judge import PROBES, REPEATS, fields, judge


def talk(world: World, size: int = 100_000) -> None:
    h1, h2 = two_hosts(world)
    client, server = connected(world, h1, h2)
    exchange(world, Program(h1, client, bytes(size)), Program(h2, server, bytes(size)))
    world.run(limit=3600 * SECOND)


def test_a_transfer_on_a_good_wire(tmp_path):
    world = World(1)
    path = tmp_path / "good.pcapng"
    with world.capture(path):
        world.wire("lan", delay=1 * MS, rate=100_000_000)
        talk(world)
    judge(path)
    assert fields(path, "tcp.analysis.retransmission", "frame.number") == []
    assert len(fields(path, "tcp.flags.syn == 1", "frame.number")) == 2
    assert len(fields(path, "tcp.flags.fin == 1", "frame.number")) == 2
    assert fields(path, "tcp.completeness == 31", "frame.number") != []  # SYN to FIN, with data


@pytest.mark.parametrize("seed", range(5))
def test_a_transfer_on_a_bad_wire(tmp_path, seed):
    world = World(seed)
    path = tmp_path / "bad.pcapng"
    with world.capture(path):
        world.wire("lan", delay=1 * MS, loss=0.1, reorder=0.1, duplicate=0.1, corrupt=0.05)
        talk(world)
    # what was lost was sent, and is in the capture; what overtakes it is not seen to do so
    unseen = ("Previous segment(s) not captured", "ACKed segment that wasn't")
    judge(path, also_expected=unseen + REPEATS)


def test_a_refusal_and_an_abort(tmp_path):
    world = World(2)
    path = tmp_path / "reset.pcapng"
    with world.capture(path):
        h1, h2 = two_hosts(world)
        world.run(h1.connect(socket(h1), ("10.0.0.2", 81)))
        client, server = connected(world, h1, h2)
        h2.set_option(server, "SO_LINGER", 0).result()
        h2.close_socket(server).result()
        world.run(h1.recv(client, 1))
    judge(path)


def test_a_raw_wire(tmp_path):
    world = World(3)
    path = tmp_path / "raw.pcapng"
    with world.capture(path):
        world.wire("lan", raw=True)
        talk(world)
    judge(path)
    assert fields(path, "eth", "frame.number") == []


def test_a_router_with_a_small_link(tmp_path):
    world = World(4)
    path = tmp_path / "routed.pcapng"
    with world.capture(path):
        h1 = world.host("h1", "10.0.1.1/24", wire="left", routes=[("0.0.0.0/0", "10.0.1.254")])
        world.host(
            "r",
            interfaces=[
                {"address": "10.0.1.254/24", "wire": "left"},
                {"address": "10.0.2.254/24", "wire": "right", "mtu": 600},
            ],
        )
        h2 = world.host("h2", "10.0.2.2/24", wire="right", routes=[("0.0.0.0/0", "10.0.2.254")])
        client, server = connected(world, h1, h2, to="10.0.2.2")
        exchange(world, Program(h1, client, bytes(50_000)), Program(h2, server, b""))
    # tshark takes the checksum of a quoted segment over as much of it as was quoted
    bad = "_ws.malformed || _ws.expert.severity >= 8388608"
    assert fields(path, f"({bad}) && !icmp", "frame.number", "_ws.col.Info") == []
    assert fields(path, "icmp.checksum.status == 0 || ip.checksum.status == 0", "ip.src") == []
    told = fields(path, "icmp.type == 3 && icmp.code == 4", "icmp.mtu")
    assert {mtu for (mtu,) in told} == {"600"}


def test_a_reader_that_stops(tmp_path):
    world = World(5)
    path = tmp_path / "stopped.pcapng"
    with world.capture(path):
        h1, h2 = two_hosts(world, app={"receive_buffer": 16_384}, tcp={"receive_buffer": 16_384})
        client, server = connected(world, h1, h2)
        sending = h1.send(client, bytes(100_000))
        world.advance(600 * SECOND)
        taken = 0
        while taken < 100_000:
            taken += len(world.wait(h2.recv(server, 100_000), limit=SECOND).data)
        sending.result()
    # window scaling rounds down, so that a window of 0 hides a few bytes of room (RFC 7323 2.4): a
    # probe's byte is taken, and tshark thinks that a probe never is
    unseen = ("ACKed segment that wasn't", "Previous segment(s) not captured")
    judge(path, also_expected=unseen + PROBES + REPEATS)
    assert fields(path, "tcp.analysis.zero_window", "frame.number") != []
    assert fields(path, "tcp.analysis.zero_window_probe", "frame.number") != []


def test_a_listener_that_nobody_accepts_from(tmp_path):
    world = World(6)
    path = tmp_path / "full.pcapng"
    with world.capture(path):
        h1, h2 = two_hosts(world)
        listener(h2, backlog=1)
        calls = [h1.connect(socket(h1), ("10.0.0.2", 80), timeout=20) for _ in range(6)]
        world.run(calls, limit=60 * SECOND)
        world.advance(60 * SECOND)
    judge(path, also_expected=REPEATS)
