"""The generate API: one input, one answer, whole and in chunks."""

from __future__ import annotations

import asyncio
from typing import Any

import aiohttp
import pytest
from tests.gateway.conftest import Gateway, count_text, serving
from tests.gateway.people import Door, person
from tests.gateway.test_http_streams import events, http
from tests.runtime.conftest import HEADERS, until

from everstream.core.events import DeltaText, DeltaThinking, DeltaToolCall, ImagePart, Message, TextPart, ToolCall
from everstream.providers.base import Finish, ProviderError

STREAM, WHOLE = "/api/v1/generate/stream", "/api/v1/generate"
ASKED: dict[str, Any] = {
    "service_name": "scripted",
    "model_name": "count",
    "input": [{"type": "text", "name": "question", "content": "hi"}],
    "parameters": {"tokens": 5, "rate": 0},
}
BY_HAND = {**ASKED, "service_name": "hand", "model_name": "any", "parameters": {}}
PNG = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJ"

Chunks = list[tuple[int | None, Any]]


async def chunks_of(session: aiohttp.ClientSession, body: dict[str, Any]) -> tuple[str, Chunks]:
    async with session.post(STREAM, json=body) as answer:
        assert answer.status == 200, await answer.text()
        return answer.headers["x-everstream-stream"], await events(answer)


def named(chunks: Chunks, name: str) -> str:
    return "".join(chunk["content"] for _, chunk in chunks if chunk.get("name") == name)


async def asked_for(gateway: Gateway, body: dict[str, Any]) -> Any:
    """What the provider is asked for a body."""
    async with http(gateway) as session:
        running = asyncio.ensure_future(session.post(WHOLE, json=body))
        await until(lambda: gateway.hand.calls or running.done())
        if not gateway.hand.calls:
            async with await running as answer:
                return answer.status, (await answer.json())["error"]["message"]
        gateway.hand.calls[0].say(HEADERS)
        gateway.hand.calls[0].end()
        (await running).close()
        return gateway.hand.calls[0].request


# --------------------------------------------------------------------- chunks


async def test_chunks_say_what_they_are_and_the_last_one_what_it_cost(gateway: Gateway) -> None:
    parameters = {"enable_thinking": True, "tokens": 12, "rate": 0, "thinking_tokens": 3}
    async with http(gateway) as session:
        stream, told = await chunks_of(session, {**ASKED, "parameters": parameters})
    chunks = [chunk for _, chunk in told]
    *said, last, final = chunks
    assert named(told, "output") == count_text(12)
    assert named(told, "thinking")
    assert [chunk["name"] for chunk in said] == ["thinking"] * 3 + ["output"] * 12
    assert [chunk["index"] for chunk in chunks[:-1]] == list(range(16))
    assert not any(chunk["done"] or chunk["is_final"] for chunk in said)
    assert last == {"type": "text", "name": "output", "content": "", "done": True, "index": 15, "is_final": True}
    assert final["final"] is True
    assert (final["usage"]["output_tokens"], final["cost"], final["warnings"]) == (15, None, [])
    assert (final["stream"], final["reason"], final["finish_reason"]) == (stream, "complete", "stop")


async def test_a_reader_that_comes_back_gets_the_same_numbers_wherever_it_was(gateway: Gateway) -> None:
    async with http(gateway) as session:
        stream, told = await chunks_of(session, {**ASKED, "parameters": {"tokens": 9, "rate": 0, "thinking_tokens": 2}})
        for place in sorted({number for number, _ in told if number}):
            headers = {"last-event-id": str(place)}
            async with session.get(f"/v1/streams/{stream}?format=generate", headers=headers) as answer:
                rest = await events(answer)
            assert rest == told[len(told) - len(rest) :]
            before = [chunk for chunk in told if (chunk[0] or 0) <= place]
            assert named(before, "output") + named(rest, "output") == count_text(9)


async def test_the_numbers_are_the_same_for_a_reader_that_comes_late(gateway: Gateway) -> None:
    async with http(gateway) as session:
        running = asyncio.ensure_future(chunks_of(session, BY_HAND))
        await until(lambda: gateway.hand.calls)
        call = gateway.hand.calls[0]
        call.say(HEADERS)
        for word in ("a", "b", "c"):
            call.words(word)
            await until(lambda: call.taken > 0 and not call._queue.qsize())
        call.say(DeltaThinking("hm"), DeltaText("d"), DeltaText("e"))
        call.end()
        stream, live = await running
        async with session.get(f"/v1/streams/{stream}?format=generate") as answer:
            assert await events(answer) == live
    assert [chunk["content"] for _, chunk in live[:-1]] == ["a", "b", "c", "hm", "d", "e", ""]


