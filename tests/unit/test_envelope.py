"""Batches: every kind of message there and back, and everything that is wrong with one, by name."""

from __future__ import annotations

from typing import get_type_hints

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from plywire.envelope import MAX_BATCH, MAX_MESSAGES, decode, dump_state, encode, load_state
from plywire.errors import DecodeError
from plywire.messages import (
    KINDS,
    MAX_CHUNK,
    MAX_FRAME,
    MAX_PACKET,
    SCHEMA,
    Accepted,
    Bin,
    Credit,
    Data,
    Datagram,
    Frame,
    Hello,
    Int,
    Map,
    Option,
    Paths,
    Rows,
    Scalar,
    Segment,
    Text,
)

GOOD = Credit(1, 2, 3, 4)


def of(spec: object) -> st.SearchStrategy:
    """Values that a field with this annotation may have."""
    if isinstance(spec, Int):
        return st.integers(spec.low, spec.high)
    if isinstance(spec, Bin):
        return st.binary(min_size=spec.low, max_size=min(spec.high, 100))
    if isinstance(spec, Text):
        return st.text(st.characters(exclude_categories=["Cs"]), max_size=spec.high)
    if isinstance(spec, Rows):
        return st.lists(st.tuples(*map(of, spec.fields)), max_size=4).map(tuple)
    if isinstance(spec, Scalar):
        words = st.text(st.characters(exclude_categories=["Cs"]), max_size=spec.length)
        return st.integers(spec.low, spec.high) | words
    assert isinstance(spec, Map)
    numbers = st.integers(-(2**63), 2**64 - 1)
    return st.dictionaries(st.text(max_size=64), numbers | st.text(max_size=200), max_size=5)


def messages_of(cls: type) -> st.SearchStrategy:
    hints = get_type_hints(cls, include_extras=True)
    return st.builds(cls, *(of(hints[name].__metadata__[0]) for name in cls._fields))


ANY = st.one_of(*map(messages_of, KINDS.values()))


def batch(*rows: object, schema: object = SCHEMA) -> bytes:
    return msgpack.packb([schema, *rows])


def reasons(data: bytes) -> list[str]:
    return [error.reason for error in decode(data)[1]]


def row(message: tuple, **changes: object) -> list:
    """The message as an array, some fields replaced by what its class would not allow."""
    fields = message._asdict() | changes
    return [message.KIND, *fields.values()]


# --- there and back -------------------------------------------------------------------------------


@pytest.mark.parametrize("cls", KINDS.values(), ids=lambda cls: cls.__name__)
@given(st.data())
def test_every_kind_comes_back_as_it_was(cls, data):
    message = data.draw(messages_of(cls))
    ((found,), errors) = decode(encode([message]))
    assert errors == []
    assert found == message
    assert type(found) is cls


def wrong(spec: object) -> list[object]:
    """Values that a field with this annotation may not have: of other types, and just too far."""
    others = [None, 1.0, True, [], {}]
    if isinstance(spec, Int):
        return [
            *others,
            b"1",
            "1",
            spec.low - 1,
            *([spec.high + 1] if spec.high < 2**64 - 1 else []),
        ]
    if isinstance(spec, Bin):
        short = [b"x" * (spec.low - 1)] if spec.low else []
        return [*others, 1, "1234", b"x" * (spec.high + 1), *short]
    if isinstance(spec, Text):
        return [*others, 1, b"x", "x" * (spec.high + 1)]
    if isinstance(spec, Rows):
        return [None, 1.0, True, {}, 1, b"x", "x", [[]]]
    if isinstance(spec, Scalar):
        return [*others, b"x", spec.low - 1, "x" * (spec.length + 1)]
    return [None, 1.0, True, [], 1, b"x", "x", {"x": 1.5}]


@pytest.mark.parametrize("cls", KINDS.values(), ids=lambda cls: cls.__name__)
@given(st.data())
def test_each_field_of_each_kind_is_checked(cls, data):
    message = data.draw(messages_of(cls))
    hints = get_type_hints(cls, include_extras=True)
    for name in cls._fields:
        for value in wrong(hints[name].__metadata__[0]):
            found, errors = decode(batch(row(message, **{name: value})))
            assert found == [], (name, value)
            assert [error.reason for error in errors] in (["bad_type"], ["bad_size"]), (name, value)


@given(st.lists(ANY, max_size=10))
def test_batch_keeps_its_order(messages):
    assert decode(memoryview(encode(messages))) == (messages, [])


