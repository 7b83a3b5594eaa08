"""The scripted provider: the same request is the same answer, on time, whole or in parts."""

from __future__ import annotations

import asyncio
import json
import re
import time
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from everstream.core.events import (
    DeltaText,
    DeltaThinking,
    DeltaToolCall,
    Finish,
    HeadersReceived,
    ImagePart,
    Mark,
    Message,
    Params,
    Request,
    Resumed,
    TextPart,
    ToolCall,
)
from everstream.core.summary import CalledTool, Summary
from everstream.providers.base import Progress, ProviderError
from everstream.providers.scripted import LATE_TOKENS, MAX_TOKENS, MODELS, TURN_TOKENS, Scripted

TOOL = {"name": "weather", "arguments": {"city": "Zürich", "days": [1, 2, 3]}}


class FakeTime:
    """A clock that moves only when somebody sleeps."""

    def __init__(self) -> None:
        self.now_s = 1000.0

    def clock(self) -> float:
        return self.now_s

    async def sleep(self, seconds: float) -> None:
        self.now_s += seconds


class Said:
    """An answer put together."""

    def __init__(self) -> None:
        self.text = ""
        self.thinking = ""
        self.arguments = ""
        self.call: tuple[str | None, str | None] | None = None
        self.order: list[str] = []
        self.tokens = 0
        self.batches: list[int] = []
        self.finish: Finish | None = None
        self.resumed: Resumed | None = None
        self.mark: Mark | None = None

    def add(self, batch: Any) -> None:
        self.batches.append(len(batch))
        for event in batch:
            match event:
                case HeadersReceived():
                    assert not self.order
                    self.order.append("headers")
                    continue
                case Resumed():
                    assert self.order == ["headers"]
                    self.resumed = event
                    continue
                case Mark():
                    self.mark = event
                    continue
                case DeltaText():
                    self.text += event.text
                case DeltaThinking():
                    self.thinking += event.text
                case DeltaToolCall():
                    if event.name is not None:
                        assert self.call is None
                        self.call = (event.call_id, event.name)
                    self.arguments += event.arguments
                case Finish():
                    self.finish = event
                    continue
            assert self.finish is None
            self.tokens += 1
            if self.order[-1] != event.__struct_config__.tag:
                self.order.append(event.__struct_config__.tag)


def request(model: str = "count", content: Any = "one two", params: Params | None = None, **extra: Any) -> Request:
    return Request(
        f"scripted/{model}", [Message("user", content)], params=params or Params(), extra={"rate": 0, **extra}
    )


async def said(
    asked: Request, progress: Progress | None = None, provider: Scripted | None = None, answer: Said | None = None
) -> Said:
    answer = answer or Said()
    async for batch in (provider or Scripted()).generate(asked, progress):
        answer.add(batch)
    return answer


async def test_count_says_one_number_a_token() -> None:
    answer = await said(request(tokens=12))
    assert answer.text == "1 2 3 4 5 6 7 8 9 10 11 12"
    assert answer.tokens == 12
    assert answer.order == ["headers", "delta_text"]


async def test_count_goes_on_after_the_ready_made_numbers_without_a_hole() -> None:
    answer = await said(request(tokens=9000))
    assert answer.text == " ".join(str(n) for n in range(1, 9001))


async def test_the_default_is_two_hundred_tokens() -> None:
    assert (await said(request())).tokens == 200
    assert (await said(request("lorem"))).tokens == 200


@pytest.mark.parametrize("text", ["", "  ", "hello", " two  words ", "a\n\n- b\tc \n", "ünï \u00a0çödé 🙂 end"])
async def test_echo_gives_the_last_user_message_back_with_its_whitespace(text: str) -> None:
    asked = Request(
        "scripted/echo",
        [Message("user", "older"), Message("assistant", "answer"), Message("user", text), Message("assistant", "x")],
        extra={"rate": 0},
    )
    answer = await said(asked)
    assert answer.text == text
    assert answer.tokens <= max(1, len(text.split()))


async def test_echo_is_bounded_by_tokens_only_when_given() -> None:
    long = " ".join(["word"] * 1000)
    assert (await said(request("echo", long))).tokens == 1000
    assert (await said(request("echo", long, tokens=3))).text == "word word word"


