"""Which nodes are going: alive and at work still, but to be given nothing more.

A node that drains says so beside its lease, in the store.  Without it, two nodes that go at the same time could hand
their streams to each other for ever, and an orphan could fall to one that adopts nothing.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable

from everstream.store.base import Store

KNOWN_S = 0.5  # for how long an answer is believed
KNOWN_MAX = 1024


class Resting:
    def __init__(self, store: Store, clock: Callable[[], float]) -> None:
        self._store = store
        self._clock = clock
        self._known: dict[str, tuple[bool, float]] = {}  # node -> whether it rests, and until when that is believed

    async def rest(self, node: str, ttl_s: int) -> None:
        """Say that `node` is going.  Raises EverstreamError `store.unavailable`."""
        await self._store.remember(_name(node), b"1", ttl_s)

    async def able(self, nodes: Iterable[str]) -> set[str]:
        """Those of the nodes that do not rest.  Raises EverstreamError `store.unavailable`."""
        now = self._clock()
        nodes = set(nodes)
        unknown = [node for node in nodes if self._known.get(node, (False, now))[1] <= now]
        told = await asyncio.gather(*(self._store.recall(_name(node)) for node in unknown))
        if len(self._known) > KNOWN_MAX:
            self._known = {node: known for node, known in self._known.items() if node in nodes}
        for node, said in zip(unknown, told, strict=True):
            self._known[node] = (said is not None, now + KNOWN_S)
        return {node for node in nodes if not self._known[node][0]}


def _name(node: str) -> str:
    return f"resting {node}"
