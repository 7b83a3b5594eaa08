"""For minutes or hours, one random fault after another, and several at once: nothing is lost, and nothing grows.

make soak                                          ten minutes
EVERSTREAM_SOAK_MINUTES=60 make soak               as long as you like
EVERSTREAM_CHAOS_SEED=7 make soak                  the same choices again
"""

from __future__ import annotations

import asyncio
import os
import random
import time
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
from tests.chaos.nemesis import Holding, World, holding, slope_per_hour, strike
from tests.chaos.nodes import Nodes, reading_store, running_nodes
from tests.chaos.oracle import Figures
from tests.chaos.proxy import Proxy, proxied
from tests.chaos.scenario import Round
from tests.chaos.viewer import Viewer
from tests.server import HOST
from tests.store.servers import StoreServer

from everstream.store.base import Store

NODES, SPARED = 3, 2
STREAMS, TOKENS, RATE = 20, 200, 50.0
FAULTS_AT_ONCE_MAX = 3
ROUND_S = 90.0
SHORT_S = 120.0
MINUTES = float(os.environ.get("EVERSTREAM_SOAK_MINUTES") or 10)
WARM_SHARE = 0.3  # of the time is left out of the slopes: caches fill first
DESCRIPTORS_MAX = 40  # more than at the first look
MEMORY_MAX_BYTES = 128 * 1024 * 1024


async def one_round(world: World, reading: Store) -> tuple[Figures, int]:
    """Its figures, and how many faults there were.  Fails where anything is wrong."""
    addresses = [(HOST, proxy.port) for proxy in world.before]
    async with AsyncExitStack() as stack:
        viewers = [
            await stack.enter_async_context(Viewer(addresses[n:] + addresses[:n], world.chance)) for n in range(NODES)
        ]
        await asyncio.gather(*(viewer.is_open() for viewer in viewers))
        round = Round(world.nodes, reading, viewers)
        world.leader = world.chance.randrange(NODES)
        await round.begin(world.leader, STREAMS, TOKENS, RATE)
        round.struck()
        faults = await strike(world, round, FAULTS_AT_ONCE_MAX)
        figures = await round.finish(ROUND_S, whole=False)
        assert not figures.wrong, figures.line("wrong", faults)
        assert await round.past(round.fences) == 0
        round.check_whole()
    return figures, faults


async def soaked(tmp_path: Path, store: StoreServer, chance: random.Random, lasting_s: float) -> list[Holding]:
    """What the spared node held after each round.  Fails where anything is lost, announced or not."""
    began, total, faults = time.monotonic(), Figures(), 0
    held: list[Holding] = []
    async with AsyncExitStack() as stack:

        async def proxy_to(port: int) -> Proxy:
            return await stack.enter_async_context(proxied(port))

        behind = [await proxy_to(store.port) for _ in range(NODES)]
        nodes = Nodes(tmp_path, [proxy.url for proxy in behind], NODES, linger_s=5)
        await stack.enter_async_context(running_nodes(nodes))
        before = [await proxy_to(server.port) for server in nodes.servers]
        reading = await stack.enter_async_context(reading_store(store.tcp_url, tmp_path))
        world = World(nodes, store, before, behind, chance, SPARED)
        try:
            while time.monotonic() - began < lasting_s:
                figures, struck = await one_round(world, reading)
                faults += struck
                total.add(figures)
                held.append(holding(nodes[SPARED].pid, time.monotonic() - began))
        except BaseException as error:
            error.add_note(f"after {time.monotonic() - began:.0f} s and {faults} faults: {dict(world.told)}")
            raise
        print(total.line(f"{lasting_s / 60:.1f} min of random faults {dict(world.told)}", faults, grew=growth(held)))
    assert total.announced == 0
    return held


def growth(held: list[Holding]) -> str:
    """Of the spared node, once it is warm."""
    warm = held[int(len(held) * WARM_SHARE) :]
    memory = slope_per_hour([(each.at_s, each.memory_bytes / 2**20) for each in warm])
    descriptors = slope_per_hour([(each.at_s, each.descriptors) for each in warm])
    last = held[-1]
    now = f"{last.memory_bytes / 2**20:.0f} MiB and {last.descriptors} descriptors at the end"
    return f"{memory:+.1f} MiB and {descriptors:+.1f} descriptors an hour, {now}"


@pytest.mark.chaos
async def test_two_minutes_of_random_faults_lose_nothing(
    tmp_path: Path, store: StoreServer, chance: random.Random
) -> None:
    await soaked(tmp_path, store, chance, SHORT_S)


@pytest.mark.soak
async def test_random_faults_for_long_lose_nothing_and_leave_nothing(
    tmp_path: Path, store: StoreServer, chance: random.Random
) -> None:
    held = await soaked(tmp_path, store, chance, MINUTES * 60)
    assert held[-1].descriptors < held[0].descriptors + DESCRIPTORS_MAX
    assert held[-1].memory_bytes < held[0].memory_bytes + MEMORY_MAX_BYTES
