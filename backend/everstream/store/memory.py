"""The contract in a dict: the reference of the rules, the tests' store, and the simulator's disk.

`Disk` is what a Redis primary holds, as plain synchronous methods; `copy` makes a replica that lags.  Several
`MemoryStore`s, one a node, may share a disk.  Nothing of it outlives the process: `memory://` is for tests and trials.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from everstream.core.events import Event, Mark
from everstream.core.lease import Epochs, agreement, next_epoch, node_tag
from everstream.core.log import Verdict
from everstream.core.quota import Account, Claim, Spent
from everstream.core.summary import NOTHING, Summary
from everstream.store.base import (
    REIGNS_MAX,
    Created,
    Head,
    OnMessage,
    OnPush,
    Push,
    Reply,
    State,
    StoreUnavailable,
    Write,
)


@dataclass(slots=True)
class Record:
    """One stream on the disk."""

    epochs: Epochs
    leader: str
    meta: bytes
    entries: list[Event] = field(default_factory=list)
    base: int = 0
    summary: Summary = NOTHING
    ended: bool = False
    cancelled: bool = False
    followers: set[str] = field(default_factory=set)
    handed: bool = False
    marks: dict[int, Mark] = field(default_factory=dict)
    rests: bool = False  # not ended, and nobody leads it or looks for it

    @property
    def tail(self) -> int:
        return self.base + len(self.entries)

    def commit(self, write: Write) -> Reply:
        """Rules 1, 2 and 3 of the log."""
        epoch = write.epochs[-1][0]
        if epoch < self.epochs[-1][0]:
            return Reply(Verdict.FENCED, self.tail, self.cancelled)
        newer = epoch > self.epochs[-1][0]
        keep = self.tail
        if newer:
            keep = agreement(self.epochs, self.tail, write.epochs, write.base + len(write.entries))
            if keep < self.base:  # ended and folded under another history, which no commit can take back
                return Reply(Verdict.FENCED, self.tail, self.cancelled)
        if write.base > keep:
            return Reply(Verdict.GAP, keep, self.cancelled)
        if newer:
            del self.entries[keep - self.base :]
            self.marks = {offset: mark for offset, mark in self.marks.items() if offset <= keep}
            self.epochs, self.leader, self.ended, self.handed = write.epochs, write.leader, False, False
            self.rests = False
        self.marks |= {offset: mark for offset, mark in write.marks.items() if offset > self.tail}
        self.entries += write.entries[self.tail - write.base :]
        self.ended = self.ended or write.ends
        return Reply(Verdict.OK, self.tail, self.cancelled)


class Disk:
    """All streams, requests and leases.  `clock_ms` stands for the store's clock."""

    def __init__(self, clock_ms: Callable[[], int]) -> None:
        self.clock_ms = clock_ms
        self.records: dict[str, Record] = {}
        self.requests: dict[str, tuple[str, int]] = {}  # request -> (stream, forgotten at ms)
        self.leases: dict[str, int] = {}  # node -> runs out at ms
        self.dark_until_ms = 0  # nobody may be taken for dead before that
        self.notes: dict[str, tuple[bytes, int]] = {}  # name -> (value, forgotten at ms)
        self.tables: dict[str, dict[str, bytes]] = {}
        self.rankings: dict[str, dict[str, int]] = {}
        self.accounts: dict[str, Account] = {}
        self.purged: set[str] = set()

    def copy(self) -> Disk:
        """A replica as it is now."""
        disk = Disk(self.clock_ms)
        disk.records = {
            stream: replace(
                record, entries=list(record.entries), followers=set(record.followers), marks=dict(record.marks)
            )
            for stream, record in self.records.items()
        }
        disk.requests, disk.leases, disk.notes = dict(self.requests), dict(self.leases), dict(self.notes)
        disk.tables = {name: dict(rows) for name, rows in self.tables.items()}
        disk.rankings = {name: dict(ranking) for name, ranking in self.rankings.items()}
        disk.accounts = {name: Account(dict(a.used), dict(a.holders)) for name, a in self.accounts.items()}
        disk.purged = set(self.purged)
        disk.dark_until_ms = self.dark_until_ms
        return disk

    def create(
        self, stream: str, request: str, meta: bytes, node: str, request_ttl_ms: int, leader: str = ""
    ) -> Created:
        now = self.clock_ms()
        made, until = self.requests.get(request, ("", 0)) if request else ("", 0)
        if made in self.records and until > now:
            return Created(made, self.records[made].epochs, False)
        if stream in self.purged:
            return Created(stream, ((0, 0),), False)  # an epoch that nobody can lead it in
        if stream in self.records:
            return Created(stream, self.records[stream].epochs, False)
        epochs: Epochs = ((next_epoch(0, now, node_tag(node)), 0),)
        self.records[stream] = Record(epochs, leader or node, meta, handed=bool(leader))
        if request:
            self.requests[request] = (stream, now + request_ttl_ms)
        return Created(stream, epochs, True)

    def commit(self, write: Write) -> Reply:
        if write.stream in self.purged:
            return Reply(Verdict.FENCED, 0, False)
        record = self.records.get(write.stream)
        if record is None:
            if write.base:
                return Reply(Verdict.GAP, 0, False)
            record = self.records[write.stream] = Record(write.epochs, write.leader, write.meta)
        return record.commit(write)

    def head(self, stream: str) -> Head | None:
        record = self.records.get(stream)
        if record is None:
            return None
        r = record
        return Head(stream, r.epochs, r.base, r.tail, r.ended, r.leader, r.cancelled, r.meta, r.handed)

    def read(self, stream: str, after: int = 0) -> State | None:
        head = self.head(stream)
        if head is None:
            return None
        record = self.records[stream]
        after = min(max(after, record.base), record.tail)
        marks = {offset: mark for offset, mark in record.marks.items() if offset > after}
        return State(head, after, record.entries[after - record.base :], record.summary, marks)

    def adopt(self, stream: str, leader: str, node: str) -> State | None:
        record = self.records.get(stream)
        if record is None or record.ended or record.leader != leader:
            return None
        epoch = next_epoch(record.epochs[-1][0], self.clock_ms(), node_tag(node))
        # A failover, or a truncation half made good, may have left less than an earlier reign began with: that reign
        # has no entry left, and its start would say that older ones reach further than they do.
        past = tuple(reign for reign in record.epochs if reign[1] <= record.tail)
        if record.handed and past and past[-1] == record.epochs[-1] and past[-1][1] == record.tail:
            past = past[:-1]  # its leader was only named, or went before it had said a word: it was no attempt
        if len(past) >= REIGNS_MAX:  # the oldest are forgotten, and the next one has their entries too
            past = past[1 - REIGNS_MAX :]
            past = ((past[0][0], 0), *past[1:])
        record.epochs = (*past, (epoch, record.tail))
        record.leader = node
        record.rests = False
        state = self.read(stream)
        record.handed = False
        return state

    def hand_over(self, stream: str, epoch: int, tail: int, node: str, to: str) -> bool:
        record = self.records.get(stream)
        if record is None or record.ended or record.epochs[-1][0] != epoch:
            return False
        if record.tail != tail:
            return False
        if record.leader != node and not record.handed:  # handed already: whoever did it says so again
            return False
        record.leader, record.handed, record.rests = to, True, False
        return True

    def rest(self, stream: str, epoch: int, tail: int, node: str) -> bool:
        done = self.hand_over(stream, epoch, tail, node, "")
        if done:
            self.records[stream].rests = True
        return done

    def purge(self, streams: Sequence[str]) -> None:
        for stream in streams:
            self.records.pop(stream, None)
            self.purged.add(stream)

    def renew(self, node: str, lease_ms: int) -> bool:
        now = self.clock_ms()
        if self.leases and max(self.leases.values()) <= now:
            self.dark_until_ms = now + lease_ms
        self.leases[node] = now + lease_ms
        return self.dark_until_ms <= now

    def fold(self, stream: str, tail: int, summary: Summary) -> bool:
        record = self.records.get(stream)
        if record is None or not record.ended or record.tail != tail:
            return False
        record.entries, record.base, record.summary, record.marks = [], tail, summary, {}
        return True


