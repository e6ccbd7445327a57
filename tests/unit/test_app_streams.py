"""send, recv, shutdown and the stream to TCP: offsets, credit, replay, errors."""

import pytest
from app_harness import LIMIT, Program, error, failure
from hypothesis import given
from hypothesis import strategies as st

from plywire.config import TcpConfig, host
from plywire.errors import DecodeError
from plywire.messages import Credit, Data, End, Option
from services.app.results import SendResult
from services.app.streams import PIECE, REPLAY, ReceiveStream, SendStream

MIB = 1 << 20


def data_of(messages) -> bytes:
    return b"".join(message.payload for message in messages if isinstance(message, Data))


# --- send -----------------------------------------------------------------------------------------


def test_send_hands_data_down_at_once():
    app = Program()
    fd = app.connected()
    assert app.send(fd, b"hello").result() == SendResult(5, False)
    (data,) = app.heard()
    assert (data.offset, data.payload) == (0, b"hello")
    assert data.trace != 0


def test_send_goes_down_in_pieces():
    app = Program()
    fd = app.connected(limit=MIB)
    payload = bytes(range(256)) * 800
    app.send(fd, payload).result()
    sent = app.heard()
    assert [len(message.payload) for message in sent] == [PIECE] * 3 + [len(payload) - 3 * PIECE]
    assert [message.offset for message in sent] == [0, PIECE, 2 * PIECE, 3 * PIECE]
    assert data_of(sent) == payload


def test_send_waits_for_credit_until_all_is_accepted():
    app = Program()
    fd = app.connected(limit=10)
    call = app.send(fd, b"0123456789abcdef")
    assert not call.done
    assert data_of(app.heard()) == b"0123456789"
    app.credit(fd, 10, 13)
    assert not call.done
    app.credit(fd, 13, 100)
    assert call.result() == SendResult(16, False)
    assert data_of(app.heard()) == b"abcdef"


def test_send_without_blocking_takes_what_fits():
    app = Program()
    fd = app.connected(limit=10)
    assert app.send(fd, b"0123456789abcdef", timeout=0).result() == SendResult(10, True)
    assert app.send(fd, b"abcdef", timeout=0).result() == SendResult(10, True)


def test_send_timeout_tells_how_much_went():
    app = Program()
    fd = app.connected(limit=10)
    call = app.send(fd, b"0123456789abcdef", timeout=0.5)
    app.credit(fd, 10, 12)
    app.wait(500)
    assert call.result() == SendResult(12, True)


def test_sends_go_in_their_order():
    app = Program()
    fd = app.connected(limit=4)
    first, second = app.send(fd, b"aaaaaa"), app.send(fd, b"bbb")
    third = app.send(fd, b"ccc", timeout=0)
    assert third.result() == SendResult(4, True)
    app.credit(fd, 4, 100)
    assert first.done
    assert second.done
    assert data_of(app.heard()) == b"aaaaaabbb"


def test_send_with_an_offset_skips_what_was_accepted():
    app = Program()
    fd = app.connected()
    app.send(fd, b"01234", offset=0).result()
    app.heard()
    assert app.send(fd, b"01234", offset=0).result() == SendResult(5, False)
    assert app.heard() == []
    assert app.send(fd, b"3456", offset=3).result() == SendResult(7, False)
    assert data_of(app.heard()) == b"56"


def test_send_beyond_the_stream_is_einval():
    app = Program()
    assert error(app.send(app.connected(), b"x", offset=1)) == "EINVAL"


def test_a_repeated_send_behind_the_blocked_first_one_is_sent_once():
    app = Program()
    fd = app.connected(limit=2)
    first, again = app.send(fd, b"abcd", offset=0), app.send(fd, b"abcd", offset=0)
    app.layer.cancel(first)
    app.credit(fd, 2, 100)
    assert again.result() == SendResult(4, False)
    assert data_of(app.heard()) == b"abcd"


