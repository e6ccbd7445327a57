"""The invariants of tests/tcp/invariants.py can fail: each by a stack that was broken for it."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from plywire import seq
from plywire.layer import Output
from plywire.messages import Segment
from plywire.roles import IP
from plywire.wire import tcp as wire
from plywire.wire.tcp import ACK, FIN, SYN, Options, TcpHeader
from services.tcp.islands import Island
from services.tcp.states import (
    CLOSE_WAIT,
    ESTABLISHED,
    FIN_WAIT_2,
    SYN_SENT,
    TIME_WAIT,
)
from services.tcp.tcb import TIMER_KINDS, Tcb

from . import invariants
from .harness import LOCAL, REMOTE, SECOND, Peer
from .invariants import REASONS, WAYS, Flow, Watch, check_new_data, check_stack, watch_sending


def busy(**extra: object) -> Peer:
    """A connection with data in flight, some of it reported, some lost, and islands."""
    peer = Peer(sack=True, timestamps=1, **extra)
    peer.write(bytes(10 * 1448))
    peer.advance(SECOND // 100)
    peer.sack((2 * 1448, 4 * 1448), (5 * 1448, 8 * 1448))
    peer.send(ACK, bytes(10), seq=seq.add(peer.snd, 20))
    peer.send(ACK, bytes(10), seq=seq.add(peer.snd, 40))
    return peer


def test_nothing_is_wrong_with_it() -> None:
    peer = busy()
    assert peer.tcb.board.sacked_count == 5
    assert len(peer.tcb.islands) == 2
    check_stack(peer.raw.layer.stack)


def field(name: str, value: Callable[[Tcb], object]) -> Callable[[Tcb], None]:
    return lambda tcb: setattr(tcb, name, value(tcb))


def on_board(name: str, delta: int) -> Callable[[Tcb], None]:
    return lambda tcb: setattr(tcb.board, name, getattr(tcb.board, name) + delta)


def on_segment(name: str, value: object) -> Callable[[Tcb], None]:
    return lambda tcb: setattr(tcb.board.segs[2], name, value)


BROKEN: dict[str, Callable[[Tcb], object]] = {
    "SND.UNA beyond SND.NXT": field("snd_una", lambda tcb: seq.add(tcb.snd_nxt, 1)),
    "the cursor behind SND.UNA": field("snd_cursor", lambda tcb: seq.add(tcb.snd_una, -1)),
    "the cursor beyond SND.NXT": field("snd_cursor", lambda tcb: seq.add(tcb.snd_nxt, 1)),
    "more out than is kept": field("snd_nxt", lambda tcb: seq.add(tcb.snd_nxt, 5000)),
    "no window at all": lambda tcb: setattr(tcb.cc, "cwnd", 0),
    "a negative window": field("rcv_wnd", lambda _: -1),
    "a window that is not there": field("rcv_wnd", lambda tcb: tcb.rcv_limit + 1),
    "an acknowledgement kept back": field("ack_now", lambda _: True),
    "a send buffer beyond its size": lambda tcb: tcb.snd_buf.append(bytes(2 << 20)),
    "islands that touch": lambda tcb: tcb.islands.insert(1, Island(30, b"x")),
    "islands in disorder": lambda tcb: tcb.islands.reverse(),
    "too many islands": lambda tcb: tcb.islands.extend(
        Island(1000 + 2 * at, b"x") for at in range(256)
    ),
    "an island of what was taken": lambda tcb: tcb.islands.insert(0, Island(-9, b"x")),
    "an island beyond the buffer": lambda tcb: tcb.islands.append(Island(tcb.rcv_limit, b"x")),
    "segments apart": lambda tcb: tcb.board.segs.pop(3),
    "segments missing": lambda tcb: tcb.board.segs.pop(),
    "reported and lost": on_segment("lost", True),
    "reported and sent again": on_segment("again", True),
    "sum of reported": on_board("sacked", 1),
    "count of reported": on_board("sacked_count", 1),
    "sum of lost": on_board("lost", 1),
    "sum of sent again": on_board("again", 1),
    "sum of to send": on_board("to_send", 1),
    "a loss before the first": lambda tcb: (
        tcb.board.mark_lost(tcb.board.segs[4]), on_board("first_lost", 1 << 20)(tcb)
    ),
    "runs": lambda tcb: tcb.board.runs.pop(),
    "a state that no connection has": field("state", lambda _: "CLOSED"),
}  # fmt: skip


@pytest.mark.parametrize("what", BROKEN)
def test_a_broken_connection_is_caught(what: str) -> None:
    peer = busy()
    BROKEN[what](peer.tcb)
    with pytest.raises(AssertionError):
        check_stack(peer.raw.layer.stack)


def test_too_long_a_scoreboard_is_caught(monkeypatch) -> None:
    peer = busy()
    monkeypatch.setattr(invariants, "MAX_SEGMENTS", 8)
    with pytest.raises(AssertionError):
        check_stack(peer.raw.layer.stack)


@pytest.mark.parametrize("kind", TIMER_KINDS)
def test_a_timer_without_a_reason_is_caught(kind: str) -> None:
    peer = Peer()  # idle, with nothing to wait for
    stack = peer.raw.layer.stack
    check_stack(stack)
    stack.arm(peer.tcb, kind, peer.raw.now + SECOND)
    with pytest.raises(AssertionError, match=f"no reason for {kind}"):
        check_stack(stack)


def test_every_timer_has_a_reason_in_the_table() -> None:
    assert set(REASONS) == set(TIMER_KINDS)


def owing(what: str) -> Peer:
    """A connection that waits for this, with its timer."""
    peer = Peer()
    raw = peer.raw
    if what == "something is out":
        peer.write(b"x")
    elif what == "something is to be sent":
        raw.option("TCP_CORK", 1)
        peer.write(b"x")
    elif what == "an acknowledgement is owed":
        raw.option("TCP_QUICKACK", 0)
        peer.data(b"x")
    elif what == "a window update is owed":
        peer = Peer(limit=4000)
        peer.raw.option("TCP_QUICKACK", 0)
        for _ in range(3):
            peer.data(bytes(1300))
        peer.raw.layer.stack.arm(peer.tcb, "delayed ack", peer.raw.now + SECOND)
        peer.tcb.rcv_limit += 100_000
        peer.tcb.ack_sent = seq.add(peer.tcb.ack_sent, -1)
    elif what == "2 MSL pass":
        raw.close(0)
        peer.ack(1)
        peer.data(b"", FIN | ACK)
    elif what == "the peer may never close":
        raw.close(0)
        peer.ack(1)
    elif what == "a peer may be gone":
        raw.option("SO_KEEPALIVE", 1)
    return peer


@pytest.mark.parametrize("what", WAYS)
def test_a_connection_without_a_way_on_is_caught(what: str) -> None:
    peer = owing(what)
    stack = peer.raw.layer.stack
    assert WAYS[what][0](peer.tcb)
    check_stack(stack)
    for kind in TIMER_KINDS:
        stack.disarm(peer.tcb, kind)
    if what == "a window update is owed":
        peer.tcb.ack_sent = peer.tcb.rcv_nxt
    with pytest.raises(AssertionError, match=f"no way on: {what}"):
        check_stack(stack)


def test_a_timer_of_nobody_is_caught() -> None:
    peer = Peer()
    peer.raw.layer.stack.timers.set((999, "rto"), 10**12)
    with pytest.raises(AssertionError):
        check_stack(peer.raw.layer.stack)


@pytest.mark.parametrize("table", ["time_wait", "orphans", "connections"])
def test_tables_that_disagree_are_caught(table: str) -> None:
    peer = Peer()
    stack = peer.raw.layer.stack
    if table == "connections":
        stack.connections.clear()
    else:
        getattr(stack, table)[peer.tcb.id] = peer.tcb
    with pytest.raises(AssertionError):
        check_stack(stack)


# --- the moment of sending ------------------------------------------------------------------------


@pytest.mark.parametrize("sack", [True, False])
def test_sending_beyond_cwnd_is_caught(sack: bool) -> None:
    peer = Peer(sack=sack)
    tcb = peer.tcb
    tcb.cc.cwnd = 3000
    check_new_data(tcb, 0, 3000, False, False)
    with pytest.raises(AssertionError, match="beyond cwnd"):
        check_new_data(tcb, 0, 3001, False, False)
    check_new_data(tcb, 0, 3001, False, True)  # a tail loss probe


def test_sending_beyond_the_window_is_caught() -> None:
    peer = Peer(window=2000)
    check_new_data(peer.tcb, 0, 2000, False, False)
    for length, fin in ((2001, False), (2000, True)):
        for probe in (False, True):
            with pytest.raises(AssertionError, match="beyond the peer's window"):
                check_new_data(peer.tcb, 0, length, fin, probe)


def test_limited_transmit_is_two_segments_and_no_more() -> None:
    peer = Peer()
    tcb = peer.tcb
    tcb.cc.cwnd = 3000
    tcb.dup_acks = 2
    check_new_data(tcb, 0, 3000 + 2 * tcb.snd_mss, False, False)
    with pytest.raises(AssertionError, match="beyond cwnd"):
        check_new_data(tcb, 0, 3001 + 2 * tcb.snd_mss, False, False)


def test_each_new_segment_is_looked_at() -> None:
    stop = watch_sending()
    try:
        peer = Peer(sack=True)
        peer.tcb.cc.cwnd = 1460
        peer.write(bytes(1460))
        board = peer.tcb.board
        board.again = -5000  # the pipe seems to be empty for `push`, and is not
        type(board).pipe, plain = property(lambda b: b.nxt - b.una), type(board).pipe
        try:
            peer.tcb.cc.cwnd = 2000
            with pytest.raises(AssertionError, match="pipe beyond cwnd"):
                invariants.sender.send_next(
                    peer.raw.layer.stack, peer.tcb, 1460, 1000, False, peer.raw.now
                )
        finally:
            type(board).pipe = plain
    finally:
        stop()
    assert not hasattr(invariants.sender.send_next, "watched")


# --- the wire -------------------------------------------------------------------------------------


def flow() -> Flow:
    """A handshake and 100 bytes each way; both shifts are 2."""
    found = Flow(1000)
    syn = wire.build_options(Options(1460, 2, True, (), (50, 0)))
    found.transmitted(TcpHeader(1, 2, 1000, 0, SYN, 1000, 0, syn), b"")
    found.received(TcpHeader(2, 1, 5000, 1001, SYN | ACK, 1000, 0, syn))
    found.transmitted(sent(), b"")
    found.transmitted(sent(seq=1001), bytes(100))
    return found


def sent(
    flags: int = ACK, seq: int = 1101, ack: int = 5001, window: int = 500, stamps=(60, 70), sack=()
) -> TcpHeader:
    options = wire.build_options(Options(timestamps=stamps, sack=sack))
    return TcpHeader(1, 2, seq, ack, flags, window, 0, options)


WRONG = {
    "the acknowledgement went back": (sent(ack=5000), b""),
    "the window was taken back": (sent(window=499), b""),
    "TSval went back": (sent(stamps=(59, 70)), b""),
    "TSecr went back": (sent(stamps=(60, 69)), b""),
    "a block beyond the window": (sent(sack=((5100, 9000),)), b""),
    "only the first block is a duplicate": (sent(sack=((5100, 5200), (4900, 5000))), b""),
    "more than the peer's MSS": (sent(), bytes(1461)),
    "beyond the peer's edge": (sent(), bytes(950)),
    "a gap": (sent(seq=1102), b"x"),
    "other bytes than the first time": (sent(seq=1001), b"x"),
    "one SYN, one number": (TcpHeader(1, 2, 1001, 0, SYN, 1000), b""),
}


@pytest.mark.parametrize("what", WRONG)
def test_a_segment_that_may_not_be_is_caught(what: str) -> None:
    flow().transmitted(sent(), bytes(900))  # what may be
    flow().transmitted(sent(sack=((5100, 5200),)), b"")
    with pytest.raises(AssertionError, match=what):
        flow().transmitted(*WRONG[what])


def test_what_comes_after_fin_is_caught() -> None:
    found = flow()
    found.transmitted(sent(FIN | ACK), b"")
    with pytest.raises(AssertionError, match="data behind FIN"):
        found.transmitted(sent(), b"x")
    with pytest.raises(AssertionError, match="the stream ends at one place"):
        found.transmitted(sent(FIN | ACK), b"x")


def test_an_acknowledgement_of_what_never_came_is_caught() -> None:
    found = Flow(1000)
    with pytest.raises(AssertionError, match="never came"):
        found.transmitted(sent(), b"")


def test_a_probe_may_go_one_byte_beyond_a_closed_window() -> None:
    found = flow()
    found.transmitted(sent(), bytes(900))
    found.transmitted(sent(seq=2001), b"x")
    with pytest.raises(AssertionError, match="beyond the peer's edge"):
        found.transmitted(sent(seq=2002), b"x")


# --- the watch itself -----------------------------------------------------------------------------


def watched() -> tuple[Peer, Watch]:
    peer = Peer()
    watch = Watch()
    watch.attach(peer.raw.layer)
    peer.send(ACK)
    peer.take()
    assert watch.checked
    return peer, watch


@pytest.mark.parametrize(
    ("before", "after", "legal"),
    [
        (SYN_SENT, CLOSE_WAIT, True),  # in one step: SYN,ACK with data and FIN
        (TIME_WAIT, ESTABLISHED, False),
        (CLOSE_WAIT, FIN_WAIT_2, False),
        (ESTABLISHED, SYN_SENT, False),
    ],
)
def test_an_order_of_states_that_cannot_be_is_caught(before, after, legal: bool) -> None:
    peer, watch = watched()
    tcb = peer.tcb
    watch.states[tcb.id] = before
    tcb.state = after
    if after == SYN_SENT:
        peer.raw.layer.stack.arm(tcb, "rto", 10**12)
        tcb.snd_una = tcb.iss
    if legal:
        watch._check(peer.raw.layer.stack)
    else:
        with pytest.raises(AssertionError, match=f"{before} became {after}"):
            watch._check(peer.raw.layer.stack)


def test_the_watch_sees_a_connection_from_its_syn_on() -> None:
    peer = Peer(establish=False)
    watch = Watch()
    watch.attach(peer.raw.layer)
    peer.raw.connect(4, 81)
    peer.take()
    (found,) = watch.flows.values()
    assert found.iss == 1000
    (key,) = watch.flows
    payload = wire.encode(TcpHeader(key[1], key[3], 1001, 0, ACK, 0), b"", LOCAL, REMOTE)
    peer.raw.layer.stack.out.append(Output(IP, Segment(0, 6, LOCAL, REMOTE, 0, 0, 0, payload)))
    with pytest.raises(AssertionError, match="never came"):
        peer.raw.layer.outputs()


def test_the_timer_of_a_cork_ends_with_what_it_held_back() -> None:
    """Found by tests/tcp/test_model.py: it went on into FIN-WAIT-2."""
    peer = Peer()
    peer.raw.option("TCP_CORK", 1)
    peer.write(b"x")
    assert peer.raw.layer.stack.armed(peer.tcb, "cork")
    peer.raw.end(1)
    assert peer.only().flags & FIN
    assert not peer.raw.layer.stack.armed(peer.tcb, "cork")


def test_no_probe_timer_is_left_when_the_byte_of_a_probe_was_the_last() -> None:
    """Found by tests/tcp/test_fuzz.py."""
    peer = Peer(window=0)
    stack = peer.raw.layer.stack
    peer.write(b"x")
    peer.advance(SECOND)
    assert {item.data for item in peer.take()} == {b"x"}
    assert stack.armed(peer.tcb, "persist")
    peer.ack(1, window=0)
    check_stack(stack)
    assert not stack.armed(peer.tcb, "persist")
