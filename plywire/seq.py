"""Sequence number arithmetic modulo 2**32 (RFC 9293 section 3.4).

Every comparison of sequence numbers goes through here. Two numbers are compared by the sign of
their difference, so they must be less than 2**31 apart.
"""

from __future__ import annotations

MOD = 1 << 32
_MASK = MOD - 1
_HALF = 1 << 31


def add(a: int, n: int) -> int:
    """a + n, modulo 2**32; n may be negative."""
    return (a + n) & _MASK


def sub(a: int, b: int) -> int:
    """How far a is ahead of b, as a signed number: negative when a is before b."""
    return ((a - b + _HALF) & _MASK) - _HALF


def lt(a: int, b: int) -> bool:
    """a is before b."""
    return ((a - b) & _MASK) >= _HALF


def le(a: int, b: int) -> bool:
    """a is b or before it."""
    return ((b - a) & _MASK) < _HALF


def gt(a: int, b: int) -> bool:
    """a is after b."""
    return ((b - a) & _MASK) >= _HALF


def ge(a: int, b: int) -> bool:
    """a is b or after it."""
    return ((a - b) & _MASK) < _HALF


def between(low: int, x: int, high: int) -> bool:
    """low <= x < high: x is in the half-open window."""
    return ((x - low) & _MASK) < ((high - low) & _MASK)


def largest(a: int, b: int) -> int:
    """The later of the two."""
    return a if ge(a, b) else b


def smallest(a: int, b: int) -> int:
    """The earlier of the two."""
    return a if le(a, b) else b
