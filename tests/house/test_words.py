"""What stands in the files: every module explains itself, names say what a thing is, and no file tells of the machine
that it was written on.

The patterns below are written so that they do not match themselves.
"""

from __future__ import annotations

import ast
import re

from tests.house.tree import Module, modules_of_tests, package_modules, told, tracked_texts

# A name that says "whatever did not fit elsewhere" says nothing.
EMPTY_NAMES = frozenset(
    {"util", "utils", "helper", "helpers", "common", "misc", "manager", "managers", "shared", "stuff"}
)

# Words that other programs use for what has another name here; two names for one thing are two things to a reader.
# (`room` is one too, but it also means space.)
OTHER_WORDS = frozenset({"channel", "topic", "broker", "worker", "job", "pump", "reaper", "manager", "buffer", "seq"})
OPERATORS_WORDS = {("settings.py", "workers")}  # what every server's operator looks for

MACHINES = "|".join(("work", "home", "root", "Users"))
MACHINE_PATH = re.compile(rf"(?<![\w.~}}-])/(?:{MACHINES})/")
REGISTRIES = (r"pypi\.(?:org|python\.org)", r"pythonhosted\.org", r"npmjs\.(?:org|com)", r"yarnpkg\.com", r"crates\.io")
REGISTRY = re.compile("|".join((*REGISTRIES, r"anaconda\.org", r"rubygems\.org", r"proxy\.golang\.org")), re.IGNORECASE)
LATER = "|".join(("TO" + "DO", "FIX" + "ME", "X" + "XX"))
UNFINISHED = re.compile(rf"\b(?:{LATER})\b")


def _found(pattern: re.Pattern[str]) -> list[str]:
    return [
        f"{path}:{number} {line.strip()[:100]}"
        for path, text in tracked_texts().items()
        for number, line in enumerate(text.splitlines(), 1)
        if pattern.search(line)
    ]


def test_every_module_opens_with_what_it_is_for() -> None:
    modules = (*package_modules(), *modules_of_tests())
    mute = [m.path for m in modules if not ast.get_docstring(m.tree) and m.text.strip()]
    assert not mute, told(mute)


def test_no_module_is_named_after_nothing() -> None:
    modules = (*package_modules(), *modules_of_tests())
    empty = [m.path for m in modules if m.name.rpartition(".")[2] in EMPTY_NAMES]
    assert not empty, told(empty)


def _own_names(module: Module) -> set[str]:
    """What the module itself names: its classes, functions, arguments and the names that it assigns to."""
    names = {module.name.rpartition(".")[2]}
    for node in ast.walk(module.tree):
        match node:
            case ast.ClassDef(name=name) | ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name):
                names.add(name)
            case ast.arg(arg=name):
                names.add(name)
            case ast.Name(id=name, ctx=ast.Store()) | ast.Attribute(attr=name, ctx=ast.Store()):
                names.add(name)
    return names


def _words(name: str) -> set[str]:
    spaced = re.sub(r"([a-z0-9])([A-Z])", r"\1_\2", name)
    return {word.lower().removesuffix("s") for word in spaced.split("_")}


def test_one_thing_has_one_name() -> None:
    wrong = [
        f"{module.path} {name}"
        for module in package_modules()
        for name in sorted(_own_names(module))
        if _words(name) & OTHER_WORDS and (module.path.rpartition("/")[2], name) not in OPERATORS_WORDS
    ]
    assert not wrong, told(wrong)


def test_no_file_names_a_path_of_somebodys_machine() -> None:
    found = _found(MACHINE_PATH)
    assert not found, told(found)


def test_no_file_names_a_package_registry() -> None:
    found = _found(REGISTRY)
    assert not found, told(found)


def test_nothing_is_left_for_later() -> None:
    found = _found(UNFINISHED)
    assert not found, told(found)


def test_the_patterns_find_what_they_are_for() -> None:
    home, registry, later = "see /ho" + "me/ann/x", "https://py" + "pi.org/simple", "# TO" + "DO: this"
    assert MACHINE_PATH.search(home)
    assert MACHINE_PATH.search(home.replace("see ", 'Path("'))
    assert REGISTRY.search(registry)
    assert UNFINISHED.search(later)
    assert not MACHINE_PATH.search("https://example.com/ho" + "me/x")
