"""The app layer as a layer: readiness, options, views, the boundary, snapshots, traces."""

import random

import pytest
from app_harness import H1, H2, LIMIT, PEER, T0, Program, error
from hypothesis import given
from hypothesis import strategies as st

from plywire.config import MS
from plywire.errors import DecodeError
from plywire.messages import (
    Bind,
    Bound,
    Close,
    Closed,
    Credit,
    Data,
    End,
    Hello,
    Info,
    Listen,
    Option,
    Query,
    Segment,
)
from plywire.trace import NOTE, STATE, Tracer
from services.app import create
from services.app.operations import RESUME_WITHIN

IN, OUT, ERR, HUP, NVAL, RDHUP = 1, 4, 8, 16, 32, 0x2000
ALL = IN | OUT | RDHUP


def ready(app: Program, fd: int, events: int = ALL) -> int:
    """What a poll that does not wait reports."""
    return dict(app.poll([(fd, events)], timeout=0).result()).get(fd, 0)


# --- poll, as Linux's tcp_poll --------------------------------------------------------------------


def test_poll_of_a_new_socket_is_out_and_hup():
    app = Program()
    assert ready(app, app.create_socket().result()) == OUT | HUP


def test_poll_of_an_unknown_descriptor_is_nval():
    assert ready(Program(), 77) == NVAL


def test_poll_while_connecting_is_nothing():
    app = Program()
    fd, _ = app.connecting(timeout=0)
    assert ready(app, fd) == 0


def test_poll_of_a_connection_is_out():
    app = Program()
    fd = app.connected()
    assert ready(app, fd) == OUT
    app.data(fd, b"x")
    assert ready(app, fd) == OUT | IN
    assert ready(app, fd, IN) == IN


def test_poll_is_out_again_when_a_third_of_the_buffer_is_free():
    app = Program()
    fd = app.connected(limit=900)
    app.send(fd, bytes(601))
    assert ready(app, fd) == 0
    app.credit(fd, 601, 901)
    assert ready(app, fd) == OUT


def test_poll_after_the_peers_end():
    app = Program()
    fd = app.connected()
    app.end(fd)
    assert ready(app, fd) == OUT | IN | RDHUP
    app.shutdown(fd, "write")
    assert ready(app, fd) == OUT | IN | RDHUP | HUP


def test_poll_after_a_reset_reports_the_error_until_it_was_read():
    app = Program()
    fd = app.connected()
    app.closed(fd, "ECONNRESET")
    assert ready(app, fd) == OUT | IN | RDHUP | HUP | ERR
    app.get_option(fd, "SO_ERROR")
    assert ready(app, fd) == OUT | IN | RDHUP | HUP


def test_poll_after_a_refused_connect():
    app = Program()
    fd, _ = app.connecting(timeout=0)
    app.closed(fd, "ECONNREFUSED")
    assert ready(app, fd, 0x2FFF) == 0x215D, "what Linux 6 reports"
    assert error(app.connect(fd, PEER)) == "ECONNREFUSED"
    assert ready(app, fd) == OUT | HUP


def test_poll_of_a_listener():
    app = Program()
    fd = app.listening()
    assert ready(app, fd) == 0
    app.comes_in(fd)
    assert ready(app, fd) == IN


def test_poll_waits_for_the_first_of_many():
    app = Program()
    one, two = app.connected(), app.connected()
    call = app.poll([(one, IN), (two, IN)])
    app.data(two, b"x")
    assert call.result() == [(two, IN)]
    assert not app.layer.context.table.find(one).pollers


def test_poll_timeout_in_virtual_time():
    app = Program()
    call = app.poll([(app.connected(), IN)], timeout=0.2)
    app.wait(199)
    assert not call.done
    app.wait(1)
    assert call.result() == []


def test_poll_notices_a_descriptor_that_is_closed_meanwhile():
    app = Program()
    fd = app.connected()
    call = app.poll([(fd, IN)])
    app.close_socket(fd)
    assert call.result() == [(fd, NVAL)]


def test_poll_of_more_than_there_can_be_is_einval():
    assert error(Program().poll([(1, IN)] * 5000)) == "EINVAL"


def test_a_cancelled_poll_leaves_nothing_behind():
    app = Program()
    fd = app.connected()
    app.layer.cancel(app.poll([(fd, IN)], timeout=1))
    assert not app.layer.context.waiters
    assert not app.layer.context.table.find(fd).pollers
    assert app.layer.deadline() is None


