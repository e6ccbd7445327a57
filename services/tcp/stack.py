"""What all connections of a host share, and the ways out: segments to ip, messages to app, timers.

The functions of RFC 9293 section 3.10 (`segment_arrives`, `user_calls`, `timeouts`) take a Stack
and a Tcb; `core.TcpLayer` owns the Stack and offers it as a layer.
"""

from __future__ import annotations

import random
from collections import Counter
from typing import TYPE_CHECKING

from plywire import seq
from plywire.app_calls import PATHS
from plywire.isn import InitialSequenceNumbers
from plywire.layer import Output
from plywire.messages import (
    FLAG_DONT_FRAGMENT,
    MAX_CHUNK,
    Closed,
    Credit,
    Data,
    End,
    Message,
    Opened,
    Segment,
)
from plywire.paths import PathTable
from plywire.ports import Ports, Reservation
from plywire.roles import APP, IP
from plywire.timers import Timers
from plywire.wire.ipv4 import PROTOCOL_TCP
from plywire.wire.tcp import (
    ACK,
    ECE,
    FIN,
    MAX_OPTIONS,
    RST,
    SYN,
    TcpHeader,
    encode,
    sack_option,
    timestamps_option,
)
from services.tcp import chrono, user_timeout
from services.tcp.autotune import send_limit
from services.tcp.memory import Memory
from services.tcp.receiver import offer_window
from services.tcp.sack import take_blocks
from services.tcp.states import (
    ABORT,
    CLOSE,
    CLOSE_WAIT,
    CLOSED,
    ESTABLISHED,
    FIN_WAIT_2,
    SYN_RECEIVED,
    SYN_SENT,
    TIME_WAIT,
    TWO_MSL,
    Event,
    State,
    transition,
)
from services.tcp.tcb import DELAYED_ACK, TIMER_KINDS, Key, Tcb

if TYPE_CHECKING:
    from plywire.config import HostConfig
    from plywire.trace import Tracer
    from services.tcp.listener import Listener
    from services.tcp.survival import Survival

COUNTERS = (
    "tcp_active_opens", "tcp_passive_opens", "tcp_attempt_fails", "tcp_estab_resets",
    "tcp_in_segs", "tcp_out_segs", "tcp_retrans_segs", "tcp_in_errs", "tcp_out_rsts",
)  # fmt: skip
"""Counters that are there from the start; the others appear when they first count."""


