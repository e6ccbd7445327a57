"""RFC 5682 (F-RTO) and RFC 3522 (Eifel): timeouts that were for nothing, and RFC 4015's answer."""

from __future__ import annotations

import pytest

from plywire.wire.tcp import Options

from .harness import MS, Peer

SEGMENT = 1460


def timed_out(**options: object) -> Peer:
    """Ten segments, of which the first was sent again by the timer."""
    peer = Peer(sack=True, congestion="newreno", rtt=100 * MS, rack=False, **options)
    peer.write(b"x" * SEGMENT * 20)
    assert len(peer.take()) == 10
    peer.advance(301 * MS)
    assert peer.only().seq == peer.rcv
    return peer


def starts(peer: Peer) -> list[int]:
    return [(item.seq - peer.local_iss - 1) // SEGMENT for item in peer.take()]


def test_new_data_goes_out_after_the_first_acknowledgement() -> None:
    peer = timed_out()
    peer.ack(SEGMENT)
    assert starts(peer) == [10, 11]


def test_a_second_acknowledgement_of_what_was_sent_once_shows_a_spurious_timeout() -> None:
    peer = timed_out()
    cwnd = 10 * SEGMENT
    peer.ack(SEGMENT)
    peer.take()
    peer.ack(SEGMENT)
    assert peer.raw.counters["tcp_spurious_rtos"] == 1
    assert peer.tcb.cc.cwnd >= cwnd
    assert not peer.tcb.in_loss
    assert all(start >= 10 for start in starts(peer))  # nothing more is sent again


def test_a_block_of_new_data_shows_a_true_timeout() -> None:
    peer = timed_out()
    peer.ack(SEGMENT)
    peer.take()
    peer.sack((9 * SEGMENT, 10 * SEGMENT))
    assert peer.raw.counters["tcp_spurious_rtos"] == 0
    assert peer.tcb.in_loss
    assert 1 in starts(peer)


def test_a_first_answer_without_progress_shows_a_true_timeout() -> None:
    peer = timed_out()
    peer.sack((0, 0))
    peer.ack(SEGMENT)
    assert 1 in starts(peer)


def test_without_new_data_it_cannot_tell_and_repairs() -> None:
    peer = Peer(sack=True, congestion="newreno", rtt=100 * MS, rack=False)
    peer.write(b"x" * SEGMENT * 4)
    peer.take()
    peer.advance(301 * MS)
    peer.take()
    peer.ack(SEGMENT)
    assert starts(peer) == [1, 2]


def test_without_room_at_the_peer_it_cannot_tell_and_repairs() -> None:
    """New data could only wait for the window, and nothing would come back to say more."""
    peer = timed_out()
    peer.ack(SEGMENT, window=9 * SEGMENT)
    assert 1 in starts(peer)
    assert peer.tcb.frto == 0


def test_a_second_timeout_is_not_examined() -> None:
    peer = timed_out()
    peer.advance(700 * MS)
    peer.take()
    peer.ack(SEGMENT)
    assert starts(peer) == [1, 2]


def test_it_can_be_switched_off() -> None:
    peer = timed_out(frto=False)
    peer.ack(SEGMENT)
    assert starts(peer) == [1, 2]


@pytest.mark.parametrize(("late", "undone"), [(True, 1), (False, 0)])
def test_the_timestamp_tells_at_once(late: bool, undone: int) -> None:
    peer = Peer(sack=True, timestamps=100, congestion="newreno", rtt=100 * MS, rack=False)
    peer.write(b"x" * 1448 * 4)
    echo = peer.take()[0].options.timestamps[0]
    peer.advance(301 * MS)
    peer.take()
    if late:
        peer.tsecr = echo
    peer.ack(1448)
    assert peer.raw.counters["tcp_undo"] == undone


def test_the_echo_of_an_earlier_recovery_proves_nothing() -> None:
    """RFC 3522: the first retransmission that is asked about is that of this recovery."""
    size = 1448
    peer = Peer(sack=True, timestamps=100, congestion="newreno", rtt=100 * MS)
    peer.write(b"x" * size * 30)
    peer.take()
    peer.advance(100 * MS)
    peer.sack((size, 8 * size))  # the first is lost, and sent again with new data
    peer.sack((size, 10 * size))
    peer.advance(100 * MS)
    peer.sack((11 * size, 14 * size), (size, 10 * size))  # the eleventh is lost as well
    assert peer.tcb.in_recovery
    again = next(item for item in peer.take() if item.seq == peer.rcv + 10 * size)
    peer.ack(10 * size, options=Options(sack=((peer.rcv + 11 * size, peer.rcv + 14 * size),)))
    assert not peer.tcb.in_recovery
    peer.advance(50 * MS)
    peer.sack((size, 4 * size), (5 * size, 8 * size))  # and the fifteenth: another recovery
    assert peer.tcb.in_recovery
    ssthresh = peer.tcb.cc.ssthresh
    peer.tsecr = again.options.timestamps[0]
    peer.ack(4 * size)
    assert peer.raw.counters["tcp_undo"] == 0
    assert peer.tcb.cc.ssthresh == ssthresh


def test_the_back_off_ends_with_a_spurious_timeout() -> None:
    peer = timed_out()
    peer.ack(SEGMENT)
    peer.ack(SEGMENT)
    assert peer.tcb.rtt.backoff == 0
