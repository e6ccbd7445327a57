"""Tail loss probes (RFC 8985 section 7): when the last segments of a flight are lost nothing comes
back that could tell. A probe after two round trips brings an answer that does."""

from __future__ import annotations

from typing import TYPE_CHECKING

from services.tcp import ecn
from services.tcp.tcb import RTO, TAIL_LOSS, Tcb
from services.tcp.transmit import retransmit_segment, send_next

if TYPE_CHECKING:
    from services.tcp.scoreboard import Delivery
    from services.tcp.stack import Stack

_NO_RTT = 1_000_000_000
_LEAST = 2_000_000  # Linux: two ticks


def schedule(stack: Stack, tcb: Tcb, now: int) -> None:
    """Section 7.2: after new data and after each acknowledgement, while nothing is known lost."""
    board = tcb.board
    key = (tcb.id, TAIL_LOSS)
    if (
        not board.segs
        or tcb.tlp_end >= 0
        or tcb.in_recovery
        or tcb.in_loss
        or board.sacked
        or not stack.cfg.rack
    ):
        stack.timers.cancel(key)
        return
    # 2 * SRTT is too early where a queue is building up: then the variance is large.
    rtt = tcb.rtt
    wait = max(2 * rtt.srtt, rtt.srtt + 4 * rtt.rttvar, _LEAST) if rtt.srtt else _NO_RTT
    if len(board.segs) == 1 or board.nxt - board.una < 2 * tcb.snd_mss:
        wait += stack.cfg.rto_min  # the answer may be a delayed one (WCDelAckT)
    last = stack.timers.get((tcb.id, RTO))
    when = now + wait
    if last is not None and when >= last:
        when = max(last - 1, now)
    stack.timers.set(key, when)


def probe(stack: Stack, tcb: Tcb, now: int) -> None:
    """Section 7.3: a new segment if there is one and the peer has room, else the last one again."""
    board = tcb.board
    if not board.segs or board.sacked or tcb.tlp_end >= 0 or tcb.in_recovery or tcb.in_loss:
        return
    buffer = tcb.snd_buf
    offset = board.nxt
    length = min(buffer.end - offset, tcb.snd_mss)
    tcb.tlp_again = not (length > 0 and tcb.flight + length <= tcb.snd_wnd)
    if tcb.tlp_again:
        seg = board.segs[-1]
        if seg.end - seg.start > tcb.snd_mss:
            board.split(seg, seg.end - seg.start - tcb.snd_mss)
            seg = board.segs[-1]
        retransmit_segment(stack, tcb, seg, now)
    else:
        fin = tcb.fin_offset == offset + length and tcb.flight + length < tcb.snd_wnd
        send_next(stack, tcb, offset, length, fin, now)
    tcb.tlp_end = board.nxt
    stack.counters["tcp_loss_probes"] += 1
    stack.disarm(tcb, TAIL_LOSS)
    stack.arm(tcb, RTO, now + tcb.rtt.rto)


def acknowledged(stack: Stack, tcb: Tcb, found: Delivery, una: int, flight: int, now: int) -> None:
    """Section 7.4: was it the probe that repaired a loss? Then the loss was congestion.

    flight: what was in flight before this acknowledgement.
    """
    if tcb.tlp_end < 0 or una < tcb.tlp_end:
        return
    if tcb.tlp_again and found.dsack is None and una > tcb.tlp_end:
        stack.counters["tcp_loss_probe_recovery"] += 1
        if not tcb.in_cwr:  # RFC 3168 6.1.2: once for each window of data
            tcb.cc.on_loss(min(flight, tcb.cc.cwnd), tcb.snd_mss, now)
        ecn.reduced(tcb)
        tcb.cc.cwnd = tcb.cc.ssthresh
        tcb.tlp_end = -1
    elif not tcb.tlp_again or found.dsack is not None or not found.newly:
        tcb.tlp_end = -1
