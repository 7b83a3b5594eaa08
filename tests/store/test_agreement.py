"""The Lua library is the reference, rule for rule: what a dict does, the server does.

Random histories of two nodes (appending, repeating, leaving out, adopting, handing over, laying to rest, losing a
suffix, ending, folding, purging, with marks beside entries) run against `memory.py` and against a server.
After every step both must have given the same answer and hold the same stream.  Epochs follow each store's own clock,
so those that a store made are compared by their place in the history.
Leases have a history of their own, with spans so long, or so short, that both clocks must agree on them.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.store.conftest import new_stream
from tests.store.servers import StoreServer

from everstream.core.events import DeltaText, Event, Mark
from everstream.core.lease import TAG_BITS, Epochs
from everstream.core.summary import Summary
from everstream.store.base import State, Store, Write
from everstream.store.folder import find_binary
from everstream.store.memory import MemoryStore
from everstream.store.valkey import ValkeyStore

NODES = ("n_one", "n_two")

VERBS = ("commit", "adopt", "end", "reign", "fold", "cancel", "read", "forget", "hand", "rest", "purge")

# (verb, node, a number that shifts the base or names a table, how many entries)
STEPS = st.lists(
    st.tuples(
        st.sampled_from((*VERBS, "commit", "commit", "adopt")),
        st.integers(0, 1),
        st.integers(-3, 3),
        st.integers(0, 4),
    ),
    max_size=25,
)


class World:
    """One store, and what its two nodes believe.  The same steps lead two worlds to the same beliefs."""

    def __init__(self, stores: list[Store], stream: str) -> None:
        self.stores = stores
        self.stream = stream
        self.tables: list[Epochs] = []  # each node's own
        self.tails = [0, 0]
        self.known: dict[int, int] = {}  # a real epoch -> its place in the order in which they were made
        self.count = 0

    def name(self, epochs: Epochs) -> list[tuple[int, int]]:
        return [(self.known.setdefault(epoch, len(self.known)), start) for epoch, start in epochs]

    def shown(self, state: State | None) -> object:
        if state is None:
            return None
        head = state.head
        return (
            self.name(head.epochs), head.base, head.tail, head.ended, head.leader, head.cancelled, head.meta,
            state.after, state.entries, state.summary, head.handed, state.marks,
        )  # fmt: skip

    async def begin(self, leader: str) -> object:
        created = await self.stores[0].create(self.stream, "", b"meta", leader)
        self.tables = [created.epochs, created.epochs]
        return (self.name(created.epochs), created.fresh)

    async def clock_is_ahead(self) -> None:
        """Until an epoch by the clock is later than all that were made, which in one world would take a moment longer
        than in the other: then they would not come in the same order."""
        while int(time.time() * 1000) << TAG_BITS <= max(self.known) + (1 << TAG_BITS):
            await asyncio.sleep(0.001)  # pause: a millisecond is what epochs are made of

    async def step(self, verb: str, node: int, shift: int, length: int) -> object:
        store = self.stores[node]
        if verb in ("commit", "end"):
            base = max(self.tails[node] + shift, 0)
            entries: list[Event] = [DeltaText(f"{node}.{self.count}.{n}") for n in range(length)]
            self.count += 1
            # Beside the second entry of every other write, and of what may have been stored with another one before.
            marks = {base + 2: Mark(self.count, (base,), node)} if length > 1 and self.count % 2 else {}
            write = Write(self.stream, self.tables[node], base, entries, verb == "end", NODES[node], b"meta", marks)
            (reply,) = await store.commit([write])
            self.tails[node] = reply.tail
            return reply
        if verb == "reign":  # an epoch that this store has never heard of
            start = max(self.tails[node] + shift, self.tables[node][-1][1])
            self.tables[node] = (*self.tables[node], (max(self.known) + 1024 + node, start))
            return self.name(self.tables[node])
        if verb == "adopt":
            await self.clock_is_ahead()
            state = await store.adopt(self.stream, "" if abs(shift) == 3 else NODES[(node + shift) % 2])
            if state is not None:
                self.tables[node], self.tails[node] = state.head.epochs, state.head.tail
            return self.shown(state)
        if verb == "hand":
            epoch = self.tables[(node + (shift == 2)) % 2][-1][0]
            tail = self.tails[node] + (shift if shift == 1 else 0)
            return await store.hand_over(self.stream, epoch, tail, "" if shift == -3 else NODES[length % 2])
        if verb == "rest":
            epoch = self.tables[(node + (shift == 2)) % 2][-1][0]
            return await store.rest(self.stream, epoch, self.tails[node] + (shift if shift == 1 else 0))
        if verb == "purge" and length == 4 and shift > 1:  # which is the end of it all
            await store.purge([self.stream])
            return await store.create(self.stream, "", b"again")
        if verb == "fold":
            return await store.fold(
                self.stream, max(self.tails[node] + (shift if shift < -1 else 0), 0), Summary("sum")
            )
        if verb == "cancel":
            head = await store.mark_cancelled(self.stream)
            return None if head is None else (self.name(head.epochs), head.tail, head.cancelled, head.ended)
        if verb == "forget":  # the node was restarted and read all again
            state = await store.read(self.stream)
            if state is not None:
                self.tables[node], self.tails[node] = state.head.epochs, state.head.tail
        return self.shown(await store.read(self.stream, max(shift * length, 0)))


async def compare(url: str, leader: str, steps: list[tuple[str, int, int, int]]) -> None:
    memory = MemoryStore()
    stream = new_stream()
    reference = World([memory, memory.beside()], stream)
    server = World([ValkeyStore(url), ValkeyStore(url)], stream)
    worlds = (reference, server)
    for world in worlds:
        for node, store in zip(NODES, world.stores, strict=True):
            await store.open(node, lambda push: None, lambda message: None)
    try:
        assert await reference.begin(leader) == await server.begin(leader)
        for step in steps:
            said, answered = await reference.step(*step), await server.step(*step)
            assert said == answered, step
            expected, found = [world.shown(await world.stores[0].read(stream)) for world in worlds]
            assert found == expected, step
            opened = [sorted(await world.stores[0].open_streams()) for world in worlds]
            assert opened[0] == [pair for pair in opened[1] if pair[0] == stream], step
    finally:
        for world in worlds:
            for store in world.stores:
                await store.close()


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> str:  # type: ignore[misc]
    folder: Path = tmp_path_factory.mktemp("agreement")
    server = StoreServer(find_binary(None), folder)
    asyncio.run(server.start())
    yield server.unix_url
    server.kill()


@settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
@given(leader=st.sampled_from(("", "", *NODES)), steps=STEPS)
def test_the_server_does_whatever_the_reference_does(
    url: str, leader: str, steps: list[tuple[str, int, int, int]]
) -> None:
    asyncio.run(compare(url, leader, steps))


# (verb, node, for long or for no time at all)
LEASES = st.lists(
    st.tuples(st.sampled_from(("renew", "renew", "release", "nodes")), st.integers(0, 1), st.sampled_from((60_000, 0))),
    max_size=12,
)


async def compare_leases(url: str, prefix: str, steps: list[tuple[str, int, int]]) -> None:
    """A lease of no time has run out in the next millisecond, for which every step waits."""
    memory = MemoryStore()
    servers: list[Store] = [ValkeyStore(url, key_prefix=prefix) for _ in NODES]
    worlds: list[list[Store]] = [[memory, memory.beside()], servers]
    for stores in worlds:
        for node, store in zip(NODES, stores, strict=True):
            await store.open(node, lambda push: None, lambda message: None)

    async def step(store: Store, verb: str, lease_ms: int) -> object:
        if verb == "renew":
            return await store.renew(lease_ms)
        return await (store.release() if verb == "release" else store.nodes())

    try:
        for verb, who, lease_ms in steps:
            said, answered = [await step(stores[who], verb, lease_ms) for stores in worlds]
            assert said == answered, (verb, node, lease_ms)
            await asyncio.sleep(0.002)  # pause: the passing of time is what is tested
            assert await worlds[0][0].nodes() == await worlds[1][0].nodes()
    finally:
        for stores in worlds:
            for store in stores:
                await store.close()


@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
@given(steps=LEASES)
def test_the_server_keeps_leases_as_the_reference_does(url: str, steps: list[tuple[str, int, int]]) -> None:
    asyncio.run(compare_leases(url, f"lease{secrets.token_hex(6)}", steps))
