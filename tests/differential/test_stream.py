"""The pipe between two sockets: bytes, the end of the stream, resets and closing."""

import errno
import hashlib
import io
import random
import select
import socket
import struct

import pytest
from worlds import eventually

ABORT = struct.pack("ii", 1, 0)


def data_of(size, seed=1):
    return random.Random(seed).randbytes(size)


def read_all(sock):
    digest, size = hashlib.sha256(), 0
    while data := sock.recv(1 << 18):
        digest.update(data)
        size += len(data)
    return size, digest.hexdigest()


def abort(sock):
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, ABORT)
    sock.close()


def wait_readable(sock):
    assert select.select([sock], [], [], 30)[0] == [sock]


def test_bytes_both_ways(world):
    client, served = world.pair()
    assert client.send(b"question") == 8
    assert served.recv(100) == b"question"
    served.sendall(b"answer")
    assert client.recv(100) == b"answer"


def test_recv_returns_what_is_there(world):
    client, served = world.pair()
    client.sendall(b"abc")
    assert served.recv(2) == b"ab"
    assert served.recv(100) == b"c"


def test_recv_of_nothing(world):
    client, _ = world.pair()
    assert client.recv(0) == b""


def test_recv_negative(world):
    client, _ = world.pair()
    with pytest.raises(ValueError, match="negative buffersize in recv"):
        client.recv(-1)


def test_send_of_nothing(world):
    client, _ = world.pair()
    assert client.send(b"") == 0
    client.sendall(b"")


def test_send_takes_any_buffer(world):
    client, served = world.pair()
    client.sendall(bytearray(b"ab"))
    client.sendall(memoryview(b"-cd-")[1:3])
    client.shutdown(socket.SHUT_WR)
    assert served.makefile("rb").read() == b"abcd"
    with pytest.raises(TypeError):
        client.send("text")


def test_end_of_stream(world):
    client, served = world.pair()
    client.sendall(b"last")
    client.close()
    assert served.recv(100) == b"last"
    assert served.recv(100) == b""
    assert served.recv(100) == b""


def test_half_close(world):
    client, served = world.pair()
    client.sendall(b"question")
    client.shutdown(socket.SHUT_WR)
    assert served.recv(100) == b"question"
    assert served.recv(100) == b""
    served.sendall(b"answer")
    served.close()
    assert client.recv(100) == b"answer"
    assert client.recv(100) == b""


def test_send_after_shutdown(world):
    client, _ = world.pair()
    client.shutdown(socket.SHUT_WR)
    with pytest.raises(BrokenPipeError) as caught:
        client.send(b"x")
    assert caught.value.errno == errno.EPIPE


def test_shutdown_read_ends_the_stream(world):
    client, _ = world.pair()
    client.shutdown(socket.SHUT_RD)
    assert client.recv(100) == b""


def test_shutdown_wakes_a_blocked_recv(world):
    client, _ = world.pair()
    received = world.run(client.recv, 100)
    client.shutdown(socket.SHUT_RDWR)
    assert received() == b""


def test_shutdown_not_connected(world):
    with pytest.raises(OSError) as caught:
        world.client_socket().shutdown(socket.SHUT_RDWR)
    assert caught.value.errno == errno.ENOTCONN


def test_shutdown_wrong_direction(world):
    client, _ = world.pair()
    with pytest.raises(OSError) as caught:
        client.shutdown(17)
    assert caught.value.errno == errno.EINVAL


def test_shutdown_twice(world):
    client, served = world.pair()
    client.shutdown(socket.SHUT_WR)
    client.shutdown(socket.SHUT_WR)
    assert served.recv(1) == b""


def test_send_before_connect(world):
    # The one known difference: Linux says EPIPE, plywire what POSIX says (DESIGN 1, step 2).
    expected = errno.EPIPE if world.name == "kernel" else errno.ENOTCONN
    with pytest.raises(OSError) as caught:
        world.client_socket().send(b"x")
    assert caught.value.errno == expected


def test_recv_before_connect(world):
    with pytest.raises(OSError) as caught:
        world.client_socket().recv(1)
    assert caught.value.errno == errno.ENOTCONN


def test_send_on_a_listener(world):
    with pytest.raises(BrokenPipeError):
        world.listener(timeout=None).send(b"x")


def test_recv_on_a_listener(world):
    with pytest.raises(OSError) as caught:
        world.listener(timeout=None).recv(1)
    assert caught.value.errno == errno.ENOTCONN


def test_recv_times_out(world):
    client, _ = world.pair()
    client.settimeout(0.05)
    with pytest.raises(TimeoutError, match="timed out"):
        client.recv(1)


def test_recv_non_blocking(world):
    client, served = world.pair()
    client.setblocking(False)
    with pytest.raises(BlockingIOError) as caught:
        client.recv(1)
    assert caught.value.errno == errno.EAGAIN
    served.sendall(b"x")
    wait_readable(client)
    assert client.recv(10) == b"x"


