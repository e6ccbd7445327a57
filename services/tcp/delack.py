"""When the program has read, is the acknowledgement that waits to go at once? (tcp_cleanup_rbuf)

A delayed acknowledgement waits for more data or for an answer to ride on. When a program has read
all there is and does not answer, nothing is left to wait for: a sender with Nagle would stand still
until the delay is over.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from plywire import seq
from services.tcp.tcb import DELAYED_ACK, Tcb

if TYPE_CHECKING:
    from services.tcp.stack import Stack


def data_arrived(tcb: Tcb, size: int, now: int) -> None:
    """A small segment is the end of a write (tcp_measure_rcv_mss). Linux also counts a full one
    with PSH, which a sender with a small buffer sets on each: it would double the acknowledgements
    of its transfers."""
    tcb.data_segs_in += 1
    if size < tcb.rcv_mss:
        tcb.ack_pushed = min(tcb.ack_pushed + 1, 2)


def data_sent(tcb: Tcb, now: int) -> None:
    """Sent shortly after something came: the program answers, so acknowledgements ride on answers
    ("ping-pong"), until one has been delayed in vain."""
    if now - tcb.last_data < tcb.ato:
        tcb.pingpong = True


def program_has_read(stack: Stack, tcb: Tcb) -> bool:
    """Credit has come: acknowledge now what is waiting? Two small segments are more than a
    question; and more than a segment is owed one anyway."""
    if not stack.armed(tcb, DELAYED_ACK):
        return False
    if seq.sub(tcb.rcv_nxt, tcb.ack_sent) > tcb.rcv_mss:
        return True
    all_read = tcb.rcv_acked >= tcb.rcv_offset
    return all_read and (tcb.ack_pushed > 1 or (tcb.ack_pushed > 0 and not tcb.pingpong))
