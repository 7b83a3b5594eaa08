"""Who may write: epochs, their tables, and the owner of an orphan.

An epoch is the reign of one leader over one stream.  A stream's *epoch table* lists its reigns as pairs
`(epoch, start)`: the epoch, and the offset after which it began.  Two copies of a stream agree up to the point
where their tables part; that is all a newer leader needs to know to cut away what an older one wrote beside it.

An epoch is never used twice, not even by a store that forgot one in a failover.  So it follows the store's clock
instead of counting: `max(last + 1, clock)` in milliseconds, with ten bits of the node's id below as tie-break.
It stays under 2**53, which a JavaScript client can hold exactly, until the year 2248.

A stream's id names its *partition*, the unit that a cluster keeps in one slot and that one survivor adopts.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache
from hashlib import blake2b
from typing import Literal
from zlib import crc32

PARTITIONS = 64
TAG_BITS = 10

Epochs = tuple[tuple[int, int], ...]


def next_epoch(last: int, clock_ms: int, tag: int) -> int:
    """An epoch above `last` that no other node can have taken.  `last` is 0 for a new stream."""
    return (max((last >> TAG_BITS) + 1, clock_ms) << TAG_BITS) | tag


def node_tag(node: str) -> int:
    return crc32(node.encode()) & ((1 << TAG_BITS) - 1)


def agreement(ours: Epochs, our_tail: int, theirs: Epochs, their_tail: int) -> int:
    """The offset up to which two histories with these tables must be equal."""
    common = 0
    for (epoch, start), (other_epoch, other_start) in zip(ours, theirs, strict=False):
        if epoch != other_epoch or start != other_start:
            break
        common += 1
    if not common:
        return 0
    our_end = ours[common][1] if common < len(ours) else our_tail
    their_end = theirs[common][1] if common < len(theirs) else their_tail
    return min(our_end, their_end, our_tail, their_tail)


def epoch_at(epochs: Epochs, offset: int) -> int:
    """The epoch in which the entry at `offset` was written; the first one for offset 0."""
    found = epochs[0][0]
    for epoch, start in epochs:
        if start < offset:
            found = epoch
    return found


@lru_cache(maxsize=4096)  # a commit carries its table every time
def pack_epochs(epochs: Epochs) -> bytes:
    """The table as the store keeps it: `epoch:start,epoch:start`, which a script reads without a library."""
    return b",".join(b"%d:%d" % pair for pair in epochs)


def unpack_epochs(packed: bytes) -> Epochs:
    pairs = (pair.split(b":") for pair in packed.split(b","))
    return tuple((int(epoch), int(start)) for epoch, start in pairs)


def partition_of(stream: str) -> int:
    """The partition a stream id names.  Raises ValueError for what cannot be a stream's id."""
    if len(stream) != 30 or stream[:2] not in ("r_", "s_") or not stream.isascii() or not stream[2:].isalnum():
        raise ValueError("not a stream id")
    partition = int(stream[2:4], 16)
    if partition >= PARTITIONS:
        raise ValueError("not a stream id")
    return partition


def stream_id(partition: int, secret: bytes, kind: Literal["r", "s"] = "r") -> str:
    """A stream's id: of a response or a session, its partition in two hex digits, 130 bits of `secret` (17 bytes)."""
    number = int.from_bytes(secret, "big")
    digits = "".join("abcdefghijklmnopqrstuvwxyz234567"[number >> (5 * i) & 31] for i in range(26))
    return f"{kind}_{partition:02x}{digits}"


def partition_for(name: str) -> int:
    """The partition of something that has no stream yet, such as a request id."""
    return int.from_bytes(blake2b(name.encode(), digest_size=4).digest(), "big") % PARTITIONS


def owner_of(partition: int, nodes: Iterable[str]) -> str | None:
    """Which of the living nodes adopts a partition's orphans.

    Rendezvous hashing (Thaler and Ravishankar, 1998): all nodes that see the same set agree without a word, and
    a node's death moves only its own share.
    """
    return max(nodes, key=lambda node: blake2b(f"{partition}/{node}".encode(), digest_size=8).digest(), default=None)
