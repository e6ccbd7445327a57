"""RFC 6298: the retransmission timer."""

from __future__ import annotations

import pytest

from plywire.messages import Closed, Opened
from plywire.seq import add
from services.tcp.rtt import RttEstimator

from .harness import ACK, MS, SECOND, SYN, Peer


def estimator() -> RttEstimator:
    return RttEstimator(SECOND, 200 * MS, 120 * SECOND)


def test_2_1_initial_rto_is_a_second() -> None:
    assert estimator().rto == SECOND


def test_2_2_first_measurement() -> None:
    rtt = estimator()
    rtt.sample(400 * MS)
    assert (rtt.srtt, rtt.rttvar, rtt.rto) == (400 * MS, 200 * MS, 1200 * MS)


def test_2_3_subsequent_measurements() -> None:
    rtt = estimator()
    rtt.sample(400 * MS)
    rtt.sample(800 * MS)
    assert rtt.rttvar == (3 * 200 * MS + 400 * MS) // 4
    assert rtt.srtt == (7 * 400 * MS + 800 * MS) // 8
    assert rtt.rto == rtt.srtt + 4 * rtt.rttvar


def test_2_4_least_and_2_5_greatest() -> None:
    rtt = estimator()
    for _ in range(100):
        rtt.sample(1 * MS)
    assert 200 * MS <= rtt.rto < 202 * MS
    rtt.sample(1000 * SECOND)
    assert rtt.rto == 120 * SECOND


def test_5_1_sending_starts_the_timer() -> None:
    peer = Peer()
    assert peer.raw.layer.deadline() is None
    peer.write(b"x")
    assert peer.raw.layer.deadline() == peer.raw.now + peer.tcb.rtt.rto


def test_5_2_all_acknowledged_stops_it() -> None:
    peer = Peer()
    peer.write(b"x")
    peer.ack(1)
    assert peer.raw.layer.deadline() is None


def test_5_3_new_data_acknowledged_starts_it_again() -> None:
    peer = Peer()
    peer.write(b"x" * 3000)
    peer.advance(50 * MS)
    peer.ack(1460)
    assert peer.raw.layer.deadline() == peer.raw.now + peer.tcb.rtt.rto


def test_5_4_the_earliest_is_retransmitted_5_5_and_the_timer_doubles() -> None:
    peer = Peer()
    peer.write(b"x" * 4380)
    first = peer.take()[0]
    rto = peer.tcb.rtt.rto
    peer.advance(rto)
    again = peer.only()
    assert (again.seq, again.data) == (first.seq, first.data)
    peer.advance(2 * rto - 1)
    assert peer.take() == []
    peer.advance(1)
    assert peer.only().seq == first.seq
    peer.advance(4 * rto)
    assert peer.only().seq == first.seq


def test_rto_does_not_grow_beyond_its_limit() -> None:
    peer = Peer()
    peer.write(b"x")
    peer.take()
    peer.advance(400 * SECOND)
    peer.take()
    peer.advance(peer.raw.config.tcp.rto_max)
    assert len(peer.take()) == 1


def test_3_karn_no_sample_of_a_retransmission() -> None:
    peer = Peer()
    srtt = peer.tcb.rtt.srtt
    peer.write(b"x")
    peer.advance(peer.tcb.rtt.rto)
    peer.advance(10 * MS)
    peer.ack(1)
    assert (peer.tcb.rtt.srtt, peer.tcb.rtt.backoff) == (srtt, 1)


def test_backed_off_rto_holds_until_a_new_sample() -> None:
    """RFC 1122 4.2.3.1: Karn's algorithm has this half as well."""
    peer = Peer()
    peer.write(b"x")
    rto = peer.tcb.rtt.rto
    peer.advance(rto)
    peer.ack(1)
    assert peer.tcb.rtt.rto == 2 * rto
    peer.write(b"y", 1)
    peer.advance(20 * MS)
    peer.ack(1)
    assert (peer.tcb.rtt.backoff, peer.tcb.rtt.rto) == (0, peer.tcb.rtt.base)


