"""A small use of a lab, to see that it works."""

from __future__ import annotations

import time

from plywire.client import Stack
from plywire.lab.supervisor import Lab


def exchange(lab: Lab, port: int = 7) -> None:
    """One connection from h1 to h2, with a few bytes, closed by both ends."""
    with (
        Stack(lab.target("h2")) as h2,
        Stack(lab.target("h1")) as h1,
        h2.create_server(("", port)) as server,
        h1.create_connection(("h2.lab", port), timeout=20) as client,
    ):
        peer, _ = server.accept()
        with peer:
            client.sendall(b"hello")
            assert peer.recv(10) == b"hello"


def works_again(lab: Lab, port: int, limit: float = 20.0) -> None:
    """An exchange succeeds, at the latest in `limit` seconds: sockets may still be those of a
    process that its neighbours do not yet know to be gone."""
    deadline = time.monotonic() + limit
    while True:
        try:
            return exchange(lab, port)
        except OSError:
            if time.monotonic() > deadline:
                raise
