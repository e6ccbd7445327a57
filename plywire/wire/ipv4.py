"""IPv4 headers (RFC 791)."""

from __future__ import annotations

import struct
from typing import NamedTuple

from plywire.errors import DecodeError
from plywire.wire.checksum import checksum

PROTOCOL_ICMP = 1
PROTOCOL_TCP = 6
PROTOCOL_UDP = 17

MIN_HEADER = 20
MAX_LENGTH = 65_535
MIN_MTU = 68

_HEADER = struct.Struct("!BBHHHBBH4s4s")


class Ipv4Header(NamedTuple):
    """tos: DSCP and ECN; offset: of this fragment in bytes, a multiple of 8; options: padded."""

    src: bytes
    dst: bytes
    protocol: int
    tos: int = 0
    ident: int = 0
    dont_fragment: bool = False
    more_fragments: bool = False
    offset: int = 0
    ttl: int = 64
    options: bytes = b""


def encode(header: Ipv4Header, payload: bytes) -> bytes:
    """A packet with its total length and header checksum filled in."""
    options = header.options
    header_length = MIN_HEADER + len(options)
    fragment = header.offset >> 3
    if header.dont_fragment:
        fragment |= 0x4000
    if header.more_fragments:
        fragment |= 0x2000
    fields = (
        0x40 | header_length >> 2,
        header.tos,
        header_length + len(payload),
        header.ident,
        fragment,
        header.ttl,
        header.protocol,
    )
    head = _HEADER.pack(*fields, 0, header.src, header.dst) + options
    return _HEADER.pack(*fields, checksum(head), header.src, header.dst) + options + payload


def decode(packet: bytes | memoryview) -> tuple[Ipv4Header, bytes]:
    """The header and its payload, trimmed to the total length. Raises DecodeError."""
    if len(packet) < MIN_HEADER:
        raise DecodeError("ipv4_truncated", f"{len(packet)} bytes")
    version, tos, length, ident, fragment, ttl, protocol, _, src, dst = _HEADER.unpack_from(packet)
    if version >> 4 != 4:
        raise DecodeError("ipv4_bad_version", f"{version >> 4}")
    header_length = (version & 0x0F) << 2
    if header_length < MIN_HEADER or header_length > length:
        raise DecodeError("ipv4_bad_header_length", f"{header_length} of {length}")
    if length > len(packet):
        raise DecodeError("ipv4_truncated", f"{len(packet)} of {length} bytes")
    if checksum(packet[:header_length]):
        raise DecodeError("ipv4_bad_checksum")
    header = Ipv4Header(
        src,
        dst,
        protocol,
        tos,
        ident,
        fragment & 0x4000 != 0,
        fragment & 0x2000 != 0,
        (fragment & 0x1FFF) << 3,
        ttl,
        bytes(packet[MIN_HEADER:header_length]),
    )
    return header, bytes(packet[header_length:length])
