"""RFC 3168: explicit congestion notification."""

from __future__ import annotations

import pytest

from plywire.messages import Opened
from plywire.wire.tcp import CWR, ECE, Options

from .harness import ACK, FIN, MS, RST, SECOND, SYN, Pair, Peer, Raw

SEGMENT = 1460
SETUP = ECE | CWR
ECT_0, CE = 2, 3


def asking(
    answer: int = ECE,
    retransmitted: bool = False,
    establish: bool = True,
    rtt: int = 0,
    **more: object,
) -> Peer:
    """A connection that was opened with an ECN-setup SYN, and the SYN,ACK's ECE and CWR."""
    peer = Peer(establish=False, ecn="on", **more)
    assert peer.syn.flags == SYN | SETUP
    if retransmitted:
        peer.advance(1100 * MS)
        assert peer.only().flags == SYN
    if establish:
        peer.advance(rtt)
        peer.send(SYN | ACK | answer, options=peer.syn_options)
        peer.snd += 1
        assert peer.only().flags == ACK
        assert peer.raw.told(Opened)
    return peer


def asked(flags: int = SETUP, **more: object) -> Peer:
    """A connection that comes in with these flags on its SYN, before the third segment."""
    return Peer(passive=True, establish=False, ecn_flags=flags, **more)


def flying(count: int = 20, **more: object) -> Peer:
    """So many segments in flight, all of them ECT, and more to send."""
    peer = asking(congestion="newreno", initial_window=count, rtt=100 * MS, **more)
    peer.tcb.cc.cwnd = count * SEGMENT
    peer.write(b"x" * SEGMENT * 100)
    sent = peer.take()
    assert len(sent) == count
    assert {item.message.tos for item in sent} == {ECT_0}
    peer.advance(100 * MS)
    return peer


# --- 6.1.1: negotiation ---------------------------------------------------------------------------


def test_syn_asks_with_ece_and_cwr_and_is_itself_not_ect() -> None:
    peer = asking()
    assert peer.syn.message.tos == 0
    assert (peer.tcb.ecn_ok, peer.tcb.ecn_ect) == (True, True)
    assert peer.raw.info()["ecn"] == 1


@pytest.mark.parametrize("setting", ["off", "passive"])
def test_syn_asks_for_nothing_unless_told_to(setting: str) -> None:
    peer = Peer(ecn=setting)
    assert peer.syn.flags == SYN
    peer.write(b"data")
    assert peer.only().message.tos == 0


def test_an_answer_nobody_asked_for_is_no_agreement() -> None:
    peer = Peer(establish=False)
    peer.send(SYN | ACK | ECE, options=peer.syn_options)
    assert not peer.tcb.ecn_ok


@pytest.mark.parametrize("answer", [0, CWR, ECE | CWR])
def test_syn_ack_that_is_not_ecn_setup_means_no_ecn(answer: int) -> None:
    """6.1.1.2: ECE and CWR together are those of the SYN, echoed by a peer that knows neither."""
    peer = asking(answer)
    assert not peer.tcb.ecn_ok
    peer.write(b"data")
    assert peer.only().message.tos == 0


def test_ecn_setup_syn_is_answered_with_ece_alone() -> None:
    peer = asked()
    assert peer.synack.flags == SYN | ACK | ECE
    assert peer.synack.message.tos == 0
    peer.send(ACK)
    peer.write(b"data")
    assert peer.only().message.tos == ECT_0


@pytest.mark.parametrize("flags", [0, ECE, CWR])
def test_syn_that_is_not_ecn_setup_is_answered_without_ece(flags: int) -> None:
    assert asked(flags).synack.flags == SYN | ACK


def test_ecn_setup_syn_is_answered_without_ece_when_ecn_is_off() -> None:
    assert asked(ecn="off").synack.flags == SYN | ACK


def test_ecn_setup_syn_that_is_ect_itself_is_answered_without_ece() -> None:
    assert asked(syn_tos=ECT_0).synack.flags == SYN | ACK


def test_syn_ack_is_sent_again_with_ece() -> None:
    peer = asked()
    peer.advance(1100 * MS)
    again = peer.only()
    assert (again.flags, again.message.tos) == (SYN | ACK | ECE, 0)


