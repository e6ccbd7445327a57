"""plywire.client against a scripted API: lost replies, errors, sessions, interruptions."""

import _thread
import contextlib
import errno
import select
import socket
import sys
import threading
import time
from collections import deque

import pytest
from scripted_api import LOST, Api

from plywire.client import ApiDown, Stack
from plywire.rpc import socket_pb2 as pb


@pytest.fixture
def api(tmp_path):
    api = Api(f"unix:{tmp_path}/h1.api.sock")
    api.answers["CreateSocket"].extend(pb.CreateSocketResponse(descriptor=n) for n in range(4, 12))
    api.start()
    yield api
    api.stop()


@pytest.fixture
def stack(api):
    with Stack(api.target) as stack:
        yield stack


def until(condition, limit=10.0):
    deadline = time.monotonic() + limit
    while not condition():
        assert time.monotonic() < deadline, "it never happened"
        time.sleep(0.005)


def test_lost_reply_of_send_is_asked_again_at_the_same_offset(api, stack):
    sock = stack.socket()
    api.answers["Send"] += [pb.SendResponse(offset=3), LOST, pb.SendResponse(offset=5)]
    assert sock.send(b"abc") == 3
    assert sock.send(b"de") == 2
    assert [(item.offset, item.data) for item in api.requests["Send"]] == [
        (0, b"abc"), (3, b"de"), (3, b"de"),
    ]  # fmt: skip


def test_lost_reply_of_recv_is_asked_again_at_the_same_offset(api, stack):
    sock = stack.socket()
    api.answers["Recv"] += [
        pb.RecvResponse(data=b"abc"), LOST, LOST, pb.RecvResponse(offset=3, data=b"de"),
    ]  # fmt: skip
    assert sock.recv(10) == b"abc"
    assert sock.recv(10) == b"de"
    assert [item.offset for item in api.requests["Recv"]] == [0, 3, 3, 3]


@pytest.mark.parametrize("name", ["CreateSocket", "Connect", "Accept"])
def test_lost_reply_is_asked_again_with_the_same_id(api, stack, name):
    sock = stack.socket()
    api.answers[name].appendleft(LOST)
    if name == "CreateSocket":
        stack.socket()
    elif name == "Connect":
        sock.connect(("10.0.0.2", 80))
    else:
        sock.accept()
    first, second = [item.request_id for item in api.requests[name]][-2:]
    assert first == second != ""


def test_different_calls_have_different_ids(api, stack):
    sock = stack.socket()
    sock.accept()
    sock.accept()
    assert len({item.request_id for item in api.requests["Accept"]}) == 2


def test_lost_reply_of_bind_is_asked_for_with_the_same_id(api, stack):
    sock = stack.socket()
    api.answers["Bind"].append(LOST)
    sock.bind(("", 80))
    first, second = api.requests["Bind"]
    assert first.request_id == second.request_id != ""


def test_lost_reply_of_so_error_is_not_asked_for_again(api, stack):
    sock = stack.socket()
    api.answers["GetOption"].append(LOST)
    with pytest.raises(ApiDown):
        sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
    assert len(api.requests["GetOption"]) == 1


def test_retries_end(api, stack):
    sock = stack.socket()
    api.answers["Recv"].extend([LOST] * 100)
    with pytest.raises(ApiDown, match="the script says so"):
        sock.recv(1)
    assert len(api.requests["Recv"]) == 5


@pytest.mark.parametrize(
    ("reason", "kind"),
    [
        ("ECONNREFUSED", ConnectionRefusedError),
        ("ECONNRESET", ConnectionResetError),
        ("EPIPE", BrokenPipeError),
        ("ETIMEDOUT", TimeoutError),
        ("EHOSTUNREACH", OSError),
        ("EADDRINUSE", OSError),
    ],
)
def test_error_is_what_socket_would_raise(api, stack, reason, kind):
    sock = stack.socket()
    api.answers["Connect"].append(reason)
    with pytest.raises(kind) as caught:
        sock.connect(("10.0.0.2", 80))
    assert caught.value.errno == getattr(errno, reason)
    assert caught.value.__notes__ == ["h1 tcp: RST received"]


