"""What a stream has been through: its runs, the model that speaks now, and how often it was taken up in vain.

A *run* is one generation at a provider.  A seam that carries on by prefill, by prompt or by restart begins another;
an `exact` one goes on with the same.  Being taken up again is bounded only where it leads nowhere: content resets the
count, and a hand-over on purpose is no failure.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from everstream.core.events import CONTENT, DeltaToolCall, Event, Seam
from everstream.core.lease import Epochs

_NEW_RUN = ("prefill", "prompted", "restart")


def model_now(entries: Sequence[Event], first: str) -> str:
    """The model that answers after these entries; `first` is the one that was asked."""
    for entry in reversed(entries):
        if isinstance(entry, Seam) and entry.model is not None:
            return entry.model
    return first


def vain_attempts(entries: Sequence[Event], base: int, epochs: Epochs) -> int:
    """How often in a row the stream was taken up without a further word.

    By its seams; and by its reigns, since a leader that died before it could write a seam has left nothing else.
    """
    seams, content_at = 0, base
    for i in range(len(entries) - 1, -1, -1):
        entry = entries[i]
        if isinstance(entry, CONTENT):
            content_at = base + i + 1
            break
        if isinstance(entry, Seam) and entry.reason != "drain":
            seams += 1
    drains = sum(isinstance(entry, Seam) and entry.reason == "drain" for entry in entries[content_at - base :])
    reigns = sum(start >= content_at for _, start in epochs[1:]) - drains
    return max(seams, reigns)


@dataclass(frozen=True, slots=True)
class Run:
    """What one generation has said: the model that spoke, and its words, thinking and arguments in order."""

    model: str
    said: str


def runs_of(entries: Sequence[Event], first: str) -> list[Run]:
    """The runs behind these entries, in order; there is always at least one.  `first` is the model that was asked."""
    models, said = [first], [[""]]
    for entry in entries:
        if isinstance(entry, CONTENT):
            said[-1].append(entry.arguments if isinstance(entry, DeltaToolCall) else entry.text)  # type: ignore[attr-defined]
        elif isinstance(entry, Seam) and entry.continuation in _NEW_RUN:
            models.append(entry.model or models[-1])
            said.append([])
    return [Run(model, "".join(pieces)) for model, pieces in zip(models, said, strict=True)]


def runs_begun(entries: Sequence[Event]) -> int:
    """How many runs there have been, at least one."""
    return 1 + sum(isinstance(entry, Seam) and entry.continuation in _NEW_RUN for entry in entries)
