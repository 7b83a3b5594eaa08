"""A stream as it is read back from the store."""

from __future__ import annotations

from everstream.core.log import Log
from everstream.core.summary import Summary, fold
from everstream.store.base import State


def log_of(state: State) -> Log:
    """The log that a store's state describes."""
    head = state.head
    return Log(head.stream, head.epochs, state.entries, base=state.after, summary=state.summary, marks=state.marks)


def total_of(state: State) -> Summary:
    return fold(state.entries, state.summary)
