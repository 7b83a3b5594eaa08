"""One stream as a node knows it: entries, epochs, watermarks.

Offsets count from 1.  Three of them matter:

    base       entries up to here are gone from memory; `summary` is their sum
    acked      the store holds this much of what we lead; what follows is sent (again) with the next commit
    committed  readers may see this much; it never moves back.  What the store has acknowledged, unless `reveal` was
               called, which lets them see what the store may still lose

A log is *led* (this node appends, and commits to the store) or *followed* (this node is offered what the leader
committed).  The rules below are driven by the simulator; each is necessary:

1. A commit carries its epoch table; the store fences a commit of an older epoch.
2. A newer epoch first truncates to the agreement of the two tables, then appends.
3. `base` of a commit (the offset it starts after) makes it idempotent; `GAP` makes the leader send again.
4. An epoch is never reused (`core.lease`).
5. A reader that knows a newer epoch means that this node is stale: ask the store.
6. A reader whose position is in no known history gets a snapshot.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum

from everstream.core.events import CONTENT, DeltaText, Event, Mark, Seam, StreamEnd
from everstream.core.lease import Epochs, agreement, epoch_at
from everstream.core.order import ORDER, Phase
from everstream.core.summary import NOTHING, Summary, fold
from everstream.core.trail import Trail, trail_of

COMMIT_ENTRIES_MAX = 512  # a commit of one stream; the rest goes with the next round trip


@dataclass(frozen=True, slots=True)
class Position:
    """A reader's place: the last entry it has applied, and the epoch that entry was written in."""

    epoch: int
    offset: int


class Verdict(Enum):
    """What the store says of a commit."""

    OK = "ok"
    FENCED = "fenced"  # a newer epoch reigns: whoever sent this is no longer the leader
    GAP = "gap"  # the store holds less than the commit builds on: send again from its tail


class Offer(Enum):
    """What became of entries that a follower was offered."""

    APPLIED = "applied"
    KNOWN = "known"  # nothing new in it
    HOLE = "hole"  # something in between is missing: read the store
    FORKED = "forked"  # we hold entries that history has lost: start over from the store


