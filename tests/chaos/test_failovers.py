"""The store fails under three nodes and their viewers: a cluster of six, and a group under Sentinels.

As long as a stream's leader lives, it holds what a new primary has lost, and sends it again: nothing is lost.  Where
the leader dies in the same second as the primary, the store may come back with less than people saw.  Then each of
them is told so by a snapshot at an older offset, and never silently; where replicas had to acknowledge, not even that.

Each server of the cluster has an address of its own in a cage, so that a machine can vanish without closing its
connections, which is what a power cut looks like to the others.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from tests.chaos.cage import Cage, Party, caged, unavailable
from tests.chaos.nodes import Nodes, reading_store, running_nodes
from tests.chaos.oracle import Figures
from tests.chaos.scenario import Round, round_of
from tests.store.cluster import Cluster, Member, Sentinels

from everstream.core.lease import partition_of
from everstream.store.base import Store

NODES, STREAMS = 3, 20
TOKENS, RATE = 400, 50.0  # eight seconds
HOSTS = [f"127.0.1.{n}" for n in range(1, 7)]
GROUPS = [5001, 5002, 5003]
LINK_LOST_S = 0.5  # before the machine is
SPLIT_S = 8.0
FROZEN_S = 4.0
ROUND_S = 60.0
ROUNDS = 5

pytestmark = pytest.mark.skipif(bool(unavailable()), reason=unavailable())


@pytest.fixture
def cage() -> Iterator[Cage]:
    with caged() as cage:
        cage.know(GROUPS)
        yield cage


@dataclass
class Scene:
    """A round in front of a failing store."""

    round: Round
    nodes: Nodes
    group: Cluster | Sentinels
    cage: Cage
    chance: random.Random
    leader: int = 0  # the node that leads all streams

    async def primary(self) -> Member:
        """That of one of the streams."""
        return await self.group.primary_of(partition_of(self.round.streams[0]))

    async def failed_over(self, old: Member) -> None:
        await self.group.failed_over(partition_of(self.round.streams[0]), old)

    async def return_of(self, member: Member) -> None:
        self.cage.heal()
        if not member.running:
            await self.group.restart(member)
        await self.group.healthy()


@asynccontextmanager
async def group_of(group: Cluster | Sentinels) -> AsyncIterator[Cluster | Sentinels]:
    try:
        yield await group.start()
    finally:
        await asyncio.to_thread(group.close)


# --------------------------------------------------------------------------- what happens to the store


async def primary_killed(scene: Scene) -> Member:
    primary = await scene.primary()
    scene.group.kill(primary)
    return primary


async def machine_lost(scene: Scene) -> Member:
    """Its replica is behind by half a second, and it goes without closing anything."""
    primary = await scene.primary()
    replica = await scene.group.replica_of(primary)
    scene.cage.cut([primary.host], [replica.host])
    await asyncio.sleep(LINK_LOST_S)  # pause: what is written meanwhile will be lost
    scene.cage.lose(primary.host)
    scene.group.kill(primary)
    return primary


async def split_brain(scene: Scene) -> Member:
    """The primary and the leading node hear each other, and nobody else."""
    primary = await scene.primary()
    island: list[Party] = [primary.host, GROUPS[scene.leader]]
    others: list[Party] = [host for host in HOSTS if host != primary.host]
    others += [group for group in GROUPS if group not in island]
    scene.cage.cut(island, others)
    await asyncio.sleep(SPLIT_S)  # pause: time for both sides to go their own way
    return primary


async def primary_frozen(scene: Scene) -> Member:
    primary = await scene.primary()
    scene.group.stop_(primary)
    try:
        await asyncio.sleep(FROZEN_S)  # pause: longer than it takes to replace it
    finally:
        scene.group.cont(primary)
    return primary


async def slots_moved(scene: Scene) -> Member:
    """Every partition that has a stream moves to another primary, with all its keys, under load."""
    assert isinstance(scene.group, Cluster)
    cluster = scene.group
    primaries = list({id(member): member for member in (await cluster.primaries()).values()}.values())
    source = await scene.primary()
    for partition in {partition_of(stream) for stream in scene.round.streams}:
        source = await cluster.primary_of(partition)
        target = scene.chance.choice([member for member in primaries if member is not source])
        await cluster.move_slot(partition, target)
    return source


async def leader_and_primary_lost(scene: Scene) -> Member:
    """All that only they had is gone."""
    primary = await machine_lost(scene)
    await scene.nodes.kill(scene.leader)
    return primary


Fault = Callable[[Scene], Awaitable[Member]]


async def struck(
    nodes: Nodes,
    reading: Store,
    group: Cluster | Sentinels,
    cage: Cage,
    chance: random.Random,
    fault: Fault,
    tokens: int,
) -> Figures:
    """One round with this fault in it, and everything mended again."""
    async with round_of(nodes, reading, chance) as round:
        scene = Scene(round, nodes, group, cage, chance, chance.randrange(NODES))
        await round.begin(scene.leader, STREAMS, tokens, RATE)
        await asyncio.sleep(chance.uniform(0.3, 1.0))  # pause: a moment that nobody chose
        round.struck()
        member = await fault(scene)
        if fault not in (slots_moved, split_brain, primary_frozen):
            await scene.failed_over(member)
        await scene.return_of(member)
        if not nodes[scene.leader].running:
            await nodes.again(scene.leader)
        return await round.finish(ROUND_S)


async def rounds_of(
    group: Cluster | Sentinels,
    fault: Fault,
    rounds: int,
    tmp_path: Path,
    cage: Cage,
    chance: random.Random,
    tokens: int = TOKENS,
    **settings: Any,
) -> Figures:
    """Figures of so many rounds.  Fails where anything is wrong but an announced loss."""
    total = Figures()
    async with group_of(group):
        nodes = Nodes(tmp_path, group.url, NODES, groups=GROUPS, **settings)
        async with running_nodes(nodes), reading_store(group.url, tmp_path) as reading:
            for n in range(rounds):
                figures = await struck(nodes, reading, group, cage, chance, fault, tokens)
                assert not figures.wrong, f"round {n}: {figures.wrong}: {figures.line('', 1)}"
                total.add(figures)
            repaired = await nodes.metric_of_all("everstream_gaps_repaired")
            name = f"{type(group).__name__.lower()}: {fault.__name__.replace('_', ' ')}"
            more = {name: value for name, value in settings.items() if name == "acks"}
            print(total.line(name, rounds, suffixes_sent_again=int(repaired), **more))
    return total


async def test_a_primary_is_killed_and_nobody_loses_a_word(tmp_path: Path, cage: Cage, chance: random.Random) -> None:
    figures = await rounds_of(Cluster(tmp_path, hosts=HOSTS), primary_killed, 1, tmp_path, cage, chance, 200)
    assert figures.announced == 0


@pytest.mark.chaos
@pytest.mark.parametrize(
    "fault", [primary_killed, machine_lost, primary_frozen, slots_moved], ids=lambda fault: fault.__name__
)
async def test_while_leaders_live_a_failing_cluster_loses_nothing(
    fault: Fault, tmp_path: Path, cage: Cage, chance: random.Random
) -> None:
    figures = await rounds_of(Cluster(tmp_path, hosts=HOSTS), fault, ROUNDS, tmp_path, cage, chance)
    assert figures.announced == 0


@pytest.mark.chaos
async def test_a_split_brain_heals_into_one_history(tmp_path: Path, cage: Cage, chance: random.Random) -> None:
    """The leader on the island is replaced.  What it wrote there is lost with the island, and its viewers are told."""
    await rounds_of(Cluster(tmp_path, hosts=HOSTS), split_brain, ROUNDS, tmp_path, cage, chance)


@pytest.mark.chaos
async def test_a_leader_lost_with_its_primary_is_announced_and_never_silent(
    tmp_path: Path, cage: Cage, chance: random.Random
) -> None:
    figures = await rounds_of(Cluster(tmp_path, hosts=HOSTS), leader_and_primary_lost, ROUNDS, tmp_path, cage, chance)
    assert figures.announced > 0


@pytest.mark.chaos
async def test_where_replicas_acknowledge_a_leader_lost_with_its_primary_costs_nothing(
    tmp_path: Path, cage: Cage, chance: random.Random
) -> None:
    cluster = Cluster(tmp_path, hosts=HOSTS)
    acks: dict[str, Any] = {"acks": "replica", "acks_timeout_ms": 5_000}
    figures = await rounds_of(cluster, leader_and_primary_lost, ROUNDS, tmp_path, cage, chance, **acks)
    assert figures.announced == 0


@pytest.mark.chaos
@pytest.mark.parametrize("fault", [primary_killed, machine_lost], ids=lambda fault: fault.__name__)
async def test_under_sentinels_a_failover_loses_nothing(
    fault: Fault, tmp_path: Path, cage: Cage, chance: random.Random
) -> None:
    hosts = [f"127.0.2.{n}" for n in range(1, 7)]
    figures = await rounds_of(Sentinels(tmp_path, hosts=hosts), fault, ROUNDS, tmp_path, cage, chance)
    assert figures.announced == 0
