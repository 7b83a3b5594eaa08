"""One round of a scenario: viewers on every node, streams begun at one of them, a fault, and the judgement.

async with round_of(nodes, reading, chance) as round:
    await round.begin(0, streams=20, tokens=90, rate=60)
    ... a fault ...
    round.struck()                      # from here pauses are measured
    figures = await round.finish()      # all streams ended for all viewers; compared with store and truth
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

from tests.chaos.nodes import Nodes
from tests.chaos.oracle import Figures, Kept, Shown, count_text, judged, kept_by
from tests.chaos.viewer import Viewer

from everstream.store.base import Store

STREAMS_AT_ONCE = 50  # of one viewer; a connection may read 64
TICK_S = 0.02


class Round:
    def __init__(self, nodes: Nodes, reading: Store, viewers: list[Viewer]) -> None:
        self.viewers = viewers
        self.truths: dict[str, str] = {}
        self.struck_at: float | None = None
        self.kept: dict[str, Kept] = {}  # at the end
        self.fences: dict[str, int] = {}  # of streams that were cancelled
        self._nodes = nodes
        self._reading = reading
        self._loop = asyncio.get_running_loop()

    @property
    def streams(self) -> list[str]:
        return list(self.truths)

    async def begin(self, at: int, streams: int, tokens: int, rate: float) -> list[str]:
        """Start streams through the viewer at a node; all others watch them.  Returns when all have seen something."""
        viewer = self.viewers[at]
        begun = await asyncio.gather(*(viewer.generate(tokens, rate) for _ in range(streams)))
        self.truths |= dict.fromkeys(begun, count_text(tokens))
        for other in self.viewers:
            if other is not viewer:
                for stream in begun:
                    other.watch(stream)
        await asyncio.gather(*(viewer.sees(begun) for viewer in self.viewers))
        return list(begun)

    async def begin_spread(self, streams: int, tokens: int, rate: float, *, watched_by: int) -> None:
        """Streams begun at some viewers, fifty each; every other viewer reads one, so that each stream has several."""
        begun: list[str] = []
        starters = self.viewers[:: max(len(self.viewers) * STREAMS_AT_ONCE // streams, 1)]
        while len(begun) < streams:
            share = starters[: streams - len(begun)]
            begun += await asyncio.gather(*(viewer.generate(tokens, rate) for viewer in share))
        self.truths |= dict.fromkeys(begun, count_text(tokens))
        readers = [viewer for viewer in self.viewers[:watched_by] if not viewer.streams]
        for n, viewer in enumerate(readers):
            viewer.watch(begun[n % streams])
        await asyncio.gather(*(viewer.sees(list(viewer.streams)) for viewer in self.viewers))

    def struck(self) -> None:
        self.struck_at = self._loop.time()

    def every(self) -> list[Shown]:
        """Every stream of every viewer."""
        return [viewer.streams[stream] for viewer in self.viewers for stream in self.truths if stream in viewer.streams]

    async def finish(self, within_s: float = 30.0, *, whole: bool = True) -> Figures:
        """Wait for all ends and judge.  What has not ended by then counts as `endless`."""
        await asyncio.gather(*(viewer.all_ended(list(viewer.streams), within_s) for viewer in self.viewers))
        self.kept = await kept_by(self._reading, self.streams)
        figures = judged(self.every(), self.kept, self.truths, whole=whole)
        figures.returns = sum(viewer.returns for viewer in self.viewers)
        if self.struck_at is not None:
            pauses = [shown.longest_pause(self.struck_at) for shown in self.every()]
            figures.pauses_s = [pause for pause in pauses if pause]
        return figures

    def check_whole(self) -> None:
        """Streams that nobody cancelled have to have been completed, with all their words."""
        for stream, truth in self.truths.items():
            if stream not in self.fences:
                assert self.kept[stream].text == truth, f"{stream} ends after {self.kept[stream].text[-40:]!r}"

    async def past(self, fences: dict[str, int]) -> int:
        """Entries behind these fences, by now: in the store, and on any screen."""
        kept = await kept_by(self._reading, fences)
        stored = sum(kept[stream].tail - fence for stream, fence in fences.items())
        shown = sum(abs(each.offset - fences[each.stream]) for each in self.every() if each.stream in fences)
        return stored + shown

    def to_next_reign(self) -> list[float]:
        """For each stream and viewer: seconds from the fault to the first entry of the next leader."""
        assert self.struck_at is not None
        found = [shown.pause_to_reign(self.struck_at) for shown in self.every()]
        return [pause for pause in found if pause is not None]


class Stall:
    """How long this process itself stood still, at worst: what a pause that it measures may owe to the machine."""

    def __init__(self) -> None:
        self.worst_s = 0.0
        self._task = asyncio.create_task(self._look(), name="stall")

    async def _look(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            before = loop.time()
            await asyncio.sleep(TICK_S)  # pause: it is measured how much longer this takes
            self.worst_s = max(self.worst_s, loop.time() - before - TICK_S)

    async def stop(self) -> None:
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)


@asynccontextmanager
async def round_of(
    nodes: Nodes, reading: Store, chance: random.Random, *, viewers: int | None = None, patient: bool = False
) -> AsyncIterator[Round]:
    """With one viewer that prefers each node, or as many as said, spread over them."""
    async with AsyncExitStack() as stack:
        made = [
            await stack.enter_async_context(Viewer(nodes.addresses(n % len(nodes)), chance, patient=patient))
            for n in range(viewers or len(nodes))
        ]
        await asyncio.gather(*(viewer.is_open() for viewer in made))
        yield Round(nodes, reading, made)
