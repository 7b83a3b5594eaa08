"""A client that missed something asks once, and listens to nothing but the answer."""

from __future__ import annotations

import asyncio
from typing import Any

from tests.house.fake_server import FakeServer, answer, fake_server, text, until

from everstream.client import Client
from everstream.reconnect import Backoff
from everstream.reducer import Frame

ASK: dict[str, Any] = {"model": "fake/one", "messages": [{"role": "user", "content": "hi"}]}


def client_of(server: FakeServer) -> Client:
    return Client(server.url, backoff=Backoff(0.01, 0.05))


async def test_what_comes_between_a_hole_and_its_answer_is_not_meant_for_us() -> None:
    async with fake_server() as server:
        server.script = lambda _: answer("one", " two", " three")
        server.allowed = 2
        async with client_of(server) as client:
            stream = await client.generate(**ASK)
            beside = await client.generate(**ASK)
            await until(lambda: stream.state.offset == beside.state.offset == 2)
            held = server.hold["subscribe"] = asyncio.Event()
            try:
                at = {"stream": stream.id}
                await server.send_all({**text(" lost"), **at, "after": 3, "upto": 4})
                await until(lambda: server.said("subscribe"))
                # A frame that fits, an answer to another question, and a snapshot that nobody asked for.
                other: Frame = {"type": "snapshot", **at, "epoch": 9, "upto": 9, "status": "open", "text": "wrong"}
                await server.send_all({**text(" wrong"), **at, "after": 2, "upto": 3})
                await server.send_all({"type": "subscribed", **at, "id": 9_999, "epoch": 7, "offset": 2, "tail": 2})
                await server.send_all(other)
                await server.send_all({**text(" wrong"), **at, "after": 2, "upto": 3})
                await server.send_all({**text(" two"), "stream": beside.id, "after": 2, "upto": 3})
                await until(lambda: beside.state.offset == 3)  # so all that was sent before it has been read
                assert stream.state.position == (7, 2)
            finally:
                held.set()
            server.streams[stream.id].allow()
            async with asyncio.timeout(20):
                said = "".join([frame["text"] async for frame in stream if frame["type"] == "delta_text"])
            assert said == stream.state.text == "one two three"
            assert len(server.said("subscribe")) == 1


async def test_a_position_that_is_named_while_hello_is_under_way_is_asked_for_behind_it() -> None:
    async with fake_server() as server, client_of(server) as client:
        first = await client.generate(**ASK)
        await first.result()
        held = server.hold["hello"] = asyncio.Event()
        server.drop_all()
        await until(lambda: len(server.said("hello")) == 2)
        subscribing = asyncio.create_task(client.subscribe(first.id, 7, 2))
        await asyncio.sleep(0)
        held.set()
        stream = await subscribing
        async with asyncio.timeout(20):
            assert "".join([piece async for piece in stream.text_deltas()]) == " two three"
    assert server.said("hello")[1]["resume"] == []
