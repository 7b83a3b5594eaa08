"""The store fails over under fifteen devices in one session: all end with what the store then holds.

As long as the session's leader lives it sends again what a new primary has lost, and nobody notices but for a pause.
Where the leader dies in the same second, the store may come back with less than people saw: then a `snapshot` says so
to each device, and they are the same again.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from tests.chaos.cage import Cage, caged, unavailable
from tests.chaos.nodes import Nodes, reading_store, running_nodes
from tests.chaos.people import guarded, party_of
from tests.chaos.test_failovers import (
    GROUPS,
    HOSTS,
    Scene,
    group_of,
    leader_and_primary_lost,
    machine_lost,
    primary_killed,
)
from tests.chaos.test_people import NODES, SETTINGS, only_allowed, scouts_of, told
from tests.store.cluster import Cluster, Member, Sentinels

ROUNDS = 5
BETWEEN_S = 4.0  # two failovers: people talk
NO_LIMIT_S = 600.0
LOST = ("stream.unknown", "request.not_found", "provider.overloaded")  # what may be said of what has gone

pytestmark = [pytest.mark.chaos, pytest.mark.skipif(bool(unavailable()), reason=unavailable())]
Fault = Callable[[Scene], Awaitable[Member]]


@pytest.fixture
def cage() -> Iterator[Cage]:
    with caged() as cage:
        cage.know(GROUPS)
        yield cage


@dataclass
class Talk:
    """What a `Scene` knows of the session: the stream by whose partition a primary is found."""

    streams: list[str]


async def failing_over(
    group: Cluster | Sentinels, fault: Fault, tmp_path: Path, cage: Cage, chance: random.Random, *, lossy: bool
) -> None:
    nodes = guarded(Nodes(tmp_path, group.url, NODES, groups=GROUPS, **SETTINGS))
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(group_of(group))
        await stack.enter_async_context(running_nodes(nodes))
        reading = await stack.enter_async_context(reading_store(group.url, tmp_path))
        party = await stack.enter_async_context(party_of(nodes.addresses(), reading, chance))
        scouts = await stack.enter_async_context(scouts_of(nodes, party, chance))
        began = time.monotonic()
        talking = asyncio.create_task(party.talk(NO_LIMIT_S))
        try:
            for _ in range(ROUNDS):
                await asyncio.sleep(BETWEEN_S * chance.uniform(0.5, 1.0))  # pause: a moment that nobody chose
                talk: Any = Talk([party.session])
                scene = Scene(talk, nodes, group, cage, chance, await scouts.leader())
                member = await fault(scene)
                await scene.failed_over(member)
                await scene.return_of(member)
                if not nodes[scene.leader].running:
                    await nodes.again(scene.leader)
        finally:
            party.stop()
            await talking
        entries = await party.settled()
        judgement = await party.judged(entries, lossy=lossy)
        name = f"people, {type(group).__name__.lower()}: {fault.__name__.replace('_', ' ')}"
        silence = max(device.longest_silence for device in party.every)
        print(
            f"{name}: {ROUNDS} faults; {judgement.lost} accepted turns lost and announced, "
            f"{judgement.other} answers whose streams end otherwise, {judgement.differ} read to an end that was lost; "
            f"longest silence {silence:.1f} s; {told(party, judgement, began)}"
        )
        judgement.clean()
        only_allowed(party, *(LOST if lossy else ()))


@pytest.mark.parametrize("fault", [primary_killed, machine_lost], ids=["killed", "vanished"])
async def test_people_hold_the_same_over_failovers(
    fault: Fault, tmp_path: Path, cage: Cage, chance: random.Random
) -> None:
    hosts = [f"127.0.2.{n}" for n in range(1, 7)]
    await failing_over(Sentinels(tmp_path, hosts=hosts), fault, tmp_path, cage, chance, lossy=False)


async def test_people_hold_the_same_whatever_a_failover_has_lost(
    tmp_path: Path, cage: Cage, chance: random.Random
) -> None:
    await failing_over(Cluster(tmp_path, hosts=HOSTS), leader_and_primary_lost, tmp_path, cage, chance, lossy=True)
