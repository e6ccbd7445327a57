"""Packets that a capture may meet, each with the line that tcpdump 4.99.3 -n prints for it.

The one thing left out of those lines is `: HTTP`, since no payload is looked into here.
"""

from __future__ import annotations

from plywire.wire import arp, ethernet, icmp, ipv4, tcp, udp

A, B = b"\x0a\0\0\1", b"\x0a\0\0\2"
MAC_A, MAC_B = b"\2\0" + A, b"\2\0" + B
ECHO = b"y" * 56


def frame(payload: bytes, kind: int = ethernet.TYPE_IPV4, dst: bytes = MAC_B) -> bytes:
    return ethernet.encode(ethernet.EthernetHeader(dst, MAC_A, kind), payload)


def asked(operation: int, sender: bytes, target_mac: bytes, target: bytes) -> bytes:
    packet = arp.encode(arp.ArpPacket(operation, MAC_A, sender, target_mac, target))
    return frame(packet, ethernet.TYPE_ARP, ethernet.BROADCAST)


def ip(payload: bytes, protocol: int, **more: object) -> bytes:
    return ipv4.encode(ipv4.Ipv4Header(A, B, protocol, **more), payload)


def segment(
    flags: int, seq: int, ack: int, data: bytes = b"", *, options: bytes = b"",
    back: bool = False, urgent: int = 0,
) -> bytes:  # fmt: skip
    """A segment between 10.0.0.1.40000 and 10.0.0.2.80, in a packet."""
    ends, ports = ((B, A), (80, 40_000)) if back else ((A, B), (40_000, 80))
    header = tcp.TcpHeader(*ports, seq, ack, flags, 64_240, urgent, options)
    packet = ipv4.Ipv4Header(*ends, ipv4.PROTOCOL_TCP)
    return ipv4.encode(packet, tcp.encode(header, data, *ends))


def options(*sack: tuple[int, int], **more: object) -> bytes:
    return tcp.build_options(tcp.Options(sack=sack, **more))


def icmp_packet(kind: int, code: int, rest: int = 0, body: bytes = b"") -> bytes:
    return ip(icmp.encode(icmp.IcmpMessage(kind, code, rest, body)), ipv4.PROTOCOL_ICMP)


def datagram(body: bytes = b"hello") -> bytes:
    return ip(udp.encode(udp.UdpHeader(1000, 2000), body, A, B), ipv4.PROTOCOL_UDP)


def damaged(packet: bytes, offset: int, value: int) -> bytes:
    return packet[:offset] + bytes([value]) + packet[offset + 1 :]


_SYN = {"mss": 1460, "window_scale": 7, "sack_permitted": True}
_DATA_OFFSET = 20 + 12
_QUOTE = segment(tcp.SYN, 1, 0)[:28]
_AB = "IP 10.0.0.1 > 10.0.0.2: "
_THERE = "IP 10.0.0.1.40000 > 10.0.0.2.80: "
_BACK = "IP 10.0.0.2.80 > 10.0.0.1.40000: "