def test_peer_that_asks_no_more_gets_a_plain_syn_ack_and_no_ect() -> None:
    """6.1.1.1's example: the first SYN,ACK was lost, and the SYN comes again without ECN-setup."""
    peer = asked()
    peer.send(SYN, seq=peer.iss, options=peer.syn_options)
    assert peer.only().flags == SYN | ACK
    peer.send(ACK)
    peer.write(b"data")
    assert peer.only().message.tos == 0
    peer.data(b"x", tos=CE)  # it may have had the first SYN,ACK all the same
    assert peer.only().flags & ECE


def test_syn_is_sent_again_without_ece_and_cwr() -> None:
    """6.1.1.1: what drops ECN-setup SYNs delays the connection, and does not prevent it."""
    peer = asking(answer=0, retransmitted=True)
    assert peer.state == "ESTABLISHED"
    assert not peer.tcb.ecn_ok


def test_after_a_plain_syn_data_is_not_ect_but_marks_are_echoed() -> None:
    """6.1.1: the ECN-setup SYN,ACK answers the first SYN; the second one forbids ECT."""
    peer = asking(retransmitted=True)
    peer.write(b"data")
    assert peer.only().message.tos == 0
    peer.data(b"x", tos=CE)
    assert peer.only().flags & ECE


def test_both_ask_at_once() -> None:
    peer = asking(establish=False)
    peer.send(SYN | SETUP, options=peer.syn_options)
    peer.snd += 1
    assert peer.only().flags == SYN | ACK | ECE
    peer.send(SYN | ACK | ECE, seq=peer.iss, options=peer.syn_options)
    assert peer.state == "ESTABLISHED"
    peer.take()
    peer.write(b"data")
    assert peer.only().message.tos == ECT_0


def test_simultaneous_open_with_a_peer_that_does_not_ask() -> None:
    peer = asking(establish=False)
    peer.send(SYN, options=peer.syn_options)
    peer.snd += 1
    assert peer.only().flags == SYN | ACK
    peer.send(SYN | ACK, seq=peer.iss, options=peer.syn_options)
    assert not peer.tcb.ecn_ok


@pytest.mark.parametrize("flags", [0, SETUP])
def test_syn_cookie_keeps_ecn(flags: int) -> None:
    raw = Raw()
    raw.listen(backlog=1)
    for port in range(256):  # the queue of handshakes is full
        raw.segment(SYN, 1, src_port=10_000 + port, dst_port=80)
    raw.take()
    stamp = Options(timestamps=(1000, 0))
    raw.segment(SYN | flags, 500, src_port=40_000, dst_port=80, options=stamp)
    synack = raw.only()
    assert raw.counters["tcp_syncookies_sent"] == 1
    assert synack.flags == SYN | ACK | (ECE if flags else 0)
    stamp = Options(timestamps=(1001, synack.options.timestamps[0]))
    raw.segment(ACK, 501, synack.seq + 1, src_port=40_000, dst_port=80, options=stamp)
    found = [tcb for tcb in raw.layer.stack.by_id.values() if tcb.remote_port == 40_000]
    assert [(tcb.state, tcb.ecn_ok, tcb.ecn_ect) for tcb in found] == [
        ("ESTABLISHED", bool(flags), bool(flags))
    ]


# --- 6.1.2: the sender ----------------------------------------------------------------------------


def test_ece_halves_the_window_and_sends_nothing_again() -> None:
    peer = flying(20)
    peer.ack(SEGMENT, flags=ACK | ECE)
    assert peer.tcb.cc.cwnd == peer.tcb.cc.ssthresh == 10 * SEGMENT
    assert peer.raw.counters["tcp_ecn_reductions"] == 1
    assert peer.raw.counters["tcp_retrans_segs"] == 0


