"""Proofs that are taken back: on every node, at once, also where the word of it was lost, and nobody else's."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

from tests.gateway.conftest import Client, Gateway, serving
from tests.gateway.people import Door, person
from tests.runtime.conftest import settings_of, until

from everstream.gateway.authenticator import authenticator_of
from everstream.gateway.keys import Keys
from everstream.gateway.metrics import exposition
from everstream.runtime.revoking import REVOKED
from everstream.store.memory import MemoryStore

RECHECK_S = 0.03


@asynccontextmanager
async def connected(gateway: Gateway, *tokens: str) -> AsyncIterator[list[Client]]:
    """A client for each token, welcomed."""
    async with AsyncExitStack() as stack:
        clients = []
        for token in tokens:
            client = await stack.enter_async_context(gateway.client(hello=False))
            assert (await client.ask("hello", token=token))["type"] == "welcome"
            clients.append(client)
        yield clients


async def stays(client: Client) -> bool:
    return (await client.ask("ping"))["type"] == "pong"


async def test_a_revoked_key_closes_its_connections_on_all_nodes_and_no_other() -> None:
    store = MemoryStore()
    door = Door(a=person("ann", "1"), b=person("bob", "2"), x=person("eve"))
    async with (
        serving(store, authenticate=door) as one,
        serving(store.beside(), authenticate=door) as two,
        connected(one, "a", "b", "x") as here,
        connected(two, "b", "a") as there,
    ):
        assert await one.node.revoke("key:1") == 2
        for client in (here[0], there[1]):
            assert await client.closed() == 4501
            assert client.frames[-1] == {
                "type": "error",
                "code": "auth.denied",
                "message": "this token was taken back",
                "retryable": False,
            }
        for client in (here[1], here[2], there[0]):
            assert await stays(client)
        assert [gateway.node.counters.connections_revoked for gateway in (one, two)] == [1, 1]
        assert await one.node.revoke("") == 2
        assert await stays(here[2]), "what cannot be told apart cannot be taken back"


async def test_what_a_revoked_user_has_begun_goes_on() -> None:
    door = Door(a=person("ann", "1"), new=person("ann", "2"))
    async with serving(authenticate=door) as gateway, connected(gateway, "a") as (client,):
        stream = await client.generate("hand/any")
        await until(lambda: gateway.hand.calls)
        await gateway.node.revoke("key:1")
        assert await client.closed() == 4501
        gateway.hand.calls[0].words("whole")
        gateway.hand.calls[0].end()
        async with connected(gateway, "new") as (again,):
            await again.ask("subscribe", stream=stream)
            assert (await again.ended(stream))["reason"] == "complete"


async def test_a_lost_message_is_healed_by_the_recheck() -> None:
    door = Door(a=person("ann", "1"), b=person("bob", "2"))
    async with (
        serving(authenticate=door, auth_recheck_s=RECHECK_S) as gateway,
        connected(gateway, "a", "b") as (ann, bob),
    ):
        door.taken_back.add("key:1")
        assert await ann.closed() == 4501
        assert await stays(bob)


async def test_each_proof_is_asked_for_once_however_many_stand_on_it() -> None:
    door = Door(a=person("ann", "1"), b=person("bob", "2"), x=person("eve"))
    async with serving(authenticate=door, auth_recheck_s=RECHECK_S) as gateway, connected(gateway, *"aaaaabbbbbxx"):
        door.asked.clear()
        await until(lambda: len(door.asked) >= 6)
    rounds = [set(door.asked[at : at + 2]) for at in (0, 2, 4)]
    assert rounds == [{"key:1", "key:2"}] * 3


async def test_a_store_that_is_away_closes_nobody() -> None:
    door = Door(a=person("ann", "1"))
    async with serving(authenticate=door, auth_recheck_s=RECHECK_S) as gateway, connected(gateway, "a") as (ann,):
        door.away = True
        door.taken_back.add("key:1")
        door.asked.clear()
        await until(lambda: len(door.asked) >= 3)
        assert await stays(ann)
        assert gateway.node.counters.connections_revoked == 0
        door.away = False
        assert await ann.closed() == 4501


async def test_one_question_that_fails_hides_no_other() -> None:
    class Faulty(Door):
        async def holds(self, proof: str) -> bool:
            if proof == "key:1":
                raise KeyError(proof)
            return await super().holds(proof)

    door = Faulty(a=person("ann", "1"), b=person("bob", "2"))
    async with (
        serving(authenticate=door, auth_recheck_s=RECHECK_S) as gateway,
        connected(gateway, "a", "b") as (ann, bob),
    ):
        door.taken_back.add("key:2")
        assert await bob.closed() == 4501
        assert await stays(ann)


async def test_a_key_that_is_revoked_while_hello_waits_lets_nobody_in() -> None:
    door = Door(a=person("ann", "1"))
    door.open.clear()
    async with serving(authenticate=door) as gateway, gateway.client(hello=False) as client:
        await client.send(type="hello", id=1, token="a")
        await until(lambda: door.waiting)
        await gateway.node.revoke("key:1")
        door.open.set()
        assert await client.closed() == 4501
        assert [frame.get("code") for frame in client.frames] == ["auth.denied"]


class CountingStore(MemoryStore):
    """Counts how often a row was asked for."""

    looked = 0

    async def get_row(self, table: str, row: str) -> bytes | None:
        self.looked += 1
        return await super().get_row(table, row)


async def test_keys_of_the_store_are_revoked_by_message_and_by_recheck_and_an_outage_closes_nobody() -> None:
    store = CountingStore()
    keys, settings = Keys(store), settings_of(auth="keys")
    first, second = await keys.create("ann"), await keys.create("bob")
    async with (
        serving(store, authenticate=authenticator_of(settings, store), auth_recheck_s=RECHECK_S) as gateway,
        connected(gateway, first[1], second[1]) as (ann, bob),
    ):
        await keys.revoke(first[0])
        await gateway.node.revoke(f"key:{first[0]}")
        assert await ann.closed() == 4501
        store.available = False
        store.disk.tables.clear()  # as if both were gone: nobody can know now
        looked = store.looked
        await until(lambda: store.looked >= looked + 2)
        assert await stays(bob)
        store.available = True
        assert await bob.closed() == 4501, "nobody told: it was looked up"


async def test_of_a_thousand_connections_of_ten_users_only_the_revoked_keys_close() -> None:
    users = [f"u{n}" for n in range(10)]
    door = Door(**{user: person(user, user) for user in users})
    store = MemoryStore()
    async with (
        serving(store, authenticate=door) as one,
        serving(store.beside(), authenticate=door) as two,
        connected(one, *users * 50) as here,
        connected(two, *users * 50) as there,
    ):
        clients = dict(zip(here + there, users * 100, strict=True))
        await one.node.revoke("key:u3")
        gone = [client for client, user in clients.items() if user == "u3"]
        assert Counter(await asyncio.gather(*(client.closed() for client in gone))) == {4501: 100}
        rest = [client for client, user in clients.items() if user != "u3"]
        assert all(await asyncio.gather(*(stays(client) for client in rest)))
        assert [gateway.node.counters.connections_revoked for gateway in (one, two)] == [50, 50]


async def test_a_message_that_no_node_can_read_closes_nobody() -> None:
    door = Door(a=person("ann", "1"))
    async with serving(authenticate=door) as gateway, connected(gateway, "a") as (ann,):
        for proof in (b"", b"key:", b"key:11", b"KEY:1"):
            await gateway.store.send(gateway.node.id, REVOKED + proof)
        assert await stays(ann)


async def test_a_store_that_is_away_at_hello_lets_nobody_in_and_sends_nobody_away_for_good() -> None:
    store = MemoryStore()
    made = await Keys(store).create("ann")
    async with serving(store, authenticate=authenticator_of(settings_of(auth="keys"), store)) as gateway:
        async with gateway.client(hello=False) as client:
            store.available = False
            reply = await client.ask("hello", token=made[1])
            assert (reply["code"], reply["retryable"]) == ("store.unavailable", True)
            assert await client.closed() == 1011
        store.available = True
        async with connected(gateway, made[1]) as (ann,):
            assert ann.frames[0]["user"] == {"id": "ann", "name": "ann"}


async def test_who_was_refused_expired_or_revoked_is_counted() -> None:
    door = Door(a=person("ann", "1"), old=person("bob", expires_at=time.time() + 0.2))
    async with serving(authenticate=door) as gateway, connected(gateway, "a", "old") as (ann, bob):
        async with gateway.client(hello=False) as nobody:
            await nobody.ask("hello", token="nobody")
            assert await nobody.closed() == 4501
        assert await bob.closed() == 4005
        await gateway.node.revoke("key:1")
        assert await ann.closed() == 4501
        text = exposition(gateway.node)[0].decode()
    for how in ("refused", "expired", "revoked"):
        assert f"everstream_connections_{how}_total 1.0" in text
