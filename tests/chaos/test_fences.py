"""A cancel is always answered, and nothing ever comes after the offset that the answer names.

It is asked of another node, of a stream whose leader has just died or sleeps, twice at once from two nodes, after the
end, and while the store is away.  The fence is looked at again after everybody who might write has woken up.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest
from tests.chaos.nodes import Nodes, reading_store, running_nodes
from tests.chaos.oracle import Figures, quantile
from tests.chaos.scenario import Round, round_of
from tests.store.servers import StoreServer

from everstream.store.base import Store

NODES, STREAMS = 3, 8
TOKENS, RATE = 100_000, 40.0  # as good as endless
SHORT_TOKENS = 10
ZOMBIE_S = 1.0  # time for one that woke up to try what it had in mind


@pytest.fixture
async def nodes(tmp_path: Path, store: StoreServer) -> AsyncIterator[Nodes]:
    async with running_nodes(Nodes(tmp_path, store.tcp_url, NODES)) as nodes:
        yield nodes


@pytest.fixture
async def reading(tmp_path: Path, store: StoreServer) -> AsyncIterator[Store]:
    async with reading_store(store.tcp_url, tmp_path) as reading:
        yield reading


class Cancelling:
    """A round with its fault.  `leader` runs the streams; viewers of the other nodes cancel them."""

    def __init__(self, round: Round, nodes: Nodes, store: StoreServer, leader: int, chance: random.Random) -> None:
        self.round = round
        self.nodes = nodes
        self.store = store
        self.leader = leader
        self.chance = chance
        self.waits_s: list[float] = []

    async def begin(self, tokens: int = TOKENS) -> list[str]:
        streams = await self.round.begin(self.leader, STREAMS, tokens, RATE)
        await asyncio.sleep(self.chance.uniform(0.0, 0.6))  # pause: a moment that nobody chose
        return streams

    async def cancel(self, viewer: int, stream: str) -> int:
        loop = asyncio.get_running_loop()
        began = loop.time()
        fence = await self.round.viewers[viewer % NODES].cancel(stream)
        self.waits_s.append(loop.time() - began)
        return fence

    async def cancel_all(self, viewer: int, streams: list[str]) -> dict[str, int]:
        fences = await asyncio.gather(*(self.cancel(viewer, stream) for stream in streams))
        return dict(zip(streams, fences, strict=True))


async def from_another_node(it: Cancelling) -> dict[str, int]:
    return await it.cancel_all(it.leader + 1, await it.begin())


async def twice_at_once(it: Cancelling) -> dict[str, int]:
    streams = await it.begin()
    first, second = await asyncio.gather(
        it.cancel_all(it.leader + 1, streams), it.cancel_all(it.leader + it.chance.choice([0, 2]), streams)
    )
    assert first == second
    return first


async def after_the_end(it: Cancelling) -> dict[str, int]:
    streams = await it.begin(SHORT_TOKENS)
    viewer = it.round.viewers[(it.leader + 1) % NODES]
    assert await viewer.all_ended(streams, 20)
    fences = await it.cancel_all(it.leader + 1, streams)
    assert fences == {stream: viewer.streams[stream].offset for stream in streams}
    return fences


async def of_a_dead_leader(it: Cancelling) -> dict[str, int]:
    streams = await it.begin()
    await it.nodes.kill(it.leader)
    await asyncio.sleep(it.chance.choice([0.0, 0.5, 1.5, 2.0]))  # pause: before, in and after its adoption
    fences = await it.cancel_all(it.leader + 1, streams)
    await it.nodes.again(it.leader)
    return fences


async def of_a_sleeping_leader(it: Cancelling) -> dict[str, int]:
    streams = await it.begin()
    it.nodes[it.leader].suspend()
    try:
        await asyncio.sleep(it.chance.choice([0.0, 0.5, 1.5, 2.0]))  # pause: before, in and after its adoption
        return await it.cancel_all(it.leader + 1, streams)
    finally:
        it.nodes[it.leader].wake()


async def while_the_store_is_away(it: Cancelling) -> dict[str, int]:
    streams = await it.begin()
    await asyncio.to_thread(it.store.kill)
    asking = asyncio.create_task(it.cancel_all(it.leader + it.chance.choice([0, 1]), streams))
    try:
        await asyncio.sleep(it.chance.uniform(0.0, 1.0))  # pause: a moment that nobody chose
        await it.store.start()
        return await asking
    finally:
        asking.cancel()
        await asyncio.gather(asking, return_exceptions=True)


WAYS: dict[str, Callable[[Cancelling], Awaitable[dict[str, int]]]] = {
    way.__name__: way
    for way in (
        from_another_node,
        twice_at_once,
        after_the_end,
        of_a_dead_leader,
        of_a_sleeping_leader,
        while_the_store_is_away,
    )
}


async def fenced(
    way: str, nodes: Nodes, reading: Store, store: StoreServer, chance: random.Random, leader: int
) -> tuple[Figures, list[float]]:
    """The figures, and how long each answer took.  Fails where a fence does not hold."""
    async with round_of(nodes, reading, chance) as round:
        it = Cancelling(round, nodes, store, leader, chance)
        fences = await WAYS[way](it)
        figures = await round.finish(whole=False)
        assert not figures.wrong, figures.line(way, 1)
        await asyncio.sleep(ZOMBIE_S)  # pause: who still believes to lead has to try
        assert await round.past(fences) == 0
    return figures, it.waits_s


async def test_a_cancel_of_a_dead_leaders_streams_is_answered_with_a_fence_that_holds(
    nodes: Nodes, reading: Store, store: StoreServer, chance: random.Random
) -> None:
    figures, waits_s = await fenced("of_a_dead_leader", nodes, reading, store, chance, 0)
    print(figures.line("cancel of a dead leader", 1, answered_within=f"{max(waits_s):.3f} s"))


@pytest.mark.chaos
@pytest.mark.parametrize("way", WAYS)
async def test_twenty_rounds_of_cancels_are_answered_with_fences_that_hold(
    way: str, nodes: Nodes, reading: Store, store: StoreServer, chance: random.Random
) -> None:
    rounds, total, waits_s = 20, Figures(), list[float]()
    for n in range(rounds):
        figures, waited_s = await fenced(way, nodes, reading, store, chance, n % NODES)
        total.add(figures)
        waits_s += waited_s
    answered = f"p50 {quantile(waits_s, 0.5):.3f} p99 {quantile(waits_s, 0.99):.2f} max {max(waits_s):.2f} s"
    print(total.line(f"cancel {way.replace('_', ' ')}", rounds, fences=len(waits_s), answered=answered))
