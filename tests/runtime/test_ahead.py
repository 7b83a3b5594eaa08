"""Readers that know more than the node they come to: they wait for a bounded time before the store is believed."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest
from tests.runtime.conftest import HEADERS, CountingStore, Hand, Reading, answering, running, started, text, until

from everstream.core.events import Event, FirstToken, HeadersReceived, RequestStart
from everstream.core.lease import stream_id
from everstream.core.log import Log, Position
from everstream.runtime import hub, keeper
from everstream.runtime.counters import Counters
from everstream.runtime.hub import Feed
from everstream.runtime.node import Node

STREAM = stream_id(3, b"x" * 17)
HEAD: list[Event] = [RequestStart("hand/any", 1), HeadersReceived(1), FirstToken(1.0)]
OLD, NEW = 1 << 10, 2 << 10


def log_of(epochs: tuple[tuple[int, int], ...], *words: str) -> Log:
    return Log(STREAM, epochs, [*HEAD, *text(*words)])


# --------------------------------------------------------------------------- who asks for a place


async def test_a_reader_that_saw_our_commit_before_we_did_waits_for_its_reply(
    node: Node, store: CountingStore, hand: Hand
) -> None:
    async with running(store.beside()) as other:
        feed, call = await answering(node, hand, "a")
        reading = Reading(await other.find(feed.stream))
        replied = asyncio.Event()
        commit = store.commit

        async def slow(writes):  # type: ignore[no-untyped-def]
            replies = await commit(writes)
            await replied.wait()
            return replies

        store.commit = slow  # type: ignore[method-assign]
        call.words("b")
        await until(lambda: reading.text == "ab")
        seen = Position(feed.log.epoch, reading.offset)
        asking = asyncio.create_task(node.find_for(feed.stream, seen))
        await asyncio.sleep(0.05)  # pause: that there is no answer is what is tested
        assert not asking.done()
        replied.set()
        found = await asyncio.wait_for(asking, 5)
        assert found.log.locate(seen) == 5
        assert node.counters.gaps_repaired == 0


async def test_a_reader_waits_for_a_leader_that_holds_what_it_saw_however_long_the_store_is_away(
    node: Node, store: CountingStore, hand: Hand, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The commit was carried out and shown elsewhere; its reply was lost with the store."""
    monkeypatch.setattr(hub, "CATCH_UP_S", 0.05)
    feed, call = await answering(node, hand, "a")
    store.open_gate.clear()
    call.words("b")
    await until(lambda: feed.log.tail == 5)
    seen = Position(feed.log.epoch, 5)
    asking = asyncio.create_task(node.find_for(feed.stream, seen))
    await asyncio.sleep(0.3)  # pause: several times as long as a reader is kept waiting for what may be lost
    assert not asking.done()
    store.open_gate.set()
    found = await asyncio.wait_for(asking, 5)
    assert found.log.locate(seen) == 5


async def test_a_place_beyond_all_that_was_written_is_not_waited_for(
    node: Node, hand: Hand, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hub, "CATCH_UP_S", 60.0)
    feed, _ = await answering(node, hand, "a")
    found = await asyncio.wait_for(node.find_for(feed.stream, Position(feed.log.epoch, 999)), 5)
    assert Reading(found, Position(feed.log.epoch, 999)).lost


async def test_an_epoch_that_nobody_knows_is_waited_for_and_then_given_up(
    node: Node, hand: Hand, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hub, "CATCH_UP_S", 0.1)
    feed, _ = await answering(node, hand, "a")
    seen = Position(feed.log.epoch + 1024, 2)
    began = asyncio.get_running_loop().time()
    found = await asyncio.wait_for(node.find_for(feed.stream, seen), 5)
    assert asyncio.get_running_loop().time() - began >= 0.1
    assert Reading(found, seen).lost


