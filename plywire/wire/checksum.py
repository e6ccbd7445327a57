"""The internet checksum (RFC 1071), its incremental update (RFC 1624) and the pseudo header.

A sum of 16-bit words in ones' complement is the number modulo 65535, and Python works on a long
integer faster than it can loop over words. Dividing it costs the most, so one that is long is
folded first: 2^16 is 1 modulo 65535, so what is above a whole number of words may be added to what
is below.
"""

from __future__ import annotations

_FOLDED = 48
"""Bytes that are divided as they are: a header, with its pseudo header."""
_FOLDS = tuple((bits, (1 << bits) - 1) for bits in (6144, 3072, 1536, 768, 384))
"""Each halves what is left of a frame's 1,500 bytes; a longer one only takes longer to divide."""


def checksum(data: bytes | memoryview, initial: int = 0) -> int:
    """The 16-bit checksum to write into a header: 0 when written there already and intact.

    data: a zero byte is understood behind an odd length; initial: a partial sum, as
    `pseudo_header` gives it.
    """
    size = len(data)
    total = int.from_bytes(data, "big")
    if size & 1:
        total <<= 8
    total += initial
    if size > _FOLDED:
        for bits, mask in _FOLDS:
            total = (total >> bits) + (total & mask)
    rest = total % 0xFFFF
    if rest:
        return 0xFFFF - rest
    return 0 if total else 0xFFFF


def pseudo_header(src: bytes, dst: bytes, protocol: int, length: int) -> int:
    """The partial sum of the IPv4 pseudo header (RFC 9293 section 3.1): addresses of 4 bytes."""
    return int.from_bytes(src, "big") + int.from_bytes(dst, "big") + protocol + length


def update(old_checksum: int, old_word: int, new_word: int) -> int:
    """The checksum after one 16-bit word has changed (RFC 1624, equation 3)."""
    total = (~old_checksum & 0xFFFF) + (~old_word & 0xFFFF) + new_word
    total = (total & 0xFFFF) + (total >> 16)
    total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF
