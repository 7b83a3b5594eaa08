"""The whole way: a node's relay and a provider's client, and a server that breaks off again and again.

What a stream shows at its end is the recorded answer, character for character, and its seams say how that was done.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from typing import Any

import pytest
from tests.providers.seams import Brain
from tests.providers.test_carry_exact import run_of, runs
from tests.providers.wire_server import Asked, Reply, WireServer
from tests.providers.wires import ROOT, openai_wires
from tests.runtime.conftest import assert_legal, running

from everstream.core.events import Message, Request, Seam, StreamEnd
from everstream.providers.openai import OpenAIProvider
from everstream.runtime.hub import Feed
from everstream.runtime.node import Node
from everstream.store.memory import MemoryStore

pytestmark = pytest.mark.skipif(not ROOT.is_dir(), reason="the recorded wires are not beside this checkout")

BREAKS_MAX = 8  # of one stream
STREAMS = 25


@pytest.fixture
async def server() -> AsyncIterator[WireServer]:
    async with WireServer() as server:
        yield server


def breaking(reply: Callable[[Asked], Reply], draw: random.Random) -> Callable[[Asked], Reply]:
    """As `reply`, but that most answers break off somewhere, a few times in all."""
    left = BREAKS_MAX

    def broken(got: Asked) -> Reply:
        nonlocal left
        whole = reply(got)
        if whole.status != 200 or not left or draw.random() < 0.2:
            return whole
        left -= 1
        return replace(whole, cut_after=draw.randrange(len(whole.body)), segments=(1, 200), reset=draw.random() < 0.5)

    return broken


async def generated(node: Node) -> Feed:
    feed = await node.generate(Request("openai/any", [Message("user", "hello")]), "anonymous", None)
    await asyncio.wait_for(feed.wait_ended(), 30)
    assert_legal(feed.log.entries)
    return feed


def seams(feed: Feed) -> list[Seam]:
    return [entry for entry in feed.log.entries if isinstance(entry, Seam)]


async def streams(
    server: WireServer, provider: OpenAIProvider, replies: list[tuple[str, Callable[[Asked], Reply]]]
) -> tuple[int, int, list[Seam]]:
    """How many streams, how many of them equal, and all their seams."""
    equal, found = 0, []
    async with running(MemoryStore(), provider, carry_on_attempts=20) as node:
        for number, (text, reply) in enumerate(replies):
            server.reply = breaking(reply, random.Random(number))
            feed = await generated(node)
            end = feed.log.entries[-1]
            assert isinstance(end, StreamEnd)
            equal += (feed.log.total().text, end.reason) == (text, "complete")
            found += seams(feed)
    return len(replies), equal, found


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("everstream.runtime.succession.PAUSE_FIRST_S", 0.001)
    monkeypatch.setattr("everstream.runtime.succession.PAUSE_MAX_S", 0.005)


async def test_a_stream_in_the_background_survives_every_break_exactly(
    server: WireServer, quick: None, capsys: pytest.CaptureFixture[str]
) -> None:
    provider = OpenAIProvider("k", server.url, background="on", max_retries=0)
    wires = [wire for wire in runs() if wire.text][:STREAMS]
    replies = [(wire.text, run_of(wire.body, random.Random(wire.key))) for wire in wires]
    count, equal, found = await streams(server, provider, replies)
    kinds = {str(seam.continuation): 0 for seam in found}
    for seam in found:
        kinds[str(seam.continuation)] += 1
    with capsys.disabled():
        print(f"\n  relay, background: {count} streams, {equal} equal, seams {kinds}")
    assert equal == count
    assert kinds["exact"] > count
    assert set(kinds) <= {"exact", "restart"}  # it may break before it has a name


@pytest.mark.parametrize("how", ["prefill", "prefill_echo"])
async def test_a_stream_of_a_model_that_writes_on_survives_every_break(
    how: Any, server: WireServer, quick: None, capsys: pytest.CaptureFixture[str]
) -> None:
    provider = OpenAIProvider("k", server.url, continuation=how, max_retries=0)
    texts = [w.text for w in openai_wires() if w.api == "chat" and len(w.text) > 100 and not w.calls][:STREAMS]
    replies = []
    for text in texts:
        brain = Brain(text, len(text))
        brain.echo = how == "prefill_echo"
        # The first request holds no turn of the assistant's: there is nothing to repeat.
        replies.append((text, brain.reply))
    count, equal, found = await streams(server, provider, replies)
    with capsys.disabled():
        print(f"\n  relay, {how}: {count} streams, {equal} equal, {len(found)} seams")
    assert equal == count
    assert {seam.continuation for seam in found} <= {"prefill", "restart"}
    assert len(found) > count


async def test_a_cancel_reaches_the_run_that_goes_on_without_us(server: WireServer) -> None:
    provider = OpenAIProvider("k", server.url, background="on", max_retries=0)
    wire = next(wire for wire in runs() if len(wire.text) > 200)
    server.reply = lambda got: (
        Reply(b"{}", headers={"content-type": "application/json"}, framing="length")
        if got.path.endswith("/cancel")
        else Reply(wire.body, hang_after=len(wire.body) // 2)
    )
    async with running(MemoryStore(), provider) as node:
        feed = await node.generate(Request("openai/any", [Message("user", "hello")]), "anonymous", None)
        async with asyncio.timeout(10):
            while not feed.log.total().text:
                await asyncio.sleep(0.001)  # pause: between two looks at the text
        assert feed.relay is not None
        feed.relay.cancel()
        await asyncio.wait_for(feed.wait_ended(), 10)
        await server.asked(2)
    assert [got.path.rpartition("/")[2] for got in server.requests] == ["responses", "cancel"]