async def test_a_reader_waits_at_a_follower_until_the_leader_has_made_the_store_whole(
    store: CountingStore, hand: Hand, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(keeper, "PROBE_S", 0.3)
    async with running(store, hand, lease_renew_ms=20) as node, running(store.beside()) as other:
        feed, _ = await answering(node, hand, "a", "b", "c")
        seen = feed.log.position(feed.log.committed)
        record = store.disk.records[feed.stream]
        store.disk.records[feed.stream] = replace(record, entries=record.entries[:4], followers=set())
        there = await asyncio.wait_for(other.find_for(feed.stream, seen), 5)
        reading = Reading(there, seen)
        assert not reading.lost
        assert there.log.entries == feed.log.entries


async def test_a_reader_that_is_behind_is_answered_at_once_while_another_waits(
    node: Node, store: CountingStore, hand: Hand
) -> None:
    feed, _ = await answering(node, hand, "a")
    waiting = asyncio.create_task(node.find_for(feed.stream, Position(feed.log.epoch + 1024, 1)))
    await asyncio.sleep(0)
    assert await asyncio.wait_for(node.find_for(feed.stream, Position(feed.log.epoch, 2)), 0.2) is feed
    waiting.cancel()
    await asyncio.wait({waiting})


async def test_what_cannot_be_asked_is_not_waited_for(node: Node, store: CountingStore, hand: Hand) -> None:
    feed, _ = await started(node, hand)
    store.available = False
    with pytest.raises(Exception, match="store"):
        await asyncio.wait_for(node.find_for(feed.stream, Position(feed.log.epoch + 1024, 1)), 2)
    store.available = True


# --------------------------------------------------------------------------- who reads already


async def test_a_reader_ahead_of_the_log_that_comes_in_its_place_is_not_taken_back() -> None:
    feed = Feed(log_of(((OLD, 0),), "a", "b", "c"), b"", Counters())
    reading = Reading(feed)
    # The heir's table says that all of it is history; the store has not all of it again.
    feed.replace(log_of(((OLD, 0), (NEW, 6)), "a"), 1.0)
    assert feed.ahead == {reading: Position(OLD, 6)}
    assert feed.has_readers
    feed.log.offer(feed.log.epochs, 4, text("b", "c", "d"))
    feed.advanced(2.0)
    await until(lambda: reading.text == "abcd")
    assert not reading.lost
    assert not feed.ahead
    feed.close()


async def test_a_reader_that_waited_long_enough_gets_a_snapshot(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hub, "CATCH_UP_S", 0.05)
    feed = Feed(log_of(((OLD, 0),), "a", "b", "c"), b"", Counters())
    reading = Reading(feed)
    feed.replace(log_of(((OLD, 0), (NEW, 6)), "a"), 1.0)
    assert not reading.lost
    await until(lambda: reading.lost)
    assert not feed.ahead


async def test_a_reader_whose_history_is_lost_gets_a_snapshot_at_once() -> None:
    feed = Feed(log_of(((OLD, 0),), "a", "b", "c"), b"", Counters())
    reading = Reading(feed)
    feed.replace(log_of(((OLD, 0), (NEW, 4)), "a", "x", "y"), 1.0)
    await until(lambda: reading.lost)
    assert not feed.ahead
    assert feed.log.committed == 6


async def test_a_waiting_reader_learns_that_history_went_another_way() -> None:
    feed = Feed(log_of(((OLD, 0),), "a", "b", "c"), b"", Counters())
    reading = Reading(feed)
    feed.replace(log_of(((OLD, 0), (NEW, 6)), "a"), 1.0)
    assert not reading.lost
    feed.replace(log_of(((OLD, 0), (NEW + 1024, 4)), "a", "x"), 2.0)
    await until(lambda: reading.lost)
    feed.close()


async def test_a_reader_that_leaves_while_it_waits_is_forgotten() -> None:
    feed = Feed(log_of(((OLD, 0),), "a", "b"), b"", Counters())
    reading = Reading(feed)
    feed.replace(log_of(((OLD, 0), (NEW, 5)), "a"), 1.0)
    feed.detach(reading)
    assert not feed.has_readers
    feed.close()


async def test_a_store_that_is_believed_leaves_nobody_waiting() -> None:
    feed = Feed(log_of(((OLD, 0),), "a", "b"), b"", Counters())
    reading = Reading(feed)
    feed.replace(log_of(((OLD, 0),), "a"), 1.0, believed=True)
    assert not feed.ahead
    await until(lambda: reading.lost)


async def test_a_stream_in_mid_answer_reads_on_after_its_reader_waited(node: Node, hand: Hand) -> None:
    feed, call = await started(node, hand)
    call.say(HEADERS, *text("a", "b"))
    await until(lambda: feed.log.committed >= 4)
    found = await node.find_for(feed.stream, feed.log.position(feed.log.committed))
    reading = Reading(found, feed.log.position(feed.log.committed))
    call.words("c")
    await until(lambda: reading.text.endswith("c"))
