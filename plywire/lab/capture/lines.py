"""Packets as the lines that `tcpdump -n` prints.

With several points, each line names the point and the direction, as `tcpdump -i any` does. Payloads
of applications are not looked into.
"""

from __future__ import annotations

import datetime
import struct
from collections import OrderedDict
from collections.abc import Sequence

from plywire.lab.capture.outputs import Output
from plywire.lab.capture.packets import ARP, IP, Packet, Taken
from plywire.lab.capture.points import Point
from plywire.wire import arp, icmp, ipv4, tcp

MAX_CONVERSATIONS = 4096
"""Connections whose sequence numbers are shown relative to their first ones."""

_FLAGS = ((tcp.FIN, "F"), (tcp.SYN, "S"), (tcp.RST, "R"), (tcp.PSH, "P"), (tcp.ACK, "."),
          (tcp.URG, "U"), (tcp.ECE, "E"), (tcp.CWR, "W"))  # fmt: skip
_TCP = struct.Struct("!HHIIBBHHH")
_PROTOCOL_NAMES = {ipv4.PROTOCOL_TCP: "tcp", ipv4.PROTOCOL_UDP: "udp"}
_MASK = 0xFFFF_FFFF
_BAD_OPTION = "[bad opt]"
_UNREACHABLE = {
    icmp.NET_UNREACHABLE: "net {} unreachable",
    icmp.HOST_UNREACHABLE: "host {} unreachable",
    5: "{} unreachable - source route failed",
    6: "net {} unreachable - unknown",
    7: "host {} unreachable - unknown",
    8: "{} unreachable - source host isolated",
    9: "net {} unreachable - admin prohibited",
    10: "host {} unreachable - admin prohibited",
    11: "net {} unreachable - tos prohibited",
    12: "host {} unreachable - tos prohibited",
    icmp.ADMIN_PROHIBITED: "host {} unreachable - admin prohibited filter",
    14: "host {} unreachable - host precedence violation",
    15: "host {} unreachable - precedence cutoff",
}
_REDIRECTS = ("redirect {} to net {}", "redirect {} to host {}", "redirect-tos {} to net {}",
              "redirect-tos {} to host {}")  # fmt: skip


class Printer:
    """Writes a line for each packet to an output."""

    def __init__(self, output: Output, points: Sequence[Point]) -> None:
        self._output = output
        self._lines = Lines(points)

    def packet(self, taken: Taken, packet: Packet) -> None:
        """Print one; `packet` is what is in it."""
        line = self._lines.line(taken.number, taken.time, taken.direction, packet)
        self._output.write(line.encode() + b"\n")

    def finish(self, time: int, seen: Sequence[int], taken: Sequence[int], dropped: int) -> None:
        """The lines tell nothing of that."""


