"""The user calls of RFC 9293 section 3.10.1 to 3.10.5 on a connection."""

from __future__ import annotations

from typing import TYPE_CHECKING

from plywire import seq
from plywire.isn import timestamp_offset
from plywire.paths import Path
from services.tcp import autotune, chrono, delack, options, receiver
from services.tcp.sender import push
from services.tcp.states import (
    ABORT,
    ACTIVE_OPEN,
    CLOSE,
    CLOSE_WAIT,
    CLOSED,
    ESTABLISHED,
    FIN_WAIT_2,
    LISTEN,
    SYN_RECEIVED,
    SYN_SENT,
    SYNCHRONIZED,
    TIME_WAIT,
)
from services.tcp.tcb import LEFT_OVER, Tcb
from services.tcp.transmit import send_syn

if TYPE_CHECKING:
    from services.tcp.stack import Stack


def active_open(stack: Stack, tcb: Tcb, path: Path, limit: int, now: int) -> None:
    """OPEN, active (3.10.1): buffers and sequence numbers are made now, and a SYN goes out."""
    prepare(stack, tcb, path, limit, now)
    stack.counters["tcp_active_opens"] += 1
    stack.change(tcb, ACTIVE_OPEN, now)
    send_syn(stack, tcb, now)


def prepare(stack: Stack, tcb: Tcb, path: Path, limit: int, now: int) -> None:
    """Give a block all that it needs before its SYN can be sent."""
    tcb.path_mtu, tcb.link_mtu = path.mtu, path.link_mtu
    tcb.ts_offset = timestamp_offset(stack.isn.key, *tcb.key)
    tcb.snd_mss = options.effective_mss(tcb)
    tcb.rcv_limit = limit
    largest = max(limit, tcb.rcv_ssthresh)
    tcb.rcv_scale = options.receive_scale(largest) if stack.cfg.window_scaling else 0
    tcb.rcv_wnd = receiver.first_window(
        tcb,
        options.local_mss(tcb) if stack.cfg.whole_segments else 1,
        stack.cfg.initial_receive_window,
    )
    tcb.iss = stack.isn.choose(*tcb.key, now)
    tcb.snd_una = tcb.iss
    tcb.snd_nxt = tcb.snd_cursor = tcb.snd_buf_seq = seq.add(tcb.iss, 1)
    tcb.rtt.timed_seq, tcb.rtt.timed_at = tcb.snd_nxt, now
    tcb.una_time = tcb.last_send = tcb.last_receive = tcb.last_data = now


def send(stack: Stack, tcb: Tcb, offset: int, data: bytes, now: int) -> None:
    """SEND (3.10.2). What the send buffer has already is passed over."""
    buffer = tcb.snd_buf
    end = buffer.end
    # Before Opened the app has no credit; what it sends is queued within the buffer's size.
    limit = max(tcb.told_limit, buffer.start + tcb.send_buffer)
    if tcb.fin_offset >= 0:
        limit = tcb.fin_offset
    if offset > end or offset + len(data) > limit:
        stack.drop("data_beyond_credit", now)
        return
    if offset < end:
        data = data[end - offset :]
    if not data:
        return
    tcb.trace = stack.trace
    board = tcb.board
    if tcb.sack_ok and end - board.nxt < tcb.snd_mss and board.pipe < tcb.cc.cwnd:
        board.nothing_to_send()
    buffer.append(data)
    chrono.start(tcb, chrono.BUSY, now)
    stack.mark(tcb)
    push(stack, tcb, now)


def receive(stack: Stack, tcb: Tcb, acked: int, limit: int, needed: int, now: int) -> None:
    """RECEIVE (3.10.3): the program has read up to `acked`, and there is room up to `limit`; from
    `needed` on it may have to be told again."""
    if acked > tcb.rcv_offset:
        stack.drop("credit_beyond_stream", now)
        return
    tcb.rcv_needed = max(tcb.rcv_needed, min(needed, acked))
    if acked <= tcb.rcv_acked and limit <= tcb.rcv_limit:
        return
    tcb.rcv_acked = max(tcb.rcv_acked, acked)
    tcb.rcv_limit = max(tcb.rcv_limit, limit)
    stack.memory.account(tcb)
    autotune.program_has_read(stack, tcb, now)
    if tcb.state in SYNCHRONIZED and not tcb.rcv_ended:
        tuned = stack.cfg.tune_buffers and not tcb.rcv_locked
        opened = receiver.window_opened(tcb, tuned, stack.memory.scarce)
        if opened or delack.program_has_read(stack, tcb):
            stack.send_ack(tcb)


def shut(stack: Stack, tcb: Tcb, offset: int, now: int) -> None:
    """CLOSE (3.10.4) of our half: FIN after the byte before `offset`."""
    if tcb.fin_offset >= 0:
        return
    if offset < tcb.snd_buf.end:
        stack.drop("end_inside_stream", now)
        return
    tcb.trace = stack.trace
    tcb.fin_offset = offset
    if tcb.state in (ESTABLISHED, CLOSE_WAIT):
        stack.change(tcb, CLOSE, now)
        push(stack, tcb, now)
    elif tcb.state == SYN_RECEIVED and not len(tcb.snd_buf):
        stack.change(tcb, CLOSE, now)  # FIN follows as soon as the SYN is acknowledged


def close(stack: Stack, tcb: Tcb, offset: int, now: int) -> None:
    """The program has let the descriptor go: CLOSE, and nothing is delivered any more."""
    tcb.released = True
    if tcb.state == SYN_SENT:
        stack.end(tcb, CLOSE, "", "", now)
        return
    tcb.pending.clear()
    shut(stack, tcb, offset, now)
    stack.over_for_program(tcb)
    if tcb.state == FIN_WAIT_2:
        left_alone(stack, tcb, now)
    if tcb.state != TIME_WAIT:
        stack.orphaned(tcb, now)


def left_alone(stack: Stack, tcb: Tcb, now: int) -> None:
    """FIN-WAIT-2 and no program: a peer that never closes must not hold the block for ever. With a
    negative TCP_LINGER2 it does not even begin to (Linux: tcp_close, tcp_rcv_state_process)."""
    if tcb.linger2 < 0:
        stack.counters["tcp_abort_on_linger"] += 1
        stack.end(tcb, ABORT, "", "no lingering", now, reset=True)
        return
    stack.arm(tcb, LEFT_OVER, now + (tcb.linger2 or stack.cfg.fin_wait_2))


def abort(stack: Stack, tcb: Tcb, now: int) -> None:
    """ABORT (3.10.5): RST for the peer, and the block is gone. TIME-WAIT runs out by itself."""
    tcb.released = True
    if tcb.state == TIME_WAIT:
        stack.say_closed(tcb, "", "")
        return
    tcb.pending.clear()
    reset = tcb.state not in (CLOSED, LISTEN, SYN_SENT)
    stack.end(tcb, ABORT, "", "", now, reset)