def test_a_repeated_send_is_answered_even_after_the_connection_ended():
    app = Program()
    fd = app.connected()
    app.send(fd, b"abc", offset=0).result()
    app.closed(fd, "ECONNRESET")
    assert app.send(fd, b"abc", offset=0).result() == SendResult(3, False)
    assert error(app.send(fd, b"d", offset=3)) == "ECONNRESET"


def test_send_while_connecting_waits_for_the_connection():
    app = Program()
    fd, _ = app.connecting(timeout=0)
    assert app.send(fd, b"x", timeout=0).result().would_block
    call = app.send(fd, b"early")
    app.open(fd)
    assert call.result() == SendResult(5, False)


def test_send_on_a_listener_is_epipe():
    app = Program()
    assert error(app.send(app.listening(), b"x")) == "EPIPE"


def test_send_of_too_much_is_einval():
    app = Program()
    assert error(app.send(app.connected(), bytes(MIB + 1))) == "EINVAL"


def test_send_of_nothing_succeeds_on_a_connection_only():
    app = Program()
    fd = app.connected()
    assert app.send(fd, b"").result() == SendResult(0, False)
    app.shutdown(fd, "write")
    assert error(app.send(fd, b"")) == "EPIPE"


def test_more_holds_the_last_partial_segment_back():
    app = Program()
    fd = app.connected()
    app.send(fd, b"head", more=True)
    cork, data = app.heard()
    assert (type(cork), cork.name, cork.value, data.payload) == (Option, "TCP_CORK", 1, b"head")
    app.send(fd, b"body", more=True)
    assert len(app.heard()) == 1
    app.send(fd, b"tail")
    data, uncork = app.heard()
    assert (data.payload, uncork.name, uncork.value) == (b"tail", "TCP_CORK", 0)


def test_what_tcp_has_not_acknowledged_is_kept():
    app = Program()
    fd = app.connected()
    app.send(fd, b"abc")
    app.send(fd, b"d" * 5000)
    stream = app.layer.context.table.find(fd).send
    app.credit(fd, 3, LIMIT)
    assert list(stream.retained())[-1][0] in (0, 3)
    app.credit(fd, 5003, LIMIT)
    assert list(stream.retained()) == []


def test_credit_for_bytes_never_sent_is_dropped():
    app = Program()
    fd = app.connected()
    app.credit(fd, 10, 20)
    assert app.counter("drop_credit_beyond_stream") == 1


# --- recv -----------------------------------------------------------------------------------------


def test_recv_waits_for_a_byte():
    app = Program()
    fd = app.connected()
    call = app.recv(fd, 100)
    assert not call.done
    app.data(fd, b"hi")
    assert (call.result().offset, call.result().data) == (0, b"hi")


def test_recv_without_blocking_would_block():
    app = Program()
    result = app.recv(app.connected(), 100, timeout=0).result()
    assert result.would_block
    assert result.data == b""


def test_recv_timeout_in_virtual_time():
    app = Program()
    call = app.recv(app.connected(), 100, timeout=1.5)
    app.wait(1499)
    assert not call.done
    app.wait(1)
    assert call.result().would_block


def test_recv_takes_what_there_is_up_to_its_size():
    app = Program()
    fd = app.connected()
    app.data(fd, b"0123")
    app.data(fd, b"4567")
    assert app.recv(fd, 3).result().data == b"012"
    result = app.recv(fd, 4).result()
    assert (result.offset, result.data, result.more) == (3, b"3456", True)
    result = app.recv(fd, 100).result()
    assert (result.offset, result.data, result.more) == (7, b"7", False)


def test_recv_of_nothing_returns_at_once():
    app = Program()
    assert app.recv(app.connected(), 0).result().data == b""


def test_recv_peek_leaves_the_bytes():
    app = Program()
    fd = app.connected()
    app.data(fd, b"abcdef")
    app.recv(fd, 2).result()
    assert app.recv(fd, 3, peek=True).result().data == b"cde"
    assert app.recv(fd, 3).result().data == b"cde"


