"""What the sender knows of each segment in flight, as SACK lets it know (RFC 2018, RFC 6675).

Positions are stream offsets, which do not wrap; FIN takes the one behind the last byte. A segment
of which a block covers only a part counts as not received: nothing is ever split on a peer's word.
"""

from __future__ import annotations

from bisect import bisect_left
from operator import attrgetter, itemgetter

MAX_SEGMENTS = 4096
"""In flight on one connection. A peer with a tiny MSS would else make this long: 1 MiB in segments
of 36 bytes (CVE-2019-11477 and its kin)."""

_START = attrgetter("start")
_RUN_END = itemgetter(1)
_STATE = ("start", "end", "sent_at", "order", "sacked", "lost", "again", "ever", "delivered",
          "delivered_at", "app_limited")  # fmt: skip
_LISTS = ("runs", "segs")


class Sent:
    """A segment in flight. lost: given up, and to be sent again; again: a retransmission of it is
    in flight; ever: it was retransmitted at some time. order: the number of its transmission, since
    many are sent at one reading of the clock."""

    __slots__ = _STATE

    def __init__(
        self, start: int, end: int, sent_at: int, order: int, delivered: int, delivered_at: int
    ) -> None:
        self.start = start
        self.end = end
        self.sent_at = sent_at
        self.order = order
        self.sacked = self.lost = self.again = self.ever = False
        self.delivered = delivered
        self.delivered_at = delivered_at
        self.app_limited = False


class Delivery:
    """What one acknowledgement says.

    newly: bytes that it is the first to report; sacked: those of them in blocks. newest: the
    segment sent last of what it delivers, None when nothing. rtt: nanoseconds from a segment that
    was sent once, or 0. original: something sent before `mark` and never again has arrived.
    reordered: something arrived after what was sent later. dsack: the duplicate reported, or None.
    again_at: when the oldest retransmission was sent of what SND.UNA passes, or 0.
    """

    __slots__ = ("again_at", "dsack", "newest", "newly", "original", "reordered", "rtt", "sacked")

    def __init__(self) -> None:
        self.newly = self.sacked = self.rtt = self.again_at = 0
        self.newest: Sent | None = None
        self.original = self.reordered = False
        self.dsack: tuple[int, int] | None = None


