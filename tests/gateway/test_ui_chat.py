"""The AI SDK's chat routes, byte by byte: what is sent, what is resumed, what is stopped, and what is refused."""

from __future__ import annotations

import asyncio
from typing import Any

import aiohttp
import pytest
from tests.gateway.conftest import Gateway, serving
from tests.gateway.people import Door, person
from tests.gateway.test_http_streams import events, http
from tests.runtime.conftest import HEADERS, until

from everstream.core.errors import EverstreamError
from everstream.core.events import DeltaThinking, DeltaToolCall, ImagePart, Message, Seam, TextPart, ToolCall
from everstream.core.log import Log
from everstream.gateway.ui_format import UiMessageStream
from everstream.gateway.ui_request import asked
from everstream.providers.base import Finish, ProviderError
from everstream.store.memory import MemoryStore

COUNTED = {"model": "scripted/count", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 5}
DOOR = Door(ann=person("ann"), ben=person("ben"))


def user(text: str = "hi", name: str = "m1") -> dict[str, Any]:
    return {"id": name, "role": "user", "parts": [{"type": "text", "text": text}]}


def asking(chat: str = "c1", model: str = "hand/any", **more: Any) -> dict[str, Any]:
    return {"id": chat, "messages": [user()], "trigger": "submit-message", "model": model} | more


def assistant(*parts: dict[str, Any]) -> dict[str, Any]:
    return {"id": "a1", "role": "assistant", "parts": [{"type": "step-start"}, *parts]}


def tool(state: str, **more: Any) -> dict[str, Any]:
    return {"type": "tool-weather", "toolCallId": "c1", "state": state, "input": {"city": "Oslo"}} | more


async def begun(gateway: Gateway, session: aiohttp.ClientSession, **more: Any) -> aiohttp.ClientResponse:
    """An answer of which `a` and `b` have been said."""
    at = len(gateway.hand.calls)
    running = asyncio.ensure_future(session.post("/api/chat", json=asking(**more)))
    await until(lambda: len(gateway.hand.calls) > at)
    gateway.hand.calls[at].say(HEADERS)
    gateway.hand.calls[at].words("a", "b")
    return await running


async def chunks(answer: aiohttp.ClientResponse, most: int = 10**9) -> list[Any]:
    return [chunk for _, chunk in await events(answer, most)]


def said(found: list[Any], kind: str = "text-delta") -> str:
    return "".join(chunk["delta"] for chunk in found if chunk != "[DONE]" and chunk["type"] == kind)


def kinds(found: list[Any]) -> list[str]:
    return [chunk if chunk == "[DONE]" else chunk["type"] for chunk in found]


async def test_an_answer_is_a_ui_message_stream() -> None:
    async with serving() as gateway, http(gateway) as session:
        body = asking(model="scripted/count", params={"tokens": 5, "thinking_tokens": 3})
        async with session.post("/api/chat", json=body) as answer:
            assert answer.status == 200
            assert answer.headers["x-vercel-ai-ui-message-stream"] == "v1"
            assert answer.headers["content-type"].startswith("text/event-stream")
            found = await chunks(answer)
            stream = answer.headers["x-everstream-stream"]
        once = [kind for n, kind in enumerate(kinds(found)) if not n or kind != kinds(found)[n - 1]]
        assert once == [
            *("start", "start-step", "reasoning-start", "reasoning-delta", "reasoning-end"),
            *("text-start", "text-delta", "text-end", "finish-step", "finish", "[DONE]"),
        ]
        assert found[0] == {"type": "start", "messageId": stream, "messageMetadata": {"stream": stream}}
        assert said(found) == "1 2 3 4 5"
        assert found[-2]["finishReason"] == "stop"
        assert found[-2]["messageMetadata"]["usage"]["outputTokens"] == 8


async def test_the_model_is_the_bodys_or_the_addresss_or_the_settings() -> None:
    async with serving(default_model="scripted/count") as gateway, http(gateway) as session:
        bare = {"id": "c", "messages": [user()], "params": {"tokens": 3}}
        async with session.post("/api/chat", json=bare) as answer:
            assert said(await chunks(answer)) == "1 2 3"
        async with session.post("/api/chat?model=scripted/echo", json=bare) as answer:
            assert "hi" in said(await chunks(answer))


