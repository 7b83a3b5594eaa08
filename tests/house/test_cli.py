"""The command line: what it starts, what it says and what it exits with."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import structlog

import everstream
from everstream import chat
from everstream.cli import COMMANDS, Exit, main
from everstream.config import NAMES, ConfigError, flag_of
from everstream.core.errors import EverstreamError
from everstream.settings import Settings
from everstream.store.base import StoreUnavailable

CPU_LIMIT_S = 0.15
TRIES = 5  # the least of them: the machine may be busy, the program is not


@pytest.fixture(autouse=True)
def _quiet_surroundings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    for variable in [name for name in os.environ if name.upper().startswith("EVERSTREAM_")]:
        monkeypatch.delenv(variable)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("EVERSTREAM_DATA_DIR", str(tmp_path / "data"))
    yield
    structlog.reset_defaults()


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch) -> list[Settings]:
    """The settings that a gateway in place of the real one was called with."""
    calls: list[Settings] = []
    put_gateway(monkeypatch, lambda settings: calls.append(settings) or 0)
    return calls


def put_gateway(monkeypatch: pytest.MonkeyPatch, serve: Callable[[Settings], int]) -> None:
    module = types.ModuleType("everstream.gateway.server")
    module.serve = serve  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "everstream.gateway.server", module)


def run_apart(*arguments: str, **more: Any) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"PYTHONPATH": str(Path(everstream.__file__).parents[1])}
    command = [sys.executable, *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, **more)


def test_the_version_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == main(["-V"]) == 0
    assert capsys.readouterr().out == f"everstream {everstream.__version__}\n" * 2


def test_help_names_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    out = capsys.readouterr().out
    assert all(f"  {name} " in out for name in COMMANDS)


def test_no_command_shows_the_help_and_is_an_error(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == Exit.USAGE
    assert "usage: everstream COMMAND" in capsys.readouterr().err


def test_a_mistyped_command_names_the_nearest_one(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["srve"]) == Exit.USAGE
    assert "there is no command srve; did you mean serve?" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["serve", "doctor", "config", "store"])
def test_every_setting_is_a_flag_in_the_help_of_every_command_that_takes_settings(
    command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([command, "--help"]) == 0
    out = capsys.readouterr().out
    assert [name for name in NAMES if flag_of(name) not in out] == []


@pytest.mark.parametrize("name", NAMES)
def test_every_setting_reaches_the_server_from_its_flag(name: str, served: list[Settings]) -> None:
    value = getattr(Settings(), name)
    switch = isinstance(value, bool)
    fit = {"jwt_secret": "given" * 7, "jwt_jwks_url": "https://given"}.get(name, "given")
    given = [flag_of(name)] if switch else [flag_of(name), fit if value is None else str(value)]
    assert main(["serve", *given]) == 0
    (settings,) = served
    reached = getattr(settings, name)
    if switch:
        assert reached is True
    elif value is None:
        text = reached.get_secret_value() if hasattr(reached, "get_secret_value") else str(reached)
        assert text.endswith("given")
    else:
        assert reached == value


def test_a_switch_can_be_turned_off_over_the_environment(
    served: list[Settings], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EVERSTREAM_INSECURE", "true")
    main(["serve"])
    main(["serve", "--no-insecure"])
    assert [settings.insecure for settings in served] == [True, False]


def test_the_settings_file_is_taken_from_its_flag(served: list[Settings], tmp_path: Path) -> None:
    (tmp_path / "mine.toml").write_text("port = 4321\n")
    assert main(["serve", "--config", "mine.toml"]) == 0
    assert served[0].port == 4321


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--prot", "3"], "there is no flag --prot; did you mean --port?"),
        (["--prot=3"], "there is no flag --prot; did you mean --port?"),
        (["--por", "3"], "there is no flag --por; did you mean --port?"),
        (["here"], "there is no module `here`"),
        (["here", "there"], "unexpected argument: there"),
        (["--port"], "argument --port: expected one argument"),
        (["--port", "x"], "port = 'x' (flag --port): should be a whole number"),
        (["--config", "absent.toml"], "the settings file absent.toml cannot be read"),
    ],
)
def test_wrong_usage_is_one_clear_line_and_exit_2(
    arguments: list[str], said: str, served: list[Settings], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["serve", *arguments]) == Exit.USAGE
    captured = capsys.readouterr()
    assert captured.err.startswith(f"everstream serve: {said}")
    assert (captured.out, served) == ("", [])


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.5", "example.org", "fe80::1"])
def test_a_server_without_authentication_does_not_open_to_other_machines(
    host: str, served: list[Settings], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["serve", "--host", host]) == Exit.USAGE
    assert served == []
    assert "say --insecure if that is meant" in capsys.readouterr().err
    assert main(["serve", "--host", host, "--insecure"]) == 0
    assert served[0].host == host


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.9.1", "::1", "[::1]", "localhost", "es.localhost"])
def test_a_loopback_address_needs_no_permission(host: str, served: list[Settings]) -> None:
    assert main(["serve", "--host", host]) == 0
    assert len(served) == 1


@pytest.mark.parametrize("auth", ["keys", "jwt", "keys,jwt"])
def test_a_server_that_asks_who_somebody_is_needs_no_permission(auth: str, served: list[Settings]) -> None:
    assert main(["serve", "--host", "0.0.0.0", "--auth", auth, "--jwt-secret", "x" * 32]) == 0
    assert served[0].auth == auth


@pytest.mark.parametrize(
    ("failure", "code"),
    [
        (ConfigError(["port is odd"]), 2),
        (StoreUnavailable("the store is out"), 3),
        (OSError(errno.EADDRINUSE, "Address already in use"), 4),
        (KeyboardInterrupt(), 130),
    ],
)
def test_every_foreseen_failure_has_its_exit_code_and_no_traceback(
    failure: BaseException, code: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def serve(settings: Settings) -> int:
        raise failure

    put_gateway(monkeypatch, serve)
    assert main(["serve"]) == code
    err = capsys.readouterr().err
    assert "Traceback" not in err
    assert err.startswith("everstream serve: ") or isinstance(failure, KeyboardInterrupt)


@pytest.mark.parametrize("failure", [RuntimeError("a bug"), OSError(errno.EIO, "x"), EverstreamError("internal", "x")])
def test_an_unforeseen_failure_is_not_hidden(failure: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    def serve(settings: Settings) -> int:
        raise failure

    put_gateway(monkeypatch, serve)
    with pytest.raises(type(failure)):
        main(["serve"])


def test_the_servers_exit_code_is_the_programs(monkeypatch: pytest.MonkeyPatch) -> None:
    put_gateway(monkeypatch, lambda settings: 4)
    assert main(["serve"]) == 4


def test_chat_is_called_with_what_was_said(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[chat.Wish] = []
    monkeypatch.setattr(chat, "main", lambda wish: calls.append(wish) or 0)
    monkeypatch.delenv("EVERSTREAM_TOKEN", raising=False)
    assert main(["chat"]) == 0
    given = ["--model", "openai/x", "--system", "Be brief.", "--url", "wss://h/ws"]
    params = ["--param", "temperature=0.2", "--param", "stop=a=b", "--param", 'tools=[{"name": "t"}]']
    assert main(["chat", "why", "so?", *given, *params, "--file", "a", "--tee", "b", "--json", "--token", "c"]) == 0
    meant = {"temperature": 0.2, "stop": "a=b", "tools": [{"name": "t"}], "system": "Be brief."}
    assert calls == [
        chat.Wish("ws://127.0.0.1:8000/ws", files=[]),
        chat.Wish("wss://h/ws", "openai/x", meant, "c", "why so?", ["a"], tee="b", frames=True),
    ]


@pytest.mark.parametrize("param", ["temperature", "=1", ""])
def test_a_parameter_without_name_or_value_is_an_error(param: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["chat", "--param", param]) == Exit.USAGE
    assert "is not NAME=VALUE" in capsys.readouterr().err


def test_config_shows_what_is_in_force_and_where_it_is_from_without_secrets(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EVERSTREAM_OPENAI_API_KEY", "sk-hidden")
    assert main(["config", "--port", "99"]) == 0
    out = capsys.readouterr().out
    assert "port = 99" in out
    assert "# flag --port" in out
    assert "# anthropic_api_key is unset" in out
    assert "sk-hidden" not in out
    assert main(["config", "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert list(shown) == list(NAMES)
    assert shown["openai_api_key"] == {"value": "********", "from": "environment EVERSTREAM_OPENAI_API_KEY"}


def test_what_config_prints_is_a_settings_file(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    main(["config", "--port", "99", "--data-dir", str(tmp_path / 'a "quoted" café')])
    (tmp_path / "printed.toml").write_text(capsys.readouterr().out, "utf-8")
    main(["config", "--json"])
    defaults = json.loads(capsys.readouterr().out)
    assert main(["config", "--json", "--config", "printed.toml"]) == 0
    again = json.loads(capsys.readouterr().out)
    assert again["port"]["value"] == 99
    assert {name for name in NAMES if again[name]["value"] != defaults[name]["value"]} == {"port"}


def test_a_reader_that_has_seen_enough_is_no_failure() -> None:
    script = "set -o pipefail; exec 3>&1; { $PY -m everstream config; echo code $? >&3; } | true"
    run = run_apart(
        "-c", "import os, sys; os.execvp('bash', ['bash', '-c', sys.argv[1].replace('$PY', sys.executable)])", script
    )
    assert run.stdout == "code 0\n"
    assert run.stderr == ""


def test_store_status_and_stop_tell_when_nothing_runs(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert main(["store", "status"]) == Exit.STORE
    assert capsys.readouterr().out.startswith(f"no store runs in {tmp_path / 'data'}")
    assert main(["store", "stop"]) == 0
    assert capsys.readouterr().out == f"no store runs in {tmp_path / 'data'}\n"
    assert main(["store", "status", "--json"]) == Exit.STORE
    assert json.loads(capsys.readouterr().out)["running"] is False


def test_store_status_shows_and_stop_ends_what_was_left_behind(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    leave = "import asyncio, os, pathlib, sys; from everstream.store.embedded import attach\n"
    leave += "async def main(): await attach(pathlib.Path(sys.argv[1])); os._exit(0)\nasyncio.run(main())"
    assert run_apart("-c", leave, str(tmp_path / "data")).returncode == 0
    assert main(["store", "status"]) == 0
    assert "in use by nobody: everstream store stop ends it" in capsys.readouterr().out
    assert main(["store", "status", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["running"] is True
    assert main(["store", "stop"]) == 0
    assert capsys.readouterr().out == f"the store in {tmp_path / 'data'} is stopped\n"
    assert main(["store", "status"]) == Exit.STORE


def test_store_wants_to_know_what_to_do(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["store"]) == Exit.USAGE
    assert main(["store", "burn"]) == Exit.USAGE
    assert "invalid choice: 'burn'" in capsys.readouterr().err


def test_python_dash_m_is_the_same_program() -> None:
    run = run_apart("-m", "everstream", "--version")
    assert (run.returncode, run.stdout) == (0, f"everstream {everstream.__version__}\n")
    assert run_apart("-m", "everstream", "nonsense").returncode == Exit.USAGE


@pytest.mark.parametrize("argument", ["--version", "--help"])
def test_a_quick_question_imports_nothing_slow(argument: str) -> None:
    slow = "{'pydantic', 'starlette', 'uvicorn', 'redis', 'openai', 'anthropic', 'aiohttp', 'structlog', 'msgspec'}"
    script = (
        "import resource, sys; from everstream.cli import main; main([sys.argv[1]])\n"
        f"print(sorted({slow} & set(sys.modules)))\n"
        "used = resource.getrusage(resource.RUSAGE_SELF); print(used.ru_utime + used.ru_stime)"
    )
    cpu_s = []
    for _ in range(TRIES):
        *_, imported, used = run_apart("-c", script, argument, check=True).stdout.splitlines()
        assert imported == "[]"
        cpu_s.append(float(used))
        if cpu_s[-1] < CPU_LIMIT_S:
            return
    pytest.fail(f"{argument} took {min(cpu_s):.3f} s of processor time at best")
