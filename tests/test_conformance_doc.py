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
ROWS = {
    9293: 94, 1122: 94, 894: 6, 826: 10, 5227: 14, 791: 12, 792: 12, 815: 5, 6864: 6, 1858: 3,
    3128: 2, 1071: 3, 1624: 2, 768: 4, 1191: 10, 5927: 7, 6633: 5, 6918: 2, 6298: 18, 5681: 26,
    6582: 7, 3042: 4, 6928: 5, 7323: 24, 2018: 13, 2883: 5, 6675: 15, 8985: 20, 9438: 16, 9937: 6,
    9406: 7, 5682: 9, 5961: 8, 6056: 6, 4987: 7, 6191: 5, 1337: 4, 3168: 26, 5482: 4, 896: 3,
}  # fmt: skip
"""Whose clauses the page goes through, in its order, and in how many rows at least: what the MUSTs
and SHOULDs of each came to when it was gone through. A row may be added, but none may vanish."""


@pytest.mark.parametrize("kind", NUMBERS)
def test_every_number_of_appendix_b_has_a_row(kind):
    numbered = set()
    for clause, _, _ in rows():
        for low, high in re.findall(rf"{kind}-(\d+)(?: to {kind}-(\d+))?", clause):
            numbered |= set(range(int(low), int(high or low) + 1))
    assert numbered == set(NUMBERS[kind])


def sections() -> list[tuple[int, int]]:
    """(RFC, rows) of every section that is headed by one."""
    found: list[list[int]] = []
    for line in PAGE.read_text().splitlines():
        heading = re.match(r"## (?:RFC (\d+)\b)?", line)
        if heading:
            found.append([int(heading[1] or 0), 0])
        elif line.startswith("|") and not line.startswith(("| clause |", "|---")):
            found[-1][1] += 1
    return [(number, count) for number, count in found if number]


@pytest.mark.parametrize("number", ROWS)
def test_every_rfc_has_its_rows(number):
    assert sum(count for rfc, count in sections() if rfc == number) >= ROWS[number]


def test_sections_are_in_the_order_of_the_list():
    assert list(dict.fromkeys(number for number, _ in sections())) == list(ROWS)
