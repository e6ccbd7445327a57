"""Ethernet II frames (RFC 894), without preamble and frame check sequence."""

from __future__ import annotations

import struct
from typing import NamedTuple

from plywire.errors import DecodeError

TYPE_IPV4 = 0x0800
TYPE_ARP = 0x0806

HEADER_LENGTH = 14
MIN_FRAME = 60
"""The shortest frame: what is shorter is padded with zeros, so IP trims by its own length."""
BROADCAST = b"\xff" * 6

_HEADER = struct.Struct("!6s6sH")


class EthernetHeader(NamedTuple):
    """dst, src: 6 bytes each; type: 0x0600 and above (below are 802.3 lengths, refused)."""

    dst: bytes
    src: bytes
    type: int


def encode(header: EthernetHeader, payload: bytes) -> bytes:
    """A frame, padded to `MIN_FRAME`."""
    frame = _HEADER.pack(*header) + payload
    return frame if len(frame) >= MIN_FRAME else frame.ljust(MIN_FRAME, b"\0")


def decode(frame: bytes | memoryview) -> tuple[EthernetHeader, bytes]:
    """The header and what follows, padding included. Raises DecodeError."""
    if len(frame) < HEADER_LENGTH:
        raise DecodeError("ethernet_truncated", f"{len(frame)} bytes")
    header = EthernetHeader._make(_HEADER.unpack_from(frame))
    if header.type < 0x0600:
        raise DecodeError("ethernet_length_field", f"type {header.type:#06x}")
    return header, bytes(frame[HEADER_LENGTH:])


def is_group(address: bytes) -> bool:
    """Broadcast or multicast: the lowest bit of the first byte is set."""
    return bool(address[0] & 1)
