"""SEGMENT ARRIVES (RFC 9293 section 3.10.7), step by step in the RFC's order.

Each step returns whether the segment goes on to the next one. With blind attacks (RFC 5961) and
TIME-WAIT hazards (RFC 1337) in mind, some answers are challenge ACKs or silence where RFC 793 had
resets.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from plywire import seq
from plywire.wire.tcp import ACK, FIN, RST, SYN, URG, Options, TcpHeader, parse_options
from services.tcp import (
    acceptance,
    autotune,
    delack,
    ecn,
    islands,
    options,
    receiver,
    recovery,
    sack_recovery,
    sender,
    tail_loss,
    user_calls,
    user_timeout,
)
from services.tcp.acceptance import challenge, may_challenge
from services.tcp.sack import arrived_again
from services.tcp.states import (
    CLOSE,
    CLOSED,
    CLOSING,
    FIN_WAIT_1,
    LAST_ACK,
    MAY_RECEIVE,
    RCV_ACK_OF_FIN,
    RCV_ACK_OF_SYN,
    RCV_FIN,
    RCV_RST,
    RCV_SYN,
    RCV_SYN_ACK,
    SYN_RECEIVED,
    SYN_SENT,
    TIME_WAIT,
)
from services.tcp.tcb import KEEPALIVE, LEFT_OVER, Tcb
from services.tcp.transmit import send_syn

if TYPE_CHECKING:
    from services.tcp.stack import Stack


def segment_arrives(stack: Stack, tcb: Tcb, header: TcpHeader, data: bytes, now: int) -> None:
    """A segment for a connection that exists, in any state but CLOSED and LISTEN."""
    theirs = parse_options(header.options)  # may raise: before anything is changed
    tcb.segs_in += 1
    tcb.last_receive = now
    tcb.keep_probes = 0
    if tcb.state == SYN_SENT:
        _syn_sent(stack, tcb, header, theirs, data, now)
    else:
        if tcb.state == SYN_RECEIVED:
            header = _simultaneous_syn(tcb, header)
        if (
            (not tcb.ts_on or acceptance.check_timestamps(stack, tcb, header, theirs, data, now))
            and _check_sequence(stack, tcb, header, data, now)
            and (not header.flags & RST or _check_reset(stack, tcb, header, now))
            and (not header.flags & SYN or _check_syn(stack, tcb, now))
            and _check_ack(stack, tcb, header, theirs, data, now)
        ):
            if theirs.user_timeout is not None:
                user_timeout.arrived(stack, tcb, theirs)
            if header.flags & URG:
                _check_urgent(stack, tcb, header)
            if data and header.seq == tcb.rcv_nxt:
                autotune.measure(tcb, theirs, len(data), now)
                delack.data_arrived(tcb, len(data), now)
            _text(stack, tcb, header, data, now)
    if tcb.state != CLOSED:
        _answer(stack, tcb, now)


def _answer(stack: Stack, tcb: Tcb, now: int) -> None:
    """Send what has become possible; an acknowledgement that is owed rides on it if it can."""
    if len(tcb.snd_buf) or tcb.fin_offset >= 0:
        sender.push(stack, tcb, now)
    if tcb.ack_now:
        stack.send_ack(tcb)


# --- 3.10.7.3: SYN-SENT ---------------------------------------------------------------------------


def _syn_sent(
    stack: Stack, tcb: Tcb, header: TcpHeader, theirs: Options, data: bytes, now: int
) -> None:
    flags = header.flags
    acceptable = False
    if flags & ACK:  # first
        acceptable = header.ack == tcb.snd_nxt  # nothing but the SYN is out
        if not acceptable:
            if not flags & RST:
                stack.send_reset(header, 0, tcb.remote_address, tcb.local_address)
            return
    if flags & RST:  # second
        if acceptable:
            stack.end(tcb, RCV_RST, "ECONNREFUSED", "RST received", now)
        else:
            stack.drop("rst_in_syn_sent", now)
        return
    if not flags & SYN:  # fifth
        stack.drop("no_syn_in_syn_sent", now)
        return
    tcb.irs = header.seq  # fourth
    tcb.rcv_nxt = tcb.ack_sent = seq.add(header.seq, 1)
    options.negotiate(stack.cfg, tcb, theirs, now)
    if theirs.user_timeout is not None:
        user_timeout.arrived(stack, tcb, theirs)
    ecn.syn_arrived(stack, tcb, flags)
    tcb.snd_wnd = tcb.max_snd_wnd = header.window
    tcb.snd_wl1, tcb.snd_wl2 = header.seq, header.ack
    if acceptable:
        sender.syn_acknowledged(stack, tcb, now)
        _established(stack, tcb, RCV_SYN_ACK, now)
        tcb.ack_now = True
        if flags & URG:
            _check_urgent(stack, tcb, header)
        _text(stack, tcb, header, data, now)
        return
    stack.change(tcb, RCV_SYN, now)  # simultaneous open
    _keep_early_text(tcb, header, data)
    tcb.retries = 0
    send_syn(stack, tcb, now)


def _keep_early_text(tcb: Tcb, header: TcpHeader, data: bytes) -> None:
    """Text and FIN on a SYN that is not answered yet wait for ESTABLISHED (3.10.7.2, third)."""
    data = data[: tcb.rcv_wnd]
    if data:
        islands.store(tcb.islands, 0, data)
    if header.flags & FIN and len(data) < tcb.rcv_wnd:
        tcb.rcv_fin = len(data)


def passive_open(
    stack: Stack, tcb: Tcb, header: TcpHeader, theirs: Options, data: bytes, now: int
) -> None:
    """3.10.7.2, third: the block of a connection that comes in takes the SYN and answers it."""
    tcb.irs = header.seq
    tcb.rcv_nxt = tcb.ack_sent = seq.add(header.seq, 1)
    options.negotiate(stack.cfg, tcb, theirs, now)
    if theirs.user_timeout is not None:
        user_timeout.arrived(stack, tcb, theirs)
    ecn.syn_arrived(stack, tcb, header.flags)
    tcb.snd_wnd = tcb.max_snd_wnd = header.window
    tcb.snd_wl1, tcb.snd_wl2 = header.seq, tcb.iss
    _keep_early_text(tcb, header, data)
    stack.counters["tcp_passive_opens"] += 1
    stack.change(tcb, RCV_SYN, now)
    send_syn(stack, tcb, now)


# --- 3.10.7.4: the other states -------------------------------------------------------------------


def _simultaneous_syn(tcb: Tcb, header: TcpHeader) -> TcpHeader:
    """In SYN-RECEIVED: in a simultaneous open the peer's SYN,ACK repeats a SYN that was taken
    already: without it the segment is the ACK that figure 7 of RFC 9293 shows."""
    if (
        header.flags & (SYN | ACK | RST) == SYN | ACK
        and header.seq == tcb.irs
        and header.ack == tcb.snd_nxt
    ):
        ecn.syn_repeated(tcb, header.flags)
        return header._replace(seq=tcb.rcv_nxt, flags=header.flags & ~SYN)
    return header


def _check_sequence(stack: Stack, tcb: Tcb, header: TcpHeader, data: bytes, now: int) -> bool:
    """First: is any of it in the receive window? RFC 9293 table 6."""
    flags = header.flags
    length = len(data) + (flags >> 1 & 1) + (flags & FIN)
    ahead = seq.sub(header.seq, tcb.rcv_nxt)
    window = tcb.rcv_wnd
    if length == 0:
        if ahead == 0 or 0 < ahead < window:
            return True
    elif window:
        if 0 <= ahead < window or 0 <= ahead + length - 1 < window:
            return True
    elif ahead == 0 and flags & (ACK | RST | URG):
        # "Special allowance should be made to accept valid ACKs, URGs, and RSTs": the text is
        # trimmed away later, and the answer tells that the window is closed.
        tcb.ack_now = True
        return True
    if flags & RST:
        stack.drop("rst_outside_window", now)
    elif tcb.state == SYN_RECEIVED and flags & SYN and header.seq == tcb.irs:
        ecn.syn_repeated(tcb, flags)
        _repeat_syn_ack(stack, tcb, now)
    elif tcb.state == TIME_WAIT:
        _time_wait_repeat(stack, tcb, header, now)
    elif length and not flags & SYN:
        stack.counters["tcp_out_of_window"] += 1
        tcb.ack_now = True
        receiver.acknowledge_quickly(stack, tcb)
        if ahead < 0 and data:  # all of it a repeat: RFC 2883
            start = max(tcb.rcv_offset + ahead, 0)
            arrived_again(tcb, start, min(start + len(data), tcb.rcv_offset))
    else:
        challenge(stack, tcb, now)
    return False


def _repeat_syn_ack(stack: Stack, tcb: Tcb, now: int) -> None:
    """The SYN came again, so our SYN,ACK was lost: it says all that an ACK would."""
    if may_challenge(tcb, now):
        stack.counters["tcp_retrans_segs"] += 1
        tcb.rtt.timed_seq = None
        send_syn(stack, tcb, now)


def _time_wait_repeat(stack: Stack, tcb: Tcb, header: TcpHeader, now: int) -> None:
    """A FIN that comes again: its acknowledgement was lost, so the 2 MSL begin again."""
    if header.flags & FIN:
        stack.arm(tcb, LEFT_OVER, now + stack.cfg.time_wait)
        tcb.ack_now = True
    else:
        challenge(stack, tcb, now)


def _check_reset(stack: Stack, tcb: Tcb, header: TcpHeader, now: int) -> bool:
    """Second: only a RST at exactly RCV.NXT counts (RFC 5961 3.2)."""
    if header.seq != tcb.rcv_nxt:
        challenge(stack, tcb, now)
    elif tcb.state == TIME_WAIT:
        stack.drop("rst_in_time_wait", now)  # RFC 1337: it must not cut TIME-WAIT short
    elif tcb.state in (CLOSING, LAST_ACK):
        stack.end(tcb, RCV_RST, "", "RST received", now)
    elif tcb.state == SYN_RECEIVED and not tcb.listener:
        stack.end(tcb, RCV_RST, "ECONNREFUSED", "RST received", now)
    else:
        stack.end(tcb, RCV_RST, "ECONNRESET", "RST received", now)
    return False


def _check_syn(stack: Stack, tcb: Tcb, now: int) -> bool:
    """Fourth: a SYN in the window is an error, an attack, or a peer that was started anew and
    will answer the challenge with RST (RFC 5961 4.2)."""
    if tcb.state == SYN_RECEIVED and tcb.listener:
        stack.end(tcb, RCV_SYN, "ECONNRESET", "SYN received", now)
    else:
        challenge(stack, tcb, now)
    return False


def _check_ack(
    stack: Stack, tcb: Tcb, header: TcpHeader, theirs: Options, data: bytes, now: int
) -> bool:
    """Fifth: without ACK the segment is dropped; what it acknowledges leaves the send queue."""
    if not header.flags & ACK:
        stack.drop("no_ack", now)
        return False
    ack = header.ack
    ahead = seq.sub(ack, tcb.snd_una)
    if tcb.syn_unacked:
        if not _ack_of_syn(stack, tcb, header, ahead, now):
            return False
    elif ahead > seq.sub(tcb.snd_nxt, tcb.snd_una) or ahead < -tcb.max_snd_wnd:
        challenge(stack, tcb, now)  # RFC 5961 5.2
        return False
    else:
        window = header.window << tcb.snd_scale
        if tcb.ecn_ect and ahead >= 0:
            ecn.on_ack(stack, tcb, header.flags, ahead, now)
        if ahead > 0:
            sender.acknowledged(stack, tcb, ack, theirs, now)
        elif tcb.sack_ok:
            if ahead == 0 and (theirs.sack or tcb.tlp_end >= 0):
                sack_recovery.on_ack(stack, tcb, theirs, 0, tcb.flight, now)
                tail_loss.schedule(stack, tcb, now)
        elif ahead == 0 and (
            not data
            and tcb.snd_una != tcb.snd_nxt
            and window == tcb.snd_wnd
            and not header.flags & (SYN | FIN)
            and tcb.probe_backoff == 0  # an answer to a probe is none (RFC 5681 section 2)
        ):
            recovery.on_duplicate_ack(stack, tcb, now)
        tcb.probes = 0
        if ahead >= 0:
            sender.update_window(stack, tcb, header.seq, ack, window, ahead > 0)
            if tcb.snd_wnd == 0:
                tcb.retries = 0  # the peer lives, it only has no room (3.8.6.1, MUST-37)
    return not tcb.fin_acked or _ack_of_fin(stack, tcb, now)


def _ack_of_syn(stack: Stack, tcb: Tcb, header: TcpHeader, ahead: int, now: int) -> bool:
    """SYN-RECEIVED (or FIN-WAIT-1 straight from it): the handshake's third segment."""
    if ahead != 1:
        stack.send_reset(header, 0, tcb.remote_address, tcb.local_address)
        return False
    listener = stack.listeners.get(tcb.listener)
    if listener is not None and listener.full:
        # As Linux: the ACK is forgotten, and the SYN,ACK comes again until there is room.
        stack.counters["listen_overflows"] += 1
        stack.drop("accept_queue_full", now)
        return False
    sender.syn_acknowledged(stack, tcb, now)
    tcb.snd_wnd = header.window << tcb.snd_scale
    tcb.max_snd_wnd = max(tcb.max_snd_wnd, tcb.snd_wnd)
    tcb.snd_wl1, tcb.snd_wl2 = header.seq, header.ack
    if listener is not None:
        listener.completed(tcb.id)
    if tcb.state == SYN_RECEIVED:
        _established(stack, tcb, RCV_ACK_OF_SYN, now)
    return True