async def test_echo_reads_the_text_parts_of_a_message() -> None:
    parts = [TextPart("one two"), ImagePart(url="https://example.invalid/x.png"), TextPart("three")]
    assert (await said(request("echo", parts))).text == "one two three"


async def test_lorem_has_every_kind_of_markdown() -> None:
    text = (await said(request("lorem", tokens=400))).text
    assert re.search(r"^# \w", text)
    for mark in (r"^## \w", r"^- \*\*", r"^1\. ", r"^```python$", r"^```$", r"^\|---\|---:\|---\|$"):
        assert re.search(mark, text, re.MULTILINE), mark


async def test_the_same_seed_is_the_same_text_and_another_seed_another() -> None:
    first = (await said(request("lorem", seed=7))).text
    assert (await said(request("lorem", seed=7))).text == first
    assert (await said(request("lorem", params=Params(seed=7)))).text == first
    assert (await said(request("lorem", seed=8))).text != first
    assert (await said(request("lorem", params=Params(seed=8), seed=7))).text == first


async def test_max_tokens_bounds_the_answer_and_says_so() -> None:
    answer = await said(request(tokens=50, params=Params(max_tokens=5)))
    assert answer.text == "1 2 3 4 5"
    assert answer.finish is not None
    assert answer.finish.finish_reason == "length"
    exact = await said(request(tokens=5, params=Params(max_tokens=5)))
    assert exact.finish is not None
    assert exact.finish.finish_reason == "stop"


async def test_thinking_comes_before_the_text_when_asked_for() -> None:
    answer = await said(request(tokens=3, params=Params(thinking=True)))
    assert answer.order == ["headers", "delta_thinking", "delta_text"]
    assert answer.thinking
    assert answer.finish is not None
    assert answer.finish.usage is not None
    assert answer.finish.usage.thinking_tokens == answer.tokens - 3
    assert not (await said(request(tokens=3))).thinking
    assert not (await said(request(tokens=3, params=Params(thinking={"type": "disabled"})))).thinking
    assert not (await said(request(tokens=3, thinking_tokens=0, params=Params(thinking=True)))).thinking
    assert (await said(request(tokens=3, thinking_tokens=300))).tokens == 303


async def test_a_tool_call_comes_in_pieces_after_the_text() -> None:
    answer = await said(request(tokens=3, tool_call=TOOL))
    assert answer.order == ["headers", "delta_text", "delta_tool_call"]
    assert answer.call is not None
    assert answer.call[1] == "weather"
    assert json.loads(answer.arguments) == TOOL["arguments"]
    assert answer.tokens > 3 + 2
    assert answer.finish is not None
    assert answer.finish.finish_reason == "tool_calls"
    again = await said(request(tokens=3, tool_call=TOOL))
    assert again.call == answer.call


async def test_a_tool_call_that_has_its_result_is_not_made_again() -> None:
    asked = request(tokens=3, tool_call=TOOL)
    result = Message("tool", "sunny", call_id="call_1")
    answer = await said(Request(asked.model, [*asked.messages, result], extra=asked.extra))
    assert answer.call is None
    assert answer.finish is not None
    assert answer.finish.finish_reason == "stop"


async def test_usage_is_the_words_in_and_the_tokens_out() -> None:
    answer = await said(request("count", "four words in here", tokens=9))
    assert answer.finish is not None
    usage = answer.finish.usage
    assert usage is not None
    assert (usage.input_tokens, usage.output_tokens, usage.total_tokens, usage.source) == (4, 9, 13, "provider")
    assert usage.thinking_tokens is None


