"""Sequence number arithmetic modulo 2**32."""

from __future__ import annotations

from hypothesis import example, given
from hypothesis import strategies as st

from plywire import seq

NUMBERS = st.integers(0, seq.MOD - 1)
NEAR = st.integers(-(2**31) + 1, 2**31 - 1)


@given(NUMBERS, NEAR)
@example(0xFFFF_FFFF, 1)
@example(0, -1)
@example(0x7FFF_FFFF, 1)
@example(5, 0)
def test_order_is_that_of_the_distance(a, distance):
    b = seq.add(a, distance)
    assert 0 <= b < seq.MOD
    assert seq.sub(b, a) == distance
    assert seq.sub(a, b) == -distance
    assert seq.lt(a, b) == (distance > 0) == seq.gt(b, a)
    assert seq.le(a, b) == (distance >= 0) == seq.ge(b, a)
    assert seq.largest(a, b) == (b if distance > 0 else a) == seq.largest(b, a)
    assert seq.smallest(a, b) == (a if distance > 0 else b) == seq.smallest(b, a)


@given(NUMBERS, st.integers(0, 2**31 - 1), st.integers(-(2**31), 2**31 - 1))
def test_window_is_half_open(low, size, distance):
    inside = seq.between(low, seq.add(low, distance), seq.add(low, size))
    assert inside == (0 <= distance < size)


def test_window_across_the_wrap():
    assert seq.between(0xFFFF_FFF0, 0xFFFF_FFFF, 0x10)
    assert seq.between(0xFFFF_FFF0, 0, 0x10)
    assert not seq.between(0xFFFF_FFF0, 0x10, 0x10)
    assert not seq.between(7, 7, 7)
