"""ICMP errors about our segments: soft, hard, and too big (RFC 1122 4.2.3.9, RFC 5927, RFC 1191).

What an error quotes must be in flight, or anybody could make one up. On a connection that has been
established none is taken for the truth: it is kept, and reported if the connection then times out.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

from plywire import seq
from plywire.messages import PacketError
from plywire.paths import MIN_PMTU
from plywire.wire.icmp import (
    FRAGMENTATION_NEEDED,
    HOST_UNREACHABLE,
    NET_UNREACHABLE,
    PARAMETER_PROBLEM,
    PORT_UNREACHABLE,
    PROTOCOL_UNREACHABLE,
    TIME_EXCEEDED,
    UNREACHABLE,
)
from services.tcp import options, recovery, sack_recovery
from services.tcp.sender import push
from services.tcp.states import RCV_ERROR, SYN_SENT
from services.tcp.tcb import Tcb

if TYPE_CHECKING:
    from services.tcp.stack import Stack

_QUOTE = struct.Struct("!HHI")

_ERRNO = {NET_UNREACHABLE: "ENETUNREACH", HOST_UNREACHABLE: "EHOSTUNREACH",
          PROTOCOL_UNREACHABLE: "ENOPROTOOPT", PORT_UNREACHABLE: "ECONNREFUSED",
          5: "EOPNOTSUPP", 6: "ENETUNREACH", 7: "EHOSTDOWN", 8: "ENONET", 9: "ENETUNREACH",
          10: "EHOSTUNREACH", 11: "ENETUNREACH", 12: "EHOSTUNREACH", 13: "EHOSTUNREACH",
          14: "EHOSTUNREACH", 15: "EHOSTUNREACH"}  # fmt: skip
"""errno by the code of "destination unreachable", as Linux has it."""

_HARD = (PROTOCOL_UNREACHABLE, PORT_UNREACHABLE)
_LOCAL_AT_ONCE = (NET_UNREACHABLE, HOST_UNREACHABLE)


def packet_error(stack: Stack, error: PacketError, now: int) -> None:
    """Take an error about a segment of ours."""
    if len(error.quote) < _QUOTE.size:
        stack.drop("icmp_short_quote", now)
        return
    src_port, dst_port, number = _QUOTE.unpack_from(error.quote)
    tcb = stack.connections.get((error.src, src_port, error.dst, dst_port))
    if tcb is None:
        stack.drop("icmp_for_nobody", now)
        return
    if not seq.between(tcb.snd_una, number, tcb.snd_nxt):  # RFC 5927 section 4.1
        stack.drop("icmp_not_in_flight", now)
        return
    if error.type == UNREACHABLE and error.code == FRAGMENTATION_NEEDED:
        _too_big(stack, tcb, error, now)
        return
    name, words = _meaning(error)
    if not name:
        stack.drop("icmp_ignored", now)
        return
    stack.note(tcb, "ICMP error", now, type=error.type, code=error.code, error=name)
    at_once = error.code in (_LOCAL_AT_ONCE if error.local else _HARD)
    if tcb.state == SYN_SENT and error.type == UNREACHABLE and at_once:
        stack.end(tcb, RCV_ERROR, name, words, now)
        return
    tcb.soft_error, tcb.soft_cause = name, words


def _meaning(error: PacketError) -> tuple[str, str]:
    """errno and words; empty for what RFC 6633 and RFC 6918 retire or nobody knows."""
    reporter = "this host" if error.local else ".".join(map(str, error.reporter))
    if error.type == UNREACHABLE and error.code in _ERRNO:
        return _ERRNO[error.code], f"ICMP unreachable, code {error.code}, from {reporter}"
    if error.type == TIME_EXCEEDED:
        return "EHOSTUNREACH", f"ICMP time exceeded from {reporter}"
    if error.type == PARAMETER_PROBLEM:
        return "EPROTO", f"ICMP parameter problem from {reporter}"
    return "", ""


def _too_big(stack: Stack, tcb: Tcb, error: PacketError, now: int) -> None:
    """RFC 1191: smaller segments from now on, and what is out again at once."""
    mtu = max(error.mtu or 576, MIN_PMTU)  # 576: a router that does not say (section 5)
    if 0 < error.mtu < MIN_PMTU and tcb.dont_fragment:
        tcb.dont_fragment = False  # the rest is for fragments, as Linux does below min_pmtu
    elif mtu >= tcb.path_mtu:
        stack.drop("icmp_not_smaller", now)
        return
    stack.counters["tcp_mtu_lowered"] += 1
    stack.note(tcb, "path MTU", now, before=tcb.path_mtu, after=mtu)
    tcb.path_mtu = min(mtu, tcb.path_mtu)
    stack.paths.learn(tcb.remote_address, tcb.path_mtu, now)
    tcb.snd_mss = options.effective_mss(tcb)
    if not tcb.syn_unacked:
        engine = sack_recovery if tcb.sack_ok else recovery
        engine.on_smaller_mtu(tcb)
        push(stack, tcb, now)
