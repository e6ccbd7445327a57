"""The lite TCP against the Linux kernel over a TAP of its own: curl both ways, and both closes."""

from __future__ import annotations

import http.server
import subprocess
import threading

import pytest

from tests.live.conftest import KERNEL, PLYWIRE, joined
from tests.live.judge import fields
from tests.live.peer import pattern

SIZE = 100_000


@pytest.fixture(scope="module")
def setup():
    """In place of the folder's own: the same, with another TCP on plywire's side."""
    with joined("lite", 'tcp = "services.tcp_lite:create"') as setup:
        yield setup


@pytest.fixture
def listener(setup):
    with setup.stack.create_server((PLYWIRE, 0)) as server:
        server.settimeout(20)
        yield server


class Handler(http.server.BaseHTTPRequestHandler):
    """GET gives the pattern; PUT keeps what comes in `received`."""

    received = b""

    def do_GET(self):
        self._answer(pattern(SIZE))

    def do_PUT(self):
        type(self).received = self.rfile.read(int(self.headers["Content-Length"]))
        self._answer(b"")

    def _answer(self, body: bytes) -> None:
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


def curl(setup, listener, *arguments: str) -> bytes:
    """What the kernel's curl prints, when plywire's program serves one connection."""

    def serve():
        connection, address = listener.accept()
        with connection:
            Handler(connection, address, None)

    thread = threading.Thread(target=serve)
    thread.start()
    url = f"http://{PLYWIRE}:{listener.getsockname()[1]}/"
    running = setup.popen("curl", "-s", "-S", "--max-time", "50", *arguments, url,
                          stdout=subprocess.PIPE)  # fmt: skip
    output, _ = running.communicate(timeout=60)
    thread.join(20)
    assert running.returncode == 0
    return output


def in_flight(path, port) -> int:
    """The most bytes that plywire's side had out at once, as tshark counts them."""
    rows = fields(path, f"ip.src == {PLYWIRE} && tcp.port == {port} && tcp.len > 0",
                  "tcp.analysis.bytes_in_flight")  # fmt: skip
    return max(int(count) for (count,) in rows)


def test_the_kernel_fetches_from_lite(setup, listener, capture):
    assert curl(setup, listener) == pattern(SIZE)
    assert in_flight(capture.finish(), listener.getsockname()[1]) <= 1460


def test_the_kernel_sends_to_lite(setup, listener, tmp_path):
    (tmp_path / "file").write_bytes(pattern(SIZE))
    curl(setup, listener, "-H", "Expect:", "-T", str(tmp_path / "file"))
    assert Handler.received == pattern(SIZE)


def test_lite_calls_the_kernel_and_both_send(setup, capture):
    port = setup.peer("listen", name="listener", port=0)["port"]
    with setup.stack.create_connection((KERNEL, port), timeout=20) as ours:
        setup.peer("accept", name="k", listener="listener")
        setup.peer.start("send_pattern", name="k", size=SIZE)
        received = b""
        while len(received) < SIZE:
            received += ours.recv(1 << 16)
        assert received == pattern(SIZE)
        assert "sha256" in setup.peer.answer()
        setup.peer.start("recv_all", name="k")
        ours.sendall(pattern(SIZE))
        ours.shutdown(1)
        assert setup.peer.answer()["size"] == SIZE
        setup.peer("close", name="k")
        assert ours.recv(1) == b""
    path = capture.finish()
    assert in_flight(path, port) <= 1460
    syns = fields(path, f"tcp.flags.syn == 1 && ip.src == {PLYWIRE}", "tcp.options")
    assert syns == [["020405b4"]]
    ends = fields(path, f"tcp.port == {port} && tcp.flags.fin == 1", "ip.src")
    assert ends == [[PLYWIRE], [KERNEL]]


@pytest.mark.parametrize("first", ["kernel", "plywire"])
def test_who_refuses_and_who_aborts(setup, listener, first):
    if first == "kernel":
        with pytest.raises(ConnectionRefusedError):
            setup.stack.create_connection((KERNEL, 81), timeout=20)
    else:
        assert setup.peer("connect", name="x", host=PLYWIRE, port=81) == {"error": "ECONNREFUSED"}
    setup.peer.start("connect", name="k", host=PLYWIRE, port=listener.getsockname()[1])
    ours, _ = listener.accept()
    assert "local" in setup.peer.answer()
    with ours:
        ours.settimeout(20)
        setup.peer("abort", name="k")
        with pytest.raises(ConnectionResetError):
            ours.recv(1)
