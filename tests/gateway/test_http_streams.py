"""The same streams over HTTP: any place, any format, and the fence."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import msgspec
from tests.gateway.conftest import Gateway, serving
from tests.gateway.people import Door, person
from tests.runtime.conftest import HEADERS, until

from everstream.core.events import DeltaThinking, DeltaToolCall
from everstream.providers.base import Finish, ProviderError

DOOR = Door(ann=person("ann"), ben=person("ben"))
ASKED = {"model": "scripted/count", "messages": [{"role": "user", "content": "hi"}], "tokens": 5, "rate": 0}


@asynccontextmanager
async def http(gateway: Gateway, token: str = "") -> AsyncIterator[aiohttp.ClientSession]:
    headers = {"authorization": f"Bearer {token}"} if token else {}
    async with aiohttp.ClientSession(gateway.url, headers=headers, timeout=aiohttp.ClientTimeout(10)) as session:
        yield session


async def events(answer: aiohttp.ClientResponse, most: int = 10**9) -> list[tuple[int | None, Any]]:
    """Events with their ids, `[DONE]` as it is."""
    found: list[tuple[int | None, Any]] = []
    number = None
    async for line in answer.content:
        if line.startswith(b"id: "):
            number = int(line[4:])
        elif line.startswith(b"data: "):
            data = line[6:].strip()
            found.append((number, "[DONE]" if data == b"[DONE]" else msgspec.json.decode(data)))
            if len(found) >= most:
                break
    return found


def text_of(chunks: list[tuple[int | None, Any]]) -> str:
    deltas = [c["choices"][0]["delta"] for _, c in chunks if c != "[DONE]" and c.get("choices")]
    return "".join(delta.get("content") or "" for delta in deltas)


async def test_an_answer_comes_in_chunks_that_can_be_taken_up_anywhere() -> None:
    async with serving() as gateway, http(gateway) as session:
        body = {**ASKED, "stream": True, "stream_options": {"include_usage": True}, "tokens": 20}
        async with session.post("/v1/chat/completions", json=body) as answer:
            assert answer.status == 200
            assert answer.headers["x-accel-buffering"] == "no"
            stream = answer.headers["x-everstream-stream"]
            whole = await events(answer)
        assert text_of(whole) == " ".join(str(n) for n in range(1, 21))
        assert whole[-1][1] == "[DONE]"
        assert whole[-2][1]["usage"]["completion_tokens"] > 0
        assert whole[-3][1]["choices"][0]["finish_reason"] == "stop"
        cut = whole[len(whole) // 2][0]
        url = f"/v1/streams/{stream}?format=openai"
        async with session.get(url, headers={"last-event-id": str(cut)}) as answer:
            rest = await events(answer)
        before = text_of([chunk for chunk in whole if chunk[0] is not None and chunk[0] <= (cut or 0)])
        assert before + text_of(rest) == text_of(whole)


async def test_a_whole_answer_has_calls_usage_and_the_streams_name() -> None:
    async with serving() as gateway, http(gateway) as session:
        asking = session.post("/v1/chat/completions", json={**ASKED, "model": "hand/any"})
        running = asyncio.ensure_future(asking)
        await until(lambda: gateway.hand.calls)
        call = gateway.hand.calls[0]
        call.say(HEADERS, DeltaThinking("hm"), DeltaToolCall(0, '{"a":1}', "c1", "f"))
        call.end(Finish("tool_calls"))
        async with await running as answer:
            body = await answer.json()
        choice = body["choices"][0]
        assert choice["finish_reason"] == "tool_calls"
        assert choice["message"]["reasoning_content"] == "hm"
        assert choice["message"]["tool_calls"][0] == {
            "id": "c1", "type": "function", "function": {"name": "f", "arguments": '{"a":1}'},
        }  # fmt: skip
        assert body["id"] == "chatcmpl-" + answer.headers["x-everstream-stream"]


async def test_what_a_provider_refuses_is_the_status_and_the_body() -> None:
    async with serving() as gateway, http(gateway) as session:
        running = asyncio.ensure_future(
            session.post("/v1/chat/completions", json={**ASKED, "model": "hand/any", "stream": True})
        )
        await until(lambda: gateway.hand.calls)
        gateway.hand.calls[0].fail(ProviderError("provider.rate_limit", "slowly", retry_after_ms=1500))
        async with await running as answer:
            assert (answer.status, answer.headers["retry-after"]) == (429, "2")
            assert (await answer.json())["error"]["type"] == "rate_limit_error"
        async with session.post("/v1/chat/completions", json={"model": "scripted/count"}) as answer:
            assert answer.status == 400
            assert (await answer.json())["error"]["code"] == "request.invalid"


async def test_a_client_that_goes_stops_nothing_unless_it_said_so() -> None:
    async with serving() as gateway, http(gateway) as session:
        for number, said in enumerate(("continue", "cancel")):
            running = asyncio.ensure_future(
                session.post(
                    "/v1/chat/completions",
                    json={**ASKED, "model": "hand/any", "stream": True},
                    headers={"x-everstream-on-disconnect": said},
                )
            )
            await until(lambda: len(gateway.hand.calls) > number)  # noqa: B023
            gateway.hand.calls[number].say(HEADERS)
            gateway.hand.calls[number].words("a")
            answer = await running
            await events(answer, 2)
            answer.close()
            if said == "cancel":
                await until(lambda: gateway.hand.calls[1].closed)
        assert not gateway.hand.calls[0].closed
        stream = next(feed.stream for feed in gateway.node.hub if feed.relay is not None)
        async with session.post(f"/v1/streams/{stream}/cancel") as answer:
            assert await answer.json() == {"stream": stream, "offset": 5}


async def test_streams_of_others_do_not_exist() -> None:
    async with serving(authenticate=DOOR) as gateway, http(gateway, "ann") as ann, http(gateway, "ben") as ben:
        async with ann.post("/v1/chat/completions", json=ASKED) as answer:
            stream = answer.headers["x-everstream-stream"]
        for url in (f"/v1/streams/{stream}", "/v1/streams/r_00" + "a" * 26):
            async with ben.get(url) as answer:
                assert answer.status == 404
                assert (await answer.json())["error"]["code"] == "stream.unknown"
        async with ann.get(f"/v1/streams/{stream}") as answer:
            assert [e["type"] for _, e in await events(answer)][-1] == "stream_end"
        async with http(gateway) as nobody, nobody.get(f"/v1/streams/{stream}") as answer:
            assert answer.status == 401


async def test_pages_of_other_sites_are_refused_and_named_ones_let_in() -> None:
    async with serving(allowed_origins="https://chat.example") as gateway, http(gateway) as session:
        for origin, status in (("https://evil.example", 403), ("https://chat.example", 200)):
            async with session.post("/v1/chat/completions", json=ASKED, headers={"origin": origin}) as answer:
                assert answer.status == status
                assert answer.headers.get("access-control-allow-origin") == (origin if status == 200 else None)
            async with session.options("/v1/chat/completions", headers={"origin": origin}) as answer:
                assert answer.status == (204 if status == 200 else 403)
        async with session.get("/v1/models", headers={"sec-fetch-site": "cross-site"}) as answer:
            assert answer.status == 403
