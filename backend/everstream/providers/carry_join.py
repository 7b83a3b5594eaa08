"""Where a new call's words meet the old ones: nothing twice, nothing lost, and a label that is true.

A *join* stands behind a fold.  It lets events through, says `Resumed` before the first content, and may hold text back
until it knows how that fits what is shown:

    Afresh      another answer from its beginning
    Reattached  the same run, from a place before what is shown: skips what is known, and compares while it skips
    Continued   a model that writes on: cuts off what it repeats

What a model repeats is found by a *match*, a function of the text so far.  Measured on recorded answers, an honest
continuation begins with the last 40 characters before it three times in a million, with the last 16 three times in ten
thousand: so 40 are an anchor, 16 a good guess, and less is not touched, but for the completed half of a word, and for
a text so short that the model was asked to repeat all of it.

Thinking that comes with a continuation is about the interruption, and is not shown.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from everstream.core.events import (
    CONTENT,
    Continuation,
    Counted,
    DeltaRefusal,
    DeltaText,
    DeltaThinking,
    DeltaToolCall,
    Finish,
    HeadersReceived,
    Mark,
    Resumed,
    SeamCheck,
)
from everstream.core.summary import Summary
from everstream.providers.base import Batch, ProviderError, ProviderEvent

HELD_CHARACTERS_MAX = 600
HELD_S_MAX = 1.5
ANCHOR_CHARACTERS = 40
OVERLAP_CHARACTERS_MIN = 16
HALF_WORD_CHARACTERS_MIN = 4
_LOOK_BACK_CHARACTERS = 2000

_FENCE = re.compile(r"^ {0,3}(```+|~~~+)", re.MULTILINE)
_OPENED_AGAIN = re.compile(r"\s*(?:```+|~~~+)[\w+#.-]+[ \t]*\n")
_LAST_WORD = re.compile(r"\w+\Z")


class Astray(ProviderError):
    """What came does not fit what is shown; nothing of it has been given out."""

    def __init__(self, what: str) -> None:
        super().__init__("provider.invalid", what, retryable=False)


@dataclass(frozen=True, slots=True)
class Cut:
    """So many characters at the beginning are shown already; how sure that is."""

    characters: int
    check: SeamCheck | None


# What a text begins with that is shown already; None: more of it is needed.  `final`: there will not be more.
# Raises Astray where it is no continuation.
Match = Callable[[str, bool], Cut | None]


class Join(Protocol):
    decided: bool  # `Resumed` has been said
    over: bool  # the answer is at its end, whatever else comes

    @property
    def wait_s(self) -> float | None:
        """How long what is held may be held; None: nothing is, or it does not matter."""
        ...

    def take(self, batch: Batch) -> list[ProviderEvent]:
        """What is to be shown of a batch.  Raises Astray."""
        ...

    def release(self) -> list[ProviderEvent]:
        """What is held, now."""
        ...


class Afresh:
    """A join for an answer from its beginning."""

    over = False
    wait_s = None

    def __init__(self) -> None:
        self.decided = False

    def take(self, batch: Batch) -> list[ProviderEvent]:
        events: list[ProviderEvent] = list(batch)
        if not self.decided:
            self.decided = True
            events.insert(isinstance(events[0], HeadersReceived) if events else 0, Resumed("restart"))
        return events

    def release(self) -> list[ProviderEvent]:
        return []


class Reattached:
    """A join for the same run.  `since` was shown after the place from which it is read again."""

    over = False
    wait_s = None

    def __init__(self, since: Summary) -> None:
        self.decided = False
        self._text, self._thinking, self._refusal = since.text, since.thinking, since.refusal
        self._named = {call.index for call in since.tool_calls if call.call_id or call.name}
        self._arguments = {call.index: call.arguments for call in since.tool_calls}

    def take(self, batch: Batch) -> list[ProviderEvent]:
        if self.decided:
            return list(batch)
        events: list[ProviderEvent] = []
        for event in batch:
            fresh = self._fresh(event)
            if not self.decided and not self._is_behind() and (fresh is not None or event is batch[-1]):
                self.decided = True
                if isinstance(event, HeadersReceived):
                    events += [event, Resumed("exact", "verified")]
                    continue
                events.append(Resumed("exact", "verified"))
            if fresh is not None:
                if not self.decided and isinstance(event, (*CONTENT, Finish)):
                    raise Astray("the run that is read again is another one")
                if self.decided or not isinstance(event, Mark):  # a mark needs an entry to stand beside
                    events.append(fresh)
        return events

    def release(self) -> list[ProviderEvent]:
        return []

    def _is_behind(self) -> bool:
        arguments = any(self._arguments.values())
        return bool(self._text or self._thinking or self._refusal or self._named or arguments)

    def _fresh(self, event: ProviderEvent) -> ProviderEvent | None:
        """What of an event is not shown yet."""
        if isinstance(event, DeltaText):
            rest, self._text = _skipped(event.text, self._text)
            return DeltaText(rest) if rest else None
        if isinstance(event, DeltaThinking):
            rest, self._thinking = _skipped(event.text, self._thinking)
            return DeltaThinking(rest) if rest else None
        if isinstance(event, DeltaRefusal):
            rest, self._refusal = _skipped(event.text, self._refusal)
            return DeltaRefusal(rest) if rest else None
        if isinstance(event, DeltaToolCall):
            return self._fresh_call(event)
        return event

    def _fresh_call(self, event: DeltaToolCall) -> DeltaToolCall | None:
        rest, self._arguments[event.index] = _skipped(event.arguments, self._arguments.get(event.index, ""))
        if not (event.call_id or event.name) or event.index in self._named:
            self._named.discard(event.index)
            return DeltaToolCall(event.index, rest) if rest else None
        return DeltaToolCall(event.index, rest, event.call_id, event.name)


class Continued:
    """A join for a model that writes on.

    `shown` is the text before the seam, of which the request held all but `white` characters of white space at its
    end.  `stops` are the stop sequences: the provider does not see those that began before the seam.
    """

    def __init__(
        self,
        how: Continuation,
        shown: str,
        match: Match,
        *,
        white: int = 0,
        stops: Sequence[str] = (),
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.decided = self.over = False
        self._how: Continuation = how
        self._match = match
        self._clock = clock
        self._held = ""
        self._held_since_s: float | None = None
        self._white = white
        self._watch = _StopWatch(shown, stops)

    @property
    def wait_s(self) -> float | None:
        if self._held_since_s is None or self._how != "prompted":  # an echo is known when it is over, not before
            return None
        return max(self._held_since_s + HELD_S_MAX - self._clock(), 0.0)

    def take(self, batch: Batch) -> list[ProviderEvent]:
        events: list[ProviderEvent] = []
        for event in batch:
            if isinstance(event, DeltaText):
                events += self._text(event.text) if self.decided else self._hold(event.text)
            elif isinstance(event, DeltaThinking):
                if self._how == "prefill" and not self.decided:
                    raise Astray("the rest of the answer came as thinking")
            elif isinstance(event, HeadersReceived | Counted):
                events.append(event)
            else:
                events += self.release()
                if not self.over:
                    events += _texts(self._watch.end())
                    events.append(event)
            if self.over:
                break
        return events

    def release(self) -> list[ProviderEvent]:
        if self.decided:
            return []
        cut = self._match(self._held, True)
        return self._decide(cut or Cut(0, None))

    def _hold(self, text: str) -> list[ProviderEvent]:
        self._held += text
        cut = self._match(self._held, False)
        if cut is None:
            if self._held_since_s is None:
                self._held_since_s = self._clock()
            return []
        return self._decide(cut)

    def _decide(self, cut: Cut) -> list[ProviderEvent]:
        self.decided = True
        self._held_since_s = None
        held, self._held = self._held[cut.characters :], ""
        return [Resumed(self._how, cut.check), *(self._text(held) if held else ())]

    def _text(self, text: str) -> list[ProviderEvent]:
        while self._white and text:
            if not text[0].isspace():
                self._white = 0
                break
            text = text[1:]
            self._white -= 1
        if not text:
            return []
        text = self._watch.feed(text)
        if self._watch.found:
            self.over = True
            return [Finish("stop")]
        return _texts(text)


class _StopWatch:
    """Looks for a stop sequence that begins before the seam and ends behind it."""

    def __init__(self, shown: str, stops: Sequence[str]) -> None:
        self._stops = [stop for stop in stops if len(stop) > 1]
        longest = max((len(stop) for stop in self._stops), default=1)
        self._before = shown[-(longest - 1) :] if longest > 1 else ""
        self._held = ""
        self.found = False

    def feed(self, text: str) -> str:
        """What of the text can be shown."""
        if not self._before:
            return text
        self._held += text
        seen, seam = self._before + self._held, len(self._before)
        undecided = False
        for stop in self._stops:
            for start in range(max(0, seam - len(stop) + 1), seam):
                if seen.startswith(stop, start):
                    self.found = True
                    return ""
                undecided = undecided or stop.startswith(seen[start:])
        return "" if undecided else self.end()

    def end(self) -> str:
        """What was held, for nothing came of it."""
        self._before = ""
        held, self._held = self._held, ""
        return held


def _texts(text: str) -> list[ProviderEvent]:
    return [DeltaText(text)] if text else []


def _skipped(said: str, shown: str) -> tuple[str, str]:
    """`said` without what is shown of it, and what is shown beyond it.  Raises Astray where they differ."""
    both = min(len(said), len(shown))
    if said[:both] != shown[:both]:
        raise Astray("the run that is read again says something else")
    return said[both:], shown[both:]


# --------------------------------------------------------------------------- what a continuation repeats


def nothing(text: str, final: bool) -> Cut | None:
    """Nothing is repeated."""
    return Cut(0, None)


def echo_of(sent: str, *, certain: bool) -> Match:
    """The answer begins with what was sent, exactly, and once.

    `certain`: that the model writes on is not in doubt where it does not.
    """

    def match(text: str, final: bool) -> Cut | None:
        if text.startswith(sent):
            return Cut(len(sent), "verified")
        if not final and sent.startswith(text):
            return None
        if not certain:
            raise Astray("the answer does not begin with what was sent")
        return Cut(0, None)

    return match


def anchor_of(shown: str) -> str:
    """The characters that a model is asked to begin with."""
    return shown.rstrip()[-ANCHOR_CHARACTERS:]


def repetition_of(shown: str) -> Match:
    """What a model repeats that was asked to go on.  See the module's text."""
    before = shown.rstrip()[-_LOOK_BACK_CHARACTERS:]
    anchor = anchor_of(shown)
    open_fence = in_open_fence(shown)

    def match(text: str, final: bool) -> Cut | None:
        skipped = len(text) - len(text.lstrip())
        if open_fence and (again := _OPENED_AGAIN.match(text)):
            skipped = again.end()
        said = text[skipped:]
        if len(anchor) == ANCHOR_CHARACTERS and (at := text.find(anchor)) >= 0:
            longest = _overlap(before, said)
            end = skipped + longest if longest >= len(anchor) else at + len(anchor)
            return Cut(end, "verified" if _is_unique(anchor, before, text) else "heuristic")
        if not final and len(text) < HELD_CHARACTERS_MAX:
            return None
        overlap = _overlap(before, said)
        if overlap >= OVERLAP_CHARACTERS_MIN:
            return Cut(skipped + overlap, "heuristic")
        if overlap == len(before) or _completes_word(before, said, overlap):
            return Cut(skipped + overlap, "unverified")
        return Cut(skipped if open_fence and again else 0, "unverified")

    return match


def in_open_fence(text: str) -> bool:
    """Whether the text ends inside a block of code."""
    opened = ""
    for found in _FENCE.finditer(text):
        fence = found[1]
        if not opened:
            opened = fence
        elif fence.startswith(opened):
            opened = ""
    return bool(opened)


def _overlap(before: str, said: str) -> int:
    """The length of the longest end of `before` that `said` begins with."""
    for length in range(min(len(before), len(said)), 0, -1):
        if before.endswith(said[:length]):
            return length
    return 0


def _is_unique(anchor: str, before: str, text: str) -> bool:
    return before.find(anchor) == before.rfind(anchor) and text.find(anchor) == text.rfind(anchor)


def _completes_word(before: str, said: str, overlap: int) -> bool:
    """Whether the text broke off in a word, and `said` begins with that word and completes it."""
    half = _LAST_WORD.search(before)
    return (
        half is not None
        and overlap == len(half[0]) >= HALF_WORD_CHARACTERS_MIN
        and len(said) > overlap
        and (said[overlap].isalnum() or said[overlap] == "_")
    )
