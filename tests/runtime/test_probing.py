"""Empty commits of silent streams: what a store forgot is noticed, and so are a new leader and a cancel."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest
from tests.runtime.conftest import CountingStore, Hand, Reading, answering, running, text, until

from everstream.core.events import Seam
from everstream.core.lease import owner_of, partition_of
from everstream.runtime import follower, keeper
from everstream.runtime.hub import Feed
from everstream.store.memory import Record

QUICK = {"lease_ms": 400, "lease_renew_ms": 20}


@pytest.fixture(autouse=True)
def often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keeper, "ORPHAN_SEARCH_S", 0.05)
    monkeypatch.setattr(keeper, "PROBE_S", 0.05)
    monkeypatch.setattr(keeper, "DISOWNED_S", 0.3)
    monkeypatch.setattr(follower, "CHECK_S", 0.02)


def fail_over(store: CountingStore, feed: Feed, tail: int) -> Record:
    """A replica takes over that holds this much of a stream, and knows of no followers."""
    record = store.disk.records[feed.stream]
    less = replace(record, entries=record.entries[:tail], ended=False, followers=set())
    store.disk.records[feed.stream] = less
    return less


def held(store: CountingStore, feed: Feed) -> bool:
    record = store.disk.records.get(feed.stream)
    return record is not None and record.entries == feed.log.entries


async def test_a_store_that_forgot_the_last_words_of_a_silent_stream_gets_them_again(
    store: CountingStore, hand: Hand
) -> None:
    async with running(store, hand, **QUICK) as node:
        feed, call = await answering(node, hand, "a", "b", "c")
        fail_over(store, feed, 4)
        await until(lambda: held(store, feed))
        assert node.counters.gaps_repaired == 1
        assert not call.closed


async def test_a_store_that_forgot_an_end_gets_it_again_while_it_is_in_memory(store: CountingStore, hand: Hand) -> None:
    async with running(store, hand, **QUICK) as node:
        feed, call = await answering(node, hand, "a")
        call.end()
        await feed.wait_ended()
        record = fail_over(store, feed, 4)
        await until(lambda: record.ended)
        assert held(store, feed)


async def test_a_store_that_forgot_a_whole_stream_gets_it_again(store: CountingStore, hand: Hand) -> None:
    async with running(store, hand, **QUICK) as node:
        feed, _ = await answering(node, hand, "a")
        meta = store.disk.records.pop(feed.stream).meta
        await until(lambda: held(store, feed))
        record = store.disk.records[feed.stream]
        assert (record.meta, record.leader, record.epochs) == (meta, node.id, feed.log.epochs)


async def test_a_silent_leader_hears_of_its_successor(store: CountingStore, hand: Hand) -> None:
    async with running(store, hand, **QUICK) as node:
        feed, call = await answering(node, hand, "a")
        # Somebody adopts it while its leader lives: a hand-over, or a lease that ran out for a moment.
        assert store.disk.adopt(feed.stream, node.id, "n_heir") is not None
        store.disk.leases["n_heir"] = store.disk.clock_ms() + 60_000
        await until(lambda: not feed.led)
        assert call.closed


async def test_a_silent_provider_is_stopped_by_a_mark_alone(store: CountingStore, hand: Hand) -> None:
    async with running(store, hand, **QUICK) as node:
        feed, call = await answering(node, hand, "a")
        await store.beside().mark_cancelled(feed.stream)
        await asyncio.wait_for(feed.wait_ended(), 5)
        assert call.closed
        assert feed.log.entries[-1].reason == "cancelled"  # type: ignore[attr-defined]


async def test_a_cancel_whose_mark_was_lost_in_a_failover_is_made_again(store: CountingStore, hand: Hand) -> None:
    beside = store.beside()

    async def lost(node: str, message: bytes) -> None:
        return None

    beside.send = lost  # type: ignore[method-assign]
    async with running(store, hand, **QUICK) as node, running(beside) as other:
        feed, call = await answering(node, hand, "a")
        store.open_gate.clear()  # no commit comes through, so that nobody sees the mark
        cancelling = asyncio.create_task(other.cancel(feed.stream))
        record = store.disk.records[feed.stream]
        await until(lambda: record.cancelled)
        record.cancelled = False
        store.open_gate.set()
        assert await asyncio.wait_for(cancelling, 8) == feed.log.tail
        assert call.closed


async def test_streams_that_talk_are_not_probed_and_silent_ones_together(
    store: CountingStore, hand: Hand, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(keeper, "PROBE_S", 0.3)
    writes: list[list[int]] = []
    commit = store.commit

    async def noted(batch):  # type: ignore[no-untyped-def]
        writes.append([len(write.entries) for write in batch])
        return await commit(batch)

    store.commit = noted  # type: ignore[method-assign]
    async with running(store, hand, **QUICK) as node:
        for _ in range(30):
            await answering(node, hand, "a")
        writes.clear()
        await until(lambda: sum(len(batch) for batch in writes) >= 60)
        assert len(writes) <= 20, "each silent stream had a call of its own"
        talker, call = await answering(node, hand, "a")
        seen = len(writes)
        for n in range(60):
            call.words(str(n))
            await until(lambda n=n: talker.log.committed > 4 + n)
            await asyncio.sleep(0.005)  # pause: it talks for longer than the time between two probes
        assert sum(batch.count(1) for batch in writes[seen:]) >= 60
        assert sum(len(batch) for batch in writes[seen:]) < 60 + 30 * 8


async def test_probes_of_a_round_have_a_bound(
    store: CountingStore, hand: Hand, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(keeper, "PROBES_PER_ROUND", 4)
    async with running(store, hand, **QUICK) as node:
        feeds = [(await answering(node, hand, "a"))[0] for _ in range(10)]
        for feed in feeds:
            fail_over(store, feed, 2)
        await until(lambda: all(held(store, feed) for feed in feeds))
        assert node.counters.gaps_repaired == 10


async def test_a_probe_waits_for_a_store_that_is_away(store: CountingStore, hand: Hand) -> None:
    async with running(store, hand, **QUICK) as node:
        feed, _ = await answering(node, hand, "a")
        store.available = False
        await until(lambda: node.counters.commit_failures > 1)
        fail_over(store, feed, 2)
        store.available = True
        await until(lambda: held(store, feed))


# --------------------------------------------------------------------------- ours by the store's word alone


async def test_a_stream_that_the_store_calls_ours_is_taken_up_again_whoever_is_named_for_orphans(
    store: CountingStore,
) -> None:
    """The reply to an adoption was lost: the store has this node as the leader, and the node knows nothing of it."""
    hands = Hand("exact"), Hand("exact")
    async with running(store, hands[0], **QUICK) as one, running(store.beside(), hands[1], **QUICK) as two:
        feeds = [(await answering(one, hands[0], "half"))[0] for _ in range(8)]
        alive = {one.id, two.id}
        for feed in feeds:
            other = next(iter(alive - {owner_of(partition_of(feed.stream), alive) or ""}))
            state = store.disk.adopt(feed.stream, one.id, other)
            assert state is not None
        nodes = {one.id: one, two.id: two}
        leaders = {feed.stream: store.disk.records[feed.stream].leader for feed in feeds}

        def taken_up(stream: str) -> bool:
            there = nodes[leaders[stream]].hub.get(stream)
            return there is not None and there.led and store.disk.records[stream].leader == leaders[stream]

        await until(lambda: all(taken_up(feed.stream) for feed in feeds))
        for feed in feeds:
            record = store.disk.records[feed.stream]
            await until(lambda record=record: any(isinstance(entry, Seam) for entry in record.entries))
            assert len(record.epochs) == 3


async def test_a_successor_that_the_store_forgot_says_so_before_the_one_it_names_takes_over(
    store: CountingStore,
) -> None:
    hands = Hand("exact"), Hand("exact")
    async with running(store, hands[0], **QUICK) as one, running(store.beside(), hands[1], **QUICK) as two:
        feed, _ = await answering(one, hands[0], "half")
        old = store.disk.records[feed.stream]
        forgotten = replace(old, entries=list(old.entries), followers=set())
        state = store.disk.adopt(feed.stream, one.id, two.id)
        assert state is not None
        two.adopted(state)
        await until(lambda: not feed.led)
        there = two.hub.get(feed.stream)
        assert there is not None
        await until(lambda: there.log.committed == 6)
        store.disk.records[feed.stream] = forgotten  # and with it the adoption
        assert forgotten.leader == one.id
        await until(lambda: forgotten.leader == two.id)
        assert there.led
        assert held(store, there)
        assert len(forgotten.epochs) == 2


# --------------------------------------------------------------------------- followers


async def test_a_follower_that_the_store_forgot_gets_pushes_again(store: CountingStore, hand: Hand) -> None:
    async with running(store, hand, **QUICK) as node, running(store.beside(), **QUICK) as other:
        feed, call = await answering(node, hand, "a")
        there = await other.find(feed.stream)
        reading = Reading(there)
        fail_over(store, feed, 4)
        call.words("b")
        await until(lambda: reading.text == "ab")
        await until(lambda: store.disk.records[feed.stream].followers == {other.id})


async def test_a_follower_keeps_what_a_failover_took_while_the_leader_lives(store: CountingStore, hand: Hand) -> None:
    async with running(store, hand, **QUICK) as node, running(store.beside(), **QUICK) as other:
        feed, call = await answering(node, hand, "a", "b", "c")
        there = await other.find(feed.stream)
        reading = Reading(there)
        assert reading.text == "abc"
        fail_over(store, feed, 3)
        call.words("d")
        await until(lambda: reading.text == "abcd")
        assert not reading.lost


async def test_a_follower_believes_a_store_that_stays_behind(
    store: CountingStore, hand: Hand, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("everstream.runtime.hub.CATCH_UP_S", 0.2)
    async with running(store.beside(), **QUICK) as other, running(store, hand, **QUICK) as node:
        feed, _ = await answering(node, hand, "a", "b", "c")
        there = await other.find(feed.stream)
        reading = Reading(there)
        store.available = False
        store.disk.leases[node.id] = store.disk.clock_ms() + 60_000  # nobody comes after it
        record = fail_over(store, feed, 4)
        await until(lambda: reading.lost)
        assert record.epochs == there.log.epochs
        assert there.log.entries == record.entries
        assert there.log.entries[-1:] == text("a")
        store.available = True
