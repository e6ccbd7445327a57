"""Buffers that tune themselves (tcp_rmem, tcp_wmem, tcp_moderate_rcvbuf), and the host's memory."""

from __future__ import annotations

from plywire.config import TcpConfig
from plywire.messages import Option
from plywire.seq import add
from plywire.wire.tcp import Options

from .harness import ACK, MS, SECOND, SYN, Pair, Peer, Raw

TUNED = {"tune_buffers": True}
START = 64 << 10
MIB = 1 << 20


def ends(pair: Pair):
    return [next(iter(end.layer.stack.by_id.values())) for end in pair.ends]


def transfer(size: int, **options) -> Pair:
    pair = Pair(1, delay=50 * MS, **options)
    pair.open()
    pair.a.send(bytes(size), close=False)
    pair.run(lambda: len(pair.b.received) == size)
    return pair


def test_the_first_window_is_of_the_first_buffer_and_the_scale_of_the_largest() -> None:
    peer = Peer(limit=3 * MIB, scale=7, **TUNED)
    assert (peer.syn.window, peer.syn.options.window_scale) == (64_240, 7)
    peer.data(b"x" * 100)
    assert peer.take()[-1].window == (START - 100) >> 7  # though the credit is 3 MiB


def test_buffers_grow_to_what_the_path_needs() -> None:
    sender, receiver = ends(transfer(10 * MIB))
    assert (receiver.rcv_ssthresh, sender.send_buffer) == (3 * MIB, 2 * MIB)
    assert receiver.rcv_rtt == 100 * MS


def test_a_transfer_that_needs_little_leaves_them_small() -> None:
    pair = Pair(1, delay=50 * MS)
    pair.open()
    for _ in range(50):
        pair.a.send(bytes(5000), close=False)
        size = len(pair.a.sending)
        pair.run(lambda size=size: len(pair.b.received) == size)
    sender, receiver = ends(pair)
    assert (receiver.rcv_ssthresh, receiver.rcvq_space) == (START, 14_480)
    assert sender.send_buffer < 2 * START


def test_tuned_is_faster_than_the_first_size_and_no_slower_than_the_largest() -> None:
    def seconds(**options) -> float:
        pair = transfer(4 * MIB, **options)
        return (pair.now - SECOND) / SECOND

    small = {"send_buffer": START, "receive_buffer": START}
    tuned, fixed = seconds(), seconds(tune_buffers=False)
    assert tuned <= fixed * 1.05
    assert seconds(**small) > 4 * tuned


def test_acknowledgements_of_bulk_are_not_more_than_one_in_two_segments() -> None:
    pair = transfer(4 * MIB)
    sent, acks = (end.layer.counters["tcp_out_segs"] for end in pair.ends)
    assert acks < 0.52 * sent


def test_a_reader_that_stops_makes_nothing_grow() -> None:
    pair = Pair(1, delay=5 * MS)
    pair.open()
    pair.b.auto_read = False
    pair.a.send(bytes(MIB), close=False)
    pair.run(lambda: len(pair.b.received) >= START - 1460)
    _, receiver = ends(pair)
    pair.run(lambda: receiver.rcv_wnd < 1460)
    assert receiver.rcv_ssthresh == START
    assert len(pair.b.received) <= START  # the app's credit was 3 MiB


def test_so_rcvbuf_and_so_sndbuf_fix_the_size() -> None:
    pair = Pair(1, delay=50 * MS)
    pair.open()
    pair.run(lambda: pair.a.handle and pair.b.handle and pair.a.limit and pair.b.limit)
    sender, receiver = ends(pair)
    pair.a.app(Option(0, pair.a.handle, "SO_SNDBUF", 40_000))
    pair.b.app(Option(0, pair.b.handle, "SO_RCVBUF", 100_000))
    pair.a.send(bytes(2 * MIB), close=False)
    pair.run(lambda: len(pair.b.received) == 2 * MIB)
    assert (sender.send_buffer, receiver.rcv_ssthresh) == (40_000, 100_000)


def test_a_listeners_so_rcvbuf_is_its_connections_from_the_first_window_on() -> None:
    peer = Peer(passive=True, options={"SO_RCVBUF": 20_000}, **TUNED)
    assert peer.synack.window == 20_000 // 1460 * 1460
    assert peer.tcb.rcv_locked


