"""Addresses and names at the edge: dotted text outside, 4 bytes inside."""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping

from plywire.errors import SocketError
from services.app.results import Address

ANY = bytes(4)
LOOPBACK = bytes((127, 0, 0, 1))


def resolve(name: str, names: Mapping[str, bytes]) -> list[str]:
    """The addresses of a name, dotted: the lab file's, `localhost`, or the address it is already.

    Names are compared without case and without a final dot. Raises EAI_NONAME.
    """
    key = name.lower().removesuffix(".")
    known = names.get(key)
    if known is not None:
        return [dotted(known)]
    if key == "localhost":
        return [dotted(LOOPBACK)]
    try:
        return [str(ipaddress.IPv4Address(name))]
    except ValueError:
        raise SocketError("EAI_NONAME", f"{name[:100]!r} is not a name of this lab") from None


def packed(address: Address) -> tuple[bytes, int]:
    """(host, port) as 4 bytes and a number. Raises EINVAL; a name is not an address."""
    host, port = address
    try:
        host_bytes = ipaddress.IPv4Address(host).packed if host else ANY
    except ValueError:
        raise SocketError("EINVAL", f"{host[:100]!r} is not an IPv4 address") from None
    if not 0 <= port <= 0xFFFF:
        raise SocketError("EINVAL", f"{port} is not a port")
    return host_bytes, port


def dotted(address: bytes) -> str:
    """4 bytes as people write them."""
    return ".".join(map(str, address))


def unpacked(address: tuple[bytes, int]) -> Address:
    """(4 bytes, port) as (dotted, port)."""
    return dotted(address[0]), address[1]


def text(address: tuple[bytes, int]) -> str:
    """(4 bytes, port) as `10.0.0.1:80`, or "" when nothing is known yet."""
    return "" if address == (ANY, 0) else f"{dotted(address[0])}:{address[1]}"
