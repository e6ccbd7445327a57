"""A link layer on the bench: its frames are taken apart and answered by hand."""

from __future__ import annotations

import random
from dataclasses import replace

from plywire.config import SECOND, HostConfig, LinkConfig, host
from plywire.messages import Datagram, Frame, Hello, Message
from plywire.roles import IP, WIRE
from plywire.trace import Event, Tracer
from plywire.wire import arp, ethernet
from services.link import create

OWN_IP, OWN_MAC = bytes((10, 0, 0, 1)), bytes.fromhex("02000a000001")
PEER_IP, PEER_MAC = bytes((10, 0, 0, 2)), bytes.fromhex("02000a000002")
THIRD_IP, THIRD_MAC = bytes((10, 0, 0, 3)), bytes.fromhex("02000a000003")
NO_IP, NO_MAC = b"\0" * 4, b"\0" * 6
PACKET = b"\x45" + bytes(99)


class Bench:
    """h1 (10.0.0.1/24, 02:00:0a:00:00:01), its link, and what comes out of it."""

    def __init__(
        self, config: HostConfig | None = None, quiet: bool = True, **link: object
    ) -> None:
        """quiet: no announcements at the start; link: fields of LinkConfig."""
        link = {"arp_announce": 0, **link} if quiet else link
        base = config or host("h1", "10.0.0.1/24")
        self.host = replace(base, link=replace(LinkConfig(), **link))
        self.events: list[Event] = []
        self.layer = create(self.host, random.Random(1), Tracer("h1", "link", self.events.append))
        self.now = 0
        self.layer.expire(0)

    @property
    def counters(self):
        return self.layer.counters

    def down(self, next_hop: bytes = PEER_IP, packet: bytes = PACKET, trace: int = 7, ifindex=1):
        """ip hands down a packet; what comes out."""
        return self.feed(Datagram(trace, ifindex, next_hop, 0, packet), IP)

    def up(self, dst: bytes, src: bytes, kind: int, payload: bytes, trace: int = 9, ifindex=1):
        """A frame arrives; what comes out."""
        frame = ethernet.encode(ethernet.EthernetHeader(dst, src, kind), payload)
        return self.feed(Frame(trace, ifindex, 0, frame), WIRE)

    def hello(self, generation: int):
        return self.feed(Hello(0, IP, generation, 0), IP)

    def arp(self, operation, sender_mac, sender_ip, target_ip, dst=None, target_mac=NO_MAC):
        """An ARP packet arrives, by broadcast unless `dst` is given; what comes out."""
        packet = arp.encode(arp.ArpPacket(operation, sender_mac, sender_ip, target_mac, target_ip))
        return self.up(dst or ethernet.BROADCAST, sender_mac, ethernet.TYPE_ARP, packet)

    def reply(self, mac: bytes = PEER_MAC, ip: bytes = PEER_IP):
        """The peer answers our request; what comes out."""
        return self.arp(arp.REPLY, mac, ip, OWN_IP, dst=OWN_MAC, target_mac=OWN_MAC)

    def feed(self, message: Message, source: str) -> list[Message]:
        self.layer.receive(message, source, self.now)
        return self.take()

    def advance(self, nanoseconds: int) -> list[tuple[int, Message]]:
        """Let time pass, running the timers when they are due; (time, message) of each output."""
        end = self.now + nanoseconds
        out = []
        while (due := self.layer.deadline()) is not None and due <= end:
            self.now = max(self.now, due)
            self.layer.expire(self.now)
            out += [(self.now, message) for message in self.take()]
        self.now = end
        return out

    def run_out(self) -> list[tuple[int, Message]]:
        """Let time pass until no timer is armed."""
        out = []
        for _ in range(1000):
            due = self.layer.deadline()
            if due is None:
                return out
            out += self.advance(max(0, due - self.now))
        raise AssertionError("the timers never end")

    def take(self) -> list[Message]:
        return [output.message for output in self.layer.outputs()]

    def neighbour(self, address: str = "10.0.0.2") -> dict | None:
        rows = self.layer.describe("neighbours", self.now)
        return next((row for row in rows if row["address"] == address), None)

    def state(self, address: str = "10.0.0.2") -> str | None:
        row = self.neighbour(address)
        return row and row["state"]

    def successor(self) -> Bench:
        """A new link that takes over from the snapshot of this one."""
        other = Bench.__new__(Bench)
        other.host, other.events, other.now = self.host, [], self.now
        other.layer = create(self.host, random.Random(1), Tracer("h1", "link", other.events.append))
        other.layer.restore(self.layer.snapshot(), self.now)
        return other


def frame_header(message: Message) -> ethernet.EthernetHeader:
    assert isinstance(message, Frame), message
    return ethernet.decode(message.frame)[0]


def arp_in(message: Message) -> arp.ArpPacket:
    header, payload = ethernet.decode(message.frame)
    assert header.type == ethernet.TYPE_ARP
    return arp.decode(payload)


def seconds(events: list[tuple[int, Message]]) -> list[float]:
    return [when / SECOND for when, _ in events]
