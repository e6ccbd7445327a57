"""bind, listen, connect, accept and close, as Linux does them."""

import pytest
from app_harness import H1, H2, PEER, Program, error, failure

from plywire.config import AppConfig, host
from plywire.messages import (
    Accepted,
    Bind,
    Bound,
    Close,
    Closed,
    Connect,
    Data,
    Hello,
    Listen,
    Opened,
)
from services.app.results import AcceptResult, ConnectResult

LOCAL = ("10.0.0.1", 40_000)


# --- a new socket ---------------------------------------------------------------------------------


def test_a_new_socket_knows_nothing():
    app = Program()
    fd = app.create_socket().result()
    info = app.get_socket(fd).result()
    assert info.state == "CLOSED"
    assert info.local == info.remote == ("0.0.0.0", 0)
    assert info.control == {}
    assert app.layer.context.table.find(fd).send is None, "buffers come with connect()"
    assert app.heard() == []


def test_a_new_socket_refuses_what_needs_a_connection():
    app = Program()
    fd = app.create_socket().result()
    assert error(app.send(fd, b"x")) == "ENOTCONN"
    assert error(app.recv(fd, 1)) == "ENOTCONN"
    assert error(app.accept(fd)) == "EINVAL"
    assert error(app.shutdown(fd, "write")) == "ENOTCONN"


def test_unknown_descriptors_are_ebadf_everywhere():
    app = Program()
    for call in (
        app.bind(99, ("", 0)), app.listen(99, 1), app.connect(99, PEER), app.accept(99),
        app.send(99, b""), app.recv(99, 1), app.shutdown(99, "both"), app.close_socket(99),
        app.set_option(99, "TCP_NODELAY", 1), app.get_option(99, "SO_ERROR"), app.get_socket(99),
    ):  # fmt: skip
        assert error(call) == "EBADF"


def test_descriptors_run_out_and_come_back():
    app = Program(host("h1", "10.0.0.1/24", app=AppConfig(max_descriptors=2)))
    first = app.create_socket().result()
    app.create_socket().result()
    assert error(app.create_socket()) == "EMFILE"
    app.close_socket(first).result()
    again = app.create_socket().result()
    assert again != first, "a late call must not reach somebody else's socket"


# --- bind and listen ------------------------------------------------------------------------------


def test_bind_answers_with_the_address_that_tcp_gave():
    app = Program()
    fd = app.create_socket().result()
    call = app.bind(fd, ("10.0.0.1", 0))
    (bind,) = app.heard()
    assert bind == Bind(bind.trace, 2, H1, 0, 0)
    assert not call.done
    app.say(Bound(1, 2, H1, 33_333, "", ""))
    assert call.result() == ("10.0.0.1", 33_333)
    assert error(app.bind(fd, ("10.0.0.1", 0))) == "EINVAL"


def test_bind_to_a_port_in_use_fails_and_may_be_tried_again():
    app = Program()
    fd = app.create_socket().result()
    call = app.bind(fd, ("", 80))
    app.say(Bound(1, app.handle(fd), bytes(4), 80, "EADDRINUSE", "port 80 is taken"))
    assert (failure(call).name, failure(call).layer) == ("EADDRINUSE", "tcp")
    again = app.bind(fd, ("", 81))
    app.say(Bound(1, app.handle(fd), bytes(4), 81, "", ""))
    assert again.result() == ("0.0.0.0", 81)


def test_bind_takes_addresses_only():
    app = Program()
    fd = app.create_socket().result()
    assert error(app.bind(fd, ("h2.lab", 80))) == "EINVAL"
    assert error(app.bind(fd, ("10.0.0.1", 70_000))) == "EINVAL"


def test_bind_hands_so_reuseaddr_down():
    app = Program()
    fd = app.create_socket().result()
    app.set_option(fd, "SO_REUSEADDR", 5)
    app.bind(fd, ("", 80))
    assert app.heard()[0].reuse == 1


