"""A leader that goes by consent, a leader that is named, and who is taken for dead."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack

import pytest
from tests.runtime.conftest import (
    CountingStore,
    Hand,
    Reading,
    answering,
    assert_legal,
    request,
    running,
    started,
    until,
)

from everstream.core.errors import EverstreamError
from everstream.core.events import HeadersReceived, RequestStart, Seam, StreamEnd
from everstream.core.log import Position
from everstream.runtime import keeper, succession
from everstream.store.base import State

QUICK = {"lease_ms": 400, "lease_renew_ms": 20}


@pytest.fixture(autouse=True)
def often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keeper, "ORPHAN_SEARCH_S", 0.05)
    monkeypatch.setattr(keeper, "DISOWNED_S", 0.3)


def counting(tokens: int, rate: float) -> dict[str, object]:
    return {"tokens": tokens, "rate": rate}


def reasons(entries: list[object]) -> list[tuple[str, str | None]]:
    return [(entry.reason, entry.continuation) for entry in entries if isinstance(entry, Seam)]


async def test_a_draining_node_hands_over_at_once_what_is_carried_on_exactly(store: CountingStore) -> None:
    async with running(store, **QUICK) as one, running(store.beside(), **QUICK) as two:
        feeds = [await one.generate(request("scripted/count", **counting(60, 50.0)), "u", None) for _ in range(40)]
        readers = [Reading(feed) for feed in feeds]
        await until(lambda: all(feed.log.committed > 5 for feed in feeds))
        await asyncio.wait_for(one.drain(10.0), 10)
        assert not one.generating
        assert one.counters.handed_over == len(feeds)
        assert all(store.disk.records[feed.stream].leader == two.id for feed in feeds)
        # Those who read on the old leader go on reading there.
        await until(lambda: all(reader.feed.log.ended for reader in readers))
        await until(lambda: all(reader.offset == reader.feed.log.tail for reader in readers))
        for feed, reader in zip(feeds, readers, strict=True):
            assert reader.text == " ".join(str(n) for n in range(1, 61))
            assert not reader.lost
            entries = store.disk.records[feed.stream].entries
            assert reasons(entries) == [("drain", "exact")]
            assert_legal(entries)


async def test_what_a_hand_over_would_show_may_end_by_itself_first(store: CountingStore) -> None:
    hands = Hand("prompted"), Hand("prompted")
    async with running(store, hands[0], **QUICK) as one, running(store.beside(), hands[1], **QUICK):
        feed, call = await answering(one, hands[0], "half ")
        draining = asyncio.create_task(one.drain(20.0))
        await until(lambda: one.draining)
        call.words("whole")
        call.end()
        await asyncio.wait_for(draining, 10)
        assert not hands[1].calls
        assert reasons(feed.log.entries) == []
        assert feed.log.total().text == "half whole"


async def test_what_does_not_end_in_time_is_handed_over(store: CountingStore) -> None:
    hands = Hand("prompted"), Hand("prompted")
    async with running(store, hands[0], **QUICK) as one, running(store.beside(), hands[1], **QUICK):
        feed, call = await answering(one, hands[0], "half ")
        await asyncio.wait_for(one.drain(0.0), 10)
        assert call.closed
        await until(lambda: len(hands[1].calls) == 1)
        hands[1].calls[0].words("whole")
        hands[1].calls[0].end()
        await until(lambda: feed.log.ended)
        assert reasons(feed.log.entries) == [("drain", "prompted")]
        assert feed.log.total().text == "half whole"


async def test_a_hand_over_is_no_attempt_in_vain(store: CountingStore) -> None:
    """However often it is handed on without a word, it is carried on; and never to one that goes itself."""
    hands = [Hand("prompted") for _ in range(6)]
    async with AsyncExitStack() as stack:
        node = await stack.enter_async_context(running(store, hands[0], **QUICK))
        feed, _ = await answering(node, hands[0], "half ")
        for hand in hands[1:]:
            heir = await stack.enter_async_context(running(store.beside(), hand, **QUICK))
            await asyncio.wait_for(node.drain(0.0), 10)
            await until(lambda hand=hand: len(hand.calls) == 1)
            node = heir
            led = node.hub.get(feed.stream)
            assert led is not None
            await until(lambda led=led: isinstance(led.log.entries[-1], HeadersReceived) and not led.log.dirty)
        hands[-1].calls[0].words("whole")
        hands[-1].calls[0].end()
        await until(lambda: feed.log.ended)
    assert reasons(feed.log.entries) == [("drain", "prompted")] * 5
    assert feed.log.total().text == "half whole"


async def test_with_nobody_to_take_it_the_next_to_start_is_the_heir(store: CountingStore) -> None:
    async with running(store, **QUICK) as one:
        feed = await one.generate(request("scripted/count", **counting(40, 50.0)), "u", None)
        await until(lambda: feed.log.committed > 5)
        await asyncio.wait_for(one.drain(0.0), 10)
    record = store.disk.records[feed.stream]
    assert (record.leader, record.handed, record.ended) == ("", True, False)
    async with running(store.beside(), **QUICK):
        await until(lambda: record.ended)
    assert reasons(record.entries) == [("drain", "exact")]


async def test_a_hint_to_lead_that_is_lost_is_made_good(store: CountingStore) -> None:
    async def deaf(node: str, message: bytes) -> None:
        """Every message is lost."""

    async with running(store, **QUICK) as one:
        other = store.beside()
        async with running(other, **QUICK):
            store.send = deaf  # type: ignore[method-assign]
            feed = await one.generate(request("scripted/count", **counting(40, 50.0)), "u", None)
            await until(lambda: feed.log.committed > 5)
            await asyncio.wait_for(one.drain(10.0), 10)
            await until(lambda: feed.log.ended, 20)
    assert reasons(feed.log.entries) == [("drain", "exact")]


async def test_what_the_store_forgot_is_sent_again_before_it_is_handed_over(store: CountingStore) -> None:
    """A failover lost a suffix and nobody has noticed yet: the leader must not go with the only copy."""
    hands = Hand("exact"), Hand("exact")
    async with running(store, hands[0], **QUICK) as one, running(store.beside(), hands[1], **QUICK):
        feed, _ = await answering(one, hands[0], "half ", "of ", "it")
        record = store.disk.records[feed.stream]
        del record.entries[4:]
        await asyncio.wait_for(one.drain(0.0), 10)
        await until(lambda: len(hands[1].calls) == 1)
        progress = hands[1].calls[0].progress
        assert progress is not None
        assert progress.text == "half of it"


async def test_a_store_that_is_away_for_a_moment_does_not_stop_a_hand_over(
    store: CountingStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(succession, "STORED_S", 0.1)
    hands = Hand("exact"), Hand("exact")
    async with running(store, hands[0], **QUICK) as one, running(store.beside(), hands[1], **QUICK):
        feed, call = await answering(one, hands[0], "half ")
        store.open_gate.clear()  # commits are not answered
        call.words("more ")
        await until(lambda: call.taken == 3)
        draining = asyncio.create_task(one.drain(3.0))
        await until(lambda: call.closed)
        await asyncio.sleep(0.3)  # pause: longer than one try takes
        store.open_gate.set()
        await asyncio.wait_for(draining, 10)
        await until(lambda: len(hands[1].calls) == 1)
        progress = hands[1].calls[0].progress
        assert progress is not None
        assert progress.text == "half more "
        assert one.counters.handed_over == 1
    assert store.disk.records[feed.stream].handed is False


async def test_cancel_during_a_hand_over_is_answered_with_a_fence(store: CountingStore) -> None:
    async with running(store, **QUICK) as one, running(store.beside(), **QUICK):
        feeds = [await one.generate(request("scripted/count", **counting(500, 50.0)), "u", None) for _ in range(20)]
        await until(lambda: all(feed.log.committed > 5 for feed in feeds))
        draining = asyncio.create_task(one.drain(10.0))
        fences = await asyncio.wait_for(asyncio.gather(*(one.cancel(feed.stream) for feed in feeds)), 20)
        await draining
        for feed, fence in zip(feeds, fences, strict=True):
            record = store.disk.records[feed.stream]
            assert record.tail == fence
            assert isinstance(record.entries[-1], StreamEnd)
            assert record.entries[-1].reason == "cancelled"


# --------------------------------------------------------------------------- nodes that only serve clients


async def test_a_node_that_runs_no_models_names_one_that_does(store: CountingStore) -> None:
    async with running(store, **QUICK) as one, running(store.beside(), lead=False, **QUICK) as gateway:
        assert store.disk.leases.keys() == {one.id}
        feed = await gateway.generate(request("scripted/count", **counting(20, 0.0)), "u", "once")
        reader = Reading(feed)
        await until(lambda: reader.offset == feed.log.tail and feed.log.ended)
        assert not feed.led
        assert store.disk.records[feed.stream].leader == one.id
        assert reader.text == " ".join(str(n) for n in range(1, 21))
        assert reasons(feed.log.entries) == []  # nobody led it before
        assert (await gateway.generate(request("scripted/count"), "u", "once")).stream == feed.stream
        assert not gateway.generating


async def test_a_reader_of_what_was_made_for_another_node_goes_on_where_it_was(store: CountingStore) -> None:
    """It was told the epoch in which the stream was made; the one who writes names its own with the first entry."""
    async with running(store, **QUICK), running(store.beside(), lead=False, **QUICK) as gateway:
        feed = await gateway.generate(request("scripted/count", **counting(20, 0.0)), "u", None)
        await until(lambda: feed.log.ended)
        first = feed.log.entries[0]
        assert isinstance(first, RequestStart)
        assert first.epoch == feed.log.epoch
        assert feed.log.locate(Position(first.epoch, 7)) == 7


async def test_cancel_on_such_a_node_gives_the_fence(store: CountingStore) -> None:
    async with running(store, **QUICK), running(store.beside(), lead=False, **QUICK) as gateway:
        feed = await gateway.generate(request("scripted/count", **counting(5000, 100.0)), "u", None)
        await until(lambda: feed.log.committed > 5)
        fence = await asyncio.wait_for(gateway.cancel(feed.stream), 10)
        assert store.disk.records[feed.stream].tail == fence


async def test_without_anybody_who_runs_models_the_request_is_refused(store: CountingStore) -> None:
    async with running(store, lead=False, **QUICK) as gateway:
        with pytest.raises(EverstreamError) as refused:
            await gateway.generate(request("scripted/count"), "u", None)
        assert (refused.value.code, refused.value.retryable) == ("provider.overloaded", True)
    assert not store.disk.records


async def test_such_a_node_adopts_nothing(store: CountingStore) -> None:
    hand = Hand("exact")
    async with running(store.beside(), lead=False, **QUICK) as gateway:
        async with running(store, hand, **QUICK) as one:
            feed, _ = await answering(one, hand, "half")
        await gateway.find(feed.stream)
        async with running(store.beside(), hand, **QUICK) as two:
            await until(lambda: store.disk.records[feed.stream].leader == two.id)


async def test_a_gateway_that_dies_takes_nothing_with_it(store: CountingStore) -> None:
    async with running(store, **QUICK) as one:
        async with running(store.beside(), lead=False, **QUICK) as gateway:
            feed = await gateway.generate(request("scripted/count", **counting(40, 100.0)), "u", None)
            await until(lambda: feed.log.committed > 5)
        record = store.disk.records[feed.stream]
        await until(lambda: record.ended)
        assert len(record.epochs) == 1  # the naming was none
        assert one.counters.streams_adopted == 1


# --------------------------------------------------------------------------- who is taken for dead


async def test_after_an_outage_of_the_store_nobody_is_taken_for_dead(store: CountingStore) -> None:
    """All leases ran out together.  The first to come back must not adopt what the others lead."""
    other = store.beside()
    hand, second = Hand("exact"), Hand("exact")
    async with running(store, hand, **QUICK) as one, running(other, second, **QUICK):
        feeds = [(await answering(one, hand, "half"))[0] for _ in range(8)]
        store.available = other.available = False
        await until(lambda: max(store.disk.leases.values()) < store.disk.clock_ms())
        other.available = True  # a moment before the leader itself
        await until(lambda: max(store.disk.leases.values()) > store.disk.clock_ms())
        await asyncio.sleep(0.1)  # pause: several rounds of the other's keeper
        store.available = True
        await until(lambda: store.disk.dark_until_ms < store.disk.clock_ms())
        await asyncio.sleep(0.1)  # pause: several rounds more, now that the dark is over
        assert all(len(store.disk.records[feed.stream].epochs) == 1 for feed in feeds)
        assert not second.calls


async def test_a_node_that_was_cut_off_itself_takes_nobody_for_dead(store: CountingStore) -> None:
    """The store was away for less than a lease: that of one node ran out in it, and another's did not."""
    other = store.beside()
    hand, second = Hand("exact"), Hand("exact")
    async with running(store, hand, **QUICK) as one, running(other, second, **QUICK) as two:
        feed, _ = await answering(one, hand, "half")
        store.available = other.available = False
        store.disk.leases[two.id] += 10_000
        await until(lambda: store.disk.leases[one.id] < store.disk.clock_ms())
        other.available = True  # a moment before the leader itself
        await until(lambda: store.disk.leases[two.id] < store.disk.clock_ms() + 5_000)  # it is back
        await asyncio.sleep(0.1)  # pause: several rounds of its keeper
        store.available = True
        await until(lambda: store.disk.leases[one.id] > store.disk.clock_ms())
        assert len(store.disk.records[feed.stream].epochs) == 1
        assert not second.calls


