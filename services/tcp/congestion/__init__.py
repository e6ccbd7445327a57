"""Congestion control: how much may be in flight. The algorithms, by the names of TCP_CONGESTION."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from services.tcp.congestion.cubic import Cubic
from services.tcp.congestion.newreno import INFINITE, NewReno

__all__ = ["ALGORITHMS", "INFINITE", "CongestionControl", "Cubic", "NewReno", "initial_window"]


class CongestionControl(Protocol):
    """One connection's window. Amounts are bytes, times nanoseconds.

    `services.tcp.recovery` decides when something was lost; this says what that does to cwnd.
    """

    name: str
    cwnd: int
    ssthresh: int

    def on_ack(self, acked: int, mss: int, srtt: int, now: int) -> None:
        """New data was acknowledged while the window was in full use and nothing is missing."""

    def on_rtt(self, rtt: int, una: int, nxt: int) -> None:
        """A round trip was measured; una and nxt: SND.UNA and SND.NXT as stream offsets."""

    def on_loss(self, flight: int, mss: int, now: int) -> None:
        """Fast retransmit has found a loss: set ssthresh; the caller sets cwnd meanwhile."""

    def on_recovered(self, flight: int, mss: int, now: int) -> None:
        """All that was in flight at the loss is acknowledged."""

    def on_timeout(self, flight: int, mss: int, first: bool, now: int) -> None:
        """The retransmission timer ran out; first: the segment had not been retransmitted yet."""

    def on_idle(self, initial: int) -> None:
        """Nothing was sent for longer than the timeout; initial: the restart window's bound."""

    def on_unused(self, now: int) -> None:
        """Up to now the window was not in full use: the program or the peer had no more for it."""

    def to_state(self) -> list:
        """What `restore` needs."""

    def restore(self, state: list) -> None:
        """Take over from `to_state`."""


ALGORITHMS: dict[str, Callable[[int], CongestionControl]] = {
    Cubic.name: Cubic,
    NewReno.name: NewReno,
    "reno": NewReno,  # Linux's name of it
}
"""Factories by name; each takes the initial window in bytes."""


def initial_window(segments: int, mss: int) -> int:
    """RFC 6928: ten segments, but no more than 14,600 bytes unless two segments are more."""
    return min(segments * mss, max(2 * mss, segments * 1460))
