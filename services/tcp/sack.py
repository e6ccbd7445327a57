"""The receiver's side of SACK: which blocks to report (RFC 2018 section 4, RFC 2883)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from services.tcp.islands import around, covers

if TYPE_CHECKING:
    from services.tcp.tcb import Tcb

_MASK = 0xFFFF_FFFF
_RECENT = 4  # no segment has room for more blocks


def arrived_early(tcb: Tcb, offset: int) -> None:
    """Data has come out of order: its block is reported first (RFC 2018 section 4)."""
    recent = tcb.sack_recent
    if offset in recent:
        recent.remove(offset)
    recent.insert(0, offset)
    del recent[_RECENT:]


def arrived_again(tcb: Tcb, start: int, end: int) -> None:
    """Data has come that was there already: once, the first block says so (RFC 2883 section 4)."""
    if tcb.sack_ok and end > start:
        tcb.dsack = (start, end)


def take_blocks(tcb: Tcb, most: int) -> list[tuple[int, int]]:
    """At most so many blocks for the segment that is about to be sent, as sequence numbers.

    The block of what came last goes first, then what was reported before, then others.
    """
    islands = tcb.islands
    chosen: list[tuple[int, int]] = []
    if tcb.dsack is not None:
        chosen.append(tcb.dsack)
        tcb.dsack = None
        if covers(islands, *chosen[0]):
            arrived_early(tcb, chosen[0][0])  # the block around it follows (RFC 2883 4)
    used: list[int] = []
    for offset in tcb.sack_recent:
        index = around(islands, offset)
        if index >= 0 and index not in used:
            used.append(index)
    tcb.sack_recent = [islands[index].start for index in used]
    for index in range(len(islands)):
        if len(chosen) + len(used) >= most:
            break
        if index not in used:
            used.append(index)
    chosen += [(islands[index].start, islands[index].end) for index in used]
    base = tcb.rcv_nxt - tcb.rcv_offset
    return [((left + base) & _MASK, (right + base) & _MASK) for left, right in chosen[:most]]