FRAMES: list[tuple[bytes, str]] = [
    (asked(arp.REQUEST, A, b"\0" * 6, B),
     "ARP, Request who-has 10.0.0.2 tell 10.0.0.1, length 46"),
    (asked(arp.REQUEST, A, MAC_B, B),
     "ARP, Request who-has 10.0.0.2 (02:00:0a:00:00:02) tell 10.0.0.1, length 46"),
    (asked(arp.REQUEST, b"\0" * 4, b"\0" * 6, B),
     "ARP, Request who-has 10.0.0.2 tell 0.0.0.0, length 46"),
    (asked(arp.REPLY, A, MAC_B, B), "ARP, Reply 10.0.0.1 is-at 02:00:0a:00:00:01, length 46"),
    (frame(segment(tcp.SYN, 1000, 0, options=options(**_SYN, timestamps=(1, 0)))),
     _THERE + "Flags [S], seq 1000, win 64240,"
     " options [mss 1460,sackOK,TS val 1 ecr 0,nop,wscale 7], length 0"),
    (frame(segment(tcp.SYN | tcp.ACK, 5000, 1001, options=options(**_SYN), back=True)),
     _BACK + "Flags [S.], seq 5000, ack 1001, win 64240,"
     " options [mss 1460,nop,nop,sackOK,nop,wscale 7], length 0"),
    (frame(segment(tcp.ACK, 1001, 5001, options=options(timestamps=(2, 9)))),
     _THERE + "Flags [.], ack 1, win 64240, options [nop,nop,TS val 2 ecr 9], length 0"),
    (frame(segment(tcp.ACK | tcp.PSH, 1001, 5001, b"x" * 100)),
     _THERE + "Flags [P.], seq 1:101, ack 1, win 64240, length 100"),
    (frame(segment(tcp.ACK, 5001, 1101, options=options((1201, 1301), (1401, 1501)), back=True)),
     _BACK + "Flags [.], ack 101, win 64240,"
     " options [nop,nop,sack 2 {201:301}{401:501}], length 0"),
    (frame(segment(tcp.ACK | tcp.FIN, 5001, 1101, b"bye", back=True)),
     _BACK + "Flags [F.], seq 1:4, ack 101, win 64240, length 3"),
    (frame(segment(tcp.ACK | tcp.URG | tcp.ECE | tcp.CWR, 1101, 5005, b"bye", urgent=3)),
     _THERE + "Flags [.UEW], seq 101:104, ack 5, win 64240, urg 3, length 3"),
    (frame(segment(tcp.RST, 1101, 0)), _THERE + "Flags [R], seq 1101, win 64240, length 0"),
    (frame(segment(tcp.RST | tcp.ACK, 1101, 5005)),
     _THERE + "Flags [R.], seq 101, ack 5, win 64240, length 0"),
    (frame(segment(0, 1101, 5005)), _THERE + "Flags [none], win 64240, length 0"),
    (frame(segment(tcp.ACK, 900, 4000)),
     _THERE + "Flags [.], ack 4294966296, win 64240, length 0"),
    (frame(segment(tcp.ACK, 1101, 5005, options=b"\x02\x09ab")),
     _THERE + "Flags [.], ack 5, win 64240, options [[bad opt]"),
    (frame(segment(tcp.ACK, 1101, 5005, options=b"\1\0\0\0")),
     _THERE + "Flags [.], ack 5, win 64240, options [nop,eol], length 0"),
    (frame(damaged(segment(tcp.ACK, 1101, 5005), _DATA_OFFSET, 0xF0)),
     _THERE + "Flags [.] [bad hdr length 60 - too long, > 20]"),
    (frame(damaged(segment(tcp.ACK, 1101, 5005), _DATA_OFFSET, 0x40)),
     _THERE + " tcp 4 [bad hdr length 16 - too short, < 20]"),
    (frame(ip(b"\1\2\3\4\5\6", ipv4.PROTOCOL_TCP)), "IP 10.0.0.1.258 > 10.0.0.2.772:  [|tcp]"),
    (frame(segment(tcp.ACK | tcp.PSH, 1101, 5005, b"data" * 30)[:100]),
     "IP truncated-ip - 60 bytes missing! 10.0.0.1.40000 > 10.0.0.2.80:"
     " Flags [P.], seq 101:221, ack 5, win 64240, length 120"),
    (frame(datagram()), "IP 10.0.0.1.1000 > 10.0.0.2.2000: UDP, length 5"),
    (frame(ip(b"\1\2\3\4\5\6", ipv4.PROTOCOL_UDP)),
     "IP 10.0.0.1.258 > 10.0.0.2.772: truncated-udp 6"),
    (frame(icmp_packet(icmp.ECHO_REQUEST, 0, 7 << 16 | 3, ECHO)),
     _AB + "ICMP echo request, id 7, seq 3, length 64"),
    (frame(icmp_packet(icmp.ECHO_REPLY, 0, 7 << 16 | 3, ECHO)),
     _AB + "ICMP echo reply, id 7, seq 3, length 64"),
    *((frame(icmp_packet(icmp.UNREACHABLE, code, 1400, _QUOTE)), f"{_AB}ICMP {what}, length 36")
      for code, what in enumerate((
          "net 10.0.0.2 unreachable", "host 10.0.0.2 unreachable",
          "10.0.0.2 protocol 6 unreachable", "10.0.0.2 tcp port 80 unreachable",
          "10.0.0.2 unreachable - need to frag (mtu 1400)",
          "10.0.0.2 unreachable - source route failed", "net 10.0.0.2 unreachable - unknown",
          "host 10.0.0.2 unreachable - unknown", "10.0.0.2 unreachable - source host isolated",
          "net 10.0.0.2 unreachable - admin prohibited",
          "host 10.0.0.2 unreachable - admin prohibited",
          "net 10.0.0.2 unreachable - tos prohibited",
          "host 10.0.0.2 unreachable - tos prohibited",
          "host 10.0.0.2 unreachable - admin prohibited filter",
          "host 10.0.0.2 unreachable - host precedence violation",
          "host 10.0.0.2 unreachable - precedence cutoff",
      ))),
    (frame(icmp_packet(icmp.UNREACHABLE, icmp.PORT_UNREACHABLE, 0, datagram()[:28])),
     _AB + "ICMP 10.0.0.2 udp port 2000 unreachable, length 36"),
    (frame(icmp_packet(icmp.UNREACHABLE, icmp.FRAGMENTATION_NEEDED, 0, _QUOTE)),
     _AB + "ICMP 10.0.0.2 unreachable - need to frag, length 36"),
    (frame(icmp_packet(icmp.TIME_EXCEEDED, 0, 0, _QUOTE)),
     _AB + "ICMP time exceeded in-transit, length 36"),
    (frame(icmp_packet(icmp.TIME_EXCEEDED, 1, 0, _QUOTE)),
     _AB + "ICMP ip reassembly time exceeded, length 36"),
    (frame(icmp_packet(icmp.TIME_EXCEEDED, 2, 0, _QUOTE)),
     _AB + "ICMP time exceeded-#2, length 36"),
    (frame(icmp_packet(icmp.PARAMETER_PROBLEM, 0, 9 << 24, _QUOTE)),
     _AB + "ICMP parameter problem - octet 9, length 36"),
    (frame(icmp_packet(icmp.PARAMETER_PROBLEM, 1, 9 << 24, _QUOTE)),
     _AB + "ICMP parameter problem - code 1, length 36"),
    (frame(icmp_packet(icmp.SOURCE_QUENCH, 0, 0, _QUOTE)), _AB + "ICMP source quench, length 36"),
    (frame(icmp_packet(icmp.REDIRECT, 0, 1, _QUOTE)),
     _AB + "ICMP redirect 10.0.0.2 to net 0.0.0.1, length 36"),
    (frame(icmp_packet(icmp.REDIRECT, 1, 0x0A000009, _QUOTE)),
     _AB + "ICMP redirect 10.0.0.2 to host 10.0.0.9, length 36"),
    (frame(icmp_packet(40, 1)), _AB + "ICMP type-#40, length 8"),
    (frame(ip(b"\x08\0\0", ipv4.PROTOCOL_ICMP)), _AB + " [|icmp]"),
    (frame(ip(b"abcdefgh", 99)), _AB + " ip-proto-99 8"),
    (frame(icmp_packet(icmp.ECHO_REQUEST, 0, 7 << 16 | 3, ECHO)),
     _AB + "ICMP echo request, id 7, seq 3, length 64"),
    (frame(ip(b"z" * 80, ipv4.PROTOCOL_ICMP, offset=64)), _AB + "ip-proto-1"),
    (frame(ip(b"z" * 80, ipv4.PROTOCOL_TCP, offset=64)), _AB + "ip-proto-6"),
]  # fmt: skip

NOT_AS_TCPDUMP: list[tuple[bytes, str]] = [
    (frame(b"hello", 0x88B5),
     "02:00:0a:00:00:01 > 02:00:0a:00:00:02, ethertype 0x88b5, length 60"),
    (frame(b"\x45\0\0\1" + b"\0" * 30),
     "02:00:0a:00:00:01 > 02:00:0a:00:00:02, ethertype 0x0800, length 60"),
    (frame(ip(b"\1\2", ipv4.PROTOCOL_TCP)), _AB + " [|tcp]"),
    (asked(7, A, b"\0" * 6, B), "ARP, Unknown (7), length 46"),
    (frame(icmp_packet(icmp.UNREACHABLE, 1, 0, b"short")),
     _AB + "ICMP unreachable - #1, length 13"),
    (frame(segment(tcp.ACK, 1, 1, options=b"\x02\x03ab")),
     _THERE + "Flags [.], ack 1, win 64240, options [unknown-2 0x61,[bad opt]"),
    (b"\0" * 10, "malformed, length 10"),
]  # fmt: skip
"""What tcpdump shows in more detail, or in other words."""
