"""docs/conformance.md: each row has tests that exist, or says why it has none."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path

import pytest

TESTS = Path(__file__).parent
PAGE = TESTS.parent / "docs" / "conformance.md"
NAME = re.compile(r"`([^`]*)::(test_\w+)`")
EXCUSE = "not supported, because "


def rows() -> list[tuple[str, str, str]]:
    """(clause, what, tests) of every table."""
    found = []
    for line in PAGE.read_text().splitlines():
        if line.startswith("|") and not line.startswith(("| clause |", "|---")):
            cells = [cell.strip() for cell in line.strip("|").split("|")]
            assert len(cells) == 3, line
            found.append(tuple(cells))
    return found


def named_in(cell: str) -> list[tuple[str, str]]:
    """(file, name) of each test in a cell; `::name` is in the file before it."""
    found, file = [], ""
    for path, name in NAME.findall(cell):
        file = path or file
        found.append((file, name))
    return found


@cache
def functions_of(file: str) -> frozenset[str]:
    tree = ast.parse((TESTS / file).read_text())
    return frozenset(node.name for node in tree.body if isinstance(node, ast.FunctionDef))


@pytest.mark.parametrize("row", rows(), ids=lambda row: row[0])
def test_a_row_has_tests_that_exist_or_a_reason(row):
    clause, what, cell = row
    assert clause
    assert what
    if cell.startswith(EXCUSE):
        assert len(cell) > len(EXCUSE) + 10
        return
    named = named_in(cell)
    assert named
    assert NAME.sub("", cell).strip(", ") == "", "something that is no test"
    for file, name in named:
        assert name in functions_of(file), f"{file} has no {name}"


NUMBERS = {"MUST": range(1, 70), "SHLD": range(1, 32)}
"""Of RFC 9293, appendix B (Table 8): both are numbered without a gap."""
RFCS = (
    894, 826, 5227, 791, 792, 815, 6864, 1858, 3128, 1071, 1624, 768, 1191, 5927, 6633, 6918, 6298,
    5681, 6582, 3042, 6928, 7323, 2018, 2883, 6675, 8985, 9438, 9937, 9406, 5682, 5961, 9293, 6056,
    4987, 6191, 1337, 3168, 5482, 896, 1122,
)  # fmt: skip
"""Whose clauses the page goes through."""


@pytest.mark.parametrize("kind", NUMBERS)
def test_every_number_of_appendix_b_has_a_row(kind):
    numbered = set()
    for clause, _, _ in rows():
        for low, high in re.findall(rf"{kind}-(\d+)(?: to {kind}-(\d+))?", clause):
            numbered |= set(range(int(low), int(high or low) + 1))
    assert numbered == set(NUMBERS[kind])


@pytest.mark.parametrize("number", RFCS)
def test_every_rfc_has_a_row(number):
    headings = re.findall(r"^## RFC (\d+)", PAGE.read_text(), re.MULTILINE)
    clauses = [clause for clause, _, _ in rows()]
    assert str(number) in headings or any(re.search(rf"\b{number}\b", clause) for clause in clauses)
