# SPDX-License-Identifier: BSD-3-Clause
"""docs/recovery.md: every row of its tables names tests that exist and look for the message that the row has."""

import ast
import re
from pathlib import Path

import pytest

TESTS = Path(__file__).resolve().parents[1]
DOCUMENT = (TESTS.parent / "docs" / "recovery.md").read_text()
ALIASES = dict(re.findall(r"`(\w+)`\s+(?:stands\s+)?for\s+`([\w/]+\.py)`", DOCUMENT))
# What stands for something else in a message: N, M, B, an ellipsis, a date.
_TELLING = 6
"""Characters that a test has to look for at least."""
VARIABLE = re.compile(r"\b[A-Z]\b|\.\.\.|\d[\d:-]*")


def tables():
    """Each table as a list of rows of cells, the header first."""
    found, rows = [], []
    for line in [*DOCUMENT.splitlines(), ""]:
        if line.startswith("| ---"):
            continue
        if line.startswith("| "):
            rows.append([cell.strip() for cell in line.strip("|").split(" | ")])
        elif rows and not line.startswith("|"):
            found.append(rows)
            rows = []
    return found


ROWS = {row[0]: row for table in tables() for row in table[1:]}


def names_of(row):
    """Path and names inside it of each test in the row's last cell."""
    for text in re.findall(r"`([^`]+)`", row[-1]):
        place, *inside = text.split("::")
        yield TESTS / ALIASES.get(place, place), inside


def strings_of(path, inside):
    """The text constants of a test, and of what its module has beside tests: they can be in a constant or a helper."""
    body = ast.parse(path.read_text()).body
    nodes = [one for one in body if not inside or not getattr(one, "name", "").lower().startswith("test")]
    for name in inside:
        found = [one for one in body if getattr(one, "name", None) == name]
        assert found, f"{path.name} has no {'::'.join(inside)}"
        body = found[0].body
    nodes += body if inside else []
    values = [one.value for node in nodes for one in ast.walk(node) if isinstance(one, ast.Constant)]
    return [value for value in values if isinstance(value, str)]


def messages_of(row):
    """The parts of what the row quotes that are the same whenever it is said."""
    quoted = re.findall(r'"([^"]+)"', " ".join(row[1:-1]))
    return [max((part.strip(" ,:()") for part in VARIABLE.split(text)), key=len) for text in quoted]


def test_the_document_was_read():
    assert len(tables()) >= 5
    assert len(ROWS) == sum(len(table) - 1 for table in tables()) >= 40
    assert len(ALIASES) >= 3


def test_every_table_names_tests():
    assert [table[0][-1] for table in tables()] == ["test"] * len(tables())
    assert not [row for table in tables() for row in table if len(row) != len(table[0])]


@pytest.mark.parametrize("case", ROWS)
def test_a_row_names_tests_that_exist(case):
    tests = list(names_of(ROWS[case]))
    assert tests
    for path, inside in tests:
        assert path.is_file(), path
        strings_of(path, inside)
        assert not inside or inside[-1].startswith(("test_", "Test")), inside


@pytest.mark.parametrize("case", ROWS)
def test_the_tests_of_a_row_look_for_what_it_says(case):
    """A row that quotes no message names a test, and not a file full of them."""
    row = ROWS[case]
    strings = {text.strip(" .*") for path, inside in names_of(row) for text in strings_of(path, inside)}
    wanted = {text for text in strings if len(text) >= _TELLING}
    missing = [said for said in messages_of(row) if not any(text in said or said in text for text in wanted)]
    assert not missing
    assert messages_of(row) or any(inside for _, inside in names_of(row))