def test_a_duplicate_report_ends_the_back_off() -> None:
    """Both transmissions have arrived: the timer was wrong, though nothing can be measured."""
    peer = Peer(sack=True, rtt=100 * MS)
    peer.write(b"x" * 1460)
    peer.take()
    peer.advance(3 * SECOND)
    assert peer.tcb.rtt.backoff == 3
    srtt = peer.tcb.rtt.srtt
    peer.rcv = add(peer.rcv, 1460)
    peer.sack((-1460, 0))
    assert (peer.tcb.rtt.backoff, peer.tcb.rtt.srtt) == (0, srtt)


def test_an_acknowledgement_of_what_was_repeated_does_not_end_it() -> None:
    peer = Peer(sack=True, rtt=100 * MS)
    peer.write(b"x" * 1460)
    peer.take()
    peer.advance(3 * SECOND)
    peer.ack(1460)
    assert peer.tcb.rtt.backoff == 3


def test_a_repeat_in_recovery_has_two_round_trips() -> None:
    """RFC 6675 section 6: the timer runs since before the loss was found."""
    peer = Peer(sack=True, congestion="newreno", rtt=100 * MS)
    peer.write(b"x" * 14_600)
    peer.take()
    peer.advance(280 * MS)
    peer.sack((1460, 7300))
    assert peer.take()[0].seq == peer.rcv
    peer.advance(190 * MS)
    assert peer.raw.counters["tcp_timeouts"] == 0
    peer.advance(150 * MS)
    assert peer.raw.counters["tcp_timeouts"] == 1


# --- TCP_THIN_LINEAR_TIMEOUTS ---------------------------------------------------------------------


def thin(segments: int, **options: int) -> Peer:
    """A connection past its first slow start, with so many segments in flight."""
    peer = Peer(sack=True, rtt=100 * MS, initial_window=20, options=options)
    peer.tcb.cc.ssthresh = 20 * 1460
    peer.write(b"x" * 1460 * segments)
    peer.take()
    return peer


def timeouts_of(peer: Peer, seconds: int) -> int:
    peer.advance(seconds * SECOND)
    return peer.raw.counters["tcp_timeouts"]


def test_a_thin_stream_that_wants_it_has_six_timeouts_without_back_off() -> None:
    peer = thin(2, TCP_THIN_LINEAR_TIMEOUTS=1)
    while peer.raw.counters["tcp_timeouts"] < 6:
        peer.advance(10 * MS)
        assert peer.tcb.rtt.backoff == 0
    assert timeouts_of(peer, 1) >= 7
    assert peer.tcb.rtt.backoff > 0  # not for ever into a black hole


@pytest.mark.parametrize(("segments", "options"), [(2, {}), (4, {"TCP_THIN_LINEAR_TIMEOUTS": 1})])
def test_other_streams_back_off(segments: int, options: dict) -> None:
    peer = thin(segments, **options)
    assert timeouts_of(peer, 5) < 6
    assert peer.tcb.rtt.backoff > 2


def test_the_first_slow_start_backs_off() -> None:
    peer = Peer(sack=True, rtt=100 * MS, options={"TCP_THIN_LINEAR_TIMEOUTS": 1})
    peer.write(b"x")
    peer.advance(1 * SECOND)
    assert peer.tcb.rtt.backoff == 1


def test_a_host_may_want_it_for_all() -> None:
    peer = Peer(sack=True, rtt=100 * MS, thin_linear_timeouts=True)
    peer.tcb.cc.ssthresh = 20 * 1460
    peer.write(b"x")
    assert timeouts_of(peer, 2) >= 5


def test_the_handshake_is_measured() -> None:
    peer = Peer(establish=False)
    peer.advance(80 * MS)
    peer.send(SYN | ACK)
    assert peer.tcb.rtt.srtt == 80 * MS


def test_the_handshake_of_a_server_is_measured() -> None:
    peer = Peer(passive=True, establish=False)
    peer.advance(80 * MS)
    peer.send(ACK)
    assert peer.tcb.rtt.srtt == 80 * MS


