"""Initial sequence numbers that cannot be guessed (RFC 9293 section 3.4.1)."""

from __future__ import annotations

from hashlib import blake2s

_TICK = 4_000  # ns: the clock of RFC 9293 3.4.1 moves about every four microseconds
_MASK = 0xFFFF_FFFF


def endpoint_hash(key: bytes, *parts: bytes | int) -> int:
    """32 bits of a keyed hash over addresses (bytes) and ports (integers)."""
    digest = blake2s(key=key, digest_size=4)
    for part in parts:
        digest.update(part if isinstance(part, bytes) else part.to_bytes(2, "big"))
    return int.from_bytes(digest.digest(), "big")


def timestamp_offset(key: bytes, *endpoints: bytes | int) -> int:
    """Where the timestamp clock of these endpoints begins (RFC 7323 5.4, 7.1): nobody can read the
    host's uptime in it, and it does not jump back from one incarnation to the next."""
    return endpoint_hash(key, b"timestamps", *endpoints)


class InitialSequenceNumbers:
    """ISN = M + F(local address, local port, remote address, remote port, secret key)."""

    __slots__ = ("key",)

    def __init__(self, key: bytes) -> None:
        self.key = key

    def choose(
        self,
        local_address: bytes,
        local_port: int,
        remote_address: bytes,
        remote_port: int,
        now: int,
    ) -> int:
        """The number for a connection of these endpoints that opens now."""
        spread = endpoint_hash(self.key, local_address, local_port, remote_address, remote_port)
        return (now // _TICK + spread) & _MASK