async def test_tool_calls_are_metadata_once_they_are_whole(gateway: Gateway) -> None:
    async with http(gateway) as session:
        running = asyncio.ensure_future(chunks_of(session, BY_HAND))
        await until(lambda: gateway.hand.calls)
        call = gateway.hand.calls[0]
        call.say(HEADERS, DeltaText("I look"), DeltaToolCall(0, '{"a":', "c1", "f"), DeltaToolCall(0, "1}"))
        call.end(Finish("tool_calls"))
        _, told = await running
    tool, last, final = (chunk for _, chunk in told[-3:])
    assert (tool["type"], tool["name"], tool["index"]) == ("metadata", "metadata", 1)
    assert tool["content"] == {"tool_call": {"call_id": "c1", "name": "f", "arguments": '{"a":1}'}}
    assert (last["is_final"], last["index"], final["finish_reason"]) == (True, 2, "tool_calls")


async def test_what_is_withdrawn_is_followed_by_index_nought() -> None:
    script = {"tokens": 4, "rate": 0, "thinking_tokens": 5, "fail_at": 2, "continuation": "restart"}
    async with serving() as gateway, http(gateway) as session:
        _, told = await chunks_of(session, {**ASKED, "parameters": script})
    chunks = [chunk for _, chunk in told]
    assert [chunk["index"] for chunk in chunks[:-1]] == [0, 1, *range(10)]
    assert "carried on" in chunks[-1]["warnings"][0]


async def test_a_place_that_is_no_history_begins_with_index_nought(gateway: Gateway) -> None:
    async with http(gateway) as session:
        stream, told = await chunks_of(session, {**ASKED, "parameters": {"tokens": 5, "rate": 0, "thinking_tokens": 2}})
        async with session.get(f"/v1/streams/{stream}?format=generate&offset=9999") as answer:
            anew = await events(answer)
    assert [chunk["index"] for _, chunk in anew[:-1]] == [0, 1, 2]
    assert [named(anew, name) == named(told, name) for name in ("thinking", "output")] == [True, True]
    assert anew[-1] == told[-1]


# --------------------------------------------------------------------- whole


async def test_the_whole_answer_is_one_body(gateway: Gateway) -> None:
    call = {"name": "f", "arguments": {"a": 1}}
    parameters = {"enable_thinking": True, "tokens": 5, "rate": 0, "tool_call": call}
    async with http(gateway) as session, session.post(WHOLE, json={**ASKED, "parameters": parameters}) as answer:
        body = await answer.json()
        assert body["stream"] == answer.headers["x-everstream-stream"]
    assert body["output"] == count_text(5)
    assert body["thinking"]
    assert body["tool_calls"] == [{"call_id": body["tool_calls"][0]["call_id"], "name": "f", "arguments": '{"a":1}'}]
    assert body["usage"]["total_tokens"] > 5
    assert (body["cost"], body["warnings"]) == (None, [])


async def test_the_same_key_is_the_same_answer(gateway: Gateway) -> None:
    names = set()
    async with http(gateway) as session:
        for _ in range(2):
            async with session.post(WHOLE, json=ASKED, headers={"idempotency-key": "k"}) as answer:
                names.add((await answer.json())["stream"])
        async with session.post(STREAM, json=ASKED, headers={"idempotency-key": "k"}) as answer:
            names.add(answer.headers["x-everstream-stream"])
    assert len(names) == 1


# --------------------------------------------------------------------- what is asked


async def test_all_that_a_body_can_say_reaches_the_provider(gateway: Gateway) -> None:
    request = await asked_for(
        gateway,
        {
            "model_name": "hand/any/more",
            "input": [
                {"type": "text", "name": "q", "content": "what?"},
                {"type": "image", "name": "a", "content": "https://a.example/b.png"},
                {"type": "image", "name": "b", "content": "data:image/gif;base64,aGk="},
                {"type": "image", "name": "c", "content": PNG},
            ],
            "parameters": {
                "max_tokens": 7,
                "temperature": 0.5,
                "top_p": 0.9,
                "stop": "x",
                "seed": 3,
                "system": "kind",
                "enable_thinking": False,
                "top_k": 5,
                "nothing": None,
            },
            "history": [
                {"role": "user", "content": "one"},
                {
                    "role": "assistant",
                    "content": "",
                    "tool_calls": [{"call_id": "c1", "name": "f", "arguments": "{}"}],
                },
                {"role": "tool", "content": "two", "call_id": "c1"},
            ],
        },
    )
    assert request.model == "hand/any/more"
    assert request.messages == [
        Message("user", "one"),
        Message("assistant", "", [ToolCall("c1", "f", "{}")]),
        Message("tool", "two", call_id="c1"),
        Message(
            "user",
            [
                TextPart("what?"),
                ImagePart(url="https://a.example/b.png"),
                ImagePart(data="aGk=", media_type="image/gif"),
                ImagePart(data=PNG, media_type="image/png"),
            ],
        ),
    ]
    params = request.params
    assert (params.max_tokens, params.temperature, params.top_p, params.stop, params.seed) == (7, 0.5, 0.9, "x", 3)
    assert (params.system, params.thinking, request.extra) == ("kind", False, {"top_k": 5})


