"""Ethernet and ARP: the link layer of a host, all of its interfaces (RFC 894, 826, 1122, 5227).

An interface on the device `raw` has neither: its packets go as they are.
"""

from __future__ import annotations

import random
from functools import partial

from plywire.config import HostConfig, InterfaceConfig
from plywire.errors import DecodeError
from plywire.layer import Output
from plywire.links import (
    ANY_ADDRESS,
    LIMITED_BROADCAST,
    BareInterface,
    LinkBase,
    LinkInterface,
    directed_broadcast,
    incoming_flags,
    outgoing,
)
from plywire.messages import FLAG_BROADCAST, MAX_PACKET, Datagram, Frame, NeighbourFailed
from plywire.roles import IP
from plywire.timers import Timers
from plywire.trace import Tracer
from plywire.wire import arp, ethernet
from services.link.claim import AddressClaim
from services.link.neighbours import Neighbours, ipv4_header

ALL_HOSTS = bytes.fromhex("01005e000001")
"""Where 224.0.0.1 is heard, the one multicast group of every host (RFC 1112 section 6.4)."""

_NO_MAC = b"\0" * 6


class EthernetInterface(LinkInterface):
    """An interface with a hardware address, a neighbour cache and a claim to its IP address."""

    __slots__ = ("broadcasts", "claim", "groups", "neighbours")

    def __init__(self, config: InterfaceConfig) -> None:
        super().__init__(config)
        self.broadcasts = frozenset({LIMITED_BROADCAST, directed_broadcast(config)})
        self.groups = frozenset({ethernet.BROADCAST, ALL_HOSTS})
        self.claim: AddressClaim
        self.neighbours: Neighbours

    def describe(self) -> dict[str, int | str]:
        return super().describe() | self.claim.describe()

    def dump(self) -> dict[str, object]:
        return super().dump() | {"claim": self.claim.dump(), "neighbours": self.neighbours.dump()}

    def load(self, state: dict[str, object]) -> None:
        super().load(state)
        self.claim.load(state["claim"])
        self.neighbours.load(state["neighbours"])


