"""Two nodes on one store: followers, adoption, zombies; and what a node does at home."""

from __future__ import annotations

import asyncio

import pytest
from tests.runtime.conftest import (
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
    until,
)

from everstream.core.errors import EverstreamError
from everstream.core.events import DeltaText, Seam, StreamEnd
from everstream.core.lease import stream_id
from everstream.core.log import Position
from everstream.runtime import follower, keeper
from everstream.runtime.hub import Feed
from everstream.runtime.node import Node

QUICK = {"lease_ms": 200, "lease_renew_ms": 20}


def said(feed: Feed) -> str:
    return feed.log.total().text


@pytest.fixture(autouse=True)
def often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keeper, "ORPHAN_SEARCH_S", 0.05)
    monkeypatch.setattr(keeper, "DISOWNED_S", 0.3)


def go_silent(node: Node, store: CountingStore) -> None:
    """The node's store connection is gone: it can neither renew nor commit, and does not know why."""
    store.available = False


async def test_a_follower_shows_the_leaders_entries_as_they_are_committed(
    node: Node, hand: Hand, store: CountingStore
) -> None:
    async with running(store.beside()) as other:
        feed, call = await answering(node, hand, "a")
        there = await other.find(feed.stream)
        reading = Reading(there)
        assert not there.led
        for n in range(20):
            call.words(str(n))
            await until(lambda n=n: reading.text.endswith(str(n)))
        call.end()
        await asyncio.wait_for(there.wait_ended(), 5)
        assert there.log.entries == feed.log.entries


