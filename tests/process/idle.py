"""Connections between h1 and h2 that nobody uses while something is done to the layers."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from plywire.client import Stack
from plywire.client.sockets import Socket

PORT = 99


@contextmanager
def idle_connections(h1: str, h2: str, count: int) -> Iterator[list[tuple[Socket, Socket]]]:
    """Both ends of `count` of them, h1's first. h1, h2: the targets of the two APIs."""
    with Stack(h1) as one, Stack(h2) as two, two.create_server(("", PORT), backlog=count) as server:
        clients = [one.create_connection(("10.0.0.2", PORT), timeout=20) for _ in range(count)]
        servers = [server.accept()[0] for _ in clients]
        by_port = {sock.getpeername()[1]: sock for sock in servers}
        yield [(sock, by_port[sock.getsockname()[1]]) for sock in clients]
