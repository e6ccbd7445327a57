"""RFC 9293 section 3.10.7: what each state does with each kind of segment, cell by cell."""

from __future__ import annotations

from pathlib import Path

import pytest

from plywire.errors import IllegalTransition
from plywire.messages import Accepted, Closed, Opened
from plywire.seq import add
from plywire.trace import STATE
from plywire.wire.tcp import Options
from services.tcp import states

from .harness import ACK, FIN, PSH, RST, SYN, URG, Peer, Raw


def in_state(name: str) -> Peer:
    """A connection in a state; the layer's stream and the peer's are empty but for FINs."""
    if name == "SYN-SENT":
        return Peer(establish=False)
    if name == "SYN-RECEIVED":
        return Peer(passive=True, establish=False)
    peer = Peer()
    if name in ("FIN-WAIT-1", "FIN-WAIT-2", "CLOSING", "TIME-WAIT"):
        peer.raw.end(0)
        fin = peer.only()
        assert (fin.flags, fin.seq, fin.ack) == (FIN | ACK, peer.rcv, peer.snd)
        if name == "CLOSING":
            peer.data(b"", ACK | FIN)
        peer.rcv = add(peer.rcv, 1)
        if name in ("FIN-WAIT-2", "TIME-WAIT"):
            peer.send(ACK)
        if name == "TIME-WAIT":
            peer.data(b"", ACK | FIN)
    elif name in ("CLOSE-WAIT", "LAST-ACK"):
        peer.data(b"", ACK | FIN)
        if name == "LAST-ACK":
            peer.raw.end(0)
            peer.rcv = add(peer.rcv, 1)
    assert peer.state == name
    peer.take()
    peer.raw.told()
    return peer


SYNCHRONIZED = ("ESTABLISHED", "FIN-WAIT-1", "FIN-WAIT-2", "CLOSE-WAIT", "CLOSING", "LAST-ACK",
                "TIME-WAIT")  # fmt: skip


# --- CLOSED (3.10.7.1) ----------------------------------------------------------------------------


def test_closed_receives_rst() -> None:
    raw = Raw()
    raw.segment(RST, 1, dst_port=9)
    assert raw.take() == []


def test_closed_receives_syn() -> None:
    raw = Raw()
    raw.segment(SYN, 100, dst_port=9)
    reset = raw.only()
    assert (reset.flags, reset.seq, reset.ack) == (RST | ACK, 0, 101)


def test_closed_receives_ack() -> None:
    raw = Raw()
    raw.segment(ACK, 100, 777, dst_port=9)
    reset = raw.only()
    assert (reset.flags, reset.seq, reset.ack) == (RST, 777, 0)


# --- LISTEN (3.10.7.2) ----------------------------------------------------------------------------


def listening() -> Raw:
    raw = Raw()
    raw.listen()
    return raw


def test_listen_receives_rst() -> None:
    raw = listening()
    raw.segment(RST, 1, dst_port=80)
    assert raw.take() == []


def test_listen_receives_ack() -> None:
    raw = listening()
    raw.segment(ACK, 1, 55, dst_port=80)
    reset = raw.only()
    assert (reset.flags, reset.seq) == (RST, 55)


def test_listen_receives_syn_ack() -> None:
    raw = listening()
    raw.segment(SYN | ACK, 1, 55, dst_port=80)
    assert (reset := raw.only()).flags == RST
    assert reset.seq == 55


def test_listen_receives_syn() -> None:
    raw = listening()
    raw.segment(SYN, 4000, src_port=999, dst_port=80, options=Options(mss=1000))
    answer = raw.only()
    assert (answer.flags, answer.seq, answer.ack) == (SYN | ACK, 1000, 4001)
    assert answer.options.mss == 1460
    assert answer.options.window_scale is None  # the peer did not offer it
    assert raw.states() == ["SYN-RECEIVED"]
    assert raw.told(Opened) == []


def test_listen_receives_nothing_in_particular() -> None:
    raw = listening()
    raw.segment(0, 4000, dst_port=80, data=b"x")
    raw.segment(FIN, 4000, dst_port=80)
    assert raw.take() == []
    assert raw.states() == []


