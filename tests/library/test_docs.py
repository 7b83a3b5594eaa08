"""What `docs/library.md` shows works as it stands: every block is run, and prints what it says."""

from __future__ import annotations

import re
import shlex
import sys
import threading
import types
from pathlib import Path

import pytest
from tests.house.tree import ROOT

import everstream
from everstream.cli import Exit, main

DOCUMENT = ROOT / "docs" / "library.md"
TEXT = DOCUMENT.read_text(encoding="utf-8")
FENCE = re.compile(r"^```([^\n`]*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
BLOCKS = FENCE.findall(TEXT)
PROGRAMS = [
    (code, following[1])
    for (language, code), following in zip(BLOCKS, [*BLOCKS[1:], ("", "")], strict=True)
    if language == "python"
]
COMMANDS = [line for language, code in BLOCKS if language == "sh" for line in code.splitlines()]


def test_every_block_is_a_program_with_its_output_or_a_command() -> None:
    languages = [language for language, _ in BLOCKS]
    assert set(languages) == {"python", "text output", "sh"}
    for language, following in zip(languages, [*languages[1:], ""], strict=True):
        assert (language == "python") == (following == "text output")


@pytest.mark.parametrize("number", range(len(PROGRAMS)))
def test_a_program_prints_what_it_says(
    number: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    code, told = PROGRAMS[number]
    program = types.ModuleType("__main__")
    monkeypatch.setitem(sys.modules, "__main__", program)
    threads = threading.active_count()
    exec(compile(code, f"{DOCUMENT.name}, program {number + 1}", "exec", dont_inherit=True), vars(program))  # noqa: S102
    everstream.close()
    assert threading.active_count() == threads
    pattern = ".*".join(re.escape(part) for part in told.split("…"))
    assert re.fullmatch(pattern, capsys.readouterr().out, re.DOTALL)


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_runs(command: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    program, *arguments = shlex.split(command)
    assert program == "everstream"
    assert main([*arguments, *(() if "--param" in arguments else ("--param", "rate=0"))]) == Exit.DONE
    assert "scripted/count" in capsys.readouterr().out
    assert (tmp_path / "speed.svg").exists() == ("--plot" in arguments)


def test_every_field_and_function_is_named() -> None:
    fields = (*everstream.Result.__dataclass_fields__, *everstream.StreamMetrics.__dataclass_fields__)
    functions = ("stream", "run_async", "start_async", "iter_stream", "run", "start", "close", "aclose")
    missing = [name for name in (*fields, *functions) if not re.search(rf"`(?:everstream\.)?{name}\b", TEXT)]
    assert not missing, missing
