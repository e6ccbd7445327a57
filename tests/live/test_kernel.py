"""plywire against the Linux kernel over a TAP: both ways, each side closing, refusing, aborting."""

from __future__ import annotations

import hashlib
import http.client
import http.server
import socket
import struct
import subprocess
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from plywire.lab.control import LabClient
from plywire.lab.ping import run_ping
from plywire.lab.service import Service
from tests.live.conftest import KERNEL, PLYWIRE
from tests.live.judge import TAIL_PROBES, fields
from tests.live.peer import pattern

TEN_MB = 10_000_000
CONNECTIONS = 50


@pytest.fixture
def listener(setup):
    """A socket of plywire's that listens."""
    with setup.stack.create_server((PLYWIRE, 0)) as server:
        server.settimeout(20)
        yield server


def dial(setup, listener, name):
    """A connection from the kernel: (plywire's end); the kernel's end is `name` in the peer."""
    setup.peer.start("connect", name=name, host=PLYWIRE, port=listener.getsockname()[1])
    connection, _ = listener.accept()
    assert "local" in setup.peer.answer()
    connection.settimeout(20)
    return connection


def call(setup, name, port=0):
    """A connection to the kernel: (plywire's end); the kernel's end is `name` in the peer."""
    port = setup.peer("listen", name="listener", port=port)["port"]
    connection = setup.stack.create_connection((KERNEL, port), timeout=20)
    setup.peer("accept", name=name, listener="listener")
    setup.peer("close", name="listener")
    return connection


def test_the_kernel_pings_plywire(setup):
    result = setup.kernel("ping", "-c", "3", "-i", "0.2", "-W", "5", PLYWIRE)
    assert "3 received" in result.stdout


def test_the_kernel_pings_plywire_in_fragments(setup):
    result = setup.kernel("ping", "-c", "2", "-i", "0.2", "-s", "20000", "-W", "5", PLYWIRE)
    assert "2 received" in result.stdout


@pytest.mark.parametrize("size", [56, 20_000])
def test_plywire_pings_the_kernel(setup, size):
    lines = []
    with Service(setup.lab), LabClient(setup.lab.directory) as client:
        code = run_ping(client, "ply", KERNEL, lines.append, count=3, interval=0.0, size=size,
                        timeout=5.0)  # fmt: skip
    assert code == 0, lines
    assert any("3 packets transmitted, 3 received, 0% packet loss" in line for line in lines)


def test_kernel_curl_fetches_ten_megabytes_from_plywire(setup, listener):
    data = pattern(TEN_MB)

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *_):
            pass

    def serve():
        connection, address = listener.accept()
        with connection:
            Handler(connection, address, None)

    thread = threading.Thread(target=serve)
    thread.start()
    url = f"http://{PLYWIRE}:{listener.getsockname()[1]}/"
    curl = setup.popen("curl", "-s", "-S", "--max-time", "50", url, stdout=subprocess.PIPE)
    body, _ = curl.communicate(timeout=60)
    thread.join(20)
    assert curl.returncode == 0
    assert hashlib.sha256(body).hexdigest() == hashlib.sha256(data).hexdigest()


def test_plywire_fetches_ten_megabytes_from_a_kernel_server(setup, tmp_path):
    data = pattern(TEN_MB)
    (tmp_path / "file").write_bytes(data)
    server = setup.popen(
        "python3", "-um", "http.server", "8080", "--bind", KERNEL, "--directory", str(tmp_path),
        stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
    )  # fmt: skip
    try:
        assert "Serving HTTP" in server.stdout.readline()
        client = http.client.HTTPConnection(KERNEL, 8080, timeout=50)
        client.sock = setup.stack.create_connection((KERNEL, 8080), timeout=50)
        client.request("GET", "/file")
        body = client.getresponse().read()
        client.close()
    finally:
        server.kill()
        server.communicate()
    assert hashlib.sha256(body).hexdigest() == hashlib.sha256(data).hexdigest()


def test_the_kernel_is_refused_where_nobody_listens(setup):
    assert setup.peer("connect", name="x", host=PLYWIRE, port=81) == {"error": "ECONNREFUSED"}


def test_plywire_is_refused_where_nobody_listens(setup):
    with pytest.raises(ConnectionRefusedError):
        setup.stack.create_connection((KERNEL, 81), timeout=20)