async def test_a_client_that_comes_back_gets_all_of_it_and_then_what_follows() -> None:
    async with serving() as gateway, http(gateway) as session:
        async with session.get("/api/chat/c1/stream") as answer:
            assert answer.status == 204
        first = await begun(gateway, session)
        assert said(await chunks(first, 4)) != ""
        first.close()
        async with session.get("/api/chat/c1/stream") as answer:
            assert answer.headers["x-vercel-ai-ui-message-stream"] == "v1"
            again = await chunks(answer, 3)
            gateway.hand.calls[0].words("c")
            gateway.hand.calls[0].end()
            again += await chunks(answer)
        assert kinds(again)[0] == "start"
        assert said(again) == "abc"
        assert again[-1] == "[DONE]"
        async with session.get("/api/chat/c1/stream") as answer:
            assert answer.status == 204, "nothing runs any more"
        async with session.get("/api/chat/c1/stream?ended=1") as answer:
            assert said(await chunks(answer)) == "abc"


async def test_another_node_and_the_next_one_find_the_chats_answer() -> None:
    store = MemoryStore()
    async with serving(store) as gateway, http(gateway) as session:
        (await begun(gateway, session, chat="a/b c")).close()
        beside = MemoryStore(store.disk)
        beside.peers = store.peers
        async with (
            serving(beside) as other,
            http(other) as there,
            there.get("/api/chat/a%2Fb%20c/stream") as answer,
        ):
            assert answer.status == 200
            gateway.hand.calls[0].end()
            assert said(await chunks(answer)) == "ab"


async def test_any_stream_can_be_read_as_one_and_always_from_its_beginning() -> None:
    async with serving() as gateway, http(gateway) as session:
        async with session.post("/v1/chat/completions", json=COUNTED) as answer:
            stream = answer.headers["x-everstream-stream"]
        url = f"/v1/streams/{stream}?format=ui"
        async with session.get(url, headers={"last-event-id": "5"}) as answer:
            assert answer.headers["x-vercel-ai-ui-message-stream"] == "v1"
            found = await chunks(answer)
        assert kinds(found)[0] == "start"
        assert said(found) == "1 2 3 4 5"


@pytest.mark.parametrize(("method", "path"), [("POST", "stop"), ("DELETE", "stream")])
async def test_a_stop_is_a_fence_and_readers_are_told(method: str, path: str) -> None:
    async with serving() as gateway, http(gateway) as session:
        reading = await begun(gateway, session)
        stream = reading.headers["x-everstream-stream"]
        if method == "POST":
            async with session.post("/api/chat/c1/stop", json={"activeStreamId": "r_other"}) as answer:
                assert (await answer.json())["stream"] is None
            assert not gateway.hand.calls[0].closed, "that one is not what was meant"
        async with session.request(method, f"/api/chat/c1/{path}") as answer:
            stopped = await answer.json()
        assert stopped["stream"] == stream
        assert gateway.hand.calls[0].closed
        found = await chunks(reading)
        assert kinds(found)[-3:] == ["text-end", "abort", "[DONE]"]
        assert stopped["offset"] == (await gateway.node.find(stream)).log.committed
        async with session.get("/api/chat/c1/stream") as answer:
            assert answer.status == 204
        async with session.request(method, f"/api/chat/c1/{path}") as answer:
            assert await answer.json() == {"success": True, "stream": None, "offset": None}


async def test_the_chats_of_others_do_not_exist() -> None:
    async with serving(authenticate=DOOR) as gateway, http(gateway, "ann") as ann, http(gateway, "ben") as ben:
        reading = await begun(gateway, ann)
        async with ben.get("/api/chat/c1/stream") as answer:
            assert answer.status == 204
        async with ben.post("/api/chat/c1/stop") as answer:
            assert (await answer.json())["stream"] is None
        assert not gateway.hand.calls[0].closed
        async with ann.get("/api/chat/c1/stream") as answer:
            assert answer.status == 200
            gateway.hand.calls[0].end()
            assert said(await chunks(answer)) == said(await chunks(reading)) == "ab"
        async with http(gateway) as nobody, nobody.get("/api/chat/c1/stream") as answer:
            assert answer.status == 401
            assert answer.headers["x-everstream-error"] == "auth.denied"


async def test_the_same_asked_again_while_it_runs_is_one_answer_and_later_a_new_one() -> None:
    async with serving() as gateway, http(gateway) as session:
        both = [asyncio.ensure_future(session.post("/api/chat", json=asking())) for _ in range(2)]
        await until(lambda: gateway.hand.calls)
        gateway.hand.calls[0].say(HEADERS)
        answers = [await each for each in both]
        streams = {answer.headers["x-everstream-stream"] for answer in answers}
        answers.append(await session.post("/api/chat", json=asking()))
        streams.add(answers[-1].headers["x-everstream-stream"])
        assert len(streams) == len(gateway.hand.calls) == 1
        gateway.hand.calls[0].words("x")
        gateway.hand.calls[0].end()
        assert {said(await chunks(answer)) for answer in answers} == {"x"}
        again = await begun(gateway, session)
        assert again.headers["x-everstream-stream"] not in streams
        other = await begun(gateway, session, trigger="regenerate-message")
        assert len(gateway.hand.calls) == 3
        for call in gateway.hand.calls[1:]:
            call.end()
        assert said(await chunks(again)) == said(await chunks(other)) == "ab"


