"""Who is the primary: what the Sentinels of a group, or the nodes of a cluster, say.

Sentinels are asked by redis-py.  Its map of a cluster is not used: it holds all 16,384 slots, and making it anew every
second would stop this process for 4 ms each time.  We have 65 places to find.

https://valkey.io/commands/cluster-slots/
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import redis.asyncio as redis
from redis.asyncio.connection import Connection
from redis.asyncio.retry import Retry
from redis.asyncio.sentinel import MasterNotFoundError, Sentinel
from redis.backoff import NoBackoff
from redis.exceptions import AuthenticationError, ResponseError

from everstream.store.address import Address, Spot
from everstream.store.base import StoreUnavailable
from everstream.store.server import FAILURES

SlotTable = list[list[Any]]  # low, high, primary, replicas…; of each the host, the port and more


class Finder(Protocol):
    """Raises StoreUnavailable, with what to do, where nothing is found."""

    async def find(self, suspect: str) -> list[Spot]:
        """The primary of each place.  `suspect` is the name of a server that did not answer: it is asked last."""
        ...

    async def close(self) -> None: ...


class SentinelFinder:
    def __init__(self, address: Address, places: int, timeout_s: float) -> None:
        self._address, self._places = address, places
        options = {name: value for name, value in address.options.items() if name.startswith(("ssl_", "socket_"))}
        for name in ("username", "password"):
            if f"sentinel_{name}" in address.options:
                options[name] = address.options[f"sentinel_{name}"]
        options |= {"ssl": address.tls, "socket_timeout": timeout_s, "socket_connect_timeout": timeout_s}
        options["retry"] = Retry(NoBackoff(), 0)
        self._sentinel = Sentinel(address.spots, sentinel_kwargs=options)  # type: ignore[no-untyped-call]

    async def find(self, suspect: str) -> list[Spot]:
        try:
            host, port = await self._sentinel.discover_master(self._address.service)
        except MasterNotFoundError as error:
            raise StoreUnavailable(
                f"no Sentinel at {self._address.shown()} names a primary that is up for the group"
                f" `{self._address.service}`: do they run, and is that its name?"
            ) from error
        except FAILURES as error:
            raise StoreUnavailable(f"a Sentinel answered: {str(error)[:200]}") from error
        return [(host, int(port))] * self._places

    async def close(self) -> None:
        await self._sentinel.aclose()


class ClusterFinder:
    """Asks one node after another for the map, a different one every time, and those that did not answer last.

    It begins with the given addresses, and knows all nodes of the last map too.  A node that is cut off from the
    others may still believe in an old map, and knows that something is wrong: it is believed if nobody is in order.
    """

    def __init__(self, address: Address, slots: Sequence[int], timeout_s: float) -> None:
        self._address, self._slots = address, slots
        self._options = {"connection_class": Connection, **address.options, "retry": Retry(NoBackoff(), 0)}
        self._options |= {"socket_timeout": timeout_s, "socket_connect_timeout": timeout_s}
        self._known = list(address.spots)
        self._silent: set[Spot] = set()
        self._clients: dict[Spot, Any] = {}

    async def find(self, suspect: str) -> list[Spot]:
        self._known.append(self._known.pop(0))
        late = self._silent | {spot for spot in self._known if f"{spot[0]}:{spot[1]}" == suspect}
        every = list(dict.fromkeys((*self._known, *self._address.spots)))
        problem: Exception | None = None
        doubtful: tuple[SlotTable, Spot] | None = None
        for spot in sorted(every, key=late.__contains__):
            try:
                # Not as one word: then redis-py would parse the reply, in some of its versions.
                client = self._client(spot)
                table = await client.execute_command("CLUSTER", "SLOTS")
                state = await client.execute_command("CLUSTER", "INFO")
            except FAILURES as error:
                problem = error
                self._silent.add(spot)
                continue
            self._silent.discard(spot)
            if len(self._placed(table, spot)) < len(self._slots):
                continue
            if b"cluster_state:ok" in state:
                return await self._learnt(table, spot)
            doubtful = doubtful or (table, spot)
        if doubtful is not None:
            return await self._learnt(*doubtful)
        if isinstance(problem, AuthenticationError):
            raise StoreUnavailable("the store refused the user name or password in its address") from problem
        if isinstance(problem, ResponseError):
            raise StoreUnavailable(
                f"{self._address.shown()} answers: {str(problem)[:200]} (for a single server write redis:// or rediss://)"
            ) from problem
        if len(self._silent) < len(every):
            raise StoreUnavailable("no server of the cluster holds some of its slots")
        where = f"the cluster at {self._address.shown()}"
        raise StoreUnavailable(f"no answer from {where} ({type(problem).__name__}): is it running?") from problem

    def _client(self, spot: Spot) -> Any:
        if spot not in self._clients:
            pool = redis.ConnectionPool(**self._options, host=spot[0], port=spot[1])
            self._clients[spot] = redis.Redis.from_pool(pool)
        return self._clients[spot]

    def _placed(self, table: SlotTable, said_by: Spot) -> list[Spot]:
        """The primary of each place, as far as the table has them."""
        found = []
        for slot in self._slots:
            for low, high, primary, *_ in table:
                if low <= slot <= high:
                    found.append(_spot(primary, said_by))
        return found

    async def _learnt(self, table: SlotTable, said_by: Spot) -> list[Spot]:
        """Believe it."""
        spots = dict.fromkeys(_spot(node, said_by) for _, _, *nodes in table for node in nodes)
        self._known = [spot for spot in self._known if spot in spots]
        self._known += [spot for spot in spots if spot not in self._known]
        self._silent &= {*self._known, *self._address.spots}
        for spot in [spot for spot in self._clients if spot not in spots]:
            await self._clients.pop(spot).aclose()
        return self._placed(table, said_by)

    async def close(self) -> None:
        for client in self._clients.values():
            await client.aclose()
        self._clients.clear()


def _spot(node: list[Any], said_by: Spot) -> Spot:
    """A node that does not know its own address is reached as the one that said so."""
    host = (node[0] or b"").decode()
    return (host or said_by[0], int(node[1]))
