"""The internet checksum (RFC 1071), the pseudo header and the incremental update (RFC 1624)."""

from __future__ import annotations

import random

from hypothesis import example, given
from hypothesis import strategies as st
from wire_strategies import ADDRESS, U8, U16, reference_checksum

from plywire.wire.checksum import checksum, pseudo_header, update


@given(st.binary(max_size=200))
@example(b"")
@example(b"\0\0")
@example(b"\xff\xff")
@example(b"\xff\xff\xff\xff")
@example(b"\xff")
@example(b"\0\1\xff\xfe")
def test_checksum_agrees_with_the_rfc(data):
    assert checksum(data) == reference_checksum(data)
    assert checksum(memoryview(data)) == reference_checksum(data)


@given(st.integers(0, 3000), st.randoms(use_true_random=False))
@example(48, random.Random(1))
@example(49, random.Random(1))
@example(1480, random.Random(1))
@example(65_515, random.Random(1))
def test_long_data_is_summed_alike(length, rng):
    for data in (rng.randbytes(length), b"\xff" * length, bytes(length)):
        assert checksum(data) == reference_checksum(data)


def test_example_of_the_rfc():
    """RFC 1071 section 3: the sum of these words is DDF2."""
    assert checksum(bytes.fromhex("0001f203f4f5f6f7")) == ~0xDDF2 & 0xFFFF


@given(st.binary(min_size=2, max_size=100).filter(lambda data: any(data[2:])))
def test_written_into_the_data_it_makes_the_sum_zero(data):
    data = b"\0\0" + data[2:]
    assert checksum(checksum(data).to_bytes(2, "big") + data[2:]) == 0


@given(ADDRESS, ADDRESS, U8, st.binary(max_size=100))
def test_pseudo_header_counts_as_its_twelve_bytes(src, dst, protocol, data):
    head = src + dst + bytes((0, protocol)) + len(data).to_bytes(2, "big")
    partial = pseudo_header(src, dst, protocol, len(data))
    assert checksum(data, partial) == reference_checksum(head + data)


@given(st.lists(U16, min_size=3, max_size=12), st.data())
def test_update_agrees_with_a_new_sum(words, data):
    words[0] = 0x4500  # an IPv4 header is never all zeros, where ones' complement is ambiguous
    index = data.draw(st.integers(1, len(words) - 1))
    new = data.draw(U16)
    before = checksum(b"".join(word.to_bytes(2, "big") for word in words))
    changed = [*words[:index], new, *words[index + 1 :]]
    after = checksum(b"".join(word.to_bytes(2, "big") for word in changed))
    assert update(before, words[index], new) == after


def test_update_of_the_case_that_rfc_1141_got_wrong():
    """RFC 1624 section 4."""
    assert update(0xDD2F, 0x5555, 0x3285) == 0x0000
