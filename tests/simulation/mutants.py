"""Each rule taken away in turn: a simulator that does not notice is no proof of the rule.

A mutant is the real code with one piece of its source exchanged.  Where that piece is not found any more the code
has changed, and the mutant says so instead of testing nothing.
"""

from __future__ import annotations

import inspect
import sys
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import tests.simulation.node as node_module
from everstream.core import attempts, cursor, lease
from everstream.core.log import Log
from everstream.core.trail import Trail
from everstream.store import memory
from everstream.store.memory import Disk, Record
from tests.simulation.generation import Generation
from tests.simulation.node import Node


@dataclass(frozen=True, slots=True)
class Mutant:
    """`what` is wrong with it: in `owner.name`, `old` reads `new`.  `used_by` is where the name is looked up."""

    what: str
    owner: Any
    name: str
    old: str
    new: str
    used_by: Any = None
    first_seed: int = 0  # where to begin the hunt for what shows rarely

    @contextmanager
    def applied(self) -> Iterator[None]:
        real = getattr(self.owner, self.name)
        source = textwrap.dedent(inspect.getsource(real))
        if source.count(self.old) != 1:
            raise LookupError(
                f"{self.what}: `{self.old}` is not in {self.name} once, but {source.count(self.old)} times"
            )
        scope: dict[str, Any] = {}
        code = "from __future__ import annotations\n" + source.replace(self.old, self.new)
        exec(code, sys.modules[real.__module__].__dict__, scope)  # noqa: S102
        place = self.used_by or self.owner
        setattr(place, self.name, scope[self.name])
        try:
            yield
        finally:
            setattr(place, self.name, real)


_AGREEMENT = "agreement(self.epochs, self.tail, write.epochs, write.base + len(write.entries))"
_UNKNOWN = "else None\n    return None"
_FOLDED = "return Reply(Verdict.FENCED, self.tail, self.cancelled)\n    if write.base"
_AGREED = "return agreement(self.epochs, self.tail, epochs, self.tail) < self.tail"
_OLD_FORK_RULE = """common = sum(1 for ours, theirs in zip(self.epochs, epochs, strict=False) if ours == theirs)
    return common < len(epochs) and epochs[common][1] < self.tail"""
_HANDED = """state = self.read(stream)
    record.handed = False"""
_HANDED_FORGOTTEN = """record.handed = False
    state = self.read(stream)"""
_STILL_HANDED = "write.leader, False, self.handed"
_MARKS_CUT = "self.marks = {offset: mark for offset, mark in self.marks.items() if offset <= keep}"

