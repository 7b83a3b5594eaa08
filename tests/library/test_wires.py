"""Every recorded wire through `everstream.stream`: what a program holds is what the provider said, or a part that says
that it is one.

    WireServer ──bytes, a few at a time──▶ provider ─▶ relay ─▶ log ─▶ `everstream.Stream`

Which wires there are, how each is asked for and how it is served is the table of the server's own test of them.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass

import pytest
import pytest_asyncio
from tests.gateway.test_wires import ERROR_BODIES, MODEL_IN_PATH, WIRES
from tests.providers.wire_server import Asked, Reply, WireServer
from tests.providers.wires import (
    ASKED_OF,
    ROOT,
    ErrorBody,
    Wire,
    cut_short,
    cuts,
    fold_of,
    in_pieces,
    parsed,
    usage_told,
    vendors_at,
)
from tests.runtime.conftest import assert_legal

from everstream import Event, Result, Settings
from everstream.core.events import CONTENT
from everstream.library_engine import Engine

pytestmark = [
    pytest.mark.skipif(not ROOT.is_dir(), reason="the recorded wires are not beside this checkout"),
    pytest.mark.asyncio(loop_scope="module"),  # one engine for all: it takes a second to import the vendors' packages
]

CUTS = 3  # of each wire's, whose others are tried with a server


@dataclass
class Rig:
    """An engine, and the provider's side of it."""

    replies: dict[str, Reply]  # by model
    engine: Engine
    asked: int = 0

    async def play(self, api: str, reply: Reply) -> tuple[Result, list[Event]]:
        self.asked += 1
        model = f"w{self.asked}"
        self.replies[model] = reply
        provider, params = ASKED_OF[api]
        stream = self.engine.stream(f"{provider}/{model}", "hi", **params)
        events = [event async for event in stream]
        del self.replies[model]
        return stream.result, events


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def rig() -> AsyncIterator[Rig]:
    replies: dict[str, Reply] = {}

    def reply(asked: Asked) -> Reply:
        in_path = MODEL_IN_PATH.search(asked.path)
        return replies[asked.json["model"] if in_path is None else in_path[1]]

    async with WireServer() as wires:
        wires.reply = reply
        settings = Settings(provider_max_retries=0, **vendors_at(wires.url))
        async with Engine(settings=settings) as engine:
            yield Rig(replies, engine)


@pytest.fixture(autouse=True)
def no_leaks() -> None:
    """Instead of the check of every test: the pools of these providers keep connections from one to the next."""


def check_sum(result: Result, events: list[Event]) -> None:
    """The events add up to the result, in a legal order, and the metrics count them."""
    assert_legal(events)
    assert "".join(event.text for event in events if event.type == "delta_text") == result.text  # type: ignore[attr-defined]
    assert "".join(event.text for event in events if event.type == "delta_thinking") == result.thinking  # type: ignore[attr-defined]
    assert result.metrics.chunks == sum(isinstance(event, CONTENT) for event in events)


@pytest.mark.parametrize("wire", WIRES, ids=lambda wire: wire.key)
async def test_a_program_holds_what_the_wire_says(wire: Wire, rig: Rig) -> None:
    result, events = await rig.play(wire.api, in_pieces(wire))
    check_sum(result, events)
    assert (result.text, result.thinking, result.refusal) == (wire.text, wire.thinking, wire.refusal)
    calls = [(call.name, parsed(call.arguments)) for call in result.tool_calls]
    assert calls == [(name, parsed(arguments)) for _, name, arguments in wire.calls]
    if wire.error is not None:
        assert result.error is not None
        assert (result.reason, result.error.code, result.partial) == ("failed", wire.error, True)
        return
    assert (result.reason, result.error, result.finish_reason) == ("complete", None, wire.finish)
    assert (result.partial, result.truncated) == (False, False)
    assert result.usage is not None
    if wire.usage is None:
        assert result.usage.source == "estimated"
    else:
        assert (usage_told(result.usage), result.usage.source) == (wire.usage, "provider")


@pytest.mark.parametrize("wire", WIRES, ids=lambda wire: wire.key)
async def test_what_a_broken_wire_said_is_kept_and_called_a_part(wire: Wire, rig: Rig) -> None:
    places = cuts(wire)[:CUTS]
    played = await asyncio.gather(*(rig.play(wire.api, cut_short(wire, cut)) for cut in places))
    for (result, events), cut in zip(played, places, strict=True):
        check_sum(result, events)
        assert result.error is not None
        assert (result.reason, result.error.code) == ("failed", "provider.connection"), f"cut after {cut} bytes"
        assert (result.partial, result.truncated) == (True, True), f"cut after {cut} bytes"
        least = fold_of(wire, cut)
        assert wire.text.startswith(result.text)
        assert result.text.startswith(least.text)
        assert wire.thinking.startswith(result.thinking)
        assert result.thinking.startswith(least.thinking)


@pytest.mark.parametrize("recorded", ERROR_BODIES, ids=lambda recorded: recorded.key)
async def test_an_error_body_is_the_results_error(recorded: ErrorBody, rig: Rig) -> None:
    result, events = await rig.play(recorded.api, recorded.reply())
    assert [event.type for event in events] == ["request_start", "stream_end"]
    assert result.error is not None
    assert (result.reason, result.error.code) == ("failed", recorded.code)
    assert result.error.message
    assert (result.text, result.partial, result.truncated) == ("", True, False)
