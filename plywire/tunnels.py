"""How a lab file names the far ends of a tunnel of IP packets over UDP.

An endpoint is `udp://HOST:PORT`, with the host as an IPv4 address. A peer is
`10.0.0.2=udp://HOST:PORT` or `10.9.0.0/16=udp://HOST:PORT`: what is for these addresses goes there.
Without the first part it takes everything that no other one does.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from plywire.config import InterfaceConfig, RouteConfig

UDP = "udp://"

Endpoint = tuple[str, int]
"""Host, as a dotted address, and port."""
Peer = tuple[int, int, Endpoint]
"""Prefix (as a number, its host bits cleared), length, and where it is reached."""


def endpoint(text: str) -> Endpoint:
    """Host and port of `udp://HOST:PORT`. Raises ValueError, in words."""
    host, colon, port = text.removeprefix(UDP).rpartition(":")
    try:
        if not text.startswith(UDP) or not colon or not 0 < int(port) < 65_536:
            raise ValueError
        return str(ipaddress.IPv4Address(host)), int(port)
    except ValueError:
        raise ValueError(f"{text!r} is not udp://HOST:PORT, as in udp://127.0.0.1:7001") from None


def parse_peer(text: str) -> Peer:
    """A peer as the lab file names it. Raises ValueError, in words."""
    prefix, equals, where = text.rpartition("=")
    try:
        network = ipaddress.IPv4Network(prefix if equals else "0.0.0.0/0")
    except ValueError as error:
        raise ValueError(f"{text!r}: {error}") from None
    return int(network.network_address), network.prefixlen, endpoint(where)


def peers_of_wire(
    interface: InterfaceConfig, stations: Sequence[InterfaceConfig], everywhere: tuple[str, ...]
) -> InterfaceConfig:
    """A tunnel's interface, with the other tunnels on its wire among its peers.

    everywhere: how the endpoints begin under which nobody can be reached. An address that has a
    peer already keeps it.
    """
    if interface.device != "tunnel":
        return interface
    peers = list(interface.peers)
    named = {text.rpartition("=")[0] for text in peers}
    for other in stations:
        address = str(ipaddress.IPv4Address(other.address))
        mate = other.wire == interface.wire and other.address != interface.address
        if mate and address not in named and not other.listen.startswith(everywhere):
            peers.append(f"{address}={other.listen}")
    return replace(interface, peers=tuple(peers))


class PeerTable:
    """Where packets of one interface go: the longest prefix that matches counts.

    routes: the host's. What is routed by way of a peer goes to that peer.
    """

    __slots__ = ("_rows", "endpoints")

    def __init__(self, interface: InterfaceConfig, routes: Sequence[RouteConfig]) -> None:
        self._rows = sorted(map(parse_peer, interface.peers), key=lambda row: -row[1])
        self.endpoints = frozenset(row[2] for row in self._rows)
        by_routes = []
        for route in routes:
            where = self.lookup(route.via)
            if where is not None:
                prefix = int.from_bytes(route.prefix, "big")
                by_routes.append((prefix, route.prefix_length, where))
        # A sort keeps the order of equals: what the lab file says of a prefix comes first.
        self._rows = sorted(self._rows + by_routes, key=lambda row: -row[1])

    def lookup(self, destination: bytes) -> Endpoint | None:
        """Where a destination (4 bytes) is reached; None when no peer is named for it."""
        value = int.from_bytes(destination, "big")
        for prefix, length, where in self._rows:
            if (value ^ prefix) >> (32 - length) == 0:
                return where
        return None
