"""Trace events: what crosses boundaries, which way, and the headers that a listener reads."""

from __future__ import annotations

import pytest

from plywire.messages import (
    Connect,
    Data,
    Datagram,
    Frame,
    Hello,
    NeighbourFailed,
    PacketError,
    Paths,
    Segment,
)
from plywire.roles import APP, IP, LAYERS, LINK, PIPES, TCP, WIRE, boundary, neighbours
from plywire.trace import DROP, IN, NOTE, OUT, STATE, Event, Tracer, headers
from plywire.wire import arp, ethernet, icmp, ipv4, tcp, udp

H1, H2 = b"\x0a\0\0\1", b"\x0a\0\0\2"
SYN = tcp.encode(
    tcp.TcpHeader(40_000, 80, 7, 0, tcp.SYN, 64_240, 0,
                  tcp.build_options(tcp.Options(1460, 7, True, (), (5, 0)))), b"", H1, H2,
)  # fmt: skip
PACKET = ipv4.encode(ipv4.Ipv4Header(H1, H2, 6, dont_fragment=True), SYN)
FRAME = ethernet.encode(ethernet.EthernetHeader(b"\2" * 6, b"\4" * 6, 0x0800), PACKET)


class Recorder:
    """A tracer of one layer, and what it said."""

    def __init__(self, layer: str) -> None:
        self.events: list[Event] = []
        self.tracer = Tracer("h1", layer, self.events.append)

    def crossing(self, what: str, message: tuple, peer: str) -> Event:
        self.tracer.crossing(what, message, peer, 5)
        return self.events[-1]


def event(layer: str, where: str, message: tuple, what: str = OUT) -> Event:
    return Recorder(layer).crossing(what, message, where)


def test_roles_and_boundaries():
    assert neighbours(TCP) == (APP, IP)
    assert neighbours(LINK) == (IP,)
    assert [boundary(*pair) for pair in PIPES] == ["app/tcp", "tcp/ip", "ip/link"]
    assert boundary(WIRE, LINK) == boundary(LINK, WIRE) == "link/wire"
    assert LAYERS == (APP, TCP, IP, LINK)


@pytest.mark.parametrize(
    ("layer", "what", "peer", "direction"),
    [
        (TCP, OUT, IP, "down"),
        (TCP, IN, IP, "up"),
        (TCP, OUT, APP, "up"),
        (TCP, IN, APP, "down"),
        (LINK, OUT, WIRE, "down"),
        (LINK, IN, WIRE, "up"),
    ],
)
def test_direction_is_that_of_the_message(layer, what, peer, direction):
    found = event(layer, peer, Hello(3, layer, 1, 0), what)
    assert (found.direction, found.boundary) == (direction, boundary(layer, peer))
    assert (found.host, found.layer, found.time, found.trace) == ("h1", layer, 5, 3)
    assert (found.what, found.subject) == (what, "Hello")


def test_fields_are_text_and_numbers_and_the_bytes_stand_apart():
    found = event(IP, LINK, Datagram(1, 2, H2, 0, PACKET))
    assert found.fields == {"ifindex": 2, "next_hop": "10.0.0.2", "flags": 0}
    assert found.packet == PACKET
    found = event(TCP, APP, Connect(1, 2, H2, 80, 5, {"TCP_NODELAY": 1, "x": "y"}))
    assert found.fields["options"] == "TCP_NODELAY=1 x=y"
    for value in event(IP, TCP, Paths(0, ((H1, 32, H1, 1500),))).fields.values():
        assert isinstance(value, str | int)


def test_without_a_sink_nothing_is_enabled():
    tracer = Tracer("h1", TCP)
    assert not tracer.enabled
    tracer.note(1, 2, "nobody listens")
    tracer.crossing(OUT, Hello(1, "tcp", 1, 0), IP, 5)


def test_states_drops_and_notes():
    recorder = Recorder(TCP)
    recorder.tracer.state(1, 2, "SYN received", {"state": "LISTEN"}, {"state": "SYN-RECEIVED"})
    recorder.tracer.drop(3, 4, "drop_tcp_bad_checksum", b"bytes")
    recorder.tracer.note(5, 6, "retransmission", count=2)
    state, drop, note = recorder.events
    assert (state.what, state.before, state.after) == (
        STATE, {"state": "LISTEN"}, {"state": "SYN-RECEIVED"},
    )  # fmt: skip
    assert (drop.what, drop.subject, drop.packet) == (DROP, "drop_tcp_bad_checksum", b"bytes")
    assert (note.what, note.fields, note.trace) == (NOTE, {"count": 2}, 6)


