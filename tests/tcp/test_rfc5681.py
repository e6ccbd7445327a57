"""RFC 5681 congestion control, with RFC 6928's initial window and RFC 3042's limited transmit."""

from __future__ import annotations

from random import Random

import pytest

from plywire.seq import add
from services.tcp.congestion import initial_window
from services.tcp.congestion.newreno import NewReno

from .harness import ACK, MS, SECOND, SYN, Peer

MSS = 1460


def sending(segments: int = 60, **options: object) -> Peer:
    """A peer for which much data waits; its window does not limit."""
    peer = Peer(congestion="newreno", scale=7, window=65_000, **options)
    peer.write(b"x" * MSS * segments)
    return peer


@pytest.mark.parametrize(
    ("mss", "expected"), [(1460, 14_600), (536, 5360), (9000, 18_000), (65_495, 130_990)]
)
def test_initial_window(mss: int, expected: int) -> None:
    """RFC 6928: min(10*MSS, max(2*MSS, 14600))."""
    assert initial_window(10, mss) == expected


def test_initial_window_is_sent_at_once() -> None:
    assert len(sending().take()) == 10


def test_initial_window_of_a_server() -> None:
    assert len(sending(passive=True).take()) == 10


@pytest.mark.parametrize(("lost", "segments"), [(1, 10), (2, 1)])
def test_initial_window_after_lost_syns(lost: int, segments: int) -> None:
    peer = Peer(congestion="newreno", establish=False)
    peer.advance((2**lost - 1) * SECOND)
    peer.take()
    peer.send(SYN | ACK, options=peer.syn_options)
    peer.take()
    peer.write(b"x" * 30_000)
    assert len(peer.take()) == segments


def test_slow_start_grows_by_a_segment_an_ack() -> None:
    peer = sending()
    peer.take()
    for count in range(1, 6):
        peer.ack(MSS)
        assert peer.tcb.cc.cwnd == (10 + count) * MSS
        assert len(peer.take()) == 2


def test_slow_start_counts_at_most_one_mss_an_ack() -> None:
    """Equation 2: cwnd += min(N, SMSS), so that splitting ACKs gains nothing."""
    peer = sending()
    peer.take()
    peer.ack(5 * MSS)
    assert peer.tcb.cc.cwnd == 11 * MSS
    peer.ack(100)
    assert peer.tcb.cc.cwnd == 11 * MSS + 100


def test_congestion_avoidance_grows_by_a_segment_a_window() -> None:
    peer = sending()
    peer.take()
    peer.tcb.cc.ssthresh = peer.tcb.cc.cwnd
    for _ in range(9):
        peer.ack(MSS)
        assert peer.tcb.cc.cwnd == 10 * MSS
    peer.ack(MSS)
    assert peer.tcb.cc.cwnd == 11 * MSS


def test_an_unused_window_does_not_grow() -> None:
    peer = Peer(congestion="newreno")
    for offset in range(20):
        peer.write(b"x", offset)
        peer.take()
        peer.ack(1)
    assert peer.tcb.cc.cwnd == 10 * MSS


def test_timeout_falls_to_one_segment() -> None:
    peer = sending()
    peer.take()
    peer.advance(peer.tcb.rtt.rto)
    assert (peer.tcb.cc.cwnd, peer.tcb.cc.ssthresh) == (MSS, 5 * MSS)


def test_a_second_timeout_of_the_same_segment_leaves_ssthresh() -> None:
    peer = sending()
    peer.take()
    peer.advance(4 * peer.tcb.rtt.rto)
    assert peer.tcb.retries == 2
    assert (peer.tcb.cc.cwnd, peer.tcb.cc.ssthresh) == (MSS, 5 * MSS)


def test_ssthresh_is_two_segments_at_least() -> None:
    peer = Peer(congestion="newreno")
    peer.write(b"x")
    peer.take()
    peer.advance(peer.tcb.rtt.rto)
    assert peer.tcb.cc.ssthresh == 2 * MSS


def test_third_duplicate_retransmits() -> None:
    peer = sending(segments=10)
    first = peer.take()[0]
    peer.send(ACK)
    peer.send(ACK)
    assert peer.take() == []  # nothing new to send for limited transmit
    peer.send(ACK)
    again = peer.only()
    assert (again.seq, again.data) == (first.seq, first.data)
    assert peer.raw.counters["tcp_fast_retrans"] == 1


def test_limited_transmit() -> None:
    """RFC 3042: new data on the first two duplicates, and cwnd stays."""
    peer = sending()
    last = peer.take()[-1]
    peer.send(ACK)
    assert peer.only().seq == add(last.seq, MSS)
    peer.send(ACK)
    assert peer.only().seq == add(last.seq, 2 * MSS)
    assert peer.tcb.cc.cwnd == 10 * MSS


def test_limited_transmit_does_not_count_in_ssthresh() -> None:
    peer = sending()
    for _ in range(3):
        peer.send(ACK)
    assert peer.tcb.cc.ssthresh == 5 * MSS
    assert peer.tcb.cc.cwnd == 5 * MSS + 3 * MSS


