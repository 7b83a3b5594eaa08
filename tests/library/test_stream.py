"""`everstream.library` where a loop runs: typed events, cancels, and what is kept when something goes wrong."""

from __future__ import annotations

import asyncio
import gc
import threading
from collections.abc import Callable
from typing import Any

import pytest
from tests.providers.wire_server import Reply, WireServer
from tests.runtime.conftest import HEADERS, Hand, assert_legal, until

import everstream
from everstream import (
    DeltaText,
    DeltaThinking,
    DeltaToolCall,
    EverstreamError,
    FirstToken,
    Message,
    RequestStart,
    Seam,
    StreamEnd,
)
from everstream.core.events import CONTENT, Budget, TextPart
from everstream.library_engine import ENDED_MAX, Engine, request_of
from everstream.library_stream import Stream
from everstream.providers.base import ProviderError

FAST: dict[str, Any] = {"rate": 0}
CANCELS = 200
CANCEL_P99_S = 1.0  # a claim of 0.05 s, on a machine that does other things too

CHUNK = b'data: {"choices":[{"index":0,"delta":{"content":"word "}}]}\n\n'
DONE = b'data: {"choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}\n\ndata: [DONE]\n\n'

Settings = Callable[..., everstream.Settings]


async def all_of(stream: Stream) -> list[everstream.Event]:
    return [event async for event in stream]


def count_text(tokens: int) -> str:
    return " ".join(str(number) for number in range(1, tokens + 1))


# --------------------------------------------------------------------------- events


async def test_events_come_typed_and_in_the_order_of_the_protocol(engine: Engine) -> None:
    stream = engine.stream(
        "scripted/count", "hi", tokens=3, thinking_tokens=2, tool_call={"name": "look", "arguments": {"a": 1}}, **FAST
    )
    events = await all_of(stream)
    assert_legal(events)
    assert [event.type for event in events[:3]] == ["request_start", "headers_received", "first_token"]
    kinds = [type(event) for event in events if isinstance(event, CONTENT)]
    assert kinds[:5] == [DeltaThinking, DeltaThinking, DeltaText, DeltaText, DeltaText]
    assert set(kinds[5:]) == {DeltaToolCall}
    assert [event.type for event in events[-2:]] == ["last_token", "stream_end"]
    result = stream.result
    assert (result.text, result.reason, result.finish_reason) == (count_text(3), "complete", "tool_calls")
    assert [(call.name, call.arguments) for call in result.tool_calls] == [("look", '{"a":1}')]
    assert result.thinking
    assert (result.partial, result.truncated, result.error) == (False, False, None)
    assert result.usage is not None
    assert result.usage.source == "provider"
    assert str(result) == result.text
    assert result.raise_for_error() is result


async def test_a_stream_that_was_read_gives_nothing_more(engine: Engine) -> None:
    stream = engine.stream("scripted/count", "hi", tokens=2, **FAST)
    assert await all_of(stream)
    assert await all_of(stream) == []


async def test_what_is_not_read_yet_is_in_the_result_already(hand: Hand) -> None:
    async with Engine(settings=everstream.Settings()) as own, own.stream("hand/x", "hi") as stream:
        await until(lambda: hand.calls)
        assert stream.result.text == ""
        hand.calls[0].say(HEADERS)
        hand.calls[0].words("one ", "two")
        await until(lambda: stream.result.text == "one two")
        assert (stream.result.partial, stream.result.reason) == (True, None)
        hand.calls[0].end()
        events = await all_of(stream)
    assert [event.text for event in events if isinstance(event, DeltaText)] == ["one ", "two"]
    assert not stream.result.partial


async def test_many_streams_at_once_do_not_mix(engine: Engine) -> None:
    async def ask(tokens: int) -> str:
        result = await engine.run("scripted/count", "hi", tokens=tokens, rate=2000)
        return result.text

    texts = await asyncio.gather(*(ask(tokens) for tokens in range(1, 61)))
    assert texts == [count_text(tokens) for tokens in range(1, 61)]


async def test_what_has_ended_is_forgotten(engine: Engine) -> None:
    for _ in range(3 * ENDED_MAX):
        await engine.run("scripted/count", "hi", tokens=1, **FAST)
    assert engine._node is not None
    assert len(engine._node.hub) <= ENDED_MAX + 1
    assert len(engine._store.disk.records) <= ENDED_MAX + 1


