"""RFC 1122 and RFC 9293 section 3.8: delayed ACKs, silly windows, Nagle, keep-alive, persist."""

from __future__ import annotations

import pytest

from plywire.messages import Closed, Data
from plywire.seq import add

from .harness import ACK, FIN, MS, SECOND, Pair, Peer, Raw

MSS = 1460


# --- delayed acknowledgements (3.8.6.3) -----------------------------------------------------------


def quiet(**options: object) -> Peer:
    """A connection that is not young any more."""
    return Peer(quick_acks=0, **options)


def test_an_ack_is_delayed_40_ms() -> None:
    peer = quiet()
    peer.data(b"x")
    peer.advance(40 * MS - 1)
    assert peer.take() == []
    peer.advance(1)
    assert peer.only().ack == peer.snd


def test_every_second_full_segment_is_acknowledged() -> None:
    peer = quiet()
    for _ in range(6):
        peer.data(b"x" * MSS)
    assert [item.ack for item in peer.take()] == [
        add(peer.snd, -4 * MSS),
        add(peer.snd, -2 * MSS),
        peer.snd,
    ]


def test_an_ack_rides_on_data() -> None:
    peer = quiet()
    peer.data(b"request")
    peer.write(b"answer")
    answer = peer.only()
    assert (answer.data, answer.ack) == (b"answer", peer.snd)
    peer.advance(1 * SECOND - 1)
    assert peer.raw.counters["tcp_delayed_acks"] == 0


def test_a_young_connection_acknowledges_at_once() -> None:
    peer = Peer(quick_acks=3)
    for _ in range(3):
        peer.data(b"x")
    assert len(peer.take()) == 3
    peer.data(b"x")
    assert peer.take() == []


def test_quickack_option() -> None:
    peer = quiet()
    peer.raw.option("TCP_QUICKACK", 1)
    peer.data(b"x")
    assert len(peer.take()) == 1


def test_out_of_order_and_filled_holes_are_acknowledged_at_once() -> None:
    peer = quiet()
    peer.send(ACK, b"b", seq=add(peer.snd, 1))
    assert peer.only().ack == peer.snd
    peer.send(ACK, b"a")
    assert peer.only().ack == add(peer.snd, 2)


def test_fin_is_acknowledged_at_once() -> None:
    peer = quiet()
    peer.data(b"x", ACK | FIN)
    assert peer.only().ack == peer.snd


# --- the receiver's silly windows (3.8.6.2.2) -----------------------------------------------------


def test_window_opens_in_steps_worth_having() -> None:
    peer = quiet(limit=4 * MSS)
    for _ in range(4):
        peer.data(b"x" * MSS)
    assert peer.take()[-1].window == 0
    for read in range(100, MSS, 100):
        peer.raw.credit(read, 4 * MSS + read)
    assert peer.take() == []
    peer.raw.credit(MSS, 5 * MSS)
    assert peer.only().window == MSS


def test_window_is_never_taken_back() -> None:
    peer = quiet(limit=10_000)
    edge = add(peer.snd, peer.tcb.rcv_wnd)
    for _ in range(5):
        peer.data(b"x" * 1000)
        peer.send(ACK, b"", seq=add(peer.snd, -1))  # makes it answer
        for item in peer.take():
            assert add(item.ack, item.window) == edge


def test_small_buffer_opens_by_halves() -> None:
    peer = quiet(limit=400)
    peer.data(b"x" * 400)
    peer.take()
    peer.advance(1 * SECOND)
    peer.take()
    peer.raw.credit(100, 500)
    assert peer.take() == []
    peer.raw.credit(200, 600)
    assert peer.only().window == 200


# --- the sender's silly windows and Nagle (3.8.6.2.1, 3.7.4) --------------------------------------


def test_nagle_holds_back_a_second_small_segment() -> None:
    peer = Peer()
    peer.write(b"a")
    assert peer.only().data == b"a"
    peer.write(b"b", 1)
    peer.write(b"c", 2)
    assert peer.take() == []
    peer.ack(1)
    assert peer.only().data == b"bc"


def test_nagle_sends_full_segments() -> None:
    peer = Peer()
    peer.write(b"a")
    peer.take()
    peer.write(b"x" * MSS, 1)
    assert len(peer.only().data) == MSS


def test_minshall_sends_the_end_of_a_large_write() -> None:
    peer = Peer()
    peer.write(b"x" * (MSS + 10))
    assert [len(item.data) for item in peer.take()] == [MSS, 10]


def test_nodelay() -> None:
    peer = Peer(options={"TCP_NODELAY": 1})
    for offset in range(3):
        peer.write(b"x", offset)
    assert len(peer.take()) == 3


def test_nodelay_set_later_releases_what_waits() -> None:
    peer = Peer()
    peer.write(b"a")
    peer.write(b"b", 1)
    peer.take()
    peer.raw.option("TCP_NODELAY", 1)
    assert peer.only().data == b"b"


