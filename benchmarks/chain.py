"""The floor: the same hops and sizes through bare ZeroMQ and msgpack, without any protocol.

Run as a process, it is one link of a chain: it unpacks each message, packs it and passes it on.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager

import msgpack
import zmq

BATCH = 32
"""Packets in one ZeroMQ message, as many as plywire's packet boundaries put into a batch."""
WINDOW = 64
"""Messages under way at most, so that a slow link of the chain is not drowned."""


def forward(source: str, sink: str) -> None:
    """Pass messages on, one hop, for ever."""
    context = zmq.Context()
    inbox = context.socket(zmq.PULL)
    inbox.bind(source)
    outlet = context.socket(zmq.PUSH)
    outlet.connect(sink)
    while True:
        outlet.send(msgpack.packb(msgpack.unpackb(inbox.recv())))


@contextmanager
def _chain(hops: int) -> Iterator[tuple[zmq.Socket, zmq.Socket]]:
    """Two sockets with `hops` pipes and hops - 1 processes between them."""
    with tempfile.TemporaryDirectory(prefix="plywire-bench-") as folder:
        ends = [f"ipc://{folder}/{index}" for index in range(hops)]
        context = zmq.Context()
        last = context.socket(zmq.PULL)
        last.bind(ends[-1])
        processes = [
            subprocess.Popen(
                [sys.executable, "-m", "benchmarks.chain", ends[index], ends[index + 1]]
            )
            for index in range(hops - 1)
        ]
        first = context.socket(zmq.PUSH)
        first.connect(ends[0])
        try:
            first.send(msgpack.packb([0]))
            if not last.poll(10_000):
                raise RuntimeError("the chain did not come up within 10 s")
            last.recv()
            yield first, last
        finally:
            for process in processes:
                process.kill()
            for process in processes:
                process.wait()
            context.destroy(0)


def hop_latency(hops: int, rounds: int, pause: float) -> list[float]:
    """Seconds that a small message takes through `hops` pipes, for each round, sorted.

    pause: seconds between two rounds, as between two connects: cores fall asleep in it, and caches
    are used by others.
    """
    message = msgpack.packb([1, 2, 3, b"x" * 40])
    times = []
    with _chain(hops) as (first, last):
        for index in range(rounds + 100):
            start = time.perf_counter()
            first.send(message)
            last.recv()
            if index >= 100:  # the first ones warm caches
                times.append(time.perf_counter() - start)
            time.sleep(pause)
    return sorted(times)


def throughput(batch: int, hops: int = 8, size: int = 1460, seconds: float = 3.0) -> float:
    """Bytes a second that `hops` pipes carry in packets of `size`, `batch` of them a message."""
    packed = msgpack.packb([[32, 1, b"x" * size] for _ in range(batch)])
    with _chain(hops) as (first, last):
        sent = received = 0
        start = time.perf_counter()
        while (now := time.perf_counter()) - start < seconds:
            while sent - received < WINDOW:
                first.send(packed)
                sent += 1
            last.recv()
            received += 1
        return received * batch * size / (now - start)


if __name__ == "__main__":
    forward(*sys.argv[1:])
