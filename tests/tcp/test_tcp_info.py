"""What `ss -i` shows: Linux's struct tcp_info by its names."""

from __future__ import annotations

import random

from plywire.messages import Info, Query
from plywire.trace import Tracer
from services.tcp import create

from .harness import ACK, MS, Peer


def info(peer: Peer) -> dict:
    (row,) = peer.raw.layer.describe("connections", peer.raw.now)
    return row["tcp_info"]


def test_losses_and_windows_are_counted_in_segments() -> None:
    peer = Peer(sack=True, congestion="newreno", rtt=100 * MS)
    peer.write(b"x" * 14_600)
    peer.take()
    peer.advance(100 * MS)
    peer.sack((1460, 5 * 1460))
    found = info(peer)
    names = ("state", "ca_state", "unacked", "sacked", "lost", "retrans", "total_retrans")
    assert [found[name] for name in names] == ["ESTABLISHED", "Recovery", 10, 4, 1, 1, 1]
    assert (found["snd_mss"], found["pmtu"], found["snd_ssthresh"]) == (1460, 1500, 5)


def test_times_are_microseconds() -> None:
    peer = Peer(sack=True, rtt=100 * MS)
    found = info(peer)
    assert (found["rtt"], found["rttvar"], found["rto"], found["ato"]) == (
        100_000, 50_000, 300_000, 40_000)  # fmt: skip


def test_the_delivery_rate_is_what_arrived_in_a_round_trip() -> None:
    peer = Peer(sack=True, rtt=100 * MS)
    peer.write(b"x" * 14_600)
    peer.take()
    peer.advance(100 * MS)
    peer.ack(14_600)
    found = info(peer)
    assert (found["delivery_rate"], found["bytes_acked"], found["unacked"]) == (146_000, 14_600, 0)


def times(peer: Peer) -> tuple[int, int, int]:
    found = info(peer)
    return found["busy_time"], found["rwnd_limited"], found["sndbuf_limited"]


def test_busy_is_from_the_first_byte_queued_to_the_last_acknowledged() -> None:
    peer = Peer(sack=True)
    peer.advance(70 * MS)
    assert times(peer) == (0, 0, 0)
    peer.write(b"x" * 1000)
    peer.advance(30 * MS)
    assert times(peer) == (30_000, 0, 0)
    peer.ack(1000)
    peer.advance(500 * MS)
    assert times(peer) == (30_000, 0, 0)


def test_limited_by_the_window_of_the_peer() -> None:
    peer = Peer(sack=True, window=2920)
    peer.write(b"x" * 4380)
    peer.advance(20 * MS)
    assert times(peer) == (20_000, 20_000, 0)
    peer.ack(2920)  # now the rest goes out
    peer.advance(10 * MS)
    assert times(peer) == (30_000, 20_000, 0)


def test_limited_by_the_send_buffer() -> None:
    """All was sent, cwnd and window have room, and the app has no credit left."""
    peer = Peer(sack=True, send_buffer=5840)
    peer.write(b"x" * 5840)
    peer.advance(20 * MS)
    assert times(peer) == (20_000, 0, 20_000)
    peer.ack(2920)  # half of it is free: the app is told
    peer.advance(10 * MS)
    assert times(peer) == (30_000, 0, 20_000)


def test_the_clocks_survive_a_swap() -> None:
    peer = Peer(sack=True, window=2920)
    peer.write(b"x" * 4380)
    peer.advance(20 * MS)
    layer = peer.raw.layer
    state = layer.snapshot()
    fresh = create(peer.raw.config, random.Random(2), Tracer())
    fresh.restore(state, peer.raw.now)
    peer.raw.layer = fresh
    peer.advance(5 * MS)
    assert times(peer) == (25_000, 25_000, 0)


def test_a_rate_is_app_limited_when_the_program_gave_too_little() -> None:
    peer = Peer(sack=True, rtt=100 * MS)
    peer.write(b"x" * 14_600)
    peer.take()
    peer.advance(100 * MS)
    peer.ack(14_600)
    assert info(peer)["delivery_rate_app_limited"] == 1  # 10 segments at once, and no more to send
    peer.write(b"y" * 200_000, 14_600)
    sent = sum(len(item.data) for item in peer.take())
    for _ in range(6):
        peer.advance(100 * MS)
        peer.ack(sent)
        sent = sum(len(item.data) for item in peer.take())
        if not sent:
            break
    assert info(peer)["delivery_rate_app_limited"] == 0


def test_topics_of_a_query() -> None:
    peer = Peer(sack=True)
    raw = peer.raw
    raw.told()
    for topic in ("", "tcp_info", "congestion", "nothing"):
        raw.app(Query(0, 2, topic))
    block, linux, algorithms, nothing = raw.told(Info)
    assert block.fields["snd_nxt"] == 1001
    assert linux.fields == info(peer)
    assert sorted(algorithms.fields) == ["cubic", "newreno", "reno"]
    assert (nothing.fields, nothing.topic) == ({}, "nothing")


def test_congestion_control_is_changed_in_flight_and_keeps_its_window() -> None:
    """As tcp_set_congestion_control: cwnd and ssthresh stay. Nothing of a recovery that the old
    one began can be undone by the new one."""
    peer = Peer(sack=True, timestamps=1000, rtt=100 * MS)
    peer.write(b"x" * 14_600)
    peer.advance(100 * MS)
    peer.sack((1448, 5 * 1448))
    before = peer.raw.info()
    peer.raw.option("TCP_CONGESTION", "reno")
    after = peer.raw.info()
    assert (before["congestion"], after["congestion"]) == ("cubic", "newreno")
    assert (before["cwnd"], before["ssthresh"]) == (after["cwnd"], after["ssthresh"])
    peer.send(ACK, ack=peer.rcv + 14_600)  # an old timestamp: it was for nothing
    assert peer.state == "ESTABLISHED"


def test_congestion_control_of_a_listener_is_that_of_its_connections() -> None:
    peer = Peer(passive=True, options={"TCP_CONGESTION": "newreno"})
    assert peer.raw.info(peer.handle)["congestion"] == "newreno"
