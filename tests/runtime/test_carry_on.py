"""A provider that dies in mid-answer: the same stream goes on, by another call, another model, or not at all."""

from __future__ import annotations

import asyncio

import pytest
from tests.runtime.conftest import (
    FINISH,
    HEADERS,
    CountingStore,
    Hand,
    Reading,
    answering,
    assert_legal,
    running,
    started,
    text,
    until,
)

from everstream.core.events import DeltaThinking, Finish, Mark, Resumed, Seam, StreamEnd, Usage
from everstream.providers.base import ProviderError
from everstream.runtime import succession
from everstream.runtime.hub import Feed

LOST = ProviderError("provider.connection", "gone")


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(succession, "PAUSE_FIRST_S", 0.001)


def seams(feed: Feed) -> list[Seam]:
    return [entry for entry in feed.log.entries if isinstance(entry, Seam)]


def end_of(feed: Feed) -> StreamEnd:
    last = feed.log.entries[-1]
    assert isinstance(last, StreamEnd)
    assert_legal(feed.log.entries)
    return last


async def next_call(hand: Hand, number: int) -> None:
    await until(lambda: len(hand.calls) == number)


async def test_an_answer_that_broke_off_goes_on_in_the_same_stream(store: CountingStore) -> None:
    hand = Hand("exact")
    async with running(store, hand) as node:
        feed, call = await answering(node, hand, "one ")
        reader = Reading(feed)
        call.fail(LOST)
        await next_call(hand, 2)
        progress = hand.calls[1].progress
        assert progress is not None
        assert progress.text == "one "
        hand.calls[1].words("two")
        hand.calls[1].end()
        await feed.wait_ended()
        await until(lambda: reader.offset == feed.log.tail)
    assert reader.text == "one two"
    assert end_of(feed).reason == "complete"
    assert [(seam.reason, seam.continuation, seam.attempt) for seam in seams(feed)] == [("provider_lost", "exact", 2)]
    assert seams(feed)[0].node == node.id


@pytest.mark.parametrize("code", ["provider.timeout", "provider.overloaded", "provider.invalid", "provider.rate_limit"])
async def test_a_hang_a_refusal_and_garbage_in_mid_answer_are_taken_alike(store: CountingStore, code: str) -> None:
    hand = Hand("prefill")
    async with running(store, hand) as node:
        feed, call = await answering(node, hand, "one ")
        call.fail(ProviderError(code, "no more"))
        await next_call(hand, 2)
        hand.calls[1].end()
        await feed.wait_ended()
    assert end_of(feed).reason == "complete"
    assert [seam.continuation for seam in seams(feed)] == ["prefill"]


async def test_silence_in_mid_answer_is_a_loss_too(store: CountingStore) -> None:
    hand = Hand("exact")
    async with running(store, hand, provider_idle_timeout_s=0.05) as node:
        feed, call = await answering(node, hand, "one ")
        await next_call(hand, 2)
        await until(lambda: call.closed)
        hand.calls[1].end()
        await feed.wait_ended()
    assert end_of(feed).reason == "complete"


async def test_a_seam_is_written_when_the_provider_has_taken_the_answer_up_and_not_before(store: CountingStore) -> None:
    hand = Hand("prompted")
    hand.takes_up = False
    async with running(store, hand) as node:
        feed, call = await answering(node, hand, "one ")
        call.fail(LOST)
        await next_call(hand, 2)
        hand.calls[1].fail(LOST)  # refused: nothing that was said of it can be false
        await next_call(hand, 3)
        assert not seams(feed)
        hand.calls[2].say(HEADERS, Resumed("prompted", "heuristic"), *text("two"))
        hand.calls[2].end()
        await feed.wait_ended()
    assert [(seam.continuation, seam.check, seam.attempt) for seam in seams(feed)] == [("prompted", "heuristic", 2)]


async def test_what_went_before_a_restart_is_withdrawn_and_a_first_token_comes_again(store: CountingStore) -> None:
    hand = Hand("restart")
    async with running(store, hand) as node:
        feed, call = await started(node, hand)
        call.say(HEADERS, DeltaThinking("hm"))
        await until(lambda: feed.log.committed == 4)
        call.fail(LOST)
        await next_call(hand, 2)
        hand.calls[1].words("answer")
        hand.calls[1].end()
        await feed.wait_ended()
    assert feed.log.total().thinking == ""
    assert feed.log.total().text == "answer"
    kinds = [type(entry).__name__ for entry in feed.log.entries]
    assert kinds.count("FirstToken") == 2