def test_recv_ends_after_the_data():
    app = Program()
    fd = app.connected()
    app.data(fd, b"bye")
    app.end(fd)
    result = app.recv(fd, 2).result()
    assert (result.data, result.end_of_stream, result.more) == (b"by", False, True)
    result = app.recv(fd, 100).result()
    assert (result.data, result.end_of_stream) == (b"e", True)
    assert app.recv(fd, 100).result().end_of_stream
    assert app.recv(fd, 100).result().end_of_stream


def test_recv_with_an_offset_gives_lost_bytes_again():
    app = Program()
    fd = app.connected()
    app.data(fd, b"0123456789")
    assert app.recv(fd, 4, offset=0).result().data == b"0123"
    again = app.recv(fd, 100, offset=0).result()
    assert (again.offset, again.data, again.more) == (0, b"0123", True)
    assert app.recv(fd, 4, offset=2).result().data == b"23"
    assert app.recv(fd, 4, offset=4).result().data == b"4567"
    assert error(app.recv(fd, 4, offset=0)) == "EINVAL", "offset 4 said that 0 to 3 had arrived"
    assert error(app.recv(fd, 4, offset=9)) == "EINVAL"


def test_recv_with_an_offset_does_not_wait_behind_a_call_that_does():
    app = Program()
    fd = app.connected()
    app.data(fd, b"abc")
    app.recv(fd, 3, offset=0).result()
    waiting = app.recv(fd, 3, offset=3)
    assert app.recv(fd, 3, offset=0, acknowledged=0).done
    assert not waiting.done


