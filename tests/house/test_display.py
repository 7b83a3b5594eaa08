"""How settings are shown: nothing secret, and TOML that a file can hold."""

from __future__ import annotations

import tomllib
from typing import Any

import pytest

from everstream.display import MASK, mask_url, masked_section, toml


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("https://h/v1", "https://h/v1"),
        ("http://127.0.0.1:8000/v1?api-version=preview", "http://127.0.0.1:8000/v1?api-version=preview"),
        ("https://me:hidden@h/v1", f"https://me:{MASK}@h/v1"),
        ("https://h/v1?key=hidden&a=1", f"https://h/v1?key={MASK}&a=1"),
        ("https://h/v1?a=1&Api-Token=hidden", f"https://h/v1?a=1&Api-Token={MASK}"),
        ("rediss+sentinel://h?sentinel_password=hidden", f"rediss+sentinel://h?sentinel_password={MASK}"),
    ],
)
def test_an_address_is_shown_without_what_lets_one_in(url: str, shown: str) -> None:
    assert mask_url(url) == shown


@pytest.mark.parametrize(
    "section",
    [
        {"api_key": "hidden"},
        {"base_url": "https://hidden@h/v1"},
        {"headers": {"Authorization": "hidden"}},
        {"headers": {"X-Goog-Api-Key": "hidden", "Cookie": "hidden"}},
        {"headers": {"X-Plain": "Bearer hidden"}},
        {"headers": {"X-Plain": "sk-hidden"}},
        {"headers": {"X-Plain": "hidden" * 8}},
        {"query": {"sig": "hidden"}},
        {"body": {"deep": [{"access_token": "hidden"}]}},
    ],
)
def test_a_section_is_shown_without_its_secrets(section: dict[str, Any]) -> None:
    shown = masked_section(section)
    assert "hidden" not in str(shown)
    assert MASK in str(shown)


def test_what_is_no_secret_is_shown_as_it_is() -> None:
    section = {
        "key_env": "MY_KEY",
        "key_header": "api-key",
        "max_tokens_field": "max_tokens",
        "headers": {"X-Team": "chat"},
        "body": {"max_tokens": 5, "deep": [1, {"a": None}]},
    }
    assert masked_section(section) == section


@pytest.mark.parametrize(
    "value", ['a "b" \\ é\n', 5, 1e-7, 0.5, True, [], ["a", 2], {}, {"a b": {"x": [1, {"y": False}]}, "z.w": "v"}]
)
def test_what_is_written_as_toml_is_read_as_it_was(value: Any) -> None:
    assert tomllib.loads(f"value = {toml(value)}") == {"value": value}


def test_a_null_is_left_out_for_toml_has_none() -> None:
    assert toml({"a": None, "b": [None, 1]}) == '{ "b" = [1] }'
