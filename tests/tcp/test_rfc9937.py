"""RFC 9937: proportional rate reduction."""

from __future__ import annotations

from plywire.seq import add

from .harness import MS, Peer

SEGMENT = 1460


def recovering(lost: int = 1, window: int = 20) -> Peer:
    """Twenty segments in flight, the first `lost` of them missing; more is waiting."""
    peer = Peer(sack=True, congestion="newreno", rtt=100 * MS, initial_window=window)
    peer.tcb.cc.cwnd = window * SEGMENT
    peer.write(b"x" * SEGMENT * 100)
    assert len(peer.take()) == window
    peer.advance(100 * MS)
    peer.sack((lost * SEGMENT, (lost + 3) * SEGMENT))
    return peer


def test_the_first_retransmission_is_never_held() -> None:
    peer = recovering()
    assert peer.take()[0].seq == peer.rcv


def test_about_one_segment_goes_out_for_two_that_arrive() -> None:
    """Reno halves the window: evenly, over the round trip, not in one silence."""
    peer = recovering()
    peer.take()
    sent = []
    for count in range(5, 21):
        peer.sack((SEGMENT, count * SEGMENT))
        sent.append(len(peer.take()))
    assert 6 <= sum(sent) <= 10
    assert max(sent) == 1
    assert not any(one == two == three == 0
                   for one, two, three in zip(sent, sent[1:], sent[2:], strict=False))  # fmt: skip


def test_after_heavy_loss_it_sends_no_more_than_arrives_and_one() -> None:
    """Below ssthresh: the reduction bound by SafeACK."""
    peer = recovering(lost=15)
    first = len(peer.take())
    assert first <= 4
    peer.advance(10 * MS)
    peer.sack((15 * SEGMENT, 20 * SEGMENT))
    assert len(peer.take()) <= 3


def test_the_window_is_ssthresh_when_recovery_ends() -> None:
    peer = recovering()
    peer.take()
    peer.sack((SEGMENT, 20 * SEGMENT))
    peer.ack(20 * SEGMENT)
    assert peer.tcb.cc.cwnd == peer.tcb.cc.ssthresh == 10 * SEGMENT


def test_what_the_last_acknowledgement_tells_first_counts_as_in_congestion_avoidance() -> None:
    peer = recovering()
    peer.take()
    peer.ack(20 * SEGMENT)  # seventeen segments of them were not reported before
    assert peer.tcb.cc.cwnd == peer.tcb.cc.ssthresh + SEGMENT


def test_the_window_is_reduced_from_what_was_in_flight_before_the_news() -> None:
    """One acknowledgement takes ten segments away and shows the hole behind them."""
    peer = Peer(sack=True, congestion="newreno", rtt=100 * MS, initial_window=20)
    peer.tcb.cc.cwnd = 20 * SEGMENT
    peer.write(b"x" * SEGMENT * 100)
    assert len(peer.take()) == 20
    peer.advance(100 * MS)
    peer.rcv = add(peer.rcv, 10 * SEGMENT)
    peer.sack((SEGMENT, 6 * SEGMENT))
    assert peer.tcb.in_recovery
    assert peer.tcb.cc.ssthresh == 10 * SEGMENT


def test_limited_transmit_is_not_counted_in_what_is_reduced() -> None:
    """RFC 6675 section 5, step 4.2."""
    peer = Peer(sack=True, congestion="newreno", rtt=100 * MS, initial_window=20)
    peer.tcb.cc.cwnd = 20 * SEGMENT
    peer.write(b"x" * SEGMENT * 100)
    peer.take()
    peer.advance(90 * MS)
    peer.sack((SEGMENT, 2 * SEGMENT))
    peer.sack((SEGMENT, 3 * SEGMENT))
    assert len(peer.take()) == 2
    assert not peer.tcb.in_recovery
    peer.advance(10 * MS)
    peer.sack((SEGMENT, 4 * SEGMENT))
    assert peer.tcb.in_recovery
    assert peer.tcb.cc.ssthresh == 10 * SEGMENT


def test_a_timeout_in_recovery_leaves_the_threshold_of_the_recovery() -> None:
    """What PRR has made of cwnd meanwhile does not count: it is the same loss."""
    peer = recovering(lost=15)
    peer.take()
    ssthresh = peer.tcb.cc.ssthresh
    assert peer.tcb.cc.cwnd < ssthresh
    peer.advance(peer.tcb.rtt.rto)
    assert peer.raw.counters["tcp_timeouts"] == 1
    assert (peer.tcb.cc.cwnd, peer.tcb.cc.ssthresh) == (SEGMENT, ssthresh)
