"""Packages are imported away from the loop, and nobody uses one while another is half made."""

from __future__ import annotations

import asyncio
import sys
import threading
from pathlib import Path

import pytest

from everstream.providers import packages

HALF = """
import tests.providers.test_packages as test
test.begun.set()
test.go_on.wait(10)
"""
begun, go_on = threading.Event(), threading.Event()


async def test_a_package_waits_while_another_is_half_imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "half_made.py").write_text(HALF, encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    importing = asyncio.create_task(packages.load("half_made"))
    assert await asyncio.to_thread(begun.wait, 10)
    assert "half_made" in sys.modules
    others = [asyncio.create_task(packages.load("json")), asyncio.create_task(packages.load("half_made"))]
    for _ in range(10):  # turns of the loop, which is not held up
        await asyncio.sleep(0)
    assert not any(task.done() for task in (importing, *others))
    go_on.set()
    async with asyncio.timeout(10):
        await asyncio.gather(importing, *others)


@pytest.mark.parametrize("package", ["openai", "google.genai"])
async def test_what_a_package_looks_for_is_whole_before_it_is_used(
    package: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    order: list[str] = []
    monkeypatch.setattr(packages, "import_module", order.append)
    monkeypatch.delitem(sys.modules, package, raising=False)
    await packages.load(package)
    assert order == ["httpx", package]


async def test_what_is_imported_costs_no_turn_of_the_loop() -> None:
    loading = packages.load("json")
    with pytest.raises(StopIteration):
        loading.send(None)


async def test_a_package_that_is_missing_is_an_import_error_each_time() -> None:
    for _ in range(2):
        with pytest.raises(ImportError):
            await packages.load("no_such_package_at_all")
