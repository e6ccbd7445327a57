"""RFC 8985: RACK finds losses by time, and tail loss probes ask when nothing comes back."""

from __future__ import annotations

from plywire.seq import add

from .harness import ACK, MS, SECOND, SYN, Pair, Peer

SEGMENT = 1460


def sending(segments: int = 10, rtt: int = 100, **options: object) -> Peer:
    """A connection with a measured round trip that has so many segments in flight."""
    peer = Peer(sack=True, congestion="newreno", initial_window=20, rtt=rtt * MS, **options)
    offset = 0
    for size in (1, 1, 1, 1, 1, SEGMENT - 5):  # until the round trip is known well
        peer.write(b"w" * size, offset)
        peer.take()
        peer.advance(rtt * MS)
        peer.ack(size)
        offset += size
    peer.write(b"x" * SEGMENT * segments, SEGMENT)
    assert len(peer.take()) == segments
    return peer


def starts(peer: Peer) -> list[int]:
    return [(item.seq - peer.rcv) // SEGMENT for item in peer.take()]


def test_a_lost_retransmission_is_found_without_a_timeout() -> None:
    peer = sending()
    peer.advance(100 * MS)
    peer.sack((SEGMENT, 5 * SEGMENT))
    assert starts(peer) == [0]
    peer.advance(50 * MS)
    peer.write(b"y" * SEGMENT * 4, 11 * SEGMENT)
    peer.sack((SEGMENT, 10 * SEGMENT))
    later = starts(peer)
    assert later
    assert 0 not in later
    peer.advance(100 * MS)  # the new data arrives, the retransmission before it has not
    peer.sack((SEGMENT, 11 * SEGMENT))
    assert 0 in starts(peer)
    assert peer.raw.counters["tcp_timeouts"] == 0


def test_new_data_of_the_instant_before_it_is_no_proof_against_a_retransmission() -> None:
    """6.2, RACK_sent_after: what was sent first is older, also where the clock is the same."""
    peer = sending()
    peer.advance(100 * MS)
    peer.sack((SEGMENT, 2 * SEGMENT))
    peer.write(b"y" * SEGMENT * 2, 11 * SEGMENT)
    peer.sack((SEGMENT, 5 * SEGMENT))
    peer.write(b"z" * SEGMENT * 2, 13 * SEGMENT)
    peer.sack((SEGMENT, 10 * SEGMENT))
    assert starts(peer) == [10, 11, 0, 12, 13]
    peer.advance(100 * MS)
    peer.sack((SEGMENT, 12 * SEGMENT))
    assert starts(peer) == []
    peer.sack((SEGMENT, 13 * SEGMENT))
    assert starts(peer) == [0]


def test_one_segment_beyond_a_hole_waits_for_the_reordering_window() -> None:
    peer = sending(3)
    peer.advance(100 * MS)
    peer.sack((SEGMENT, 2 * SEGMENT))
    assert starts(peer) == []
    peer.advance(20 * MS)
    assert starts(peer) == []
    peer.advance(10 * MS)  # a quarter of the least round trip is 25 ms
    assert starts(peer) == [0]
    assert peer.tcb.in_recovery


def test_reordering_within_the_window_is_no_loss() -> None:
    peer = sending(3)
    peer.advance(100 * MS)
    peer.sack((SEGMENT, 3 * SEGMENT))
    peer.advance(10 * MS)
    peer.ack(3 * SEGMENT)
    peer.advance(100 * MS)
    assert starts(peer) == []
    assert peer.raw.counters["tcp_fast_retrans"] == 0
    assert peer.tcb.rack.reordering_seen


def test_after_reordering_three_segments_are_no_proof_any_more() -> None:
    peer = sending(3)
    peer.advance(100 * MS)
    peer.sack((SEGMENT, 3 * SEGMENT))
    peer.advance(10 * MS)
    peer.ack(3 * SEGMENT)
    peer.write(b"y" * SEGMENT * 8, 4 * SEGMENT)
    peer.take()
    peer.advance(100 * MS)
    peer.sack((SEGMENT, 6 * SEGMENT))
    assert starts(peer) == []
    peer.advance(30 * MS)
    assert starts(peer) == [0]


def test_a_duplicate_report_widens_the_window() -> None:
    peer = sending(3)
    peer.sack((-SEGMENT, 0))
    assert peer.tcb.rack.reo_mult == 2


def test_new_data_sent_just_before_a_repeat_does_not_make_it_lost() -> None:
    """All at one reading of the clock: two new segments, then the loss is found. What comes back of
    them says nothing of the repeat, though their sequence numbers are higher."""
    peer = sending(10)
    peer.tcb.cc.cwnd = 10 * SEGMENT
    peer.write(b"y" * SEGMENT * 10, 11 * SEGMENT)
    assert starts(peer) == []
    peer.advance(100 * MS)
    for count in (2, 3, 4):
        peer.sack((SEGMENT, count * SEGMENT))
    assert starts(peer) == [10, 11, 0]
    peer.advance(100 * MS)
    peer.sack((SEGMENT, 12 * SEGMENT))
    assert 0 not in starts(peer)


def test_a_block_that_repeats_old_news_is_no_reordering() -> None:
    """Reports were lost: one acknowledgement has the newest block first, and the older behind."""
    peer = sending(10)
    peer.advance(100 * MS)
    peer.sack((6 * SEGMENT, 7 * SEGMENT), (SEGMENT, 3 * SEGMENT))
    assert not peer.tcb.rack.reordering_seen


def test_a_reported_repeat_shows_that_an_earlier_one_is_lost() -> None:
    """Its block brings an old echo, since only what is in order is echoed (RFC 7323 4.3)."""
    peer = Peer(sack=True, congestion="newreno", initial_window=20, rtt=100 * MS, timestamps=1)
    size = SEGMENT - 12
    peer.write(b"x" * size * 40)
    assert len(peer.take()) == 20
    old = peer.tsecr
    peer.advance(100 * MS)
    peer.tsecr = old
    peer.sack((size, 2 * size), (3 * size, 9 * size))
    first = [item.seq for item in peer.raw.take()]
    assert first[0] == peer.rcv
    for count in range(10, 17):
        if add(peer.rcv, 2 * size) in first:
            break
        peer.sack((size, 2 * size), (3 * size, count * size))
        first += [item.seq for item in peer.raw.take()]
    assert add(peer.rcv, 2 * size) in first  # both holes were sent again, in order
    peer.advance(100 * MS)
    peer.sack((size, 9 * size))  # the second repeat has arrived, the first has not
    assert peer.rcv in [item.seq for item in peer.raw.take()]


def test_a_duplicate_of_what_a_timer_has_sent_does_not_widen_the_window() -> None:
    peer = sending(2)
    peer.advance(2000 * MS)
    assert peer.raw.counters["tcp_timeouts"] >= 1
    peer.rcv = add(peer.rcv, 2 * SEGMENT)
    peer.sack((-2 * SEGMENT, -SEGMENT))
    assert peer.tcb.rack.reo_mult == 1


def test_a_timeout_does_not_give_up_what_was_sent_lately() -> None:
    """Section 6.3."""
    peer = sending(2)
    peer.advance(2 * peer.tcb.rtt.srtt + MS)
    assert peer.raw.counters["tcp_loss_probes"] == 1
    peer.advance(peer.tcb.rtt.rto - 50 * MS)
    peer.write(b"y" * SEGMENT, 3 * SEGMENT)
    peer.advance(60 * MS)
    assert peer.raw.counters["tcp_timeouts"] == 1
    assert [seg.lost for seg in peer.tcb.board.segs] == [True, True, False]


def test_the_least_round_trip_is_that_of_the_last_five_minutes() -> None:
    """6.2 step 1: not for ever, or the window would be too narrow once the way is longer."""
    peer = sending(1, rtt=10)
    peer.advance(10 * MS)
    peer.ack(SEGMENT)
    for minutes, least in ((1, 10), (5, 80)):
        peer.advance(minutes * 60 * SECOND)
        peer.write(b"y" * SEGMENT, (minutes > 1) * SEGMENT + 2 * SEGMENT)
        peer.take()
        peer.advance(80 * MS)
        peer.ack(SEGMENT)
        assert peer.tcb.rack.min_rtt == least * MS


# --- tail loss probes -----------------------------------------------------------------------------


def test_a_probe_after_two_round_trips_repeats_the_last_segment() -> None:
    peer = sending(4)
    srtt = peer.tcb.rtt.srtt
    peer.advance(2 * srtt - MS)
    assert starts(peer) == []
    peer.advance(2 * MS)
    assert starts(peer) == [3]
    assert (peer.raw.counters["tcp_loss_probes"], peer.raw.counters["tcp_timeouts"]) == (1, 0)


def test_a_probe_is_new_data_when_there_is_some() -> None:
    peer = Peer(sack=True, initial_window=2)
    peer.write(b"x" * SEGMENT * 3)
    assert len(peer.take()) == 2
    peer.advance(1000 * MS)
    first = peer.take()[0]
    assert first.seq - peer.rcv == 2 * SEGMENT


def test_a_probe_after_a_second_where_no_round_trip_is_known() -> None:
    """7.2: the SYN was sent twice, so the timer would have 3 s (RFC 6298 5.7)."""
    peer = Peer(sack=True, establish=False)
    peer.advance(1 * SECOND)
    peer.send(SYN | ACK, options=peer.syn_options)
    peer.snd = add(peer.iss, 1)
    peer.write(b"x" * SEGMENT * 4)
    peer.take()
    assert (peer.tcb.rtt.srtt, peer.tcb.rtt.rto) == (0, 3 * SECOND)
    peer.advance(1 * SECOND - MS)
    assert starts(peer) == []
    peer.advance(2 * MS)
    assert starts(peer) == [3]


def test_a_single_segment_leaves_time_for_a_delayed_acknowledgement() -> None:
    peer = sending(1)
    peer.advance(2 * peer.tcb.rtt.srtt + 50 * MS)
    assert peer.raw.counters["tcp_loss_probes"] == 0


def test_only_one_probe_then_the_timer() -> None:
    peer = sending(4)
    peer.advance(2 * peer.tcb.rtt.srtt + MS)
    peer.take()
    peer.advance(peer.tcb.rtt.rto - 5 * MS)
    assert starts(peer) == []
    peer.advance(10 * MS)
    assert starts(peer) == [0]
    assert peer.raw.counters["tcp_timeouts"] == 1


def test_the_answer_to_a_probe_repairs_a_lost_tail_without_a_timeout() -> None:
    peer = sending(4)
    peer.advance(2 * peer.tcb.rtt.srtt + MS)
    assert starts(peer) == [3]
    peer.advance(100 * MS)
    peer.sack((3 * SEGMENT, 4 * SEGMENT))
    found = starts(peer)
    for _ in range(4):
        peer.advance(30 * MS)
        found += starts(peer)
    assert found[:1] == [0]
    assert peer.raw.counters["tcp_timeouts"] == 0


def test_a_probe_that_repaired_a_loss_was_congestion() -> None:
    peer = sending(4)
    peer.advance(2 * peer.tcb.rtt.srtt + MS)
    assert starts(peer) == [3]
    cwnd = peer.tcb.cc.cwnd
    peer.ack(4 * SEGMENT)
    peer.write(b"z" * SEGMENT, 5 * SEGMENT)
    peer.take()
    peer.ack(SEGMENT)
    assert peer.raw.counters["tcp_loss_probe_recovery"] == 1
    assert peer.tcb.cc.cwnd < cwnd


def test_what_the_probe_repaired_is_reduced_from_what_was_in_flight() -> None:
    """Not from what its answer has left of it."""
    peer = sending(8)
    peer.tcb.cc.cwnd = 8 * SEGMENT
    peer.advance(2 * peer.tcb.rtt.srtt + MS)
    assert starts(peer) == [7]
    peer.ack(8 * SEGMENT)
    peer.write(b"z" * SEGMENT * 8, 9 * SEGMENT)
    assert len(peer.take()) == 8
    peer.ack(SEGMENT)
    assert peer.raw.counters["tcp_loss_probe_recovery"] == 1
    assert peer.tcb.cc.ssthresh == 4 * SEGMENT


def test_a_probe_for_nothing_was_no_congestion() -> None:
    peer = sending(4)
    peer.advance(2 * peer.tcb.rtt.srtt + MS)
    peer.take()
    cwnd = peer.tcb.cc.cwnd
    peer.ack(4 * SEGMENT)
    peer.sack((-SEGMENT, 0))
    peer.write(b"z" * SEGMENT, 5 * SEGMENT)
    peer.take()
    peer.ack(SEGMENT)
    assert peer.raw.counters["tcp_loss_probe_recovery"] == 0
    assert peer.tcb.cc.cwnd >= cwnd


def test_no_probe_once_something_beyond_a_hole_has_arrived() -> None:
    """RACK's own timer is at work then; the last segment may be there already."""
    peer = sending(4)
    peer.advance(195 * MS)
    peer.sack((3 * SEGMENT, 4 * SEGMENT))
    peer.advance(10 * MS)
    assert starts(peer) == []
    assert peer.raw.counters["tcp_loss_probes"] == 0


def test_no_probe_without_sack() -> None:
    peer = Peer()
    peer.write(b"x" * 5000)
    peer.advance(199 * MS)
    peer.take()
    assert peer.raw.counters["tcp_loss_probes"] == 0


def test_heavy_reordering_costs_little() -> None:
    pair = Pair(3, delay=20 * MS, jitter=10 * MS)
    pair.transfer(bytes(2_000_000), b"")
    counters = pair.a.layer.counters
    assert counters["tcp_timeouts"] == 0
    assert counters["tcp_retrans_segs"] < 140


def test_probe_timers_end_with_the_flight() -> None:
    peer = sending(2)
    peer.ack(2 * SEGMENT)
    assert not peer.raw.layer.stack.armed(peer.tcb, "tail loss")
    peer.send(ACK)
