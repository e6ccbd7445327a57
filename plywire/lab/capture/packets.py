"""Reads what filters and lines need of a packet's headers.

Observers take packets as they are: a wrong checksum or a cut header is no reason not to show one.
"""

from __future__ import annotations

import struct
from typing import NamedTuple

from plywire.pcapng import LINKTYPE_ETHERNET, LINKTYPE_WIRESHARK_UPPER_PDU
from plywire.wire import ethernet, ipv4

IP, ARP, OTHER = "ip", "arp", "other"

_IP_HEADER = struct.Struct("!BBHHHBBH4s4s")
_ARP_FIXED = bytes.fromhex("000108000604")  # Ethernet and IPv4, and their addresses' lengths
_ARP_LENGTH = 28
_WITH_PORTS = (ipv4.PROTOCOL_TCP, ipv4.PROTOCOL_UDP)


class Packet(NamedTuple):
    """A packet's headers up to the ports.

    kind: IP, ARP (over Ethernet, for IPv4) or OTHER. src, dst: IP's addresses; of ARP the
    sender's and the target's. protocol: IP's number. src_port, dst_port: of TCP and UDP, else -1.
    payload: what follows IP's header, trimmed to IP's length; of ARP the packet with its padding;
    else all of the bytes. offset, more: of a fragment. missing: bytes that IP's length
    promises and the packet does not have. ethertype: 0 where there is no Ethernet.
    """

    kind: str
    payload: bytes
    src: bytes = b""
    dst: bytes = b""
    protocol: int = 0
    src_port: int = -1
    dst_port: int = -1
    offset: int = 0
    more: bool = False
    missing: int = 0
    ethertype: int = 0


class Taken(NamedTuple):
    """A packet as it crossed a boundary.

    number: of the point, time: nanoseconds since the epoch, direction: "in" or "out". src, dst (4
    bytes each) and protocol: what the message said at tcp/ip, where there is no IP header.
    """

    number: int
    time: int
    trace: int
    direction: str
    data: bytes
    src: bytes = b""
    dst: bytes = b""
    protocol: int = 0


def read(linktype: int, taken: Taken) -> Packet:
    """What is in a packet."""
    if linktype == LINKTYPE_ETHERNET:
        return _ethernet(taken.data)
    if linktype == LINKTYPE_WIRESHARK_UPPER_PDU:
        return _with_ports(Packet(IP, taken.data, taken.src, taken.dst, taken.protocol))
    return _ip(taken.data, 0)


def _ethernet(frame: bytes) -> Packet:
    if len(frame) < ethernet.HEADER_LENGTH:
        return Packet(OTHER, frame)
    ethertype = int.from_bytes(frame[12:14], "big")
    payload = frame[ethernet.HEADER_LENGTH :]
    if ethertype == ethernet.TYPE_IPV4:
        packet = _ip(payload, ethertype)
        return packet._replace(payload=frame) if packet.kind == OTHER else packet
    whole = len(payload) >= _ARP_LENGTH and payload.startswith(_ARP_FIXED)
    if ethertype == ethernet.TYPE_ARP and whole:
        return Packet(ARP, payload, payload[14:18], payload[24:28], ethertype=ethertype)
    return Packet(OTHER, frame, ethertype=ethertype)


def _ip(data: bytes, ethertype: int) -> Packet:
    if len(data) < ipv4.MIN_HEADER or data[0] >> 4 != 4:
        return Packet(OTHER, data, ethertype=ethertype)
    first, _, length, _, fragment, _, protocol, _, src, dst = _IP_HEADER.unpack_from(data)
    start = (first & 15) << 2
    if start < ipv4.MIN_HEADER or length < start:
        return Packet(OTHER, data, ethertype=ethertype)
    packet = Packet(
        IP, data[start:length], src, dst, protocol, offset=(fragment & 0x1FFF) << 3,
        more=bool(fragment & 0x2000), missing=max(0, length - len(data)), ethertype=ethertype,
    )  # fmt: skip
    return _with_ports(packet)


def _with_ports(packet: Packet) -> Packet:
    if packet.protocol not in _WITH_PORTS or packet.offset or len(packet.payload) < 4:
        return packet
    src_port, dst_port = struct.unpack_from("!HH", packet.payload)
    return packet._replace(src_port=src_port, dst_port=dst_port)
