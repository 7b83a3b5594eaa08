"""A cluster whose slots move, whose primaries die or freeze, and whose replicas lag: what the store makes of it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest
from tests.server import HOST, free_port
from tests.store.cluster import Cluster, Member
from tests.store.conftest import Seat, new_stream, until
from tests.store.servers import StoreServer
from tests.store.test_contract import words
from tests.store.test_faults import persisted, refusal

from everstream.core.events import DeltaText
from everstream.core.lease import Epochs, partition_for
from everstream.core.log import Verdict as Word
from everstream.doctor import Verdict, check_store
from everstream.settings import Settings
from everstream.store.base import StoreUnavailable, Write
from everstream.store.valkey import ValkeyStore

WAIT_S = 30.0


@pytest.fixture(scope="module")
def shared_cluster(tmp_path_factory: pytest.TempPathFactory) -> Cluster:  # type: ignore[misc]
    cluster = Cluster(tmp_path_factory.mktemp("cluster"))
    try:
        asyncio.run(cluster.start())
        yield cluster
    finally:
        cluster.close()


@pytest.fixture
async def cluster(shared_cluster: Cluster) -> AsyncIterator[Cluster]:
    """In order again after every test, which may freeze its servers, but not kill them."""
    yield shared_cluster
    for server in shared_cluster.servers:
        shared_cluster.cont(server)
    await shared_cluster.healthy()


@pytest.fixture
async def own_cluster(tmp_path: Path) -> AsyncIterator[Cluster]:
    cluster = Cluster(tmp_path)
    try:
        yield await cluster.start()
    finally:
        cluster.close()


@asynccontextmanager
async def seated(url: str, node: str = "n_one", *, acks: str = "primary", acks_ms: int = 500) -> AsyncIterator[Seat]:
    seat = Seat(ValkeyStore(url, timeout_s=0.5, acks=acks, acks_timeout_ms=acks_ms), node)
    await seat.store.open(node, seat.pushes.append, seat.messages.append)
    try:
        yield seat
    finally:
        await seat.store.close()


class Author:
    """A leader that commits one word after another, as a committer does: what failed or was lost is sent again."""

    def __init__(self, seat: Seat, stream: str, epochs: Epochs) -> None:
        self._seat, self.stream, self.epochs = seat, stream, epochs
        self.said: list[str] = []
        self.acked = self.failures = self.gaps = 0

    @classmethod
    async def of(cls, seat: Seat, partition: int) -> Author:
        stream = new_stream(partition)
        created = await persisted(lambda: seat.store.create(stream, "", b"meta"))
        return cls(seat, stream, created.epochs)

    async def say(self, *more: str) -> None:
        """Until the store has all of it."""
        self.said += more
        async with asyncio.timeout(WAIT_S):
            while self.acked < len(self.said):
                base = self.acked
                entries = words(*self.said[base : base + 512])
                write = Write(self.stream, self.epochs, base, entries, False, "n_one", b"" if base else b"meta")
                try:
                    (reply,) = await self._seat.store.commit([write])
                except StoreUnavailable:
                    self.failures += 1
                    await asyncio.sleep(0.02)  # pause: between two tries
                    continue
                assert reply.verdict is not Word.FENCED
                self.gaps += reply.verdict is Word.GAP
                self.acked = reply.tail

    async def go_on(self, stop: asyncio.Event) -> None:
        while not stop.is_set():
            await self.say(f"{len(self.said)} ")
            await asyncio.sleep(0.001)  # pause: the pace of a model

    async def check(self) -> None:
        state = await persisted(lambda: self._seat.store.read(self.stream))
        assert [entry.text for entry in state.entries] == self.said


async def pushed_again(author: Author, follower: Seat) -> None:
    """Wait until the follower is pushed what is said from now on."""
    first = len(author.said)
    async with asyncio.timeout(WAIT_S):
        while not any(push.after >= first and push.stream == author.stream for push in follower.pushes):
            await author.say("again ")
            await asyncio.sleep(0.02)  # pause: between two tries


# --------------------------------------------------------------------------- slots that move


async def test_a_slot_that_moves_while_commits_run_loses_nothing_and_doubles_nothing(cluster: Cluster) -> None:
    async with seated(cluster.url) as seat:
        source = await cluster.primary_of(7)
        target = next(server for server in set((await cluster.primaries()).values()) if server is not source)
        authors = [await Author.of(seat, 7) for _ in range(12)]
        quiet = await Author.of(seat, 7)
        await quiet.say("not ", "a ", "word ", "more ")
        stop = asyncio.Event()
        running = [asyncio.create_task(author.go_on(stop)) for author in authors]
        try:
            for to in (target, source):
                said = [len(author.said) for author in authors]
                await cluster.move_slot(7, to, between=lambda: asyncio.sleep(0.002))  # pause: for commits in between
                assert await cluster.primary_of(7) is to
                await until(lambda: all(len(a.said) > n + 5 for a, n in zip(authors, said, strict=True)))  # noqa: B023
        finally:
            stop.set()
            await asyncio.gather(*running)
        for author in (*authors, quiet):
            await author.check()
            assert author.gaps == 0
        assert len(await seat.store.open_streams()) >= len(authors) + 1


async def test_streams_are_made_and_read_while_their_slot_moves(cluster: Cluster) -> None:
    async with seated(cluster.url) as seat:
        source = await cluster.primary_of(9)
        target = next(server for server in set((await cluster.primaries()).values()) if server is not source)
        first = await Author.of(seat, 9)
        await first.say(*"abc")
        made: list[Author] = []

        async def make() -> None:
            try:
                stream = new_stream(9)
                created = await seat.store.create(stream, f"q{len(made)}", b"meta")
                made.append(Author(seat, stream, created.epochs))
                await seat.store.read(first.stream)
            except StoreUnavailable:
                pass

        await cluster.move_slot(9, target, between=make)
        for author in (first, *made):
            await author.say("d")
            await author.check()
        opened = {stream for stream, _ in await persisted(seat.store.open_streams)}
        assert {author.stream for author in (first, *made)} <= opened
        await cluster.move_slot(9, source)


async def test_streams_are_laid_to_rest_and_purged_and_sessions_ranked_while_their_slot_moves(cluster: Cluster) -> None:
    async with seated(cluster.url) as seat:
        source = await cluster.primary_of(12)
        target = next(server for server in set((await cluster.primaries()).values()) if server is not source)
        resting, gone, kept = [await Author.of(seat, 12) for _ in range(3)]
        for author in (resting, gone, kept):
            await author.say(*"abc")
        user = next(name for name in map(str, range(10_000)) if partition_for(name) == 12)
        for score in range(5):
            await seat.store.rank(user, f"s_{score}", score)

        async def change() -> None:
            await seat.store.rest(resting.stream, resting.epochs[-1][0], 3)
            await seat.store.purge([gone.stream])
            await seat.store.rank(user, "s_1", 9)
            await seat.store.unrank(user, "s_3")

        async def try_to() -> None:
            with suppress(StoreUnavailable):
                await change()

        await cluster.move_slot(12, target, between=try_to)
        await persisted(change)
        opened = {stream for stream, _ in await persisted(seat.store.open_streams)}
        assert {author.stream for author in (resting, gone, kept)} & opened == {kept.stream}
        await resting.check()
        assert await seat.store.read(gone.stream) is None
        assert await seat.store.ranked(user, (4, "s_5"), 2) == [("s_4", 4), ("s_2", 2)]
        await cluster.move_slot(12, source)


async def test_a_follower_is_pushed_to_again_after_its_slot_moved(cluster: Cluster) -> None:
    async with seated(cluster.url) as one, seated(cluster.url, "n_two") as two:
        author = await Author.of(one, 11)
        await two.store.follow(author.stream)
        await author.say("a")
        await until(lambda: bool(two.pushes))
        source = await cluster.primary_of(11)
        target = next(server for server in set((await cluster.primaries()).values()) if server is not source)
        await cluster.move_slot(11, target)
        await pushed_again(author, two)
        await cluster.move_slot(11, source)
        await pushed_again(author, two)


async def test_a_primary_that_lost_its_functions_gets_them_again(cluster: Cluster) -> None:
    async with seated(cluster.url) as seat:
        author = await Author.of(seat, 7)
        for server in set((await cluster.primaries()).values()):
            await server.ask("FUNCTION FLUSH")
        await author.say("a")
        assert isinstance(await seat.store.open_streams(), list)
        await author.check()


# --------------------------------------------------------------------------- primaries that die


async def lagging(cluster: Cluster, primary: Member) -> Member:
    """A replica of it that hears nothing from now on, until it is let go on."""
    replica = await cluster.replica_of(primary)
    cluster.stop_(replica)
    await primary.ask("CLIENT KILL TYPE replica")
    return replica


async def test_what_a_killed_primary_took_with_it_is_a_gap_and_sent_again(own_cluster: Cluster) -> None:
    cluster = own_cluster
    async with seated(cluster.url) as seat:
        author, other = await Author.of(seat, 7), await Author.of(seat, 30)
        await author.say(*"abc")
        old = await cluster.primary_of(7)
        assert await cluster.primary_of(30) is not old, "the other is to live on"
        async with asyncio.timeout(WAIT_S):
            while (await old.say("WAIT 1 100")) != "1":
                await asyncio.sleep(0.02)  # pause: between two looks at a replica
        replica = await lagging(cluster, old)
        await author.say(*"def")
        cluster.kill(old)
        cluster.cont(replica)
        with pytest.raises(StoreUnavailable):
            await seat.store.read(author.stream)
        await other.say("here")
        assert other.failures == 0, "the other primaries' streams are not concerned"
        await author.say(*"ghi")
        assert author.failures > 0
        assert author.gaps > 0
        await author.check()
        assert await cluster.failed_over(7, old) is replica


async def test_a_follower_is_pushed_to_again_after_a_failover(cluster: Cluster) -> None:
    async with seated(cluster.url) as one, seated(cluster.url, "n_two") as two:
        author = await Author.of(one, 7)
        await two.store.follow(author.stream)
        await author.say("a")
        await until(lambda: bool(two.pushes))
        cluster.stop_(await cluster.primary_of(7))
        await pushed_again(author, two)
        async with asyncio.timeout(WAIT_S):
            while not two.messages:
                await persisted(lambda: one.store.send("n_two", b"hi"))
                await asyncio.sleep(0.02)  # pause: between two tries


async def test_a_primary_that_froze_and_was_replaced_is_spoken_to_no_more(cluster: Cluster) -> None:
    """It comes back believing that it leads; what it was told then would be lost."""
    async with seated(cluster.url) as one, seated(cluster.url, "n_two") as idle:
        author = await Author.of(one, 7)
        await author.say(*"abc")
        await idle.store.read(author.stream)
        old = await cluster.primary_of(7)
        cluster.stop_(old)
        new = await cluster.failed_over(7, old)
        await author.say(*"def")
        await until(lambda: idle.store._deployment.server(7).name == new.address)  # type: ignore[attr-defined]
        cluster.cont(old)
        author_of_idle = Author(idle, author.stream, author.epochs)
        author_of_idle.said, author_of_idle.acked = list(author.said), author.acked
        await author_of_idle.say(*"ghi")
        await author_of_idle.check()
        await cluster.healthy()
        await author_of_idle.check()
        assert await cluster.primary_of(7) is new


async def test_a_node_can_begin_while_a_primary_is_away(cluster: Cluster) -> None:
    async with seated(cluster.url) as seat:
        cluster.stop_(await cluster.primary_of(7))
        async with seated(cluster.url, "n_two") as two:
            await persisted(two.store.ping)
            author = await Author.of(two, 7)
            await author.say("a")
            await author.check()
        await persisted(seat.store.open_streams)


# --------------------------------------------------------------------------- replicas


async def test_a_commit_says_whether_a_replica_has_it(cluster: Cluster) -> None:
    async with seated(cluster.url, acks="replica", acks_ms=500) as seat:
        author = await Author.of(seat, 7)
        primary = await cluster.primary_of(7)
        loop = asyncio.get_running_loop()

        async def copied(text: str) -> bool:
            write = Write(author.stream, author.epochs, author.acked, [DeltaText(text)], False, "n_one", b"meta")
            (reply,) = await seat.store.commit([write])
            author.acked = reply.tail
            author.said.append(text)
            return reply.copied

        async with asyncio.timeout(WAIT_S):
            while not await copied("a"):
                pass
        replica = await cluster.replica_of(primary)
        cluster.stop_(replica)
        began = loop.time()
        assert not any([await copied("b") for _ in range(20)])
        assert loop.time() - began < 20 * 0.5 / 2, "commits must not wait for a missing replica one by one"

        repeat = Write(author.stream, author.epochs, author.acked - 1, [DeltaText("b")], False, "n_one")
        await primary.ask("CLIENT KILL TYPE normal")
        (reply,) = await persisted(lambda: seat.store.commit([repeat]))
        assert reply.verdict is Word.OK
        assert not reply.copied, "a repeat on a new connection must ask about what the first one wrote"

        cluster.cont(replica)
        async with asyncio.timeout(WAIT_S):
            while not await copied("c"):
                await asyncio.sleep(0.02)  # pause: between two tries
        await author.check()


async def test_what_a_replica_has_acknowledged_outlives_the_primary(cluster: Cluster) -> None:
    async with seated(cluster.url, acks="replica", acks_ms=5_000) as seat:
        author = await Author.of(seat, 7)
        entries = words(*"abcdef")
        write = Write(author.stream, author.epochs, 0, entries, False, "n_one", b"meta")
        (reply,) = await seat.store.commit([write])
        assert reply.copied
        cluster.stop_(await cluster.primary_of(7))
        state = await persisted(lambda: seat.store.read(author.stream))
        assert state.entries == entries


async def test_followers_hear_of_what_a_replica_has_and_of_nothing_before(cluster: Cluster) -> None:
    """They show what they hear: were it lost with the primary, a person would have seen it."""
    async with seated(cluster.url, acks="replica", acks_ms=5_000) as seat, seated(cluster.url, "n_two") as other:
        author = await Author.of(seat, 7)
        await author.say("a")
        await other.store.follow(author.stream)
        replica = await cluster.replica_of(await cluster.primary_of(7))
        cluster.stop_(replica)
        try:
            write = Write(author.stream, author.epochs, author.acked, words("b"), False, "n_one")
            committing = asyncio.create_task(seat.store.commit([write]))
            await asyncio.sleep(0.3)  # pause: far longer than a push takes
            assert not committing.done()
            assert not other.pushes
        finally:
            cluster.cont(replica)
        (reply,) = await asyncio.wait_for(committing, WAIT_S)
        assert reply.copied
        await until(lambda: bool(other.pushes))
        assert other.pushes[0].entries == words("b")


# --------------------------------------------------------------------------- addresses


async def test_some_of_the_addresses_may_be_dead(cluster: Cluster) -> None:
    dead = f"{HOST}:{free_port()}"
    async with seated(f"redis+cluster://{dead},{cluster.servers[4].address},{dead}") as seat:
        author = await Author.of(seat, 1)
        await author.say("a")
        await author.check()


async def test_the_doctor_looks_at_a_cluster_as_a_server_would(cluster: Cluster, server: StoreServer) -> None:
    good = await check_store(Settings(store=cluster.url))
    assert (good.verdict, good.advice) == (Verdict.OK, "")
    bad = await check_store(Settings(store=f"redis+cluster://{HOST}:{server.port}"))
    assert bad.verdict is Verdict.PROBLEM
    assert "redis://" in bad.found


async def test_what_is_wrong_with_the_address_is_said(cluster: Cluster, server: StoreServer) -> None:
    assert "redis+cluster://" in await refusal(f"redis://{cluster.servers[0].address}/0")
    assert "redis://" in await refusal(f"redis+cluster://{HOST}:{server.port}")
    assert "is it running" in await refusal(f"redis+cluster://{HOST}:{free_port()}")
    assert "no other database" in await refusal(f"redis+cluster://{HOST}:{server.port}/3")
    assert "names no host" in await refusal("redis+cluster://")
