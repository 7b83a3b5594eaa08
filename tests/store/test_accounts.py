"""Accounts: what somebody has used and may still use, for all nodes; held to every store."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.store.conftest import Place
from tests.store.servers import StoreServer

from everstream.core.quota import Account, Claim, Spent
from everstream.store.folder import find_binary
from everstream.store.valkey import ValkeyStore

YEAR_MS = 365 * 86_400_000  # no span ends while a test runs
DECADE_MS = 10 * YEAR_MS
TTL_MS = 600_000
NOW_MS = 1_790_000_000_000
AT_ONCE = 16  # each takes a connection of its own


def place_of(most: int) -> Claim:
    return Claim("places", 1, 1, most, 0)


def tokens(amount: int, most: int, least: int = 1) -> Claim:
    return Claim("tokens", amount, least, most, DECADE_MS)


async def test_a_hundred_who_ask_at_once_on_two_nodes_get_no_more_than_there_is(place: Place) -> None:
    seats = [await place.seat(), await place.seat("n_two")]
    said: list[Spent | list[int]] = []
    for first in range(0, 96, AT_ONCE):
        some = range(first, first + AT_ONCE)
        claims = (
            seats[n % 2].store.claim("user:ann", f"r_{n}", [tokens(30, 1_000), place_of(50)], TTL_MS) for n in some
        )
        said += await asyncio.gather(*claims)
    granted = [found[0] for found in said if not isinstance(found, Spent)]
    assert sum(granted) == 1_000
    assert sorted(granted) == [10, *[30] * 33]
    assert {found.name for found in said if isinstance(found, Spent)} == {"tokens"}
    assert all(0 < found.retry_after_ms <= DECADE_MS for found in said if isinstance(found, Spent))


async def test_what_was_not_used_is_there_again_and_settling_twice_gives_it_back_once(place: Place) -> None:
    one, two = await place.seat(), await place.seat("n_two")
    assert await one.store.claim("k", "r_1", [tokens(80, 100), place_of(1)], TTL_MS) == [80, 1]
    assert await two.store.claim("k", "r_2", [tokens(80, 100), place_of(1)], TTL_MS) == Spent("places", 0)
    assert await two.store.claim("other", "r_2", [tokens(80, 100), place_of(1)], TTL_MS) == [80, 1]
    assert [await two.store.settle("k", "r_1", {"tokens": 30}) for _ in range(2)] == [True, False]
    assert await two.store.claim("k", "", [tokens(80, 100), place_of(1)], TTL_MS) == [70, 1]
    assert await one.store.claim("k", "r_3", [tokens(80, 100), place_of(1)], TTL_MS) == [70, 1]


async def test_a_claim_that_was_repeated_is_the_first_one(place: Place) -> None:
    store = (await place.seat()).store
    for _ in range(3):
        assert await store.claim("k", "r_1", [tokens(60, 100)], TTL_MS) == [60]
    assert await store.claim("k", "", [tokens(60, 100)], TTL_MS) == [40]


async def test_a_holder_is_forgotten_in_time(place: Place) -> None:
    store = (await place.seat()).store
    assert await store.claim("k", "r_1", [place_of(1), tokens(60, 100)], 1) == [1, 60]
    async with asyncio.timeout(10):
        while isinstance(said := await store.claim("k", "r_2", [place_of(1), tokens(60, 100)], TTL_MS), Spent):
            await asyncio.sleep(0.001)  # pause: for the store's clock
    assert said == [1, 40]


async def test_a_holder_that_claims_again_is_kept_for_longer_and_never_for_less(place: Place) -> None:
    one, two = await place.seat(), await place.seat("n_two")
    for ttl_ms in (100, TTL_MS, 1):
        assert await one.store.claim("k", "c_1", [place_of(1), tokens(60, 100)], ttl_ms) == [1, 60]
    await one.store.claim("other", "c_1", [place_of(1)], 100)
    async with asyncio.timeout(10):
        while isinstance(await two.store.claim("other", "c_2", [place_of(1)], TTL_MS), Spent):
            await asyncio.sleep(0.005)  # pause: for the store's clock
    assert await two.store.claim("k", "c_2", [place_of(1)], TTL_MS) == Spent("places", 0)
    assert await two.store.claim("k", "", [tokens(60, 100)], TTL_MS) == [40], "it was claimed once"
    assert await two.store.settle("k", "c_1", {})


async def test_an_account_that_is_claimed_again_lasts_for_as_long_as_its_holder(place: Place) -> None:
    if place.kind == "memory":
        pytest.skip("only a server keeps time for its keys")
    store = (await place.seat()).store
    for ttl_ms in (60_000, TTL_MS, 60_000):
        await store.claim("k", "c_1", [place_of(1)], ttl_ms)
    (ttl_s,) = [left for key, left in (await place.keys()).items() if "a:" in key]
    assert TTL_MS / 1000 - 60 < ttl_s <= TTL_MS / 1000


async def test_an_account_outlasts_its_span_and_no_more(place: Place) -> None:
    if place.kind == "memory":
        pytest.skip("only a server keeps time for its keys")
    store = (await place.seat()).store
    await store.claim("k", "r_1", [Claim("starts", 1, 1, 5, 60_000)], TTL_MS)
    (ttl_s,) = [left for key, left in (await place.keys()).items() if "a:" in key]
    assert TTL_MS / 1000 - 60 < ttl_s <= TTL_MS / 1000
    await store.claim("k", "r_2", [tokens(1, 5)], TTL_MS)
    (ttl_s,) = [left for key, left in (await place.keys()).items() if "a:" in key]
    assert DECADE_MS / 1000 - 60 < ttl_s <= DECADE_MS / 1000


AMOUNTS = st.integers(0, 40) | st.integers(0, 2**52)
STEPS = st.lists(
    st.one_of(
        st.tuples(
            st.just("claim"), st.sampled_from(["", "a", "b b", "ü"]), AMOUNTS, st.integers(0, 3), st.integers(1, 3)
        ),
        st.tuples(st.just("settle"), st.sampled_from(["a", "b b", "ü"]), AMOUNTS, st.just(0), st.just(0)),
    ),
    max_size=25,
)


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    server = StoreServer(find_binary(None), tmp_path_factory.mktemp("accounts"))
    asyncio.run(server.start())
    yield server.unix_url
    server.kill()


async def compare(url: str, steps: list[tuple[str, str, int, int, int]]) -> None:
    store = ValkeyStore(url)
    await store.open("n_one", lambda push: None, lambda message: None)
    account, name = Account(), secrets.token_hex(8)
    try:
        for what, holder, amount, least, places in steps:
            if what == "settle":
                used = {"tokens": amount}
                assert await store.settle(name, holder, used) == account.settle(holder, used)
                continue
            claims = [tokens(amount, 100, least), place_of(places)]
            expected = account.claim(holder, claims, NOW_MS, TTL_MS)
            found = await store.claim(name, holder, claims, TTL_MS)
            if isinstance(expected, Spent):
                assert isinstance(found, Spent)
                assert found.name == expected.name
            else:
                assert found == expected
    finally:
        await store.close()


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=STEPS)
def test_the_server_decides_as_the_rules_do(url: str, steps: list[tuple[str, str, int, int, int]]) -> None:
    asyncio.run(compare(url, steps))
