"""The data path of RFC 9293: segmentation, reassembly, windows, MSS, urgent data."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from plywire.messages import Credit, Data, End
from plywire.seq import add, sub
from services.tcp.buffers import StreamBuffer
from services.tcp.islands import MAX_ISLANDS

from .harness import ACK, FIN, PSH, SECOND, URG, Pair, Peer, Raw

FAR = 1 << 32


def read(peer: Peer) -> bytes:
    return b"".join(item.payload for item in peer.raw.told(Data))


def test_segments_have_the_mss_and_the_last_has_psh() -> None:
    peer = Peer()
    peer.write(b"x" * 3000)
    sent = peer.take()
    assert [len(item.data) for item in sent] == [1460, 1460, 80]
    assert [item.flags for item in sent] == [ACK, ACK, ACK | PSH]
    assert [item.seq for item in sent] == [add(peer.rcv, n) for n in (0, 1460, 2920)]


@pytest.mark.parametrize(
    ("mss", "mtu", "maxseg", "expected"),
    [
        (1460, 1500, 0, 1460),
        (1000, 1500, 0, 1000),
        (9000, 1500, 0, 1460),
        (None, 1500, 0, 536),  # MUST-15: the default
        (1460, 1280, 0, 1240),
        (1460, 1500, 700, 700),
        (10, 1500, 0, 48),
    ],
)
@pytest.mark.parametrize("passive", [False, True])
def test_effective_mss(mss: int | None, mtu: int, maxseg: int, expected: int, passive) -> None:
    options = {"TCP_MAXSEG": maxseg} if maxseg else {}
    peer = Peer(Raw(mtu=mtu), mss=mss, options=options, passive=passive)
    peer.write(b"x" * 400 if expected == 48 else b"x" * 4000)
    assert len(peer.take()[0].data) == expected
    offer = peer.synack if passive else peer.syn
    assert offer.options.mss == (maxseg or mtu - 40)


def test_nothing_goes_beyond_the_window() -> None:
    peer = Peer(window=2920)
    peer.write(b"x" * 10_000)
    assert sum(len(item.data) for item in peer.take()) == 2920
    peer.ack(1460)
    assert sum(len(item.data) for item in peer.take()) == 1460
    peer.ack(0, window=1460)  # the peer takes 1460 back: SHLD-15, be robust
    assert peer.take() == []


def test_old_window_updates_are_not_taken() -> None:
    """3.10.7.4 fifth: SND.WL1 and SND.WL2."""
    peer = Peer()
    peer.data(b"one")
    peer.send(ACK, window=5000)
    assert peer.tcb.snd_wnd == 5000
    peer.tcb.snd_wl1 = add(peer.snd, 10)
    peer.send(ACK, window=9000)
    assert peer.tcb.snd_wnd == 5000


def test_in_order_data_is_delivered_at_once() -> None:
    peer = Peer()
    peer.data(b"hello")
    (data,) = peer.raw.told(Data)
    assert (data.handle, data.offset, data.payload, data.trace) == (2, 0, b"hello", 5)


def test_repeats_and_overlaps_are_cut() -> None:
    peer = Peer()
    start = peer.snd
    peer.send(ACK, b"abcdef")
    peer.send(ACK, b"abc", seq=start)
    peer.send(ACK, b"defghi", seq=add(start, 3))
    assert read(peer) == b"abcdefghi"
    assert peer.take()[-1].ack == add(start, 9)


def test_text_is_cut_at_the_right_edge() -> None:
    peer = Peer(limit=1000)
    peer.send(ACK, b"x" * 1200)
    assert len(read(peer)) == 1000
    assert peer.take()[-1].ack == add(peer.snd, 1000)


def test_out_of_order_is_kept_and_acknowledged_at_once() -> None:
    peer = Peer()
    peer.send(ACK, b"c", seq=add(peer.snd, 2))
    peer.send(ACK, b"b", seq=add(peer.snd, 1))
    assert [item.ack for item in peer.take()] == [peer.snd, peer.snd]
    assert read(peer) == b""
    peer.send(ACK, b"a")
    assert peer.only().ack == add(peer.snd, 3)
    assert read(peer) == b"abc"


def test_islands_are_bounded() -> None:
    peer = Peer()
    for index in range(MAX_ISLANDS + 10):
        peer.send(ACK, b"x", seq=add(peer.snd, 2 + 2 * index))
    assert len(peer.tcb.islands) == MAX_ISLANDS
    assert peer.raw.counters["drop_too_many_islands"] == 10


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_any_order_of_pieces(data: st.DataObject) -> None:
    """Pieces that cover the stream, in any order and overlapping as they like."""
    size = data.draw(st.integers(1, 400))
    stream = bytes(random.Random(size).randrange(256) for _ in range(size))
    cuts = data.draw(st.lists(st.tuples(st.integers(0, size - 1), st.integers(1, 60)), max_size=25))
    pieces = [(start, stream[start : start + length]) for start, length in cuts]
    pieces += [(start, stream[start : start + 50]) for start in range(0, size, 50)]
    order = data.draw(st.permutations(pieces))
    peer = Peer(iss=data.draw(st.sampled_from([5000, (1 << 32) - 200])))
    base = peer.snd
    fin = data.draw(st.booleans())
    if fin:
        peer.send(ACK | FIN, seq=add(base, size))
    told = []
    for start, piece in order:
        peer.send(ACK, piece, seq=add(base, start))
        told += peer.raw.told()
    parts = [item for item in told if isinstance(item, Data)]
    assert [part.offset for part in parts] == sorted(part.offset for part in parts)
    assert b"".join(part.payload for part in parts) == stream
    assert [item.offset for item in told if isinstance(item, End)] == ([size] if fin else [])
    assert peer.tcb.islands == []


def test_urgent_data_stays_in_line() -> None:
    """MUST-31: any length; the pointer is the sequence number behind it (RFC 6093)."""
    peer = Peer()
    peer.send(ACK | URG | PSH, b"normal!", urgent=7)
    assert read(peer) == b"normal!"
    assert peer.tcb.rcv_up == add(peer.snd, 7)


def test_credit_follows_the_acknowledgements() -> None:
    peer = Peer(send_buffer=10_000)
    peer.raw.told()
    peer.write(b"x" * 10_000)
    (credit,) = peer.raw.told(Credit)
    assert (credit.acked, credit.limit) == (10_000, 10_000)
    peer.ack(1460)
    (credit,) = peer.raw.told(Credit)
    assert (credit.acked, credit.limit) == (10_000, 11_460)


def test_data_beyond_the_credit_is_refused() -> None:
    peer = Peer(send_buffer=4000)
    peer.write(b"x" * 4001)
    assert peer.take() == []
    assert peer.raw.counters["drop_data_beyond_credit"] == 1
    peer.write(b"x", offset=5)
    assert peer.raw.counters["drop_data_beyond_credit"] == 2


def test_data_that_tcp_has_is_passed_over() -> None:
    peer = Peer()
    peer.write(b"abc")
    peer.write(b"abcdef")
    assert [item.data for item in peer.take()] == [b"abc"]
    peer.ack(3)
    assert peer.only().data == b"def"


def test_window_is_what_the_program_has_room_for() -> None:
    peer = Peer(limit=4000)
    peer.data(b"x" * 1000)
    assert peer.only().window == 3000
    peer.data(b"x" * 3000)
    assert peer.only().window == 0
    peer.raw.credit(4000, 8000)
    update = peer.only()
    assert (update.flags, update.window) == (ACK, 4000)


def test_closed_window_takes_no_text_but_acknowledgements() -> None:
    """3.10.7.4 first: special allowance for valid ACKs, URGs and RSTs."""
    peer = Peer(limit=1000)
    peer.data(b"x" * 1000)
    peer.write(b"out")
    peer.take()
    peer.raw.told()
    peer.rcv = add(peer.rcv, 3)
    peer.send(ACK, b"p")
    answer = peer.only()
    assert (answer.ack, answer.window) == (peer.snd, 0)
    assert peer.raw.told(Data) == []
    assert peer.tcb.snd_una == peer.rcv


@pytest.mark.parametrize("size", [1, 10_000, 1_000_000])
def test_both_directions_at_once(size: int) -> None:
    stream = random.Random(size).randbytes(size)
    pair = Pair()
    pair.transfer(stream, stream[::-1])
    pair.run()
    for end in pair.ends:
        assert end.layer.stack.by_id == {}
        assert end.layer.counters["tcp_retrans_segs"] == 0


def test_jumbo_mtu() -> None:
    pair = Pair(mtu=65_535)
    pair.transfer(bytes(2_000_000), b"")


def test_stream_buffer_keeps_what_it_was_given() -> None:
    rng = random.Random(4)
    buffer, model = StreamBuffer(), bytearray()
    for _ in range(2000):
        piece = rng.randbytes(rng.choice((1, 10, 1460, 9000)))
        buffer.append(piece)
        model += piece
        trim = rng.randint(buffer.start, buffer.end)
        if rng.random() < 0.3:
            buffer.trim(trim)
        at = rng.randint(buffer.start, buffer.end)
        length = rng.randint(0, buffer.end - at)
        if length:
            assert buffer.read(at, length) == model[at : at + length]
    again = StreamBuffer.from_state(buffer.to_state())
    assert (again.start, again.end) == (buffer.start, buffer.end)


def test_one_byte_writes_stay_few_chunks() -> None:
    peer = Peer(window=0)
    for _ in range(10_000):
        peer.raw.layer.stack.by_handle[2].snd_buf.append(b"x")
    assert len(peer.tcb.snd_buf._chunks) < 10


def test_idle_connection_needs_no_timer() -> None:
    peer = Peer()
    peer.data(b"x")
    peer.take()
    peer.advance(1 * SECOND)
    assert peer.raw.layer.deadline() is None


def test_an_acknowledgement_of_iss_after_4_gib_is_not_one_before_the_syns() -> None:
    """3.4: sequence numbers come round. The stream goes on where SND.UNA is ISS once more."""
    peer = Peer()
    peer.write(b"x" * 1000)
    peer.take()
    peer.ack(1000)
    peer.tcb.iss = peer.tcb.snd_una  # as if 4 GiB lay between
    peer.write(b"y" * 1000, 1000)
    (sent,) = peer.take()
    assert sent.data == b"y" * 1000
    peer.ack(1000)
    assert peer.take() == []
    assert peer.tcb.snd_una == peer.tcb.snd_nxt


def test_a_repeat_with_a_new_acknowledgement_brings_its_window() -> None:
    """Found by tests/tcp/test_model.py. By SND.WL1 alone the window of a segment that repeats old
    data is passed over, and what its ACK frees would be filled beyond the edge offered."""
    peer = Peer(window=4000)
    peer.write(bytes(20_000))
    peer.take()
    peer.data(bytes(1000))
    peer.send(ACK)  # SND.WL1 is behind the data now
    peer.take()
    peer.rcv = add(peer.rcv, 2920)
    peer.send(ACK, bytes(1460), seq=add(peer.iss, 1), window=4000 - 2920)  # nobody reads there
    assert peer.tcb.snd_wnd == 1080
    edge = add(peer.rcv, 1080)
    assert all(sub(add(item.seq, len(item.data)), edge) <= 0 for item in peer.take())
