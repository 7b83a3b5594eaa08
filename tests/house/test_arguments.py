"""What the commands share: how wrong usage is told, and how flags become settings."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import structlog

from everstream import store_command
from everstream.arguments import flags_of, log_to_stderr, settings_of, settings_parser
from everstream.config import ConfigError
from everstream.console import Exit, Parser, complain
from everstream.settings import Settings


@pytest.fixture(autouse=True)
def _quiet_surroundings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for variable in [name for name in os.environ if name.upper().startswith("EVERSTREAM_")]:
        monkeypatch.delenv(variable)
    monkeypatch.chdir(tmp_path)


def test_every_complaint_names_its_program_and_goes_to_standard_error(capsys: pytest.CaptureFixture[str]) -> None:
    assert complain("everstream x", "one", "two") == Exit.USAGE
    assert capsys.readouterr() == ("", "everstream x: one\neverstream x: two\n")


def test_wrong_arguments_are_one_line_and_where_to_read_more(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        Parser(prog="everstream x", usage="[FLAGS]", description="d").parse_args(["--strange"])
    assert left.value.code == Exit.USAGE
    told = capsys.readouterr().err.splitlines()
    assert told == ["everstream x: unrecognized arguments: --strange", "everstream x: everstream x --help shows all"]


def test_a_flag_is_not_guessed_from_its_beginning() -> None:
    arguments, rest = settings_parser("everstream x", "d").parse_known_args(["--por", "1", "--port", "2"])
    assert rest == ["--por", "1"]
    with pytest.raises(ConfigError, match="there is no flag --por; did you mean --port"):
        flags_of(arguments, rest)


def test_of_a_programs_own_settings_only_flags_change_any(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("EVERSTREAM_LINGER_S", "7")
    written = Settings(port=1111, linger_s=5, data_dir=tmp_path)
    arguments, rest = settings_parser("everstream x", "d").parse_known_args(["--port", "2222"])
    settings = settings_of(arguments, rest, written).settings
    assert (settings.port, settings.linger_s, settings.data_dir) == (2222, 5, tmp_path)
    assert settings_of(arguments, rest).settings.linger_s == 7


def test_what_is_logged_does_not_come_between_an_answer(capsys: pytest.CaptureFixture[str]) -> None:
    try:
        log_to_stderr()
        structlog.get_logger().warning("mind this")
    finally:
        structlog.reset_defaults()
    out, err = capsys.readouterr()
    assert (out, "mind this" in err) == ("", True)


def test_the_store_is_looked_for_where_the_flag_says(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    try:
        code = store_command.run("everstream store", ["status", "--json", "--data-dir", str(tmp_path / "there")])
    finally:
        structlog.reset_defaults()
    told = json.loads(capsys.readouterr().out)
    assert (code, told["running"]) == (Exit.STORE, False)
    assert told["log"].startswith(str(tmp_path / "there"))
