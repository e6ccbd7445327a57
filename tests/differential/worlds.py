"""One interface to two worlds: the kernel's sockets on loopback, and plywire's between hosts."""

import socket
import threading
import time

LIMIT = 30.0
"""Seconds after which whatever a test waits for has failed."""


class World:
    """Where a test runs. `client` and `server` offer the functions of the socket module."""

    def __init__(self, name, client, server, address):
        self.name, self.client, self.server, self.address = name, client, server, address
        self._opened = []
        self._threads = []

    def client_socket(self, timeout=LIMIT):
        return self._prepare(self.client.socket(socket.AF_INET, socket.SOCK_STREAM), timeout)

    def server_socket(self, timeout=LIMIT):
        """A socket of the server's, bound to a free port of its address."""
        sock = self._prepare(self.server.socket(socket.AF_INET, socket.SOCK_STREAM), timeout)
        sock.bind((self.address, 0))
        return sock

    def listener(self, backlog=16, timeout=LIMIT):
        sock = self.server_socket(timeout)
        sock.listen(backlog)
        return sock

    def accept(self, listener, timeout=LIMIT):
        return self._prepare(listener.accept()[0], timeout)

    def pair(self):
        """Two ends of one connection: (client's, server's)."""
        with self.listener() as listener:
            client = self.client_socket()
            client.connect(listener.getsockname())
            return client, self.accept(listener)

    def run(self, function, *args):
        """Run a function in a thread of its own; returns what waits for its result."""
        box = {}

        def target():
            try:
                box["value"] = function(*args)
            except BaseException as error:
                box["error"] = error

        thread = threading.Thread(target=target, daemon=True)
        thread.start()
        self._threads.append(thread)

        def result():
            thread.join(LIMIT)
            assert not thread.is_alive(), f"{function} is still running"
            if "error" in box:
                raise box["error"]
            return box["value"]

        return result

    def close(self):
        for sock in self._opened:
            sock.close()
        for thread in self._threads:
            thread.join(LIMIT)

    def _prepare(self, sock, timeout):
        sock.settimeout(timeout)
        self._opened.append(sock)
        return sock


def eventually(look, limit=LIMIT):
    """The first true value of look(), asked again and again."""
    deadline = time.monotonic() + limit
    while not (value := look()):
        assert time.monotonic() < deadline, "it never happened"
        time.sleep(0.005)
    return value
