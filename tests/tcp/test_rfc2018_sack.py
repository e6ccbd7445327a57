"""RFC 2018: what the receiver reports, and what the sender makes of it."""

from __future__ import annotations

import pytest

from plywire.seq import add
from plywire.wire.tcp import Options

from .harness import ACK, FIN, MS, SYN, Pair, Peer, Raw
from .invariants import check, check_board


def blocks(peer: Peer, *pairs: tuple[int, int]) -> tuple[tuple[int, int], ...]:
    return tuple((add(peer.snd, left), add(peer.snd, right)) for left, right in pairs)


def early(peer: Peer, offset: int, size: int = 100) -> tuple[tuple[int, int], ...]:
    """Data beyond a hole arrives; the blocks of the answer."""
    peer.send(ACK, bytes(size), seq=add(peer.snd, offset))
    return peer.only().options.sack


def test_a_syn_permits_it() -> None:
    raw = Raw()
    raw.connect()
    assert raw.only().options.sack_permitted


def test_a_syn_ack_permits_it_only_when_the_syn_did() -> None:
    assert Peer(passive=True, sack=True).synack.options.sack_permitted
    assert not Peer(passive=True).synack.options.sack_permitted


def test_it_can_be_switched_off() -> None:
    peer = Peer(passive=True, sack=True, raw=Raw(sack=False))
    assert not peer.synack.options.sack_permitted
    assert early(peer, 100) == ()


def test_no_blocks_without_the_peers_permission() -> None:
    assert early(Peer(), 100) == ()


def test_a_block_for_what_came_early() -> None:
    peer = Peer(sack=True)
    assert early(peer, 100) == blocks(peer, (100, 200))


def test_the_block_of_the_last_segment_is_first_and_the_others_follow() -> None:
    peer = Peer(sack=True)
    early(peer, 100)
    early(peer, 300)
    assert early(peer, 500) == blocks(peer, (500, 600), (300, 400), (100, 200))
    assert early(peer, 400) == blocks(peer, (300, 600), (100, 200))


def test_at_most_four_blocks_and_three_beside_timestamps() -> None:
    for stamps, most in ((None, 4), (100, 3)):
        peer = Peer(sack=True, timestamps=stamps)
        for offset in range(200, 1400, 200):
            found = early(peer, offset)
        assert len(found) == most


def test_blocks_end_when_the_hole_is_filled() -> None:
    peer = Peer(sack=True)
    early(peer, 100)
    peer.data(bytes(100))
    got = peer.only()
    assert (got.ack, got.options.sack) == (add(peer.snd, 100), ())


def test_data_that_is_sent_meanwhile_carries_the_blocks_too() -> None:
    peer = Peer(sack=True)
    early(peer, 100)
    peer.write(b"x" * 3000)
    sent = peer.take()
    assert all(item.options.sack for item in sent)
    assert max(len(item.data) for item in sent) == 1460 - 12


def test_blocks_cross_the_end_of_the_sequence_space() -> None:
    peer = Peer(sack=True, iss=0xFFFF_FFC0)
    assert early(peer, 100) == blocks(peer, (100, 200))


# --- the sender -----------------------------------------------------------------------------------


def sending(segments: int = 10, **options: object) -> Peer:
    """A connection that has sent so many segments of 1,460 bytes."""
    peer = Peer(sack=True, congestion="newreno", rtt=100 * MS, **options)
    peer.write(b"x" * 1460 * segments)
    assert len(peer.take()) == segments
    return peer