def test_unknown_name_is_a_gaierror(api, stack):
    api.answers["Resolve"].append("EAI_NONAME")
    with pytest.raises(socket.gaierror) as caught:
        stack.getaddrinfo("nobody", 80)
    assert caught.value.errno == socket.EAI_NONAME


def test_unknown_reason_is_an_io_error(api, stack):
    sock = stack.socket()
    api.answers["Connect"].append("EWHATEVER")
    with pytest.raises(OSError) as caught:
        sock.connect(("10.0.0.2", 80))
    assert caught.value.errno == errno.EIO


def test_no_api_at_all(tmp_path):
    with pytest.raises(ApiDown) as caught:
        Stack(f"unix:{tmp_path}/nobody.sock")
    assert caught.value.errno == errno.ENETDOWN
    assert "nobody.sock" in str(caught.value)


def test_find_without_a_lab_says_what_to_do(tmp_path, monkeypatch):
    monkeypatch.delenv("PLYWIRE_API", raising=False)
    monkeypatch.setenv("PLYWIRE_RUN_DIR", str(tmp_path))
    with pytest.raises(ApiDown, match=r"no host h1 is up in lab default .*plywire up"):
        Stack.find("h1")


def test_find_by_environment(api, monkeypatch):
    monkeypatch.setenv("PLYWIRE_API", api.target)
    with Stack.find("h1") as stack:
        assert stack.host == "h1"
    with pytest.raises(ApiDown, match="that of h1, not of h2"):
        Stack.find("h2")


def test_sockets_of_an_ended_session_are_not_asked_for_again(api, stack):
    # The number may mean somebody else's socket by now.
    sock = stack.socket()
    session = stack.session()
    api.end_sessions()
    until(lambda: session.ended)
    with pytest.raises(ApiDown, match="went away"):
        sock.send(b"x")
    assert api.requests["Send"] == []


def test_a_program_that_asks_a_lost_socket_again_and_again_does_not_spin(api, stack):
    # socketserver does: it passes over errors of accept.
    sock = stack.socket()
    session = stack.session()
    api.end_sessions()
    until(lambda: session.ended)
    used = time.process_time()
    began = time.monotonic()
    for _ in range(4):
        with pytest.raises(ApiDown):
            sock.accept()
    assert time.monotonic() - began >= 3 * 0.1
    assert time.process_time() - used < 0.2


def test_api_that_came_back_gets_a_new_session(api, stack):
    old = stack.socket()
    session = stack.session()
    api.stop()
    until(lambda: session.ended)
    api.start()
    new = stack.socket()
    new.listen()
    with pytest.raises(ApiDown):
        old.listen()
    assert api.sessions == 2
    assert api.requests["CreateSocket"][-1].session == "s2"


def test_closed_stack(api):
    stack = Stack(api.target)
    sock = stack.socket()
    stack.close()
    stack.close()
    with pytest.raises(OSError):
        sock.recv(1)
    sock.close()


def test_interrupted_accept_is_asked_again_with_its_id(api, stack):
    sock = stack.socket()
    with interrupting(api, "Accept"), pytest.raises(KeyboardInterrupt):
        sock.accept()
    sock.accept()
    first, second = [item.request_id for item in api.requests["Accept"]]
    assert first == second


def test_send_after_an_interrupted_one_asks_where_the_stream_stands(api, stack):
    sock = stack.socket()
    with interrupting(api, "Send"), pytest.raises(KeyboardInterrupt):
        sock.send(b"abc")
    api.answers["Send"].append(pb.SendResponse(offset=4))
    api.answers["GetSocket"].append(pb.GetSocketResponse(socket=pb.Socket(send_offset=2)))
    assert sock.send(b"de") == 2
    assert api.requests["Send"][-1].offset == 2


@contextlib.contextmanager
def interrupting(api, name):
    """Ctrl-C while a call waits for its answer, which comes when this is left."""
    left = threading.Event()
    main = threading.get_ident()

    def where():
        frame = sys._current_frames()[main]
        return frame.f_code.co_name, frame.f_lasti

    def answer(_):
        # Not before the main thread sleeps in gRPC's core: its Python code, on the way there, is
        # not made for interruptions (docs/client.md).
        looks = deque(maxlen=20)
        until(lambda: looks.append(where()) or (len(looks) == 20 and len(set(looks)) == 1))
        _thread.interrupt_main()
        left.wait(30)

    api.answers[name].append(answer)
    try:
        yield
    finally:
        left.set()