# --- headers --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("found", "names"),
    [
        (event(LINK, WIRE, Frame(1, 1, 5, FRAME)), ["ethernet", "ipv4", "tcp"]),
        (event(IP, LINK, Datagram(1, 1, H2, 0, PACKET)), ["ipv4", "tcp"]),
        (event(LINK, IP, NeighbourFailed(1, 1, H2, PACKET)), ["ipv4", "tcp"]),
        (event(TCP, IP, Segment(1, 6, H1, H2, 0, 0, 0, SYN)), ["tcp"]),
        (event(APP, TCP, Data(1, 2, 0, b"GET /")), ["data"]),
        (event(APP, TCP, Hello(1, "app", 1, 0)), []),
        (event(IP, TCP, PacketError(1, 6, 1, H1, 3, 1, 0, H1, H2, SYN[:8])), []),
    ],
)
def test_headers_are_those_of_the_boundary(found, names):
    assert [name for name, _ in headers(found)] == names


def test_headers_have_their_fields_by_name():
    found = dict(headers(event(LINK, WIRE, Frame(1, 1, 5, FRAME))))
    assert found["ethernet"] == {"dst": "02:02:02:02:02:02", "src": "04:04:04:04:04:04",
                                 "type": 0x0800}  # fmt: skip
    assert found["ipv4"] == {"src": "10.0.0.1", "dst": "10.0.0.2", "protocol": 6,
                             "length": len(PACKET), "ttl": 64, "ident": 0,
                             "dont_fragment": 1}  # fmt: skip
    segment = found["tcp"]
    assert list(segment)[:10] == [name for name, _ in tcp.BIT_WIDTHS]
    assert (segment["src_port"], segment["seq"], segment["flags"]) == (40_000, 7, "SYN")
    assert (segment["data_offset"], segment["window"]) == (len(SYN) // 4, 64_240)
    assert (segment["mss"], segment["window_scale"], segment["sack_permitted"]) == (1460, 7, 1)
    assert (segment["tsval"], segment["tsecr"]) == (5, 0)


def test_data_behind_the_header_is_counted():
    segment = tcp.encode(tcp.TcpHeader(1, 2, 3, 4, tcp.ACK, 5), b"hello", H1, H2)
    assert headers(event(TCP, IP, Segment(1, 6, H1, H2, 0, 0, 0, segment)))[-1] == (
        "data", {"bytes": 5},
    )  # fmt: skip


def test_arp_is_read():
    packet = arp.encode(arp.ArpPacket(arp.REQUEST, b"\2" * 6, H1, b"\0" * 6, H2))
    frame = ethernet.encode(ethernet.EthernetHeader(b"\xff" * 6, b"\2" * 6, 0x0806), packet)
    found = dict(headers(event(LINK, WIRE, Frame(1, 1, 5, frame))))
    assert found["arp"]["operation"] == 1
    assert found["arp"]["target_ip"] == "10.0.0.2"


@pytest.mark.parametrize(
    ("protocol", "payload", "name"),
    [
        (17, udp.encode(udp.UdpHeader(5, 6), b"x" * 40, H1, H2), "udp"),
        (1, icmp.encode(icmp.IcmpMessage(8, 0, 1, b"x" * 40)), "icmp"),
    ],
    ids=["udp", "icmp"],
)
def test_whole_datagrams_are_read_and_pieces_are_not_called_malformed(protocol, payload, name):
    def names(packet: bytes) -> list[str]:
        return [name for name, _ in headers(event(IP, LINK, Datagram(1, 1, H2, 0, packet)))]

    header = ipv4.Ipv4Header(H1, H2, protocol)
    assert names(ipv4.encode(header, payload)) == ["ipv4", name]
    first = header._replace(more_fragments=True)
    assert names(ipv4.encode(first, payload[:24])) == ["ipv4"]
    assert names(ipv4.encode(header._replace(offset=24), payload[24:])) == ["ipv4"]


def test_first_piece_of_a_segment_still_shows_its_header():
    packet = ipv4.encode(ipv4.Ipv4Header(H1, H2, 6, more_fragments=True), SYN)
    assert [name for name, _ in headers(event(IP, LINK, Datagram(1, 1, H2, 0, packet)))] == [
        "ipv4",
        "tcp",
    ]


def test_reading_stops_at_what_cannot_be_read():
    for length in range(len(FRAME)):
        found = headers(event(LINK, WIRE, Frame(1, 1, 5, FRAME[:length])))
        assert found[-1][0] == "malformed"
        assert found[-1][1]["reason"].endswith("truncated")
