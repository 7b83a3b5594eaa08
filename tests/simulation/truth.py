"""The witness: it sees everything, takes no part, and knows what may never happen.

It keeps one table for each stream: *which entry did the store acknowledge as offset n of epoch e?*  The pair never
has two answers (epochs are not reused, a leader only appends), so nearly every claim becomes a look into it.  What a
leader reveals before the store has it is in the table too:

* a reader is shown only what is in the table, under the epoch that the reader itself believes to be in;
* a node's log, read by its own epoch table, never differs from it: so two nodes agree wherever their tables do;
* what the store holds after a commit, read by the store's table, never differs from it: so no fork survives there.

What may be lost is kept exactly.  A failover to a replica that lagged puts a stream *at risk*.  While its leader
lives it still holds what the store forgot, so readers must not notice anything.  Only when the leader goes too
before it has made the store whole (or when the failover forgot a whole reign) is the stream *excused*: from then on
readers may be given a snapshot that takes something back.  What was revealed *early* is at risk in the same way, until
it is stored.  Without an excuse no reader is ever given less than it had.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise

from everstream.core.cursor import Run, coalesce
from everstream.core.events import CONTENT, DeltaRefusal, DeltaText, Event, RequestStart, Seam, StreamEnd
from everstream.core.lease import Epochs, agreement
from everstream.core.log import Log
from everstream.core.order import Phase, follow
from everstream.core.summary import Summary, fold
from everstream.store.base import Write
from everstream.store.memory import Disk, Record
from tests.simulation.generation import letter_of, standing, token_of, words_of

NO_LIMIT_CHARS = 1 << 60
_NUMBER = re.compile(r"\d+")


class Broken(AssertionError):
    """Something happened that never may."""


def reigns_of(epochs: Epochs, tail: int) -> Iterator[tuple[int, int, int]]:
    """The reigns that wrote something, as (epoch, start, end)."""
    for i, (epoch, start) in enumerate(epochs):
        end = min(epochs[i + 1][1] if i + 1 < len(epochs) else tail, tail)
        if start < end:
            yield epoch, start, end


class Witness:
    def __init__(self, streams: Sequence[str], *, may_be_early: bool) -> None:
        self.may_be_early = may_be_early  # the delivery that was asked for: else nothing excuses what it takes back
        self.acked: dict[str, dict[tuple[int, int], Event]] = {stream: {} for stream in streams}
        self.reigns: dict[str, dict[int, int]] = {stream: {} for stream in streams}  # epoch -> step it began at
        self.highest: dict[str, int] = dict.fromkeys(streams, 0)
        self.fences: dict[str, int] = {}
        self.marked: dict[str, int] = {}  # stream -> step since which the primary holds a cancel mark
        self.final: dict[str, list[Event]] = {}  # what was folded away
        self.handed: dict[str, bool] = {}  # its next leader was named by another
        self.drains: dict[str, set[int]] = {stream: set() for stream in streams}  # epochs that began so
        self.left: dict[str, tuple[int, int]] = {}  # what had been said when it was handed over: (epoch, tail)
        self.at_risk: dict[str, tuple[int, int]] = {}
        self.early: dict[str, tuple[int, int]] = {}  # shown, and not stored: (epoch, tail)
        self.excused: set[str] = set()
        self._ordered: dict[str, tuple[Epochs, int, Phase]] = {}

    # ------------------------------------------------------------------ the store

    def reigns_anew(self, stream: str, epochs: Epochs, tail: int, step: int) -> None:
        epoch = epochs[-1][0]
        if epoch in self.reigns[stream]:
            raise Broken(f"{stream}: epoch {epoch} was used twice")
        if any(a[0] >= b[0] or a[1] > b[1] for a, b in pairwise(epochs)):
            raise Broken(f"{stream}: the epoch table {epochs} does not grow")
        self.reigns[stream][epoch] = step
        if self.handed.pop(stream, False):
            self.drains[stream].add(epoch)
        left = self.left.pop(stream, None)
        if left is not None and left[0] in dict(epochs) and tail < left[1]:
            raise Broken(f"{stream}: was handed over at {left[1]} and taken up at {tail}")

    def stored(self, write: Write, record: Record, newer: bool) -> None:
        """The store said OK to `write`."""
        stream = write.stream
        self._match(stream, record.epochs, record.base, record.entries, 0 if newer else write.base, learn=True)
        self._in_order(stream, record)
        if newer:  # a reign that a failover forgot, and with it whatever was agreed on since
            self.handed[stream] = False
            self.left.pop(stream, None)
        for risks in (self.at_risk, self.early):
            risk = risks.get(stream)
            if risk and risk[0] == record.epochs[-1][0] and record.tail >= risk[1]:
                del risks[stream]
        if stream not in self.excused and stream not in self.at_risk:
            if record.tail < self.highest[stream]:
                raise Broken(f"{stream}: the store went from {self.highest[stream]} to {record.tail} entries")
            if record.tail > self.fences.get(stream, record.tail):
                raise Broken(f"{stream}: offset {record.tail} after the fence at {self.fences[stream]}")
            self.highest[stream] = record.tail
        since = self.marked.get(stream)
        epoch, start = write.epochs[-1]
        of_this_reign = write.entries[max(0, start - write.base) :]
        for entry in of_this_reign:
            if not isinstance(entry, Seam) or entry.reason == "provider_lost":
                continue
            if (entry.reason == "drain") != (epoch in self.drains[stream]):
                raise Broken(f"{stream}: the reign {epoch} is called {entry.reason}")
        late = since is not None and self.reigns[stream][epoch] > since
        if late and any(isinstance(entry, CONTENT) for entry in of_this_reign):
            raise Broken(f"{stream}: was cancelled before this reign began, and goes on")

    def _match(
        self, stream: str, epochs: Epochs, base: int, entries: Sequence[Event], start_at: int, *, learn: bool = False
    ) -> None:
        acked = self.acked[stream]
        for epoch, start, end in reigns_of(epochs, base + len(entries)):
            for offset in range(max(start, base, start_at), end):
                entry = entries[offset - base]
                known = acked.get((epoch, offset + 1))
                if known is entry:
                    continue
                if known is not None:
                    raise Broken(f"{stream}: offset {offset + 1} of epoch {epoch} is {known} and {entry}")
                if not learn:
                    raise Broken(f"{stream}: offset {offset + 1} of epoch {epoch} was never acknowledged: {entry}")
                acked[epoch, offset + 1] = entry

    def _in_order(self, stream: str, record: Record) -> None:
        """The stored log follows the table of `core.events`, and the first entry of each reign names it."""
        if record.base:
            return
        epochs, upto, phase = self._ordered.get(stream, ((), 0, Phase.NEW))
        if epochs != record.epochs or upto > record.tail:
            upto, phase = 0, Phase.NEW
        try:
            for entry in record.entries[upto:]:
                phase = follow(phase, entry)
        except ValueError as error:
            raise Broken(f"{stream}: {error}") from error
        for epoch, start, _ in reigns_of(record.epochs[1:], record.tail):
            entry = record.entries[start]
            if not isinstance(entry, Seam | RequestStart) or entry.epoch != epoch:
                raise Broken(f"{stream}: epoch {epoch} opens with {entry}, which does not say so")
        if record.ended != (phase is Phase.ENDED):
            raise Broken(f"{stream}: ended is {record.ended} in phase {phase.value}")
        self._ordered[stream] = (record.epochs, record.tail, phase)

    # ------------------------------------------------------------------ loss

    def failed_over(self, before: Disk, after: Disk, holders: dict[str, bool]) -> None:
        """`holders`: whether the stream's leader lives, at work, with all that the store has acknowledged."""
        for stream, old in before.records.items():
            new = after.records.get(stream)
            self.handed[stream] = new is not None and new.handed
            if new is None or not new.cancelled:
                self.marked.pop(stream, None)
            if new is not None and (new.epochs, new.tail, new.base) == (old.epochs, old.tail, old.base):
                continue
            if new is not None and new.epochs == old.epochs and new.tail == old.tail:
                continue  # only the folding was forgotten
            self.left.pop(stream, None)
            if (new is not None and new.epochs != old.epochs) or not holders[stream]:
                self.excuse(stream)
            else:
                shown = self.early.get(stream, (0, 0))[1]
                self.at_risk[stream] = (old.epochs[-1][0], max(old.tail, shown, self.highest[stream]))

    def leader_lost(self, stream: str) -> None:
        """Its leader died, slept, was deposed, or let go of the log."""
        if stream in self.at_risk or stream in self.early:
            self.excuse(stream)

    def revealed(self, log: Log, record: Record | None) -> None:
        """A leader shows what the store may not have."""
        if log.fenced:
            raise Broken(f"{log.stream}: a leader that knows it was deposed shows more")
        self._match(log.stream, log.epochs, log.base, log.entries, log.acked, learn=True)
        if not self.may_be_early:
            return
        if record is None or record.epochs != log.epochs:
            self.excuse(log.stream)  # another leads, or the store lost all: nobody will store this
        elif record.tail < log.committed:
            self.early[log.stream] = (log.epoch, log.committed)

    def leaves(self, log: Log) -> None:
        """Its leader goes by consent: nothing that was said may be lost by that alone."""
        self.at_risk.pop(log.stream, None)  # the store has said that it holds everything
        if log.stream not in self.excused:
            self.left[log.stream] = (log.epoch, log.tail)

    def excuse(self, stream: str) -> None:
        self.excused.add(stream)
        self.at_risk.pop(stream, None)
        self.early.pop(stream, None)

    # ------------------------------------------------------------------ nodes and readers

    def held(self, log: Log, start_at: int = 0) -> None:
        """A node holds this log: all it may show is in the table."""
        committed = log.entries[: log.committed - log.base]
        self._match(log.stream, log.epochs, log.base, committed, start_at)

    def agree(self, one: Log, other: Log) -> None:
        upto = agreement(one.epochs, one.committed, other.epochs, other.committed)
        after = max(one.base, other.base)
        if upto > after and one.slice(after, upto) != other.slice(after, upto):
            raise Broken(f"{one.stream}: two nodes differ before offset {upto}, where their tables agree")

    def shown(self, stream: str, epoch: int, run: Run) -> list[Event]:
        """A reader that believes to be in `epoch` was shown `run`; returns the entries that it stands for."""
        acked = self.acked[stream]
        entries = []
        for offset in range(run.after + 1, run.upto + 1):
            entry = acked.get((epoch, offset))
            if entry is None:
                raise Broken(f"{stream}: a reader was shown offset {offset} of epoch {epoch}: never acknowledged")
            entries.append(entry)
        merged = [Run(run.after, run.upto, entries[0])] if len(entries) == 1 else None
        same = [run] == (merged or coalesce(entries, run.after, NO_LIMIT_CHARS))
        if not same:
            raise Broken(f"{stream}: a reader was shown {run} for {entries}")
        if stream not in self.excused and run.upto > self.fences.get(stream, run.upto):
            raise Broken(f"{stream}: offset {run.upto} was shown after the fence at {self.fences[stream]}")
        return entries

    def replaced(self, stream: str, epoch: int, upto: int, given: Summary, had: Summary, had_offset: int) -> None:
        """A reader was given a snapshot."""
        if upto and (epoch, upto) not in self.acked[stream]:
            raise Broken(f"{stream}: a snapshot at ({epoch}, {upto}), which was never acknowledged")
        if stream in self.excused:
            return
        if stream not in self.final:
            raise Broken(f"{stream}: a snapshot at {upto}, though nothing was lost or folded")
        if upto < had_offset:
            raise Broken(f"{stream}: a snapshot took a reader from {had_offset} to {upto}, though nothing was lost")
        whole = given.text.startswith(had.text) and given.refusal.startswith(had.refusal)
        if given.attempts == had.attempts:
            whole = whole and given.thinking.startswith(had.thinking)
            calls = {call.index: call for call in given.tool_calls}
            for call in had.tool_calls:
                whole = whole and call.index in calls and calls[call.index].arguments.startswith(call.arguments)
        if not whole:
            raise Broken(f"{stream}: a snapshot changed what a reader had seen")

    # ------------------------------------------------------------------ carrying on

    def trailed(self, log: Log, runs: Mapping[str, int]) -> None:
        """What a log says of how its provider can go on is true: `runs` tells where each of them began."""
        pieces = standing(log.entries)
        ids = log.trail.tokens_of(log.content_at())
        if ids is not None and ids != tuple(token_of(piece) for piece in pieces):
            raise Broken(f"{log.stream}: the tokens {ids} do not make up what is shown")
        if log.trail.cursor is None:
            return
        letter, position = log.trail.cursor
        since = sum(isinstance(entry, CONTENT) for entry in log.slice(log.trail.cursor_at, log.tail))
        if pieces and letter_of(pieces[-1]) != letter:
            raise Broken(f"{log.stream}: the cursor is of run {letter}, and {letter_of(pieces[-1])} spoke last")
        if runs[letter] + position + since != len(pieces):
            raise Broken(f"{log.stream}: the cursor says {position} and {since} since, for {len(pieces)} pieces")

    def judged(self, log: Log, *, over: bool, bound: int) -> None:
        """An adopter has decided whether the stream is taken up (again) or was often enough in vain."""
        content_at, seams = log.base, 0
        named = set()  # the reigns that wrote why they began
        for offset, entry in enumerate(log.entries, log.base + 1):
            if isinstance(entry, CONTENT):
                content_at, seams = offset, 0
            elif isinstance(entry, Seam) and entry.reason == "drain":
                named.add(entry.epoch)
            elif isinstance(entry, Seam):
                seams += 1
        reigns = {epoch for epoch, start in log.epochs[1:] if start >= content_at}
        if not over and max(seams, len(reigns - self.drains[log.stream])) > bound:
            raise Broken(f"{log.stream}: was taken up {len(reigns)} times in vain, and is again")
        if over and max(seams, len(reigns - named)) <= bound:  # a drain that wrote nothing cannot be told from a death
            raise Broken(f"{log.stream}: was taken up {len(reigns)} times, and is given up")

    # ------------------------------------------------------------------ the end

    def verdict(self, stream: str, record: Record, script_length: int) -> list[Event]:
        """Everything is over: the stored log must be one whole, ended answer.  Returns its entries."""
        entries = record.entries if not record.base else self.final[stream]
        if sum(isinstance(entry, StreamEnd) for entry in entries) != 1 or not isinstance(entries[-1], StreamEnd):
            raise Broken(f"{stream}: it has not exactly one end, at its end")
        if record.base and record.summary != fold(entries):
            raise Broken(f"{stream}: it was folded to something else than it was")
        for i, entry in enumerate(entries):
            again = isinstance(entry, Seam) and entry.continuation == "restart"
            if again and any(isinstance(e, DeltaText | DeltaRefusal) for e in entries[:i]):
                raise Broken(f"{stream}: it began again after text was shown")
        pieces = standing(entries)
        numbers = [int(n) for n in _NUMBER.findall("".join(words_of(piece) for piece in pieces))]
        if numbers != list(range(1, len(numbers) + 1)):
            raise Broken(f"{stream}: the answer says {numbers}")
        self._one_run_each(stream, entries)
        if entries[-1].reason == "complete" and len(numbers) != script_length:
            raise Broken(f"{stream}: an answer of {len(numbers)} of {script_length} pieces is called complete")
        return entries

    def _one_run_each(self, stream: str, entries: Sequence[Event]) -> None:
        """Between two seams that begin another run, one run speaks; and none that spoke before."""
        speaks, before = "", set()
        for entry in entries:
            if isinstance(entry, CONTENT):
                letter = letter_of(entry)
                if speaks not in ("", letter) or letter in before:
                    raise Broken(f"{stream}: the run {letter} speaks where it should not")
                speaks = letter
            elif isinstance(entry, Seam) and entry.continuation not in ("exact", None):
                before.add(speaks)
                speaks = ""
