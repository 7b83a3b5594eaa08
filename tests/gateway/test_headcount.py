"""So many connections of one user, on whatever nodes and wires; and a place is free as soon as somebody goes."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import pytest
from tests.gateway.conftest import Client, Gateway, serving
from tests.gateway.people import Door, person
from tests.gateway.test_http_events import frames
from tests.gateway.test_http_streams import http
from tests.runtime.conftest import until

from everstream.gateway import headcount
from everstream.gateway.headcount import RETRY_MS, TTL_S, Headcount
from everstream.store.memory import MemoryStore

ANN = {"x-api-key": "a"}
DOOR = {"a": person("ann", "1"), "b": person("bob", "2")}


class Clock:
    """The store's time, which goes on by itself, and can be put forward."""

    def __init__(self, store: MemoryStore) -> None:
        self.ahead_s = 0.0
        store.disk.clock_ms = lambda: int((time.monotonic() + self.ahead_s) * 1000)


@asynccontextmanager
async def two_nodes(most: int, **given: Any) -> AsyncIterator[tuple[Gateway, Gateway]]:
    store, door = MemoryStore(), Door(**DOOR)
    async with (
        serving(store, authenticate=door, user_connections=most, **given) as one,
        serving(store.beside(), authenticate=door, user_connections=most, **given) as two,
    ):
        yield one, two


async def knock(stack: AsyncExitStack, gateway: Gateway, token: str = "a") -> Client:
    """A client that has said hello, whatever the answer was: the last of its frames."""
    client = await stack.enter_async_context(gateway.client(hello=False))
    await client.ask("hello", token=token)
    return client


def taken(gateway: Gateway, user: str = "ann") -> int:
    account = gateway.store.disk.accounts.get(f"connections:{user}")
    return len(account.holders) if account else 0


async def test_one_more_than_there_may_be_is_refused_on_any_node_and_told_when_to_come_again() -> None:
    async with two_nodes(2) as (one, two), AsyncExitStack() as stack:
        first, second = await knock(stack, one), await knock(stack, two)
        for gateway in (one, two):
            third = await knock(stack, gateway)
            said = third.frames[-1]
            assert (said["type"], said["code"], said["id"]) == ("error", "limit.rate", 1)
            assert (said["retryable"], said["retry_after_ms"]) == (True, RETRY_MS)
            assert await third.closed() == 4003
        assert (await knock(stack, two, "b")).frames[-1]["type"] == "welcome", "somebody else has places of his own"
        for client in (first, second):
            assert (await client.ask("ping"))["type"] == "pong"
        await first.socket.close()
        await until(lambda: taken(one) == 1)
        assert (await knock(stack, two)).frames[-1]["type"] == "welcome"


async def test_of_twenty_that_come_at_once_as_many_are_let_in_as_may_be() -> None:
    async with two_nodes(7) as nodes, AsyncExitStack() as stack:
        clients = await asyncio.gather(*(knock(stack, nodes[n % 2]) for n in range(20)))
        assert Counter(client.frames[-1]["type"] for client in clients) == {"welcome": 7, "error": 13}
        assert taken(nodes[0]) == 7


async def test_events_over_http_take_a_place_and_are_refused_with_429() -> None:
    async with two_nodes(1) as (one, two), http(two) as other, AsyncExitStack() as stack:
        async with http(one) as session, session.get("/v1/events", headers=ANN) as answer:
            assert (await anext(frames(answer)))["type"] == "welcome"
            assert (await knock(stack, two)).frames[-1]["code"] == "limit.rate"
            async with other.get("/v1/events", headers=ANN) as refused:
                assert (refused.status, refused.headers["retry-after"]) == (429, str(RETRY_MS // 1000))
                assert (await refused.json())["error"]["code"] == "limit.rate"
            async with other.get("/v1/models", headers=ANN) as asked:
                assert asked.status == 200, "what is answered at once takes no place"
        await until(lambda: taken(one) == 0)
        assert (await knock(stack, two)).frames[-1]["type"] == "welcome"


async def test_who_is_revoked_frees_his_place_at_once_also_where_he_does_not_hang_up() -> None:
    async with (
        two_nodes(2) as (one, two),
        http(two) as session,
        session.get("/v1/events", headers=ANN) as answer,
        AsyncExitStack() as stack,
    ):
        assert (await anext(frames(answer)))["type"] == "welcome"
        await knock(stack, one)
        assert taken(one) == 2
        await one.node.revoke("key:1")
        await until(lambda: taken(one) == 0)
        assert [left async for left in frames(answer)] == []


async def test_the_connections_of_a_node_that_died_are_forgotten_and_others_are_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(headcount, "RENEW_S", 0.01)
    async with two_nodes(2) as (one, two), AsyncExitStack() as stack:
        clock = Clock(one.store)
        await knock(stack, one)
        dead = Headcount(two.node)
        await dead.enter("ann", "c_dead")
        dead._held.clear()  # as if its process were gone: nothing is renewed
        assert (await knock(stack, two)).frames[-1]["code"] == "limit.rate"
        for _ in range(2):  # both times the living one has renewed its place in between
            clock.ahead_s += TTL_S / 2 + 1
            await renewed(one)
        assert (await knock(stack, two)).frames[-1]["type"] == "welcome"
        assert (await knock(stack, one)).frames[-1]["code"] == "limit.rate", "the living one has kept its place"


async def renewed(gateway: Gateway) -> None:
    """Until all that live have claimed again, by the clock as it is now."""
    now = gateway.store.disk.clock_ms()
    holders = gateway.store.disk.accounts["connections:ann"].holders
    await until(lambda: any(until_ms >= now + TTL_S * 1000 for until_ms, _ in holders.values()))


async def test_a_store_that_is_away_lets_people_in_and_they_are_counted_when_it_is_back(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(headcount, "RENEW_S", 0.01)
    store = MemoryStore()
    async with serving(store, authenticate=Door(**DOOR), user_connections=1) as gateway, AsyncExitStack() as stack:
        store.available = False
        first = await knock(stack, gateway)
        assert first.frames[-1]["type"] == "welcome"
        store.available = True
        await until(lambda: taken(gateway) == 1)
        assert (await knock(stack, gateway)).frames[-1]["code"] == "limit.rate"
        store.available = False
        await first.socket.close()
        await until(lambda: gateway.node.counters.connections <= 1)
        store.available = True


async def test_a_connection_that_is_gone_before_its_place_was_taken_keeps_none() -> None:
    class Slow(MemoryStore):
        asked = asyncio.Event()
        go = asyncio.Event()

        async def claim(self, *given: Any) -> Any:
            self.asked.set()
            await self.go.wait()
            return await super().claim(*given)

    store = Slow()
    async with serving(store, user_connections=1) as gateway:
        count = Headcount(gateway.node)
        entering = asyncio.create_task(count.enter("ann", "c_1"))
        await store.asked.wait()
        count.leave("c_1")
        store.go.set()
        await entering
        await until(lambda: taken(gateway) == 0)


async def test_without_a_limit_nobody_is_counted() -> None:
    async with two_nodes(0) as (one, _), AsyncExitStack() as stack:
        await knock(stack, one)
        assert one.store.disk.accounts == {}
