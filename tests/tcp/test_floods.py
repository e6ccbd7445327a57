"""What a peer, or somebody in between, can cost: memory and work stay within the bounds that
`docs/layers/tcp.md` states, whatever comes and however long.

Each flood is sent until the stack has taken all that it will take, and then on: no more memory is
held at the end, a segment costs what it cost before, and none brings more than one answer. Work is
counted in lines of Python, which is the same on every machine.
"""

from __future__ import annotations

import gc
import tracemalloc
from collections.abc import Callable
from typing import NamedTuple

import pytest

from plywire.messages import Opened
from plywire.seq import add
from plywire.trace import Tracer
from plywire.wire.tcp import Options
from services.tcp.islands import MAX_ISLANDS
from services.tcp.scoreboard import MAX_SEGMENTS

from .harness import ACK, FIN, MS, RST, SECOND, SYN, URG, Peer, Raw
from .work import lines

WINDOW = 64_240


def quiet(peer: Peer) -> Peer:
    """Nobody watches: what the tracer keeps is not the stack's."""
    peer.raw.layer.stack.tracer = Tracer()
    return peer


def established(**extra: object) -> Peer:
    return quiet(Peer(timestamps=None, sack=True, **extra))


def listening(**tcp: object) -> Peer:
    return quiet(Peer(Raw(**tcp), passive=True, sack=True))


# --- floods: each sends its segment number i ------------------------------------------------------


def syns(peer: Peer, i: int) -> None:
    peer.raw.segment(SYN, i, src_port=1 + i % 60_000, dst_port=80, src=bytes((10, 1, i >> 8, 1)),
                     options=Options(1460, 7, True, (), (i, 0)))  # fmt: skip


def syns_with_text(peer: Peer, i: int) -> None:
    peer.raw.segment(SYN, i, 0, bytes(1400), src_port=1 + i, dst_port=80)


def acks_that_guess_a_cookie(peer: Peer, i: int) -> None:
    peer.raw.segment(ACK, i, i * 7919, src_port=1 + i, dst_port=80)


def handshakes_that_are_reset(peer: Peer, i: int) -> None:
    peer.raw.segment(SYN, 10 * i, src_port=1 + i, dst_port=80)
    (answer,) = peer.raw.take()
    peer.raw.segment(ACK, 10 * i + 1, add(answer.seq, 1), src_port=1 + i, dst_port=80)
    peer.raw.segment(RST, 10 * i + 1, src_port=1 + i, dst_port=80)


def for_nobody(peer: Peer, i: int) -> None:
    peer.raw.segment((ACK, SYN, RST | ACK, FIN, 0)[i % 5], i, i, src_port=i, dst_port=9)


def resets_in_the_window(peer: Peer, i: int) -> None:
    peer.send(RST, seq=add(peer.snd, 1 + i % WINDOW))


def resets_outside(peer: Peer, i: int) -> None:
    peer.send(RST, seq=add(peer.snd, -1 - i))


def syns_in_the_window(peer: Peer, i: int) -> None:
    peer.send(SYN, seq=add(peer.snd, i % WINDOW))


def acks_of_the_future(peer: Peer, i: int) -> None:
    peer.send(ACK, ack=add(peer.rcv, 1 + i))


def acks_again(peer: Peer, i: int) -> None:
    peer.send(ACK)


def data_beyond_the_window(peer: Peer, i: int) -> None:
    peer.send(ACK, bytes(1460), seq=add(peer.snd, (1 << 20) + 1460 * i))


def data_that_was_there(peer: Peer, i: int) -> None:
    peer.send(ACK, bytes(100), seq=add(peer.iss, 1))


def tiny_islands(peer: Peer, i: int) -> None:
    peer.send(ACK, b"x", seq=add(peer.snd, 2 + 2 * (i * 7919 % 30_000)))


def islands_backwards(peer: Peer, i: int) -> None:
    peer.send(ACK, b"xy", seq=add(peer.snd, WINDOW - 2 - 2 * (i % 30_000)))


def tiny_segments(peer: Peer, i: int) -> None:
    peer.data(b"x")


def urgent(peer: Peer, i: int) -> None:
    peer.send(ACK | URG, seq=add(peer.snd, 1 + i % 1000), urgent=i % 65_536)


def blocks_of_nothing(peer: Peer, i: int) -> None:
    peer.sack((i, i + 10), (2 * i, 3 * i), (-5, -1), (7, 7))


def window_of_zero_again(peer: Peer, i: int) -> None:
    peer.send(ACK, window=0)


