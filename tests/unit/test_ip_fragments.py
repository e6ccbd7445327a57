"""Fragments: cut, put together in any order, refused when they overlap, bounded, given up."""

from __future__ import annotations

import random
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from ip_harness import BROADCAST, H1, H2, Ip, echo, tcp_packet, the_icmp

from plywire.config import SECOND, IpConfig, host
from plywire.errors import DecodeError
from plywire.messages import FLAG_BROADCAST, Segment
from plywire.wire import ipv4
from plywire.wire.ipv4 import Ipv4Header
from services.ip import options
from services.ip.fragments import FRAGMENT_COST, SOURCE_SHARE, Reassembly, split

HEADER = Ipv4Header(H2, H1, 17, ident=7)
RECORD_ROUTE = b"\x07\x04\x04\0"
ROUTER_ALERT = b"\x94\x04\0\0"


def piece(offset: int, payload: bytes, more: bool = True, **fields: object) -> tuple:
    return HEADER._replace(offset=offset, more_fragments=more, **fields), payload


def table(max_bytes: int = 1 << 20, max_packets: int = 64) -> Reassembly:
    return Reassembly(30 * SECOND, max_bytes, max_packets)


def add(reassembly: Reassembly, fragment: tuple, now: int = 0):
    whole, _ = reassembly.add(*fragment, 0, 1, now)
    return whole


# --- cutting --------------------------------------------------------------------------------------


@given(st.binary(min_size=1, max_size=3000), st.integers(68, 1500), st.integers(0, 10))
def test_pieces_fit_and_make_the_whole(payload, mtu, words):
    header = HEADER._replace(options=(ROUTER_ALERT * words)[:40], tos=3, ttl=5)
    reassembly = table()
    pieces = split(header, payload, mtu)
    assert all(len(packet) <= mtu for packet in pieces)
    if len(pieces) == 1:
        assert ipv4.decode(pieces[0]) == (header, payload)
        return
    results = [add(reassembly, ipv4.decode(packet)) for packet in pieces]
    assert results[:-1] == [None] * (len(pieces) - 1)
    assert results[-1][:2] == (header, payload)


def test_later_pieces_bear_only_the_options_to_be_copied():
    header = HEADER._replace(options=RECORD_ROUTE + b"\x01" + ROUTER_ALERT + b"\0\0\0")
    first, second = split(header, b"x" * 100, 100)
    assert ipv4.decode(first)[0].options == header.options
    assert ipv4.decode(second)[0].options == ROUTER_ALERT


def test_copied_options_are_padded():
    assert options.copied(b"\x88\x05abc\x01\x01\0") == b"\x88\x05abc\0\0\0"
    assert options.copied(RECORD_ROUTE) == b""


# --- putting together -----------------------------------------------------------------------------


