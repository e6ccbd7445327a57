"""RFC 5961: blind in-window attacks are answered with challenge ACKs, and not without end."""

from __future__ import annotations

import pytest

from plywire.messages import Data
from plywire.seq import add

from .harness import ACK, MS, RST, SECOND, SYN, Peer


@pytest.mark.parametrize("where", [1, 100, 60_000])
def test_3_rst_in_window_is_challenged(where: int) -> None:
    peer = Peer()
    peer.send(RST, seq=add(peer.snd, where))
    challenge = peer.only()
    assert (challenge.flags, challenge.seq, challenge.ack) == (ACK, peer.rcv, peer.snd)
    assert peer.state == "ESTABLISHED"


def test_3_the_true_peer_answers_the_challenge() -> None:
    peer = Peer()
    peer.send(RST, seq=add(peer.snd, 10))
    peer.send(RST, seq=peer.only().ack)
    assert peer.state == "CLOSED"


def test_3_rst_at_the_edge_of_what_was_received() -> None:
    peer = Peer()
    peer.data(b"abc")
    peer.send(RST)
    assert peer.state == "CLOSED"


@pytest.mark.parametrize("flags", [SYN, SYN | ACK])
def test_4_syn_is_challenged(flags: int) -> None:
    peer = Peer()
    peer.send(flags, seq=add(peer.snd, 100))
    assert peer.only().flags == ACK
    assert peer.state == "ESTABLISHED"


@pytest.mark.parametrize("distance", [1, 1000, 1 << 30])
def test_5_data_with_an_ack_of_the_future(distance: int) -> None:
    peer = Peer()
    peer.send(ACK, b"evil", ack=add(peer.rcv, distance))
    assert peer.only().flags == ACK
    assert peer.raw.told(Data) == []


def test_5_data_with_an_ack_of_the_past() -> None:
    """Older than SND.UNA - MAX.SND.WND."""
    peer = Peer(window=1000)
    peer.send(ACK, b"evil", ack=add(peer.rcv, -1001))
    assert peer.only().flags == ACK
    assert peer.raw.told(Data) == []
    peer.send(ACK, b"good", ack=add(peer.rcv, -1000))
    assert len(peer.raw.told(Data)) == 1


def test_7_challenges_are_limited() -> None:
    peer = Peer()
    for _ in range(100):
        peer.send(SYN, seq=add(peer.snd, 5))
        peer.advance(1 * MS)
    assert len(peer.take()) == 10
    assert peer.raw.counters["tcp_challenge_ack_limited"] == 90
    peer.advance(1 * SECOND)
    peer.send(SYN, seq=add(peer.snd, 5))
    assert len(peer.take()) == 1


def test_7_repeated_syns_of_a_handshake_are_limited() -> None:
    peer = Peer(passive=True, establish=False)
    for _ in range(100):
        peer.send(SYN, seq=peer.iss)
    assert len(peer.take()) == 10
    peer.advance(1 * SECOND)
    assert len(peer.take()) == 1  # the timer was not put off by them


def test_two_confused_stacks_do_not_answer_each_other_for_ever() -> None:
    peer = Peer()
    for _ in range(1000):
        peer.send(ACK, seq=add(peer.snd, -5000))
    assert len(peer.take()) == 10
