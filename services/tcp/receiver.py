"""The receiving half: the window offered, reassembly, and when to acknowledge."""

from __future__ import annotations

from typing import TYPE_CHECKING

from plywire import seq
from services.tcp.autotune import SCARCE, room
from services.tcp.islands import repeated, store
from services.tcp.sack import arrived_again, arrived_early
from services.tcp.tcb import DELAYED_ACK, Tcb

if TYPE_CHECKING:
    from services.tcp.stack import Stack


def first_window(tcb: Tcb, mss: int, largest: int) -> int:
    """The window of a SYN: whole segments (Linux's 64,240 at an MSS of 1,460), not scaled."""
    window = min(room(tcb, False), largest, 0xFFFF)
    return window // mss * mss if window >= mss else window


def offer_window(tcb: Tcb, scarce: bool) -> int:
    """The window field of the segment that is about to be sent; `rcv_wnd` becomes what it offers.

    Silly-window avoidance (RFC 9293 3.8.6.2.2, MUST-39): the right edge stays where it is until it
    can move by a segment or half the buffer. It never moves back, but for the rounding that window
    scaling brings (RFC 7323 2.4): what was once offered is accepted all the same.
    """
    window = tcb.rcv_wnd
    grow = min(tcb.rcv_limit, tcb.rcv_acked + tcb.rcv_ssthresh) - tcb.rcv_offset - window
    if scarce:
        grow = room(tcb, True) - window
    if grow > 0 and (grow >= tcb.rcv_mss or 2 * grow >= tcb.rcv_buf):
        window += grow
    field = window >> tcb.rcv_scale
    if field > 0xFFFF:
        field = 0xFFFF
    offered = field << tcb.rcv_scale
    if offered > tcb.rcv_wnd:
        tcb.rcv_wnd = offered
    return field


def window_opened(tcb: Tcb, tuned: bool = False, scarce: bool = False) -> bool:
    """Has the program read so much that the peer should hear of it at once? When the window would
    be twice what it is, as Linux; and, as BSD, after two segments if that is much of a buffer that
    cannot grow: every acknowledgement goes out before the program has read, and would keep the
    window of a small buffer from ever being full."""
    free = min(room(tcb, scarce), 0xFFFF << tcb.rcv_scale)
    grow = free - tcb.rcv_wnd
    worth = grow >= tcb.rcv_mss or 2 * grow >= tcb.rcv_buf
    scaled = free >> tcb.rcv_scale << tcb.rcv_scale
    return (
        worth
        and scaled > tcb.rcv_wnd
        and (
            scaled >= 2 * tcb.rcv_wnd
            or tcb.rcv_wnd < tcb.rcv_mss
            or (not tuned and grow >= max(2 * tcb.rcv_mss, tcb.rcv_buf >> 4))
        )
    )


def drain(stack: Stack, tcb: Tcb) -> None:
    """Move stored bytes whose turn has come to the stream."""
    islands = tcb.islands
    while islands and islands[0].start <= tcb.rcv_offset:
        island = islands.pop(0)
        if island.end > tcb.rcv_offset:
            advance(stack, tcb, island.read(tcb.rcv_offset))


def advance(stack: Stack, tcb: Tcb, data: bytes) -> None:
    """The next bytes of the stream are here."""
    size = len(data)
    tcb.rcv_offset += size
    tcb.rcv_nxt = (tcb.rcv_nxt + size) & 0xFFFF_FFFF
    tcb.rcv_wnd -= size
    tcb.bytes_received += size
    tcb.pending.append(data)
    stack.mark(tcb)


def take(stack: Stack, tcb: Tcb, seq_number: int, data: bytes, fin: bool, now: int) -> None:
    """The text of an acceptable segment (3.10.7.4, seventh), trimmed to the window here.

    A FIN is only noted: `rcv_fin` says where the stream ends.
    """
    offset = tcb.rcv_offset + seq.sub(seq_number, tcb.rcv_nxt)
    if fin:
        tcb.rcv_fin = offset + len(data)
    if offset < tcb.rcv_offset:  # the front is a repeat
        arrived_again(tcb, max(offset, 0), min(offset + len(data), tcb.rcv_offset))
        data = data[tcb.rcv_offset - offset :]
        offset = tcb.rcv_offset
        tcb.ack_now = True
        acknowledge_quickly(stack, tcb)
    room = tcb.rcv_offset + tcb.rcv_wnd - offset
    if len(data) > room:
        data = data[: max(room, 0)]
        tcb.ack_now = True
    if tcb.rcv_fin > tcb.rcv_offset + tcb.rcv_wnd:
        tcb.rcv_fin = -1  # beyond the window: it will come again
    if not data:
        # RFC 5681 4.2: FIN is a part of the stream, and beyond a hole it is answered as such.
        tcb.ack_now = tcb.ack_now or (fin and offset > tcb.rcv_offset)
        return
    pause = now - tcb.last_data
    if pause and pause > tcb.rtt.rto:  # a batch has one time
        acknowledge_quickly(stack, tcb)  # as Linux: the sender begins anew, or had a timeout
    tcb.last_data = now
    size = len(data)
    if stack.memory.used_up and tcb.held >= SCARCE * tcb.rcv_mss:
        stack.counters["tcp_rcvq_drop"] += 1  # Linux's TCPRcvQDrop: it will come again
        tcb.ack_now = True
        return
    if size > tcb.rcv_mss:
        tcb.rcv_mss = size
    again = repeated(tcb.islands, offset, offset + size) if tcb.islands else None
    if again is not None and tcb.dsack is None:  # RFC 2883 4.2: only the first repeat is reported
        arrived_again(tcb, *again)
    if offset != tcb.rcv_offset:
        tcb.ack_now = True  # RFC 5681 4.2: a duplicate ACK at once
        acknowledge_quickly(stack, tcb)
        stack.counters["tcp_ofo_queue"] += 1
        if again != (offset, offset + size):
            if store(tcb.islands, offset, data):
                arrived_early(tcb, offset)
                tcb.ooo_segs += 1
                stack.memory.account(tcb)
            else:
                stack.drop("too_many_islands", now)
        return
    if tcb.islands:
        tcb.ack_now = True  # RFC 5681 4.2: also when a hole is filled
        advance(stack, tcb, data)
        drain(stack, tcb)
    else:
        advance(stack, tcb, data)
        _acknowledge_later(stack, tcb, now)


def acknowledge_quickly(stack: Stack, tcb: Tcb) -> None:
    """Something was lost: the sender's window is small now and grows by acknowledgements, and those
    may be lost as well. The next segments are acknowledged one by one (RFC 5681 4.2 allows it)."""
    if tcb.quick_acks < stack.cfg.quick_acks:
        tcb.quick_acks = stack.cfg.quick_acks


def _acknowledge_later(stack: Stack, tcb: Tcb, now: int) -> None:
    """RFC 9293 3.8.6.3 (SHLD-18, MUST-40): within 40 ms, and at least every second full segment;
    at once while the connection is young, so that the peer's window can open."""
    if tcb.quick_acks > 0:
        tcb.quick_acks -= 1
        tcb.ack_now = True
    elif seq.sub(tcb.rcv_nxt, tcb.ack_sent) >= 2 * tcb.rcv_mss:
        tcb.ack_now = True
    else:
        key = (tcb.id, DELAYED_ACK)
        if key not in stack.timers:
            stack.timers.set(key, now + stack.cfg.delayed_ack)
