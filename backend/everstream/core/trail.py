"""What the marks beside a stream's entries add up to: how its provider can be asked to carry on.

A cursor belongs to the run of the provider that said it: a seam that begins another run forgets it, an `exact` one
goes on with the same.  Token ids outlive a continuation by prefill, whose prompt they are, as long as they stand for
all of the answer.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from everstream.core.events import CONTENT, Event, Mark, Seam


class Trail:
    """`cursor` was true after the entry at `cursor_at`; `tokens` stand for the content up to `tokens_at`.

    `whole` is False where some of the content before that has no token ids.
    """

    __slots__ = ("cursor", "cursor_at", "tokens", "tokens_at", "whole")

    def __init__(self) -> None:
        self.cursor: Any = None
        self.cursor_at = 0
        self.tokens: list[int] = []
        self.tokens_at = 0
        self.whole = True

    def mark(self, offset: int, mark: Mark) -> None:
        """Note what stands beside the entry at `offset`."""
        if mark.cursor is not None:
            self.cursor, self.cursor_at = mark.cursor, offset
        if mark.tokens:
            self.whole = self.whole and mark.before == len(self.tokens)
            self.tokens += mark.tokens
            self.tokens_at = offset

    def seam(self, seam: Seam, content_at: int) -> None:
        """Another run may begin here; `content_at` is the offset of the last content before it, 0 for none."""
        how = seam.continuation
        if how is None:
            return
        same = seam.model is None
        if how == "exact" and same:  # what was said after the last ids is not said again, so neither are its ids
            self.whole = self.whole and self.tokens_at == content_at
            return
        self.cursor, self.cursor_at = None, 0
        if how == "prefill" and same and self.whole and self.tokens_at == content_at:
            return
        self.tokens, self.tokens_at = [], 0
        self.whole = how == "restart" or not content_at

    def tokens_of(self, content_at: int) -> tuple[int, ...] | None:
        """The token ids of all content, whose last entry is at `content_at`; None where some are not known."""
        return tuple(self.tokens) if self.whole and self.tokens and self.tokens_at == content_at else None


def trail_of(entries: Iterable[Event], after: int, marks: Mapping[int, Mark]) -> Trail:
    """The trail of entries that follow the offset `after`, with the marks beside them by offset."""
    trail = Trail()
    content_at = 0
    for offset, entry in enumerate(entries, after + 1):
        if isinstance(entry, Seam):
            trail.seam(entry, content_at)
            content_at = 0 if entry.continuation == "restart" else content_at
        elif isinstance(entry, CONTENT):
            content_at = offset
        mark = marks.get(offset)
        if mark is not None:
            trail.mark(offset, mark)
    return trail
