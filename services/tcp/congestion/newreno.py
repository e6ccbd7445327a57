"""Slow start and congestion avoidance by RFC 5681; recovery itself is RFC 6582's."""

from __future__ import annotations

INFINITE = 1 << 30
"""RFC 5681 3.1: ssthresh SHOULD start arbitrarily high."""


class NewReno:
    """Exponential growth up to ssthresh, then a segment a round trip."""

    __slots__ = ("_counted", "cwnd", "ssthresh")
    name = "newreno"

    def __init__(self, initial: int) -> None:
        self.cwnd = initial
        self.ssthresh = INFINITE
        self._counted = 0  # bytes acknowledged since cwnd last grew in congestion avoidance

    def on_ack(self, acked: int, mss: int, srtt: int, now: int) -> None:
        """RFC 5681 3.1: cwnd += min(N, SMSS), or SMSS for each cwnd of bytes acknowledged."""
        if self.cwnd < self.ssthresh:
            self.cwnd += min(acked, mss)
            return
        self._counted += acked
        if self._counted >= self.cwnd:
            self._counted -= self.cwnd
            self.cwnd += mss

    def on_rtt(self, rtt: int, una: int, nxt: int) -> None:
        """Delay says nothing to it."""

    def on_loss(self, flight: int, mss: int, now: int) -> None:
        """RFC 5681 3.2, equation 4."""
        self.ssthresh = max(flight // 2, 2 * mss)
        self._counted = 0

    def on_recovered(self, flight: int, mss: int, now: int) -> None:
        """RFC 6582 3.2 step 3, option 1: no burst when little is in flight."""
        self.cwnd = min(self.ssthresh, max(flight, mss) + mss)

    def on_timeout(self, flight: int, mss: int, first: bool, now: int) -> None:
        """RFC 5681 3.1: the loss window is one segment; ssthresh is held for a repeated loss."""
        if first:
            self.ssthresh = max(flight // 2, 2 * mss)
        self.cwnd = mss
        self._counted = 0

    def on_idle(self, initial: int) -> None:
        """RFC 5681 4.1: the restart window is min(IW, cwnd)."""
        self.cwnd = min(self.cwnd, initial)

    def on_unused(self, now: int) -> None:
        """Time says nothing to it."""

    def to_state(self) -> list:
        """cwnd, ssthresh and the bytes counted."""
        return [self.cwnd, self.ssthresh, self._counted]

    def restore(self, state: list) -> None:
        """What `to_state` described."""
        self.cwnd, self.ssthresh, self._counted = state
