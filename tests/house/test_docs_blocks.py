"""What the documents show is run: every block of `docs/` that says so in the line that opens it.

    ```python run                   a program of its own, in a process that has no server
    ```sh run server                what one would type; a command that fails ends it
    ```ts run server                a program for Node.js that finds the TypeScript client installed
    ```python run server            a server with the `scripted` models answers at 127.0.0.1:8000
    ```python run needs=fastapi     left out where this module is not installed; may be said several times
    ```text output                  right after such a block: what it prints; `…` stands for any text

A Python block is executed as a program (`__name__` is `__main__`) in a fresh namespace and an empty folder, without
the settings and keys of this machine's environment; a TypeScript block is a module in a process of its own.  It fails
by an exception, by a warning, by printing something else than it should, by taking longer than `RUN_S`, and by
leaving sockets, processes or threads behind.  Port 8000 of the document becomes that of the test's server, and
nothing else is changed.
"""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import functools
import io
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import types
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest
import structlog
from tests.gateway.conftest import Gateway, serving
from tests.house.tree import ROOT, told
from tests.server import clean_environment
from tests.web.built_client import build_client
from tests.web.node import CannotInstall, node_environment

from everstream.gateway.server import Server

DOCS = ROOT / "docs"
FENCE = re.compile(r"^```([^\n`]*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
PORT = re.compile(r"(?<=127\.0\.0\.1:)8000\b|(?<=localhost:)8000\b")
NEEDS = "needs="
SERVER = "the documents' server"  # the name of its threads
LANGUAGES = ("python", "sh", "ts")
KNOWN = frozenset({*LANGUAGES, "run", "server"})
SHELL = ("bash", "-eu", "-o", "pipefail", "-c")
RUN_S = 30.0
START_S = 20.0


@dataclass(frozen=True, slots=True)
class Block:
    """One block that is to be run: where it stands, its code, the words that open it, and what it prints (if told)."""

    path: Path
    line: int  # of the opening fence
    code: str
    words: tuple[str, ...]
    prints: str | None

    def __str__(self) -> str:
        return f"{self.path.name}:{self.line}"

    @property
    def needs(self) -> list[str]:
        return [word.removeprefix(NEEDS) for word in self.words if word.startswith(NEEDS)]


def blocks_in(path: Path, text: str) -> Iterator[Block]:
    """The blocks of a document that are to be run."""
    found = list(FENCE.finditer(text))
    for fence, follower in zip(found, [*found, None][1:], strict=True):
        words = tuple(fence[1].split())
        if words[:1] not in [(language,) for language in LANGUAGES] or words[1:2] != ("run",):
            continue
        told_next = follower is not None and follower[1].split() == ["text", "output"]
        prints = follower[2] if follower is not None and told_next else None
        yield Block(path, text.count("\n", 0, fence.start()) + 1, fence[2], words, prints)


BLOCKS = [block for path in sorted(DOCS.rglob("*.md")) for block in blocks_in(path, path.read_text(encoding="utf-8"))]
ALONE = [block for block in BLOCKS if "server" not in block.words]
SERVED = [block for block in BLOCKS if "server" in block.words]


class ServerThread:
    """A server on a store in memory, in a thread with a loop of its own: the main thread is the document's."""

    def __init__(self) -> None:
        self.port = 0
        self._up = threading.Event()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._down: asyncio.Event | None = None
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve()), name=SERVER)

    async def _serve(self) -> None:
        self._loop, self._down = asyncio.get_running_loop(), asyncio.Event()
        self._loop.set_default_executor(ThreadPoolExecutor(thread_name_prefix=SERVER))
        gateway: Gateway
        async with serving() as gateway:
            self.port = gateway.port
            self._up.set()
            await self._down.wait()

    def __enter__(self) -> ServerThread:
        self._thread.start()
        assert self._up.wait(START_S), f"{SERVER} did not come up"
        return self

    def __exit__(self, *_: object) -> None:
        assert self._loop is not None
        assert self._down is not None
        self._loop.call_soon_threadsafe(self._down.set)
        self._thread.join(START_S)
        assert not self._thread.is_alive()


@pytest.fixture(scope="module")
def server() -> Iterator[ServerThread]:
    with pytest.MonkeyPatch.context() as patched:
        # Only a main thread may take signals, and this server is told to stop in another way.
        patched.setattr(Server, "capture_signals", lambda _: contextlib.nullcontext())
        logs_before = structlog.get_config()
        structlog.configure(logger_factory=structlog.PrintLoggerFactory(io.StringIO()))  # not between what blocks print
        with ServerThread() as running:
            yield running
        structlog.configure(**logs_before)