class Lines:
    """Makes the lines. It knows the connections seen, per point, for relative numbers."""

    def __init__(self, points: Sequence[Point]) -> None:
        self._names = [point.name for point in points]
        self._width = max(map(len, self._names), default=0)
        self._first: OrderedDict[tuple, tuple[int, int]] = OrderedDict()

    def line(self, number: int, time: int, direction: str, packet: Packet) -> str:
        """A packet of the point `number`. time: since the epoch, in ns; direction: "in", "out"."""
        seconds, rest = divmod(time, 1_000_000_000)
        clock = datetime.datetime.fromtimestamp(seconds).strftime("%H:%M:%S")
        where = ""
        if len(self._names) > 1:
            where = f"{self._names[number]:<{self._width}} {direction.capitalize():<3} "
        return f"{clock}.{rest // 1000:06d} {where}{self._packet(number, packet)}"

    def _packet(self, number: int, packet: Packet) -> str:
        if packet.kind == IP:
            return "IP " + self._ip(number, packet)
        if packet.kind == ARP:
            return _arp(packet.payload)
        data = packet.payload
        if packet.ethertype:
            dst, src = data[:6].hex(":"), data[6:12].hex(":")
            return f"{src} > {dst}, ethertype {packet.ethertype:#06x}, length {len(data)}"
        return f"malformed, length {len(data)}"

    def _ip(self, number: int, packet: Packet) -> str:
        short = f"truncated-ip - {packet.missing} bytes missing! " if packet.missing else ""
        src, dst = _address(packet.src), _address(packet.dst)
        protocol, payload = packet.protocol, packet.payload
        if packet.offset:
            return f"{short}{src} > {dst}: ip-proto-{protocol}"
        if protocol in _PROTOCOL_NAMES:
            if packet.src_port < 0:
                return f"{short}{src} > {dst}:  [|{_PROTOCOL_NAMES[protocol]}]"
            ends = f"{short}{src}.{packet.src_port} > {dst}.{packet.dst_port}: "
            if protocol == ipv4.PROTOCOL_TCP:
                return ends + self._tcp(number, packet)
            return ends + _udp(payload)
        if protocol == ipv4.PROTOCOL_ICMP:
            return f"{short}{src} > {dst}: {_icmp(payload)}"
        return f"{short}{src} > {dst}:  ip-proto-{protocol} {len(payload)}"

    def _tcp(self, number: int, packet: Packet) -> str:
        segment, size = packet.payload, len(packet.payload) + packet.missing
        if len(segment) < tcp.MIN_HEADER:
            return " [|tcp]"
        _, _, seq, ack, offset, flags, window, _, urgent = _TCP.unpack_from(segment)
        header = offset >> 4 << 2
        names = "".join(letter for bit, letter in _FLAGS if flags & bit) or "none"
        if header < tcp.MIN_HEADER:
            short = f"[bad hdr length {header} - too short, < {tcp.MIN_HEADER}]"
            return f" tcp {size - header} {short}"
        if header > size:
            return f"Flags [{names}] [bad hdr length {header} - too long, > {size}]"
        base = (0, 0)
        if flags & tcp.ACK:
            base = self._relative(number, packet, seq, ack, flags)
        seq, ack = seq - base[0] & _MASK, ack - base[1] & _MASK
        size -= header
        parts = [f"Flags [{names}]"]
        if size or flags & (tcp.SYN | tcp.FIN | tcp.RST):
            parts.append(f"seq {seq}:{seq + size & _MASK}" if size else f"seq {seq}")
        if flags & tcp.ACK:
            parts.append(f"ack {ack}")
        parts.append(f"win {window}")
        if flags & tcp.URG:
            parts.append(f"urg {urgent}")
        if header > tcp.MIN_HEADER:
            options = _options(segment[tcp.MIN_HEADER : header], base[1])
            parts.append(f"options [{options}")
            if options.endswith(_BAD_OPTION):
                return ", ".join(parts)
            parts[-1] += "]"
        parts.append(f"length {size}")
        return ", ".join(parts)

    def _relative(
        self, number: int, packet: Packet, seq: int, ack: int, flags: int
    ) -> tuple[int, int]:
        """What to take off seq and ack: nothing in the first segment seen, which sets the base."""
        here = (packet.src, packet.src_port)
        there = (packet.dst, packet.dst_port)
        turned = here > there
        key = (number, there, here) if turned else (number, here, there)
        first = self._first.get(key)
        if first is None or flags & tcp.SYN:
            self._first[key] = (ack - 1, seq) if turned else (seq, ack - 1)
            self._first.move_to_end(key)
            if len(self._first) > MAX_CONVERSATIONS:
                self._first.popitem(last=False)
            return 0, 0
        return first[::-1] if turned else first


def _options(data: bytes, base: int) -> str:
    """The options in their order. base: what is taken off the edges of SACK blocks."""
    found = []
    while data:
        kind = data[0]
        if kind in (tcp.OPTION_END, tcp.OPTION_NOP):
            found.append("eol" if kind == tcp.OPTION_END else "nop")
            if kind == tcp.OPTION_END:
                break
            data = data[1:]
            continue
        length = data[1] if len(data) > 1 else 0
        if not 2 <= length <= len(data):
            found.append(_BAD_OPTION)
            break
        found.append(_option(kind, data[2:length], base))
        data = data[length:]
    return ",".join(found)


