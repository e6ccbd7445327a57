"""RFC 6675: loss detection by count, where RACK is switched off."""

from __future__ import annotations

from .harness import MS, Peer


def sending(segments: int = 10) -> Peer:
    peer = Peer(sack=True, rack=False, congestion="newreno", rtt=100 * MS)
    peer.write(b"x" * 1460 * segments)
    assert len(peer.take()) == segments
    peer.advance(10 * MS)
    return peer


def test_less_than_dup_thresh_is_no_loss() -> None:
    peer = sending()
    peer.sack((1460, 3 * 1460))
    assert not peer.tcb.in_recovery


def test_dup_thresh_segments_are_a_loss() -> None:
    peer = sending()
    peer.sack((1460, 2 * 1460), (3 * 1460, 5 * 1460))
    (first,) = peer.take()
    assert first.seq == peer.rcv
    assert peer.tcb.board.lost == 1460  # the third has only two beyond it


def test_new_data_goes_out_while_less_is_in_the_network() -> None:
    """Section 5, step C: what was reported has left the network, so new data follows (RFC 3042)."""
    peer = sending()
    peer.write(b"y" * 14_600, 14_600)
    assert peer.take() == []
    peer.sack((1460, 3 * 1460))
    assert [item.seq - peer.rcv for item in peer.take()] == [14_600, 16_060]


def test_a_lost_retransmission_waits_for_the_timer() -> None:
    peer = sending()
    peer.sack((1460, 5 * 1460))
    assert len(peer.take()) == 1
    peer.sack((1460, 10 * 1460))
    assert peer.take() == []
    peer.advance(peer.tcb.rtt.rto)
    assert peer.only().seq == peer.rcv
    assert peer.raw.counters["tcp_timeouts"] == 1
