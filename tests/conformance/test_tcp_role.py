"""What any TCP implementation owes at its two boundaries, app above and ip below.

`implementations.py` lists what is tested. Nothing here looks inside a layer: twins talk to each
other, and hand-made segments stand for a peer of another make.
"""

from __future__ import annotations

import random

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from implementations import IMPLEMENTATIONS

from plywire.config import SECOND, host
from plywire.envelope import decode, encode
from plywire.errors import DecodeError
from plywire.layer import Layer
from plywire.messages import (
    MAX_PACKET,
    Accepted,
    Bind,
    Bound,
    Close,
    Closed,
    Connect,
    Credit,
    Data,
    End,
    Frame,
    Hello,
    Info,
    Listen,
    Message,
    Opened,
    PacketError,
    Paths,
    Query,
    Segment,
)
from plywire.registry import load
from plywire.roles import APP, IP
from plywire.seq import add
from plywire.trace import STATE, Event, Tracer
from plywire.wire import tcp as wire
from plywire.wire.tcp import ACK, FIN, RST, SYN, TcpHeader

A, B, ANY = bytes((10, 0, 0, 1)), bytes((10, 0, 0, 2)), bytes(4)
HOST_A, HOST_B = host("a", "10.0.0.1/24"), host("b", "10.0.0.2/24")
DELAY = SECOND // 1000
BUFFER = 1 << 18


@pytest.fixture(scope="module", params=IMPLEMENTATIONS["tcp"].values(), ids=IMPLEMENTATIONS["tcp"])
def spec(request):
    """The implementation under test, as module:factory."""
    return request.param


def make(spec: str, config=HOST_A, seed: int = 1, sink=None, paths: bool = True) -> Layer:
    layer = load(spec)(config, random.Random(seed), Tracer(config.name, "tcp", sink))
    if paths:
        own = config.interfaces[0].address
        rows = ((own, 32, own, 65_535), (config.interfaces[0].network, 24, own, 1500))
        layer.receive(Paths(0, rows), IP, SECOND)
    return layer


class Side:
    """A layer and the app above it, which echoes nothing and checks offsets."""

    def __init__(self, layer: Layer) -> None:
        self.layer = layer
        self.handle = 0
        self.limit = 0
        self.sent = 0
        self.received = b""
        self.told: list[Message] = []


class Twins:
    """Two layers, a lossy wire, and one connection from a to b."""

    def __init__(self, spec: str, loss: float = 0.0, seed: int = 1) -> None:
        self.spec, self.now, self.loss = spec, 2 * SECOND, loss
        self.rng = random.Random(seed)
        self.a, self.b = Side(make(spec, HOST_A)), Side(make(spec, HOST_B, 2))
        self.wire: list[tuple[int, Side, Segment]] = []
        self.segments: list[Segment] = []

    def app(self, side: Side, message: Message) -> None:
        side.layer.receive(message, APP, self.now)
        self.collect(side)

    def open(self) -> None:
        self.app(self.b, Bind(1, 2, ANY, 80, 0))
        self.app(self.b, Listen(1, 2, 4, {}))
        self.a.handle = 4
        self.app(self.a, Connect(1, 4, B, 80, BUFFER, {}))
        self.run(lambda: self.a.limit and self.b.limit)

    def collect(self, side: Side) -> None:
        other = self.b if side is self.a else self.a
        for output in side.layer.outputs():
            (message,), errors = decode(encode([output.message]))
            assert errors == []
            if output.to == IP:
                assert isinstance(message, Segment)
                self.segments.append(message)
                if self.rng.random() >= self.loss:
                    self.wire.append((self.now + DELAY, other, message))
                continue
            assert output.to == APP
            side.told.append(message)
            if isinstance(message, Opened):
                side.limit = message.limit
                if message.listener:
                    assert message.handle & 1
                    side.handle = message.handle
                    side.layer.receive(Accepted(1, message.handle), APP, self.now)
            elif isinstance(message, Credit):
                side.limit = message.limit
            elif isinstance(message, Data):
                assert message.offset == len(side.received)
                side.received += message.payload
                read = len(side.received)
                side.layer.receive(Credit(0, side.handle, read, read + BUFFER), APP, self.now)

    def send(self, side: Side, data: bytes) -> None:
        """As much as there is credit for, until all is sent."""
        end = side.sent + len(data)
        start = side.sent
        while side.sent < end:
            part = data[side.sent - start : min(side.limit, end, side.sent + 65_536) - start]
            if part:
                offset = side.sent
                side.sent += len(part)
                self.app(side, Data(1, side.handle, offset, part))
            else:
                before = side.limit
                self.run(lambda before=before: side.limit > before)

    def step(self) -> bool:
        times = [due for side in (self.a, self.b) if (due := side.layer.deadline()) is not None]
        if self.wire:
            times.append(self.wire[0][0])
        if not times:
            return False
        self.now = max(self.now, min(times))
        for side in (self.a, self.b):
            due = side.layer.deadline()
            if due is not None and due <= self.now:
                side.layer.expire(self.now)
        while self.wire and self.wire[0][0] <= self.now:
            _, side, segment = self.wire.pop(0)
            side.layer.receive(segment, IP, self.now)
            self.collect(side)
        self.collect(self.a)
        self.collect(self.b)
        return True

    def run(self, until, limit: int = 4000) -> None:
        stop = self.now + limit * SECOND
        while not until():
            assert self.step(), "nothing more can happen"
            assert self.now < stop, "the time is up"

    def swap(self, side: Side) -> None:
        config = HOST_A if side is self.a else HOST_B
        state = side.layer.snapshot()
        side.layer = make(self.spec, config, 77, paths=False)
        side.layer.restore(state, self.now)


