"""Strategies and checks that the tests of the codecs share."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import pytest
from hypothesis import strategies as st

from plywire.errors import DecodeError

U8 = st.integers(0, 0xFF)
U16 = st.integers(0, 0xFFFF)
U32 = st.integers(0, 0xFFFF_FFFF)
ADDRESS = st.binary(min_size=4, max_size=4)
MAC = st.binary(min_size=6, max_size=6)
PAYLOAD = st.binary(max_size=64)


def reference_checksum(data: bytes) -> int:
    """RFC 1071 as it is written: 16-bit words added with the carry brought round."""
    if len(data) % 2:
        data += b"\0"
    total = 0
    for index in range(0, len(data), 2):
        total += data[index] << 8 | data[index + 1]
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def flipped(data: bytes, bits: Iterable[int]) -> Iterable[tuple[int, bytes]]:
    """(bit, data with it changed) for each of bits; bit 0 is the highest of the first byte."""
    for bit in bits:
        changed = bytearray(data)
        changed[bit // 8] ^= 0x80 >> bit % 8
        yield bit, bytes(changed)


def refused(decode: Callable[[bytes], object], data: bytes, reason: str = "") -> None:
    """Decoding raises DecodeError, with this reason if one is given."""
    with pytest.raises(DecodeError) as caught:
        decode(data)
    if reason:
        assert caught.value.reason == reason


def survived(decode: Callable[[bytes], object], data: bytes) -> None:
    """Decoding gives something or raises DecodeError, and nothing else."""
    try:
        decode(data)
    except DecodeError:
        return