@pytest.mark.parametrize(
    "message",
    [
        Data(1, 2, 0, b"x" * MAX_CHUNK),
        Datagram(1, 1, b"\0" * 4, 0, b"x" * MAX_PACKET),
        Segment(1, 6, b"\0" * 4, b"\0" * 4, 255, 255, 255, b"x" * MAX_PACKET),
        Frame(1, 1, 2**64 - 1, b"x" * MAX_FRAME),
        Paths(0, ((b"\0" * 4, 32, b"\0" * 4, 68),) * 1024),
        Option(1, 2, "é" * 64, 2**32 - 1),
    ],
    ids=lambda message: type(message).__name__,
)
def test_the_largest_come_back_too(message):
    assert decode(encode([message])) == ([message], [])


def test_kinds_are_told_apart():
    assert len(KINDS) == len(set(KINDS.values()))
    for cls in KINDS.values():
        assert cls._fields[0] == "trace"


# --- what is wrong with a batch -------------------------------------------------------------------


@pytest.mark.parametrize("schema", [0, 1, SCHEMA + 1, -1, "1", 1.0, True, None, [1]])
def test_other_versions_are_refused_whole(schema):
    assert decode(batch(row(GOOD), schema=schema))[0] == []
    assert reasons(batch(row(GOOD), schema=schema)) == ["schema_version"]


@pytest.mark.parametrize("data", [b"\x80", b"\xc0", b"\x01", b"\x90", b"\xa3abc", b"\xc4\x01x"])
def test_what_is_no_array_is_refused(data):
    assert reasons(data) == ["batch_not_array"]


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\xc1",
        b"\x92\x01",
        batch(row(GOOD)) + b"\0",
        batch(row(GOOD))[:-1],
        b"\x91" * 100_000,
        b"\x81\x01" * 3000 + b"\x01",
        b"\xdd\xff\xff\xff\xff",
        b"\xc6\xff\xff\xff\xff",
        b"\xdf\x7f\xff\xff\xff",
        b"\x92\x01\xd6\xff\0\0\0\0",
        b"\x92\x01\xc7\x01\x05x",
        b"\x92\x01\xa2\xff\xfe",
        b"\x92\x01\x81\x01\x01",
        msgpack.packb([SCHEMA, *[[1]] * (MAX_MESSAGES + 1)]),
    ],
    ids=lambda data: data[:6].hex(),
)
def test_what_is_no_msgpack_or_out_of_bounds_is_refused(data):
    assert reasons(data) == ["batch_not_msgpack"]


def test_batch_too_long_is_not_even_read():
    assert reasons(bytes(MAX_BATCH + 1)) == ["batch_too_long"]


def test_the_longest_batch_is_read():
    good, errors = decode(encode([Accepted(1, 2)] * MAX_MESSAGES))
    assert (len(good), errors) == (MAX_MESSAGES, [])


# --- what is wrong with a message -----------------------------------------------------------------

BAD = [
    (None, "message_not_array"),
    (7, "message_not_array"),
    ([], "message_not_array"),
    (["65", 1, 2, 3, 4], "message_not_array"),
    ([True, 1, "tcp", 1, 1], "message_not_array"),
    ({}, "message_not_array"),
    ([0], "unknown_kind"),
    ([999, 1], "unknown_kind"),
    ([-1, 1], "unknown_kind"),
    ([65, 1, 2, 3, 4], "bad_arity"),
    ([65, 1, 2, 3, 4, 5, 6], "bad_arity"),
    ([65], "bad_arity"),
    (row(GOOD, acked="3"), "bad_type"),
    (row(GOOD, acked=3.0), "bad_type"),
    (row(GOOD, acked=True), "bad_type"),
    (row(GOOD, acked=None), "bad_type"),
    (row(GOOD, acked=-1), "bad_size"),
    (row(Hello(0, "tcp", 1, 0), role=b"tcp"), "bad_type"),
    (row(Hello(0, "tcp", 1, 0), role="x" * 65), "bad_size"),
    (row(Hello(0, "tcp", 1, 0), reply=2), "bad_size"),
    (row(Data(1, 2, 0, b""), payload="text"), "bad_type"),
    (row(Data(1, 2, 0, b""), payload=bytes(MAX_CHUNK + 1)), "bad_size"),
    (row(Datagram(1, 1, b"....", 0, b""), next_hop=b"..."), "bad_size"),
    (row(Datagram(1, 1, b"....", 0, b""), next_hop=b"....."), "bad_size"),
    (row(Datagram(1, 1, b"....", 0, b""), ifindex=65_536), "bad_size"),
    (row(Datagram(1, 1, b"....", 0, b""), flags=256), "bad_size"),
    (row(Datagram(1, 1, b"....", 0, b""), packet=bytes(MAX_PACKET + 1)), "bad_size"),
    (row(Paths(0, ()), rows=7), "bad_type"),
    (row(Paths(0, ()), rows=[7]), "bad_size"),
    (row(Paths(0, ()), rows=[[b"....", 24, b"...."]]), "bad_size"),
    (row(Paths(0, ()), rows=[[b"....", 24, b"....", 1500, 1]]), "bad_size"),
    (row(Paths(0, ()), rows=[[b"....", 33, b"....", 1500]]), "bad_size"),
    (row(Paths(0, ()), rows=[[b"....", 24, b"....", 67]]), "bad_size"),
    (row(Paths(0, ()), rows=[[b"...", 24, b"....", 1500]]), "bad_size"),
    (row(Paths(0, ()), rows=[["....", 24, b"....", 1500]]), "bad_size"),
    (row(Paths(0, ()), rows=[[b"....", True, b"....", 1500]]), "bad_size"),
    (row(Paths(0, ()), rows=[[b"....", 24, b"....", 1500]] * 1025), "bad_size"),
    ([50, 1, 2, 3, [1]], "bad_type"),
    ([50, 1, 2, 3, {"x" * 65: 1}], "bad_size"),
    ([50, 1, 2, 3, {"x": "y" * 201}], "bad_size"),
    ([50, 1, 2, 3, {"x": 1.5}], "bad_size"),
    ([50, 1, 2, 3, {"x": True}], "bad_size"),
    ([50, 1, 2, 3, {"x": [1]}], "bad_size"),
    ([50, 1, 2, 3, {b"x": 1}], "bad_size"),
    ([50, 1, 2, 3, {str(number): 1 for number in range(65)}], "bad_size"),
]


