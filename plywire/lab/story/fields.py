"""Header fields in words: which of them a line shows, in which order, and how they are written."""

from __future__ import annotations

from plywire.errors import DecodeError
from plywire.lab.story.items import Fields
from plywire.messages import Data, Datagram, Segment
from plywire.roles import APP, IP, LINK, TCP, WIRE, boundary
from plywire.trace import Event, headers, is_bare_packet
from plywire.wire import ipv4, tcp

NAMES = {"ethernet": "Ethernet", "ipv4": "IPv4", "tcp": "TCP", "udp": "UDP", "icmp": "ICMP",
         "arp": "ARP"}  # fmt: skip
"""Protocols as people write them."""

Headers = dict[str, Fields]
Pair = tuple[str, int, str, int]
"""Address and port, and the other address and port."""

_PUT = {
    "ethernet": ("dst", "src", "type"),
    "ipv4": ("src", "dst", "ttl", "protocol", "offset", "more_fragments"),
    "tcp": ("src_port", "dst_port", "seq", "ack", "window", "mss", "window_scale",
            "sack_permitted", "tsval", "tsecr", "sack"),
    "udp": ("src_port", "dst_port"),
    "icmp": ("type", "code"),
}  # fmt: skip
# What the layer that takes a header off had to look at.
_TAKEN = {"ethernet": ("dst", "type"), "ipv4": ("src", "dst", "protocol")}
_TOLD = (
    "state", "local", "remote", "iss", "snd_una", "snd_nxt", "snd_wnd", "snd_scale", "snd_mss",
    "irs", "rcv_nxt", "rcv_wnd", "rcv_scale", "send_buffer", "receive_buffer", "cwnd", "srtt_us",
    "rto_us",
)  # fmt: skip
_NEWS = ("local", "remote", "iss", "irs", "send_buffer", "receive_buffer")
_READ = (
    "state",
    "descriptor",
    "name",
    "handle",
    "address",
    "addresses",
    "port",
    "local",
    "remote",
    "listener",
    "offset",
    "bytes",
    "acked",
    "limit",
    "error",
    "cause",
)
_ORDER = ("ethernet", "arp", "ipv4", "tcp", "udp", "icmp", "malformed")
_PUT_ON = {boundary(LINK, WIRE): "ethernet", boundary(IP, LINK): "ipv4", boundary(TCP, IP): ""}
_TAKEN_OFF = {boundary(IP, LINK): "ethernet", boundary(TCP, IP): "ipv4", boundary(APP, TCP): "tcp"}


def decode(event: Event) -> Headers:
    """The headers in an event's packet by protocol, and "data" with its length in bytes."""
    return dict(headers(event))


def number(fields: Fields, name: str) -> int:
    """A field as a number; 0 when it is absent. Over the API numbers come as text."""
    value = fields.get(name, 0)
    try:
        return int(value)
    except ValueError:
        return 0


def shown(protocol: str, fields: Fields, sign: str = "+") -> Fields:
    """The fields of a header that a line shows, in the order of the header.

    sign: "-" for a header that is taken off, of which fewer are shown.
    """
    picked: Fields = {}
    names = _TAKEN.get(protocol) if sign == "-" else None
    for name in names or _PUT.get(protocol, tuple(fields)):
        value = fields.get(name)
        if value is None or (protocol == "tcp" and name == "ack" and not has_ack(fields)):
            continue
        if protocol == "ethernet" and name == "type":
            value = f"0x{number(fields, name):04x}"
        picked[name] = value
    return picked


def ordered(fields: Fields) -> Fields:
    """Fields of a call, a message or a socket in the order in which people read them.

    They come over the API as a map, which has no order.
    """
    return {name: fields[name] for name in sorted(fields, key=_place)}


def socket_pair(event: Event) -> Pair | None:
    """(address, port, address, port) of the connection whose state changed in TCP, ours first."""
    fields = event.after if "remote_port" in event.after else event.before
    if not number(fields, "remote_port"):
        return None  # a listener
    return (str(fields.get("local_address", "")), number(fields, "local_port"),
            str(fields.get("remote_address", "")), number(fields, "remote_port"))  # fmt: skip


def told(control: Fields) -> Fields:
    """Of a control block what the table of sockets shows: about half, the rest is for experts."""
    fields = joined(control)
    return {name: fields[name] for name in _TOLD if name in fields}


def news(before: Fields, after: Fields) -> Fields:
    """What a change of state has written into a control block for the first time, or taken out."""
    old, new = joined(before), joined(after)
    return {name: new[name] for name in _NEWS
            if new.get(name, 0) != old.get(name, 0) and name in new}  # fmt: skip