def test_cork_waits_for_a_full_segment() -> None:
    peer = Peer(options={"TCP_CORK": 1})
    peer.write(b"x" * 1000)
    assert peer.take() == []
    peer.write(b"x" * 1000, 1000)
    assert len(peer.only().data) == MSS
    peer.raw.option("TCP_CORK", 0)
    assert len(peer.only().data) == 2000 - MSS


def test_cork_is_pulled_after_200_ms() -> None:
    peer = Peer(options={"TCP_CORK": 1})
    peer.write(b"x")
    peer.advance(200 * MS)
    assert peer.only().data == b"x"


def test_fin_pulls_the_cork() -> None:
    peer = Peer(options={"TCP_CORK": 1})
    peer.write(b"x")
    peer.raw.end(1)
    assert peer.only().flags & FIN


def test_small_window_is_not_used() -> None:
    """Less than a segment and less than half of the largest window: wait."""
    peer = Peer(window=10_000)
    peer.write(b"x" * 10_000)
    peer.take()
    peer.ack(10_000, window=500)
    peer.write(b"y" * 3000, 10_000)
    assert peer.take() == []
    peer.advance(2 * SECOND)
    assert peer.take()[0].data == b"y" * 500  # the override timeout, MUST-38


def test_half_of_the_largest_window_is_used() -> None:
    peer = Peer(window=1000)
    peer.write(b"x" * 3000)
    assert len(peer.only().data) == 1000
    peer.ack(1000, window=500)
    assert len(peer.only().data) == 500
    peer.ack(500, window=499)
    assert peer.take() == []


# --- the persist timer (3.8.6.1) ------------------------------------------------------------------


def closed_window(**options: object) -> Peer:
    peer = Peer(**options)
    peer.write(b"x" * 1000)
    peer.take()
    peer.ack(1000, window=0)
    peer.window = 0
    peer.write(b"y" * 1000, 1000)
    assert peer.take() == []
    return peer


def test_closed_window_is_probed_with_one_byte() -> None:
    peer = closed_window()
    peer.advance(peer.tcb.rtt.rto)
    probe = peer.only()
    assert (probe.seq, probe.data) == (peer.rcv, b"y")


