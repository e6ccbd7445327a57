"""From a new socket to a connection, and every way in which that fails."""

import errno
import select
import socket

import pytest


def test_connection_knows_both_addresses(world):
    with world.listener() as listener:
        client = world.client_socket()
        client.connect(listener.getsockname())
        served, peer = listener.accept()
        with served:
            assert client.getpeername() == served.getsockname() == listener.getsockname()
            assert client.getsockname() == served.getpeername() == peer


def test_new_socket_has_no_addresses(world):
    sock = world.client_socket()
    assert sock.getsockname() == ("0.0.0.0", 0)
    with pytest.raises(OSError) as caught:
        sock.getpeername()
    assert caught.value.errno == errno.ENOTCONN


def test_new_socket_attributes(world):
    sock = world.client.socket()
    with sock:
        assert (sock.family, sock.type, sock.proto) == (socket.AF_INET, socket.SOCK_STREAM, 0)
        assert sock.gettimeout() is None
        assert sock.getblocking()


def test_listener_has_no_peer(world):
    with pytest.raises(OSError) as caught:
        world.listener().getpeername()
    assert caught.value.errno == errno.ENOTCONN


def test_nobody_listens(world):
    closed_port = world.server_socket().getsockname()
    with pytest.raises(ConnectionRefusedError) as caught:
        world.client_socket().connect(closed_port)
    assert caught.value.errno == errno.ECONNREFUSED
    assert caught.value.strerror == "Connection refused"


def test_nobody_listens_connect_ex(world):
    closed_port = world.server_socket().getsockname()
    assert world.client_socket().connect_ex(closed_port) == errno.ECONNREFUSED


def test_refused_socket_connects_later(world):
    server = world.server_socket()
    client = world.client_socket(timeout=None)
    assert client.connect_ex(server.getsockname()) == errno.ECONNREFUSED
    server.listen()
    client.connect(server.getsockname())
    assert client.getpeername() == server.getsockname()


def test_connect_twice(world):
    peer = world.listener().getsockname()
    client = world.client_socket(timeout=None)
    client.connect(peer)
    with pytest.raises(OSError) as caught:
        client.connect(peer)
    assert caught.value.errno == errno.EISCONN
    assert client.connect_ex(peer) == errno.EISCONN


def test_connect_again_after_a_non_blocking_connect(world):
    address = world.listener().getsockname()
    client = world.client_socket(timeout=0)
    assert client.connect_ex(address) == errno.EINPROGRESS
    assert select.select([], [client], [], 30)[1] == [client]
    assert client.connect_ex(address) == 0  # the result of the first
    assert client.connect_ex(address) == errno.EISCONN


def test_connect_on_a_listener(world):
    listener = world.listener()
    assert listener.connect_ex(world.listener().getsockname()) == errno.EISCONN


def test_listen_on_a_connection(world):
    client, _ = world.pair()
    with pytest.raises(OSError) as caught:
        client.listen()
    assert caught.value.errno == errno.EINVAL


def test_listen_twice(world):
    listener = world.listener()
    listener.listen(5)
    client = world.client_socket()
    client.connect(listener.getsockname())
    world.accept(listener)


def test_listen_without_bind_takes_a_port(world):
    with world.server.socket() as sock:
        sock.listen()
        host, port = sock.getsockname()
        assert host == "0.0.0.0"
        assert port > 0
        client = world.client_socket()
        client.connect((world.address, port))
        world.accept(sock)


def test_accept_without_listen(world):
    with pytest.raises(OSError) as caught:
        world.server_socket().accept()
    assert caught.value.errno == errno.EINVAL


def test_accept_without_a_connection_times_out(world):
    with pytest.raises(TimeoutError, match="timed out"):
        world.listener(timeout=0.05).accept()


def test_accept_non_blocking_without_a_connection(world):
    with pytest.raises(BlockingIOError) as caught:
        world.listener(timeout=0).accept()
    assert caught.value.errno == errno.EAGAIN