async def test_attempts_in_vain_are_bounded_and_a_further_word_resets_them(store: CountingStore) -> None:
    hand = Hand("exact")
    async with running(store, hand, carry_on_attempts=2) as node:
        feed, call = await answering(node, hand, "0 ")
        for number in range(1, 6):  # five losses, each after a word
            call.fail(LOST)
            await next_call(hand, number + 1)
            call = hand.calls[number]
            call.words(f"{number} ")
            await until(lambda number=number: feed.log.total().text.endswith(f"{number} "))
        for number in (6, 7):  # and then two without
            hand.calls[-1].fail(LOST)
            await next_call(hand, number + 1)
        hand.calls[-1].fail(LOST)
        await feed.wait_ended()
    assert len(hand.calls) == 8
    assert feed.log.total().text == "0 1 2 3 4 5 "
    end = end_of(feed)
    assert (end.reason, end.error and end.error.code) == ("failed", "provider.connection")


async def test_it_can_be_turned_off(store: CountingStore) -> None:
    hand = Hand("exact")
    async with running(store, hand, carry_on=False) as node:
        feed, call = await answering(node, hand, "one ")
        call.fail(LOST)
        await feed.wait_ended()
    assert end_of(feed).reason == "failed"
    assert len(hand.calls) == 1


@pytest.mark.parametrize("code", ["provider.content_filter", "request.invalid", "provider.auth"])
async def test_what_would_fail_again_is_not_tried_again(store: CountingStore, code: str) -> None:
    hand = Hand("exact")
    async with running(store, hand) as node:
        feed, call = await answering(node, hand, "one ")
        call.fail(ProviderError(code, "no"))
        await feed.wait_ended()
    assert len(hand.calls) == 1
    assert end_of(feed).reason == "failed"


async def test_a_request_that_was_never_answered_is_left_to_the_providers_own_retries(store: CountingStore) -> None:
    hand = Hand("restart")
    async with running(store, hand) as node:
        feed, call = await started(node, hand)
        call.fail(LOST)
        await feed.wait_ended()
    assert len(hand.calls) == 1


