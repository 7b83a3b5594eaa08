"""What the tests owe: a claim for a name, no waiting by the clock, and something for every room.

A pause makes a test slow where it is too long and false where it is too short; a test waits for a condition, within a
bound.  Where a loop that looks at a condition has to pause between two looks, or the passing of time is itself what is
tested, the line says so:

    time.sleep(POLL_S)  # pause: between two looks at the process
"""

from __future__ import annotations

import ast
import re

import pytest
from tests.house.tree import PACKAGE, TESTS, Module, modules_of_tests, package_modules, told

PAUSES = frozenset({"sleep", "wait_for_timeout"})
REASON = re.compile(r"# pause: \w+")
CLAIM_WORDS_MIN = 3  # "test_a_b_c": fewer words name a subject and claim nothing of it


def _is_pause(node: ast.AST) -> bool:
    """A call of `sleep` or the like, but for `sleep(0)`, which only lets others run."""
    if not isinstance(node, ast.Call):
        return False
    called = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
    zero = len(node.args) == 1 and isinstance(node.args[0], ast.Constant) and node.args[0].value == 0
    return called in PAUSES and not zero


def _pauses_without_reason(module: Module) -> list[str]:
    lines = module.lines
    return [
        f"{module.path}:{node.lineno} {lines[node.lineno - 1].strip()}"
        for node in ast.walk(module.tree)
        if _is_pause(node)
        and isinstance(node, ast.Call)
        and not any(REASON.search(line) for line in lines[node.lineno - 1 : node.end_lineno])
    ]


def _tests(module: Module) -> list[str]:
    named = [node.name for node in module.functions() if node.name.startswith("test")]
    return named if module.path.rpartition("/")[2].startswith("test_") else []


def test_no_test_waits_by_the_clock_without_saying_why() -> None:
    pauses = [pause for module in modules_of_tests() for pause in _pauses_without_reason(module)]
    assert not pauses, told(pauses)


def test_the_search_for_pauses_finds_them() -> None:
    text = "import time\ntime.sleep(1)\ntime.sleep(0)\ntime.sleep(2)  # pause: between two looks\n"
    module = Module("m", "m.py", text, ast.parse(text))
    assert _pauses_without_reason(module) == ["m.py:2 time.sleep(1)"]


def test_every_test_is_named_after_what_it_claims() -> None:
    short = [
        f"{module.path} {name}"
        for module in modules_of_tests()
        for name in _tests(module)
        if len(name.removeprefix("test_").split("_")) < CLAIM_WORDS_MIN
    ]
    assert not short, told(short)


def test_no_module_has_two_tests_of_one_name() -> None:
    for module in modules_of_tests():
        outer = [node.name for node in module.tree.body if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
        assert len(outer) == len(set(outer)), module.path


ROOMS = sorted(path.name for path in PACKAGE.iterdir() if (path / "__init__.py").exists())
MODULES_WITHOUT_A_ROOM = sorted(
    module.name
    for module in package_modules()
    if module.name.count(".") == 1 and module.name.rpartition(".")[2] not in (*ROOMS, "__main__")
)


@pytest.mark.parametrize("room", ROOMS)
def test_every_room_has_tests_of_its_own(room: str) -> None:
    assert sum(len(_tests(m)) for m in modules_of_tests() if m.path.startswith(f"tests/{room}/")) > 0


@pytest.mark.parametrize("name", MODULES_WITHOUT_A_ROOM)
def test_every_module_without_a_room_is_tested_by_name(name: str) -> None:
    leaf = name.rpartition(".")[2]
    mention = re.compile(rf"\b(?:everstream\.{leaf}\b|from everstream import .*\b{leaf}\b)")
    assert any(mention.search(m.text) for m in modules_of_tests() if _tests(m))


def test_what_is_called_a_test_lies_where_it_is_found() -> None:
    stray = [path.name for path in TESTS.rglob("*_test.py")]
    assert not stray, told(stray)