def test_accepted_socket_blocks_though_its_listener_does_not(world):
    listener = world.listener()
    client = world.client_socket()
    client.connect(listener.getsockname())
    listener.settimeout(5)
    served, _ = listener.accept()
    with served:
        assert served.gettimeout() is None


def test_accept_waits_for_a_connection(world):
    listener = world.listener()
    accepted = world.run(world.accept, listener)
    client = world.client_socket()
    client.connect(listener.getsockname())
    assert accepted().getpeername() == client.getsockname()


def test_connections_are_accepted_in_order(world):
    listener = world.listener(backlog=8)
    clients = [world.client_socket() for _ in range(5)]
    for client in clients:
        client.connect(listener.getsockname())
    names = [world.accept(listener).getpeername() for _ in clients]
    assert names == [client.getsockname() for client in clients]


def test_connect_non_blocking(world):
    listener = world.listener()
    client = world.client_socket(timeout=0)
    assert client.connect_ex(listener.getsockname()) == errno.EINPROGRESS
    assert select.select([], [client], [], 30)[1] == [client]
    assert client.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == 0
    assert client.getpeername() == listener.getsockname()
    world.accept(listener)


def test_connect_non_blocking_raises(world):
    listener = world.listener()
    with pytest.raises(BlockingIOError) as caught:
        world.client_socket(timeout=0).connect(listener.getsockname())
    assert caught.value.errno == errno.EINPROGRESS


def test_connect_non_blocking_is_refused(world):
    closed_port = world.server_socket().getsockname()
    client = world.client_socket(timeout=0)
    number = client.connect_ex(closed_port)
    # A refusal over loopback can be there before connect returns.
    if number == errno.EINPROGRESS:
        assert select.select([], [client], [], 30)[1] == [client]
        number = client.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
    assert number == errno.ECONNREFUSED
    assert client.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == 0


def test_connect_times_out_when_the_backlog_is_full(world):
    address = world.listener(backlog=0).getsockname()

    def fill():
        for _ in range(8):
            world.client_socket(timeout=0.3).connect(address)

    with pytest.raises(TimeoutError, match="timed out"):
        fill()


def test_connect_ex_times_out_when_the_backlog_is_full(world):
    address = world.listener(backlog=0).getsockname()
    numbers = [world.client_socket(timeout=0.3).connect_ex(address) for _ in range(8)]
    assert set(numbers) == {0, errno.EAGAIN}


def test_connect_from_a_bound_port(world):
    with world.client.socket() as sock:
        sock.bind(("", 0))
        host, port = sock.getsockname()
        assert host == "0.0.0.0"
        listener = world.listener()
        sock.connect(listener.getsockname())
        assert sock.getsockname()[1] == port
        assert sock.getsockname()[0] != "0.0.0.0"
        world.accept(listener)


def test_create_connection_and_create_server(world):
    with world.server.create_server((world.address, 0), backlog=4) as listener:
        address = listener.getsockname()
        with world.client.create_connection(address, timeout=30) as client:
            assert client.gettimeout() == 30
            world.accept(listener)


def test_create_connection_with_a_source_address(world):
    listener = world.listener()
    address = listener.getsockname()
    with world.client.create_connection(address, 30, ("", 0)) as client:
        assert world.accept(listener).getpeername() == client.getsockname()


def test_create_connection_refused(world):
    address = world.server_socket().getsockname()
    with pytest.raises(ConnectionRefusedError):
        world.client.create_connection(address, timeout=30)


def test_create_connection_refused_all_errors(world):
    address = world.server_socket().getsockname()
    with pytest.raises(ExceptionGroup) as caught:
        world.client.create_connection(address, timeout=30, all_errors=True)
    assert [type(error) for error in caught.value.exceptions] == [ConnectionRefusedError]


def test_bind_in_use(world):
    listener = world.listener()
    with world.server.socket() as other:
        with pytest.raises(OSError) as caught:
            other.bind(listener.getsockname())
        assert caught.value.errno == errno.EADDRINUSE


