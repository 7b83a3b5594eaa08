"""When readers see an entry: once it is stored, or also when the store is late, or at once."""

from __future__ import annotations

import asyncio

import pytest
from tests.runtime.conftest import (
    HEADERS,
    CountingStore,
    Hand,
    Reading,
    answering,
    running,
    started,
    text,
    until,
)

from everstream.core.events import StreamEnd
from everstream.core.log import Position
from everstream.runtime import hub
from everstream.store.memory import MemoryStore

SHOWN_EARLY = "some of the answer was shown before it was stored"


def warnings_of(feed: hub.Feed) -> list[str]:
    end = feed.log.entries[-1]
    assert isinstance(end, StreamEnd)
    return end.warnings


async def test_committed_shows_nothing_that_is_not_stored(store: CountingStore, hand: Hand) -> None:
    async with running(store, hand) as node:
        feed, call = await answering(node, hand, "a")
        reader = Reading(feed)
        store.open_gate.clear()
        call.words("b")
        await until(lambda: call.taken == 3)
        assert reader.text == "a"
        store.open_gate.set()
        await until(lambda: reader.text == "ab")
        call.end()
        await feed.wait_ended()
        assert warnings_of(feed) == []
        assert node.counters.shown_early == 0


async def test_available_goes_on_when_the_store_is_late_and_says_so(store: CountingStore, hand: Hand) -> None:
    async with running(store, hand, delivery="available", commit_patience_ms=50) as node:
        feed, call = await answering(node, hand, "a")
        reader = Reading(feed)
        assert not feed.shown_early
        store.open_gate.clear()
        call.words("b")
        await until(lambda: reader.text == "ab")
        call.words("c")  # the store is known to be late: nobody waits for each further word
        await until(lambda: reader.text == "abc")
        assert feed.log.acked == 4
        store.open_gate.set()
        await until(lambda: feed.log.acked == feed.log.tail)
        call.end()
        await feed.wait_ended()
        assert warnings_of(feed) == [SHOWN_EARLY]
        assert node.counters.shown_early >= 2


async def test_available_goes_on_when_the_store_refuses_every_call(store: CountingStore, hand: Hand) -> None:
    async with running(store, hand, delivery="available", commit_patience_ms=50) as node:
        feed, call = await answering(node, hand, "a")
        reader = Reading(feed)
        store.available = False
        call.words("b")
        await until(lambda: reader.text == "ab")
        store.available = True
        await until(lambda: feed.log.acked == feed.log.tail)
        call.words("c")
        await until(lambda: reader.text == "abc")
        assert store.disk.records[feed.stream].entries == feed.log.entries


async def test_available_waits_for_a_store_that_is_in_time(store: CountingStore, hand: Hand) -> None:
    async with running(store, hand, delivery="available", commit_patience_ms=10_000) as node:
        feed, call = await answering(node, hand, "a")
        call.words("b", "c")
        call.end()
        await feed.wait_ended()
        assert warnings_of(feed) == []


async def test_eager_shows_everything_at_once(store: CountingStore, hand: Hand) -> None:
    async with running(store, hand, delivery="eager") as node:
        feed, call = await answering(node, hand, "a")
        reader = Reading(feed)
        store.open_gate.clear()
        call.words("b")
        await until(lambda: reader.text == "ab")
        store.open_gate.set()
        call.end()
        await feed.wait_ended()
        assert warnings_of(feed) == [SHOWN_EARLY]


@pytest.mark.parametrize("delivery", ["available", "eager"])
async def test_a_fence_waits_for_the_store_however_entries_are_shown(
    store: CountingStore, hand: Hand, delivery: str
) -> None:
    async with running(store, hand, delivery=delivery, commit_patience_ms=20) as node:
        feed, _ = await answering(node, hand, "a")
        reader = Reading(feed)
        store.open_gate.clear()
        cancelling = asyncio.create_task(node.cancel(feed.stream))
        await until(lambda: feed.log.ended and reader.offset == feed.log.tail)
        assert not cancelling.done()
        store.open_gate.set()
        assert await asyncio.wait_for(cancelling, 10) == store.disk.records[feed.stream].tail


async def test_what_leader_and_store_lose_together_is_announced_to_its_readers(
    store: CountingStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hub, "CATCH_UP_S", 0.2)
    hands = Hand("exact"), Hand("exact")
    quick = {"lease_ms": 300, "lease_renew_ms": 20, "delivery": "eager"}
    async with running(store.beside(), hands[1], **quick) as two:
        async with running(store, hands[0], **quick) as one:
            feed, call = await started(one, hands[0])
            call.say(HEADERS, *text("a"))
            await until(lambda: feed.log.acked == 4)
            store.open_gate.clear()
            call.words("b")
            await until(lambda: feed.log.committed == 5)
            seen = feed.log.position(5)
            store.available = False  # it dies here: nothing of it is stored any more
            store.open_gate.set()
            assert feed.relay is not None
            feed.relay.depose()
        await until(lambda: store.disk.records[feed.stream].leader == two.id)
        there = await two.find_for(feed.stream, seen)
        assert Reading(there, seen).lost
        assert two.counters.readers_rewound == 1


async def test_a_reader_with_a_folded_position_is_not_called_rewound(store: MemoryStore, hand: Hand) -> None:
    async with running(store, hand, fold_after_s=0, linger_s=0.05, lease_renew_ms=20) as node:
        feed, call = await answering(node, hand, "a")
        call.end()
        await feed.wait_ended()
        await until(lambda: store.disk.records[feed.stream].base > 0 and node.hub.get(feed.stream) is None)
        there = await node.find(feed.stream)
        assert Reading(there, Position(there.log.epoch, 2)).lost
        assert node.counters.readers_rewound == 0
