"""RFC 4987: a flood of SYNs costs a bounded queue, and SYN cookies let others in meanwhile."""

from __future__ import annotations

import pytest

from plywire.messages import Opened
from plywire.seq import add
from plywire.wire.tcp import Options

from .harness import ACK, RST, SECOND, SYN, Got, Raw

QUEUE = 256
OFFER = Options(1460, 5, True, (), (900, 0))


def flooded(**tcp: object) -> Raw:
    """A listener whose queue of handshakes is full."""
    raw = Raw(**tcp)
    raw.listen()
    for port in range(QUEUE):
        raw.segment(SYN, port, src_port=10_000 + port, dst_port=80)
    assert len(raw.take()) == QUEUE
    return raw


def syn(raw: Raw, options: Options = OFFER, port: int = 50_000) -> Got:
    raw.segment(SYN, 7000, src_port=port, dst_port=80, options=options)
    return raw.only()


def ack(raw: Raw, cookie: Got, data: bytes = b"", port: int = 50_000, offset: int = 1) -> None:
    stamps = cookie.options.timestamps
    options = Options(timestamps=(901, stamps[0])) if stamps else None
    raw.segment(ACK, 7001, add(cookie.seq, offset), data, src_port=port, dst_port=80,
                options=options)  # fmt: skip


def test_a_cookie_keeps_nothing() -> None:
    raw = flooded()
    for port in range(50_000, 50_500):
        assert syn(raw, port=port).flags == SYN | ACK
    assert len(raw.layer.stack.by_id) == QUEUE
    assert raw.counters["tcp_syncookies_sent"] == 500


def test_the_answer_to_a_cookie_opens_the_connection() -> None:
    raw = flooded()
    ack(raw, syn(raw), b"GET /")
    (opened,) = raw.told(Opened)
    assert opened.remote_port == 50_000
    tcb = raw.layer.stack.by_handle[opened.handle]
    assert (tcb.state, tcb.rcv_offset) == ("ESTABLISHED", 5)


def test_scale_sack_and_timestamps_come_back_with_the_timestamp() -> None:
    raw = flooded()
    cookie = syn(raw)
    assert cookie.options.window_scale == 7
    ack(raw, cookie)
    (opened,) = raw.told(Opened)
    tcb = raw.layer.stack.by_handle[opened.handle]
    assert (tcb.snd_scale, tcb.rcv_scale, tcb.sack_ok, tcb.ts_on) == (5, 7, True, True)
    assert tcb.snd_mss == 1448


@pytest.mark.parametrize(
    ("offered", "kept"), [(1460, 1460), (1459, 1440), (100, 536), (9000, 1460)]
)
def test_the_mss_is_one_of_eight(offered: int, kept: int) -> None:
    raw = flooded()
    cookie = syn(raw, Options(offered))
    assert (cookie.options.window_scale, cookie.options.sack_permitted) == (None, False)
    ack(raw, cookie)
    (opened,) = raw.told(Opened)
    assert raw.layer.stack.by_handle[opened.handle].snd_mss == kept


@pytest.mark.parametrize("offset", [0, 2, 1 << 24, 1 << 27])
def test_a_guess_is_reset(offset: int) -> None:
    raw = flooded()
    ack(raw, syn(raw), offset=offset)
    assert raw.only().flags == RST
    assert raw.told(Opened) == []


def test_a_cookie_is_for_its_endpoints_only() -> None:
    raw = flooded()
    ack(raw, syn(raw), port=50_001)
    assert raw.only().flags == RST


def test_an_old_cookie_is_worth_nothing() -> None:
    raw = flooded()
    cookie = syn(raw)
    raw.advance(129 * SECOND)
    raw.take()
    ack(raw, cookie)
    assert raw.only().flags == RST


def test_nobody_takes_cookies_when_there_was_no_flood() -> None:
    raw = Raw()
    raw.listen()
    raw.segment(ACK, 7001, 12_345, src_port=50_000, dst_port=80)
    assert raw.only().flags == RST
    assert raw.counters["tcp_syncookies_failed"] == 0


def test_a_swap_between_cookie_and_answer() -> None:
    raw = flooded()
    cookie = syn(raw)
    other = Raw()
    other.layer.restore(raw.layer.snapshot(), raw.now)
    other.now = raw.now
    ack(other, cookie)
    assert len(other.told(Opened)) == 1


def test_without_cookies_the_syn_is_dropped() -> None:
    raw = flooded(syn_cookies=False)
    raw.segment(SYN, 7000, src_port=50_000, dst_port=80)
    assert raw.take() == []
    assert raw.counters["drop_syn_queue_full"] == 1
