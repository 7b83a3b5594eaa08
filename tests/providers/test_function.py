"""A developer's function as a model: what it may be, what it may say, and what becomes of it."""

from __future__ import annotations

import asyncio
import contextvars
import functools
import threading
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from tests.providers.functions import REQUEST, WAIT_S, WORDS, Taken, pour, provider_of, words

from everstream.core.events import (
    Counted,
    DeltaText,
    DeltaThinking,
    DeltaToolCall,
    Finish,
    HeadersReceived,
    Request,
    Usage,
)
from everstream.providers import function as function_module
from everstream.providers.base import ProviderError
from everstream.providers.function import Model, Models
from everstream.providers.function_stream import ModelStream


def plain_words(request: Request, stream: ModelStream) -> Any:
    yield from WORDS


async def whole(request: Request, stream: ModelStream) -> str:
    return "".join(WORDS)


def plain_whole(request: Request, stream: ModelStream) -> str:
    return "".join(WORDS)


class Callable_:
    async def __call__(self, request: Request, stream: ModelStream) -> AsyncIterator[str]:
        for word in WORDS:
            yield word

    def called(self, request: Request, stream: ModelStream) -> list[str]:
        return list(WORDS)


def given(kind: str, request: Request, stream: ModelStream) -> AsyncIterator[str]:
    return words(request, stream)


# --------------------------------------------------------------------------- what it may be


@pytest.mark.parametrize(
    "function",
    [
        words,
        plain_words,
        whole,
        plain_whole,
        Callable_(),
        Callable_().called,
        functools.partial(given, "kind"),
        lambda request, stream: whole(request, stream),
    ],
    ids=["generator", "plain generator", "coroutine", "plain", "object", "list", "partial", "lambda"],
)
async def test_whatever_can_be_called_is_a_model(function: Any) -> None:
    taken = await pour(function)
    assert taken.text == "one two three"
    assert type(taken.events[0]) is HeadersReceived
    assert taken.events[-1] == Finish("stop")


async def test_a_function_that_says_nothing_is_an_empty_answer() -> None:
    async def nothing(request: Request, stream: ModelStream) -> None:
        """It has nothing to say."""

    taken = await pour(nothing)
    assert [type(event) for event in taken.events] == [HeadersReceived, Finish]


@pytest.mark.parametrize("name", ["", "a/b", "a b", "-a", "a" * 65, "é"])
def test_a_name_that_is_none_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="no name for a model"):
        Models().add(name, Model(words))


def test_a_model_is_registered_once_and_takes_two_arguments() -> None:
    models = Models()
    models.add("mine", Model(words))
    with pytest.raises(ValueError, match="already"):
        models.add("mine", Model(whole))
    with pytest.raises(TypeError, match="two arguments"):
        models.add("other", Model(lambda request: "no"))
    with pytest.raises(TypeError, match="must be a function"):
        models.add("other", Model("text"))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="continuation"):
        models.add("other", Model(words, "always"))  # type: ignore[arg-type]


async def test_what_was_declared_is_shown_and_an_unknown_model_names_the_nearest() -> None:
    provider = provider_of(words, continuation="replay", thinking=True, tools=False)
    (info,) = await provider.models()
    assert (info.id, info.continuation, info.thinking, info.tools, info.images) == (
        *("app/mine", "exact", True, False),
        None,
    )
    with pytest.raises(ProviderError, match="did you mean mine") as refused:
        provider.check(Request("app/mien", []))
    assert refused.value.code == "model.unknown"


# --------------------------------------------------------------------------- what it may say


async def test_what_is_said_in_one_turn_is_one_batch_and_one_piece() -> None:
    async def burst(request: Request, stream: ModelStream) -> AsyncIterator[str]:
        stream.thinking("hm")
        for word in WORDS:
            yield word

    taken = await pour(burst)
    assert taken.batches[1] == [DeltaThinking("hm"), DeltaText("one two three")]


async def test_what_is_said_is_shown_while_the_function_waits() -> None:
    shown = asyncio.Event()

    async def waiting(request: Request, stream: ModelStream) -> AsyncIterator[str]:
        stream.thinking("looking")
        await shown.wait()
        yield "found"

    taken = Taken()
    task = asyncio.create_task(provider_of(waiting).pour(REQUEST, None, taken))
    async with asyncio.timeout(WAIT_S):
        while DeltaThinking("looking") not in taken.events:
            await asyncio.sleep(0)
        shown.set()
        await task
    assert taken.text == "found"