class MemoryStore:
    """One node's view of a `Disk`."""

    def __init__(self, disk: Disk | None = None, *, request_ttl_s: float = 86_400) -> None:
        self.disk = disk or Disk(lambda: int(time.time() * 1000))
        self.peers: dict[str, MemoryStore] = {}  # shared by all stores of a disk, for pushes and messages
        self.available = True  # tests turn the store off with this
        self._request_ttl_ms = int(request_ttl_s * 1000)
        self._node = ""

    def beside(self) -> MemoryStore:
        """Another node's store on the same disk."""
        store = MemoryStore(self.disk, request_ttl_s=self._request_ttl_ms / 1000)
        store.peers = self.peers
        return store

    async def open(self, node: str, on_push: OnPush, on_message: OnMessage) -> None:
        self._node, self._on_push, self._on_message = node, on_push, on_message
        self.peers[node] = self

    async def close(self) -> None:
        self.peers.pop(self._node, None)

    async def ping(self) -> None:
        if not self.available:
            raise StoreUnavailable()

    def lane(self, partition: int) -> int:
        return 0

    async def create(self, stream: str, request: str, meta: bytes, leader: str = "") -> Created:
        await self.ping()
        return self.disk.create(stream, request, meta, self._node, self._request_ttl_ms, leader)

    async def made_by(self, request: str, partition: int) -> str | None:
        await self.ping()
        made, until = self.disk.requests.get(request, ("", 0))
        return made if until > self.disk.clock_ms() else None

    async def commit(self, writes: Sequence[Write]) -> list[Reply]:
        await self.ping()
        replies = [self.disk.commit(write) for write in writes]
        for write, reply in zip(writes, replies, strict=True):
            if reply.verdict is Verdict.OK and write.entries:
                push = Push(write.stream, write.epochs, write.base, list(write.entries))
                for node in self.disk.records[write.stream].followers & self.peers.keys():
                    self.peers[node]._on_push(push)
        return replies

    async def read(self, stream: str, after: int = 0) -> State | None:
        await self.ping()
        return self.disk.read(stream, after)

    async def adopt(self, stream: str, leader: str) -> State | None:
        await self.ping()
        return self.disk.adopt(stream, leader, self._node)

    async def hand_over(self, stream: str, epoch: int, tail: int, to: str) -> bool:
        await self.ping()
        return self.disk.hand_over(stream, epoch, tail, self._node, to)

    async def rest(self, stream: str, epoch: int, tail: int) -> bool:
        await self.ping()
        return self.disk.rest(stream, epoch, tail, self._node)

    async def purge(self, streams: Sequence[str]) -> None:
        await self.ping()
        self.disk.purge(streams)

    async def mark_cancelled(self, stream: str) -> Head | None:
        await self.ping()
        record = self.disk.records.get(stream)
        if record is not None and not record.ended:
            record.cancelled = True
        return self.disk.head(stream)

    async def fold(self, stream: str, tail: int, summary: Summary) -> bool:
        await self.ping()
        return self.disk.fold(stream, tail, summary)

    async def follow(self, stream: str) -> None:
        await self.ping()
        if stream in self.disk.records:
            self.disk.records[stream].followers.add(self._node)

    async def unfollow(self, stream: str) -> None:
        if stream in self.disk.records:
            self.disk.records[stream].followers.discard(self._node)

    async def send(self, node: str, message: bytes) -> None:
        await self.ping()
        if node in self.peers:
            self.peers[node]._on_message(message)

    async def renew(self, lease_ms: int) -> bool:
        await self.ping()
        return self.disk.renew(self._node, lease_ms)

    async def release(self) -> None:
        await self.ping()
        self.disk.leases.pop(self._node, None)

    async def nodes(self) -> set[str]:
        await self.ping()
        now = self.disk.clock_ms()
        return {node for node, until in self.disk.leases.items() if until > now}

    async def open_streams(self) -> list[tuple[str, str]]:
        await self.ping()
        return [
            (stream, record.leader)
            for stream, record in self.disk.records.items()
            if not (record.ended or record.rests)
        ]

    async def remember(self, name: str, value: bytes, ttl_s: int) -> None:
        await self.ping()
        self.disk.notes[name] = (value, self.disk.clock_ms() + ttl_s * 1000)

    async def recall(self, name: str) -> bytes | None:
        await self.ping()
        value, until = self.disk.notes.get(name, (None, 0))
        return value if until > self.disk.clock_ms() else None

    async def put_row(self, table: str, row: str, value: bytes) -> None:
        await self.ping()
        self.disk.tables.setdefault(table, {})[row] = value

    async def get_row(self, table: str, row: str) -> bytes | None:
        await self.ping()
        return self.disk.tables.get(table, {}).get(row)

    async def drop_row(self, table: str, row: str) -> bool:
        await self.ping()
        return self.disk.tables.get(table, {}).pop(row, None) is not None

    async def rows(self, table: str) -> dict[str, bytes]:
        await self.ping()
        return dict(self.disk.tables.get(table, {}))

    async def rank(self, ranking: str, member: str, score: int) -> None:
        await self.ping()
        scores = self.disk.rankings.setdefault(ranking, {})
        scores[member] = max(score, scores.get(member, score))

    async def unrank(self, ranking: str, member: str) -> None:
        await self.ping()
        self.disk.rankings.get(ranking, {}).pop(member, None)

    async def ranked(self, ranking: str, below: tuple[int, str] | None, limit: int) -> list[tuple[str, int]]:
        await self.ping()
        ordered = sorted(
            ((score, member) for member, score in self.disk.rankings.get(ranking, {}).items()), reverse=True
        )
        return [(member, score) for score, member in ordered if below is None or (score, member) < below][:limit]

    async def claim(self, account: str, holder: str, claims: Sequence[Claim], ttl_ms: int) -> Spent | list[int]:
        await self.ping()
        return self.disk.accounts.setdefault(account, Account()).claim(holder, claims, self.disk.clock_ms(), ttl_ms)

    async def settle(self, account: str, holder: str, used: Mapping[str, int]) -> bool:
        await self.ping()
        return self.disk.accounts.setdefault(account, Account()).settle(holder, used)
