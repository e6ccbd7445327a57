"""What ip says of the ways out of this host, and what path MTU discovery has learnt."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from plywire.config import HostConfig

ANY = b"\0\0\0\0"
LOOPBACK = b"\x7f\0\0\1"
MIN_PMTU = 552
"""No ICMP message lowers a path MTU below this: Linux's min_pmtu, against RFC 5927 section 7."""

_PMTU_LIFETIME = 600 * 1_000_000_000  # RFC 1191 section 6.3: try a larger one after ten minutes
_PMTU_ENTRIES = 1024


class Path(NamedTuple):
    """The source address to use, the MTU of the way, and that of the link it begins with."""

    source: bytes
    mtu: int
    link_mtu: int


class PathTable:
    """Routes by longest prefix, with the path MTUs that are smaller than their route's."""

    __slots__ = ("_by_length", "_host", "_pmtu", "known", "rows")

    def __init__(self, host: HostConfig) -> None:
        self._host = host
        self._by_length: list[tuple[int, dict[int, Path]]] = []
        self._pmtu: dict[bytes, tuple[int, int]] = {}
        self.rows: tuple = ()
        self.known = False

    def replace(self, rows: tuple) -> None:
        """Take what a Paths message says."""
        self.rows = tuple(tuple(row) for row in rows)
        self.known = True
        tables: dict[int, dict[int, Path]] = {}
        for prefix, length, source, mtu in self.rows:
            network = int.from_bytes(prefix, "big") >> (32 - length)
            tables.setdefault(length, {})[network] = Path(source, mtu, mtu)
        self._by_length = sorted(tables.items(), reverse=True)

    def lookup(self, destination: bytes, now: int) -> Path | None:
        """The way to a destination, or None when there is none."""
        value = int.from_bytes(destination, "big")
        for length, table in self._by_length:
            path = table.get(value >> (32 - length))
            if path is not None:
                learnt = self._pmtu.get(destination)
                if learnt is None:
                    return path
                mtu, expires = learnt
                if now >= expires:
                    del self._pmtu[destination]
                    return path
                return path._replace(mtu=min(path.mtu, mtu))
        return None

    def learn(self, destination: bytes, mtu: int, now: int) -> None:
        """Remember a smaller MTU, for the connections to come."""
        self._pmtu.pop(destination, None)
        if len(self._pmtu) >= _PMTU_ENTRIES:
            del self._pmtu[next(iter(self._pmtu))]
        self._pmtu[destination] = (mtu, now + _PMTU_LIFETIME)

    def is_local(self, address: bytes) -> bool:
        """Is it one of this host's own addresses?"""
        if address[0] == 127 or any(item.address == address for item in self._host.interfaces):
            return True
        return any(row[0] == address == row[2] and row[1] == 32 for row in self.rows)

    def is_group(self, address: bytes) -> bool:
        """Is it a broadcast or multicast address, which no TCP connection may have?"""
        return address[0] >= 224 or any(item.broadcast == address and item.prefix_length < 31
                                        for item in self._host.interfaces)  # fmt: skip

    def to_state(self) -> list:
        """Rows and learnt MTUs."""
        return [self.known, self.rows, [[dst, *item] for dst, item in self._pmtu.items()]]

    def restore(self, state: list) -> None:
        """What `to_state` described."""
        known, rows, learnt = state
        self.replace(rows)
        self.known = known
        self._pmtu = {dst: (mtu, expires) for dst, mtu, expires in learnt}
