"""The page on security has a row for every situation, and names tests that exist."""

from __future__ import annotations

import re

import pytest
from tests.house.tree import ROOT, modules_of_tests, told

PAGE = (ROOT / "docs" / "security.md").read_text(encoding="utf-8")
ROWS = [[cell.strip() for cell in line.strip("|").split("|")] for line in PAGE.splitlines() if line.startswith("| S")]
NAMED = re.compile(r"`(tests/[\w/]+\.py)::(test_\w+)`")


def test_every_situation_has_its_row_in_order() -> None:
    assert [row[0] for row in ROWS] == [f"S{number}" for number in range(1, 33)]
    assert all(len(row) == 4 and all(row) for row in ROWS)


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row[0])
def test_what_holds_a_row_is_a_test_that_exists(row: list[str]) -> None:
    there = {(module.path, function.name) for module in modules_of_tests() for function in module.functions()}
    named = NAMED.findall(row[3])
    assert named, "no test holds this row"
    assert NAMED.sub("", row[3]).strip() == ""
    assert not [one for one in named if one not in there], told(one for one in named if one not in there)