async def test_events_tool_calls_and_usage_are_said_too() -> None:
    ids = []

    async def calling(request: Request, stream: ModelStream) -> AsyncIterator[Any]:
        yield DeltaThinking("hm")
        ids.append(stream.tool_call("look", {"for": "ü"}))
        ids.append(stream.tool_call("look", '{"for": 2}', "mine"))
        stream.usage(7, 3, cached_tokens=2)
        yield Usage(8, 4, 12, "provider")

    first, again = await pour(calling), await pour(calling)
    assert first.content == again.content
    assert ids[0] == ids[2]
    assert ids[1] == "mine"
    assert first.content[1:3] == [
        DeltaToolCall(0, '{"for": "ü"}', ids[0], "look"),
        DeltaToolCall(1, '{"for": 2}', "mine", "look"),
    ]
    assert [type(event) for event in first.content[3:]] == [Counted, Counted]
    assert first.events[-1] == Finish("tool_calls", Usage(8, 4, 12, "provider"))


async def test_a_finish_says_why_it_ended() -> None:
    async def cut(request: Request, stream: ModelStream) -> AsyncIterator[Any]:
        yield "a"
        yield Finish("length", warnings=("short",))

    assert (await pour(cut)).events[-1] == Finish("length", warnings=("short",))


@pytest.mark.parametrize("said", [42, b"bytes", {"a": 1}, None, object()])
async def test_what_is_no_text_and_no_event_is_told_by_its_type(said: object) -> None:
    async def wrong(request: Request, stream: ModelStream) -> AsyncIterator[Any]:
        yield said

    with pytest.raises(TypeError, match=rf"app/mine said a {type(said).__name__}: text \(str\) is wanted"):
        await pour(wrong)


@pytest.mark.parametrize("say", ["text", "thinking", "tool_call"])
async def test_a_wrong_argument_is_told_by_its_type(say: str) -> None:
    async def wrong(request: Request, stream: ModelStream) -> None:
        getattr(stream, say)(42)

    with pytest.raises(TypeError, match="must be str, not int"):
        await pour(wrong)


async def test_failures_come_as_they_are() -> None:
    for error in (ProviderError("provider.overloaded", "busy"), KeyError("mine")):

        async def failing(request: Request, stream: ModelStream, error: Exception = error) -> AsyncIterator[str]:
            yield "a"
            raise error

        with pytest.raises(type(error)) as failure:
            await pour(failing)
        assert failure.value is error


@pytest.mark.parametrize("leave", [SystemExit, KeyboardInterrupt])
@pytest.mark.parametrize("plain", [True, False])
async def test_a_function_that_wants_to_end_the_process_only_fails(leave: type[BaseException], plain: bool) -> None:
    def leaving(request: Request, stream: ModelStream) -> None:
        raise leave

    async def leaving_too(request: Request, stream: ModelStream) -> None:
        raise leave

    with pytest.raises(RuntimeError, match=leave.__name__):
        await pour(leaving if plain else leaving_too)


async def test_nothing_is_added_after_the_end() -> None:
    kept: list[ModelStream] = []

    async def keeping(request: Request, stream: ModelStream) -> str:
        kept.append(stream)
        assert stream.status == "running"
        return "all"

    await pour(keeping)
    assert kept[0].status == "ended"
    with pytest.raises(RuntimeError, match="app/mine has ended"):
        kept[0].text("more")


# --------------------------------------------------------------------------- how fast


@pytest.mark.parametrize("plain", [True, False])
async def test_a_function_is_held_up_where_readers_cannot_keep_up(plain: bool) -> None:
    said = 0

    def endless(request: Request, stream: ModelStream) -> Any:
        nonlocal said
        for _ in range(5_000):
            said += 1
            yield "word "

    async def endless_too(request: Request, stream: ModelStream) -> AsyncIterator[str]:
        for word in endless(request, stream):
            yield word

    taken = Taken()
    taken.roomy.clear()
    task = asyncio.create_task(provider_of(endless if plain else endless_too).pour(REQUEST, None, taken))
    async with asyncio.timeout(WAIT_S):
        while not taken.waited:
            await asyncio.sleep(0.001)  # pause: between two looks at a thread's doing
        await asyncio.sleep(0.05)  # pause: for it to say more than it may
        assert said < 2_500
        taken.roomy.set()
        await task
    assert taken.text == "word " * 5_000
    assert len(taken.batches) < (5_000 if plain else 50), "a burst is few entries"


