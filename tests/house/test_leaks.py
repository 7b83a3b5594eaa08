"""The leak check finds what it is for, and leaves a clean test alone.

The cases are tests in a pytest of their own, because the check judges a test after its end.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from tests.house.tree import ROOT

CONFTEST = """
import tests.leaks
from tests.leaks import no_leaks, no_leaks_in_the_loop
tests.leaks.GRACE_S = {grace_s}
"""

PREAMBLE = """
import asyncio, socket, subprocess, sys
import hypothesis.strategies
KEPT = []
async def forever():
    await asyncio.Event().wait()
"""
SLEEPER = "[sys.executable, '-c', 'import sys; sys.stdin.read()']"

# What the test of that name leaves behind, and what the check must say of it.
LEAKS = {
    "test_a_task": "task forgotten",
    "test_a_task_of_a_drawn_case": "task drawn",
    "test_a_socket": "open socket:",
    "test_a_socket_of_a_sync_test": "open socket:",
    "test_a_listener": "open socket:",
    "test_a_process": "process ",
    "test_a_process_that_cut_its_tie": "process ",
}

LEAKING = f"""
async def test_a_task():
    KEPT.append(asyncio.create_task(forever(), name="forgotten"))
@hypothesis.settings(max_examples=1, database=None)
@hypothesis.given(hypothesis.strategies.integers())
async def test_a_task_of_a_drawn_case(number):
    KEPT.append(asyncio.create_task(forever(), name="drawn"))
async def test_a_socket():
    KEPT.append(socket.socket())
def test_a_socket_of_a_sync_test():
    KEPT.append(socket.socket())
async def test_a_listener():
    KEPT.append(await asyncio.start_server(lambda reader, writer: None, "127.0.0.1", 0))
def test_a_process():
    KEPT.append(subprocess.Popen({SLEEPER}))
def test_a_process_that_cut_its_tie(tmp_path):
    code = "import subprocess, sys; subprocess.Popen({SLEEPER}, start_new_session=True)"
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True)
"""

CLEAN = """
import pytest
@pytest.fixture
async def served():
    server = await asyncio.start_server(lambda r, w: w.close(), '127.0.0.1', 0)
    task = asyncio.create_task(forever())
    yield server.sockets[0].getsockname()
    task.cancel()
    server.close()
@pytest.fixture(scope="module")
def wide():
    child = subprocess.Popen({sleeper})
    yield child
    child.kill()
    child.wait()
async def test_async(served):
    reader, writer = await asyncio.open_connection(*served)
    assert await reader.read() == b""
    writer.close()
def test_sync(wide):
    assert wide.poll() is None
@hypothesis.settings(max_examples=3, database=None)
@hypothesis.given(hypothesis.strategies.integers())
async def test_drawn(number):
    await asyncio.create_task(asyncio.sleep(0))
@hypothesis.settings(max_examples=3, database=None)
@hypothesis.given(hypothesis.strategies.integers())
def test_drawn_sync(number):
    pass
""".replace("{sleeper}", SLEEPER)


def _run(folder: Path, text: str, grace_s: float) -> tuple[int, str]:
    """Run the tests in `text` under the check.

    A process that they leave behind reads its input until that ends, which it does when this function does.
    """
    (folder / "conftest.py").write_text(CONFTEST.format(grace_s=grace_s))
    (folder / "test_case.py").write_text(PREAMBLE + text)
    command = [sys.executable, "-m", "pytest", "-s", "-p", "no:cacheprovider", "-c", str(ROOT / "pyproject.toml")]
    command += ["--rootdir", str(folder), f"--basetemp={folder / 'temp'}", str(folder)]
    said = folder / "said"
    input_end, our_end = os.pipe()
    try:
        with said.open("wb") as output:
            done = subprocess.run(
                command, cwd=ROOT, stdin=input_end, stdout=output, stderr=output, timeout=60, check=False
            )
    finally:
        os.close(our_end)
        os.close(input_end)
    return done.returncode, said.read_text()


@pytest.fixture(scope="module")
def verdict(tmp_path_factory: pytest.TempPathFactory) -> str:
    """What pytest said of the tests that leak."""
    code, said = _run(tmp_path_factory.mktemp("leaking"), LEAKING, grace_s=0.3)
    assert code == 1, said
    return said


@pytest.mark.parametrize("name", LEAKS)
def test_what_a_test_leaves_behind_fails_it(name: str, verdict: str) -> None:
    _, _, section = verdict.partition(f" ERROR at teardown of {name} ")
    section, _, _ = section.partition("ERROR at teardown of")
    assert f"{LEAKS[name]}" in section.partition("the test left behind:")[2], verdict


def test_a_test_that_cleans_up_passes(tmp_path: Path) -> None:
    code, said = _run(tmp_path, CLEAN, grace_s=2.0)
    assert code == 0, said
    assert "4 passed" in said
