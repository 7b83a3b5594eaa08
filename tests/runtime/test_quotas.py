"""Limits of users and keys: kept where many begin at once, given back at the end, carried on by an adopter."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import Any

import msgspec
import pytest
from tests.runtime.conftest import HEADERS, Hand, running, text, until

from everstream.core.errors import EverstreamError
from everstream.core.events import Cost, Finish, Message, Params, Request, Usage
from everstream.runtime import quotas
from everstream.runtime.hub import Feed
from everstream.runtime.node import Node
from everstream.runtime.quotas import TABLE, Limits
from everstream.store.memory import MemoryStore

NOON_MS = 20_000 * 86_400_000 + 43_200_000


def asking(model: str = "hand/any", key: str = "", **params: Any) -> Request:
    return Request(model, [Message("user", "hello")], Params(**params), paid_by=key)


def used(count: int) -> Finish:
    return Finish("stop", Usage(1, count, count + 1, "provider"))


class Clock:
    def __init__(self) -> None:
        self.now_ms = NOON_MS

    def __call__(self) -> int:
        return self.now_ms


@pytest.fixture
def store() -> MemoryStore:
    store = MemoryStore()
    store.disk.clock_ms = Clock()
    return store


@pytest.fixture(autouse=True)
def _fresh(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quotas, "KNOWN_S", 0.0)


@asynccontextmanager
async def limited(store: MemoryStore, hand: Hand, rows: dict[str, Limits] | None = None, **given: Any):  # type: ignore[no-untyped-def]
    for account, limits in (rows or {}).items():
        await store.put_row(TABLE, account, msgspec.msgpack.encode(limits))
    async with running(store, hand, **given) as node:
        yield node


async def refused(node: Node, code: str, user: str = "ann", **asked: Any) -> EverstreamError:
    with pytest.raises(EverstreamError) as error:
        await node.generate(asking(**asked), user, None)
    assert error.value.code == code
    return error.value


async def begun(node: Node, hand: Hand, user: str = "ann", **asked: Any) -> Feed:
    calls = len(hand.calls)
    feed = await node.generate(asking(**asked), user, None)
    await until(lambda: len(hand.calls) > calls)
    return feed


async def settled(store: MemoryStore, stream: str) -> None:
    await until(lambda: all(stream not in account.holders for account in store.disk.accounts.values()))


# --------------------------------------------------------------------------- how many


async def test_so_many_answers_at_a_time_and_the_next_when_one_is_over(store: MemoryStore) -> None:
    hand = Hand()
    async with limited(store, hand, user_streams=2) as node:
        feeds = [await begun(node, hand) for _ in range(2)]
        error = await refused(node, "limit.streams")
        assert error.retryable
        assert error.retry_after_ms
        await begun(node, hand, user="bob")
        hand.calls[0].end()
        await feeds[0].wait_ended()
        await settled(store, feeds[0].stream)
        await begun(node, hand)


async def test_a_cancelled_answer_gives_its_place_back(store: MemoryStore) -> None:
    hand = Hand()
    async with limited(store, hand, user_streams=1) as node:
        feed = await begun(node, hand)
        await node.cancel(feed.stream)
        await settled(store, feed.stream)
        await begun(node, hand)


async def test_so_many_may_be_begun_in_a_minute(store: MemoryStore) -> None:
    hand = Hand()
    async with limited(store, hand, user_starts_per_minute=3) as node:
        for _ in range(3):
            await begun(node, hand)
        error = await refused(node, "limit.rate")
        assert error.retry_after_ms == 60_000
        store.disk.clock_ms.now_ms += 60_000  # type: ignore[attr-defined]
        await begun(node, hand)


async def test_a_hundred_who_begin_at_once_on_two_nodes_are_no_more_than_may(store: MemoryStore) -> None:
    """Who was let past the first look is stopped before his provider is asked."""
    hand, other = Hand(), Hand()
    beside = MemoryStore(store.disk)
    beside.peers = store.peers
    async with limited(store, hand, user_streams=5) as node, limited(beside, other, user_streams=5) as second:
        made = await asyncio.gather(
            *((node, second)[n % 2].generate(asking(), "ann", None) for n in range(100)), return_exceptions=True
        )
        feeds = [feed for feed in made if isinstance(feed, Feed)]
        failed = [feed for feed in feeds if feed.log.ended]
        await until(lambda: len(hand.calls) + len(other.calls) + sum(feed.log.ended for feed in feeds) == len(feeds))
        assert len(hand.calls) + len(other.calls) == 5
        errors = [feed.log.total().end.error for feed in feeds if feed.log.ended]  # type: ignore[union-attr]
        assert {error.code for error in errors if error} <= {"limit.streams"}
        assert len(errors) + sum(isinstance(error, EverstreamError) for error in made) == 95
        assert len(failed) <= 95


# --------------------------------------------------------------------------- how much


async def test_tokens_are_counted_as_they_were_used_and_the_last_ones_are_given_out_in_part(store: MemoryStore) -> None:
    hand = Hand()
    async with limited(store, hand, user_tokens_per_day=1_000) as node:
        feed = await begun(node, hand, max_tokens=100)
        hand.calls[0].say(HEADERS, *text("a"), used(899))
        hand.calls[0].end(None)
        await feed.wait_ended()
        await settled(store, feed.stream)
        feed = await begun(node, hand, max_tokens=500)
        asked = hand.calls[1].request.params.max_tokens
        assert asked is not None
        assert 80 <= asked < 100  # the hundred that are left, but for the question
        await refused(node, "limit.budget")
        hand.calls[1].say(HEADERS, *text("b"), Finish("length", Usage(5, asked, asked + 5, "provider")))
        hand.calls[1].end(None)
        await feed.wait_ended()
        assert feed.log.total().end.reason == "budget"  # type: ignore[union-attr]


async def test_money_is_counted_where_the_price_is_known(store: MemoryStore, monkeypatch: pytest.MonkeyPatch) -> None:
    hand = Hand()

    def price(model: str, usage: Usage) -> Cost | None:
        return Cost(0.0, usage.output_tokens / 1_000, usage.output_tokens / 1_000) if model == "hand/dear" else None

    monkeypatch.setattr("everstream.providers.registry.Registry.price", lambda self, model, usage: price(model, usage))
    async with limited(store, hand, user_usd_per_day=1.0) as node:
        feed = await begun(node, hand, model="hand/dear", max_tokens=400)
        hand.calls[0].say(HEADERS, *text("a"), used(400))
        hand.calls[0].end(None)
        await feed.wait_ended()
        await settled(store, feed.stream)
        await begun(node, hand, model="hand/dear", max_tokens=900)
        assert hand.calls[1].request.params.max_tokens == 600
        error = await refused(node, "limit.budget", model="hand/dear")
        assert error.retry_after_ms == 43_200_000  # midnight of UTC
        await begun(node, hand, model="hand/free")


async def test_an_answer_longer_than_was_claimed_is_not_cut_and_is_counted(
    store: MemoryStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(quotas, "ANSWER_TOKENS", 10)
    hand = Hand()
    async with limited(store, hand, user_tokens_per_day=1_000) as node:
        feed = await begun(node, hand)
        assert hand.calls[0].request.params.max_tokens is None
        hand.calls[0].say(HEADERS, *text("long"), used(5_000))
        hand.calls[0].end(None)
        await feed.wait_ended()
        assert feed.log.total().end.reason == "complete"  # type: ignore[union-attr]
        await settled(store, feed.stream)
        await refused(node, "limit.budget")


# --------------------------------------------------------------------------- whose


async def test_a_row_of_ones_own_counts_before_the_settings_and_may_come_at_any_time(store: MemoryStore) -> None:
    hand = Hand()
    async with limited(store, hand, {"user:ann": Limits(streams=2)}, user_streams=1) as node:
        await begun(node, hand)
        await begun(node, hand)
        await refused(node, "limit.streams")
        await begun(node, hand, user="bob")
        await refused(node, "limit.streams", user="bob")
        await store.put_row(TABLE, "user:bob", msgspec.msgpack.encode(Limits(streams=3)))
        await begun(node, hand, user="bob")


async def test_a_key_has_its_own_account_and_nothing_stays_claimed_where_the_other_is_spent(store: MemoryStore) -> None:
    hand = Hand()
    rows = {"key:abc": Limits(streams=1), "user:ann": Limits(streams=5)}
    async with limited(store, hand, rows) as node:
        await begun(node, hand, key="key:abc")
        await refused(node, "limit.streams", key="key:abc")
        await begun(node, hand, key="key:other")
        assert len(store.disk.accounts["user:ann"].holders) == 2


async def test_only_models_that_are_allowed_may_be_asked(store: MemoryStore) -> None:
    hand = Hand()
    rows = {"key:abc": Limits(models=("hand/small-*", "scripted/count"))}
    async with limited(store, hand, rows) as node:
        await refused(node, "auth.forbidden", key="key:abc")
        await begun(node, hand, model="hand/small-1", key="key:abc")
        await begun(node, hand)


async def test_limits_that_nobody_can_read_allow_nothing(store: MemoryStore) -> None:
    hand = Hand()
    await store.put_row(TABLE, "user:ann", b"\xc1")
    async with limited(store, hand) as node:
        await refused(node, "limit.streams")
        await begun(node, hand, user="bob")


# --------------------------------------------------------------------------- what fails


async def test_a_request_that_was_accepted_is_accepted_again_also_where_nothing_is_left(store: MemoryStore) -> None:
    hand = Hand()
    async with limited(store, hand, user_streams=1) as node:
        first = await node.generate(asking(), "ann", "once")
        await until(lambda: hand.calls)
        assert (await node.generate(asking(), "ann", "once")).stream == first.stream
        with pytest.raises(EverstreamError):
            await node.generate(asking(), "ann", "twice")
    assert len(hand.calls) == 1


async def test_an_adopter_goes_on_with_what_the_dead_node_had_claimed(store: MemoryStore) -> None:
    hand, other = Hand("exact"), Hand("exact")
    beside = MemoryStore(store.disk)
    beside.peers = store.peers
    store.disk.clock_ms = MemoryStore().disk.clock_ms  # leases run out by themselves
    async with limited(beside, other, user_streams=1, lease_ms=300, lease_renew_ms=50) as heir:
        async with limited(store, hand, user_streams=1, lease_ms=300, lease_renew_ms=50) as node:
            feed = await begun(node, hand)
            hand.calls[0].say(HEADERS, *text("a"))
            await until(lambda: feed.log.committed >= 4)
            await refused(heir, "limit.streams")
            stream = feed.stream
        await until(lambda: other.calls, 10)
        await refused(heir, "limit.streams")
        other.calls[0].say(*text("b"))
        other.calls[0].end()
        await settled(store, stream)
        await begun(heir, other)


async def test_without_limits_the_store_is_not_asked_for_any_account(store: MemoryStore) -> None:
    hand = Hand()
    async with limited(store, hand) as node:
        feed = await begun(node, hand)
        hand.calls[0].end()
        await feed.wait_ended()
    assert store.disk.accounts == {}
