"""Trace events: what crosses each boundary, and what changes inside a layer.

A layer asks `tracer.enabled` before it builds an event, so that nobody listening costs one
attribute. The crossing of boundaries is traced by whoever runs the layer (the shell, the
simulator); layers themselves report state changes and drops. Headers are decoded by the listener
(`headers`), so that watching disturbs the watched as little as it can.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from plywire.errors import DecodeError
from plywire.messages import Data, Datagram, Frame, Message, NeighbourFailed, PacketError, Segment
from plywire.roles import APP, IP, LAYERS, LINK, TCP, WIRE, Role, boundary
from plywire.wire import arp, ethernet, icmp, ipv4, tcp, udp

OUT, IN, STATE, DROP, NOTE = "out", "in", "state", "drop", "note"

_BYTES = {Data: "payload", Datagram: "packet", NeighbourFailed: "packet", Segment: "payload",
          PacketError: "quote", Frame: "frame"}  # fmt: skip
_ORDER = (*LAYERS, WIRE)


class Event(NamedTuple):
    """One thing that happened in one layer.

    time: nanoseconds of the lab's clock; trace: the id that all effects of one cause share.
    what: OUT and IN are a message crossing `boundary` ("tcp/ip") in `direction` ("down", "up"),
    subject its class and fields its fields, packet the bytes it carries. STATE: subject is the
    cause, before and after the socket's control information. DROP: subject is the counter. NOTE:
    anything else (a timer, a name resolved).
    """

    host: str
    layer: Role
    time: int
    trace: int
    what: str
    boundary: str
    direction: str
    subject: str
    fields: dict[str, int | str]
    packet: bytes
    before: dict[str, int | str]
    after: dict[str, int | str]


class Tracer:
    """Where one layer's events go. Without a sink nothing is built."""

    __slots__ = ("enabled", "host", "layer", "sink")

    def __init__(
        self, host: str = "", layer: Role = "", sink: Callable[[Event], None] | None = None
    ) -> None:
        self.host = host
        self.layer = layer
        self.sink = sink
        self.enabled = sink is not None

    def crossing(self, what: str, message: Message, peer: Role, now: int) -> None:
        """A message left for `peer` (OUT) or came from it (IN)."""
        below = _ORDER.index(peer) > _ORDER.index(self.layer)
        down = below == (what == OUT)
        name = _BYTES.get(type(message)) or ("payload" if hasattr(message, "payload") else "")
        packet = getattr(message, name) if name else b""
        fields = {
            field: value if isinstance(value, int | str) else _text(value)
            for field, value in zip(message._fields[1:], message[1:], strict=True)
            if field != name
        }
        self._emit(now, message.trace, what, boundary(self.layer, peer),
                   "down" if down else "up", type(message).__name__, fields, packet)  # fmt: skip

    def state(
        self,
        now: int,
        trace: int,
        subject: str,
        before: dict[str, int | str],
        after: dict[str, int | str],
    ) -> None:
        """A socket's control information has changed, because of `subject`."""
        self._emit(now, trace, STATE, subject=subject, before=before, after=after)

    def drop(self, now: int, trace: int, reason: str, packet: bytes = b"") -> None:
        """A packet was dropped; `reason` is the name of its counter."""
        self._emit(now, trace, DROP, subject=reason, packet=packet)

    def note(self, now: int, trace: int, subject: str, **fields: int | str) -> None:
        """Something worth a line: a timer that ran out, a name that became an address."""
        self._emit(now, trace, NOTE, subject=subject, fields=fields)

    def _emit(
        self,
        now: int,
        trace: int,
        what: str,
        where: str = "",
        direction: str = "",
        subject: str = "",
        fields: dict | None = None,
        packet: bytes = b"",
        before: dict | None = None,
        after: dict | None = None,
    ) -> None:
        if self.sink is not None:
            self.sink(Event(self.host, self.layer, now, trace, what, where, direction, subject,
                            fields or {}, packet, before or {}, after or {}))  # fmt: skip