@pytest.mark.parametrize(
    "change",
    [{"data": b"x"}, {"window": 64_000}, {"flags": ACK | 1}],
    ids=["data", "window", "fin"],
)
def test_what_is_not_a_duplicate(change: dict) -> None:
    """Section 2: no data, no FIN, the same window."""
    peer = sending()
    flags = change.pop("flags", ACK)
    peer.send(flags, **change)
    assert peer.tcb.dup_acks == 0


def test_nothing_in_flight_is_no_duplicate() -> None:
    peer = Peer(congestion="newreno")
    for _ in range(5):
        peer.send(ACK)
    assert peer.tcb.dup_acks == 0


def test_new_data_ends_the_count() -> None:
    peer = sending()
    peer.send(ACK)
    peer.send(ACK)
    peer.ack(MSS)
    peer.send(ACK)
    assert peer.tcb.dup_acks == 1
    assert not peer.tcb.in_recovery


def test_restart_after_idle() -> None:
    """4.1: min(IW, cwnd) after more than an RTO without sending."""
    peer = sending(segments=30)
    for _ in range(30):
        peer.ack(MSS)
    assert peer.tcb.cc.cwnd > 20 * MSS
    peer.take()
    peer.advance(10 * SECOND)
    peer.write(b"y" * 60 * MSS, 30 * MSS)
    assert len(peer.take()) == 10


def test_no_restart_within_an_rto() -> None:
    peer = sending(segments=30)
    for _ in range(30):
        peer.ack(MSS)
    window = peer.tcb.cc.cwnd
    peer.take()
    peer.advance(50 * MS)
    peer.write(b"y" * 60 * MSS, 30 * MSS)
    assert len(peer.take()) == window // MSS


def test_state_survives() -> None:
    cc = NewReno(14_600)
    cc.on_loss(20_000, 1460, 0)
    cc.on_ack(500, 1460, 1, 1)
    other = NewReno(1)
    other.restore(cc.to_state())
    assert other.to_state() == cc.to_state()


# --- 4.2: what the receiver does after a loss -----------------------------------------------------


def receiving() -> Peer:
    """A connection that acknowledges with delay again, its first quick acknowledgements used up."""
    peer = Peer(sack=True, rtt=100 * MS)
    for _ in range(20):
        peer.data(b"x" * 1460)
    peer.advance(100 * MS)
    peer.take()
    peer.data(b"x" * 1460)
    assert peer.take() == []
    peer.advance(100 * MS)
    peer.take()
    return peer


def acknowledged_at_once(peer: Peer) -> int:
    """How many single segments in order are answered at once, of 20."""
    found = 0
    for _ in range(20):
        peer.data(b"x" * 1460)
        found += len(peer.take()) > 0
        peer.advance(100 * MS)
        peer.take()
    return found


def test_without_loss_a_single_segment_is_acknowledged_with_delay() -> None:
    assert acknowledged_at_once(receiving()) == 0


def test_after_a_hole_each_segment_is_acknowledged_at_once() -> None:
    """The sender's window is small now, and every second acknowledgement less may be too few."""
    peer = receiving()
    peer.send(ACK, b"y" * 1460, seq=add(peer.snd, 1460))
    peer.data(b"x" * 1460)
    peer.snd = add(peer.snd, 1460)
    peer.take()
    assert acknowledged_at_once(peer) == 16


def test_after_a_repeat_each_segment_is_acknowledged_at_once() -> None:
    """An acknowledgement was lost."""
    peer = receiving()
    peer.send(ACK, b"x" * 1460, seq=add(peer.snd, -1460))
    peer.take()
    assert acknowledged_at_once(peer) == 16


def test_after_a_long_silence_each_segment_is_acknowledged_at_once() -> None:
    """Linux: longer than a timeout; the sender has had one, or begins anew."""
    peer = receiving()
    peer.advance(2 * peer.tcb.rtt.rto)
    assert acknowledged_at_once(peer) == 16


@pytest.mark.parametrize("seed", range(5))
def test_no_segment_is_answered_by_more_than_one_acknowledgement(seed: int) -> None:
    """4.2: MUST NOT, whatever comes: in order, early, again, or outside the window."""
    rng = Random(seed)
    peer = Peer(sack=seed % 2 > 0, quick_acks=seed)
    for _ in range(300):
        offset = rng.choice((0, 0, 0, 1460, 2920, -1460, -700, 1 << 20))
        data = b"x" * rng.choice((0, 1, 700, 1460))
        peer.send(ACK, data, seq=add(peer.snd, offset))
        peer.snd = peer.tcb.rcv_nxt
        assert len(peer.take()) <= 1


def test_the_bsd_personality_delays_all_the_same() -> None:
    peer = Peer(sack=True, rtt=100 * MS, quick_acks=0)
    peer.data(b"x" * 1460)
    peer.send(ACK, b"x" * 1460, seq=add(peer.snd, -1460))
    peer.take()
    assert acknowledged_at_once(peer) == 0