# --------------------------------------------------------------------------- what is asked


def test_a_text_dicts_and_messages_ask_the_same() -> None:
    said = [
        "hi",
        [{"role": "user", "content": "hi"}],
        [Message("user", "hi")],
    ]
    requests = [request_of("a/b", messages, {}, None) for messages in said]  # type: ignore[arg-type]
    assert requests[0] == requests[1] == requests[2]
    parts = request_of("a/b", [Message("user", [TextPart("hi")])], {}, None)
    assert parts.messages[0].content == [TextPart("hi")]


async def test_what_is_asked_reaches_the_provider(hand: Hand) -> None:
    async with Engine(settings=everstream.Settings()) as engine:
        stream = engine.stream(
            "hand/x", "hi", system="be brief", max_tokens=5, temperature=0.5, own=[1], budget={"output_tokens": 9}
        )
        async with stream:
            await until(lambda: hand.calls)
    request = hand.calls[0].request
    assert (request.params.system, request.params.max_tokens, request.params.temperature) == ("be brief", 5, 0.5)
    assert request.extra == {"own": [1]}
    assert request.budget == Budget(output_tokens=9)


@pytest.mark.parametrize(
    ("model", "messages", "params"),
    [
        ("count", "hi", {}),
        ("scripted/count", [], {}),
        ("scripted/count", [{"role": "user"}], {}),
        ("scripted/count", [{"role": "nobody", "content": "hi"}], {}),
        ("scripted/count", "hi", {"temperature": "hot"}),
        ("scripted/count", "hi", {"budget": {"usd": -1}}),
        ("scripted/count", "hi", {"max_tokens": 0}),
        ("scripted/count", "hi", {"own": object()}),
    ],
)
def test_what_cannot_be_a_request_is_said_at_once(model: str, messages: Any, params: dict[str, Any]) -> None:
    with pytest.raises(EverstreamError) as caught:
        everstream.stream(model, messages, **params)
    assert caught.value.code == "request.invalid"


# --------------------------------------------------------------------------- what goes wrong


@pytest.mark.parametrize(
    ("model", "code"), [("nobody/x", "model.unknown"), ("scripted/x", "model.unknown"), ("openai/x", "provider.auth")]
)
async def test_a_refused_request_is_an_end_with_its_error(model: str, code: str, engine: Engine) -> None:
    stream = engine.stream(model, "hi")
    [end] = await all_of(stream)
    assert isinstance(end, StreamEnd)
    assert end.error is not None
    assert end.error.code == code
    assert (stream.result.text, stream.result.partial, stream.result.truncated) == ("", True, False)
    with pytest.raises(EverstreamError) as caught:
        stream.result.raise_for_error()
    assert caught.value.code == code


async def test_an_answer_that_breaks_off_keeps_its_part(engine: Engine) -> None:
    stream = engine.stream("scripted/count", "hi", tokens=9, fail_at=4, continuation="none", **FAST)
    events = await all_of(stream)
    assert isinstance(events[-1], StreamEnd)
    result = stream.result
    assert (result.text, result.reason) == (count_text(4), "failed")
    assert (result.partial, result.truncated) == (True, True)
    assert result.error is not None
    assert (result.error.code, result.error.retryable) == ("provider.connection", True)


async def test_a_providers_own_refusal_is_no_truncation(engine: Engine) -> None:
    result = await engine.run("scripted/count", "hi", tokens=9, fail_at=4, fail_code="provider.content_filter", **FAST)
    assert result.error is not None
    assert result.error.code == "provider.content_filter"
    assert (result.partial, result.truncated) == (True, False)


async def test_an_answer_is_carried_on_as_by_a_server(engine: Engine) -> None:
    stream = engine.stream("scripted/count", "hi", tokens=9, fail_at=4, **FAST)
    events = await all_of(stream)
    [seam] = [event for event in events if isinstance(event, Seam)]
    assert (seam.continuation, seam.check) == ("exact", "verified")
    assert (stream.result.text, stream.result.partial) == (count_text(9), False)


async def test_another_model_takes_over_where_the_settings_name_one(hand: Hand) -> None:
    async with Engine(settings=everstream.Settings(fallback_models="scripted/count")) as engine:
        stream = engine.stream("hand/x", "hi", max_tokens=3)
        reading = asyncio.create_task(all_of(stream))
        await until(lambda: hand.calls)
        hand.calls[0].fail(ProviderError("provider.overloaded", "not now"))
        await reading
    result = stream.result
    assert (result.text, result.model, result.partial) == (count_text(3), "scripted/count", False)


