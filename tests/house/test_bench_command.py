"""`everstream bench`, `everstream.bench`: what it measures, how it says so, and what it exits with."""

from __future__ import annotations

import asyncio
import csv
import io
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
import structlog
from tests.providers.wire_server import Asked, Reply, WireServer
from tests.server import clean_environment

from everstream.bench import Plan, measure
from everstream.bench_plot import as_svg
from everstream.bench_report import Spread, score, show
from everstream.cli import Exit, main
from everstream.library_engine import Engine
from everstream.settings import Settings

FAST = ("--param", "rate=0", "--max-tokens", "5")
SAID = b'data: {"choices":[{"index":0,"delta":{"content":"word "}}]}\n\n' * 4
DONE = (
    b'data: {"choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}\n\n'
    b'data: {"choices":[],"usage":{"prompt_tokens":3,"completion_tokens":4,"total_tokens":7}}\n\ndata: [DONE]\n\n'
)
TERMINAL_S = 60


@pytest.fixture(autouse=True)
def _quiet_surroundings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    for name in [name for name in os.environ if name.upper().startswith("EVERSTREAM_") or name.endswith("_API_KEY")]:
        monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)
    yield
    structlog.reset_defaults()


def bench(*arguments: str) -> int:
    return main(["bench", *arguments])


# --------------------------------------------------------------------------- what is shown


def test_a_table_has_a_line_for_each_model(capsys: pytest.CaptureFixture[str]) -> None:
    assert bench("scripted/count", "scripted/lorem", "--runs", "2", *FAST) == Exit.DONE
    said = capsys.readouterr()
    heading, count, lorem, legend = said.out.splitlines()
    assert heading.split()[:2] == ["model", "TTFT"]
    assert (count.split()[0], count.split()[-1]) == ("scripted/count", "0/2")
    assert (lorem.split()[0], lorem.split()[-1]) == ("scripted/lorem", "0/2")
    assert "over 2 calls" in legend
    assert said.err == ""  # it is no terminal: no bar


def test_json_has_the_figures_and_every_call(capsys: pytest.CaptureFixture[str]) -> None:
    assert bench("scripted/count", "--runs", "2", "--concurrency", "3", "--json", *FAST) == Exit.DONE
    told = json.loads(capsys.readouterr().out)
    [figures] = told["models"]
    assert (figures["model"], figures["calls"], figures["failed"], figures["errors"]) == ("scripted/count", 6, 0, {})
    ttft = figures["ttft_ms"]
    assert 0 < ttft["min"] <= ttft["median"] <= ttft["max"]
    assert len(ttft["values"]) == 6
    assert figures["output_tokens"]["median"] == 5
    assert sorted(call["run"] for call in told["calls"]) == [1, 1, 1, 2, 2, 2]
    assert {call["finish_reason"] for call in told["calls"]} == {"length"}


def test_csv_has_a_line_for_each_call(capsys: pytest.CaptureFixture[str]) -> None:
    assert bench("scripted/count", "scripted/echo", "--runs", "2", "--csv", "--prompt", "a b", *FAST) == Exit.DONE
    rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert [(row["model"], row["run"]) for row in rows] == [
        ("scripted/count", "1"),
        ("scripted/echo", "1"),
        ("scripted/echo", "2"),
        ("scripted/count", "2"),
    ]
    assert [row["output_tokens"] for row in rows] == ["5", "2", "2", "5"]
    assert all(row["error"] == "" and float(row["ttft_ms"]) > 0 for row in rows)