def test_listen_receives_syn_with_text_and_fin() -> None:
    """Text and FIN of the SYN wait for ESTABLISHED (3.10.7.2, third)."""
    raw = listening()
    raw.segment(SYN | FIN, 4000, src_port=999, dst_port=80, data=b"early")
    answer = raw.only()
    assert answer.ack == 4001
    assert raw.told() == []
    raw.segment(ACK, 4001, 1001, src_port=999, dst_port=80)
    assert raw.only().ack == 4001 + 5 + 1
    opened, data, end = raw.told()
    assert isinstance(opened, Opened)
    assert data.payload == b"early"
    assert end.offset == 5
    assert raw.states() == ["CLOSE-WAIT"]


# --- SYN-SENT (3.10.7.3) --------------------------------------------------------------------------


@pytest.mark.parametrize("ack", [0, 1000, 1002, 0xFFFF_FFFF], ids=["0", "iss", "new", "old"])
@pytest.mark.parametrize("flags", [ACK, SYN | ACK], ids=["ack", "syn_ack"])
def test_syn_sent_receives_unacceptable_ack(ack: int, flags: int) -> None:
    peer = in_state("SYN-SENT")
    peer.send(flags, ack=ack)
    reset = peer.only()
    assert (reset.flags, reset.seq) == (RST, ack)
    assert peer.state == "SYN-SENT"


def test_syn_sent_receives_unacceptable_ack_rst() -> None:
    peer = in_state("SYN-SENT")
    peer.send(RST | ACK, ack=999)
    assert peer.take() == []
    assert peer.state == "SYN-SENT"


def test_syn_sent_receives_rst_ack() -> None:
    peer = in_state("SYN-SENT")
    peer.send(RST | ACK)
    assert peer.take() == []
    (closed,) = peer.raw.told(Closed)
    assert (closed.handle, closed.error) == (2, "ECONNREFUSED")
    assert peer.state == "CLOSED"


def test_syn_sent_receives_rst_without_ack() -> None:
    peer = in_state("SYN-SENT")
    peer.send(RST)
    assert peer.state == "SYN-SENT"
    assert peer.take() == []


def test_syn_sent_receives_ack_without_syn() -> None:
    peer = in_state("SYN-SENT")
    peer.send(ACK)
    assert peer.take() == []
    assert peer.state == "SYN-SENT"


def test_syn_sent_receives_fin() -> None:
    peer = in_state("SYN-SENT")
    peer.send(FIN)
    assert peer.take() == []
    assert peer.state == "SYN-SENT"


def test_syn_sent_receives_syn_ack() -> None:
    peer = in_state("SYN-SENT")
    peer.send(SYN | ACK, options=Options(mss=1000))
    ack = peer.only()
    assert (ack.flags, ack.seq, ack.ack) == (ACK, 1001, 5001)
    (opened,) = peer.raw.told(Opened)
    assert (opened.handle, opened.listener, opened.limit) == (2, 0, 1 << 20)
    assert peer.tcb.snd_mss == 1000


def test_syn_sent_receives_syn_ack_with_text_and_fin() -> None:
    peer = in_state("SYN-SENT")
    peer.send(SYN | ACK | FIN, b"hello")
    assert peer.only().ack == 5000 + 1 + 5 + 1
    _, data, end = peer.raw.told()
    assert (data.offset, data.payload, end.offset) == (0, b"hello", 5)
    assert peer.state == "CLOSE-WAIT"


def test_syn_sent_receives_syn() -> None:
    """Simultaneous open, RFC 9293 figure 7."""
    peer = in_state("SYN-SENT")
    peer.send(SYN)
    answer = peer.only()
    assert (answer.flags, answer.seq, answer.ack) == (SYN | ACK, 1000, 5001)
    assert peer.state == "SYN-RECEIVED"
    assert peer.raw.told() == []
    peer.send(SYN | ACK, ack=1001)
    assert peer.state == "ESTABLISHED"
    assert len(peer.raw.told(Opened)) == 1