def test_the_switch_fixes_both_at_the_largest() -> None:
    cfg = TcpConfig()
    sender, receiver = ends(transfer(100, tune_buffers=False))
    assert (sender.send_buffer, receiver.rcv_buf) == (cfg.send_buffer, cfg.receive_buffer)


def test_a_smaller_credit_of_the_app_bounds_what_is_offered() -> None:
    peer = Peer(limit=10_000, scale=7, **TUNED)
    peer.data(b"x" * 1000)
    assert peer.take()[-1].window == 9000 >> 7


def test_tuned_buffers_survive_a_swap() -> None:
    pair = Pair(1, delay=50 * MS)
    pair.open()
    pair.a.send(bytes(8 * MIB), close=False)
    for share in (1, 2, 4):
        pair.run(lambda share=share: len(pair.b.received) >= share * MIB)
        before = [(tcb.send_buffer, tcb.rcv_ssthresh, tcb.rcv_rtt) for tcb in ends(pair)]
        pair.a.swap()
        pair.b.swap()
        assert [(tcb.send_buffer, tcb.rcv_ssthresh, tcb.rcv_rtt) for tcb in ends(pair)] == before
    pair.run(lambda: len(pair.b.received) == 8 * MIB)
    assert ends(pair)[1].rcv_ssthresh > 2 * MIB


# --- the host's memory ----------------------------------------------------------------------------


def test_memory_is_the_sum_of_all_queues_and_falls_to_nothing() -> None:
    pair = Pair(1, delay=50 * MS, loss=0.02)
    pair.open()
    pair.a.send(bytes(MIB), close=False)
    while pair.step() and len(pair.b.received) < MIB:
        for end in pair.ends:
            stack = end.layer.stack
            queues = [
                len(tcb.snd_buf) + tcb.receive_queue + sum(i.end - i.start for i in tcb.islands)
                for tcb in stack.by_id.values()
            ]
            early = any(tcb.islands for tcb in stack.by_id.values())
            assert stack.memory.held >= sum(queues)
            assert early or stack.memory.held == sum(queues)
    pair.run(lambda: not pair.a.layer.stack.memory.held)
    assert pair.b.layer.describe("memory", pair.now)["held"] == 0


def test_scarce_memory_stops_growth_and_is_counted() -> None:
    pair = transfer(8 * MIB, memory=200_000)
    sender, receiver = ends(pair)
    assert sender.send_buffer < MIB
    assert pair.a.layer.counters["tcp_memory_pressures"] >= 1
    assert pair.a.layer.counters["tcp_buffer_not_grown"] >= 1
    assert receiver.rcv_ssthresh < 3 * MIB


def test_readers_that_all_stop_hold_no_more_than_the_hosts_bound() -> None:
    """40 connections, each with 3 MiB of credit; nobody reads. The windows close early, and what
    is beyond one and a half times the bound is dropped."""
    bound = 500_000
    raw = Raw(memory=bound, **TUNED)
    raw.listen(2, 80, backlog=100)
    ports = range(40_000, 40_040)
    nxt = dict.fromkeys(ports, 5001)
    iss = {}
    for port in ports:
        raw.segment(SYN, 5000, src_port=port, dst_port=80, options=Options(mss=1460))
        iss[port] = raw.only().seq
        raw.segment(ACK, 5001, add(iss[port], 1), src_port=port, dst_port=80)
    memory = raw.layer.stack.memory
    for _ in range(44):
        for port in ports:
            raw.segment(ACK, nxt[port], add(iss[port], 1), bytes(1460), src_port=port, dst_port=80)
            nxt[port] = add(raw.take()[-1].ack, 0)
    assert 1.5 * bound < memory.held <= 1.5 * bound + 4 * 1460 * len(ports)
    assert raw.counters["tcp_rcvq_drop"] > 0
    assert memory.used_up


def test_scarce_memory_keeps_a_few_segments_of_window_for_each() -> None:
    peer = Peer(limit=3 * MIB, scale=7, memory=20_000, **TUNED)
    for _ in range(15):
        peer.data(b"x" * 1460)
    assert peer.raw.layer.stack.memory.scarce
    window = peer.take()[-1].window << 7
    offered = peer.tcb.rcv_wnd
    assert window == offered // 128 * 128 == (START - 15 * 1460) // 128 * 128  # never taken back
    peer.raw.credit(15 * 1460, 3 * MIB)  # read: what is offered is enough, so it grows no further
    assert peer.tcb.rcv_wnd == offered
    assert not peer.raw.layer.stack.memory.scarce