class Log:
    __slots__ = (
        "_legal",
        "_sent_chars",
        "acked",
        "base",
        "committed",
        "entries",
        "epochs",
        "fenced",
        "marks",
        "pending_chars",
        "phase",
        "stream",
        "summary",
        "trail",
    )

    def __init__(
        self,
        stream: str,
        epochs: Epochs,
        entries: Iterable[Event] = (),
        *,
        base: int = 0,
        summary: Summary = NOTHING,
        marks: Mapping[int, Mark] | None = None,
    ) -> None:
        """A log that the store holds already: everything given counts as committed.

        `marks` (by offset) are of use to a leader only.
        """
        self.stream = stream
        self.epochs = epochs
        self.base = base
        self.summary = summary
        self.entries: list[Event] = list(entries)
        self.acked = self.committed = self.tail
        self.fenced = False
        self.pending_chars = 0  # text that the store does not hold yet: what back-pressure goes by
        self.marks: dict[int, Mark] = {}  # beside entries that the store does not hold yet
        self.trail = trail_of(self.entries, base, marks) if marks else Trail()  # what all marks add up to
        self._sent_chars = 0
        self._enter(_phase_of(self.entries, summary, base))

    # ------------------------------------------------------------------ places

    @property
    def tail(self) -> int:
        return self.base + len(self.entries)

    @property
    def epoch(self) -> int:
        return self.epochs[-1][0]

    @property
    def closed(self) -> bool:
        """Its last entry is there; it may not be committed yet."""
        return self.phase is Phase.ENDED

    @property
    def ended(self) -> bool:
        """Its last entry is there and readers may see it."""
        return self.phase is Phase.ENDED and self.committed == self.tail

    @property
    def settled(self) -> bool:
        """Its last entry is there and the store has it."""
        return self.phase is Phase.ENDED and self.acked == self.tail

    def locate(self, seen: Position) -> int | None:
        """Where a reader at `seen` goes on: its own offset, or None where only a snapshot helps.

        Never past `committed`, not even where the table says that so much was history once: the next reign may begin
        before that.  Ask `knows_less_than` first.
        """
        if seen.offset < self.base:
            return None
        if seen.offset == 0:
            return 0
        for i, (epoch, start) in enumerate(self.epochs):
            if epoch == seen.epoch:
                end = self.epochs[i + 1][1] if i + 1 < len(self.epochs) else self.committed
                return seen.offset if start <= seen.offset <= min(end, self.committed) else None
        return None

    def knows_less_than(self, seen: Position) -> bool:
        """Rule 5: the reader has seen what this log has not, as far as it can tell.

        The log may be stale: ask the store.  If that does not help, the store may have lost what the leader still
        holds: let the reader wait a while for it, then give it a snapshot.
        """
        if seen.epoch > self.epoch or seen.offset <= self.committed:
            return seen.epoch > self.epoch
        for i, (epoch, _) in enumerate(self.epochs):
            if epoch == seen.epoch:
                return i + 1 == len(self.epochs) or seen.offset <= self.epochs[i + 1][1]
        return False

    def position(self, offset: int) -> Position:
        return Position(epoch_at(self.epochs, offset), offset)

    def slice(self, after: int, upto: int) -> list[Event]:
        """Entries `(after, upto]`; `after` must not lie before `base`."""
        return self.entries[after - self.base : upto - self.base]

    def total(self) -> Summary:
        """The sum of everything readers may see."""
        return fold(self.slice(self.base, self.committed), self.summary)

    # ------------------------------------------------------------------ leading

    def append(self, event: Event) -> int:
        """Add an entry at the tail; returns its offset.  Raises ValueError where the order forbids it."""
        phase = self._legal.get(type(event))
        if phase is None:
            raise ValueError(f"{type(event).__name__} cannot follow in phase {self.phase.value}")
        if phase is not self.phase:
            self._enter(phase)
        self.entries.append(event)
        if type(event) is DeltaText:  # which nearly all are
            self.pending_chars += len(event.text)
        else:
            if type(event) is Seam:
                self.trail.seam(event, self.content_at())
            text = getattr(event, "text", None) or getattr(event, "arguments", None)
            self.pending_chars += len(text) if text else 32
        return self.base + len(self.entries)

    def mark(self, mark: Mark) -> None:
        """Put a provider's mark beside the last entry, to be stored with it.  That must not be stored yet."""
        tail = self.tail
        known = len(self.trail.tokens)
        self.trail.mark(tail, Mark(mark.cursor, mark.tokens, known))
        there = self.marks.get(tail)
        if there is not None:
            cursor = there.cursor if mark.cursor is None else mark.cursor
            self.marks[tail] = Mark(cursor, there.tokens + mark.tokens, there.before)
        else:
            self.marks[tail] = Mark(mark.cursor, mark.tokens, known)

    def content_at(self) -> int:
        """The offset of the last content that a reader may keep; 0 where there is none in memory."""
        for i in range(len(self.entries) - 1, -1, -1):
            entry = self.entries[i]
            if isinstance(entry, CONTENT):
                return self.base + i + 1
            if isinstance(entry, Seam) and entry.continuation == "restart":
                return 0
        return 0

    def reign(self, epoch: int) -> None:
        """Begin a new epoch at the tail, as its leader.  What was not committed is nobody's any more."""
        del self.entries[self.committed - self.base :]
        self.marks.clear()
        self.epochs = (*self.epochs, (epoch, self.tail))
        self.acked = self.committed
        self.fenced = False
        self.pending_chars = self._sent_chars = 0
        self._enter(_phase_of(self.entries, self.summary, self.base))

    def pending(self) -> Sequence[Event]:
        """What the next commit carries; it starts after `acked`."""
        start = self.acked - self.base
        whole = len(self.entries) - start <= COMMIT_ENTRIES_MAX
        self._sent_chars = self.pending_chars if whole else 0
        return self.entries[start:] if whole else self.entries[start : start + COMMIT_ENTRIES_MAX]

    @property
    def dirty(self) -> bool:
        return not self.fenced and self.acked < self.base + len(self.entries)

    def on_reply(self, verdict: Verdict, tail: int) -> bool:
        """Take the store's answer to a commit.  True when readers may see more than before."""
        if verdict is Verdict.FENCED:
            self.fenced = True
            return False
        if verdict is Verdict.GAP:
            self.acked = max(tail, self.base)
            trail = self.trail
            if trail.cursor is not None and trail.cursor_at > self.acked:  # of the earlier ones there is no need
                self.marks.setdefault(trail.cursor_at, Mark(trail.cursor))
            return False
        self.acked = min(tail, self.base + len(self.entries))
        if self.marks:
            self.marks = {offset: mark for offset, mark in self.marks.items() if offset > self.acked}
        self.pending_chars -= self._sent_chars
        self._sent_chars = 0
        if self.acked <= self.committed:
            return False
        self.committed = self.acked
        return True

    def reveal(self) -> bool:
        """Let readers see all there is, stored or not.  True when that is more than before."""
        if self.fenced or self.committed == self.tail:
            return False
        self.committed = self.tail
        return True

    # ------------------------------------------------------------------ following

    def offer(self, epochs: Epochs, after: int, entries: Sequence[Event]) -> Offer:
        """Take entries that the store holds, in whatever order and how often they arrive."""
        if epochs[-1][0] < self.epoch:
            return Offer.KNOWN
        if epochs != self.epochs and self._forked(epochs):
            return Offer.FORKED
        tail = self.tail
        if after > tail:
            return Offer.HOLE
        self.epochs = epochs
        if after + len(entries) <= tail:
            return Offer.KNOWN
        fresh = entries[tail - after :]
        self.entries.extend(fresh)
        self.acked = self.committed = self.tail
        self._enter(_phase_after(self.phase, fresh))
        return Offer.APPLIED

    def _forked(self, epochs: Epochs) -> bool:
        """Whether a newer table says that some of what we hold is no longer history."""
        return agreement(self.epochs, self.tail, epochs, self.tail) < self.tail

    def _enter(self, phase: Phase) -> None:
        self.phase = phase
        self._legal = ORDER[phase]


def _phase_of(entries: Sequence[Event], summary: Summary, base: int) -> Phase:
    """How far a log that was read back has come.  After a fold, or in the middle, a seam is what comes next."""
    if summary.end is not None:
        return Phase.ENDED
    if not entries and not base:
        return Phase.NEW
    return _phase_after(Phase.NEW if not base else Phase.CARRIED, entries)


def _phase_after(phase: Phase, entries: Sequence[Event]) -> Phase:
    """How far a log has come with these entries.  A push costs what it brings, however long the log is."""
    if entries and isinstance(entries[-1], StreamEnd):
        return Phase.ENDED
    for entry in entries:
        phase = ORDER[phase][type(entry)]
    return phase
