"""Two TCPs and a bad wire: whatever it does, both streams arrive and both sides close."""

from __future__ import annotations

import random

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from plywire.messages import Bind, Connect
from plywire.roles import APP

from .harness import ANY, MS, SECOND
from .harness import Pair as PlainPair
from .invariants import Watch, watch_sending

EDGE = (1 << 32) - 1


def Pair(seed: int, **settings: object) -> PlainPair:  # noqa: N802
    """A pair of which every step is watched."""
    return PlainPair(seed, watches={"a": Watch(), "b": Watch()}, **settings)


@pytest.fixture(autouse=True)
def _watched():
    stop = watch_sending()
    yield
    stop()


def check(pair: PlainPair, forth: bytes, back: bytes) -> None:
    """Transfer, then let everything run out: no connection, no timer, no byte is left."""
    pair.transfer(forth, back)
    pair.run()
    for end in pair.ends:
        stack = end.layer.stack
        assert (stack.by_id, stack.by_handle, stack.connections) == ({}, {}, {})
        assert list(stack.listeners) == ([2] if end is pair.b else [])
        assert end.layer.deadline() is None


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    seed=st.integers(0, 1 << 30),
    forth=st.integers(0, 60_000),
    back=st.integers(0, 60_000),
    loss=st.sampled_from([0.0, 0.02, 0.2]),
    duplicate=st.sampled_from([0.0, 0.2]),
    corrupt=st.sampled_from([0.0, 0.1]),
    jitter=st.sampled_from([0, 1 * MS, 40 * MS]),
    mtu=st.sampled_from([576, 1500, 9000]),
    buffer=st.sampled_from([2000, 20_000, 1 << 20]),
)
def test_any_wire(seed, forth, back, loss, duplicate, corrupt, jitter, mtu, buffer) -> None:
    pair = Pair(seed, loss=loss, duplicate=duplicate, corrupt=corrupt, jitter=jitter, mtu=mtu,
                receive_buffer=buffer, send_buffer=max(buffer, 4000))  # fmt: skip
    stream = random.Random(seed).randbytes(max(forth, back))
    check(pair, stream[:forth], stream[:back])


@pytest.mark.parametrize("seed", range(40))
def test_a_fifth_is_lost(seed: int) -> None:
    pair = Pair(seed, loss=0.2, duplicate=0.1, corrupt=0.05, jitter=20 * MS)
    stream = random.Random(seed).randbytes(40_000)
    check(pair, stream, stream[::-1])


@pytest.mark.parametrize("before", [0, 1, 2, 1459, 1460, 1461, 20_000, 40_000])
@pytest.mark.parametrize("loss", [0.0, 0.1])
def test_sequence_numbers_cross_zero(before: int, loss: float) -> None:
    pair = Pair(before, loss=loss, jitter=10 * MS, iss=(EDGE - before, EDGE - 2 * before))
    stream = random.Random(before).randbytes(50_000)
    check(pair, stream, stream[::-1])


@pytest.mark.parametrize("iss", [0, 1 << 31, (1 << 31) - 1, EDGE])
def test_initial_numbers_at_the_edges(iss: int) -> None:
    pair = Pair(3, iss=(iss, (iss + (1 << 31)) & EDGE), loss=0.05)
    check(pair, bytes(30_000), bytes(30_000))


@pytest.mark.parametrize("seed", range(6))
def test_a_reader_that_stops_for_minutes(seed: int) -> None:
    pair = Pair(seed, loss=0.1, jitter=5 * MS, receive_buffer=8000)
    pair.b.auto_read = False
    stream = random.Random(seed).randbytes(40_000)
    pair.open()
    pair.a.send(stream)
    pair.b.send(b"")
    while not pair.b.peer_ended:
        end = pair.now + pair.rng.randrange(600) * SECOND
        pair.run(lambda end=end: pair.now >= end or pair.b.peer_ended, limit=1000 * SECOND)
        pair.b.read(pair.b.read_to + pair.rng.randrange(1, 8000))
    pair.b.read(len(pair.b.received))
    pair.run(lambda: pair.a.closed is not None and pair.b.closed is not None)
    assert pair.b.received == stream


@pytest.mark.parametrize("seed", range(6))
def test_simultaneous_open(seed: int) -> None:
    """Both connect to each other's port, and the wire is bad."""

    pair = Pair(seed, loss=0.1, jitter=5 * MS)
    for end, own, other in ((pair.a, 7000, 7001), (pair.b, 7001, 7000)):
        peer = pair.b if end is pair.a else pair.a
        end.handle = 4
        end.app(Bind(0, 4, ANY, own, 0))
        end.layer.receive(Connect(1, 4, peer.address, other, end.buffer, {}), APP, pair.now)
    for end in pair.ends:
        pair.collect(end)
    pair.a.send(bytes(20_000))
    pair.b.send(bytes(10_000))
    pair.run(lambda: pair.a.closed is not None and pair.b.closed is not None)
    assert (len(pair.b.received), len(pair.a.received)) == (20_000, 10_000)


def test_same_seed_same_run() -> None:
    def run() -> tuple:
        pair = Pair(11, loss=0.2, duplicate=0.1, jitter=10 * MS)
        check(pair, bytes(30_000), bytes(20_000))
        return pair.now, pair.lost, dict(pair.a.layer.counters)

    assert run() == run()


def test_a_loss_in_the_middle_costs_no_timeout() -> None:
    """Fast retransmit repairs single losses within a round trip."""
    pair = Pair(2, loss=0.002)
    stream = bytes(2_000_000)
    pair.transfer(stream, b"")
    assert pair.lost > 0
    assert pair.a.layer.counters["tcp_fast_retrans"] > 0
    assert pair.now < 4 * SECOND