@pytest.mark.parametrize("sack", [False, True])
def test_window_is_reduced_once_for_each_window_of_data(sack: bool) -> None:
    peer = flying(20, sack=sack)
    for _ in range(20):
        peer.ack(SEGMENT, flags=ACK | ECE)
    assert peer.tcb.cc.ssthresh == 10 * SEGMENT
    assert peer.raw.counters["tcp_ecn_reductions"] == 1
    assert peer.tcb.cc.cwnd <= 11 * SEGMENT
    peer.ack(SEGMENT, flags=ACK | ECE)  # of what was sent after the reduction
    assert peer.raw.counters["tcp_ecn_reductions"] == 2
    assert peer.tcb.cc.ssthresh <= 6 * SEGMENT
    assert peer.raw.counters["tcp_retrans_segs"] == 0
    assert peer.tcb.delivered_ce == 21


def test_window_comes_down_over_a_round_trip() -> None:
    """With SACK, by PRR: about one segment for two that arrive, then ssthresh."""
    peer = flying(20, sack=True)
    sent = []
    for _ in range(20):
        peer.ack(SEGMENT, flags=ACK | ECE)
        sent.append(len(peer.take()))
    assert max(sent) == 1
    assert 9 <= sum(sent) <= 11
    peer.ack(SEGMENT)
    assert 10 * SEGMENT <= peer.tcb.cc.cwnd <= 11 * SEGMENT


def test_cubic_reduces_by_its_own_factor() -> None:
    """RFC 9438 4.6."""
    peer = asking(initial_window=20)
    peer.tcb.cc.cwnd = 20 * SEGMENT
    peer.write(b"x" * SEGMENT * 100)
    peer.take()
    peer.ack(SEGMENT, flags=ACK | ECE)
    assert peer.tcb.cc.ssthresh == 14 * SEGMENT


def test_cwr_is_on_the_first_new_data_after_the_reduction_only() -> None:
    peer = flying(20, sack=True)
    sent = []
    for _ in range(20):
        peer.ack(SEGMENT, flags=ACK | ECE)
        sent += peer.take()
    assert [bool(item.flags & CWR) for item in sent] == [True] + [False] * (len(sent) - 1)


def test_window_does_not_grow_on_an_ece_ack() -> None:
    peer = flying(10)
    peer.tcb.cwr_until = peer.tcb.snd_una_offset + 10 * SEGMENT  # answered already
    peer.ack(SEGMENT, flags=ACK | ECE)
    assert peer.tcb.cc.cwnd == 10 * SEGMENT
    peer.ack(SEGMENT)
    assert peer.tcb.cc.cwnd == 11 * SEGMENT


def test_loss_in_the_window_that_was_reduced_reduces_it_no_more() -> None:
    """One window of data, marks and drops: one reduction."""
    peer = flying(20, sack=True)
    peer.ack(SEGMENT, flags=ACK | ECE)
    peer.take()
    peer.sack((SEGMENT, 5 * SEGMENT), flags=ACK | ECE)
    assert peer.tcb.in_recovery
    assert peer.tcb.cc.ssthresh == 10 * SEGMENT
    assert peer.raw.counters["tcp_ecn_reductions"] == 1
    again = [item for item in peer.take() if item.seq == peer.rcv]
    assert [(item.message.tos, item.flags & CWR) for item in again] == [(0, 0)]


def test_mark_in_recovery_reduces_nothing() -> None:
    peer = flying(20, sack=True)
    peer.sack((SEGMENT, 5 * SEGMENT))
    assert (peer.tcb.in_recovery, peer.tcb.cc.ssthresh) == (True, 10 * SEGMENT)
    peer.sack((SEGMENT, 6 * SEGMENT), flags=ACK | ECE)
    assert peer.tcb.cc.ssthresh == 10 * SEGMENT
    assert peer.raw.counters["tcp_ecn_reductions"] == 0


@pytest.mark.parametrize("sack", [False, True])
def test_cwr_follows_a_fast_retransmit_too(sack: bool) -> None:
    """Not on the retransmission, but on the new data behind it."""
    peer = flying(8, sack=sack)
    sent = []
    for count in range(2, 8):
        if sack:
            peer.sack((SEGMENT, count * SEGMENT))
        else:
            peer.send(ACK)
        sent += peer.take()
    again = [item for item in sent if item.seq == peer.rcv]
    new = [item for item in sent if item.seq != peer.rcv]
    assert [(item.message.tos, item.flags & CWR) for item in again] == [(0, 0)]
    peer.ack(8 * SEGMENT)
    behind = [item for item in new + peer.take() if item.flags & CWR]
    assert len(behind) == 1
    assert behind[0].message.tos == ECT_0


