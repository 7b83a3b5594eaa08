"""A deploy: every node in turn is asked to go, ends cleanly, and is started again, under hundreds of open answers.

Nobody loses a word; whoever looks sees a short pause at most; clients come to the other nodes over the time that the
`goaway` named and not all at once; the process ends by itself with exit code 0.
"""

from __future__ import annotations

import random
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from tests.chaos.nodes import Nodes, reading_store, running_nodes
from tests.chaos.oracle import Figures, quantile
from tests.chaos.scenario import Round, Stall, round_of
from tests.store.servers import StoreServer

NODES = 3
DRAIN_MS, SPREAD_MS = 10_000, 5_000  # as by default
QUICK_SPREAD_MS = 500
GONE_WITHIN_S = 20.0  # far more than it should take; it is printed
PAUSE_P99_S = 1.0
SLICES, PEAK_MAX = 10, 4.0  # of the time a goaway grants; the fullest tenth against the mean one


@asynccontextmanager
async def deployed(
    tmp_path: Path, store: StoreServer, chance: random.Random, *, sockets: int, spread_ms: int = SPREAD_MS
) -> AsyncIterator[tuple[Nodes, Round]]:
    nodes = Nodes(tmp_path, store.tcp_url, NODES, drain_ms=DRAIN_MS, goaway_spread_ms=spread_ms)
    async with (
        running_nodes(nodes),
        reading_store(store.tcp_url, tmp_path) as reading,
        round_of(nodes, reading, chance, viewers=sockets) as round,
    ):
        yield nodes, round


async def rolled(nodes: Nodes) -> list[float]:
    """Each node goes and comes again; how many seconds each took to go."""
    lasted_s = []
    for n in range(len(nodes)):
        began = time.monotonic()
        code = await nodes.terminate(n, within_s=GONE_WITHIN_S)
        lasted_s.append(time.monotonic() - began)
        assert code == 0, nodes.quoted()
        await nodes.again(n)
    return lasted_s


def fullest_slice(round: Round) -> float:
    """Of all moves that a goaway asked for: how full the fullest tenth of the granted time was, against the mean."""
    slices = [0] * SLICES
    for viewer in round.viewers:
        for told_at in viewer.goaways:
            moved_at = next((at for at, _ in viewer.connections if at >= told_at), None)
            if moved_at is not None:
                slices[min(int((moved_at - told_at) / (SPREAD_MS / 1000) * SLICES), SLICES - 1)] += 1
    return max(slices) * SLICES / max(sum(slices), 1)


async def test_a_rolling_restart_under_open_streams_loses_nothing(
    tmp_path: Path, store: StoreServer, chance: random.Random
) -> None:
    async with deployed(tmp_path, store, chance, sockets=12, spread_ms=QUICK_SPREAD_MS) as (nodes, round):
        for n in range(NODES):
            await round.begin(n, 4, 240, 30.0)
        round.struck()
        lasted_s = await rolled(nodes)
        figures = await round.finish()
    print(figures.line("rolling restart", NODES, gone_after=f"{max(lasted_s):.1f} s"))
    assert not figures.wrong
    assert figures.announced == 0
    assert figures.seams > 0


@pytest.mark.chaos
async def test_a_rolling_restart_under_two_thousand_sockets_is_hardly_seen(
    tmp_path: Path, store: StoreServer, chance: random.Random
) -> None:
    """The pause is what the nodes cause: what this process stood still by itself, on a busy machine, is taken off."""
    streams, sockets, tokens, rate = 500, 2_000, 120, 2.0
    async with deployed(tmp_path, store, chance, sockets=sockets) as (nodes, round):
        await round.begin_spread(streams, tokens, rate, watched_by=sockets)
        stall = Stall()
        try:
            round.struck()
            lasted_s = await rolled(nodes)
            figures: Figures = await round.finish(within_s=120)
        finally:
            await stall.stop()
        fullest = fullest_slice(round)
    p99_s = quantile(figures.pauses_s, 0.99)
    more = {
        "gone_after": f"{max(lasted_s):.1f} s",
        "fullest_tenth": f"{fullest:.1f} times the mean",
        "a_token_every": f"{1 / rate:.2f} s",
        "the_watcher_stood_still_for": f"{stall.worst_s:.2f} s",
    }
    print(figures.line(f"rolling restart, {sockets} sockets", NODES, **more))
    assert not figures.wrong
    assert figures.announced == 0
    assert p99_s - stall.worst_s < PAUSE_P99_S
    assert fullest < PEAK_MAX
