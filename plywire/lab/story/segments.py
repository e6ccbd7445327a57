"""What a story remembers of the segments and frames that it has seen, within bounds."""

from __future__ import annotations

from collections import Counter, OrderedDict
from typing import Any

from plywire.lab.story.fields import Headers, Pair, endpoints, flags, number
from plywire.roles import TCP
from plywire.trace import Event
from plywire.wire import tcp

WHOLE, SHORT, COUNTED = "whole", "short", "counted"
"""How a segment is told: hop by hop, in one line from TCP to TCP, or as a number."""

_REMEMBERED = 4096


class Segments:
    """Which segments were seen, how each is told, and all headers it has had."""

    def __init__(self, fold_after: int, every_hop: bool) -> None:
        self._fold_after = fold_after
        self._every_hop = every_hop
        self._ways: OrderedDict[bytes, str] = OrderedDict()
        self._headers: OrderedDict[bytes, Headers] = OrderedDict()
        self._sent: OrderedDict[tuple, None] = OrderedDict()
        self._told: Counter[tuple[Pair | None, str]] = Counter()

    def known(self, segment: bytes) -> bool:
        """It was seen before, in whatever layer."""
        return _key(segment) in self._ways

    def way(self, event: Event, found: Headers, segment: bytes) -> str:
        """How this segment is told: decided where it is first seen.

        When TCP sends the same bytes again, that is decided anew.
        """
        key = _key(segment)
        way = self._ways.get(key)
        if way is None or event.layer == TCP:
            way = WHOLE if self._every_hop else self._decide(event, found)
            _keep(self._ways, key, way)
        return way

    def _decide(self, event: Event, found: Headers) -> str:
        names = flags(found["tcp"])
        kind = next((name for name in ("SYN", "FIN", "RST") if name in names), "")
        if kind == "SYN" and "ACK" in names:
            kind = "SYN+ACK"
        control = bool(kind)
        kind = kind or ("data" if "data" in found else "ack")
        pair = endpoints(found, event)
        if "FIN" in names and pair is not None:  # the answers to it are worth a line again
            self._told[pair, "ack"] = self._told[pair[2:] + pair[:2], "ack"] = 1
        self._told[pair, kind] += 1
        # Of acknowledgements only that which ends the handshake is told in full.
        whole = 2 if control else int(kind == "data" or self._told[pair, "SYN"] > 0)
        if self._told[pair, kind] <= whole:
            return WHOLE
        return SHORT if self._told[pair, kind] < whole + self._fold_after else COUNTED

    def repeats(self, event: Event, found: Headers) -> bool:
        """TCP sends what it has sent before: something that takes up sequence numbers."""
        header = found["tcp"]
        if not ("data" in found or {"SYN", "FIN"} & set(flags(header))):
            return False
        key = (event.host, endpoints(found, event), number(header, "seq"))
        known = key in self._sent
        _keep(self._sent, key, None)
        return known

    def headers(self, segment: bytes, found: Headers) -> Headers:
        """All headers of a segment that were seen, also those that have been taken off since."""
        key = _key(segment)
        known = self._headers.get(key, {}) | found
        _keep(self._headers, key, known)
        return known


class Flight:
    """The frames that were sent, and where they have arrived."""

    def __init__(self) -> None:
        self._frames: OrderedDict[bytes, _Sent] = OrderedDict()
        self._forgotten = 0

    @property
    def lost(self) -> int:
        """Frames of hosts that count which nobody was seen to receive."""
        return self._forgotten + sum(sent.missing for sent in self._frames.values())

    def take_off(self, frame: bytes, counts: bool = True) -> None:
        """A frame was sent; counts: its loss is to be counted."""
        key = _frame_key(frame)
        sent = self._frames.get(key) or _Sent(counts)
        sent.times += 1
        if len(self._frames) >= _REMEMBERED:
            self._forgotten += self._frames.popitem(last=False)[1].missing
        _keep(self._frames, key, sent)

    def land(self, frame: bytes, host: str) -> bool:
        """A frame has arrived at a host (one for everybody does at several); False when nobody was
        seen to send it."""
        sent = self._frames.get(_frame_key(frame))
        if sent is None or sent.arrived[host] >= sent.times:
            return False
        sent.arrived[host] += 1
        return True


class _Sent:
    """One frame: how often it was sent, how often it arrived at each host."""

    __slots__ = ("arrived", "counts", "times")

    def __init__(self, counts: bool) -> None:
        self.counts = counts
        self.times = 0
        self.arrived: Counter[str] = Counter()

    @property
    def missing(self) -> int:
        return self.counts * (self.times - max(self.arrived.values(), default=0))


def _key(segment: bytes) -> bytes:
    return segment[: tcp.MIN_HEADER]


def _frame_key(frame: bytes) -> bytes:
    """Enough of a frame to tell it from others: three headers and the length."""
    return frame[:74] + len(frame).to_bytes(4, "big")


def _keep(store: OrderedDict, key: object, value: Any) -> None:
    """Remember the newest; the oldest goes when there are too many."""
    store[key] = value
    store.move_to_end(key)
    if len(store) > _REMEMBERED:
        store.popitem(last=False)
