"""RFC 5482: the user timeout option."""

from __future__ import annotations

import pytest

from plywire.errors import DecodeError
from plywire.messages import Closed
from plywire.seq import add
from plywire.wire.tcp import Options, build_options, parse_options, user_timeout_option

from .harness import ACK, MS, SECOND, SYN, Peer, Raw

ON = {"user_timeout_option": True}
OWN = {"TCP_USER_TIMEOUT": 300_000}  # milliseconds


def told(peer: Peer) -> list[int | None]:
    return [got.options.user_timeout for got in peer.take()]


@pytest.mark.parametrize(
    ("seconds", "read"),
    [(1, 1), (32_767, 32_767), (32_768, 32_820), (86_400, 86_400), (10**9, 32_767 * 60)],
)
def test_3_granularity_is_seconds_and_beyond_15_bits_minutes(seconds: int, read: int) -> None:
    assert parse_options(user_timeout_option(seconds)).user_timeout == read


@pytest.mark.parametrize("length", [2, 3, 5, 6])
def test_3_another_length_is_refused(length: int) -> None:
    with pytest.raises(DecodeError):
        parse_options(bytes((28, length)) + bytes(length - 2))


def test_3_it_is_not_sent_unless_enabled() -> None:
    peer = Peer(options=OWN)
    peer.write(b"x")
    assert peer.syn.options.user_timeout is None
    assert told(peer) == [None]


def test_3_it_is_not_sent_while_the_program_has_set_none() -> None:
    peer = Peer(**ON)
    assert peer.syn.options.user_timeout is None


def test_3_it_is_on_the_syn_and_on_the_first_segment_after_it() -> None:
    raw = Raw(**ON)
    raw.connect(2, 80, **OWN)
    assert raw.only().options.user_timeout == 300
    peer_port = raw.tcb().local_port
    raw.segment(SYN | ACK, 5000, 1001, src_port=80, dst_port=peer_port, options=Options(mss=1460))
    assert raw.only().options.user_timeout == 300
    raw.write(b"x", 0)
    assert raw.only().options.user_timeout is None


def test_3_a_listeners_value_is_on_the_syn_ack() -> None:
    peer = Peer(passive=True, options=OWN | {"TCP_NODELAY": 1}, **ON)
    assert peer.synack.options.user_timeout == 300
    peer.write(b"x")
    assert told(peer) == [300]
    peer.write(b"y", 1)
    assert told(peer) == [None]


def test_3_a_syn_sent_again_has_it_too() -> None:
    raw = Raw(**ON)
    raw.connect(2, 80, **OWN)
    raw.take()
    raw.advance(SECOND)
    assert raw.only().options.user_timeout == 300


def test_3_a_change_is_told_with_the_next_segment() -> None:
    peer = Peer(**ON)
    peer.raw.option("TCP_NODELAY", 1)
    peer.raw.option("TCP_USER_TIMEOUT", 40_000 * 1000)
    peer.write(b"x")
    assert told(peer) == [40_020]  # in whole minutes
    peer.write(b"y", 1)
    assert told(peer) == [None]


def test_3_data_is_not_cut_for_it() -> None:
    peer = Peer(**ON)
    peer.raw.option("TCP_USER_TIMEOUT", 300_000)
    peer.write(bytes(1460 * 2 + 100))
    got = peer.take()
    assert [len(item.data) for item in got] == [1460, 1460, 100]
    assert [item.options.user_timeout for item in got] == [None, None, 300]


@pytest.mark.parametrize(
    ("remote", "adopted"), [(150, 150), (5, 100), (100_000_000, 86_400)], ids=["in", "low", "high"]
)
def test_3_1_what_the_peer_tells_is_adopted_within_the_limits(remote: int, adopted: int) -> None:
    peer = Peer(**ON)
    peer.send(ACK, options=Options(user_timeout=remote))
    assert peer.tcb.user_timeout == adopted * SECOND
    assert peer.raw.counters["tcp_uto_adopted"] == 1


def test_3_1_it_ends_the_connection_when_its_time_is_over() -> None:
    peer = Peer(**ON)
    peer.send(ACK, options=Options(user_timeout=120))
    peer.write(b"x")
    peer.advance(119 * SECOND)
    assert peer.state == "ESTABLISHED"
    peer.advance(2 * SECOND)
    assert [item.error for item in peer.raw.told(Closed)] == ["ETIMEDOUT"]


def test_3_1_a_longer_one_outlives_the_usual_retries() -> None:
    """It takes the place of R2 (section 3.1), as TCP_USER_TIMEOUT does in Linux."""
    peer = Peer(retries2=3, **ON)
    peer.send(ACK, options=Options(user_timeout=3600))
    peer.write(b"x")
    peer.advance(60 * SECOND)
    assert peer.state == "ESTABLISHED"


def test_3_1_a_value_of_the_programs_own_is_not_changed() -> None:
    peer = Peer(options=OWN, **ON)
    peer.send(ACK, options=Options(user_timeout=150))
    assert peer.tcb.user_timeout == 300_000 * MS


def test_3_1_the_latest_of_the_peers_values_counts() -> None:
    peer = Peer(**ON)
    for seconds in (150, 200, 120):
        peer.send(ACK, options=Options(user_timeout=seconds))
        assert peer.tcb.user_timeout == seconds * SECOND


def test_3_1_a_host_that_does_not_enable_it_passes_it_over() -> None:
    peer = Peer()
    peer.send(ACK, options=Options(user_timeout=150))
    assert peer.tcb.user_timeout == 0


def test_3_zero_means_nothing() -> None:
    peer = Peer(**ON)
    peer.raw.segment(ACK, peer.snd, peer.rcv, src_port=80, dst_port=peer.local_port,
                     options=Options(user_timeout=0))  # fmt: skip
    assert peer.tcb.user_timeout == 0
    assert peer.raw.counters["tcp_uto_ignored"] == 1


def test_3_it_is_taken_from_a_syn() -> None:
    raw = Raw(**ON)
    raw.listen()
    raw.segment(
        SYN, 5000, src_port=40_000, dst_port=80, options=Options(mss=1460, user_timeout=200)
    )
    assert raw.tcb().user_timeout == 200 * SECOND


def test_3_it_is_not_taken_from_a_segment_outside_the_window() -> None:
    peer = Peer(**ON)
    peer.send(ACK, b"x", seq=add(peer.snd, -100_000), options=Options(user_timeout=150))
    assert peer.tcb.user_timeout == 0


def test_options_with_it_come_back() -> None:
    options = Options(mss=1460, timestamps=(1, 2), user_timeout=77)
    assert parse_options(build_options(options)) == options