def test_the_picture_is_one_file_that_suits_light_and_dark(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert bench("scripted/count", "scripted/lorem", "--runs", "2", "--plot", "out.svg", *FAST) == Exit.DONE
    assert capsys.readouterr().out
    text = (tmp_path / "out.svg").read_text(encoding="utf-8")
    root = ElementTree.fromstring(text)
    said = [element.text for element in root.iter("{http://www.w3.org/2000/svg}text")]
    assert {"scripted/count", "scripted/lorem", "tokens a second"} <= set(said)
    assert len(list(root.iter("{http://www.w3.org/2000/svg}circle"))) == 8  # a dot a call, in each of two halves
    assert "prefers-color-scheme:dark" in text
    assert not any(foreign in text.replace("http://www.w3.org/2000/svg", "") for foreign in ("http", "url(", "<script"))


def test_a_picture_shows_odd_names_and_missing_figures() -> None:
    odd = "a/<b>&" + "x" * 60
    root = ElementTree.fromstring(as_svg([score(odd, [])]))
    said = [element.text or "" for element in root.iter("{http://www.w3.org/2000/svg}text")]
    assert "no figure" in said
    assert any(text.startswith("a/<b>&x") and text.endswith("…") for text in said)


def test_a_terminal_gets_a_bar_and_a_drawn_table(tmp_path: Path) -> None:
    pty = pytest.importorskip("pty")
    leading, following = pty.openpty()
    pieces: list[bytes] = []

    def read() -> None:
        try:
            while piece := os.read(leading, 65_536):
                pieces.append(piece)
        except OSError:
            pass  # the other end is closed: that is how a terminal says so

    reader = threading.Thread(target=read)
    reader.start()
    command = [sys.executable, "-m", "everstream", "bench", "scripted/count", "--runs", "4", *FAST]
    environment = clean_environment({"TERM": "xterm", "COLUMNS": "120"})
    with subprocess.Popen(
        command, cwd=tmp_path, env=environment, stdin=following, stdout=following, stderr=following
    ) as process:
        os.close(following)
        assert process.wait(TERMINAL_S) == 0
    reader.join(TERMINAL_S)
    os.close(leading)
    shown = b"".join(pieces).decode()
    assert "4/4" in shown
    assert "┃" in shown
    assert "scripted/count" in shown


# --------------------------------------------------------------------------- what is measured


async def test_models_take_turns_and_each_round_begins_with_another() -> None:
    plan = Plan(("scripted/count", "scripted/lorem", "scripted/echo"), runs=3, max_tokens=1, params={"rate": 0})
    steps: list[str] = []
    async with Engine(settings=Settings()) as engine:
        calls = await measure(engine, plan, lambda call: steps.append(call.model))
    order = [call.model.removeprefix("scripted/") for call in calls]
    assert order == ["count", "lorem", "echo", "lorem", "echo", "count", "echo", "count", "lorem"]
    assert [f"scripted/{name}" for name in order] == steps


async def test_what_is_asked_for_reaches_a_real_service_and_is_paid_for(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked: list[Asked] = []

    def reply(request: Asked) -> Reply:
        asked.append(request)
        if request.json["model"] == "gpt-5-mini":
            return Reply(SAID + DONE, segments=(20, 60), seed=1)
        return Reply(b'{"error":{"message":"slow down","code":"rate_limit_exceeded"}}', 429, framing="length")

    async with WireServer() as wires:
        wires.reply = reply
        monkeypatch.setenv("EVERSTREAM_OPENAI_BASE_URL", wires.url)
        monkeypatch.setenv("EVERSTREAM_OPENAI_API_KEY", "k")
        monkeypatch.setenv("EVERSTREAM_PROVIDER_MAX_RETRIES", "0")
        arguments = ("--runs", "2", "--prompt", "Why?", "--system", "Be brief.", "--param", "top_p=0.5", "--json")
        code = await asyncio.to_thread(bench, "openai/gpt-5-mini", "openai/other", *arguments)
    body: dict[str, Any] = asked[0].json
    assert body["messages"][-1] == {"role": "user", "content": "Why?"}
    assert body["messages"][0]["content"] == "Be brief."
    assert body["top_p"] == 0.5
    figures, other = json.loads(capsys.readouterr().out)["models"]
    assert (figures["failed"], figures["output_tokens"]["median"]) == (0, 4)
    assert figures["cost_usd"] > 0
    assert (other["failed"], other["errors"], other["ttft_ms"]) == (2, {"provider.rate_limit": 2}, None)
    assert code == Exit.FAILED


def test_a_model_that_fails_at_times_is_no_failure_of_the_command(capsys: pytest.CaptureFixture[str]) -> None:
    table = io.StringIO()
    assert bench("scripted/count", "openai/x", "--runs", "1", *FAST) == Exit.FAILED
    said = capsys.readouterr().out
    assert "openai/x: 1 of 1 provider.auth: set OPENAI_API_KEY" in said
    show([score("scripted/count", [])], table)
    assert "–" in table.getvalue()


def test_a_spread_is_the_least_the_median_and_the_most() -> None:
    assert Spread.over([]) is None
    assert Spread.over([2.0]) == Spread(2.0, 2.0, 2.0, None, (2.0,))
    assert Spread.over([3.0, 1.0, 2.0, 4.0]) == Spread(1.0, 2.5, 4.0, 1.291, (3.0, 1.0, 2.0, 4.0))


# --------------------------------------------------------------------------- what cannot be measured


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (("nobody/x",), "no provider `nobody`"),
        (("scripted/count", "scripted/x"), "no such model"),
        (("count",), "must be `provider/name`"),
        (("scripted/count", "--param", "rte=1"), "the nearest is 'rate'"),
        (("scripted/count", "--runs", "0"), "'0' is no number from 1 on"),
        (("scripted/count", "--runs", "1000000"), "calls are more than"),
        (("scripted/count", "--plot", "no/such/place.svg"), "no/such/place.svg"),
        (("scripted/count", "--json", "--csv"), "not allowed with"),
        ((), "MODEL"),
    ],
)
def test_what_cannot_be_measured_is_said_before_anything_is(
    arguments: tuple[str, ...], why: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert bench(*arguments) == Exit.USAGE
    said = capsys.readouterr()
    assert said.out == ""
    assert why in said.err
