"""The AI SDK's own packages against a real server: each case of `tests/web/ai_sdk` is a test here.

Those of `cases.mjs` go over HTTP, as the SDK does by itself; those of `socket.mjs` over the connection of the
TypeScript client, by its transport.  The packages are installed from their lock file, once, into a folder that is not
part of the project.  Where nothing can be installed, all of this is skipped, and says why.
"""

from __future__ import annotations

import fcntl
import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.server import ROOT, ServerProcess
from tests.web.node import CannotInstall, install, installed, node_environment

SOURCE = ROOT / "tests" / "web" / "ai_sdk"
INSTALLED = ROOT / "build" / "ai_sdk"
CLIENT = INSTALLED / "client"
FILES = ("cases.mjs", "socket.mjs")
CASES = [
    (file, name)
    for file in FILES
    for name in re.findall(r"^  async (\w+)\(", (SOURCE / file).read_text(), re.MULTILINE)
]
RUN_S = 60.0
TYPED = """
import type { ChatTransport, UIMessage } from "ai";
import { EverstreamChatTransport } from "./client/ai.js";
import { Client } from "./client/index.js";

const tools = { weather: { description: "The weather", inputSchema: { type: "object" } } };
export const transport: ChatTransport<UIMessage> = new EverstreamChatTransport({
  client: new Client({ url: "ws://127.0.0.1:1/ws" }), model: "scripted/count", tools, onAbort: "leave",
});
"""
TYPED_OPTIONS = {
    "noEmit": True,
    "strict": True,
    "skipLibCheck": True,
    "target": "es2023",
    "module": "esnext",
    "moduleResolution": "bundler",
    "types": [],
}


@pytest.fixture(scope="module")
def packages() -> Path:
    """Where the packages and the cases are, side by side."""
    INSTALLED.mkdir(parents=True, exist_ok=True)
    with (INSTALLED / "busy").open("w") as busy:
        fcntl.flock(busy, fcntl.LOCK_EX)  # for another run of the tests may install them too
        for file in SOURCE.iterdir():
            shutil.copy(file, INSTALLED)
        try:
            install(INSTALLED)
            build_client(installed())
        except CannotInstall as problem:
            pytest.skip(f"the AI SDK's packages cannot be installed: {problem}")
    return INSTALLED


def build_client(web: Path) -> None:
    """The client's modules as JavaScript, where the cases find them."""
    built = compiled(web, "-p", str(web / "client" / "tsconfig.build.json"), "--outDir", str(CLIENT))
    assert built.returncode == 0, built.stdout


def compiled(web: Path, *options: str) -> subprocess.CompletedProcess[str]:
    return node(web, str(web / "node_modules" / "typescript" / "bin" / "tsc"), *options)


def node(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["node", *words],
        cwd=folder,
        env=node_environment(),
        capture_output=True,
        text=True,
        timeout=RUN_S,
        check=False,
    )


@pytest.fixture(scope="module")
def results(packages: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[Any, Any]]:
    """What became of each case, and what each file said on its standard error."""
    told: dict[Any, Any] = {}
    with ServerProcess(tmp_path_factory.mktemp("ai-sdk") / "data") as server:
        server.start()
        for file in FILES:
            run = node(packages, file, server.url, str(CLIENT))
            each = [json.loads(line) for line in run.stdout.splitlines() if line.startswith("{")]
            told |= {(file, one["name"]): one for one in each} | {file: run.stderr}
        yield told
        assert "Traceback" not in server.log_text()


@pytest.mark.parametrize(("file", "name"), CASES)
def test_with_the_ai_sdk(results: dict[Any, Any], file: str, name: str) -> None:
    assert (file, name) in results, f"it did not come to an end\n{results[file]}"
    assert not results[file, name]["fault"], results[file, name]["fault"]


@pytest.mark.parametrize("file", ["killed.mjs", "killed_socket.mjs"])
def test_a_killed_server_comes_back_and_answers_are_resumed_whole(packages: Path, tmp_path: Path, file: str) -> None:
    with ServerProcess(tmp_path / "data") as server:
        server.start()
        with subprocess.Popen(
            ["node", file, server.url, str(CLIENT)],
            cwd=packages,
            env=node_environment(),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        ) as page:
            assert page.stdout is not None
            try:
                assert page.stdout.readline() == "half\n", page.communicate(timeout=RUN_S)[1]
                server.restart()
                said, errors = page.communicate("back\n", timeout=RUN_S)
                assert said == "whole\n", errors
            finally:
                page.kill()


def test_the_clients_transport_is_one_to_the_sdks_types(packages: Path) -> None:
    """As a page would be checked, by the SDK's own declarations."""
    (packages / "typed.ts").write_text(TYPED)
    (packages / "tsconfig.json").write_text(json.dumps({"compilerOptions": TYPED_OPTIONS, "files": ["typed.ts"]}))
    checked = compiled(installed(), "-p", str(packages))
    assert checked.returncode == 0, checked.stdout
