"""Which segments are lost: by time (RACK, RFC 8985 section 6) or, without it, by RFC 6675's count.

RACK gives a segment up when one that was sent enough later has arrived. "Enough" is the reordering
window, which adapts to what D-SACKs tell.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from plywire import seq

if TYPE_CHECKING:
    from services.tcp.scoreboard import Delivery, Scoreboard
    from services.tcp.tcb import Tcb

_DUP_THRESH = 3
_PERSIST_ROUNDS = 16  # RFC 8985 6.2 step 4: a wider window lasts for so many recoveries
_MIN_RTT_LIFE = 300 * 1_000_000_000  # Linux: the minimum is that of the last five minutes


class Rack:
    """RFC 8985's variables: order is that of the newest segment delivered (RACK.segment), rtt its
    round trip, reo_mult in quarters of min_rtt.

    The RFC orders what was sent at the same time by sequence number. Here new data may go out just
    before a retransmission at the same reading of the clock, so transmissions are counted.
    """

    __slots__ = ("again", "dsack_round", "min_at", "min_rtt", "order", "reo_mult", "reo_persist",
                 "reordering_seen", "rtt")  # fmt: skip

    def __init__(self) -> None:
        self.order = self.rtt = 0
        self.again = False  # that segment was a retransmission
        self.min_rtt = self.min_at = 0
        self.reo_mult = 1
        self.reo_persist = _PERSIST_ROUNDS
        self.reordering_seen = False
        self.dsack_round = -1

    def observe(self, tcb: Tcb, found: Delivery, tsecr: int | None, now: int) -> None:
        """Steps 1 to 4 of section 6.2, on each acknowledgement."""
        if found.rtt and (
            not self.min_rtt or found.rtt <= self.min_rtt or now - self.min_at > _MIN_RTT_LIFE
        ):
            self.min_rtt, self.min_at = found.rtt, now
        newest = found.newest
        if newest is not None:
            rtt = now - newest.sent_at
            # Step 2: is it the retransmission that has arrived, or the original all along? The echo
            # tells only of what moves SND.UNA: a segment out of order is never echoed (RFC 7323
            # 4.3), so for what a block reports the round trip has to do, as in Linux.
            echoed = tsecr is not None and newest.end <= tcb.board.una
            doubtful = newest.ever and (
                rtt < self.min_rtt or (echoed and seq.lt(tsecr, tcb.timestamp(newest.sent_at)))
            )
            if not doubtful:
                self.rtt = rtt
                if newest.order > self.order:
                    self.order, self.again = newest.order, newest.ever
        if found.reordered:
            self.reordering_seen = True
        self._adapt(tcb, found)

    def _adapt(self, tcb: Tcb, found: Delivery) -> None:
        """Step 4: a D-SACK says that the window was too narrow. As in Linux, one that answers a
        repeat that a timer sent does not: the window has had no part in it."""
        board = tcb.board
        if self.dsack_round >= 0 and board.una >= self.dsack_round:
            self.dsack_round = -1
        dsack = found.dsack
        if dsack is None or dsack[1] <= board.mark or (tcb.tlp_again and dsack[1] == tcb.tlp_end):
            return
        if self.dsack_round < 0:
            self.dsack_round = board.nxt
            self.reo_mult = min(self.reo_mult + 1, 255)
            self.reo_persist = _PERSIST_ROUNDS

    def recovered(self) -> None:
        """A recovery has ended: after 16 of them the window is narrow again."""
        self.reo_persist -= 1
        if self.reo_persist <= 0:
            self.reo_persist, self.reo_mult = _PERSIST_ROUNDS, 1

    def reordering_window(self, tcb: Tcb) -> int:
        """RACK_update_reo_wnd of section 6.2."""
        if not self.reordering_seen and (
            tcb.in_recovery or tcb.in_loss or tcb.board.sacked_count >= _DUP_THRESH
        ):
            return 0
        return min(self.reo_mult * self.min_rtt // 4, tcb.rtt.srtt)

    def detect(self, tcb: Tcb, now: int) -> int:
        """Step 5: mark what is lost. Returns in how many ns there may be more to mark, or 0."""
        board = tcb.board
        window = self.rtt + self.reordering_window(tcb)
        wait = 0
        # Behind the highest block nothing was sent before what has arrived, retransmissions apart.
        limit = board.nxt if self.again else board.high_sacked
        for seg in board.segs:
            if seg.start >= limit:
                break
            if seg.sacked or (seg.lost and not seg.again):
                continue
            if seg.order >= self.order:
                continue
            remaining = seg.sent_at + window - now
            if remaining <= 0:
                board.mark_lost(seg)
            elif remaining > wait:
                wait = remaining
        return wait

    def timed_out(self, tcb: Tcb, now: int) -> None:
        """RACK_mark_losses_on_RTO of section 6.3: what was sent lately is not given up."""
        board = tcb.board
        window = self.rtt + self.reordering_window(tcb)
        for seg in board.segs:
            if not seg.sacked and seg.sent_at + window <= now:
                board.mark_lost(seg)

    def to_state(self) -> list:
        """All fields, in the order of the class's slots."""
        return [getattr(self, name) for name in self.__slots__]

    @classmethod
    def from_state(cls, state: list) -> Rack:
        """What `to_state` described."""
        rack = cls()
        for name, value in zip(cls.__slots__, state, strict=True):
            setattr(rack, name, value)
        return rack


def detect_by_count(board: Scoreboard, mss: int) -> None:
    """IsLost of RFC 6675 section 4: DupThresh segments, or more than (DupThresh - 1) * SMSS bytes,
    that were sent later have arrived."""
    count = size = 0
    for seg in reversed(board.segs):
        if seg.sacked:
            count += 1
            size += seg.end - seg.start
        elif not seg.lost and (count >= _DUP_THRESH or size > (_DUP_THRESH - 1) * mss):
            board.mark_lost(seg)
