"""Making segments out of the send queue, for the first time and again."""

from __future__ import annotations

from typing import TYPE_CHECKING

from plywire import seq
from plywire.wire.tcp import ACK, CWR, FIN, PSH, SYN
from services.tcp import delack, ecn
from services.tcp.options import syn_options
from services.tcp.states import SYN_SENT
from services.tcp.tcb import PERSIST, RTO, Tcb

if TYPE_CHECKING:
    from services.tcp.scoreboard import Sent
    from services.tcp.stack import Stack

_MASK = 0xFFFF_FFFF


def send_syn(stack: Stack, tcb: Tcb, now: int) -> None:
    """SYN, or SYN,ACK once the peer's SYN is known; starts the retransmission timer if need be."""
    answer = tcb.state != SYN_SENT
    flags = (SYN | ACK if answer else SYN) | ecn.syn_flags(stack.cfg, tcb, answer)
    stack.send(tcb, flags, tcb.iss, b"", syn_options(stack.cfg, tcb, answer, now))
    tcb.last_send = now
    if not stack.armed(tcb, RTO):
        stack.arm(tcb, RTO, now + tcb.rtt.rto)


def send_next(stack: Stack, tcb: Tcb, offset: int, length: int, fin: bool, now: int) -> None:
    """Send `length` bytes from `offset`, which is where snd_cursor stands, and move the cursor."""
    cursor = tcb.snd_cursor
    flags = ACK
    if length:
        data = tcb.snd_buf.read(offset, length)
        if offset + length == tcb.snd_buf.end:
            flags |= PSH
    else:
        data = b""
    if fin:
        flags |= FIN
        tcb.fin_sent = True
    tos = 0
    if tcb.ecn_ect and length and cursor == tcb.snd_nxt:  # RFC 3168 6.1.2, 6.1.5: new data only
        tos = ecn.ECT_0
        if tcb.cwr_due:
            tcb.cwr_due = False
            flags |= CWR
    stack.send(tcb, flags, cursor, data, tos=tos)
    if length:
        delack.data_sent(tcb, now)
        tcb.data_segs_out += 1
        tcb.bytes_sent += length
    following = (cursor + length + fin) & _MASK
    tcb.snd_cursor = following
    if cursor == tcb.snd_nxt:
        if tcb.snd_una == cursor:
            tcb.una_time = now
        tcb.snd_nxt = following
        if tcb.sack_ok:
            tcb.board.sent(offset, offset + length + fin, now)
            if tcb.in_recovery or tcb.in_cwr:
                tcb.prr_out += length
        if length < tcb.snd_mss:
            tcb.snd_small = following
        if tcb.rtt.timed_seq is None:
            tcb.rtt.timed_seq, tcb.rtt.timed_at = following, now
    else:
        if seq.gt(following, tcb.snd_nxt):
            tcb.snd_nxt = following
        tcb.bytes_retrans += length
        _count_retransmission(stack, tcb)
    tcb.last_send = now
    key = (tcb.id, RTO)
    if key not in stack.timers:  # RFC 6298 5.1
        stack.timers.set(key, now + tcb.rtt.rto)
        stack.timers.cancel((tcb.id, PERSIST))


def retransmit_first(stack: Stack, tcb: Tcb, now: int) -> int:
    """Send the oldest segment that is not acknowledged again, whatever the windows say.

    Returns the sequence number behind it.
    """
    una = tcb.snd_una
    _count_retransmission(stack, tcb)
    if tcb.syn_unacked:
        send_syn(stack, tcb, now)
        return (una + 1) & _MASK
    buffer = tcb.snd_buf
    offset = buffer.start
    length = min(len(buffer), tcb.snd_mss, seq.sub(tcb.snd_nxt, una))
    last = offset + length == buffer.end
    fin = last and tcb.fin_sent
    flags = ACK | (FIN if fin else 0) | (PSH if last and length else 0)
    stack.send(tcb, flags, una, buffer.read(offset, length) if length else b"")
    _count_data_again(tcb, length)
    tcb.last_send = now
    return (una + length + fin) & _MASK


def retransmit_segment(stack: Stack, tcb: Tcb, seg: Sent, now: int) -> None:
    """Send a segment of the scoreboard again, or what of it the path takes now."""
    board = tcb.board
    buffer = tcb.snd_buf
    if seg.end - seg.start > tcb.snd_mss and seg.start + tcb.snd_mss < buffer.end:
        board.split(seg, tcb.snd_mss)
    end = min(seg.end, buffer.end)
    length = end - seg.start
    flags = ACK
    if seg.end > buffer.end:
        flags |= FIN
    if length and end == buffer.end:
        flags |= PSH
    data = buffer.read(seg.start, length) if length else b""
    _count_retransmission(stack, tcb)
    board.sent_again(seg, now)
    if tcb.undo is not None:
        tcb.undo_count += 1
    if tcb.in_recovery:
        tcb.prr_out += length
    stack.send(tcb, flags, (tcb.snd_buf_seq + seg.start - buffer.start) & _MASK, data)
    _count_data_again(tcb, length)
    tcb.last_send = now
    if not stack.armed(tcb, RTO):
        stack.arm(tcb, RTO, now + tcb.rtt.rto)


def probe(stack: Stack, tcb: Tcb, now: int) -> None:
    """Send one byte, or FIN, beyond a closed window, for the answer that it brings (3.8.6.1).

    It counts as sent, so that its acknowledgement is legal, and goes out again with the rest once
    the window opens.
    """
    buffer = tcb.snd_buf
    data = buffer.read(buffer.start, 1) if len(buffer) else b""
    if not data:
        tcb.fin_sent = True
    stack.send(tcb, ACK | (PSH if data else FIN), tcb.snd_una, data)
    stack.counters["tcp_win_probe"] += 1
    if tcb.snd_una == tcb.snd_nxt:
        tcb.snd_nxt = seq.add(tcb.snd_nxt, 1)
        tcb.una_time = now
        if tcb.sack_ok:
            tcb.board.sent(buffer.start, buffer.start + 1, now)
    if tcb.sack_ok:
        tcb.snd_cursor = tcb.snd_nxt
        tcb.board.mark_lost(tcb.board.segs[0])
        tcb.resizing = True
    else:
        tcb.snd_cursor = tcb.snd_una
    tcb.rtt.timed_seq = None
    tcb.last_send = now


def _count_data_again(tcb: Tcb, length: int) -> None:
    if length:
        tcb.data_segs_out += 1
        tcb.bytes_sent += length
        tcb.bytes_retrans += length


def _count_retransmission(stack: Stack, tcb: Tcb) -> None:
    stack.counters["tcp_retrans_segs"] += 1
    stack.counters["tcp_out_segs"] -= 1  # RFC 4022: tcpOutSegs leaves retransmissions out
    tcb.retransmits += 1
    tcb.rtt.timed_seq = None  # Karn: what was sent twice is not measured