def test_listen_twice_changes_the_backlog():
    app = Program()
    fd = app.listening()
    call = app.listen(fd, 3)
    (listen,) = app.heard()
    assert (type(listen), listen.backlog) == (Listen, 3)
    app.say(Bound(1, listen.handle, bytes(4), 80, "", ""))
    assert call.result() == ("0.0.0.0", 80)


def test_listen_on_a_connected_socket_is_einval():
    app = Program()
    assert error(app.listen(app.connected(), 1)) == "EINVAL"


def test_listen_that_tcp_refuses_leaves_the_socket_closed():
    app = Program()
    fd = app.create_socket().result()
    call = app.listen(fd, 1)
    app.say(Bound(1, app.handle(fd), bytes(4), 0, "EADDRINUSE", "somebody listens there"))
    assert error(call) == "EADDRINUSE"
    assert error(app.accept(fd)) == "EINVAL"


# --- connect --------------------------------------------------------------------------------------


def test_connect_hands_address_credit_and_options_to_tcp():
    app = Program()
    fd = app.create_socket().result()
    app.set_option(fd, "TCP_NODELAY", 1)
    app.set_option(fd, "SO_LINGER", 5)
    call = app.connect(fd, PEER)
    (connect,) = app.heard()
    assert connect == Connect(connect.trace, 2, H2, 80, 3 << 20, {"TCP_NODELAY": 1})
    assert connect.trace != 0
    assert not call.done
    app.open(fd)
    assert call.result() == ConnectResult(False, LOCAL, PEER)


def test_connect_twice_is_eisconn():
    app = Program()
    assert error(app.connect(app.connected(), PEER)) == "EISCONN"


def test_connect_on_a_listener_is_eisconn():
    app = Program()
    assert error(app.connect(app.listening(), PEER)) == "EISCONN"


def test_connect_to_any_address_is_connect_to_this_host():
    app = Program()
    fd = app.create_socket().result()
    app.connect(fd, ("0.0.0.0", 80))
    assert app.heard()[0].address == bytes((127, 0, 0, 1))


def test_connect_refused():
    app = Program()
    fd, call = app.connecting()
    app.closed(fd, "ECONNREFUSED", "RST received")
    assert failure(call).name == "ECONNREFUSED"
    assert failure(call).cause == "RST received"
    assert app.get_option(fd, "SO_ERROR").result() == 0, "an error is reported once"
    assert error(app.send(fd, b"x")) == "ENOTCONN"


def test_connect_again_after_a_refusal_is_a_new_attempt():
    app = Program()
    fd, _ = app.connecting()
    first = app.handle(fd)
    app.closed(fd, "ECONNREFUSED")
    call = app.connect(fd, PEER)
    assert app.handle(fd) not in (0, first)
    app.open(fd)
    assert call.result().remote == PEER


def test_connect_again_after_a_refusal_keeps_the_bound_port():
    app = Program()
    fd = app.create_socket().result()
    app.bind(fd, ("10.0.0.1", 1234))
    app.say(Bound(1, app.handle(fd), H1, 1234, "", ""))
    app.connect(fd, PEER)
    app.closed(fd, "ECONNREFUSED")
    app.heard()
    call = app.connect(fd, PEER)
    bind, connect = app.heard()
    assert (bind.address, bind.port) == (H1, 1234)
    assert bind.handle == connect.handle
    app.say(Bound(1, bind.handle, H1, 1234, "EADDRINUSE", "taken meanwhile"))
    assert error(call) == "EADDRINUSE"


def test_connect_with_timeout_0_is_in_progress_and_then_ealready():
    app = Program()
    fd, call = app.connecting(timeout=0)
    assert call.result().in_progress
    assert error(app.connect(fd, PEER, timeout=0)) == "EALREADY"
    app.open(fd)
    assert app.connect(fd, PEER, timeout=0).result() == ConnectResult(False, LOCAL, PEER)
    assert error(app.connect(fd, PEER, timeout=0)) == "EISCONN"


