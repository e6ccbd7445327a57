"""What any link implementation owes at its two boundaries, ip above and the wire below.

`implementations.py` lists what is tested. Two twins on one wire stand in for a network, so the
suite knows nothing of frames.
"""

from __future__ import annotations

import random
from dataclasses import replace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from implementations import IMPLEMENTATIONS

from plywire.config import SECOND, host
from plywire.envelope import decode, encode
from plywire.errors import DecodeError
from plywire.layer import Layer
from plywire.messages import (
    FLAG_BROADCAST,
    MAX_FRAME,
    MAX_PACKET,
    Bind,
    Datagram,
    Frame,
    Hello,
    Interface,
    Message,
    NeighbourFailed,
)
from plywire.registry import load
from plywire.roles import IP, TCP, WIRE
from plywire.trace import Event, Tracer
from plywire.wire import ipv4

A, B, NOBODY = bytes((10, 0, 0, 1)), bytes((10, 0, 0, 2)), bytes((10, 0, 0, 77))
BROADCAST = bytes((10, 0, 0, 255))


def station(name: str, address: str, peer: str):
    """A host whose lab file says where its peer is: a link that resolves has no use for that."""
    config = host(name, address)
    (interface,) = config.interfaces
    return replace(config, interfaces=(replace(interface, peers=(peer,)),))


HOST_A = station("a", "10.0.0.1/24", "10.0.0.2=udp://127.0.0.1:7002")
HOST_B = station("b", "10.0.0.2/24", "10.0.0.1=udp://127.0.0.1:7001")


@pytest.fixture(
    scope="module", params=IMPLEMENTATIONS["link"].values(), ids=IMPLEMENTATIONS["link"]
)
def spec(request):
    """The implementation under test, as module:factory."""
    return request.param


def make(spec: str, config=HOST_A, sink=None) -> Layer:
    return load(spec)(config, random.Random(1), Tracer(config.name, "link", sink))


def packet(size: int = 100, dst: bytes = B, src: bytes = A) -> bytes:
    """An IPv4 packet of `size` bytes in all."""
    return ipv4.encode(ipv4.Ipv4Header(src, dst, 17), bytes(size - ipv4.MIN_HEADER))


def trimmed(datagram: Datagram) -> bytes:
    """The packet without what a minimum frame added behind it."""
    return datagram.packet[: int.from_bytes(datagram.packet[2:4], "big")]


class Pair:
    """Two twins on one wire without delay."""

    def __init__(self, spec: str) -> None:
        self.a, self.b = make(spec, HOST_A), make(spec, HOST_B)
        self.now = 1000
        self.to_ip: dict[Layer, list[Message]] = {self.a: [], self.b: []}
        self.frames: list[Frame] = []
        self.run()

    def down(self, packet: bytes, next_hop: bytes = B, trace: int = 7) -> None:
        """a's ip hands down a packet, and the wire is run until nothing moves."""
        self.a.receive(Datagram(trace, 1, next_hop, 0, packet), IP, self.now)
        self.run()

    def run(self, until: int = 0) -> None:
        """Carry frames and run timers until all is quiet, or until a time."""
        for _ in range(10_000):
            if not self._carry():
                due = [when for each in self.to_ip if (when := each.deadline()) is not None]
                if not due or min(due) > max(until, self.now):
                    self.now = max(until, self.now)
                    return
                self.now = max(self.now, min(due))
            for each in self.to_ip:
                each.expire(self.now)
        raise AssertionError("it never ends")

    def _carry(self) -> bool:
        moved = False
        for layer, other in ((self.a, self.b), (self.b, self.a)):
            for to, message in layer.outputs():
                moved = True
                assert_well_formed(message)
                if to == IP:
                    self.to_ip[layer].append(message)
                else:
                    assert to == WIRE
                    assert type(message) is Frame
                    self.frames.append(message)
                    other.receive(message, WIRE, self.now)
        return moved


def assert_well_formed(message: Message) -> None:
    """It survives a pipe."""
    assert decode(encode([message])) == ([message], [])


def feed(layer: Layer, message: Message, source: str, now: int = 1000) -> list[Message]:
    layer.receive(message, source, now)
    return [output.message for output in layer.outputs()]