@pytest.mark.parametrize(("bad", "reason"), BAD)
def test_bad_message_is_named_and_costs_itself_only(bad, reason):
    good, errors = decode(batch(row(GOOD), bad, row(GOOD)))
    assert good == [GOOD, GOOD]
    assert [error.reason for error in errors] == [reason]
    assert len(str(errors[0])) < 300


def test_each_bad_message_is_counted():
    wrong = [bad for bad, _ in BAD]
    assert reasons(batch(*wrong)) == [reason for _, reason in BAD]


@given(st.binary(max_size=300))
def test_any_bytes_are_survived(data):
    good, errors = decode(data)
    assert good or errors or data == batch()


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats(allow_nan=False)
    | st.binary(max_size=8) | st.text(st.characters(exclude_categories=["Cs"]), max_size=8),
    lambda inner: st.lists(inner, max_size=5)
    | st.dictionaries(st.text(max_size=4) | st.binary(max_size=4), inner, max_size=3),
    max_leaves=12,
)  # fmt: skip
ROWS = st.one_of(
    VALUES,
    st.lists(VALUES, max_size=10),
    st.tuples(st.sampled_from(sorted(KINDS)), st.lists(VALUES, max_size=10)).map(
        lambda item: [item[0], *item[1]]
    ),
    ANY.flatmap(
        lambda message: st.tuples(st.integers(0, len(message) - 1), VALUES).map(
            lambda change: [
                message.KIND,
                *message[: change[0]],
                change[1],
                *message[change[0] + 1 :],
            ]
        )
    ),
)


@given(st.lists(ROWS, max_size=6))
def test_each_row_is_a_message_that_fits_its_class_or_an_error(rows):
    good, errors = decode(batch(*rows))
    assert len(good) + len(errors) == len(rows)
    assert decode(encode(good)) == (good, [])


@given(ANY, st.data())
def test_any_damage_to_a_batch_is_survived(message, data):
    packed = bytearray(encode([message, GOOD]))
    for _ in range(data.draw(st.integers(1, 3))):
        packed[data.draw(st.integers(0, len(packed) - 1))] = data.draw(st.integers(0, 255))
    decode(bytes(packed))
    decode(bytes(packed[: data.draw(st.integers(0, len(packed)))]))


# --- snapshots ------------------------------------------------------------------------------------

STATES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.binary() | st.text(
        st.characters(exclude_categories=["Cs"])
    ),
    lambda inner: st.lists(inner, max_size=4)
    | st.dictionaries(st.integers(0, 99) | st.text(max_size=5), inner, max_size=4),
    max_leaves=10,
)  # fmt: skip


@given(STATES)
def test_state_comes_back(state):
    assert load_state(dump_state(state)) == state


def test_tuples_come_back_as_lists():
    assert load_state(dump_state({"a": (1, (2, b"x"))})) == {"a": [1, [2, b"x"]]}


@pytest.mark.parametrize("data", [b"", b"\xc1", b"\x92\x01", b"\x01\x02"])
def test_what_is_no_state_is_refused(data):
    with pytest.raises(DecodeError) as caught:
        load_state(data)
    assert caught.value.reason == "bad_snapshot"