class Flood(NamedTuple):
    """send: one segment, the i-th; peak: so many segments until all that is kept is kept; counter:
    what counts it; bytes, work: at most so much more memory, and lines a segment."""

    send: Callable[[Peer, int], None]
    counter: str
    start: Callable[[], Peer] = established
    peak: int = 300
    work: int = 420


def waiting_for_a_window() -> Peer:
    peer = established(window=0)
    peer.write(bytes(1000))
    return peer


FLOODS = [
    Flood(syns, "tcp_syncookies_sent", listening, work=900),
    Flood(syns, "tcp_req_q_full_drop", lambda: listening(syn_cookies=False)),
    Flood(syns_with_text, "tcp_syncookies_sent", listening, work=900),
    Flood(acks_that_guess_a_cookie, "tcp_out_rsts", listening),
    Flood(handshakes_that_are_reset, "tcp_passive_opens",
          lambda: quiet(Peer(passive=True, options={"SO_KEEPALIVE": 1})), work=2500),
    Flood(for_nobody, "tcp_out_rsts"),
    Flood(resets_in_the_window, "tcp_challenge_ack_limited"),
    Flood(resets_outside, "drop_rst_outside_window"),
    Flood(syns_in_the_window, "tcp_challenge_ack_limited"),
    Flood(acks_of_the_future, "tcp_challenge_ack_limited"),
    Flood(acks_again, "tcp_in_segs"),
    Flood(data_beyond_the_window, "tcp_out_of_window"),
    Flood(data_that_was_there, "tcp_out_of_window"),
    Flood(tiny_islands, "drop_too_many_islands", peak=1000),
    Flood(islands_backwards, "tcp_ofo_queue", peak=2000),
    Flood(tiny_segments, "tcp_in_segs"),
    Flood(urgent, "tcp_urgent"),
    Flood(blocks_of_nothing, "tcp_in_segs", waiting_for_a_window),
    Flood(window_of_zero_again, "tcp_in_segs", waiting_for_a_window),
]  # fmt: skip


@pytest.mark.parametrize("flood", FLOODS, ids=lambda flood: flood.send.__name__)
def test_a_flood_costs_no_more_the_longer_it_lasts(flood: Flood) -> None:
    peer = flood.start()
    raw = peer.raw
    stack = raw.layer.stack

    def send(first: int, count: int) -> int:
        """How many answers came."""
        answers = 0
        for i in range(first, first + count):
            flood.send(peer, i)
            answers += len(raw.segments)
            raw.segments.clear()
            raw.messages.clear()
        return answers

    send(1, flood.peak)
    tracemalloc.start()
    before = len(stack.by_id), len(stack.timers)
    gc.collect()
    held = tracemalloc.get_traced_memory()[0]
    early = lines(lambda: send(1 + flood.peak, 100))
    counted = raw.counters[flood.counter]
    answers = send(101 + flood.peak, 2000)
    assert raw.counters[flood.counter] >= counted + 400
    assert answers <= 2000
    late = lines(lambda: send(2101 + flood.peak, 100))
    gc.collect()
    grown = tracemalloc.get_traced_memory()[0] - held
    tracemalloc.stop()
    assert (len(stack.by_id), len(stack.timers)) == before
    assert grown < 40_000
    assert late < 1.1 * early + 500
    assert late < 100 * flood.work
    if peer.state != "CLOSED" and len(stack.by_id) == 1:
        assert peer.state == "ESTABLISHED"


# --- bounds that one number states ----------------------------------------------------------------


def small_segments(**tcp: object) -> Peer:
    """1 MiB to send to a peer with an MSS of 48, which takes 36 bytes a segment; cwnd is no limit,
    as after some round trips of its ACKs."""
    peer = quiet(Peer(mss=48, sack=True, scale=14, timestamps=1, initial_window=40_000, **tcp))
    peer.write(bytes(1 << 20))
    peer.take()
    return peer


def test_a_tiny_mss_makes_no_long_scoreboard() -> None:
    peer = small_segments()
    assert len(peer.tcb.board.segs) == MAX_SEGMENTS
    for _ in range(20):
        peer.ack(36 * 400)
        assert len(peer.tcb.board.segs) == MAX_SEGMENTS
        peer.take()
    peer.rcv = peer.tcb.snd_nxt
    peer.send(ACK)
    assert peer.take()  # and it goes on


def test_the_memory_of_the_longest_scoreboard() -> None:
    tracemalloc.start()
    peer = small_segments()
    held = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    assert len(peer.tcb.board.segs) == MAX_SEGMENTS
    assert held < (1 << 20) + 600 * MAX_SEGMENTS


