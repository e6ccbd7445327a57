"""The IP layer: between the transports above it and the links below it.

Down: a segment gets a route, a source address, an ident and a header, and is cut when the link
needs that. Up: a packet is checked, and is then for this host (put together, handed to its
transport or answered by ICMP), for somebody else (forwarded on a router), or dropped and counted.
"""

from __future__ import annotations

import random
from collections import Counter

from plywire.calls import Call
from plywire.config import MS, HostConfig
from plywire.envelope import dump_state, load_state
from plywire.errors import DecodeError, SocketError
from plywire.layer import Output
from plywire.messages import (
    FLAG_BROADCAST,
    Datagram,
    Hello,
    Interface,
    Message,
    NeighbourFailed,
    PacketError,
    Paths,
    Segment,
)
from plywire.roles import IP, LINK, TCP, Role
from plywire.trace import Tracer
from plywire.wire import icmp, ipv4, udp
from plywire.wire.ipv4 import MIN_HEADER, Ipv4Header
from services.ip import forwarding, options, routes
from services.ip.addresses import UNSPECIFIED, Addresses
from services.ip.echo import MAX_SIZE, Echoes, EchoReply
from services.ip.fragments import Identifications, Reassembly
from services.ip.icmp import Icmp, Offending, Quote
from services.ip.outbound import LOCAL_QUOTE, TRANSPORTS, Outbound
from services.ip.routes import Link, RouteTable

_SUMS = {"ipv4": "ip_in_hdr_errors", "martian": "ip_in_addr_errors", "icmp": "icmp_in_errors",
         "fragment": "ip_reasm_fails", "udp": "udp_in_errors"}  # fmt: skip
"""The counter that sums up the drop reasons beginning with a word."""
_CODEPOINTS = ("ip_in_no_ect_pkts", "ip_in_ect1_pkts", "ip_in_ect0_pkts", "ip_in_ce_pkts")
_NOT_ERRORS = frozenset(
    {
        "fragment_duplicate",
        "icmp_ignored_type",
        "icmp_echo_to_all",
        "icmp_quote_not_ours",
        "icmp_duplicate_reply",
        "icmp_unexpected_reply",
    }
)


def create(host: HostConfig, rng: random.Random, tracer: Tracer) -> IpLayer:
    """An IP layer for `host`. rng is used here only: for the secrets behind the idents."""
    return IpLayer(host, rng, tracer)


