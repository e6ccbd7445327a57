"""Old duplicates and blind guesses: PAWS (RFC 7323 5), and challenge ACKs (RFC 5961)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from plywire import seq
from plywire.wire.tcp import FIN, RST, Options, TcpHeader
from services.tcp.tcb import Tcb

if TYPE_CHECKING:
    from services.tcp.stack import Stack

_CHALLENGES = 10  # RFC 5961 section 7: so many a connection in _CHALLENGE_TIME
_CHALLENGE_TIME = 1_000_000_000
_TS_RECENT_VALID = 24 * 86_400 * 1_000_000_000  # RFC 7323 5.5: a 1 ms clock wraps in 24.8 days


def check_timestamps(
    stack: Stack, tcb: Tcb, header: TcpHeader, theirs: Options, data: bytes, now: int
) -> bool:
    """Before all: protection against wrapped sequence numbers (RFC 7323 5.3, R1), never for RST.

    Then R3, when the segment is next to be acknowledged and in the window.
    """
    flags = header.flags
    stamps = theirs.timestamps
    if flags & RST:
        return True
    if stamps is None:
        stack.drop("no_timestamp", now)  # 3.2: in every segment, once agreed
        return False
    tsval = stamps[0]
    if seq.lt(tsval, tcb.ts_recent):
        if now - tcb.ts_recent_at < _TS_RECENT_VALID:
            stack.counters["tcp_paws_rejected"] += 1
            stack.drop("paws", now)
            if data or flags & FIN:
                tcb.ack_now = True
            else:
                challenge(stack, tcb, now)
            return False
    elif tsval == tcb.ts_recent:
        return True
    length = len(data) + (flags >> 1 & 1) + (flags & FIN)
    if seq.le(header.seq, tcb.ack_sent) and (
        header.seq == tcb.rcv_nxt or seq.gt(seq.add(header.seq, length), tcb.rcv_nxt)
    ):
        tcb.ts_recent, tcb.ts_recent_at = tsval, now
    return True


def challenge(stack: Stack, tcb: Tcb, now: int) -> None:
    """<SEQ=SND.NXT><ACK=RCV.NXT><CTL=ACK>, but not without end (RFC 5961 section 7)."""
    if may_challenge(tcb, now):
        stack.counters["tcp_challenge_ack"] += 1
        stack.send_ack(tcb)
    else:
        stack.counters["tcp_challenge_ack_limited"] += 1


def may_challenge(tcb: Tcb, now: int) -> bool:
    """Has this connection an answer left for this second?"""
    if now - tcb.challenge_start >= _CHALLENGE_TIME:
        tcb.challenge_start = now
        tcb.challenges = 0
    tcb.challenges += 1
    return tcb.challenges <= _CHALLENGES
