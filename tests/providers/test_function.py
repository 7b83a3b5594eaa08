"""A developer's function as a model: what it may be, what it may say, and what becomes of it."""

from __future__ import annotations

import asyncio
import contextvars
import functools
import random
import threading
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from everstream.core.events import (
    Counted,
    DeltaText,
    DeltaThinking,
    DeltaToolCall,
    Finish,
    HeadersReceived,
    Mark,
    Message,
    Request,
    Resumed,
    ToolCall,
    Usage,
)
from everstream.providers import function as function_module
from everstream.providers.base import Batch, Progress, ProviderError
from everstream.providers.function import FunctionProvider, Model, Models
from everstream.providers.function_stream import CHECKPOINT_BYTES_MAX, ModelStream

WAIT_S = 10.0
REQUEST = Request("app/mine", [Message("user", "hello")])
WORDS = ("one ", "two ", "three")


class Taken:
    """A relay that keeps what it is given."""

    def __init__(self) -> None:
        self.batches: list[Batch] = []
        self.roomy = asyncio.Event()
        self.roomy.set()
        self.waited = 0

    def take(self, batch: Batch) -> bool:
        self.batches.append(list(batch))
        return self.roomy.is_set()

    async def room(self) -> None:
        self.waited += 1
        await self.roomy.wait()

    @property
    def events(self) -> list[Any]:
        return [event for batch in self.batches for event in batch]

    @property
    def content(self) -> list[Any]:
        return [event for event in self.events if not isinstance(event, HeadersReceived | Finish | Resumed | Mark)]

    @property
    def text(self) -> str:
        return "".join(event.text for event in self.events if isinstance(event, DeltaText))


def provider_of(function: Callable[..., Any], **declared: Any) -> FunctionProvider:
    models = Models()
    models.add("mine", Model(function, **declared))
    return FunctionProvider(models)


async def pour(function: Callable[..., Any], progress: Progress | None = None, **declared: Any) -> Taken:
    taken = Taken()
    async with asyncio.timeout(WAIT_S):
        await provider_of(function, **declared).pour(REQUEST, progress, taken)
    return taken


async def words(request: Request, stream: ModelStream) -> AsyncIterator[str]:
    for word in WORDS:
        yield word
        await asyncio.sleep(0)


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


# --------------------------------------------------------------------------- being carried on

SAID = Progress(text="one two ", thinking="hm", tool_calls=(ToolCall("c1", "look", "{}"),))


@pytest.mark.parametrize(
    ("declared", "nothing", "thinking", "text"),
    [
        ("exact", "restart", "exact", "exact"),
        ("prefill", "restart", "prefill", "prefill"),
        ("prompted", "restart", "prompted", "prompted"),
        ("replay", "restart", "exact", "exact"),
        ("restart", "restart", "restart", None),
        ("none", None, None, None),
    ],
)
async def test_what_is_declared_says_how_it_is_carried_on(
    declared: str, nothing: Any, thinking: Any, text: Any
) -> None:
    provider = provider_of(words, continuation=declared)
    for progress, how in ((Progress(), nothing), (Progress(thinking="hm"), thinking), (Progress("a"), text)):
        assert provider.continuation(REQUEST, progress) == how
        if how is None:
            with pytest.raises(ProviderError) as refused:
                await provider.pour(REQUEST, progress, Taken())
            assert not refused.value.retryable


@pytest.mark.parametrize("declared", ["exact", "prefill", "prompted"])
async def test_a_function_gets_what_was_sent_and_says_what_follows(declared: str) -> None:
    async def following(request: Request, stream: ModelStream) -> AsyncIterator[str]:
        assert stream.resume_from is not None
        assert (stream.resume_from.text, stream.resume_from.thinking) == ("one two ", "hm")
        assert stream.resume_from.tool_calls == SAID.tool_calls
        assert (stream.resume_from.checkpoint, stream.resume_from.text_since) == (None, "one two ")
        yield "three"
        stream.tool_call("look", "[]", "c2")

    taken = await pour(following, SAID, continuation=declared)
    assert taken.events[1] == Resumed(declared, "unverified")  # type: ignore[arg-type]
    assert taken.content == [DeltaText("three"), DeltaToolCall(1, "[]", "c2", "look")]


@pytest.mark.parametrize("declared", ["exact", "replay", "restart"])
async def test_where_nothing_was_shown_it_is_run_again_and_called_that(declared: str) -> None:
    async def fresh(request: Request, stream: ModelStream) -> str:
        assert stream.resume_from is None
        return "all"

    taken = await pour(fresh, Progress(), continuation=declared)
    assert taken.events[1:] == [Resumed("restart"), DeltaText("all"), Finish("stop")]