@given(st.data())
def test_any_order_with_repeats_makes_the_whole_once(data):
    payload = data.draw(st.binary(min_size=2, max_size=600))
    cuts = sorted(data.draw(st.sets(st.integers(1, max(1, (len(payload) - 1) // 8)), max_size=12)))
    edges = [0, *(cut * 8 for cut in cuts if cut * 8 < len(payload)), len(payload)]
    pieces = [
        piece(low, payload[low:high], more=high < len(payload)) for low, high in pairwise(edges)
    ]
    order = data.draw(st.permutations(range(len(pieces))))
    reassembly = table()
    for index, number in enumerate(order):
        repeats = data.draw(st.lists(st.sampled_from(order[:index]), max_size=2)) if index else []
        for repeat in repeats:
            with pytest.raises(DecodeError, match="fragment_duplicate"):
                add(reassembly, pieces[repeat])
        whole = add(reassembly, pieces[number])
        assert (whole is not None) == (index == len(order) - 1)
    assert whole.payload == payload
    assert whole.header == HEADER
    assert (len(reassembly), reassembly.bytes_held) == (0, 0)


@given(st.data())
def test_nothing_that_overlaps_is_ever_delivered(data):
    """Whatever comes in, a packet is delivered only from pieces that agree on every byte."""
    reassembly = table()
    seen: dict[int, int] = {}
    clash = False
    for _ in range(data.draw(st.integers(1, 12))):
        offset = 8 * data.draw(st.integers(0, 5))
        more = data.draw(st.booleans())
        size = 8 * data.draw(st.integers(1, 3)) if more else data.draw(st.integers(1, 24))
        fill = data.draw(st.integers(0, 1))
        for place in range(offset, offset + size):
            clash = clash or seen.setdefault(place, fill) != fill
        try:
            whole = add(reassembly, piece(offset, bytes([fill]) * size, more))
        except DecodeError:
            continue
        if whole is not None:
            assert not clash
            assert whole.payload == bytes(seen[place] for place in range(len(whole.payload)))
            return


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (piece(0, b"a" * 24), piece(16, b"b" * 24)),
        (piece(16, b"a" * 24), piece(0, b"b" * 24)),
        (piece(16, b"a" * 8), piece(8, b"b" * 32)),
        (piece(8, b"a" * 32), piece(16, b"b" * 8)),
        (piece(16, b"a" * 16), piece(16, b"b" * 16)),
        (piece(16, b"a" * 16), piece(16, b"a" * 24)),
        (piece(16, b"a" * 16), piece(16, b"a" * 16, more=False)),
        (piece(16, b"a" * 16, more=False), piece(16, b"a" * 16)),
        (piece(16, b"a" * 16, more=False), piece(32, b"a" * 8)),
        (piece(16, b"a" * 16, more=False), piece(32, b"a" * 8, more=False)),
        (piece(32, b"a" * 16), piece(16, b"a" * 8, more=False)),
    ],
)
def test_overlap_condemns_the_packet_and_what_still_comes(first, second):
    reassembly = table()
    add(reassembly, piece(400, b"z" * 8) if first[0].more_fragments else piece(8, b"z" * 8))
    add(reassembly, first)
    with pytest.raises(DecodeError, match="fragment_overlap"):
        add(reassembly, second)
    assert reassembly.bytes_held == FRAGMENT_COST
    with pytest.raises(DecodeError, match="fragment_of_dropped_packet"):
        add(reassembly, piece(0, b"new" * 8))
    assert [item[1].poisoned for item in reassembly.expire(30 * SECOND)] == [True]
    assert add(reassembly, piece(0, b"a" * 8), 31 * SECOND) is None


def test_packets_are_told_apart_by_source_destination_protocol_and_ident():
    reassembly = table()
    add(reassembly, piece(0, b"a" * 8))
    last = piece(8, b"b", more=False)
    for change in ({"src": b"\x0a\0\0\x09"}, {"dst": BROADCAST}, {"protocol": 1}, {"ident": 8}):
        assert add(reassembly, (last[0]._replace(**change), last[1])) is None
    assert add(reassembly, last).payload == b"a" * 8 + b"b"
    assert len(reassembly) == 4


@pytest.mark.parametrize(
    ("fragment", "reason"),
    [
        (piece(0, b"x" * 9), "fragment_bad_length"),
        (piece(8, b""), "fragment_bad_length"),
        (piece(8, b"", more=False), "fragment_bad_length"),
        (piece(65_528, b"x" * 8, more=False), "fragment_too_long"),
        (piece(65_512, b"x" * 4, more=False), "fragment_too_long"),
        (piece(8, b"x" * 8, protocol=6), "fragment_tiny"),
        (piece(0, b"x" * 8, protocol=6), "fragment_tiny"),
    ],
)
def test_fragments_that_no_sender_cuts_are_dropped(fragment, reason):
    """Too long when put together, and RFC 1858 / 3128: TCP's flags hidden from a filter."""
    reassembly = table()
    with pytest.raises(DecodeError, match=reason):
        add(reassembly, fragment)
    assert len(reassembly) == 0


def test_longest_packet_possible_is_put_together():
    reassembly = table()
    assert add(reassembly, piece(0, b"x" * 65_512)) is None
    assert len(add(reassembly, piece(65_512, b"abc", more=False)).payload) == 65_515


@pytest.mark.parametrize(
    ("points", "result"), [((1, 1), 1), ((1, 3), 3), ((2, 3), 3), ((0, 0), 0), ((0, 3), None)]
)
def test_congestion_seen_by_one_fragment_is_kept(points, result):
    """RFC 3168 5.3; a mix with packets that are not ECN capable is dropped."""
    reassembly = table()
    add(reassembly, piece(0, b"a" * 8, tos=0x20 | points[0]))
    last = piece(8, b"b", more=False, tos=0x20 | points[1])
    if result is None:
        with pytest.raises(DecodeError, match="fragment_ecn_mixed"):
            add(reassembly, last)
        assert len(reassembly) == 0
    else:
        assert add(reassembly, last).header.tos == 0x20 | result


# --- bounds ---------------------------------------------------------------------------------------


def test_one_source_cannot_hold_more_than_its_share():
    reassembly = table(max_bytes=40_000)
    mine = piece(0, b"m" * 8)
    reassembly.add(mine[0]._replace(src=b"\x0a\0\0\x09"), mine[1], 0, 1, 0)
    evicted = 0
    for ident in range(100):
        _, gone = reassembly.add(*piece(0, b"x" * 800, ident=ident), 0, 1, 0)
        evicted += gone
    assert reassembly.bytes_held <= 40_000 // SOURCE_SHARE + 1000
    assert len(reassembly) + evicted == 101
    last = mine[0]._replace(src=b"\x0a\0\0\x09", offset=8, more_fragments=False)
    assert reassembly.add(last, b"end", 0, 1, 0)[0].payload == b"m" * 8 + b"end"


def test_many_sources_stay_within_the_whole():
    reassembly = table(max_bytes=40_000, max_packets=20)
    for number in range(500):
        src = (0x0A000000 + number).to_bytes(4, "big")
        header, payload = piece(0, b"x" * (8 * (number % 200 + 1)))
        reassembly.add(header._replace(src=src), payload, 0, 1, 0)
        assert reassembly.bytes_held <= 40_000
        assert len(reassembly) <= 20
    assert reassembly.add(header._replace(src=src, offset=len(payload), more_fragments=False),
                          b"!", 0, 1, 0)[0] is not None  # fmt: skip


def test_many_tiny_fragments_are_charged_for():
    reassembly = table(max_bytes=20_000)
    held = []
    for index in range(0, 400, 2):
        reassembly.add(*piece(index * 8, b"x" * 8), 0, 1, 0)
        held.append(reassembly.bytes_held)
    assert max(held) <= 20_000 // SOURCE_SHARE + FRAGMENT_COST


@given(st.integers(0, 2**32))
def test_books_balance_whatever_comes(seed):
    rng = random.Random(seed)
    reassembly = table(max_bytes=6000, max_packets=8)
    for step in range(150):
        more = rng.random() < 0.7
        fragment = (
            HEADER._replace(
                src=bytes((10, 0, 0, rng.randrange(2, 6))), ident=rng.randrange(4),
                offset=8 * rng.randrange(6), more_fragments=more,
            ),
            bytes(8 * rng.randrange(1, 4)),
        )  # fmt: skip
        try:
            reassembly.add(*fragment, 0, 1, step * SECOND)
        except DecodeError:
            pass
        if rng.random() < 0.05:
            reassembly.expire(step * SECOND)
        assert 0 <= reassembly.bytes_held <= 6000
        rows = reassembly._partials.values()
        assert reassembly.bytes_held == sum(row.cost for row in rows)
        assert reassembly.bytes_held == sum(row.cost for row in reassembly._sources.values())
    reassembly.expire(10**15)
    assert (len(reassembly), reassembly.bytes_held, reassembly._sources) == (0, 0, {})


# --- in the layer ---------------------------------------------------------------------------------


def test_fragments_go_up_as_one_segment_with_the_last_ones_trace():
    ip = Ip()
    first, second = split(Ipv4Header(H2, H1, 6, ident=3), b"x" * 1600, 1500)
    assert ip.packet(second, trace=1) == []
    assert ip.packet(first, trace=2) == [Segment(2, 6, H2, H1, 0, 64, 0, b"x" * 1600)]
    assert ip.counters["ip_reasm_reqds"] == 2
    assert ip.counters["ip_reasm_oks"] == 1
    assert ip.layer.deadline() is None


def test_one_fragment_in_a_broadcast_frame_marks_the_whole():
    ip = Ip()
    first, second = split(Ipv4Header(H2, H1, 6, ident=3), b"x" * 1600, 1500)
    ip.packet(first, FLAG_BROADCAST)
    assert ip.packet(second)[0].flags == FLAG_BROADCAST


def test_error_about_a_reassembled_packet_quotes_the_whole():
    ip = Ip()
    first, second = split(Ipv4Header(H2, H1, 99, ident=3, options=RECORD_ROUTE), b"x" * 1600, 1500)
    ip.packet(first)
    _, error = the_icmp(ip.packet(second))
    quoted = error.body
    assert int.from_bytes(quoted[2:4], "big") == 1624
    assert quoted[6:8] == b"\0\0"


def test_packet_that_is_not_completed_is_given_up_with_time_exceeded():
    ip = Ip()
    first, _ = split(ipv4.decode(echo())[0]._replace(ident=3), b"\x08" + b"x" * 1600, 1500)
    ip.packet(first, trace=21)
    assert ip.layer.deadline() == ip.now + 30 * SECOND
    assert ip.later(29.9) == []
    messages = ip.later(0.1)
    assert messages[0].trace == 21
    header, error = the_icmp(messages)
    assert (header.dst, error.type, error.code) == (H2, 11, 1)
    assert error.body == first[:548]
    assert ip.counters["ip_reasm_timeout"] == ip.counters["ip_reasm_fails"] == 1


def test_broadcast_that_is_not_completed_is_given_up_in_silence():
    ip = Ip()
    first, _ = split(Ipv4Header(H2, H1, 6, ident=3), b"x" * 1600, 1500)
    ip.packet(first, FLAG_BROADCAST)
    assert ip.later(30) == []
    assert ip.counters["icmp_out_suppressed"] == 1


def test_packet_without_its_first_fragment_is_given_up_in_silence():
    ip = Ip()
    _, second = split(Ipv4Header(H2, H1, 6, ident=3), b"x" * 1600, 1500)
    ip.packet(second)
    assert ip.later(30) == []
    assert ip.counters["ip_reasm_timeout"] == 1


def test_condemned_packet_is_given_up_in_silence():
    ip = Ip()
    ip.packet(tcp_packet(payload=b"x" * 24, ident=3, more_fragments=True))
    ip.packet(tcp_packet(payload=b"y" * 24, ident=3, more_fragments=True, offset=16))
    assert ip.counters["drop_fragment_overlap"] == 1
    assert ip.later(30) == []
    assert ip.counters["ip_reasm_timeout"] == 0


def test_duplicates_are_no_failure():
    ip = Ip()
    packet = tcp_packet(payload=b"x" * 24, ident=3, more_fragments=True)
    ip.packet(packet)
    ip.packet(packet)
    assert ip.counters["drop_fragment_duplicate"] == 1
    assert ip.counters["ip_reasm_fails"] == 0


def test_evicted_packets_are_counted():
    ip = Ip(host("h1", "10.0.0.1/24", ip=IpConfig(reassembly_bytes=8000)))
    for ident in range(4):
        ip.packet(tcp_packet(payload=b"x" * 1000, ident=ident, more_fragments=True))
    assert ip.counters["drop_fragment_evicted"] == ip.counters["ip_reasm_fails"] == 3
    (row,) = ip.layer.describe("fragments", ip.now)
    assert row == {"src": "10.0.0.2", "dst": "10.0.0.1", "protocol": 6, "ident": 3, "fragments": 1,
                   "bytes": 1000, "total": -1, "poisoned": 0, "expires_in_ms": 30_000}  # fmt: skip
