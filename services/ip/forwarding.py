"""What a router does to a packet, and which packets it leaves alone (RFC 1812 section 5)."""

from __future__ import annotations

from plywire.wire.checksum import update
from plywire.wire.ipv4 import Ipv4Header
from services.ip.addresses import can_be_routed, is_link_local


def permitted(header: Ipv4Header) -> bool:
    """Whether a packet that is not for this host may go on at all, wherever its route leads."""
    if is_link_local(header.src) or is_link_local(header.dst):
        return False
    return can_be_routed(header.dst)


def with_ttl_decremented(packet: bytes) -> bytes:
    """The packet with its TTL one lower (it is above 0) and its checksum updated (RFC 1624)."""
    old = packet[8] << 8 | packet[9]
    checksum = update(packet[10] << 8 | packet[11], old, old - 0x100)
    changed = bytes((packet[8] - 1, packet[9], checksum >> 8, checksum & 0xFF))
    return b"".join((packet[:8], changed, packet[12:]))
