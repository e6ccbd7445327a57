"""ARP, test by rule: RFC 826, RFC 1122 section 2.3.2, RFC 5227."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest
from link_harness import (
    NO_IP,
    NO_MAC,
    OWN_IP,
    OWN_MAC,
    PACKET,
    PEER_IP,
    PEER_MAC,
    THIRD_IP,
    THIRD_MAC,
    Bench,
    arp_in,
    frame_header,
    seconds,
)

from plywire.config import SECOND
from plywire.errors import IllegalTransition
from plywire.messages import Frame, Interface, NeighbourFailed
from plywire.roles import WIRE
from plywire.wire import arp, ethernet
from services.link import neighbours

OTHER_MAC = bytes.fromhex("020000000099")
ANNOUNCEMENT = arp.ArpPacket(arp.REQUEST, OWN_MAC, OWN_IP, NO_MAC, OWN_IP)
PROBE = ANNOUNCEMENT._replace(sender_ip=NO_IP)


@pytest.fixture
def bench():
    return Bench()


@pytest.fixture
def known():
    """A link that knows its peer, heard at time 0."""
    bench = Bench()
    bench.down()
    bench.reply()
    return bench


# --- RFC 826: resolution ---


def test_rfc826_unknown_next_hop_is_asked_for_by_broadcast(bench):
    (request,) = bench.down(trace=7)
    assert frame_header(request) == (ethernet.BROADCAST, OWN_MAC, ethernet.TYPE_ARP)
    assert arp_in(request) == (arp.REQUEST, OWN_MAC, OWN_IP, NO_MAC, PEER_IP)
    assert request.trace == 7
    assert len(request.frame) == ethernet.MIN_FRAME
    assert bench.state() == "INCOMPLETE"


def test_rfc826_reply_sends_what_waited_in_order_with_its_traces(bench):
    bench.down(packet=b"a" * 60, trace=1)
    bench.down(packet=b"b" * 60, trace=2)
    frames = bench.reply()
    assert [(frame.trace, frame.frame[14:15]) for frame in frames] == [(1, b"a"), (2, b"b")]
    assert frame_header(frames[0]).dst == PEER_MAC
    assert bench.state() == "REACHABLE"


def test_rfc826_request_for_us_is_answered_and_its_sender_learned(bench):
    (reply,) = bench.arp(arp.REQUEST, PEER_MAC, PEER_IP, OWN_IP)
    assert frame_header(reply) == (PEER_MAC, OWN_MAC, ethernet.TYPE_ARP)
    assert arp_in(reply) == (arp.REPLY, OWN_MAC, OWN_IP, PEER_MAC, PEER_IP)
    assert reply.trace == 9
    (frame,) = bench.down()
    assert frame_header(frame).type == ethernet.TYPE_IPV4


def test_rfc826_request_for_others_is_neither_answered_nor_learned_from(bench):
    assert bench.arp(arp.REQUEST, PEER_MAC, PEER_IP, THIRD_IP) == []
    assert bench.neighbour() is None


def test_rfc826_merge_updates_an_entry_whatever_the_packet_is_for(known):
    assert known.arp(arp.REQUEST, OTHER_MAC, PEER_IP, THIRD_IP) == []
    assert frame_header(known.down()[0]).dst == OTHER_MAC
    assert known.counters["arp_changed"] == 1


def test_rfc826_gratuitous_arp_updates_but_does_not_create(known):
    known.arp(arp.REQUEST, OTHER_MAC, PEER_IP, PEER_IP)
    known.arp(arp.REQUEST, THIRD_MAC, THIRD_IP, THIRD_IP)
    assert known.neighbour()["lladdr"] == OTHER_MAC.hex(":")
    assert known.neighbour("10.0.0.3") is None


def test_rfc826_overheard_packet_resolves_what_waits(bench):
    bench.down()
    (frame,) = bench.arp(arp.REQUEST, PEER_MAC, PEER_IP, PEER_IP)
    assert frame_header(frame).dst == PEER_MAC


def test_rfc826_unasked_reply_to_us_is_learned(bench):
    assert bench.reply() == []
    assert bench.state() == "REACHABLE"


@pytest.mark.parametrize(
    ("mac", "ip"),
    [
        (PEER_MAC, b"\xff" * 4),
        (PEER_MAC, bytes((10, 0, 0, 255))),
        (PEER_MAC, bytes((224, 0, 0, 5))),
        (PEER_MAC, bytes((127, 0, 0, 1))),
        (PEER_MAC, bytes((0, 0, 0, 9))),
        (NO_MAC, PEER_IP),
        (OWN_MAC, PEER_IP),
    ],
)
def test_sender_that_cannot_be_a_station_is_dropped(bench, mac, ip):
    packet = arp.encode(arp.ArpPacket(arp.REQUEST, mac, ip, NO_MAC, OWN_IP))
    assert bench.up(OWN_MAC, PEER_MAC, ethernet.TYPE_ARP, packet) == []
    assert bench.counters["drop_arp_bad_sender"] == 1
    assert bench.layer.describe("neighbours", 0) == []


def test_group_sender_and_odd_operations_are_dropped(bench):
    bench.up(
        OWN_MAC, PEER_MAC, ethernet.TYPE_ARP,
        arp.encode(arp.ArpPacket(arp.REPLY, ethernet.BROADCAST, PEER_IP, OWN_MAC, OWN_IP)),
    )  # fmt: skip
    bench.arp(9, PEER_MAC, PEER_IP, OWN_IP)
    assert bench.counters["drop_arp_group_sender"] == 1
    assert bench.counters["drop_arp_bad_operation"] == 1


# --- RFC 1122 2.3.2.1: cache validation and the flood ---


def test_rfc1122_requests_are_a_second_apart_however_many_packets_come(bench):
    sent = []
    for _ in range(300):  # three seconds of a packet each 10 ms
        out = [(bench.now, message) for message in bench.down()]
        out += bench.advance(SECOND // 100)
        sent += [when for when, message in out if type(message) is Frame]
    assert sent == [0, SECOND, 2 * SECOND]


def test_unanswered_neighbour_fails_every_packet_that_waits(bench):
    bench.down(packet=b"a" * 60, trace=1)
    bench.down(packet=b"b" * 60, trace=2)
    out = bench.advance(3 * SECOND)
    assert seconds(out) == [1, 2, 3, 3]
    assert [message for _, message in out[2:]] == [
        NeighbourFailed(1, 1, PEER_IP, b"a" * 60),
        NeighbourFailed(2, 1, PEER_IP, b"b" * 60),
    ]
    assert bench.state() == "FAILED"
    assert bench.counters["arp_failed"] == 1


def test_failed_neighbour_fails_packets_at_once_for_a_while_then_is_asked_again(bench):
    bench.down()
    bench.advance(3 * SECOND)
    assert bench.down(trace=5) == [NeighbourFailed(5, 1, PEER_IP, PACKET)]
    bench.advance(SECOND)
    assert bench.neighbour() is None
    (request,) = bench.down()
    assert arp_in(request).target_ip == PEER_IP


def test_failed_neighbour_is_heard_and_usable_again(bench):
    bench.down()
    bench.advance(3 * SECOND)
    bench.reply()
    assert bench.state() == "REACHABLE"


def test_late_reply_ends_the_asking(bench):
    bench.down()
    assert len(bench.advance(2 * SECOND)) == 2
    assert len(bench.reply()) == 1
    assert bench.advance(10 * SECOND) == []


def test_tries_are_configurable():
    bench = Bench(arp_tries=1)
    bench.down()
    assert seconds(bench.advance(5 * SECOND)) == [1]


def test_rfc1122_old_entry_is_confirmed_by_unicast_while_packets_flow(known):
    known.advance(60 * SECOND)
    assert known.state() == "STALE"
    request, frame = known.down(trace=11)
    assert frame_header(request) == (PEER_MAC, OWN_MAC, ethernet.TYPE_ARP)
    assert arp_in(request).operation == arp.REQUEST
    assert frame_header(frame) == (PEER_MAC, OWN_MAC, ethernet.TYPE_IPV4)
    assert (request.trace, known.state()) == (11, "PROBE")
    assert len(known.down()) == 1  # no second request in the same second
    known.reply()
    assert known.state() == "REACHABLE"
    assert known.advance(59 * SECOND) == []


def test_rfc1122_the_time_of_an_entry_is_configurable():
    bench = Bench(arp_lifetime=2 * SECOND)
    bench.down()
    bench.reply()
    bench.advance(2 * SECOND - 1)
    assert bench.state() == "REACHABLE"
    bench.advance(1)
    assert bench.state() == "STALE"


def test_rfc1122_old_entry_that_does_not_confirm_is_dropped(known):
    known.advance(60 * SECOND)
    known.down()
    out = known.advance(3 * SECOND)
    assert [frame_header(message).dst for _, message in out] == [PEER_MAC, PEER_MAC]
    assert known.neighbour() is None
    (request,) = known.down()
    assert frame_header(request).dst == ethernet.BROADCAST


def test_unused_entry_is_forgotten_and_then_there_is_nothing_to_do(known):
    assert known.run_out() == []
    assert known.now == 120 * SECOND
    assert known.layer.describe("neighbours", known.now) == []


# --- RFC 1122 2.3.2.2: the packet queue ---


def test_rfc1122_the_latest_packets_are_kept():
    bench = Bench(arp_queue=2)
    for name in (b"a", b"b", b"c"):
        bench.down(packet=name * 60)
    assert [frame.frame[14:15] for frame in bench.reply()] == [b"b", b"c"]
    assert bench.counters["drop_arp_queue_full"] == 1


def test_rfc1122_at_least_one_packet_is_kept():
    bench = Bench(arp_queue=0)
    bench.down()
    assert len(bench.reply()) == 1


# --- bounds ---


def address(n: int) -> bytes:
    return bytes((10, 0, 0, n))


def test_full_cache_evicts_the_one_longest_unheard():
    bench = Bench(arp_entries=2)
    for n in (2, 3, 2, 4):
        bench.reply(OTHER_MAC[:5] + bytes((n,)), address(n))
    rows = bench.layer.describe("neighbours", 0)
    assert [row["address"] for row in rows] == ["10.0.0.2", "10.0.0.4"]
    assert bench.counters["arp_evicted"] == 1
    assert len(bench.layer._timers) == 2


def test_full_cache_of_busy_entries_drops_the_packet():
    bench = Bench(arp_entries=2)
    bench.down(address(2))
    bench.down(address(3))
    assert bench.down(address(4)) == []
    assert bench.counters["drop_arp_table_full"] == 1
    bench.reply(PEER_MAC, address(2))
    assert len(bench.down(address(4))) == 1


def test_flood_of_addresses_stays_bounded():
    bench = Bench(arp_entries=16, arp_queue=4)
    rng = random.Random(3)
    for _ in range(2000):
        sender = address(rng.randrange(2, 250))
        if rng.random() < 0.5:
            bench.down(sender)
        else:
            bench.reply(OTHER_MAC, sender)
        bench.advance(rng.randrange(SECOND // 10))
    assert len(bench.layer.describe("neighbours", 0)) <= 16
    assert len(bench.layer._timers) <= 16
    bench.run_out()


# --- the table ---


def test_every_state_of_the_table_is_reached_and_left():
    states = {state for state, _ in neighbours.TABLE}
    assert states == set(neighbours.TABLE.values())
    assert states >= neighbours.USABLE | neighbours.BUSY


def test_cell_that_the_table_lacks_is_a_bug():
    bench = Bench()
    bench.reply()
    cache = bench.layer._interfaces[1].neighbours
    with pytest.raises(IllegalTransition):
        cache._move(cache.entries[PEER_IP], neighbours.GIVE_UP, 0)


# --- RFC 5227 2.3: announcing ---


def test_rfc5227_address_is_announced_twice_2_s_apart_and_usable_at_once():
    bench = Bench(quiet=False)
    (first,) = bench.take()
    assert frame_header(first).dst == ethernet.BROADCAST
    assert arp_in(first) == ANNOUNCEMENT
    (reply,) = bench.arp(arp.REQUEST, PEER_MAC, PEER_IP, OWN_IP)
    assert arp_in(reply).operation == arp.REPLY
    later = bench.advance(59 * SECOND)
    assert seconds(later) == [2]
    assert arp_in(later[0][1]) == ANNOUNCEMENT


def test_announcements_can_be_switched_off(bench):
    assert bench.take() == []
    assert bench.layer.deadline() is None


# --- RFC 5227 2.4: ongoing conflict detection and defence ---


@pytest.mark.parametrize("operation", [arp.REQUEST, arp.REPLY])
@pytest.mark.parametrize("target", [OWN_IP, PEER_IP])
def test_rfc5227_conflict_is_counted_noted_and_defended(bench, operation, target):
    (defence,) = bench.arp(operation, OTHER_MAC, OWN_IP, target)
    assert arp_in(defence) == ANNOUNCEMENT
    assert frame_header(defence).dst == ethernet.BROADCAST
    assert bench.counters["arp_conflicts"] == 1
    (row,) = bench.layer.describe("interfaces", 0)
    assert (row["conflicts"], row["rival"]) == (1, OTHER_MAC.hex(":"))
    assert any(event.subject == "address conflict" for event in bench.events)
    assert bench.neighbour("10.0.0.1") is None


def test_rfc5227_defends_once_in_10_s(bench):
    sent = []
    for _ in range(25):
        sent += [bench.now for _ in bench.arp(arp.REQUEST, OTHER_MAC, OWN_IP, OWN_IP)]
        bench.advance(SECOND)
    assert sent == [0, 10 * SECOND, 20 * SECOND]
    assert bench.counters["arp_conflicts"] == 25


def test_rfc5227_two_defenders_do_not_loop(bench):
    (interface,) = bench.host.interfaces
    twin = Bench(replace(bench.host, interfaces=(replace(interface, mac=OTHER_MAC),)))
    frames = bench.arp(arp.REQUEST, THIRD_MAC, OWN_IP, OWN_IP)
    sent = 0
    for station in (twin, bench) * 5:
        sent += len(frames)
        frames = [out for frame in frames for out in station.feed(frame, WIRE)]
    assert frames == []
    assert sent == 2  # each defended once


def test_rfc5227_a_probe_for_our_address_is_answered_and_not_learned(bench):
    (reply,) = bench.arp(arp.REQUEST, OTHER_MAC, NO_IP, OWN_IP)
    assert arp_in(reply) == (arp.REPLY, OWN_MAC, OWN_IP, OTHER_MAC, NO_IP)
    assert bench.layer.describe("neighbours", 0) == []
    assert bench.counters["arp_conflicts"] == 0


# --- RFC 5227 2.1: probing, when it is wanted ---


@pytest.fixture
def probing():
    return Bench(quiet=False, arp_probe=True)


def test_rfc5227_probes_three_times_then_announces_and_comes_up(probing):
    assert probing.hello(1) == [Interface(0, 1, "eth0", OWN_MAC, 1500, 0)]
    out = probing.advance(20 * SECOND)
    assert [arp_in(message) for _, message in out[:3]] == [PROBE] * 3
    waits = [
        later - earlier for earlier, later in zip(seconds(out), seconds(out)[1:], strict=False)
    ]
    assert 0 <= seconds(out)[0] < 1
    assert all(1 <= wait < 2 for wait in waits[:2])
    assert out[3][0] - out[2][0] == 2 * SECOND
    assert arp_in(out[3][1]) == ANNOUNCEMENT
    assert out[4][1] == Interface(0, 1, "eth0", OWN_MAC, 1500, 1)
    assert arp_in(out[5][1]) == ANNOUNCEMENT
    assert len(out) == 6
    assert arp_in(probing.down()[0]).target_ip == PEER_IP


def test_rfc5227_address_is_not_used_while_probing(probing):
    probing.advance(SECOND)
    assert probing.down() == []
    assert probing.arp(arp.REQUEST, PEER_MAC, PEER_IP, OWN_IP) == []
    assert probing.up(OWN_MAC, PEER_MAC, ethernet.TYPE_IPV4, PACKET) == []
    assert probing.counters["drop_interface_down"] == 2


@pytest.mark.parametrize(
    ("operation", "sender_ip", "target_ip"),
    [
        (arp.REPLY, OWN_IP, NO_IP),  # the owner answers
        (arp.REQUEST, OWN_IP, PEER_IP),  # the owner asks for somebody
        (arp.REQUEST, NO_IP, OWN_IP),  # another one probes for the same address
    ],
)
def test_rfc5227_conflict_while_probing_gives_the_address_up(
    probing, operation, sender_ip, target_ip
):
    probing.advance(SECOND)
    (down,) = probing.arp(operation, OTHER_MAC, sender_ip, target_ip)
    assert down == Interface(0, 1, "eth0", OWN_MAC, 1500, 0)
    assert probing.layer.describe("interfaces", 0)[0]["claim"] == "LOST"
    assert probing.advance(59 * SECOND) == []
    assert probing.arp(arp.REPLY, OTHER_MAC, OWN_IP, NO_IP) == []  # the owner goes on living
    assert probing.counters["arp_conflicts"] == 1
    again = probing.advance(20 * SECOND)
    assert arp_in(again[0][1]) == PROBE
    assert Interface(0, 1, "eth0", OWN_MAC, 1500, 1) in [message for _, message in again]


def test_probing_goes_on_in_a_successor(probing):
    probing.advance(SECOND)
    heir = probing.successor()
    assert heir.layer.describe("interfaces", 0)[0]["up"] == 0
    messages = [message for _, message in heir.advance(20 * SECOND)]
    assert Interface(0, 1, "eth0", OWN_MAC, 1500, 1) in messages