async def test_cancel_in_the_pause_between_two_calls_ends_it(
    store: CountingStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    hand = Hand("exact")
    monkeypatch.setattr(succession, "PAUSE_FIRST_S", 60.0)
    monkeypatch.setattr(succession, "PAUSE_MAX_S", 60.0)
    async with running(store, hand) as node:
        feed, call = await answering(node, hand, "one ")
        call.fail(LOST)
        await next_call(hand, 2)
        hand.calls[1].fail(LOST)
        await until(lambda: hand.calls[1].closed)
        fence = await asyncio.wait_for(node.cancel(feed.stream), 10)
        assert fence == feed.log.tail
    assert end_of(feed).reason == "cancelled"


# --------------------------------------------------------------------------- other models


class Second(Hand):
    name = "second"


async def test_another_model_takes_over_and_the_seam_names_it(store: CountingStore) -> None:
    hand, second = Hand("exact"), Second("prompted")
    async with running(store, hand, second, fallback_models="second/x", carry_on_attempts=1) as node:
        feed, call = await answering(node, hand, "one ")
        call.fail(LOST)
        await next_call(hand, 2)
        hand.calls[1].fail(LOST)
        await next_call(second, 1)
        assert second.calls[0].request.model == "second/x"
        second.calls[0].words("two")
        second.calls[0].end()
        await feed.wait_ended()
    assert feed.log.total().text == "one two"
    assert [(seam.continuation, seam.model) for seam in seams(feed)] == [("exact", None), ("prompted", "second/x")]
    assert end_of(feed).reason == "complete"


async def test_another_model_also_takes_over_what_its_own_never_answered(store: CountingStore) -> None:
    hand, second = Hand("restart"), Second("restart")
    async with running(store, hand, second, fallback_models="nobody/y, second/x") as node:
        feed, call = await started(node, hand)
        call.fail(ProviderError("provider.overloaded", "full"))
        await next_call(second, 1)
        second.calls[0].words("two")
        second.calls[0].end()
        await feed.wait_ended()
    assert feed.log.total().text == "two"
    assert end_of(feed).reason == "complete"


async def test_an_heir_goes_on_with_the_model_that_took_over(store: CountingStore) -> None:
    hands, seconds = (Hand("exact"), Hand("exact")), (Second("prompted"), Second("prompted"))
    given = {"fallback_models": "second/x", "lease_ms": 300, "lease_renew_ms": 20}
    async with running(store, hands[0], seconds[0], **given) as one:
        feed, call = await answering(one, hands[0], "one ")
        call.fail(ProviderError("provider.auth", "the key ran out"))
        await next_call(seconds[0], 1)
        seconds[0].calls[0].words("two ")
        await until(lambda: feed.log.acked == feed.log.tail and feed.log.total().text == "one two ")
        async with running(store.beside(), hands[1], seconds[1], **given) as two:
            state = store.disk.adopt(feed.stream, one.id, two.id)
            assert state is not None
            two.adopted(state)
            await next_call(seconds[1], 1)
            assert seconds[1].calls[0].request.model == "second/x"


# --------------------------------------------------------------------------- what it costs, and what still runs


async def test_usage_is_that_of_all_runs(store: CountingStore) -> None:
    hand = Hand("prefill")
    usage = Usage(100, 10, 110, "provider")
    async with running(store, hand) as node:
        feed, call = await answering(node, hand, "x" * 40)
        call.fail(LOST)
        await next_call(hand, 2)
        hand.calls[1].words("y")
        hand.calls[1].end(Finish("stop", usage))
        await feed.wait_ended()
    told = end_of(feed).usage
    assert told.source == "estimated"
    assert told.output_tokens == 10 + 10
    assert told.input_tokens > 100


async def test_an_exact_continuation_is_no_further_run(store: CountingStore) -> None:
    hand = Hand("exact")
    usage = Usage(100, 10, 110, "provider")
    async with running(store, hand) as node:
        feed, call = await answering(node, hand, "x" * 40)
        call.fail(LOST)
        await next_call(hand, 2)
        hand.calls[1].end(Finish("stop", usage))
        await feed.wait_ended()
    assert end_of(feed).usage == usage


async def test_a_cursor_comes_back_with_what_was_shown_since(store: CountingStore) -> None:
    hand = Hand("exact")
    async with running(store, hand) as node:
        feed, call = await started(node, hand)
        call.say(HEADERS, *text("one "), Mark({"after": 7}), *text("two "))
        await until(lambda: feed.log.acked == 5)
        call.fail(LOST)
        await next_call(hand, 2)
        progress = hand.calls[1].progress
        assert progress is not None
        assert (progress.cursor, progress.since.text) == ({"after": 7}, "two ")
        hand.calls[1].say(FINISH)
        hand.calls[1].end(None)
        await feed.wait_ended()
        assert not hand.abandoned


async def test_a_run_that_outlives_its_connection_is_abandoned_when_it_is_cancelled(store: CountingStore) -> None:
    hand = Hand("exact")
    async with running(store, hand) as node:
        feed, call = await started(node, hand)
        call.say(HEADERS, *text("one "), Mark({"after": 7}))
        await until(lambda: feed.log.acked == 4)
        await node.cancel(feed.stream)
        await until(lambda: len(hand.abandoned) == 1)
    assert hand.abandoned[0].cursor == {"after": 7}


async def test_the_run_of_a_dead_leader_is_abandoned_by_whoever_ends_its_stream(store: CountingStore) -> None:
    hands = Hand("exact"), Hand("exact")
    async with running(store, hands[0]) as one, running(store.beside(), hands[1]) as two:
        feed, call = await started(one, hands[0])
        call.say(HEADERS, *text("one "), Mark({"after": 7}))
        await until(lambda: feed.log.acked == 4)
        store.disk.records[feed.stream].cancelled = True
        state = store.disk.adopt(feed.stream, one.id, two.id)
        assert state is not None
        two.adopted(state)
        await until(lambda: len(hands[1].abandoned) == 1)
    assert hands[1].abandoned[0].cursor == {"after": 7}
    assert not hands[0].abandoned


async def test_a_run_is_abandoned_when_another_provider_takes_over(store: CountingStore) -> None:
    hand, second = Hand("exact"), Second("prompted")
    async with running(store, hand, second, fallback_models="second/x") as node:
        feed, call = await started(node, hand)
        call.say(HEADERS, *text("one "), Mark({"after": 7}))
        await until(lambda: feed.log.acked == 4)
        call.fail(ProviderError("provider.auth", "the key ran out"))
        await next_call(second, 1)
        await until(lambda: len(hand.abandoned) == 1)
        progress = second.calls[0].progress
        assert progress is not None
        second.calls[0].end()
        await feed.wait_ended()
    assert hand.abandoned[0].cursor == {"after": 7}
    assert not second.abandoned