@pytest.mark.parametrize(
    ("extra", "code", "word"),
    [
        ({"tokens": -1}, "request.invalid", "tokens"),
        ({"tokens": MAX_TOKENS + 1}, "request.invalid", "tokens"),
        ({"tokens": "5"}, "request.invalid", "tokens"),
        ({"tokens": True}, "request.invalid", "tokens"),
        ({"tokens": 1.5}, "request.invalid", "tokens"),
        ({"rate": -1}, "request.invalid", "rate"),
        ({"rate": float("nan")}, "request.invalid", "rate"),
        ({"rate": float("inf")}, "request.invalid", "rate"),
        ({"ttft_ms": "soon"}, "request.invalid", "ttft_ms"),
        ({"fail_at": -3}, "request.invalid", "fail_at"),
        ({"fail_code": "provider.bored"}, "request.invalid", "fail_code"),
        ({"tool_call": {"name": ""}}, "request.invalid", "tool_call"),
        ({"tool_call": {"name": "x", "argument": "{}"}}, "request.invalid", "argument"),
        ({"tool_call": "x"}, "request.invalid", "tool_call"),
        ({"token": 5}, "request.invalid", "'tokens'"),
        ({"ttft": 5}, "request.invalid", "'ttft_ms'"),
        ({"failat": 5}, "request.invalid", "'fail_at'"),
    ],
)
async def test_a_bad_parameter_is_refused_before_anything_is_said(extra: dict[str, Any], code: str, word: str) -> None:
    generation = Scripted().generate(request(**extra))
    with pytest.raises(ProviderError, match=re.escape(word)) as caught:
        await anext(generation)
    assert caught.value.code == code


async def test_a_negative_max_tokens_is_refused() -> None:
    with pytest.raises(ProviderError, match="max_tokens"):
        await anext(Scripted().generate(request(params=Params(max_tokens=-1))))


async def test_an_unknown_model_is_refused_before_anything_is_said() -> None:
    with pytest.raises(ProviderError) as caught:
        await anext(Scripted().generate(request("recount")))
    assert caught.value.code == "model.unknown"


async def test_every_model_offered_can_be_asked() -> None:
    models = await Scripted().models()
    assert [model.id for model in models] == [f"scripted/{name}" for name in MODELS]
    for model in models:
        assert model.usable
        assert model.continuation == "exact"
        assert (await said(Request(model.id, [Message("user", "hi")], extra={"rate": 0}))).text


@pytest.mark.parametrize(
    ("extra", "code"),
    [
        ({"fail_at": 7}, "provider.connection"),
        ({"fail_at": 7, "fail_code": "provider.overloaded"}, "provider.overloaded"),
        ({"garbage_at": 7}, "provider.invalid"),
        ({"garbage_at": 7, "fail_at": 9}, "provider.invalid"),
    ],
)
async def test_a_failure_comes_after_exactly_that_many_tokens(extra: dict[str, Any], code: str) -> None:
    answer = Said()
    with pytest.raises(ProviderError) as caught:
        await said(request(tokens=50, **extra), answer=answer)
    assert caught.value.code == code
    assert answer.text == "1 2 3 4 5 6 7"


async def test_a_failure_at_nought_comes_before_the_first_token_and_only_once() -> None:
    with pytest.raises(ProviderError):
        await said(request(tokens=5, fail_at=0))
    assert (await said(request(tokens=5, fail_at=0), Progress())).text == "1 2 3 4 5"


async def test_a_failure_at_the_last_token_leaves_the_answer_without_an_end() -> None:
    answer = Said()
    with pytest.raises(ProviderError):
        await said(request(tokens=5, fail_at=5), answer=answer)
    assert answer.text == "1 2 3 4 5"
    assert answer.finish is None


async def test_a_failure_that_was_passed_is_not_hit_again() -> None:
    asked = request(tokens=20, fail_at=7, hang_at=3, garbage_at=5)
    rest = await said(asked, Progress("1 2 3 4 5 6 7"))
    assert rest.text == " " + " ".join(str(n) for n in range(8, 21))


async def test_a_later_failure_is_still_ahead_when_the_answer_is_carried_on() -> None:
    answer = Said()
    with pytest.raises(ProviderError):
        await said(request(tokens=20, fail_at=3, garbage_at=6), Progress("1 2 3 "), answer=answer)
    assert answer.text == "4 5 6"


async def test_a_hang_never_yields_again_and_can_be_cancelled() -> None:
    answer = Said()
    reached = asyncio.Event()

    async def listen() -> None:
        async for batch in Scripted().generate(request(tokens=20, hang_at=4)):
            answer.add(batch)
            if answer.text.endswith("4"):
                reached.set()

    task = asyncio.create_task(listen())
    await asyncio.wait_for(reached.wait(), 5)
    for _ in range(10):
        await asyncio.sleep(0)
    assert not task.done()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert answer.text == "1 2 3 4"