@pytest.mark.parametrize(
    ("service", "name", "model"),
    [
        ("hand", "any", "hand/any"),
        ("hand", "hand/any", "hand/any"),
        ("hand", "other/any", "hand/other/any"),
        ("", "hand/any", "hand/any"),
    ],
)
async def test_service_and_model_name_a_model(gateway: Gateway, service: str, name: str, model: str) -> None:
    request = await asked_for(gateway, {**BY_HAND, "service_name": service, "model_name": name})
    assert request.model == model


@pytest.mark.parametrize(
    ("wrong", "word"),
    [
        ({"service_name": None, "model_name": "any"}, "service_name"),
        ({"model_name": None}, "model_name"),
        ({"input": []}, "input"),
        ({"input": [{"type": "audio", "content": "x"}]}, "audio"),
        ({"input": [{"type": "image", "content": "no image"}]}, "base64"),
        ({"history": [{"role": "system", "content": [{"type": "image", "content": PNG}]}]}, "images"),
        ({"parameters": {"max_tokens": 0}}, "max_tokens"),
    ],
)
async def test_what_cannot_be_meant_is_refused(gateway: Gateway, wrong: dict[str, Any], word: str) -> None:
    status, message = await asked_for(gateway, {**BY_HAND, **wrong})
    assert status == 400
    assert word in message


async def test_the_key_is_looked_at() -> None:
    async with serving(authenticate=Door(ann=person("ann"))) as gateway, http(gateway) as session:
        for key, status in (("ann", 200), ("other", 401)):
            async with session.post(WHOLE, json=ASKED, headers={"x-api-key": key}) as answer:
                assert answer.status == status


async def test_another_users_stream_is_not_read_on() -> None:
    door = Door(ann=person("ann"), ben=person("ben"))
    async with serving(authenticate=door) as gateway, http(gateway, "ann") as ann, http(gateway, "ben") as ben:
        stream, _ = await chunks_of(ann, ASKED)
        async with ben.get(f"/v1/streams/{stream}?format=generate") as answer:
            assert answer.status == 404


# --------------------------------------------------------------------- what goes wrong


@pytest.mark.parametrize("route", [STREAM, WHOLE])
async def test_a_refusal_before_the_first_chunk_is_the_status(gateway: Gateway, route: str) -> None:
    async with http(gateway) as session:
        running = asyncio.ensure_future(session.post(route, json=BY_HAND))
        await until(lambda: gateway.hand.calls)
        gateway.hand.calls[0].fail(ProviderError("provider.rate_limit", "slowly", retry_after_ms=1500))
        async with await running as answer:
            assert (answer.status, answer.headers["retry-after"]) == (429, "2")
            error = (await answer.json())["error"]
        assert (error["code"], error["retry_after_ms"]) == ("provider.rate_limit", 1500)


async def test_a_failure_in_mid_answer_is_a_chunk_and_the_last_one_warns_of_the_limit() -> None:
    async with serving(carry_on=False) as gateway, http(gateway) as session:
        running = asyncio.ensure_future(chunks_of(session, BY_HAND))
        await until(lambda: gateway.hand.calls)
        gateway.hand.calls[0].say(HEADERS, DeltaText("a"))
        gateway.hand.calls[0].fail(ProviderError("provider.rate_limit", "slowly", retry_after_ms=1500))
        _, told = await running
    error, final = told[-2][1], told[-1][1]
    assert (error["type"], error["error"]["code"], error["index"]) == ("error", "provider.rate_limit", 1)
    assert (final["final"], final["reason"]) == (True, "failed")
    assert final["warnings"] == ["rate limit: try again after 1.5 s"]
    assert not any(chunk.get("is_final") for _, chunk in told)


async def test_a_stopped_answer_is_final_and_says_so(gateway: Gateway) -> None:
    async with http(gateway) as session:
        running = asyncio.ensure_future(session.post(STREAM, json=BY_HAND))
        await until(lambda: gateway.hand.calls)
        gateway.hand.calls[0].say(HEADERS, DeltaText("a"))
        async with await running as answer:
            stream = answer.headers["x-everstream-stream"]
            (await session.post(f"/v1/streams/{stream}/cancel")).close()
            told = await events(answer)
    assert told[-2][1]["is_final"] is True
    assert told[-1][1]["reason"] == "cancelled"
