"""RFC 9937: proportional rate reduction."""

from __future__ import annotations

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
    peer.ack(20 * SEGMENT)
    assert peer.tcb.cc.cwnd == peer.tcb.cc.ssthresh == 10 * SEGMENT
