"""The sending half: what may go out now, and what an acknowledgement takes away."""

from __future__ import annotations

from typing import TYPE_CHECKING

from plywire import seq
from plywire.wire.tcp import Options
from services.tcp import autotune, chrono, recovery, sack_recovery
from services.tcp.congestion import ALGORITHMS, initial_window
from services.tcp.options import echoed_rtt
from services.tcp.sack_recovery import FRTO_SECOND, retransmit_lost
from services.tcp.scoreboard import MAX_SEGMENTS
from services.tcp.states import TRANSMITTING
from services.tcp.tail_loss import schedule
from services.tcp.tcb import CORK, ECN_WAIT, PERSIST, RTO, Tcb
from services.tcp.transmit import send_next

if TYPE_CHECKING:
    from services.tcp.stack import Stack

_CORK_TIME = 200_000_000  # Linux: a corked partial segment waits this long at most
_FALLBACK_RTO = 3_000_000_000
_MASK = 0xFFFF_FFFF


def push(stack: Stack, tcb: Tcb, now: int, override: bool = False) -> None:
    """Send all that windows and Nagle allow, in one go.

    override: a small segment has waited long enough (3.8.6.2.1, condition 4).
    """
    if tcb.state not in TRANSMITTING or tcb.syn_unacked:
        return
    board = tcb.board
    if board.to_send and tcb.frto != FRTO_SECOND:
        retransmit_lost(stack, tcb, now)
        if board.to_send:
            return  # what is missing goes before what is new
    if tcb.ecn_ect and stack.armed(tcb, ECN_WAIT):
        return
    buffer = tcb.snd_buf
    una = tcb.snd_una
    offset = buffer.start + ((tcb.snd_cursor - tcb.snd_buf_seq) & _MASK)
    end = buffer.end
    fin_offset = tcb.fin_offset if tcb.fin_offset == end else -1
    if offset >= end and offset != fin_offset:
        return
    mss = tcb.snd_mss
    cc = tcb.cc
    if una == tcb.snd_nxt:
        if now - tcb.last_send > tcb.rtt.rto:
            cc.on_idle(initial_window(stack.cfg.initial_window, mss))
        else:
            cc.on_unused(now)
    used = (tcb.snd_cursor - una) & _MASK
    congestion = cc.cwnd
    sacked = tcb.sack_ok
    if sacked:
        congestion += used - board.pipe
        if tcb.islands:
            mss -= _sack_length(tcb)
    elif 0 < tcb.dup_acks < 3 and tcb.snd_cursor == tcb.snd_nxt and not tcb.in_recovery:
        congestion += tcb.dup_acks * mss  # RFC 3042: limited transmit, new data only
    held = fin = rwnd_limited = False
    before = tcb.snd_nxt
    while (offset < end or offset == fin_offset) and len(board.segs) < MAX_SEGMENTS:
        length = min(end - offset, mss)
        room = tcb.snd_wnd - used
        if length > room:
            # 3.8.6.2.1, condition 3: less than there is, if it is half of the largest window.
            if room <= 0 or not (override or 2 * room >= tcb.max_snd_wnd):
                rwnd_limited = congestion - used >= length
                break
            length = room
        if length > congestion - used:
            break
        fin = offset + length == fin_offset and length < room
        if not length and not fin:
            break
        if length < mss and not fin and not override and _held_back(stack, tcb, now):
            held = True
            break
        send_next(stack, tcb, offset, length, fin, now)
        offset += length
        used += length
        if fin:
            break
    if tcb.frto == FRTO_SECOND and board.nxt == board.mark:
        # RFC 5682 3.1 step 2: the peer has no room for new data, so F-RTO cannot tell.
        tcb.frto = 0
        retransmit_lost(stack, tcb, now)
    if sacked and tcb.snd_nxt != before:
        schedule(stack, tcb, now)
    _waits_for(
        tcb, rwnd_limited, offset >= end and tcb.snd_nxt != before and used < congestion, now
    )
    if tcb.cork and not held:
        stack.disarm(tcb, CORK)
    if fin:
        return
    # Only a closed window leaves something behind while nothing is under way, and only a probe
    # finds out that it has opened again when the peer's word of it was lost (MUST-35).
    if not held and (offset < end or offset == fin_offset) and (tcb.id, RTO) not in stack.timers:
        key = (tcb.id, PERSIST)
        if key not in stack.timers:
            stack.timers.set(key, now + tcb.rtt.rto)


def _waits_for(tcb: Tcb, rwnd_limited: bool, starved: bool, now: int) -> None:
    """Keep the clocks of TCP_INFO. starved: all was sent, and more would have been allowed: then it
    is the send buffer that limits, if the app has used all its credit (tcp_cwnd_validate)."""
    if rwnd_limited:
        chrono.start(tcb, chrono.RWND_LIMITED, now)
    else:
        if tcb.chrono == chrono.RWND_LIMITED:
            chrono.stop(tcb, chrono.RWND_LIMITED, now)
        if starved and tcb.snd_buf.end >= tcb.told_limit > 0 and tcb.fin_offset < 0:
            chrono.start(tcb, chrono.SNDBUF_LIMITED, now)