def _established(stack: Stack, tcb: Tcb, event: str, now: int) -> None:
    stack.change(tcb, event, now)
    autotune.established(stack, tcb, now)
    stack.say_opened(tcb)
    if tcb.keepalive:
        stack.arm(tcb, KEEPALIVE, now + tcb.keep_idle)
    if tcb.fin_offset >= 0:  # closed while in SYN-RECEIVED, with data to send first
        stack.change(tcb, CLOSE, now)
    if tcb.islands:  # text that came with the SYN
        receiver.drain(stack, tcb)
        tcb.ack_now = True


def _ack_of_fin(stack: Stack, tcb: Tcb, now: int) -> bool:
    """Fifth, continued: our FIN is acknowledged."""
    state = tcb.state
    if state == FIN_WAIT_1:
        stack.change(tcb, RCV_ACK_OF_FIN, now)
        stack.over_for_program(tcb)
        if tcb.released:
            user_calls.left_alone(stack, tcb, now)
            return tcb.state != CLOSED
    elif state == CLOSING:
        stack.change(tcb, RCV_ACK_OF_FIN, now)
        _time_wait(stack, tcb, now)
    elif state == LAST_ACK:
        stack.end(tcb, RCV_ACK_OF_FIN, "", "", now)
        return False
    return True


