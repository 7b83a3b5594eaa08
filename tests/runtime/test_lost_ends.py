"""What a node has read of streams that others lead, and a failover has lost since."""

from __future__ import annotations

from dataclasses import replace

import pytest
from tests.runtime.conftest import CountingStore, Hand, answering, running, until

from everstream.runtime import follower, hub

QUICK = {"lease_ms": 60_000, "lease_renew_ms": 20}


async def test_an_end_that_the_store_has_lost_is_no_end(store: CountingStore, hand: Hand) -> None:
    async with running(store, hand, **QUICK) as leader, running(store.beside(), hand, **QUICK) as other:
        feed, call = await answering(leader, hand, "a", "b")
        followed = await other.hub.find(feed.stream)
        assert followed is not None
        call.end()
        await followed.wait_ended()
        assert await other.hub.confirmed(followed)
        assert await leader.hub.confirmed(feed)
        record = store.disk.records[feed.stream]
        store.disk.records[feed.stream] = replace(record, entries=record.entries[:4], ended=False)
        assert not await other.hub.confirmed(followed)
        again = await other.hub.find(feed.stream)
        assert again is not None
        assert again.log.tail == 4


async def test_a_followed_stream_that_the_store_has_lost_whole_is_forgotten(
    store: CountingStore, hand: Hand, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(follower, "CHECK_S", 0.02)
    monkeypatch.setattr(hub, "CATCH_UP_S", 0.1)
    async with running(store, hand, **QUICK) as leader, running(store.beside(), hand, **QUICK) as other:
        feed, _ = await answering(leader, hand, "a")
        assert await other.hub.find(feed.stream) is not None
        leader.hub.drop(feed.stream)  # nobody is there who could send it again
        del store.disk.records[feed.stream]
        await until(lambda: other.hub.get(feed.stream) is None)
        assert await other.hub.find(feed.stream) is None
