"""UDP headers over IPv4 (RFC 768)."""

from __future__ import annotations

import struct
from typing import NamedTuple

from plywire.errors import DecodeError
from plywire.wire.checksum import checksum, pseudo_header
from plywire.wire.ipv4 import PROTOCOL_UDP

HEADER_LENGTH = 8
_HEADER = struct.Struct("!HHHH")


class UdpHeader(NamedTuple):
    """Ports, 16 bits each."""

    src_port: int
    dst_port: int


def encode(header: UdpHeader, payload: bytes, src: bytes, dst: bytes) -> bytes:
    """The datagram; a checksum that comes out as 0 is sent as 0xFFFF (0 means none)."""
    length = HEADER_LENGTH + len(payload)
    head = _HEADER.pack(*header, length, 0)
    value = checksum(head + payload, pseudo_header(src, dst, PROTOCOL_UDP, length)) or 0xFFFF
    return _HEADER.pack(*header, length, value) + payload


def decode(datagram: bytes | memoryview, src: bytes, dst: bytes) -> tuple[UdpHeader, bytes]:
    """The header and its payload, trimmed to the length field. Raises DecodeError."""
    if len(datagram) < HEADER_LENGTH:
        raise DecodeError("udp_truncated", f"{len(datagram)} bytes")
    src_port, dst_port, length, value = _HEADER.unpack_from(datagram)
    if not HEADER_LENGTH <= length <= len(datagram):
        raise DecodeError("udp_bad_length", f"{length} of {len(datagram)}")
    datagram = datagram[:length]
    if value and checksum(datagram, pseudo_header(src, dst, PROTOCOL_UDP, length)):
        raise DecodeError("udp_bad_checksum")
    return UdpHeader(src_port, dst_port), bytes(datagram[HEADER_LENGTH:])
