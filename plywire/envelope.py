"""Messages to bytes and back: the only module that knows msgpack.

A ZeroMQ message carries one batch: the msgpack array `[schema, [kind, field, ...], ...]`. Decoding
is strict: version, kind, arity, type and size of every field. A bad message costs itself only, the
rest of its batch is delivered; a batch that is not such an array is dropped whole.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from itertools import product
from typing import Any, get_args, get_type_hints

import msgpack

from plywire.errors import DecodeError
from plywire.messages import KINDS, SCHEMA, Bin, Int, Map, Message, Rows, Scalar, Text

MAX_BATCH = 4 << 20
"""Bytes that a batch may have."""
MAX_MESSAGES = 4096
"""Messages that a batch may have."""

_LIMITS = {
    "raw": False,
    "use_list": False,
    "strict_map_key": True,
    "max_bin_len": MAX_BATCH,
    "max_str_len": 1 << 16,
    "max_array_len": MAX_MESSAGES + 1,
    "max_map_len": 4096,
    "max_ext_len": 0,
}

_packer = msgpack.Packer(use_bin_type=True, autoreset=True)
_pack = _packer.pack


def encode(messages: Iterable[Message]) -> bytes:
    """One batch of `messages`, in their order."""
    return _pack((SCHEMA, *[(message.KIND, *message) for message in messages]))


def decode(batch: bytes | memoryview) -> tuple[list[Message], list[DecodeError]]:
    """The good messages of a batch in order, and one error for each that had to be dropped."""
    if len(batch) > MAX_BATCH:
        return [], [DecodeError("batch_too_long", f"{len(batch)} bytes, {MAX_BATCH} at most")]
    try:
        rows = msgpack.unpackb(batch, **_LIMITS)
    except Exception as error:  # msgpack raises many kinds, ValueError and its own among them
        return [], [DecodeError("batch_not_msgpack", f"{type(error).__name__}: {error}"[:200])]
    if type(rows) is not tuple or not rows:
        return [], [DecodeError("batch_not_array", type(rows).__name__)]
    if rows[0] != SCHEMA or type(rows[0]) is not int:
        return [], [DecodeError("schema_version", f"{rows[0]!r:.40}, this one reads {SCHEMA}")]
    messages: list[Message] = []
    errors: list[DecodeError] = []
    for row in rows[1:]:
        try:
            message = _READERS[row[0]](row)
        except (LookupError, TypeError):  # another kind, or no kind at all
            message = None
        if message is not None:
            messages.append(message)
            continue
        try:
            messages.append(_message(row))
        except DecodeError as error:
            errors.append(error)
    return messages, errors


def dump_state(state: object) -> bytes:
    """A layer's snapshot as bytes: None, bool, int, str, bytes, list, tuple and dict of those."""
    return msgpack.packb(state, use_bin_type=True)


def load_state(data: bytes) -> Any:
    """What `dump_state` was given, with tuples as lists. Raises DecodeError when it is not that."""
    try:
        return msgpack.unpackb(data, raw=False, strict_map_key=False)
    except Exception as error:
        raise DecodeError("bad_snapshot", f"{type(error).__name__}: {error}"[:200]) from error


def _message(row: object) -> Message:
    if type(row) is not tuple or not row or type(row[0]) is not int:
        raise DecodeError("message_not_array", f"{row!r:.80}")
    checker = _CHECKERS.get(row[0])
    if checker is None:
        raise DecodeError("unknown_kind", f"{row[0]}")
    cls, types, sizes = checker
    fields = row[1:]
    if len(fields) != len(cls._fields):
        raise DecodeError(
            "bad_arity", f"{cls.__name__} has {len(cls._fields)} fields, not {len(fields)}"
        )
    if tuple(map(type, fields)) not in types:
        names = [getattr(kind, "__name__", "?") for kind in map(type, fields)]
        raise DecodeError("bad_type", f"{cls.__name__}({', '.join(names)})")
    for index, measure, low, high in sizes:
        value = fields[index]
        if measure is not None:
            value = measure(value)
        if not low <= value <= high:
            raise DecodeError("bad_size", f"{cls.__name__}.{cls._fields[index]}: {value}")
    return cls._make(fields)


