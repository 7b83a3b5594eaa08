"""The checkout as the house rules see it: the package's modules, the tests' modules, and every file under git.

The rules read source and do not run it, so one test looks at the whole tree within a second, and a module that cannot
be imported is judged like any other.
"""

from __future__ import annotations

import ast
import subprocess
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "backend" / "everstream"
TESTS = ROOT / "tests"

# Where there is no git (a copied tree), what to leave out of a walk.
_NOT_OURS = frozenset({".git", ".venv", "__pycache__", "node_modules", "build", "dist", "data"})

FunctionNode = ast.FunctionDef | ast.AsyncFunctionDef


@dataclass(frozen=True, slots=True)
class Module:
    """One Python file: its dotted name, its path from the root, its text and its syntax tree."""

    name: str
    path: str
    text: str
    tree: ast.Module

    @property
    def lines(self) -> list[str]:
        return self.text.splitlines()

    def functions(self) -> Iterator[FunctionNode]:
        for node in ast.walk(self.tree):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                yield node


@cache
def package_modules() -> tuple[Module, ...]:
    """Every module of the package, `__init__` under its package's own name."""
    return tuple(_modules_under(PACKAGE, PACKAGE.parent))


@cache
def modules_of_tests() -> tuple[Module, ...]:
    """Every Python file under `tests/`, whether it holds tests or what tests use."""
    return tuple(_modules_under(TESTS, ROOT))


@cache
def tracked_texts() -> dict[str, str]:
    """The text files under git (all files, where there is no git), by their path from the root."""
    texts: dict[str, str] = {}
    for path in _tracked_paths():
        try:
            texts[path.relative_to(ROOT).as_posix()] = path.read_text(encoding="utf-8")
        except (UnicodeDecodeError, FileNotFoundError, IsADirectoryError):
            continue  # a picture, or a file that was removed and not yet committed as such
    return texts


def documents() -> dict[str, str]:
    """The tracked texts that are documents."""
    return {path: text for path, text in tracked_texts().items() if path.endswith(".md")}


def told(problems: Iterable[object]) -> str:
    """What an assertion says: each problem on a line of its own, none of them cut short."""
    return "".join(f"\n  {problem}" for problem in problems)


def _modules_under(folder: Path, base: Path) -> Iterator[Module]:
    for path in sorted(folder.rglob("*.py")):
        parts = path.relative_to(base).with_suffix("").parts
        text = path.read_text(encoding="utf-8")
        name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        yield Module(name, path.relative_to(ROOT).as_posix(), text, ast.parse(text, str(path)))


def _tracked_paths() -> list[Path]:
    if (ROOT / ".git").exists():
        listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True, timeout=30)
        return [ROOT / name for name in listed.stdout.decode().split("\0") if name]
    return [path for path in sorted(ROOT.rglob("*")) if path.is_file() and not _foreign(path.relative_to(ROOT))]


def _foreign(path: Path) -> bool:
    return any(part in _NOT_OURS or part.endswith("_cache") for part in path.parts)
