"""Five people with three devices each in one session: whatever breaks, all end with the same, and the store with that.

Four models answer at once, other turns queue up or interrupt, messages are edited and answers stopped, while devices
lose their connections at random moments and come back to whichever server answers.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from tests.chaos.nodes import Nodes, reading_store, running_nodes
from tests.chaos.people import TURNS_AT_ONCE, Judgement, Party, guarded, party_of
from tests.chaos.proxy import Proxy, proxied
from tests.server import HOST
from tests.store.servers import StoreServer

NODES = 3
SETTINGS = {"auth": "jwt", "session_turns": TURNS_AT_ONCE, "goaway_spread_ms": 300, "drain_ms": 5_000}
SHORT_S, LONG_S = 6.0, 120.0


@dataclass
class Street:
    """The servers, the networks before them, and what has happened to both."""

    nodes: Nodes
    before: list[Proxy]
    told: Counter[str]


@asynccontextmanager
async def street_of(
    tmp_path: Path, store: StoreServer, chance: random.Random, **settings: object
) -> AsyncIterator[tuple[Street, Party]]:
    nodes = guarded(Nodes(tmp_path, store.tcp_url, NODES, **SETTINGS | settings))
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(running_nodes(nodes))
        before = [await stack.enter_async_context(proxied(server.port)) for server in nodes.servers]
        reading = await stack.enter_async_context(reading_store(store.tcp_url, tmp_path))
        addresses = [(HOST, proxy.port) for proxy in before]
        party = await stack.enter_async_context(party_of(addresses, reading, chance))
        yield Street(nodes, before, Counter()), party


# --------------------------------------------------------------------------- what happens to connections


async def drops(street: Street, party: Party, chance: random.Random) -> None:
    """Devices lose their connections, one by one."""
    while True:
        await asyncio.sleep(chance.uniform(0.02, 0.2))  # pause: a moment that nobody chose
        chance.choice(party.every).drop()
        street.told["dropped"] += 1


async def networks(street: Street, party: Party, chance: random.Random) -> None:
    """The way to a server breaks off, or goes silent in one direction or both."""
    while True:
        await asyncio.sleep(chance.uniform(0.3, 2.0))  # pause: a moment that nobody chose
        proxy = chance.choice(street.before)
        if chance.random() < 0.5:
            proxy.reset()
            street.told["reset"] += 1
            continue
        proxy.stall(up=chance.random() < 0.7, down=chance.random() < 0.7)
        street.told["half-open"] += 1
        try:
            await asyncio.sleep(chance.uniform(0.2, 3.0))  # pause: how long it stays so
        finally:
            proxy.flow()


async def restarts(street: Street, party: Party, chance: random.Random, every_s: float) -> None:
    """A server goes, with `goaway`, and another one comes in its place."""
    while True:
        await asyncio.sleep(every_s * chance.uniform(0.5, 1.0))  # pause: a moment that nobody chose
        n = chance.randrange(NODES)
        assert await street.nodes.terminate(n) == 0
        street.told["restarted"] += 1
        await street.nodes.again(n)


@asynccontextmanager
async def troubled(street: Street, party: Party, chance: random.Random, every_s: float) -> AsyncIterator[None]:
    """While the block runs nothing is safe; afterwards all is well again.  Fails where a server did not go well."""
    troubles = [
        asyncio.create_task(drops(street, party, chance)),
        asyncio.create_task(networks(street, party, chance)),
        asyncio.create_task(restarts(street, party, chance, every_s)),
    ]
    try:
        yield
    finally:
        for trouble in troubles:
            trouble.cancel()
        ended = await asyncio.gather(*troubles, return_exceptions=True)
        for n, server in enumerate(street.nodes.servers):
            if not server.running:
                await street.nodes.again(n)
        for end in ended:
            if not isinstance(end, asyncio.CancelledError) and isinstance(end, BaseException):
                raise end


# --------------------------------------------------------------------------- what it comes to


def told(party: Party, judgement: Judgement, began: float) -> str:
    devices = party.every
    errors: Counter[str] = sum((device.errors for device in devices), Counter())
    closes: Counter[int] = sum((device.closes for device in devices), Counter())
    turns = sum(entry["type"] == "turn_end" for entry in judgement.entries)
    return (
        f"{len(devices)} devices, {time.monotonic() - began:.0f} s: {len(judgement.entries)} entries, {turns} turns, "
        f"{len(judgement.truth.messages)} messages; {sum(d.connections for d in devices)} connections, "
        f"{sum(d.goaways for d in devices)} goaways, {judgement.streams_read} streams read to the end; "
        f"{sum(d.seen.snapshots for d in devices)} snapshots, "
        f"{sum(d.seen.repeated for d in devices)} places confirmed; "
        f"did {dict(party.done)}; refused {dict(party.refused)}; errors {dict(errors)}; closes {dict(closes)}"
    )


ALLOWED = ("node.draining", "limit.streams", "store.unavailable", "limit.rate")


def only_allowed(party: Party) -> None:
    """Nobody was refused for a reason that this test does not make."""
    for device in party.every:
        for error in device.errors:
            assert error.endswith(ALLOWED) or error == "generate: auth.forbidden", device.errors


async def party_in_trouble(
    tmp_path: Path, store: StoreServer, chance: random.Random, lasting_s: float, every_s: float
) -> None:
    async with street_of(tmp_path, store, chance) as (street, party):
        began = time.monotonic()
        async with troubled(street, party, chance, every_s):
            await party.talk(lasting_s)
        entries = await party.settled(stop=lasting_s == SHORT_S)
        judgement = await party.judged(entries)
        print(f"people: {dict(street.told)}; {told(party, judgement, began)}")
        judgement.clean()
        only_allowed(party)


async def test_fifteen_devices_of_five_people_hold_the_same(
    tmp_path: Path, store: StoreServer, chance: random.Random
) -> None:
    await party_in_trouble(tmp_path, store, chance, SHORT_S, 5.0)


@pytest.mark.chaos
async def test_fifteen_devices_of_five_people_hold_the_same_for_two_minutes(
    tmp_path: Path, store: StoreServer, chance: random.Random
) -> None:
    await party_in_trouble(tmp_path, store, chance, LONG_S, 10.0)