class Stack:
    """Tables, timers, counters and the output queue of one TCP."""

    __slots__ = (
        "app_generation", "by_handle", "by_id", "cfg", "codepoint", "connections",
        "cookies_until", "counters", "dirty", "host", "isn", "listeners", "listening",
        "memory", "next_handle", "next_id", "now", "orphans", "out", "paths", "ports",
        "reservations", "survival", "time_wait", "timers", "touched", "trace", "tracer",
        "waiting",
    )  # fmt: skip

    def __init__(self, host: HostConfig, rng: random.Random, tracer: Tracer) -> None:
        self.host = host
        self.cfg = host.tcp
        self.tracer = tracer
        self.trace = 0  # of the input that is being worked on
        self.now = 0  # when it came
        self.codepoint = 0  # ECN's two bits of the packet that brought the segment
        self.counters: Counter[str] = Counter(dict.fromkeys(COUNTERS, 0))
        self.memory = Memory(self.cfg.memory, self.counters)
        self.timers = Timers()
        self.out: list[Output] = []
        self.dirty: dict[int, Tcb] = {}  # connections whose app must be told something
        self.connections: dict[Key, Tcb] = {}
        self.by_id: dict[int, Tcb] = {}
        self.by_handle: dict[int, Tcb] = {}
        self.orphans: dict[int, Tcb] = {}  # nobody holds them; the first has been so the longest
        self.time_wait: dict[int, Tcb] = {}  # likewise
        self.listeners: dict[int, Listener] = {}  # by handle
        self.listening: dict[tuple[bytes, int], Listener] = {}  # the same by address and port
        self.reservations: dict[int, Reservation] = {}  # bound, and neither listening nor connected
        self.waiting: dict[int, tuple] = {}  # Connects before the first Paths, by handle
        self.paths = PathTable(host)
        self.isn = InitialSequenceNumbers(rng.randbytes(32))
        self.ports = Ports(self.cfg.port_low, self.cfg.port_high, rng.randbytes(32))
        self.app_generation: int | None = None
        self.cookies_until = 0  # an ACK may answer a SYN cookie until then
        self.survival: Survival | None = None
        self.touched: dict[int, Tcb] = {}  # connections that outputs promise something of
        self.next_id = 1
        self.next_handle = 1

    # --- connections ------------------------------------------------------------------------------

    def new_tcb(self, handle: int, key: Key, reuse: bool, state: State = CLOSED) -> Tcb:
        """A block, entered in all tables. One that comes in begins where its listener is."""
        tcb = Tcb(self.cfg)
        tcb.state = state
        tcb.id = self.next_id
        self.next_id += 1
        tcb.handle = handle
        tcb.local_address, tcb.local_port, tcb.remote_address, tcb.remote_port = key
        tcb.reuse = reuse
        tcb.trace = self.trace
        self.enter(tcb)
        if self.survival is not None:
            self.survival.begin(tcb)
        return tcb

    def enter(self, tcb: Tcb) -> None:
        """Make a block findable."""
        self.connections[tcb.key] = tcb
        self.by_id[tcb.id] = tcb
        if tcb.handle:
            self.by_handle[tcb.handle] = tcb
        if tcb.state == TIME_WAIT:
            self.time_wait[tcb.id] = tcb
        elif tcb.released:
            self.orphans[tcb.id] = tcb
        self.ports.connect(tcb.id, tcb.local_address, tcb.local_port, tcb.reuse)

    def odd_handle(self) -> int:
        """A handle for a connection that came in."""
        handle = self.next_handle
        self.next_handle += 2
        return handle

    def remove(self, tcb: Tcb) -> None:
        """Forget a connection: its timers, its buffers, its place in the tables."""
        for kind in TIMER_KINDS:
            self.timers.cancel((tcb.id, kind))
        listener = self.listeners.get(tcb.listener)
        if listener is not None:
            listener.forget(tcb.id)
        self.dirty.pop(tcb.id, None)
        self.memory.forget(tcb)
        self.orphans.pop(tcb.id, None)
        self.time_wait.pop(tcb.id, None)
        self.touched[tcb.id] = tcb
        del self.connections[tcb.key]
        del self.by_id[tcb.id]
        self.by_handle.pop(tcb.handle, None)
        reservation = self.reservations.pop(tcb.handle, None)
        if reservation is not None:
            self.ports.release(reservation)
            self.tables_changed()
        self.ports.disconnect(tcb.id, tcb.local_port)

    def change(self, tcb: Tcb | Listener, event: Event, now: int) -> None:
        """Move a connection or listener through the state table."""
        transition(tcb, event, now, self.tracer, self.trace)

    def end(
        self,
        tcb: Tcb,
        event: Event,
        error: str,
        cause: str,
        now: int,
        reset: bool = False,
    ) -> None:
        """Close a connection at once, tell its program why, and forget it.

        reset: send RST first, which tells the peer (3.10.5).
        """
        if tcb.state in (SYN_SENT, SYN_RECEIVED):
            self.counters["tcp_attempt_fails"] += 1
        elif tcb.state in (ESTABLISHED, CLOSE_WAIT):
            self.counters["tcp_estab_resets"] += 1
        if reset:
            self.send(tcb, RST | ACK, tcb.snd_nxt)
            self.counters["tcp_out_rsts"] += 1
        self.change(tcb, event, now)
        self.say_closed(tcb, error, cause)
        self.remove(tcb)

    def has_room(self, now: int) -> bool:
        """May there be one connection more? The oldest TIME-WAIT goes for it: it has waited longest
        for old duplicates, and else a peer that lets us close first could shut everybody out."""
        if len(self.connections) < self.cfg.max_connections:
            return True
        if not self.time_wait:
            return False
        oldest = next(iter(self.time_wait.values()))
        self.counters["tcp_time_wait_overflow"] += 1
        self.say_closed(oldest, "", "")
        self.change(oldest, TWO_MSL, now)
        self.remove(oldest)
        return True

    def orphaned(self, tcb: Tcb, now: int) -> None:
        """The program has let go of it. A peer that keeps its window closed and answers probes
        could hold it for ever, with all that is in its send queue (RFC 6429); of too many the
        oldest is reset."""
        self.orphans[tcb.id] = tcb
        if len(self.orphans) > self.cfg.max_orphans:
            oldest = next(iter(self.orphans.values()))
            self.counters["tcp_abort_on_memory"] += 1
            self.end(oldest, ABORT, "", "", now, reset=True)

    def abort_all(self, now: int) -> None:
        """RST for every connection, and no listener any more: their program is gone."""
        for listener in list(self.listeners.values()):
            self.ports.release(listener.reservation)
            self.change(listener, CLOSE, now)
        self.listeners.clear()
        self.listening.clear()
        for tcb in list(self.by_id.values()):
            if tcb.state != TIME_WAIT:
                tcb.handle = 0  # nobody is to be told
                self.end(tcb, ABORT, "", "", now, reset=tcb.state != SYN_SENT)
        for reservation in self.reservations.values():
            self.ports.release(reservation)
        self.reservations.clear()
        self.by_handle.clear()
        for handle in self.waiting:
            self.timers.cancel((handle, PATHS))
        self.waiting.clear()

    # --- to ip ------------------------------------------------------------------------------------

    def send(
        self,
        tcb: Tcb,
        flags: int,
        seq_number: int,
        payload: bytes = b"",
        options: bytes = b"",
        tos: int = 0,
    ) -> None:
        """Hand a segment of a connection to ip. It acknowledges all there is (MUST-58)."""
        if flags & SYN:
            window = min(tcb.rcv_wnd, 0xFFFF)  # RFC 7323 2.2: the window of a SYN is never scaled
        else:
            window = offer_window(tcb, self.memory.scarce)
            if tcb.ece_due and not flags & RST:
                flags |= ECE  # RFC 3168 6.1.3: on all of them until CWR comes
            if tcb.ts_on:
                stamp = tcb.timestamp(self.now)
                options = timestamps_option(stamp, tcb.ts_recent if flags & ACK else 0)
            if tcb.sack_ok and (tcb.islands or tcb.dsack is not None) and not flags & RST:
                room = MAX_OPTIONS - len(options)
                if payload:
                    room = min(room, tcb.snd_mss - len(payload))
                if room >= 12:
                    options += sack_option(take_blocks(tcb, (room - 4) >> 3))
        if tcb.uto_due and self.cfg.user_timeout_option:
            options = user_timeout.attach(tcb, flags, payload, options)
        header = TcpHeader(
            tcb.local_port, tcb.remote_port, seq_number, tcb.rcv_nxt if flags & ACK else 0, flags,
            window, 0, options,
        )  # fmt: skip
        src, dst = tcb.local_address, tcb.remote_address
        segment = Segment(
            self.trace or tcb.trace, PROTOCOL_TCP, src, dst, tcb.tos | tos, 0,
            FLAG_DONT_FRAGMENT if tcb.dont_fragment else 0, encode(header, payload, src, dst),
        )  # fmt: skip
        self.out.append(Output(IP, segment))
        self.touched[tcb.id] = tcb
        self.counters["tcp_out_segs"] += 1
        tcb.segs_out += 1
        if flags & ACK:
            tcb.ack_sent = tcb.rcv_nxt
            tcb.ack_now, tcb.ack_pushed = False, 0
            self.timers.cancel((tcb.id, DELAYED_ACK))

    def send_ack(self, tcb: Tcb) -> None:
        """<SEQ=SND.NXT><ACK=RCV.NXT><CTL=ACK>."""
        self.send(tcb, ACK, tcb.snd_nxt)

    def send_reset(self, header: TcpHeader, length: int, src: bytes, dst: bytes) -> None:
        """Answer a segment that no connection wants (3.5.2, group 1 and 2).

        length: of its text, SYN and FIN included; src, dst: where it came from and went to.
        """
        if header.flags & ACK:
            answer = TcpHeader(header.dst_port, header.src_port, header.ack, 0, RST, 0)
        else:
            answer = TcpHeader(header.dst_port, header.src_port, 0,
                               seq.add(header.seq, length), RST | ACK, 0)  # fmt: skip
        segment = Segment(self.trace, PROTOCOL_TCP, dst, src, 0, 0, FLAG_DONT_FRAGMENT,
                          encode(answer, b"", dst, src))  # fmt: skip
        self.out.append(Output(IP, segment))
        self.counters["tcp_out_segs"] += 1
        self.counters["tcp_out_rsts"] += 1

    # --- to app -----------------------------------------------------------------------------------

    def tell(self, message: Message) -> None:
        """Hand a message to the app."""
        self.out.append(Output(APP, message))

    def say_opened(self, tcb: Tcb) -> None:
        """The connection is ESTABLISHED; how far the app may send."""
        tcb.opened = True
        self.touched[tcb.id] = tcb
        tcb.told_limit = send_limit(self, tcb)
        tcb.told_acked = tcb.snd_buf.end
        self.tell(Opened(self.trace, tcb.handle, tcb.listener, tcb.local_address, tcb.local_port,
                         tcb.remote_address, tcb.remote_port, tcb.told_limit))  # fmt: skip

    def say_closed(self, tcb: Tcb, error: str, cause: str) -> None:
        """The program has nothing more to learn of this connection; its handle is free."""
        if not tcb.handle:
            return
        self.flush(tcb)
        if tcb.opened or not tcb.listener:
            self.tell(Closed(self.trace, tcb.handle, error, cause))
            if self.survival is not None:
                self.survival.closed(tcb, error, cause)
        self.by_handle.pop(tcb.handle, None)
        reservation = self.reservations.pop(tcb.handle, None)
        if reservation is not None:
            self.ports.release(reservation)
            self.tables_changed()
        tcb.handle = 0

    def over_for_program(self, tcb: Tcb) -> None:
        """Say Closed as soon as an orderly close needs nothing more of the program: both streams
        have ended, or it has closed its descriptor and our FIN is acknowledged."""
        if tcb.state == TIME_WAIT or (tcb.released and tcb.state == FIN_WAIT_2):
            self.say_closed(tcb, "", "")

    def mark(self, tcb: Tcb) -> None:
        """The app must be told of new data or credit; `flush` does it once for a whole batch."""
        tcb.flush_trace = self.trace
        self.dirty[tcb.id] = self.touched[tcb.id] = tcb

    def flush(self, tcb: Tcb) -> None:
        """Tell the app what is new: bytes in order, the end of the stream, credit."""
        self.dirty.pop(tcb.id, None)
        self.memory.account(tcb)
        if not tcb.opened or not tcb.handle:
            if tcb.released or not tcb.handle:
                tcb.pending.clear()
            return
        trace = tcb.flush_trace
        if tcb.pending:
            data = tcb.pending[0] if len(tcb.pending) == 1 else b"".join(tcb.pending)
            tcb.pending.clear()
            if not tcb.released:
                if tcb.kept is not None and tcb.kept.region is not None:
                    tcb.kept.arrived.append(data)
                offset = tcb.rcv_offset - len(data)
                for at in range(0, len(data), MAX_CHUNK):
                    self.tell(Data(trace, tcb.handle, offset + at, data[at : at + MAX_CHUNK]))
        if tcb.rcv_ended and not tcb.told_end:
            tcb.told_end = True
            if not tcb.released:
                self.tell(End(trace, tcb.handle, tcb.rcv_offset))
        acked = tcb.snd_buf.end
        limit = send_limit(self, tcb)
        grown = limit - tcb.told_limit
        # Credit that only grows is saved up, unless the app may be waiting for it.
        step = tcb.send_buffer >> 2
        if acked != tcb.told_acked or grown >= step or (grown and tcb.told_limit - acked < step):
            tcb.told_acked, tcb.told_limit = acked, limit
            self.tell(Credit(trace, tcb.handle, acked, limit))
            if grown:
                chrono.stop(tcb, chrono.SNDBUF_LIMITED, self.now)

    def flush_all(self) -> None:
        """`flush` for every connection that is marked."""
        for tcb in list(self.dirty.values()):
            self.flush(tcb)

    # --- small things -----------------------------------------------------------------------------

    def arm(self, tcb: Tcb, kind: str, when: int) -> None:
        """Set one of the connection's timers."""
        self.timers.set((tcb.id, kind), when)

    def disarm(self, tcb: Tcb, kind: str) -> None:
        """Stop one of the connection's timers."""
        self.timers.cancel((tcb.id, kind))

    def armed(self, tcb: Tcb, kind: str) -> bool:
        """Is it running?"""
        return (tcb.id, kind) in self.timers

    @property
    def repeated(self) -> bool:
        """What app says it may have said before: this process, or app, stands where one died."""
        return self.survival is not None and self.survival.repeated

    def tables_changed(self) -> None:
        """Who listens, or which port is bound, is not what it was."""
        if self.survival is not None:
            self.survival.tables = True

    def drop(self, reason: str, now: int, packet: bytes = b"") -> None:
        """Count a packet or message that goes nowhere."""
        self.counters["drop_" + reason] += 1
        if self.tracer.enabled:
            self.tracer.drop(now, self.trace, "drop_" + reason, packet)

    def note(self, tcb: Tcb, subject: str, now: int, **fields: int | str) -> None:
        """A line for whoever watches."""
        if self.tracer.enabled:
            self.tracer.note(now, self.trace, subject, handle=tcb.handle, state=tcb.state, **fields)


def sequence_length(header: TcpHeader, data: bytes) -> int:
    """SEG.LEN: the text, and one for SYN and FIN each."""
    return len(data) + (header.flags >> 1 & 1) + (header.flags & FIN)
