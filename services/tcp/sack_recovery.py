"""Loss recovery when both sides have SACK: RFC 6675's scoreboard, RACK's detection (RFC 8985), PRR
(RFC 9937), F-RTO (RFC 5682), and what is taken back when it was for nothing (RFC 4015).

Without SACK `services.tcp.recovery` does all this by duplicate acknowledgements.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from plywire import seq
from plywire.wire.tcp import Options
from services.tcp import ecn, prr, rack, tail_loss
from services.tcp.options import echoed_rtt
from services.tcp.scoreboard import Delivery
from services.tcp.tcb import REORDERING, RTO, Tcb
from services.tcp.transmit import retransmit_segment

if TYPE_CHECKING:
    from services.tcp.stack import Stack

FRTO_FIRST = 1  # after a timeout: the first acknowledgement is awaited
FRTO_SECOND = 2  # new data has gone out instead of old; the second one decides


def on_ack(stack: Stack, tcb: Tcb, theirs: Options, acked: int, flight: int, now: int) -> None:
    """An acceptable acknowledgement has come; acked: by how much SND.UNA has moved, flight: what
    was in flight before."""
    board = tcb.board
    una = tcb.snd_una_offset
    blocks = (
        [
            (una + seq.sub(left, tcb.snd_una), una + seq.sub(right, tcb.snd_una))
            for left, right in theirs.sack
        ]
        if theirs.sack
        else []
    )
    found = board.update(una, blocks, now)
    _measure(tcb, theirs, found, acked, flight, now)
    if found.dsack is not None:
        stack.counters["tcp_dsack_recv"] += 1
        tcb.dsack_dups += 1
    marked = board.to_send
    if stack.cfg.rack:
        tsecr = theirs.timestamps[1] if theirs.timestamps else None
        tcb.rack.observe(tcb, found, tsecr, now)
        if board.sacked or board.again or tcb.rack.again:
            _detect(stack, tcb, now)
        else:
            stack.disarm(tcb, REORDERING)
    elif board.sacked:
        rack.detect_by_count(board, tcb.snd_mss)
    more_lost = board.to_send > marked
    tail_loss.acknowledged(stack, tcb, found, una, flight, now)
    if _was_for_nothing(tcb, theirs, found):
        _undo(stack, tcb, now)
    if tcb.in_loss:
        _in_loss(stack, tcb, found, acked, flight, now)
    elif tcb.in_recovery:
        _in_recovery(stack, tcb, found, acked, more_lost, now)
        if not tcb.in_recovery and not board.to_send:
            # As Linux: what the last acknowledgement is the first to report was sent in the reduced
            # window, and counts as in congestion avoidance.
            _grow(tcb, found.newly, flight, now)
    elif tcb.in_cwr:
        prr.on_ack(tcb, found.newly, acked > 0 and not more_lost)
    elif not board.to_send:
        _grow(tcb, acked, flight, now)
    if board.to_send and not tcb.in_recovery and not tcb.in_loss and not tcb.resizing:
        enter(stack, tcb, found.sacked, acked, flight, now)
    if tcb.resizing and not board.lost:
        tcb.resizing = False


def _measure(tcb: Tcb, theirs: Options, found: Delivery, acked: int, flight: int, now: int) -> None:
    """RFC 6298, from what was sent once, else from the timestamp echoed (RFC 7323 4)."""
    rtt = found.rtt
    if found.dsack is not None:
        rtt = 0  # it answers a repeat, but its echo and its news may be as old as a lost ACK
        # Both transmissions have arrived, so it was the timer that was wrong (RFC 4015 step 8), and
        # the path is alive: RFC 8961 4, item 3, wants no back-off any longer than that.
        tcb.rtt.backoff = 0
    elif not rtt and acked and tcb.ts_on and theirs.timestamps is not None:
        rtt = echoed_rtt(tcb, theirs.timestamps[1], now)
    if rtt:
        tcb.rtt.sample(rtt, -(-flight // (2 * tcb.snd_mss)) or 1)
        tcb.cc.on_rtt(rtt, tcb.board.una, tcb.board.nxt)
    newest = found.newest
    if newest is not None and now > newest.delivered_at:
        # Linux's delivery rate: what arrived since this segment was sent, over the time it took.
        board = tcb.board
        rate = (board.delivered - newest.delivered) * 1_000_000_000 // (now - newest.delivered_at)
        if not newest.app_limited or rate >= tcb.delivery_rate:
            tcb.delivery_rate, tcb.rate_app_limited = rate, newest.app_limited


def _grow(tcb: Tcb, acked: int, flight: int, now: int) -> None:
    """RFC 5681 3.1, RFC 7661: a window that is not used says nothing of the network."""
    cc = tcb.cc
    used = 2 * flight >= cc.cwnd if cc.cwnd < cc.ssthresh else flight + tcb.snd_mss > cc.cwnd
    if used and acked and not tcb.echoed:  # RFC 3168 6.1.2
        cc.on_ack(acked, tcb.snd_mss, tcb.rtt.srtt, now)
    elif not used:
        cc.on_unused(now)


def _detect(stack: Stack, tcb: Tcb, now: int) -> None:
    wait = tcb.rack.detect(tcb, now)
    if wait:
        stack.arm(tcb, REORDERING, now + wait)
    else:
        stack.disarm(tcb, REORDERING)


def on_reordering_timer(stack: Stack, tcb: Tcb, now: int) -> None:
    """RFC 8985 6.2 step 5: the reordering window has passed; what is still missing is lost."""
    _detect(stack, tcb, now)
    if tcb.board.to_send and not tcb.in_recovery and not tcb.in_loss:
        enter(stack, tcb, 0, 0, tcb.flight, now)


def enter(stack: Stack, tcb: Tcb, sacked: int, acked: int, flight: int, now: int) -> None:
    """A loss was found: fast recovery begins (RFC 6675 section 5, step 4). flight: as it was before
    the acknowledgement that shows it, as RFC 9937 has it, since one may take much away."""
    board = tcb.board
    _remember(tcb, now)
    if not tcb.in_cwr:  # RFC 3168 6.1.2: once for each window of data
        tcb.cc.on_loss(_counted(tcb, flight), tcb.snd_mss, now)
    ecn.reduced(tcb)
    tcb.recover = seq.add(tcb.snd_nxt, -1)
    tcb.recover_at = board.nxt
    tcb.in_recovery = True
    prr.enter(tcb, sacked, acked)
    stack.counters["tcp_fast_retrans"] += 1
    stack.note(tcb, "fast recovery", now, seq=tcb.snd_una)


def _counted(tcb: Tcb, flight: int) -> int:
    """FlightSize as it sets ssthresh: what limited transmit has sent is left out (RFC 6675 5, step
    4.2), and what cwnd has not let out since an earlier loss."""
    return min(flight, tcb.cc.cwnd)


def _in_recovery(
    stack: Stack, tcb: Tcb, found: Delivery, acked: int, more_lost: bool, now: int
) -> None:
    if tcb.board.una >= tcb.recover_at:
        tcb.in_recovery = False
        tcb.rack.recovered()
        tcb.cc.cwnd = tcb.cc.ssthresh  # RFC 9937 section 6
        tcb.undo = None
        return
    prr.on_ack(tcb, found.newly, acked > 0 and not more_lost)


def on_timeout(stack: Stack, tcb: Tcb, now: int) -> None:
    """The retransmission timer ran out: RFC 6675 5.1, RFC 8985 6.3, RFC 5682 3.1 step 1."""
    board = tcb.board
    first = board.segs[0]
    if first.sacked:  # it was reported, and is still not acknowledged: taken back (RFC 2018 8)
        stack.counters["tcp_sack_reneging"] += 1
        board.forget_sacks()
    if not tcb.in_loss:
        _remember(tcb, now)
        tcb.recover = seq.add(tcb.snd_nxt, -1)
        tcb.recover_at = board.nxt
        # F-RTO is for the first timeout of data that was sent once.
        tcb.frto = FRTO_FIRST if stack.cfg.frto and not first.ever else 0
    else:
        tcb.frto = 0
    _reduce(tcb, now)
    board.mark = board.nxt
    board.mark_lost(first)
    if stack.cfg.rack:
        tcb.rack.timed_out(tcb, now)
    else:
        board.mark_all_lost()
    tcb.in_recovery = tcb.resizing = False
    tcb.in_loss = True
    tcb.tlp_end = -1
    stack.disarm(tcb, REORDERING)
    retransmit_segment(stack, tcb, first, now)


def _reduce(tcb: Tcb, now: int) -> None:
    """ssthresh and cwnd at a timeout. One that ends a fast recovery belongs to the loss that the
    recovery began with: ssthresh was set for it, and what PRR has made of cwnd does not count."""
    cc = tcb.cc
    first = tcb.retries == 0 and not tcb.in_cwr  # RFC 3168 6.1.2: once for each window of data
    if tcb.in_recovery:
        before = cc.ssthresh
        cc.on_timeout(tcb.flight, tcb.snd_mss, first, now)
        cc.ssthresh = min(cc.ssthresh, before)
    else:
        cc.on_timeout(_counted(tcb, tcb.flight), tcb.snd_mss, first, now)


def _in_loss(stack: Stack, tcb: Tcb, found: Delivery, acked: int, flight: int, now: int) -> None:
    """After a timeout: slow start through what is missing, unless F-RTO finds nothing missing."""
    board = tcb.board
    if board.una >= tcb.recover_at:
        tcb.in_loss = False
        tcb.frto = 0
        tcb.undo = None
    elif tcb.frto:
        if found.original:  # RFC 5682 3.1 step 3b: the timeout was spurious
            stack.counters["tcp_spurious_rtos"] += 1
            _undo(stack, tcb, now)
            return
        if tcb.frto == FRTO_FIRST and acked and tcb.snd_buf.end > board.nxt:
            tcb.frto = FRTO_SECOND  # step 2b: `push` sends new data now, two segments at most
        else:
            tcb.frto = 0  # steps 2a and 3a
    if acked and found.newly and not tcb.echoed:
        tcb.cc.on_ack(found.newly, tcb.snd_mss, tcb.rtt.srtt, now)


def _remember(tcb: Tcb, now: int) -> None:
    """Keep what a spurious recovery must give back (RFC 4015, RFC 9438 4.9)."""
    if tcb.undo is None:
        tcb.undo = tcb.cc.to_state()
        tcb.undo_count = tcb.board.in_flight_again()  # of the recovery before: they may come back
        tcb.undo_from = tcb.board.una
        tcb.undo_at = now


def _was_for_nothing(tcb: Tcb, theirs: Options, found: Delivery) -> bool:
    """Did no segment need to be sent again? Because D-SACKs have come for all that were (RFC 3708),
    or by the timestamp (RFC 3522): what this recovery sent again is acknowledged, by an echo from
    before. While other retransmissions are in flight it says nothing of them (as Linux)."""
    if tcb.undo is None:
        return False
    if found.dsack is not None and found.dsack[1] > tcb.undo_from:
        tcb.undo_count -= 1
        if tcb.undo_count == 0:
            return True
    stamps = theirs.timestamps
    return (
        tcb.ts_on
        and stamps is not None
        and found.again_at >= tcb.undo_at
        and not tcb.board.again
        and seq.lt(stamps[1], tcb.timestamp(tcb.undo_at))
    )


def _undo(stack: Stack, tcb: Tcb, now: int) -> None:
    stack.counters["tcp_undo"] += 1
    stack.note(tcb, "spurious recovery", now, seq=tcb.snd_una)
    cwnd = tcb.cc.cwnd
    tcb.cc.restore(tcb.undo)
    tcb.cc.cwnd = max(tcb.cc.cwnd, cwnd)
    tcb.undo = None
    tcb.cwr_due = False
    tcb.rtt.backoff = 0  # RFC 4015 step 8: the timer that was wrong is not doubled for it
    tcb.in_recovery = tcb.in_loss = False
    tcb.frto = 0
    tcb.board.unmark()


def on_smaller_mtu(tcb: Tcb) -> None:
    """A packet was too big, which is no congestion: all goes again in smaller ones (RFC 1191)."""
    tcb.board.mark_all_lost()
    tcb.resizing = True


def retransmit_lost(stack: Stack, tcb: Tcb, now: int) -> None:
    """Send again what is lost, the oldest first, as far as the windows let it (NextSeg, rule 1)."""
    board = tcb.board
    cc = tcb.cc
    edge = board.una + tcb.snd_wnd
    segs = board.segs
    index = board.index(board.first_lost)
    while board.to_send:  # sending may split one: what is behind the cut is the next
        seg = segs[index]
        if seg.lost and not seg.again:
            board.first_lost = seg.start
            size = min(seg.end - seg.start, tcb.snd_mss)
            pipe = board.pipe
            if (pipe and pipe + size > cc.cwnd) or seg.start + size > edge:
                return
            retransmit_segment(stack, tcb, seg, now)
            if seg is board.segs[0]:
                _give_time(stack, tcb, now)
        index += 1


def _give_time(stack: Stack, tcb: Tcb, now: int) -> None:
    """The first segment has gone out again: the timer, which runs since before it was found lost,
    must not end before the answer can be here. RFC 6675 6 allows a timer started anew, as Linux
    does it; two round trips will do, after which RFC 8985 7.2 has any answer overdue."""
    wait = min(2 * tcb.rtt.srtt + 4 * tcb.rtt.rttvar, tcb.rtt.rto)
    ends = stack.timers.get((tcb.id, RTO))
    if ends is not None and ends < now + wait:
        stack.arm(tcb, RTO, now + wait)