def test_probes_back_off() -> None:
    peer = closed_window()
    rto = peer.tcb.rtt.rto
    start = peer.raw.now
    times = []
    while len(times) < 6:
        peer.advance(peer.raw.layer.deadline() - peer.raw.now)
        if peer.take():
            times.append((peer.raw.now - start) // rto)
            peer.send(ACK)
    assert times == [1, 3, 7, 15, 31, 63]


def test_probing_goes_on_for_ever_while_the_peer_answers() -> None:
    """MUST-37: hours of a closed window do not end a connection."""
    peer = closed_window()
    count = 0
    while peer.raw.now < 20_000 * SECOND:
        peer.advance(peer.raw.layer.deadline() - peer.raw.now)
        for _ in peer.take():
            count += 1
            peer.send(ACK)
    assert peer.state == "ESTABLISHED"
    assert count > 100
    peer.send(ACK, window=10_000)
    assert peer.take()[-1].data == b"y" * 1000


def test_probing_ends_when_nobody_answers() -> None:
    peer = closed_window()
    peer.advance(3000 * SECOND)
    assert peer.state == "CLOSED"
    assert len(peer.take()) == 15
    assert peer.raw.told(Closed)[0].error == "ETIMEDOUT"


def test_the_probe_byte_may_be_taken() -> None:
    peer = closed_window()
    peer.advance(peer.tcb.rtt.rto)
    peer.take()
    peer.ack(1)
    assert peer.take() == []
    peer.advance(120 * SECOND)
    probe = peer.take()[0]
    assert probe.seq == peer.rcv
    peer.ack(0, window=10_000)
    assert peer.take()[-1].data == b"y" * 999


def test_opening_window_sends_at_once() -> None:
    peer = closed_window()
    peer.send(ACK, window=1000)
    assert len(peer.only().data) == 1000


def test_small_opening_is_probed_too() -> None:
    """The window opens by less than is worth sending: the persist timer must not be lost."""
    peer = closed_window()
    peer.advance(peer.tcb.rtt.rto)
    peer.take()
    peer.send(ACK, window=10)
    assert peer.take() == []
    peer.advance(10 * SECOND)
    assert peer.take()


def test_fin_behind_a_closed_window() -> None:
    peer = Peer(window=1000)
    peer.write(b"x" * 1000)
    peer.raw.end(1000)
    peer.take()
    peer.ack(1000, window=0)
    assert peer.take() == []
    peer.advance(peer.tcb.rtt.rto)
    probe = peer.only()
    assert (probe.flags & FIN, probe.seq) == (FIN, peer.rcv)
    peer.ack(1, window=0)
    assert peer.state == "FIN-WAIT-2"


def test_data_in_flight_when_the_window_closes() -> None:
    """The peer takes its window back: retransmission goes on as long as it answers."""
    peer = Peer()
    peer.write(b"x" * 5000)
    peer.take()
    for _ in range(40):
        peer.advance(peer.raw.layer.deadline() - peer.raw.now)
        assert peer.take()
        peer.send(ACK, window=0)
    assert peer.state == "ESTABLISHED"
    peer.send(ACK, window=10_000)
    peer.advance(200 * SECOND)
    peer.ack(5000, window=10_000)
    assert peer.tcb.snd_una == peer.tcb.snd_nxt


def test_reader_that_sleeps_for_minutes() -> None:
    pair = Pair(receive_buffer=20_000)
    pair.b.auto_read = False
    data = bytes(range(256)) * 400
    pair.open()
    pair.a.send(data)
    for _ in range(4):
        end = pair.now + 300 * SECOND
        pair.run(lambda end=end: pair.now >= end)
        assert 18_000 < len(pair.b.received) - pair.b.read_to <= 20_000
        pair.b.read(len(pair.b.received))
    pair.b.auto_read = True
    pair.b.read(len(pair.b.received))
    pair.run(lambda: pair.b.peer_ended)
    assert pair.b.received == data


# --- keep-alive (3.8.4) ---------------------------------------------------------------------------

KEEP = {"SO_KEEPALIVE": 1, "TCP_KEEPIDLE": 10, "TCP_KEEPINTVL": 2, "TCP_KEEPCNT": 3}


def test_keepalive_is_off_unless_asked_for() -> None:
    """MUST-25."""
    peer = Peer()
    peer.advance(100_000 * SECOND)
    assert peer.take() == []


def test_keepalive_default_is_two_hours() -> None:
    """MUST-27, MUST-28."""
    peer = Peer(options={"SO_KEEPALIVE": 1})
    peer.advance(7200 * SECOND - 1)
    assert peer.take() == []
    peer.advance(1)
    assert len(peer.take()) == 1


def test_keepalive_probe() -> None:
    peer = Peer(options=KEEP)
    peer.advance(10 * SECOND)
    probe = peer.only()
    assert (probe.flags, probe.seq, probe.data) == (ACK, add(peer.rcv, -1), b"")


@pytest.mark.parametrize("passive", [False, True])
def test_keepalive_gives_up(passive: bool) -> None:
    peer = Peer(options=KEEP, passive=passive)
    peer.advance(16 * SECOND - 1)
    assert (len(peer.take()), peer.state) == (3, "ESTABLISHED")
    peer.advance(1)
    assert peer.state == "CLOSED"
    assert peer.raw.told(Closed)[0].error == "ETIMEDOUT"


def test_keepalive_answered() -> None:
    peer = Peer(options=KEEP)
    for _ in range(50):
        peer.advance(10 * SECOND)
        if peer.take():
            peer.send(ACK)
    assert peer.state == "ESTABLISHED"


def test_traffic_puts_keepalive_off() -> None:
    peer = Peer(options=KEEP)
    peer.advance(9 * SECOND)
    peer.data(b"x")
    peer.take()
    peer.advance(9 * SECOND)
    assert peer.take() == []
    peer.advance(1 * SECOND)
    assert len(peer.take()) == 1


def test_keepalive_set_later() -> None:
    peer = Peer()
    peer.advance(100 * SECOND)
    peer.raw.option("TCP_KEEPIDLE", 10)
    peer.raw.option("SO_KEEPALIVE", 1)
    peer.advance(1)
    assert len(peer.take()) == 1
    peer.raw.option("SO_KEEPALIVE", 0)
    peer.advance(1000 * SECOND)
    assert (peer.take(), peer.state) == ([], "ESTABLISHED")


def test_keepalive_is_answered() -> None:
    peer = Peer()
    peer.send(ACK, seq=add(peer.snd, -1))
    assert peer.only().ack == peer.snd
    peer.send(ACK, b"\0", seq=add(peer.snd, -1))  # with a garbage byte, as old stacks do
    assert peer.only().ack == peer.snd
    assert peer.raw.told(Data) == []


def test_bad_checksum_is_dropped() -> None:
    raw = Raw()
    raw.listen()
    peer = Peer(raw, passive=True)
    message = peer.synack.message._replace(src=bytes((10, 0, 0, 2)), dst=bytes((10, 0, 0, 1)))
    raw.layer.receive(message._replace(payload=b"\1" + message.payload[1:]), "ip", raw.now)
    assert raw.counters["drop_tcp_bad_checksum"] == 1
    assert raw.counters["tcp_in_errs"] == 1
