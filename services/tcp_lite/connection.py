"""The rules that both ends follow, in the order of a connection's life: opened, a pipe, closed.

A peer of any make relies on these and on nothing else (RFC 9293 section 3.10). What is this
stack's own: it sends one segment and waits for its acknowledgement, and what comes out of order is
not kept but asked for again.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from plywire import seq
from plywire.messages import Accepted, Close, Closed, Credit, Data, End, Opened, Option
from plywire.wire import tcp as wire
from plywire.wire.tcp import ACK, FIN, PSH, RST, SYN, Options, TcpHeader
from services.tcp_lite import states
from services.tcp_lite.block import DEFAULT_MSS, Block
from services.tcp_lite.states import FINISHING, OPENING, RECEIVING, SENDING

if TYPE_CHECKING:
    from services.tcp_lite.core import TcpLite

_HEADERS = 40  # IPv4's and TCP's, without options
_MIN_MSS = 48  # less would be mostly headers, and 0 would be nothing for ever
_MAX_WINDOW = 0xFFFF
_LATER_RTO = 3_000_000_000  # RFC 6298 5.7: after a SYN that had to be sent twice
_CHALLENGE_PAUSE = 100_000_000  # RFC 5961 section 7: so long from one challenge to the next
_MAX_BACKOFF = 16


class Connection(Block):
    """A control block and what is done with it."""

    __slots__ = ("layer",)

    def __init__(self, layer: TcpLite, **fields: object) -> None:
        super().__init__(**fields)
        self.layer = layer

    # --- opened: SYN, SYN+ACK, ACK ----------------------------------------------------------------

    def open(self, mtu: int, limit: int, now: int, syn: TcpHeader | None = None) -> None:
        """OPEN (3.10.1): buffers and a sequence number from now on; then SYN, or SYN,ACK when the
        block is made for a listener that got `syn` (3.10.7.2)."""
        cfg = self.layer.cfg
        self.iss = self.snd_una = self.layer.isn.choose(*self.key, now)
        self.snd_nxt = seq.add(self.iss, 1)
        self.send_buffer, self.base, self.timed_at = cfg.send_buffer, cfg.rto_initial, now
        self.rcv_limit, self.rcv_wnd = limit, min(limit, _MAX_WINDOW)
        self.rcv_mss = max(mtu - _HEADERS, DEFAULT_MSS)
        if syn is not None:
            self._take_syn(syn)
            self.state = states.LISTEN
        self.layer.counters["tcp_passive_opens" if syn else "tcp_active_opens"] += 1
        self.change(states.RCV_SYN if syn else states.ACTIVE_OPEN, now)
        self._send_syn(now)

    def _send_syn(self, now: int) -> None:
        flags = SYN if self.state == states.SYN_SENT else SYN | ACK
        self._send(flags, self.iss, b"", wire.build_options(Options(mss=self.rcv_mss)))
        self._wait(self.rto(self.layer.cfg), now)

    def _take_syn(self, header: TcpHeader) -> None:
        """Text on a SYN is not taken; it comes again, since it is not acknowledged."""
        theirs = wire.parse_options(header.options).mss  # may raise, before anything is changed
        self.irs, self.rcv_nxt = header.seq, seq.add(header.seq, 1)
        self.snd_mss = min(DEFAULT_MSS if theirs is None else max(theirs, _MIN_MSS), self.rcv_mss)
        self._set_window(header)

    def _answer_to_syn(self, header: TcpHeader, now: int) -> None:
        """3.10.7.3: what comes in SYN-SENT."""
        flags, layer = header.flags, self.layer
        if flags & ACK and header.ack != self.snd_nxt:
            if not flags & RST:
                layer.reset(header, 0, self.remote_address, self.local_address)
        elif flags & RST and flags & ACK:
            self.end(states.RCV_RST, now, "ECONNREFUSED", "RST received")
        elif flags & RST or not flags & SYN:
            layer.drop("useless_in_syn_sent", now)
        else:
            self._take_syn(header)
            if flags & ACK:
                self._acknowledged(header.ack, now)
                self._established(states.RCV_SYN_ACK, now)
                self.ack_due = True
            else:  # a SYN that crosses ours: figure 7
                self.timed_at, self.retries = None, 0
                self.change(states.RCV_SYN, now)
                self._send_syn(now)

    def _established(self, event: str, now: int) -> None:
        self.change(event, now)
        self.opened = True
        if not self.released:
            self._tell(Opened, self.listener, *self.key, self.snd_offset + self.send_buffer)
        if self.closing:  # the program was quicker than the peer
            self.change(states.CLOSE, now)

    def accepted(self, message: Accepted, now: int) -> None:
        """A program has taken it."""
        self.queued = False

    def option(self, message: Option, now: int) -> None:
        """No option changes what this TCP does; app keeps what programs read back."""

    # --- a pipe: sending one segment and waiting for its acknowledgement --------------------------

    def write(self, message: Data, now: int) -> None:
        """SEND (3.10.2). What the buffer has already is passed over."""
        offset, data = message.offset, message.payload
        end = self.snd_offset + len(self.snd_buf)
        if self.closing or offset > end or offset + len(data) > self.snd_offset + self.send_buffer:
            self.layer.drop("data_beyond_credit", now)
            return
        self.trace = message.trace
        self.snd_buf += data[end - offset :]
        self._tell_credit()
        self._push(now)

    def _push(self, now: int) -> None:
        """Send the next segment, unless one is under way."""
        due = self.snd_buf or self.state in FINISHING
        if self.waiting or not due or self.state not in SENDING:
            return
        probing = self.key in self.layer.timers
        room = self._room()
        if room:
            self.backoff = 0 if probing else self.backoff  # a closed window was no congestion
            self._send_first(room, now)
            self.waiting = True
        elif not probing:
            self._wait(self.rto(self.layer.cfg), now)  # then probe (3.8.6.1)

    def _room(self) -> int:
        """How much of the peer's window may be used; 0 when it is silly (3.8.6.2.1, MUST-38)."""
        wanted = min(len(self.snd_buf), self.snd_mss) or 1
        worth = self.snd_wnd >= wanted or 2 * self.snd_wnd >= self.max_snd_wnd
        return self.snd_wnd if worth else 0

    def _send_first(self, room: int, now: int) -> None:
        """Send the segment that begins at SND.UNA: there is no other, new or again."""
        length = min(len(self.snd_buf), self.snd_mss, room)
        last = length == len(self.snd_buf)
        fin = last and self.state in FINISHING and length < room
        again = self.snd_nxt != self.snd_una
        self.timed_at = None if again else now  # Karn: which of the two is acknowledged?
        self.snd_nxt = seq.largest(self.snd_nxt, seq.add(self.snd_una, length + fin))
        self.fin_sent |= fin
        flags = ACK | (PSH if last and length else 0) | (FIN if fin else 0)
        self._send(flags, self.snd_una, self.snd_buf[:length])
        self._count_again(again)
        self._wait(self.rto(self.layer.cfg), now)

    def _acknowledged(self, ack: int, now: int) -> None:
        """SND.UNA < SEG.ACK =< SND.NXT: the segment has arrived, or the front of it."""
        if self.timed_at is not None and ack == self.snd_nxt:
            self.measured(now - self.timed_at, self.layer.cfg)
        elif self.state in OPENING:
            self.base, self.backoff = _LATER_RTO, 0
        if self.state not in OPENING:
            count = min(seq.sub(ack, self.snd_una), len(self.snd_buf))  # FIN is not in there
            self.snd_buf = self.snd_buf[count:]
            self.snd_offset += count
        self.snd_una, self.waiting, self.timed_at, self.retries = ack, False, None, 0
        self.layer.timers.cancel(self.key)
        self._tell_credit()

    def _set_window(self, header: TcpHeader) -> None:
        self.snd_wnd, self.snd_wl1, self.snd_wl2 = header.window, header.seq, header.ack
        self.max_snd_wnd = max(self.max_snd_wnd, header.window)

    # --- a pipe: receiving ------------------------------------------------------------------------

    def read(self, message: Credit, now: int) -> None:
        """RECEIVE (3.10.3): the program has read up to `acked`; there is room up to `limit`."""
        if message.acked > self.rcv_offset:
            self.layer.drop("credit_beyond_stream", now)
            return
        self.rcv_acked = max(self.rcv_acked, message.acked)
        self.rcv_limit = max(self.rcv_limit, message.limit)
        if self.state in RECEIVING and self._offer() >= max(2 * self.rcv_wnd, 1):
            self._send(ACK, self.snd_nxt)  # the peer may be waiting for it

    def _offer(self) -> int:
        """The window for the next segment. Its right edge stays until it can move by a segment or
        half the buffer (3.8.6.2.2, MUST-39), and never moves back."""
        free = min(self.rcv_limit - self.rcv_offset, _MAX_WINDOW)
        worth = min(self.rcv_mss, (self.rcv_limit - self.rcv_acked) // 2)
        return free if free - self.rcv_wnd >= worth else self.rcv_wnd

    def _text(self, header: TcpHeader, data: bytes, now: int) -> None:
        """Seventh and eighth: the next bytes of the stream go to the program, then its end."""
        fin = header.flags & FIN
        if self.state not in RECEIVING or not (data or fin):
            return
        self.ack_due = True  # at once: the peer may wait for it as we do
        repeated = seq.sub(self.rcv_nxt, header.seq)
        if repeated < 0:
            self.layer.drop("out_of_order", now)
            return
        new = data[repeated : repeated + self.rcv_wnd]
        if new and self.released:
            self.abort(now, "data after close")  # RFC 1122 4.2.2.13
            return
        if new:
            self._tell(Data, self.rcv_offset, new)
            self.rcv_offset += len(new)
            self.rcv_nxt = seq.add(self.rcv_nxt, len(new))
            self.rcv_wnd -= len(new)
        if fin and repeated + len(new) == len(data):
            self.rcv_nxt = seq.add(self.rcv_nxt, 1)
            if not self.released:
                self._tell(End, self.rcv_offset)
            self.change(states.RCV_FIN, now)
            self._left_over(now)

    # --- closed: FIN, ACK, FIN, ACK ---------------------------------------------------------------

    def shut(self, message: End | Close, now: int) -> None:
        """CLOSE (3.10.4) of our half: FIN behind the last byte."""
        if self.closing:
            return
        if message.offset != self.snd_offset + len(self.snd_buf):
            self.layer.drop("end_elsewhere", now)
            return
        self.trace, self.closing = message.trace, True
        if self.state in (states.ESTABLISHED, states.CLOSE_WAIT):
            self.change(states.CLOSE, now)
            self._push(now)

    def close(self, message: Close, now: int) -> None:
        """The program has let go of the descriptor; a stream that would lack its end is reset."""
        self.queued = False
        if self.state == states.SYN_SENT:
            self.end(states.CLOSE, now)
            return
        if not message.abort:
            self.shut(message, now)
        if message.abort or not self.closing:
            self.abort(now)
        else:
            self.released = True
            self._left_over(now)

    def abort(self, now: int, cause: str = "") -> None:
        """ABORT (3.10.5): RST, and nothing is left."""
        if self.state != states.SYN_SENT:
            self._send(RST | ACK, self.snd_nxt)
            self.layer.counters["tcp_out_rsts"] += 1
        self.end(states.ABORT, now, "", cause)

    def _left_over(self, now: int) -> None:
        """The program has nothing more to learn; the block outlives that by 2 MSL, or until the
        peer closes, but not for ever."""
        cfg = self.layer.cfg
        if self.state == states.TIME_WAIT or (self.state == states.FIN_WAIT_2 and self.released):
            self._say_closed("", "")
            self._wait(cfg.time_wait if self.state == states.TIME_WAIT else cfg.fin_wait_2, now)

    def end(self, event: str, now: int, error: str = "", cause: str = "") -> None:
        """To CLOSED at once; the program hears why."""
        self.snd_buf = b""
        self.change(event, now)
        self._say_closed(error, cause)
        self.layer.forget(self)

    def _say_closed(self, error: str, cause: str) -> None:
        if self.opened or not self.listener:
            self._tell(Closed, error, cause)
        self.layer.release(self)

    # --- a segment arrives: 3.10.7.4, step by step ------------------------------------------------

    def segment(self, header: TcpHeader, data: bytes, now: int) -> None:
        """A segment for this connection; afterwards what has become possible is sent."""
        self.segs_in += 1
        if self.state == states.SYN_SENT:
            self._answer_to_syn(header, now)
        elif (
            self._check_sequence(header, len(data), now)
            and self._check_flags(header, now)
            and self._check_ack(header, now)
        ):
            self._text(header, data, now)
        if self.state != states.CLOSED:
            self._push(now)
            if self.ack_due:
                self._send(ACK, self.snd_nxt)

    def _check_sequence(self, header: TcpHeader, length: int, now: int) -> bool:
        """First: is any of it in the window? (table 6)"""
        flags, window = header.flags, self.rcv_wnd
        length += bool(flags & SYN) + (flags & FIN)
        ahead = seq.sub(header.seq, self.rcv_nxt)
        if ahead == 0 and (length == 0 or flags & (ACK | RST)):
            return True  # with a closed window too: then no text is taken
        if 0 <= ahead < window or (length and 0 <= ahead + length - 1 < window):
            return True
        if flags & RST:
            self.layer.drop("rst_outside_window", now)
        elif length:
            self.ack_due = True  # a repeat: our acknowledgement was lost
            if self.state == states.TIME_WAIT and flags & FIN:
                self._left_over(now)  # the 2 MSL begin again
        else:
            self._challenge(now)
        return False

    def _check_flags(self, header: TcpHeader, now: int) -> bool:
        """Second: RST counts at exactly RCV.NXT (RFC 5961 3.2). Fourth: SYN has no business in the
        window (4.2). Fifth: nothing counts without ACK."""
        flags = header.flags
        if flags & RST and header.seq == self.rcv_nxt:
            late = self.state in (states.CLOSING, states.LAST_ACK, states.TIME_WAIT)
            error = "ECONNREFUSED" if self.state == states.SYN_RECEIVED else "ECONNRESET"
            self.end(states.RCV_RST, now, "" if late else error, "RST received")
        elif flags & SYN and self.state == states.SYN_RECEIVED and self.listener:
            self.end(states.RCV_SYN, now)
        elif flags & (RST | SYN):
            self._challenge(now)
        elif not flags & ACK:
            self.layer.drop("no_ack", now)
        else:
            return True
        return False

    def _check_ack(self, header: TcpHeader, now: int) -> bool:
        """Fifth: what has arrived, and how much more the peer takes."""
        ack = header.ack
        if self.state == states.SYN_RECEIVED:
            if ack != self.snd_nxt:
                self.layer.reset(header, 0, self.remote_address, self.local_address)
                return False
            self._acknowledged(ack, now)
            self._set_window(header)
            self._established(states.RCV_ACK_OF_SYN, now)
            return True
        ahead = seq.sub(ack, self.snd_una)
        if ahead > seq.sub(self.snd_nxt, self.snd_una) or ahead < -self.max_snd_wnd:
            self._challenge(now)  # RFC 5961 5.2
            return False
        if ahead > 0:
            self._acknowledged(ack, now)
        newer = seq.lt(self.snd_wl1, header.seq)
        if ahead >= 0 and (newer or (self.snd_wl1 == header.seq and seq.le(self.snd_wl2, ack))):
            self._set_window(header)
        if ahead == 0 and not self._room():
            self.waiting = False  # there was no room for it; a peer that says so lives (MUST-37)
            self.retries = 0
        if self.fin_sent and self.snd_una == self.snd_nxt:
            if self.state == states.LAST_ACK:
                self.end(states.RCV_ACK_OF_FIN, now)
                return False
            if self.state in FINISHING:
                self.change(states.RCV_ACK_OF_FIN, now)
                self._left_over(now)
        return True

    def _challenge(self, now: int) -> None:
        """ACK what should not have come, so that an honest peer can put itself right."""
        if now >= self.challenge_at:
            self.challenge_at = now + _CHALLENGE_PAUSE
            self.layer.counters["tcp_challenge_ack"] += 1
            self.ack_due = True

    # --- time, and ICMP ---------------------------------------------------------------------------

    def timeout(self, now: int) -> None:
        """The one timer: no answer came, or nothing more is to be waited for (3.10.8)."""
        layer, cfg = self.layer, self.layer.cfg
        tries = cfg.orphan_retries if self.released else cfg.retries2
        if self.state in OPENING:
            tries = cfg.syn_retries if self.state == states.SYN_SENT else cfg.synack_retries
        if self.state == states.TIME_WAIT:
            self.end(states.TWO_MSL, now)
        elif self.state == states.FIN_WAIT_2:
            self.end(states.GIVE_UP, now)
        elif self.retries >= tries:
            error = self.soft_error or "ETIMEDOUT"
            self.end(states.GIVE_UP, now, error, self.soft_cause or "no acknowledgement")
        else:
            layer.counters["tcp_timeouts"] += 1
            if layer.tracer.enabled:
                layer.tracer.note(now, self.trace, "no answer", handle=self.handle,
                                  seq=self.snd_una)  # fmt: skip
            self.retries += 1
            self.backoff = min(self.backoff + 1, _MAX_BACKOFF)
            self.timed_at = None
            if self.state in OPENING:
                self._send_syn(now)
                self._count_again(True)
            else:
                self._send_first(max(self.snd_wnd, 1), now)  # into a closed window: a probe

    def unreachable(self, error: str, cause: str, hard: bool, now: int) -> None:
        """An ICMP error ends an attempt if it is hard, never a connection (RFC 1122 4.2.3.9)."""
        if hard and self.state == states.SYN_SENT:
            self.end(states.RCV_ERROR, now, error, cause)
        else:
            self.soft_error, self.soft_cause = error, cause

    # --- the ways out -----------------------------------------------------------------------------

    def _send(self, flags: int, number: int, data: bytes = b"", options: bytes = b"") -> None:
        """A segment. It acknowledges all there is (MUST-58)."""
        self.rcv_wnd = self._offer()
        ack = self.rcv_nxt if flags & ACK else 0
        header = TcpHeader(
            self.local_port, self.remote_port, number, ack, flags, self.rcv_wnd, 0, options
        )
        self.layer.send(header, data, self.local_address, self.remote_address, self.trace)
        self.segs_out += 1
        self.ack_due = False

    def _wait(self, time: int, now: int) -> None:
        self.layer.timers.set(self.key, now + time)

    def _count_again(self, again: bool) -> None:
        self.retransmits += again
        self.layer.counters["tcp_retrans_segs"] += again
        self.layer.counters["tcp_out_segs"] -= again  # RFC 4022: that one leaves repeats out

    def _tell(self, kind: type, *fields: object) -> None:
        if self.handle:
            self.layer.tell(kind(self.layer.trace or self.trace, self.handle, *fields))

    def _tell_credit(self) -> None:
        """How far the send buffer has the stream, and how far it goes."""
        if self.opened and not self.released:
            end = self.snd_offset + len(self.snd_buf)
            self._tell(Credit, end, self.snd_offset + self.send_buffer)

    def change(self, event: str, now: int) -> None:
        """Every change of state there is."""
        self.layer.change(self, event, now, self.trace)
