"""An acknowledgement that waits goes when the program has read all (Linux: tcp_cleanup_rbuf)."""

from __future__ import annotations

from .harness import BUFFER, MS, Peer


def quiet(**extra: object) -> Peer:
    """A connection whose first acknowledgements are not given at once."""
    return Peer(quick_acks=0, **extra)


def read(peer: Peer, upto: int) -> None:
    peer.raw.credit(upto, upto + BUFFER)


def test_a_small_segment_is_acknowledged_when_it_was_read() -> None:
    peer = quiet()
    peer.data(b"x" * 100)
    assert peer.take() == []
    read(peer, 100)
    assert peer.only().ack == peer.snd
    peer.advance(100 * MS)
    assert peer.take() == []


def test_not_while_some_of_it_is_unread() -> None:
    peer = quiet()
    peer.data(b"x" * 100)
    read(peer, 99)
    assert peer.take() == []
    peer.advance(40 * MS)
    assert peer.only().ack == peer.snd


def test_a_full_segment_in_the_middle_of_bulk_waits_for_the_next() -> None:
    peer = quiet()
    for index in range(1, 4):
        peer.data(b"x" * 1460)
        read(peer, index * 1460)
    assert len(peer.take()) == 1  # for the second; the third waits


def test_a_program_that_answers_acknowledges_with_its_answers() -> None:
    peer = quiet()
    for index in range(3):
        peer.data(b"question")
        if index:
            read(peer, 8 * (index + 1))
            assert peer.take() == []
        peer.write(b"answer", 6 * index)
        assert (peer.only().ack, peer.state) == (peer.snd, "ESTABLISHED")
        peer.ack(6)


def test_two_small_segments_are_acknowledged_even_then() -> None:
    peer = quiet()
    peer.data(b"question")
    peer.write(b"answer")
    peer.take()
    peer.ack(6)
    peer.data(b"one")
    peer.data(b"two")
    read(peer, 14)
    assert peer.only().ack == peer.snd


def test_an_answer_that_does_not_come_ends_the_ping_pong() -> None:
    peer = quiet()
    peer.data(b"question")
    peer.write(b"answer")
    peer.take()
    peer.ack(6)
    peer.data(b"statement")
    peer.advance(40 * MS)
    assert peer.only().ack == peer.snd  # the delayed one
    peer.data(b"another")
    read(peer, 24)
    assert peer.only().ack == peer.snd


def test_linger2_below_zero_does_not_wait_in_fin_wait_2() -> None:
    """Linux resets: tcp_close, TCPAbortOnLinger."""
    peer = Peer(options={"TCP_LINGER2": -1})
    peer.raw.close()
    peer.take()
    peer.ack(1)
    assert peer.state == "CLOSED"
    assert peer.raw.counters["tcp_abort_on_linger"] == 1
    assert peer.only().flags & 4  # RST


def test_linger2_below_zero_while_the_program_still_holds_it_waits() -> None:
    peer = Peer(options={"TCP_LINGER2": -1})
    peer.raw.end()
    peer.take()
    peer.ack(1)
    assert peer.state == "FIN-WAIT-2"
    peer.raw.close()
    assert peer.state == "CLOSED"
    assert peer.only().flags & 4
