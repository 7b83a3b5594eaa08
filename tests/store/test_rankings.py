"""Rankings: who comes first by a score, by pages, for all nodes; held to every store."""

from __future__ import annotations

import asyncio
import secrets
from itertools import count

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.store.conftest import Place
from tests.store.servers import StoreServer

from everstream.core.lease import partition_for
from everstream.store.base import Store
from everstream.store.folder import find_binary
from everstream.store.memory import MemoryStore
from everstream.store.valkey import ValkeyStore

AT_ONCE = 16  # each takes a connection of its own
NOW_MS = 1_790_000_000_000


async def pages(store: Store, ranking: str, limit: int) -> list[tuple[str, int]]:
    """All of it, page by page."""
    found: list[tuple[str, int]] = []
    for _ in range(1_000):
        last = (found[-1][1], found[-1][0]) if found else None
        page = await store.ranked(ranking, last, limit)
        assert len(page) <= limit
        if not page:
            return found
        found += page
    raise AssertionError("the pages go round in circles")


async def ranked(store: Store, ranking: str, scores: dict[str, int]) -> list[tuple[str, int]]:
    """Rank them all, some at a time, and return what is to be found."""
    members = list(scores)
    for first in range(0, len(members), AT_ONCE):
        some = members[first : first + AT_ONCE]
        await asyncio.gather(*(store.rank(ranking, member, scores[member]) for member in some))
    return [(member, score) for score, member in sorted(((s, m) for m, s in scores.items()), reverse=True)]


async def test_the_highest_score_comes_first_for_every_node(place: Place) -> None:
    one, two = await place.seat(), await place.seat("n_two")
    for member, score in (("s_b", 2), ("s_c", 10), ("s_a", 9)):
        await one.store.rank("u", member, score)
    assert await two.store.ranked("u", None, 10) == [("s_c", 10), ("s_a", 9), ("s_b", 2)]
    assert await two.store.ranked("u", None, 2) == [("s_c", 10), ("s_a", 9)]
    assert await two.store.ranked("u", None, 0) == []
    assert await two.store.ranked("nobody", None, 10) == []
    assert await two.store.ranked("nobody", (5, "s_a"), 10) == []


async def test_a_score_is_never_lowered(place: Place) -> None:
    """Two nodes say when a session was last used, and the one that knows less is later."""
    one, two = await place.seat(), await place.seat("n_two")
    for seat, score in ((one, 5), (two, 9), (one, 7), (two, 9)):
        await seat.store.rank("u", "s_a", score)
    assert await one.store.ranked("u", None, 10) == [("s_a", 9)]


async def test_who_is_taken_out_is_gone_and_may_come_back_with_less(place: Place) -> None:
    seat = await place.seat()
    expected = await ranked(seat.store, "u", {"s_a": 5, "s_b": 9})
    await seat.store.unrank("u", "s_b")
    await seat.store.unrank("u", "s_b")
    await seat.store.unrank("nobody", "s_b")
    assert await seat.store.ranked("u", None, 10) == expected[1:]
    await seat.store.rank("u", "s_b", 1)
    assert await seat.store.ranked("u", None, 10) == [("s_a", 5), ("s_b", 1)]


@pytest.mark.parametrize("limit", [1, 7, 50, 500])
async def test_pages_of_many_with_one_score_leave_nothing_out_and_repeat_nothing(place: Place, limit: int) -> None:
    seat = await place.seat()
    scores = {f"s_{n:03}": NOW_MS for n in range(300)} | {f"s_{n:03}": NOW_MS + n % 3 - 1 for n in range(300, 330)}
    expected = await ranked(seat.store, "u", scores)
    if limit > 1 or place.kind == "memory":
        assert await pages(seat.store, "u", limit) == expected
    else:
        for place_ in (0, 9, 150, 329):
            member, score = expected[place_]
            assert await seat.store.ranked("u", (score, member), 1) == expected[place_ + 1 : place_ + 2]


async def test_a_page_begins_where_the_last_one_ended_though_that_member_is_gone_or_went_up(place: Place) -> None:
    seat = await place.seat()
    expected = await ranked(seat.store, "u", {f"s_{n}": 7 for n in range(6)} | {"s_low": 1})
    await seat.store.unrank("u", "s_4")
    await seat.store.rank("u", "s_3", 8)
    assert await seat.store.ranked("u", (7, "s_4"), 10) == expected[3:]
    assert await seat.store.ranked("u", (7, "s_3"), 10) == expected[3:]
    assert await seat.store.ranked("u", (5, "s_9"), 10) == [("s_low", 1)]
    assert await seat.store.ranked("u", (1, "s_low"), 10) == []
    assert await seat.store.ranked("u", (0, ""), 10) == []