def joined(fields: Fields) -> Fields:
    """Addresses with their ports: `local_address` and `local_port` become `local`."""
    fields = dict(fields)
    for end in ("local", "remote"):
        if f"{end}_address" in fields and f"{end}_port" in fields:
            fields[end] = f"{fields.pop(f'{end}_address')}:{fields.pop(f'{end}_port')}"
    return fields


def _place(name: str) -> tuple[int, str]:
    return (_READ.index(name) if name in _READ else len(_READ), name)


def has_ack(fields: Fields) -> bool:
    """The ACK bit is set, so the acknowledgement number means something."""
    return "ACK" in flags(fields)


def flags(fields: Fields) -> tuple[str, ...]:
    """The control bits of a TCP header that are set, by name."""
    return tuple(name for name in str(fields.get("flags", "")).split("|") if name not in ("", "-"))


def outer(found: Headers) -> str:
    """The outermost protocol that was decoded, or ""."""
    return next((name for name in _ORDER if name in found), "")


def changed(event: Event) -> tuple[str, str]:
    """(sign, protocol) of the header that the layer put on or took off before it sent this."""
    if event.direction == "down":
        if event.subject == Segment.__name__:
            return "+", outer(decode(event))
        protocol = _PUT_ON.get(event.boundary, "")
        return ("+", protocol) if protocol else ("", "")
    protocol = _TAKEN_OFF.get(event.boundary, "")
    carried = (Datagram.__name__, Segment.__name__, Data.__name__)
    return ("-", protocol) if protocol and event.subject in carried else ("", "")


def segment_of(event: Event) -> bytes:
    """The TCP segment in an event's packet, or b"" when there is none (or only a part of one)."""
    packet = event.packet
    if event.boundary == boundary(TCP, IP):
        return packet if number(event.fields, "protocol") == ipv4.PROTOCOL_TCP else b""
    if event.boundary == boundary(LINK, WIRE):
        if not is_bare_packet(packet):
            if packet[12:14] != b"\x08\x00":
                return b""
            packet = packet[14:]
    elif event.boundary != boundary(IP, LINK):
        return b""
    try:
        header, payload = ipv4.decode(packet)
    except DecodeError:
        return b""
    whole = header.protocol == ipv4.PROTOCOL_TCP and not header.offset
    return payload if whole and len(payload) >= tcp.MIN_HEADER else b""


def endpoints(found: Headers, event: Event) -> Pair | None:
    """(source, port, destination, port) of the segment in an event, or None."""
    header = found.get("tcp")
    if header is None:
        return None
    network = found.get("ipv4", event.fields)  # between tcp and ip the addresses are the message's
    return (str(network.get("src", "")), number(header, "src_port"),
            str(network.get("dst", "")), number(header, "dst_port"))  # fmt: skip


def option_rows(segment: bytes) -> list[tuple[str, int, str]]:
    """The options of a TCP header as (name, bits, value), in their order, padding included."""
    end = min(len(segment), (segment[12] >> 4) * 4)
    rows, index = [], tcp.MIN_HEADER
    while index < end:
        kind = segment[index]
        if kind in (tcp.OPTION_NOP, tcp.OPTION_END):
            rows.append(("nop" if kind == tcp.OPTION_NOP else "end of options", 8, ""))
            index += 1
            continue
        length = segment[index + 1] if index + 1 < end else 0
        if length < 2 or index + length > end:
            rows.append(("malformed", (end - index) * 8, segment[index:end].hex(" ")))
            break
        rows.append(_option(kind, length, segment[index + 2 : index + length]))
        index += length
    return rows


def _option(kind: int, length: int, body: bytes) -> tuple[str, int, str]:
    bits = length * 8
    if kind == tcp.OPTION_MSS:
        return "mss", bits, f"{int.from_bytes(body, 'big')}"
    if kind == tcp.OPTION_WINDOW_SCALE and body:
        return "window_scale", bits, f"{body[0]} (window x {1 << min(body[0], 14)})"
    if kind == tcp.OPTION_SACK_PERMITTED:
        return "sack_permitted", bits, ""
    if kind == tcp.OPTION_TIMESTAMPS and len(body) == 8:
        return "timestamps", bits, (f"tsval={int.from_bytes(body[:4], 'big')}"
                                    f" tsecr={int.from_bytes(body[4:], 'big')}")  # fmt: skip
    if kind == tcp.OPTION_SACK:
        edges = [int.from_bytes(body[at : at + 4], "big") for at in range(0, len(body), 4)]
        pairs = zip(edges[::2], edges[1::2], strict=False)
        return "sack", bits, " ".join(f"{left}-{right}" for left, right in pairs)
    return f"option {kind}", bits, body.hex(" ")