@pytest.mark.parametrize("sack", [False, True])
def test_retransmission_timeout_sends_without_ect_and_says_cwr_later(sack: bool) -> None:
    peer = flying(4, sack=sack, rack=False)
    peer.advance(2 * SECOND)
    again = peer.take()
    assert again
    assert {(item.seq, item.message.tos, item.flags & CWR) for item in again} == {(peer.rcv, 0, 0)}
    peer.ack(4 * SEGMENT)
    new = peer.take()
    assert [bool(item.flags & CWR) for item in new] == [True] + [False] * (len(new) - 1)
    assert {item.message.tos for item in new} == {ECT_0}


@pytest.mark.parametrize("sack", [False, True])
def test_ece_at_a_window_of_one_segment_waits_for_the_retransmission_timer(sack: bool) -> None:
    peer = flying(1, sack=sack)
    rto = peer.tcb.rtt.rto
    peer.ack(SEGMENT, flags=ACK | ECE)
    assert peer.tcb.cc.cwnd == SEGMENT
    assert rto >= 200 * MS
    peer.advance(rto - 1 * MS)
    assert peer.take() == []
    peer.advance(1 * MS)
    (late,) = peer.take()
    assert (late.flags & CWR, late.message.tos) == (CWR, ECT_0)
    peer.ack(SEGMENT)
    assert len(peer.take()) == 2  # and the window grows as ever


@pytest.mark.parametrize("congestion", ["cubic", "newreno"])
@pytest.mark.parametrize("sack", [False, True])
def test_marks_reduce_the_window_to_one_segment(sack: bool, congestion: str) -> None:
    """RFC 9438 4.6 as well: two segments are the least of ssthresh, not of the window."""
    peer = asking(congestion=congestion, initial_window=2, rtt=100 * MS, sack=sack)
    peer.write(b"x" * SEGMENT * 100)
    assert len(peer.take()) == 2
    peer.ack(SEGMENT, flags=ACK | ECE)
    assert peer.tcb.cc.cwnd == SEGMENT
    assert peer.take() == []  # one is in flight
    peer.ack(SEGMENT)
    assert peer.take()[0].flags & CWR


def test_ece_of_a_peer_without_ecn_is_nothing() -> None:
    peer = Peer(congestion="newreno", initial_window=10)
    peer.write(b"x" * SEGMENT * 20)
    peer.ack(SEGMENT, flags=ACK | ECE)
    assert peer.tcb.cc.ssthresh == 1 << 30
    assert peer.raw.counters["tcp_ecn_reductions"] == 0


# --- 6.1.3: the receiver --------------------------------------------------------------------------


def test_ce_is_echoed_on_every_ack_until_cwr() -> None:
    peer = asking()
    peer.data(b"one", tos=ECT_0)
    assert not peer.only().flags & ECE
    peer.data(b"two", tos=CE)
    assert peer.only().flags & ECE
    peer.data(b"three", tos=ECT_0)
    assert peer.only().flags & ECE
    peer.write(b"on data too")
    assert peer.only().flags & ECE
    peer.data(b"four", flags=ACK | CWR, tos=ECT_0)
    assert not peer.only().flags & ECE
    assert peer.raw.info()["ecn_seen"] == 1


def test_cwr_on_a_marked_packet_goes_on_echoing() -> None:
    peer = asking()
    peer.data(b"one", tos=CE)
    peer.take()
    peer.data(b"two", flags=ACK | CWR, tos=CE)
    assert peer.only().flags & ECE


def test_a_change_of_the_echo_is_acknowledged_at_once() -> None:
    """As Linux: no delayed acknowledgement keeps the news."""
    peer = asking(quick_acks=0)
    peer.data(b"one", tos=ECT_0)
    assert peer.take() == []
    peer.data(b"two", tos=CE)
    assert peer.only().flags & ECE
    peer.data(b"three", tos=CE)
    assert peer.take() == []
    peer.data(b"four", flags=ACK | CWR, tos=ECT_0)
    assert not peer.only().flags & ECE


