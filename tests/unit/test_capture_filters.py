"""The filter language of `plywire capture`: what passes, and what is refused."""

from __future__ import annotations

import pytest

from plywire.lab.capture.filters import FilterError, parse
from plywire.lab.capture.packets import Taken, read
from plywire.pcapng import LINKTYPE_ETHERNET
from plywire.wire import arp, icmp, ipv4, tcp
from tests.unit.capture_packets import A, B, asked, datagram, frame, icmp_packet, ip, segment

NAMES = {"h1": [A, b"\x0a\1\0\1"], "10.0.0.1": [A], "10.0.0.2": [B], "10.0.0.3": [b"\x0a\0\0\3"]}
PACKETS = {
    "syn": frame(segment(tcp.SYN, 1, 0)),
    "back": frame(segment(tcp.SYN | tcp.ACK, 1, 2, back=True)),
    "udp": frame(datagram()),
    "echo": frame(icmp_packet(icmp.ECHO_REQUEST, 0)),
    "who": asked(arp.REQUEST, A, b"\0" * 6, B),
    "rest": frame(ip(b"z" * 80, ipv4.PROTOCOL_TCP, offset=64)),
    "other": frame(b"hello", 0x88B5),
}


def passing(text: str) -> str:
    wanted = parse(text, lambda name: NAMES.get(name, []))
    return " ".join(
        name
        for name, data in PACKETS.items()
        if wanted(read(LINKTYPE_ETHERNET, Taken(0, 0, 1, "in", data)))
    )


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("tcp", "syn back rest"),
        ("udp", "udp"),
        ("icmp", "echo"),
        ("arp", "who"),
        ("ip", "syn back udp echo rest"),
        ("port 80", "syn back"),
        ("src port 80", "back"),
        ("dst port 80", "syn"),
        ("port 2000", "udp"),
        ("tcp port 2000", ""),
        ("tcp port 80", "syn back"),
        ("host 10.0.0.2", "syn back udp echo who rest"),
        ("host 10.0.0.3", ""),
        ("host h1", "syn back udp echo who rest"),
        ("src 10.0.0.2", "back"),
        ("src host 10.0.0.2", "back"),
        ("dst h1", "back"),
        ("not ip", "who other"),
        ("! ip", "who other"),
        ("!ip", "who other"),
        ("not not arp", "who"),
        ("arp or icmp", "echo who"),
        ("arp || icmp", "echo who"),
        ("tcp and not port 80", "rest"),
        ("tcp && !port 80", "rest"),
        ("host 10.0.0.2 and (arp or icmp)", "echo who"),
        ("not (tcp or udp)", "echo who other"),
        # `and` and `or` bind equally, from the left, as in pcap-filter(7).
        ("arp or tcp and port 80", "syn back"),
        ("arp or (tcp and port 80)", "syn back who"),
    ],
)
def test_filter(text, expected):
    assert passing(text) == expected


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("banana", "'banana'"),
        ("tcp and", "ends where"),
        ("and tcp", "'and'"),
        ("not", "ends where"),
        ("host", "address after `host`"),
        ("host h9", "'h9' is neither"),
        ("host 10.0.0.300", "neither a host"),
        ("port", "number after `port`"),
        ("port http", "'http' is not a port number"),
        ("port 65536", "not a port number"),
        ("port -1", "not a port number"),
        ("port \u0663", "not a port number"),
        ("src", "after `src`"),
        ("src and tcp", "'and'"),
        ("(tcp", "ends where a `)`"),
        ("tcp)", "`)` could close"),
        ("()", "')'"),
        ("tcp & udp", "'&'"),
        ("(" * 60 + "tcp" + ")" * 60, "deeper than 50"),
        ("not " * 300 + "tcp", "more than 200 words"),
    ],
)
def test_refused(text, words):
    with pytest.raises(FilterError) as caught:
        passing(text)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_the_longest_filter_works():
    assert passing(" or ".join(["arp"] * 100)) == "who"
    assert passing("(" * 49 + "arp" + ")" * 49) == "who"