def test_blocks_cost_a_walk_over_what_is_in_flight_at_most() -> None:
    """CVE-2019-11478: each ACK reports all but every second segment, one more each time."""
    peer = small_segments()
    peer.advance(10 * MS)
    size, count = 36, MAX_SEGMENTS
    spent = []
    for i in range(1, 400, 2):
        last = (size * (count - 1 - i), size * (count - i))
        spent.append(lines(lambda last=last: peer.sack(last, (size, size * 2), (3 * size, 500))))
        peer.take()
    assert max(spent) < 25 * MAX_SEGMENTS
    assert sum(spent) / len(spent) < 10 * MAX_SEGMENTS


def test_blocks_that_come_again_are_not_walked_again() -> None:
    peer = small_segments()
    peer.advance(10 * MS)
    size, half = 36, MAX_SEGMENTS // 2
    blocks = (size, size * (half - 1)), (size * half, size * (MAX_SEGMENTS - 1))
    peer.sack(*blocks)
    peer.advance(SECOND)  # losses are found and repaired
    found = peer.tcb.board
    before = (found.sacked, found.runs)
    assert len(found.runs) == 2
    una, edges = found.una, [(found.una + left, found.una + right) for left, right in blocks]
    for block in edges:
        assert lines(lambda block=block: found.update(una, [block], peer.raw.now)) < 100
    assert (found.sacked, found.runs) == before


def test_a_comb_of_holes_is_repaired_without_walking_over_it_again() -> None:
    peer = small_segments()
    peer.advance(10 * MS)
    board = peer.tcb.board
    edge = board.una
    board.update(edge, [(edge + 36 * i, edge + 36 * (i + 1)) for i in range(1, MAX_SEGMENTS, 2)],
                 peer.raw.now)  # fmt: skip
    assert len(board.runs) == MAX_SEGMENTS // 2
    board.mark_all_lost()
    peer.tcb.cc.cwnd = 1
    costs = []
    while board.to_send:
        peer.tcb.cc.cwnd = board.pipe + 36
        costs.append(lines(lambda: peer.raw.option("TCP_NODELAY", 1)))
        assert 1 <= len(peer.take()) <= 2  # the last one makes room for new data
    assert 0 <= len(costs) - MAX_SEGMENTS // 2 <= 1
    assert max(costs) < 300


def test_islands_cost_their_bytes_and_a_little() -> None:
    """Two-byte segments, from the end of a kilobyte to its start."""
    peer = established()
    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    for start in range(1024, WINDOW - 1024, 4096):
        for at in range(start + 1000, start, -2):
            peer.send(ACK, b"xy", seq=add(peer.snd, at))
        peer.raw.segments.clear()
    gc.collect()
    held = tracemalloc.get_traced_memory()[0] - before
    tracemalloc.stop()
    assert len(peer.tcb.islands) == 16
    assert held < 16 * (1002 + 1000) + 8000


def test_the_queue_of_handshakes_costs_what_its_text_costs_and_a_little() -> None:
    peer = quiet(Peer(passive=True, sack=True))
    tracemalloc.start()
    for i in range(400):
        syns_with_text(peer, i)
        peer.raw.segments.clear()
    held = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    assert len(peer.raw.layer.stack.by_id) == 257
    assert held < 256 * (1400 + 8_000)


def closing(peer: Peer, port: int) -> None:
    """A connection that comes in, is closed here first, and then by the peer: TIME-WAIT."""
    raw = peer.raw
    raw.segment(SYN, 100, src_port=port, dst_port=80)
    iss = raw.only().seq
    raw.segment(ACK, 101, add(iss, 1), src_port=port, dst_port=80)
    (opened,) = raw.told(Opened)
    raw.accept(opened.handle)
    raw.close(0, opened.handle)
    raw.segment(FIN | ACK, 101, add(iss, 2), src_port=port, dst_port=80)
    raw.take()
    raw.told()


def test_time_wait_makes_room_for_the_living() -> None:
    peer = listening(max_connections=20)
    stack = peer.raw.layer.stack
    for port in range(1000, 1200):
        closing(peer, port)
        assert len(stack.by_id) <= 20
    assert peer.raw.counters["tcp_time_wait_overflow"] == 200 - 19
    assert [tcb.remote_port for tcb in stack.time_wait.values()] == list(range(1181, 1200))
    peer.raw.connect(4, 9)  # this host's own connects find room as well
    assert peer.raw.only().flags == SYN
    peer.raw.advance(61 * SECOND)
    assert stack.time_wait == {}