# --- options --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "value", "shown"),
    [
        ("SO_REUSEADDR", 7, 1), ("SO_KEEPALIVE", 1, 1), ("TCP_NODELAY", 0, 0),
        ("SO_LINGER", 5, 5), ("SO_LINGER", -1, -1),
        ("SO_SNDBUF", 1, 4608), ("SO_SNDBUF", 10_000, 20_000), ("SO_SNDBUF", 10**9, 8 << 20),
        ("SO_RCVBUF", 0, 2304), ("SO_RCVBUF", 10_000, 20_000),
        ("TCP_LINGER2", 0, 60), ("TCP_LINGER2", 200, 120), ("TCP_LINGER2", -5, -1),
        ("TCP_MAXSEG", 600, 600), ("TCP_KEEPIDLE", 30, 30), ("TCP_USER_TIMEOUT", 1000, 1000),
    ],
)  # fmt: skip
def test_options_read_back_as_linux_shows_them(name, value, shown):
    app = Program()
    fd = app.create_socket().result()
    app.set_option(fd, name, value).result()
    assert app.get_option(fd, name).result() == shown


@pytest.mark.parametrize(
    ("name", "value", "errno"),
    [
        ("TCP_MAXSEG", 40, "EINVAL"), ("TCP_KEEPIDLE", 0, "EINVAL"),
        ("TCP_KEEPCNT", 128, "EINVAL"), ("TCP_SYNCNT", 0, "EINVAL"),
        ("TCP_USER_TIMEOUT", -1, "EINVAL"), ("SO_LINGER", -2, "EINVAL"),
        ("SO_ERROR", 0, "ENOPROTOOPT"), ("SO_TYPE", 1, "ENOPROTOOPT"),
        ("SO_MAGIC", 1, "ENOPROTOOPT"),
    ],
)  # fmt: skip
def test_options_that_cannot_be_set(name, value, errno):
    app = Program()
    assert error(app.set_option(app.create_socket().result(), name, value)) == errno


def test_options_of_every_socket():
    app = Program()
    fd = app.create_socket().result()
    values = {name: app.get_option(fd, name).result() for name in
              ("SO_TYPE", "SO_DOMAIN", "SO_PROTOCOL", "SO_ERROR", "SO_ACCEPTCONN", "TCP_MAXSEG",
               "TCP_KEEPIDLE", "TCP_SYNCNT", "TCP_QUICKACK", "TCP_LINGER2")}  # fmt: skip
    assert list(values.values()) == [1, 2, 6, 0, 0, 536, 7200, 6, 1, 60]
    assert app.get_option(app.listening(), "SO_ACCEPTCONN").result() == 1
    assert error(app.get_option(fd, "SO_MAGIC")) == "ENOPROTOOPT"


def test_the_segment_size_of_a_connection_is_tcps():
    app = Program()
    fd = app.connected()
    call = app.get_option(fd, "TCP_MAXSEG")
    (query,) = app.heard()
    app.say(Info(1, query.handle, {"snd_mss": 1448}))
    assert call.result() == 1448


def test_options_of_a_connection_are_told_to_tcp():
    app = Program()
    fd = app.connected()
    app.set_option(fd, "TCP_NODELAY", 1)
    app.set_option(fd, "SO_REUSEADDR", 1)
    app.set_option(fd, "TCP_LINGER2", -1)
    told = app.heard()
    assert [(type(each), each.name, each.value) for each in told] == [
        (Option, "TCP_NODELAY", 1),
        (Option, "TCP_LINGER2", -1),
    ]


# --- views and names ------------------------------------------------------------------------------


def test_get_socket_asks_tcp_for_its_control_block():
    app = Program()
    fd = app.connected()
    call = app.get_socket(fd)
    (query,) = app.heard()
    assert query == Query(query.trace, app.handle(fd))
    fields = {"state": "FIN-WAIT-2", "snd_una": 5, "congestion": "newreno"}
    app.say(Info(1, query.handle, fields))
    info = call.result()
    assert (info.state, info.congestion, info.control) == ("FIN-WAIT-2", "newreno", {"snd_una": 5})
    assert (info.local, info.remote) == (("10.0.0.1", 40_000), PEER)


