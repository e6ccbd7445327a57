"""A program on the Linux kernel's own TCP, inside a network namespace, that does what it is told.

Standard input is one JSON command a line, standard output one JSON answer a line. Sockets are
named by the test. Errors come back as `{"error": "ECONNREFUSED"}`.
"""

from __future__ import annotations

import errno
import hashlib
import json
import socket
import struct
import sys

sockets: dict[str, socket.socket] = {}


def listen(name: str, port: int, backlog: int = 128, congestion: str = "") -> dict:
    server = socket.create_server(("0.0.0.0", port), backlog=backlog, reuse_port=False)
    _choose(server, congestion)
    sockets[name] = server
    return {"port": server.getsockname()[1]}


def accept(name: str, listener: str, timeout: float = 10) -> dict:
    sockets[listener].settimeout(timeout)
    sockets[name], address = sockets[listener].accept()
    sockets[name].settimeout(timeout)
    return {"peer": address}


def connect(name: str, host: str, port: int, timeout: float = 10, congestion: str = "") -> dict:
    sockets[name] = socket.create_connection((host, port), timeout)
    _choose(sockets[name], congestion)
    return {"local": sockets[name].getsockname()}


def send(name: str, text: str) -> dict:
    sockets[name].sendall(text.encode())
    return {}


def send_pattern(name: str, size: int) -> dict:
    data = pattern(size)
    sockets[name].sendall(data)
    return {"sha256": hashlib.sha256(data).hexdigest()}


def recv(name: str, size: int) -> dict:
    return {"text": sockets[name].recv(size).decode()}


def recv_all(name: str) -> dict:
    digest, size = hashlib.sha256(), 0
    while data := sockets[name].recv(1 << 16):
        digest.update(data)
        size += len(data)
    return {"sha256": digest.hexdigest(), "size": size}


def shutdown(name: str) -> dict:
    sockets[name].shutdown(socket.SHUT_WR)
    return {}


def close(name: str) -> dict:
    sockets.pop(name).close()
    return {}


def abort(name: str) -> dict:
    sockets[name].setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    return close(name)


def _choose(item: socket.socket, congestion: str) -> None:
    """A congestion control for this socket and those that it accepts; "" leaves the namespace's."""
    if congestion:
        item.setsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, congestion.encode())


def pattern(size: int) -> bytes:
    """Bytes that repeat with a period that no power of two divides."""
    block = hashlib.sha512(b"plywire").digest() * 16 + b"."
    return (block * (size // len(block) + 1))[:size]


COMMANDS = {
    item.__name__: item
    for item in (
        listen,
        accept,
        connect,
        send,
        send_pattern,
        recv,
        recv_all,
        shutdown,
        close,
        abort,
    )
}


def main() -> None:
    for line in sys.stdin:
        request = json.loads(line)
        try:
            answer = COMMANDS[request.pop("do")](**request)
        except TimeoutError:
            answer = {"error": "ETIMEDOUT"}
        except OSError as error:
            answer = {"error": errno.errorcode.get(error.errno, str(error))}
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