async def test_members_of_one_score_are_in_the_order_of_their_characters(place: Place) -> None:
    """Not in that of a language, in which capital letters stand beside small ones."""
    seat = await place.seat()
    names = ["a", "B", "b", "A", "aa", "", "ä", "ż", "🙂", "\uffff", "z", "_", "\x00", "a\x00", "a:b {p7}\n"]
    expected = await ranked(seat.store, "u", dict.fromkeys(names, 3))
    assert await pages(seat.store, "u", 4) == expected
    for place_, (member, score) in enumerate(expected):
        assert await seat.store.ranked("u", (score, member), 20) == expected[place_ + 1 :]


async def test_the_largest_scores_are_exact(place: Place) -> None:
    seat = await place.seat()
    scores = {"a": 2**53 - 1, "b": 2**53 - 2, "c": NOW_MS * 1000 + 1, "d": NOW_MS * 1000, "e": 0, "f": -3}
    expected = await ranked(seat.store, "u", scores)
    assert await pages(seat.store, "u", 1) == expected


async def test_rankings_tables_and_notes_of_one_name_know_nothing_of_each_other(place: Place) -> None:
    seat = await place.seat()
    await seat.store.rank("u", "s_a", 1)
    await seat.store.put_row("u", "s_a", b"row")
    await seat.store.remember("u", b"note", 60)
    await seat.store.rank("v", "s_a", 2)
    await seat.store.unrank("v", "s_a")
    assert await seat.store.ranked("u", None, 10) == [("s_a", 1)]
    assert (await seat.store.rows("u"), await seat.store.recall("u")) == ({"s_a": b"row"}, b"note")


async def test_a_ranking_is_one_key_that_lies_where_its_name_says_and_an_empty_one_is_none(place: Place) -> None:
    if place.kind == "memory":
        pytest.skip("only a server has keys")
    store = (await place.seat()).store
    names = [f"u{n}" for n in range(20)]
    await asyncio.gather(*(store.rank(name, member, 1) for name in names for member in ("s_a", "s_b")))
    await store.rank("gone", "s_a", 1)
    await store.unrank("gone", "s_a")
    tags = sorted(key.split(":")[1] for key in await place.keys() if ":z:" in key)
    assert tags == sorted(f"{{p{partition_for(name)}}}" for name in names)


async def test_a_replica_in_memory_has_the_ranking_of_its_time() -> None:
    store = MemoryStore()
    await store.rank("u", "s_a", 1)
    replica = store.disk.copy()
    await store.rank("u", "s_a", 2)
    assert replica.rankings == {"u": {"s_a": 1}}


# --------------------------------------------------------------------------- the server does what the reference does


MEMBERS = st.sampled_from(("a", "B", "b", "aa", "ż", ""))
STEPS = st.lists(
    st.tuples(st.sampled_from(("rank", "rank", "rank", "unrank", "ranked", "ranked")), MEMBERS, st.integers(-1, 3)),
    max_size=40,
)


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> str:  # type: ignore[misc]
    server = StoreServer(find_binary(None), tmp_path_factory.mktemp("rankings"))
    asyncio.run(server.start())
    yield server.unix_url
    server.kill()


async def compare(url: str, steps: list[tuple[str, str, int]]) -> None:
    memory, server = MemoryStore(), ValkeyStore(url, key_prefix=f"rank{secrets.token_hex(6)}")
    limits = count()
    for store in (memory, server):
        await store.open("n_one", lambda push: None, lambda message: None)
    try:
        for verb, member, score in steps:
            if verb == "ranked":
                limit = next(limits) % 5
                expected = await memory.ranked("u", (score, member), limit)
                assert await server.ranked("u", (score, member), limit) == expected, (score, member, limit)
                continue
            for store in (memory, server):
                await (store.rank("u", member, score) if verb == "rank" else store.unrank("u", member))
            assert await server.ranked("u", None, 10) == await memory.ranked("u", None, 10)
    finally:
        for store in (memory, server):
            await store.close()


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
@given(steps=STEPS)
def test_the_server_ranks_as_the_reference_does(url: str, steps: list[tuple[str, str, int]]) -> None:
    asyncio.run(compare(url, steps))
