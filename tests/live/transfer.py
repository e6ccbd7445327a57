"""Two long streams between plywire and the kernel at once, one each way, on one bad wire."""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from tests.live.conftest import KERNEL, PLYWIRE, Capture, Peer, Setup
from tests.live.peer import pattern

SOAK = bool(os.environ.get("PLYWIRE_SOAK"))
DELAY = "20ms" if SOAK else "10ms"
IMPAIRMENTS = ("--loss", "1%", "--delay", DELAY, "--reorder", "1%", "--seed", "5")
"""Of each direction: a round trip is 20 ms and more, and with `make soak` 40 ms."""
LIMIT = 300
"""Seconds for a transfer, several times what it takes."""


@dataclass
class Stream:
    """One direction: its two ports, and what came of it."""

    name: str
    ply_port: int
    kernel_port: int
    size: int
    digest: str = ""
    seconds: float = 0.0
    retransmits: int = 0  # of plywire's

    def __str__(self) -> str:
        return f"{self.name} {self.size * 8 / self.seconds / 1e6:.2f} Mbit/s ({self.seconds:.1f} s)"


@dataclass
class Transfer:
    """Both connections, from open to closed, with the capture and the two `ss`."""

    setup: Setup
    plywire: Callable[..., str]
    capture: Capture
    size: int
    before: dict[str, int]
    streams: tuple[Stream, ...] = ()
    jobs: tuple[Callable[[], None], ...] = ()
    pool: ThreadPoolExecutor | None = None
    running: list[Future] = field(default_factory=list)

    def harm(self) -> dict[str, int]:
        """What the wire did to plywire's own frames meanwhile: lost, reordered."""
        counts = _counts(self.plywire)
        return {name: counts.get(name, 0) - self.before.get(name, 0) for name in counts}

    def ss(self, stream: Stream) -> list[str]:
        """The words of plywire's `ss -i` for a stream."""
        lines = self.plywire("ss", "-inH").splitlines()
        (at,) = [n for n, line in enumerate(lines) if f":{stream.ply_port} " in line]
        return lines[at + 1].split()

    def kernel_ss(self, stream: Stream) -> list[str]:
        return self.setup.kernel("ss", "-tinH", f"sport = :{stream.kernel_port}").stdout.split()

    def begin(self) -> None:
        """Send, both ways."""
        self.running = [self.pool.submit(job) for job in self.jobs]

    def finish(self) -> None:
        """Wait for both, and check what arrived."""
        for future in self.running:
            future.result(LIMIT)
        expected = hashlib.sha256(pattern(self.size)).hexdigest()
        for stream in self.streams:
            assert stream.digest == expected, stream


def _counts(plywire: Callable[..., str]) -> dict[str, int]:
    (row,) = [
        row for row in json.loads(plywire("impair", "show", "--json")) if row["from"] == "ply"
    ]
    return row["counts"]


@contextmanager
def transfer(
    setup: Setup, plywire, path: Path, size: int, congestion: str, more: tuple[str, ...] = ()
):
    """A Transfer whose connections are open; congestion is the kernel's, more: impairments.

    They are opened on a good wire: a SYN that is lost comes again without ECN (RFC 3168 6.1.1.1).
    """
    line = f"ply-{setup.interface}"
    plywire("impair", "reset", line)
    peers = Peer(setup.namespace), Peer(setup.namespace)
    receiving, sending = peers
    capture = Capture(setup.namespace, setup.interface, path)
    this = Transfer(setup, plywire, capture, size, {})
    port = receiving("listen", name="listener", port=0)["port"]
    try:
        with (
            setup.stack.create_connection((KERNEL, port), timeout=60) as out,
            setup.stack.create_server((PLYWIRE, 0)) as server,
            ThreadPoolExecutor(2) as pool,
        ):
            assert "peer" in receiving("accept", name="k", listener="listener", timeout=LIMIT)
            sending.start("connect", name="k", host=PLYWIRE, port=server.getsockname()[1],
                          timeout=LIMIT, congestion=congestion)  # fmt: skip
            server.settimeout(60)
            into, address = server.accept()
            assert "local" in sending.answer()
            this.streams = (
                Stream("plywire sends", out.getsockname()[1], port, size),
                Stream("the kernel sends", server.getsockname()[1], address[1], size),
            )
            with into:
                out.settimeout(LIMIT)
                into.settimeout(LIMIT)
                this.jobs = (partial(_send, this, out, receiving),
                             partial(_receive, this, into, sending))  # fmt: skip
                this.pool = pool
                plywire("impair", "set", line, *IMPAIRMENTS, *more)
                this.before = _counts(plywire)
                try:
                    yield this
                finally:
                    if not all(future.done() for future in this.running):
                        for peer in peers:  # a test failed, or another was not selected
                            peer.end()
    finally:
        for peer in peers:
            peer.end()


def _send(this: Transfer, out, receiving: Peer) -> None:
    receiving.start("recv_all", name="k")
    begun = time.monotonic()
    out.sendall(pattern(this.size))
    out.shutdown(1)
    this.streams[0].digest = receiving.answer()["sha256"]
    this.streams[0].seconds = time.monotonic() - begun
    for word in this.ss(this.streams[0]):
        if word.startswith("retrans:"):
            this.streams[0].retransmits = int(word.partition("/")[2])
    receiving("close", name="k")
    assert out.recv(1) == b""


def _receive(this: Transfer, into, sending: Peer) -> None:
    received = hashlib.sha256()
    sending.start("send_pattern", name="k", size=this.size)
    begun = time.monotonic()
    left = this.size
    while left:
        data = into.recv(1 << 20)
        assert data
        received.update(data)
        left -= len(data)
    this.streams[1].seconds = time.monotonic() - begun
    this.streams[1].digest = received.hexdigest()
    assert sending.answer()["sha256"]
    sending("close", name="k")
    assert into.recv(1) == b""
