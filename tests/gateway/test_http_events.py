"""Everything without a WebSocket: commands by POST, many streams as events, and a change of wire in mid-stream."""

from __future__ import annotations

import asyncio
import io
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import msgspec
import pytest
from tests.gateway.conftest import MESSAGES, Gateway, Held, count_text, serving
from tests.gateway.people import Door, person
from tests.gateway.test_http_streams import events, http, text_of
from tests.runtime.conftest import until

from everstream.core.events import DeltaText

DOOR = Door(ann=person("ann"), ben=person("ben"))
TOKENS = 2_000
CHANGE_TOKENS = 50


async def frames(answer: aiohttp.ClientResponse) -> AsyncIterator[dict[str, Any]]:
    async for line in answer.content:
        if line.startswith(b"data: "):
            yield msgspec.json.decode(line[6:])


async def command(session: aiohttp.ClientSession, body: Any) -> tuple[int, Any]:
    async with session.post("/v1/commands", json=body) as answer:
        return answer.status, await answer.json()


async def test_a_client_does_everything_without_a_websocket() -> None:
    async with serving() as gateway, http(gateway) as session, session.get("/v1/events") as answer:
        assert answer.headers["content-type"].startswith("text/event-stream")
        heard = frames(answer)
        welcome = await anext(heard)
        on = {"connection": welcome["connection"]}
        said = {"type": "generate", "id": 1, "model": "hand/any", "content": "hello", "request_id": "a"}
        assert await command(session, {**on, "commands": [said]}) == (202, on)
        accepted = await anext(heard)
        assert (accepted["type"], accepted["id"]) == ("accepted", 1)
        opening = {"type": "session.open", "id": 2, "session": accepted["session"]}
        assert (await command(session, {**on, "commands": opening}))[0] == 202
        await until(lambda: gateway.hand.calls)
        gateway.hand.calls[0].words("one ", "two")
        gateway.hand.calls[0].end()
        kinds, text = [], ""
        async for frame in heard:
            kinds.append(frame["type"])
            text += frame.get("text", "") if frame["type"] == "delta_text" else ""
            if frame["type"] == "turn_end":
                break
        assert text == "one two"
        assert {"ok", "stream_end", "message", "turn_end"} <= set(kinds)
        fence = await command(session, {"type": "cancel", "stream": accepted["stream"]})
        assert fence[1]["streams"][0]["stream"] == accepted["stream"]


async def test_commands_without_a_connection_are_answered_at_once() -> None:
    async with serving() as gateway, http(gateway) as session:
        status, reply = await command(session, {"type": "session.create", "title": "T"})
        assert (status, reply["type"]) == (200, "ok")
        name = reply["session"]
        status, both = await command(
            session,
            [{"type": "session.open", "id": "o", "session": name}, {"type": "nonsense"}, {"type": "ping", "id": 3}],
        )
        assert status == 200
        assert [frame["type"] for frame in both["replies"]] == ["ok", "error", "pong"]
        assert both["replies"][0]["title"] == "T"
        assert (await command(session, {"type": "subscribe", "stream": "r_1"}))[0] == 404
        assert (await command(session, {"no": "type"}))[0] == 400
        assert (await command(session, [1]))[0] == 400
        assert (await command(session, {"connection": "c_1", "commands": []}))[0] == 404
        async with session.post("/v1/commands", data=b"{") as answer:
            assert answer.status == 400
        async with session.post("/v1/commands", data=io.BytesIO(b"[" * 2_000_000)) as answer:
            assert answer.status == 413


@pytest.mark.parametrize("at", ["", "r_1,2", "r_1,a,b", "r_1,1,-1"])
async def test_a_place_that_is_none_is_refused(at: str) -> None:
    async with serving() as gateway, http(gateway) as session, session.get("/v1/events", params={"at": at}) as answer:
        assert answer.status == 400


