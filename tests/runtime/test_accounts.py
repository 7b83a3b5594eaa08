"""What an answer is said to have used and cost: over all its runs, and what of that is an estimate."""

from __future__ import annotations

from typing import Any

import pytest
from tests.runtime.conftest import HEADERS, CountingStore, Hand, running, settings_of, text, until

from everstream.core.events import (
    Budget,
    Cost,
    Counted,
    Finish,
    Message,
    Params,
    Request,
    StreamEnd,
    Usage,
)
from everstream.providers import tokenizer
from everstream.providers.base import ProviderError
from everstream.providers.registry import Registry
from everstream.runtime.hub import Feed
from everstream.runtime.node import Node

TOLD = Usage(10, 5, 15, "provider", 2, 4)
BROKE = ProviderError("provider.connection", "gone")


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if a vocabulary were loaded in which each word is a token."""
    monkeypatch.setattr(tokenizer, "_encode", str.split)


async def end_of(feed: Feed) -> StreamEnd:
    await feed.wait_ended()
    end = feed.log.entries[-1]
    assert isinstance(end, StreamEnd)
    return end


async def ask(node: Node, **given: Any) -> Feed:
    return await node.generate(Request("hand/any", [Message("user", "12345678")], **given), "anonymous", None)


async def test_what_the_provider_tells_is_passed_on(node: Node, hand: Hand) -> None:
    feed = await ask(node)
    await until(lambda: hand.calls)
    hand.calls[0].say(HEADERS, *text("hello"), Finish("stop", TOLD))
    hand.calls[0].end(None)
    end = await end_of(feed)
    assert (end.usage, end.attempts) == (TOLD, None)


async def test_a_stop_keeps_what_the_provider_had_counted(node: Node, hand: Hand) -> None:
    feed = await ask(node)
    await until(lambda: hand.calls)
    hand.calls[0].say(HEADERS, *text("hello"), Counted(TOLD))
    await until(lambda: len(feed.log.entries) > 2)
    await node.cancel(feed.stream)
    assert (await end_of(feed)).usage == TOLD


async def test_what_came_after_the_count_is_estimated_on_top(node: Node, hand: Hand) -> None:
    feed = await ask(node)
    await until(lambda: hand.calls)
    hand.calls[0].say(HEADERS, Counted(TOLD), *text("x" * 400))
    await until(lambda: len(feed.log.entries) > 2)
    await node.cancel(feed.stream)
    assert (await end_of(feed)).usage == Usage(10, 100, 110, "estimated", 2, 4)


async def test_an_answer_nobody_counted_is_estimated(node: Node, hand: Hand) -> None:
    feed = await ask(node)
    await until(lambda: hand.calls)
    hand.calls[0].say(HEADERS, *text("x" * 40))
    hand.calls[0].end(Finish("stop"))
    assert (await end_of(feed)).usage == Usage(2 + 4, 10, 16, "estimated")


async def test_a_vocabulary_is_counted_with_where_there_is_one(node: Node, hand: Hand, counted: None) -> None:
    feed = await ask(node)
    await until(lambda: hand.calls)
    hand.calls[0].say(HEADERS, *text("one two three four five six"))
    hand.calls[0].end(Finish("stop"))
    assert (await end_of(feed)).usage == Usage(1 + 4, 6, 11, "estimated")


class Priced(Registry):
    """A dollar for each million tokens in, ten for each million out, of `hand`; others have no price."""

    def price(self, model: str, usage: Usage) -> Cost | None:
        if not model.startswith("hand/"):
            return None
        given, made = usage.input_tokens / 1e6, usage.output_tokens / 1e5
        return Cost(given, made, given + made)


@pytest.mark.parametrize(("first", "source"), [(Counted(TOLD), "provider"), (None, "estimated")])
async def test_every_run_is_summed_and_says_whether_it_was_counted(
    store: CountingStore, first: Counted | None, source: str
) -> None:
    hand = Hand("prefill")
    node = Node(settings_of(), store, Priced({"hand": lambda: hand}))
    await node.start()
    try:
        feed = await ask(node)
        await until(lambda: hand.calls)
        hand.calls[0].say(HEADERS, *text("x" * 40), *([first] if first else []))
        hand.calls[0].fail(BROKE)
        await until(lambda: len(hand.calls) > 1)
        hand.calls[1].say(*text("y" * 40), Finish("stop", Usage(30, 11, 41, "provider")))
        hand.calls[1].end(None)
        end = await end_of(feed)
    finally:
        await node.stop()
    before = TOLD if first else Usage(6, 10, 16, "estimated")
    assert end.attempts is not None
    assert [attempt.usage for attempt in end.attempts] == [before, Usage(30, 11, 41, "provider")]
    assert (end.usage.input_tokens, end.usage.output_tokens) == (before.input_tokens + 30, before.output_tokens + 11)
    assert end.usage.source == source
    assert end.cost is not None
    assert end.cost.total == pytest.approx((before.input_tokens + 30) / 1e6 + (before.output_tokens + 11) / 1e5)


async def test_an_exact_continuation_is_counted_once(store: CountingStore) -> None:
    hand = Hand("exact")
    async with running(store, hand) as node:
        feed = await ask(node)
        await until(lambda: hand.calls)
        hand.calls[0].say(HEADERS, *text("x" * 40), Counted(Usage(3, 1, 4, "provider")))
        hand.calls[0].fail(BROKE)
        await until(lambda: len(hand.calls) > 1)
        hand.calls[1].say(*text("y"), Finish("stop", TOLD))
        hand.calls[1].end(None)
        end = await end_of(feed)
        assert (end.usage, end.attempts) == (TOLD, None)


async def test_a_cut_answer_is_called_truncated(node: Node, hand: Hand) -> None:
    feed = await ask(node)
    await until(lambda: hand.calls)
    hand.calls[0].say(HEADERS, *text("half"))
    hand.calls[0].fail(BROKE)
    end = await end_of(feed)
    assert end.reason == "failed"
    assert any(warning.startswith("truncated") for warning in end.warnings)


# --------------------------------------------------------------------------- budgets


async def test_a_budget_goes_out_with_the_request(node: Node, hand: Hand) -> None:
    for budget, asked, sent in ((7, None, 7), (7, 5, 5), (7, 9, 7)):
        hand.calls.clear()
        feed = await ask(node, params=Params(max_tokens=asked), budget=Budget(output_tokens=budget))
        await until(lambda: hand.calls)
        assert hand.calls[0].request.params.max_tokens == sent
        await node.cancel(feed.stream)


@pytest.mark.parametrize(("asked", "reason"), [(None, "budget"), (5, "complete")])
async def test_a_provider_that_stops_at_the_budget_has_ended_for_it(
    node: Node, hand: Hand, asked: int | None, reason: str
) -> None:
    feed = await ask(node, params=Params(max_tokens=asked), budget=Budget(output_tokens=7))
    await until(lambda: hand.calls)
    hand.calls[0].say(HEADERS, *text("word"), Finish("length", TOLD))
    hand.calls[0].end(None)
    assert (await end_of(feed)).reason == reason


async def test_what_the_provider_counts_stops_the_answer(node: Node, hand: Hand) -> None:
    feed = await ask(node, budget=Budget(output_tokens=1000))
    await until(lambda: hand.calls)
    hand.calls[0].say(HEADERS, *text("word"), Counted(Usage(3, 999, 1002, "provider")))
    hand.calls[0].say(*text("word"), Counted(Usage(3, 1000, 1003, "provider")))
    end = await end_of(feed)
    assert (end.reason, end.usage.output_tokens) == ("budget", 1000)
    assert hand.calls[0].closed


async def test_a_vocabulary_keeps_a_budget_to_the_token(node: Node, hand: Hand, counted: None) -> None:
    feed = await ask(node, budget=Budget(output_tokens=10))
    await until(lambda: hand.calls)
    hand.calls[0].say(HEADERS)
    for number in range(20):
        hand.calls[0].words(f"supercalifragilistic{number} ")
    end = await end_of(feed)
    assert (end.reason, end.usage.output_tokens) == ("budget", 10)


async def test_a_budget_in_money_counts_what_the_question_costs(store: CountingStore, hand: Hand) -> None:
    node = Node(settings_of(), store, Priced({"hand": lambda: hand}))
    await node.start()
    try:
        feed = await ask(node, budget=Budget(usd=6 / 1e6 + 12 / 1e5))  # six tokens in, twelve out
        await until(lambda: hand.calls)
        assert hand.calls[0].request.params.max_tokens in (11, 12)
        await node.cancel(feed.stream)
    finally:
        await node.stop()


# --------------------------------------------------------------------------- time


async def test_signs_of_life_do_not_stand_for_a_first_token(store: CountingStore, hand: Hand) -> None:
    async with running(store, hand, provider_first_token_timeout_s=0.1, carry_on=False) as node:
        feed = await ask(node)
        await until(lambda: hand.calls)
        hand.calls[0].say(HEADERS)
        await until(lambda: hand.calls[0].say() or feed.log.closed)
        end = await end_of(feed)
        assert end.error is not None
        assert (end.error.code, end.error.message) == ("provider.timeout", "the provider said nothing")


async def test_an_answer_that_goes_on_and_on_is_ended_and_not_carried_on(store: CountingStore) -> None:
    hand = Hand("exact")
    async with running(store, hand, provider_total_timeout_s=0.2) as node:
        feed = await ask(node)
        await until(lambda: hand.calls)
        hand.calls[0].say(HEADERS)
        await until(lambda: hand.calls[0].words("on ") or feed.log.closed)
        end = await end_of(feed)
        assert end.error is not None
        assert (end.reason, end.error.code, end.error.retryable) == ("failed", "provider.timeout", False)
        assert len(hand.calls) == 1
        assert hand.calls[0].closed