def test_connect_in_progress_that_fails_is_told_by_so_error_or_by_connect():
    app = Program()
    fd, _ = app.connecting(timeout=0)
    app.closed(fd, "ECONNREFUSED", "RST received")
    assert app.get_option(fd, "SO_ERROR").result() == 111
    assert app.get_option(fd, "SO_ERROR").result() == 0
    assert error(app.connect(fd, PEER, timeout=0)) == "ECONNABORTED"
    fd, _ = app.connecting(timeout=0)
    app.closed(fd, "ETIMEDOUT")
    assert error(app.connect(fd, PEER, timeout=0)) == "ETIMEDOUT"
    assert app.connect(fd, PEER, timeout=0).result().in_progress


def test_connect_timeout_in_virtual_time():
    app = Program()
    _, call = app.connecting(timeout=0.25)
    app.wait(249)
    assert not call.done
    app.wait(1)
    assert call.result().in_progress


def test_connect_with_a_bad_timeout_is_einval_and_connects_nothing():
    app = Program()
    for timeout in (-1, float("nan")):
        fd = app.create_socket().result()
        assert error(app.connect(fd, PEER, timeout=timeout)) == "EINVAL"
    assert app.heard() == []


@pytest.mark.parametrize("timeout", [3.2e9, 1e300, float("inf")])
def test_a_timeout_beyond_all_clocks_is_for_ever(timeout):
    app = Program()
    fd = app.create_socket().result()
    call = app.connect(fd, PEER, timeout=timeout)
    assert not call.done
    assert app.layer.deadline() is None


def test_connect_before_tcp_is_there_waits_for_it():
    app = Program(hello=False)
    fd, call = app.connecting()
    assert app.heard() == []
    app.say(Hello(0, "tcp", 5, 0))
    (connect,) = app.heard()
    assert connect.handle == app.handle(fd)
    app.open(fd)
    assert call.done


def test_close_before_tcp_is_there_takes_everything_back():
    app = Program(hello=False)
    fd, call = app.connecting()
    app.set_option(fd, "TCP_NODELAY", 1)
    app.close_socket(fd)
    assert error(call) == "EBADF"
    app.say(Hello(0, "tcp", 5, 0))
    assert app.heard() == []


# --- accept ---------------------------------------------------------------------------------------


def test_accept_takes_connections_in_their_order():
    app = Program()
    fd = app.listening()
    app.comes_in(fd, 50_001)
    app.comes_in(fd, 50_002)
    first, second = app.accept(fd).result(), app.accept(fd).result()
    assert (first.remote, second.remote) == (("10.0.0.2", 50_001), ("10.0.0.2", 50_002))
    assert first.local == ("10.0.0.1", 80)
    assert [type(message) for message in app.heard()] == [Accepted, Accepted]
    assert app.accept(fd, timeout=0).result() == AcceptResult(True)


def test_accept_waits_first_come_first_served():
    app = Program()
    fd = app.listening()
    one, two = app.accept(fd), app.accept(fd)
    app.comes_in(fd, 50_001)
    assert one.result().remote[1] == 50_001
    assert not two.done
    app.comes_in(fd, 50_002)
    assert two.result().remote[1] == 50_002


def test_accept_inherits_the_listeners_options():
    app = Program()
    fd = app.listening()
    app.set_option(fd, "TCP_NODELAY", 1)
    app.comes_in(fd)
    child = app.accept(fd).result().descriptor
    assert app.get_option(child, "TCP_NODELAY").result() == 1


def test_accept_gives_a_connection_that_was_reset_meanwhile_with_its_error():
    app = Program()
    fd = app.listening()
    handle = app.comes_in(fd)
    app.say(Data(1, handle, 0, b"last words"))
    app.say(_closed(handle))
    child = app.accept(fd).result().descriptor
    assert not any(isinstance(message, Accepted) for message in app.heard())
    assert app.recv(child, 100).result().data == b"last words"
    assert error(app.recv(child, 100)) == "ECONNRESET"
    assert app.recv(child, 100).result().end_of_stream