async def test_a_budget_ends_the_answer_and_says_so(engine: Engine) -> None:
    result = await engine.run("scripted/count", "hi", tokens=1000, budget={"output_tokens": 10}, **FAST)
    assert (result.reason, result.partial, result.truncated, result.error) == ("budget", True, False, None)
    assert result.text.startswith("1 2 3")


async def test_a_failing_provider_is_not_told_of_as_an_exception(hand: Hand) -> None:
    async with Engine(settings=everstream.Settings()) as engine, engine.stream("hand/x", "hi") as stream:
        await until(lambda: hand.calls)
        hand.calls[0].fail(ProviderError("provider.rate_limit", "slow down", retry_after_ms=1500))
        events = await all_of(stream)
    assert [type(event) for event in events] == [RequestStart, StreamEnd]
    assert stream.result.error is not None
    assert stream.result.error.retry_after_ms == 1500


# --------------------------------------------------------------------------- cancelling


async def test_a_cancel_ends_the_stream_and_closes_the_provider(hand: Hand) -> None:
    async with Engine(settings=everstream.Settings()) as engine:
        stream = engine.stream("hand/x", "hi")
        await stream.start()
        await until(lambda: hand.calls)
        hand.calls[0].say(HEADERS)
        hand.calls[0].words("a part")
        async for event in stream:
            if isinstance(event, DeltaText):
                result = await stream.cancel()
        assert (result.text, result.reason, result.partial, result.truncated) == ("a part", "cancelled", True, False)
        assert isinstance(event, StreamEnd)
        assert hand.calls[0].closed


async def test_a_stream_cancelled_before_it_begins_asks_nobody(hand: Hand) -> None:
    async with Engine(settings=everstream.Settings()) as engine:
        stream = engine.stream("hand/x", "hi")
        stream.cancel()
        events = await all_of(stream)
    assert isinstance(events[-1], StreamEnd)
    assert (events[-1].reason, hand.calls) == ("cancelled", [])


@pytest.mark.parametrize("kind", [asyncio.Event, threading.Event])
async def test_setting_an_event_cancels(kind: Callable[[], Any], hand: Hand) -> None:
    flag = kind()
    async with Engine(settings=everstream.Settings()) as engine:
        stream = engine.stream("hand/x", "hi", cancel=flag)
        reading = asyncio.create_task(all_of(stream))
        await until(lambda: hand.calls)
        flag.set()
        async with asyncio.timeout(10):
            events = await reading
        assert isinstance(events[-1], StreamEnd)
        assert events[-1].reason == "cancelled"
        again = await engine.run("hand/x", "hi", cancel=flag)
    assert (again.reason, len(hand.calls)) == ("cancelled", 1)


async def test_leaving_the_block_cancels(hand: Hand) -> None:
    async with Engine(settings=everstream.Settings()) as engine:
        async with engine.stream("hand/x", "hi") as stream:
            await until(lambda: hand.calls)
        assert hand.calls[0].closed
        assert stream.result.reason == "cancelled"


async def test_a_stream_that_is_dropped_is_cancelled(hand: Hand) -> None:
    async with Engine(settings=everstream.Settings()) as engine:
        async for event in engine.stream("hand/x", "hi"):
            if isinstance(event, RequestStart):
                break
        gc.collect()
        await until(lambda: not hand.calls or hand.calls[0].closed)


async def test_a_reader_whose_task_is_cancelled_cancels_the_stream(hand: Hand) -> None:
    async with Engine(settings=everstream.Settings()) as engine:
        reading = asyncio.create_task(engine.run("hand/x", "hi"))
        await until(lambda: hand.calls)
        reading.cancel()
        with pytest.raises(asyncio.CancelledError):
            await reading
        assert hand.calls[0].closed


