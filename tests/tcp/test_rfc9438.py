"""RFC 9438: CUBIC's numbers, and its choice."""

from __future__ import annotations

from random import Random

import pytest

from plywire.config import TcpConfig, host
from plywire.errors import ConfigError
from plywire.trace import Tracer
from services.tcp import create
from services.tcp.congestion import ALGORITHMS
from services.tcp.congestion.cubic import Cubic

from .harness import MS, SECOND, Pair, Peer, Raw

MSS = 1000
RTT = SECOND // 10


def after_loss(segments: int = 100) -> Cubic:
    """A loss at so many segments was repaired."""
    cubic = Cubic(segments * MSS)
    cubic.on_loss(segments * MSS, MSS, 0)
    cubic.cwnd = cubic.ssthresh
    return cubic


def run(cubic: Cubic, seconds: float, start: int = SECOND) -> None:
    """Round trips of full windows, each acknowledged in halves."""
    now = start
    while now < start + seconds * SECOND:
        for _ in range(2):
            cubic.on_ack(cubic.cwnd // 2, MSS, RTT, now)
            now += RTT // 2


def test_it_is_the_default() -> None:
    assert Peer().raw.info()["congestion"] == "cubic"


def test_a_loss_leaves_seven_tenths() -> None:
    assert after_loss().ssthresh == 70 * MSS


def test_what_cwnd_has_beyond_whole_segments_is_reduced_too() -> None:
    """4.6: cwnd, where it was in full use; only whole segments can be in flight."""
    cubic = Cubic(4 * MSS + 900)
    cubic.on_loss(4 * MSS, MSS, 0)
    assert cubic.ssthresh == int(4900 * 0.7)


def test_a_window_that_was_not_used_is_not_what_is_reduced() -> None:
    """RFC 7661: the network has said nothing of more than was in flight."""
    cubic = Cubic(50 * MSS)
    cubic.on_loss(10 * MSS, MSS, 0)
    assert cubic.ssthresh == 7 * MSS


def test_a_second_loss_below_the_maximum_lowers_it_further() -> None:
    """4.7, fast convergence."""
    cubic = after_loss()
    cubic.on_loss(70 * MSS, MSS, SECOND)
    assert cubic._w_max == pytest.approx(70 * 0.85)


def test_the_window_is_back_at_the_maximum_after_k_seconds() -> None:
    """K = cubic_root(W_max * 0.3 / 0.4) = 4.22 s for 100 segments, whatever the round trip."""
    cubic = after_loss()
    run(cubic, 4.2)
    assert 96 * MSS <= cubic.cwnd <= 102 * MSS


def test_growth_is_flat_around_the_maximum_and_steep_beyond() -> None:
    cubic = after_loss()
    run(cubic, 4.2)
    at_maximum = cubic.cwnd
    run(cubic, 1.0, 5_200_000_000)
    assert cubic.cwnd - at_maximum < 3 * MSS
    run(cubic, 5.0, 6_200_000_000)
    assert cubic.cwnd > 150 * MSS


def test_on_a_short_way_it_grows_as_reno_does() -> None:
    """4.3: with few segments the cube is slower than Reno, whose estimate is taken then."""
    cubic = after_loss(10)
    for step in range(40):
        cubic.on_ack(cubic.cwnd, MSS, 1_000_000, SECOND + step * 1_000_000)
    # 7 + 40 * 0.53 up to the old maximum, a segment a round trip from there on
    assert 35 * MSS <= cubic.cwnd <= 45 * MSS


def test_no_step_is_more_than_half_the_window() -> None:
    cubic = after_loss()
    cubic.on_ack(MSS, MSS, RTT, SECOND)
    before = cubic.cwnd
    cubic.on_ack(before, MSS, RTT, 1000 * SECOND)
    assert cubic.cwnd <= 1.5 * before


def test_a_timeout_leaves_one_segment_and_no_maximum() -> None:
    cubic = after_loss()
    cubic.on_timeout(70 * MSS, MSS, True, 0)
    assert (cubic.cwnd, cubic.ssthresh, cubic._w_max) == (MSS, 49 * MSS, 0)


def test_silence_does_not_count_as_time() -> None:
    cubic = after_loss()
    cubic.on_ack(MSS, MSS, RTT, SECOND)
    cubic.on_idle(1 << 30)
    before = cubic.cwnd
    cubic.on_ack(MSS, MSS, RTT, 100 * SECOND)
    assert cubic.cwnd - before < MSS


@pytest.mark.parametrize("name", sorted(ALGORITHMS))
def test_a_program_chooses_by_tcp_congestion(name: str) -> None:
    raw = Raw()
    raw.connect(TCP_CONGESTION=name)
    assert raw.info()["congestion"] == ALGORITHMS[name](1).name


def test_a_host_chooses_in_its_configuration() -> None:
    assert Peer(congestion="newreno").raw.info()["congestion"] == "newreno"


def test_a_congestion_control_that_is_not_there_is_refused_at_the_start() -> None:
    with pytest.raises(ConfigError, match=r"hosts\.h1\.tcp\.congestion: 'bbr' is unknown"):
        create(host("h1", "10.0.0.1/24", tcp=TcpConfig(congestion="bbr")), Random(1), Tracer())


def test_state_survives_a_swap() -> None:
    cubic = after_loss()
    run(cubic, 1)
    other = Cubic(1)
    other.restore(cubic.to_state())
    run(cubic, 1, 3 * SECOND)
    run(other, 1, 3 * SECOND)
    assert cubic.to_state() == other.to_state()


def test_where_loss_is_rare_and_the_way_long_it_beats_newreno() -> None:
    """Many segments in flight: the reason to have it."""

    def seconds(congestion: str) -> float:
        pair = Pair(5, delay=RTT // 2, loss=0.0005, congestion=congestion)
        pair.open()
        pair.a.send(bytes(8 << 20))
        pair.run(lambda: len(pair.b.received) == 8 << 20)
        return pair.now / SECOND

    assert seconds("cubic") < 0.8 * seconds("newreno")


def test_time_in_which_the_window_is_not_used_does_not_count() -> None:
    """4.2: the elapsed time MUST NOT include it, or the cube would be far beyond by then."""
    peer = Peer(scale=7, window=65_000, rtt=100 * MS, initial_window=20)
    peer.tcb.cc.ssthresh = 20 * 1460
    offset = 0

    def exchange(size: int) -> int:
        """So much is sent, and acknowledged a round trip later; cwnd then, in segments."""
        nonlocal offset
        peer.write(b"x" * size, offset)
        offset += size
        peer.advance(100 * MS)
        peer.ack(size)
        peer.take()
        return peer.tcb.cc.cwnd // 1460

    window = exchange(20 * 1460)
    for _ in range(300):
        assert exchange(1460) == window
    assert exchange(window * 1460) <= window + 2
    for _ in range(10):
        window = peer.tcb.cc.cwnd // 1460
        peer.advance(150 * MS)  # silence, but less than a timeout
        assert exchange(window * 1460) <= window + 2