async def test_lost_pushes_are_made_good_from_the_store(
    node: Node, hand: Hand, store: CountingStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(follower, "CHECK_S", 0.02)
    async with running(store.beside()) as other:
        feed, call = await answering(node, hand, "a")
        reading = Reading(await other.find(feed.stream))
        record = store.disk.records[feed.stream]
        followers, record.followers = record.followers, set()
        call.words(" lost")
        await until(lambda: feed.log.committed == 5)
        record.followers = followers
        call.words(" found")
        await until(lambda: reading.text == "a lost found")
        record.followers = set()
        call.end()
        await until(lambda: reading.feed.log.ended)


async def test_a_cancel_on_another_node_stops_the_leader(node: Node, hand: Hand, store: CountingStore) -> None:
    async with running(store.beside()) as other:
        feed, call = await answering(node, hand, "a")
        offset = await asyncio.wait_for(other.cancel(feed.stream), 5)
        assert call.closed
        await until(lambda: feed.log.ended)
        assert feed.log.tail == offset


async def test_a_cancel_whose_message_was_lost_is_heard_with_the_next_commit(
    node: Node, hand: Hand, store: CountingStore
) -> None:
    beside = store.beside()

    async def lost(node: str, message: bytes) -> None:
        return None

    beside.send = lost  # type: ignore[method-assign]
    async with running(beside) as other:
        feed, call = await answering(node, hand, "a")
        cancelling = asyncio.create_task(other.cancel(feed.stream))
        await until(lambda: store.disk.records[feed.stream].cancelled)
        assert not call.closed
        call.words("b")
        assert await asyncio.wait_for(cancelling, 5) == feed.log.tail
        assert call.closed


# --------------------------------------------------------------------------- a node dies


async def test_a_scripted_answer_is_carried_on_exactly(store: CountingStore) -> None:
    dead = store.beside()
    async with running(store, **QUICK) as survivor:
        async with running(dead, **QUICK) as node:
            feed = await node.generate(request("scripted/count", tokens=300, rate=500), "anonymous", None)
            there = await survivor.find(feed.stream)
            reading = Reading(there)
            await until(lambda: reading.offset > 30)
            go_silent(node, dead)
            await asyncio.wait_for(there.wait_ended(), 10)
            await until(lambda: reading.offset == there.log.tail)
        assert reading.text == " ".join(str(n) for n in range(1, 301))
        assert not reading.lost
        (seam,) = [entry for entry in there.log.entries if isinstance(entry, Seam)]
        assert (seam.continuation, seam.check, seam.node, seam.reason) == (
            "exact", "verified", survivor.id, "node_lost",
        )  # fmt: skip
        assert_legal(there.log.entries)
        assert survivor.counters.streams_adopted == 1


async def test_an_answer_that_nobody_can_carry_on_ends_interrupted_with_its_part(store: CountingStore) -> None:
    dead, hand = store.beside(), Hand()
    async with running(store, Hand(), **QUICK) as survivor, running(dead, hand, **QUICK) as node:
        feed, _ = await answering(node, hand, "half")
        go_silent(node, dead)
        there = await survivor.find(feed.stream)
        await asyncio.wait_for(there.wait_ended(), 10)
        assert kinds(there)[-2:] == ["Seam", "StreamEnd"]
        end = there.log.entries[-1]
        assert isinstance(end, StreamEnd)
        assert (end.reason, said(there)) == ("interrupted", "half")
        assert_legal(there.log.entries)


async def test_the_stream_of_a_dead_leader_can_be_cancelled(store: CountingStore) -> None:
    dead, hand = store.beside(), Hand()
    async with running(store, Hand("exact"), **QUICK) as survivor, running(dead, hand, **QUICK) as node:
        feed, _ = await answering(node, hand, "half")
        go_silent(node, dead)
        offset = await asyncio.wait_for(survivor.cancel(feed.stream), 10)
        there = await survivor.find(feed.stream)
        assert (there.log.tail, there.log.entries[-1].reason) == (offset, "cancelled")  # type: ignore[attr-defined]


async def test_a_sleeper_that_wakes_is_fenced_and_its_readers_go_on_with_the_heir(store: CountingStore) -> None:
    asleep, hand, heir_hand = store.beside(), Hand(), Hand("exact")
    async with running(store, heir_hand, **QUICK) as heir, running(asleep, hand, **QUICK) as node:
        feed, call = await answering(node, hand, "half")
        reading = Reading(feed)
        go_silent(node, asleep)
        call.words(" of the zombie")
        await until(lambda: heir_hand.calls)
        assert heir_hand.calls[0].progress is not None
        assert heir_hand.calls[0].progress.text == "half"
        heir_hand.calls[0].say(HEADERS, DeltaText(" and whole"))
        there = await heir.find(feed.stream)
        await until(lambda: said(there) == "half and whole")
        asleep.available = True
        await until(lambda: reading.text == "half and whole")
        assert call.closed
        assert not feed.led
        assert not reading.lost
        call.words(" later")
        heir_hand.calls[0].end()
        await asyncio.wait_for(feed.wait_ended(), 10)
        assert feed.log.entries == there.log.entries
        assert_legal(feed.log.entries)


async def test_a_cancel_on_a_sleeper_writes_nothing_into_the_heirs_history(store: CountingStore) -> None:
    asleep, hand, heir_hand = store.beside(), Hand(), Hand("exact")
    async with running(store, heir_hand, **QUICK) as heir, running(asleep, hand, **QUICK) as node:
        feed, _ = await answering(node, hand, "half")
        go_silent(node, asleep)
        cancelling = asyncio.create_task(node.cancel(feed.stream))
        await until(lambda: heir_hand.calls)
        heir_hand.calls[0].say(HEADERS, DeltaText(" and"))
        there = await heir.find(feed.stream)
        await until(lambda: said(there) == "half and")
        asleep.available = True
        await until(lambda: not feed.led)
        heir_hand.calls[0].words(" whole")
        heir_hand.calls[0].end()
        await asyncio.wait_for(there.wait_ended(), 10)
        assert await asyncio.wait_for(cancelling, 10) == there.log.tail
        state = await store.read(feed.stream)
        assert state is not None
        assert state.entries == there.log.entries == feed.log.entries
        assert_legal(state.entries)


async def test_a_stream_that_comes_back_to_a_sleeper_has_one_relay_there(store: CountingStore) -> None:
    asleep, hand = store.beside(), Hand("exact")
    async with running(asleep, hand, **QUICK) as node:
        feed, call = await answering(node, hand, "half")
        go_silent(node, asleep)
        await until(lambda: node.id not in {n for n, at in store.disk.leases.items() if at > store.disk.clock_ms()})
        assert store.disk.adopt(feed.stream, node.id, "n_third") is not None  # which then dies too
        asleep.available = True
        await until(lambda: len(hand.calls) == 2)
        await until(lambda: call.closed)
        call.words(" never")
        hand.calls[1].say(HEADERS, DeltaText(" and whole"))
        hand.calls[1].end()
        await asyncio.wait_for(feed.wait_ended(), 10)
        assert said(feed) == "half and whole"
        assert_legal(feed.log.entries)


async def test_only_the_named_survivor_adopts(store: CountingStore) -> None:
    dead, hand = store.beside(), Hand()
    survivors = [Hand("exact"), Hand("exact")]
    async with (
        running(store, survivors[0], **QUICK),
        running(store.beside(), survivors[1], **QUICK),
        running(dead, hand, **QUICK) as node,
    ):
        feeds = [(await answering(node, hand, "half"))[0] for _ in range(12)]
        go_silent(node, dead)
        await until(lambda: sum(len(survivor.calls) for survivor in survivors) >= 12)
        records = [store.disk.records[feed.stream] for feed in feeds]
        assert all(len(record.epochs) == 2 for record in records), "a stream was adopted twice"
        assert all(survivor.calls for survivor in survivors), "one survivor did all the work"


# --------------------------------------------------------------------------- orphans that are none, or cannot be read


async def test_a_stream_that_is_just_being_made_is_no_orphan(store: CountingStore, hand: Hand) -> None:
    create = store.create

    async def slow(*arguments):  # type: ignore[no-untyped-def]
        created = await create(*arguments)
        await asyncio.sleep(0.2)  # pause: the reply takes its time, and the keeper looks meanwhile
        return created

    store.create = slow  # type: ignore[method-assign]
    async with running(store, hand, **QUICK) as node:
        feed, call = await started(node, hand)
        call.say(HEADERS, DeltaText("a"))
        call.end()
        await asyncio.wait_for(feed.wait_ended(), 10)
        assert len(store.disk.records[feed.stream].epochs) == 1
        assert len(hand.calls) == 1


async def test_a_stream_whose_making_was_not_heard_of_is_adopted_in_the_end(store: CountingStore, hand: Hand) -> None:
    async with running(store, hand, **QUICK) as node:
        stream = stream_id(3, b"x" * 17)
        meta = (await started(node, hand))[0].meta
        await store.create(stream, "", meta)
        feed = await node.find(stream)
        await asyncio.wait_for(feed.wait_ended(), 10)
        assert feed.log.entries[-1].reason == "interrupted"  # type: ignore[attr-defined]


async def test_an_orphan_that_cannot_be_read_keeps_no_other_waiting(store: CountingStore) -> None:
    store._node = "n_dead"
    for partition in range(3):
        await store.create(stream_id(partition, b"x" * 17), "", b"\xc1 junk")
    async with running(store.beside(), **QUICK) as first:
        made = await first.generate(request("scripted/count", tokens=5000, rate=50), "anonymous", None)
        await until(lambda: made.log.committed > 3)
    async with running(store.beside(), **QUICK) as second:
        await until(lambda: second.generating == 1)


# --------------------------------------------------------------------------- at home


async def test_a_stopped_node_leaves_no_task_and_its_streams_go_on_elsewhere(store: CountingStore) -> None:
    before = asyncio.all_tasks()
    async with running(store.beside(), **QUICK) as node:
        feeds = [
            await node.generate(request("scripted/count", tokens=200, rate=400), "anonymous", None) for _ in range(20)
        ]
        await until(lambda: all(feed.log.committed > 5 for feed in feeds))
    assert asyncio.all_tasks() == before
    async with running(store, **QUICK) as heir:
        for feed in feeds:
            there = await heir.find(feed.stream)
            await asyncio.wait_for(there.wait_ended(), 10)
            assert said(there) == " ".join(str(n) for n in range(1, 201))


async def test_a_draining_node_lets_answers_end_and_takes_no_new_ones(node: Node, hand: Hand) -> None:
    feed, call = await answering(node, hand, "a")
    draining = asyncio.create_task(node.drain(10))
    await until(lambda: node.draining)
    for ask in (node.ready(), node.generate(request(), "anonymous", None)):
        with pytest.raises(EverstreamError, match=r"node\.draining"):
            await ask
    call.end()
    await asyncio.wait_for(draining, 5)
    assert feed.log.closed


async def test_ended_streams_leave_the_memory_when_nobody_reads_them(store: CountingStore, hand: Hand) -> None:
    async with running(store, hand, linger_s=0.05, lease_renew_ms=20) as node:
        feed, call = await answering(node, hand, "a")
        reading = Reading(feed)
        call.end()
        await feed.wait_ended()
        await asyncio.sleep(0.2)  # pause: that it stays is what is tested
        assert node.hub.get(feed.stream) is feed, "a stream with a reader left the memory"
        feed.detach(reading)
        await until(lambda: node.hub.get(feed.stream) is None)
        again = await node.find(feed.stream)
        assert again.log.entries == feed.log.entries


async def test_ended_streams_are_folded_and_read_as_a_snapshot(store: CountingStore, hand: Hand) -> None:
    async with running(store, hand, linger_s=0.0, lease_renew_ms=20, fold_after_s=0) as node:
        feed, call = await answering(node, hand, "a", "b")
        call.end()
        await feed.wait_ended()
        await until(lambda: store.disk.records[feed.stream].base == feed.log.tail)
        await until(lambda: node.hub.get(feed.stream) is None)
        again = await node.find(feed.stream)
        assert again.log.total().text == "ab"
        assert again.log.ended
        assert Reading(again, Position(feed.log.epoch, 2)).lost
        assert await node.cancel(feed.stream) == feed.log.tail


async def test_an_unknown_stream_is_unknown_and_a_name_that_is_none_too(node: Node) -> None:
    for stream in (stream_id(1, b"n" * 17), "r_", "x" * 300, "r_zz" + "a" * 26, "r_" + "é" * 28):
        with pytest.raises(EverstreamError, match=r"stream\.unknown"):
            await node.find(stream)
