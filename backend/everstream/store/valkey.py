"""The contract over Redis or Valkey: the one file that knows the server.

The rules live in `everstream.lua`, one function library that is loaded under a name made of its own hash: nodes of
two versions can share a server while a deploy goes on.  A server that has lost it (an empty replica took over)
answers "function not found", which is repaired on the spot.

Commits have a connection of their own (`store.line`), made by redis-py, with one call in flight: one packed command,
one reply.  redis-py's automatic retries are off everywhere: they repeat writes of unknown outcome.  Whoever calls
decides whether to repeat.

Pushes to followers and hints between nodes come in over publish/subscribe, on one connection a node.  They may be
lost: followers check their position against the log.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Sequence
from functools import lru_cache
from importlib.resources import files
from typing import Any, cast

import hiredis
import msgpack
import redis.asyncio as redis
import structlog
from redis.asyncio.connection import AbstractConnection
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import AuthenticationError, RedisError, ResponseError

from everstream.config import mask_url
from everstream.core.events import Event, Mark
from everstream.core.lease import PARTITIONS, node_tag, pack_epochs, partition_for, partition_of, unpack_epochs
from everstream.core.log import Verdict
from everstream.core.summary import NOTHING, Summary
from everstream.core.wire import pack_entry, pack_summary, unpack_entry, unpack_summary
from everstream.store.base import Created, Head, OnMessage, OnPush, Push, Reply, State, StoreUnavailable, Write
from everstream.store.line import Line

logger = structlog.get_logger(__name__)

_SOURCE = files("everstream.store").joinpath("everstream.lua").read_text("utf-8")
_VERSION = hashlib.sha256(_SOURCE.encode()).hexdigest()[:8]
_LIBRARY = _SOURCE.replace("VERSION", _VERSION)
_VERDICTS = (Verdict.OK, Verdict.FENCED, Verdict.GAP)
_FLAGS = {(False, False): b"", (True, False): b"e", (False, True): b"m", (True, True): b"em"}  # ends, first
_OLDEST_SERVER = (7, 0)
_CONNECTIONS_MAX = 16  # more would not be faster: the server works through one call at a time
_POOL_WAIT_S = 5.0
_LISTEN_S = 5.0
_RELISTEN_S = 0.2
_FAILURES = (RedisError, OSError, asyncio.TimeoutError, EOFError)
# The listener may take redis-py's connection down at the very moment in which another task writes to it.
_LISTENING_FAILURES = (*_FAILURES, AttributeError)


def _function(verb: str) -> bytes:
    return f"es_{verb}_{_VERSION}".encode()


_COMMIT = _function("commit")


class ValkeyStore:
    """A single server, by `redis://`, `rediss://` or `unix://` URL."""

    def __init__(
        self,
        url: str,
        *,
        key_prefix: str = "es",
        timeout_s: float = 1.0,
        stream_ttl_s: int = 604_800,
        request_ttl_s: int = 86_400,
    ) -> None:
        self._url = url
        self._prefix = key_prefix
        self._timeout_s = timeout_s
        self._stream_ttl = b"%d" % stream_ttl_s
        self._request_ttl = b"%d" % request_ttl_s
        self._client: redis.Redis | None = None
        self._commits: AbstractConnection | None = None
        self._line: Line | None = None
        self._listener: asyncio.Task[None] | None = None
        self._keys = lru_cache(maxsize=65_536)(self._make_keys)

    # ------------------------------------------------------------------ connection

    async def open(self, node: str, on_push: OnPush, on_message: OnMessage) -> None:
        self._node, self._tag = node.encode(), b"%d" % node_tag(node)
        self._on_push, self._on_message = on_push, on_message
        await self._connect()
        try:
            # Before anybody follows: two who find redis-py's connection missing both make one, and lose one of them.
            await self._pubsub.subscribe(self._inbox(node))
        except _FAILURES as error:
            await self._hang_up()
            raise StoreUnavailable() from error
        self._listener = asyncio.create_task(self._listen(), name="store listener")

    async def _connect(self) -> None:
        try:
            pool: redis.BlockingConnectionPool = redis.BlockingConnectionPool.from_url(
                self._url,
                max_connections=_CONNECTIONS_MAX,
                timeout=_POOL_WAIT_S,
                socket_timeout=self._timeout_s,
                socket_connect_timeout=self._timeout_s,
                retry=Retry(NoBackoff(), 0),
            )
            client = self._client = redis.Redis.from_pool(pool)
        except ValueError as error:
            raise StoreUnavailable(f"the store's address is not usable: {error}") from error
        try:
            info = await client.info("server")
            version = str(info.get("valkey_version") or info.get("redis_version") or "")
            if not version:
                raise StoreUnavailable("what answers at the store's address is not a Redis or Valkey server")
            if tuple(int(n) for n in version.split(".")[:2]) < _OLDEST_SERVER:
                raise StoreUnavailable(
                    f"the store is version {version}: Redis 7.0 or Valkey 7.2 is the oldest that works"
                )
            await self._load()
        except AuthenticationError as error:
            await self._hang_up()
            raise StoreUnavailable("the store refused the user name or password in its address") from error
        except ResponseError as error:
            await self._hang_up()
            raise StoreUnavailable(
                f"the store answered: {str(error)[:200]} (Redis 7.0 or Valkey 7.2 is the oldest that works)"
            ) from error
        except _FAILURES as error:
            await self._hang_up()
            where = f"the store at {mask_url(self._url)}"
            raise StoreUnavailable(f"no answer from {where} ({type(error).__name__}): is it running?") from error
        except StoreUnavailable:
            await self._hang_up()
            raise
        self._pubsub = client.pubsub()

    async def _load(self) -> None:
        assert self._client is not None
        try:
            await self._client.execute_command("FUNCTION", "LOAD", _LIBRARY)
        except ResponseError as error:
            if "already exists" not in str(error):
                raise

    async def _hang_up(self) -> None:
        if self._client is not None:
            await self._client.aclose()

    async def close(self) -> None:
        if self._listener is not None:
            # A cancellation while redis-py connects is lost in its time-out, so one may not be enough.
            while not self._listener.done():
                self._listener.cancel()
                await asyncio.wait({self._listener}, timeout=_RELISTEN_S)
            self._listener = None
            await self._pubsub.aclose()
        if self._line is not None:
            self._line.close()
        if self._commits is not None:
            # Not waited for: its streams are no longer the transport's, and would never hear that it closed.
            await self._commits.disconnect(nowait=True)
            self._commits = None
        await self._hang_up()

    async def ping(self) -> None:
        await self._call(b"PING")

    async def _call(self, *arguments: bytes) -> Any:
        assert self._client is not None, "the store is not open"
        try:
            return await self._client.execute_command(*arguments)
        except ResponseError as error:
            if "Function not found" not in str(error):
                raise StoreUnavailable(f"the store answered: {str(error)[:200]}") from error
        except _FAILURES as error:
            raise StoreUnavailable() from error
        try:
            await self._load()
            return await self._client.execute_command(*arguments)
        except _FAILURES as error:
            raise StoreUnavailable() from error

    async def _fcall(self, verb: str, keys: Sequence[bytes], *arguments: bytes) -> Any:
        return await self._call(b"FCALL", _function(verb), b"%d" % len(keys), *keys, *arguments)

    # ------------------------------------------------------------------ keys

    def _tagged(self, partition: int) -> str:
        return f"{self._prefix}:{{p{partition}}}:"

    def _make_keys(self, stream: str) -> tuple[bytes, bytes, bytes, bytes]:
        """Head, list, set of open streams, and where pushes go."""
        tagged = self._tagged(partition_of(stream)).encode()
        name = stream.encode()
        return tagged + b"h:" + name, tagged + b"l:" + name, tagged + b"o", tagged + b"f:" + name

    @property
    def _nodes_key(self) -> bytes:
        return f"{self._prefix}:nodes".encode()

    def _inbox(self, node: str) -> str:
        return f"{self._prefix}:n:{node}"

    def lane(self, partition: int) -> int:
        return 0

    # ------------------------------------------------------------------ writing

    async def commit(self, writes: Sequence[Write]) -> list[Reply]:
        keys: list[bytes] = []
        arguments: list[bytes] = [self._stream_ttl]
        for write in writes:
            keys += self._keys(write.stream)[:2]
            entries = write.entries
            arguments += (
                pack_epochs(write.epochs),
                b"%d" % write.base,
                _FLAGS[write.ends, not write.base],
                write.leader.encode(),
                b"%d" % len(entries),
            )
            if not write.base:
                arguments.append(write.meta)
            if write.marks:
                mark = write.marks.get
                arguments += [pack_entry(entry, mark(offset)) for offset, entry in enumerate(entries, write.base + 1)]
            elif len(entries) == 1:
                arguments.append(pack_entry(entries[0]))
            else:
                arguments += [pack_entry(entry) for entry in entries]
        command = hiredis.pack_command((b"FCALL", _COMMIT, b"%d" % len(keys), *keys, *arguments))  # type: ignore[arg-type]
        reply = await self._exchange(command)
        return [Reply(_VERDICTS[reply[i]], reply[i + 1], reply[i + 2] == 1) for i in range(0, len(reply), 3)]

    async def _exchange(self, command: bytes) -> list[int]:
        """One packed command and its reply on the connection of the commits."""
        if self._line is None or not self._line.usable:
            self._line = await self._open_line()
        try:
            reply = await self._line.call(command)
        except OSError as error:  # which ConnectionError and TimeoutError are
            raise StoreUnavailable() from error
        if not isinstance(reply, hiredis.ReplyError):
            return cast(list[int], reply)
        if "Function not found" not in str(reply):
            raise StoreUnavailable(f"the store answered: {str(reply)[:200]}")
        try:
            await self._load()
        except _FAILURES as failure:
            raise StoreUnavailable() from failure
        raise StoreUnavailable("the store had lost its functions")

    async def _open_line(self) -> Line:
        assert self._client is not None, "the store is not open"
        connection = cast(AbstractConnection, self._client.connection_pool.make_connection())
        try:
            await connection.connect()
        except _FAILURES as error:
            raise StoreUnavailable() from error
        if self._commits is not None:
            await self._commits.disconnect(nowait=True)
        self._commits = connection  # kept: it closes the line's transport when it is collected
        assert connection._writer is not None
        return Line(cast(asyncio.Transport, connection._writer.transport), self._timeout_s)

    async def create(self, stream: str, request: str, meta: bytes, leader: str = "") -> Created:
        tagged = self._tagged(partition_of(stream))
        keys = list(self._keys(stream)[:3])
        if request:
            keys.append(f"{tagged}q:{request}".encode())
        made, epochs, fresh = await self._fcall(
            "create",
            keys,
            stream.encode(),
            leader.encode() or self._node,
            self._tag,
            meta,
            self._request_ttl,
            f"{tagged}h:".encode(),
            self._stream_ttl,
            b"1" if leader else b"0",
        )
        return Created(made.decode(), unpack_epochs(epochs), fresh == 1)

    async def adopt(self, stream: str, leader: str) -> State | None:
        keys = self._keys(stream)[:2]
        reply = await self._fcall("adopt", keys, leader.encode(), self._node, self._tag, self._stream_ttl)
        return _state(stream, reply)

    async def hand_over(self, stream: str, epoch: int, to: str) -> bool:
        keys = self._keys(stream)[:1]
        return bool(await self._fcall("hand_over", keys, self._node, b"%d" % epoch, to.encode()))

    async def mark_cancelled(self, stream: str) -> Head | None:
        state = _state(stream, await self._fcall("mark_cancelled", self._keys(stream)[:2]))
        return None if state is None else state.head

    async def fold(self, stream: str, tail: int, summary: Summary) -> bool:
        keys = self._keys(stream)[:2]
        return bool(await self._fcall("fold", keys, b"%d" % tail, pack_summary(summary)))

    # ------------------------------------------------------------------ reading

    async def read(self, stream: str, after: int = 0) -> State | None:
        return _state(stream, await self._fcall("read", self._keys(stream)[:2], b"%d" % after))

    async def open_streams(self) -> list[tuple[str, str]]:
        keys = [f"{self._tagged(partition)}o".encode() for partition in range(PARTITIONS)]
        heads = [f"{self._tagged(partition)}h:".encode() for partition in range(PARTITIONS)]
        found = [item.decode() for item in await self._fcall("open_streams", keys, *heads)]
        return list(zip(found[::2], found[1::2], strict=True))

    # ------------------------------------------------------------------ leases

    async def renew(self, lease_ms: int) -> bool:
        return bool(await self._fcall("renew", [self._nodes_key], self._node, b"%d" % lease_ms, self._stream_ttl))

    async def release(self) -> None:
        await self._call(b"ZREM", self._nodes_key, self._node)

    async def nodes(self) -> set[str]:
        return {node.decode() for node in await self._fcall("nodes", [self._nodes_key])}

    # ------------------------------------------------------------------ notes

    def _note_key(self, name: str) -> bytes:
        digest = hashlib.blake2b(name.encode(), digest_size=16).hexdigest()
        return f"{self._tagged(partition_for(name))}k:{digest}".encode()

    async def remember(self, name: str, value: bytes, ttl_s: int) -> None:
        await self._call(b"SET", self._note_key(name), value, b"EX", b"%d" % ttl_s)

    async def recall(self, name: str) -> bytes | None:
        return cast(bytes | None, await self._call(b"GET", self._note_key(name)))

    # ------------------------------------------------------------------ followers

    async def follow(self, stream: str) -> None:
        keys = self._keys(stream)
        self._check_listening()
        try:
            await self._pubsub.ssubscribe(keys[3])
        except _LISTENING_FAILURES as error:
            raise StoreUnavailable() from error
        await self._fcall("follow", keys[:1])

    async def unfollow(self, stream: str) -> None:
        self._check_listening()
        try:
            await self._pubsub.sunsubscribe(self._keys(stream)[3])
        except _LISTENING_FAILURES as error:
            raise StoreUnavailable() from error

    def _check_listening(self) -> None:
        """The listener makes the connection again when it was lost; whoever else tried would disturb it."""
        if not getattr(self._pubsub.connection, "is_connected", False):
            raise StoreUnavailable()

    async def send(self, node: str, message: bytes) -> None:
        await self._call(b"PUBLISH", self._inbox(node).encode(), message)

    async def _listen(self) -> None:
        """Take pushes and messages in for as long as the store is open."""
        while True:
            try:
                message = await self._pubsub.get_message(ignore_subscribe_messages=True, timeout=_LISTEN_S)
            except Exception as error:
                if not isinstance(error, _FAILURES):
                    logger.exception("listening to the store failed")
                # redis-py subscribes again by itself once a connection stands.
                await asyncio.sleep(_RELISTEN_S)
                continue
            if message is not None:
                self._deliver(message)

    def _deliver(self, message: dict[str, Any]) -> None:
        try:
            if message["type"] == "smessage":
                stream, epochs, after, entries = msgpack.unpackb(message["data"], raw=True)
                events = [unpack_entry(entry)[0] for entry in entries]
                self._on_push(Push(stream.decode(), unpack_epochs(epochs), int(after), events))
            elif message["type"] == "message":
                self._on_message(message["data"])
        except Exception:
            logger.exception("a message from the store could not be taken")


def _state(stream: str, reply: list[Any]) -> State | None:
    if not reply:
        return None
    epochs, base, leader, meta, ended, cancelled, handed, folded, tail, after, packed = reply
    head = Head(
        stream, unpack_epochs(epochs), base, tail, ended == 1, leader.decode(), cancelled == 1, meta, handed == 1
    )
    entries: list[Event] = []
    marks: dict[int, Mark] = {}
    for offset, entry in enumerate(packed, after + 1):
        event, mark = unpack_entry(entry)
        entries.append(event)
        if mark is not None:
            marks[offset] = mark
    return State(head, after, entries, unpack_summary(folded) if folded else NOTHING, marks)
