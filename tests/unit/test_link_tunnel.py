"""A tunnel: who is a peer, what becomes of a packet, and the UDP socket itself, on loopback."""

from __future__ import annotations

import random
import select
import socket
import tomllib
from dataclasses import replace
from pathlib import Path

import pytest

from plywire.config import HostConfig, RouteConfig, host, parse, part
from plywire.errors import ConfigError
from plywire.lab.dump import dump_lab
from plywire.messages import Datagram, Frame, NeighbourFailed
from plywire.registry import devices
from plywire.roles import IP, WIRE
from plywire.runtime.config import load_lab
from plywire.trace import Tracer
from plywire.tunnels import PeerTable, endpoint, parse_peer
from plywire.wire import ipv4
from services.link.devices import open_ports as ethernet_ports
from services.link_tunnel import create
from services.link_tunnel.devices import open_ports

A, B, C, FAR = (bytes((10, 0, 0, n)) for n in (1, 2, 3, 9))
ROOT = Path(__file__).resolve().parents[2]


def packet(dst: bytes, size: int = 100, src: bytes = A) -> bytes:
    return ipv4.encode(ipv4.Ipv4Header(src, dst, 17), bytes(size - ipv4.MIN_HEADER))


def tunnel(listen: str = "udp://127.0.0.1:7001", *peers: str, **changes) -> HostConfig:
    config = host("h1", "10.0.0.1/24")
    (interface,) = config.interfaces
    made = replace(interface, device="tunnel", listen=listen, peers=peers, **changes)
    return replace(config, interfaces=(made,))


# --- the lab file ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text", ["", "udp://", "udp://h2:7001", "tcp://127.0.0.1:1", "udp://127.0.0.1:0",
             "udp://127.0.0.1:65536", "udp://127.0.0.1", "udp://127.0.0.1:x", "udp://[::1]:7001"],
)  # fmt: skip
def test_what_is_no_endpoint(text):
    with pytest.raises(ValueError, match="is not udp://HOST:PORT"):
        endpoint(text)


def test_peers_of_the_lab_file():
    assert parse_peer("10.0.0.2=udp://127.0.0.1:7") == (0x0A000002, 32, ("127.0.0.1", 7))
    assert parse_peer("10.9.0.0/16=udp://127.0.0.1:7") == (0x0A090000, 16, ("127.0.0.1", 7))
    assert parse_peer("udp://127.0.0.1:7") == (0, 0, ("127.0.0.1", 7))
    for text, said in (
        ("10.9.0.1/16=udp://127.0.0.1:7", "host bits set"),
        ("h2=udp://127.0.0.1:7", "h2"),
        ("10.0.0.2=7", "'7' is not udp://HOST:PORT"),
    ):
        with pytest.raises(ValueError, match=said):
            parse_peer(text)


def test_the_longest_prefix_counts_and_routes_go_by_their_gateway():
    config = tunnel(
        "udp://127.0.0.1:1", "10.0.0.2=udp://127.0.0.1:2", "10.0.0.0/24=udp://127.0.0.1:3"
    )
    routes = (RouteConfig(bytes((10, 9, 0, 0)), 16, B), RouteConfig(bytes((10, 8, 0, 0)), 16, FAR))
    table = PeerTable(config.interfaces[0], routes)
    ports = [where and where[1] for where in map(table.lookup, (
        B, C, bytes((10, 9, 5, 5)), bytes((10, 8, 5, 5)), bytes((10, 7, 5, 5))))]  # fmt: skip
    assert ports == [2, 3, 2, 3, None]


def test_tunnels_of_one_wire_are_peers_and_stay_it():
    lab = load_lab(ROOT / "examples/tunnel.toml")
    assert lab.hosts["h1"].interfaces[0].peers == ("10.0.0.2=udp://127.0.0.1:7002",)
    assert lab.hosts["h2"].interfaces[0].peers == ("10.0.0.1=udp://127.0.0.1:7001",)
    alone = part(lab, ["h1"])
    assert alone.hosts["h1"] == lab.hosts["h1"]
    assert parse(tomllib.loads(dump_lab(lab))).hosts == lab.hosts


def station(address: str, listen: str, **keys: object) -> dict:
    return {"interfaces": [{"address": address, "device": "tunnel", "wire": "lan",
                            "listen": listen, **keys}]}  # fmt: skip


def test_who_listens_everywhere_is_a_peer_only_by_name():
    data = {
        "wires": {"lan": {}},
        "hosts": {
            "h1": station("10.0.0.1/24", "udp://0.0.0.0:1"),
            "h2": station("10.0.0.2/24", "udp://127.0.0.1:2", peers=["10.0.0.1=udp://127.0.0.3:1"]),
        },
    }
    hosts = parse(data).hosts
    assert hosts["h1"].interfaces[0].peers == ("10.0.0.2=udp://127.0.0.1:2",)
    assert hosts["h2"].interfaces[0].peers == ("10.0.0.1=udp://127.0.0.3:1",)


@pytest.mark.parametrize(
    ("changes", "key", "reason"),
    [
        ({"listen": ""}, ".listen", "is not udp://HOST:PORT"),
        ({"listen": "tcp://127.0.0.1:1"}, ".listen", "is not udp://HOST:PORT"),
        ({"peers": ["10.0.0.300=udp://127.0.0.1:1"]}, ".peers", "10.0.0.300"),
    ],
)
def test_what_a_lab_file_may_not_say(changes, key, reason):
    row = station("10.0.0.1/24", "udp://127.0.0.1:1")
    row["interfaces"][0].update(changes)
    with pytest.raises(ConfigError) as caught:
        parse({"wires": {"lan": {}}, "hosts": {"h1": row}})
    assert f"{key}:" in str(caught.value)
    assert reason in str(caught.value)


