"""What one read brought, with neighbours of the same kind joined.

A fast provider puts many deltas in one read.  They are shown together anyway, so they become one entry: a burst then
costs the log, the store and every reader one entry instead of dozens.  Nothing is joined across reads, and the order
of kinds is kept.
"""

from __future__ import annotations

from everstream.core.events import DeltaRefusal, DeltaText, DeltaThinking, DeltaToolCall, Finish
from everstream.providers.base import ProviderEvent

_TextKind = type[DeltaText] | type[DeltaThinking] | type[DeltaRefusal]


class Batcher:
    """Collects the events of one read; `take` gives them and starts anew.

    `shown` is true once any content has been given out; `calls` is the number of tool calls so far.
    """

    __slots__ = ("_call", "_events", "_kind", "_pieces", "calls", "shown")

    def __init__(self) -> None:
        self._events: list[ProviderEvent] = []
        self._pieces: list[str] = []  # of the delta that may still grow
        self._kind: _TextKind | None = None
        self._call: tuple[int, str | None, str | None] | None = None  # index, call_id, name
        self.shown = False
        self.calls = 0

    @property
    def at_rest(self) -> bool:
        """Everything taken in was given out."""
        return self._kind is None and self._call is None and not self._events

    def text(self, piece: str) -> None:
        if self._kind is not DeltaText:
            self._turn_to(DeltaText)
        self._pieces.append(piece)

    def thinking(self, piece: str) -> None:
        if self._kind is not DeltaThinking:
            self._turn_to(DeltaThinking)
        self._pieces.append(piece)

    def refusal(self, piece: str) -> None:
        if self._kind is not DeltaRefusal:
            self._turn_to(DeltaRefusal)
        self._pieces.append(piece)

    def new_call(self, call_id: str | None, name: str | None, arguments: str = "") -> int:
        """Begin a tool call; returns its index."""
        index = self.calls
        self.calls = index + 1
        self._close()
        self.shown = True
        self._call = (index, call_id, name)
        self._pieces.append(arguments)
        return index

    def arguments(self, index: int, piece: str, call_id: str | None = None, name: str | None = None) -> None:
        """A further piece of a tool call; `call_id` and `name` only where they were not known before."""
        if self._call is None or self._call[0] != index or call_id or name:
            self._close()
            self._call = (index, call_id, name)
        self._pieces.append(piece)

    def finish(self, finish: Finish) -> None:
        self._close()
        self._events.append(finish)

    def take(self) -> list[ProviderEvent]:
        if self._pieces:
            self._close()
        events = self._events
        self._events = []
        return events

    def _turn_to(self, kind: _TextKind) -> None:
        self._close()
        self._kind = kind
        self.shown = True

    def _close(self) -> None:
        if self._kind is not None:
            self._events.append(self._kind("".join(self._pieces)))
            self._kind = None
        elif self._call is not None:
            index, call_id, name = self._call
            self._events.append(DeltaToolCall(index, "".join(self._pieces), call_id, name))
            self._call = None
        self._pieces.clear()
