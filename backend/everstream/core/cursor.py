"""A reader's place in a log, and the frames that bring it up to date.

A cursor is one offset.  However far it lags, the next frames carry everything since, neighbours of one kind
merged: a slow reader costs an integer, not a queue, and a busy turn of the loop makes frames larger instead of more.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from everstream.core.events import DeltaRefusal, DeltaText, DeltaThinking, DeltaToolCall, Event
from everstream.core.log import Log, Position

_MERGED_BY_TEXT = (DeltaText, DeltaThinking, DeltaRefusal)


class Run(msgspec.Struct, frozen=True, gc=False):
    """Adjacent entries as one frame shows them: `event` stands for the offsets `(after, upto]`."""

    after: int
    upto: int
    event: Event


class Cursor:
    """Where one reader of a log stands: `offset` is the last entry it was given.

    `lost`: its place is in no history we know, so a snapshot comes before anything else.
    """

    __slots__ = ("lost", "offset")

    def __init__(self, offset: int, *, lost: bool = False) -> None:
        self.offset = offset
        self.lost = lost

    @classmethod
    def at(cls, log: Log, seen: Position) -> Cursor:
        """The cursor of a reader that comes (back) with a position."""
        found = log.locate(seen)
        return cls(log.committed, lost=True) if found is None else cls(found)

    def lag(self, log: Log) -> int:
        return log.committed - self.offset


def runs(log: Log, after: int, limit_chars: int) -> list[Run]:
    """The committed entries after `after`, merged, up to about `limit_chars` of text (at least one run)."""
    upto = log.committed
    if upto == after + 1:  # the common case: one new token
        return [Run(after, upto, log.entries[after - log.base])]
    return coalesce(log.slice(after, upto), after, limit_chars)


def coalesce(entries: Sequence[Event], after: int, limit_chars: int) -> list[Run]:
    """Merge neighbours of one kind, tool calls by their index.  A run is no longer than `limit_chars`."""
    result: list[Run] = []
    i, n, spent = 0, len(entries), 0
    while i < n and (not result or spent < limit_chars):
        first = entries[i]
        kind = type(first)
        j = i + 1
        size = _size(first)
        while j < n and type(entries[j]) is kind and _mergeable(first, entries[j]) and spent + size < limit_chars:
            size += _size(entries[j])
            j += 1
        result.append(Run(after + i, after + j, first if j == i + 1 else _merge(entries[i:j])))
        spent += size
        i = j
    return result


def _size(event: Event) -> int:
    if isinstance(event, _MERGED_BY_TEXT):
        return len(event.text)
    return len(event.arguments) if isinstance(event, DeltaToolCall) else 32


def _mergeable(first: Event, other: Event) -> bool:
    if isinstance(first, DeltaToolCall):
        return isinstance(other, DeltaToolCall) and first.index == other.index and not other.call_id and not other.name
    return isinstance(first, _MERGED_BY_TEXT)


def _merge(entries: Sequence[Event]) -> Event:
    first = entries[0]
    if isinstance(first, DeltaToolCall):
        arguments = "".join(e.arguments for e in entries)  # type: ignore[attr-defined]
        return DeltaToolCall(first.index, arguments, first.call_id, first.name)
    return type(first)("".join([e.text for e in entries]))  # type: ignore[attr-defined]
