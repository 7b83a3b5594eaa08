"""One server as we speak to it: a pool of connections for questions, and a line for commits.

redis-py makes all connections.  Its automatic retries are off: they repeat writes of unknown outcome.  Whoever calls
decides whether to repeat.

The function library is loaded under a name made of its own hash: nodes of two versions can share a server while a
deploy goes on.  A server that has lost it (an empty one took over) answers "function not found", and gets it again.

Acknowledged by a replica: behind the commits that were made in one turn of the loop goes one `WAIT`, and the commits
made while it is under way go with the next.  `WAIT` counts the replicas that have what this connection wrote, so it
must be on this connection, and a repeated commit must write something.  Where no replica answers in time, nobody waits
any more (a short `WAIT` would not do: an idle server notices up to 100 ms late that its time is over), until the
server's own figures say that a replica has followed again.
https://valkey.io/commands/wait/
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Mapping
from importlib.resources import files
from typing import Any, cast

import hiredis
import redis.asyncio as redis
import structlog
from redis.asyncio.connection import AbstractConnection, Connection
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError, ResponseError

from everstream.store.base import StoreUnavailable
from everstream.store.line import Line, packed

logger = structlog.get_logger(__name__)

_SOURCE = files("everstream.store").joinpath("everstream.lua").read_text("utf-8")
_VERSION = hashlib.sha256(_SOURCE.encode()).hexdigest()[:8]
_LIBRARY = _SOURCE.replace("VERSION", _VERSION)
_OLDEST = (7, 0)
_CONNECTIONS_MAX = 16  # more would not be faster: the server works through one call at a time
_POOL_WAIT_S = 5.0
LOOK_FOR_REPLICA_S = 0.5
STOP_S = 0.2
# uvloop says RuntimeError to whoever writes on a connection that has just been reset.
FAILURES = (RedisError, OSError, asyncio.TimeoutError, EOFError, RuntimeError)


def function(verb: str) -> bytes:
    return f"es_{verb}_{_VERSION}".encode()


class Server:
    """`acks_ms` is how long a replica may take to acknowledge a commit; 0: nobody asks it."""

    def __init__(self, name: str, options: Mapping[str, Any], timeout_s: float, acks_ms: int) -> None:
        """`options` are redis-py's, with the host and the port.  Connects when it is first needed."""
        self.name = name
        self.closed = False
        self._timeout_s = timeout_s
        self._pool = redis.BlockingConnectionPool(
            **{"connection_class": Connection, **options}
            | {
                "max_connections": _CONNECTIONS_MAX,
                "timeout": _POOL_WAIT_S,
                "socket_timeout": timeout_s,
                "socket_connect_timeout": timeout_s,
                "retry": Retry(NoBackoff(), 0),
            }
        )
        self.client: Any = redis.Redis.from_pool(self._pool)
        self.line: Line | None = None
        self._connection: AbstractConnection | None = None
        self._connecting = asyncio.Lock()
        self._acks_ms = acks_ms
        self.copies = Copies(name, self.client, acks_ms) if acks_ms else None

    async def close(self) -> None:
        self.closed = True
        if self.copies is not None:
            await self.copies.close()
        await self.hang_up()
        await self.client.aclose()

    async def hang_up(self) -> None:
        """Let go of all connections: who answers at the address may have changed.  New ones are made when needed."""
        if self.line is not None:
            self.line.close()
        if self._connection is not None:
            # Not waited for: its streams are no longer the transport's, and would never hear that it closed.
            await self._connection.disconnect(nowait=True)
            self._connection = None
        await self._pool.disconnect(inuse_connections=False)

    async def check(self, *, clustered: bool) -> None:
        """Raises StoreUnavailable where it cannot serve, and what redis-py raises; says what of it is unwise."""
        info = await self.client.info()
        version = str(info.get("valkey_version") or info.get("redis_version") or "")
        if not version:
            raise StoreUnavailable("what answers at the store's address is not a Redis or Valkey server")
        if tuple(int(n) for n in version.split(".")[:2]) < _OLDEST:
            raise StoreUnavailable(f"the store is version {version}: Redis 7.0 or Valkey 7.2 is the oldest that works")
        if info.get("cluster_enabled") == 1 and not clustered:
            raise StoreUnavailable("the store is a cluster: write redis+cluster:// or rediss+cluster:// in its address")
        if info.get("aof_enabled") == 0:
            logger.warning("the store's append-only file is off: a restart of it loses streams", server=self.name)
        policy = info.get("maxmemory_policy", "noeviction")
        if info.get("maxmemory") and policy != "noeviction":
            logger.warning("the store throws keys away when it is full", server=self.name, maxmemory_policy=policy)
        if self._acks_ms and info.get("connected_slaves") == 0:
            logger.warning("acks = replica, but the store has no replica", server=self.name)

    async def load(self) -> None:
        """Give the server the function library.  Raises what redis-py raises."""
        try:
            await self.client.execute_command("FUNCTION", "LOAD", _LIBRARY)
        except ResponseError as error:
            if "already exists" not in str(error):
                raise

    async def connect(self) -> tuple[AbstractConnection, asyncio.Transport]:
        """A connection for a protocol of our own; it must be kept, and let go with `disconnect(nowait=True)`."""
        connection = cast(AbstractConnection, self._pool.make_connection())  # type: ignore[no-untyped-call]
        try:
            await connection.connect()  # type: ignore[no-untyped-call]
        except BaseException:
            await connection.disconnect(nowait=True)
            raise
        assert connection._writer is not None
        return connection, cast(asyncio.Transport, connection._writer.transport)

    async def open_line(self) -> Line:
        """The line of the commits, made again where it broke.  Raises one of FAILURES."""
        async with self._connecting:
            if self.line is not None and self.line.lost is None:
                return self.line
            if self.closed:
                raise ConnectionError("the server is not the store's any more")
            connection, transport = await self.connect()
            if self._connection is not None:
                await self._connection.disconnect(nowait=True)
            self._connection = connection  # kept: it closes the line's transport when it is collected
            self.line = Line(transport, self._timeout_s + self._acks_ms / 1000)
            return self.line


