"""Finding losses and repairing them: fast retransmit and fast recovery by RFC 5681 and RFC 6582,
limited transmit by RFC 3042.

The sender asks here on every acknowledgement. Another way of finding losses (SACK, RACK) is another
set of these three functions.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from plywire import seq
from services.tcp import ecn
from services.tcp.tcb import Tcb
from services.tcp.transmit import retransmit_first

if TYPE_CHECKING:
    from services.tcp.stack import Stack

_DUP_ACKS = 3


def on_new_ack(stack: Stack, tcb: Tcb, acked: int, flight: int, now: int) -> bool:
    """SND.UNA has moved by `acked`; flight: what was in flight before.

    Returns whether the retransmission timer is to be restarted.
    """
    cc = tcb.cc
    mss = tcb.snd_mss
    if not tcb.in_recovery:
        tcb.dup_acks = 0
        # RFC 5681 3.1, RFC 7661: a window that is not used says nothing of the network.
        used = 2 * flight >= cc.cwnd if cc.cwnd < cc.ssthresh else flight + mss > cc.cwnd
        if used and not tcb.echoed:  # RFC 3168 6.1.2
            cc.on_ack(acked, mss, tcb.rtt.srtt, now)
        elif not used:
            cc.on_unused(now)
        return True
    if seq.gt(tcb.snd_una, tcb.recover):  # RFC 6582 3.2 step 3: a full acknowledgement
        tcb.in_recovery = False
        tcb.dup_acks = 0
        cc.on_recovered(tcb.flight, mss, now)
        return True
    # A partial one: the next segment is missing too. Deflate by what has left the network.
    retransmit_first(stack, tcb, now)
    cc.cwnd = max(cc.cwnd - acked, mss) + (mss if acked >= mss else 0)
    tcb.partial_acks += 1
    return tcb.partial_acks == 1  # RFC 6582 3.2 step 3: the timer starts again for the first


def on_duplicate_ack(stack: Stack, tcb: Tcb, now: int) -> None:
    """An ACK as RFC 5681 section 2 defines a duplicate has come."""
    tcb.dup_acks += 1
    cc = tcb.cc
    mss = tcb.snd_mss
    if tcb.in_recovery:
        cc.cwnd += mss  # RFC 5681 3.2 step 4: a segment has left the network
        return
    if tcb.dup_acks == 1:
        tcb.limited_from = tcb.snd_nxt
    if tcb.dup_acks != _DUP_ACKS or not _is_new_loss(tcb):
        return
    # RFC 5681 3.2 step 2: what limited transmit has sent is not counted.
    if not tcb.in_cwr:  # RFC 3168 6.1.2: once for each window of data
        cc.on_loss(seq.sub(tcb.limited_from, tcb.snd_una), mss, now)
    ecn.reduced(tcb)
    tcb.recover = seq.add(tcb.snd_nxt, -1)
    tcb.in_recovery = True
    tcb.partial_acks = 0
    stack.counters["tcp_fast_retrans"] += 1
    stack.note(tcb, "fast retransmit", now, seq=tcb.snd_una)
    retransmit_first(stack, tcb, now)
    cc.cwnd = cc.ssthresh + _DUP_ACKS * mss


def _is_new_loss(tcb: Tcb) -> bool:
    """RFC 6582 3.2 step 1, or by the heuristic of its section 4.1: the duplicates may also answer
    segments that a timeout sent again for nothing."""
    if seq.gt(seq.add(tcb.snd_una, -1), tcb.recover):
        return True
    jump = seq.sub(tcb.snd_una, tcb.prev_una)
    return tcb.cc.cwnd > tcb.snd_mss and jump <= 4 * tcb.snd_mss


def on_timeout(stack: Stack, tcb: Tcb, now: int) -> None:
    """The retransmission timer ran out: one segment again, then all the rest in slow start."""
    first = tcb.retries == 0 and not tcb.in_cwr
    tcb.cc.on_timeout(tcb.flight, tcb.snd_mss, first, now)
    tcb.recover = seq.add(tcb.snd_nxt, -1)  # RFC 6582 3.2 step 4
    tcb.in_recovery = False
    tcb.dup_acks = 0
    tcb.snd_cursor = retransmit_first(stack, tcb, now)


def on_smaller_mtu(tcb: Tcb) -> None:
    """A packet was too big, which is no congestion: all is sent again in smaller ones
    (RFC 1191 6.4)."""
    tcb.recover = seq.add(tcb.snd_nxt, -1)
    tcb.in_recovery = False
    tcb.dup_acks = 0
    tcb.snd_cursor = tcb.snd_una
    tcb.rtt.timed_seq = None