async def test_a_burst_leaves_the_loop_to_others() -> None:
    turns = 0

    async def counting() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    async def endless(request: Request, stream: ModelStream) -> AsyncIterator[str]:
        for _ in range(20_000):
            yield "word "

    other = asyncio.create_task(counting())
    await pour(endless)
    other.cancel()
    assert turns >= 10


async def test_plain_calls_wait_where_they_are_asked_to() -> None:
    async def draining(request: Request, stream: ModelStream) -> None:
        for _ in range(100):
            stream.text("word " * 20)
            await stream.drain()

    taken = await pour(draining)
    assert taken.text == "word " * 2_000
    assert len(taken.batches) >= 100


async def test_a_plain_function_runs_in_one_thread_with_the_context_of_its_stream() -> None:
    place = contextvars.ContextVar("place", default="nowhere")
    place.set("here")
    seen = set()

    def looking(request: Request, stream: ModelStream) -> Any:
        for _ in range(100):
            seen.add((threading.get_ident(), place.get()))
            yield "a"

    assert (await pour(looking)).text == "a" * 100
    ((thread, context),) = seen
    assert thread != threading.get_ident()
    assert context == "here"


async def test_what_a_generator_keeps_by_context_stays() -> None:
    place = contextvars.ContextVar("place", default="nowhere")

    async def keeping(request: Request, stream: ModelStream) -> AsyncIterator[str]:
        token = place.set("inside")
        for _ in range(3):
            yield place.get()
            await asyncio.sleep(0)
        place.reset(token)

    assert (await pour(keeping)).text == "inside" * 3
    assert place.get() == "nowhere"


# --------------------------------------------------------------------------- being stopped


async def stopped(function: Callable[..., Any]) -> Taken:
    """What was taken of a function that is cancelled when it has said its first word."""
    taken = Taken()
    task = asyncio.create_task(provider_of(function).pour(REQUEST, None, taken))
    async with asyncio.timeout(WAIT_S):
        while not taken.text:
            await asyncio.sleep(0.001)  # pause: between two looks at a thread's doing
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    return taken


async def test_a_function_sees_that_it_is_cancelled_before_it_is() -> None:
    seen: list[str] = []

    async def waiting(request: Request, stream: ModelStream) -> AsyncIterator[str]:
        watcher = asyncio.create_task(stream.cancelled.wait())
        watcher.add_done_callback(lambda _: seen.append("told"))
        try:
            yield "a"
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            seen.append(stream.status)
            assert stream.cancelled.is_set()
            raise
        finally:
            await asyncio.sleep(0)
            stream.text("too late")
            seen.append("cleaned up")

    assert (await stopped(waiting)).text == "a"
    assert seen == ["cancelled", "told", "cleaned up"]


async def test_a_function_in_a_thread_is_closed_at_its_next_word() -> None:
    closed = threading.Event()

    def endless(request: Request, stream: ModelStream) -> Any:
        try:
            while True:
                yield "a"
        finally:
            closed.set()

    await stopped(endless)
    assert closed.is_set()


async def test_a_function_that_does_not_stop_is_left_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(function_module, "LET_GO_S", 0.05)
    let_go = asyncio.Event()

    async def stubborn(request: Request, stream: ModelStream) -> AsyncIterator[str]:
        yield "a"
        while not let_go.is_set():
            try:
                await let_go.wait()
            except asyncio.CancelledError:
                continue

    await stopped(stubborn)
    let_go.set()


async def test_a_function_that_is_cancelled_from_inside_fails() -> None:
    async def itself(request: Request, stream: ModelStream) -> str:
        raise asyncio.CancelledError

    with pytest.raises(RuntimeError, match="cancelled from inside"):
        await pour(itself)


async def test_it_can_be_asked_for_batches_too() -> None:
    closed = asyncio.Event()

    async def endless(request: Request, stream: ModelStream) -> AsyncIterator[str]:
        try:
            while True:
                yield "a"
        finally:
            closed.set()

    batches = [batch async for batch in provider_of(words).generate(REQUEST)]
    assert "".join(e.text for batch in batches for e in batch if isinstance(e, DeltaText)) == "one two three"
    asked = provider_of(endless).generate(REQUEST)
    async with asyncio.timeout(WAIT_S):
        await anext(asked)
        await asked.aclose()
    assert closed.is_set()
