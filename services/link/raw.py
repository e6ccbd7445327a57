"""A link without Ethernet and ARP: what is on its wire are bare IP packets, as on a TUN.

It is for all interfaces of a host; `services.link.core` uses it for those on the device `raw`.
Such a wire joins two stations. With more than two, all of them get each packet, and a router among
them would forward what is not its business.
"""

from __future__ import annotations

import random

from plywire.config import HostConfig
from plywire.links import BareInterface, LinkBase, LinkInterface, incoming_flags, outgoing
from plywire.messages import Datagram, Frame
from plywire.trace import Tracer


class RawLinkLayer(LinkBase):
    """The role of link over bare packets."""

    def __init__(self, host: HostConfig, tracer: Tracer) -> None:
        super().__init__([BareInterface(config) for config in host.interfaces], tracer)

    def _down(self, datagram: Datagram, interface: LinkInterface, now: int) -> None:
        self._transmit(interface, outgoing(datagram, interface), datagram.trace, now)

    def _up(self, frame: Frame, interface: LinkInterface, now: int) -> None:
        flags = incoming_flags(frame, interface)
        self._accept(interface, frame.frame)
        self._deliver(interface, frame.frame, flags, frame.trace)


def create(host: HostConfig, rng: random.Random, tracer: Tracer) -> RawLinkLayer:
    """A raw link for all interfaces of `host`; it needs no randomness."""
    return RawLinkLayer(host, tracer)