def told(side: Side, kind: type) -> list:
    return [message for message in side.told if isinstance(message, kind)]


def alone(spec: str, handle: int = 2) -> tuple[Layer, Segment]:
    """A layer that connects to 10.0.0.2:80, and its SYN."""
    layer = make(spec)
    layer.receive(Connect(7, handle, B, 80, BUFFER, {}), APP, 2 * SECOND)
    (output,) = layer.outputs()
    return layer, output.message


def header(segment: Segment) -> TcpHeader:
    return wire.decode(segment.payload, segment.src, segment.dst)[0]


def answer(syn: Segment, flags: int, seq: int, ack: int = 0, data: bytes = b"") -> Segment:
    """A segment from the peer of `syn`."""
    first = header(syn)
    reply = TcpHeader(first.dst_port, first.src_port, seq, ack, flags, 60_000)
    return Segment(9, 6, syn.dst, syn.src, 0, 64, 0, wire.encode(reply, data, syn.dst, syn.src))


# --- the handshake --------------------------------------------------------------------------------


def test_syn_is_a_header_without_data(spec):
    layer, syn = alone(spec)
    first, data = wire.decode(syn.payload, syn.src, syn.dst)
    assert (first.flags, first.dst_port, first.ack, data) == (SYN, 80, 0, b"")
    assert (syn.src, syn.dst, syn.protocol, syn.trace) == (A, B, 6, 7)
    assert wire.parse_options(first.options).mss == 1460
    assert layer.deadline() is not None


def test_handshake_tells_both_apps(spec):
    twins = Twins(spec)
    twins.open()
    (ours,), (theirs,) = told(twins.a, Opened), told(twins.b, Opened)
    assert (ours.handle, ours.listener) == (4, 0)
    assert (theirs.listener, theirs.local_address, theirs.local_port) == (2, B, 80)
    assert (ours.local_address, ours.local_port) == (theirs.remote_address, theirs.remote_port)
    assert ours.limit > 0
    flags = [header(segment).flags for segment in twins.segments[:3]]
    assert flags == [SYN, SYN | ACK, ACK]


def test_nobody_listens(spec):
    layer = make(spec)
    segment = TcpHeader(1234, 80, 55, 0, SYN, 1000)
    layer.receive(Segment(3, 6, B, A, 0, 64, 0, wire.encode(segment, b"", B, A)), IP, SECOND)
    (output,) = layer.outputs()
    reset = header(output.message)
    assert (reset.flags, reset.seq, reset.ack, output.message.trace) == (RST | ACK, 0, 56, 3)


