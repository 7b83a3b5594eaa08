"""What a leader has under way for a stream: one call of a provider after another, and what is left beside the entries.

A *run* of the provider says the pieces of the stream's script from where it began, and puts its own letter on each.  It
goes on whether anybody listens or not, so a call that carries on exactly asks for the rest by a *cursor*: the run's
letter, and how many pieces it had said.  What was shown after the cursor's entry is skipped.  Any other continuation is
a run of its own, with another letter.  Where the numbers or the letters of an answer are not in order, somebody had a
wrong cursor.  Each piece is one token, whose id follows from what it says.

As in the runtime, the seam of a new leader is not written before the provider takes the answer up, which may be never.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from everstream.core.events import (
    CONTENT,
    Continuation,
    DeltaRefusal,
    DeltaText,
    DeltaThinking,
    DeltaToolCall,
    EndReason,
    Event,
    FirstToken,
    HeadersReceived,
    LastToken,
    Mark,
    Metrics,
    RequestStart,
    Seam,
    SeamReason,
    StreamEnd,
    Usage,
)
from everstream.core.log import Log
from everstream.core.order import Phase

if TYPE_CHECKING:
    from tests.simulation.world import World

BUDGET_CHARS = 70  # uncommitted, per stream: then the provider is not read any more
ATTEMPTS = 2  # in a row and without a word: then it is not carried on any more
_USAGE = Usage(1, 1, 2, "estimated")
_METRICS = Metrics(None, None, 1.0, None)


def words_of(entry: Event) -> str:
    return str(getattr(entry, "text", None) or getattr(entry, "arguments", ""))


def letter_of(entry: Event) -> str:
    """The run that said this piece."""
    return words_of(entry)[-2]


def token_of(entry: Event) -> int:
    """The id of the token that this piece is made of."""
    words = words_of(entry)
    return int(words[:-2]) << 16 | ord(words[-2])


def standing(entries: Sequence[Event]) -> list[Event]:
    """The pieces of the answer that stand: those after the last `restart`."""
    pieces: list[Event] = []
    for entry in entries:
        if isinstance(entry, CONTENT):
            pieces.append(entry)
        elif isinstance(entry, Seam) and entry.continuation == "restart":
            pieces = []
    return pieces


class Generation:
    """`due`: why a seam is to be written when the provider takes up.  `halted`: about to be handed over."""

    __slots__ = (
        "_ids",
        "_in_vain",
        "_letter",
        "_node",
        "_position",
        "_progressed",
        "_tells_cursors",
        "_tells_tokens",
        "_world",
        "due",
        "halted",
        "leaving",
        "log",
    )

    def __init__(self, world: World, node: str, log: Log, due: SeamReason | None) -> None:
        self.log = log
        self.due = due
        self.halted = False
        self.leaving = False  # the store is being told
        self._world = world
        self._node = node
        self._in_vain = 0
        self._begin_run(0)

    def begin(self) -> None:
        """Write `request_start`, where nothing stands yet."""
        if not self.log.base and all(isinstance(entry, Seam) for entry in self.log.entries):
            self.log.append(RequestStart("scripted/any", self._world.step, epoch=self.log.epoch))

    def _begin_run(self, start: int) -> None:
        world = self._world
        self._letter = world.letter()
        world.runs[self._letter] = start
        self._new_call(0)

    def _new_call(self, position: int) -> None:
        """`position`: how many pieces of its run have been said."""
        self._position = position
        self._progressed = False
        self._ids: list[int] = []  # since the last mark
        self._tells_tokens = self._world.chance(0.5)
        self._tells_cursors = self._world.chance(0.75)

    # ------------------------------------------------------------------ what the provider says

    def speak(self, *, cancelled: bool) -> None:
        """The provider has something to say, if the budget of what is uncommitted lets us read it."""
        log, world = self.log, self._world
        if log.closed or log.fenced or self.halted:
            return
        if cancelled:
            self.end("cancelled")
        elif log.pending_chars >= BUDGET_CHARS:
            return
        elif self.due is not None:
            if world.calm or world.chance(world.profile.take_up):
                self._take_up()
        else:
            self._append(self._next())
            while log.phase is not Phase.ENDED and log.pending_chars < BUDGET_CHARS and world.chance(0.5):
                self._append(self._next())

    def _append(self, event: Event) -> None:
        log, world = self.log, self._world
        log.append(event)
        world.say("%s appends %s %d %s", self._node, log.stream, log.tail, event)
        if not isinstance(event, CONTENT):
            return
        self._position += 1
        self._progressed = True
        self._ids.append(token_of(event))
        if (self._tells_tokens or self._tells_cursors) and world.chance(0.6):
            cursor = (self._letter, self._position) if self._tells_cursors else None
            log.mark(Mark(cursor, tuple(self._ids) if self._tells_tokens else ()))
            self._ids = []

    def _next(self) -> Event:
        phase, world = self.log.phase, self._world
        if phase is Phase.NEW:
            return RequestStart("scripted/any", world.step, epoch=self.log.epoch)
        if phase is Phase.REQUESTED:
            return HeadersReceived(world.step)
        if phase is Phase.ANSWERED:
            return FirstToken(1.0)
        if phase is Phase.SPENT:
            return stream_end("complete")
        said = world.runs[self._letter] + self._position
        script = world.scripts[self.log.stream]
        if phase is Phase.CARRIED and world.chance(0.2):
            return HeadersReceived(world.step)
        if said >= len(script):
            return LastToken()
        kind = script[said]
        words = f"{said + 1}{self._letter} "
        if kind == "x":
            return DeltaThinking(words)
        if kind == "r":
            return DeltaRefusal(words)
        if kind == "t":
            return DeltaText(words)
        first = script[:said].count(kind) == 0
        return DeltaToolCall(int(kind), words, f"call{kind}" if first else None, "tool" if first else None)

    # ------------------------------------------------------------------ carrying on

    def break_off(self) -> None:
        """The call fails: another follows, if they do not fail one after another."""
        log = self.log
        if log.closed or log.fenced or self.halted or log.phase is Phase.SPENT:
            return
        self._in_vain = 0 if self._progressed else self._in_vain + 1
        self._progressed = False
        self._world.happened["break"] += 1
        if self._in_vain >= ATTEMPTS:
            self.end("failed")
        else:
            self.due = self.due or "provider_lost"

    def _take_up(self) -> None:
        """The provider carries on, and this is how: say so."""
        log, world = self.log, self._world
        world.witness.trailed(log, world.runs)
        how = self._continuation()
        if how == "exact":
            self._letter, position = log.trail.cursor
            since = log.slice(log.trail.cursor_at, log.tail)
            self._new_call(position + sum(isinstance(entry, CONTENT) for entry in since))
        else:
            self._begin_run(0 if how == "restart" else len(standing(log.entries)))
        world.happened[how] += 1
        self._seam(how)
        if world.chance(0.5):
            log.append(HeadersReceived(world.step))

    def _continuation(self) -> Continuation:
        log, world = self.log, self._world
        if log.trail.cursor is not None and world.chance(0.85):
            return "exact"
        if not any(isinstance(entry, DeltaText | DeltaRefusal) for entry in log.entries) and world.chance(0.5):
            return "restart"
        return "prefill" if world.chance(0.7) else "prompted"

    def _seam(self, how: Continuation | None) -> None:
        log = self.log
        attempt = 2 + sum(isinstance(entry, Seam) for entry in log.entries)
        log.append(Seam(log.epoch, attempt, self.due or "provider_lost", how, None, self._node))
        self._world.say("%s appends %s %d %s", self._node, log.stream, log.tail, log.entries[-1])
        self.due = None

    def end(self, reason: EndReason) -> None:
        """The last entries.  A change of leader is always said, also where only the end follows."""
        if self.due in ("node_lost", "drain"):
            self._seam(None)
        self.log.append(stream_end(reason))
        self._world.say("%s ends %s: %s at %d", self._node, self.log.stream, reason, self.log.tail)


def stream_end(reason: EndReason) -> StreamEnd:
    return StreamEnd(reason, "stop" if reason == "complete" else None, _USAGE, None, _METRICS, None, [])
