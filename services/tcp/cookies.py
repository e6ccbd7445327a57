"""SYN cookies (RFC 4987 section 3.6): with the queue of handshakes full, nothing is kept of a SYN
that is answered. What must be known later is in the sequence number and the timestamp that the
peer's ACK brings back: five bits of time, three of MSS, 24 of a keyed hash; scale, SACK
and ECN in the low bits of the timestamp."""

from __future__ import annotations

from typing import TYPE_CHECKING

from plywire import seq
from plywire.isn import endpoint_hash
from plywire.paths import Path
from plywire.wire.tcp import ACK, MAX_WINDOW_SHIFT, SYN, Options, TcpHeader
from services.tcp import ecn, options, user_calls
from services.tcp.tcb import Key, Tcb

if TYPE_CHECKING:
    from services.tcp.stack import Stack

PERIOD = 64 * 1_000_000_000
"""The clock of cookies; one is good for this period and the next."""

_MSS = (536, 1024, 1220, 1300, 1440, 1460, 4312, 8960)
_NO_SCALE = 15
_ECN = 0x20  # of the timestamp


def answer(
    stack: Stack, key: Key, header: TcpHeader, theirs: Options, path: Path, now: int
) -> None:
    """Send SYN,ACK with a cookie, and forget the SYN."""
    cfg = stack.cfg
    tcb = Tcb(cfg)  # for as long as it takes to write the segment
    tcb.local_address, tcb.local_port, tcb.remote_address, tcb.remote_port = key
    tcb.trace = stack.trace
    user_calls.prepare(stack, tcb, path, cfg.receive_buffer, now)
    tcb.rcv_nxt = seq.add(header.seq, 1)
    if theirs.timestamps is None:  # no place to keep them in
        theirs = theirs._replace(window_scale=None, sack_permitted=False)
    options.negotiate(cfg, tcb, theirs, now)
    if tcb.ts_on:
        ecn.syn_arrived(stack, tcb, header.flags)
        clock = tcb.timestamp(now)
        scale = tcb.snd_scale if tcb.rcv_scale else _NO_SCALE
        wanted = (clock & ~0x3F) | scale | tcb.sack_ok << 4 | (_ECN if tcb.ecn_ect else 0)
        if wanted > clock:
            wanted -= 0x40
        tcb.ts_offset += wanted - clock
    index = max(sum(mss <= tcb.peer_mss for mss in _MSS) - 1, 0)
    iss = _cookie(stack, key, header.seq, now // PERIOD, index)
    stack.cookies_until = now + 2 * PERIOD
    stack.counters["tcp_syncookies_sent"] += 1
    stack.send(
        tcb,
        SYN | ACK | ecn.syn_flags(cfg, tcb, True),
        iss,
        b"",
        options.syn_options(cfg, tcb, True, now),
    )


def check(stack: Stack, key: Key, header: TcpHeader, theirs: Options, now: int) -> Options | None:
    """The options of the SYN that the ACK of a cookie answers; None when it answers none."""
    if now >= stack.cookies_until:
        return None
    cookie = seq.add(header.ack, -1)
    irs = seq.add(header.seq, -1)
    period = now // PERIOD
    index = cookie >> 24 & 7
    if not any(
        cookie == _cookie(stack, key, irs, when, index) for when in (period, max(period - 1, 0))
    ):
        stack.counters["tcp_syncookies_failed"] += 1
        return None
    stack.counters["tcp_syncookies_recv"] += 1
    found = Options(mss=_MSS[index])
    if theirs.timestamps is None:
        return found
    kept = theirs.timestamps[1] & 0x1F
    scale = kept & 0xF
    return found._replace(
        window_scale=scale if scale <= MAX_WINDOW_SHIFT else None,
        sack_permitted=bool(kept & 0x10),
        timestamps=theirs.timestamps,
    )


def agreed_on_ecn(theirs: Options) -> bool:
    """Did our SYN,ACK, which such an ACK answers, agree to ECN?"""
    return theirs.timestamps is not None and bool(theirs.timestamps[1] & _ECN)


def _cookie(stack: Stack, key: Key, irs: int, period: int, index: int) -> int:
    proof = endpoint_hash(
        stack.isn.key, b"cookie", *key, irs.to_bytes(4, "big"), period.to_bytes(8, "big"), index
    )
    return (period & 0x1F) << 27 | index << 24 | proof & 0xFF_FFFF
