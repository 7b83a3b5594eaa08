"""The contract over Redis or Valkey: a single server, a group under Sentinels, or a cluster.

The rules live in `everstream.lua`; this module says which keys a call is about, packs what it is given, and unpacks
what it gets.  Where the keys lie is the deployment's matter (`store.deployment`), how a server is spoken to the
server's (`store.server`), and what is pushed to this node the listeners' (`store.listener`).

Every key has the hash tag of its partition, but for the leases, which are one key.  On a cluster a commit is a call a
partition, and names the set of open streams too: so a slot that is being moved takes all of it, or nothing.
"""

from __future__ import annotations

from collections.abc import Awaitable, Sequence
from functools import lru_cache
from typing import Any

import msgpack
import structlog

from everstream.core.events import Event, Mark
from everstream.core.lease import PARTITIONS, node_tag, pack_epochs, partition_for, partition_of, unpack_epochs
from everstream.core.log import Verdict
from everstream.core.summary import NOTHING, Summary
from everstream.core.wire import pack_entry, pack_summary, unpack_entry, unpack_summary
from everstream.display import mask_url
from everstream.store.address import address_of
from everstream.store.base import Created, Head, OnMessage, OnPush, Push, Reply, State, StoreUnavailable, Write
from everstream.store.deployment import LEASES, Deployment
from everstream.store.line import packed
from everstream.store.listener import Listeners
from everstream.store.server import function
from everstream.store.shelves import Shelves

logger = structlog.get_logger(__name__)

_VERDICTS = (Verdict.OK, Verdict.FENCED, Verdict.GAP)
_FLAGS = {(False, False): b"", (True, False): b"e", (False, True): b"m", (True, True): b"em"}  # ends, first
# Whenever so many entries have come, an open stream has its time again: short enough for both kinds of streams, since a
# stream that says something less often than every two seconds is probed instead (see the runtime's keeper).  So a
# stride's entries come in less than half of the TTL.
_STRIDE_ENTRIES_MAX = 512
_SILENCE_S = 2
_COMMIT = function("commit")


