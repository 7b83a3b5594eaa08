"""The page on providers says what the code does: the table, every key of a section, and examples that can be used."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest
from tests.house.providers_table import OTHERS, providers_table
from tests.house.tree import ROOT, told

from everstream.config import load
from everstream.endpoint_settings import PRESET_NAMES, TAKEN_NAMES, EndpointSettings
from everstream.providers.discovery import KEPT_S, USUAL, WITHIN_S
from everstream.providers.presets import PRESETS, endpoints_of

PAGE = (ROOT / "docs" / "providers.md").read_text(encoding="utf-8")
OPERATIONS = (ROOT / "backend" / "OPERATIONS.md").read_text(encoding="utf-8")
EXAMPLES = re.findall(r"^```toml\n(.*?)^```", PAGE + OPERATIONS, re.DOTALL | re.MULTILINE)


@pytest.fixture(autouse=True)
def _quiet_surroundings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for variable in [name for name in os.environ if name.upper().startswith("EVERSTREAM_")]:
        monkeypatch.delenv(variable)
    monkeypatch.chdir(tmp_path)


def test_the_documented_providers_are_those_of_the_code() -> None:
    assert providers_table() in PAGE, "make it anew: python -m tests.house.providers_table"
    assert set(OTHERS) == set(TAKEN_NAMES)
    assert len(re.findall(r"^\| `[a-z]+`: ", PAGE, re.MULTILINE)) == len(PRESET_NAMES) + len(TAKEN_NAMES)


def test_every_key_of_a_section_is_explained_and_no_other() -> None:
    table = PAGE.partition("| key | what |")[2].partition("\n\n")[0]
    explained = [name for row in table.splitlines()[2:] for name in re.findall(r"`(\w+)`", row.split("|")[1])]
    assert sorted(explained) == sorted(EndpointSettings.model_fields)


def test_every_api_that_can_be_spoken_is_named() -> None:
    annotation = str(EndpointSettings.model_fields["api"].annotation)
    missing = [api for api in re.findall(r"'(\w+)'", annotation) if f"`{api}`" not in PAGE]
    assert not missing, told(missing)


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda text: re.findall(r"\w+\.[\w-]+", text)[0])
def test_an_example_is_a_settings_file_that_can_be_used(example: str, tmp_path: Path) -> None:
    (tmp_path / "everstream.toml").write_text(example)
    settings = load().settings
    assert settings.endpoints
    keys = {variable: "k" for row in PRESETS.values() for variable in row.key_envs}
    keys |= {section.key_env: "k" for section in settings.endpoints.values() if section.key_env}
    keys["AZURE_OPENAI_ENDPOINT"] = "https://resource.openai.azure.com"
    endpoints = endpoints_of(settings, keys, {})
    assert all(endpoints[name].offered and endpoints[name].hindrance is None for name in settings.endpoints)


def test_what_the_page_says_of_the_search_is_so() -> None:
    said = " ".join(PAGE.partition("## Servers on this machine")[2].split())
    ports = [place.base_url.partition("127.0.0.1:")[2].partition("/")[0] for place in USUAL]
    missing = [port for port in ports if port not in said]
    assert not missing, told(missing)
    assert f"for {WITHIN_S} s at most" in said
    assert f"kept for {KEPT_S:.0f} s" in said
