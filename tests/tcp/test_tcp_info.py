"""What `ss -i` shows: Linux's struct tcp_info by its names."""

from __future__ import annotations

from .harness import MS, Peer


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