async def test_a_refusal_is_words_that_can_be_shown() -> None:
    async with serving() as gateway, http(gateway) as session:
        running = asyncio.ensure_future(session.post("/api/chat", json=asking()))
        await until(lambda: gateway.hand.calls)
        gateway.hand.calls[0].fail(ProviderError("provider.rate_limit", "slowly", retry_after_ms=1500))
        async with await running as answer:
            assert (answer.status, await answer.text()) == (429, "slowly")
            assert (answer.headers["retry-after"], answer.headers["x-everstream-error"]) == (
                "2",
                "provider.rate_limit",
            )
        async with session.post("/api/chat", json=asking(model="no-such/model")) as answer:
            assert answer.status == 404
            assert "{" not in await answer.text()


async def test_a_failure_in_mid_answer_is_an_error_after_what_was_said() -> None:
    async with serving() as gateway, http(gateway) as session:
        reading = await begun(gateway, session)
        gateway.hand.calls[0].fail(ProviderError("provider.auth", "no more"))
        found = await chunks(reading)
        assert found[-2] == {"type": "error", "errorText": "no more"}
        assert kinds(found)[-3:] == ["text-end", "error", "[DONE]"]


async def test_a_continued_message_keeps_its_id_and_comes_back_with_what_it_held() -> None:
    async with serving() as gateway, http(gateway) as session:
        held = [{"type": "reasoning", "text": "hm"}, tool("output-available", output={"c": 7})]
        messages = [user(), assistant(*held)]
        reading = await begun(gateway, session, messages=messages, tools={"weather": {"inputSchema": {}}})
        roles = [message.role for message in gateway.hand.calls[0].request.messages]
        assert roles == ["user", "assistant", "tool"]
        found = await chunks(reading, 4)
        assert found[0]["messageId"] == "a1"
        assert kinds(found)[1:3] == ["start-step", "text-start"], "the client holds the rest"
        async with session.get("/api/chat/c1/stream") as answer:
            gateway.hand.calls[0].end()
            again = await chunks(answer)
        assert kinds(again)[:9] == [
            *("start", "start-step", "reasoning-start", "reasoning-delta", "reasoning-end"),
            *("tool-input-start", "tool-input-delta", "tool-output-available", "start-step"),
        ]
        assert said(again) == "ab"


async def test_a_call_is_whole_only_where_the_answer_is() -> None:
    async with serving() as gateway, http(gateway) as session:
        for number, over in enumerate(("end", "stop", "length")):
            reading = await begun(gateway, session, chat=over, tools=[{"name": "f"}])
            call = gateway.hand.calls[number]
            call.say(DeltaToolCall(0, "", "c1", "f"), DeltaToolCall(1, "{", "c2", "other"), DeltaToolCall(1, "}"))
            if over == "stop":
                await until(lambda: gateway.node.hub.get(reading.headers["x-everstream-stream"]).log.committed > 4)  # type: ignore[union-attr]  # noqa: B023
                async with session.post(f"/api/chat/{over}/stop"):
                    pass
            else:
                call.end(Finish("tool_calls" if over == "end" else "length"))
            found = await chunks(reading)
            told = [chunk for chunk in found if chunk != "[DONE]" and chunk["type"].startswith("tool-input-")]
            ends = [chunk for chunk in told if chunk["type"] not in ("tool-input-start", "tool-input-delta")]
            starts = {c["toolCallId"]: c.get("dynamic") for c in told if c["type"] == "tool-input-start"}
            assert starts == {"c1": None, "c2": True}
            kind = {"end": ["tool-input-available"] * 2, "stop": [], "length": ["tool-input-error"] * 2}[over]
            assert [chunk["type"] for chunk in ends] == kind