def test_refusal_is_econnrefused(spec):
    layer, syn = alone(spec)
    layer.receive(answer(syn, RST | ACK, 0, add(header(syn).seq, 1)), IP, 2 * SECOND)
    (output,) = layer.outputs()
    assert (output.to, output.message.handle, output.message.error) == (APP, 2, "ECONNREFUSED")


def test_a_syn_that_nobody_answers(spec):
    layer, _ = alone(spec)
    closed: list[Closed] = []
    now = 2 * SECOND
    while not closed:
        now = layer.deadline()
        assert now is not None
        layer.expire(now)
        closed = [item.message for item in layer.outputs() if isinstance(item.message, Closed)]
    assert closed[0].error == "ETIMEDOUT"
    assert now > 10 * SECOND


def test_two_connects_use_two_ports_and_numbers(spec):
    layer, first = alone(spec, 2)
    layer.receive(Connect(7, 4, B, 80, BUFFER, {}), APP, 2 * SECOND)
    (output,) = layer.outputs()
    assert header(first).src_port != header(output.message).src_port


def test_no_route(spec):
    layer = make(spec)
    layer.receive(Connect(7, 2, bytes((99, 0, 0, 1)), 80, BUFFER, {}), APP, 2 * SECOND)
    (output,) = layer.outputs()
    assert (output.message.error, output.message.handle) == ("ENETUNREACH", 2)


def test_connect_before_paths_waits(spec):
    layer = make(spec, paths=False)
    layer.receive(Connect(7, 2, B, 80, BUFFER, {}), APP, SECOND)
    assert layer.outputs() == []
    layer.receive(Paths(0, ((bytes((10, 0, 0, 0)), 24, A, 1500),)), IP, SECOND + 1)
    (output,) = layer.outputs()
    assert header(output.message).flags == SYN


def test_mss_follows_the_path(spec):
    layer = make(spec, paths=False)
    layer.receive(Paths(0, ((ANY, 0, A, 1280),)), IP, SECOND)
    layer.receive(Connect(7, 2, B, 80, BUFFER, {}), APP, SECOND)
    (output,) = layer.outputs()
    assert wire.parse_options(header(output.message).options).mss == 1240


# --- binding --------------------------------------------------------------------------------------


def test_port_in_use(spec):
    layer = make(spec)
    for handle in (2, 4):
        layer.receive(Bind(0, handle, ANY, 80, 0), APP, SECOND)
    first, second = (output.message for output in layer.outputs())
    assert (first.error, second.error) == ("", "EADDRINUSE")
    layer.receive(Bind(0, 6, B, 81, 0), APP, SECOND)
    (output,) = layer.outputs()
    assert isinstance(output.message, Bound)
    assert output.message.error == "EADDRNOTAVAIL"


def test_any_port(spec):
    layer = make(spec)
    for handle in (2, 4):
        layer.receive(Bind(0, handle, ANY, 0, 0), APP, SECOND)
    first, second = (output.message.port for output in layer.outputs())
    assert first != second
    assert min(first, second) >= 1024


# --- the stream -----------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [1, 1460, 1461, 700_000])
def test_both_streams_arrive(spec, size):
    twins = Twins(spec)
    twins.open()
    forth, back = random.Random(size).randbytes(size), bytes(size)
    twins.send(twins.a, forth)
    twins.send(twins.b, back)
    twins.run(lambda: len(twins.b.received) == len(twins.a.received) == size)
    assert (twins.b.received, twins.a.received) == (forth, back)


@pytest.mark.parametrize("seed", range(5))
def test_losses_are_repaired(spec, seed):
    twins = Twins(spec, loss=0.1, seed=seed)
    twins.open()
    data = random.Random(seed).randbytes(60_000)
    twins.send(twins.a, data)
    twins.app(twins.a, End(1, 4, len(data)))
    twins.run(lambda: told(twins.b, End))
    assert twins.b.received == data
    assert told(twins.b, End)[0].offset == len(data)