def test_bind_any_in_use(world):
    listener = world.listener()
    with world.server.socket() as other:
        with pytest.raises(OSError) as caught:
            other.bind(("", listener.getsockname()[1]))
        assert caught.value.errno == errno.EADDRINUSE


def test_create_server_in_use_says_where(world):
    address = world.listener().getsockname()
    with pytest.raises(OSError, match="while attempting to bind on address") as caught:
        world.server.create_server(address)
    assert caught.value.errno == errno.EADDRINUSE


def test_bind_twice(world):
    sock = world.server_socket()
    with pytest.raises(OSError) as caught:
        sock.bind((world.address, 0))
    assert caught.value.errno == errno.EINVAL


def test_bind_to_an_address_of_somebody_else(world):
    with world.server.socket() as sock:
        with pytest.raises(OSError) as caught:
            sock.bind(("192.0.2.1", 0))
        assert caught.value.errno == errno.EADDRNOTAVAIL


def test_bind_again_after_close(world):
    sock = world.server_socket()
    address = sock.getsockname()
    sock.close()
    with world.server.socket() as other:
        other.bind(address)
        assert other.getsockname() == address


def test_listen_again_at_once_with_reuseaddr(world):
    with world.server.create_server((world.address, 0)) as listener:
        address = listener.getsockname()
        client = world.client_socket()
        client.connect(address)
        served = world.accept(listener)
        served.close()  # this side closes first, so TIME-WAIT is at the server's port
        assert client.recv(1) == b""
        client.close()
    world.server.create_server(address).close()


def test_closed_listener_resets_what_was_not_accepted(world):
    listener = world.listener()
    client = world.client_socket()
    client.connect(listener.getsockname())
    listener.close()
    with pytest.raises(ConnectionResetError):
        client.recv(1)


def test_closed_listener_refuses(world):
    listener = world.listener()
    address = listener.getsockname()
    listener.close()
    assert world.client_socket().connect_ex(address) == errno.ECONNREFUSED


def test_wrong_addresses(world):
    sock = world.client_socket()
    with pytest.raises(OverflowError):
        sock.connect((world.address, 65536))
    with pytest.raises(TypeError):
        sock.connect("10.0.0.2")
    with pytest.raises(TypeError):
        sock.connect((world.address, 80, 0, 0))
    with pytest.raises(TypeError):
        sock.connect((world.address, "80"))


def test_name_that_does_not_exist(world):
    with pytest.raises(socket.gaierror):
        world.client_socket().connect(("no-such-host.invalid", 80))
    with pytest.raises(socket.gaierror):
        world.client.getaddrinfo("no-such-host.invalid", 80)


def test_getaddrinfo_of_an_address(world):
    rows = world.client.getaddrinfo(world.address, "http", type=socket.SOCK_STREAM)
    kind = (socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    assert rows == [(*kind, "", (world.address, 80))]


def test_getaddrinfo_numeric(world):
    flags = socket.AI_NUMERICHOST
    assert world.client.getaddrinfo(world.address, 1, 0, socket.SOCK_STREAM, 0, flags)
    with pytest.raises(socket.gaierror) as caught:
        world.client.getaddrinfo("localhost", 1, 0, socket.SOCK_STREAM, 0, flags)
    assert caught.value.errno == socket.EAI_NONAME


def test_many_connections_at_once(world):
    listener = world.listener(backlog=64)
    clients = [world.client_socket(timeout=0) for _ in range(40)]
    for client in clients:
        assert client.connect_ex(listener.getsockname()) in (0, errno.EINPROGRESS)
    served = {}
    for _ in clients:
        sock = world.accept(listener)
        served[sock.getpeername()] = sock
    for number, client in enumerate(clients):
        client.settimeout(30)
        client.sendall(b"%d" % number)
    for number, client in enumerate(clients):
        assert served[client.getsockname()].recv(16) == b"%d" % number
