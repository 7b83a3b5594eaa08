"""One generation: legal entries, cancel in every phase, silence, failures, budgets."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator

import pytest
from tests.runtime.conftest import (
    FINISH,
    HEADERS,
    CountingStore,
    Hand,
    Reading,
    answering,
    assert_legal,
    kinds,
    request,
    running,
    started,
    text,
    until,
)

from everstream.core.errors import FAULTS, EverstreamError
from everstream.core.events import Budget, DeltaText, DeltaToolCall, Finish, Message, Request, StreamEnd, Usage
from everstream.providers.base import Batch, Progress, ProviderError
from everstream.runtime.hub import Feed
from everstream.runtime.node import Node


async def ended(feed: Feed) -> StreamEnd:
    await asyncio.wait_for(feed.wait_ended(), 10)
    end = feed.log.entries[-1]
    assert isinstance(end, StreamEnd)
    assert_legal(feed.log.entries)
    return end


def said(feed: Feed) -> str:
    return feed.log.total().text


async def test_entries_come_in_the_legal_order_and_end_once(node: Node, hand: Hand) -> None:
    feed, call = await started(node, hand)
    call.say(HEADERS)
    call.words("a", "b")
    call.say(DeltaToolCall(0, "{}", "c1", "f"))
    call.end(Finish("tool_calls", Usage(3, 4, 7, "provider"), ("careful",)))
    end = await ended(feed)
    assert kinds(feed) == [
        "RequestStart", "HeadersReceived", "FirstToken", "DeltaText", "DeltaText", "DeltaToolCall", "LastToken",
        "StreamEnd",
    ]  # fmt: skip
    assert (end.reason, end.finish_reason, end.usage) == ("complete", "tool_calls", Usage(3, 4, 7, "provider"))
    assert (end.error, end.warnings) == (None, ["careful"])
    assert call.closed
    assert node.generating == 0


async def test_an_empty_answer_is_complete_without_a_token(node: Node, hand: Hand) -> None:
    feed, call = await started(node, hand)
    call.say(HEADERS)
    call.end()
    assert (await ended(feed)).reason == "complete"
    assert kinds(feed) == ["RequestStart", "HeadersReceived", "StreamEnd"]


async def test_a_cut_answer_is_never_called_complete(node: Node, hand: Hand) -> None:
    feed, call = await answering(node, hand, "half")
    call.end(None)
    end = await ended(feed)
    assert end.reason == "failed"
    assert end.error is not None
    assert (end.error.code, end.error.retryable) == ("provider.connection", True)
    assert said(feed) == "half"


async def test_an_answer_whose_provider_was_cancelled_inside_is_not_complete(node: Node, hand: Hand) -> None:
    feed, call = await answering(node, hand, "half")
    call.fail(asyncio.CancelledError())
    end = await ended(feed)
    assert (end.reason, end.error and end.error.code) == ("failed", "internal")


@pytest.mark.parametrize("code", [code for code in FAULTS if code.startswith("provider.")])
async def test_a_failed_answer_keeps_what_was_said(node: Node, hand: Hand, code: str) -> None:
    feed, call = await answering(node, hand, "half")
    call.fail(ProviderError(code, "no more", retry_after_ms=700))
    end = await ended(feed)
    assert end.reason == "failed"
    assert end.error is not None
    assert (end.error.code, end.error.retryable) == (code, FAULTS[code].retryable)
    assert end.error.retry_after_ms == 700
    assert end.usage.source == "estimated"
    assert said(feed) == "half"


async def test_a_refused_request_ends_without_headers(node: Node, hand: Hand) -> None:
    feed, call = await started(node, hand)
    call.fail(ProviderError("provider.auth", "bad key"))
    end = await ended(feed)
    assert (end.reason, kinds(feed)) == ("failed", ["RequestStart", "StreamEnd"])


async def test_a_bug_in_a_provider_fails_its_stream_without_its_words(node: Node, hand: Hand) -> None:
    feed, call = await answering(node, hand, "half")
    call.fail(KeyError("secret prompt"))
    end = await ended(feed)
    assert end.error is not None
    assert end.error.code == "internal"
    assert "secret" not in end.error.message


# --------------------------------------------------------------------------- cancel


async def cancelled(node: Node, feed: Feed) -> StreamEnd:
    offset = await asyncio.wait_for(node.cancel(feed.stream), 10)
    end = await ended(feed)
    assert offset == feed.log.tail == feed.log.committed
    assert end.reason == "cancelled"
    return end


async def test_cancel_before_the_headers_ends_the_stream(node: Node, hand: Hand) -> None:
    feed, call = await started(node, hand)
    await cancelled(node, feed)
    assert kinds(feed) == ["RequestStart", "StreamEnd"]
    assert call.closed


async def test_cancel_before_the_provider_was_even_called_ends_the_stream(node: Node, hand: Hand) -> None:
    feed = await node.generate(request(), "anonymous", None)
    await cancelled(node, feed)
    assert all(call.closed for call in hand.calls)


async def test_cancel_between_headers_and_first_token_ends_the_stream(node: Node, hand: Hand) -> None:
    feed, call = await started(node, hand)
    call.say(HEADERS)
    await until(lambda: feed.log.committed == 2)
    await cancelled(node, feed)
    assert kinds(feed) == ["RequestStart", "HeadersReceived", "StreamEnd"]


async def test_cancel_in_mid_answer_keeps_the_part_and_closes_the_provider(node: Node, hand: Hand) -> None:
    feed, call = await answering(node, hand, "one", " two")
    end = await cancelled(node, feed)
    assert call.closed
    assert said(feed) == "one two"
    assert end.usage.output_tokens > 0
    assert end.error is None


async def test_nothing_follows_a_cancel_whatever_the_provider_says_afterwards(node: Node, hand: Hand) -> None:
    feed, call = await answering(node, hand, "one")
    call.words(*(str(n) for n in range(100)))  # said, but not read yet
    offset = await node.cancel(feed.stream)
    call.words("late")
    await asyncio.sleep(0)
    assert feed.log.tail == offset


async def test_cancelling_twice_and_after_the_end_gives_the_same_fence(node: Node, hand: Hand) -> None:
    feed, call = await answering(node, hand, "one")
    offsets = await asyncio.gather(*(node.cancel(feed.stream) for _ in range(5)))
    assert {*offsets, await node.cancel(feed.stream)} == {feed.log.tail}
    other, call = await answering(node, hand, "all")
    call.end()
    assert (await ended(other)).reason == "complete"
    assert await node.cancel(other.stream) == other.log.tail
    assert other.log.entries[-1].reason == "complete"  # type: ignore[attr-defined]


async def test_cancel_while_the_store_is_away_is_kept_until_it_is_back(
    node: Node, hand: Hand, store: CountingStore
) -> None:
    feed, call = await answering(node, hand, "one")
    store.available = False
    call.words(" two")
    cancelling = asyncio.create_task(node.cancel(feed.stream))
    await until(lambda: call.closed)
    assert not feed.log.ended, "a reader must not see an end that is not stored"
    store.available = True
    assert await cancelling == feed.log.tail
    assert said(feed) == "one two"


async def test_a_provider_that_does_not_let_go_does_not_hold_the_cancel_up(node: Node, hand: Hand) -> None:
    stubborn = asyncio.Event()

    class Stubborn(Hand):
        name = "stubborn"

        async def generate(self, request: Request, progress: object = None):  # type: ignore[no-untyped-def, override]
            yield [HEADERS]
            try:
                await asyncio.Event().wait()
            finally:
                await stubborn.wait()

    async with running(node._store.beside(), Stubborn()) as other:  # type: ignore[attr-defined]
        feed = await other.generate(request("stubborn/any"), "anonymous", None)
        await until(lambda: feed.log.committed == 2)
        await asyncio.wait_for(other.cancel(feed.stream), 5)
        stubborn.set()
        await asyncio.sleep(0)


# --------------------------------------------------------------------------- silence, budgets, bounds


async def test_silence_before_the_headers_is_a_time_out(store: CountingStore, hand: Hand) -> None:
    async with running(store, hand, provider_headers_timeout_s=0.05) as node:
        feed, call = await started(node, hand)
        end = await ended(feed)
        assert end.error is not None
        assert (end.error.code, end.error.message) == ("provider.timeout", "the provider did not answer")
        assert call.closed


async def test_silence_in_mid_answer_is_a_time_out_and_signs_of_life_are_none(store: CountingStore, hand: Hand) -> None:
    async with running(store, hand, provider_idle_timeout_s=0.3) as node:
        feed, call = await answering(node, hand, "half")
        for _ in range(12):
            await asyncio.sleep(0.05)  # pause: the passing of time is what is tested
            call.say()
        assert not feed.log.closed
        end = await ended(feed)
        assert end.error is not None
        assert (end.error.code, said(feed)) == ("provider.timeout", "half")


@pytest.mark.parametrize("swallows", [False, True], ids=["answers with an error", "ends as if all were well"])
async def test_a_time_out_stays_one_however_the_provider_takes_it(store: CountingStore, swallows: bool) -> None:
    class Muffled(Hand):
        name = "muffled"

        async def generate(self, request: Request, progress: Progress | None = None) -> AsyncGenerator[Batch, None]:
            try:
                yield (HEADERS,)
                yield (DeltaText("half"),)
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                if not swallows:
                    raise OSError("broken pipe") from None
                yield (Finish("stop"),)

    async with running(store, Muffled(), provider_idle_timeout_s=0.05) as node:
        end = await ended(await node.generate(request("muffled/any"), "anonymous", None))
        assert end.reason == "failed"
        assert end.error is not None
        assert end.error.code == "provider.timeout"


async def test_a_budget_ends_the_answer_and_says_so(node: Node, hand: Hand) -> None:
    asked = Request("hand/any", [Message("user", "hi")], budget=Budget(output_tokens=5))
    feed = await node.generate(asked, "anonymous", None)
    await until(lambda: hand.calls)
    hand.calls[0].say(HEADERS, *text(*["word"] * 5))
    assert (await ended(feed)).reason == "budget"
    assert hand.calls[0].closed
    assert kinds(feed)[-2:] == ["LastToken", "StreamEnd"]


async def test_an_answer_without_end_is_ended_at_the_largest_size(store: CountingStore, hand: Hand) -> None:
    async with running(store, hand, stream_bytes=4096, uncommitted_bytes=1024) as node:
        feed, call = await started(node, hand)
        call.say(HEADERS)
        for _ in range(20):
            call.words("x" * 512)
        end = await ended(feed)
        assert end.reason == "budget"
        assert end.warnings
        assert call.closed
        assert len(said(feed)) < 6000


# --------------------------------------------------------------------------- commits


async def test_the_first_token_is_committed_without_waiting(node: Node, hand: Hand, store: CountingStore) -> None:
    feed, call = await started(node, hand)
    call.say(HEADERS, DeltaText("first"))
    await until(lambda: feed.log.entries and isinstance(feed.log.entries[-1], DeltaText))
    for _ in range(10):  # turns of the loop, no time
        await asyncio.sleep(0)
    assert feed.log.committed == feed.log.tail == 4


async def test_what_arrives_during_a_commit_goes_into_the_next_as_one(
    node: Node, hand: Hand, store: CountingStore
) -> None:
    feeds = [await answering(node, hand, "a") for _ in range(3)]
    store.sizes.clear()
    store.open_gate.clear()
    feeds[0][1].words("first")
    await until(lambda: store.sizes)
    for n in range(50):
        for _, call in feeds:
            call.words(str(n))
    await until(lambda: all(feed.log.tail >= 54 for feed, _ in feeds))
    store.open_gate.set()
    await until(lambda: all(feed.log.committed == feed.log.tail for feed, _ in feeds))
    assert store.sizes == [1, 150]


async def test_a_store_that_is_away_stops_the_reading_and_nothing_is_lost_or_doubled(
    store: CountingStore, hand: Hand
) -> None:
    async with running(store, hand, uncommitted_bytes=2048) as node:
        feed, call = await answering(node, hand, "a")
        reading = Reading(feed)
        store.available = False
        words = [f" {n:07}" for n in range(2000)]
        for word in words:
            call.words(word)
        await until(lambda: feed.room is not None)
        stopped_at = call.taken
        await until(lambda: node.counters.commit_failures > 3)
        assert call.taken == stopped_at, "the provider was read although the bound was reached"
        assert feed.log.pending_chars < 2048 + 100
        assert reading.text == "a", "a reader saw what is not stored"
        call.end()
        store.available = True
        assert (await ended(feed)).reason == "complete"
        await until(lambda: reading.offset == feed.log.tail)
        assert reading.text == said(feed) == "a" + "".join(words)


async def test_a_lost_reply_doubles_nothing(node: Node, hand: Hand, store: CountingStore) -> None:
    feed, call = await answering(node, hand, "a")
    commit, lost = store.commit, []

    async def lossy(writes):  # type: ignore[no-untyped-def]
        replies = await commit(writes)
        if len(lost) < 5:
            lost.append(replies)
            raise EverstreamError("store.unavailable", "the reply was lost")
        return replies

    store.commit = lossy  # type: ignore[method-assign]
    for n in range(100):
        call.words(str(n % 10))
        await asyncio.sleep(0)
    call.end()
    await ended(feed)
    state = await store.read(feed.stream)
    assert state is not None
    assert state.entries == feed.log.entries
    assert said(feed) == "a" + "0123456789" * 10


async def test_one_stream_that_cannot_be_written_does_not_stop_the_others(
    node: Node, hand: Hand, store: CountingStore
) -> None:
    bad, bad_call = await answering(node, hand, "a")
    good, good_call = await answering(node, hand, "a")
    commit = store.commit

    async def choosy(writes):  # type: ignore[no-untyped-def]
        if any("\ud83d" in getattr(entry, "text", "") for write in writes for entry in write.entries):
            raise UnicodeEncodeError("utf-8", "\ud83d", 0, 1, "surrogates not allowed")
        return await commit(writes)

    store.commit = choosy  # type: ignore[method-assign]
    bad_call.words("\ud83d")
    good_call.words("b")
    good_call.end()
    assert (await ended(good)).reason == "complete"
    await until(lambda: bad_call.closed and not bad.led)
    assert said(bad) == "a"


async def test_a_repeated_request_starts_nothing(node: Node, hand: Hand) -> None:
    feed, call = await started(node, hand, request_id="q1")
    again = await node.generate(request(), "anonymous", "q1")
    other = await node.generate(request(), "somebody else", "q1")
    assert again is feed
    assert other is not feed
    await until(lambda: len(hand.calls) == 2)
    call.end(FINISH)
    await ended(feed)
    assert (await node.generate(request(), "anonymous", "q1")).stream == feed.stream
    assert len(hand.calls) == 2
