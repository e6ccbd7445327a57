"""A link without Ethernet and ARP: what is on its wire are bare IP packets, as on a TUN.

Such a wire joins two stations. With more than two, all of them get each packet, and a router among
them would forward what is not its business.
"""

from __future__ import annotations

import random

from plywire.config import HostConfig
from plywire.errors import DecodeError
from plywire.messages import FLAG_BROADCAST, MAX_PACKET, Datagram, Frame
from plywire.trace import Tracer
from services.link.base import LIMITED_BROADCAST, LinkBase, LinkInterface, directed_broadcast

_NO_MAC = b"\0" * 6
_DST = slice(16, 20)


class RawInterface(LinkInterface):
    """An interface that has no hardware address."""

    __slots__ = ()

    @property
    def mac(self) -> bytes:
        return _NO_MAC


class RawLinkLayer(LinkBase):
    """The role of link over bare packets."""

    def __init__(self, host: HostConfig, tracer: Tracer) -> None:
        super().__init__([RawInterface(config) for config in host.interfaces], tracer)

    def _down(self, datagram: Datagram, interface: LinkInterface, now: int) -> None:
        if len(datagram.packet) > interface.mtu:
            raise DecodeError("packet_too_big", f"{len(datagram.packet)} bytes")
        self._transmit(interface, datagram.packet, datagram.trace, now)

    def _up(self, frame: Frame, interface: LinkInterface, now: int) -> None:
        packet = frame.frame
        if len(packet) < 20 or packet[0] >> 4 != 4:
            raise DecodeError("not_ipv4")
        if len(packet) > MAX_PACKET:
            raise DecodeError("frame_too_long", f"{len(packet)} bytes")
        dst = packet[_DST]
        group = (
            dst == LIMITED_BROADCAST
            or dst == directed_broadcast(interface.config)
            or dst[0] & 0xF0 == 0xE0
        )
        self._accept(interface, packet)
        self._deliver(interface, packet, FLAG_BROADCAST if group else 0, frame.trace)


def create(host: HostConfig, rng: random.Random, tracer: Tracer) -> RawLinkLayer:
    """A raw link for all interfaces of `host`; it needs no randomness."""
    return RawLinkLayer(host, tracer)
