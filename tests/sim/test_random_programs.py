"""Programs that do anything while layers are swapped and killed: once all is closed, nothing is
left and the world comes to rest."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest
from sim_programs import MS, SECOND, Program, connected, exchange, listener, two_hosts

from plywire.calls import Call
from plywire.lab.simulator import Host, World
from plywire.roles import IP, LAYERS, LINK, TCP

HOUR = 3600 * SECOND
PORTS = (80, 81)
STRANGE = ("127.0.0.1", "0.0.0.0", "10.0.0.99", "192.0.2.1", "255.255.255.255", "224.0.0.1")
OPTIONS = ("TCP_NODELAY", "TCP_CORK", "SO_KEEPALIVE", "SO_RCVBUF", "SO_SNDBUF", "TCP_MAXSEG",
           "TCP_USER_TIMEOUT", "TCP_LINGER2", "SO_REUSEADDR", "SO_LINGER")  # fmt: skip


class Anything:
    """Two hosts on a bad wire with few ports and descriptors, and random operations on them."""

    def __init__(self, seed: int) -> None:
        self.world = World(seed, strict=seed % 4 == 0)
        self.rng: random.Random = self.world.random("operations")
        self.hosts = two_hosts(
            self.world,
            app={"max_descriptors": 60},
            tcp={"backlog_max": 8, "max_connections": 20, "port_low": 40_000, "port_high": 40_007},
        )
        delay = self.rng.choice((0, 1 * MS, 30 * MS))
        loss = self.rng.choice((0.0, 0.1, 0.3))
        self.world.wire("lan", delay=delay, loss=loss, reorder=0.1, duplicate=0.1, corrupt=0.02)
        self.descriptors = {host: {listener(host, port) for port in PORTS} for host in self.hosts}
        self.operations: list[Callable[[Host, Host, int, float | None], object]] = [
            self.create, self.create, self.connect, self.connect, self.connect, self.connect_oddly,
            self.open_both_sides, self.accept, self.accept, self.send, self.send, self.recv,
            self.recv, self.shutdown, self.close, self.close, self.option, self.look, self.poll,
            self.replace, self.crash, self.wait, self.wait, self.wait,
        ]  # fmt: skip

    def run(self, count: int) -> None:
        rng = self.rng
        for _ in range(count):
            host = rng.choice(self.hosts)
            other = self.hosts[1 - self.hosts.index(host)]
            owned = sorted(self.descriptors[host])
            descriptor = rng.choice(owned) if owned and rng.random() < 0.97 else rng.randrange(100)
            rng.choice(self.operations)(host, other, descriptor, rng.choice((None, 0, 0.5, 30)))

    def end(self) -> None:
        """Close everything and wait until nothing happens any more."""
        self.world.wire("lan", loss=0.0, corrupt=0.0)
        for _ in range(2):  # twice: a pending accept makes a new one
            for host in self.hosts:
                for info in self.world.wait(host.list_sockets(), limit=HOUR):
                    host.close_socket(info.descriptor)
        assert self.world.run(limit=100 * HOUR), "the world never comes to rest"
        for host in self.hosts:
            assert host.list_sockets().result() == []
            assert host.describe("tcp", "connections") == []
            assert host.describe("tcp", "listeners") == []

    def create(self, host, other, descriptor, timeout) -> int | None:
        call = host.create_socket()
        if call.error is None:
            self.descriptors[host].add(call.value)
        return call.value

    def connect(self, host, other, descriptor, timeout) -> None:
        address = f"10.0.0.{other.name[1:]}"
        host.connect(descriptor, (address, self.rng.choice((*PORTS, 82))), timeout=timeout)

    def connect_oddly(self, host, other, descriptor, timeout) -> None:
        host.connect(descriptor, (self.rng.choice(STRANGE), 80), timeout=timeout)

    def open_both_sides(self, host, other, descriptor, timeout) -> None:
        ends = [(item, self.create(item, None, 0, None)) for item in (host, other)]
        if None in (end for _, end in ends):
            return
        for (item, end), port in zip(ends, (5000, 5001), strict=True):
            item.bind(end, ("", port))
        for (item, end), peer, port in zip(ends, (other, host), (5001, 5000), strict=True):
            item.connect(end, (f"10.0.0.{peer.name[1:]}", port), timeout=timeout)

    def accept(self, host, other, descriptor, timeout) -> None:
        def came(call: Call) -> None:
            if call.error is None:
                self.descriptors[host].add(call.value.descriptor)

        host.accept(descriptor, timeout=timeout).then(came)

    def send(self, host, other, descriptor, timeout) -> None:
        data = bytes(self.rng.choice((0, 1, 1000, 100_000)))
        host.send(descriptor, data, timeout=timeout, more=self.rng.random() < 0.2)

    def recv(self, host, other, descriptor, timeout) -> None:
        size = self.rng.choice((0, 1, 1000, 1 << 20))
        host.recv(descriptor, size, timeout=timeout, peek=self.rng.random() < 0.2)

    def shutdown(self, host, other, descriptor, timeout) -> None:
        host.shutdown(descriptor, self.rng.choice(("read", "write", "both")))

    def close(self, host, other, descriptor, timeout) -> None:
        host.close_socket(descriptor)
        self.descriptors[host].discard(descriptor)

    def option(self, host, other, descriptor, timeout) -> None:
        name = self.rng.choice(OPTIONS)
        host.set_option(descriptor, name, self.rng.choice((0, 1, 2, 10, 100, 5000, 100_000)))

    def look(self, host, other, descriptor, timeout) -> None:
        host.get_socket(descriptor)
        host.get_option(descriptor, "SO_ERROR")
        for role in LAYERS:
            host.describe(role, "counters")

    def poll(self, host, other, descriptor, timeout) -> None:
        host.poll([(descriptor, self.rng.randrange(64))], timeout=timeout)

    def replace(self, host, other, descriptor, timeout) -> None:
        host.replace(self.rng.choice(LAYERS))

    def crash(self, host, other, descriptor, timeout) -> None:
        host.crash(self.rng.choice((TCP, IP, LINK)))

    def wait(self, host, other, descriptor, timeout) -> None:
        self.world.advance(self.rng.choice((0, 1000, 1 * MS, 50 * MS, SECOND, 10 * SECOND)))


@pytest.mark.parametrize("seed", range(60))
def test_whatever_programs_do_nothing_is_left(seed):
    anything = Anything(seed)
    anything.run(400)
    anything.end()


@pytest.mark.parametrize("seed", range(60))
def test_a_transfer_survives_any_swaps_on_any_wire(seed):
    world = World(seed, strict=seed % 5 == 0, hop_delay=(0, 20_000)[seed % 2])
    rng = world.random("test")
    settings = {
        "mtu": rng.choice((576, 1500, 9000)),
        "app": {"receive_buffer": rng.choice((1000, 5000, 65_536, 1 << 20))},
        "tcp": {
            "receive_buffer": rng.choice((3000, 65_536, 1 << 20)),
            "send_buffer": rng.choice((3000, 65_536, 1 << 20)),
            "window_scaling": rng.random() < 0.5,
        },
        "link": {"arp_tries": 20},
    }
    hosts = two_hosts(world, **settings)
    client, server = connected(world, *hosts)
    world.wire(
        "lan",
        delay=rng.choice((0, 100_000, 40 * MS)),
        loss=rng.choice((0.0, 0.1)),
        reorder=rng.choice((0.0, 0.1)),
        duplicate=rng.choice((0.0, 0.1)),
        corrupt=rng.choice((0.0, 0.05)),
        rate=rng.choice((0, 10_000_000)),
        queue=rng.choice((10, 1000)),
    )
    up, down = rng.randbytes(rng.randrange(100_000)), rng.randbytes(rng.randrange(100_000))
    programs = (
        Program(hosts[0], client, up, piece=rng.choice((100, 65_536))),
        Program(hosts[1], server, down, piece=rng.choice((1000, 65_536))),
    )
    for _ in range(20):
        world.advance(rng.randrange(50 * MS))
        host, role = rng.choice(hosts), rng.choice((TCP, IP, LINK))
        if role != TCP and rng.random() < 0.3:
            host.crash(role)
        else:
            host.replace(role)
    exchange(world, *programs, limit=10 * HOUR)
    assert bytes(programs[0].received) == down
    assert bytes(programs[1].received) == up
