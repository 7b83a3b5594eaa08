"""Streams that belong to somebody: who else asks for one is answered as if there were none."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from tests.gateway.conftest import Client, Gateway, serving
from tests.gateway.people import Door, person
from tests.runtime.conftest import until

from everstream.runtime.read_back import total_of
from everstream.store.memory import MemoryStore

DOOR = Door(ann=person("ann"), ann2=person("ann"), bob=person("bob"))
NO_STREAM = "r_00" + "a" * 26
UNKNOWN = {"type": "error", "code": "stream.unknown", "message": "there is no such stream", "retryable": False}


@asynccontextmanager
async def as_user(gateway: Gateway, token: str) -> AsyncIterator[Client]:
    async with gateway.client(hello=False) as client:
        assert (await client.ask("hello", token=token))["type"] == "welcome"
        yield client


async def resume(gateway: Gateway, token: str, stream: str, **place: Any) -> dict[str, Any]:
    """What `hello.resume` of one stream is answered with."""
    async with gateway.client(hello=False) as client:
        await client.send(type="hello", id=1, token=token, resume=[{"stream": stream, **place}])
        return await client.until(lambda frame: "stream" in frame)


async def answers(gateway: Gateway, token: str, stream: str) -> dict[str, dict[str, Any]]:
    """What is said of a stream to each command that names one; ids and the stream's own name are left out."""
    async with as_user(gateway, token) as client:
        said = {
            "subscribe": await client.ask("subscribe", stream=stream),
            "subscribe from a place": await client.ask("subscribe", stream=stream, epoch=2**52, offset=5),
            "unsubscribe": await client.ask("unsubscribe", stream=stream),
            "cancel": await client.ask("cancel", stream=stream),
        }
    said["resume"] = await resume(gateway, token, stream)
    said["resume from a place"] = await resume(gateway, token, stream, epoch=2**52, offset=5)
    return {
        command: {name: value for name, value in reply.items() if name not in ("id", "stream")}
        for command, reply in said.items()
    }


async def begun(gateway: Gateway) -> str:
    """A stream of ann's that runs."""
    async with as_user(gateway, "ann") as ann:
        stream = await ann.generate("hand/any")
    await until(lambda: gateway.hand.calls)
    gateway.hand.calls[0].words("secret")
    await until(lambda: gateway.node.hub.get(stream).log.committed >= 2)  # type: ignore[union-attr]
    return stream


async def finish(gateway: Gateway) -> None:
    gateway.hand.calls[0].end()
    await until(lambda: not gateway.node.generating)


async def fold(store: MemoryStore, stream: str) -> None:
    state = await store.read(stream)
    assert state is not None
    assert await store.fold(stream, state.head.tail, total_of(state))


@pytest.mark.parametrize("where", ["leader", "follower", "gateway", "ended", "folded"])
async def test_somebody_elses_stream_is_answered_as_one_that_does_not_exist(where: str) -> None:
    store = MemoryStore()
    async with (
        serving(store, authenticate=DOOR) as one,
        serving(store.beside(), authenticate=DOOR, lead=where != "gateway") as two,
    ):
        stream = await begun(one)
        if where in ("ended", "folded"):
            await finish(one)
        if where == "folded":
            await fold(store, stream)
        asked = one if where in ("leader", "ended") else two
        told, nothing = await answers(asked, "bob", stream), await answers(asked, "bob", NO_STREAM)
        assert told == nothing
        assert {command for command, reply in told.items() if reply != UNKNOWN} == {"unsubscribe"}
        assert told["unsubscribe"] == {"type": "ok"}, "it says nothing: `ok` for any stream"
        if where not in ("ended", "folded"):
            assert not one.hand.calls[0].closed, "nobody has stopped it"
        async with as_user(asked, "ann2") as ann:
            assert (await ann.ask("subscribe", stream=stream))["type"] in ("subscribed", "snapshot")
            reply = await ann.ask("cancel", stream=stream)
            assert reply["type"] == "cancelled"
            await ann.ended(stream)
            assert ann.streams[stream].text == "secret"


async def test_a_repeated_request_that_looks_like_somebody_elses_shows_nothing_of_it() -> None:
    door = Door(tricky=person("ann\0a"), ann=person("ann"))
    async with serving(authenticate=door) as gateway:
        async with as_user(gateway, "tricky") as one:
            await one.generate(request_id="b", params={"tokens": 2, "rate": 0})
        async with as_user(gateway, "ann") as other:
            reply = await other.ask(
                "generate", request_id="a\0b", model="scripted/count", messages=[{"role": "user", "content": "x"}]
            )
            assert {"type": reply["type"], "code": reply["code"]} == {"type": "error", "code": "stream.unknown"}


async def test_where_nobody_asks_everybody_is_the_same_user() -> None:
    async with serving() as gateway:
        async with gateway.client() as one:
            stream = await one.generate("hand/any")
        await until(lambda: gateway.hand.calls)
        async with gateway.client() as other:
            assert (await other.ask("subscribe", stream=stream))["type"] == "subscribed"
            assert (await other.ask("cancel", stream=stream))["type"] == "cancelled"
            assert (await other.ended(stream))["reason"] == "cancelled"


async def test_a_stream_of_somebody_is_not_everybodys_once_nobody_asks() -> None:
    store = MemoryStore()
    async with serving(store, authenticate=DOOR) as asking, serving(store.beside()) as open_to_all:
        stream = await begun(asking)
        async with open_to_all.client() as client:
            assert (await client.ask("subscribe", stream=stream))["code"] == "stream.unknown"