class IpLayer:
    """The contract of `plywire.layer.Layer` over IPv4 (RFC 791) and ICMP (RFC 792)."""

    role = "ip"
    state_format = "ip/1"

    def __init__(self, host: HostConfig, rng: random.Random, tracer: Tracer) -> None:
        self.counters: Counter[str] = Counter()
        self._host = host
        self._tracer = tracer
        self._addresses = Addresses(host)
        self._links = {
            item.ifindex: Link(item.name, item.mac, item.mtu, True) for item in host.interfaces
        }
        self._routes = RouteTable(routes.build(host, self._links))
        self._idents = Identifications(rng)
        self._reassembly = Reassembly(host.ip.reassembly_timeout, host.ip.reassembly_bytes)
        self._icmp = Icmp(self._addresses, self.counters, host.ip.icmp_rate, host.ip.icmp_burst)
        self._out = Outbound(
            host, self._addresses, self._routes, self._idents, self._icmp, self.counters
        )
        self._echoes = Echoes()
        self._generations: dict[Role, int] = {}
        self._handlers = {
            (LINK, Datagram): self._from_link,
            (TCP, Segment): self._out.segment,
            (LINK, NeighbourFailed): self._neighbour_failed,
            (LINK, Interface): self._interface,
            (LINK, Hello): self._hello,
            (TCP, Hello): self._hello,
        }

    # --- the contract -----------------------------------------------------------------------------

    def receive(self, message: Message, source: Role, now: int) -> None:
        """Take one message from a neighbour. Bad packets are counted and dropped, never raised."""
        handler = self._handlers.get((source, type(message)))
        try:
            if handler is None:
                raise DecodeError("unexpected_message", f"{type(message).__name__} from {source}")
            handler(message, now)
        except DecodeError as error:
            self._drop(error.reason, message, now)

    def expire(self, now: int) -> None:
        """Give up packets whose fragments did not all come in time (RFC 1122 3.3.2), and echoes."""
        self._echoes.expire(now)
        for _, partial in self._reassembly.expire(now):
            if partial.poisoned:  # counted when it was dropped
                continue
            self.counters["ip_reasm_timeout"] += 1
            self.counters["ip_reasm_fails"] += 1
            if self._tracer.enabled:
                self._tracer.note(now, partial.trace, "reassembly_timeout", bytes=partial.have)
            if partial.head is not None:
                packet = ipv4.encode(partial.head, partial.parts[0])
                to_all = partial.flags & FLAG_BROADCAST != 0
                about = Offending(partial.trace, partial.head, packet, to_all)
                self._out.error_about(icmp.TIME_EXCEEDED, icmp.REASSEMBLY_TIMEOUT, 0, about, now)

    def deadline(self) -> int | None:
        """When the oldest unfinished packet or echo request is given up, or None."""
        times = (self._reassembly.deadline(), self._echoes.deadline())
        return min((when for when in times if when is not None), default=None)

    def outputs(self) -> list[Output]:
        """What is to be sent, in order."""
        outputs, self._out.outputs = self._out.outputs, []
        return outputs

    def snapshot(self) -> bytes:
        """Interfaces, fragments, idents, the rate limit and counters; outputs are taken before."""
        return dump_state(
            {
                "links": list(self._links.items()),
                "generations": self._generations,
                "idents": self._idents.dump(),
                "fragments": self._reassembly.dump(),
                "icmp_full_at": self._icmp.limiter.full_at,
                "counters": dict(self.counters),
            }
        )

    def restore(self, state: bytes, now: int) -> None:
        """Take over from a snapshot. Raises DecodeError when it is none of this layer's."""
        data = load_state(state)
        try:
            for ifindex, fields in data["links"]:
                if ifindex in self._links:
                    self._links[ifindex] = Link._make(fields)
            self._generations = data["generations"]
            self._idents.load(data["idents"])
            self._reassembly.load(data["fragments"])
            self._icmp.limiter.full_at = data["icmp_full_at"]
            self.counters.update(data["counters"])
        except (KeyError, TypeError, ValueError) as error:
            raise DecodeError("bad_snapshot", f"{type(error).__name__}: {error}") from error
        self._routes.replace(routes.build(self._host, self._links))

    def describe(self, topic: str, now: int) -> object:
        """`routes`, `interfaces`, `fragments`, `echoes`, `counters`. KeyError for others."""
        if topic == "counters":
            return dict(sorted(self.counters.items()))
        if topic == "fragments":
            return self._reassembly.describe(now)
        if topic == "echoes":
            return self._echoes.describe()
        if topic == "routes":
            return routes.describe(self._routes, self._links)
        if topic == "interfaces":
            return routes.describe_interfaces(self._host, self._links)
        raise KeyError(topic)

    def ask(self, verb: str, arguments: list, now: int) -> Call:
        """`ping` or `route`; the first argument of both is an address as text.

        `ping`, with the bytes to send, the milliseconds to wait and, if wanted, identifier and
        sequence number: Echoes.request has the answer. `route`: {"dev", "via", "src"} on the way
        there, or ENETUNREACH. Raises KeyError for another verb, ValueError for arguments that
        cannot be.
        """
        if verb not in ("ping", "route"):
            raise KeyError(verb)
        text, *rest = arguments
        dst = bytes(map(int, str(text).split(".")))
        if len(dst) != 4:
            raise ValueError(f"{text} is no address")
        route = self._routes.lookup(dst)
        if verb == "route":
            if route is None:
                return Call().fail(SocketError("ENETUNREACH", f"no route to {text}", IP))
            return Call().resolve(routes.describe_way(route, self._links))
        size, timeout, *named = map(int, rest)
        key = None
        if named:
            identifier, sequence = named
            if not (0 <= identifier < 1 << 16 and 0 <= sequence < 1 << 16):
                raise ValueError(f"identifier {identifier} or sequence number {sequence}")
            key = identifier << 16 | sequence
        if not (0 <= size <= MAX_SIZE and 0 < timeout <= 3_600_000):
            raise ValueError(f"ping {text} with {size} bytes for {timeout} ms cannot be")
        if route is None:
            return Call().fail(SocketError("ENETUNREACH", f"no route to {text}", IP))
        message, call = self._echoes.request(dst, size, timeout * MS, now, key)
        if route.ifindex == 0:  # to itself: nothing leaves the host
            self._echoes.reply(EchoReply(message.rest, message.body), dst, self._host.ip.ttl, now)
        else:
            self._out.icmp_message(0, UNSPECIFIED, dst, 0, message)
        return call

    # --- up: from the link ------------------------------------------------------------------------

    def _from_link(self, message: Datagram, now: int) -> None:
        trace, ifindex, _, flags, packet = message
        self.counters["ip_in_receives"] += 1
        if ifindex not in self._links:
            raise DecodeError("unknown_interface", f"{ifindex}")
        header, payload = ipv4.decode(packet)
        self.counters[_CODEPOINTS[header.tos & 3]] += 1
        addresses = self._addresses
        if addresses.bad_source(header.src):
            raise DecodeError("martian_source")
        local = header.dst in addresses.own
        if not local:
            if header.dst in addresses.broadcasts:
                local = True
                flags |= FLAG_BROADCAST
            elif not self._host.forwarding:
                raise DecodeError("not_for_us")
        if header.options:
            self._check_options(message, header, len(payload), flags, now)
        if not local:
            self._forward(message, header, payload, now)
            return
        if header.offset or header.more_fragments:
            self._fragment(trace, header, payload, flags, now)
        else:
            self._deliver(trace, header, payload, flags, packet, now)

    def _check_options(
        self, message: Datagram, header: Ipv4Header, size: int, flags: int, now: int
    ) -> None:
        index = options.malformed_at(header.options)
        if index is not None:
            pointer = MIN_HEADER + index
            about = _offending(message.trace, header, message.packet, size, flags)
            self._out.error_about(icmp.PARAMETER_PROBLEM, 0, pointer << 24, about, now)
            raise DecodeError("ipv4_bad_option", f"at {pointer}")
        if options.has_source_route(header.options):
            raise DecodeError("source_route")  # RFC 7126 4.3: dropped, and not answered

    def _fragment(
        self, trace: int, header: Ipv4Header, payload: bytes, flags: int, now: int
    ) -> None:
        self.counters["ip_reasm_reqds"] += 1
        whole, evicted = self._reassembly.add(header, payload, flags, trace, now)
        if evicted:
            self.counters["ip_reasm_fails"] += evicted
            self.counters["drop_fragment_evicted"] += evicted
        if whole is None:
            return
        self.counters["ip_reasm_oks"] += 1
        if self._tracer.enabled:
            self._tracer.note(now, trace, "reassembled", bytes=len(whole.payload))
        self._deliver(trace, whole.header, whole.payload, whole.flags, None, now)

    def _deliver(
        self,
        trace: int,
        header: Ipv4Header,
        payload: bytes,
        flags: int,
        packet: bytes | None,
        now: int,
    ) -> None:
        """A packet for this host goes to its protocol. packet: as it came; None: reassembled."""
        protocol = header.protocol
        role = TRANSPORTS.get(protocol)
        if role is not None:
            self.counters["ip_in_delivers"] += 1
            up = Segment(
                trace, protocol, header.src, header.dst, header.tos, header.ttl,
                flags & FLAG_BROADCAST, payload,
            )  # fmt: skip
            self._out.outputs.append(Output(role, up))
            return
        if protocol == ipv4.PROTOCOL_ICMP:
            self.counters["ip_in_delivers"] += 1
            self._icmp_in(trace, header, payload, flags, now)
            return
        if protocol == ipv4.PROTOCOL_UDP:
            udp.decode(payload, header.src, header.dst)
            self.counters["udp_no_ports"] += 1
            code, reason = icmp.PORT_UNREACHABLE, "no_port"
        else:
            self.counters["ip_in_unknown_protos"] += 1
            code, reason = icmp.PROTOCOL_UNREACHABLE, "no_protocol"
        if packet is None:
            packet = ipv4.encode(header, payload)
        about = _offending(trace, header, packet, len(payload), flags)
        self._out.error_about(icmp.UNREACHABLE, code, 0, about, now)
        raise DecodeError(reason, f"protocol {protocol}")

    def _icmp_in(
        self, trace: int, header: Ipv4Header, payload: bytes, flags: int, now: int
    ) -> None:
        found = self._icmp.receive(header, payload, bool(flags & FLAG_BROADCAST))
        if isinstance(found, Quote):
            role = TRANSPORTS.get(found.protocol)
            if role is not None:
                error = PacketError(
                    trace, found.protocol, 0, header.src, found.type, found.code, found.mtu,
                    found.src, found.dst, found.payload,
                )  # fmt: skip
                self._out.outputs.append(Output(role, error))
            elif found.protocol == ipv4.PROTOCOL_ICMP:
                self._echoes.failed(found, header.src)
        elif isinstance(found, EchoReply):
            self._echoes.reply(found, header.src, header.ttl, now)
        else:  # RFC 1122 3.2.2.6: from the address that was asked
            self._out.icmp_message(trace, header.dst, header.src, header.tos & 0xFC, found)

    # --- for somebody else ------------------------------------------------------------------------

    def _forward(self, message: Datagram, header: Ipv4Header, payload: bytes, now: int) -> None:
        trace, _, _, flags, packet = message
        if flags & FLAG_BROADCAST:  # RFC 1812 5.3.4
            raise DecodeError("not_for_us")
        if not forwarding.permitted(header):
            raise DecodeError("martian_destination")
        about = _offending(trace, header, packet, len(payload), flags)
        packet = about.packet
        out = self._out
        route = self._routes.lookup(header.dst)
        if route is None:
            out.error_about(icmp.UNREACHABLE, icmp.NET_UNREACHABLE, 0, about, now)
            raise DecodeError("no_route")
        if header.ttl <= 1:
            out.error_about(icmp.TIME_EXCEEDED, icmp.TTL_EXCEEDED, 0, about, now)
            raise DecodeError("ttl_exceeded")
        if len(packet) <= route.mtu:
            out.to_link(trace, route, header.dst, forwarding.with_ttl_decremented(packet))
        elif header.dont_fragment:
            self.counters["ip_frag_fails"] += 1
            out.error_about(icmp.UNREACHABLE, icmp.FRAGMENTATION_NEEDED, route.mtu, about, now)
            raise DecodeError("fragmentation_needed", f"{len(packet)} over {route.mtu}")
        else:
            out.in_pieces(trace, route, header._replace(ttl=header.ttl - 1), payload)
        self.counters["ip_forw_datagrams"] += 1

    def _neighbour_failed(self, message: NeighbourFailed, now: int) -> None:
        """The next hop does not answer: the socket concerned, or the packet's source, is told."""
        header, payload = ipv4.decode(message.packet)
        self.counters["ip_out_discards"] += 1
        if header.src not in self._addresses.own:
            about = Offending(message.trace, header, message.packet, False)
            self._out.error_about(icmp.UNREACHABLE, icmp.HOST_UNREACHABLE, 0, about, now)
            return
        role = TRANSPORTS.get(header.protocol)
        if role is not None and not header.offset:
            error = PacketError(
                message.trace, header.protocol, 1, header.src, icmp.UNREACHABLE,
                icmp.HOST_UNREACHABLE, 0, header.src, header.dst, payload[:LOCAL_QUOTE],
            )  # fmt: skip
            self._out.outputs.append(Output(role, error))
        elif header.protocol == ipv4.PROTOCOL_ICMP and not header.offset:
            quote = Quote(
                icmp.UNREACHABLE, icmp.HOST_UNREACHABLE, 0, header.protocol, header.src, header.dst,
                payload,
            )  # fmt: skip
            self._echoes.failed(quote, header.src)

    # --- neighbours -------------------------------------------------------------------------------

    def _hello(self, message: Hello, now: int) -> None:
        role = message.role
        if self._generations.get(role) == message.generation:
            return
        self._generations[role] = message.generation
        if role == TCP:
            self._send_paths(message.trace)

    def _interface(self, message: Interface, now: int) -> None:
        link = Link(message.name, message.mac, message.mtu, message.up == 1)
        old = self._links.get(message.ifindex)
        if old is None:
            raise DecodeError("unknown_interface", f"{message.ifindex}")
        if link == old:
            return
        self._links[message.ifindex] = link
        before = self._routes.routes
        self._routes.replace(routes.build(self._host, self._links))
        if self._tracer.enabled:
            self._tracer.note(now, message.trace, "interface_changed", name=link.name,
                              mtu=link.mtu, up=int(link.up))  # fmt: skip
        if self._routes.routes != before:
            self._send_paths(message.trace)

    def _send_paths(self, trace: int) -> None:
        rows = tuple(
            (route.prefix, route.length, route.src, route.mtu) for route in self._routes.routes
        )
        self._out.outputs.append(Output(TCP, Paths(trace, rows)))

    def _drop(self, reason: str, message: Message, now: int) -> None:
        name = f"drop_{reason}"
        self.counters[name] += 1
        if reason not in _NOT_ERRORS:
            total = _SUMS.get(reason.partition("_")[0])
            if total is not None:
                self.counters[total] += 1
        if self._tracer.enabled:
            packet = getattr(message, "packet", None) or getattr(message, "payload", b"")
            self._tracer.drop(now, message.trace, name, bytes(packet))


def _offending(trace: int, header: Ipv4Header, packet: bytes, size: int, flags: int) -> Offending:
    """A packet as an error would quote it, without link padding; size: of its payload."""
    length = MIN_HEADER + len(header.options) + size
    whole = packet if len(packet) == length else bytes(packet[:length])
    return Offending(trace, header, whole, flags & FLAG_BROADCAST != 0)
