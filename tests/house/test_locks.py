"""The lock files hold what `pyproject.toml` asks for, every file of it by hash, and no address to fetch it from.

An address would send everybody to one machine's mirror, whatever their own is.
"""

from __future__ import annotations

import re
import tomllib
from dataclasses import dataclass
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from tests.house.tree import ROOT, told, tracked_texts

import everstream

RUNTIME = "requirements.lock"
DEVELOPMENT = "requirements-dev.lock"
HASH = re.compile(r"--hash=sha256:[0-9a-f]{64}(?= |$)")


@dataclass(frozen=True, slots=True)
class Pin:
    """One line of a lock file: the exact version, and how many files may be it."""

    version: str
    hashes: int


def _pyproject() -> dict[str, Any]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text())


def _pins(lock: str) -> dict[str, Pin]:
    joined = (ROOT / lock).read_text().replace("\\\n", " ")
    pins = {}
    for line in joined.splitlines():
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        pinned, _, _ = line.partition("--hash")
        (only,) = (requirement := Requirement(pinned)).specifier
        assert only.operator == "==", line[:100]
        name = canonicalize_name(requirement.name)
        assert name not in pins, f"{name} is pinned twice"
        pins[name] = Pin(only.version, len(HASH.findall(line)))
    return pins


def _wanted(*, development: bool) -> list[Requirement]:
    project = _pyproject()["project"]
    extra = project["optional-dependencies"]["dev"] if development else []
    return [Requirement(text) for text in (*project["dependencies"], *extra)]


@pytest.mark.parametrize("lock", [RUNTIME, DEVELOPMENT])
def test_a_lock_names_no_address_and_no_path(lock: str) -> None:
    lines = (ROOT / lock).read_text().splitlines()
    marks = ("://", "--index", "--extra-index", "--find-links", " @ ", "-e ", "file:")
    named = [line for line in lines if any(mark in line for mark in marks) or re.search(r"(?:^|\s)[./]*/\w", line)]
    assert not named, told(named)


@pytest.mark.parametrize("lock", [RUNTIME, DEVELOPMENT])
def test_everything_in_a_lock_has_hashes(lock: str) -> None:
    pins = _pins(lock)
    bare = [name for name, pin in pins.items() if pin.hashes == 0]
    assert pins
    assert not bare, told(bare)


@pytest.mark.parametrize(("lock", "development"), [(RUNTIME, False), (DEVELOPMENT, True)])
def test_every_dependency_is_locked_within_its_range(lock: str, development: bool) -> None:
    pins = _pins(lock)
    wrong = []
    for requirement in _wanted(development=development):
        pin = pins.get(canonicalize_name(requirement.name))
        if pin is None or not requirement.specifier.contains(pin.version):
            wrong.append(f"{requirement}: locked is {pin.version if pin else 'none'}; run `make lock`")
    assert not wrong, told(wrong)


def test_what_the_tests_run_with_is_what_the_server_runs_with() -> None:
    runtime, development = _pins(RUNTIME), _pins(DEVELOPMENT)
    assert {name: development.get(name) for name in runtime} == runtime


def test_every_dependency_has_an_upper_bound() -> None:
    loose = [
        str(requirement)
        for requirement in _wanted(development=True)
        if not any(bound.operator in ("<", "==", "~=") for bound in requirement.specifier)
    ]
    assert not loose, told(loose)


def test_the_version_is_the_same_wherever_it_is_told() -> None:
    version = _pyproject()["project"]["version"]
    assert everstream.__version__ == version
    assert re.search(rf"^## {re.escape(version)}\b", tracked_texts()["CHANGELOG.md"], re.MULTILINE)
