"""The retransmission timeout (RFC 6298): from one timed segment at a time (Karn's algorithm), or
from every acknowledgement when timestamps tell which transmission it answers (RFC 7323 4)."""

from __future__ import annotations


class RttEstimator:
    """SRTT, RTTVAR and RTO in nanoseconds; srtt is 0 until the first sample.

    timed_seq is the sequence number whose acknowledgement ends the running measurement that began
    at timed_at, or None. `backoff` doubles the RTO that many times; only a new sample ends it.
    """

    __slots__ = ("backoff", "base", "rto_max", "rto_min", "rttvar", "srtt", "timed_at", "timed_seq")

    def __init__(self, initial: int, rto_min: int, rto_max: int) -> None:
        self.base = initial
        self.rto_min = rto_min
        self.rto_max = rto_max
        self.srtt = 0
        self.rttvar = 0
        self.backoff = 0
        self.timed_seq: int | None = None
        self.timed_at = 0

    @property
    def rto(self) -> int:
        """The timeout to arm now, back-off included (RFC 6298 5.5)."""
        return min(self.base << self.backoff, self.rto_max)

    def sample(self, rtt: int, expected: int = 1) -> None:
        """Take a measurement that is not ambiguous (RFC 6298 2.2, 2.3).

        expected: how many of them a round trip brings; each then counts for less, so that the
        history is as long as with one (RFC 7323 4.2).
        """
        rtt = max(rtt, 1)
        if self.srtt == 0:
            self.srtt = rtt
            self.rttvar = rtt // 2
        else:
            self.rttvar += (abs(self.srtt - rtt) - self.rttvar) // (4 * expected)
            self.srtt += (rtt - self.srtt) // (8 * expected)
        # Linux bounds the variance term from below, not the sum: a peer that delays its
        # acknowledgements by up to rto_min then never causes a spurious timeout.
        self.base = min(self.srtt + max(self.rto_min, 4 * self.rttvar), self.rto_max)
        self.backoff = 0

    def back_off(self) -> None:
        """The timer has run out: double the timeout (RFC 6298 5.5)."""
        if self.base << self.backoff < self.rto_max:
            self.backoff += 1

    def to_state(self) -> list:
        """All fields, in the order of the class's slots."""
        return [getattr(self, name) for name in self.__slots__]

    @classmethod
    def from_state(cls, state: list) -> RttEstimator:
        """What `to_state` described."""
        estimator = cls(0, 0, 0)
        for name, value in zip(cls.__slots__, state, strict=True):
            setattr(estimator, name, value)
        return estimator
