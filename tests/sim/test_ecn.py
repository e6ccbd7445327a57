"""ECN through the whole stack: hosts that ask for it, a wire that marks, and what is seen of it."""

from __future__ import annotations

import pytest
from sim_programs import MS, Program, exchange, listener, socket, two_hosts

from plywire.lab.simulator import Host, World
from plywire.wire import ethernet, ipv4

DATA = bytes(range(256)) * 8192  # 2 MiB


def transfer(ecn: str = "on", **impairments: object) -> tuple[World, Host, Host]:
    """h1 sends DATA to h2 over a wire of 10 ms with these impairments."""
    world = World(4)
    h1, h2 = two_hosts(world, tcp={"ecn": ecn})
    world.wire("lan").impair(delay=10 * MS, **impairments)
    accepted = h2.accept(listener(h2))
    client = socket(h1)
    world.wait(h1.connect(client, ("10.0.0.2", 80)))
    server = world.wait(accepted).descriptor
    sender, receiver = Program(h1, client, DATA), Program(h2, server, b"")
    exchange(world, sender, receiver)
    assert bytes(receiver.received) == DATA
    return world, h1, h2


def test_marks_reduce_the_window_and_nothing_is_sent_again():
    world, h1, h2 = transfer(ecn_mark=0.01)
    marked = world.wire("lan").counts("h1")["ecn_marked"]
    assert marked >= 5
    assert h2.counter("ip", "ip_in_ce_pkts") == marked
    assert 0 < h1.counter("tcp", "tcp_ecn_reductions") <= marked
    assert h1.counter("tcp", "tcp_retrans_segs") == 0
    clean, *_ = transfer()
    assert world.now > clean.now, "a smaller window takes longer"


def test_a_full_queue_marks_before_it_drops():
    """ECN is for this: the sender slows down, and not a packet is lost."""
    rate = {"rate": 50_000_000, "queue": 150}
    world, h1, _ = transfer(ecn_queue=30, **rate)
    counts = world.wire("lan").counts("h1")
    assert counts["ecn_marked"] > 0
    assert counts["queue_full"] == 0
    assert h1.counter("tcp", "tcp_retrans_segs") == 0
    world, h1, _ = transfer(ecn="off", ecn_queue=30, **rate)
    assert world.wire("lan").counts("h1")["ecn_marked"] == 0
    assert world.wire("lan").counts("h1")["queue_full"] > 0


@pytest.mark.parametrize("ecn", ["off", "passive"])
def test_hosts_that_do_not_ask_send_nothing_to_mark(ecn):
    world, _, h2 = transfer(ecn=ecn, ecn_mark=1.0)
    assert world.wire("lan").counts()["ecn_marked"] == 0
    assert h2.counter("ip", "ip_in_ect0_pkts") == 0


def test_only_new_data_is_ect_while_packets_are_lost():
    world, h1, _ = transfer(loss=0.02)
    assert h1.counter("tcp", "tcp_retrans_segs") > 0
    seen: set[tuple[str, int]] = set()
    for item in world.wire("lan").take():
        header, body = ethernet.decode(item.frame)
        if header.type == ethernet.TYPE_IPV4:
            ip, segment = ipv4.decode(body)
            repeat = (item.host, int.from_bytes(segment[4:8], "big"))
            length = len(segment) - (segment[12] >> 4) * 4
            assert ip.tos == (2 if length and repeat not in seen else 0), (repeat, length)
            if length:
                seen.add(repeat)
    assert len(seen) > 1000
