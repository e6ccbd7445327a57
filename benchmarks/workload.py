"""The programs of the benchmarks: ordinary clients of the API, each run as a process of its own.

`python -m benchmarks.workload connect TARGET ADDRESS PORT COUNT` prints JSON on standard output.
"""

from __future__ import annotations

import json
import sys
import time

from plywire.client import Stack

PIECE = 256 << 10
PAUSE = 0.01


def connect(target: str, address: str, port: str, count: str) -> dict:
    """Connect and close, one after the other: seconds of each connect(), sorted.

    The pause lets the close of one connection end before the next one is measured; the floor is
    measured with the same pause.
    """
    times = []
    with Stack(target) as stack:
        for index in range(int(count) + 20):
            sock = stack.socket()
            start = time.perf_counter()
            sock.connect((address, int(port)))
            if index >= 20:  # ARP and warm caches
                times.append(time.perf_counter() - start)
            sock.close()
            time.sleep(PAUSE)
    return {"times": sorted(times)}


def accept(target: str, port: str) -> dict:
    """Accept and close for ever."""
    with Stack(target) as stack, stack.create_server(("", int(port)), backlog=128) as server:
        print("ready", flush=True)
        while True:
            server.accept()[0].close()


def ask(target: str, address: str, port: str, count: str) -> dict:
    """Send a byte and wait for it to come back, again and again: seconds of each time."""
    times = []
    with Stack(target) as stack, stack.create_connection((address, int(port))) as sock:
        sock.setsockopt(6, 1, 1)  # TCP_NODELAY
        for index in range(int(count) + 20):
            start = time.perf_counter()
            sock.sendall(b"?")
            sock.recv(1)
            if index >= 20:
                times.append(time.perf_counter() - start)
    return {"times": times}


def echo(target: str, port: str) -> dict:
    """Send back what comes, one connection after the other."""
    with Stack(target) as stack, stack.create_server(("", int(port))) as server:
        print("ready", flush=True)
        while True:
            sock, _ = server.accept()
            with sock:
                while data := sock.recv(1000):
                    sock.sendall(data)


def send(target: str, address: str, port: str, size: str) -> dict:
    """Send `size` bytes on one connection and wait until the peer has closed."""
    data = bytes(PIECE)
    with Stack(target) as stack, stack.create_connection((address, int(port))) as sock:
        for _ in range(int(size) // PIECE):
            sock.sendall(data)
        sock.shutdown(1)
        sock.recv(1)
    return {}


def receive(target: str, port: str) -> dict:
    """Take one connection, read it to its end: bytes, and seconds from the first to the last."""
    total, start = 0, 0.0
    with Stack(target) as stack, stack.create_server(("", int(port))) as server:
        print("ready", flush=True)
        sock, _ = server.accept()
        with sock:
            while data := sock.recv(1 << 20):
                start = start or time.perf_counter()
                total += len(data)
            end = time.perf_counter()
    return {"bytes": total, "seconds": end - start}


if __name__ == "__main__":
    print(json.dumps(globals()[sys.argv[1]](*sys.argv[2:])), flush=True)