async def test_a_checkpoint_comes_back_with_what_was_said_after_it() -> None:
    async def marking(request: Request, stream: ModelStream) -> AsyncIterator[str]:
        yield "one "
        stream.checkpoint({"at": 1})
        yield "two "

    async def following(request: Request, stream: ModelStream) -> str:
        assert stream.resume_from is not None
        return f"{stream.resume_from.checkpoint} {stream.resume_from.text_since!r}"

    batch = (await pour(marking, continuation="exact")).batches[1]
    first, mark, second = batch
    assert (first, second) == (DeltaText("one "), DeltaText("two "))
    assert isinstance(mark, Mark)
    again = await pour(following, Progress("one two ", cursor=mark.cursor), continuation="exact")
    assert again.text == "{'at': 1} 'two '"
    assert again.batches[0][-1] == mark, "it is still true, and another run has begun"
    foreign = await pour(following, Progress("one two ", cursor={"id": "resp_1"}), continuation="exact")
    assert foreign.text == "None 'one two '"


async def test_a_checkpoint_lies_beside_a_word_that_is_not_stored_yet() -> None:
    async def marking(request: Request, stream: ModelStream) -> AsyncIterator[Any]:
        stream.checkpoint("before")
        await asyncio.sleep(0)
        yield DeltaThinking("hm")
        await asyncio.sleep(0)
        stream.checkpoint("long after")

    taken = await pour(marking, continuation="exact")
    assert [[type(event) for event in batch] for batch in taken.batches] == [
        [HeadersReceived],
        [DeltaThinking, Mark],
        [DeltaThinking, Mark],
        [Finish],
    ]
    assert taken.batches[2][0] == DeltaThinking("")
    assert [batch[1].cursor["data"] for batch in taken.batches[1:3]] == ["before", "long after"]  # type: ignore[union-attr]


async def test_a_checkpoint_is_plain_and_small() -> None:
    async def marking(request: Request, stream: ModelStream) -> str:
        with pytest.raises(TypeError):
            stream.checkpoint(object())
        with pytest.raises(ValueError, match=str(CHECKPOINT_BYTES_MAX)):
            stream.checkpoint("x" * CHECKPOINT_BYTES_MAX)
        return "a"

    assert not [e for e in (await pour(marking, continuation="exact")).events if isinstance(e, Mark)]


# --------------------------------------------------------------------------- replays

ANSWER = "The answer has many words, and each comes in pieces of its own. " * 20


def pieces(seed: int) -> Callable[..., AsyncIterator[Any]]:
    async def said(request: Request, stream: ModelStream) -> AsyncIterator[Any]:
        draw, at = random.Random(seed), 0
        yield DeltaThinking("hm, hm")
        while at < len(ANSWER):
            step = draw.randint(1, 40)
            yield ANSWER[at : at + step]
            at += step
            if draw.random() < 0.5:
                await asyncio.sleep(0)
        stream.tool_call("look", {"n": 1})

    return said


async def test_a_replay_shows_what_is_not_shown_whatever_the_pieces() -> None:
    draw = random.Random(5)
    for seed in range(50):
        shown = ANSWER[: draw.randrange(1, len(ANSWER))]
        taken = await pour(pieces(seed), Progress(shown, "hm, hm"), continuation="replay")
        assert shown + taken.text == ANSWER
        assert taken.events.count(Resumed("exact", "verified")) == 1
        assert not any(isinstance(event, DeltaThinking) for event in taken.events)
        assert type(taken.content[-1]) is DeltaToolCall


@pytest.mark.parametrize(
    "progress",
    [
        Progress(ANSWER[:100] + "!"),
        Progress(ANSWER, "something else"),
        Progress(ANSWER + "and more", "hm, hm"),
        Progress(ANSWER, "hm, hm", (ToolCall("c1", "look", '{"n": 1}'),)),
        Progress(ANSWER, "hm, hm", (ToolCall("", "listen", '{"n": 1}'),)),
        Progress(ANSWER, "hm, hm", (ToolCall("", "look", '{"n": 2}'),)),
        Progress(ANSWER, "hm, hm", refusal="no"),
    ],
    ids=["text", "thinking", "shorter", "id", "tool", "arguments", "refusal"],
)
async def test_a_replay_that_says_something_else_ends_and_shows_nothing_of_it(progress: Progress) -> None:
    taken = Taken()
    with pytest.raises(ProviderError, match="something else") as failure:
        await provider_of(pieces(1), continuation="replay").pour(REQUEST, progress, taken)
    assert (failure.value.code, failure.value.retryable) == ("provider.unknown", False)
    assert not taken.content
    assert not [event for event in taken.events if isinstance(event, Resumed)]


async def test_a_replay_that_has_nothing_to_add_is_whole() -> None:
    taken = await pour(words, Progress("one two three"), continuation="replay")
    assert taken.content == []
    assert taken.events[1:] == [Resumed("exact", "verified"), Finish("stop")]
