"""What must be true of a TCP at every moment, for tests that throw random wires and programs at it.

`Watch` looks at a layer after each of its inputs, at each segment that it sends, and at each new
byte in the moment in which it goes out. tests/tcp/test_invariants.py shows that each check can
fail.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

from plywire import seq
from plywire.messages import Segment
from plywire.roles import IP
from plywire.wire import tcp as wire
from plywire.wire.tcp import ACK, FIN, RST, SYN, parse_options
from services.tcp import sender, states, tail_loss
from services.tcp.core import TcpLayer
from services.tcp.islands import MAX_ISLANDS
from services.tcp.receiver import window_opened
from services.tcp.scoreboard import MAX_SEGMENTS
from services.tcp.stack import PATHS, Stack
from services.tcp.states import (
    CLOSED,
    FIN_WAIT_2,
    LISTEN,
    SYN_RECEIVED,
    SYN_SENT,
    SYNCHRONIZED,
    TIME_WAIT,
    TRANSMITTING,
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
    TIMER_KINDS,
    Tcb,
)

from .harness import Pair

# --- reasons for timers, and ways on --------------------------------------------------------------


def unacked(tcb: Tcb) -> bool:
    """Something is out: SYN, data or FIN."""
    return tcb.syn_unacked or tcb.snd_una != tcb.snd_nxt


def unsent(tcb: Tcb) -> bool:
    """Data or FIN could go out if windows, Nagle and cork let it."""
    if tcb.state not in TRANSMITTING:
        return False
    behind = seq.sub(tcb.snd_cursor, tcb.snd_buf_seq) < len(tcb.snd_buf)
    return behind or (tcb.fin_offset == tcb.snd_buf.end and not tcb.fin_sent)


REASONS: dict[str, Callable[[Tcb], bool]] = {
    RTO: unacked,
    PERSIST: lambda tcb: tcb.state in TRANSMITTING and (unacked(tcb) or unsent(tcb)),
    DELAYED_ACK: lambda tcb: tcb.state in SYNCHRONIZED and tcb.ack_sent != tcb.rcv_nxt,
    KEEPALIVE: lambda tcb: tcb.keepalive and tcb.state != TIME_WAIT,
    CORK: lambda tcb: tcb.cork and unsent(tcb),
    LEFT_OVER: lambda tcb: tcb.state == TIME_WAIT or (tcb.state == FIN_WAIT_2 and tcb.released),
    ECN_WAIT: lambda tcb: tcb.ecn_ect and tcb.state in TRANSMITTING,
    REORDERING: lambda tcb: tcb.sack_ok and bool(tcb.board.segs),
    TAIL_LOSS: lambda tcb: (
        tcb.sack_ok and bool(tcb.board.segs) and tcb.tlp_end < 0 and not tcb.in_loss
    ),
}
"""Timer kind to what must be true while it runs."""

WAYS: dict[str, tuple[Callable[[Tcb], bool], tuple[str, ...]]] = {
    "something is out": (unacked, (RTO, PERSIST)),
    "something is to be sent": (unsent, (RTO, PERSIST, CORK, ECN_WAIT)),
    "an acknowledgement is owed": (
        lambda tcb: tcb.state in SYNCHRONIZED and tcb.ack_sent != tcb.rcv_nxt, (DELAYED_ACK,)
    ),
    "a window update is owed": (
        lambda tcb: (
            tcb.state in SYNCHRONIZED
            and not tcb.syn_unacked
            and not tcb.rcv_ended
            and tcb.rcv_wnd < tcb.rcv_mss
            and window_opened(tcb)
        ),
        (DELAYED_ACK,),
    ),
    "2 MSL pass": (lambda tcb: tcb.state == TIME_WAIT, (LEFT_OVER,)),
    "the peer may never close": (
        lambda tcb: tcb.state == FIN_WAIT_2 and tcb.released, (LEFT_OVER,)
    ),
    "a peer may be gone": (
        lambda tcb: tcb.keepalive and tcb.state in SYNCHRONIZED - {TIME_WAIT}, (KEEPALIVE,)
    ),
}  # fmt: skip
"""What a connection waits for, and the timers of which one must run meanwhile. One that waits for
nothing of this waits for its program, or for a peer that owes it nothing."""


def reachable() -> dict[str, set[str]]:
    """Each state, with all that may follow it in one connection's life, by the table."""
    found = {state: {state} for state in states.STATES}
    for _ in states.STATES:
        for (state, _event), following in states.TABLE.items():
            for reached in found.values():
                if state in reached and state != CLOSED:
                    reached.add(following)
    return found


