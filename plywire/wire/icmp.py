"""ICMP for IPv4 (RFC 792; next-hop MTU by RFC 1191)."""

from __future__ import annotations

import struct
from typing import NamedTuple

from plywire.errors import DecodeError
from plywire.wire.checksum import checksum

ECHO_REPLY = 0
UNREACHABLE = 3
SOURCE_QUENCH = 4
REDIRECT = 5
ECHO_REQUEST = 8
TIME_EXCEEDED = 11
PARAMETER_PROBLEM = 12

NET_UNREACHABLE = 0
HOST_UNREACHABLE = 1
PROTOCOL_UNREACHABLE = 2
PORT_UNREACHABLE = 3
FRAGMENTATION_NEEDED = 4
ADMIN_PROHIBITED = 13

TTL_EXCEEDED = 0
REASSEMBLY_TIMEOUT = 1

ERRORS = frozenset({UNREACHABLE, SOURCE_QUENCH, REDIRECT, TIME_EXCEEDED, PARAMETER_PROBLEM})
"""Types that quote an offending packet; no error is ever sent about one of these."""

HEADER_LENGTH = 8
_HEADER = struct.Struct("!BBHI")


class IcmpMessage(NamedTuple):
    """rest: the second word of the header as an integer; body: what follows it.

    Echo: identifier << 16 | sequence. Fragmentation needed: the next-hop MTU in the low 16 bits.
    """

    type: int
    code: int
    rest: int
    body: bytes


def encode(message: IcmpMessage) -> bytes:
    """The message with its checksum."""
    head = _HEADER.pack(message.type, message.code, 0, message.rest)
    value = checksum(head + message.body)
    return _HEADER.pack(message.type, message.code, value, message.rest) + message.body


def decode(data: bytes | memoryview) -> IcmpMessage:
    """The message. Raises DecodeError."""
    if len(data) < HEADER_LENGTH:
        raise DecodeError("icmp_truncated", f"{len(data)} bytes")
    if checksum(data):
        raise DecodeError("icmp_bad_checksum")
    kind, code, _, rest = _HEADER.unpack_from(data)
    return IcmpMessage(kind, code, rest, bytes(data[HEADER_LENGTH:]))