def test_the_send_queue_is_what_the_peer_has_not_acknowledged():
    """TCP saves up credit, so app alone would count what has been acknowledged since."""
    app = Program()
    fd = app.connected()
    app.send(fd, b"x" * 1000)
    call = app.get_socket(fd)
    query = app.heard()[-1]
    app.say(Info(1, query.handle, {"state": "ESTABLISHED", "bytes_acked": 900}))
    assert call.result().send_queue == 100


def test_get_socket_answers_without_tcp_after_a_second():
    app = Program()
    fd = app.connected()
    app.send(fd, b"abc")
    call = app.get_socket(fd)
    app.wait(999)
    assert not call.done
    app.wait(1)
    assert (call.result().state, call.result().send_queue) == ("ESTABLISHED", 3)


def test_list_sockets_has_them_all():
    app = Program()
    fds = [app.create_socket().result(), app.connected(), app.listening()]
    call = app.list_sockets()
    for query in app.heard():
        app.say(Info(1, query.handle, {"state": f"OF {query.handle}"}))
    infos = call.result()
    assert [info.descriptor for info in infos] == fds
    assert [info.state for info in infos] == ["CLOSED", "OF 2", "OF 4"]


def test_resolve():
    app = Program()
    assert app.resolve("H2.lab.").result() == ["10.0.0.2"]
    assert app.resolve("10.9.8.7").result() == ["10.9.8.7"]
    assert app.resolve("localhost").result() == ["127.0.0.1"]
    for name in ("nowhere.lab", "", "10.0.0", "10.0.0.256"):
        assert error(app.resolve(name)) == "EAI_NONAME"


def test_describe():
    app = Program()
    session = app.open_session()
    fd = app.create_socket(session=session).result()
    assert app.layer.describe("sessions", T0) == {session: [fd]}
    assert app.layer.describe("sockets", T0)[0]["descriptor"] == fd
    assert app.layer.describe("counters", T0)["sockets_created"] == 1
    with pytest.raises(KeyError):
        app.layer.describe("nothing", T0)


# --- the boundary to TCP --------------------------------------------------------------------------


def test_a_new_tcp_resets_connections_and_is_told_of_listeners():
    app = Program()
    connected, listener = app.connected(), app.listening()
    bound = app.create_socket().result()
    app.bind(bound, ("10.0.0.1", 99))
    app.say(Bound(1, app.handle(bound), H1, 99, "", ""))
    connecting, call = app.connecting()
    app.comes_in(listener)
    recv = app.recv(connected, 10)
    app.heard()
    app.say(Hello(0, "tcp", 222, 0))
    assert error(recv) == error(call) == "ECONNRESET"
    assert recv.error.cause == "the TCP process was replaced"
    told = app.heard()
    assert [(type(each), each.handle) for each in told] == [
        (Bind, app.handle(listener)),
        (Listen, app.handle(listener)),
        (Bind, app.handle(bound)),
    ]
    assert told[0].port == 80
    assert app.accept(listener, timeout=0).result().would_block, "what came in died with it"
    for each in told:
        app.say(Bound(1, each.handle, bytes(4), 80, "", ""))
    app.comes_in(listener)
    assert not app.accept(listener, timeout=0).result().would_block
    assert error(app.connect(connecting, PEER, timeout=0)) == ""


def test_the_same_tcp_saying_hello_again_changes_nothing():
    app = Program()
    fd = app.connected()
    app.say(Hello(0, "tcp", 111, 1))
    assert ready(app, fd) == OUT
    assert app.heard() == []


def test_a_listener_that_a_new_tcp_refuses_is_closed_with_the_error():
    app = Program()
    fd = app.listening()
    call = app.accept(fd)
    app.say(Hello(0, "tcp", 222, 0))
    app.say(Bound(1, app.handle(fd), bytes(4), 80, "EADDRINUSE", "taken"))
    assert error(call) == "EINVAL"
    assert app.get_option(fd, "SO_ERROR").result() != 0


def test_a_bind_under_way_is_asked_again_of_a_new_tcp():
    app = Program()
    fd = app.create_socket().result()
    call = app.bind(fd, ("", 80))
    app.heard()
    app.say(Hello(0, "tcp", 222, 0))
    (bind,) = app.heard()
    app.say(Bound(1, bind.handle, bytes(4), 80, "", ""))
    assert call.result() == ("0.0.0.0", 80)