def _rows_measure(spec: Rows) -> Callable[[tuple], int]:
    """A measure that is the number of rows when each is well formed, else -1."""
    types = tuple(int if isinstance(field, Int) else str if isinstance(field, Text) else bytes
                  for field in spec.fields)  # fmt: skip

    def measure(rows: tuple) -> int:
        for row in rows:
            if type(row) is not tuple or tuple(map(type, row)) != types:
                return -1
            for value, field in zip(row, spec.fields, strict=True):
                size = value if isinstance(field, Int) else len(value)
                if not getattr(field, "low", 0) <= size <= field.high:
                    return -1
        return len(rows)

    return measure


def _scalar_measure(spec: Scalar) -> Callable[[int | str], int]:
    """A measure that is 1 for a number or a word that may be, else -1."""

    def measure(value: int | str) -> int:
        if type(value) is str:
            return 1 if len(value) <= spec.length else -1
        return 1 if spec.low <= value <= spec.high else -1

    return measure


def _map_measure(pairs: dict) -> int:
    """The number of pairs when each is a short string and an integer or short string, else -1."""
    for key, value in pairs.items():
        if type(key) is not str or len(key) > 64:
            return -1
        if type(value) is not int and (type(value) is not str or len(value) > 200):
            return -1
    return len(pairs)


def _checker(cls: type) -> tuple[type, tuple[tuple[type, ...], ...], tuple]:
    """(class, what the exact types of its fields may be, (index, measure or None, low, high) of
    each)."""
    types, sizes = [], []
    hints = get_type_hints(cls, include_extras=True)
    for index, name in enumerate(cls._fields):
        hint = hints[name]
        spec = hint.__metadata__[0]
        types.append(get_args(hint.__origin__) or (hint.__origin__,))
        if isinstance(spec, Int):
            sizes.append((index, None, spec.low, spec.high))
        elif isinstance(spec, Bin):
            sizes.append((index, len, spec.low, spec.high))
        elif isinstance(spec, Text):
            sizes.append((index, len, 0, spec.high))
        elif isinstance(spec, Rows):
            sizes.append((index, _rows_measure(spec), 0, spec.high))
        elif isinstance(spec, Map):
            sizes.append((index, _map_measure, 0, spec.high))
        elif isinstance(spec, Scalar):
            sizes.append((index, _scalar_measure(spec), 0, 1))
        else:
            raise TypeError(f"{cls.__name__}.{name}: no check for {spec!r}")
    return cls, tuple(product(*types)), tuple(sizes)


def _reader(cls: type) -> Callable[[tuple], Message | None] | None:
    """A function that is `_message` for a good row of this class, None for all others: one
    expression written from the fields, as NamedTuple itself is made. None when there are maps or
    rows in it.

    The loop of `_message` costs three times as much, and a packet is a message five
    times on its way. What is wrong with a bad row it alone says.
    """
    hints = get_type_hints(cls, include_extras=True)
    names = [f"_{index}" for index in range(len(cls._fields))]
    terms = ["type(kind) is int"]
    for name, field in zip(names, cls._fields, strict=True):
        spec = hints[field].__metadata__[0]
        if isinstance(spec, Int):
            terms.append(f"type({name}) is int and {spec.low} <= {name} <= {spec.high}")
        elif isinstance(spec, Bin):
            terms.append(f"type({name}) is bytes and {spec.low} <= len({name}) <= {spec.high}")
        elif isinstance(spec, Text):
            terms.append(f"type({name}) is str and len({name}) <= {spec.high}")
        else:
            return None
    source = f"""def read(row):
    if type(row) is tuple and len(row) == {1 + len(names)}:
        kind, {", ".join(names)} = row
        if {" and ".join(terms)}:
            return new(cls, row[1:])
"""
    scope = {"cls": cls, "new": tuple.__new__}
    exec(source, scope)
    return scope["read"]


_CHECKERS = {kind: _checker(cls) for kind, cls in KINDS.items()}
_READERS = {kind: read for kind, cls in KINDS.items() if (read := _reader(cls)) is not None}