def test_credit_bounds_what_is_taken(spec):
    layer, syn = alone(spec)
    number = add(header(syn).seq, 1)
    layer.receive(answer(syn, SYN | ACK, 5000, number), IP, 2 * SECOND)
    (opened,) = (item.message for item in layer.outputs() if item.to == APP)
    layer.receive(Data(1, 2, opened.limit, b"beyond"), APP, 2 * SECOND)
    layer.receive(Data(1, 2, 10, b"a gap"), APP, 2 * SECOND)
    assert layer.outputs() == []


def test_nothing_beyond_the_credit_is_accepted(spec):
    """The receive window is the app's credit."""
    layer = make(spec)
    layer.receive(Connect(7, 2, B, 80, 1000, {}), APP, 2 * SECOND)
    (output,) = layer.outputs()
    syn = output.message
    number = add(header(syn).seq, 1)
    layer.receive(answer(syn, SYN | ACK, 5000, number), IP, 2 * SECOND)
    layer.receive(answer(syn, ACK, 5001, number, b"x" * 1400), IP, 2 * SECOND)
    messages = [item.message for item in layer.outputs()]
    assert sum(len(item.payload) for item in messages if isinstance(item, Data)) == 1000
    assert header(messages[-1] if isinstance(messages[-1], Segment) else next(
        item for item in reversed(messages) if isinstance(item, Segment))).window == 0  # fmt: skip


def test_order_of_close(spec):
    """FIN, ACK, FIN, ACK; both apps hear of the end; nothing is left after TIME-WAIT."""
    twins = Twins(spec)
    twins.open()
    twins.segments.clear()
    twins.app(twins.a, Close(1, 4, 0, 0))
    twins.run(lambda: told(twins.b, End))
    twins.app(twins.b, Close(1, twins.b.handle, 0, 0))
    twins.run(lambda: told(twins.b, Closed))
    flags = [header(segment).flags for segment in twins.segments]
    assert flags == [FIN | ACK, ACK, FIN | ACK, ACK]
    assert [item.error for item in told(twins.a, Closed) + told(twins.b, Closed)] == ["", ""]
    while twins.step():
        pass
    assert twins.a.layer.describe("connections", twins.now) == []
    assert twins.b.layer.describe("connections", twins.now) == []


def test_abort_is_econnreset(spec):
    twins = Twins(spec)
    twins.open()
    twins.app(twins.a, Close(1, 4, 0, 1))
    twins.run(lambda: told(twins.b, Closed))
    assert told(twins.b, Closed)[0].error == "ECONNRESET"


def test_query(spec):
    twins = Twins(spec)
    twins.app(twins.a, Query(0, 4))
    twins.open()
    twins.app(twins.a, Query(0, 4))
    empty, full = (item.fields for item in told(twins.a, Info))
    assert empty == {}
    assert full["state"] == "ESTABLISHED"
    assert {"snd_una", "snd_nxt", "snd_wnd", "rcv_nxt", "rcv_wnd", "iss", "irs"} <= set(full)


# --- replacement ----------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(5))
def test_swap_in_mid_transfer(spec, seed):
    twins = Twins(spec, loss=0.05, seed=seed)
    twins.open()
    data = random.Random(seed).randbytes(100_000)
    twins.send(twins.a, data)
    count = 0
    while len(twins.b.received) < len(data):
        assert twins.step()
        count += 1
        if count % 5 == seed:
            twins.swap(twins.a if count % 2 else twins.b)
    assert twins.b.received == data


def test_a_new_app_has_no_sockets(spec):
    twins = Twins(spec)
    twins.app(twins.a, Hello(0, "app", 1, 0))
    twins.open()
    twins.app(twins.a, Hello(0, "app", 1, 0))
    assert told(twins.b, Closed) == []
    twins.app(twins.a, Hello(0, "app", 2, 0))
    twins.run(lambda: told(twins.b, Closed))
    assert told(twins.b, Closed)[0].error == "ECONNRESET"