@contextlib.contextmanager
def alarm(seconds: float) -> Iterator[None]:
    """Raise TimeoutError in the main thread when time is over."""

    def ring(*_: object) -> None:
        raise TimeoutError(f"the block ran for more than {seconds:g} s")

    before = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def run(block: Block, port: int | None, folder: Path, patched: pytest.MonkeyPatch) -> None:
    """Execute it as a program.  Errors point at the line of the document."""
    code = block.code if port is None else PORT.sub(str(port), block.code)
    if block.words[0] == "sh":
        type_in(code, folder)
        return
    if block.words[0] == "ts":
        run_in_node(code, folder)
        return
    for module in block.needs:
        pytest.importorskip(module)
    program = types.ModuleType("__main__")
    patched.chdir(folder)
    patched.setitem(sys.modules, "__main__", program)
    environment = clean_environment()
    for name in set(os.environ) - set(environment):
        patched.delenv(name)
    threads = set(threading.enumerate())
    with alarm(RUN_S):
        # The document's own lines stand before it as empty ones, so that line numbers are those of the document.
        exec(compile("\n" * block.line + code, str(block.path), "exec", dont_inherit=True), vars(program))  # noqa: S102
    for thread in set(threading.enumerate()) - threads:
        if thread.name.startswith(SERVER):
            continue
        thread.join(0.5)
        assert not thread.is_alive(), f"{block} leaves a thread behind: {thread.name}"


def type_in(code: str, folder: Path) -> None:
    """Have a shell run it.  What it prints is printed."""
    if "curl" in code and shutil.which("curl") is None:
        pytest.skip("curl is not installed")
    say([*SHELL, code], folder, clean_environment())


def run_in_node(code: str, folder: Path) -> None:
    """Node.js leaves types out, and runs what is left.  What it prints is printed."""
    try:
        (folder / "node_modules").symlink_to(installed_client() / "node_modules")
    except CannotInstall as problem:
        pytest.skip(f"the client's packages cannot be installed: {problem}")
    (folder / "program.mts").write_text(code)
    say(["node", "program.mts"], folder, node_environment())


@functools.cache
def installed_client() -> Path:
    """A folder with the TypeScript client.  Raises CannotInstall."""
    folder = Path(tempfile.mkdtemp(prefix="client-of-documents-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    build_client(folder)
    return folder


def say(command: list[str], folder: Path, environment: dict[str, str]) -> None:
    done = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, timeout=RUN_S, check=False
    )
    print(done.stdout)
    assert done.returncode == 0, f"exit code {done.returncode}\n{done.stdout}{done.stderr}"


def printed_as_told(said: str, told_output: str) -> bool:
    pattern = ".*".join(re.escape(part) for part in told_output.strip().split("…"))
    return re.fullmatch(pattern, said.strip(), re.DOTALL) is not None


@pytest.mark.parametrize("block", ALONE, ids=str)
def test_a_block_without_a_server_runs_as_it_stands(
    block: Block, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run(block, None, tmp_path, monkeypatch)
    said = capsys.readouterr().out
    assert block.prints is None or printed_as_told(said, block.prints), said


@pytest.mark.parametrize("block", SERVED, ids=str)
def test_a_block_with_a_server_runs_as_it_stands(
    block: Block,
    server: ServerThread,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    run(block, server.port, tmp_path, monkeypatch)
    said = capsys.readouterr().out
    assert block.prints is None or printed_as_told(said, block.prints), said


def test_every_word_behind_run_is_one_that_is_known() -> None:
    strange = [
        f"{block}: {word}" for block in BLOCKS for word in block.words if word not in KNOWN and NEEDS not in word
    ]
    assert not strange, told(strange)


def test_the_search_for_blocks_finds_them_and_what_they_print() -> None:
    text = (
        "a\n```python run server needs=json\nprint(1)\n```\n```text output\n1 …\n```\n"
        "```python\nleft = out\n```\n\n```python run\n2\n```\n```sh\nls\n```\n```sh run server\npwd\n```\n"
    )
    first, second, third = blocks_in(DOCS / "x.md", text)
    assert (first.line, first.code, first.needs, first.prints) == (2, "print(1)\n", ["json"], "1 …\n")
    assert (second.line, second.words, second.prints) == (12, ("python", "run"), None)
    assert (third.words, third.code) == (("sh", "run", "server"), "pwd\n")
    assert printed_as_told("1 and more\n", "1 …\n")
    assert not printed_as_told("2\n", "1 …\n")
    assert PORT.sub("9", "http://127.0.0.1:8000/ws localhost:8000 :80001 18000") == (
        "http://127.0.0.1:9/ws localhost:9 :80001 18000"
    )


def test_a_block_that_fails_names_its_line_in_the_document(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    block = Block(DOCS / "x.md", 7, "a = 1\nraise ValueError(a)\n", ("python", "run"), None)
    with pytest.raises(ValueError, match="1") as caught:
        run(block, None, tmp_path, monkeypatch)
    assert caught.traceback[-1].lineno == 7 + 1  # counted from nought: line 9
