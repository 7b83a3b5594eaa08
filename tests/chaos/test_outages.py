"""A single store goes away, is slow, or can write no more: what the nodes do meanwhile, and that nothing is lost by it.

With `delivery = committed` readers wait for the store.  With `available` and `eager` those at the leading node go on
without it, the end of the stream says so, and what a dead leader had shown early and never stored is taken back openly.
"""

from __future__ import annotations

import asyncio
import random
import shutil
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path

import pytest
from tests.chaos.nodes import Nodes, reading_store, running_nodes
from tests.chaos.oracle import Figures
from tests.chaos.proxy import proxied
from tests.chaos.scenario import Round, round_of
from tests.store.servers import StoreServer

from everstream.store.base import Store
from everstream.store.folder import find_binary

NODES, STREAMS = 3, 20
TOKENS, RATE = 200, 50.0  # four seconds
PAUSE_MS = 2_500  # of the store
SLOW_S = 0.2  # each way
DISK_BYTES = 24 * 1024 * 1024
PAGE_BYTES = 4096
FULL_S = 3.0
EARLY = "shown before it was stored"


@pytest.fixture
async def nodes(tmp_path: Path, store: StoreServer) -> AsyncIterator[Nodes]:
    async with running_nodes(Nodes(tmp_path, store.tcp_url, NODES)) as nodes:
        yield nodes


@pytest.fixture
async def reading(tmp_path: Path, store: StoreServer) -> AsyncIterator[Store]:
    async with reading_store(store.tcp_url, tmp_path) as reading:
        yield reading


async def away(nodes: Nodes, reading: Store, store: StoreServer, chance: random.Random, longest_s: float) -> Figures:
    """The store is killed under open streams, and started again on its file."""
    async with round_of(nodes, reading, chance) as round:
        await round.begin(chance.randrange(NODES), STREAMS, TOKENS, RATE)
        await asyncio.sleep(chance.uniform(0.1, 1.0))  # pause: a moment that nobody chose
        round.struck()
        await asyncio.to_thread(store.kill)
        await asyncio.sleep(chance.uniform(0.0, longest_s))  # pause: how long it is away
        await store.start()
        return await round.finish()


async def test_a_store_that_dies_and_comes_back_costs_a_pause_and_no_word(
    nodes: Nodes, reading: Store, store: StoreServer, chance: random.Random
) -> None:
    figures = await away(nodes, reading, store, chance, 0.5)
    print(figures.line("kill -9 of the store", 1))
    assert not figures.wrong
    assert figures.announced == 0


@pytest.mark.chaos
async def test_thirty_times_the_store_dies_and_comes_back_and_nothing_is_lost(
    nodes: Nodes, reading: Store, store: StoreServer, chance: random.Random
) -> None:
    total, deaths = Figures(), 30
    for death in range(deaths):
        figures = await away(nodes, reading, store, chance, 4.0)
        assert not figures.wrong, f"death {death}: {figures.line('', 1)}"
        total.add(figures)
    repaired = await nodes.metric_of_all("everstream_gaps_repaired")
    print(total.line("kill -9 of the store, up to 4 s away", deaths, suffixes_sent_again=int(repaired)))
    assert total.announced == 0


# --------------------------------------------------------------------------- when readers see an entry


@asynccontextmanager
async def delivering(
    mode: str, tmp_path: Path, store: StoreServer, chance: random.Random
) -> AsyncIterator[tuple[Nodes, Round]]:
    nodes = Nodes(tmp_path, store.tcp_url, NODES, delivery=mode)
    async with (
        running_nodes(nodes),
        reading_store(store.tcp_url, tmp_path) as reading,
        round_of(nodes, reading, chance) as round,
    ):
        yield nodes, round


def warned(round: Round) -> int:
    """Streams whose end says that some of it was shown early."""
    ends = [round.viewers[0].streams[stream].end or {} for stream in round.streams]
    return sum(any(EARLY in warning for warning in end.get("warnings", ())) for end in ends)


async def paused(mode: str, tmp_path: Path, store: StoreServer, chance: random.Random) -> float:
    """The store answers nobody for a while.  The longest pause of any stream at the leading node, in seconds."""
    async with delivering(mode, tmp_path, store, chance) as (_, round):
        streams = await round.begin(0, STREAMS, TOKENS, RATE)
        viewer = round.viewers[0]
        round.struck()
        await store.ask(f"CLIENT PAUSE {PAUSE_MS} ALL")
        figures = await round.finish()
        assert round.struck_at is not None
        longest_s = max(viewer.streams[stream].longest_pause(round.struck_at) for stream in streams)
        early = warned(round)
    print(
        figures.line(
            f"store silent for {PAUSE_MS} ms, delivery {mode}", 1, at_leader=f"{longest_s:.2f} s", warned=early
        )
    )
    assert not figures.wrong
    assert figures.announced == 0
    assert early == (0 if mode == "committed" else STREAMS)
    return longest_s


@pytest.mark.parametrize("mode", ["available", pytest.param("eager", marks=pytest.mark.chaos)])
async def test_readers_at_the_leading_node_go_on_without_a_silent_store_and_the_end_says_so(
    mode: str, tmp_path: Path, store: StoreServer, chance: random.Random
) -> None:
    assert await paused(mode, tmp_path, store, chance) < PAUSE_MS / 1000 * 0.8