class ValkeyStore(Shelves):
    """What the URL may be is said in `store.address`.  With `acks = "replica"` a commit waits for one, for a while."""

    def __init__(
        self,
        url: str,
        *,
        key_prefix: str = "es",
        timeout_s: float = 1.0,
        stream_ttl_s: int = 604_800,
        session_ttl_s: int = 7_776_000,
        request_ttl_s: int = 86_400,
        acks: str = "primary",
        acks_timeout_ms: int = 200,
    ) -> None:
        super().__init__(key_prefix, session_ttl_s)
        self._url = url
        self._timeout_s = timeout_s
        self._ttls = (b"%d" % stream_ttl_s, b"%d" % session_ttl_s)  # of responses, of sessions
        self._stride = b"%d" % min(_STRIDE_ENTRIES_MAX, -(-min(stream_ttl_s, session_ttl_s) // (2 * _SILENCE_S)))
        self._request_ttl = b"%d" % request_ttl_s
        self._acks_ms = acks_timeout_ms if acks == "replica" else 0
        self._listeners = Listeners(self._deliver, timeout_s)
        self._spread = False
        self._keys = lru_cache(maxsize=65_536)(self._make_keys)

    # ------------------------------------------------------------------ connection

    async def open(self, node: str, on_push: OnPush, on_message: OnMessage) -> None:
        self._node, self._tag = node.encode(), b"%d" % node_tag(node)
        self._on_push, self._on_message = on_push, on_message
        try:
            address = address_of(self._url)
        except ValueError as error:
            raise StoreUnavailable(f"the store's address is not usable: {error}") from error
        tags = [self._tagged(partition).encode() for partition in range(PARTITIONS)]
        deployment = self._deployment = Deployment(
            address,
            [*tags, self._leases_key],
            timeout_s=self._timeout_s,
            acks_ms=self._acks_ms,
            on_looked=self._listeners.looked,
        )
        self._spread = deployment.spread
        self._listeners.open(deployment)
        try:
            await deployment.open()
            await deployment.check(mask_url(self._url))
            inbox, place = self._inbox(node)
            await self._listeners.add(inbox, place, patient=True)
        except BaseException:
            await self.close()
            raise

    async def close(self) -> None:
        await self._listeners.close()
        if self._deployment is not None:
            await self._deployment.close()

    async def ping(self) -> None:
        """Raises StoreUnavailable unless the server that has the leases answers."""
        await self._ask(LEASES, b"PING")

    # ------------------------------------------------------------------ keys

    def _make_keys(self, stream: str) -> tuple[bytes, bytes, bytes, bytes, int]:
        """Head, list, set of open streams, where pushes go, and the place of all that."""
        place = partition_of(stream)
        tagged = self._tagged(place).encode()
        name = stream.encode()
        return tagged + b"h:" + name, tagged + b"l:" + name, tagged + b"o", tagged + b"f:" + name, place

    @property
    def _leases_key(self) -> bytes:
        return f"{self._prefix}:nodes".encode()

    def _inbox(self, node: str) -> tuple[bytes, int]:
        place = partition_for(node)
        return f"{self._tagged(place)}n:{node}".encode(), place

    def lane(self, partition: int) -> int:
        return partition if self._spread else 0

    # ------------------------------------------------------------------ writing

    async def commit(self, writes: Sequence[Write]) -> list[Reply]:
        keys: list[bytes] = []
        # Where replicas are to have it first, followers are told afterwards: they show what they hear of.
        arguments: list[bytes] = [*self._ttls, self._stride, b"0" if self._acks_ms else b"1"]
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
        place = 0
        if self._spread:
            _, _, opened, _, place = self._keys(writes[0].stream)
            keys.append(opened)
        command = packed(b"FCALL", _COMMIT, b"%d" % len(keys), *keys, *arguments)
        reply, copied = await self._exchange(place, command)
        if self._acks_ms:
            self._tell(
                place,
                [
                    write
                    for write, i in zip(writes, range(0, len(reply), 3), strict=True)
                    if reply[i] == 0 and reply[i + 2] & 2 and write.entries
                ],
            )
        return [
            Reply(_VERDICTS[reply[i]], reply[i + 1], reply[i + 2] & 1 == 1, copied) for i in range(0, len(reply), 3)
        ]

    def _tell(self, place: int, writes: Sequence[Write]) -> None:
        """Push to followers what replicas have by now, as the server does it by itself otherwise."""
        assert self._deployment is not None, "the store is not open"
        pushes = []
        for write in writes:
            entries = [pack_entry(entry) for entry in write.entries]
            push = msgpack.packb((write.stream, pack_epochs(write.epochs), write.base, entries))
            pushes.append(packed(b"SPUBLISH", self._keys(write.stream)[3], push))
        self._deployment.tell(place, pushes)

    def _exchange(self, place: int, command: bytes) -> Awaitable[tuple[list[Any], bool]]:
        """One packed command and its reply on the line of the commits, and whether a replica has it too."""
        assert self._deployment is not None, "the store is not open"
        return self._deployment.write(place, command)

    async def create(self, stream: str, request: str, meta: bytes, leader: str = "") -> Created:
        *keys, _, place = self._keys(stream)
        tagged = self._tagged(place).encode()
        if request:
            keys.append(tagged + b"q:" + request.encode())
        arguments = (
            *self._ttls,
            stream.encode(),
            leader.encode() or self._node,
            self._tag,
            meta,
            self._request_ttl,
            tagged + b"h:",
            b"1" if leader else b"0",
        )
        command = (b"FCALL", function("create"), b"%d" % len(keys), *keys, *arguments)
        (made, epochs, fresh), _ = await self._exchange(place, packed(*command))
        return Created(made.decode(), unpack_epochs(epochs), fresh == 1)

    async def made_by(self, request: str, partition: int) -> str | None:
        key = f"{self._tagged(partition)}q:{request}".encode()
        made = await self._ask(partition, b"GET", key)
        return None if made is None else made.decode()

    async def adopt(self, stream: str, leader: str) -> State | None:
        *keys, _, place = self._keys(stream)
        arguments = (*self._ttls, leader.encode(), self._node, self._tag)
        return _state(stream, await self._fcall("adopt", place, keys, *arguments))

    async def hand_over(self, stream: str, epoch: int, tail: int, to: str) -> bool:
        *keys, _, place = self._keys(stream)
        arguments = (*self._ttls, self._node, b"%d" % epoch, b"%d" % tail, to.encode())
        return bool(await self._fcall("hand_over", place, keys, *arguments))

    async def rest(self, stream: str, epoch: int, tail: int) -> bool:
        *keys, _, place = self._keys(stream)
        arguments = (*self._ttls, self._node, b"%d" % epoch, b"%d" % tail)
        return bool(await self._fcall("rest", place, keys, *arguments))

    async def purge(self, streams: Sequence[str]) -> None:
        if not streams:
            return
        keys = [key for stream in streams for key in self._keys(stream)[:2]]
        _, _, opened, _, place = self._keys(streams[0])
        # Behind this node's commits, and where replicas are to have those, they have this too.
        command = (b"FCALL", function("purge"), b"%d" % (len(keys) + 1), *keys, opened, *self._ttls)
        await self._exchange(place, packed(*command))

    async def mark_cancelled(self, stream: str) -> Head | None:
        *keys, _, _, place = self._keys(stream)
        state = _state(stream, await self._fcall("mark_cancelled", place, keys))
        return None if state is None else state.head

    async def fold(self, stream: str, tail: int, summary: Summary) -> bool:
        *keys, _, _, place = self._keys(stream)
        return bool(await self._fcall("fold", place, keys, b"%d" % tail, pack_summary(summary)))

    # ------------------------------------------------------------------ reading

    async def read(self, stream: str, after: int = 0) -> State | None:
        *keys, _, _, place = self._keys(stream)
        return _state(stream, await self._fcall("read", place, keys, b"%d" % after))

    async def open_streams(self) -> list[tuple[str, str]]:
        """One call, of all partitions; on a cluster one for each, with one write a primary."""
        assert self._deployment is not None, "the store is not open"
        every = range(PARTITIONS)
        groups = [(place, [place]) for place in every] if self._spread else [(0, list(every))]
        commands = []
        for place, partitions in groups:
            keys = [f"{self._tagged(partition)}o".encode() for partition in partitions]
            heads = [f"{self._tagged(partition)}h:".encode() for partition in partitions]
            command = (b"FCALL", function("open_streams"), b"%d" % len(keys), *keys, *heads)
            commands.append((place, packed(*command)))
        found = [item.decode() for reply in await self._deployment.write_each(commands) for item in reply]
        return list(zip(found[::2], found[1::2], strict=True))

    # ------------------------------------------------------------------ leases

    async def renew(self, lease_ms: int) -> bool:
        # On the line of the commits: the pool may be full of calls that wait for a server that is away.
        assert self._deployment is not None, "the store is not open"
        arguments = (self._leases_key, self._node, b"%d" % lease_ms, max(self._ttls, key=int))
        command = packed(b"FCALL", function("renew"), b"1", *arguments)
        settled, _ = await self._deployment.write(LEASES, command, acks=False)
        return bool(settled)

    async def release(self) -> None:
        await self._ask(LEASES, b"ZREM", self._leases_key, self._node)

    async def nodes(self) -> set[str]:
        return {node.decode() for node in await self._fcall("nodes", LEASES, [self._leases_key])}

    # ------------------------------------------------------------------ followers

    async def follow(self, stream: str) -> None:
        head, _, _, pushes, place = self._keys(stream)
        await self._listeners.add(pushes, place)
        await self._fcall("follow", place, [head])

    async def unfollow(self, stream: str) -> None:
        self._listeners.remove(self._keys(stream)[3])

    async def send(self, node: str, message: bytes) -> None:
        inbox, place = self._inbox(node)
        await self._ask(place, b"SPUBLISH", inbox, message)

    def _deliver(self, name: bytes, said: bytes) -> None:
        try:
            if b"}:n:" in name:
                self._on_message(said)
                return
            stream, epochs, after, entries = msgpack.unpackb(said, raw=True)
            events = [unpack_entry(entry)[0] for entry in entries]
            self._on_push(Push(stream.decode(), unpack_epochs(epochs), int(after), events))
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