def test_syn_sent_receives_syn_with_text() -> None:
    peer = in_state("SYN-SENT")
    peer.send(SYN, b"early")
    assert peer.only().ack == 5001
    peer.send(ACK, seq=5006, ack=1001)
    assert peer.only().ack == 5006
    _, data = peer.raw.told()
    assert data.payload == b"early"


# --- SYN-RECEIVED ---------------------------------------------------------------------------------


def test_syn_received_receives_ack() -> None:
    peer = in_state("SYN-RECEIVED")
    peer.send(ACK)
    assert peer.take() == []
    (opened,) = peer.raw.told(Opened)
    assert (opened.listener, opened.handle & 1, opened.remote_port) == (2, 1, 40_000)
    assert peer.state == "ESTABLISHED"


@pytest.mark.parametrize("ack", [1000, 1002, 0], ids=["iss", "beyond", "far"])
def test_syn_received_receives_unacceptable_ack(ack: int) -> None:
    peer = in_state("SYN-RECEIVED")
    peer.send(ACK, ack=ack)
    reset = peer.only()
    assert (reset.flags, reset.seq) == (RST, ack)
    assert peer.state == "SYN-RECEIVED"


def test_syn_received_receives_the_syn_again() -> None:
    peer = in_state("SYN-RECEIVED")
    peer.send(SYN, seq=5000)
    answer = peer.only()
    assert (answer.flags, answer.seq, answer.ack) == (SYN | ACK, 1000, 5001)


def test_syn_received_receives_syn_in_window() -> None:
    """3.10.7.4 fourth: a passive open returns to LISTEN."""
    peer = in_state("SYN-RECEIVED")
    peer.send(SYN, seq=5100)
    assert peer.take() == []
    assert peer.state == "CLOSED"
    assert peer.raw.told() == []
    assert peer.raw.info(2)["state"] == "LISTEN"


def test_syn_received_receives_rst_passive() -> None:
    peer = in_state("SYN-RECEIVED")
    peer.send(RST)
    assert (peer.take(), peer.raw.told(), peer.state) == ([], [], "CLOSED")
    assert peer.raw.info(2)["state"] == "LISTEN"


def test_syn_received_receives_rst_active() -> None:
    peer = in_state("SYN-SENT")
    peer.send(SYN)
    peer.send(RST, seq=5001)
    (closed,) = peer.raw.told(Closed)
    assert closed.error == "ECONNREFUSED"


def test_syn_received_receives_fin() -> None:
    peer = in_state("SYN-RECEIVED")
    peer.send(ACK | FIN)
    assert peer.only().ack == 5002
    assert peer.state == "CLOSE-WAIT"


def test_syn_received_receives_data_without_ack() -> None:
    peer = in_state("SYN-RECEIVED")
    peer.send(PSH, b"data")
    assert (peer.take(), peer.state) == ([], "SYN-RECEIVED")


def test_syn_received_receives_segment_outside_window() -> None:
    peer = in_state("SYN-RECEIVED")
    peer.send(ACK, b"x", seq=5001 + 70_000)
    answer = peer.only()
    assert (answer.flags, answer.seq, answer.ack) == (ACK, 1001, 5001)


# --- the synchronized states (3.10.7.4) -----------------------------------------------------------


@pytest.mark.parametrize("state", SYNCHRONIZED)
def test_synchronized_receives_segment_outside_window(state: str) -> None:
    """First: an ACK, and nothing else."""
    peer = in_state(state)
    peer.send(ACK, b"x" * 10, seq=add(peer.snd, 2_000_000))
    answer = peer.only()
    assert (answer.flags, answer.seq, answer.ack) == (ACK, peer.tcb.snd_nxt, peer.snd)
    assert peer.state == state


@pytest.mark.parametrize("state", SYNCHRONIZED)
def test_synchronized_receives_rst_outside_window(state: str) -> None:
    peer = in_state(state)
    for seq in (add(peer.snd, -1), add(peer.snd, 2_000_000)):
        peer.send(RST, seq=seq)
    assert (peer.take(), peer.state) == ([], state)