@pytest.mark.parametrize("size", [20, 46, 100, 1500])
def test_datagram_down_comes_up_at_the_twin_unchanged(spec, size):
    pair = Pair(spec)
    pair.down(packet(size))
    (datagram,) = pair.to_ip[pair.b]
    assert type(datagram) is Datagram
    assert trimmed(datagram) == packet(size)
    assert (datagram.trace, datagram.ifindex, datagram.flags) == (7, 1, 0)
    assert datagram.next_hop == bytes(4)
    assert pair.to_ip[pair.a] == []


def test_frames_bear_the_interface_and_the_time(spec):
    pair = Pair(spec)
    pair.run(until=5 * SECOND)
    pair.frames.clear()
    pair.down(packet())
    assert pair.frames
    assert {(frame.ifindex, frame.sent_at) for frame in pair.frames} == {(1, 5 * SECOND)}
    assert all(frame.trace == 7 for frame in pair.frames)


def test_packets_keep_their_order_and_traces(spec):
    pair = Pair(spec)
    for trace in range(1, 20):
        pair.a.receive(Datagram(trace, 1, B, 0, packet(40 + trace)), IP, pair.now)
    pair.run()
    assert [message.trace for message in pair.to_ip[pair.b]] == list(range(1, 20))
    assert [len(trimmed(message)) for message in pair.to_ip[pair.b]] == list(range(41, 60))


@pytest.mark.parametrize("next_hop", [b"\xff" * 4, BROADCAST])
def test_broadcast_comes_up_flagged(spec, next_hop):
    pair = Pair(spec)
    pair.down(packet(dst=next_hop), next_hop)
    (datagram,) = pair.to_ip[pair.b]
    assert datagram.flags == FLAG_BROADCAST


def test_oversize_packet_is_dropped_and_counted(spec):
    pair = Pair(spec)
    pair.down(packet(1501))
    assert pair.to_ip == {pair.a: [], pair.b: []}
    assert pair.a.counters["drop_packet_too_big"] == 1


def test_new_ip_is_told_the_interface_and_a_known_one_is_not(spec):
    layer = make(spec)
    (told,) = feed(layer, Hello(0, IP, 5, 0), IP)
    assert type(told) is Interface
    assert (told.ifindex, told.name, told.mtu, told.up) == (1, "eth0", 1500, 1)
    assert feed(layer, Hello(0, IP, 5, 0), IP) == []
    assert feed(layer, Hello(0, IP, 6, 1), IP) == [told]


def test_unknown_interface_and_strange_messages_are_dropped_and_counted(spec):
    layer = make(spec)
    assert feed(layer, Datagram(0, 2, B, 0, packet()), IP) == []
    assert feed(layer, Frame(0, 2, 0, packet()), WIRE) == []
    assert feed(layer, Bind(0, 1, A, 0, 0), TCP) == []
    assert layer.counters["drop_unknown_interface"] == 2
    assert layer.counters["drop_unexpected_message"] == 1


def test_traffic_is_counted(spec):
    pair = Pair(spec)
    pair.down(packet())
    for layer, way in ((pair.a, "tx"), (pair.b, "rx")):
        assert layer.counters[f"{way}_packets"] >= 1
        assert layer.counters[f"{way}_bytes"] >= 100
        (row,) = layer.describe("interfaces", pair.now)
        assert row[f"{way}_packets"] == layer.counters[f"{way}_packets"]
        assert row["name"] == "eth0"


def test_topics(spec):
    layer = make(spec)
    assert layer.describe("neighbours", 0) == []
    assert layer.describe("counters", 0) == dict(layer.counters)
    with pytest.raises(KeyError):
        layer.describe("nonsense", 0)


def test_neighbour_that_does_not_exist_never_holds_packets_for_ever(spec):
    """A link that resolves says NeighbourFailed for each packet; one that does not sends them."""
    pair = Pair(spec)
    before = len(pair.frames)
    sent = [packet(50 + n) for n in range(3)]
    for each in sent:
        pair.a.receive(Datagram(7, 1, NOBODY, 0, each), IP, pair.now)
    pair.run(until=60 * SECOND)
    failed = [m.packet for m in pair.to_ip[pair.a] if type(m) is NeighbourFailed]
    carried = [m.frame for m in pair.frames[before:] if m.frame in sent]
    assert failed + carried == sent


def test_idle_link_ends_its_timers(spec):
    pair = Pair(spec)
    pair.down(packet())
    pair.run(until=600 * SECOND)
    assert pair.a.deadline() is None
    assert pair.b.deadline() is None