def test_ce_without_agreement_is_not_echoed() -> None:
    peer = Peer()
    peer.data(b"one", tos=CE)
    assert not peer.only().flags & ECE
    assert peer.raw.info()["ecn_seen"] == 0


def test_rst_has_no_ece() -> None:
    peer = asking()
    peer.data(b"one", tos=CE)
    peer.take()
    peer.raw.close(abort=1)
    assert peer.only().flags == RST | ACK


# --- 6.1.4 to 6.1.6 -------------------------------------------------------------------------------


def test_pure_ack_and_fin_are_not_ect() -> None:
    peer = asking()
    peer.data(b"one", tos=ECT_0)
    assert peer.only().message.tos == 0
    peer.raw.end()
    fin = peer.only()
    assert (fin.flags, fin.message.tos) == (FIN | ACK, 0)


def test_ce_on_a_repeat_or_outside_the_window_is_not_echoed() -> None:
    peer = asking()
    peer.data(b"one", tos=ECT_0)
    peer.take()
    peer.send(ACK, b"one", seq=peer.snd - 3, tos=CE)
    assert not peer.only().flags & ECE
    peer.send(ACK, b"far", seq=peer.snd + (1 << 24), tos=CE)
    assert not peer.only().flags & ECE
    peer.send(ACK, b"early", seq=peer.snd + 100, tos=CE)  # out of order is in the window
    assert peer.only().flags & ECE


def test_cwr_on_a_repeat_does_not_stop_the_echo() -> None:
    peer = asking()
    peer.data(b"one", tos=CE)
    peer.take()
    peer.send(ACK | CWR, b"one", seq=peer.snd - 3)
    assert peer.only().flags & ECE


@pytest.mark.parametrize("sack", [False, True])
def test_probe_of_a_closed_window_is_not_ect(sack: bool) -> None:
    peer = asking(sack=sack)
    peer.send(ACK, window=0)
    peer.write(b"x" * 100)
    assert peer.take() == []
    peer.advance(3 * SECOND)
    probes = peer.take()
    assert probes
    assert {(len(item.data), item.message.tos) for item in probes} == {(1, 0)}


def test_ce_on_a_probe_of_a_closed_window_is_not_echoed() -> None:
    peer = asking(limit=4)
    peer.data(b"full", tos=ECT_0)
    peer.take()
    peer.send(ACK, b"x", tos=CE)
    assert not peer.only().flags & ECE


# --- the two halves together ----------------------------------------------------------------------


@pytest.mark.parametrize("sack", [False, True])
@pytest.mark.parametrize("congestion", ["cubic", "newreno"])
def test_marks_slow_a_transfer_and_cost_no_retransmission(sack: bool, congestion: str) -> None:
    def run(marks: float) -> Pair:
        pair = Pair(3, ecn="on", sack=sack, congestion=congestion)
        pair.marks = marks
        pair.transfer(bytes(range(256)) * 4096, b"back" * 1000)
        return pair

    marked, clean = run(0.02), run(0.0)
    assert marked.marked > 5
    assert marked.a.layer.counters["tcp_ecn_reductions"] > 0
    assert clean.a.layer.counters["tcp_ecn_reductions"] == 0
    assert marked.a.layer.counters["tcp_retrans_segs"] == 0
    assert marked.now > clean.now


def test_marks_and_losses_together_lose_and_repeat_nothing() -> None:
    for seed in range(4):
        pair = Pair(seed, ecn="on", loss=0.03, jitter=3 * MS, duplicate=0.01)
        pair.marks = 0.05
        pair.transfer(bytes(range(256)) * 800, bytes(range(255, -1, -1)) * 400)
        assert pair.marked


def test_a_new_tcp_in_the_middle_of_marks_goes_on() -> None:
    pair = Pair(5, ecn="on", loss=0.01)
    pair.marks = 0.1
    data = bytes(range(256)) * 800
    pair.open()
    pair.a.send(data)
    pair.b.send(b"")
    while not (pair.a.closed and pair.b.closed) and pair.step():
        if pair.rng.random() < 0.1:
            pair.rng.choice(pair.ends).swap()
    assert bytes(pair.b.received) == data
    assert pair.a.layer.counters["tcp_ecn_reductions"] > 0
