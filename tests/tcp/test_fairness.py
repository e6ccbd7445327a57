"""Four flows through one bottleneck of 10 Mbit/s and 50 ms share it evenly; CUBIC and NewReno
take back what a loss has taken at the pace of their RFCs."""

from __future__ import annotations

import pytest

from plywire.messages import Segment

from .fairness import SCENARIOS, jain, share
from .harness import MS, SECOND, Pair, Side

MSS = 1448
WINDOW = 200  # segments
RTT = 200 * MS


@pytest.mark.parametrize("name", [name for name in SCENARIOS if name.startswith("4")])
def test_four_flows_share_a_bottleneck(name: str) -> None:
    """Over 30 s, with a queue of one bandwidth-delay product (41 frames)."""
    controls, apart, after, seconds = SCENARIOS[name]
    found = share(controls, apart=apart, after=after, seconds=seconds)
    assert found.index >= 0.95, found
    assert found.use >= 0.9, found


def test_jains_index() -> None:
    assert jain([5, 5, 5, 5]) == 1
    assert jain([9, 0, 0, 0]) == 0.25


class OneLoss(Pair):
    """A wire that loses one segment when it is told to."""

    lose = False

    def _transmit(self, end: Side, segment: Segment) -> None:
        if self.lose and end is self.a:
            self.lose = False
            return
        super()._transmit(end, segment)


def windows_after_a_loss(control: str, seconds: int) -> list[float]:
    """cwnd in segments, a second apart, from the end of the recovery on."""
    size = 2 * WINDOW * MSS
    pair = OneLoss(1, delay=RTT // 2, send_buffer=size, receive_buffer=size, congestion=control)
    pair.a.buffer = pair.b.buffer = size
    pair.open()
    pair.a.send(bytes(16 << 20))
    (tcb,) = pair.a.layer.stack.by_id.values()
    pair.run(lambda: tcb.bytes_acked > 0)
    tcb.cc.ssthresh = WINDOW * MSS  # slow start ends there
    pair.run(lambda: tcb.cc.cwnd >= WINDOW * MSS)
    pair.lose = True
    pair.run(lambda: tcb.in_recovery)
    pair.run(lambda: not tcb.in_recovery)
    began = pair.now
    found = []
    for second in range(seconds):
        pair.run(lambda until=began + second * SECOND: pair.now >= until)
        found.append(tcb.cc.cwnd / MSS)
    return found


def test_cubic_is_back_after_k_seconds() -> None:
    """RFC 9438 4.2: W(t) = 0.4 (t - K)^3 + W_max, K = cubic_root(0.3 W_max / 0.4), here 5.3 s."""
    k = (WINDOW * 0.3 / 0.4) ** (1 / 3)
    for second, window in enumerate(windows_after_a_loss("cubic", 6)):
        assert window == pytest.approx(0.4 * (second - k) ** 3 + WINDOW, rel=0.05)


def test_newreno_grows_by_a_segment_a_round_trip() -> None:
    """RFC 5681 3.1: from a half, five segments a second here: it would be back after 20 s."""
    for second, window in enumerate(windows_after_a_loss("newreno", 6)):
        assert window == pytest.approx(WINDOW / 2 + 5 * second, rel=0.05)
