"""Every store that keeps the contract, each behind the same fixture."""

from __future__ import annotations

import asyncio
import secrets
import shutil
from collections.abc import AsyncIterator, Callable, Iterable
from pathlib import Path
from typing import Literal

import pytest
from redis.asyncio import Redis
from tests.store.cluster import Cluster, Member, Sentinels
from tests.store.servers import StoreServer

from everstream.core.lease import stream_id
from everstream.store.base import Push, Store
from everstream.store.folder import find_binary
from everstream.store.memory import MemoryStore
from everstream.store.urls import EmbeddedStore
from everstream.store.valkey import ValkeyStore

KINDS = ("memory", "unix", "tcp", "embedded", "redis", "cluster", "sentinel")
WAIT_S = 10.0


def new_stream(partition: int = 7, kind: Literal["r", "s"] = "r") -> str:
    return stream_id(partition, secrets.token_bytes(17), kind)


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(WAIT_S):
        while not condition():
            await asyncio.sleep(0.002)  # pause: between two looks at a condition


class Seat:
    """One node's place at a store: what it was pushed and told."""

    def __init__(self, store: Store, node: str) -> None:
        self.store = store
        self.node = node
        self.pushes: list[Push] = []
        self.messages: list[bytes] = []


class Place:
    """A store of one kind.  `seat` opens it for another node."""

    def __init__(
        self, kind: str, make: Callable[[float], Store], servers: StoreServer | Cluster | Sentinels | None
    ) -> None:
        self.kind = kind
        self._servers = servers
        self._make = make
        self._seats: list[Seat] = []

    async def seat(self, node: str = "n_one", *, request_ttl_s: int = 86_400) -> Seat:
        seat = Seat(self._make(request_ttl_s), node)
        await seat.store.open(node, seat.pushes.append, seat.messages.append)
        self._seats.append(seat)
        return seat

    async def keys(self) -> dict[str, int]:
        """Every key there is, and the seconds that it has left."""
        found: dict[str, int] = {}
        for url in await self._urls():
            async with Redis.from_url(url, decode_responses=True) as client:
                keys = [key async for key in client.scan_iter(count=1000)]
                found |= {key: await client.ttl(key) for key in keys}
        return found

    async def pair(self) -> tuple[Member, Member]:
        """Of a group under Sentinels, the primary and a replica."""
        assert isinstance(self._servers, Sentinels)
        primary = await self._servers.primary_of()
        return primary, await self._servers.replica_of(primary)

    async def _urls(self) -> list[str]:
        if isinstance(self._servers, StoreServer):
            return [self._servers.unix_url]
        if self._servers is not None:
            return [f"redis://{server.address}" for server in await primaries(self._servers)]
        store = self._seats[0].store
        assert isinstance(store, EmbeddedStore)
        return [store._url]

    async def close(self) -> None:
        for seat in self._seats:
            await seat.store.close()


def memory_maker() -> Callable[[float], Store]:
    first = MemoryStore()

    def make(request_ttl_s: float) -> Store:
        store = MemoryStore(first.disk, request_ttl_s=request_ttl_s)
        store.peers = first.peers
        return store

    return make


def server_binary(kind: str) -> Path:
    if kind != "redis":
        return find_binary(None)
    found = shutil.which("redis-server")
    if found is None:
        pytest.skip("no redis-server on the PATH")
    return Path(found)


async def primaries(group: Cluster | Sentinels) -> list[Member]:
    if isinstance(group, Sentinels):
        return [await group.primary_of()]
    return list(dict.fromkeys((await group.primaries()).values()))


async def emptied(servers: Iterable[Member | StoreServer]) -> None:
    for server in servers:
        await server.ask("FLUSHALL", "FUNCTION FLUSH")


@pytest.fixture(scope="session", params=KINDS)
def shared(  # type: ignore[misc]
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[str, StoreServer | Cluster | Sentinels | None]:
    """A kind of store, and the servers that all tests of it share."""
    kind = request.param
    if kind in ("memory", "embedded"):
        yield kind, None
        return
    folder = tmp_path_factory.mktemp("kind")
    servers: StoreServer | Cluster | Sentinels
    if kind in ("cluster", "sentinel"):
        servers = Cluster(folder) if kind == "cluster" else Sentinels(folder)
    else:
        servers = StoreServer(server_binary(kind), folder)
    try:
        asyncio.run(servers.start())
        yield kind, servers
    finally:
        servers.close()


@pytest.fixture
async def place(shared: tuple[str, StoreServer | Cluster | Sentinels | None], tmp_path: Path) -> AsyncIterator[Place]:
    kind, servers = shared
    url = ""
    if isinstance(servers, StoreServer):
        await emptied([servers])
        url = servers.tcp_url if kind == "tcp" else servers.unix_url
    elif servers is not None:
        await emptied(await primaries(servers))
        url = servers.url
    # Those under Sentinels also have everything acknowledged by a replica, which may take its time.
    acks = "replica" if kind == "sentinel" else "primary"

    def make(request_ttl_s: float) -> Store:
        if servers is None:
            return EmbeddedStore(tmp_path / "data", None, request_ttl_s=int(request_ttl_s))
        return ValkeyStore(url, request_ttl_s=int(request_ttl_s), acks=acks, acks_timeout_ms=5_000)

    place = Place(kind, memory_maker() if kind == "memory" else make, servers)
    try:
        yield place
    finally:
        await place.close()


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[StoreServer]:
    server = await StoreServer(find_binary(None), tmp_path).start()
    yield server
    server.kill()