async def test_a_closed_generator_says_no_more() -> None:
    generation = Scripted().generate(request(tokens=1000))
    await anext(generation)
    await anext(generation)
    await generation.aclose()
    with pytest.raises(StopAsyncIteration):
        await anext(generation)


# --------------------------------------------------------------------------- time


async def test_tokens_come_on_a_schedule_and_errors_do_not_add_up() -> None:
    fake = FakeTime()
    due = []
    async for batch in Scripted(clock=fake.clock, sleep=fake.sleep).generate(request(rate=30, ttft_ms=500, tokens=100)):
        if isinstance(batch[0], DeltaText):
            assert len(batch) == 1
            due.append(fake.now_s - 1000)
    assert due == pytest.approx([0.5 + n / 30 for n in range(100)], abs=1e-6)


async def test_one_who_comes_late_gets_all_that_is_due_in_one_batch() -> None:
    fake = FakeTime()
    generation = Scripted(clock=fake.clock, sleep=fake.sleep).generate(request(rate=100, tokens=1000))
    await anext(generation)
    assert len(await anext(generation)) == 1
    fake.now_s += 3.0
    assert len(await anext(generation)) == 300
    assert len(await anext(generation)) == 1
    await generation.aclose()


async def test_a_batch_for_the_very_late_is_bounded() -> None:
    fake = FakeTime()
    generation = Scripted(clock=fake.clock, sleep=fake.sleep).generate(request(rate=1000, tokens=MAX_TOKENS))
    await anext(generation)
    await anext(generation)
    fake.now_s += 3600
    assert len(await anext(generation)) == LATE_TOKENS
    await generation.aclose()


async def test_the_schedule_of_an_answer_carried_on_starts_now() -> None:
    fake = FakeTime()
    generation = Scripted(clock=fake.clock, sleep=fake.sleep).generate(request(rate=10, tokens=100), Progress("1 2 3"))
    await anext(generation)
    assert (await anext(generation))[0] == DeltaText(" 4")
    assert fake.now_s == 1000
    assert (await anext(generation))[0] == DeltaText(" 5")
    assert fake.now_s == pytest.approx(1000.1)
    await generation.aclose()


async def test_without_a_rate_the_loop_gets_a_turn_between_small_batches() -> None:
    answer = await said(request(tokens=1000))
    assert max(answer.batches) == TURN_TOKENS
    turns = 0

    async def other() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    task = asyncio.create_task(other())
    await said(request(tokens=1000))
    task.cancel()
    assert turns >= 1000 // TURN_TOKENS


async def test_real_time_is_kept() -> None:
    begun_s = time.monotonic()
    assert (await said(request(tokens=21, rate=200))).tokens == 21
    assert 0.099 <= time.monotonic() - begun_s < 5


# --------------------------------------------------------------------------- carried on


@st.composite
def requests(draw: st.DrawFn) -> Request:
    extra: dict[str, Any] = {"rate": 0, "seed": draw(st.integers(0, 3))}
    if draw(st.booleans()):
        extra["tokens"] = draw(st.integers(0, 90))
    if draw(st.booleans()):
        extra["thinking_tokens"] = draw(st.integers(0, 70))
    if draw(st.booleans()):
        extra["tool_call"] = TOOL
    params = Params(max_tokens=draw(st.none() | st.integers(0, 120)), thinking=draw(st.none() | st.booleans()))
    content = draw(st.text(alphabet="ab \n🙂ü", max_size=60))
    return Request(f"scripted/{draw(st.sampled_from(MODELS))}", [Message("user", content)], params=params, extra=extra)


@settings(max_examples=200, deadline=None)
@given(requests(), st.data())
def test_an_answer_cut_anywhere_and_carried_on_is_the_whole_answer(asked: Request, data: st.DataObject) -> None:
    whole = asyncio.run(said(asked))
    total = len(whole.thinking) + len(whole.text) + (whole.call is not None) + len(whole.arguments)
    cut = data.draw(st.integers(0, total), label="characters shown")
    thinking = whole.thinking[:cut]
    text = whole.text[: max(0, cut - len(whole.thinking))]
    left = cut - len(whole.thinking) - len(whole.text)
    calls: tuple[ToolCall, ...] = ()
    if left > 0:
        assert whole.call is not None
        calls = (ToolCall(str(whole.call[0]), str(whole.call[1]), whole.arguments[: left - 1]),)
    rest = asyncio.run(said(asked, Progress(text, thinking, calls)))
    assert rest.resumed == Resumed("exact", "verified")
    assert thinking + rest.thinking == whole.thinking
    assert text + rest.text == whole.text
    assert (calls[0].arguments if calls else "") + rest.arguments == whole.arguments
    assert rest.call == (None if calls else whole.call)
    assert rest.finish == whole.finish


