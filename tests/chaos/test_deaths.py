"""A leading node dies, or sleeps past its lease: others carry its streams on, and nobody loses a word.

Three servers share one store.  Streams are begun at one of them, and watched at all three; viewers of the dead one come
back to another.  A scripted answer is carried on exactly, so its text is known in advance to the last byte.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from tests.chaos.nodes import Nodes, reading_store, running_nodes
from tests.chaos.oracle import Figures, quantile
from tests.chaos.scenario import round_of
from tests.store.servers import StoreServer

from everstream.store.base import Store

NODES = 3
STREAMS, TOKENS, RATE = 20, 90, 60.0
LATEST_KILL_S = 1.2  # of the 1.5 s that a stream takes
NEXT_REIGN_P99_S = 2.5
SLEPT_TOKENS = 240


@pytest.fixture
async def nodes(tmp_path: Path, store: StoreServer) -> AsyncIterator[Nodes]:
    async with running_nodes(Nodes(tmp_path, store.tcp_url, NODES)) as nodes:
        yield nodes


@pytest.fixture
async def reading(tmp_path: Path, store: StoreServer) -> AsyncIterator[Store]:
    async with reading_store(store.tcp_url, tmp_path) as reading:
        yield reading


async def killed_in_mid_answer(
    nodes: Nodes, reading: Store, chance: random.Random, victim: int
) -> tuple[Figures, list[float]]:
    """Its figures, and for each stream and viewer the time from the kill to the next leader's first entry."""
    async with round_of(nodes, reading, chance) as round:
        await round.begin(victim, STREAMS, TOKENS, RATE)
        await asyncio.sleep(chance.uniform(0.0, LATEST_KILL_S))  # pause: a moment that nobody chose
        round.struck()
        await nodes.kill(victim)
        restarting = asyncio.create_task(nodes.again(victim))
        try:
            figures = await round.finish()
        finally:
            await restarting
        return figures, round.to_next_reign()


async def test_a_leading_node_is_killed_and_its_streams_go_on_elsewhere(
    nodes: Nodes, reading: Store, chance: random.Random
) -> None:
    figures, waits_s = await killed_in_mid_answer(nodes, reading, chance, 0)
    print(figures.line("kill -9 of the leading node", 1))
    assert not figures.wrong
    assert figures.announced == 0
    assert waits_s


@pytest.mark.chaos
async def test_two_hundred_leading_nodes_are_killed_and_nothing_is_lost(
    nodes: Nodes, reading: Store, chance: random.Random
) -> None:
    kills, total, waits_s = 200, Figures(), list[float]()
    for kill in range(kills):
        figures, waited_s = await killed_in_mid_answer(nodes, reading, chance, kill % NODES)
        assert not figures.wrong, f"kill {kill}: {figures.line('', 1)}"
        total.add(figures)
        waits_s += waited_s
    p99_s = quantile(waits_s, 0.99)
    more = f"p50 {quantile(waits_s, 0.5):.2f} p99 {p99_s:.2f} max {max(waits_s):.2f} s"
    print(total.line("kill -9 of the leading node", kills, next_reign=more))
    assert total.announced == 0
    assert p99_s < NEXT_REIGN_P99_S


# --------------------------------------------------------------------------- asleep


async def asleep_past_its_lease(nodes: Nodes, reading: Store, chance: random.Random, sleeper: int) -> Figures:
    """A leader is stopped, its streams are adopted, and it wakes up believing that it leads them.

    Its viewers wait for it without a word.  They must go on where the others are, on the same connection.  If one
    entry of the old reign got in beside the new one, some number would stand in the text twice.
    """
    async with round_of(nodes, reading, chance, patient=True) as round:
        streams = await round.begin(sleeper, STREAMS, SLEPT_TOKENS, RATE)
        await asyncio.sleep(chance.uniform(0.2, 1.0))  # pause: a moment that nobody chose
        nodes[sleeper].suspend()
        round.struck()
        try:
            witness = round.viewers[(sleeper + 1) % NODES]
            await witness.until(lambda: all(witness.streams[stream].figures.seams for stream in streams))
        finally:
            nodes[sleeper].wake()
        figures = await round.finish()
        assert figures.returns == 0
        assert all(round.viewers[sleeper].streams[stream].figures.seams for stream in streams)
    return figures


async def test_a_leader_that_slept_is_fenced_and_its_viewers_go_on_in_the_new_reign(
    nodes: Nodes, reading: Store, chance: random.Random
) -> None:
    figures = await asleep_past_its_lease(nodes, reading, chance, 0)
    print(figures.line("SIGSTOP past the lease", 1))
    assert not figures.wrong
    assert figures.announced == 0
    assert await nodes.metric(0, "everstream_commits_fenced") > 0


@pytest.mark.chaos
async def test_thirty_leaders_sleep_and_none_writes_after_it_was_deposed(
    nodes: Nodes, reading: Store, chance: random.Random
) -> None:
    total, naps = Figures(), 30
    for nap in range(naps):
        figures = await asleep_past_its_lease(nodes, reading, chance, nap % NODES)
        assert not figures.wrong, f"nap {nap}: {figures.line('', 1)}"
        total.add(figures)
    fenced = await nodes.metric_of_all("everstream_commits_fenced")
    print(total.line("SIGSTOP past the lease", naps, fenced_commits=int(fenced)))
    assert total.announced == 0
    assert fenced >= naps
