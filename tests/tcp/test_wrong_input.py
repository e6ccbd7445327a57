"""Everything that a segment can be, in every state: nothing raises, what is dropped is counted, and
a connection changes its state only as its table, the clause and the flags let it."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from plywire.messages import Segment
from plywire.seq import add
from plywire.wire import tcp as wire
from plywire.wire.tcp import flag_names
from services.tcp import states

from .harness import ACK, ANY, FIN, LOCAL, REMOTE, RST, SYN, URG, Peer, Raw
from .invariants import REACHABLE, check_stack

FLAGS = range(256)  # ECE and CWR included


# --- one connection in each state -----------------------------------------------------------------


def syn_sent() -> Peer:
    return Peer(establish=False)


def syn_received() -> Peer:
    return Peer(passive=True, establish=False)


def established() -> Peer:
    peer = Peer()
    peer.write(bytes(100))
    peer.take()
    return peer


def fin_wait_1() -> Peer:
    peer = Peer()
    peer.raw.end(0)
    peer.take()
    return peer


def fin_wait_2() -> Peer:
    peer = fin_wait_1()
    peer.ack(1)
    return peer


def close_wait() -> Peer:
    peer = Peer()
    peer.data(b"", FIN | ACK)
    peer.take()
    return peer


def closing() -> Peer:
    peer = fin_wait_1()
    peer.data(b"", FIN | ACK)
    peer.take()
    return peer


def last_ack() -> Peer:
    peer = close_wait()
    peer.raw.end(0)
    peer.take()
    return peer


def time_wait() -> Peer:
    peer = fin_wait_2()
    peer.data(b"", FIN | ACK)
    peer.take()
    return peer


STATES: dict[str, Callable[[], Peer]] = {
    states.SYN_SENT: syn_sent,
    states.SYN_RECEIVED: syn_received,
    states.ESTABLISHED: established,
    states.FIN_WAIT_1: fin_wait_1,
    states.FIN_WAIT_2: fin_wait_2,
    states.CLOSE_WAIT: close_wait,
    states.CLOSING: closing,
    states.LAST_ACK: last_ack,
    states.TIME_WAIT: time_wait,
}
CLOSED = states.CLOSED
BEYOND = 200_000  # of any window here


def traces(raw: Raw) -> tuple:
    """What an input leaves behind: counters, segments, messages."""
    return dict(raw.counters), len(raw.segments), len(raw.messages)


def state(peer: Peer) -> str:
    """Of the connection that was there first."""
    tcb = peer.raw.layer.stack.by_id.get(1)
    return tcb.state if tcb is not None else CLOSED


def in_window(name: str, flags: int, valid_ack: bool) -> set[str]:
    """The states that may follow a segment at RCV.NXT without text, by the clauses of 3.10.7.3 and
    3.10.7.4 in their order. valid_ack: it acknowledges all that was sent; else what never was."""
    if name == states.SYN_SENT:
        if flags & ACK and not valid_ack:
            return {name}
        if flags & RST:
            return {CLOSED if flags & ACK else name}
        if not flags & SYN:
            return {name}
        if not flags & ACK:
            return {states.SYN_RECEIVED}
        return {states.CLOSE_WAIT if flags & FIN else states.ESTABLISHED}
    if flags & RST:
        return {name if name == states.TIME_WAIT else CLOSED}
    if flags & SYN:  # RFC 5961 4, 3.10.7.4: the listener's connection is gone, the others stay
        return {CLOSED if name == states.SYN_RECEIVED else name}
    if not flags & ACK or not valid_ack:
        return {name}
    after = {
        states.SYN_RECEIVED: states.ESTABLISHED,
        states.FIN_WAIT_1: states.FIN_WAIT_2,
        states.CLOSING: states.TIME_WAIT,
        states.LAST_ACK: CLOSED,
    }.get(name, name)
    if flags & FIN:
        after = {
            states.ESTABLISHED: states.CLOSE_WAIT,
            states.FIN_WAIT_2: states.TIME_WAIT,
        }.get(after, after)
    return {after}


@pytest.mark.parametrize("name", STATES)
@pytest.mark.parametrize("valid_ack", [True, False])
def test_every_combination_of_flags_in_every_state(name: str, valid_ack: bool) -> None:
    """At RCV.NXT: the clauses say what follows, for all 256."""
    for flags in FLAGS:
        peer = STATES[name]()
        raw = peer.raw
        assert state(peer) == name
        number = peer.snd if name != states.SYN_SENT else 77
        acked = raw.tcb().snd_nxt if valid_ack else add(raw.tcb().snd_nxt, 1000)
        before = traces(raw)
        peer.send(flags, seq=number, ack=acked, urgent=5 if flags & URG else 0)
        wanted = in_window(name, flags, valid_ack)
        assert state(peer) in wanted, (name, flag_names(flags), state(peer))
        assert traces(raw) != before, "counted or answered"
        check_stack(raw.layer.stack)


@pytest.mark.parametrize("name", [name for name in STATES if name != states.SYN_SENT])
@pytest.mark.parametrize("where", [-BEYOND, -1, BEYOND, 1 << 31])
def test_out_of_the_window_no_flags_change_a_state(name: str, where: int) -> None:
    """3.10.7.4, first: dropped, with an acknowledgement unless it is RST; text is not taken."""
    for flags in range(64):  # what ECE and CWR say is for a segment in the window
        for data in (b"", b"evil"):
            peer = STATES[name]()
            raw = peer.raw
            length = len(data) + (flags & FIN) + (flags >> 1 & 1)
            number = add(peer.snd, where if where != -1 else -max(length, 1))  # right before it
            if name == states.SYN_RECEIVED and number == peer.iss and flags & SYN:
                continue  # the SYN again
            tcb = raw.tcb()
            before = traces(raw)
            numbers = tcb.rcv_nxt, tcb.snd_una, tcb.snd_nxt
            peer.send(flags, data, seq=number, ack=tcb.snd_nxt)
            assert state(peer) == name, (name, flag_names(flags), where, data)
            assert (tcb.rcv_nxt, tcb.snd_una, tcb.snd_nxt) == numbers
            answers = len(raw.segments) - before[1]
            assert answers <= (0 if flags & RST else 1)
            assert traces(raw)[0] != before[0], "counted"
            counted = {key for key in raw.counters if raw.counters[key] != before[0].get(key, 0)}
            assert counted - {"tcp_in_segs", "tcp_out_segs"} or name == states.TIME_WAIT
            check_stack(raw.layer.stack)


def test_every_combination_of_flags_for_nobody_and_for_a_listener() -> None:
    for flags in FLAGS:
        for port, listens in ((80, True), (81, False)):
            raw = Raw()
            raw.listen(2, 80)
            raw.segment(flags, 1, 9, b"", src_port=5, dst_port=port)
            answers = raw.take()
            if flags & RST:
                assert answers == []
                assert raw.counters["drop_rst_for_nobody"] == 1
            elif listens and not flags & ACK and flags & SYN:
                assert [item.flags & 63 for item in answers] == [SYN | ACK]  # ECE apart
                assert raw.states() == [states.SYN_RECEIVED]
                check_stack(raw.layer.stack)
                continue
            elif listens and not flags & ACK:
                assert answers == []
                assert raw.counters["drop_no_flags_in_listen"] == 1
            else:
                assert len(answers) == 1
                assert answers[0].flags & RST
            assert raw.states() == []


# --- options --------------------------------------------------------------------------------------

LENGTHS = {2: 4, 3: 3, 4: 2, 8: 10, wire.OPTION_USER_TIMEOUT: 4}
"""The one length of an option of a kind; SACK has several, and others any."""


def right_length(kind: int, length: int) -> bool:
    if kind == wire.OPTION_SACK:
        return length > 2 and (length - 2) % 8 == 0
    return LENGTHS.get(kind, length) == length


def raw_segment(peer: Peer, flags: int, options: bytes, data: bytes = b"") -> None:
    """A segment whose options are these bytes."""
    raw = peer.raw
    header = wire.TcpHeader(peer.remote_port, peer.local_port, peer.snd, peer.rcv, flags, 9000, 0,
                            options)  # fmt: skip
    payload = wire.encode(header, data, REMOTE, LOCAL)
    raw.layer.receive(Segment(1, 6, REMOTE, LOCAL, 0, 64, 0, payload), "ip", raw.now)
    raw.collect()


@pytest.mark.parametrize("length", range(42))
def test_every_kind_of_option_with_every_length(length: int) -> None:
    """MUST-6 and MUST-7: what is unknown is passed over, what cannot be is dropped and counted,
    and the connection is as it was."""
    for kind in range(2, 256):
        peer = Peer()
        options = bytes((kind, length)) + bytes(max(min(length, 40) - 2, 0))
        options = options[:40]
        good = 2 <= length <= 40 and right_length(kind, length)
        raw_segment(peer, ACK, options, b"data")
        assert peer.tcb.rcv_offset == (4 if good else 0), (kind, length)
        assert peer.raw.counters["drop_tcp_bad_option_length"] == (not good)
        assert peer.raw.counters["tcp_in_errs"] == (not good)
        assert peer.state == states.ESTABLISHED


@pytest.mark.parametrize("whole", [
    b"\x02\x04\x05\xb4",
    b"\x03\x03\x07\x00",
    b"\x04\x02\x01\x01",
    b"\x08\x0a\0\0\0\1\0\0\0\2\1\1",
    b"\x05\x0a\0\0\0\1\0\0\0\2\1\1",
    b"\x05\x22" + bytes(32) + b"\1\1",
    b"\xfe\x08abcdef",
])  # fmt: skip
def test_options_cut_off_at_every_byte(whole: bytes) -> None:
    """At the front and behind another one: an option whose length leads out of the header."""
    length = whole[1]
    for front in (b"", b"\x01\x01", b"\x02\x04\x05\xb4"):
        for size in range(1, length):
            options = front + whole[:size]
            options = b"\x01" * (-len(options) % 4) + options  # the cut is the header's end
            if len(options) > 40:
                continue
            peer = Peer()
            raw_segment(peer, ACK, options, b"data")
            assert peer.raw.counters["drop_tcp_bad_option_length"] == 1
            assert peer.tcb.rcv_offset == 0


@pytest.mark.parametrize("kind", range(2, 256))
def test_bad_options_on_a_syn_leave_nothing_behind(kind: int) -> None:
    raw = Raw()
    raw.listen(2, 80)
    for options in (bytes((kind, 0)), bytes((kind, 1, 0, 0)), bytes((kind, 41)) + bytes(38)):
        header = wire.TcpHeader(5, 80, 1, 0, SYN, 9000, 0, options)
        payload = wire.encode(header, b"", REMOTE, LOCAL)
        raw.layer.receive(Segment(1, 6, REMOTE, LOCAL, 0, 64, 0, payload), "ip", raw.now)
        raw.collect()
    assert (raw.states(), raw.take()) == ([], [])
    assert raw.counters["drop_tcp_bad_option_length"] == 3
    assert not raw.layer.stack.listening[ANY, 80].embryonic


# --- headers --------------------------------------------------------------------------------------


def test_every_data_offset_with_every_length() -> None:
    """A header that is longer than the segment, or shorter than a header."""
    peer = Peer()
    raw = peer.raw
    whole = wire.encode(
        wire.TcpHeader(peer.remote_port, peer.local_port, peer.snd, peer.rcv, ACK, 900), bytes(60),
        REMOTE, LOCAL,
    )  # fmt: skip
    for size in range(len(whole)):
        for offset in range(16):
            raw.counters.clear()
            segment = bytearray(whole[:size])
            if size > 17:
                segment[12] = offset << 4
                segment[16:18] = b"\0\0"
                pseudo = wire.pseudo_header(REMOTE, LOCAL, 6, size)
                segment[16:18] = wire.checksum(bytes(segment), pseudo).to_bytes(2, "big")
            before = raw.tcb().rcv_offset
            raw.layer.receive(Segment(1, 6, REMOTE, LOCAL, 0, 64, 0, bytes(segment)), "ip", raw.now)
            raw.collect()
            if not 20 <= offset * 4 <= size:
                reason = "tcp_truncated" if size < 20 else "tcp_bad_data_offset"
                assert raw.counters[f"drop_{reason}"] == 1, (size, offset)
                assert raw.counters["tcp_in_errs"] == 1
                assert raw.tcb().rcv_offset == before
            else:
                assert raw.counters["tcp_in_segs"] == 1
    assert peer.state == states.ESTABLISHED


def test_every_single_bit_error_is_dropped() -> None:
    peer = Peer()
    raw = peer.raw
    whole = wire.encode(
        wire.TcpHeader(peer.remote_port, peer.local_port, peer.snd, peer.rcv, ACK, 900), b"data",
        REMOTE, LOCAL,
    )  # fmt: skip
    for bit in range(8 * len(whole)):
        broken = bytearray(whole)
        broken[bit >> 3] ^= 1 << (bit & 7)
        raw.layer.receive(Segment(1, 6, REMOTE, LOCAL, 0, 64, 0, bytes(broken)), "ip", raw.now)
        raw.collect()
    assert raw.counters["drop_tcp_bad_checksum"] == 8 * len(whole)
    assert (peer.tcb.rcv_offset, peer.state) == (0, states.ESTABLISHED)
    assert raw.take() == []


def test_the_states_of_the_tables_are_all_that_a_segment_meets() -> None:
    assert set(STATES) == set(states.STATES) - {CLOSED, states.LISTEN}
    assert all(STATES[name]().raw.tcb().state == name for name in STATES)
    assert REACHABLE[states.TIME_WAIT] == {states.TIME_WAIT, CLOSED}