def test_what_was_read_is_kept_for_a_while_only():
    app = Program()
    fd = app.connected()
    sent = 0
    while sent < 2 * REPLAY:
        app.data(fd, bytes(PIECE))
        app.recv(fd, PIECE, offset=sent, acknowledged=0).result()
        sent += PIECE
    assert error(app.recv(fd, 1, offset=REPLAY // 2, acknowledged=0)) == "EINVAL"
    assert len(app.recv(fd, MIB, offset=sent - REPLAY // 2).result().data) == REPLAY // 2


def test_recv_without_offset_keeps_nothing():
    app = Program()
    fd = app.connected()
    app.data(fd, b"abc")
    app.recv(fd, 3).result()
    assert error(app.recv(fd, 3, offset=0)) == "EINVAL"


def test_a_cancelled_recv_takes_nothing():
    app = Program()
    fd = app.connected()
    call = app.recv(fd, 10)
    app.layer.cancel(call)
    app.data(fd, b"abc")
    assert not call.done
    assert app.recv(fd, 10).result().data == b"abc"


def test_credit_is_given_when_a_good_part_was_read_and_not_for_each_byte():
    app = Program()
    fd = app.connected()
    step = PIECE // 4  # a quarter of the buffer that TCP begins with
    app.data(fd, bytes(PIECE))
    app.recv(fd, step - 1).result()
    assert app.heard() == []
    app.recv(fd, 1).result()
    (credit,) = app.heard()
    assert (type(credit), credit.acked, credit.limit) == (Credit, step, 3 * MIB + step)


def test_credit_is_given_when_a_program_that_does_not_answer_has_read_all():
    app = Program()
    fd = app.connected()
    app.data(fd, b"abcdef")
    app.recv(fd, 5).result()
    assert app.heard() == []
    app.recv(fd, 1).result()
    (credit,) = app.heard()
    assert (credit.acked, credit.limit) == (6, 3 * MIB + 6)


def test_a_program_that_answers_gives_no_credit_for_what_it_answers():
    """The acknowledgement will ride on the answer; the first question of a second pair will not."""
    app = Program()
    fd = app.connected()
    app.send(fd, b"question").result()
    app.heard()
    app.data(fd, b"answer")
    app.recv(fd, 100).result()
    assert app.heard() == []
    app.data(fd, b"and one more")
    app.recv(fd, 100).result()
    (credit,) = app.heard()
    assert credit.acked == len(b"answerand one more")


def test_a_reader_that_stops_gives_no_credit_and_data_beyond_it_is_dropped():
    app = Program()
    fd = app.connected()
    for _ in range(48):
        app.data(fd, bytes(PIECE))
    assert app.heard() == []
    app.data(fd, b"x")
    assert app.counter("drop_data_beyond_credit") == 1
    assert app.get_option(fd, "SO_ERROR").result() == 0


def test_repeated_data_is_taken_once_and_a_gap_is_dropped():
    app = Program()
    fd = app.connected()
    app.data(fd, b"abcd")
    app.data(fd, b"ab", offset=0)
    app.data(fd, b"cdef", offset=2)
    app.data(fd, b"zz", offset=10)
    assert app.recv(fd, 100).result().data == b"abcdef"
    assert app.counter("drop_data_gap") == 1


def test_so_rcvbuf_is_the_first_credit_and_grows_later():
    app = Program()
    fd = app.create_socket().result()
    app.set_option(fd, "SO_RCVBUF", 10_000)
    app.connect(fd, ("10.0.0.2", 80))
    assert app.heard()[0].limit == 10_000
    app.open(fd)
    app.set_option(fd, "SO_RCVBUF", 50_000)
    assert [m.limit for m in app.heard() if isinstance(m, Credit)] == [50_000]


def test_the_credit_of_an_incoming_connection_is_completed():
    config = host("h1", "10.0.0.1/24", tcp=TcpConfig(receive_buffer=1000))
    app = Program(config)
    fd = app.listening()
    app.comes_in(fd)
    (credit,) = app.heard()
    assert (credit.acked, credit.limit) == (0, 3 * MIB)


# --- the ends of a connection ---------------------------------------------------------------------


def test_shutdown_write_ends_the_stream_once():
    app = Program()
    fd = app.connected()
    app.send(fd, b"abc")
    app.heard()
    app.shutdown(fd, "write").result()
    app.shutdown(fd, "write").result()
    (end,) = app.heard()
    assert (type(end), end.offset) == (End, 3)
    assert error(app.send(fd, b"x")) == "EPIPE"
    app.data(fd, b"still coming")
    assert app.recv(fd, 100).result().data == b"still coming"


def test_shutdown_write_ends_a_blocked_send():
    app = Program()
    fd = app.connected(limit=3)
    partly, not_at_all = app.send(fd, b"abcdef"), app.send(fd, b"g")
    app.shutdown(fd, "write").result()
    assert partly.result() == SendResult(3, False)
    assert error(not_at_all) == "EPIPE"


def test_shutdown_read_gives_the_data_first_and_then_the_end():
    app = Program()
    fd = app.connected()
    app.data(fd, b"abc")
    app.shutdown(fd, "read").result()
    assert app.recv(fd, 100).result().data == b"abc"
    assert app.recv(fd, 100).result().end_of_stream
    app.data(fd, b"late")
    assert app.recv(fd, 100).result().data == b"late"


def test_shutdown_while_connecting_gives_the_attempt_up():
    app = Program()
    fd, call = app.connecting()
    app.shutdown(fd, "both").result()
    assert error(call) == "ECONNABORTED"
    assert app.get_socket(fd).result().state == "CLOSED"


def test_shutdown_of_neither_is_einval():
    app = Program()
    assert error(app.shutdown(app.connected(), "")) == "EINVAL"


def test_a_reset_is_reported_once_and_after_the_data():
    app = Program()
    fd = app.connected()
    app.data(fd, b"last words")
    app.closed(fd, "ECONNRESET", "RST received")
    assert app.recv(fd, 100).result().data == b"last words"
    assert failure(app.recv(fd, 100)).cause == "RST received"
    assert app.recv(fd, 100).result().end_of_stream
    assert error(app.send(fd, b"x")) == "EPIPE"
    assert error(app.shutdown(fd, "both")) == "ENOTCONN"
    assert error(app.connect(fd, ("10.0.0.2", 80))) == "EISCONN"


def test_a_reset_is_reported_to_send_when_that_comes_first():
    app = Program()
    fd = app.connected()
    app.closed(fd, "ECONNRESET")
    assert error(app.send(fd, b"x")) == "ECONNRESET"
    assert error(app.send(fd, b"x")) == "EPIPE"
    assert app.recv(fd, 1).result().end_of_stream


def test_a_reset_in_close_wait_is_epipe_as_linux_has_it():
    app = Program()
    fd = app.connected()
    app.end(fd)
    app.closed(fd, "ECONNRESET")
    assert app.recv(fd, 1).result().end_of_stream
    assert app.get_option(fd, "SO_ERROR").result() == 32


def test_a_reset_ends_blocked_calls():
    app = Program()
    fd = app.connected(limit=2)
    send, recv, later = app.send(fd, b"abcdef"), app.recv(fd, 10), app.recv(fd, 10)
    app.closed(fd, "ETIMEDOUT", "no answer to 15 retransmissions")
    assert send.result() == SendResult(2, False)
    assert error(recv) == "ETIMEDOUT"
    assert later.result().end_of_stream


def test_an_orderly_end_leaves_the_data_to_be_read():
    app = Program()
    fd = app.connected()
    app.shutdown(fd, "write")
    app.data(fd, b"rest")
    app.end(fd)
    app.closed(fd)
    assert app.recv(fd, 100).result().data == b"rest"
    assert app.recv(fd, 100).result().end_of_stream
    assert app.get_option(fd, "SO_ERROR").result() == 0
    app.close_socket(fd).result()


# --- the structures -------------------------------------------------------------------------------


@given(st.lists(st.integers(1, 6000), max_size=30), st.data())
def test_receive_stream_gives_the_bytes_whatever_the_pieces(sizes, data):
    total = sum(sizes)
    wanted = bytes(index * 7 % 251 for index in range(total))
    stream = ReceiveStream(total + 1, total + 1)
    got, offset = b"", 0
    for size in sizes:
        stream.push(offset, wanted[offset : offset + size])
        offset += size
        count = data.draw(st.integers(0, 8000))
        assert stream.peek(count) == wanted[len(got) : len(got) + count][: offset - len(got)]
        got += stream.read(count, keep=True)
        assert stream.waiting == offset - len(got)
        start = data.draw(st.integers(0, len(got)))
        assert stream.replay(start, total) == wanted[start : len(got)]
    got += stream.read(total + 1, keep=True)
    assert got == wanted


@given(st.lists(st.integers(1, 3000), max_size=20), st.data())
def test_send_stream_keeps_what_is_not_acknowledged(sizes, data):
    total = sum(sizes)
    wanted = bytes(index % 251 for index in range(total))
    stream = SendStream(total)
    stream.acknowledge(0, total)
    acked = 0
    for size in sizes:
        start = stream.push(wanted[stream.accepted : stream.accepted + size])
        assert stream.accepted == start + size
        acked = data.draw(st.integers(acked, stream.accepted))
        stream.acknowledge(acked, total)
        kept = list(stream.retained())
        first = kept[0][0] if kept else stream.accepted
        assert first <= acked
        assert b"".join(chunk for _, chunk in kept) == wanted[first : stream.accepted]


def test_single_bytes_do_not_cost_an_object_each():
    stream = ReceiveStream(MIB, MIB)
    for offset in range(10_000):
        stream.push(offset, b"x")
    assert len(stream._queue) < 10


def test_receive_stream_refuses_what_cannot_be():
    stream = ReceiveStream(100, 100)
    stream.push(0, b"abc")
    for call in (
        lambda: stream.push(4, b"x"), lambda: stream.push(3, bytes(98)), lambda: stream.finish(2)
    ):  # fmt: skip
        with pytest.raises(DecodeError):
            call()
    stream.finish(3)
    with pytest.raises(DecodeError):
        stream.push(3, b"x")
