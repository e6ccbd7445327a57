"""Options on both sides: those of TCP headers, agreed on SYNs, and those that programs set."""

from __future__ import annotations

from typing import TYPE_CHECKING

from plywire import seq
from plywire.wire.ipv4 import MIN_HEADER as IP_HEADER
from plywire.wire.tcp import MAX_WINDOW_SHIFT, MIN_HEADER, Options, build_options
from services.tcp.congestion import ALGORITHMS
from services.tcp.tcb import DEFAULT_MSS, TICK, Tcb

if TYPE_CHECKING:
    from plywire.config import TcpConfig

TIMESTAMPS_LENGTH = 12
"""Bytes that the timestamps option takes in each segment, padding included."""
_HEADERS = IP_HEADER + MIN_HEADER
_MIN_MSS = 48  # a smaller one offered by a peer would make us send mostly headers
_USUAL_SHIFT = 7  # Linux's, from a largest receive buffer of 6 MiB
_SECOND = 1_000_000_000


def receive_scale(buffer: int) -> int:
    """The window shift to offer for a receive buffer of so many bytes (RFC 7323 2.3)."""
    shift = _USUAL_SHIFT
    while 0xFFFF << shift < buffer and shift < MAX_WINDOW_SHIFT:
        shift += 1
    return shift


def local_mss(tcb: Tcb) -> int:
    """The MSS to offer: what the link's MTU leaves, unless the program wants less (MUST-67). What
    has been learnt of the path is of the other direction, and does not count (RFC 2923 2.3)."""
    mss = max(tcb.link_mtu - _HEADERS, DEFAULT_MSS) if tcb.link_mtu else DEFAULT_MSS
    return min(mss, tcb.maxseg) if tcb.maxseg else mss


def effective_mss(tcb: Tcb) -> int:
    """Eff.snd.MSS of RFC 9293 3.7.1: the peer's word, the path and the program's wish, less what
    the options of every segment take (MUST-16, RFC 6691)."""
    mss = min(tcb.peer_mss, tcb.path_mtu - _HEADERS)
    mss = min(mss, tcb.maxseg) if tcb.maxseg else mss
    return max(mss - TIMESTAMPS_LENGTH if tcb.ts_on else mss, 1)


def echoed_rtt(tcb: Tcb, tsecr: int, now: int) -> int:
    """The round trip that an echoed timestamp tells, in nanoseconds; 0 when it cannot be."""
    ticks = seq.sub(tcb.timestamp(now), tsecr)
    return max(ticks, 1) * TICK if 0 <= ticks < 1 << 24 else 0


def syn_options(cfg: TcpConfig, tcb: Tcb, answer: bool, now: int) -> bytes:
    """The options of a SYN, or of a SYN,ACK (answer), which has what the peer's SYN has as well."""
    scaling = tcb.rcv_scale > 0 if answer else cfg.window_scaling
    stamps = tcb.ts_on if answer else cfg.timestamps
    return build_options(
        Options(
            local_mss(tcb),
            tcb.rcv_scale if scaling else None,
            sack_permitted=tcb.sack_ok if answer else cfg.sack,
            timestamps=(tcb.timestamp(now), tcb.ts_recent if answer else 0) if stamps else None,
        ),
        cfg.option_order,
    )


def negotiate(cfg: TcpConfig, tcb: Tcb, theirs: Options, now: int) -> None:
    """Write what both SYNs say into the block: an option is in use when both have it.

    RFC 7323 2.2: windows are scaled when both SYNs have the option, else neither is.
    """
    if cfg.timestamps and theirs.timestamps is not None:
        tcb.ts_on = True
        tcb.ts_recent, tcb.ts_recent_at = theirs.timestamps[0], now
    tcb.sack_ok = cfg.sack and theirs.sack_permitted
    tcb.peer_mss = DEFAULT_MSS if theirs.mss is None else max(theirs.mss, _MIN_MSS)
    tcb.snd_mss = effective_mss(tcb)
    if cfg.window_scaling and theirs.window_scale is not None:
        tcb.snd_scale = theirs.window_scale
    else:
        tcb.snd_scale = tcb.rcv_scale = 0


def set_option(tcb: Tcb, name: str, value: int | str) -> None:
    """Set a socket option by Linux's name. One that is not TCP's business is passed over: app has
    refused what does not exist."""
    if name == "TCP_CONGESTION":
        factory = ALGORITHMS.get(value)
        chosen = factory(tcb.cc.cwnd) if factory is not None else tcb.cc
        if chosen.name != tcb.cc.name:
            chosen.ssthresh = tcb.cc.ssthresh
            tcb.cc = chosen
            tcb.undo = None  # the old one's memory means nothing to the new one
        return
    if not isinstance(value, int):
        return
    flag = _FLAGS.get(name)
    if flag is not None:
        setattr(tcb, flag, value != 0)
        return
    if name == "SO_RCVBUF":
        tcb.rcv_ssthresh, tcb.rcv_locked = value, True
        return
    tcb.snd_locked |= name == "SO_SNDBUF"
    number = _NUMBERS.get(name)
    if number is not None:
        field, unit, low = number
        setattr(tcb, field, max(value, low) * unit)
        if field == "user_timeout":
            tcb.uto_due, tcb.uto_adopted = value > 0, False
        if field == "maxseg":
            tcb.snd_mss = effective_mss(tcb) if tcb.path_mtu else tcb.snd_mss
    elif name == "TCP_QUICKACK":
        tcb.quick_acks = max(tcb.quick_acks, 16) if value else 0


_FLAGS = {
    "TCP_NODELAY": "nodelay",
    "TCP_CORK": "cork",
    "TCP_THIN_LINEAR_TIMEOUTS": "thin_linear",
    "SO_KEEPALIVE": "keepalive",
    "SO_REUSEADDR": "reuse",
}
_NUMBERS = {  # field, unit, the least that makes sense
    "TCP_KEEPIDLE": ("keep_idle", _SECOND, 1),
    "TCP_KEEPINTVL": ("keep_interval", _SECOND, 1),
    "TCP_KEEPCNT": ("keep_count", 1, 1),
    "TCP_SYNCNT": ("syn_count", 1, 1),
    "TCP_USER_TIMEOUT": ("user_timeout", 1_000_000, 0),
    "TCP_LINGER2": ("linger2", _SECOND, -1),
    "TCP_MAXSEG": ("maxseg", 1, 0),
    "IP_TOS": ("tos", 1, 0),
    "SO_SNDBUF": ("send_buffer", 1, 2048),
}
