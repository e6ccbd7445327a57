"""Closing: RFC 9293 sections 3.6, 3.10.4 and 3.10.8."""

from __future__ import annotations

import pytest

from plywire.messages import Closed, Data, End, Opened
from plywire.seq import add

from .harness import ACK, FIN, MS, RST, SECOND, SYN, Options, Peer, Raw


def test_normal_close_from_here() -> None:
    """Figure 12, TCP peer A."""
    peer = Peer()
    peer.raw.close(0)
    fin = peer.only()
    assert (fin.flags, fin.seq, fin.ack) == (FIN | ACK, peer.rcv, peer.snd)
    assert peer.state == "FIN-WAIT-1"
    peer.ack(1)
    assert peer.state == "FIN-WAIT-2"
    (closed,) = peer.raw.told(Closed)
    assert (closed.handle, closed.error) == (2, "")
    peer.data(b"", ACK | FIN)
    last = peer.only()
    assert (last.flags, last.seq, last.ack) == (ACK, peer.rcv, peer.snd)
    assert peer.state == "TIME-WAIT"
    peer.advance(60 * SECOND - 1)
    assert peer.state == "TIME-WAIT"
    peer.advance(1)
    assert peer.state == "CLOSED"
    assert peer.raw.layer.deadline() is None


def test_normal_close_from_there() -> None:
    """Figure 12, TCP peer B."""
    peer = Peer()
    peer.data(b"", ACK | FIN)
    assert peer.only().ack == peer.snd
    assert peer.state == "CLOSE-WAIT"
    (end,) = peer.raw.told(End)
    assert end.offset == 0
    peer.raw.close(0)
    fin = peer.only()
    assert (fin.flags, peer.state) == (FIN | ACK, "LAST-ACK")
    peer.ack(1)
    assert peer.state == "CLOSED"
    (closed,) = peer.raw.told(Closed)
    assert closed.error == ""


def test_simultaneous_close() -> None:
    """Figure 13."""
    peer = Peer()
    peer.raw.end(0)
    assert peer.only().flags == FIN | ACK
    peer.data(b"", FIN | ACK)
    assert (peer.only().ack, peer.state) == (peer.snd, "CLOSING")
    peer.ack(1)
    assert (peer.take(), peer.state) == ([], "TIME-WAIT")
    end, closed = peer.raw.told()[-2:]
    assert (type(end), type(closed), closed.error) == (End, Closed, "")


def test_fin_ack_in_fin_wait_1_goes_to_time_wait() -> None:
    peer = Peer()
    peer.raw.close(0)
    peer.take()
    peer.rcv = add(peer.rcv, 1)
    peer.data(b"", FIN | ACK)
    assert (peer.only().ack, peer.state) == (peer.snd, "TIME-WAIT")


def test_fin_waits_for_the_data_before_it() -> None:
    peer = Peer(window=2000)
    peer.write(b"x" * 3000)
    first = peer.only()
    assert len(first.data) == 1460
    peer.raw.end(3000)
    assert peer.state == "FIN-WAIT-1"  # 3.10.4: in any case
    assert peer.take() == []
    peer.ack(1460, window=60_000)
    full, last = peer.take()
    assert (len(full.data), full.flags & FIN) == (1460, 0)
    assert (len(last.data), last.flags & FIN) == (80, FIN)


def test_fin_rides_on_the_last_data() -> None:
    peer = Peer()
    peer.raw.option("TCP_CORK", 1)
    peer.write(b"x" * 100)
    assert peer.take() == []
    peer.raw.close(100)
    last = peer.only()
    assert (len(last.data), bool(last.flags & FIN)) == (100, True)


def test_data_and_fin_in_one_segment() -> None:
    peer = Peer()
    peer.data(b"bye", ACK | FIN)
    data, end = (item for item in peer.raw.told() if isinstance(item, Data | End))
    assert (data.payload, end.offset) == (b"bye", 3)
    assert peer.only().ack == peer.snd


