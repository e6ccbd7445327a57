"""Explicit congestion notification (RFC 3168 section 6.1).

Two things are agreed on with the SYNs, and they are not the same (6.1.1). `ecn_ok`: we have sent an
ECN-setup SYN or SYN,ACK, so the peer's data may bear a mark, which is echoed. `ecn_ect`: nothing
that either side has sent says otherwise, so our own data may be marked.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from plywire import seq
from plywire.wire.tcp import ACK, CWR, ECE
from services.tcp.states import SYN_SENT
from services.tcp.tcb import ECN_WAIT, Tcb

if TYPE_CHECKING:
    from plywire.config import TcpConfig
    from services.tcp.stack import Stack

ECT_0 = 2
CE = 3
_SETUP = ECE | CWR


# --- negotiation ----------------------------------------------------------------------------------


def syn_flags(cfg: TcpConfig, tcb: Tcb, answer: bool) -> int:
    """What a SYN, or a SYN,ACK (answer), has of ECE and CWR.

    A SYN that is sent again asks no more: what is in the way may drop those that do (6.1.1.1).
    """
    if answer:
        return ECE if tcb.ecn_ect else 0
    if cfg.ecn != "on" or tcb.syn_retransmits:
        return 0
    tcb.ecn_asked = True
    return _SETUP


def syn_arrived(stack: Stack, tcb: Tcb, flags: int) -> None:
    """The peer's first SYN or SYN,ACK. One that echoes our own ECE and CWR knows no ECN (6.1.1.2).

    A SYN that is itself ECT comes from no sender of RFC 3168, or was tampered with.
    """
    wanted = _SETUP if not flags & ACK else ECE
    if flags & _SETUP != wanted:
        return
    if tcb.state == SYN_SENT:
        tcb.ecn_ok = tcb.ecn_asked
        tcb.ecn_ect = tcb.ecn_asked and not tcb.syn_retransmits  # MUST NOT after a plain SYN
    else:
        tcb.ecn_ok = tcb.ecn_ect = stack.cfg.ecn != "off" and not stack.codepoint


def syn_repeated(tcb: Tcb, flags: int) -> None:
    """A SYN or SYN,ACK more from the peer: without ECN-setup, it wants none any more (6.1.1)."""
    if flags & _SETUP != (_SETUP if not flags & ACK else ECE):
        tcb.ecn_ect = False


# --- the receiver ---------------------------------------------------------------------------------


def text_arrived(stack: Stack, tcb: Tcb, flags: int, start: int, length: int) -> None:
    """Text has come: CE is echoed until CWR says that the peer knows (6.1.3).

    Not of what is a repeat or outside the window, which anybody may have sent (6.1.5), nor of a
    probe of a closed one (6.1.6). As Linux, each change is told at once, not with a delayed ACK.
    """
    ahead = seq.sub(start, tcb.rcv_nxt)
    if ahead + length <= 0 or ahead >= tcb.rcv_wnd:
        return
    if flags & CWR and tcb.ece_due:
        tcb.ece_due = False
        tcb.ack_now = True
    if stack.codepoint:
        tcb.ecn_seen = True
    if stack.codepoint == CE and not tcb.ece_due:
        tcb.ece_due = True
        tcb.ack_now = True


# --- the sender -----------------------------------------------------------------------------------


def on_ack(stack: Stack, tcb: Tcb, flags: int, ahead: int, now: int) -> None:
    """An acceptable acknowledgement of `ahead` more, before what it acknowledges is let go.

    ECE is congestion, once for each window of data (6.1.2): again only when data is acknowledged
    that was sent after the window was reduced, with CWR.
    """
    at = tcb.snd_una_offset + ahead
    if tcb.in_cwr and at > tcb.cwr_until:
        tcb.in_cwr = False
        if tcb.sack_ok:
            tcb.cc.cwnd = tcb.cc.ssthresh  # RFC 9937 section 6
    tcb.echoed = bool(flags & ECE)
    if not tcb.echoed:
        return
    count = -(-ahead // tcb.snd_mss)
    tcb.delivered_ce += count
    stack.counters["tcp_delivered_ce"] += count
    if tcb.in_recovery or tcb.in_loss:
        tcb.undo = None  # there is congestion, whatever was sent again for nothing
    elif tcb.flight and at > tcb.cwr_until:
        _reduce(stack, tcb, now)


def _reduce(stack: Stack, tcb: Tcb, now: int) -> None:
    cc = tcb.cc
    one = cc.cwnd <= tcb.snd_mss
    cc.on_loss(min(tcb.flight, cc.cwnd), tcb.snd_mss, now)
    reduced(tcb)
    if one:
        # 6.1.2: less than a segment a round trip is one segment a retransmission timeout.
        stack.arm(tcb, ECN_WAIT, now + tcb.rtt.rto)
    elif cc.cwnd <= 2 * tcb.snd_mss:
        cc.cwnd = tcb.snd_mss  # RFC 9438 4.6: the floor of two segments is that of ssthresh
    else:
        tcb.in_cwr = True
        if tcb.sack_ok:  # PRR brings the window down over a round trip, as Linux does
            tcb.prr_delivered = tcb.prr_out = 0
            tcb.recover_fs = max(tcb.flight - tcb.board.sacked, 1)
        else:
            cc.cwnd = min(cc.cwnd, cc.ssthresh)
    stack.counters["tcp_ecn_reductions"] += 1
    stack.note(tcb, "congestion echoed", now, seq=tcb.snd_una)


def reduced(tcb: Tcb) -> None:
    """The window was reduced, for whatever reason: the next new data says so with CWR, and no mark
    on what is in flight reduces it once more (6.1.2)."""
    tcb.in_cwr = False
    if tcb.ecn_ect:
        tcb.cwr_due = True
        tcb.cwr_until = tcb.snd_una_offset + tcb.flight
