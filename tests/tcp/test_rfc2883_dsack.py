"""RFC 2883: the first block reports what came twice."""

from __future__ import annotations

from plywire.seq import add

from .harness import ACK, MS, Peer


def blocks(peer: Peer, *pairs: tuple[int, int]) -> tuple[tuple[int, int], ...]:
    return tuple((add(peer.snd, left), add(peer.snd, right)) for left, right in pairs)


def repeat(peer: Peer, offset: int, size: int = 100) -> tuple[tuple[int, int], ...]:
    peer.send(ACK, bytes(size), seq=add(peer.snd, offset))
    return peer.only().options.sack


def test_a_repeat_below_the_acknowledgement_is_reported_once() -> None:
    peer = Peer(sack=True)
    peer.data(bytes(100))
    peer.take()
    assert repeat(peer, -100) == blocks(peer, (-100, 0))
    peer.data(bytes(10))
    assert peer.only().options.sack == ()


def test_a_partial_repeat_is_reported_as_far_as_it_is_one() -> None:
    peer = Peer(sack=True)
    peer.data(bytes(100))
    peer.take()
    assert repeat(peer, -50) == blocks(peer, (-50, 0))


def test_a_repeat_beyond_a_hole_is_followed_by_its_block() -> None:
    peer = Peer(sack=True)
    peer.send(ACK, bytes(300), seq=add(peer.snd, 100))
    peer.take()
    assert repeat(peer, 200) == blocks(peer, (200, 300), (100, 400))


def test_a_segment_that_fills_a_hole_and_more_repeats_what_is_behind_it() -> None:
    peer = Peer(sack=True)
    peer.send(ACK, bytes(100), seq=add(peer.snd, 100))
    peer.take()
    peer.send(ACK, bytes(250))
    answer = peer.only()
    assert answer.ack == add(peer.snd, 250)
    assert answer.options.sack == blocks(peer, (100, 200))


def test_a_block_of_an_acknowledgement_that_was_overtaken_is_no_duplicate() -> None:
    """Section 5: it is compared with the acknowledgement that it came with, not with SND.UNA."""
    peer = Peer(sack=True, congestion="newreno", rtt=100 * MS)
    peer.write(b"x" * 14_600)
    peer.take()
    peer.advance(10 * MS)
    peer.ack(5 * 1460)
    peer.rcv = add(peer.rcv, -5 * 1460)
    peer.sack((1460, 5 * 1460))  # sent before: everything but the first was there
    assert peer.raw.counters["tcp_dsack_recv"] == 0
    peer.rcv = add(peer.rcv, 5 * 1460)
    peer.sack((-5 * 1460, -4 * 1460))
    assert peer.raw.counters["tcp_dsack_recv"] == 1


def test_the_first_of_two_repeats_in_a_segment_is_reported() -> None:
    """Section 4.2.3, example 6: the block around it is the second one."""
    peer = Peer(sack=True)
    peer.send(ACK, bytes(500), seq=add(peer.snd, 500))
    peer.send(ACK, bytes(500), seq=add(peer.snd, 1500))
    peer.take()
    assert repeat(peer, 500, 1500)[:2] == blocks(peer, (500, 1000), (500, 2000))


def test_nothing_is_reported_without_sack() -> None:
    peer = Peer()
    peer.data(bytes(100))
    peer.take()
    assert repeat(peer, -100) == ()


def test_duplicates_for_all_that_was_sent_again_take_the_reduction_back() -> None:
    """RFC 3708: it was reordering, not loss."""
    peer = Peer(sack=True, congestion="newreno", rtt=100 * MS)
    peer.write(b"x" * 14_600)
    peer.take()
    peer.advance(10 * MS)
    cwnd = peer.tcb.cc.cwnd
    peer.sack((1460, 5 * 1460))
    assert len(peer.take()) == 1
    assert peer.tcb.cc.ssthresh < cwnd
    peer.ack(5 * 1460)
    peer.advance(MS)
    peer.sack((-5 * 1460, -4 * 1460))
    assert peer.raw.counters["tcp_undo"] == 1
    assert peer.tcb.cc.cwnd >= cwnd
    assert not peer.tcb.in_recovery