async def test_who_does_not_come_back_after_an_outage_is_dead_after_a_lease(store: CountingStore) -> None:
    hand, second = Hand("exact"), Hand("exact")
    other = store.beside()
    async with running(store, hand, **QUICK) as one, running(other, second, **QUICK) as two:
        feed, _ = await answering(one, hand, "half")
        store.available = other.available = False
        await until(lambda: max(store.disk.leases.values()) < store.disk.clock_ms())
        other.available = True
        await until(lambda: store.disk.records[feed.stream].leader == two.id)
        store.available = True


async def test_a_node_that_drains_adopts_nothing_more(store: CountingStore) -> None:
    hand = Hand("exact")
    async with running(store.beside(), Hand("exact"), **QUICK) as going:
        await going.drain(0.0)
        async with running(store, hand, **QUICK) as one:
            feed, _ = await started(one, hand)
        await asyncio.sleep(0.1)  # pause: several rounds of its keeper
        assert store.disk.records[feed.stream].leader != going.id


async def test_named_while_it_goes_itself_a_node_passes_the_stream_on(store: CountingStore) -> None:
    hands = Hand("exact"), Hand("exact"), Hand("exact")
    async with (
        running(store, hands[0], **QUICK) as one,
        running(store.beside(), hands[1], **QUICK) as two,
        running(store.beside(), hands[2], **QUICK) as three,
    ):
        feed, _ = await answering(one, hands[0], "half")
        await two.drain(0.0)
        await one.drain(0.0)
        await until(lambda: len(hands[2].calls) == 1)
        assert store.disk.records[feed.stream].leader == three.id
        assert not hands[1].calls


async def test_adopting_many_streams_does_not_cost_a_node_its_own_lease(store: CountingStore) -> None:
    """Each adoption takes a while; all together take longer than a lease."""
    other = store.beside()
    adopt, leases = other.adopt, []

    async def slowly(stream: str, leader: str) -> State | None:
        await asyncio.sleep(0.05)  # pause: a store under load
        leases.append(max(store.disk.leases.values()) - store.disk.clock_ms())  # its own: nobody else is there
        return await adopt(stream, leader)

    hand = Hand("exact")
    async with running(store, hand, **QUICK) as one:
        feeds = [(await answering(one, hand, "half"))[0] for _ in range(20)]
    other.adopt = slowly  # type: ignore[method-assign]
    async with running(other, Hand("exact"), **QUICK) as two:
        await until(lambda: all(store.disk.records[feed.stream].leader == two.id for feed in feeds))
    assert len(leases) == len(feeds)
    assert min(leases) > 0
