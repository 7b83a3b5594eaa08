"""`everstream bench`: how fast models answer, seen from where a program stands.

    everstream bench openai/gpt-6-luna scripted/count --runs 5 --prompt "Tell me a story"

Every model is asked the same thing, through the library and so through everything that a server's answer goes through.
The models take turns, and each round begins with another one: whatever drifts meanwhile, the network or this machine,
hits all of them alike.  What is needed before a first request (imports, clients) is made ready before the clock runs;
the first connection to a service is not, as nobody is spared it.
"""

from __future__ import annotations

import asyncio
import sys
from argparse import ArgumentParser, ArgumentTypeError, Namespace
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from everstream.bench_plot import as_svg
from everstream.bench_report import Call, Step, as_json, progress, score, show, write_csv
from everstream.config import load
from everstream.core.errors import EverstreamError
from everstream.library_engine import Engine
from everstream.settings import Settings

PROMPT = "Explain in three short paragraphs why the sky is blue."
CALLS_MAX = 100_000
DONE, FAILED, USAGE = 0, 1, 2


@dataclass(frozen=True, slots=True)
class Plan:
    """What is measured: each of `models`, `runs` times, with `concurrency` requests at once each time."""

    models: tuple[str, ...]
    prompt: str = PROMPT
    runs: int = 3
    concurrency: int = 1
    system: str | None = None
    max_tokens: int | None = None
    params: Mapping[str, Any] = field(default_factory=dict)

    @property
    def calls(self) -> int:
        return len(self.models) * self.runs * self.concurrency


async def check(engine: Engine, plan: Plan) -> None:
    """Make every model ready.  Raises EverstreamError for what no run could mend: a model that nobody knows, a request
    that cannot be; not for a key that is missing, which is a figure like others."""
    for model in plan.models:
        try:
            await engine.prepare(model, plan.prompt, **_asked(plan))
        except EverstreamError as error:
            if error.code in ("model.unknown", "request.invalid"):
                raise


async def measure(engine: Engine, plan: Plan, step: Step) -> list[Call]:
    """Every call, in the order in which they were made; `step` is told of each as it ends."""
    calls: list[Call] = []

    async def ask(model: str, run: int) -> None:
        result = await engine.run(model, plan.prompt, **_asked(plan))
        calls.append(Call(model, run, result))
        step(calls[-1])

    for run in range(plan.runs):
        turn = run % len(plan.models)
        for model in (*plan.models[turn:], *plan.models[:turn]):
            await asyncio.gather(*(ask(model, run + 1) for _ in range(plan.concurrency)))
    return calls


def add_arguments(parser: ArgumentParser, parameter: Callable[[str], tuple[str, Any]]) -> None:
    """The command's flags; `parameter` reads a `NAME=VALUE`."""
    parser.add_argument("models", nargs="+", metavar="MODEL", help="what is measured, as provider/name")
    parser.add_argument("--runs", type=_count, default=3, metavar="N", help="how often each is asked (%(default)s)")
    parser.add_argument(
        "--concurrency", type=_count, default=1, metavar="N", help="requests at once, each time (%(default)s)"
    )
    parser.add_argument("--prompt", metavar="TEXT", default=PROMPT, help="what is asked")
    parser.add_argument("--system", metavar="TEXT", help="what the models are told before it")
    parser.add_argument("--max-tokens", type=_count, metavar="N", help="the longest answer")
    parser.add_argument(
        "--param",
        metavar="NAME=VALUE",
        action="append",
        type=parameter,
        default=[],
        help="a parameter of the request, as temperature=0.2; the value is JSON, or else text; repeatable",
    )
    parser.add_argument("--config", type=Path, metavar="FILE", help="settings file, as for everstream serve")
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help="write the figures and all calls as JSON")
    form.add_argument("--csv", action="store_true", help="write a line a call as CSV")
    parser.add_argument("--plot", type=Path, metavar="FILE.svg", help="draw the figures, too")


def main(asked: Namespace) -> int:
    """Measure, and say on standard output what came of it.

    Returns the exit code: 1 where a model failed wholly, 2 where nothing could be measured.  Raises
    `config.ConfigError`.
    """
    plan = Plan(
        models=tuple(dict.fromkeys(asked.models)),
        prompt=asked.prompt,
        runs=asked.runs,
        concurrency=asked.concurrency,
        system=asked.system,
        max_tokens=asked.max_tokens,
        params=dict(asked.param),
    )
    settings = load(None, asked.config).settings
    try:
        if plan.calls > CALLS_MAX:
            raise EverstreamError("request.invalid", f"{plan.calls} calls are more than {CALLS_MAX}")
        calls = asyncio.run(_measured(plan, settings, asked.plot))
    except (EverstreamError, OSError) as error:
        print(f"everstream bench: {getattr(error, 'message', error)}", file=sys.stderr)
        return USAGE
    scores = [score(model, calls) for model in plan.models]
    if asked.json:
        print(as_json(scores, calls))
    elif asked.csv:
        write_csv(calls, sys.stdout)
    else:
        show(scores, sys.stdout)
    if asked.plot is not None:
        asked.plot.write_text(as_svg(scores), encoding="utf-8")
    return FAILED if any(each.failed == each.calls for each in scores) else DONE


async def _measured(plan: Plan, settings: Settings, plot: Path | None) -> list[Call]:
    async with Engine(settings=settings) as engine:
        await check(engine, plan)
        if plot is not None:
            await asyncio.to_thread(plot.touch)  # not to find out at the end that there is no place for it
        with progress(plan.calls, sys.stderr) as step:
            return await measure(engine, plan, step)


def _count(text: str) -> int:
    if not text.isascii() or not text.isdigit() or int(text) < 1:
        raise ArgumentTypeError(f"{text!r} is no number from 1 on")
    return int(text)


def _asked(plan: Plan) -> dict[str, Any]:
    return {**plan.params, "system": plan.system, "max_tokens": plan.max_tokens}