def _held_back(stack: Stack, tcb: Tcb, now: int) -> bool:
    """Nagle (RFC 9293 3.7.4, MUST-17) as Minshall has it, and TCP_CORK: is a segment that is not
    full to wait? Minshall holds it back only while another small one is not acknowledged."""
    if tcb.snd_cursor != tcb.snd_nxt:
        return False  # it was sent before
    if tcb.cork:
        if not stack.armed(tcb, CORK):
            stack.arm(tcb, CORK, now + _CORK_TIME)
        return True
    return not tcb.nodelay and tcb.snd_una != tcb.snd_nxt and seq.gt(tcb.snd_small, tcb.snd_una)


def _sack_length(tcb: Tcb) -> int:
    """What the blocks take of a segment that also has data, as many as there are to report."""
    most = 3 if tcb.ts_on else 4
    return min(4 + 8 * min(len(tcb.islands), most), tcb.snd_mss // 2)


def syn_acknowledged(stack: Stack, tcb: Tcb, now: int) -> None:
    """Our SYN has arrived: the window of data begins here."""
    rtt = tcb.rtt
    if rtt.timed_seq is not None:
        rtt.timed_seq = None
        rtt.sample(now - rtt.timed_at)
    elif rtt.srtt == 0:  # RFC 6298 5.7: the SYN was sent twice, so nothing is known
        rtt.base, rtt.backoff = max(rtt.base, _FALLBACK_RTO), 0
    # RFC 6928 2: a SYN lost once may be bad luck, twice is congestion.
    segments = stack.cfg.initial_window if tcb.syn_retransmits < 2 else 1
    tcb.cc = ALGORITHMS[tcb.cc.name](initial_window(segments, tcb.snd_mss))
    tcb.recover = tcb.prev_una = seq.add(tcb.iss, -1)  # the first loss is to be repaired as well
    tcb.snd_una = tcb.snd_cursor = tcb.snd_buf_seq = tcb.snd_small = seq.add(tcb.iss, 1)
    tcb.retries = 0
    tcb.una_time = now
    stack.disarm(tcb, RTO)


def acknowledged(stack: Stack, tcb: Tcb, ack: int, theirs: Options, now: int) -> None:
    """SND.UNA < SEG.ACK =< SND.NXT: let go of what is acknowledged (3.10.7.4, fifth)."""
    flight = tcb.flight
    count = seq.sub(ack, tcb.snd_una)
    buffer = tcb.snd_buf
    data = min(count, len(buffer))  # FIN is not in the buffer
    if data:
        buffer.trim(buffer.start + data)
        tcb.snd_buf_seq = (tcb.snd_buf_seq + data) & _MASK
        tcb.bytes_acked += data
        stack.mark(tcb)
    rtt = tcb.rtt
    if tcb.sack_ok:
        pass  # the scoreboard knows when what was sent
    elif theirs.timestamps is not None and tcb.ts_on:
        measured = echoed_rtt(tcb, theirs.timestamps[1], now)  # RTTM, RFC 7323 4.1
        if measured:
            rtt.sample(measured, -(-flight // (2 * tcb.snd_mss)))
    elif rtt.timed_seq is not None and seq.ge(ack, rtt.timed_seq):
        rtt.timed_seq = None
        rtt.sample(now - rtt.timed_at)
    tcb.prev_una = tcb.snd_una
    tcb.snd_una = ack
    if seq.lt(tcb.snd_cursor, ack):
        tcb.snd_cursor = ack
    tcb.retries = 0
    tcb.una_time = now
    restart = True
    if tcb.sack_ok:
        sack_recovery.on_ack(stack, tcb, theirs, count, flight, now)
    else:
        restart = recovery.on_new_ack(stack, tcb, count, flight, now)
    autotune.grow_send(stack, tcb)
    if ack == tcb.snd_nxt:
        chrono.stop(tcb, chrono.BUSY, now)
    if ack == tcb.snd_nxt:
        stack.timers.cancel((tcb.id, RTO))  # RFC 6298 5.2
        if not len(buffer) and (tcb.fin_sent or tcb.fin_offset < 0):
            stack.timers.cancel((tcb.id, PERSIST))  # the byte of a probe was the last one
    elif restart and (tcb.id, RTO) in stack.timers:
        stack.timers.set((tcb.id, RTO), now + rtt.rto)  # RFC 6298 5.3
    if tcb.sack_ok:
        schedule(stack, tcb, now)


def update_window(
    stack: Stack, tcb: Tcb, seq_number: int, ack: int, window: int, acked: bool
) -> None:
    """SND.WND from a segment that is not older than the last one that set it.

    acked: it has moved SND.UNA. Then it cannot be old, though it may repeat data from below
    SND.WL1; with the old window SND.UNA + SND.WND would be beyond what was ever offered. So Linux.
    """
    if (
        acked
        or seq.lt(tcb.snd_wl1, seq_number)
        or (tcb.snd_wl1 == seq_number and seq.le(tcb.snd_wl2, ack))
    ):
        tcb.snd_wnd = window
        tcb.snd_wl1 = seq_number
        tcb.snd_wl2 = ack
        if window > tcb.max_snd_wnd:
            tcb.max_snd_wnd = window
        if window and tcb.probe_backoff:
            tcb.probe_backoff = 0
            stack.disarm(tcb, PERSIST)
