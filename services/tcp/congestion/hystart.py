"""HyStart++ (RFC 9406): leaving slow start when the delay rises, before packets are lost."""

from __future__ import annotations

_MIN_THRESH = 4_000_000  # section 4.3, in ns
_MAX_THRESH = 16_000_000
_DIVISOR = 8
_SAMPLES = 8
_CSS_ROUNDS = 5
CSS_GROWTH_DIVISOR = 4
LIMIT = 8
"""L: so many segments an acknowledgement may open the window by, where nothing is paced."""

_INFINITE = 1 << 62


class HyStart:
    """The rounds of one slow start. css: conservative slow start; over: leave slow start now."""

    __slots__ = ("_baseline", "_css_rounds", "_current", "_last", "_samples", "_window_end", "css",
                 "over")  # fmt: skip

    def __init__(self) -> None:
        self.css = self.over = False
        self._window_end = 0
        self._last = self._current = self._baseline = _INFINITE
        self._samples = 0
        self._css_rounds = 0

    def on_rtt(self, rtt: int, una: int, nxt: int) -> None:
        """A sample in slow start; una and nxt are stream offsets (section 4.2)."""
        if self.over:
            return
        if una > self._window_end:
            self._next_round(nxt)
        self._current = min(self._current, rtt)
        self._samples += 1
        if self._samples < _SAMPLES or self._current == _INFINITE:
            return
        if self.css:
            if self._current < self._baseline:  # it was jitter: back to slow start
                self.css = False
                self._baseline = _INFINITE
        elif self._last != _INFINITE:
            thresh = max(_MIN_THRESH, min(self._last // _DIVISOR, _MAX_THRESH))
            if self._current >= self._last + thresh:
                self.css = True
                self._baseline = self._current
                self._css_rounds = 0

    def _next_round(self, nxt: int) -> None:
        self._window_end = nxt
        self._last, self._current, self._samples = self._current, _INFINITE, 0
        if self.css:
            self._css_rounds += 1
            self.over = self._css_rounds >= _CSS_ROUNDS

    def to_state(self) -> list:
        """All fields, in the order of the class's slots."""
        return [getattr(self, name) for name in self.__slots__]

    def restore(self, state: list) -> None:
        """What `to_state` described."""
        for name, value in zip(self.__slots__, state, strict=True):
            setattr(self, name, value)
