"""What select, poll and epoll say of a socket's descriptor."""

import errno
import select
import selectors
import socket
import struct
import threading

import pytest
from worlds import eventually

SHORT = 0.02


def readable(sock, timeout=30.0):
    return bool(select.select([sock], [], [], timeout)[0])


def writable(sock, timeout=30.0):
    return bool(select.select([], [sock], [], timeout)[1])


def fill(sock):
    """Send without blocking until nothing more is taken; returns the number of bytes."""
    sock.setblocking(False)
    sent = 0
    while True:
        try:
            sent += sock.send(bytes(1 << 18))
        except BlockingIOError:
            # The kernel moves what it has taken on to the peer's buffer, and then has room again.
            if not select.select([], [sock], [], 0.2)[1]:
                return sent


def test_descriptor_stays_the_same(world):
    client, _ = world.pair()
    assert client.fileno() == client.fileno() >= 0


def test_connection_is_writable_and_not_readable(world):
    for sock in world.pair():
        assert writable(sock)
        assert not readable(sock, SHORT)


def test_data_makes_readable_until_it_is_read(world):
    client, served = world.pair()
    assert not readable(served, 0)
    client.sendall(b"ab")
    assert readable(served)
    assert readable(served)  # level-triggered
    assert served.recv(1) == b"a"
    assert readable(served)
    assert served.recv(1) == b"b"
    assert not readable(served, SHORT)
    client.sendall(b"c")
    assert readable(served)


def test_peek_leaves_readable(world):
    client, served = world.pair()
    client.sendall(b"ab")
    assert readable(served)
    assert served.recv(2, socket.MSG_PEEK) == b"ab"
    assert readable(served)


def test_descriptor_taken_after_the_data_came(world):
    client, served = world.pair()
    client.sendall(b"ab")
    assert served.recv(1) == b"a"
    assert readable(served, 0)


def test_end_of_stream_is_readable_for_ever(world):
    client, served = world.pair()
    assert not readable(served, 0)
    client.close()
    for _ in range(3):
        assert readable(served)
        assert served.recv(1) == b""


def test_reset_is_readable_and_writable(world):
    client, served = world.pair()
    assert not readable(served, 0)
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    client.close()
    assert readable(served)
    assert writable(served)
    with pytest.raises(ConnectionResetError):
        served.recv(1)
    assert readable(served)


def test_listener_is_readable_while_connections_wait(world):
    listener = world.listener()
    assert not readable(listener, SHORT)
    clients = [world.client_socket() for _ in range(3)]
    for client in clients:
        client.connect(listener.getsockname())
    for _ in clients:
        assert readable(listener)
        world.accept(listener)
    assert not readable(listener, SHORT)


def test_full_buffer_is_not_writable_until_the_peer_reads(world):
    client, served = world.pair()
    sent = fill(client)
    assert sent > 0
    assert not writable(client, SHORT)
    received = 0
    while received < sent:
        received += len(served.recv(1 << 20))
    assert writable(client)
    client.sendall(b"more")
    assert served.recv(10) == b"more"


def test_full_buffer_is_writable_when_the_peer_is_gone(world):
    client, served = world.pair()
    fill(client)
    assert not writable(client, SHORT)
    served.close()  # with unread data: RST
    assert writable(client)
    with pytest.raises((ConnectionResetError, BrokenPipeError)):
        client.send(b"x")


def test_own_shutdown_is_readable(world):
    client, _ = world.pair()
    assert not readable(client, 0)
    client.shutdown(socket.SHUT_RD)
    assert readable(client)


def test_connecting_socket_is_not_ready_before_the_answer(world):
    address = world.listener(backlog=0).getsockname()
    sockets = []

    def stuck():
        sock = world.client_socket(timeout=0)
        sockets.append(sock)
        assert sock.connect_ex(address) == errno.EINPROGRESS
        return not writable(sock, 0.2)

    eventually(stuck, 10)
    assert not readable(sockets[-1], 0)


def test_refused_connect_is_ready(world):
    closed_port = world.server_socket().getsockname()
    client = world.client_socket(timeout=0)
    client.connect_ex(closed_port)
    assert writable(client)
    assert readable(client)


def test_poll_and_epoll(world):
    client, served = world.pair()
    poller = select.poll()
    poller.register(served, select.POLLIN | select.POLLOUT)
    with select.epoll() as epoll:
        epoll.register(served, select.EPOLLIN)
        assert poller.poll(30_000) == [(served.fileno(), select.POLLOUT)]
        assert epoll.poll(SHORT) == []
        client.sendall(b"x")
        assert epoll.poll(30) == [(served.fileno(), select.EPOLLIN)]
        eventually(
            lambda: poller.poll(30_000) == [(served.fileno(), select.POLLIN | select.POLLOUT)]
        )


def test_another_thread_waits_while_this_one_reads(world):
    client, served = world.pair()
    ready = world.run(readable, served)
    received = world.run(served.recv, 10)
    client.sendall(b"x")
    assert received() == b"x"
    client.sendall(b"y")  # whether or not the other thread saw the first byte
    assert ready()
    assert served.recv(1) == b"y"
    assert not readable(served, SHORT)


def test_selectors_server_with_twenty_clients(world):
    listener = world.listener(backlog=32, timeout=0)
    stop = threading.Event()
    waker, wake = socket.socketpair()

    def serve():
        with selectors.DefaultSelector() as selector:
            selector.register(waker, selectors.EVENT_READ)
            selector.register(listener, selectors.EVENT_READ)
            pending = {}
            while not stop.is_set():
                for key, events in selector.select(30):
                    sock = key.fileobj
                    if sock is listener:
                        served, _ = listener.accept()
                        served.setblocking(False)
                        pending[served] = b""
                        selector.register(served, selectors.EVENT_READ)
                    elif sock is not waker:
                        _echo_ready(selector, pending, sock, events)
            assert not pending

    server = world.run(serve)

    def talk(number):
        sock = world.client_socket()
        sock.connect(listener.getsockname())
        text = b"%03d" % number * 20_000
        answer = world.run(_read_all, sock)
        sock.sendall(text)
        sock.shutdown(socket.SHUT_WR)
        assert answer() == text

    talks = [world.run(talk, number) for number in range(20)]
    for talk_ended in talks:
        talk_ended()
    stop.set()
    wake.send(b"x")
    server()
    waker.close()
    wake.close()


def _echo_ready(selector, pending, sock, events):
    """One turn of a non-blocking echo server for one connection."""
    if events & selectors.EVENT_READ:
        data = sock.recv(8192)
        if not data:
            selector.unregister(sock)
            sock.setblocking(True)
            sock.sendall(pending.pop(sock))
            sock.close()
            return
        pending[sock] += data
    if events & selectors.EVENT_WRITE:
        pending[sock] = pending[sock][sock.send(pending[sock]) :]
    more = selectors.EVENT_WRITE if pending[sock] else 0
    selector.modify(sock, selectors.EVENT_READ | more)


def _read_all(sock):
    with sock.makefile("rb") as file:
        return file.read()
