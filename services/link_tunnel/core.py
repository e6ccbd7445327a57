"""The role of link where a packet travels in a UDP datagram, as it is.

There is nothing to resolve: the lab file says where each neighbour is reached. So a next hop that
it does not name has failed at once.
"""

from __future__ import annotations

import random

from plywire.config import HostConfig
from plywire.errors import DecodeError
from plywire.layer import Output
from plywire.links import (
    LIMITED_BROADCAST,
    BareInterface,
    LinkBase,
    LinkInterface,
    directed_broadcast,
    incoming_flags,
    outgoing,
)
from plywire.messages import Datagram, Frame, NeighbourFailed
from plywire.roles import IP
from plywire.trace import Tracer
from plywire.tunnels import PeerTable

_LENGTH = slice(2, 4)


class TunnelLayer(LinkBase):
    """The link of a host whose interfaces are all tunnels."""

    state_format = "link_tunnel/1"

    def __init__(self, host: HostConfig, tracer: Tracer) -> None:
        super().__init__([BareInterface(config) for config in host.interfaces], tracer)
        self._peers = {item.ifindex: PeerTable(item, host.routes) for item in host.interfaces}

    def _down(self, datagram: Datagram, interface: LinkInterface, now: int) -> None:
        packet, next_hop = outgoing(datagram, interface), datagram.next_hop
        if is_group(next_hop, interface) or self._peers[interface.ifindex].lookup(next_hop):
            self._transmit(interface, packet, datagram.trace, now)
            return
        self.counters["drop_no_peer"] += 1
        if self._tracer.enabled:
            self._tracer.drop(now, datagram.trace, "drop_no_peer", packet)
        failed = NeighbourFailed(datagram.trace, interface.ifindex, next_hop, packet)
        self._out.append(Output(IP, failed))

    def _up(self, frame: Frame, interface: LinkInterface, now: int) -> None:
        packet = frame.frame
        flags = incoming_flags(frame, interface)
        if int.from_bytes(packet[_LENGTH], "big") != len(packet):
            raise DecodeError("bad_length", f"{len(packet)} bytes")  # no padding here
        if len(packet) > interface.mtu:
            raise DecodeError("packet_too_big", f"{len(packet)} bytes")
        self._accept(interface, packet)
        self._deliver(interface, packet, flags, frame.trace)


def is_group(address: bytes, interface: LinkInterface) -> bool:
    """Everybody's address: all peers get the packet."""
    return (
        address in (LIMITED_BROADCAST, directed_broadcast(interface.config))
        or address[0] & 0xF0 == 0xE0
    )


def create(host: HostConfig, rng: random.Random, tracer: Tracer) -> TunnelLayer:
    """A tunnel for each interface of `host`; it needs no randomness."""
    return TunnelLayer(host, tracer)
