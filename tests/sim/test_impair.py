from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from plywire.errors import ConfigError
from plywire.impair import Impairer, Impairments
from plywire.wire import ethernet, ipv4

FRAME = bytes(range(100))


def impairer(seed: int = 1, **settings) -> Impairer:
    return Impairer(Impairments(**settings), random.Random(seed))


def send(item: Impairer, count: int, gap: int = 1000) -> list[tuple[int, bytes]]:
    """What arrives of `count` frames that bear their number, in order of arrival."""
    arrivals = []
    for number in range(count):
        arrivals += item.apply(number.to_bytes(4, "big"), number * gap)
    return sorted(arrivals, key=lambda arrival: arrival[0])


def test_a_perfect_wire_delivers_at_once():
    assert impairer().apply(FRAME, 5) == [(5, FRAME)]


def test_delay_is_added():
    assert impairer(delay=70).apply(FRAME, 5) == [(75, FRAME)]


def test_jitter_stays_in_its_bounds_and_keeps_the_order():
    item = impairer(delay=1_000_000, jitter=500_000)
    arrivals = send(item, 500)
    assert [int.from_bytes(frame, "big") for _, frame in arrivals] == list(range(500))
    assert all(1_000_000 <= at - number * 1000 <= 1_500_000 + 500_000
               for number, (at, _) in enumerate(arrivals))  # fmt: skip
    assert len({at - number * 1000 for number, (at, _) in enumerate(arrivals)}) > 10


def test_loss_loses_about_its_share():
    item = impairer(loss=0.2)
    arrived = len(send(item, 5000))
    assert 0.77 < arrived / 5000 < 0.83
    assert item.counts["lost"] == 5000 - arrived
    assert item.counts["sent"] == 5000


def test_loss_of_one_loses_everything():
    assert send(impairer(loss=1), 100) == []


def test_a_duplicate_is_the_same_frame_again():
    item = impairer(duplicate=1)
    assert item.apply(FRAME, 0) == [(0, FRAME), (0, FRAME)]
    assert item.counts["duplicated"] == 1


def test_a_reordered_frame_is_overtaken():
    item = impairer(delay=100, reorder=0.3, reorder_by=1_000_000)
    order = [int.from_bytes(frame, "big") for _, frame in send(item, 1000)]
    assert sorted(order) == list(range(1000))
    assert order != sorted(order)
    assert 200 < item.counts["reordered"] < 400


def test_corruption_flips_one_bit():
    item = impairer(corrupt=1)
    for _ in range(50):
        [(_, data)] = item.apply(FRAME, 0)
        difference = int.from_bytes(data, "big") ^ int.from_bytes(FRAME, "big")
        assert difference.bit_count() == 1
    assert item.counts["corrupted"] == 50


def test_an_empty_frame_cannot_be_corrupted():
    assert impairer(corrupt=1).apply(b"", 0) == [(0, b"")]


def test_rate_spaces_frames_by_their_length():
    item = impairer(rate=8_000_000, delay=10)  # a byte takes 1,000 ns
    times = [at for _ in range(3) for at, _ in item.apply(FRAME, 0)]
    assert times == [100_010, 200_010, 300_010]
    assert item.apply(FRAME, 1_000_000) == [(1_100_010, FRAME)]


def test_a_full_queue_drops_what_comes_last():
    item = impairer(rate=8_000_000, queue=2)
    arrivals = [bool(item.apply(FRAME, 0)) for _ in range(5)]
    assert arrivals == [True, True, True, False, False]  # one is being sent, two wait
    assert item.counts["queue_full"] == 2
    assert item.apply(FRAME, 100_000), "one has left, so there is a place again"


def test_without_a_queue_a_frame_must_find_the_wire_free():
    item = impairer(rate=8_000_000, queue=0)
    assert item.apply(FRAME, 0)
    assert not item.apply(FRAME, 50_000)
    assert item.apply(FRAME, 100_000)


def test_the_next_frames_are_dropped_on_request():
    item = impairer()
    item.drop_next(2)
    assert [len(item.apply(FRAME, 0)) for _ in range(4)] == [0, 0, 1, 1]
    assert item.counts["dropped_on_request"] == 2


def test_settings_change_while_it_runs():
    item = impairer()
    item.settings = item.settings.changed(loss=1.0)
    assert item.apply(FRAME, 0) == []
    item.settings = item.settings.changed(loss=0.0, delay=3)
    assert item.apply(FRAME, 0) == [(3, FRAME)]