class Scoreboard:
    """The segments between `una` and `nxt`, in order; sums are bytes.

    `pipe` is RFC 6675's estimate of what is in the network. mark: where `nxt` was when the last
    timeout happened. sendings: how many transmissions there were. first_lost: nothing before it is
    to be sent again. runs: (start, end) of what lies side by side and was reported, so that a block
    that comes again is not walked again.
    app_limited: until so much is delivered, rates measured are the program's and not the path's.
    """

    __slots__ = ("again", "app_limited", "delivered", "delivered_at", "first_lost", "high_sacked",
                 "lost", "mark", "nxt", "runs", "sacked", "sacked_count", "segs", "sendings",
                 "to_send", "una")  # fmt: skip

    def __init__(self) -> None:
        self.segs: list[Sent] = []
        self.una = self.nxt = 0
        self.sacked = self.lost = self.again = 0
        self.sacked_count = 0
        self.to_send = 0  # lost and not in flight again
        self.first_lost = 0
        self.runs: list[tuple[int, int]] = []
        self.high_sacked = 0
        self.mark = 0
        self.app_limited = 0
        self.sendings = 0
        self.delivered = 0
        self.delivered_at = 0

    @property
    def pipe(self) -> int:
        """Bytes thought to be in the network."""
        return self.nxt - self.una - self.sacked - self.lost + self.again

    def index(self, offset: int) -> int:
        """Of the first segment that begins there or later."""
        return bisect_left(self.segs, offset, key=_START)

    def sent(self, start: int, end: int, now: int) -> None:
        """New data has gone out."""
        if not self.segs:
            self.delivered_at = now
        self.sendings += 1
        seg = Sent(start, end, now, self.sendings, self.delivered, self.delivered_at)
        seg.app_limited = self.app_limited > 0
        self.segs.append(seg)
        self.nxt = end

    def sent_again(self, seg: Sent, now: int) -> None:
        """A segment was retransmitted."""
        size = seg.end - seg.start
        if not seg.again:
            self.again += size
            if seg.lost:
                self.to_send -= size
        seg.again = seg.ever = True
        self.sendings += 1
        seg.sent_at, seg.order = now, self.sendings
        seg.delivered, seg.delivered_at = self.delivered, self.delivered_at
        seg.app_limited = self.app_limited > 0

    def nothing_to_send(self) -> None:
        """The program gives less than could be sent: so it stays until what is in flight is here
        (tcp_rate_check_app_limited)."""
        self.app_limited = max(self.delivered + self.pipe, 1)

    def in_flight_again(self) -> int:
        """How many retransmissions are in flight."""
        return sum(seg.again for seg in self.segs)

    def split(self, seg: Sent, size: int) -> None:
        """Cut a segment that is longer than the path takes now."""
        rest = Sent(
            seg.start + size, seg.end, seg.sent_at, seg.order, seg.delivered, seg.delivered_at
        )
        rest.lost, rest.again, rest.ever = seg.lost, seg.again, seg.ever
        seg.end = rest.start
        self.segs.insert(bisect_left(self.segs, rest.start, key=_START), rest)

    def mark_lost(self, seg: Sent) -> None:
        """Give a segment, or its retransmission, up."""
        size = seg.end - seg.start
        if not self.to_send or seg.start < self.first_lost:
            self.first_lost = seg.start
        if seg.again:
            seg.again = False
            self.again -= size
            if seg.lost:
                self.to_send += size
        if not seg.lost:
            seg.lost = True
            self.lost += size
            self.to_send += size

    def mark_all_lost(self) -> None:
        """Give all up that was not reported as received."""
        for seg in self.segs:
            if not seg.sacked:
                self.mark_lost(seg)

    def unmark(self) -> None:
        """Nothing was lost after all."""
        for seg in self.segs:
            seg.lost = False
        self.lost = self.to_send = 0

    def forget_sacks(self) -> None:
        """The receiver has reneged (RFC 2018 8): what it reported is not certain any more."""
        for seg in self.segs:
            seg.sacked = False
        self.runs.clear()
        self.sacked = self.sacked_count = self.high_sacked = 0

    def update(self, una: int, blocks: list[tuple[int, int]], now: int) -> Delivery:
        """Take an acknowledgement up to `una`, with its SACK blocks in the order they came in."""
        found = Delivery()
        if una > self.una:
            self._cumulative(una, found)
        if blocks:
            if _is_duplicate(blocks, una):  # RFC 2883 section 4
                found.dsack = blocks[0]
                blocks = blocks[1:]
            # In order, not as they come: what was reported in vain before, and is now again behind
            # newer news, was not reordered.
            for left, right in sorted(blocks):
                if una < right <= self.nxt and left < right:
                    self._block(left, right, found)
        if found.newly:
            self.delivered += found.newly
            self.delivered_at = now
            if self.delivered > self.app_limited:
                self.app_limited = 0
        newest = found.newest
        if newest is not None and not newest.ever:
            # Of all that it reports, the last sent is what let it come: the rest may have arrived
            # long ago, with acknowledgements that were lost. Karn: not of what was sent twice.
            found.rtt = max(now - newest.sent_at, 1)
        return found

    def _cumulative(self, una: int, found: Delivery) -> None:
        count = 0
        for seg in self.segs:
            if seg.end > una:
                break
            if seg.ever and not seg.sacked:
                found.again_at = min(found.again_at or seg.sent_at, seg.sent_at)
            self._arrived(seg, found)
            if seg.sacked:
                self.sacked -= seg.end - seg.start
                self.sacked_count -= 1
            count += 1
        del self.segs[:count]
        while self.runs and self.runs[0][1] <= una:
            del self.runs[0]
        if self.segs and self.segs[0].start < una:
            seg = self.segs[0]
            size = una - seg.start
            seg.start = una
            if seg.sacked:
                self.sacked -= size
            else:
                found.newly += size
                self.lost -= size * seg.lost
                self.again -= size * seg.again
                self.to_send -= size * (seg.lost and not seg.again)
        self.una = una

    def _block(self, left: int, right: int, found: Delivery) -> None:
        segs, runs = self.segs, self.runs
        at = first = bisect_left(runs, left, key=_RUN_END)
        start = end = -1
        index = bisect_left(segs, left, key=_START)
        while index < len(segs):
            if at < len(runs) and runs[at][0] <= segs[index].start:  # known: over it at a jump
                end = runs[at][1]
                start = runs[at][0] if start < 0 else start
                at += 1
                index = bisect_left(segs, end, key=_START)
                continue
            seg = segs[index]
            if seg.end > right:
                break
            self._arrived(seg, found)
            seg.sacked = True
            found.sacked += seg.end - seg.start
            self.sacked += seg.end - seg.start
            self.sacked_count += 1
            start = seg.start if start < 0 else start
            end = seg.end
            if end > self.high_sacked:
                self.high_sacked = end
            index += 1
        if start >= 0:
            runs[first:at] = [(start, end)]

    def _arrived(self, seg: Sent, found: Delivery) -> None:
        """A segment was delivered: heard now for the first time, unless it was sacked before."""
        if seg.sacked:
            return
        size = seg.end - seg.start
        found.newly += size
        if seg.lost:
            self.lost -= size
            if not seg.again:
                self.to_send -= size
        if seg.again:
            self.again -= size
        if not seg.ever:
            if seg.start < self.mark:
                found.original = True
            if seg.end < self.high_sacked:
                found.reordered = True
        seg.lost = seg.again = False
        newest = found.newest
        if newest is None or seg.order > newest.order:
            found.newest = seg

    def to_state(self) -> list:
        """Sums and segments."""
        return [[getattr(self, name) for name in self.__slots__ if name not in _LISTS],
                [[getattr(seg, name) for name in _STATE] for seg in self.segs]]  # fmt: skip

    @classmethod
    def from_state(cls, state: list) -> Scoreboard:
        """What `to_state` described."""
        board = cls()
        names = [name for name in cls.__slots__ if name not in _LISTS]
        for name, value in zip(names, state[0], strict=True):
            setattr(board, name, value)
        for row in state[1]:
            seg = Sent(0, 0, 0, 0, 0, 0)
            for name, value in zip(_STATE, row, strict=True):
                setattr(seg, name, value)
            board.segs.append(seg)
            if seg.sacked:
                joins = board.runs and board.runs[-1][1] == seg.start
                start = board.runs.pop()[0] if joins else seg.start
                board.runs.append((start, seg.end))
        return board


def _is_duplicate(blocks: list[tuple[int, int]], una: int) -> bool:
    """Is the first block a D-SACK: below the acknowledgement, or inside the second block?"""
    left, right = blocks[0]
    if left >= right:
        return False
    if right <= una:
        return True
    return len(blocks) > 1 and blocks[1][0] <= left and right <= blocks[1][1]
