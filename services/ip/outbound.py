"""The way down: routes, source addresses, headers, fragments, and the ICMP that this host sends."""

from __future__ import annotations

from collections import Counter

from plywire.config import HostConfig
from plywire.errors import DecodeError
from plywire.layer import Output
from plywire.messages import FLAG_DONT_FRAGMENT, Datagram, PacketError, Segment
from plywire.roles import LINK, TCP, Role
from plywire.wire import icmp, ipv4
from plywire.wire.icmp import IcmpMessage
from plywire.wire.ipv4 import MIN_HEADER, Ipv4Header
from services.ip.addresses import LOOPBACK_NET, UNSPECIFIED, Addresses
from services.ip.fragments import Identifications, split
from services.ip.icmp import ERROR_TOS, Icmp, Offending
from services.ip.routes import Route, RouteTable

TRANSPORTS: dict[int, Role] = {ipv4.PROTOCOL_TCP: TCP}
"""Which process owns the packets of a protocol: the seam for UDP, and for several by flow hash."""

LOCAL_QUOTE = 60
"""Bytes of the transport's header in an error of this host's own: the longest TCP header."""


class Outbound:
    """What this host sends, and what it tells its transports when it cannot.

    outputs: what is to be handed to the neighbours, in order; others append to it too.
    """

    def __init__(
        self,
        host: HostConfig,
        addresses: Addresses,
        routes: RouteTable,
        idents: Identifications,
        icmp_rules: Icmp,
        counters: Counter[str],
    ) -> None:
        self.outputs: list[Output] = []
        self.counters = counters
        self._addresses = addresses
        self._routes = routes
        self._idents = idents
        self._icmp = icmp_rules
        self._ttl = host.ip.ttl

    def segment(self, message: Segment, now: int) -> None:
        """Send what a transport hands down. Raises DecodeError when its source is not ours."""
        trace, protocol, src, dst, tos, ttl, flags, payload = message
        self.counters["ip_out_requests"] += 1
        route = self._routes.lookup(dst)
        if route is None:
            self.counters["ip_out_no_routes"] += 1
            self._refuse(message, icmp.NET_UNREACHABLE, 0)
            return
        if src == UNSPECIFIED:
            src = dst if route.ifindex == 0 else route.src
        elif src not in self._addresses.own and (src[0] != LOOPBACK_NET or route.ifindex):
            raise DecodeError("source_not_ours")  # RFC 1122 3.2.1.3
        if len(payload) > ipv4.MAX_LENGTH - MIN_HEADER:
            self._refuse(message, icmp.FRAGMENTATION_NEEDED, route.mtu)
            return
        if route.ifindex == 0:
            self._loop_back(message, src)
            return
        dont_fragment = flags & FLAG_DONT_FRAGMENT != 0
        if dont_fragment and len(payload) + MIN_HEADER > route.mtu:
            self.counters["ip_frag_fails"] += 1
            self._refuse(message, icmp.FRAGMENTATION_NEEDED, route.mtu)
            return
        self._originate(trace, route, src, dst, protocol, tos, ttl, dont_fragment, payload)

    def _originate(
        self,
        trace: int,
        route: Route,
        src: bytes,
        dst: bytes,
        protocol: int,
        tos: int,
        ttl: int,
        dont_fragment: bool,
        payload: bytes,
    ) -> None:
        """Put a header in front of payload and hand it to the link, in pieces if it must be."""
        # RFC 6864 4.1: what cannot be fragmented needs no ident.
        ident = 0 if dont_fragment else self._idents.take(src, dst, protocol)
        header = Ipv4Header(
            src, dst, protocol, tos, ident, dont_fragment, False, 0, ttl or self._ttl
        )
        if len(payload) + MIN_HEADER <= route.mtu:
            self.to_link(trace, route, dst, ipv4.encode(header, payload))
        else:
            self.in_pieces(trace, route, header, payload)

    def to_link(self, trace: int, route: Route, dst: bytes, packet: bytes) -> None:
        """Hand a packet, its header included, to the link that its route names."""
        message = Datagram(trace, route.ifindex, route.via or dst, 0, packet)
        self.outputs.append(Output(LINK, message))

    def in_pieces(self, trace: int, route: Route, header: Ipv4Header, payload: bytes) -> None:
        """Hand a packet to the link as fragments."""
        pieces = split(header, payload, route.mtu)
        self.counters["ip_frag_oks"] += 1
        self.counters["ip_frag_creates"] += len(pieces)
        for piece in pieces:
            self.to_link(trace, route, header.dst, piece)

    def _loop_back(self, message: Segment, src: bytes) -> None:
        """Deliver a segment for one of this host's own addresses, without a link or a header."""
        role = TRANSPORTS.get(message.protocol)
        self.counters["ip_in_receives"] += 1
        if role is None:
            self.counters["ip_in_unknown_protos"] += 1
            self._refuse(message, icmp.PROTOCOL_UNREACHABLE, 0)
            return
        self.counters["ip_in_delivers"] += 1
        up = message._replace(src=src, ttl=message.ttl or self._ttl, flags=0)
        self.outputs.append(Output(role, up))

    def _refuse(self, message: Segment, code: int, mtu: int) -> None:
        """Tell the transport that its segment cannot be sent."""
        self.counters["ip_out_discards"] += 1
        error = PacketError(
            message.trace, message.protocol, 1, message.src, icmp.UNREACHABLE, code, mtu,
            message.src, message.dst, bytes(message.payload[:LOCAL_QUOTE]),
        )  # fmt: skip
        self.outputs.append(Output(TCP, error))

    def error_about(self, kind: int, code: int, rest: int, about: Offending, now: int) -> None:
        """Tell the source of a packet what became of it, if the rules and the rate allow it."""
        message = self._icmp.error(kind, code, rest, about, now)
        if message is None:
            return
        # From the address that was asked; a router's answer comes from the interface it leaves by
        # (RFC 1812 4.3.2.4).
        header = about.header
        src = header.dst if header.dst in self._addresses.own else UNSPECIFIED
        self.icmp_message(about.trace, src, header.src, ERROR_TOS, message)

    def icmp_message(
        self, trace: int, src: bytes, dst: bytes, tos: int, message: IcmpMessage
    ) -> None:
        """Send an ICMP message; src 0.0.0.0: from the address of the interface it leaves by."""
        route = self._routes.lookup(dst)
        if route is None or route.ifindex == 0:
            self.counters["icmp_out_errors"] += 1
            return
        self._icmp.sent(message.type)
        self.counters["ip_out_requests"] += 1
        self._originate(trace, route, src if src != UNSPECIFIED else route.src, dst,
                        ipv4.PROTOCOL_ICMP, tos, 0, False, icmp.encode(message))  # fmt: skip
