"""What happens when a timer of a connection runs out (RFC 9293 section 3.10.8 and 3.8)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from plywire import seq
from plywire.wire.tcp import ACK
from services.tcp import ecn, recovery, sack_recovery, tail_loss
from services.tcp.congestion import INFINITE
from services.tcp.sender import push
from services.tcp.states import (
    CLOSED,
    FIN_WAIT_2,
    GIVE_UP,
    SYN_RECEIVED,
    SYN_SENT,
    TIME_WAIT,
    TRANSMITTING,
    TWO_MSL,
)
from services.tcp.tcb import (
    CORK,
    DELAYED_ACK,
    ECN_WAIT,
    KEEPALIVE,
    LEFT_OVER,
    PERSIST,
    REORDERING,
    RTO,
    TAIL_LOSS,
    Tcb,
)
from services.tcp.transmit import probe, retransmit_first

if TYPE_CHECKING:
    from services.tcp.stack import Stack


_THIN_SEGMENTS = 4
_THIN_RETRIES = 6


def timeout(stack: Stack, tcb: Tcb, kind: str, now: int) -> None:
    """Run one timer of one connection."""
    _HANDLERS[kind](stack, tcb, now)


def _retransmission(stack: Stack, tcb: Tcb, now: int) -> None:
    """RFC 6298 5.4 to 5.6, and R2 of RFC 9293 3.8.3."""
    # As Linux: a timeout of the program's takes the place of retries2, be it longer or shorter.
    counted = tcb.syn_unacked or not tcb.user_timeout
    if (counted and tcb.retries >= _attempts(stack, tcb)) or _user_timeout(tcb, now):
        _give_up(stack, tcb, now)
        return
    stack.counters["tcp_timeouts"] += 1
    stack.note(tcb, "retransmission timeout", now, seq=tcb.snd_una, rto_us=tcb.rtt.rto // 1000)
    if tcb.syn_unacked:
        tcb.rtt.back_off()
        tcb.syn_retransmits += 1
        retransmit_first(stack, tcb, now)
    else:
        engine = sack_recovery if tcb.sack_ok else recovery
        thin = _is_thin(tcb)
        engine.on_timeout(stack, tcb, now)
        ecn.reduced(tcb)
        if not thin:
            tcb.rtt.back_off()
    tcb.retries += 1
    when = now + tcb.rtt.rto
    if tcb.user_timeout:
        when = max(min(when, tcb.una_time + tcb.user_timeout), now + 1_000_000)
    stack.arm(tcb, RTO, when)


def _is_thin(tcb: Tcb) -> bool:
    """Linux's TCP_THIN_LINEAR_TIMEOUTS, where a program or the host wants it: with less than four
    segments in flight, and not in the first slow start, six timeouts go without back-off."""
    return (
        tcb.thin_linear
        and tcb.retries < _THIN_RETRIES
        and tcb.in_flight < _THIN_SEGMENTS
        and tcb.cc.ssthresh < INFINITE
    )


def _attempts(stack: Stack, tcb: Tcb) -> int:
    """How often to try before giving up."""
    if tcb.syn_unacked:
        return tcb.syn_count if tcb.state == SYN_SENT else stack.cfg.synack_retries
    return stack.cfg.orphan_retries if tcb.released else stack.cfg.retries2


def _user_timeout(tcb: Tcb, now: int) -> bool:
    return 0 < tcb.user_timeout <= now - tcb.una_time


def _give_up(stack: Stack, tcb: Tcb, now: int) -> None:
    """ETIMEDOUT, or what routers had to say meanwhile (RFC 1122 4.2.3.9), as Linux."""
    error = tcb.soft_error or "ETIMEDOUT"
    what = "SYN" if tcb.state in (SYN_SENT, SYN_RECEIVED) else "data"
    cause = tcb.soft_cause or f"no acknowledgement of {what}"
    stack.end(tcb, GIVE_UP, error, cause, now)


def _persist(stack: Stack, tcb: Tcb, now: int) -> None:
    """3.8.6.1: ask a closed window again and again, less and less often."""
    if tcb.state not in TRANSMITTING or stack.armed(tcb, RTO):
        return
    unsent = tcb.snd_buf.end > tcb.snd_buf.start or tcb.fin_offset == tcb.snd_buf.end
    if not unsent or tcb.fin_acked:
        return
    limit = stack.cfg.orphan_retries if tcb.released else stack.cfg.retries2
    if tcb.probes >= limit or (tcb.probes and _user_timeout(tcb, now)):
        _give_up(stack, tcb, now)
        return
    if tcb.snd_wnd > seq.sub(tcb.snd_cursor, tcb.snd_una):
        push(stack, tcb, now, override=True)
        if stack.armed(tcb, RTO):
            return
    probe(stack, tcb, now)
    tcb.probes += 1
    tcb.probe_backoff += 1
    wait = min(tcb.rtt.rto << min(tcb.probe_backoff, 20), stack.cfg.rto_max)
    stack.arm(tcb, PERSIST, now + wait)


def _delayed_ack(stack: Stack, tcb: Tcb, now: int) -> None:
    stack.counters["tcp_delayed_acks"] += 1
    tcb.pingpong = False  # no answer came that it could ride on
    stack.send_ack(tcb)


def _cork(stack: Stack, tcb: Tcb, now: int) -> None:
    push(stack, tcb, now, override=True)


def _keepalive(stack: Stack, tcb: Tcb, now: int) -> None:
    """RFC 9293 3.8.4: a segment before the window makes a living peer answer."""
    if not tcb.keepalive or tcb.state in (SYN_SENT, SYN_RECEIVED, TIME_WAIT, CLOSED):
        return
    if tcb.snd_una != tcb.snd_nxt:  # data in flight finds out by itself
        stack.arm(tcb, KEEPALIVE, now + tcb.keep_idle)
        return
    silent = now - tcb.last_receive
    if silent < tcb.keep_idle:
        stack.arm(tcb, KEEPALIVE, tcb.last_receive + tcb.keep_idle)
        return
    if tcb.keep_probes >= tcb.keep_count or (tcb.keep_probes and 0 < tcb.user_timeout <= silent):
        error = tcb.soft_error or "ETIMEDOUT"
        cause = tcb.soft_cause or "no answer to keep-alive probes"
        stack.end(tcb, GIVE_UP, error, cause, now, reset=True)
        return
    tcb.keep_probes += 1
    stack.counters["tcp_keep_alive"] += 1
    stack.send(tcb, ACK, seq.add(tcb.snd_nxt, -1))
    stack.arm(tcb, KEEPALIVE, now + tcb.keep_interval)


def _reordering(stack: Stack, tcb: Tcb, now: int) -> None:
    sack_recovery.on_reordering_timer(stack, tcb, now)
    push(stack, tcb, now)


def _ecn_wait(stack: Stack, tcb: Tcb, now: int) -> None:
    push(stack, tcb, now)


def _left_over(stack: Stack, tcb: Tcb, now: int) -> None:
    stack.say_closed(tcb, "", "")
    stack.change(tcb, GIVE_UP if tcb.state == FIN_WAIT_2 else TWO_MSL, now)
    stack.remove(tcb)


_HANDLERS = {
    RTO: _retransmission,
    PERSIST: _persist,
    DELAYED_ACK: _delayed_ack,
    CORK: _cork,
    KEEPALIVE: _keepalive,
    LEFT_OVER: _left_over,
    REORDERING: _reordering,
    TAIL_LOSS: tail_loss.probe,
    ECN_WAIT: _ecn_wait,
}