# --- the core -------------------------------------------------------------------------------------


def layer(*peers: str, **changes):
    return create(tunnel("udp://127.0.0.1:1", *peers, **changes), random.Random(1),
                  Tracer("h1", "link", None))  # fmt: skip


def given(core, message, source) -> list:
    core.receive(message, source, 5)
    return [output.message for output in core.outputs()]


def test_a_next_hop_without_a_peer_has_failed_at_once():
    core = layer("10.0.0.2=udp://127.0.0.1:2")
    assert given(core, Datagram(7, 1, B, 0, packet(B)), IP) == [Frame(7, 1, 5, packet(B))]
    assert given(core, Datagram(7, 1, C, 0, packet(C)), IP) == [NeighbourFailed(7, 1, C, packet(C))]
    assert core.counters["drop_no_peer"] == 1


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "not_ipv4"),
        (b"GET / HTTP/1.0\r\n\r\n....", "bad_length"),  # G is 0x47, which is version 4
        (b"\x60" + bytes(60), "not_ipv4"),
        (packet(A, 60) + b"padding", "bad_length"),
        (packet(A, 60)[:-1], "bad_length"),
        (packet(A, 1501), "packet_too_big"),
    ],
)
def test_datagrams_that_are_no_packets(data, reason):
    core = layer()
    assert given(core, Frame(1, 1, 0, data), WIRE) == []
    assert core.counters["drop_" + reason] == 1


# --- the device -----------------------------------------------------------------------------------


def free() -> str:
    """An endpoint on loopback that nobody has."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.bind(("127.0.0.1", 0))
        return f"udp://127.0.0.1:{probe.getsockname()[1]}"


@pytest.fixture
def ends():
    """Two UDP sockets of the test's own, and a third that nobody knows."""
    made = []
    for _ in range(3):
        made.append(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
        made[-1].bind(("127.0.0.1", 0))
        made[-1].settimeout(10)
    yield made
    for one in made:
        one.close()


@pytest.fixture
def port(ends):
    """A tunnel's port on a free port of loopback, with the first two as peers, and its address."""
    listen = free()
    one, two = (f"{address}=udp://127.0.0.1:{end.getsockname()[1]}"
                for address, end in zip(("10.0.0.2", "10.0.0.3"), ends, strict=False))  # fmt: skip
    (made,) = open_ports(tunnel(listen, one, two), None, "", {})
    made.where = endpoint(listen)
    yield made
    made.close()


def arrived(port, count: int) -> list:
    """The port's next frames; a datagram on loopback is there when it has been sent."""
    frames = []
    while len(frames) < count:
        assert select.select([port.pollable()], [], [], 10)[0], "no datagram came"
        frames += port.receive()
    return frames


def test_a_packet_goes_to_its_peer_and_a_group_s_to_all(port, ends):
    port.send([Frame(1, 1, 0, packet(B)), Frame(1, 1, 0, packet(bytes((10, 0, 0, 255))))])
    assert ends[0].recv(2000) == packet(B)
    assert ends[0].recv(2000) == ends[1].recv(2000) == packet(bytes((10, 0, 0, 255)))
    port.send([Frame(1, 1, 0, packet(FAR))])
    assert port.counters == {"drop_tunnel_no_peer": 1}


def test_only_peers_are_heard(port, ends):
    ends[2].sendto(packet(A), port.where)
    ends[0].sendto(packet(A), port.where)
    ends[1].sendto(b"", port.where)
    one, two = arrived(port, 2)
    assert (one.frame, one.ifindex, two.frame) == (packet(A), 1, b"")
    assert one.trace != two.trace
    assert port.counters == {"drop_tunnel_unknown_peer": 1}


def test_more_than_a_turn_is_left_for_the_next(port, ends):
    for _ in range(65):
        ends[0].sendto(packet(A), port.where)
    assert len(arrived(port, 1)) == 64
    assert len(arrived(port, 1)) == 1
    assert port.receive() == []


def test_what_the_system_does_not_take_is_counted(ends):
    peer = f"udp://127.0.0.1:{ends[0].getsockname()[1]}"
    (port,) = open_ports(tunnel(free(), peer), None, "", {})
    port.send([Frame(1, 1, 0, packet(B, 65_520))])
    port.close()
    assert port.counters == {"drop_tunnel_emsgsize": 1}


def test_a_port_that_is_taken_and_devices_of_another_link(port, ends):
    taken = tunnel(f"udp://127.0.0.1:{port.where[1]}")
    with pytest.raises(ConfigError, match=r"cannot listen at udp://127.0.0.1:.*in use"):
        open_ports(taken, None, "", {})
    with pytest.raises(ConfigError, match="a UDP datagram holds 65507"):
        open_ports(tunnel("udp://127.0.0.1:1", mtu=65_535), None, "", {})
    with pytest.raises(ConfigError, match="device = \"tunnel\", not 'wire'"):
        open_ports(host("h1", "10.0.0.1/24"), None, "", {})
    with pytest.raises(ConfigError, match=r"implementations = .*services\.link_tunnel:create"):
        ethernet_ports(taken, None, "", {})


def test_an_implementation_brings_its_devices():
    assert devices("services.link_tunnel:create") is open_ports
    assert devices("services.link:create") is ethernet_ports
    assert devices("services.link.raw:create") is None
    assert devices("services.tcp:create") is None