def _check_urgent(stack: Stack, tcb: Tcb, header: TcpHeader) -> None:
    """Sixth: the urgent pointer only moves forward; the data stays in line (RFC 6093)."""
    pointer = seq.add(header.seq, header.urgent)
    stack.counters["tcp_urgent"] += 1
    tcb.rcv_up = seq.largest(tcb.rcv_up, pointer) if tcb.rcv_up else pointer


def _text(stack: Stack, tcb: Tcb, header: TcpHeader, data: bytes, now: int) -> None:
    """Seventh and eighth: the text, and the FIN behind it."""
    flags = header.flags
    if tcb.state not in MAY_RECEIVE:
        if tcb.state == TIME_WAIT and flags & FIN:
            _time_wait_repeat(stack, tcb, header, now)
        return
    start = header.seq if not flags & SYN else seq.add(header.seq, 1)
    if data or flags & FIN:
        if data and tcb.released and seq.gt(seq.add(start, len(data)), tcb.rcv_nxt):
            # RFC 1122 4.2.2.13: nobody will read this, and the peer should know.
            stack.counters["tcp_abort_on_data"] += 1
            stack.end(tcb, RCV_RST, "", "data after close", now, reset=True)
            return
        if tcb.ecn_ok and data:
            ecn.text_arrived(stack, tcb, flags, start, len(data))
        receiver.take(stack, tcb, start, data, bool(flags & FIN), now)
    if tcb.rcv_fin == tcb.rcv_offset and not tcb.rcv_ended:
        _fin(stack, tcb, now)


def _fin(stack: Stack, tcb: Tcb, now: int) -> None:
    """Eighth: the peer's stream has ended."""
    tcb.rcv_ended = True
    tcb.rcv_nxt = seq.add(tcb.rcv_nxt, 1)
    tcb.rcv_wnd = max(tcb.rcv_wnd - 1, 0)
    tcb.ack_now = True
    tcb.islands.clear()
    stack.mark(tcb)
    stack.change(tcb, RCV_FIN, now)
    if tcb.state == TIME_WAIT:
        _time_wait(stack, tcb, now)


def _time_wait(stack: Stack, tcb: Tcb, now: int) -> None:
    """Only the endpoints and the acknowledgement are still needed, for 2 MSL."""
    stack.disarm(tcb, KEEPALIVE)
    stack.orphans.pop(tcb.id, None)
    stack.time_wait[tcb.id] = tcb
    stack.over_for_program(tcb)
    stack.arm(tcb, LEFT_OVER, now + stack.cfg.time_wait)