@pytest.mark.chaos
async def test_with_committed_delivery_readers_wait_for_a_silent_store(
    tmp_path: Path, store: StoreServer, chance: random.Random
) -> None:
    assert await paused("committed", tmp_path, store, chance) > PAUSE_MS / 1000 * 0.8


@pytest.mark.chaos
@pytest.mark.parametrize("mode", ["committed", "available", "eager"])
async def test_a_store_that_is_slow_each_way_changes_nothing_but_the_time(
    mode: str, tmp_path: Path, store: StoreServer, chance: random.Random
) -> None:
    async with AsyncExitStack() as stack:
        proxies = [await stack.enter_async_context(proxied(store.port)) for _ in range(NODES)]
        nodes = Nodes(tmp_path, [proxy.url for proxy in proxies], NODES, delivery=mode, lease_ms=3_000)
        await stack.enter_async_context(running_nodes(nodes))
        reading = await stack.enter_async_context(reading_store(store.tcp_url, tmp_path))
        round = await stack.enter_async_context(round_of(nodes, reading, chance))
        await round.begin(0, STREAMS, TOKENS, RATE)
        round.struck()
        for proxy in proxies:
            proxy.delay_s = SLOW_S
        figures = await round.finish()
        early = warned(round)
    print(figures.line(f"store {2 * SLOW_S:.1f} s late, delivery {mode}", 1, warned=early))
    assert not figures.wrong
    assert figures.announced == 0
    assert early == (0 if mode == "committed" else STREAMS)


@pytest.mark.chaos
async def test_what_was_shown_early_and_died_with_its_leader_is_taken_back_openly(
    tmp_path: Path, store: StoreServer, chance: random.Random
) -> None:
    async with delivering("eager", tmp_path, store, chance) as (nodes, round):
        await round.begin(0, STREAMS, TOKENS, RATE)
        round.struck()
        await store.ask(f"CLIENT PAUSE {PAUSE_MS} ALL")
        await asyncio.sleep(PAUSE_MS / 2000)  # pause: shown meanwhile, and stored nowhere
        await nodes.kill(0)
        figures = await round.finish()
    print(figures.line("eager, store silent, leader killed", 1))
    assert not figures.wrong
    assert figures.announced > 0


# --------------------------------------------------------------------------- a store that can write no more


class SmallDisk(StoreServer):
    """Its folder is a file system of its own, in a mount namespace of its own: nothing of it is left afterwards."""

    def _launch(self) -> None:
        plain, mount = self._command, f'mount -t tmpfs -o size={DISK_BYTES} tmpfs "$0" && exec "$@"'
        if plain[0] != "unshare":
            self._command = ["unshare", "--mount", "sh", "-c", mount, str(self.folder), *plain]
        super()._launch()

    @property
    def _filler(self) -> Path:
        assert self._process is not None
        return Path(f"/proc/{self._process.pid}/root{self.folder}/filler")

    def fill(self) -> None:
        """To the last page.  The file is made beforehand, which takes a page too."""
        with self._filler.open("wb", buffering=0) as filler, suppress(OSError):
            while True:
                filler.write(bytes(PAGE_BYTES))

    def empty(self) -> None:
        self._filler.unlink()


async def cannot_write(nodes: Nodes, reading: Store, chance: random.Random, store: StoreServer, how: str) -> Figures:
    async with round_of(nodes, reading, chance) as round:
        await round.begin(0, STREAMS, TOKENS, RATE)
        round.struck()
        if isinstance(store, SmallDisk):
            await asyncio.to_thread(store.fill)
        else:
            await store.ask("CONFIG SET maxmemory 1")
        await asyncio.sleep(FULL_S)  # pause: how long nothing can be written
        if isinstance(store, SmallDisk):
            await asyncio.to_thread(store.empty)
        else:
            await store.ask("CONFIG SET maxmemory 0")
        figures = await round.finish()
    print(figures.line(f"the store's {how} is full for {FULL_S:.0f} s", 1))
    assert min(figures.pauses_s) > FULL_S * 0.8
    return figures


@pytest.mark.chaos
async def test_a_store_without_memory_is_waited_for(
    nodes: Nodes, reading: Store, store: StoreServer, chance: random.Random
) -> None:
    figures = await cannot_write(nodes, reading, chance, store, "memory")
    assert not figures.wrong
    assert figures.announced == 0


@pytest.mark.chaos
@pytest.mark.skipif(shutil.which("unshare") is None, reason="no unshare here")
async def test_a_store_with_a_full_disk_is_waited_for(
    tmp_path: Path, tmp_path_factory: pytest.TempPathFactory, chance: random.Random
) -> None:
    store = SmallDisk(find_binary(None), tmp_path_factory.mktemp("small"))
    try:
        await store.start()
        async with (
            running_nodes(Nodes(tmp_path, store.tcp_url, NODES)) as nodes,
            reading_store(store.tcp_url, tmp_path) as reading,
        ):
            figures = await cannot_write(nodes, reading, chance, store, "disk")
    finally:
        await asyncio.to_thread(store.kill)
    assert not figures.wrong
    assert figures.announced == 0