@pytest.mark.parametrize("opener", ["kernel", "plywire"])
@pytest.mark.parametrize("first", ["kernel", "plywire"])
def test_an_orderly_close(setup, listener, capture, opener, first):
    ours = dial(setup, listener, "k") if opener == "kernel" else call(setup, "k")
    kernel_port = ours.getpeername()[1]
    with ours:
        ours.sendall(b"hello")
        assert setup.peer("recv", name="k", size=5) == {"text": "hello"}
        if first == "kernel":
            setup.peer("close", name="k")
            assert ours.recv(1) == b""
        else:
            ours.shutdown(1)
            assert setup.peer("recv", name="k", size=1) == {"text": ""}
            setup.peer("close", name="k")
            assert ours.recv(1) == b""
        port = ours.getsockname()[1]
    wait_for_socket(setup, kernel_port, lambda seen: not seen or "TIME-WAIT" in seen)
    capture_path = capture.finish()
    assert fields(capture_path, f"tcp.port == {port} && tcp.flags.reset == 1", "frame.number") == []
    assert (
        len(fields(capture_path, f"tcp.port == {port} && tcp.flags.fin == 1", "tcp.srcport")) == 2
    )


def test_the_kernel_aborts(setup, listener):
    with dial(setup, listener, "k") as ours:
        setup.peer("abort", name="k")
        with pytest.raises(ConnectionResetError):
            ours.recv(1)


def test_plywire_aborts(setup, listener):
    ours = dial(setup, listener, "k")
    ours.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    ours.close()
    assert setup.peer("recv", name="k", size=1) == {"error": "ECONNRESET"}


def test_half_close_the_kernel_goes_on_receiving(setup, listener):
    with dial(setup, listener, "k") as ours:
        setup.peer("shutdown", name="k")
        assert ours.recv(1) == b""
        setup.peer.start("recv_all", name="k")
        data = pattern(1_000_000)
        ours.sendall(data)
        ours.shutdown(1)
        answer = setup.peer.answer()
        assert answer == {"sha256": hashlib.sha256(data).hexdigest(), "size": len(data)}
        setup.peer("close", name="k")


def test_a_slow_reader_closes_the_window_and_nothing_is_lost(setup, listener, capture):
    size = 8_000_000
    with dial(setup, listener, "k") as ours:
        setup.peer.start("send_pattern", name="k", size=size)
        received = hashlib.sha256()
        total = 0
        wait_for_socket(setup, ours.getpeername()[1], lambda seen: "timer:(persist" in seen)
        while total < size:
            data = ours.recv(1 << 20)
            assert data
            received.update(data)
            total += len(data)
        assert setup.peer.answer() == {"sha256": received.hexdigest()}
        setup.peer("close", name="k")
    zero = fields(capture.finish(), f"ip.src == {PLYWIRE} && tcp.window_size == 0", "frame.number")
    assert zero


def wait_for_socket(setup, port, condition):
    """Until `condition` holds for what ss says of the kernel's socket on `port`."""
    end = time.monotonic() + 20
    while not condition(seen := setup.kernel("ss", "-tanoH", f"sport = :{port}").stdout):
        assert time.monotonic() < end, seen


@pytest.mark.parametrize("opener", ["kernel", "plywire"])
def test_fifty_connections_at_once(setup, listener, capture, opener):
    capture.also_expected = TAIL_PROBES
    data = pattern(50_000)
    digest = hashlib.sha256(data).hexdigest()
    names = [f"c{index}" for index in range(CONNECTIONS)]
    if opener == "kernel":
        ours = [dial(setup, listener, name) for name in names]
    else:
        port = setup.peer("listen", name="listener", port=0)["port"]
        with ThreadPoolExecutor(CONNECTIONS) as pool:
            ours = list(
                pool.map(lambda _: setup.stack.create_connection((KERNEL, port), timeout=20), names)
            )
        for name in names:
            assert "peer" in setup.peer("accept", name=name, listener="listener")
        setup.peer("close", name="listener")
    with ThreadPoolExecutor(CONNECTIONS) as pool:
        sent = [pool.submit(send_and_end, connection, data) for connection in ours]
        for name in names:
            assert setup.peer("recv_all", name=name) == {"sha256": digest, "size": len(data)}
            setup.peer("close", name=name)
        for future in sent:
            future.result(20)
    for connection in ours:
        assert connection.recv(1) == b""
        connection.close()


def send_and_end(connection, data):
    connection.sendall(data)
    connection.shutdown(1)


def test_plywire_s_options_are_what_the_kernel_reads(setup, listener, capture):
    with call(setup, "k") as ours:
        port = ours.getsockname()[1]
        setup.peer("close", name="k")
        assert ours.recv(1) == b""
    path = capture.finish()
    (syn,) = fields(
        path, f"tcp.srcport == {port} && tcp.flags.syn == 1", "tcp.options.mss_val",
        "tcp.options.wscale.shift", "ip.flags.df", "ip.ttl", "tcp.window_size_value",
    )  # fmt: skip
    assert syn[0] == "1460"
    assert syn[2:4] in (["1", "64"], ["True", "64"])
    assert int(syn[4]) <= 65_535
