"""Sockets of a plywire host for Python programs: `socket.socket` over the gRPC API.

from plywire.client import Stack

with Stack.find("h1") as h1, h1.create_connection(("h2.lab", 80)) as sock:
    sock.sendall(b"hello")
"""

import os

# gRPC's core would tell on the program's stderr that a lab went down, beside the exception. It
# reads this when it is imported.
os.environ.setdefault("GRPC_VERBOSITY", "ERROR")

from plywire.client.errors import ApiDown
from plywire.client.sockets import Socket
from plywire.client.stack import Stack

__all__ = ["ApiDown", "Socket", "Stack"]
