"""Tables: small maps that all nodes share and that last, held to every store."""

from __future__ import annotations

import asyncio
from collections import Counter
from pathlib import Path

import pytest
from tests.store.conftest import Place
from tests.store.servers import StoreServer

from everstream.core.lease import partition_for
from everstream.store.base import StoreUnavailable
from everstream.store.memory import MemoryStore
from everstream.store.shelves import TABLE_TTL_S
from everstream.store.urls import EmbeddedStore
from everstream.store.valkey import ValkeyStore

ODD = "żółć :{p7}\x00\n"
YEAR_S = 365 * 86_400


async def test_a_row_that_one_node_put_is_read_by_another_as_it_was(place: Place) -> None:
    one, two = await place.seat(), await place.seat("n_two")
    assert await two.store.get_row("t", ODD) is None
    await one.store.put_row("t", ODD, b"\x00\xff\r\n")
    await one.store.put_row("t", "empty", b"")
    assert await two.store.get_row("t", ODD) == b"\x00\xff\r\n"
    assert await two.store.get_row("t", "empty") == b""
    await two.store.put_row("t", ODD, b"other")
    assert await one.store.rows("t") == {ODD: b"other", "empty": b""}


async def test_a_dropped_row_is_gone_and_was_there_only_once(place: Place) -> None:
    one, two = await place.seat(), await place.seat("n_two")
    for row in ("a", "b"):
        await one.store.put_row("t", row, b"v")
    assert [await two.store.drop_row("t", "a") for _ in range(2)] == [True, False]
    assert await one.store.get_row("t", "a") is None
    assert await one.store.rows("t") == {"b": b"v"}
    assert await one.store.drop_row("t", "b")
    assert await two.store.rows("t") == {}


async def test_tables_and_notes_of_one_name_know_nothing_of_each_other(place: Place) -> None:
    store = (await place.seat()).store
    await store.put_row("t", "a", b"row")
    await store.remember("t", b"note", 60)
    await store.put_row("u", "a", b"other")
    assert (await store.get_row("t", "a"), await store.recall("t")) == (b"row", b"note")
    assert await store.drop_row("u", "a")
    assert await store.rows("t") == {"a": b"row"}
    assert await store.rows("absent") == {}


async def test_rows_put_at_the_same_time_are_all_there(place: Place) -> None:
    seats = [await place.seat(), await place.seat("n_two")]
    rows = {f"r{n}": b"%d" % n for n in range(50)}
    await asyncio.gather(*(seats[n % 2].store.put_row("t", row, value) for n, (row, value) in enumerate(rows.items())))
    assert await seats[0].store.rows("t") == rows


async def test_a_table_outlasts_streams_by_years_from_the_last_time_that_it_was_written(place: Place) -> None:
    if place.kind == "memory":
        pytest.skip("only a server keeps time for its keys")
    store = (await place.seat()).store
    await store.put_row("t", "a", b"v")
    await store.put_row("t", "b", b"v")
    await store.drop_row("t", "a")
    tables = {key: ttl_s for key, ttl_s in (await place.keys()).items() if ":t:" in key}
    assert len(tables) == 1
    assert all(TABLE_TTL_S - 60 < ttl_s <= TABLE_TTL_S and ttl_s > 9 * YEAR_S for ttl_s in tables.values())


async def test_an_empty_table_takes_no_room(place: Place) -> None:
    if place.kind == "memory":
        pytest.skip("only a server has keys")
    store = (await place.seat()).store
    await store.put_row("t", "a", b"v")
    await store.drop_row("t", "a")
    assert not [key for key in await place.keys() if ":t:" in key]


async def test_a_store_that_is_away_says_so_of_every_table(server: StoreServer) -> None:
    gone = ValkeyStore(server.unix_url, timeout_s=0.2)
    await gone.open("n_one", lambda push: None, lambda message: None)
    absent = MemoryStore()
    absent.available = False
    server.kill()
    try:
        for store in (gone, absent):
            with pytest.raises(StoreUnavailable):
                await store.put_row("t", "a", b"v")
            for asked in (store.get_row("t", "a"), store.drop_row("t", "a"), store.rows("t")):
                with pytest.raises(StoreUnavailable):
                    await asked
    finally:
        await gone.close()


async def test_a_replica_in_memory_has_the_rows_of_its_time() -> None:
    store = MemoryStore()
    await store.put_row("t", "a", b"v")
    replica = store.disk.copy()
    await store.put_row("t", "b", b"v")
    await store.drop_row("t", "a")
    assert replica.tables == {"t": {"a": b"v"}}


async def test_the_rows_of_an_embedded_store_survive_its_restart(tmp_path: Path) -> None:
    servers = set()
    for turn in range(3):
        store = EmbeddedStore(tmp_path, None)
        await store.open(f"n_{turn}", lambda push: None, lambda message: None)
        try:
            assert await store.rows("t") == {f"r{n}": b"%d" % n for n in range(turn)}
            await store.put_row("t", f"r{turn}", b"%d" % turn)
            assert store._embedded is not None
            servers.add(store._embedded.pid)
        finally:
            await store.close()
    assert len(servers) == 3, "the last one out stops the server"


async def test_a_table_is_one_key_and_tables_of_a_cluster_lie_where_their_names_say(place: Place) -> None:
    if place.kind == "memory":
        pytest.skip("only a server has keys")
    store = (await place.seat()).store
    names = [f"t{n}" for n in range(40)]
    await asyncio.gather(*(store.put_row(name, row, name.encode()) for name in names for row in "ab"))
    assert [await store.rows(name) for name in names] == [dict.fromkeys("ab", name.encode()) for name in names]
    tags = Counter(key.split(":")[1] for key in await place.keys() if ":t:" in key)
    assert tags == Counter(f"{{p{partition_for(name)}}}" for name in names)
    assert len(tags) > 10
