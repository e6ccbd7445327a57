"""RFC 6582: NewReno's fast recovery."""

from __future__ import annotations

from plywire.seq import add

from .harness import ACK, Peer

MSS = 1460


def recovering(segments: int = 60) -> tuple[Peer, list]:
    """Ten segments in flight and the first is lost: three duplicates have come."""
    peer = Peer(scale=7, window=65_000)
    peer.write(b"x" * MSS * segments)
    sent = peer.take()
    for _ in range(3):
        peer.send(ACK)
    sent += [item for item in peer.take() if item.seq != sent[0].seq]  # limited transmit
    assert peer.tcb.in_recovery
    return peer, sent


def test_recover_is_the_highest_sequence_sent() -> None:
    peer, sent = recovering()
    assert peer.tcb.recover == add(sent[-1].seq, MSS - 1)


def test_each_further_duplicate_inflates() -> None:
    peer, _ = recovering()
    window = peer.tcb.cc.cwnd
    peer.send(ACK)
    assert peer.tcb.cc.cwnd == window + MSS


def test_inflation_lets_new_data_out() -> None:
    peer, sent = recovering()
    for _ in range(6):
        peer.send(ACK)
    new = peer.take()
    assert [item.seq for item in new] == [
        add(sent[-1].seq, MSS * (index + 1)) for index in range(len(new))
    ]
    assert new


def test_full_acknowledgement_ends_recovery() -> None:
    peer, sent = recovering()
    ssthresh = peer.tcb.cc.ssthresh
    peer.ack(len(sent) * MSS)
    assert not peer.tcb.in_recovery
    assert peer.tcb.cc.cwnd <= ssthresh
    assert peer.tcb.dup_acks == 0


def test_full_acknowledgement_makes_no_burst() -> None:
    """Step 3 option 1: min(ssthresh, max(FlightSize, SMSS) + SMSS)."""
    peer, sent = recovering(segments=12)
    peer.ack(len(sent) * MSS)
    assert peer.tcb.cc.cwnd == 2 * MSS


def test_partial_acknowledgement_retransmits_the_next() -> None:
    peer, sent = recovering()
    peer.take()
    peer.ack(3 * MSS)
    assert peer.take()[0].seq == sent[3].seq
    assert peer.tcb.in_recovery
    peer.ack(2 * MSS)
    assert peer.take()[0].seq == sent[5].seq


def test_partial_acknowledgement_deflates() -> None:
    peer, _ = recovering()
    window = peer.tcb.cc.cwnd
    peer.ack(3 * MSS)
    assert peer.tcb.cc.cwnd == window - 3 * MSS + MSS


def test_only_the_first_partial_acknowledgement_resets_the_timer() -> None:
    """Section 4: impatient."""
    peer, _ = recovering()
    peer.advance(10_000_000)
    peer.ack(MSS)
    due = peer.raw.layer.stack.timers.get((peer.tcb.id, "rto"))
    assert due == peer.raw.now + peer.tcb.rtt.rto
    peer.advance(10_000_000)
    peer.ack(MSS)
    assert peer.raw.layer.stack.timers.get((peer.tcb.id, "rto")) == due


def test_duplicates_of_a_timeout_do_not_start_recovery() -> None:
    """Step 1: the acknowledgement must cover more than recover."""
    peer = Peer(scale=7, window=65_000)
    peer.write(b"x" * MSS * 20)
    peer.take()
    peer.advance(peer.tcb.rtt.rto)
    peer.take()
    peer.ack(9 * MSS)  # the retransmission filled the hole; the tail is on its way
    peer.take()
    for _ in range(4):
        peer.send(ACK)
    assert not peer.tcb.in_recovery
    assert peer.raw.counters["tcp_fast_retrans"] == 0


def test_timeout_in_recovery_leaves_it() -> None:
    peer, sent = recovering()
    peer.take()
    peer.advance(peer.tcb.rtt.rto)
    assert not peer.tcb.in_recovery
    assert peer.tcb.cc.cwnd == MSS
    assert peer.take()[-1].seq == sent[0].seq


def test_the_very_first_segment_can_be_lost() -> None:
    peer, _ = recovering()
    assert peer.raw.counters["tcp_fast_retrans"] == 1


def test_a_later_loss_is_found_again() -> None:
    peer, sent = recovering()
    peer.ack(len(sent) * MSS)
    peer.ack(seq_of(peer) or MSS)
    for _ in range(3):
        peer.send(ACK)
    assert peer.tcb.in_recovery
    assert peer.raw.counters["tcp_fast_retrans"] == 2


def seq_of(peer: Peer) -> int:
    """The length of the oldest segment in flight."""
    return min(MSS, peer.tcb.flight)
