"""The AI SDK's own packages against a real server: each case of `tests/web/ai_sdk/cases.mjs` is a test here.

They are installed from their lock file, once, into a folder that is not part of the project.  Where nothing can be
installed, all of this is skipped, and says why.
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
from tests.web.node import CannotInstall, install, node_environment

SOURCE = ROOT / "tests" / "web" / "ai_sdk"
INSTALLED = ROOT / "build" / "ai_sdk"
CASES = re.findall(r"^  async (\w+)\(", (SOURCE / "cases.mjs").read_text(), re.MULTILINE)
RUN_S = 60.0


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
        except CannotInstall as problem:
            pytest.skip(f"the AI SDK's packages cannot be installed: {problem}")
    return INSTALLED


@pytest.fixture(scope="module")
def results(packages: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Any]]:
    with ServerProcess(tmp_path_factory.mktemp("ai-sdk") / "data") as server:
        server.start()
        command, env = ["node", "cases.mjs", server.url], node_environment()
        run = subprocess.run(command, cwd=packages, env=env, capture_output=True, text=True, timeout=RUN_S, check=False)
        told = [json.loads(line) for line in run.stdout.splitlines() if line.startswith("{")]
        yield {each["name"]: each for each in told} | {"errors": run.stderr}
        assert "Traceback" not in server.log_text()


@pytest.mark.parametrize("name", CASES)
def test_with_the_ai_sdk(results: dict[str, Any], name: str) -> None:
    assert name in results, f"it did not come to an end\n{results['errors']}"
    assert not results[name]["fault"], results[name]["fault"]


def test_a_killed_server_comes_back_and_answers_are_resumed_whole(packages: Path, tmp_path: Path) -> None:
    with ServerProcess(tmp_path / "data") as server:
        server.start()
        with subprocess.Popen(
            ["node", "killed.mjs", server.url],
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
