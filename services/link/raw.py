"""A link without Ethernet and ARP: what is on its wire are bare IP packets, as on a TUN.

It is for all interfaces of a host; `services.link.core` uses it for those on the device `raw`.
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
        self._transmit(interface, outgoing(datagram, interface), datagram.trace, now)

    def _up(self, frame: Frame, interface: LinkInterface, now: int) -> None:
        flags = incoming_flags(frame, interface)
        self._accept(interface, frame.frame)
        self._deliver(interface, frame.frame, flags, frame.trace)


def outgoing(datagram: Datagram, interface: LinkInterface) -> bytes:
    """What goes on the wire for a datagram: its packet. Raises DecodeError when it is too long."""
    if len(datagram.packet) > interface.mtu:
        raise DecodeError("packet_too_big", f"{len(datagram.packet)} bytes")
    return datagram.packet


def incoming_flags(frame: Frame, interface: LinkInterface) -> int:
    """The flags of the Datagram that a packet from the wire becomes. Raises DecodeError when it is
    not one."""
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
    return FLAG_BROADCAST if group else 0


def create(host: HostConfig, rng: random.Random, tracer: Tracer) -> RawLinkLayer:
    """A raw link for all interfaces of `host`; it needs no randomness."""
    return RawLinkLayer(host, tracer)
