"""proto/pipes.md describes each message exactly as the code checks it."""

import re
from pathlib import Path
from typing import get_type_hints

import pytest

from plywire import messages
from plywire.messages import KINDS

TEXT = (Path(__file__).parents[2] / "proto" / "pipes.md").read_text()

TYPE_NAMES = {
    messages.U8: "u8",
    messages.U16: "u16",
    messages.U32: "u32",
    messages.U64: "u64",
    messages.Flag: "flag",
    messages.Address: "address",
    messages.Mac: "mac",
    messages.Packet: "packet",
    messages.FrameBytes: "frame",
    messages.Chunk: "chunk",
    messages.Name: "name",
    messages.Words: "words",
    messages.Endpoint: "endpoint",
    messages.Setting: "setting",
    messages.Settings: "settings",
    messages.PathRows: "rows",
    messages.MemberRows: "rows",
}


def documented() -> dict[int, tuple[str, list[tuple[str, str]]]]:
    """kind -> (class name, [(field, type)]) as the page has them."""
    found = {}
    for section in re.split(r"^### ", TEXT, flags=re.MULTILINE)[1:]:
        name, kind = re.match(r"(\w+) \((\d+)\)", section).groups()
        body = re.split(r"^## ", section, flags=re.MULTILINE)[0]
        rows = re.findall(r"^\| (\w+) \| (\w+) \|", body, flags=re.MULTILINE)
        found[int(kind)] = (name, [row for row in rows if row != ("field", "type")])
    return found


def test_the_page_has_all_messages_and_no_others():
    assert {kind: name for kind, (name, _) in documented().items()} == {
        kind: cls.__name__ for kind, cls in KINDS.items()
    }


@pytest.mark.parametrize("kind", KINDS)
def test_fields_are_documented_in_order_with_their_types(kind):
    cls = KINDS[kind]
    hints = get_type_hints(cls, include_extras=True)
    assert cls._fields[0] == "trace"
    expected = [(field, TYPE_NAMES[hints[field]]) for field in cls._fields[1:]]
    assert documented()[kind][1] == expected


def test_the_page_names_the_schema_version():
    assert f"the schema's version, {messages.SCHEMA}." in TEXT
