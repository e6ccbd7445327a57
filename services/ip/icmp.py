"""ICMP: which errors may be sent and what they quote, echo, and what errors received mean."""

from __future__ import annotations

from collections import Counter
from typing import NamedTuple

from plywire.config import SECOND
from plywire.errors import DecodeError
from plywire.wire import icmp, ipv4
from plywire.wire.icmp import IcmpMessage
from plywire.wire.ipv4 import Ipv4Header
from services.ip.addresses import FIRST_GROUP, Addresses
from services.ip.echo import EchoReply

ERROR_PACKET = 576
"""An error packet is at most this long (RFC 1812 4.3.2.3), so that it arrives everywhere."""
QUOTE_MAX = ERROR_PACKET - ipv4.MIN_HEADER - icmp.HEADER_LENGTH
QUOTED_PAYLOAD_MIN = 8
ERROR_TOS = 0xC0
"""Internetwork control precedence (RFC 1812 4.3.2.5)."""

TIMESTAMP = 13
TIMESTAMP_REPLY = 14

PLATEAUS = (32_000, 17_914, 8166, 4352, 2002, 1492, 1006, 508, 296, 68)
"""MTUs to guess from when a router does not tell its own (RFC 1191 section 7)."""

_QUERIES = frozenset({icmp.ECHO_REPLY, icmp.ECHO_REQUEST, TIMESTAMP, TIMESTAMP_REPLY})
_NAMES = {
    icmp.ECHO_REPLY: "echo_reps",
    icmp.UNREACHABLE: "dest_unreachs",
    icmp.SOURCE_QUENCH: "src_quenchs",
    icmp.REDIRECT: "redirects",
    icmp.ECHO_REQUEST: "echos",
    icmp.TIME_EXCEEDED: "time_excds",
    icmp.PARAMETER_PROBLEM: "parm_probs",
    TIMESTAMP: "timestamps",
    TIMESTAMP_REPLY: "timestamp_reps",
}


class Quote(NamedTuple):
    """An error received about a packet of this host: what it says, and the packet's beginning.

    mtu: of code 4 of type 3, guessed when the router did not say; else 0.
    """

    type: int
    code: int
    mtu: int
    protocol: int
    src: bytes
    dst: bytes
    payload: bytes


class Offending(NamedTuple):
    """A packet that an error may be sent about.

    packet: from its IP header on, padding trimmed; to_all: it came in a broadcast frame.
    """

    trace: int
    header: Ipv4Header
    packet: bytes
    to_all: bool


class Limiter:
    """A token bucket as one number: the time at which it would be full again.

    rate: tokens a second, 0 for none at all; burst: what the full bucket holds.
    """

    __slots__ = ("_depth", "_interval", "full_at")

    def __init__(self, rate: int, burst: int) -> None:
        self._interval = SECOND // rate if rate else 0
        self._depth = self._interval * burst if rate else -1
        self.full_at = 0

    def take(self, now: int) -> bool:
        """Take a token. False: there is none."""
        full_at = max(self.full_at, now) + self._interval
        if full_at - now > self._depth:
            return False
        self.full_at = full_at
        return True


class Icmp:
    """The ICMP of one host. It decides and counts; the layer sends."""

    def __init__(self, addresses: Addresses, counters: Counter[str], rate: int, burst: int) -> None:
        self._addresses = addresses
        self._counters = counters
        self.limiter = Limiter(rate, burst)

    def error(
        self, kind: int, code: int, rest: int, about: Offending, now: int
    ) -> IcmpMessage | None:
        """The error to send to the packet's source, or None when none may be sent.

        rest: the second word of the ICMP header.
        """
        if not self._may_answer(about):
            self._counters["icmp_out_suppressed"] += 1
            return None
        if not self.limiter.take(now):
            self._counters["icmp_out_rate_limit_global"] += 1
            return None
        return IcmpMessage(kind, code, rest, bytes(about.packet[:QUOTE_MAX]))

    def receive(
        self, header: Ipv4Header, payload: bytes, to_all: bool
    ) -> IcmpMessage | EchoReply | Quote:
        """What to answer to an echo request, an echo reply, or the quote of an error about us.

        Raises DecodeError for all that needs nothing to be done.
        """
        self._counters["icmp_in_msgs"] += 1
        message = icmp.decode(payload)
        name = _NAMES.get(message.type)
        if name is None:
            raise DecodeError("icmp_unknown_type", f"{message.type}")  # RFC 1122 3.2.2
        self._counters["icmp_in_" + name] += 1
        if message.type == icmp.ECHO_REQUEST:
            if to_all:  # RFC 1122 3.2.2.6 allows it: answering would amplify an attack
                raise DecodeError("icmp_echo_to_all")
            return IcmpMessage(icmp.ECHO_REPLY, 0, message.rest, message.body)
        if message.type == icmp.ECHO_REPLY:
            return EchoReply(message.rest, message.body)
        if message.type in (icmp.UNREACHABLE, icmp.TIME_EXCEEDED, icmp.PARAMETER_PROBLEM):
            return self._quote(message)
        # Source quench by RFC 6633, redirects because routes are the configuration's alone, and
        # replies to queries that this host does not send.
        raise DecodeError("icmp_ignored_type", f"{message.type}")

    def sent(self, kind: int) -> None:
        """Count a message that goes out."""
        self._counters["icmp_out_msgs"] += 1
        self._counters["icmp_out_" + _NAMES[kind]] += 1

    def _may_answer(self, about: Offending) -> bool:
        """RFC 1122 3.2.2 and RFC 1812 4.3.2.7: what no error may be sent about."""
        _, header, packet, to_all = about
        src, dst = header.src, header.dst
        if to_all or header.offset or dst[0] >= FIRST_GROUP or dst in self._addresses.broadcasts:
            return False
        if self._addresses.bad_source(src):
            return False
        if header.protocol != ipv4.PROTOCOL_ICMP:
            return True
        start = ipv4.MIN_HEADER + len(header.options)
        return start < len(packet) and packet[start] in _QUERIES

    def _quote(self, message: IcmpMessage) -> Quote:
        """The quoted packet. Raises DecodeError when it is cut too short or is not of this host."""
        body = message.body
        if len(body) < ipv4.MIN_HEADER or body[0] >> 4 != 4:
            raise DecodeError("icmp_bad_quote", f"{len(body)} bytes")
        header_length = (body[0] & 0x0F) << 2
        if header_length < ipv4.MIN_HEADER or len(body) < header_length + QUOTED_PAYLOAD_MIN:
            raise DecodeError("icmp_bad_quote", f"{len(body)} bytes, header {header_length}")
        src = bytes(body[12:16])
        if src not in self._addresses.own:
            raise DecodeError("icmp_quote_not_ours")
        if (body[6] & 0x1F) or body[7]:  # a later fragment has no ports to find the socket by
            raise DecodeError("icmp_quote_of_fragment")
        mtu = 0
        if (message.type, message.code) == (icmp.UNREACHABLE, icmp.FRAGMENTATION_NEEDED):
            total = int.from_bytes(body[2:4], "big")
            mtu = message.rest & 0xFFFF or next((size for size in PLATEAUS if size < total), 0)
            if mtu < ipv4.MIN_MTU:
                raise DecodeError("icmp_bad_mtu", f"{mtu}")
        return Quote(
            message.type, message.code, mtu, body[9], src, bytes(body[16:20]), body[header_length:]
        )
