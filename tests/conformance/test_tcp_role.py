"""What any TCP implementation that speaks to ip owes, beside what `test_tcp_app_boundary.py` asks.

`implementations.py` lists what is tested. Nothing here looks inside a layer: twins talk to each
other, and hand-made segments stand for a peer of another make.
"""

from __future__ import annotations

import random

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from implementations import IMPLEMENTATIONS
from tcp_twins import ANY, BUFFER, A, B, make, told
from tcp_twins import SegmentTwins as Twins

from plywire.config import SECOND
from plywire.layer import Layer
from plywire.messages import (
    MAX_PACKET,
    Close,
    Closed,
    Connect,
    Data,
    End,
    Frame,
    Info,
    Opened,
    PacketError,
    Paths,
    Query,
    Segment,
)
from plywire.roles import APP, IP
from plywire.seq import add
from plywire.trace import STATE, Event
from plywire.wire import tcp as wire
from plywire.wire.tcp import ACK, FIN, RST, SYN, TcpHeader


@pytest.fixture(scope="module", params=IMPLEMENTATIONS["tcp"].values(), ids=IMPLEMENTATIONS["tcp"])
def spec(request):
    """The implementation under test, as module:factory."""
    return request.param


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
    twins.open(80)
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


# --- the stream -----------------------------------------------------------------------------------


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
