"""How large the buffers of a connection are: dynamic right-sizing, as Linux has it.

The receive buffer starts at `receive_buffer_start` and grows to twice what the program reads in a
round trip (tcp_rcv_space_adjust), the send buffer to twice the congestion window
(tcp_sndbuf_expand). Neither shrinks, or grows beyond `receive_buffer` and `send_buffer`. The app's
credit is the largest buffer and no promise to the peer; what is offered is `room`. A program that
sets SO_RCVBUF or SO_SNDBUF fixes that buffer. Sizes are bytes of payload, times nanoseconds.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from plywire.wire.tcp import Options
from services.tcp.options import echoed_rtt

if TYPE_CHECKING:
    from services.tcp.stack import Stack
    from services.tcp.tcb import Tcb

SCARCE = 4
"""Segments that a connection may still offer or take when the host's memory is short."""

_FIRST = 10  # segments that the first round trip is expected to bring (TCP_INIT_CWND)


def room(tcb: Tcb, scarce: bool) -> int:
    """How far beyond RCV.NXT the window may reach; can be negative. scarce: memory is."""
    free = min(tcb.rcv_limit, tcb.rcv_acked + tcb.rcv_ssthresh) - tcb.rcv_offset
    return min(free, SCARCE * tcb.rcv_mss) if scarce else free


def established(stack: Stack, tcb: Tcb, now: int) -> None:
    """Both sides have spoken: the first round trip of the receiver begins now."""
    tcb.rcvq_space = max(min(tcb.rcv_ssthresh, tcb.rcv_wnd, _FIRST * tcb.snd_mss), 1)
    tcb.rcvq_time = tcb.rcv_rtt_at = now
    tcb.rcv_rtt_end = tcb.rcv_offset + tcb.rcv_wnd
    grow_send(stack, tcb)


def measure(tcb: Tcb, theirs: Options, size: int, now: int) -> None:
    """The receiver's round trip, from a segment with `size` bytes of text: by the timestamp that it
    echoes, if it is full and echoes a new one, and by how long a window's worth takes."""
    if tcb.rcv_offset >= tcb.rcv_rtt_end:
        _sample(tcb, now - tcb.rcv_rtt_at, True)
        tcb.rcv_rtt_end = tcb.rcv_offset + max(tcb.rcv_wnd, size)
        tcb.rcv_rtt_at = now
    stamps = theirs.timestamps
    if stamps is not None and size >= tcb.rcv_mss and stamps[1] != tcb.rcv_tsecr and tcb.ts_on:
        tcb.rcv_tsecr = stamps[1]
        rtt = echoed_rtt(tcb, stamps[1], now)
        if rtt:
            _sample(tcb, rtt, False)


def _sample(tcb: Tcb, rtt: int, by_window: bool) -> None:
    """A window's worth may take longer than a round trip: of those the shortest counts."""
    rtt = max(rtt, 1)
    known = tcb.rcv_rtt
    if known and not by_window:
        tcb.rcv_rtt = known + (rtt - known) // 8
    elif not known or rtt < known:
        tcb.rcv_rtt = rtt


def program_has_read(stack: Stack, tcb: Tcb, now: int) -> None:
    """Credit has come. Once a round trip: has the program read more in it than ever before?

    The buffer becomes twice that, for the round trip that the sender needs to hear of it, and again
    by as much as it grew, since a sender in slow start doubles what it sends.
    """
    if not tcb.rcvq_space or not tcb.rcv_rtt or now - tcb.rcvq_time < tcb.rcv_rtt:
        return
    copied = tcb.rcv_acked - tcb.rcvq_from
    space = tcb.rcvq_space
    if copied > space:
        window = 2 * copied + 16 * tcb.rcv_mss
        window += 2 * (window * (copied - space) // space)
        tcb.rcvq_space = copied
        _grow_receive(stack, tcb, window)
    tcb.rcvq_from = tcb.rcv_acked
    tcb.rcvq_time = now


def _grow_receive(stack: Stack, tcb: Tcb, size: int) -> None:
    size = min(size, stack.cfg.receive_buffer)
    if size > tcb.rcv_ssthresh and _may_grow(stack, tcb.rcv_locked):
        tcb.rcv_ssthresh = size


def grow_send(stack: Stack, tcb: Tcb) -> None:
    """What is in flight, and as much again, so that there is something to send when it arrives."""
    size = 2 * tcb.cc.cwnd
    if size > tcb.send_buffer:
        size = min(size, stack.cfg.send_buffer)
        if size > tcb.send_buffer and _may_grow(stack, tcb.snd_locked):
            tcb.send_buffer = size


def _may_grow(stack: Stack, locked: bool) -> bool:
    if locked or not stack.cfg.tune_buffers:
        return False
    if stack.memory.scarce:
        stack.counters["tcp_buffer_not_grown"] += 1
        return False
    return True


def send_limit(stack: Stack, tcb: Tcb) -> int:
    """How far the app may send, as a stream offset; what it was told stays true."""
    size = tcb.send_buffer
    if stack.memory.scarce:
        size = min(size, SCARCE * tcb.snd_mss)
    return max(tcb.snd_buf.start + size, tcb.told_limit)