def test_outputs_are_handed_over_once(spec):
    layer = make(spec)
    layer.receive(Hello(0, IP, 5, 0), IP, 0)
    assert len(layer.outputs()) == 1
    assert layer.outputs() == []


def test_unwatched_link_says_the_same_as_a_watched_one(spec):
    events: list[Event] = []
    quiet, watched = make(spec), make(spec, sink=events.append)
    for layer in (quiet, watched):
        layer.receive(Datagram(1, 1, B, 0, packet()), IP, 5)
        layer.receive(Datagram(1, 1, B, 0, packet(1501)), IP, 5)
    assert quiet.outputs() == watched.outputs()
    assert quiet.counters == watched.counters
    assert all(event.host == "a" and event.layer == "link" for event in events)
    assert any(event.subject == "drop_packet_too_big" for event in events)


# --- any input ---

addresses = st.sampled_from([A, B, NOBODY, BROADCAST, b"\xff" * 4, bytes(4), bytes((224, 0, 0, 9))])
garbage = st.one_of(
    st.binary(max_size=80),
    st.sampled_from([b"", bytes(MAX_FRAME), packet(), b"\xff" * 60]),
)


@st.composite
def mutated(draw: st.DrawFn) -> tuple[str, int, int]:
    """A frame of the twin's own making, by number, with one byte changed or its end cut off."""
    return ("mutate", draw(st.integers(0, 7)), draw(st.integers(0, 2000)))


inputs = st.lists(
    st.one_of(
        st.tuples(st.just("down"), st.integers(1, 2), addresses, st.integers(20, 1600)),
        st.tuples(st.just("wire"), st.integers(1, 2), garbage),
        st.tuples(st.just("hello"), st.integers(1, 3)),
        st.tuples(st.just("time"), st.integers(0, 70 * SECOND)),
        mutated(),
    ),
    max_size=40,
)


def frames_of_a_twin(spec: str) -> list[bytes]:
    """Frames to a, as its neighbour b makes them."""
    pair = Pair(spec)
    pair.down(packet())
    pair.b.receive(Datagram(1, 1, A, 0, packet(200, A, B)), IP, pair.now)
    pair.run(until=3 * SECOND)
    return [frame.frame for frame in pair.frames]


def play(layer: Layer, actions: list, frames: list[bytes], now: int = 1000) -> tuple[list, int]:
    """Feed a layer what hypothesis thought up; everything it says, and the time at the end."""
    said = []
    for kind, *rest in actions:
        if kind == "down":
            ifindex, next_hop, size = rest
            layer.receive(Datagram(3, ifindex, next_hop, 0, packet(size)), IP, now)
        elif kind == "wire":
            layer.receive(Frame(4, rest[0], 0, rest[1]), WIRE, now)
        elif kind == "hello":
            layer.receive(Hello(0, IP, rest[0], 0), IP, now)
        elif kind == "mutate":
            which, where = rest
            frame = bytearray(frames[which % len(frames)])
            if where < len(frame):
                frame[where] ^= 1 + where % 255
            else:
                del frame[where % len(frame) :]
            layer.receive(Frame(5, 1, 0, bytes(frame)), WIRE, now)
        else:
            now += rest[0]
        layer.expire(now)
        said += layer.outputs()
    return said, now


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(actions=inputs)
def test_no_input_raises_and_equal_inputs_give_equal_outputs(spec, actions):
    frames = frames_of_a_twin(spec)
    one, other = make(spec), make(spec)
    said, now = play(one, actions, frames)
    assert (said, now) == play(other, actions, frames)
    assert one.counters == other.counters
    assert one.snapshot() == other.snapshot()
    for _, message in said:
        assert_well_formed(message)
        assert type(message) is not Datagram or len(message.packet) <= MAX_PACKET


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(before=inputs, after=inputs)
def test_successor_from_a_snapshot_goes_on_as_the_old_one_would(spec, before, after):
    frames = frames_of_a_twin(spec)
    old = make(spec)
    _, now = play(old, before, frames)
    heir = make(spec)
    heir.restore(old.snapshot(), now)
    assert heir.deadline() == old.deadline()
    assert heir.counters == old.counters
    assert play(heir, after, frames, now) == play(old, after, frames, now)
    assert heir.snapshot() == old.snapshot()


def test_snapshot_that_is_none_is_refused(spec):
    with pytest.raises(DecodeError):
        make(spec).restore(b"nonsense", 0)
