"""What any TCP implementation owes the app above it, whatever it is that carries its streams.

`implementations.py` lists what is tested: stacks that speak to ip, joined by segments in virtual
time, and those that have the operating system below them, joined by it.
"""

from __future__ import annotations

import random

import pytest
from implementations import IMPLEMENTATIONS, ON_SOCKETS
from tcp_twins import ANY, BUFFER, B, SegmentTwins, SystemTwins, make, told

from plywire.config import SECOND
from plywire.errors import DecodeError
from plywire.messages import (
    AGAIN,
    Accepted,
    Bind,
    Bound,
    Close,
    Closed,
    Connect,
    Credit,
    Data,
    End,
    Frame,
    Hello,
    Info,
    Listen,
    Opened,
    Option,
    Query,
)
from plywire.roles import APP

SPECS = IMPLEMENTATIONS["tcp"] | ON_SOCKETS


@pytest.fixture(scope="module", params=SPECS.values(), ids=SPECS)
def spec(request):
    """The implementation under test, as module:factory."""
    return request.param


@pytest.fixture
def twins(spec):
    made = (SystemTwins if spec in ON_SOCKETS.values() else SegmentTwins)(spec)
    yield made
    made.close()


def answers(twins, side, kind: type, count: int) -> list:
    """The first messages of a kind that a side is told."""
    twins.run(lambda: len(told(side, kind)) >= count)
    return told(side, kind)


# --- binding --------------------------------------------------------------------------------------


def test_port_in_use(twins):
    twins.app(twins.a, Bind(0, 2, ANY, 0, 0))
    (first,) = answers(twins, twins.a, Bound, 1)
    twins.app(twins.a, Bind(0, 4, ANY, first.port, 0))
    twins.app(twins.a, Bind(0, 6, B, 0, 0))
    first, second, third = answers(twins, twins.a, Bound, 3)
    assert (first.error, second.error, third.error) == ("", "EADDRINUSE", "EADDRNOTAVAIL")
    assert (second.handle, third.handle) == (4, 6)


def test_any_port(twins):
    for handle in (2, 4):
        twins.app(twins.a, Bind(0, handle, ANY, 0, 0))
    first, second = (bound.port for bound in answers(twins, twins.a, Bound, 2))
    assert first != second
    assert min(first, second) >= 1024


def test_a_second_bind_is_einval(twins):
    twins.app(twins.a, Bind(0, 2, ANY, 0, 0))
    twins.app(twins.a, Bind(0, 2, ANY, 0, 0))
    assert [bound.error for bound in answers(twins, twins.a, Bound, 2)] == ["", "EINVAL"]


def test_a_port_is_free_again_when_its_socket_is_closed(twins):
    twins.app(twins.a, Bind(0, 2, ANY, 0, 0))
    (first,) = answers(twins, twins.a, Bound, 1)
    twins.app(twins.a, Close(0, 2, 0, 0))
    assert answers(twins, twins.a, Closed, 1)[0].error == ""
    twins.app(twins.a, Bind(0, 4, ANY, first.port, 0))
    assert answers(twins, twins.a, Bound, 2)[1].error == ""


def test_listen_without_bind_gets_a_port(twins):
    twins.app(twins.b, Listen(0, 2, 4, {}))
    (bound,) = answers(twins, twins.b, Bound, 1)
    assert (bound.error, bound.handle) == ("", 2)
    assert bound.port >= 1024
    twins.app(twins.b, Listen(0, 2, 1, {}))
    assert answers(twins, twins.b, Bound, 2)[1].port == bound.port


# --- opening --------------------------------------------------------------------------------------


def test_handshake_tells_both_apps(twins):
    twins.open()
    (ours,), (theirs,) = told(twins.a, Opened), told(twins.b, Opened)
    assert (ours.handle, ours.listener) == (4, 0)
    assert (theirs.listener, theirs.local_address, theirs.handle & 1) == (2, B, 1)
    assert (ours.local_address, ours.local_port) == (theirs.remote_address, theirs.remote_port)
    assert (ours.remote_address, ours.remote_port) == (theirs.local_address, theirs.local_port)
    assert min(ours.limit, theirs.limit) > 0


def test_nobody_listens_is_econnrefused(twins):
    port = twins.listen()
    twins.app(twins.b, Close(0, 2, 0, 0))
    twins.app(twins.a, Connect(1, 4, B, port, BUFFER, {}))
    (closed,) = answers(twins, twins.a, Closed, 1)
    assert (closed.handle, closed.error) == (4, "ECONNREFUSED")
    assert closed.cause


def test_no_way_there_is_enetunreach(twins):
    twins.app(twins.a, Connect(1, 4, bytes((99, 0, 0, 1)), 80, BUFFER, {}))
    assert answers(twins, twins.a, Closed, 1)[0].error == "ENETUNREACH"