REACHABLE = reachable()


# --- a connection between two inputs --------------------------------------------------------------


def check_board(tcb: Tcb) -> None:
    """The scoreboard's sums are those of its segments, which lie side by side."""
    board = tcb.board
    segs = board.segs
    assert len(segs) <= MAX_SEGMENTS + 1  # a tail loss probe
    size = sacked = sacked_count = lost = again = to_send = 0
    at = segs[0].start if segs else 0
    runs: list[list[int]] = []
    for seg in segs:
        assert at == seg.start < seg.end, "segments side by side"
        at = seg.end
        size = seg.end - seg.start
        if seg.sacked:
            assert True not in (seg.lost, seg.again)
            sacked += size
            sacked_count += 1
            if runs and runs[-1][1] == seg.start:
                runs[-1][1] = seg.end
            else:
                runs.append([seg.start, seg.end])
        if seg.again:
            again += size
        if seg.lost:
            lost += size
            if not seg.again:
                to_send += size
                assert seg.start >= board.first_lost
    if segs:
        assert (board.una, board.nxt) == (segs[0].start, segs[-1].end)
    assert (board.sacked, board.sacked_count) == (sacked, sacked_count)
    assert (board.lost, board.again, board.to_send) == (lost, again, to_send)
    assert [[max(start, board.una), end] for start, end in board.runs] == runs
    assert board.pipe >= 0
    assert board.nxt - board.una == tcb.flight


def check_numbers(tcb: Tcb) -> None:
    """SND.UNA =< SND.NXT, and what lies between is in the send buffer; likewise what is offered."""
    assert seq.le(tcb.snd_una, tcb.snd_nxt), "SND.UNA =< SND.NXT"
    if not tcb.syn_unacked:
        assert seq.le(tcb.snd_una, tcb.snd_cursor)
    assert seq.le(tcb.snd_cursor, tcb.snd_nxt)
    assert tcb.flight <= len(tcb.snd_buf) + 1, "what is out is kept"  # SYN or FIN
    assert tcb.cc.cwnd > 0 or tcb.syn_unacked
    assert tcb.rcv_wnd >= 0
    assert not tcb.ack_now, "what is owed at once has gone"


def check_bounds(tcb: Tcb) -> None:
    """Buffers within what was granted; islands sorted and apart."""
    granted = max(tcb.told_limit, tcb.snd_buf.start + tcb.send_buffer)
    assert tcb.snd_buf.end <= granted, "the send buffer"
    room = max(tcb.rcv_limit - tcb.rcv_offset, 0)
    assert tcb.rcv_wnd <= room, "no more is offered than the program has room for"
    islands = tcb.islands
    assert len(islands) <= MAX_ISLANDS
    assert all(one.end < two.start for one, two in pairwise(islands)), "islands apart"
    assert sum(island.end - island.start for island in islands) <= room, "the receive buffer"
    if islands:
        assert islands[0].start >= tcb.rcv_offset
        assert islands[-1].end <= tcb.rcv_limit


def check_timers(stack: Stack, tcb: Tcb) -> None:
    """Every timer has a reason, and whoever waits has a timer."""
    armed = {kind for kind in TIMER_KINDS if stack.armed(tcb, kind)}
    for kind in armed:
        assert REASONS[kind](tcb), f"no reason for {kind} in {tcb.state}"
    for waits, (holds, kinds) in WAYS.items():
        assert not holds(tcb) or armed & set(kinds), f"no way on: {waits} in {tcb.state}"


def check_connection(stack: Stack, tcb: Tcb) -> None:
    """All of it."""
    assert tcb.state not in (CLOSED, LISTEN)
    assert stack.connections[tcb.key] is tcb
    check_numbers(tcb)
    check_bounds(tcb)
    check_timers(stack, tcb)
    if tcb.sack_ok and not tcb.syn_unacked:
        check_board(tcb)


def check_stack(stack: Stack) -> None:
    """The tables say the same, and timers belong to somebody."""
    assert len(stack.by_id) == len(stack.connections)
    for owner, kind in (key for key, _ in stack.timers.items()):
        assert owner in (stack.waiting if kind == PATHS else stack.by_id)
    assert set(stack.time_wait) == {
        tcb.id for tcb in stack.by_id.values() if tcb.state == TIME_WAIT
    }
    assert set(stack.orphans) == {
        tcb.id for tcb in stack.by_id.values() if tcb.released and tcb.state != TIME_WAIT
    }
    for tcb in stack.by_id.values():
        check_connection(stack, tcb)