def sent(peer: Peer) -> list[int]:
    """What was sent since, as segments counted from `rcv`."""
    return [(item.seq - peer.rcv) // 1460 for item in peer.take()]


def test_three_segments_beyond_a_hole_repair_it_and_only_it() -> None:
    peer = sending()
    peer.advance(10 * MS)
    peer.sack((1460, 3 * 1460))
    assert sent(peer) == []
    peer.sack((1460, 4 * 1460))
    assert sent(peer) == [0]
    assert peer.tcb.in_recovery


def test_two_holes_are_repaired_in_one_recovery_without_a_timeout() -> None:
    peer = sending()
    peer.advance(10 * MS)
    peer.sack((1460, 2 * 1460), (3 * 1460, 10 * 1460))
    found = sent(peer)
    peer.sack((1460, 2 * 1460), (3 * 1460, 10 * 1460))
    assert found + sent(peer) == [0, 2]
    ssthresh = peer.tcb.cc.ssthresh
    peer.ack(1460 * 10)
    assert peer.tcb.cc.ssthresh == ssthresh
    assert not peer.tcb.in_recovery


def test_what_was_reported_is_not_sent_again_after_a_timeout() -> None:
    peer = sending(4, rack=False)
    peer.advance(10 * MS)
    peer.sack((2 * 1460, 3 * 1460))
    peer.advance(400 * MS)
    assert sent(peer) == [0]
    peer.advance(10 * MS)
    peer.ack(1460)
    assert sent(peer) == [0, 2]  # the second and the fourth: the third is there


def test_a_receiver_that_takes_its_word_back_gets_all_again() -> None:
    """Section 8: what was reported may be discarded; the timer finds out."""
    peer = sending(4, rack=False)
    peer.advance(10 * MS)
    peer.sack((1460, 4 * 1460))
    peer.take()
    peer.advance(10 * MS)
    peer.ack(1460)  # and nothing more: the first reported segment is not acknowledged
    peer.advance(700 * MS)
    assert peer.raw.counters["tcp_sack_reneging"] == 1
    assert 0 in sent(peer)


@pytest.mark.parametrize(
    "block", [(-5000, -100), (0, 0), (2000, 1000), (1460, 1 << 20), (1 << 24, (1 << 24) + 10)]
)
def test_a_block_of_nothing_that_was_sent_changes_nothing(block: tuple[int, int]) -> None:
    peer = sending()
    peer.sack(block)
    assert (peer.tcb.board.sacked, sent(peer)) == (0, [])
    check_board(peer.tcb)


def test_a_block_that_covers_a_part_of_a_segment_does_not_count_for_it() -> None:
    peer = sending()
    peer.sack((1460, 3 * 1460 - 1))
    assert peer.tcb.board.sacked == 1460


def test_the_scoreboard_is_bounded_by_what_was_sent() -> None:
    peer = sending(20, initial_window=20)
    for left in range(0, 29_000, 7):
        peer.sack((left, left + 3))
    assert len(peer.tcb.board.segs) == 20


def test_a_duplicate_acknowledgement_without_blocks_says_nothing() -> None:
    peer = sending()
    for _ in range(5):
        peer.send(ACK)
    assert sent(peer) == []


def test_a_duplicate_acknowledgement_without_blocks_lets_nothing_out() -> None:
    """RFC 3042 section 2: MUST NOT, since a peer could ask for new data without end."""
    peer = sending()
    peer.write(b"y" * 14_600, 14_600)
    peer.advance(10 * MS)
    for _ in range(5):
        peer.send(ACK)
    assert sent(peer) == []
    peer.sack((1460, 2 * 1460))
    assert sent(peer) == [10]


def test_permission_and_scale_are_on_a_syn_only() -> None:
    """RFC 2018 section 2, RFC 7323 section 2.2."""
    peer = Peer(sack=True, scale=7)
    assert peer.syn.options.sack_permitted
    assert peer.syn.options.window_scale is not None
    peer.write(b"x" * 3000)
    peer.data(b"y")
    peer.raw.end(3000)
    peer.advance(1000 * MS)
    found = peer.take()
    assert len(found) > 4
    assert {(item.options.sack_permitted, item.options.window_scale) for item in found} == {
        (False, None)
    }


def test_fin_is_repaired_like_data() -> None:
    peer = Peer(sack=True)
    peer.write(b"x" * 100)
    peer.raw.end(100)
    assert [item.flags & FIN for item in peer.take()] == [0, FIN]
    peer.advance(10 * MS)
    peer.ack(100)
    peer.take()
    peer.advance(2000 * MS)
    assert all(item.flags & FIN and not item.data for item in peer.take())
    peer.ack(1)
    assert peer.state == "FIN-WAIT-2"


def test_a_closed_window_is_probed_and_its_byte_goes_with_the_rest() -> None:
    peer = Peer(sack=True, window=0)
    peer.write(b"x" * 3000)
    assert peer.take() == []
    peer.advance(300 * MS)
    assert len(peer.only().data) == 1
    check_board(peer.tcb)
    peer.send(ACK, window=65_535)
    assert sum(len(item.data) for item in peer.take()) == 3000
    check_board(peer.tcb)
    peer.ack(3000)
    assert peer.tcb.flight == 0


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize("congestion", ["cubic", "newreno"])
def test_random_wires_keep_every_invariant(seed: int, congestion: str) -> None:
    pair = Pair(
        seed, loss=(0.01, 0.05, 0.2)[seed % 3], jitter=(0, 8 * MS)[seed & 1], duplicate=0.02,
        corrupt=0.01, iss=(0xFFFF_8000, 0x7FFF_F000), congestion=congestion, rack=seed % 4 > 0,
        receive_buffer=(8_000, 1 << 20)[seed % 5 > 0],
    )  # fmt: skip
    forth, back = b"\x01" * 150_000, b"\x02" * 60_000
    pair.open()
    pair.a.send(forth)
    pair.b.send(back)
    while not (pair.a.closed and pair.b.closed) and pair.step():
        check(pair)
        if pair.rng.random() < 0.02:
            pair.rng.choice(pair.ends).swap()
    assert (bytes(pair.b.received), bytes(pair.a.received)) == (forth, back)


def test_a_malformed_block_list_is_dropped() -> None:
    raw = Raw()
    raw.segment(SYN, 1, options=Options(sack=((1, 2),)), src_port=4, dst_port=80)
    assert raw.counters["tcp_in_segs"] == 1  # no listener: answered with RST, nothing kept
    assert raw.states() == []