def test_connections_reset_before_accept_do_not_pile_up():
    app = Program()
    fd = app.listening(backlog=4)
    for _ in range(100):
        app.say(_closed(app.comes_in(fd)))
    assert len(app.layer.context.table.find(fd).queue) == 5
    assert app.counter("drop_reset_before_accept") == 95


def test_accept_without_descriptors_leaves_the_connection_in_the_queue():
    app = Program(host("h1", "10.0.0.1/24", app=AppConfig(max_descriptors=2)))
    fd = app.listening()
    other = app.create_socket().result()
    app.comes_in(fd)
    assert error(app.accept(fd)) == "EMFILE"
    app.close_socket(other)
    assert app.accept(fd).result().remote == ("10.0.0.2", 50_000)


def test_a_cancelled_accept_takes_nothing():
    app = Program()
    fd = app.listening()
    call = app.accept(fd)
    app.layer.cancel(call)
    app.comes_in(fd)
    assert not call.done
    assert not app.accept(fd, timeout=0).result().would_block


def test_closing_a_listener_ends_it_and_what_waits():
    app = Program()
    fd = app.listening()
    handle = app.handle(fd)
    call = app.accept(fd)
    app.close_socket(fd).result()
    assert error(call) == "EBADF"
    close = app.heard()[-1]
    assert (type(close), close.handle, close.abort) == (Close, handle, 0)


def test_a_connection_for_a_listener_that_is_gone_is_reset():
    app = Program()
    app.say(Opened(7, 1, 2, H1, 80, H2, 5, 100))
    (close,) = app.heard()
    assert (close.handle, close.abort) == (1, 1)


def test_shutdown_of_a_listener_makes_accept_fail_and_listen_works_again():
    app = Program()
    fd = app.listening()
    call = app.accept(fd)
    app.shutdown(fd, "read").result()
    assert error(call) == "EINVAL"
    again = app.listen(fd, 1)
    app.say(Bound(1, app.handle(fd), bytes(4), 81, "", ""))
    assert again.result() == ("0.0.0.0", 81)


# --- request ids ----------------------------------------------------------------------------------


def test_the_same_request_id_gets_the_same_socket():
    app = Program()
    one = app.create_socket(request_id="a").result()
    assert app.create_socket(request_id="a").result() == one
    assert app.create_socket(request_id="b").result() != one


def test_the_same_request_id_gets_the_same_connection():
    app = Program()
    fd = app.listening()
    app.comes_in(fd, 1001)
    app.comes_in(fd, 1002)
    one = app.accept(fd, request_id="a").result()
    assert app.accept(fd, request_id="a").result() == one
    assert app.accept(fd, request_id="b").result().remote[1] == 1002


def test_a_repeated_accept_waits_for_the_same_connection():
    app = Program()
    fd = app.listening()
    first, second = app.accept(fd, request_id="a"), app.accept(fd, request_id="a")
    app.layer.cancel(first)
    app.comes_in(fd, 1001)
    assert not first.done
    assert second.result().remote[1] == 1001
    assert app.accept(fd, request_id="a").result() == second.result()


def test_an_accept_given_up_by_everybody_takes_nothing():
    app = Program()
    fd = app.listening()
    app.layer.cancel(app.accept(fd, request_id="a"))
    app.comes_in(fd, 1001)
    assert app.accept(fd, timeout=0, request_id="c").result().remote[1] == 1001


def test_would_block_is_not_remembered():
    app = Program()
    fd = app.listening()
    assert app.accept(fd, timeout=0, request_id="a").result().would_block
    app.comes_in(fd, 1001)
    assert app.accept(fd, timeout=0, request_id="a").result().remote[1] == 1001


def test_a_repeated_connect_is_answered_and_not_done_again():
    app = Program()
    fd = app.create_socket().result()
    one = app.connect(fd, PEER, request_id="c")
    two = app.connect(fd, PEER, request_id="c")
    assert len(app.heard()) == 1
    app.open(fd)
    assert one.result() == two.result() == app.connect(fd, PEER, request_id="c").result()


