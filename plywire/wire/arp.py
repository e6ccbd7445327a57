"""ARP for IPv4 over Ethernet (RFC 826)."""

from __future__ import annotations

import struct
from typing import NamedTuple

from plywire.errors import DecodeError
from plywire.wire.ethernet import TYPE_IPV4

REQUEST = 1
REPLY = 2
LENGTH = 28

_HARDWARE_ETHERNET = 1
_PACKET = struct.Struct("!HHBBH6s4s6s4s")


class ArpPacket(NamedTuple):
    """operation: REQUEST or REPLY; hardware addresses of 6 bytes, protocol addresses of 4."""

    operation: int
    sender_mac: bytes
    sender_ip: bytes
    target_mac: bytes
    target_ip: bytes


def encode(packet: ArpPacket) -> bytes:
    """28 bytes."""
    return _PACKET.pack(_HARDWARE_ETHERNET, TYPE_IPV4, 6, 4, *packet)


def decode(data: bytes | memoryview) -> ArpPacket:
    """The packet, padding ignored. Raises DecodeError."""
    if len(data) < LENGTH:
        raise DecodeError("arp_truncated", f"{len(data)} bytes")
    hardware, protocol, hardware_length, protocol_length, *fields = _PACKET.unpack_from(data)
    if (hardware, protocol, hardware_length, protocol_length) != (1, TYPE_IPV4, 6, 4):
        raise DecodeError("arp_not_ipv4_over_ethernet", f"hardware {hardware}, {protocol:#06x}")
    packet = ArpPacket._make(fields)
    if packet.operation not in (REQUEST, REPLY):
        raise DecodeError("arp_bad_operation", f"{packet.operation}")
    if packet.sender_mac[0] & 1:
        raise DecodeError("arp_group_sender", packet.sender_mac.hex(":"))
    return packet
