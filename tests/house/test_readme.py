"""What the README shows works as it stands: its clients are run, its commands exist, its counts are true.

A client is taken out of the document, the port put in, and nothing else: the Python one is a program of its own, the
browser's is given to a page of the server as if typed into the console.
"""

from __future__ import annotations

import asyncio
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import sync_playwright
from tests.house.tree import ROOT, tracked_texts
from tests.server import ServerProcess, clean_environment
from tests.web.browser import chromium_path, launch_options

from everstream import SyncClient
from everstream.cli import COMMANDS
from everstream.core.events import DeltaText, Message, Request
from everstream.providers.scripted import Scripted

README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
BLOCKS = BLOCK.findall(README)
PORT = "127.0.0.1:8000"
LINES_MAX = 12  # "A client in twelve lines"; an empty line is none
ANSWERED_WITHIN_S = 60


# What tells the README's blocks of one language apart.
SIGNS = {"client": "ws://", "function": "@app.model", "library": "iter_stream"}


def block(language: str, kind: str = "client") -> str:
    """The README's one block of this kind in this language."""
    [code] = [code for named, code in BLOCKS if named == language and SIGNS[kind] in code]
    return str(code)


def test_every_program_of_the_readme_is_run_here() -> None:
    programs = [code for named, code in BLOCKS if named in ("python", "js")]
    assert all(sum(sign in code for sign in SIGNS.values()) == 1 for code in programs)
    assert len(programs) == len(SIGNS) + 1  # the client twice


def client(language: str, server: ServerProcess) -> str:
    code = block(language)
    assert code.count(PORT) == 1
    return code.replace(PORT, f"127.0.0.1:{server.port}")


async def scripted_answer() -> str:
    """What the model of both clients says, without its pauses."""
    request = Request("scripted/lorem", [Message("user", "Hello!")], extra={"rate": 0})
    batches = [batch async for batch in Scripted().generate(request)]
    return "".join(event.text for batch in batches for event in batch if isinstance(event, DeltaText))


@pytest.fixture(scope="module")
def answer() -> str:
    answer = asyncio.run(scripted_answer())
    assert len(answer) > 500
    return answer


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    with ServerProcess(tmp_path_factory.mktemp("readme") / "data") as server:
        yield server.start()


def test_the_python_client_prints_the_whole_answer(tmp_path: Path, server: ServerProcess, answer: str) -> None:
    program = tmp_path / "client.py"
    program.write_text(client("python", server), encoding="utf-8")
    done = subprocess.run(
        [sys.executable, str(program)],
        cwd=tmp_path,
        env=clean_environment({"PYTHONIOENCODING": "utf-8"}),
        capture_output=True,
        encoding="utf-8",
        timeout=ANSWERED_WITHIN_S,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == answer + "\n"


def test_the_library_prints_the_whole_answer(tmp_path: Path, answer: str) -> None:
    program = block("python", "library").replace('"Hello!"', '"Hello!", rate=0')
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=tmp_path,
        env=clean_environment({"PYTHONIOENCODING": "utf-8"}),
        capture_output=True,
        encoding="utf-8",
        timeout=ANSWERED_WITHIN_S,
        check=False,
    )
    assert (done.returncode, done.stderr, done.stdout) == (0, "", answer)


def test_the_function_is_a_model_of_a_server(tmp_path: Path) -> None:
    (tmp_path / "module.py").write_text(block("python", "function"), encoding="utf-8")
    with ServerProcess(tmp_path / "data", args=("module:app",)) as server:
        server.start()
        with SyncClient(f"ws://127.0.0.1:{server.port}/ws") as client:
            assert client.generate("app/shout", "hello out there").result().text == "HELLO OUT THERE "


@pytest.mark.browser
def test_the_browser_client_logs_the_whole_answer(server: ServerProcess, answer: str) -> None:
    chromium = chromium_path()
    if chromium is None:
        pytest.skip("no Chromium is installed: the README's browser client needs one")
    with sync_playwright() as playwright, playwright.chromium.launch(**launch_options(chromium)) as browser:
        page = browser.new_page()
        page.goto(server.url)
        with page.expect_console_message(timeout=ANSWERED_WITHIN_S * 1000) as logged:
            page.evaluate(f"() => {{ {client('js', server)} }}")
        assert (logged.value.type, logged.value.text) == ("log", answer)


@pytest.mark.parametrize("language", ["python", "js"])
def test_a_client_takes_no_more_lines_than_promised(language: str) -> None:
    assert "A client in twelve lines" in README
    lines = [line for line in block(language).splitlines() if line.strip()]
    assert len(lines) <= LINES_MAX, lines


def test_every_command_in_a_block_is_a_make_target() -> None:
    targets = set(re.findall(r"^([a-z]+):", tracked_texts()["Makefile"], re.MULTILINE))
    commands = [
        shlex.split(line, comments=True) for named, code in BLOCKS if named == "sh" for line in code.splitlines()
    ]
    assert len(commands) >= 2
    for program, *targets_named in filter(None, commands):
        assert program == "make"
        assert targets_named
        assert set(targets_named) <= targets


def test_every_everstream_command_that_is_named_exists() -> None:
    named = set(re.findall(r"`everstream ([a-z]+)", README))
    assert named
    assert named <= set(COMMANDS)