def test_recv_dontwait(world):
    client, _ = world.pair()
    client.settimeout(None)
    with pytest.raises(BlockingIOError):
        client.recv(1, socket.MSG_DONTWAIT)


def test_peek_leaves_the_bytes(world):
    client, served = world.pair()
    client.sendall(b"abc")
    assert served.recv(2, socket.MSG_PEEK) == b"ab"
    assert served.recv(100, socket.MSG_PEEK) == b"abc"
    assert served.recv(100) == b"abc"


def test_waitall_waits_for_all(world):
    client, served = world.pair()
    served.settimeout(None)
    received = world.run(served.recv, 6, socket.MSG_WAITALL)
    client.sendall(b"abc")
    client.sendall(b"def")
    assert received() == b"abcdef"


def test_waitall_ends_with_the_stream(world):
    client, served = world.pair()
    served.settimeout(None)
    client.sendall(b"abc")
    client.close()
    assert served.recv(100, socket.MSG_WAITALL) == b"abc"


def test_recv_into(world):
    client, served = world.pair()
    client.sendall(b"abcdef")
    buffer = bytearray(b"--------")
    assert served.recv_into(buffer, 2) == 2
    assert served.recv_into(memoryview(buffer)[4:]) == 4
    assert buffer == b"ab--cdef"


def test_recv_into_wrong_sizes(world):
    client, _ = world.pair()
    with pytest.raises(ValueError, match="buffer too small"):
        client.recv_into(bytearray(2), 3)
    with pytest.raises(ValueError, match="negative buffersize"):
        client.recv_into(bytearray(2), -1)


def test_recvfrom_names_nobody(world):
    client, served = world.pair()
    client.sendall(b"abcd")
    assert served.recvfrom(2) == (b"ab", None)
    assert served.recvfrom_into(bytearray(2)) == (2, None)


def test_sendmsg(world):
    client, served = world.pair()
    assert client.sendmsg([b"ab", b"", bytearray(b"cd")]) == 4
    assert served.recv(10) == b"abcd"


def test_sendfile(world, tmp_path):
    path = tmp_path / "file"
    path.write_bytes(data_of(400_000))
    client, served = world.pair()
    received = world.run(read_all, served)
    with path.open("rb") as file:
        assert client.sendfile(file, offset=1000) == 399_000
    client.close()
    assert received() == (399_000, hashlib.sha256(data_of(400_000)[1000:]).hexdigest())


def test_large_transfer_both_ways_at_once(world):
    client, served = world.pair()
    there, back = data_of(1_500_000, 2), data_of(1_500_000, 3)

    def send(sock, data):
        sock.sendall(data)
        sock.shutdown(socket.SHUT_WR)

    results = [
        (world.run(read_all, served), there),
        (world.run(read_all, client), back),
    ]
    senders = [world.run(send, client, there), world.run(send, served, back)]
    for sender in senders:
        sender()
    for received, data in results:
        assert received() == (len(data), hashlib.sha256(data).hexdigest())


def test_blocking_send_takes_all(world):
    client, served = world.pair()
    client.settimeout(None)
    data = data_of(1_200_000)
    received = world.run(read_all, served)
    assert client.send(data) == len(data)
    client.close()
    assert received() == (len(data), hashlib.sha256(data).hexdigest())


def test_send_with_a_timeout_takes_what_fits(world):
    client, served = world.pair()
    client.settimeout(0.2)
    sent = []

    def fill():
        while len(sent) < 10_000:
            sent.append(client.send(bytes(1 << 20)))

    with pytest.raises(TimeoutError, match="timed out"):
        fill()
    client.close()
    assert read_all(served)[0] == sum(sent) > 0


def test_sendall_times_out_when_nobody_reads(world):
    client, _ = world.pair()
    client.settimeout(0.2)
    with pytest.raises(TimeoutError, match="timed out"):
        client.sendall(bytes(64 << 20))


def test_non_blocking_sends_until_full_lose_nothing(world):
    client, served = world.pair()
    client.setblocking(False)
    rng = random.Random(7)
    digest, sent = hashlib.sha256(), []

    def fill():
        while len(sent) < 10_000:
            piece = rng.randbytes(300_000)
            sent.append(client.send(piece))
            digest.update(piece[: sent[-1]])

    with pytest.raises(BlockingIOError):
        fill()
    client.close()
    assert read_all(served) == (sum(sent), digest.hexdigest())


def test_two_threads_send_and_receive_on_one_socket(world):
    client, served = world.pair()
    echoed = world.run(_echo, served)
    received = world.run(read_all, client)
    for number in range(200):
        client.sendall(b"%04d" % number)
    client.shutdown(socket.SHUT_WR)
    echoed()
    text = b"".join(b"%04d" % number for number in range(200))
    assert received() == (800, hashlib.sha256(text).hexdigest())


def _echo(sock):
    while data := sock.recv(65536):
        sock.sendall(data)
    sock.shutdown(socket.SHUT_WR)


def test_abort_resets_the_peer(world):
    client, served = world.pair()
    abort(client)
    with pytest.raises(ConnectionResetError) as caught:
        served.recv(1)
    assert caught.value.errno == errno.ECONNRESET