def _option(kind: int, body: bytes, base: int) -> str:
    if kind == tcp.OPTION_MSS and len(body) == 2:
        return f"mss {int.from_bytes(body, 'big')}"
    if kind == tcp.OPTION_WINDOW_SCALE and len(body) == 1:
        return f"wscale {body[0]}"
    if kind == tcp.OPTION_SACK_PERMITTED and not body:
        return "sackOK"
    if kind == tcp.OPTION_TIMESTAMPS and len(body) == 8:
        return "TS val {} ecr {}".format(*struct.unpack("!II", body))
    if kind == tcp.OPTION_SACK and body and len(body) % 8 == 0:
        edges = [edge - base & _MASK for edge in struct.unpack(f"!{len(body) // 4}I", body)]
        blocks = zip(edges[::2], edges[1::2], strict=True)
        return f"sack {len(edges) // 2} " + "".join(f"{{{a}:{b}}}" for a, b in blocks)
    return f"unknown-{kind} 0x{body.hex()}"


def _udp(datagram: bytes) -> str:
    if len(datagram) < 8:
        return f"truncated-udp {len(datagram)}"
    return f"UDP, length {max(0, int.from_bytes(datagram[4:6], 'big') - 8)}"


def _icmp(message: bytes) -> str:
    if len(message) < icmp.HEADER_LENGTH:
        return " [|icmp]"
    kind, code = message[0], message[1]
    first, second = struct.unpack_from("!HH", message, 4)
    if kind in (icmp.ECHO_REQUEST, icmp.ECHO_REPLY):
        name = "request" if kind == icmp.ECHO_REQUEST else "reply"
        what = f"echo {name}, id {first}, seq {second}"
    elif kind == icmp.UNREACHABLE:
        what = _unreachable(code, second, message[icmp.HEADER_LENGTH :])
    elif kind == icmp.TIME_EXCEEDED:
        what = {
            icmp.TTL_EXCEEDED: "time exceeded in-transit",
            icmp.REASSEMBLY_TIMEOUT: "ip reassembly time exceeded",
        }.get(code, f"time exceeded-#{code}")
    elif kind == icmp.PARAMETER_PROBLEM:
        what = f"parameter problem - code {code}" if code else (
            f"parameter problem - octet {first >> 8}"
        )  # fmt: skip
    elif kind == icmp.REDIRECT and code < len(_REDIRECTS) and len(message) >= 28:
        what = _REDIRECTS[code].format(_address(message[24:28]), _address(message[4:8]))
    elif kind == icmp.SOURCE_QUENCH:
        what = "source quench"
    else:
        what = f"type-#{kind}"
    return f"ICMP {what}, length {len(message)}"


def _unreachable(code: int, mtu: int, quoted: bytes) -> str:
    if len(quoted) < ipv4.MIN_HEADER:
        return f"unreachable - #{code}"
    dst, protocol = _address(quoted[16:20]), quoted[9]
    if code == icmp.PROTOCOL_UNREACHABLE:
        return f"{dst} protocol {protocol} unreachable"
    if code == icmp.PORT_UNREACHABLE:
        ports = quoted[(quoted[0] & 15) << 2 :][:4]
        if len(ports) == 4:
            port = int.from_bytes(ports[2:], "big")
            name = _PROTOCOL_NAMES.get(protocol, f"protocol {protocol}")
            return f"{dst} {name} port {port} unreachable"
    if code == icmp.FRAGMENTATION_NEEDED:
        return f"{dst} unreachable - need to frag" + (f" (mtu {mtu})" if mtu else "")
    return _UNREACHABLE.get(code, f"{{}} unreachable - #{code}").format(dst)


def _arp(data: bytes) -> str:
    tail = f"length {len(data)}"
    operation = int.from_bytes(data[6:8], "big")
    sender_mac, sender, target_mac, target = data[8:14], data[14:18], data[18:24], data[24:28]
    if operation == arp.REQUEST:
        asked = f" ({target_mac.hex(':')})" if any(target_mac) else ""
        return f"ARP, Request who-has {_address(target)}{asked} tell {_address(sender)}, {tail}"
    if operation == arp.REPLY:
        return f"ARP, Reply {_address(sender)} is-at {sender_mac.hex(':')}, {tail}"
    return f"ARP, Unknown ({operation}), {tail}"


def _address(value: bytes) -> str:
    return ".".join(map(str, value))