def test_lost_socket_is_closed_in_the_api(api, stack):
    sock = stack.socket()
    with pytest.warns(ResourceWarning, match="unclosed"):
        del sock
    until(lambda: api.requests["CloseSocket"])


def test_watched_socket_is_polled_for_what_is_not_known(api, stack):
    sock = stack.socket()
    release = threading.Event()

    def later(request):
        release.wait(30)
        item = pb.PollItem(descriptor=4, events=select.POLLIN)
        return pb.PollResponse(ready=[item])

    writable = pb.PollResponse(ready=[pb.PollItem(descriptor=4, events=select.POLLOUT)])
    api.answers["Poll"] += [writable, later]
    assert select.select([], [sock], [], 10)[1]
    assert not select.select([sock], [], [], 0)[0]
    release.set()
    assert select.select([sock], [], [], 10)[0]
    first, second = api.requests["Poll"]
    assert (first.timeout, first.HasField("timeout")) == (0, True)
    assert not second.HasField("timeout")
    assert [item.events for item in second.items] == [select.POLLIN]


def test_ready_socket_is_not_polled_at_all(api, stack):
    sock = stack.socket()
    both = pb.PollItem(descriptor=4, events=select.POLLIN | select.POLLOUT)
    api.answers["Poll"].append(pb.PollResponse(ready=[both]))
    assert select.select([sock], [], [], 10)[0]
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    sock.gettimeout()
    assert len(api.requests["Poll"]) == 1


def test_waiting_program_is_woken_when_the_api_goes(api, stack):
    sock = stack.socket()
    release = threading.Event()
    writable = pb.PollResponse(ready=[pb.PollItem(descriptor=4, events=select.POLLOUT)])
    api.answers["Poll"] += [writable, lambda _: release.wait(5) and None]
    assert not select.select([sock], [], [], 0)[0]
    until(lambda: len(api.requests["Poll"]) == 2)
    stopper = threading.Thread(target=api.stop)
    stopper.start()
    assert select.select([sock], [], [], 10)[0]
    release.set()
    stopper.join(10)
    with pytest.raises(ApiDown):
        sock.recv(1)
    api.start()


def test_answer_from_before_a_read_is_not_believed(api, stack):
    # The long poll saw the byte that this program's own recv then took.
    sock = stack.socket()
    writable = pb.PollResponse(ready=[pb.PollItem(descriptor=4, events=select.POLLOUT)])
    stale, sleep = threading.Event(), threading.Event()

    def readable(_):
        stale.wait(10)
        return pb.PollResponse(ready=[pb.PollItem(descriptor=4, events=select.POLLIN)])

    api.answers["Poll"] += [writable, readable, lambda _: sleep.wait(5) and None]
    assert not select.select([sock], [], [], 0)[0]
    until(lambda: len(api.requests["Poll"]) == 2)
    api.answers["Recv"].append(pb.RecvResponse(data=b"x"))
    assert sock.recv(1) == b"x"
    stale.set()
    until(lambda: len(api.requests["Poll"]) == 3)
    assert not select.select([sock], [], [], 0)[0]
    sleep.set()


def test_patch_leaves_other_families_to_the_kernel(stack):
    kernel = socket.socket
    with stack.patch():
        assert socket.socket is not kernel
        a, b = socket.socketpair()
        a.send(b"x")
        assert b.recv(1) == b"x"
        assert isinstance(a, kernel)
        a.close()
        b.close()
        with pytest.raises(OSError) as caught:
            socket.socket(socket.AF_INET6)
        assert caught.value.errno == errno.EAFNOSUPPORT
        with pytest.raises(OSError) as caught:
            socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        assert caught.value.errno == errno.ESOCKTNOSUPPORT
        with socket.socket() as ours:
            assert isinstance(ours, socket.socket)
            assert isinstance(ours, stack.socket)
        assert socket.getfqdn() == socket.gethostname() == "h1"
    assert socket.socket is kernel
