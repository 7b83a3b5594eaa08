"""`everstream limit`: what it sets, shows and takes back."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
from tests.server import ServerProcess, clean_environment

from everstream.cli import Exit, main
from everstream.client import Client, EverstreamError
from everstream.limit_command import ACTIONS, USAGE

Said = tuple[int, str, str]
ID = "k3v7q2mzt5aw"


pytestmark = pytest.mark.usefixtures("quiet_surroundings")


@pytest.fixture
def say(capsys: pytest.CaptureFixture[str]) -> Callable[..., Said]:
    def run(*arguments: str) -> Said:
        capsys.readouterr()
        code = main(["limit", *arguments])
        return (code, *capsys.readouterr())

    return run


def test_limits_are_set_changed_shown_and_taken_back(say: Callable[..., Said]) -> None:
    assert say("list")[1].startswith("nobody has limits")
    assert say("set", "--key", ID, "--usd-per-day", "5", "--models", "openai/gpt-5-mini, anthropic/*") == (
        0,
        f"key:{ID}: usd per day 5, models openai/gpt-5-mini anthropic/*\n",
        "",
    )
    assert say("set", "--user", "ada", "--tokens-per-day", "2000000")[1] == "user:ada: tokens per day 2000000\n"
    assert say("set", "--user", "ada", "--streams", "0")[1] == "user:ada: streams 0, tokens per day 2000000\n"
    code, out, _ = say("list", "--json")
    assert (code, json.loads(out)) == (
        0,
        {
            f"key:{ID}": {"usd_per_day": 5.0, "models": ["openai/gpt-5-mini", "anthropic/*"]},
            "user:ada": {"streams": 0, "tokens_per_day": 2_000_000},
        },
    )
    assert say("clear", "--user", "ada")[:2] == (0, "user:ada has no limits of its own any more\n")
    assert say("clear", "--user", "ada")[0] == Exit.FAILED
    assert say("list")[1] == f"key:{ID}: usd per day 5, models openai/gpt-5-mini anthropic/*\n"


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (("set", "--streams", "1"), "needs --user or --key"),
        (("set", "--user", "a", "--key", ID, "--streams", "1"), "needs --user or --key"),
        (("set", "--user", "a"), "set needs a limit"),
        (("set", "--key", "es_nonsense", "--streams", "1"), "is no id of a key"),
        (("set", "--user", "a", "--streams", "-1"), "whole number"),
        (("set", "--user", "a", "--streams", "1.5"), "whole number"),
        (("set", "--user", "a", "--usd-per-day", "nan"), "amount of dollars"),
        (("set", "--user", "a", "--models", "gpt-5"), "provider/name"),
        (("clear", "--user", "a", "--streams", "1"), "clear takes no --streams"),
        (("list", "--user", "a"), "list takes no --user"),
        (("clear", "--user", "a", "--store", "memory://"), "its limits"),
    ],
)
def test_what_cannot_be_meant_is_one_line(say: Callable[..., Said], given: tuple[str, ...], said: str) -> None:
    code, out, err = say(*given)
    assert (code, out) == (Exit.USAGE, "")
    assert said in err


async def apart(*arguments: str, data_dir: Path) -> Said:
    """Runs the command as a process."""
    command = [sys.executable, "-m", "everstream", "limit", *arguments, "--data-dir", str(data_dir)]
    run = await asyncio.to_thread(
        subprocess.run, command, env=clean_environment(), capture_output=True, text=True, timeout=30
    )
    return run.returncode, run.stdout, run.stderr


async def test_a_running_server_keeps_to_what_is_said_beside_it(tmp_path: Path) -> None:
    with ServerProcess(tmp_path / "data") as server:
        await asyncio.to_thread(server.start)
        async with Client(server.ws_url) as client:

            async def answered(model: str) -> str:
                return (await (await client.generate(model, "hi", tokens=1)).result()).text

            assert await answered("scripted/count") == "1"
            models = ("--models", "scripted/echo")
            code, out, err = await apart("set", "--user", "anonymous", *models, data_dir=tmp_path / "data")
            assert (code, err) == (0, ""), out
            assert await refusal(lambda: answered("scripted/count")) == "auth.forbidden"
            assert await answered("scripted/echo") == "hi"


async def refusal(ask: Callable[[], Awaitable[str]]) -> str:
    """The code that it is refused with, once the server has heard."""
    async with asyncio.timeout(20):
        while True:
            try:
                await ask()
            except EverstreamError as error:
                return error.code


def test_the_usage_of_limit_names_every_action() -> None:
    assert all(action in USAGE for action in ACTIONS)