def test_what_crosses_a_close_is_no_drop_until_tcp_has_answered_it():
    app = Program()
    fd = app.connected()
    handle = app.handle(fd)
    app.close_socket(fd).result()
    app.say(Data(1, handle, 0, b"x"), Credit(1, handle, 0, 9), End(1, handle, 1))
    assert app.counter("drop_unknown_handle") == 0
    app.say(Closed(1, handle, "", ""))
    app.say(End(1, handle, 1))
    assert app.counter("drop_unknown_handle") == 1


def test_what_tcp_says_of_unknown_handles_is_counted_and_dropped():
    app = Program()
    app.say(Data(1, 98, 0, b"x"), Credit(1, 98, 0, 9), End(1, 98, 0), Bound(1, 98, H1, 1, "", ""))
    assert app.counter("drop_unknown_handle") == 4
    app.say(Closed(1, 98, "ECONNRESET", ""), Info(1, 98, {}))
    assert app.heard() == [Close(1, 98, 0, 0)]  # TCP may forget it
    app.say(Segment(1, 6, H1, H2, 0, 0, 0, b""))
    assert app.counter("drop_unexpected_message") == 1
    fd = app.listening()
    app.say(Data(1, app.handle(fd), 0, b"x"), Bound(1, app.handle(fd), H1, 1, "", ""))
    assert app.counter("drop_no_stream") == 1
    assert app.counter("drop_bound_unasked") == 1


# --- snapshots ------------------------------------------------------------------------------------


def swap(app: Program) -> None:
    """A successor takes over."""
    state = app.layer.snapshot()
    app.heard()
    tracer = Tracer("h1", "app", app.events.append)
    app.layer = create(app.config, random.Random(8), tracer)
    app.layer.restore(state, app.now)


def test_a_successor_goes_on_with_every_kind_of_socket():
    app = Program()
    session = app.open_session()
    fresh = app.create_socket(session=session, request_id="r").result()
    listener, fd = app.listening(), app.connected(limit=10)
    app.set_option(fd, "SO_LINGER", 3)
    app.comes_in(listener)
    app.data(fd, b"0123456789")
    app.recv(fd, 4, offset=0).result()
    app.send(fd, b"abcdef").result()
    failed, _ = app.connecting(timeout=0)
    app.closed(failed, "ETIMEDOUT", "nobody answers")
    before = app.layer.describe("sockets", app.now)
    swap(app)
    assert app.layer.describe("sockets", app.now) == before
    told = app.heard()
    assert [type(each) for each in told] == [Credit, Data, Credit], "TCP may have missed them"
    assert app.recv(fd, 100, offset=2).result().data == b"23"
    assert app.recv(fd, 100, offset=4).result().data == b"456789"
    assert app.send(fd, b"def0123", offset=3).result().offset == 10
    assert app.get_option(fd, "SO_LINGER").result() == 3
    assert app.accept(listener).result().remote == ("10.0.0.2", 50_000)
    assert app.get_option(failed, "SO_ERROR").result() == 110
    assert app.create_socket(session=session, request_id="r").result() == fresh
    app.close_session(session)
    assert error(app.get_option(fresh, "SO_ERROR")) == "EBADF"


def test_a_successor_is_answered_what_its_predecessor_asked():
    app = Program()
    fd = app.create_socket().result()
    app.bind(fd, ("", 80))
    swap(app)
    app.say(Bound(1, app.handle(fd), bytes(4), 80, "", ""))
    assert app.get_socket(fd).done is False
    assert app.layer.context.table.find(fd).bound == (bytes(4), 80)


def test_a_snapshot_of_another_version_is_refused():
    app = Program()
    with pytest.raises(DecodeError):
        app.layer.restore(b"\x00garbage", app.now)