@pytest.mark.parametrize("state", SYNCHRONIZED)
def test_synchronized_receives_rst_in_window(state: str) -> None:
    """Second, RFC 5961: not at RCV.NXT, so it is only challenged."""
    peer = in_state(state)
    peer.send(RST, seq=add(peer.snd, 1))
    answer = peer.only()
    assert (answer.flags, answer.seq, answer.ack) == (ACK, peer.tcb.snd_nxt, peer.snd)
    assert peer.state == state


@pytest.mark.parametrize(
    ("state", "error"),
    [
        ("ESTABLISHED", "ECONNRESET"),
        ("FIN-WAIT-1", "ECONNRESET"),
        ("FIN-WAIT-2", "ECONNRESET"),
        ("CLOSE-WAIT", "ECONNRESET"),
        ("CLOSING", ""),
        ("LAST-ACK", ""),
    ],
)
def test_synchronized_receives_rst(state: str, error: str) -> None:
    peer = in_state(state)
    peer.send(RST)
    assert (peer.take(), peer.state) == ([], "CLOSED")
    (closed,) = peer.raw.told(Closed)
    assert closed.error == error


def test_time_wait_receives_rst() -> None:
    """RFC 1337: TIME-WAIT is not assassinated."""
    peer = in_state("TIME-WAIT")
    peer.send(RST)
    assert (peer.take(), peer.state) == ([], "TIME-WAIT")


@pytest.mark.parametrize("state", SYNCHRONIZED)
@pytest.mark.parametrize("where", [-1, 0, 10, -1000], ids=["before", "next", "within", "far"])
def test_synchronized_receives_syn(state: str, where: int) -> None:
    """Fourth, RFC 5961 4: a challenge ACK, wherever the SYN is."""
    peer = in_state(state)
    peer.send(SYN, seq=add(peer.snd, where))
    answer = peer.only()
    assert (answer.flags, answer.seq, answer.ack) == (ACK, peer.tcb.snd_nxt, peer.snd)
    assert peer.state == state


@pytest.mark.parametrize("state", SYNCHRONIZED)
def test_synchronized_receives_segment_without_ack(state: str) -> None:
    """Fifth: if the ACK bit is off, drop the segment and return."""
    peer = in_state(state)
    peer.send(PSH, b"data")
    peer.send(FIN)
    assert (peer.take(), peer.state) == ([], state)
    assert peer.raw.told() == []


@pytest.mark.parametrize("state", SYNCHRONIZED)
def test_synchronized_receives_ack_of_what_was_not_sent(state: str) -> None:
    peer = in_state(state)
    peer.send(ACK, b"data", ack=add(peer.tcb.snd_nxt, 1))
    answer = peer.only()
    assert (answer.flags, answer.seq, answer.ack) == (ACK, peer.tcb.snd_nxt, peer.snd)
    assert peer.state == state
    assert peer.raw.told() == []


@pytest.mark.parametrize("state", SYNCHRONIZED)
def test_synchronized_receives_ack_that_is_too_old(state: str) -> None:
    """RFC 5961 5.2: older than the largest window ever offered."""
    peer = in_state(state)
    peer.send(ACK, ack=add(peer.tcb.snd_una, -65_536))
    assert peer.only().flags == ACK
    assert peer.state == state


@pytest.mark.parametrize(
    ("state", "following"),
    [
        ("ESTABLISHED", "ESTABLISHED"),
        ("FIN-WAIT-1", "FIN-WAIT-2"),
        ("FIN-WAIT-2", "FIN-WAIT-2"),
        ("CLOSE-WAIT", "CLOSE-WAIT"),
        ("CLOSING", "TIME-WAIT"),
        ("LAST-ACK", "CLOSED"),
        ("TIME-WAIT", "TIME-WAIT"),
    ],
)
def test_synchronized_receives_ack(state: str, following: str) -> None:
    peer = in_state(state)
    peer.send(ACK)
    assert (peer.take(), peer.state) == ([], following)


