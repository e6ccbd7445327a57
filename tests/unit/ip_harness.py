"""An IP layer with both its boundaries in hand, and packets to put to it."""

from __future__ import annotations

import random
from typing import Any

from plywire.config import SECOND, HostConfig, InterfaceConfig, RouteConfig, host
from plywire.messages import Datagram, Message, PacketError, Segment
from plywire.roles import LINK, TCP
from plywire.trace import Event, Tracer
from plywire.wire import icmp, ipv4, udp
from plywire.wire.icmp import IcmpMessage
from plywire.wire.ipv4 import Ipv4Header
from services.ip import IpLayer, create

H1, H2, H3 = b"\x0a\0\0\x01", b"\x0a\0\0\x02", b"\x0a\0\0\x03"
FAR = b"\x0a\0\x01\x09"
NOWHERE = b"\xac\x10\0\x01"
BROADCAST = b"\x0a\0\0\xff"
NONE = b"\0\0\0\0"
T0 = 1000 * SECOND


def interface(name: str, ifindex: int, address: str, mtu: int = 1500) -> InterfaceConfig:
    """An interface on the wire `lan`."""
    config = host("x", address).interfaces[0]
    return InterfaceConfig(
        name, ifindex, config.address, config.prefix_length, config.mac, mtu, wire="lan"
    )


def router_config(mtu_b: int = 1500, **changes: Any) -> HostConfig:
    """10.0.0.1/24 on eth0, 10.0.1.1/24 on eth1, and 192.168.0.0/16 by way of 10.0.1.2."""
    return HostConfig(
        "r",
        (interface("eth0", 1, "10.0.0.1/24"), interface("eth1", 2, "10.0.1.1/24", mtu_b)),
        routes=(RouteConfig(b"\xc0\xa8\0\0", 16, b"\x0a\0\x01\x02"),),
        forwarding=True,
        **changes,
    )


class Ip:
    """A layer under test. Each method puts something in and returns what came out of it."""

    def __init__(self, config: HostConfig | None = None, seed: int = 1) -> None:
        self.events: list[Event] = []
        self.config = config or host("h1", "10.0.0.1/24")
        tracer = Tracer(self.config.name, "ip", self.events.append)
        self.layer: IpLayer = create(self.config, random.Random(seed), tracer)
        self.now = T0

    @property
    def counters(self) -> dict[str, int]:
        return self.layer.counters

    def put(self, message: Message, source: str) -> list[Message]:
        self.layer.receive(message, source, self.now)
        return [output.message for output in self.layer.outputs()]

    def packet(self, packet: bytes, flags: int = 0, ifindex: int = 1, trace: int = 7) -> list:
        """From the link."""
        return self.put(Datagram(trace, ifindex, NONE, flags, packet), LINK)

    def segment(self, dst: bytes, payload: bytes, **fields: Any) -> list:
        """From the transport."""
        values = {"protocol": 6, "src": NONE, "tos": 0, "ttl": 0, "flags": 0} | fields
        return self.put(Segment(trace=9, dst=dst, payload=payload, **values), TCP)

    def later(self, seconds: float) -> list[Message]:
        """Let time pass."""
        self.now += int(seconds * SECOND)
        self.layer.expire(self.now)
        return [output.message for output in self.layer.outputs()]


def tcp_packet(
    src: bytes = H2, dst: bytes = H1, payload: bytes = b"t" * 20, **fields: Any
) -> bytes:
    """A packet of TCP; IP does not look into it."""
    return ipv4.encode(Ipv4Header(src, dst, 6, **fields), payload)


def udp_packet(
    src: bytes = H2, dst: bytes = H1, payload: bytes = b"u" * 10, **fields: Any
) -> bytes:
    """A good UDP datagram."""
    body = udp.encode(udp.UdpHeader(5000, 53), payload, src, dst)
    return ipv4.encode(Ipv4Header(src, dst, 17, **fields), body)


def icmp_packet(message: IcmpMessage, src: bytes = H2, dst: bytes = H1, **fields: Any) -> bytes:
    """A packet with an ICMP message."""
    return ipv4.encode(Ipv4Header(src, dst, 1, **fields), icmp.encode(message))


def echo(body: bytes = b"ping", src: bytes = H2, dst: bytes = H1, **fields: Any) -> bytes:
    """An echo request."""
    return icmp_packet(IcmpMessage(icmp.ECHO_REQUEST, 0, 0x0001_0002, body), src, dst, **fields)


def error_about(packet: bytes, kind: int = 3, code: int = 3, rest: int = 0, **fields: Any) -> bytes:
    """An ICMP error from H2 that quotes packet."""
    return icmp_packet(IcmpMessage(kind, code, rest, packet), **fields)


def the_icmp(messages: list) -> tuple[Ipv4Header, IcmpMessage]:
    """The one packet that came out for the link, which is an ICMP message."""
    (message,) = messages
    assert isinstance(message, Datagram)
    header, payload = ipv4.decode(message.packet)
    assert header.protocol == ipv4.PROTOCOL_ICMP
    return header, icmp.decode(payload)


def the_error(messages: list) -> PacketError:
    """The one message that came out, which is an error for the transport."""
    (message,) = messages
    assert isinstance(message, PacketError)
    return message