# --- close ----------------------------------------------------------------------------------------


def test_close_tells_tcp_where_the_stream_ends():
    app = Program()
    fd = app.connected()
    handle = app.handle(fd)
    app.send(fd, b"12345").result()
    app.heard()
    app.close_socket(fd).result()
    (close,) = app.heard()
    assert (close.handle, close.offset, close.abort) == (handle, 5, 0)
    assert error(app.send(fd, b"")) == "EBADF"


def test_close_with_data_unread_aborts():
    app = Program()
    fd = app.connected()
    app.data(fd, b"unread")
    app.close_socket(fd).result()
    assert app.heard()[-1].abort == 1


def test_close_with_linger_0_aborts():
    app = Program()
    fd = app.connected()
    app.set_option(fd, "SO_LINGER", 0)
    app.close_socket(fd).result()
    assert app.heard()[-1].abort == 1


def test_close_with_linger_waits_for_the_end():
    app = Program()
    fd = app.connected()
    handle = app.handle(fd)
    app.set_option(fd, "SO_LINGER", 2)
    call = app.close_socket(fd)
    assert not call.done
    app.say(_closed(handle, ""))
    assert error(call) == ""


def test_close_with_linger_waits_so_long_and_no_longer():
    app = Program()
    fd = app.connected()
    app.set_option(fd, "SO_LINGER", 2)
    call = app.close_socket(fd)
    app.wait(1999)
    assert not call.done
    app.wait(1)
    assert error(call) == ""


def test_close_while_connecting_gives_the_attempt_up():
    app = Program()
    fd, call = app.connecting()
    handle = app.handle(fd)
    app.close_socket(fd).result()
    assert error(call) == "EBADF"
    assert app.heard()[-1].handle == handle
    app.say(Opened(1, handle, 0, H1, 1, H2, 2, 10))  # it crossed the Close
    assert app.counter("drop_unknown_handle") == 0
    assert app.heard() == []


def test_close_of_a_bound_socket_frees_the_port():
    app = Program()
    fd = app.create_socket().result()
    app.bind(fd, ("", 80))
    app.close_socket(fd).result()
    assert isinstance(app.heard()[-1], Close)


# --- sessions -------------------------------------------------------------------------------------


def test_a_session_that_ends_closes_what_it_owns():
    app = Program()
    mine, other = app.open_session(), app.open_session()
    first = app.create_socket(session=mine).result()
    second = app.create_socket(session=other).result()
    app.close_session(mine)
    assert error(app.get_option(first, "SO_ERROR")) == "EBADF"
    assert error(app.get_option(second, "SO_ERROR")) == ""
    assert error(app.create_socket(session=mine)) == "EINVAL"


def test_an_accepted_socket_belongs_to_the_listeners_session_or_the_one_named():
    app = Program()
    mine, other = app.open_session(), app.open_session()
    fd = app.create_socket(session=mine).result()
    app.listen(fd, 5)
    app.say(Bound(1, app.handle(fd), bytes(4), 80, "", ""))
    app.comes_in(fd)
    app.comes_in(fd)
    first = app.accept(fd).result().descriptor
    second = app.accept(fd, session=other).result().descriptor
    app.close_session(mine)
    assert error(app.get_option(first, "SO_ERROR")) == "EBADF"
    app.close_session(other)
    assert error(app.get_option(second, "SO_ERROR")) == "EBADF"


def test_a_connection_accepted_for_a_session_that_has_ended_is_closed():
    app = Program()
    other = app.open_session()
    fd = app.listening()
    call = app.accept(fd, session=other)
    app.close_session(other)
    app.comes_in(fd)
    assert error(app.get_option(call.result().descriptor, "SO_ERROR")) == "EBADF"


def _closed(handle: int, name: str = "ECONNRESET") -> Closed:
    return Closed(3, handle, name, "RST received")