def test_only_time_wait_makes_room() -> None:
    peer = listening(max_connections=4)
    for port in range(1000, 1010):
        peer.raw.segment(SYN, 100, src_port=port, dst_port=80)
    assert peer.raw.states() == ["ESTABLISHED", *["SYN-RECEIVED"] * 3]
    assert peer.raw.counters["drop_too_many_connections"] == 7


def orphan(peer: Peer, port: int) -> None:
    """A connection whose program has written and closed, and whose peer never opens its window."""
    raw = peer.raw
    raw.segment(SYN, 100, src_port=port, dst_port=80)
    iss = raw.only().seq
    raw.segment(ACK, 101, add(iss, 1), src_port=port, dst_port=80, window=0)
    (opened,) = raw.told(Opened)
    raw.accept(opened.handle)
    raw.write(bytes(5000), 0, opened.handle)
    raw.close(5000, opened.handle)
    raw.take()


def test_of_too_many_orphans_the_oldest_is_reset() -> None:
    peer = listening(max_orphans=5)
    stack = peer.raw.layer.stack
    for port in range(1000, 1005):
        orphan(peer, port)
    for port in range(1005, 1020):
        raw = peer.raw
        raw.segment(SYN, 100, src_port=port, dst_port=80)
        iss = raw.only().seq
        raw.segment(ACK, 101, add(iss, 1), src_port=port, dst_port=80, window=0)
        (opened,) = raw.told(Opened)
        raw.accept(opened.handle)
        raw.write(bytes(10), 0, opened.handle)
        raw.close(10, opened.handle)
        reset = raw.only()
        assert reset.flags == RST | ACK
        assert [tcb.remote_port for tcb in stack.orphans.values()] == list(
            range(port - 4, port + 1)
        )
    assert len(stack.by_id) == 6
    assert peer.raw.counters["tcp_abort_on_memory"] == 15


def test_orphans_and_time_wait_after_a_swap() -> None:
    peer = listening(max_orphans=5, max_connections=20)
    orphan(peer, 1000)
    closing(peer, 1001)
    other = Raw(max_orphans=5, max_connections=20)
    other.layer.restore(peer.raw.layer.snapshot(), peer.raw.now)
    stack = other.layer.stack
    assert [tcb.remote_port for tcb in stack.orphans.values()] == [1000]
    assert [tcb.remote_port for tcb in stack.time_wait.values()] == [1001]


def test_an_orphan_that_ends_in_order_is_none_any_more() -> None:
    peer = listening()
    stack = peer.raw.layer.stack
    closing(peer, 1001)
    assert (len(stack.orphans), len(stack.time_wait)) == (0, 1)


def test_a_window_that_stays_closed_for_days_costs_a_probe_a_minute() -> None:
    """MUST-37: while it answers, the connection stays; RFC 6429 leaves the rest to the program."""
    peer = established(window=0)
    peer.write(bytes(10_000))
    stack = peer.raw.layer.stack
    probes = 0
    for _ in range(24 * 60):
        peer.advance(60 * SECOND)
        for _ in peer.take():
            probes += 1
            peer.send(ACK, window=0)
        peer.raw.messages.clear()
    assert peer.state == "ESTABLISHED"
    assert 1340 <= probes <= 1400  # a day, at the longest timeout of 64 s
    assert len(stack.timers) == 1
    assert len(peer.tcb.snd_buf) == 10_000


def test_challenges_of_one_connection_tell_nothing_of_another() -> None:
    """CVE-2016-5696: with a limit for the whole host, an attacker could count with a connection of
    his own how many challenges somebody else's has had."""
    victim = Peer(passive=True)
    raw = victim.raw
    raw.segment(SYN, 100, src_port=666, dst_port=80)
    iss = raw.only().seq
    raw.segment(ACK, 101, add(iss, 1), src_port=666, dst_port=80)
    for i in range(500):
        victim.send(RST, seq=add(victim.snd, 5 + i))
    assert len(raw.take()) == 10
    for _ in range(10):
        raw.segment(SYN, 105, src_port=666, dst_port=80)
        assert raw.only().flags == ACK


def test_no_more_islands_than_the_bound_on_the_wire() -> None:
    peer = established()
    for i in range(2 * MAX_ISLANDS):
        peer.send(ACK, b"x", seq=add(peer.snd, 2 + 2 * i))
    assert len(peer.tcb.islands) == MAX_ISLANDS
    assert peer.raw.counters["drop_too_many_islands"] == MAX_ISLANDS