def test_bad_snapshot(spec):
    with pytest.raises(DecodeError):
        make(spec).restore(b"\xc1", SECOND)


# --- robustness -----------------------------------------------------------------------------------


@settings(max_examples=100, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    payload=st.binary(max_size=80), src=st.binary(min_size=4, max_size=4), flags=st.integers(0, 3)
)
def test_garbage_segments_are_counted(spec, payload, src, flags):
    layer = make(spec)
    layer.receive(Segment(1, 6, src, A, 0, 64, flags, payload), IP, SECOND)
    assert all(item.to == IP for item in layer.outputs())
    assert sum(layer.counters.values()) > 0


@settings(max_examples=200, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    flags=st.integers(0, 255),
    seq=st.integers(-3, 70_000),
    ack=st.integers(-3, 3),
    data=st.binary(max_size=10),
    options=st.binary(max_size=12),
    established=st.booleans(),
)
def test_any_segment_for_a_connection(spec, flags, seq, ack, data, options, established):
    layer, syn = alone(spec)
    number = add(header(syn).seq, 1)
    if established:
        layer.receive(answer(syn, SYN | ACK, 5000, number), IP, 2 * SECOND)
    first = header(syn)
    reply = TcpHeader(80, first.src_port, add(5001, seq), add(number, ack), flags, 500, 9, options)
    payload = wire.encode(reply, data, B, A)
    layer.receive(Segment(1, 6, B, A, 0, 64, 0, payload), IP, 2 * SECOND)
    now = layer.deadline() or 0
    layer.expire(now)
    for item in layer.outputs():
        if item.to == IP:
            header(item.message)


@settings(max_examples=50, deadline=None, suppress_health_check=list(HealthCheck))
@given(quote=st.binary(max_size=20), kind=st.integers(0, 255), code=st.integers(0, 255))
def test_any_icmp_error(spec, quote, kind, code):
    layer, _ = alone(spec)
    layer.receive(PacketError(1, 6, 0, B, kind, code, 600, A, B, quote), IP, 2 * SECOND)
    assert layer.outputs() == []


@pytest.mark.parametrize("role", [APP, IP])
def test_messages_that_are_not_for_tcp(spec, role):
    layer = make(spec)
    layer.receive(Frame(1, 1, 0, bytes(60)), role, SECOND)
    layer.receive(Segment(1, 17, B, A, 0, 64, 0, bytes(8)), role, SECOND)
    assert layer.outputs() == []
    assert sum(value for name, value in layer.counters.items() if name.startswith("drop_")) == 2


def test_segments_fit_a_packet(spec):
    layer = make(spec, paths=False)
    layer.receive(Paths(0, ((ANY, 0, A, 65_535),)), IP, SECOND)
    layer.receive(Connect(7, 2, B, 80, BUFFER, {}), APP, SECOND)
    (output,) = layer.outputs()
    assert len(output.message.payload) <= MAX_PACKET


def test_equal_inputs_give_equal_outputs(spec):
    def run() -> list[Segment]:
        twins = Twins(spec, loss=0.1, seed=5)
        twins.open()
        twins.send(twins.a, bytes(30_000))
        twins.run(lambda: len(twins.b.received) == 30_000)
        return twins.segments

    assert run() == run()


def test_state_changes_are_traced(spec):
    events: list[Event] = []
    layer = make(spec, sink=events.append)
    layer.receive(Connect(7, 2, B, 80, BUFFER, {}), APP, 2 * SECOND)
    (event,) = (item for item in events if item.what == STATE)
    assert (event.before["state"], event.after["state"], event.trace) == ("CLOSED", "SYN-SENT", 7)
    assert event.after["remote_port"] == 80


def test_an_idle_layer_wants_nothing(spec):
    layer = make(spec)
    assert (layer.deadline(), layer.outputs()) == (None, [])
    for topic in ("connections", "listeners", "counters"):
        layer.describe(topic, SECOND)
    with pytest.raises(KeyError):
        layer.describe("no such topic", SECOND)