def test_fin_before_its_turn() -> None:
    peer = Peer()
    peer.send(ACK | FIN, b"world", seq=add(peer.snd, 5))
    assert peer.state == "ESTABLISHED"
    assert peer.only().ack == peer.snd
    peer.send(ACK, b"hello")
    assert (peer.only().ack, peer.state) == (add(peer.snd, 11), "CLOSE-WAIT")
    told = peer.raw.told()
    assert b"".join(item.payload for item in told if isinstance(item, Data)) == b"helloworld"


def test_fin_alone_before_its_turn() -> None:
    peer = Peer()
    peer.send(ACK | FIN, seq=add(peer.snd, 5))
    assert peer.state == "ESTABLISHED"
    peer.send(ACK, b"hello")
    assert peer.state == "CLOSE-WAIT"


def test_half_close_goes_on_sending() -> None:
    peer = Peer()
    peer.data(b"", ACK | FIN)
    peer.take()
    peer.write(b"answer")
    sent = peer.only()
    assert (sent.data, peer.state) == (b"answer", "CLOSE-WAIT")


def test_fin_is_retransmitted() -> None:
    peer = Peer()
    peer.raw.close(0)
    first = peer.only()
    peer.advance(3 * SECOND)
    again = peer.take()
    assert len(again) > 1
    assert {(item.flags, item.seq) for item in again} == {(first.flags, first.seq)}


def test_time_wait_reacknowledges_fin_and_starts_again() -> None:
    """MUST-13 and 3.10.7.4, eighth."""
    peer = Peer()
    peer.raw.close(0)
    peer.take()
    peer.rcv = add(peer.rcv, 1)
    peer.data(b"", FIN | ACK)
    peer.take()
    peer.advance(50 * SECOND)
    peer.send(FIN | ACK, seq=add(peer.snd, -1))
    assert peer.only().ack == peer.snd
    peer.advance(59 * SECOND)
    assert peer.state == "TIME-WAIT"
    peer.advance(1 * SECOND)
    assert peer.state == "CLOSED"


def test_fin_wait_2_ends_when_nobody_is_there() -> None:
    peer = Peer()
    peer.raw.close(0)
    peer.ack(1)
    assert peer.state == "FIN-WAIT-2"
    peer.advance(60 * SECOND)
    assert peer.state == "CLOSED"


def test_fin_wait_2_of_a_held_socket_has_no_end() -> None:
    peer = Peer()
    peer.raw.end(0)
    peer.ack(1)
    peer.advance(3600 * SECOND)
    assert peer.state == "FIN-WAIT-2"
    peer.raw.close(0)
    peer.advance(60 * SECOND)
    assert peer.state == "CLOSED"


def test_linger2_shortens_fin_wait_2() -> None:
    peer = Peer(options={"TCP_LINGER2": 5})
    peer.raw.close(0)
    peer.ack(1)
    peer.advance(5 * SECOND)
    assert peer.state == "CLOSED"


def test_close_in_syn_sent() -> None:
    peer = Peer(establish=False)
    peer.raw.close(0)
    assert (peer.take(), peer.state) == ([], "CLOSED")
    assert [item.error for item in peer.raw.told(Closed)] == [""]


def test_close_in_syn_received() -> None:
    """3.10.4: FIN-WAIT-1 at once; FIN follows the acknowledgement of the SYN."""
    peer = Peer(establish=False)
    peer.send(SYN)
    peer.take()
    peer.raw.close(0)
    assert peer.state == "FIN-WAIT-1"
    peer.send(ACK, seq=5001)
    fin = peer.only()
    assert (fin.flags, fin.seq) == (FIN | ACK, 1001)
    peer.send(ACK, seq=5001, ack=1002)
    assert peer.state == "FIN-WAIT-2"


