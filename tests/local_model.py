"""The small model that the tests run: got once for a checkout, by the command that gets it for everybody.

It lies in `.venv`, beside everything else that was fetched for this checkout, and goes with it.  Where the package
cannot be had, the tests that need the model are left out, and say why.
"""

from __future__ import annotations

import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

from tests.server import ROOT, clean_environment

NAME = "smollm2"
MODEL = f"local/{NAME}"
FETCH_S = 170.0
# What a greedy SmolLM2 has much to say to.
QUESTION = "Tell me a story about a fox."


@cache
def _fetched() -> tuple[Path, str]:
    """Where the file is, and what was wrong, "" for nothing."""
    data_dir = ROOT / ".venv" / "local-model"
    command = [sys.executable, "-m", "everstream", "local", "install", "--data-dir", str(data_dir)]
    try:
        done = subprocess.run(
            command,
            cwd=ROOT / "tests",
            env=clean_environment(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            encoding="utf-8",
            timeout=FETCH_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return data_dir, f"not fetched within {FETCH_S:.0f} s"
    said = done.stdout.strip().splitlines()[-1:]
    return data_dir / "models" / f"{NAME}.gguf", "" if done.returncode == 0 else "".join(said) or "it did not say why"


def model_file() -> Path:
    """The model's file.  Skips the test where it cannot be had."""
    path, trouble = _fetched()
    if trouble:
        pytest.skip(f"the local model cannot be had here: {trouble}")
    return path


def lay_out(data_dir: Path, name: str = NAME) -> Path:
    """Put the model among those of a data directory."""
    folder = data_dir / "models"
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.gguf"
    path.symlink_to(model_file())
    return path
