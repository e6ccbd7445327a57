"""CUBIC (RFC 9438), with HyStart++ (RFC 9406) as its slow start.

The window grows with the cube of the time since the last loss, whatever the round trip: fast back
to where the loss was, slowly around it, then fast in search of more. Where Reno would be faster it
grows as Reno. Windows are bytes, W_max, W_est and the cube are segments.
"""

from __future__ import annotations

from services.tcp.congestion.hystart import CSS_GROWTH_DIVISOR, LIMIT, HyStart
from services.tcp.congestion.newreno import INFINITE

_C = 0.4  # RFC 9438 5
_BETA = 0.7  # 4.6
_ALPHA = 3 * (1 - _BETA) / (1 + _BETA)  # 4.3
_SECOND = 1_000_000_000
_FIELDS = ("cwnd", "ssthresh", "_w_max", "_k", "_epoch", "_seen", "_w_est", "_prior", "_counted")


class Cubic:
    """The default, as in Linux."""

    __slots__ = (*_FIELDS, "_hystart")
    name = "cubic"

    def __init__(self, initial: int) -> None:
        self.cwnd = initial
        self.ssthresh = INFINITE
        self._w_max = 0.0
        self._k = 0.0  # seconds from the epoch until the window is W_max again
        self._epoch = 0  # when this stage of congestion avoidance began; 0: not yet
        self._seen = 0  # up to when the time of this stage is accounted for
        self._w_est = 0.0
        self._prior = 0.0  # cwnd at the last reduction, in segments
        self._counted = 0.0  # parts of a byte that cwnd is owed
        self._hystart = HyStart()

    def on_rtt(self, rtt: int, una: int, nxt: int) -> None:
        """HyStart++ listens until slow start is over."""
        hystart = self._hystart
        if self.cwnd < self.ssthresh and not hystart.over:
            hystart.on_rtt(rtt, una, nxt)
            if hystart.over:
                self.ssthresh = self.cwnd  # RFC 9406 4.2: CSS has lasted long enough

    def on_ack(self, acked: int, mss: int, srtt: int, now: int) -> None:
        """Slow start below ssthresh, else sections 4.2 to 4.5."""
        if self.cwnd < self.ssthresh:
            # RFC 3465 2.3: after a timeout acknowledgements may be of what is not in the network.
            grow = min(acked, mss if self._hystart.over else LIMIT * mss)
            self.cwnd += grow // CSS_GROWTH_DIVISOR if self._hystart.css else grow
            return
        cwnd = self.cwnd / mss
        if not self._epoch:
            self._begin(cwnd, now)
        self._seen = now
        elapsed = (now - self._epoch) / _SECOND
        # 4.3: what Reno would have by now, at CUBIC's reduction
        alpha = 1.0 if self._w_est >= self._prior else _ALPHA
        self._w_est += alpha * acked / self.cwnd
        if self._cube(elapsed) < self._w_est:
            if self._w_est > cwnd:
                self.cwnd = int(self._w_est * mss)
            return
        target = min(max(self._cube(elapsed + srtt / _SECOND), cwnd), 1.5 * cwnd)
        self._counted += (target - cwnd) / cwnd * acked
        whole = int(self._counted)
        self.cwnd += whole
        self._counted -= whole

    def _begin(self, cwnd: float, now: int) -> None:
        """A stage of congestion avoidance begins: section 4.2; 4.8 and 4.10 where no loss that
        was repaired fast has come before (W_max 0)."""
        self._epoch = now
        self._w_est = cwnd
        self._counted = 0.0
        if self._w_max > cwnd:
            self._k = ((self._w_max - cwnd) / _C) ** (1 / 3)
        else:
            self._k = 0.0
            self._w_max = cwnd

    def _cube(self, elapsed: float) -> float:
        return _C * (elapsed - self._k) ** 3 + self._w_max

    def _used(self, flight: int, mss: int) -> int:
        """4.6: the window to reduce. It is cwnd, as in Linux, where that was in full use: less than
        a segment of it is never in flight. Else, RFC 7661, no more than was tried."""
        return self.cwnd if flight <= self.cwnd < flight + mss else flight

    def on_loss(self, flight: int, mss: int, now: int) -> None:
        """4.6, and fast convergence (4.7): who loses below the last maximum gives way."""
        lost_at = self._used(flight, mss) / mss
        self._w_max = lost_at * (1 + _BETA) / 2 if lost_at < self._w_max else lost_at
        self._prior = lost_at
        self._epoch = 0
        self.ssthresh = max(int(lost_at * mss * _BETA), 2 * mss)

    def on_recovered(self, flight: int, mss: int, now: int) -> None:
        """RFC 6582 3.2 step 3, option 1, where there is no SACK."""
        self.cwnd = min(self.ssthresh, max(flight, mss) + mss)

    def on_timeout(self, flight: int, mss: int, first: bool, now: int) -> None:
        """4.8: one segment, and no memory of a maximum."""
        if first:
            self.ssthresh = max(int(self._used(flight, mss) * _BETA), 2 * mss)
            self._prior = self.cwnd / mss
        self._w_max = 0.0
        self._epoch = 0
        self.cwnd = mss
        self._hystart.css = False
        self._hystart.over = True  # RFC 9406 4.3: only the first slow start needs it

    def on_idle(self, initial: int) -> None:
        """RFC 5681 4.1; the time of silence does not count (RFC 9438 4.2)."""
        self.cwnd = min(self.cwnd, initial)
        self._epoch = 0

    def on_unused(self, now: int) -> None:
        """4.2: a time in which cwnd was not grown because it was not used MUST NOT count."""
        if self._epoch:
            self._epoch += now - self._seen
            self._seen = now

    def to_state(self) -> list:
        """All numbers, and those of HyStart++."""
        return [*(getattr(self, name) for name in _FIELDS), self._hystart.to_state()]

    def restore(self, state: list) -> None:
        """What `to_state` described."""
        for name, value in zip(_FIELDS, state[:-1], strict=True):
            setattr(self, name, value)
        self._hystart.restore(state[-1])