def test_close_in_syn_received_with_the_syn_lost() -> None:
    peer = Peer(establish=False)
    peer.send(SYN)
    peer.take()
    peer.raw.close(0)
    peer.advance(1 * SECOND)
    again = peer.only()
    assert again.flags == SYN | ACK


def test_send_in_syn_sent_is_queued() -> None:
    """3.10.2: data handed over before ESTABLISHED goes out with it."""
    peer = Peer(establish=False)
    peer.write(b"early")
    peer.raw.end(5)
    assert peer.take() == []
    peer.send(SYN | ACK)
    (sent,) = peer.take()
    assert (sent.data, bool(sent.flags & FIN), sent.ack) == (b"early", True, 5001)
    assert peer.state == "FIN-WAIT-1"


def time_wait_of_a_server() -> Peer:
    peer = Peer(Raw(), passive=True)
    peer.raw.close(0, peer.handle)
    peer.take()
    peer.rcv = add(peer.rcv, 1)
    peer.data(b"", FIN | ACK)
    peer.take()
    assert peer.state == "TIME-WAIT"
    return peer


def test_new_syn_opens_a_new_incarnation() -> None:
    """3.6.1 MAY-2: with a sequence number beyond the old ones, on both sides."""
    peer = time_wait_of_a_server()
    old = peer.tcb.snd_nxt
    peer.send(SYN, seq=add(peer.snd, 1), ack=0, options=Options(mss=1460))
    answer = peer.only()
    assert (answer.flags, answer.ack) == (SYN | ACK, add(peer.snd, 2))
    assert answer.seq > old + 65_535
    assert peer.raw.states() == ["SYN-RECEIVED"]
    peer.send(ACK, seq=add(peer.snd, 2), ack=add(answer.seq, 1))
    assert peer.raw.states() == ["ESTABLISHED"]
    assert len(peer.raw.told(Opened)) == 1


@pytest.mark.parametrize("back", [0, 1, 5000])
def test_old_syn_does_not(back: int) -> None:
    peer = time_wait_of_a_server()
    peer.send(SYN, seq=add(peer.snd, -back), ack=0)
    assert peer.only().flags == ACK
    assert peer.raw.states() == ["TIME-WAIT"]


def test_nobody_connects_from_a_pair_in_time_wait() -> None:
    peer = Peer()
    peer.raw.close(0)
    peer.take()
    peer.rcv = add(peer.rcv, 1)
    peer.data(b"", FIN | ACK)
    peer.take()
    peer.raw.force(9000)
    peer.raw.connect(4, 80)
    syn = peer.only()
    assert (syn.flags, syn.seq) == (SYN, 9000)
    assert len({key[1] for key in peer.raw.layer.stack.connections}) == 2


def test_buffers_are_released_in_time_wait() -> None:
    peer = Peer()
    peer.write(b"x" * 1000)
    peer.raw.end(1000)
    peer.take()
    peer.rcv = add(peer.rcv, 1001)
    peer.send(ACK, b"y" * 10, seq=add(peer.snd, 10))  # out of order, and never needed
    peer.data(b"", FIN | ACK)
    assert peer.state == "TIME-WAIT"
    assert (len(peer.tcb.snd_buf), peer.tcb.islands, peer.tcb.pending) == (0, [], [])


def test_orphan_gives_up_sooner() -> None:
    peer = Peer()
    peer.raw.close(0)
    peer.take()
    peer.advance(120 * SECOND)
    assert peer.state == "CLOSED"
    assert len(peer.take()) == 8


def test_closed_handles_are_forgotten() -> None:
    peer = Peer()
    peer.raw.close(0)
    peer.ack(1)
    peer.raw.close(0)
    peer.raw.end(0)
    peer.raw.write(b"?", 0)
    assert peer.state == "FIN-WAIT-2"
    assert peer.raw.counters["drop_unknown_handle"] == 1
    peer.advance(1 * MS)
    peer.send(RST)
    assert peer.state == "CLOSED"