async def test_a_cancel_closes_the_providers_connection_at_once(wires: WireServer, settings_for: Settings) -> None:
    wires.reply = Reply(3 * CHUNK, hang_after=3 * len(CHUNK))
    loop = asyncio.get_running_loop()
    took = []
    async with Engine(settings=settings_for(wires)) as engine:
        for number in range(1, CANCELS + 1):
            flag = asyncio.Event()
            async for event in engine.stream("openai/x", "hi", cancel=flag):
                if isinstance(event, FirstToken):
                    cancelled_at = loop.time()
                    flag.set()
            took.append(await wires.client_closed(number) - cancelled_at)
    took.sort()
    print(f"cancel to close over {CANCELS}: p50 {took[CANCELS // 2]:.4f} s, p99 {took[CANCELS * 99 // 100]:.4f} s")
    assert took[CANCELS * 99 // 100] < CANCEL_P99_S


# --------------------------------------------------------------------------- callbacks


async def test_a_callback_is_told_of_every_event(engine: Engine) -> None:
    told: list[everstream.Event] = []
    told_later: list[everstream.Event] = []

    async def later(event: everstream.Event) -> None:
        await asyncio.sleep(0)
        told_later.append(event)

    events = await all_of(engine.stream("scripted/count", "hi", tokens=3, on_event=told.append, **FAST))
    assert told == events
    events = await all_of(engine.stream("scripted/count", "hi", tokens=3, on_event=later, **FAST))
    assert told_later == events


async def test_a_callback_that_fails_is_logged_and_breaks_nothing(
    engine: Engine, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(event: everstream.Event) -> None:
        raise ValueError(event.type)

    async def fail_later(event: everstream.Event) -> None:
        raise ValueError(event.type)

    for callback in (fail, fail_later):
        caplog.clear()
        result = await engine.run("scripted/count", "hi", tokens=2, on_event=callback, **FAST)
        assert (result.text, result.partial) == ("1 2", False)
        assert caplog.text.count("ValueError: request_start") == 1
        assert "first_token" not in caplog.text


# --------------------------------------------------------------------------- engines


async def test_ones_own_function_is_a_model() -> None:
    async def shout(request: Any, stream: Any) -> Any:
        for word in request.messages[-1].content.split():
            yield word.upper() + " "

    async with Engine(settings=everstream.Settings(), models={"shout": shout}) as engine:
        result = await engine.run("app/shout", "do it now")
        assert "app/shout" in [model.id for model in await engine.models()]
    assert (result.text, result.partial) == ("DO IT NOW ", False)


async def test_connections_are_used_again(wires: WireServer, settings_for: Settings) -> None:
    wires.reply = Reply(CHUNK + DONE)
    settings = settings_for(wires)
    same = settings_for(wires)
    for given in (settings, same, settings):
        result = await everstream.run_async("openai/x", "hi", settings=given)
        assert result.text == "word "
    assert (len(wires.requests), wires.connections) == (3, 1)
    await everstream.aclose()


async def test_a_closed_engine_says_so(engine: Engine) -> None:
    stream = engine.stream("scripted/count", "hi", rate=1)
    assert isinstance(await anext(stream), RequestStart)
    await engine.aclose()
    await engine.aclose()
    with pytest.raises(RuntimeError, match="closed"):
        await engine.run("scripted/count", "hi")


async def test_closing_an_engine_ends_what_others_still_read(hand: Hand) -> None:
    async with Engine(settings=everstream.Settings()) as engine:
        reading = asyncio.create_task(all_of(engine.stream("hand/x", "hi")))
        await until(lambda: hand.calls)
    async with asyncio.timeout(10):
        events = await reading
    assert isinstance(events[-1], StreamEnd)
    assert events[-1].reason == "cancelled"
    assert hand.calls[0].closed


def test_an_engine_works_in_one_loop_alone() -> None:
    engine = Engine(settings=everstream.Settings())

    async def ask() -> str:
        return (await engine.run("scripted/count", "hi", tokens=1, **FAST)).text

    with asyncio.Runner() as one, asyncio.Runner() as other:
        assert one.run(ask()) == "1"
        with pytest.raises(RuntimeError, match="another event loop"):
            other.run(ask())
        one.run(engine.aclose())


async def test_settings_of_the_surroundings_are_used(wires: WireServer, monkeypatch: pytest.MonkeyPatch) -> None:
    wires.reply = Reply(CHUNK + DONE)
    monkeypatch.setenv("EVERSTREAM_OPENAI_BASE_URL", wires.url)
    monkeypatch.setenv("EVERSTREAM_OPENAI_API_KEY", "k")
    result = await everstream.run_async("openai/x", "hi")
    assert result.text == "word "
    await everstream.aclose()
