"""Which addresses are this host's, and which no packet may come from or go to."""

from __future__ import annotations

from plywire.config import HostConfig

UNSPECIFIED = b"\0\0\0\0"
LIMITED_BROADCAST = b"\xff\xff\xff\xff"
LOOPBACK = b"\x7f\0\0\1"
LOOPBACK_NET = 0x7F
FIRST_GROUP = 0xE0
"""First bytes from here on are multicast (224/4) and reserved (240/4): not one host's address."""


class Addresses:
    """The addresses that a host has by its configuration.

    own: its unicast addresses; broadcasts: the limited one and those of its networks, all ones and
    all zeros (RFC 1122 3.3.6); never_source: what no packet from a link may bear as its source.
    """

    __slots__ = ("broadcasts", "never_source", "own")

    def __init__(self, host: HostConfig) -> None:
        self.own = frozenset(item.address for item in host.interfaces)
        broadcasts = {LIMITED_BROADCAST}
        for item in host.interfaces:
            if item.prefix_length < 31:  # RFC 3021: a /31 has no broadcast address
                broadcasts |= {item.broadcast, item.network}
        self.broadcasts = frozenset(broadcasts)
        self.never_source = self.own | self.broadcasts

    def bad_source(self, src: bytes) -> bool:
        """Zero, loopback, group, reserved, broadcast, or our own (RFC 1122 3.2.1.3)."""
        return not 0 < src[0] < FIRST_GROUP or src[0] == LOOPBACK_NET or src in self.never_source


def can_be_routed(dst: bytes) -> bool:
    """One host's address on a link: not 0/8, 127/8, multicast, reserved or limited broadcast."""
    return 0 < dst[0] < FIRST_GROUP and dst[0] != LOOPBACK_NET


def is_link_local(address: bytes) -> bool:
    """169.254/16, which a router never forwards (RFC 3927 2.7)."""
    return address[:2] == b"\xa9\xfe"
