"""A developer's function whose answer broke off: what it gets, what it may say, and what a replay is held to."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from tests.providers.functions import REQUEST, Taken, pour, provider_of, words

from everstream.core.events import (
    DeltaText,
    DeltaThinking,
    DeltaToolCall,
    Finish,
    HeadersReceived,
    Mark,
    Request,
    Resumed,
    ToolCall,
)
from everstream.providers.base import Progress, ProviderError
from everstream.providers.function_stream import CHECKPOINT_BYTES_MAX, ModelStream

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

CALL_ID = "call_mine"
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
        stream.tool_call("look", {"n": 1}, CALL_ID)

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
        Progress(ANSWER, "hm, hm", (ToolCall(CALL_ID, "listen", '{"n": 1}'),)),
        Progress(ANSWER, "hm, hm", (ToolCall(CALL_ID, "look", '{"n": 2}'),)),
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


async def test_a_replay_knows_a_tool_call_that_is_shown_in_part() -> None:
    shown = Progress(ANSWER, "hm, hm", (ToolCall(CALL_ID, "look", '{"n"'),))
    taken = await pour(pieces(1), shown, continuation="replay")
    assert taken.content == [DeltaToolCall(0, ": 1}")]