def test_a_bound_socket_connects_from_its_port(twins):
    port = twins.listen()
    twins.app(twins.a, Bind(0, 4, ANY, 0, 0))
    (bound,) = answers(twins, twins.a, Bound, 1)
    twins.app(twins.a, Connect(1, 4, B, port, BUFFER, {}))
    assert answers(twins, twins.b, Opened, 1)[0].remote_port == bound.port


def test_connections_come_one_by_one_and_each_is_its_own(twins):
    port = twins.listen()
    for handle in range(4, 4 + 2 * 40, 2):
        twins.app(twins.a, Connect(1, handle, B, port, BUFFER, {}))
        answers(twins, twins.b, Opened, handle // 2 - 1)
    opened = told(twins.b, Opened)
    assert len({item.handle for item in opened}) == len({item.remote_port for item in opened}) == 40


# --- the stream -----------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [1, 1460, 1461, 700_000])
def test_both_streams_arrive(twins, size):
    twins.open()
    forth, back = random.Random(size).randbytes(size), bytes(size)
    twins.send(twins.a, forth)
    twins.send(twins.b, back)
    twins.run(lambda: len(twins.b.received) == len(twins.a.received) == size)
    assert (twins.b.received, twins.a.received) == (forth, back)


def test_what_is_beyond_the_credit_or_leaves_a_gap_is_not_taken(twins):
    twins.open()
    before = twins.a.layer.counters["drop_data_beyond_credit"]
    twins.app(twins.a, Data(1, 4, twins.a.limit, b"beyond"))
    twins.app(twins.a, Data(1, 4, 10, b"a gap"))
    assert twins.a.layer.counters["drop_data_beyond_credit"] == before + 2
    twins.send(twins.a, b"as it should be")
    twins.run(lambda: twins.b.received)
    assert twins.b.received == b"as it should be"


def test_a_repeat_is_passed_over(twins):
    twins.open()
    twins.send(twins.a, b"once")
    twins.app(twins.a, Data(1, 4, 0, b"once, and more"))
    twins.run(lambda: len(twins.b.received) == 14)
    assert twins.b.received == b"once, and more"


def test_a_reader_that_stops_stops_the_writer_and_nothing_is_lost(twins):
    """Credit is the receive buffer: nothing comes up beyond it, and the writer feels it."""
    twins.open()
    twins.b.reads = False
    data = random.Random(1).randbytes(1 << 16) * 512  # more than both ends and a system hold
    sent = 0
    blocked = False
    while not blocked and sent < len(data):
        part = data[sent : min(twins.a.limit, sent + 65_536)]
        if part:
            twins.app(twins.a, Data(1, 4, sent, part))
            sent += len(part)
        else:
            limit = twins.a.limit
            blocked = not twins.moves(lambda limit=limit: twins.a.limit > limit)
    assert blocked
    first = told(twins.b, Opened)[0]
    assert len(twins.b.received) <= twins.room
    assert data.startswith(twins.b.received)
    twins.b.reads = True
    read = len(twins.b.received)
    twins.app(twins.b, Credit(1, first.handle, read, read + BUFFER))
    twins.run(lambda: len(twins.b.received) >= sent)
    assert twins.b.received == data[:sent]


# --- the end --------------------------------------------------------------------------------------


def test_half_close(twins):
    twins.open()
    twins.send(twins.a, b"question")
    twins.app(twins.a, End(1, 4, 8))
    twins.run(lambda: told(twins.b, End))
    assert (twins.b.received, told(twins.b, End)[0].offset) == (b"question", 8)
    twins.send(twins.b, b"answer")
    twins.run(lambda: twins.a.received == b"answer")
    twins.app(twins.b, End(1, twins.b.handle, 6))
    twins.run(lambda: told(twins.a, Closed) and told(twins.b, Closed))
    assert told(twins.a, End)[0].offset == 6
    assert [item.error for item in told(twins.a, Closed) + told(twins.b, Closed)] == ["", ""]


def test_close_sends_what_is_left_and_then_the_end(twins):
    twins.open()
    data = bytes(range(256)) * 2000
    twins.send(twins.a, data)
    twins.app(twins.a, Close(1, 4, len(data), 0))
    twins.run(lambda: told(twins.b, End))
    assert twins.b.received == data
    twins.app(twins.b, Close(1, twins.b.handle, 0, 0))
    twins.run(lambda: told(twins.a, Closed) and told(twins.b, Closed))
    assert [item.error for item in told(twins.a, Closed) + told(twins.b, Closed)] == ["", ""]
    assert twins.b.layer.describe("connections", twins.now) == []


def test_abort_is_econnreset(twins):
    twins.open()
    twins.app(twins.a, Close(1, 4, 0, 1))
    twins.run(lambda: told(twins.b, Closed))
    assert told(twins.b, Closed)[0].error == "ECONNRESET"
    assert told(twins.a, Closed)[0].error == ""


def test_a_connection_that_nobody_accepted_is_reset_with_its_listener(twins):
    twins.b.accepts = False
    port = twins.listen()
    twins.app(twins.a, Connect(1, 4, B, port, BUFFER, {}))
    twins.run(lambda: told(twins.a, Opened) and told(twins.b, Opened))
    twins.app(twins.b, Close(1, 2, 0, 0))
    assert answers(twins, twins.a, Closed, 1)[0].error == "ECONNRESET"


def test_the_backlog_bounds_what_waits(twins):
    twins.b.accepts = False
    twins.app(twins.b, Listen(1, 2, 1, {}))
    (bound,) = answers(twins, twins.b, Bound, 1)
    for handle in (4, 6, 8, 10, 12):
        twins.app(twins.a, Connect(1, handle, B, bound.port, BUFFER, {}))
    twins.run(lambda: len(told(twins.b, Opened)) == 2)
    assert not twins.moves(lambda: len(told(twins.b, Opened)) > 2, steps=5)
    twins.app(twins.b, Accepted(1, told(twins.b, Opened)[0].handle))
    twins.run(lambda: len(told(twins.b, Opened)) == 3)


# --- views, options, strangers --------------------------------------------------------------------


def test_query(twins):
    twins.app(twins.a, Query(0, 4))
    twins.open()
    twins.app(twins.a, Query(0, 4))
    empty, full = (item.fields for item in answers(twins, twins.a, Info, 2))
    assert empty == {}
    assert full["state"] == "ESTABLISHED"
    assert {"snd_mss", "srtt_us", "rto_us", "send_queue", "receive_queue"} <= set(full)


def test_a_query_is_answered_with_its_topic_whatever_that_is(twins):
    """An app that has recovered goes by it: what comes behind the answer is meant for it."""
    questions = [(0, AGAIN), (0, ""), (7, "no such topic")]
    for handle, topic in questions:
        twins.app(twins.a, Query(5, handle, topic))
    found = answers(twins, twins.a, Info, len(questions))
    assert found == [Info(5, handle, {}, topic) for handle, topic in questions]


def test_options_break_nothing(twins):
    twins.open()
    sensible = {"TCP_NODELAY": 1, "SO_KEEPALIVE": 1, "TCP_KEEPIDLE": 30, "SO_SNDBUF": 4608}
    for name, value in (sensible | {"TCP_UNHEARD_OF": 1}).items():
        twins.app(twins.a, Option(1, 4, name, value))
    twins.send(twins.a, bytes(20_000))
    twins.run(lambda: len(twins.b.received) == 20_000)


def test_a_new_app_has_no_sockets(twins):
    twins.app(twins.a, Hello(0, "app", 1, 0))
    twins.open()
    twins.app(twins.a, Hello(0, "app", 1, 0))
    assert told(twins.b, Closed) == []
    twins.app(twins.a, Bind(0, 6, ANY, 0, 0))
    (bound,) = answers(twins, twins.a, Bound, 1)
    twins.app(twins.a, Hello(0, "app", 2, 0))
    twins.run(lambda: told(twins.b, Closed))
    assert told(twins.b, Closed)[0].error == "ECONNRESET"
    assert told(twins.a, Closed) == []  # the new one may mean something else by that handle
    twins.app(twins.a, Bind(0, 6, ANY, bound.port, 0))
    assert answers(twins, twins.a, Bound, 2)[1].error == ""


def test_a_new_app_has_no_listener(twins):
    twins.app(twins.b, Hello(0, "app", 1, 0))
    port = twins.listen()
    twins.app(twins.b, Hello(0, "app", 2, 0))
    twins.app(twins.a, Connect(1, 4, B, port, BUFFER, {}))
    assert answers(twins, twins.a, Closed, 1)[0].error == "ECONNREFUSED"
    assert told(twins.b, Closed) == []


def test_what_crosses_a_closed_does_no_harm(twins):
    late = [Credit(0, 4, 0, 10), End(0, 4, 0), Close(0, 4, 0, 0), Accepted(0, 4)]
    for message in (*late, Option(0, 4, "TCP_NODELAY", 1), Data(0, 4, 0, b"x")):
        twins.app(twins.a, message)
    twins.app(twins.a, Frame(0, 1, 0, b""))
    assert twins.a.told == []
    assert twins.a.layer.counters["drop_unknown_handle"] == 1
    assert twins.a.layer.counters["drop_unexpected_message"] == 1


def test_bad_snapshot(spec):
    with pytest.raises(DecodeError):
        make(spec).restore(b"\xc1", SECOND)


def test_a_listener_lives_through_a_swap(twins):
    port = twins.listen()
    twins.swap(twins.b)
    twins.app(twins.a, Connect(1, 4, B, port, BUFFER, {}))
    twins.run(lambda: told(twins.a, Opened) and told(twins.b, Opened))
    twins.app(twins.b, Query(0, 2))
    assert answers(twins, twins.b, Info, 1)[0].fields["state"] == "LISTEN"


def test_an_idle_layer_wants_nothing(spec):
    layer = make(spec)
    assert (layer.deadline(), layer.outputs()) == (None, [])
    for topic in ("connections", "listeners", "counters"):
        layer.describe(topic, SECOND)
    layer.receive(Hello(0, APP, 1, 0), APP, SECOND)
    assert layer.outputs() == []
