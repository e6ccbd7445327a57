"""RFC 9293 sections 3.5.2 and 3.5.3: when a reset is sent, with which numbers, and what it does."""

from __future__ import annotations

import pytest

from plywire.messages import FLAG_BROADCAST, Closed, Data
from plywire.seq import add
from plywire.wire.tcp import Options

from .harness import ACK, FIN, PSH, RST, SYN, Peer, Raw


@pytest.mark.parametrize(
    ("flags", "ack", "data", "expected"),
    [
        (SYN, 0, b"", (RST | ACK, 0, 101)),
        (SYN, 0, b"abc", (RST | ACK, 0, 104)),
        (SYN | FIN, 0, b"abc", (RST | ACK, 0, 105)),
        (FIN, 0, b"", (RST | ACK, 0, 101)),
        (PSH, 0, b"abcd", (RST | ACK, 0, 104)),
        (ACK, 999, b"", (RST, 999, 0)),
        (SYN | ACK, 999, b"", (RST, 999, 0)),
        (FIN | ACK, 999, b"xx", (RST, 999, 0)),
    ],
)
def test_group_1_no_connection(flags: int, ack: int, data: bytes, expected: tuple) -> None:
    raw = Raw()
    raw.segment(flags, 100, ack, data, dst_port=7)
    reset = raw.only()
    assert (reset.flags, reset.seq, reset.ack) == expected
    assert reset.window == 0
    assert raw.counters["tcp_out_rsts"] == 1


def test_no_reset_for_a_reset() -> None:
    raw = Raw()
    raw.segment(RST | ACK, 100, 5, dst_port=7)
    assert raw.take() == []


@pytest.mark.parametrize(
    "changes",
    [
        {"message_flags": FLAG_BROADCAST},
        {"dst": bytes((10, 0, 0, 255))},
        {"dst": bytes((224, 0, 0, 1))},
        {"src": bytes((10, 0, 0, 255))},
        {"src": bytes(4)},
        {"src": bytes((255, 255, 255, 255))},
    ],
)
def test_broadcasts_are_never_answered(changes: dict) -> None:
    """MUST-57 and MUST-63."""
    raw = Raw()
    raw.listen()
    raw.segment(SYN, 1, dst_port=80, **changes)
    raw.segment(SYN, 1, dst_port=81, **changes)
    assert raw.take() == []


def test_half_open_discovery() -> None:
    """RFC 9293 figure 9: a peer that crashed sends SYN; the challenge makes it reset."""
    peer = Peer()
    peer.send(SYN, seq=400, ack=0)
    challenge = peer.only()
    assert (challenge.flags, challenge.seq, challenge.ack) == (ACK, peer.rcv, peer.snd)
    peer.send(RST, seq=challenge.ack)
    (closed,) = peer.raw.told(Closed)
    assert closed.error == "ECONNRESET"


def test_active_side_discovers_half_open() -> None:
    """Figure 10: data for a peer that knows nothing is answered with RST."""
    peer = Peer()
    peer.write(b"hello")
    sent = peer.only()
    peer.send(RST, seq=sent.ack)
    (closed,) = peer.raw.told(Closed)
    assert (closed.error, closed.cause) == ("ECONNRESET", "RST received")
    assert peer.raw.counters["tcp_estab_resets"] == 1


def test_old_duplicate_syn_recovery() -> None:
    """Figure 8: the listener answers an old SYN, is reset, and takes the true one."""
    raw = Raw()
    raw.listen()
    raw.segment(SYN, 90, src_port=7777, dst_port=80)
    assert raw.only().ack == 91
    raw.segment(RST, 91, src_port=7777, dst_port=80)
    raw.segment(SYN, 100, src_port=7777, dst_port=80, options=Options(mss=1460))
    assert raw.only().ack == 101
    raw.segment(ACK, 101, 1001, src_port=7777, dst_port=80)
    assert raw.states() == ["ESTABLISHED"]


def test_reset_with_data_before_it() -> None:
    """What arrived in order before the RST is still told to the program."""
    peer = Peer()
    peer.data(b"last words")
    peer.send(RST)
    told = peer.raw.told()
    assert [type(item) for item in told if isinstance(item, Data | Closed)] == [Data, Closed]


@pytest.mark.parametrize("passive", [False, True])
def test_abort_sends_a_reset(passive: bool) -> None:
    peer = Peer(passive=passive)
    peer.raw.close(0, peer.handle, abort=1)
    reset = peer.only()
    assert (reset.flags, reset.seq, reset.ack) == (RST | ACK, peer.rcv, peer.snd)
    assert peer.state == "CLOSED"


def test_abort_with_data_in_flight() -> None:
    peer = Peer()
    peer.write(b"x" * 100)
    peer.take()
    peer.raw.close(100, abort=1)
    assert peer.only().seq == add(peer.rcv, 100)


def test_abort_in_syn_sent_sends_nothing() -> None:
    peer = Peer(establish=False)
    peer.raw.close(0, abort=1)
    assert (peer.take(), peer.state) == ([], "CLOSED")


def test_data_after_close_is_reset() -> None:
    """RFC 1122 4.2.2.13: nobody will read it, and the peer should know."""
    peer = Peer()
    peer.raw.close(0)
    peer.take()
    peer.rcv = add(peer.rcv, 1)
    peer.send(ACK)
    peer.send(ACK, b"too late")
    reset = peer.only()
    assert reset.flags & RST
    assert reset.seq == peer.rcv
    assert peer.state == "CLOSED"


def test_data_after_shutdown_is_read() -> None:
    """A half-closed connection goes on receiving."""
    peer = Peer()
    peer.raw.end(0)
    peer.take()
    peer.ack(1)
    peer.data(b"still here")
    (data,) = peer.raw.told(Data)
    assert data.payload == b"still here"
