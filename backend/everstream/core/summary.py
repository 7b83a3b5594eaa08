"""What a run of entries adds up to: the text so far, the tool calls, the end.

A reader whose place is unknown, a stream whose entries were folded away and a call that carries on an interrupted
answer all need the sum of what was said, not the pieces.  A `restart` seam withdraws what the stream had shown.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import msgspec

from everstream.core.events import DeltaRefusal, DeltaText, DeltaThinking, DeltaToolCall, Event, Seam, StreamEnd


class CalledTool(msgspec.Struct, frozen=True, gc=False):
    """A tool call as far as it has been said."""

    index: int
    call_id: str | None
    name: str | None
    arguments: str


class Summary(msgspec.Struct, frozen=True, omit_defaults=True):
    """The sum of a stream's first entries."""

    text: str = ""
    thinking: str = ""
    refusal: str = ""
    tool_calls: tuple[CalledTool, ...] = ()
    end: StreamEnd | None = None
    attempts: int = 1  # provider calls made so far: one more than there are seams

    @property
    def shows_content(self) -> bool:
        return bool(self.text or self.thinking or self.refusal or self.tool_calls)


NOTHING = Summary()


def fold(entries: Iterable[Event], onto: Summary = NOTHING) -> Summary:
    """`onto` and the entries after it, summed."""
    text, thinking, refusal = [onto.text], [onto.thinking], [onto.refusal]
    tools: dict[int, list[Any]] = {c.index: [c.call_id, c.name, [c.arguments]] for c in onto.tool_calls}
    end, attempts = onto.end, onto.attempts
    for entry in entries:
        if isinstance(entry, DeltaText):
            text.append(entry.text)
        elif isinstance(entry, DeltaThinking):
            thinking.append(entry.text)
        elif isinstance(entry, DeltaToolCall):
            call = tools.setdefault(entry.index, [None, None, []])
            call[0] = call[0] or entry.call_id or None  # an empty name is none
            call[1] = call[1] or entry.name or None
            call[2].append(entry.arguments)
        elif isinstance(entry, DeltaRefusal):
            refusal.append(entry.text)
        elif isinstance(entry, Seam):
            attempts += 1
            if entry.continuation == "restart":
                text, thinking, refusal, tools = [], [], [], {}
        elif isinstance(entry, StreamEnd):
            end = entry
    calls = tuple(CalledTool(index, c[0], c[1], "".join(c[2])) for index, c in sorted(tools.items()))
    return Summary("".join(text), "".join(thinking), "".join(refusal), calls, end, attempts)
