"""The document's table of settings is the one in the code."""

from __future__ import annotations

from tests.house.settings_table import settings_table
from tests.house.tree import ROOT


def test_the_documented_settings_are_those_of_the_code() -> None:
    text = (ROOT / "backend" / "OPERATIONS.md").read_text(encoding="utf-8")
    assert settings_table() in text, "make it anew: python -m tests.house.settings_table"
