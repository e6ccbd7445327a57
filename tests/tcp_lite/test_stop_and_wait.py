"""What is the lite TCP's own: one segment in flight, one timer, no options but MSS."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from plywire.config import SECOND
from plywire.errors import DecodeError
from plywire.messages import (
    Accepted,
    Bind,
    Close,
    Closed,
    Credit,
    Data,
    End,
    Hello,
    Listen,
    PacketError,
)
from plywire.roles import APP, IP
from plywire.seq import add, sub
from plywire.wire.tcp import ACK, FIN, PSH, RST, SYN, parse_options
from services.tcp.states import TABLE as FULL_TABLE
from services.tcp_lite.states import TABLE
from tests.tcp_lite.harness import ANY, EVERYTHING, HERE, ISS, MSS, PEER, Script


def segments(found: list) -> list:
    return [item for item in found if type(item) is tuple]


def only(found: list):
    (item,) = segments(found)
    return item


# --- the same rules -------------------------------------------------------------------------------


def test_the_states_are_those_of_the_full_tcp():
    """What differs is written down: RST ends TIME-WAIT (RFC 9293), and nothing reopens it."""
    cells = {(state, event): to for state, row in TABLE.items() for event, to in row.items()}
    assert set(cells.values()) == set(FULL_TABLE.values())
    assert {cell: FULL_TABLE.get(cell) for cell in cells} == cells | {
        ("TIME-WAIT", "rcv RST"): None
    }
    assert set(FULL_TABLE) - set(cells) == {("TIME-WAIT", "rcv SYN"), ("SYN-RECEIVED", "CLOSE")}


def test_syn_and_syn_ack_carry_mss_and_nothing_else():
    syn = Script().connect()
    assert syn.options == b"\x02\x04\x05\xb4"
    script = Script()
    script.listen()
    answer, _ = only(script.segment(SYN, 0, options=EVERYTHING))
    assert (answer.flags, answer.options) == (SYN | ACK, b"\x02\x04\x05\xb4")


def test_a_window_is_never_scaled():
    script = Script().open(limit=1 << 20, window=500)
    assert script.row["snd_wnd"] == 500
    assert script.row["rcv_wnd"] == 0xFFFF


@pytest.mark.parametrize(("options", "size"), [(b"", 536), (b"\x02\x04\0\0", 48)])
def test_a_peer_s_mss(options, size):
    script = Script().open(options=options)
    _, data = only(script.app(Data(1, 2, 0, bytes(3000))))
    assert len(data) == size


def test_a_bad_option_in_a_syn_opens_nothing():
    script = Script()
    script.listen()
    assert script.segment(SYN, 0, options=b"\x02\x03\0\0") == []
    assert (script.states, script.layer.counters["tcp_in_errs"]) == ([], 1)


# --- one segment, and its acknowledgement ---------------------------------------------------------


def test_one_segment_at_a_time():
    script = Script().open()
    header, data = only(script.app(Data(1, 2, 0, bytes(4000))))
    assert (header.flags, header.seq, len(data)) == (ACK, ISS + 1, MSS)
    assert segments(script.app(Data(1, 2, 4000, bytes(10)))) == []
    header, data = only(script.segment(ACK, 1, 1 + MSS))
    assert (header.seq, len(data)) == (ISS + 1 + MSS, MSS)
    header, data = only(script.segment(ACK, 1, 1 + 2 * MSS))
    assert (header.flags, len(data)) == (ACK | PSH, 4010 - 2 * MSS)
    assert segments(script.segment(ACK, 1, 4011)) == []
    assert script.layer.deadline() is None


def test_fin_rides_on_the_last_segment():
    script = Script().open()
    script.app(Data(1, 2, 0, bytes(2000)))
    script.app(End(1, 2, 2000))
    header, data = only(script.segment(ACK, 1, 1 + MSS))
    assert (header.flags & FIN, len(data), script.states) == (FIN, 2000 - MSS, ["FIN-WAIT-1"])
    script.segment(ACK, 1, 2002)
    assert script.states == ["FIN-WAIT-2"]


def test_fin_waits_for_room_in_the_window():
    script = Script().open(window=1000)
    script.app(Data(1, 2, 0, bytes(1000)))
    script.app(End(1, 2, 1000))
    assert script.segment(ACK, 1, 1, window=1000) == []
    header, data = only(script.segment(ACK, 1, 501, window=500))
    assert (header.flags & FIN, len(data)) == (0, 500)
    header, data = only(script.segment(ACK, 1, 1001, window=1))
    assert (header.flags & FIN, data) == (FIN, b"")


def test_no_answer_brings_the_same_segment_later_and_later():
    script = Script(retries2=5).open()
    first = only(script.app(Data(1, 2, 0, bytes(100))))
    times = [script.now]
    for _ in range(5):
        assert only(script.expire()) == first
        times.append(script.now)
    waits = [later - sooner for sooner, later in itertools.pairwise(times)]
    assert waits == [waits[0] << index for index in range(5)]
    (closed,) = script.expire()
    assert (closed.error, script.states) == ("ETIMEDOUT", [])
    assert script.layer.counters["tcp_retrans_segs"] == 5


def test_a_repeat_is_not_measured():
    """Karn: the back-off stays until a segment that was sent once is acknowledged."""
    script = Script().open()
    script.app(Data(1, 2, 0, bytes(100)))
    script.expire()
    script.segment(ACK, 1, 101)
    assert script.row["backoff"] == 1
    script.app(Data(1, 2, 100, bytes(100)))
    script.segment(ACK, 1, 201)
    assert script.row["backoff"] == 0


def test_an_acknowledgement_of_the_front_brings_the_rest():
    script = Script().open()
    script.app(Data(1, 2, 0, bytes(1000)))
    header, data = only(script.segment(ACK, 1, 401))
    assert (header.seq, len(data)) == (ISS + 401, 600)


def test_duplicate_acknowledgements_send_nothing():
    script = Script().open()
    script.app(Data(1, 2, 0, bytes(4000)))
    for _ in range(5):
        assert script.segment(ACK) == []


def test_a_closed_window_is_probed_for_ever_and_opens():
    script = Script(retries2=3).open(window=0)
    assert segments(script.app(Data(1, 2, 0, bytes(3000)))) == []
    waits = []
    for _ in range(12):
        before = script.now
        header, data = only(script.expire())
        waits.append(script.now - before)
        assert (header.seq, len(data)) == (ISS + 1, 1)
        assert segments(script.segment(ACK, 1, 1, window=0)) == []
    assert waits[1] == 2 * waits[0]
    assert waits[-1] == script.config.tcp.rto_max
    _, data = only(script.segment(ACK, 1, 1, window=5000))
    assert len(data) == MSS
    assert script.layer.deadline() < script.now + 2 * SECOND


def test_a_closed_window_and_no_answer_is_etimedout():
    script = Script(retries2=3).open(window=0)
    script.app(Data(1, 2, 0, b"x"))
    for _ in range(3):
        script.expire()
    (closed,) = script.expire()
    assert closed.error == "ETIMEDOUT"


def test_a_window_that_closes_over_the_segment_in_flight():
    script = Script().open()
    script.app(Data(1, 2, 0, bytes(3000)))
    assert script.segment(ACK, 1, 1, window=0) == []
    _, data = only(script.expire())
    assert len(data) == 1
    _, data = only(script.segment(ACK, 1, 1, window=3000))
    assert len(data) == MSS


def test_a_silly_window_is_not_used():
    """RFC 9293 3.8.6.2.1: less than a segment, and less than half of the largest window."""
    script = Script().open(window=4000)
    script.app(Data(1, 2, 0, bytes(3000)))
    assert segments(script.segment(ACK, 1, 1 + MSS, window=100)) == []
    _, data = only(script.expire())
    assert len(data) == 100


# --- receiving ------------------------------------------------------------------------------------


def test_text_out_of_order_is_asked_for_again():
    script = Script().open()
    ((ack, _),) = script.segment(ACK, 101, 1, bytes(100))
    assert ack.ack == 5001
    data, (ack, _) = script.segment(ACK, 1, 1, bytes(100))
    assert (data.offset, len(data.payload), ack.ack) == (0, 100, 5101)
    data, _ = script.segment(ACK, 51, 1, bytes(100))
    assert (data.offset, len(data.payload)) == (100, 50)


def test_a_full_buffer_closes_the_window_and_reading_opens_it():
    script = Script().open(limit=2000)
    script.segment(ACK, 1, 1, bytes(1460))
    data, (ack, _) = script.segment(ACK, 1461, 1, bytes(1460))
    assert (len(data.payload), ack.window) == (540, 0)
    assert script.app(Credit(1, 2, 100, 2100)) == []  # too little to speak of (MUST-39)
    assert only(script.segment(ACK, 1, 1, b"x"))[0].window == 0
    ((ack, _),) = script.app(Credit(1, 2, 2000, 4000))
    assert (ack.window, ack.ack) == (2000, 7001)


def test_a_closed_window_takes_the_acknowledgement():
    script = Script().open(limit=10)
    script.app(Data(1, 2, 0, b"hello"))
    script.segment(ACK, 1, 1, bytes(10))
    ((ack, _),) = [*segments(script.segment(ACK, 11, 6, b"more"))]
    assert (ack.ack, ack.window, script.row["send_queue"]) == (5011, 0, 0)


def test_fin_beyond_the_window_is_not_taken():
    script = Script().open(limit=10)
    script.segment(ACK | FIN, 1, 1, bytes(11))
    assert script.states == ["ESTABLISHED"]
    script.app(Credit(1, 2, 10, 20))
    script.segment(ACK | FIN, 11, 1, b"x")
    assert script.states == ["CLOSE-WAIT"]


# --- closing --------------------------------------------------------------------------------------


def test_time_wait_answers_a_fin_and_begins_again():
    script = Script().open()
    script.app(Close(1, 2, 0, 0))
    script.segment(ACK, 1, 2)
    script.segment(FIN | ACK, 1, 2)
    first = script.layer.deadline()
    assert (script.states, script.row["send_buffer"], script.row["receive_buffer"]) == (
        ["TIME-WAIT"], 0, 0,
    )  # fmt: skip
    script.now += SECOND
    assert only(script.segment(FIN | ACK, 1, 2))[0].ack == 5002
    assert script.layer.deadline() == first + SECOND
    script.expire()
    assert script.states == []


def test_closing_at_the_same_time():
    script = Script().open()
    script.app(Close(1, 2, 0, 0))
    script.segment(FIN | ACK, 1, 1)
    assert script.states == ["CLOSING"]
    script.segment(ACK, 2, 2)
    assert script.states == ["TIME-WAIT"]


def test_a_peer_that_never_closes_does_not_hold_the_block():
    script = Script().open()
    script.app(Close(1, 2, 0, 0))
    (closed,) = script.segment(ACK, 1, 2)
    assert (type(closed), script.states) == (Closed, ["FIN-WAIT-2"])
    script.expire()
    assert script.states == []


def test_data_after_close_is_reset():
    script = Script().open()
    script.app(Close(1, 2, 0, 0))
    script.segment(ACK, 1, 2)
    header, _ = only(script.segment(ACK, 1, 2, b"late"))
    assert (header.flags & RST, script.states) == (RST, [])


def test_a_close_whose_bytes_are_missing_is_a_reset():
    script = Script().open()
    header, _ = only(script.app(Close(1, 2, 100, 0)))
    assert header.flags & RST


def test_abort_sends_rst_alone():
    script = Script().open()
    (header, _), closed = script.app(Close(1, 2, 0, 1))
    assert (header.flags, header.seq, closed.error) == (RST | ACK, ISS + 1, "")


# --- what should not come -------------------------------------------------------------------------


def test_only_rst_at_rcv_nxt_counts():
    script = Script().open()
    assert script.segment(RST, 100_000) == []
    header, _ = only(script.segment(RST, 100))
    assert (header.flags, script.states) == (ACK, ["ESTABLISHED"])
    (closed,) = script.segment(RST, 1)
    assert (closed.error, script.states) == ("ECONNRESET", [])


def test_challenges_are_few():
    script = Script().open()
    answers = sum(len(script.segment(SYN, 50)) + len(script.segment(ACK, 9, 99)) for _ in range(50))
    assert answers == 1
    assert script.states == ["ESTABLISHED"]


def test_the_backlog_bounds_what_a_flood_can_open():
    script = Script()
    script.listen(backlog=3)
    answers = [script.segment(SYN, 0, source=port) for port in range(2000, 2050)]
    assert sum(map(len, answers)) == len(script.states) == 4  # one more than asked, as Linux
    assert script.layer.counters["listen_overflows"] == 46
    (opened,) = script.segment(ACK, 1, 1, source=2000)
    assert script.segment(SYN, 0, source=3000) == []
    script.app(Accepted(1, opened.handle))
    assert len(script.segment(SYN, 0, source=3000)) == 1


def test_icmp_in_syn_sent():
    for local, code, error in ((1, 1, "EHOSTUNREACH"), (0, 3, "ECONNREFUSED")):
        script = Script()
        syn = script.connect()
        quote = syn.src_port.to_bytes(2) + (80).to_bytes(2) + syn.seq.to_bytes(4)
        message = PacketError(1, 6, local, PEER, 3, code, 0, HERE, PEER, quote)
        script.layer.receive(message, IP, script.now)
        (closed,) = script.out()
        assert (closed.error, script.states) == (error, [])


def test_icmp_never_ends_a_connection_but_says_why_it_timed_out():
    script = Script(retries2=2).open()
    script.app(Data(1, 2, 0, b"x"))
    quote = script.port.to_bytes(2) + (80).to_bytes(2) + (ISS + 1).to_bytes(4)
    script.layer.receive(PacketError(1, 6, 0, PEER, 3, 1, 0, HERE, PEER, quote), IP, script.now)
    assert script.states == ["ESTABLISHED"]
    script.expire()
    script.expire()
    (closed,) = script.expire()
    assert closed.error == "EHOSTUNREACH"


def test_a_snapshot_of_another_kind_is_refused():
    with pytest.raises(DecodeError):
        Script().layer.restore(b"\x80", SECOND)


# --- at random ------------------------------------------------------------------------------------


@pytest.mark.parametrize("iss", [0xFFFF_FFFF, 0xFFFF_FF00, 0x7FFF_FF00])
def test_sequence_numbers_wrap(iss):
    script = Script(iss=iss).open()
    found = segments(script.app(Data(1, 2, 0, bytes(5000))))
    acked = 1
    while found:
        ((header, data),) = found
        assert header.seq == add(iss, acked)
        acked += len(data)
        found = segments(script.segment(ACK, 1, acked))
    assert acked == 5001


@settings(max_examples=300, deadline=None)
@given(
    incoming=st.booleans(),
    steps=st.lists(
        st.one_of(
            st.tuples(
                st.just("segment"),
                st.sampled_from([ACK, ACK | FIN, ACK | PSH, RST, SYN, SYN | ACK, FIN, 0]),
                st.sampled_from([-1, 0, 1, 2, 60, 101, 70_000]),
                st.sampled_from([-1, 0, 1, 2, 500, 1461, 1462, 3000]),
                st.sampled_from([0, 1, 100]),
                st.sampled_from([0, 10, 60_000]),
            ),
            st.sampled_from(
                [("expire",), ("data",), ("end",), ("close",), ("abort",), ("credit",), ("swap",)]
            ),
        ),
        max_size=25,
    ),
)
def test_whatever_comes_one_segment_is_in_flight(incoming, steps):
    script = Script().accept() if incoming else Script().open(limit=300)
    written, ended = 0, False
    for what, *arguments in steps:
        if what == "segment":
            flags, number, ack, length, window = arguments
            script.segment(flags, number, ack, bytes(length), window)
        elif what == "expire" and script.layer.deadline() is not None:
            script.expire()
        elif what == "data" and not ended:
            script.app(Data(1, script.handle, written, bytes(1000)))
            written += 1000
        elif what == "end":
            ended = True
            script.app(End(1, script.handle, written))
        elif what in ("close", "abort"):
            ended = True
            script.app(Close(1, script.handle, written, int(what == "abort")))
        elif what == "credit":
            script.app(Credit(1, script.handle, 0, 1000))
        elif what == "swap":
            script.swap()
        for row in script.layer.describe("connections", script.now):
            assert 0 <= sub(row["snd_nxt"], row["snd_una"]) <= row["snd_mss"] + 1
            assert row["rcv_wnd"] >= 0
            timed = script.layer.deadline() is not None
            idle = not row["send_queue"] and row["state"] in ("ESTABLISHED", "CLOSE-WAIT")
            waits = row["state"] == "FIN-WAIT-2"
            assert timed or idle or waits, "no way to make progress"


def test_a_new_app_leaves_nothing():
    script = Script().accept()
    script.layer.receive(Hello(0, "app", 1, 0), APP, script.now)
    assert script.states == ["ESTABLISHED"]
    script.layer.receive(Hello(0, "app", 2, 0), APP, script.now)
    assert [header.flags for header, _ in segments(script.out())] == [RST | ACK]
    assert (script.states, script.layer.describe("listeners", script.now)) == ([], [])


def test_binding():
    script = Script()
    script.listen()
    (bound,) = script.app(Bind(1, 4, ANY, 8080, 1))
    assert bound.error == "EADDRINUSE"
    for handle in (6, 8):  # both with SO_REUSEADDR, but only one may listen
        (bound,) = script.app(Bind(1, handle, HERE, 9000, 1))
        assert bound.error == ""
    assert [script.app(Listen(1, handle, 1, {}))[0].error for handle in (6, 8)] == [
        "", "EADDRINUSE",
    ]  # fmt: skip
    assert parse_options(Script().connect().options).mss == MSS