def test_reset_is_told_once(world):
    client, served = world.pair()
    abort(client)
    with pytest.raises(ConnectionResetError):
        served.recv(1)
    assert served.recv(1) == b""
    with pytest.raises(BrokenPipeError):
        served.send(b"x")


def test_reset_is_in_so_error(world):
    client, served = world.pair()
    abort(client)
    wait_readable(served)
    error = served.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
    assert error == errno.ECONNRESET
    assert served.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == 0
    assert served.recv(1) == b""


def test_reset_takes_the_peer_away(world):
    client, served = world.pair()
    abort(client)
    with pytest.raises(ConnectionResetError):
        served.recv(1)
    with pytest.raises(OSError) as caught:
        served.getpeername()
    assert caught.value.errno == errno.ENOTCONN


def test_reset_wakes_a_blocked_recv(world):
    client, served = world.pair()
    received = world.run(served.recv, 1)
    abort(client)
    with pytest.raises(ConnectionResetError):
        received()


@pytest.mark.parametrize("timeout", [None, 30.0])
def test_reset_wakes_a_blocked_sendall(world, timeout):
    client, served = world.pair()
    served.settimeout(timeout)
    sent = world.run(served.sendall, bytes(32 << 20))
    assert client.recv(1)
    abort(client)
    with pytest.raises(ConnectionResetError):
        sent()


def test_close_with_unread_data_resets(world):
    client, served = world.pair()
    client.sendall(b"unread")
    wait_readable(served)
    served.close()
    with pytest.raises(ConnectionResetError):
        client.recv(1)


def test_write_to_a_closed_peer(world):
    client, served = world.pair()
    served.close()
    assert client.recv(1) == b""
    client.sendall(b"x")  # taken: the peer may have closed one direction only; it answers RST

    def fails():
        try:
            return client.send(b"y") == 0
        except (BrokenPipeError, ConnectionResetError):
            return True

    eventually(fails)


def test_use_after_close(world):
    client, _ = world.pair()
    client.close()
    assert client.fileno() == -1
    for call in (
        lambda: client.recv(1),
        lambda: client.send(b"x"),
        client.getsockname,
        client.listen,
        lambda: client.shutdown(socket.SHUT_RDWR),
        lambda: client.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
    ):
        with pytest.raises(OSError) as caught:
            call()
        assert caught.value.errno == errno.EBADF
    client.close()


def test_context_manager_closes(world):
    client, served = world.pair()
    with client as same:
        assert same is client
    assert served.recv(1) == b""
    assert client.fileno() == -1


@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_lost_socket_is_closed(world):
    listener = world.listener()
    client = world.client.create_connection(listener.getsockname(), 30)
    served = world.accept(listener)
    del client
    assert served.recv(1) == b""


def test_cannot_be_pickled(world):
    with pytest.raises(TypeError, match="cannot pickle"):
        world.client_socket().__getstate__()


def test_makefile_reads_lines(world):
    client, served = world.pair()
    client.sendall("first\nzw\u00f6lf\nrest".encode())
    client.close()
    with served.makefile("r", encoding="utf-8", newline="\n") as file:
        assert list(file) == ["first\n", "zw\u00f6lf\n", "rest"]


def test_makefile_writes(world):
    client, served = world.pair()
    with client.makefile("wb") as file:
        file.write(b"one ")
        file.write(b"two")
    client.close()
    with served.makefile("rb") as file:
        assert file.read() == b"one two"


def test_makefile_both_ways(world):
    client, served = world.pair()
    with client.makefile("rwb") as mine, served.makefile("rwb") as theirs:
        mine.write(b"ping\n")
        mine.flush()
        assert theirs.readline() == b"ping\n"
        theirs.write(b"pong\n")
        theirs.flush()
        assert mine.readline() == b"pong\n"


def test_makefile_unbuffered(world):
    client, served = world.pair()
    with client.makefile("wb", buffering=0) as mine, served.makefile("rb", buffering=0) as theirs:
        assert isinstance(mine, io.RawIOBase)
        assert mine.write(b"abc") == 3
        assert theirs.read(10) == b"abc"


def test_makefile_wrong_modes(world):
    client, _ = world.pair()
    with pytest.raises(ValueError, match="invalid mode"):
        client.makefile("a")
    with pytest.raises(ValueError, match="unbuffered streams must be binary"):
        client.makefile("r", buffering=0)


def test_makefile_keeps_the_socket_open(world):
    client, served = world.pair()
    file = client.makefile("rb")
    client.close()
    served.sendall(b"still here")
    assert file.read(10) == b"still here"
    file.close()
    assert served.recv(1) == b""


def test_makefile_after_a_timeout(world):
    client, _ = world.pair()
    client.settimeout(0.05)
    with client.makefile("rb") as file:
        with pytest.raises(TimeoutError):
            file.readline()
        with pytest.raises(OSError, match="cannot read from timed out object"):
            file.readline()
