"""OpenAI's own package against our address: what its users do, and what it makes of our answers."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx2
import openai
import pytest
from openai.types.chat import ChatCompletionChunk
from tests.chaos.proxy import Proxy
from tests.gateway.conftest import Gateway, count_text, serving
from tests.gateway.people import Door, person
from tests.runtime.conftest import HEADERS, until

from everstream.core.events import DeltaRefusal, DeltaToolCall, ImagePart, Message, TextPart, ToolCall
from everstream.providers.base import Finish, ProviderError

HI: Any = [{"role": "user", "content": "hi"}]
FAST = {"tokens": 20, "rate": 0}
TOOL: Any = {
    "type": "function",
    "function": {"name": "weather", "description": "of a place", "parameters": {"type": "object"}},
}


@asynccontextmanager
async def package(port: int, **given: Any) -> AsyncIterator[openai.AsyncOpenAI]:
    given = {"api_key": "none", "max_retries": 0, "timeout": 10.0} | given
    # A client of its own, which takes nothing from the environment: no proxy stands between us and this machine.
    http = httpx2.AsyncClient(trust_env=False)
    async with openai.AsyncOpenAI(base_url=f"http://127.0.0.1:{port}/v1", http_client=http, **given) as client:
        yield client


async def said_to(gateway: Gateway, **asked: Any) -> tuple[Any, Any]:
    """What the provider was asked, and what the package made of "ok"."""
    before = len(gateway.hand.calls)
    async with package(gateway.port) as client:
        running = asyncio.ensure_future(client.chat.completions.create(**{"model": "hand/any", "messages": HI} | asked))
        await until(lambda: len(gateway.hand.calls) > before or running.done())
        if len(gateway.hand.calls) == before:
            return None, await running
        call = gateway.hand.calls[-1]
        call.say(HEADERS)
        call.words("ok")
        call.end()
        return call.request, await running


async def read(stream: openai.AsyncStream[ChatCompletionChunk], text: list[str]) -> None:
    async for chunk in stream:
        text += [choice.delta.content or "" for choice in chunk.choices]


# --------------------------------------------------------------------- answers


async def test_an_answer_comes_whole_with_its_usage(gateway: Gateway) -> None:
    async with package(gateway.port) as client:
        answer = await client.chat.completions.create(model="scripted/count", messages=HI, extra_body=FAST)
    assert answer.object == "chat.completion"
    assert answer.choices[0].message.content == count_text(20)
    assert (answer.choices[0].message.role, answer.choices[0].finish_reason) == ("assistant", "stop")
    assert answer.usage is not None
    assert (answer.usage.completion_tokens, answer.usage.total_tokens) == (20, 21)
    assert answer.created > 1_700_000_000


@pytest.mark.parametrize("counted", [True, False])
async def test_an_answer_streams_with_usage_where_it_is_asked_for(gateway: Gateway, counted: bool) -> None:
    options: Any = {"include_usage": True} if counted else openai.NOT_GIVEN
    async with package(gateway.port) as client:
        stream = await client.chat.completions.create(
            model="scripted/count", messages=HI, extra_body=FAST, stream=True, stream_options=options
        )
        chunks = [chunk async for chunk in stream]
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices) == count_text(20)
    assert chunks[0].choices[0].delta.role == "assistant"
    assert len({chunk.id for chunk in chunks}) == 1
    finishes = [chunk.choices[0].finish_reason for chunk in chunks if chunk.choices]
    assert finishes[-1] == "stop"
    assert not any(finishes[:-1])
    assert [chunk.usage.completion_tokens for chunk in chunks if chunk.usage] == ([20] if counted else [])


async def test_thinking_is_reasoning_content(gateway: Gateway) -> None:
    asked: Any = {"model": "scripted/count", "messages": HI, "extra_body": FAST, "reasoning_effort": "low"}
    async with package(gateway.port) as client:
        answer = await client.chat.completions.create(**asked)
        chunks = [chunk async for chunk in await client.chat.completions.create(**asked, stream=True)]
    thought = answer.choices[0].message.reasoning_content  # type: ignore[attr-defined]
    assert thought
    assert "".join(getattr(chunk.choices[0].delta, "reasoning_content", "") for chunk in chunks) == thought
    async with package(gateway.port) as client:
        answer = await client.chat.completions.create(**asked | {"reasoning_effort": "none"})
    assert "reasoning_content" not in answer.choices[0].message.to_dict()


async def test_the_streaming_accumulator_of_the_package_gets_calls_and_text_right(gateway: Gateway) -> None:
    async with package(gateway.port) as client:
        call: Any = {"name": "weather", "arguments": {"place": "Bergen", "unit": "celsius"}}
        async with client.chat.completions.stream(
            model="scripted/count", messages=HI, tools=[TOOL], extra_body={**FAST, "tool_call": call}
        ) as stream:
            kinds = {event.type async for event in stream}
            answer = await stream.get_final_completion()
    assert "tool_calls.function.arguments.done" in kinds
    message = answer.choices[0].message
    assert message.content == count_text(20)
    assert message.tool_calls is not None
    assert message.tool_calls[0].function.name == "weather"
    assert '"Bergen"' in message.tool_calls[0].function.arguments
    assert answer.choices[0].finish_reason == "tool_calls"


async def test_two_calls_side_by_side_come_whole_and_in_pieces(gateway: Gateway) -> None:
    async with package(gateway.port) as client:
        for streams in (False, True):
            running = asyncio.ensure_future(
                client.chat.completions.create(model="hand/any", messages=HI, tools=[TOOL], stream=streams)
            )
            await until(lambda: len(gateway.hand.calls) == 1 + streams)  # noqa: B023
            call = gateway.hand.calls[-1]
            call.say(HEADERS, DeltaToolCall(0, '{"a":', "c0", "f"), DeltaToolCall(1, "{}", "c1", "g"))
            call.say(DeltaToolCall(0, "1}"), DeltaRefusal("no"))
            call.end(Finish("tool_calls"))
            got: Any = await running
            if streams:
                calls: dict[int, list[str]] = {}
                async for chunk in got:
                    for piece in chunk.choices[0].delta.tool_calls or []:
                        known = calls.setdefault(piece.index, [piece.id, piece.function.name, ""])
                        known[2] += piece.function.arguments
                assert calls == {0: ["c0", "f", '{"a":1}'], 1: ["c1", "g", "{}"]}
            else:
                message = got.choices[0].message
                told = [(c.id, c.function.name, c.function.arguments) for c in message.tool_calls]
                assert told == [("c0", "f", '{"a":1}'), ("c1", "g", "{}")]
                assert (message.refusal, message.content) == ("no", None)


async def test_comments_that_keep_a_connection_alive_are_no_chunks() -> None:
    async with serving(heartbeat_ms=100) as gateway, package(gateway.port) as client:
        running = asyncio.ensure_future(
            client.chat.completions.with_streaming_response.create(
                model="hand/any", messages=HI, stream=True
            ).__aenter__()
        )
        await until(lambda: gateway.hand.calls)
        gateway.hand.calls[0].say(HEADERS)
        response = await running
        lines = response.iter_lines()
        async for line in lines:
            if line.startswith(":"):
                break
        gateway.hand.calls[0].words("a", "b")
        gateway.hand.calls[0].end()
        assert [line async for line in lines][-2] == "data: [DONE]"
        await response.close()

        running_too = asyncio.ensure_future(client.chat.completions.create(model="hand/any", messages=HI, stream=True))
        await until(lambda: len(gateway.hand.calls) == 2)
        gateway.hand.calls[1].say(HEADERS)
        stream = await running_too
        first = await anext(stream)
        assert first.choices[0].delta.role == "assistant"
        await asyncio.sleep(0.25)  # pause: two comments go out meanwhile
        gateway.hand.calls[1].words("ok")
        gateway.hand.calls[1].end()
        assert "".join([chunk.choices[0].delta.content or "" async for chunk in stream]) == "ok"


async def test_the_blocking_client_streams_and_lists(gateway: Gateway) -> None:
    def use() -> tuple[str, list[str]]:
        http = httpx2.Client(trust_env=False)
        with openai.OpenAI(base_url=f"{gateway.url}/v1", api_key="none", http_client=http) as client:
            stream = client.chat.completions.create(model="scripted/count", messages=HI, extra_body=FAST, stream=True)
            text = "".join(chunk.choices[0].delta.content or "" for chunk in stream)
            return text, [model.id for model in client.models.list()]

    text, models = await asyncio.to_thread(use)
    assert text == count_text(20)
    assert "scripted/echo" in models


async def test_models_are_listed_and_found_by_their_whole_id(gateway: Gateway) -> None:
    async with package(gateway.port) as client:
        listed = [model.id async for model in client.models.list()]
        found = await client.models.retrieve("scripted/count")
        with pytest.raises(openai.NotFoundError):
            await client.models.retrieve("scripted/nobody")
    assert (found.id, found.object, found.owned_by) == ("scripted/count", "model", "scripted")
    assert found.id in listed


# --------------------------------------------------------------------- what is asked


async def test_all_that_a_request_can_say_reaches_the_provider(gateway: Gateway) -> None:
    messages: Any = [
        {"role": "developer", "content": [{"type": "text", "text": "be "}, {"type": "text", "text": "kind"}]},
        {"role": "user", "content": [
            {"type": "text", "text": "what is this?"},
            {"type": "image_url", "image_url": {"url": "data:image/png;base64,aGk=", "detail": "low"}},
            {"type": "image_url", "image_url": {"url": "https://a.example/b.png"}},
        ]},
        {"role": "assistant", "content": None, "tool_calls": [
            {"id": "c1", "type": "function", "function": {"name": "weather", "arguments": '{"a":1}'}}]},
        {"role": "tool", "tool_call_id": "c1", "content": "rain"},
    ]  # fmt: skip
    request, _ = await said_to(
        gateway,
        messages=messages,
        tools=[TOOL],
        tool_choice={"type": "function", "function": {"name": "weather"}},
        max_tokens=7,
        temperature=0.5,
        top_p=0.9,
        stop=["x"],
        seed=3,
        parallel_tool_calls=False,
        response_format={"type": "json_object"},
        frequency_penalty=0.25,
        user="me",
        extra_body={"top_k": 5},
    )
    assert request.messages == [
        Message("system", "be kind"),
        Message(
            "user",
            [
                TextPart("what is this?"),
                ImagePart(data="aGk=", media_type="image/png"),
                ImagePart(url="https://a.example/b.png"),
            ],
        ),
        Message("assistant", "", [ToolCall("c1", "weather", '{"a":1}')]),
        Message("tool", "rain", call_id="c1"),
    ]
    params = request.params
    assert (params.max_tokens, params.temperature, params.top_p, params.stop, params.seed) == (7, 0.5, 0.9, ["x"], 3)
    assert params.tool_choice == {"type": "function", "name": "weather"}
    assert params.tools[0].description == "of a place"
    assert request.extra == {
        "parallel_tool_calls": False,
        "response_format": {"type": "json_object"},
        "frequency_penalty": 0.25,
        "top_k": 5,
    }


async def test_what_is_so_anyway_is_not_told_to_providers_that_may_not_know_it(gateway: Gateway) -> None:
    said: Any = {
        "parallel_tool_calls": True,
        "response_format": {"type": "text"},
        "frequency_penalty": 0,
        "presence_penalty": 0.0,
        "logprobs": False,
        "service_tier": "auto",
        "n": 1,
        "max_tokens": 5,
        "max_completion_tokens": None,
        "logit_bias": None,
    }
    request, _ = await said_to(gateway, **said)
    assert request.extra == {}
    assert request.params.max_tokens == 5


@pytest.mark.parametrize(
    ("asked", "word"),
    [
        ({"logprobs": True}, "logprobs"),
        ({"modalities": ["text", "audio"]}, "modalities"),
        ({"functions": [{"name": "f"}]}, "tools"),
        ({"n": 2}, "`n`"),
        ({"model": "gpt-4o"}, "provider/name"),
        ({"temperature": "hot"}, "temperature"),
        ({"messages": []}, "messages"),
        ({"messages": [{"role": "user", "content": [{"type": "input_audio", "input_audio": {}}]}]}, "image_url"),
        ({"messages": [{"role": "system", "content": [{"type": "image_url", "image_url": {"url": "a"}}]}]}, "images"),
        ({"tools": [{"type": "custom", "custom": {"name": "f"}}]}, "function"),
        ({"tool_choice": {"type": "function", "function": {}}}, "tool_choice"),
        ({"extra_body": {"stream": "yes"}}, "stream"),
        # A provider that refuses what it does not know says which.
        ({"model": "scripted/count", "extra_body": {"top_k": 5}}, "top_k"),
    ],
)
async def test_what_cannot_be_done_is_a_bad_request_that_says_why(
    gateway: Gateway, asked: dict[str, Any], word: str
) -> None:
    with pytest.raises(openai.BadRequestError, match=word) as caught:
        await said_to(gateway, **asked)
    assert (caught.value.code, caught.value.type) == ("request.invalid", "invalid_request_error")
    assert not gateway.hand.calls


# --------------------------------------------------------------------- what goes wrong


async def test_nobody_without_a_key_is_let_in() -> None:
    async with serving(authenticate=Door(ann=person("ann"))) as gateway:
        async with package(gateway.port, api_key="ben") as ben:
            with pytest.raises(openai.AuthenticationError):
                await ben.models.list()
            with pytest.raises(openai.AuthenticationError):
                await ben.chat.completions.create(model="scripted/count", messages=HI, stream=True)
        async with package(gateway.port, api_key="ann") as ann:
            assert (await ann.models.list()).data


@pytest.mark.parametrize("streams", [True, False])
@pytest.mark.parametrize(
    ("error", "wanted", "again"),
    [
        (ProviderError("provider.rate_limit", "slowly", retry_after_ms=1500), openai.RateLimitError, "true"),
        (ProviderError("provider.auth", "no key"), openai.InternalServerError, "false"),
        (ProviderError("provider.content_filter", "no"), openai.BadRequestError, "false"),
        (ProviderError("model.unknown", "who?"), openai.NotFoundError, "false"),
    ],
)
async def test_what_a_provider_refuses_is_the_exception_that_openai_would_have_raised(
    gateway: Gateway, streams: bool, error: ProviderError, wanted: type[openai.APIStatusError], again: str
) -> None:
    async with package(gateway.port) as client:
        running = asyncio.ensure_future(client.chat.completions.create(model="hand/any", messages=HI, stream=streams))
        await until(lambda: gateway.hand.calls)
        gateway.hand.calls[0].fail(error)
        with pytest.raises(wanted) as caught:
            await running
    headers = caught.value.response.headers
    assert headers["x-should-retry"] == again
    assert headers.get("retry-after") == ("2" if error.retry_after_ms else None)
    assert headers["x-everstream-stream"].startswith("r_")
    assert caught.value.code == error.code


async def test_an_unknown_model_or_provider_is_not_found(gateway: Gateway) -> None:
    async with package(gateway.port) as client:
        for model in ("scripted/nobody", "nobody/any"):
            with pytest.raises(openai.NotFoundError):
                await client.chat.completions.create(model=model, messages=HI)


async def test_an_answer_that_breaks_off_raises_after_its_part(gateway: Gateway) -> None:
    script = {**FAST, "fail_at": 5, "fail_times": 9, "continuation": "none", "fail_code": "provider.overloaded"}
    async with package(gateway.port) as client:
        stream = await client.chat.completions.create(
            model="scripted/count", messages=HI, stream=True, extra_body=script
        )
        text: list[str] = []
        with pytest.raises(openai.APIError) as caught:
            await read(stream, text)
        assert "".join(text).split() == count_text(5).split()
        assert caught.value.code == "provider.overloaded"
        with pytest.raises(openai.InternalServerError) as whole:
            await client.chat.completions.create(model="scripted/count", messages=HI, extra_body=script)
        name = whole.value.response.headers["x-everstream-stream"]  # where the part can be read
        shown = await client.get(f"/streams/{name}?format=generate", cast_to=httpx2.Response)
        assert shown.text.count('"name":"output"') == 5


async def test_one_that_was_stopped_ends_as_if_it_were_whole(gateway: Gateway) -> None:
    async with package(gateway.port) as client:
        running = asyncio.ensure_future(
            client.chat.completions.with_raw_response.create(model="hand/any", messages=HI, stream=True)
        )
        await until(lambda: gateway.hand.calls)
        gateway.hand.calls[0].say(HEADERS)
        raw = await running
        await client.post(f"/streams/{raw.headers['x-everstream-stream']}/cancel", cast_to=object)
        chunks = [chunk async for chunk in raw.parse()]
    assert chunks[-1].choices[0].finish_reason == "stop"


# --------------------------------------------------------------------- again, and on


async def test_the_packages_own_retries_start_nothing_twice_with_a_key(gateway: Gateway) -> None:
    proxy = await Proxy(gateway.port).start()
    try:
        async with package(proxy.port, max_retries=2) as client:
            running = asyncio.ensure_future(
                client.chat.completions.create(model="hand/any", messages=HI, extra_headers={"Idempotency-Key": "one"})
            )
            await until(lambda: gateway.hand.calls)
            call = gateway.hand.calls[0]
            call.say(HEADERS)
            proxy.reset()  # the package asks again by itself
            await until(lambda: proxy.connections_total == 2)
            call.words("once")
            call.end()
            answer = await running
    finally:
        await proxy.close()
    assert answer.choices[0].message.content == "once"
    assert len(gateway.hand.calls) == 1


async def test_a_retry_with_a_key_after_a_rate_limit_is_a_new_try_and_only_one() -> None:
    async with serving(carry_on=False) as gateway, package(gateway.port, max_retries=2) as client:
        asked: Any = {"model": "hand/any", "messages": HI, "extra_headers": {"Idempotency-Key": "k"}}
        running = asyncio.ensure_future(client.chat.completions.create(**asked))
        await until(lambda: gateway.hand.calls)
        gateway.hand.calls[0].fail(ProviderError("provider.rate_limit", "slowly"))
        await until(lambda: len(gateway.hand.calls) == 2)
        other = asyncio.ensure_future(client.chat.completions.create(**asked))
        gateway.hand.calls[1].say(HEADERS)
        gateway.hand.calls[1].words("now")
        gateway.hand.calls[1].end()
        answers = [await running, await other]
        assert {answer.choices[0].message.content for answer in answers} == {"now"}
        assert len({answer.id for answer in answers}) == 1
        assert len(gateway.hand.calls) == 2


async def test_a_client_that_stops_waiting_stops_the_answer_where_it_said_so(gateway: Gateway) -> None:
    for number, said in enumerate(("continue", "cancel")):
        async with package(gateway.port, timeout=0.2) as client:
            with pytest.raises(openai.APITimeoutError):
                await client.chat.completions.create(
                    model="hand/any", messages=HI, extra_headers={"X-Everstream-On-Disconnect": said}
                )
        assert len(gateway.hand.calls) == number + 1
    await until(lambda: gateway.hand.calls[1].closed)
    assert not gateway.hand.calls[0].closed


async def test_a_wrong_word_about_disconnects_costs_nothing(gateway: Gateway) -> None:
    async with package(gateway.port) as client:
        with pytest.raises(openai.BadRequestError, match="on-disconnect"):
            await client.chat.completions.create(
                model="hand/any", messages=HI, extra_headers={"X-Everstream-On-Disconnect": "perhaps"}
            )
    assert not gateway.hand.calls


async def test_an_answer_whose_connection_is_cut_goes_on_from_the_last_id(gateway: Gateway) -> None:
    proxy = await Proxy(gateway.port).start()
    text: list[str] = []
    place = 0

    async def read_and_cut(response: openai.AsyncAPIResponse[Any]) -> None:
        nonlocal place
        async for line in response.iter_lines():
            if line.startswith("id: "):
                place = int(line[4:])
            elif line.startswith("data: "):
                text.append(json.loads(line[6:])["choices"][0]["delta"].get("content") or "")
                if place == 12:
                    proxy.reset()

    try:
        async with package(proxy.port) as client:
            create = client.chat.completions.with_streaming_response.create
            script = {"tokens": 60, "rate": 100}
            async with create(model="scripted/count", messages=HI, extra_body=script, stream=True) as response:
                name = response.headers["x-everstream-stream"]
                with pytest.raises(httpx2.TransportError):
                    await read_and_cut(response)
            rest = await client.get(
                f"/streams/{name}",
                cast_to=ChatCompletionChunk,
                options={"params": {"format": "openai"}, "headers": {"Last-Event-ID": str(place)}},
                stream=True,
                stream_cls=openai.AsyncStream[ChatCompletionChunk],
            )
            assert place < 60
            await read(rest, text)
    finally:
        await proxy.close()
    feed = await gateway.node.find(name)
    assert "".join(text) == feed.log.total().text == count_text(60)


async def rest_of(client: openai.AsyncOpenAI, stream: str, place: int) -> list[ChatCompletionChunk]:
    rest = await client.get(
        f"/streams/{stream}",
        cast_to=ChatCompletionChunk,
        options={"params": {"format": "openai", "include_usage": "1"}, "headers": {"Last-Event-ID": str(place)}},
        stream=True,
        stream_cls=openai.AsyncStream[ChatCompletionChunk],
    )
    return [chunk async for chunk in rest]


async def test_who_loses_the_connection_among_the_last_chunks_gets_them_again(gateway: Gateway) -> None:
    async with package(gateway.port) as client:
        create = client.chat.completions.with_streaming_response.create
        async with create(model="scripted/count", messages=HI, extra_body=FAST, stream=True) as response:
            stream = response.headers["x-everstream-stream"]
            places = [int(line[4:]) async for line in response.iter_lines() if line.startswith("id: ")]
        end = (await gateway.node.find(stream)).log.tail
        assert places[-2:] == [end - 1, end]
        finish, usage = await rest_of(client, stream, end - 1)
        assert (finish.choices[0].finish_reason, usage.choices) == ("stop", [])
        assert usage.usage is not None
        assert await rest_of(client, stream, end) == []


async def test_where_a_place_is_no_history_the_message_begins_anew(gateway: Gateway) -> None:
    async with package(gateway.port) as client:
        answer = await client.chat.completions.create(model="scripted/count", messages=HI, extra_body=FAST)
        first, *rest = await rest_of(client, answer.id.removeprefix("chatcmpl-"), 9_999)
    assert (first.choices[0].delta.role, first.choices[0].delta.content) == ("assistant", count_text(20))
    assert [chunk.choices[0].finish_reason for chunk in rest if chunk.choices] == ["stop"]
