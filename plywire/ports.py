"""Local ports: who has which, and the choice of an ephemeral one (RFC 6056 algorithm 3)."""

from __future__ import annotations

from plywire.errors import SocketError
from plywire.isn import endpoint_hash
from plywire.paths import ANY
from plywire.roles import TCP


class Reservation:
    """A local address and port that a program has bound.

    listening: a live listener stands on it, and nobody may share it.
    """

    __slots__ = ("address", "handle", "listening", "port", "reuse")

    def __init__(
        self, handle: int, address: bytes, port: int, reuse: bool, listening: bool = False
    ) -> None:
        self.handle = handle
        self.address = address
        self.port = port
        self.reuse = reuse
        self.listening = listening

    def to_state(self) -> list:
        """The arguments that make it again."""
        return [self.handle, self.address, self.port, self.reuse, self.listening]


class Ports:
    """Reservations and the local ends of connections, by port."""

    __slots__ = ("_ends", "_held", "_high", "_key", "_low", "_next")

    def __init__(self, low: int, high: int, key: bytes) -> None:
        self._low, self._high, self._key = low, high, key
        self._next = 0  # RFC 6056's next_ephemeral
        self._held: dict[int, list[Reservation]] = {}
        self._ends: dict[int, dict[object, tuple[bytes, bool]]] = {}

    def reserve(
        self, handle: int, address: bytes, port: int, reuse: bool, seed: int
    ) -> Reservation:
        """Bind: take a port, 0 for any. Raises SocketError EADDRINUSE.

        Two sockets share a port of overlapping addresses only if both were made with SO_REUSEADDR
        and none listens; connections that are left over (TIME-WAIT) count, as on Linux.
        """
        if port == 0:
            port = self._free_port(address, seed)
        elif self._conflict(address, port, reuse):
            raise SocketError("EADDRINUSE", f"port {port} is taken", TCP)
        reservation = Reservation(handle, address, port, reuse)
        self._held.setdefault(port, []).append(reservation)
        return reservation

    def adopt(self, reservation: Reservation) -> None:
        """Put a reservation of a snapshot back."""
        self._held.setdefault(reservation.port, []).append(reservation)

    def listen(self, reservation: Reservation) -> None:
        """Mark a reservation as listening. Raises EADDRINUSE when another one listens there."""
        for other in self._held.get(reservation.port, ()):
            if other is not reservation and other.listening and _overlap(other, reservation):
                raise SocketError(
                    "EADDRINUSE", f"another socket listens on port {reservation.port}", TCP
                )
        reservation.listening = True

    def release(self, reservation: Reservation) -> None:
        """Give a reservation up."""
        held = self._held[reservation.port]
        held.remove(reservation)
        if not held:
            del self._held[reservation.port]

    def connect(self, owner: object, address: bytes, port: int, reuse: bool) -> None:
        """A connection with this local end exists from now on."""
        self._ends.setdefault(port, {})[owner] = (address, reuse)

    def disconnect(self, owner: object, port: int) -> None:
        """It does not exist any more."""
        ends = self._ends[port]
        del ends[owner]
        if not ends:
            del self._ends[port]

    def ephemeral(self, local: bytes, remote: bytes, remote_port: int, taken: object) -> int:
        """A port for a connection: hashed, so that others cannot guess it, and walking, so that
        it is long until a pair comes again. taken: the keys of all connections, TIME-WAIT too.
        Raises SocketError EADDRNOTAVAIL when none is left."""
        count = self._high - self._low + 1
        offset = endpoint_hash(self._key, local, remote, remote_port)
        for _ in range(count):
            port = self._low + (offset + self._next) % count
            self._next += 1
            if port not in self._held and (local, port, remote, remote_port) not in taken:
                return port
        raise SocketError("EADDRNOTAVAIL", "no local port is free for this destination", TCP)

    def _free_port(self, address: bytes, seed: int) -> int:
        count = self._high - self._low + 1
        for index in range(count):
            port = self._low + (seed + index) % count
            if port not in self._held and port not in self._ends:
                return port
        raise SocketError("EADDRINUSE", "no local port is free", TCP)

    def _conflict(self, address: bytes, port: int, reuse: bool) -> bool:
        for other in self._held.get(port, ()):
            meets = ANY in (address, other.address) or address == other.address
            if meets and not (reuse and other.reuse and not other.listening):
                return True
        for end, end_reuse in self._ends.get(port, {}).values():
            meets = ANY in (address, end) or address == end
            if meets and not (reuse and end_reuse):
                return True
        return False

    def to_state(self) -> list:
        """The walk's position and the hash key; reservations belong to their holders."""
        return [self._next, self._key]

    def restore(self, state: list) -> None:
        """What `to_state` described."""
        self._next, self._key = state


def _overlap(one: Reservation, other: Reservation) -> bool:
    return ANY in (one.address, other.address) or one.address == other.address
