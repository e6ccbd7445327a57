"""A layer is exchanged for a new one from its snapshot, at any moment, and nobody notices."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from plywire.envelope import dump_state, load_state
from plywire.errors import DecodeError
from plywire.messages import Bind, Bound, Opened
from plywire.roles import APP
from plywire.trace import Tracer
from services.tcp import create
from services.tcp.core import TcpLayer

from .harness import ACK, ANY, FIN, MS, SECOND, SYN, Pair, Peer, Raw


def successor(raw: Raw) -> Raw:
    """Exchange the layer of a `Raw`."""
    state = raw.layer.snapshot()
    layer = create(raw.config, random.Random(99), Tracer())
    layer.restore(state, raw.now)
    assert layer.snapshot() == state
    raw.layer = layer
    return raw


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 1 << 30),
    size=st.integers(0, 120_000),
    swaps=st.lists(st.tuples(st.integers(1, 60), st.booleans()), max_size=12),
)
def test_swap_in_mid_transfer(seed: int, size: int, swaps: list) -> None:
    pair = Pair(seed, loss=0.05, duplicate=0.05, jitter=8 * MS, send_buffer=30_000)
    stream = random.Random(seed).randbytes(size)
    pair.open()
    pair.a.send(stream)
    pair.b.send(stream[::-1])
    for steps, which in swaps:
        for _ in range(steps):
            pair.step()
        pair.ends[which].swap()
    pair.run(lambda: pair.a.closed is not None and pair.b.closed is not None)
    assert pair.b.received == stream
    assert pair.a.received == stream[::-1]


@pytest.mark.parametrize("seed", range(5))
def test_swap_after_every_event(seed: int) -> None:
    pair = Pair(seed, loss=0.1, jitter=8 * MS)
    pair.open()
    pair.a.send(bytes(20_000))
    pair.b.send(bytes(10_000))
    while not (pair.a.closed and pair.b.closed):
        assert pair.step()
        pair.a.swap()
        pair.b.swap()
    assert (len(pair.b.received), len(pair.a.received)) == (20_000, 10_000)


@pytest.mark.parametrize("seed", range(5))
def test_swap_changes_nothing_on_the_wire(seed: int) -> None:
    """The same run with and without a swap sends the same."""

    def run(swap: bool) -> tuple:
        pair = Pair(seed, loss=0.1, jitter=8 * MS)
        pair.open()
        pair.a.send(bytes(50_000))
        pair.b.send(b"")
        for step in range(10_000):
            if not pair.step():
                break
            if swap and step % 7 == 0:
                pair.a.swap()
        return pair.now, pair.lost, dict(pair.a.layer.counters), dict(pair.b.layer.counters)

    assert run(True) == run(False)


def test_outputs_that_were_not_taken_go_along() -> None:
    peer = Peer()
    peer.raw.layer.receive(Bind(0, 8, ANY, 99, 0), APP, peer.raw.now)
    raw = successor(peer.raw)
    raw.collect()
    assert raw.told(Bound)[0].port == 99


def test_everything_is_there() -> None:
    raw = Raw()
    raw.listen(2, 80)
    half = Peer(raw, passive=True, establish=False)
    raw.app(Bind(0, 4, ANY, 99, 0))
    successor(raw)
    half.send(ACK)
    (opened,) = raw.told(Opened)
    assert opened.listener == 2
    raw.app(Bind(0, 6, ANY, 99, 0))
    assert raw.told(Bound)[0].error == "EADDRINUSE"
    raw.segment(SYN, 1, src_port=77, dst_port=80)
    assert raw.only().flags == SYN | ACK


def test_timers_go_on() -> None:
    peer = Peer()
    peer.write(b"x")
    peer.take()
    rto = peer.tcb.rtt.rto
    peer.advance(rto - 1)
    successor(peer.raw)
    assert peer.take() == []
    peer.advance(1)
    assert peer.only().data == b"x"


def test_out_of_order_data_is_kept() -> None:
    peer = Peer()
    peer.send(ACK | FIN, b"b", seq=peer.snd + 1)
    successor(peer.raw)
    peer.send(ACK, b"a")
    assert peer.raw.tcb().state == "CLOSE-WAIT"


def test_waiting_connects_and_time_wait() -> None:
    raw = successor(_waiting())
    raw.advance(1 * SECOND)
    assert raw.told()[0].error == "ENETUNREACH"


def _waiting() -> Raw:
    raw = Raw(hello=False)
    raw.connect()
    return raw


@pytest.mark.parametrize("state", [b"", b"\xc1", b"\x93\x01\x02"])
def test_garbage_is_refused(state: bytes) -> None:
    raw = Raw()
    with pytest.raises(DecodeError):
        raw.layer.restore(state, raw.now)


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        (lambda names: [*names, "snd_moods"], "this one has no snd_moods"),
        (lambda names: names[1:], "it has no id"),
        (lambda names: ["id2", *names[1:]], "it has no id; this one has no id2"),
        (lambda names: names[::-1], "in another order"),
        (lambda names: [], "it has no id, handle"),
    ],
)
def test_a_snapshot_of_a_tcp_with_other_fields_is_refused_whole(fields, reason: str) -> None:
    """As many fields with other meanings would be read without a word otherwise."""
    peer = Peer()
    saved = load_state(peer.raw.layer.snapshot())
    saved["fields"] = fields(saved["fields"])
    layer = create(peer.raw.config, random.Random(99), Tracer())
    before = layer.snapshot()
    with pytest.raises(DecodeError, match=f"control blocks of another tcp: {reason}"):
        layer.restore(dump_state(saved), peer.raw.now)
    assert layer.snapshot() == before


def test_a_snapshot_is_bytes_and_changes_nothing() -> None:
    peer = Peer()
    peer.write(b"x" * 5000)
    layer: TcpLayer = peer.raw.layer
    assert layer.snapshot() == layer.snapshot()
