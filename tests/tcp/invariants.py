"""What must be true of a connection at every moment, for tests that throw random wires at it."""

from __future__ import annotations

from itertools import pairwise

from plywire import seq
from services.tcp.states import TRANSMITTING
from services.tcp.tcb import PERSIST, REORDERING, RTO, Tcb

from .harness import Pair


def check_board(tcb: Tcb) -> None:
    """The scoreboard's sums are those of its segments, which lie side by side."""
    board = tcb.board
    segs = board.segs
    assert all(one.end == two.start for one, two in pairwise(segs))
    assert all(seg.start < seg.end for seg in segs)
    if segs:
        assert (board.una, board.nxt) == (segs[0].start, segs[-1].end)
    assert board.sacked == sum(seg.end - seg.start for seg in segs if seg.sacked)
    assert board.sacked_count == sum(seg.sacked for seg in segs)
    assert board.lost == sum(seg.end - seg.start for seg in segs if seg.lost)
    assert board.again == sum(seg.end - seg.start for seg in segs if seg.again)
    assert board.to_send == sum(seg.end - seg.start for seg in segs if seg.lost and not seg.again)
    assert not any(seg.sacked and (seg.lost or seg.again) for seg in segs)
    assert not board.to_send or not any(
        seg.lost and not seg.again and seg.start < board.first_lost for seg in segs
    )
    runs: list[tuple[int, int]] = []
    for seg in segs:
        if seg.sacked:
            joins = runs and runs[-1][1] == seg.start
            runs.append((runs.pop()[0] if joins else seg.start, seg.end))
    assert [(max(start, board.una), end) for start, end in board.runs] == runs
    assert board.pipe >= 0
    assert board.nxt - board.una == tcb.flight


def check(pair: Pair) -> None:
    """Of every connection of both sides."""
    for end in pair.ends:
        timers = end.layer.stack.timers
        for tcb in end.layer.stack.by_id.values():
            assert seq.le(tcb.snd_una, tcb.snd_nxt)
            assert tcb.cc.cwnd > 0 or tcb.syn_unacked
            if tcb.sack_ok and not tcb.syn_unacked:
                check_board(tcb)
            if tcb.state in TRANSMITTING and tcb.snd_una != tcb.snd_nxt:
                assert (tcb.id, RTO) in timers or (tcb.id, PERSIST) in timers, "no way on"
            if (tcb.id, REORDERING) in timers:
                assert tcb.sack_ok