class LinkLayer(LinkBase):
    """The role of link over Ethernet."""

    def __init__(self, host: HostConfig, rng: random.Random, tracer: Tracer) -> None:
        super().__init__([_interface(config) for config in host.interfaces], tracer)
        self._timers = Timers()
        self._ethernet = [
            interface
            for interface in self._interfaces.values()
            if type(interface) is EthernetInterface
        ]
        for interface in self._ethernet:
            interface.claim = AddressClaim(
                interface.config, host.link, rng, self._timers, self.counters, tracer,
                partial(self._broadcast, interface), partial(self._changed, interface),
            )  # fmt: skip
            interface.neighbours = Neighbours(
                interface.config, host.link, self._timers, self.counters, tracer,
                partial(self._transmit, interface), partial(self._fail, interface), self._drop,
            )  # fmt: skip
            interface.up = interface.claim.usable

    def expire(self, now: int) -> None:
        """Run the timers that are due: requests, expiry of neighbours, announcements."""
        for kind, ifindex, *address in self._timers.expire(now):
            interface = self._interfaces[ifindex]
            if kind == "neighbour":
                interface.neighbours.timeout(*address, now)
            else:
                interface.claim.timeout(now)

    def deadline(self) -> int | None:
        """When the next timer is due."""
        return self._timers.deadline()

    # --- from ip to the wire ---

    def _down(self, datagram: Datagram, interface: LinkInterface, now: int) -> None:
        trace, _, next_hop, _, packet = datagram
        if type(interface) is BareInterface:
            super()._transmit(interface, outgoing(datagram, interface), trace, now)
            return
        if len(packet) > interface.mtu:
            raise DecodeError("packet_too_big", f"{len(packet)} bytes, {interface.mtu} at most")
        if not interface.up:
            raise DecodeError("interface_down", interface.config.name)
        header = interface.neighbours.header(next_hop, trace, now)
        if not header:
            header = _group_header(interface, next_hop)
        if header:
            self._transmit(interface, header + packet, trace, now)
        elif next_hop == interface.config.address or next_hop == ANY_ADDRESS:
            raise DecodeError("bad_next_hop", next_hop.hex())
        else:
            interface.neighbours.hold(next_hop, packet, trace, now)

    def _transmit(self, interface: LinkInterface, frame: bytes, trace: int, now: int) -> None:
        if len(frame) < ethernet.MIN_FRAME:
            frame = frame.ljust(ethernet.MIN_FRAME, b"\0")
        super()._transmit(interface, frame, trace, now)

    def _fail(
        self, interface: EthernetInterface, next_hop: bytes, packet: bytes, trace: int
    ) -> None:
        self._out.append(Output(IP, NeighbourFailed(trace, interface.ifindex, next_hop, packet)))

    # --- from the wire to ip ---

    def _up(self, message: Frame, interface: LinkInterface, now: int) -> None:
        frame = message.frame
        if type(interface) is BareInterface:
            flags = incoming_flags(message, interface)
            self._accept(interface, frame)
            self._deliver(interface, frame, flags, message.trace)
            return
        header, payload = ethernet.decode(frame)
        dst, src, kind = header
        mac = interface.config.mac
        if src == mac:
            raise DecodeError("looped")
        if dst == mac:
            flags = 0
        elif dst in interface.groups:
            flags = FLAG_BROADCAST
        else:  # everyday on a shared wire: counted, but not a fault of anybody
            self.counters["rx_other_host"] += 1
            return
        if ethernet.is_group(src):
            raise DecodeError("ethernet_group_source", src.hex(":"))
        if kind == ethernet.TYPE_IPV4:
            if len(payload) > MAX_PACKET:
                raise DecodeError("frame_too_long", f"{len(frame)} bytes")
            if not interface.up:
                raise DecodeError("interface_down", interface.config.name)
            self._accept(interface, frame)
            self._deliver(interface, payload, flags, message.trace)
        elif kind == ethernet.TYPE_ARP:
            packet = arp.decode(payload)
            self._accept(interface, frame)
            self._arp(interface, packet, message.trace, now)
        else:
            raise DecodeError("unknown_ethertype", f"{kind:#06x}")

    def _arp(
        self, interface: EthernetInterface, packet: arp.ArpPacket, trace: int, now: int
    ) -> None:
        """RFC 826, packet reception, with the checks of RFC 5227 section 2.4 in front."""
        claim = interface.claim
        mine = interface.config
        if claim.conflicts_with(packet):
            claim.conflict(packet.sender_mac, trace, now)
            return
        _, sender_mac, sender_ip, _, target_ip = packet
        if sender_mac in (_NO_MAC, mine.mac) or not _may_be_a_station(interface, sender_ip):
            raise DecodeError("arp_bad_sender", f"{sender_ip.hex()} at {sender_mac.hex(':')}")
        for_us = target_ip == mine.address and claim.usable
        if sender_ip != ANY_ADDRESS:  # a probe's: there is nothing to learn from it
            interface.neighbours.heard(sender_ip, sender_mac, for_us, trace, now)
        if for_us and packet.operation == arp.REQUEST:
            reply = arp.ArpPacket(arp.REPLY, mine.mac, mine.address, sender_mac, sender_ip)
            self.counters["arp_replies_sent"] += 1
            self._send_arp(interface, sender_mac, reply, trace, now)

    def _send_arp(
        self, interface: EthernetInterface, dst: bytes, packet: arp.ArpPacket, trace: int, now: int
    ) -> None:
        header = ethernet.EthernetHeader(dst, interface.config.mac, ethernet.TYPE_ARP)
        self._transmit(interface, ethernet.encode(header, arp.encode(packet)), trace, now)

    # --- the address ---

    def _broadcast(self, interface: EthernetInterface, packet: arp.ArpPacket, now: int) -> None:
        self._send_arp(interface, ethernet.BROADCAST, packet, 0, now)

    def _changed(self, interface: EthernetInterface, up: bool, now: int) -> None:
        interface.up = up
        self._say(interface)

    # --- for people and successors ---

    def _neighbours(self, now: int) -> list[dict[str, int | str]]:
        rows: list[dict[str, int | str]] = []
        for interface in self._ethernet:
            rows += interface.neighbours.describe(now)
        return rows

    def _dump_more(self) -> object:
        return [[list(key), when] for key, when in self._timers.items()]

    def _load_more(self, state: list) -> None:
        for key, _ in self._timers.items():
            self._timers.cancel(key)
        for key, when in state:
            if key[1] in self._interfaces:
                self._timers.set(tuple(key), when)


def create(host: HostConfig, rng: random.Random, tracer: Tracer) -> LinkLayer:
    """Ethernet for all interfaces of `host`; rng spreads the probes of RFC 5227."""
    return LinkLayer(host, rng, tracer)


def _interface(config: InterfaceConfig) -> LinkInterface:
    return BareInterface(config) if config.device == "raw" else EthernetInterface(config)


def _group_header(interface: EthernetInterface, next_hop: bytes) -> bytes:
    """The header of a frame to many stations, or b"" when `next_hop` is one station."""
    if next_hop in interface.broadcasts:
        return ipv4_header(ethernet.BROADCAST, interface.config.mac)
    if next_hop[0] & 0xF0 == 0xE0:  # RFC 1112 section 6.4: the low 23 bits of the group
        group = b"\x01\x00\x5e" + bytes((next_hop[1] & 0x7F, next_hop[2], next_hop[3]))
        return ipv4_header(group, interface.config.mac)
    return b""


def _may_be_a_station(interface: EthernetInterface, address: bytes) -> bool:
    """An address that an ARP sender may have; 0.0.0.0 is a prober's."""
    if address == ANY_ADDRESS:
        return True
    return address not in interface.broadcasts and 1 <= address[0] <= 223 and address[0] != 127
