"""RFC 9406: HyStart++ leaves slow start when the delay rises."""

from __future__ import annotations

from services.tcp.congestion.cubic import Cubic
from services.tcp.congestion.hystart import HyStart

MS = 1_000_000
MSS = 1000
SECOND = 1000 * MS


def rounds(hystart: HyStart, *delays: int, start: int = 0) -> int:
    """A round trip of ten samples at each delay in ms; the next free offset."""
    offset = start
    for delay in delays:
        for step in range(10):
            hystart.on_rtt(delay * MS, offset + 1 + step, offset + 100)
        offset += 100
    return offset


def test_a_steady_delay_is_no_reason() -> None:
    hystart = HyStart()
    rounds(hystart, 100, 100, 103, 100)
    assert not hystart.css


def test_a_rise_by_an_eighth_begins_conservative_slow_start() -> None:
    hystart = HyStart()
    rounds(hystart, 40, 40, 46)
    assert hystart.css
    assert not hystart.over


def test_a_rise_of_less_than_4_ms_is_noise() -> None:
    hystart = HyStart()
    rounds(hystart, 8, 8, 11)
    assert not hystart.css


def test_16_ms_are_enough_on_any_way() -> None:
    hystart = HyStart()
    rounds(hystart, 300, 300, 317)
    assert hystart.css


def test_few_samples_prove_nothing() -> None:
    hystart = HyStart()
    offset = rounds(hystart, 40, 40)
    for step in range(7):
        hystart.on_rtt(80 * MS, offset + 1 + step, offset + 100)
    assert not hystart.css


def test_it_was_jitter_when_the_delay_falls_again() -> None:
    hystart = HyStart()
    offset = rounds(hystart, 40, 40, 50)
    rounds(hystart, 41, start=offset)
    assert not hystart.css


def test_five_rounds_end_slow_start() -> None:
    hystart = HyStart()
    offset = rounds(hystart, 40, 40, 50)
    offset = rounds(hystart, 60, 60, 60, 60, start=offset)
    assert not hystart.over
    rounds(hystart, 60, 60, start=offset)
    assert hystart.over


def test_the_window_grows_a_quarter_as_fast_in_css() -> None:
    cubic = Cubic(10 * MSS)
    cubic.on_ack(2 * MSS, MSS, 100 * MS, 0)
    assert cubic.cwnd == 12 * MSS
    cubic._hystart.css = True
    cubic.on_ack(2 * MSS, MSS, 100 * MS, 0)
    assert cubic.cwnd == 12 * MSS + 500


def test_no_acknowledgement_opens_the_window_by_more_than_eight_segments() -> None:
    cubic = Cubic(10 * MSS)
    cubic.on_ack(100 * MSS, MSS, 100 * MS, 0)
    assert cubic.cwnd == 18 * MSS


def test_congestion_avoidance_begins_where_it_was_left() -> None:
    cubic = Cubic(10 * MSS)
    offset = 0
    for delay in (40, 40, 50, 60, 60, 60, 60, 60, 60, 60):
        for step in range(10):
            cubic.on_rtt(delay * MS, offset + 1 + step, offset + 100)
        offset += 100
    assert cubic.ssthresh == cubic.cwnd == 10 * MSS


def test_only_the_first_slow_start_listens_to_the_delay() -> None:
    """4.3: after a timeout ssthresh is known, and slow start ends there."""
    cubic = Cubic(100 * MSS)
    cubic.on_timeout(100 * MSS, MSS, True, 0)
    assert cubic.cwnd < cubic.ssthresh
    una = 0
    for rtt in (20, 40, 40, 40, 40, 40, 40, 40):
        for _ in range(10):
            una += MSS
            cubic.on_rtt(rtt * MS, una, una + 10 * MSS)
    assert not cubic._hystart.css
    before = cubic.cwnd
    cubic.on_ack(MSS, MSS, 40 * MS, SECOND)
    assert cubic.cwnd == before + MSS
