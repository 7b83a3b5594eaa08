"""A connection whose reader knows more than the server: it is answered late, and holds nothing else up."""

from __future__ import annotations

import asyncio

import pytest
from tests.gateway.conftest import Gateway
from tests.runtime.conftest import HEADERS, text, until

from everstream.runtime import hub


async def begun(gateway: Gateway) -> tuple[str, int]:
    """A stream of the hand-made provider in mid-answer, and its epoch."""
    async with gateway.client() as client:
        reply = await client.ask("generate", model="hand/any", messages=[{"role": "user", "content": "hello"}])
        gateway.hand.calls[0].say(HEADERS, *text("a", "b"))
        await client.until(lambda frame: frame.get("upto") == 5)
        return reply["stream"], reply["epoch"]


async def test_a_place_that_our_own_commit_will_confirm_is_answered_when_it_has(gateway: Gateway) -> None:
    stream, epoch = await begun(gateway)
    replied = asyncio.Event()
    commit = gateway.store.commit

    async def slow(writes):  # type: ignore[no-untyped-def]
        replies = await commit(writes)
        await replied.wait()
        return replies

    gateway.store.commit = slow  # type: ignore[method-assign]
    gateway.hand.calls[0].words("c")
    await until(lambda: len(gateway.store.disk.records[stream].entries) == 6)
    async with gateway.client() as client:
        await client.send(type="subscribe", id="late", stream=stream, epoch=epoch, offset=6)
        assert (await client.ask("ping"))["type"] == "pong"
        assert [frame["type"] for frame in client.frames] == ["welcome", "pong"]
        replied.set()
        reply = await client.until(lambda frame: frame.get("id") == "late")
        assert (reply["type"], reply["offset"]) == ("subscribed", 6)
        gateway.hand.calls[0].words("d")
        assert (await client.next())["text"] == "d"


async def test_a_place_that_nobody_confirms_gets_a_snapshot_in_the_end(
    gateway: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hub, "CATCH_UP_S", 0.1)
    stream, epoch = await begun(gateway)
    async with gateway.client() as client:
        reply = await client.ask("subscribe", stream=stream, epoch=epoch + 1024, offset=4)
        assert (reply["type"], reply["upto"], reply["text"]) == ("snapshot", 5, "ab")
