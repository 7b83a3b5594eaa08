"""A group under Sentinels whose primary dies or freezes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from tests.server import HOST, free_port
from tests.store.cluster import SERVICE, Sentinels
from tests.store.conftest import until
from tests.store.test_cluster import Author, pushed_again, seated
from tests.store.test_faults import refusal

from everstream.store.base import StoreUnavailable


@pytest.fixture(scope="module")
def shared_group(tmp_path_factory: pytest.TempPathFactory) -> Sentinels:  # type: ignore[misc]
    group = Sentinels(tmp_path_factory.mktemp("sentinels"))
    try:
        asyncio.run(group.start())
        yield group
    finally:
        group.close()


@pytest.fixture
async def group(shared_group: Sentinels) -> AsyncIterator[Sentinels]:
    """Its primary may be frozen in a test, once."""
    yield shared_group
    for member in (*shared_group.servers, *shared_group.others):
        shared_group.cont(member)


@pytest.fixture
async def own_group(tmp_path: Path) -> AsyncIterator[Sentinels]:
    group = Sentinels(tmp_path)
    try:
        yield await group.start()
    finally:
        group.close()


async def test_commits_go_on_with_the_new_primary_and_followers_are_pushed_to(own_group: Sentinels) -> None:
    group = own_group
    async with seated(group.url) as one, seated(group.url, "n_two") as two:
        author = await Author.of(one, 7)
        await two.store.follow(author.stream)
        await author.say(*"abc")
        await until(lambda: bool(two.pushes))
        old = await group.primary_of()
        group.kill(old)
        with pytest.raises(StoreUnavailable):
            await one.store.read(author.stream)
        await author.say(*"def")
        assert author.failures > 0
        await pushed_again(author, two)
        await author.check()
        assert await group.primary_of() is not old


async def test_some_of_the_sentinels_may_be_dead(group: Sentinels) -> None:
    dead = f"{HOST}:{free_port()}"
    async with seated(f"redis+sentinel://{dead},{group.others[2].address}/{SERVICE}/0") as seat:
        author = await Author.of(seat, 1)
        await author.say("a")
        await author.check()


async def test_what_is_wrong_with_the_address_is_said(group: Sentinels) -> None:
    sentinel = group.others[0].address
    assert "`other`" in await refusal(f"redis+sentinel://{sentinel}/other")
    assert "do they run" in await refusal(f"redis+sentinel://{HOST}:{free_port()}/{SERVICE}")
    assert "name of the group is missing" in await refusal(f"redis+sentinel://{sentinel}")
    assert "database" in await refusal(f"redis+sentinel://{sentinel}/{SERVICE}/x")


async def test_a_primary_that_froze_and_was_replaced_is_spoken_to_no_more(group: Sentinels) -> None:
    async with seated(group.url) as one, seated(group.url, "n_two") as idle:
        author = await Author.of(one, 7)
        await author.say(*"abc")
        await idle.store.read(author.stream)
        old = await group.primary_of()
        group.stop_(old)
        new = await group.failed_over(7, old)
        await author.say(*"def")
        await until(lambda: idle.store._deployment.server(0).name == new.address)  # type: ignore[attr-defined]
        group.cont(old)
        late = Author(idle, author.stream, author.epochs)
        late.said, late.acked = list(author.said), author.acked
        await late.say(*"ghi")
        await late.check()
