"""The contract of a store: what survives a node, and the only rules by which it changes.

A store keeps, for every stream, a *head* (epoch table, leader, status, cancel mark, an opaque `meta` with which any
node can run the request again) and the *entries* after `base`; what was folded away is in `summary`.  It keeps a
lease for every living node.  Only its clock counts.

All calls may raise `EverstreamError("store.unavailable")`: then it is unknown whether the call took effect.  Every
call is therefore safe to repeat: `commit` by its base, `create` by its request, `adopt` by the epoch it returns.
The store never retries a write by itself, because a repeat that nobody knows of is how entries get doubled.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import msgspec

from everstream.core.errors import EverstreamError
from everstream.core.events import Event, Mark
from everstream.core.lease import Epochs
from everstream.core.log import Verdict
from everstream.core.quota import Claim, Spent
from everstream.core.summary import NOTHING, Summary

REIGNS_MAX = 256  # in an epoch table: every commit carries it, and a session is adopted each time that it wakes


@dataclass(frozen=True, slots=True)
class Head:
    """What a store knows of a stream besides its entries.  `tail` counts the folded ones too."""

    stream: str
    epochs: Epochs
    base: int
    tail: int
    ended: bool
    leader: str
    cancelled: bool
    meta: bytes
    handed: bool = False  # its leader was named by another node, and has yet to adopt it


@dataclass(frozen=True, slots=True)
class State:
    """A stream as read: its head, the sum of what was folded, the entries after `after`, and the marks beside them."""

    head: Head
    after: int
    entries: list[Event]
    summary: Summary = NOTHING
    marks: Mapping[int, Mark] = field(default_factory=dict)  # by offset


@dataclass(frozen=True, slots=True)
class Created:
    """`fresh` is False where the request had made this stream before."""

    stream: str
    epochs: Epochs
    fresh: bool


class Write(msgspec.Struct, frozen=True, gc=False):
    """One stream's share of a commit: `entries` follow the offset `base`.

    `meta` travels with writes from offset 0, so that a store that lost the head too can make it again.
    Without entries it is a probe: it changes nothing, and the reply says whether the store holds all up to `base`.
    """

    stream: str
    epochs: Epochs
    base: int
    entries: Sequence[Event]
    ends: bool
    leader: str
    meta: bytes = b""
    marks: Mapping[int, Mark] = {}  # beside entries of this write, by offset


class Reply(msgspec.Struct, frozen=True, gc=False):
    """The store's answer to a `Write`.  `cancelled`: somebody, on whatever node, wants this stream stopped.

    `copied` is False where replicas were to have it too (`acks`), and none had in time.
    """

    verdict: Verdict
    tail: int
    cancelled: bool
    copied: bool = True


@dataclass(frozen=True, slots=True)
class Push:
    """Entries as a leader committed them, sent on to followers.  May be lost or come twice."""

    stream: str
    epochs: Epochs
    after: int
    entries: list[Event] = field(default_factory=list)


OnPush = Callable[[Push], None]
OnMessage = Callable[[bytes], None]


class StoreUnavailable(EverstreamError):
    def __init__(self, message: str = "the store does not answer") -> None:
        super().__init__("store.unavailable", message)


class Store(Protocol):
    """See the module's text.  `node` is the id of the calling node."""

    async def open(self, node: str, on_push: OnPush, on_message: OnMessage) -> None:
        """Connect and check that the server is new enough.  Raises StoreUnavailable with what to do."""
        ...

    async def close(self) -> None: ...

    async def ping(self) -> None: ...

    def lane(self, partition: int) -> int:
        """Which partitions can share one commit call: those of the same lane."""
        ...

    async def create(self, stream: str, request: str, meta: bytes, leader: str = "") -> Created:
        """Make a stream led by this node, unless `request` (of the same partition) already made one.

        With `leader` it is handed to that node from the start, which has to adopt it.  An empty `request` is never
        remembered.  The memory of it lasts for the request TTL.
        """
        ...

    async def made_by(self, request: str, partition: int) -> str | None:
        """The stream that a request of this partition has made; None where it has made none, or it is forgotten."""
        ...

    async def commit(self, writes: Sequence[Write]) -> list[Reply]:
        """Append, atomically for each stream, by the rules of `core.log`.  One lane a call."""
        ...

    async def read(self, stream: str, after: int = 0) -> State | None:
        """The stream from `after` on (from its base, where that is later); None where it does not exist."""
        ...

    async def adopt(self, stream: str, leader: str) -> State | None:
        """Begin a new epoch under this node, fencing `leader`, and read all of the stream.

        None where another node was faster (the leader is no longer `leader`), or it has ended.  The state still says
        whether it was `handed`; afterwards it is not.  A reign that was handed on before it had an
        entry leaves no trace.

        Of more than `REIGNS_MAX` reigns the oldest leave the table, and the oldest that is left begins at 0.  Such a
        table agrees on nothing with those of before: who holds one of them reads the stream anew.
        """
        ...

    async def hand_over(self, stream: str, epoch: int, tail: int, to: str) -> bool:
        """Name the node `to` (empty: whichever comes) as the next leader of a stream that this node leads in `epoch`.

        Nothing else changes until that node adopts it, but that it is open again if it was at rest.  False where this
        node does not lead it, it has ended, or the store does not hold all up to `tail`: then this node has what
        nobody else would have.
        """
        ...

    async def rest(self, stream: str, epoch: int, tail: int) -> bool:
        """Lead a stream no longer that has not ended and of which nothing is expected soon: nobody leads it.

        It is no open stream any more, so nobody looks for it, until somebody adopts it from the leader "".  False as
        for `hand_over`.  A reign that had no entry leaves no trace.
        """
        ...

    async def purge(self, streams: Sequence[str]) -> None:
        """Erase streams, of one partition, for good.

        They are not there any more for `read`, `adopt`, the memory of `create` and all others, and commits of them
        are fenced, for as long as the stream TTL: what a leader still holds must not come back.  Nor can they be made
        again: `create` of one says that it was there before.  Safe to repeat.
        """
        ...

    async def mark_cancelled(self, stream: str) -> Head | None:
        """Leave word that the stream is to stop; its leader learns it with its next commit at the latest."""
        ...

    async def fold(self, stream: str, tail: int, summary: Summary) -> bool:
        """Replace an ended stream's entries by their sum.  False where it is not ended at `tail`."""
        ...

    async def follow(self, stream: str) -> None:
        """Have the leader's commits of this stream pushed here from now on."""
        ...

    async def unfollow(self, stream: str) -> None: ...

    async def send(self, node: str, message: bytes) -> None:
        """A hint to another node.  May be lost."""
        ...

    async def renew(self, lease_ms: int) -> bool:
        """Prolong this node's lease by the store's clock.

        False where all nodes' leases had run out, and less than `lease_ms` has passed since: the store was away, and
        who is missing may only not have come back yet.  Then nobody may be taken for dead.
        """
        ...

    async def release(self) -> None:
        """Give the lease up: this node's streams may be adopted at once."""
        ...

    async def nodes(self) -> set[str]:
        """The nodes whose lease has not run out."""
        ...

    async def open_streams(self) -> list[tuple[str, str]]:
        """Streams that have not ended, each with its leader."""
        ...

    async def remember(self, name: str, value: bytes, ttl_s: int) -> None:
        """Keep a small value for all nodes, for a while."""
        ...

    async def recall(self, name: str) -> bytes | None: ...

    # A table is a small map for all nodes, by rows.  It lasts: ten years from the last time that it was written to.

    async def put_row(self, table: str, row: str, value: bytes) -> None: ...

    async def get_row(self, table: str, row: str) -> bytes | None: ...

    async def drop_row(self, table: str, row: str) -> bool:
        """False where there was none."""
        ...

    async def rows(self, table: str) -> dict[str, bytes]: ...

    # A ranking is a set whose members have a score (less than 2**53), for all nodes.  It lasts for the session TTL from
    # its last change.

    async def rank(self, ranking: str, member: str, score: int) -> None:
        """Put a member in, or give it another score; a score that is lower than the one it has changes nothing."""
        ...

    async def unrank(self, ranking: str, member: str) -> None: ...

    async def ranked(self, ranking: str, below: tuple[int, str] | None, limit: int) -> list[tuple[str, int]]:
        """Members with their scores, the highest first, equal ones by name, the last one first.

        `below`: only those that come after this (score, member).
        """
        ...

    # An account says what somebody has used, and what his holders hold, by the rules of `core.quota`.

    async def claim(self, account: str, holder: str, claims: Sequence[Claim], ttl_ms: int) -> Spent | list[int]:
        """What of each claim was granted, or what there is not enough of; then nothing was.

        `holder` is forgotten after `ttl_ms` unless it settles before, or claims again: that is granted what it has, and
        prolongs its time.  An empty one only asks.
        """
        ...

    async def settle(self, account: str, holder: str, used: Mapping[str, int]) -> bool:
        """Give back what a holder has not used.  Safe to repeat.  False where nobody knows it (any more)."""
        ...
