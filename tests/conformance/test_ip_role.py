"""What every implementation of the role `ip` owes at its two boundaries.

Nothing here knows how a layer works inside: messages go in, messages come out, and a second
instance of the same implementation may be what it talks to.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from implementations import making, offering

from plywire.config import SECOND, host
from plywire.layer import Factory, Layer
from plywire.messages import (
    FLAG_BROADCAST,
    FLAG_DONT_FRAGMENT,
    Data,
    Datagram,
    Hello,
    Interface,
    Message,
    NeighbourFailed,
    PacketError,
    Paths,
    Segment,
)
from plywire.roles import IP, LINK, TCP
from plywire.trace import Tracer
from plywire.wire import icmp, ipv4, udp
from plywire.wire.icmp import IcmpMessage
from plywire.wire.ipv4 import Ipv4Header

H1, H2 = b"\x0a\0\0\x01", b"\x0a\0\0\x02"
NONE = b"\0\0\0\0"
NOWHERE = b"\xac\x10\0\x01"
T0 = 1000 * SECOND

FRAGMENTING = pytest.mark.parametrize("factory", offering(IP, "fragments"), indirect=True)
CORES = pytest.mark.parametrize("factory", offering(IP, "core"), indirect=True)
ONE_FOR_ALL = settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
"""One factory serves all examples of a test."""


class Subject:
    """An instance, and its outputs as lists of messages with the role they go to."""

    def __init__(self, factory: Factory, name: str = "h1", address: str = "10.0.0.1/24") -> None:
        self.layer: Layer = factory(host(name, address), random.Random(7), Tracer())
        self.now = T0

    def put(self, message: Message, source: str) -> list[tuple[str, Message]]:
        self.layer.receive(message, source, self.now)
        return [tuple(output) for output in self.layer.outputs()]

    def down(self, payload: bytes, dst: bytes = H2, **fields: int | bytes) -> list:
        values = {"protocol": 6, "src": NONE, "tos": 0, "ttl": 0, "flags": 0} | fields
        return self.put(Segment(trace=5, dst=dst, payload=payload, **values), TCP)

    def up(self, packet: bytes, flags: int = 0, trace: int = 5) -> list:
        return self.put(Datagram(trace, 1, NONE, flags, packet), LINK)


@pytest.fixture(params=offering(IP))
def factory(request: pytest.FixtureRequest) -> Iterator[Factory]:
    with making(IP, request.param) as factory:
        yield factory


@pytest.fixture
def ip(factory: Factory) -> Subject:
    return Subject(factory)


@pytest.fixture
def twin(factory: Factory) -> Subject:
    return Subject(factory, "h2", "10.0.0.2/24")


def only(messages: list) -> tuple[str, Message]:
    (found,) = messages
    return found


# --- the way down ---------------------------------------------------------------------------------


def test_segment_becomes_a_packet_with_a_good_header(ip):
    role, message = only(ip.down(b"payload", src=H1, tos=0x2A, flags=FLAG_DONT_FRAGMENT))
    assert role == LINK
    assert (message.trace, message.ifindex, message.next_hop) == (5, 1, H2)
    header, payload = ipv4.decode(message.packet)  # verifies version, lengths and checksum
    assert payload == b"payload"
    assert (header.src, header.dst, header.protocol, header.tos) == (H1, H2, 6, 0x2A)
    assert header.dont_fragment
    assert not header.more_fragments
    assert (header.offset, header.options) == (0, b"")


def test_ttl_is_the_hosts_unless_asked_for(ip):
    ttls = [ipv4.decode(only(ip.down(b"x", ttl=ttl))[1].packet)[0].ttl for ttl in (0, 1, 255)]
    assert ttls == [host("h", "10.0.0.1/24").ip.ttl, 1, 255]


def test_source_is_chosen_when_it_is_left_open(ip):
    assert ipv4.decode(only(ip.down(b"x"))[1].packet)[0].src == H1


def test_no_route_is_told_to_the_transport(ip):
    role, error = only(ip.down(b"0123456789", dst=NOWHERE, src=H1))
    assert role == TCP
    assert isinstance(error, PacketError)
    assert (error.trace, error.protocol, error.local) == (5, 6, 1)
    assert (error.type, error.code, error.src, error.dst) == (3, 0, H1, NOWHERE)
    assert b"0123456789".startswith(error.quote)


def test_dont_fragment_is_kept_to_the_byte(ip):
    assert only(ip.down(b"x" * 1480, flags=FLAG_DONT_FRAGMENT))[0] == LINK
    role, error = only(ip.down(b"x" * 1481, flags=FLAG_DONT_FRAGMENT))
    assert (role, error.local, error.type, error.code, error.mtu) == (TCP, 1, 3, 4, 1500)


@FRAGMENTING
@pytest.mark.parametrize("size", [1480, 1481, 2960, 20_000, 65_515])
def test_what_one_sends_in_pieces_the_other_puts_together(ip, twin, size):
    payload = bytes(number % 251 for number in range(size))
    packets = [message.packet for _, message in ip.down(payload, src=H1)]
    assert all(len(packet) <= 1500 for packet in packets)
    random.Random(1).shuffle(packets)
    results = [twin.up(packet) for packet in packets]
    assert results[:-1] == [[]] * (len(packets) - 1)
    role, segment = only(results[-1])
    assert (role, segment.src, segment.dst, segment.payload) == (TCP, H1, H2, payload)


def test_what_fits_the_other_gets_whole(ip, twin):
    payload = bytes(number % 251 for number in range(1480))
    _, datagram = only(ip.down(payload, src=H1))
    assert only(twin.up(datagram.packet))[1].payload == payload


def test_own_addresses_are_reached_without_a_link(ip):
    for dst in (H1, b"\x7f\0\0\1"):
        role, segment = only(ip.down(b"to myself", dst=dst))
        assert role == TCP
        assert (segment.src, segment.dst, segment.payload) == (dst, dst, b"to myself")


# --- the way up -----------------------------------------------------------------------------------


def test_segment_arrives_as_it_was_sent(ip, twin):
    _, datagram = only(ip.down(b"payload", src=H1, tos=3, ttl=9))
    role, segment = only(twin.up(datagram.packet + b"\0" * 20, trace=8))
    assert (role, segment) == (TCP, Segment(8, 6, H1, H2, 3, 9, 0, b"payload"))


def test_broadcast_frames_are_marked(ip):
    packet = ipv4.encode(Ipv4Header(H2, H1, 6), b"x" * 20)
    assert only(ip.up(packet, FLAG_BROADCAST))[1].flags & FLAG_BROADCAST
    assert not only(ip.up(packet))[1].flags & FLAG_BROADCAST


@pytest.mark.parametrize(
    "header",
    [
        Ipv4Header(H2, NOWHERE, 6),
        Ipv4Header(H1, H1, 6),
        Ipv4Header(NONE, H1, 6),
        Ipv4Header(b"\x7f\0\0\1", H1, 6),
        Ipv4Header(b"\xff\xff\xff\xff", H1, 6),
        Ipv4Header(b"\xe0\0\0\1", H1, 6),
        Ipv4Header(H2, b"\x7f\0\0\1", 6),
    ],
)
def test_what_is_not_for_this_host_or_from_no_host_goes_nowhere(ip, header):
    assert ip.up(ipv4.encode(header, b"x" * 20)) == []
    assert any(name.startswith("drop_") for name in ip.layer.counters)


def test_echo_is_answered_whole(ip):
    body = bytes(range(200))
    request = icmp.encode(IcmpMessage(icmp.ECHO_REQUEST, 0, 0x1234_0001, body))
    role, message = only(ip.up(ipv4.encode(Ipv4Header(H2, H1, 1), request), trace=6))
    assert (role, message.trace, message.next_hop) == (LINK, 6, H2)
    header, payload = ipv4.decode(message.packet)
    assert (header.src, header.dst, header.protocol) == (H1, H2, 1)
    assert icmp.decode(payload) == IcmpMessage(icmp.ECHO_REPLY, 0, 0x1234_0001, body)


def test_udp_to_a_port_nobody_has_is_refused(ip):
    packet = ipv4.encode(
        Ipv4Header(H2, H1, 17), udp.encode(udp.UdpHeader(4000, 9), b"discard", H2, H1)
    )
    _, message = only(ip.up(packet))
    error = icmp.decode(ipv4.decode(message.packet)[1])
    assert (error.type, error.code) == (icmp.UNREACHABLE, icmp.PORT_UNREACHABLE)
    assert packet.startswith(error.body[:28])


def test_icmp_error_reaches_the_transport_only_when_it_is_about_an_own_packet(ip):
    for src, count in ((H1, 1), (b"\x0a\0\0\x09", 0)):
        quote = ipv4.encode(Ipv4Header(src, NOWHERE, 6), b"8 bytes!")
        body = icmp.encode(IcmpMessage(3, 1, 0, quote))
        messages = ip.up(ipv4.encode(Ipv4Header(H2, H1, 1), body))
        assert len(messages) == count
    assert ip.layer.counters


def test_icmp_error_is_handed_up_in_full(ip):
    quote = ipv4.encode(Ipv4Header(H1, NOWHERE, 6), b"8 bytes!")
    body = icmp.encode(IcmpMessage(3, 4, 1200, quote))
    role, error = only(ip.up(ipv4.encode(Ipv4Header(H2, H1, 1), body)))
    assert role == TCP
    assert error == PacketError(5, 6, 0, H2, 3, 4, 1200, H1, NOWHERE, b"8 bytes!")


def test_neighbour_that_fails_is_told_to_the_transport(ip):
    _, datagram = only(ip.down(b"0123456789", src=H1))
    role, error = only(ip.put(NeighbourFailed(5, 1, H2, datagram.packet), LINK))
    assert role == TCP
    assert (error.local, error.type, error.code) == (1, 3, icmp.HOST_UNREACHABLE)
    assert (error.src, error.dst) == (H1, H2)
    assert b"0123456789".startswith(error.quote[:10])


@FRAGMENTING
def test_unfinished_packets_are_given_up(ip):
    header = Ipv4Header(H2, H1, 6, ident=4, more_fragments=True)
    assert ip.up(ipv4.encode(header, b"x" * 24)) == []
    due = ip.layer.deadline()
    assert due is not None
    assert due > T0
    ip.layer.expire(due)
    ((_, message),) = ip.layer.outputs()
    error = icmp.decode(ipv4.decode(message.packet)[1])
    assert (error.type, error.code) == (icmp.TIME_EXCEEDED, icmp.REASSEMBLY_TIMEOUT)
    assert ip.layer.deadline() is None


# --- neighbours -----------------------------------------------------------------------------------


def test_each_new_tcp_is_told_the_paths(ip):
    role, paths = only(ip.put(Hello(0, "tcp", 1, 0), TCP))
    assert role == TCP
    assert isinstance(paths, Paths)
    rows = {row[:2]: row[2:] for row in paths.rows}
    assert rows[(H1, 32)][0] == H1
    assert rows[(b"\x0a\0\0\0", 24)] == (H1, 1500)
    assert rows[(b"\x7f\0\0\0", 8)][0] == b"\x7f\0\0\1"
    assert ip.put(Hello(0, "tcp", 1, 1), TCP) == []
    assert ip.put(Hello(0, "tcp", 2, 0), TCP) == [(TCP, paths)]


def test_changed_interface_changes_the_paths(ip):
    ip.put(Hello(0, "tcp", 1, 0), TCP)
    _, paths = only(ip.put(Interface(0, 1, "eth0", b"\x02\0" + H1, 1300, 1), LINK))
    assert (b"\x0a\0\0\0", 24, H1, 1300) in paths.rows
    assert only(ip.down(b"x" * 1281, flags=FLAG_DONT_FRAGMENT))[1].mtu == 1300


# --- bad input, equality, snapshots ---------------------------------------------------------------


def test_messages_of_other_boundaries_are_counted(ip):
    assert ip.put(Data(1, 2, 0, b"stream"), TCP) == []
    assert ip.put(Segment(1, 6, H2, H1, 0, 64, 0, b""), LINK) == []
    assert ip.put(Datagram(1, 1, NONE, 0, b""), TCP) == []
    assert sum(ip.layer.counters.values()) >= 3


def _good_packets() -> list[bytes]:
    echo = icmp.encode(IcmpMessage(icmp.ECHO_REQUEST, 0, 1, b"body"))
    quote = ipv4.encode(Ipv4Header(H1, NOWHERE, 6), b"8 bytes!")
    return [
        ipv4.encode(Ipv4Header(H2, H1, 6), b"s" * 20),
        ipv4.encode(Ipv4Header(H2, H1, 1), echo),
        ipv4.encode(Ipv4Header(H2, H1, 1), icmp.encode(IcmpMessage(3, 4, 1200, quote))),
        ipv4.encode(Ipv4Header(H2, H1, 6, ident=9, more_fragments=True), b"f" * 24),
        ipv4.encode(Ipv4Header(H2, H1, 6, ident=9, offset=24), b"f" * 24),
        ipv4.encode(Ipv4Header(H2, H1, 17), udp.encode(udp.UdpHeader(1, 2), b"", H2, H1)),
        ipv4.encode(Ipv4Header(H2, H1, 6, options=b"\x07\x07\x04\0\0\0\0\0"), b"s" * 20),
    ]


GARBAGE = st.one_of(
    st.binary(max_size=100),
    st.tuples(
        st.sampled_from(_good_packets()),
        st.lists(st.tuples(st.integers(0, 400), st.integers(1, 255)), max_size=4),
        st.integers(0, 80),
    ).map(lambda item: _damaged(*item)),
)


def _damaged(packet: bytes, changes: list[tuple[int, int]], cut: int) -> bytes:
    """The packet with some bits flipped, its header checksum made good again, and cut short."""
    data = bytearray(packet)
    for place, bits in changes:
        data[place % len(data)] ^= bits
    data[10:12] = b"\0\0"
    size = max(20, (data[0] & 15) << 2)
    data[10:12] = ipv4.checksum(bytes(data[:size])).to_bytes(2, "big")
    return bytes(data[: max(0, len(data) - cut)] if cut < 40 else data)


@ONE_FOR_ALL
@given(st.lists(GARBAGE, max_size=8))
def test_garbage_is_never_raised(factory, packets):
    ip = Subject(factory)
    for packet in packets:
        ip.up(packet)
        ip.put(NeighbourFailed(1, 1, H2, packet), LINK)
    ip.layer.expire(T0 + 1000 * SECOND)
    assert ip.layer.outputs() is not None


def _steps() -> st.SearchStrategy[list[Callable[[Subject], list]]]:
    segment = st.builds(
        lambda size, dst, flags, proto: (
            lambda ip: ip.down(bytes(size), dst=dst, flags=flags, protocol=proto)
        ),
        st.integers(0, 4000),
        st.sampled_from([H2, H1, NOWHERE, b"\x0a\0\0\x07"]),
        st.sampled_from([0, FLAG_DONT_FRAGMENT]),
        st.sampled_from([6, 17]),
    )
    packet = st.builds(lambda data: lambda ip: ip.up(data), GARBAGE)
    good = st.builds(lambda data: lambda ip: ip.up(data), st.sampled_from(_good_packets()))
    change = st.builds(
        lambda mtu, up: lambda ip: ip.put(Interface(0, 1, "eth0", b"\2" * 6, mtu, up), LINK),
        st.sampled_from([600, 1500]),
        st.sampled_from([0, 1, 1]),
    )
    hello = st.builds(
        lambda number: lambda ip: ip.put(Hello(0, "tcp", number, 0), TCP), st.integers(1, 3)
    )
    return st.lists(st.one_of(segment, packet, good, good, change, hello), max_size=12)


def _play(ip: Subject, steps: list) -> list:
    """What comes out of each step, and of its timers; each step takes four seconds."""
    found = []
    for step in steps:
        found.append(step(ip))
        ip.now += 4 * SECOND
        ip.layer.expire(ip.now)
        found.append(ip.layer.outputs())
        found.append(ip.layer.deadline())
    return found


@CORES
@ONE_FOR_ALL
@given(_steps())
def test_equal_inputs_give_equal_outputs(factory, steps):
    assert _play(Subject(factory), steps) == _play(Subject(factory), steps)


@CORES
@ONE_FOR_ALL
@given(_steps(), _steps())
def test_a_successor_restored_from_a_snapshot_does_what_the_first_would_have(
    factory, before, after
):
    first = Subject(factory)
    _play(first, before)
    state = first.layer.snapshot()
    second = Subject(factory)
    second.now = first.now
    second.layer.restore(state, second.now)
    assert second.layer.snapshot() == state
    assert _play(second, after) == _play(first, after)
    assert second.layer.counters == first.layer.counters


@pytest.mark.parametrize("topic", ["routes", "interfaces", "fragments", "counters"])
def test_views_are_plain_data(ip, topic):
    for packet in _good_packets():
        ip.up(packet)

    def plain(value: object) -> bool:
        if isinstance(value, dict):
            return all(isinstance(key, str) and plain(item) for key, item in value.items())
        if isinstance(value, list):
            return all(map(plain, value))
        return isinstance(value, str | int)

    assert plain(ip.layer.describe(topic, T0))


def test_unknown_view_is_a_key_error(ip):
    with pytest.raises(KeyError):
        ip.layer.describe("no such topic", T0)
