"""RFC 7323 sections 3 to 5: timestamps, round-trip measurement and PAWS."""

from __future__ import annotations

import pytest

from plywire.messages import Segment
from plywire.roles import IP
from plywire.wire import tcp as wire
from plywire.wire.tcp import Options

from .harness import ACK, FIN, LOCAL, MS, REMOTE, RST, SECOND, SYN, Pair, Peer, Raw

DAY = 86_400 * SECOND


def test_a_syn_offers_timestamps_with_no_echo() -> None:
    raw = Raw()
    raw.connect()
    tsval, tsecr = raw.only().options.timestamps
    assert tsecr == 0
    assert tsval


def test_a_syn_ack_echoes_the_syn() -> None:
    peer = Peer(passive=True, timestamps=77)
    assert peer.synack.options.timestamps[1] == 77


def test_a_syn_ack_has_none_when_the_syn_had_none() -> None:
    assert Peer(passive=True).synack.options.timestamps is None


def test_nothing_is_offered_when_configured_off() -> None:
    raw = Raw(timestamps=False)
    raw.connect()
    assert raw.only().options.timestamps is None
    assert Peer(passive=True, timestamps=77, raw=Raw(timestamps=False)).synack.options == Options(
        mss=1460, sack_permitted=False
    )


def test_without_the_peers_option_no_segment_has_it() -> None:
    peer = Peer()
    peer.write(b"x" * 100)
    assert peer.only().options.timestamps is None


def test_every_segment_has_it_once_agreed_and_the_mss_leaves_room() -> None:
    peer = Peer(timestamps=100)
    peer.write(b"x" * 3000)
    sent = peer.take()
    assert [len(item.data) for item in sent] == [1448, 1448, 104]
    assert all(item.options.timestamps[1] == 100 for item in sent)


def test_a_reset_of_the_connection_has_it() -> None:
    peer = Peer(timestamps=100)
    peer.raw.close(abort=1)
    assert peer.only().options.timestamps is not None


def test_the_clock_of_each_pair_of_endpoints_starts_elsewhere() -> None:
    raw = Raw()
    raw.connect(2, 80)
    raw.connect(4, 81)
    first, second = (item.options.timestamps[0] for item in raw.take())
    assert first != second


def test_the_clock_counts_milliseconds() -> None:
    peer = Peer(timestamps=100)
    peer.write(b"a")
    first = peer.only().options.timestamps[0]
    peer.ack(1)
    peer.advance(3 * SECOND)
    peer.write(b"b", 1)
    assert peer.only().options.timestamps[0] - first == 3000


def test_what_is_echoed_is_of_the_segment_that_moved_the_left_edge() -> None:
    """4.3: a delayed acknowledgement echoes the earliest of what it acknowledges."""
    peer = Peer(timestamps=100, quick_acks=0)
    peer.tsval = 110
    peer.data(b"a" * 100)
    peer.tsval = 120
    peer.data(b"b" * 100)
    peer.advance(40 * MS)
    assert peer.only().options.timestamps[1] == 110


def test_a_segment_beyond_a_hole_is_not_echoed() -> None:
    peer = Peer(timestamps=100)
    peer.tsval = 150
    peer.send(ACK, b"later", seq=peer.snd + 100)
    assert peer.only().options.timestamps[1] == 100


def test_a_segment_that_fills_a_hole_is_echoed() -> None:
    peer = Peer(timestamps=100)
    peer.tsval = 150
    peer.send(ACK, b"later", seq=peer.snd + 100)
    peer.take()
    peer.tsval = 160
    peer.send(ACK, b"x" * 100)
    assert peer.only().options.timestamps[1] == 160


@pytest.mark.parametrize("flags", [ACK, ACK | FIN])
def test_paws_answers_and_drops_an_old_segment(flags) -> None:
    peer = Peer(timestamps=100)
    peer.tsval = 99
    peer.send(flags, b"old")
    answer = peer.only()
    assert (answer.flags, answer.ack) == (ACK, peer.snd)
    assert peer.raw.counters["drop_paws"] == 1
    assert peer.state == "ESTABLISHED"


