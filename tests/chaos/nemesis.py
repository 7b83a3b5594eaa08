"""Chance that breaks things: a seeded choice of faults over three nodes, a store, and the networks between them.

Each fault is a coroutine that breaks something, waits, and mends it; so between two rounds all is well, and whatever is
wrong then is ours.  One node is never ended, so that its memory and its descriptors can be watched over hours.
"""

from __future__ import annotations

import asyncio
import os
import random
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path

from tests.chaos.nodes import Nodes
from tests.chaos.proxy import Proxy
from tests.chaos.scenario import Round
from tests.server import ServerFailed
from tests.store.servers import StoreServer

from everstream.store.resp import ServerError

LONGEST_S = 4.0
TOLD_S, TELL_AGAIN_S = 30.0, 0.1
LEADER_SHARE = 0.5
RESETS = 30
CANCELS = 5


@dataclass
class World:
    """Nodes, each behind a proxy to its clients and with one to the store.  `spared` is never ended."""

    nodes: Nodes
    store: StoreServer
    before: list[Proxy]  # clients come through them
    behind: list[Proxy]  # the store is reached through them
    chance: random.Random
    spared: int
    leader: int = 0  # where the streams of this round began
    told: Counter[str] = field(default_factory=Counter)
    one_at_a_time: asyncio.Lock = field(default_factory=asyncio.Lock)  # for what happens to nodes

    def mortal(self) -> int:
        """A node that may be ended: half the time the one where the streams began."""
        if self.leader != self.spared and self.chance.random() < LEADER_SHARE:
            return self.leader
        return self.chance.choice([n for n in range(len(self.nodes)) if n != self.spared])

    async def tell_store(self, command: str) -> None:
        """Until it has heard it: another fault may have it away just now."""
        async with asyncio.timeout(TOLD_S):
            while True:
                try:
                    await self.store.ask(command)
                    return
                except (OSError, EOFError, ServerError, TimeoutError):
                    await asyncio.sleep(TELL_AGAIN_S)  # pause: between two tries to reach the store

    async def supervised(self, n: int) -> None:
        """Start a node as a supervisor does: one that finds no store ends, and is started again."""
        deadline = asyncio.get_running_loop().time() + TOLD_S
        while True:
            try:
                await self.nodes.again(n)
                return
            except ServerFailed:
                if asyncio.get_running_loop().time() > deadline:
                    raise

    async def while_it_lasts(self) -> None:
        await asyncio.sleep(self.chance.uniform(0.1, LONGEST_S))  # pause: how long the fault lasts


async def node_killed(world: World, round: Round) -> None:
    async with world.one_at_a_time:
        n = world.mortal()
        await world.nodes.kill(n)
        await world.while_it_lasts()
        await world.supervised(n)


async def node_restarted(world: World, round: Round) -> None:
    async with world.one_at_a_time:
        n = world.mortal()
        assert await world.nodes.terminate(n) == 0
        await world.supervised(n)


async def node_asleep(world: World, round: Round) -> None:
    async with world.one_at_a_time:
        n = world.chance.randrange(len(world.nodes))
        world.nodes[n].suspend()
        try:
            await world.while_it_lasts()
        finally:
            world.nodes[n].wake()


async def store_killed(world: World, round: Round) -> None:
    await asyncio.to_thread(world.store.kill)
    await world.while_it_lasts()
    await world.store.start()


async def store_silent(world: World, round: Round) -> None:
    await world.tell_store(f"CLIENT PAUSE {int(world.chance.uniform(100, 1000 * LONGEST_S))} ALL")


async def store_out_of_memory(world: World, round: Round) -> None:
    await world.tell_store("CONFIG SET maxmemory 1")
    await world.while_it_lasts()
    await world.tell_store("CONFIG SET maxmemory 0")


async def store_unreachable(world: World, round: Round) -> None:
    """For one node, with or without a word."""
    proxy = world.chance.choice(world.behind)
    if world.chance.random() < 0.5:
        proxy.stall(up=world.chance.random() < 0.7)
    else:
        proxy.refuse()
    await world.while_it_lasts()
    proxy.accept()
    proxy.flow()


async def store_slow(world: World, round: Round) -> None:
    for proxy in world.behind:
        proxy.delay_s = world.chance.uniform(0.01, 0.1)
    await world.while_it_lasts()
    for proxy in world.behind:
        proxy.delay_s = 0.0


async def store_connections_reset(world: World, round: Round) -> None:
    for _ in range(RESETS):
        world.chance.choice(world.behind).reset()
        await asyncio.sleep(world.chance.uniform(0.005, 0.2))  # pause: between two resets


async def clients_reset(world: World, round: Round) -> None:
    for _ in range(RESETS):
        world.chance.choice(world.before).reset()
        await asyncio.sleep(world.chance.uniform(0.005, 0.2))  # pause: between two resets


async def clients_stalled(world: World, round: Round) -> None:
    proxy = world.chance.choice(world.before)
    proxy.stall(up=world.chance.random() < 0.7, down=world.chance.random() < 0.7)
    await world.while_it_lasts()
    proxy.flow()


async def streams_cancelled(world: World, round: Round) -> None:
    some = world.chance.sample(round.streams, CANCELS)
    viewers = [world.chance.choice(round.viewers) for _ in some]
    fences = await asyncio.gather(*(viewer.cancel(stream) for viewer, stream in zip(viewers, some, strict=True)))
    round.fences |= dict(zip(some, fences, strict=True))


Fault = Callable[[World, Round], Awaitable[None]]
FAULTS: tuple[Fault, ...] = (
    node_killed,
    node_restarted,
    node_asleep,
    store_killed,
    store_silent,
    store_out_of_memory,
    store_unreachable,
    store_slow,
    store_connections_reset,
    clients_reset,
    clients_stalled,
    streams_cancelled,
)


async def strike(world: World, round: Round, most: int) -> int:
    """One to `most` different faults, at random moments, some of them at the same time.  How many."""
    count = world.chance.randint(1, most)

    async def one(fault: Fault, after_s: float) -> None:
        await asyncio.sleep(after_s)  # pause: a moment that nobody chose
        world.told[fault.__name__] += 1
        await fault(world, round)

    chosen = world.chance.sample(FAULTS, count)
    async with asyncio.TaskGroup() as struck:
        for fault in chosen:
            struck.create_task(one(fault, world.chance.uniform(0.0, 2.0)))
    return count


# --------------------------------------------------------------------------- what grows


@dataclass(frozen=True)
class Holding:
    """What a process holds at a moment."""

    at_s: float
    memory_bytes: int
    descriptors: int


def holding(pid: int, at_s: float) -> Holding:
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return Holding(at_s, pages * os.sysconf("SC_PAGE_SIZE"), len(os.listdir(f"/proc/{pid}/fd")))


def slope_per_hour(points: list[tuple[float, float]]) -> float:
    """Of the line that fits best, by least squares; times are seconds.  0 for fewer than two points."""
    count = len(points)
    mean_x = sum(x for x, _ in points) / max(count, 1)
    mean_y = sum(y for _, y in points) / max(count, 1)
    spread = sum((x - mean_x) ** 2 for x, _ in points)
    return 3600 * sum((x - mean_x) * (y - mean_y) for x, y in points) / spread if spread else 0.0
