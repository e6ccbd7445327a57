"""RFC 6191: timestamps let a new SYN end TIME-WAIT."""

from __future__ import annotations

import pytest

from plywire.seq import add
from plywire.wire.tcp import Options

from .harness import ACK, FIN, SYN, Peer


def in_time_wait(timestamps: int | None = 100) -> Peer:
    """The listener's side closed first."""
    peer = Peer(passive=True, timestamps=timestamps)
    peer.raw.end(0, peer.handle)
    peer.take()
    peer.ack(1)
    peer.data(b"", ACK | FIN)
    peer.take()
    assert peer.state == "TIME-WAIT"
    return peer


def syn(peer: Peer, ahead: int, tsval: int | None) -> None:
    peer.tsval = None
    stamps = None if tsval is None else (tsval, 0)
    peer.send(SYN, seq=add(peer.snd, ahead), options=Options(mss=1460, timestamps=stamps))


@pytest.mark.parametrize(
    ("ahead", "tsval", "opens"),
    [
        (1000, 101, True),
        (-1000, 101, True),  # by the timestamp alone
        (1000, 99, False),
        (-1000, 99, False),
        (1000, 100, True),  # the clock has not moved: by the sequence number
        (-1000, 100, False),
        (1000, None, True),
        (-1000, None, False),
    ],
)
def test_a_syn_in_time_wait(ahead: int, tsval: int | None, opens: bool) -> None:
    peer = in_time_wait()
    syn(peer, ahead, tsval)
    assert peer.state == ("SYN-RECEIVED" if opens else "TIME-WAIT")


def test_a_stamp_is_no_news_when_the_old_connection_had_none() -> None:
    peer = in_time_wait(None)
    syn(peer, -1000, 500)
    assert peer.state == "TIME-WAIT"
    syn(peer, 1000, 500)
    assert peer.state == "SYN-RECEIVED"


def test_the_new_incarnation_is_numbered_beyond_the_old_one() -> None:
    peer = in_time_wait()
    syn(peer, -1000, 101)
    (answer,) = [item for item in peer.take() if item.flags == SYN | ACK]
    assert (answer.seq - peer.rcv) & 0xFFFF_FFFF > 65_535
