"""Networks that reset, stall and come back, between clients and nodes and between nodes and their store.

Clients come through a proxy of ours.  It resets everything every few milliseconds, or holds one direction or both,
which neither side is told.  What is shown is compared with store and truth, as everywhere here; the project's own
Python client is held to the same.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, suppress
from pathlib import Path
from typing import Any

import pytest
from tests.chaos.nodes import Nodes, reading_store, running_nodes
from tests.chaos.oracle import Figures, count_text
from tests.chaos.proxy import Proxy, proxied
from tests.chaos.scenario import Round
from tests.chaos.viewer import Viewer
from tests.server import HOST
from tests.store.servers import StoreServer

from everstream.client import Client
from everstream.reconnect import Backoff
from everstream.store.base import Store

NODES = 2
SHORTEST_S, LONGEST_S = 0.005, 0.2  # between two resets
PINGED: dict[str, Any] = {"ping_interval_s": 1, "ping_timeout_s": 1, "heartbeat_ms": 500}
FREED_WITHIN_S = 10.0


@pytest.fixture
async def nodes(tmp_path: Path, store: StoreServer) -> AsyncIterator[Nodes]:
    async with running_nodes(Nodes(tmp_path, store.tcp_url, NODES, **PINGED)) as nodes:
        yield nodes


@pytest.fixture
async def reading(tmp_path: Path, store: StoreServer) -> AsyncIterator[Store]:
    async with reading_store(store.tcp_url, tmp_path) as reading:
        yield reading


@pytest.fixture
async def proxies(nodes: Nodes) -> AsyncIterator[list[Proxy]]:
    """One in front of each node."""
    async with AsyncExitStack() as stack:
        yield [await stack.enter_async_context(proxied(server.port)) for server in nodes.servers]


async def flapping(proxies: list[Proxy], chance: random.Random) -> None:
    while True:
        await asyncio.sleep(chance.uniform(SHORTEST_S, LONGEST_S))  # pause: how long this network holds
        for proxy in proxies:
            proxy.reset()


async def watched_through(
    nodes: Nodes, reading: Store, proxies: list[Proxy], chance: random.Random, tokens: int, rate: float
) -> tuple[Figures, int]:
    """Ten streams, read by two viewers and by two of the project's own clients.  The figures, and all connections."""
    addresses = [(HOST, proxy.port) for proxy in proxies]
    async with AsyncExitStack() as stack:
        viewers = [await stack.enter_async_context(Viewer(addresses[n:] + addresses[:n], chance)) for n in range(NODES)]
        round = Round(nodes, reading, viewers)
        clients = [
            await stack.enter_async_context(Client(f"ws://{HOST}:{port}/ws", backoff=Backoff(0.01, 0.05)))
            for _, port in addresses
        ]
        await asyncio.gather(*(viewer.is_open() for viewer in viewers))
        streams = await round.begin(0, 10, tokens, rate)
        followed = [await client.subscribe(stream) for client in clients for stream in streams]
        storm = asyncio.create_task(flapping(proxies, chance))
        try:
            figures = await round.finish(within_s=tokens / rate + 30)
        finally:
            storm.cancel()
            with suppress(asyncio.CancelledError):
                await storm
        for stream in followed:
            async with asyncio.timeout(30):
                async for _ in stream:
                    pass
            assert stream.state.text == count_text(tokens)
    return figures, sum(proxy.connections_total for proxy in proxies)


async def test_clients_whose_connections_are_reset_all_the_time_miss_nothing(
    nodes: Nodes, reading: Store, proxies: list[Proxy], chance: random.Random
) -> None:
    figures, connections = await watched_through(nodes, reading, proxies, chance, 300, 100.0)
    print(figures.line("connections reset every 5 to 200 ms", connections))
    assert not figures.wrong
    assert figures.snapshots == 0


@pytest.mark.chaos
async def test_a_thousand_resets_lose_nothing(
    nodes: Nodes, reading: Store, proxies: list[Proxy], chance: random.Random
) -> None:
    figures, connections = await watched_through(nodes, reading, proxies, chance, 20_000, 400.0)
    print(figures.line("connections reset every 5 to 200 ms", connections))
    assert not figures.wrong
    assert figures.snapshots == 0
    assert connections > 1_000


@pytest.mark.parametrize(
    "way", ["both", pytest.param("up", marks=pytest.mark.chaos), pytest.param("down", marks=pytest.mark.chaos)]
)
async def test_a_half_open_connection_is_given_up_by_both_sides_and_nothing_is_missed(
    way: str, nodes: Nodes, reading: Store, proxies: list[Proxy], chance: random.Random
) -> None:
    """`up` is what the client sends: the server misses its pongs.  `down`: the client misses heartbeats."""
    addresses = [(HOST, proxies[0].port), (HOST, nodes[1].port)]
    async with Viewer(addresses, chance) as viewer:
        round = Round(nodes, reading, [viewer])
        await viewer.is_open()
        await round.begin(0, 5, 200, 40.0)
        await asyncio.sleep(chance.uniform(0.1, 0.5))  # pause: a moment that nobody chose
        proxies[0].stall(up=way != "down", down=way != "up")
        round.struck()
        async with asyncio.timeout(FREED_WITHIN_S):
            while not viewer.returns:
                await asyncio.sleep(0.05)  # pause: between two looks at who gave up
            while await nodes.metric(0, "everstream_connections_open") > 0:
                await asyncio.sleep(0.05)  # pause: between two looks at who gave up
        proxies[0].flow()
        figures = await round.finish()
    print(figures.line(f"half-open connection ({way})", 1))
    assert not figures.wrong
    assert figures.snapshots == 0
