"""Nodes that only serve clients, nodes that only lead, and several nodes behind one port: each kind dies in turn.

A gateway (`--no-lead`) leads nothing, so its death is a reconnection and a replay, without any seam.  A leading node's
streams are carried on by another one that may lead, and never by a gateway.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from tests.chaos.nodes import Nodes, reading_store, running_nodes
from tests.chaos.oracle import Figures
from tests.chaos.scenario import round_of
from tests.store.servers import StoreServer

from everstream.store.base import Store

GATEWAYS, LEADERS = (0, 1), (2, 3)
STREAMS, TOKENS, RATE = 20, 120, 60.0
WORKERS = 2


@pytest.fixture
async def reading(tmp_path: Path, store: StoreServer) -> AsyncIterator[Store]:
    async with reading_store(store.tcp_url, tmp_path) as reading:
        yield reading


@pytest.fixture
async def nodes(tmp_path: Path, store: StoreServer) -> AsyncIterator[Nodes]:
    """Two gateways and two nodes that lead."""
    each = {n: {"lead": False} for n in GATEWAYS}
    async with running_nodes(Nodes(tmp_path, store.tcp_url, len(GATEWAYS + LEADERS), each=each)) as nodes:
        yield nodes


async def one_dies(nodes: Nodes, reading: Store, chance: random.Random, at: int, victim: int) -> Figures:
    """Streams are begun through a gateway; a node is killed and comes back."""
    async with round_of(nodes, reading, chance) as round:
        await round.begin(at, STREAMS, TOKENS, RATE)
        await asyncio.sleep(chance.uniform(0.0, 1.0))  # pause: a moment that nobody chose
        round.struck()
        await nodes.kill(victim)
        again = asyncio.create_task(nodes.again(victim))
        try:
            return await round.finish()
        finally:
            await again


async def test_a_gateway_that_dies_costs_its_clients_a_replay_and_no_stream_a_seam(
    nodes: Nodes, reading: Store, chance: random.Random
) -> None:
    figures = await one_dies(nodes, reading, chance, 0, 0)
    print(figures.line("kill -9 of a gateway", 1))
    assert not figures.wrong
    assert (figures.seams, figures.snapshots, figures.announced) == (0, 0, 0)
    assert figures.returns == 1


@pytest.mark.chaos
async def test_thirty_gateways_die_and_no_stream_notices(nodes: Nodes, reading: Store, chance: random.Random) -> None:
    total, deaths = Figures(), 30
    for death in range(deaths):
        figures = await one_dies(nodes, reading, chance, GATEWAYS[death % 2], GATEWAYS[death % 2])
        assert not figures.wrong, f"death {death}: {figures.line('', 1)}"
        total.add(figures)
    print(total.line("kill -9 of a gateway", deaths))
    assert (total.seams, total.snapshots, total.announced) == (0, 0, 0)


@pytest.mark.chaos
async def test_thirty_leaders_behind_gateways_die_and_no_gateway_takes_over(
    nodes: Nodes, reading: Store, chance: random.Random
) -> None:
    total, deaths = Figures(), 30
    for death in range(deaths):
        figures = await one_dies(nodes, reading, chance, GATEWAYS[0], LEADERS[death % 2])
        assert not figures.wrong, f"death {death}: {figures.line('', 1)}"
        total.add(figures)
    print(total.line("kill -9 of a leader behind gateways", deaths))
    assert total.announced == 0
    assert total.seams > 0
    assert [await nodes.metric(n, "everstream_streams_adopted") for n in GATEWAYS] == [0, 0]


# --------------------------------------------------------------------------- several nodes behind one port


@pytest.mark.chaos
async def test_thirty_nodes_behind_one_port_die_and_nothing_is_lost(
    tmp_path: Path, store: StoreServer, reading: Store, chance: random.Random
) -> None:
    total, deaths = Figures(), 30
    nodes = Nodes(tmp_path, store.tcp_url, 1, workers=WORKERS)
    async with running_nodes(nodes):
        for death in range(deaths):
            async with round_of(nodes, reading, chance, viewers=4) as round:
                await round.begin(0, STREAMS, TOKENS, RATE)
                await asyncio.sleep(chance.uniform(0.0, 1.0))  # pause: a moment that nobody chose
                round.struck()
                await nodes.kill_child(0, chance, WORKERS)
                figures = await round.finish()
            assert not figures.wrong, f"death {death}: {figures.line('', 1)}"
            total.add(figures)
    print(total.line(f"kill -9 of one of {WORKERS} nodes behind a port", deaths))
    assert total.announced == 0
    assert total.seams > 0