@pytest.mark.parametrize(
    ("state", "taken"),
    [
        ("ESTABLISHED", True),
        ("FIN-WAIT-1", True),
        ("FIN-WAIT-2", True),
        ("CLOSE-WAIT", False),
        ("CLOSING", False),
        ("LAST-ACK", False),
        ("TIME-WAIT", False),
    ],
)
def test_synchronized_receives_text(state: str, taken: bool) -> None:
    """Seventh: text is taken in three states, and ignored after the peer's FIN."""
    peer = in_state(state)
    peer.send(ACK | PSH, b"text", ack=peer.tcb.snd_una)
    data = [item for item in peer.raw.told() if hasattr(item, "payload")]
    assert [item.payload for item in data] == ([b"text"] if taken else [])
    assert peer.state == state
    if taken:
        assert peer.only().ack == add(peer.snd, 4)


@pytest.mark.parametrize(
    ("state", "ack_fin", "following"),
    [
        ("ESTABLISHED", False, "CLOSE-WAIT"),
        ("FIN-WAIT-1", False, "CLOSING"),
        ("FIN-WAIT-1", True, "TIME-WAIT"),
        ("FIN-WAIT-2", False, "TIME-WAIT"),
    ],
)
def test_synchronized_receives_fin(state: str, ack_fin: bool, following: str) -> None:
    peer = in_state(state)
    peer.send(ACK | FIN, ack=peer.rcv if ack_fin else peer.tcb.snd_una)
    answer = peer.only()
    assert (answer.flags, answer.ack) == (ACK, add(peer.snd, 1))
    assert peer.state == following


@pytest.mark.parametrize("state", ["CLOSE-WAIT", "CLOSING", "LAST-ACK", "TIME-WAIT"])
def test_after_fin_receives_the_fin_again(state: str) -> None:
    peer = in_state(state)
    peer.send(ACK | FIN, seq=add(peer.snd, -1), ack=peer.tcb.snd_una)
    answer = peer.only()
    assert (answer.flags, answer.ack) == (ACK, peer.snd)
    assert peer.state == state


@pytest.mark.parametrize("state", ["ESTABLISHED", "FIN-WAIT-1", "FIN-WAIT-2"])
def test_synchronized_receives_urgent_data(state: str) -> None:
    """Sixth: RCV.UP moves, and the data is delivered in line."""
    peer = in_state(state)
    peer.send(ACK | URG, b"urgent", ack=peer.tcb.snd_una, urgent=6)
    assert peer.tcb.rcv_up == add(peer.snd, 6)
    data = [item for item in peer.raw.told() if hasattr(item, "payload")]
    assert data[0].payload == b"urgent"


@pytest.mark.parametrize("state", ["CLOSE-WAIT", "CLOSING", "LAST-ACK", "TIME-WAIT"])
def test_after_fin_receives_urgent_data(state: str) -> None:
    peer = in_state(state)
    peer.send(ACK | URG, b"urgent", ack=peer.tcb.snd_una, urgent=6)
    assert peer.raw.told() == []
    assert peer.state == state


# --- the table ------------------------------------------------------------------------------------


def test_every_state_can_be_left_and_reached() -> None:
    left = {state for state, _ in states.TABLE}
    reached = set(states.TABLE.values())
    assert left == set(states.STATES)
    assert reached == set(states.STATES)


def test_missing_cell_raises() -> None:
    peer = Peer()
    with pytest.raises(IllegalTransition, match="ESTABLISHED has no transition for active OPEN"):
        peer.raw.layer.stack.change(peer.tcb, states.ACTIVE_OPEN, 0)


def test_each_change_is_traced_with_control_information() -> None:
    peer = Peer()
    first, second = (event for event in peer.raw.events if event.what == STATE)
    assert first.before == {"state": "CLOSED"}
    assert (first.subject, first.after["state"]) == ("active OPEN", "SYN-SENT")
    assert first.after["iss"] == 1000
    assert second.before == first.after
    assert (second.subject, second.after["state"]) == ("rcv SYN,ACK", "ESTABLISHED")
    assert second.after["irs"] == 5000
    assert (first.trace, second.trace) == (7, 5)


def test_the_page_is_as_the_table() -> None:
    page = Path(__file__).parents[2] / "docs" / "layers" / "tcp-states.md"
    assert page.read_text() == states.draw(), "make it again as its first lines say"


def test_accepted_for_nobody_is_ignored() -> None:
    raw = Raw()
    raw.app(Accepted(0, 77))
    assert raw.messages == []