def check(pair: Pair) -> None:
    """Of every connection of both sides."""
    for end in pair.ends:
        check_stack(end.layer.stack)


# --- the moment of sending ------------------------------------------------------------------------


def check_new_data(tcb: Tcb, offset: int, length: int, fin: bool, probe: bool) -> None:
    """New data goes out: in flight is no more than min(cwnd, rwnd) then, it included.

    probe: a tail loss probe, which cwnd does not hold (RFC 8985 7.3). Without SACK the first two
    duplicate ACKs let one segment out each (limited transmit, RFC 3042).
    """
    flight = tcb.flight + length
    assert flight + fin <= tcb.snd_wnd, "beyond the peer's window"
    if probe:
        return
    if tcb.sack_ok:
        assert tcb.board.pipe + length <= tcb.cc.cwnd, "pipe beyond cwnd"
    else:
        limited = tcb.dup_acks * tcb.snd_mss if tcb.dup_acks < 3 and not tcb.in_recovery else 0
        assert flight <= tcb.cc.cwnd + limited, "flight beyond cwnd"


def watch_sending() -> Callable[[], None]:
    """Have `check_new_data` called at each new segment, of all layers; call the result to stop."""
    plain = sender.send_next
    if getattr(plain, "watched", False):
        return lambda: None

    def watched(probe: bool) -> Callable[..., None]:
        def send_next(stack, tcb, offset, length, fin, now) -> None:
            if tcb.snd_cursor == tcb.snd_nxt:
                check_new_data(tcb, offset, length, fin, probe)
            plain(stack, tcb, offset, length, fin, now)

        send_next.watched = True
        return send_next

    sender.send_next, tail_loss.send_next = watched(False), watched(True)

    def stop() -> None:
        sender.send_next = tail_loss.send_next = plain

    return stop


# --- the wire -------------------------------------------------------------------------------------


class Flow:
    """One connection as its segments show it, from one side: what it sent, and what it could know.

    Offsets in here count from the initial sequence numbers and do not wrap.
    """

    def __init__(self, iss: int) -> None:
        self.iss = iss
        self.irs: int | None = None
        self.scale = self.peer_scale = 0
        self.edge = 0  # the furthest that was offered
        self.peer_edge = 0  # the furthest that the peer's segments offered
        self.acked = 0
        self.sent = 0  # how far data and FIN went
        self.ended: int | None = None
        self.clock: int | None = None  # the last TSval and TSecr
        self.echo: int | None = None
        self.offers: list[object] = [None, None]  # window scale in our SYN, and in theirs
        self.peer_mss = 536
        self.stream = bytearray()

    def scaled(self) -> tuple[int, int]:
        """The shifts of our windows and of theirs: both SYNs must have the option."""
        ours, theirs = self.offers
        return (ours, theirs) if ours is not None and theirs is not None else (0, 0)

    def received(self, header: wire.TcpHeader) -> None:
        """A segment came, whole: what the peer offers by it."""
        options = parse_options(header.options)
        if header.flags & SYN:
            if self.irs is None:
                self.irs = header.seq
            self.offers[1] = options.window_scale
            self.peer_mss = max(options.mss or 536, 48)
        if header.flags & ACK and not header.flags & RST:
            shift = 0 if header.flags & SYN else self.scaled()[1]
            edge = seq.sub(header.ack, self.iss) + (header.window << shift)
            self.peer_edge = max(self.peer_edge, edge)
        elif header.flags & SYN:  # of a simultaneous open: it acknowledges nothing yet
            self.peer_edge = max(self.peer_edge, 1 + header.window)

    def transmitted(self, header: wire.TcpHeader, data: bytes) -> None:
        """A segment goes out: is it one that may?"""
        flags = header.flags
        options = parse_options(header.options)
        if flags & SYN:
            assert header.seq == self.iss, "one SYN, one number"
            self.offers[0] = options.window_scale
        if flags & ACK:
            self._acknowledgement(header, options)
        if options.timestamps is not None and not flags & RST:
            clock, echo = options.timestamps
            assert self.clock is None or seq.ge(clock, self.clock), "TSval went back"
            self.clock = clock
            if flags & ACK:
                assert self.echo is None or seq.ge(echo, self.echo), "TSecr went back"
                self.echo = echo
        if data or flags & FIN:
            self._text(header, data)

    def _acknowledgement(self, header: wire.TcpHeader, options: wire.Options) -> None:
        assert self.irs is not None, "acknowledges what never came"
        ack = seq.sub(header.ack, self.irs)
        assert ack >= self.acked, "the acknowledgement went back"
        self.acked = ack
        if header.flags & RST:
            return
        shift = 0 if header.flags & SYN else self.scaled()[0]
        edge = ack + (header.window << shift)
        # RFC 7323 2.4: what scaling rounds off may seem to be taken back.
        assert edge > self.edge - (1 << shift), "the window was taken back"
        self.edge = max(self.edge, edge)
        for index, (left, right) in enumerate(options.sack):
            low, high = seq.sub(left, self.irs), seq.sub(right, self.irs)
            assert low < high <= self.edge, "a block beyond the window"
            assert low > ack or index == 0, "only the first block is a duplicate"

    def _text(self, header: wire.TcpHeader, data: bytes) -> None:
        start = seq.sub(header.seq, self.iss)
        end = start + len(data)
        assert start >= 1
        assert len(data) <= self.peer_mss, "more than the peer's MSS"
        if header.flags & FIN:
            assert self.ended in (None, end), "the stream ends at one place"
            self.ended = end
        assert self.ended is None or end <= self.ended, "data behind FIN"
        limit = self.peer_edge
        if len(data) + bool(header.flags & FIN) == 1 and start == limit:
            limit += 1  # a probe of a closed window (RFC 9293 3.8.6.1)
        assert end + bool(header.flags & FIN) <= max(limit, self.sent), "beyond the peer's edge"
        self.sent = max(self.sent, end + bool(header.flags & FIN))
        at = start - 1
        assert at <= len(self.stream), "a gap"
        known = self.stream[at : at + len(data)]
        assert known == data[: len(known)], "other bytes than the first time"
        self.stream += data[len(known) :]