MUTANTS = (
    # the six rules
    Mutant("no fencing", Record, "commit", "if epoch < self.epochs[-1][0]:", "if False:"),
    Mutant("no truncation at a newer epoch", Record, "commit", _AGREEMENT, "self.tail"),
    Mutant(
        "truncation to the epoch's start only",
        Record,
        "commit",
        _AGREEMENT,
        "min(write.epochs[-1][1], self.tail)",
        first_seed=4_790,
    ),
    Mutant("a commit is not idempotent by its base", Record, "commit", "[self.tail - write.base :]", ""),
    Mutant("a gap is ignored", Log, "on_reply", "self.acked = max(tail, self.base)", "pass"),
    Mutant(
        "epochs count 1, 2, 3",
        lease,
        "next_epoch",
        "(max((last >> TAG_BITS) + 1, clock_ms) << TAG_BITS) | tag",
        "last + 1",
        memory,
    ),
    Mutant(
        "a stale node never asks the store",
        Log,
        "knows_less_than",
        "if seen.epoch > self.epoch or",
        "if True:\n        return False\n    if",
    ),
    Mutant(
        "an unknown epoch is taken as known",
        Log,
        "locate",
        _UNKNOWN,
        _UNKNOWN.replace("    return None", "    return min(seen.offset, self.committed)"),
    ),
    # what follows from them
    Mutant("readers see what is not stored", cursor, "runs", "upto = log.committed", "upto = log.tail", node_module),
    Mutant("a reader is placed past the store", Log, "locate", "min(end, self.committed)", "end", first_seed=24_020),
    Mutant("nobody waits for a leader", Node, "place", "if ours or waited <= PATIENCE_STEPS:", "if False:"),
    Mutant("a leader with nothing to say is silent", Node, "send", "(log.dirty or probe)", "log.dirty"),
    Mutant(
        "a follower fills holes with what comes",
        Log,
        "offer",
        "if after > tail:",
        "after = min(after, tail)\n    if False:",
    ),
    Mutant("a follower never notices a fork", Log, "offer", "self._forked(epochs)", "False"),
    Mutant("a fork is sought in the newer table only", Log, "_forked", _AGREED, _OLD_FORK_RULE, first_seed=690),
    Mutant("an adopter appends no seam", Generation, "_take_up", "self._seam(how)", "self.due = None"),
    Mutant("an ended stream can be adopted", Disk, "adopt", "record.ended or ", ""),
    Mutant(
        "adoption loses the cancel mark",
        Disk,
        "adopt",
        "record.leader = node",
        "record.leader, record.cancelled = node, False",
    ),
    Mutant("adoption keeps reigns that lost all", Disk, "adopt", "if reign[1] <= record.tail", "", first_seed=3_605),
    Mutant(
        "folding drops the end",
        Disk,
        "fold",
        "= [], tail, summary",
        "= [], tail, type(summary)(summary.text, summary.thinking)",
    ),
    Mutant(
        "folding says gap for ever",
        Record,
        "commit",
        _FOLDED,
        _FOLDED.replace("FENCED, self.tail", "GAP, keep"),
        first_seed=5_465,
    ),
    Mutant(
        "the budget forgets what is not sent",
        Log,
        "on_reply",
        "self.pending_chars -= self._sent_chars",
        "self.pending_chars = 0",
    ),
    # hand-over by consent
    Mutant("a leader leaves before all is stored", Node, "leave", "log.dirty or log.fenced", "log.fenced"),
    Mutant("a hand-over is taken for a death", Disk, "adopt", _HANDED, _HANDED_FORGOTTEN),
    Mutant("a hand-over is never forgotten", Disk, "adopt", "record.handed = False", "pass"),
    Mutant("a newer reign keeps a hand-over", Record, "commit", "write.leader, False, False", _STILL_HANDED),
    Mutant("a leader takes the only copy along", Disk, "hand_over", "if record.tail != tail:", "if False:"),
    Mutant("a hand-over is of any epoch", Disk, "hand_over", " or record.epochs[-1][0] != epoch", ""),
    Mutant("a stream made for another has broken off", Disk, "create", "handed=bool(leader)", "handed=False"),
    Mutant("a reign opens and does not say so", Generation, "begin", "epoch=self.log.epoch", "epoch=0"),
    # how often in vain
    Mutant(
        "reigns without an entry do not count", attempts, "vain_attempts", "max(seams, reigns)", "seams", node_module
    ),
    Mutant("drains count", attempts, "vain_attempts", " - drains", "", node_module, first_seed=8_740),
    Mutant("a word does not reset the count", attempts, "vain_attempts", "break", "pass", node_module, first_seed=640),
    # what is kept beside the entries
    Mutant("a cursor outlives its run", Trail, "seam", "self.cursor, self.cursor_at = None, 0", "pass"),
    Mutant("marks outlive their entries", Record, "commit", _MARKS_CUT, "pass", first_seed=5_060),
    Mutant("marks are stored before their entries", Node, "_write", "if base < at <= base + len(entries)", ""),
    Mutant("ids with a hole count as whole", Trail, "mark", "self.whole and mark.before == len(self.tokens)", "True"),
    Mutant(
        "an exact seam has all ids",
        Trail,
        "seam",
        "self.whole = self.whole and self.tokens_at == content_at",
        "pass",
        first_seed=540,
    ),
    Mutant(
        "prefill has all ids", Trail, "seam", "and self.whole and self.tokens_at == content_at:", ":", first_seed=650
    ),
    # what is shown early
    Mutant(
        "readers never wait for the store", Node, "speak", 'self.late or self.world.profile.delivery == "eager"', "True"
    ),
    Mutant(
        "what was revealed counts as stored",
        Log,
        "reveal",
        "self.committed = self",
        "self.committed = self.acked = self",
    ),
    # leases
    Mutant("the dark is ignored", Disk, "renew", "return self.dark_until_ms <= now", "return True", first_seed=310),
    Mutant(
        "who was cut off judges at once",
        Node,
        "renew",
        "self.doubts_until = now + world.lease_steps",
        "pass",
        first_seed=170,
    ),
)