@given(st.integers(0, 2**32), st.lists(st.integers(0, 4), max_size=25))
def test_swaps_at_any_time_lose_and_repeat_nothing(seed, steps):
    rng = random.Random(seed)
    app = Program()
    fd = app.connected(limit=5000)
    down, up, got, sent_up = b"", b"", b"", 0
    accepted, offered = 0, bytes(rng.randrange(256) for _ in range(40_000))
    for step in steps:
        if step == 0:
            for message in app.heard():
                if isinstance(message, Data):
                    assert message.offset <= len(down)
                    down += message.payload[len(down) - message.offset :]
            swap(app)
        elif step == 1:
            piece = offered[accepted : accepted + rng.randrange(3000)]
            accepted = app.send(fd, piece, offset=accepted, timeout=0).result().offset
        elif step == 2:
            piece = bytes(rng.randrange(256) for _ in range(rng.randrange(1, 2000)))
            app.say(Data(1, app.handle(fd), sent_up, piece))
            up, sent_up = up + piece, sent_up + len(piece)
        elif step == 3:
            got += app.recv(fd, rng.randrange(1, 4000), offset=len(got), timeout=0).result().data
        else:
            app.credit(fd, rng.randint(0, accepted), LIMIT)
    for message in app.heard():
        if isinstance(message, Data):
            down += message.payload[len(down) - message.offset :]
    got += app.recv(fd, 1 << 20, offset=len(got), timeout=0).result().data
    assert got == up
    assert down == offered[:accepted]


# --- traces ---------------------------------------------------------------------------------------


def test_a_connect_is_traced_from_the_call_to_its_return():
    app = Program()
    fd = app.create_socket().result()
    app.events.clear()
    app.connect(fd, PEER)
    (connect,) = app.heard()
    app.say(Closed(connect.trace, connect.handle, "ECONNREFUSED", "RST received"))
    subjects = [(event.what, event.subject) for event in app.events]
    assert subjects == [
        (NOTE, "Connect"), (STATE, "Connect"), (STATE, "Closed"), (NOTE, "Connect returned")
    ]  # fmt: skip
    assert {event.trace for event in app.events} == {connect.trace}
    assert app.events[0].fields == {"descriptor": fd, "address": "10.0.0.2:80"}
    assert app.events[1].before == {"descriptor": fd, "state": "CLOSED"}
    assert app.events[1].after["state"] == "SYN-SENT"
    assert app.events[1].after["receive_limit"] == 3 << 20
    assert app.events[3].fields["error"] == "ECONNREFUSED"


def test_a_name_that_becomes_an_address_is_traced():
    app = Program()
    app.resolve("h2.lab")
    note = next(event for event in app.events if event.subject == "name resolved")
    assert note.fields == {"name": "h2.lab", "address": "10.0.0.2"}


def test_a_call_that_a_message_answers_returns_under_the_messages_trace():
    app = Program()
    fd = app.connected()
    app.recv(fd, 10)
    app.say(Data(4711, app.handle(fd), 0, b"x"))
    assert app.events[-1].subject == "Recv returned"
    assert app.events[-1].trace == 4711


def test_messages_are_the_same_whether_traced_or_not():
    def run(traced: bool) -> list:
        app = Program()
        app.layer = create(
            app.config, random.Random(1), Tracer("h1", "app", app.events.append if traced else None)
        )
        app.say(Hello(0, "tcp", 1, 0))
        fd, _ = app.connecting()
        heard = app.heard()
        app.open(fd)
        app.send(fd, b"abc")
        return heard + app.heard()

    assert run(True) == run(False)


# --- the sessions of a predecessor --------------------------------------------------------------


def test_a_program_comes_back_to_its_session():
    app = Program()
    session = app.open_session()
    fd = app.create_socket(session=session).result()
    swap(app)
    assert app.open_session(resume=session) == session
    app.wait(2 * RESUME_WITHIN // MS)
    assert app.layer.describe("sessions", app.now) == {session: [fd]}


def test_a_session_that_nobody_comes_back_to_is_closed_in_time():
    app = Program()
    session = app.open_session()
    fd = app.create_socket(session=session).result()
    swap(app)
    app.wait(RESUME_WITHIN // MS - 1)
    assert app.layer.describe("sessions", app.now) == {session: [fd]}
    app.wait(1)
    assert app.layer.describe("sessions", app.now) == {}
    assert app.list_sockets().result() == []
    assert app.open_session(resume=session) != session


def test_a_session_is_resumed_once_and_only_after_an_exchange():
    app = Program()
    session = app.open_session()
    assert app.open_session(resume=session) != session  # its owner is there
    swap(app)
    assert app.open_session(resume=session) == session
    assert app.open_session(resume=session) != session
    assert app.open_session(resume="0" * 32) != "0" * 32


def test_a_second_exchange_before_a_program_has_come_back_gives_it_its_time_again():
    app = Program()
    session = app.open_session()
    swap(app)
    app.wait(RESUME_WITHIN // MS - 1)
    swap(app)
    app.wait(RESUME_WITHIN // MS - 1)
    assert app.open_session(resume=session) == session
