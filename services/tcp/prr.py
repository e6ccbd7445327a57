"""Proportional rate reduction (RFC 9937): how much to send while losses are repaired.

The window goes from what was in flight down to ssthresh evenly, over one round trip, clocked by
what arrives; it never stalls, and never sends more than arrives and one segment.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from services.tcp.tcb import Tcb


def enter(tcb: Tcb, sacked: int, acked: int) -> None:
    """Recovery begins with an acknowledgement that reported so many new bytes (section 6)."""
    board = tcb.board
    tcb.prr_delivered = tcb.prr_out = 0
    tcb.recover_fs = max(board.nxt - board.una - board.sacked + sacked + acked, 1)
    on_ack(tcb, sacked + acked, False)
    if board.pipe + tcb.snd_mss > tcb.cc.cwnd:
        tcb.cc.cwnd = board.pipe + tcb.snd_mss  # the first retransmission is never held


def on_ack(tcb: Tcb, delivered: int, safe: bool) -> None:
    """safe: SND.UNA has moved, and nothing more was found lost (SafeACK)."""
    cc = tcb.cc
    mss = tcb.snd_mss
    if not delivered:
        return
    tcb.prr_delivered += delivered
    pipe = tcb.board.pipe
    if pipe > cc.ssthresh:
        count = -(-tcb.prr_delivered * cc.ssthresh // tcb.recover_fs) - tcb.prr_out
    else:
        limit = max(tcb.prr_delivered - tcb.prr_out, delivered)
        if safe:
            limit += mss
        count = min(cc.ssthresh - pipe, limit)
    if not tcb.prr_out and count <= 0:
        count = mss
    cc.cwnd = max(pipe + max(count, 0), mss)