@pytest.mark.parametrize("passive", [False, True])
def test_5_7_a_lost_syn_makes_the_rto_three_seconds(passive: bool) -> None:
    peer = Peer(passive=passive, establish=False)
    peer.advance(1 * SECOND)
    assert len(peer.take()) == 1
    peer.send(ACK if passive else SYN | ACK)
    assert peer.tcb.rtt.rto == 3 * SECOND


def test_syn_retries() -> None:
    """1, 2, 4, ... seconds, six times, then ETIMEDOUT: 127 seconds in all, as Linux."""
    peer = Peer(establish=False)
    start = peer.raw.now
    times = []
    while peer.state == "SYN-SENT":
        peer.advance(peer.raw.layer.deadline() - peer.raw.now)
        if peer.take():
            times.append((peer.raw.now - start) // SECOND)
    assert times == [1, 3, 7, 15, 31, 63]
    assert peer.raw.now - start == 127 * SECOND
    (closed,) = peer.raw.told(Closed)
    assert closed.error == "ETIMEDOUT"
    assert peer.raw.counters["tcp_attempt_fails"] == 1


def test_syncnt() -> None:
    peer = Peer(establish=False, options={"TCP_SYNCNT": 1})
    peer.advance(3 * SECOND)
    assert peer.state == "CLOSED"


def test_synack_retries() -> None:
    peer = Peer(passive=True, establish=False)
    peer.advance(62 * SECOND)
    assert peer.state == "SYN-RECEIVED"
    peer.advance(1 * SECOND)
    assert peer.state == "CLOSED"
    assert len(peer.take()) == 5
    assert peer.raw.told() == []


def test_retries2_then_etimedout() -> None:
    peer = Peer()
    peer.write(b"x")
    peer.take()
    start = peer.raw.now
    peer.advance(2000 * SECOND)
    assert peer.state == "CLOSED"
    assert len(peer.take()) == 15
    (closed,) = peer.raw.told(Closed)
    assert closed.error == "ETIMEDOUT"
    assert peer.raw.now > start


def test_progress_starts_the_count_again() -> None:
    peer = Peer()
    peer.write(b"x" * 2000)
    peer.advance(60 * SECOND)
    assert peer.tcb.retries > 5
    peer.ack(1460)
    assert peer.tcb.retries == 0


def test_user_timeout() -> None:
    peer = Peer(options={"TCP_USER_TIMEOUT": 5000})
    peer.write(b"x")
    peer.advance(5 * SECOND - 1)
    assert peer.state == "ESTABLISHED"
    peer.advance(1)
    assert peer.raw.told(Closed)[0].error == "ETIMEDOUT"


def test_after_a_timeout_all_is_sent_again_in_slow_start() -> None:
    peer = Peer()
    peer.write(b"x" * 14_600)
    first = peer.take()
    assert len(first) == 10
    peer.advance(peer.tcb.rtt.rto)
    assert [item.seq for item in peer.take()] == [first[0].seq]
    peer.ack(1460)
    assert [item.seq for item in peer.take()] == [first[1].seq, first[2].seq]
    peer.ack(2920)
    assert [item.seq for item in peer.take()] == [item.seq for item in first[3:6]]


def test_what_the_peer_had_is_not_sent_again() -> None:
    peer = Peer()
    peer.write(b"x" * 14_600)
    peer.take()
    peer.advance(peer.tcb.rtt.rto)
    peer.take()
    peer.ack(14_600)
    assert peer.take() == []
    assert peer.raw.layer.deadline() is None


def test_retransmission_of_a_passive_open_reaches_established() -> None:
    peer = Peer(passive=True, establish=False)
    peer.advance(1 * SECOND)
    answer = peer.only()
    assert (answer.flags, answer.seq) == (SYN | ACK, peer.local_iss)
    peer.send(ACK, ack=add(answer.seq, 1))
    assert len(peer.raw.told(Opened)) == 1