def test_what_was_withdrawn_is_reset_and_not_begun_twice() -> None:
    style = UiMessageStream("r")
    found = style._chunks(DeltaThinking("first"))
    found += style._chunks(Seam(2, 2, "node_lost", "restart", None, "n_x"))
    found += style._chunks(DeltaThinking("second"))
    assert kinds(found) == [
        *("start", "start-step", "reasoning-start", "reasoning-delta"),
        *("reset-step", "reasoning-start", "reasoning-delta"),
    ]
    assert found[2]["id"] != found[5]["id"]
    again = style.snapshot(Log("r", ((1, 0),)))
    assert again.count(b"reset-step") == 1
    assert b'"start"' not in again


def of(*messages: dict[str, Any], **more: Any) -> list[Message]:
    return asked({"messages": list(messages), **more}, "scripted/count").request.messages


def test_parts_become_what_models_are_told() -> None:
    image = {"type": "file", "mediaType": "image/png", "url": "data:image/png;base64,AAAA"}
    linked = {"type": "file", "mediaType": "image", "url": "https://x.example/a.png"}
    looking = {"id": "m", "role": "user", "parts": [{"type": "text", "text": "see"}, image, linked, {"type": "data-x"}]}
    answer = assistant(
        {"type": "reasoning", "text": "hm"},
        {"type": "text", "text": "I look"},
        tool("output-available", output={"c": 7}),
        {"type": "source-url", "sourceId": "s", "url": "u"},
        {"type": "step-start"},
        {"type": "dynamic-tool", "toolName": "g", "toolCallId": "c2", "state": "output-error", "errorText": "bad"},
        tool("input-streaming", toolCallId="c3"),
        tool("output-denied", toolCallId="c4", approval={"id": "x", "approved": False, "reason": "never"}),
        {"type": "step-start"},
        {"type": "text", "text": "7 degrees"},
    )
    assert of({"role": "system", "parts": [{"type": "text", "text": "be brief"}]}, looking, answer, user()) == [
        Message("system", "be brief"),
        Message(
            "user",
            [TextPart("see"), ImagePart(data="AAAA", media_type="image/png"), ImagePart(url="https://x.example/a.png")],
        ),
        Message("assistant", "I look", [ToolCall("c1", "weather", '{"city":"Oslo"}')]),
        Message("tool", '{"c":7}', call_id="c1"),
        Message("assistant", "", [ToolCall("c2", "g", "{}"), ToolCall("c4", "weather", '{"city":"Oslo"}')]),
        Message("tool", "bad", call_id="c2", is_error=True),
        Message("tool", "never", call_id="c4", is_error=True),
        Message("assistant", "7 degrees"),
        Message("user", "hi"),
    ]


def test_system_params_and_tools_are_the_requests() -> None:
    body = {
        "messages": [user()], "model": "hand/any", "system": "be brief", "params": {"temperature": 0.5, "odd": 1},
        "tools": {"f": {"description": "d", "inputSchema": {"type": "object"}}}, "budget": {"output_tokens": 9},
    }  # fmt: skip
    request = asked(body, "").request
    assert (request.params.system, request.params.temperature, request.extra) == ("be brief", 0.5, {"odd": 1})
    assert [(t.name, t.description, t.parameters) for t in request.params.tools or ()] == [
        ("f", "d", {"type": "object"})
    ]
    assert request.budget is not None
    assert request.budget.output_tokens == 9


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"messages": []},
        {"messages": ["hi"]},
        {"messages": [user()], "id": 7},
        {"messages": [user()], "model": "nameless"},
        {"messages": [user()], "trigger": "resume-stream"},
        {"messages": [user()], "params": [1]},
        {"messages": [user()], "tools": [{"description": "no name"}]},
        {"messages": [user()], "budget": {"output_tokens": 0}},
        {"messages": [{"role": "robot", "parts": []}]},
        {"messages": [{"role": "user", "parts": []}]},
        {"messages": [{"role": "user", "parts": [{"type": "hologram"}]}]},
        {"messages": [{"role": "user", "parts": [{"type": "text"}]}]},
        {"messages": [{"role": "user", "parts": [{"type": "file", "mediaType": "a/b", "url": "data:a/b;base64,A"}]}]},
        {"messages": [{"role": "user", "parts": [{"type": "file", "mediaType": "image/png", "url": "file:///etc"}]}]},
        {"messages": [user(), assistant({"type": "dynamic-tool", "state": "output-available", "toolCallId": "c"})]},
        {"messages": [user(), assistant({"type": "hologram"})]},
    ],
)
def test_what_cannot_be_asked_is_a_clear_refusal(body: dict[str, Any]) -> None:
    with pytest.raises(EverstreamError) as refused:
        asked(body, "scripted/count")
    assert refused.value.code == "request.invalid"
    assert len(refused.value.message) > 10
