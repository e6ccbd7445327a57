"""RFC 7323 section 2: the window scale option."""

from __future__ import annotations

import pytest

from plywire.messages import Data
from plywire.wire.tcp import Options
from services.tcp.options import receive_scale

from .harness import ACK, SYN, Pair, Peer


@pytest.mark.parametrize(
    ("buffer", "scale"),
    [(1000, 7), (1 << 20, 7), (8 << 20, 8), (16 << 20, 9), (1 << 30, 14), (1 << 40, 14)],
)
def test_scale_is_what_the_buffer_needs(buffer: int, scale: int) -> None:
    assert receive_scale(buffer) == scale


def test_offered_in_a_syn() -> None:
    peer = Peer(establish=False)
    assert peer.syn.options.window_scale == 7
    assert peer.syn.window == 64_240  # whole segments, 65,535 at most, not scaled


def test_scaling_can_be_switched_off() -> None:
    peer = Peer(window_scaling=False, scale=7)
    assert peer.syn.options.window_scale is None
    assert (peer.tcb.snd_scale, peer.tcb.rcv_scale) == (0, 0)
    passive = Peer(window_scaling=False, scale=7, passive=True)
    assert passive.synack.options.window_scale is None


def test_answered_only_when_offered() -> None:
    assert Peer(passive=True, scale=3).synack.options.window_scale == 7
    assert Peer(passive=True).synack.options.window_scale is None


def test_window_of_a_syn_ack_is_not_scaled() -> None:
    peer = Peer(scale=5, window=1000, establish=False)
    peer.send(SYN | ACK, options=peer.syn_options)
    assert peer.tcb.snd_wnd == 1000
    assert peer.take()
    peer.snd += 1
    peer.send(ACK)
    assert peer.tcb.snd_wnd == 1000 << 5


def test_window_of_a_syn_is_not_scaled() -> None:
    peer = Peer(scale=5, window=1000, passive=True, establish=False)
    assert peer.tcb.snd_wnd == 1000
    peer.send(ACK)
    assert peer.tcb.snd_wnd == 32_000


def test_windows_sent_are_scaled_after_the_syn() -> None:
    peer = Peer(scale=2)
    peer.data(b"x")
    ack = peer.take()[-1]
    assert ack.window == ((1 << 20) - 1) >> 7


def test_without_the_option_windows_stay_small() -> None:
    peer = Peer(scale=None)
    peer.data(b"x")
    assert peer.take()[-1].window == 65_535
    assert (peer.tcb.snd_scale, peer.tcb.rcv_scale) == (0, 0)


def test_scale_beyond_14_is_14() -> None:
    """2.3: larger shifts are used as 14."""
    assert Peer(scale=200).tcb.snd_scale == 14


def test_simultaneous_open_negotiates() -> None:
    peer = Peer(establish=False)
    peer.send(SYN, options=Options(mss=1000, window_scale=4))
    answer = peer.only()
    assert answer.options.window_scale == 7
    assert peer.tcb.snd_scale == 4


def test_what_was_offered_is_accepted_though_rounding_took_it_back() -> None:
    """2.4: the edge may seem to move back by less than the unit of the scale."""
    peer = Peer(scale=0, limit=20_000, quick_acks=0)
    peer.data(b"x" * 1001)
    peer.send(ACK, seq=peer.snd - 1)
    edge = peer.tcb.rcv_wnd
    answer = peer.take()[-1]
    assert answer.window << 7 <= edge
    peer.data(b"y" * edge)
    got = b"".join(item.payload for item in peer.raw.told(Data))
    assert len(got) == 1001 + edge


def test_large_windows_are_filled() -> None:
    pair = Pair(delay=100_000_000)
    pair.transfer(bytes(3_000_000), b"")
    assert pair.now < 6_000_000_000