class Copies:
    """Commits of one line, acknowledged by a replica: as many as there are behind one `WAIT`."""

    def __init__(self, server_name: str, client: Any, acks_ms: int) -> None:
        self._server_name = server_name
        self._client = client
        self._wait = packed(b"WAIT", b"1", b"%d" % acks_ms)
        self._line: Line | None = None
        self._gathered: list[tuple[bytes, asyncio.Future[tuple[Any, bool]]]] = []  # as many as there are lanes
        self._under_way: asyncio.Task[None] | None = None
        self._missing: asyncio.Task[None] | None = None  # looks for a replica, while there is none

    async def close(self) -> None:
        # A cancellation while redis-py connects is lost in its time-out, so one may not be enough.
        while self._missing is not None and not self._missing.done():
            self._missing.cancel()
            await asyncio.wait({self._missing}, timeout=STOP_S)

    async def call(self, line: Line, command: bytes) -> tuple[Any, bool]:
        """The reply, as of `Line.call`, and whether a replica has what was written."""
        if self._missing is not None and self._under_way is None:
            return await line.call(command), False
        answer: asyncio.Future[tuple[Any, bool]] = asyncio.get_running_loop().create_future()
        self._gathered.append((command, answer))
        self._line = line
        if self._under_way is None:
            self._under_way = asyncio.create_task(self._send(), name="commits for a replica")
        return await answer

    async def _send(self) -> None:
        try:
            while self._gathered:
                gathered, self._gathered = self._gathered, []
                assert self._line is not None
                try:
                    *replies, copies = await self._line.call(
                        b"".join([command for command, _ in gathered]) + self._wait, len(gathered) + 1
                    )
                except OSError as error:
                    for _, answer in gathered:
                        if not answer.done():
                            answer.set_exception(error)
                    continue
                copied = not isinstance(copies, hiredis.ReplyError) and copies > 0
                if not copied and self._missing is None:
                    logger.warning("no replica has what is committed; it goes on without", server=self._server_name)
                    self._missing = asyncio.create_task(self._look_for_replica(), name="look for a replica")
                for (_, answer), reply in zip(gathered, replies, strict=True):
                    if not answer.done():
                        answer.set_result((reply, copied))
        finally:
            self._under_way = None

    async def _look_for_replica(self) -> None:
        """Until one has all that the server had written when it was asked before."""
        goal: int | None = None
        while True:
            try:
                info = await self._client.info("replication")
            except FAILURES:
                info = {}
            replicas = [value for name, value in info.items() if name.startswith("slave") and isinstance(value, dict)]
            if goal is not None and any(one.get("state") == "online" and one["offset"] >= goal for one in replicas):
                logger.info("a replica has what is committed, again", server=self._server_name)
                self._missing = None
                return
            goal = info.get("master_repl_offset", goal)
            await asyncio.sleep(LOOK_FOR_REPLICA_S)
