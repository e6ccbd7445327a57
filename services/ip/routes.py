"""Routes: built from the configuration and the interfaces' state, found by the longest prefix.

A route speaks IPv4. Another family would be a second table behind the same `lookup`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple

from plywire.config import HostConfig, InterfaceConfig
from plywire.wire.ipv4 import MAX_LENGTH, MIN_MTU
from services.ip.addresses import FIRST_GROUP, LOOPBACK

CACHE_ENTRIES = 4096
"""Destinations whose route is remembered; when they are too many, all are forgotten."""


class Link(NamedTuple):
    """What the link layer says of an interface; what the configuration says until it does."""

    name: str
    mac: bytes
    mtu: int
    up: bool

    @property
    def usable(self) -> bool:
        """Up, with room for the smallest packet that IPv4 cannot cut further (RFC 791)."""
        return self.up and self.mtu >= MIN_MTU


class Route(NamedTuple):
    """Where packets for a prefix go.

    ifindex: 0 for this host itself; via: the gateway, b"" when the destination is on the link;
    src: the address to send from; mtu: in bytes, header included.
    """

    prefix: bytes
    length: int
    ifindex: int
    via: bytes
    src: bytes
    mtu: int


class RouteTable:
    """Longest prefix match. Of two routes with one prefix, the earlier one counts."""

    __slots__ = ("_by_length", "_cache", "routes")

    def __init__(self, routes: Iterable[Route] = ()) -> None:
        self.routes: tuple[Route, ...] = ()
        self._by_length: list[tuple[int, dict[int, Route]]] = []
        self._cache: dict[bytes, Route | None] = {}
        self.replace(routes)

    def replace(self, routes: Iterable[Route]) -> None:
        """Have these routes, and no others."""
        tables: dict[int, dict[int, Route]] = {}
        kept = []
        for route in routes:
            shift = 32 - route.length
            rows = tables.setdefault(shift, {})
            key = int.from_bytes(route.prefix, "big") >> shift
            if key not in rows:
                rows[key] = route
                kept.append(route)
        self._by_length = sorted(tables.items())
        self.routes = tuple(sorted(kept, key=lambda route: -route.length))
        self._cache.clear()

    def lookup(self, dst: bytes) -> Route | None:
        """The route to dst. None: there is none, or dst is no host's address (0/8, 224/3)."""
        cache = self._cache
        if dst in cache:
            return cache[dst]
        if len(cache) >= CACHE_ENTRIES:
            cache.clear()
        route = cache[dst] = self._search(dst) if 0 < dst[0] < FIRST_GROUP else None
        return route

    def _search(self, dst: bytes) -> Route | None:
        value = int.from_bytes(dst, "big")
        for shift, rows in self._by_length:
            route = rows.get(value >> shift)
            if route is not None:
                return route
        return None


def build(host: HostConfig, links: Mapping[int, Link]) -> list[Route]:
    """The routes of a host whose interfaces are as `links` says.

    Its own addresses and 127/8 are always there. A network and a gateway are there as long as the
    interface that leads to them is usable.
    """
    routes = [Route(item.address, 32, 0, b"", item.address, MAX_LENGTH) for item in host.interfaces]
    routes.append(Route(b"\x7f\0\0\0", 8, 0, b"", LOOPBACK, MAX_LENGTH))
    usable = [item for item in host.interfaces if links[item.ifindex].usable]
    for item in usable:
        mtu = links[item.ifindex].mtu
        routes.append(Route(item.network, item.prefix_length, item.ifindex, b"", item.address, mtu))
    for route in host.routes:
        item = _interface_to(route.via, usable)
        if item is not None:
            mtu = links[item.ifindex].mtu
            prefix = _masked(route.prefix, route.prefix_length)
            routes.append(
                Route(prefix, route.prefix_length, item.ifindex, route.via, item.address, mtu)
            )
    return routes


def describe(table: RouteTable, links: Mapping[int, Link]) -> list[dict[str, str | int]]:
    """Rows as `ip route` has them, the longest prefix first."""
    return [
        {
            "to": "default" if not route.length else f"{_text(route.prefix)}/{route.length}",
            "type": "local" if not route.ifindex else "gateway" if route.via else "connected",
            "via": _text(route.via) if route.via else "",
            "dev": links[route.ifindex].name if route.ifindex else "lo",
            "src": _text(route.src),
            "mtu": route.mtu,
        }
        for route in table.routes
    ]


def describe_way(route: Route, links: Mapping[int, Link]) -> dict[str, str]:
    """The way of a packet, as `ip route get` has it."""
    return {
        "dev": links[route.ifindex].name if route.ifindex else "lo",
        "via": _text(route.via) if route.via else "",
        "src": _text(route.src),
    }


def describe_interfaces(host: HostConfig, links: Mapping[int, Link]) -> list[dict[str, str | int]]:
    """Rows as `ip address` has them."""
    return [
        {
            "ifindex": item.ifindex,
            "name": links[item.ifindex].name,
            "address": f"{_text(item.address)}/{item.prefix_length}",
            "mac": links[item.ifindex].mac.hex(":"),
            "mtu": links[item.ifindex].mtu,
            "up": int(links[item.ifindex].up),
        }
        for item in host.interfaces
    ]


def _interface_to(address: bytes, interfaces: list[InterfaceConfig]) -> InterfaceConfig | None:
    """The interface whose network holds address, the narrowest network first."""
    fitting = [item for item in interfaces if _masked(address, item.prefix_length) == item.network]
    return max(fitting, key=lambda item: item.prefix_length, default=None)


def _masked(address: bytes, length: int) -> bytes:
    shift = 32 - length
    return (int.from_bytes(address, "big") >> shift << shift).to_bytes(4, "big")


def _text(address: bytes) -> str:
    return ".".join(map(str, address))