def test_paws_is_not_for_resets() -> None:
    peer = Peer(timestamps=100)
    peer.send(RST, options=Options(timestamps=(5, 0)))
    assert peer.state == "CLOSED"


def test_a_reset_needs_no_timestamp() -> None:
    peer = Peer(timestamps=100)
    peer.tsval = None
    peer.send(RST)
    assert peer.state == "CLOSED"


def test_a_segment_without_the_option_is_dropped() -> None:
    peer = Peer(timestamps=100)
    peer.tsval = None
    peer.send(ACK, b"no stamp")
    assert peer.take() == []
    assert peer.raw.counters["drop_no_timestamp"] == 1


def test_a_time_stamp_of_24_days_ago_is_no_longer_a_reason_to_drop() -> None:
    peer = Peer(timestamps=100)
    peer.raw.advance(25 * DAY)
    peer.send(ACK, b"fresh", options=Options(timestamps=(99, peer.tsecr)))
    assert peer.only().ack == peer.snd + 5


def test_timestamps_wrap() -> None:
    peer = Peer(timestamps=0xFFFF_FFFF)
    peer.tsval = 3
    peer.data(b"beyond")
    assert peer.only().options.timestamps[1] == 3


def test_a_segment_outside_the_window_does_not_change_what_is_echoed() -> None:
    peer = Peer(timestamps=100)
    peer.tsval = 200
    peer.send(ACK, b"far", seq=peer.snd + (1 << 25))
    assert peer.only().options.timestamps[1] == 100


def test_a_retransmitted_segment_is_measured_by_its_echo() -> None:
    peer = Peer(timestamps=100)
    peer.write(b"x" * 100)
    peer.take()
    peer.advance(650 * MS)
    assert peer.take()
    peer.advance(70 * MS)
    peer.ack(100)
    assert peer.raw.info()["srtt_us"] < 20_000
    assert peer.raw.info()["backoff"] == 0


def test_an_echo_of_the_future_is_no_measurement() -> None:
    peer = Peer(timestamps=100)
    before = peer.raw.info()["srtt_us"]
    peer.write(b"x" * 100)
    peer.take()
    peer.advance(50 * MS)
    peer.tsecr += 100_000
    peer.ack(100)
    assert peer.raw.info()["srtt_us"] == before


def test_many_measurements_in_a_round_trip_weigh_less() -> None:
    """4.2: the history is as long as with one measurement."""
    peer = Peer(timestamps=100)
    peer.write(b"x" * 1448)
    peer.advance(10 * MS)
    peer.take()
    peer.ack(1448)
    srtt = peer.tcb.rtt.srtt
    peer.write(b"x" * 1448 * 10, 1448)
    peer.advance(90 * MS)
    peer.take()
    peer.ack(1448)
    assert peer.tcb.rtt.srtt - srtt < (90 * MS - srtt) // 8 // 4


def test_a_transfer_with_wrapping_sequence_numbers_and_timestamps() -> None:
    pair = Pair(4, loss=0.05, jitter=20 * MS, iss=(0xFFFF_F000, 0xFFFF_FF00))
    pair.now = ((1 << 32) - 1000) * MS
    pair.transfer(b"a" * 200_000, b"b" * 50_000)


def test_a_malformed_timestamp_is_dropped() -> None:
    peer = Peer(timestamps=100)
    header = b"\x08\x09" + bytes(8)
    raw = wire.encode(
        wire.TcpHeader(peer.remote_port, peer.local_port, peer.snd, peer.rcv, ACK, 100, 0, header),
        b"data", REMOTE, LOCAL)  # fmt: skip
    peer.raw.layer.receive(Segment(1, 6, REMOTE, LOCAL, 0, 64, 0, raw), IP, peer.raw.now)
    assert peer.raw.counters["drop_tcp_bad_option_length"] == 1


def test_a_syn_in_syn_received_with_a_later_stamp_is_answered() -> None:
    peer = Peer(passive=True, timestamps=100, establish=False)
    peer.tsval = 1100
    peer.send(SYN, seq=peer.iss, options=peer.syn_options)
    assert peer.only().flags == SYN | ACK
