"""Programs that the process tests run beside the lab: ordinary clients of the API.

`python -m tests.process.programs NAME TARGET ARGUMENT...`; each prints a JSON line when it is
where the test waits for it.
"""

from __future__ import annotations

import hashlib
import json
import select
import socket
import sys
import time

from plywire.client import Stack

PIECE = 1 << 16
PERIOD = 513
"""Of `block`, in bytes."""


def say(**words: object) -> None:
    print(json.dumps(words), flush=True)


def block(size: int) -> bytes:
    """Bytes whose period no power of two divides."""
    unit = hashlib.sha512(b"plywire").digest() * 8 + b"."  # PERIOD bytes
    return (unit * (size // len(unit) + 1))[:size]


def digest(size: int) -> str:
    return hashlib.sha256(block(size)).hexdigest()


def sender(target: str, address: str, port: str, size: str, buffer: str = "0") -> None:
    """Connect, send `size` bytes of `block`, end the stream, wait for the peer's end.

    buffer: SO_SNDBUF, unless 0.
    """
    data = block(int(size))
    with Stack(target) as stack, stack.socket() as sock:
        if buffer != "0":
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, int(buffer))
        sock.connect((address, int(port)))
        say(event="connected", port=sock.getsockname()[1])
        for start in range(0, len(data), PIECE):
            sock.sendall(data[start : start + PIECE])
        sock.shutdown(1)
        say(event="sent")
        assert sock.recv(1) == b""
        say(event="closed")


def sender_until_told(target: str, address: str, port: str) -> None:
    """Connect and send until a line comes on standard input; then what was sent, and the end."""
    data = block(PIECE + PERIOD)
    sent, total = hashlib.sha256(), 0
    with Stack(target) as stack, stack.create_connection((address, int(port))) as sock:
        say(event="connected", port=sock.getsockname()[1])
        while not select.select([sys.stdin], [], [], 0)[0]:
            piece = data[total % PERIOD :][:PIECE]
            sock.sendall(piece)
            sent.update(piece)
            total += len(piece)
        sock.shutdown(1)
        say(event="sent", bytes=total, sha256=sent.hexdigest())
        assert sock.recv(1) == b""
        say(event="closed")


def endless_sender(target: str, address: str, port: str) -> None:
    """Send until somebody kills this program."""
    with Stack(target) as stack, stack.create_connection((address, int(port))) as sock:
        say(event="connected", port=sock.getsockname()[1])
        while True:
            sock.sendall(block(PIECE))


def receiver(target: str, port: str, progress: str) -> None:
    """Take one connection and read it to its end.

    progress: counts of bytes, `1000,2000`; says when each has come, and how many seconds there was
    nothing to read since the one before, at the longest.
    """
    marks = sorted(map(int, progress.split(",")), reverse=True)
    with Stack(target) as stack, stack.create_server(("", int(port))) as server:
        say(event="listening", port=server.getsockname()[1])
        sock, _ = server.accept()
        with sock:
            received, total, silence = hashlib.sha256(), 0, 0.0
            last = time.monotonic()
            while data := sock.recv(PIECE):
                received.update(data)
                total += len(data)
                silence = max(silence, time.monotonic() - last)
                while marks and total >= marks[-1]:
                    marks.pop()
                    say(event="progress", bytes=total, silence=silence)
                    silence = 0.0
                last = time.monotonic()
            say(event="end", bytes=total, sha256=received.hexdigest())


if __name__ == "__main__":
    globals()[sys.argv[1]](*sys.argv[2:])