def test_equal_seeds_do_the_same():
    settings = {"loss": 0.2, "duplicate": 0.1, "reorder": 0.2, "corrupt": 0.1, "jitter": 500}
    assert send(impairer(7, **settings), 300) == send(impairer(7, **settings), 300)
    assert send(impairer(7, **settings), 300) != send(impairer(8, **settings), 300)


@pytest.mark.parametrize(
    ("settings", "name"),
    [
        ({"loss": 1.5}, "loss"),
        ({"duplicate": -0.1}, "duplicate"),
        ({"delay": -1}, "delay"),
        ({"delay": 0.5}, "delay"),
        ({"queue": True}, "queue"),
        ({"rate": "fast"}, "rate"),
    ],
)
def test_what_cannot_be_is_refused_by_name(settings, name):
    with pytest.raises(ConfigError, match=f"impairment {name}"):
        Impairments(**settings)


def test_an_unknown_impairment_is_refused():
    with pytest.raises(ConfigError, match="impairment drop: unknown"):
        Impairments().changed(drop=0.5)


def packet(tos: int, raw: bool = False) -> bytes:
    bare = ipv4.encode(ipv4.Ipv4Header(b"\x0a\0\0\1", b"\x0a\0\0\2", 6, tos), b"payload")
    header = ethernet.EthernetHeader(b"\x02" * 6, b"\x04" * 6, ethernet.TYPE_IPV4)
    return bare if raw else ethernet.encode(header, bare)


@pytest.mark.parametrize("raw", [False, True])
@pytest.mark.parametrize("tos", [1, 2, 0xB9, 0xBA])
def test_packet_that_is_ect_is_marked_and_nothing_else_of_it_changes(raw, tos):
    item = impairer(ecn_mark=1)
    [(_, data)] = item.apply(packet(tos, raw), 0)
    assert data == packet(tos | 3, raw)  # the checksum too
    assert item.counts["ecn_marked"] == 1


def test_what_is_not_ect_is_untouched():
    broken = bytearray(packet(2))
    broken[24] ^= 1  # the header checksum
    arp = b"\xff" * 6 + b"\x04" * 6 + b"\x08\x06" + packet(2, raw=True)
    ipv6 = b"\x02" * 12 + b"\x86\xdd\x60" + bytes(60)
    item = impairer(ecn_mark=1)
    for frame in (packet(0), packet(3), packet(0, raw=True), bytes(broken), arp, ipv6,
                  b"", b"\x45", packet(2)[:30], FRAME):  # fmt: skip
        assert item.apply(frame, 0) == [(0, frame)]
    assert item.counts["ecn_marked"] == 0


def test_marks_are_about_their_share():
    item = impairer(ecn_mark=0.2)
    marked = sum(item.apply(packet(2), 0)[0][1] == packet(3) for _ in range(5000))
    assert 0.17 < marked / 5000 < 0.23
    assert item.counts["ecn_marked"] == marked


def test_a_queue_above_its_threshold_marks():
    item = impairer(rate=8_000_000, queue=10, ecn_queue=3)  # a byte a microsecond
    fates = [item.apply(packet(2), 0) for _ in range(12)]
    assert [fate[0][1] == packet(3) if fate else None for fate in fates] == (
        [False] * 4 + [True] * 7 + [None]  # one is being sent, three wait; ten wait: full
    )
    assert item.apply(packet(2), 10_000_000)[0][1] == packet(2), "the queue is empty again"


def test_a_threshold_without_a_rate_marks_nothing():
    item = impairer(ecn_queue=1)
    assert all(item.apply(packet(2), 0)[0][1] == packet(2) for _ in range(10))


@given(
    st.builds(
        Impairments,
        delay=st.integers(0, 10**9),
        jitter=st.integers(0, 10**9),
        loss=st.floats(0, 1),
        ecn_mark=st.floats(0, 1),
        ecn_queue=st.integers(0, 5),
        duplicate=st.floats(0, 1),
        reorder=st.floats(0, 1),
        reorder_by=st.integers(0, 10**9),
        corrupt=st.floats(0, 1),
        rate=st.integers(0, 10**10),
        queue=st.integers(0, 10),
    ),
    st.lists(st.integers(0, 10**9), max_size=20),
)
def test_nothing_arrives_before_it_was_sent(settings, gaps):
    item = Impairer(settings, random.Random(1))
    now = arrived = 0
    for gap in gaps:
        now += gap
        for at, data in item.apply(FRAME, now):
            assert at >= now + settings.delay
            assert len(data) == len(FRAME)
            arrived += 1
    counts = item.counts
    lost = counts["lost"] + counts["queue_full"] + counts["dropped_on_request"]
    assert arrived == counts["sent"] - lost + counts["duplicated"]
