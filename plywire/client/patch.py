"""Putting a stack in the place of the kernel inside the `socket` module, for a while."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from plywire.client.stack import Stack

_FUNCTIONS = (
    "create_connection", "create_server", "getaddrinfo", "gethostbyname", "gethostbyname_ex",
    "gethostbyaddr", "getfqdn", "gethostname",
)  # fmt: skip
_OURS = (-1, socket.AF_INET, socket.AF_INET6)


@contextmanager
def applied(stack: Stack) -> Iterator[None]:
    """Replace the module's names by the stack's; restore what was there."""
    names = {name: getattr(stack, name) for name in _FUNCTIONS}
    names["socket"] = _socket_class(stack)
    before = {name: getattr(socket, name) for name in names}
    vars(socket).update(names)
    try:
        yield
    finally:
        vars(socket).update(before)


def _socket_class(stack: Stack) -> type:
    kernel = socket.socket

    class PatchedSocket(stack.socket):
        """The stack's socket for IPv4; the kernel's for AF_UNIX and for existing descriptors.

        socket.socketpair, which asyncio and others need for themselves, relies on the latter.
        """

        def __new__(
            cls, family: int = -1, type: int = -1, proto: int = -1, fileno: Any = None
        ) -> Any:
            if fileno is not None or family not in _OURS:
                return kernel(family, type, proto, fileno)
            return super().__new__(cls)

    return PatchedSocket