async def test_events_of_others_are_not_heard_nor_commanded() -> None:
    async with serving(authenticate=DOOR) as gateway, http(gateway, "ann") as ann, http(gateway, "ben") as ben:
        _, made = await command(ann, {"type": "session.create"})
        async with ben.get("/v1/events", params={"at": made["session"]}) as answer:
            heard = frames(answer)
            welcome = await anext(heard)
            refused = await anext(heard)
            assert (refused["code"], refused["stream"]) == ("session.unknown", made["session"])
            on = {"connection": welcome["connection"], "commands": {"type": "ping"}}
            assert (await command(ann, on))[0] == 404
            assert (await command(ben, on))[0] == 202
        async with http(gateway) as nobody, nobody.get("/v1/events") as answer:
            assert answer.status == 401


class Reader:
    """An answer as one client holds it, over whatever wire; strict as `Held`."""

    def __init__(self, gateway: Gateway, session: aiohttp.ClientSession, stream: str) -> None:
        self.gateway = gateway
        self.session = session
        self.stream = stream
        self.held = Held()
        self.epoch = 0

    def apply(self, frame: dict[str, Any]) -> None:
        if frame.get("stream") == self.stream:
            self.held.apply(frame)
            self.epoch = frame.get("epoch", self.epoch)

    def enough(self, begun: int) -> bool:
        return self.held.end is not None or self.held.offset - begun >= CHANGE_TOKENS

    async def by_websocket(self) -> None:
        begun = self.held.offset
        async with self.gateway.client(hello=False) as client:
            client.streams[self.stream] = self.held
            place = {"stream": self.stream, "epoch": self.epoch, "offset": begun}
            await client.send(type="hello", resume=[place])
            while not self.enough(begun):
                frame = await client.next()
                self.epoch = frame.get("epoch", self.epoch) if frame.get("stream") == self.stream else self.epoch

    async def by_events(self) -> None:
        begun = self.held.offset
        at = f"{self.stream},{self.epoch},{begun}"
        async with self.session.get("/v1/events", params={"at": at}) as answer:
            async for frame in frames(answer):
                self.apply(frame)
                if self.enough(begun):
                    return

    async def by_native_stream(self) -> None:
        begun = self.held.offset
        headers = {"last-event-id": str(begun)}
        async with self.session.get(f"/v1/streams/{self.stream}", headers=headers) as answer:
            async for frame in frames(answer):
                self.apply(frame)
                if self.enough(begun):
                    return

    async def by_completions(self) -> None:
        """OpenAI's chunks have an offset and no range: what was said is added, and the place is the last id."""
        begun = self.held.offset
        url = f"/v1/streams/{self.stream}?format=openai&offset={begun}"
        async with self.session.get(url) as answer:
            for chunk in await events(answer, CHANGE_TOKENS):
                if chunk[1] == "[DONE]":
                    continue
                self.held.text += text_of([chunk])
                assert chunk[0] is not None
                assert chunk[0] >= self.held.offset
                self.held.offset = chunk[0]


async def test_a_change_of_wire_every_fifty_tokens_loses_and_doubles_nothing() -> None:
    async with serving() as gateway, http(gateway) as session:
        async with gateway.client() as client:
            stream = await client.generate("scripted/count", params={"tokens": TOKENS, "rate": 2_000})
        reader = Reader(gateway, session, stream)
        first = await gateway.node.find(stream)
        reader.epoch = first.log.position(0).epoch
        ways = (reader.by_websocket, reader.by_events, reader.by_completions, reader.by_native_stream)
        changes = 0
        async with asyncio.timeout(60):
            while reader.held.offset < (feed := await gateway.node.find(stream)).log.tail or not feed.log.ended:
                await ways[changes % len(ways)]()
                changes += 1
        assert reader.held.text == count_text(TOKENS)
        entries = feed.log.entries
        assert "".join(entry.text for entry in entries if isinstance(entry, DeltaText)) == reader.held.text
        assert changes >= 8


async def test_who_is_asked_for_messages_that_are_none_says_so() -> None:
    async with serving() as gateway, http(gateway) as session:
        status, reply = await command(session, {"type": "generate", "model": "scripted/none", "messages": MESSAGES})
        assert (status, reply["code"]) == (404, "model.unknown")