async def test_skipping_a_long_answer_lets_others_have_the_loop() -> None:
    shown = " ".join(str(n) for n in range(1, 50_001))
    turns = 0

    async def count_turns(seconds: float) -> None:
        nonlocal turns
        turns += 1
        await asyncio.sleep(0)

    rest = await said(request(tokens=50_003), Progress(shown), Scripted(sleep=count_turns))
    assert rest.text == " 50001 50002 50003"
    assert turns >= 10


@settings(max_examples=100, deadline=None)
@given(requests(), st.integers(0, 200), st.integers(0, 5))
def test_an_answer_is_carried_on_from_a_mark_and_what_was_shown_since(asked: Request, at: int, piece: int) -> None:
    """The text before the mark is of no use to who has the mark."""
    asked = Request(asked.model, asked.messages, asked.params, {**asked.extra, "marks": True})
    whole = asyncio.run(said(asked))
    rest = asyncio.run(said(asked, Progress("?", "?", cursor=at)))
    assert whole.thinking.endswith(rest.thinking)
    assert whole.text.endswith(rest.text)
    call = (CalledTool(0, *rest.call, rest.arguments[:piece]),) if rest.call else ()
    since = Summary(rest.text[:piece], rest.thinking[:piece], tool_calls=call)
    last = asyncio.run(said(asked, Progress("?", "?", cursor=at, since=since)))
    assert (rest.text[:piece] + last.text, rest.thinking[:piece] + last.thinking) == (rest.text, rest.thinking)
    if call:
        assert call[0].arguments + last.arguments == rest.arguments
    assert last.finish == rest.finish == whole.finish


async def test_a_mark_comes_with_each_batch_where_the_script_asks_for_it() -> None:
    assert (await said(request(tokens=9))).mark is None
    assert (await said(request(tokens=9, marks=True))).mark == Mark(cursor=9)


@pytest.mark.parametrize(
    ("how", "check", "text"),
    [
        ("exact", "verified", " 4 5"),
        ("prefill", None, " 4 5"),
        ("prompted", "unverified", " 4 5"),
        ("restart", None, "1 2 3 4 5"),
    ],
)
async def test_a_script_says_how_it_is_carried_on(how: Any, check: Any, text: str) -> None:
    asked = request(tokens=5, continuation=how, fail_at=3)
    assert Scripted().continuation(asked, Progress("1 2 3")) == how
    answer = await said(asked, Progress("1 2 3"))
    assert answer.resumed == Resumed(how, check)
    assert answer.text == text


async def test_a_script_may_refuse_to_be_carried_on() -> None:
    asked = request(tokens=5, continuation="none")
    assert Scripted().continuation(asked, Progress("1 2 3")) is None
    with pytest.raises(ProviderError) as caught:
        await said(asked, Progress("1 2 3"))
    assert not caught.value.retryable


async def test_a_failure_comes_as_often_as_the_script_says_and_then_no_more() -> None:
    provider, asked = Scripted(), request(tokens=5, fail_at=3, fail_times=3)
    for shown in (None, Progress("1 2 3"), Progress("1 2 3")):
        with pytest.raises(ProviderError):
            await said(asked, shown, provider)
    assert (await said(asked, Progress("1 2 3"), provider)).text == " 4 5"
    for _ in range(2):
        with pytest.raises(ProviderError):  # asked for anew, it begins anew
            await said(asked, None, provider)


async def test_a_failure_repeats_for_one_who_begins_again() -> None:
    provider, asked = Scripted(), request(tokens=5, fail_at=3, fail_times=2, continuation="restart")
    for shown in (None, Progress("1 2 3")):
        answer = Said()
        with pytest.raises(ProviderError):
            await said(asked, shown, provider, answer)
        assert answer.text == "1 2 3"
    assert (await said(asked, Progress("1 2 3"), provider)).text == "1 2 3 4 5"