def headers(event: Event) -> list[tuple[str, dict[str, int | str]]]:
    """The headers in an event's packet, outermost first, as (protocol, fields by name).

    Numbers are numbers; addresses are text. Decoding stops at what cannot be decoded.
    """
    found: list[tuple[str, dict[str, int | str]]] = []
    try:
        if event.boundary == boundary(LINK, WIRE):
            _frame(event.packet, found)
        elif event.boundary == boundary(IP, LINK):
            _ipv4(event.packet, found)
        elif event.boundary == boundary(TCP, IP) and event.subject == Segment.__name__:
            _tcp(event.packet, found)
        elif event.boundary == boundary(APP, TCP) and event.packet:
            found.append(("data", {"bytes": len(event.packet)}))
    except DecodeError as error:
        found.append(("malformed", {"reason": error.reason}))
    return found


def is_bare_packet(frame: bytes) -> bool:
    """What is on the wire is an IPv4 packet without Ethernet: one with a good checksum."""
    if not frame or frame[0] >> 4 != 4:
        return False
    try:
        ipv4.decode(frame)
    except DecodeError:
        return False  # a hardware address that begins with 4
    return True


def _frame(frame: bytes, found: list) -> None:
    (_ipv4 if is_bare_packet(frame) else _ethernet)(frame, found)


def _ethernet(frame: bytes, found: list) -> None:
    header, payload = ethernet.decode(frame)
    found.append(("ethernet", {"dst": header.dst.hex(":"), "src": header.src.hex(":"),
                               "type": header.type}))  # fmt: skip
    if header.type == ethernet.TYPE_IPV4:
        _ipv4(payload, found)
    elif header.type == ethernet.TYPE_ARP:
        packet = arp.decode(payload)
        found.append(("arp", {name: value if isinstance(value, int) else _text(value)
                              for name, value in packet._asdict().items()}))  # fmt: skip


def _ipv4(packet: bytes, found: list) -> None:
    header, payload = ipv4.decode(packet)
    fields = {"src": _text(header.src), "dst": _text(header.dst), "protocol": header.protocol,
              "length": len(payload) + ipv4.MIN_HEADER + len(header.options), "ttl": header.ttl,
              "ident": header.ident, "dont_fragment": int(header.dont_fragment)}  # fmt: skip
    if header.tos:
        fields["tos"] = header.tos
    if header.offset or header.more_fragments:
        fields |= {"offset": header.offset, "more_fragments": int(header.more_fragments)}
    found.append(("ipv4", fields))
    if header.offset:
        return
    if header.protocol == ipv4.PROTOCOL_TCP:
        _tcp(payload, found)
    elif header.more_fragments:  # the checksums of the others need the whole
        return
    elif header.protocol == ipv4.PROTOCOL_UDP:
        found.append(("udp", udp.decode(payload, header.src, header.dst)[0]._asdict()))
    elif header.protocol == ipv4.PROTOCOL_ICMP:
        message = icmp.decode(payload)
        found.append(("icmp", {"type": message.type, "code": message.code, "rest": message.rest}))


def _tcp(segment: bytes, found: list) -> None:
    header, data = tcp.decode_unchecked(segment)
    fields: dict[str, int | str] = {
        "src_port": header.src_port, "dst_port": header.dst_port, "seq": header.seq,
        "ack": header.ack, "data_offset": (len(segment) - len(data)) // 4,
        "reserved": segment[12] & 15,
        "flags": tcp.flag_names(header.flags), "window": header.window,
        "checksum": header.checksum, "urgent": header.urgent,
    }  # fmt: skip
    options = tcp.parse_options(header.options)
    if options.mss is not None:
        fields["mss"] = options.mss
    if options.window_scale is not None:
        fields["window_scale"] = options.window_scale
    if options.sack_permitted:
        fields["sack_permitted"] = 1
    if options.timestamps is not None:
        fields["tsval"], fields["tsecr"] = options.timestamps
    if options.sack:
        fields["sack"] = " ".join(f"{left}-{right}" for left, right in options.sack)
    found.append(("tcp", fields))
    if data:
        found.append(("data", {"bytes": len(data)}))


def _text(value: object) -> str:
    """Bytes as people write them: 4 as a dotted address, 6 as a hardware address."""
    if isinstance(value, bytes):
        if len(value) == 4:
            return ".".join(map(str, value))
        return value.hex(":")
    if isinstance(value, dict):
        return " ".join(f"{key}={item}" for key, item in value.items())
    return str(value)
