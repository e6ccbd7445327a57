"""Programs that the process tests run beside the lab: ordinary clients of the API.

`python -m tests.process.programs NAME TARGET ARGUMENT...`; each prints a JSON line when it is
where the test waits for it.
"""

from __future__ import annotations

import hashlib
import json
import sys

from plywire.client import Stack

PIECE = 1 << 16


def say(**words: object) -> None:
    print(json.dumps(words), flush=True)


def block(size: int) -> bytes:
    """Bytes whose period no power of two divides."""
    unit = hashlib.sha512(b"plywire").digest() * 8 + b"."
    return (unit * (size // len(unit) + 1))[:size]


def digest(size: int) -> str:
    return hashlib.sha256(block(size)).hexdigest()


def sender(target: str, address: str, port: str, size: str) -> None:
    """Connect, send `size` bytes of `block`, end the stream, wait for the peer's end."""
    data = block(int(size))
    with Stack(target) as stack, stack.create_connection((address, int(port))) as sock:
        say(event="connected", port=sock.getsockname()[1])
        for start in range(0, len(data), PIECE):
            sock.sendall(data[start : start + PIECE])
        sock.shutdown(1)
        say(event="sent")
        assert sock.recv(1) == b""
        say(event="closed")


def endless_sender(target: str, address: str, port: str) -> None:
    """Send until somebody kills this program."""
    with Stack(target) as stack, stack.create_connection((address, int(port))) as sock:
        say(event="connected", port=sock.getsockname()[1])
        while True:
            sock.sendall(block(PIECE))


def receiver(target: str, port: str, progress: str) -> None:
    """Take one connection and read it to its end; say when `progress` bytes have come."""
    with Stack(target) as stack, stack.create_server(("", int(port))) as server:
        say(event="listening", port=server.getsockname()[1])
        sock, _ = server.accept()
        with sock:
            received, total, told = hashlib.sha256(), 0, False
            while data := sock.recv(PIECE):
                received.update(data)
                total += len(data)
                if not told and total >= int(progress):
                    told = True
                    say(event="progress", bytes=total)
            say(event="end", bytes=total, sha256=received.hexdigest())


if __name__ == "__main__":
    globals()[sys.argv[1]](*sys.argv[2:])