class Watch:
    """One side's TCP, whichever layer is in its place. every: check the state after so many
    outputs; segments are checked always."""

    def __init__(self, every: int = 1) -> None:
        self.every = every
        self.count = 0
        self.flows: dict[tuple, Flow] = {}
        self.states: dict[int, str] = {}
        self.checked = 0

    def attach(self, layer: TcpLayer) -> None:
        """Look at this layer from now on."""
        receive, outputs = layer.receive, layer.outputs

        def watched_receive(message, source, now) -> None:
            broken = layer.counters["tcp_in_errs"]
            receive(message, source, now)
            if isinstance(message, Segment) and layer.counters["tcp_in_errs"] == broken:
                self._received(message)

        def watched_outputs() -> list:
            found = outputs()
            for output in found:
                if output.to == IP and isinstance(output.message, Segment):
                    self._transmitted(output.message)
            self._check(layer.stack)
            return found

        layer.receive, layer.outputs = watched_receive, watched_outputs

    def _received(self, message: Segment) -> None:
        header, _ = wire.decode_unchecked(message.payload)
        flow = self.flows.get((message.dst, header.dst_port, message.src, header.src_port))
        if flow is not None:
            flow.received(header)
        elif header.flags & (SYN | ACK | RST) == SYN:
            flow = Flow(-1)
            flow.received(header)
            self.flows[message.dst, header.dst_port, message.src, header.src_port] = flow

    def _transmitted(self, message: Segment) -> None:
        header, data = wire.decode_unchecked(message.payload)
        key = (message.src, header.src_port, message.dst, header.dst_port)
        flow = self.flows.get(key)
        if header.flags & SYN and (flow is None or flow.iss < 0):
            before, flow = flow, Flow(header.seq)
            if before is not None:
                flow.irs, flow.offers, flow.peer_mss = before.irs, before.offers, before.peer_mss
            self.flows[key] = flow
        if flow is not None and flow.iss >= 0 and not (header.flags & RST):
            flow.transmitted(header, data)

    def _check(self, stack: Stack) -> None:
        self.count += 1
        if self.count % self.every:
            return
        self.checked += 1
        check_stack(stack)
        for tcb in stack.by_id.values():
            before = self.states.get(tcb.id, SYN_SENT if not tcb.listener else SYN_RECEIVED)
            assert tcb.state in REACHABLE[before], f"{before} became {tcb.state}"
            self.states[tcb.id] = tcb.state
