"""A stream as it is read back from the store."""

from __future__ import annotations

from dataclasses import replace

from everstream.core.log import Log
from everstream.core.summary import Summary, fold
from everstream.store.base import State


def log_of(state: State) -> Log:
    """The log that a store's state describes."""
    head = state.head
    return Log(head.stream, head.epochs, state.entries, base=state.after, summary=state.summary, marks=state.marks)


def extended(state: State, more: State) -> State | None:
    """A state with what has come since, read from its tail on; None where history went another way meanwhile."""
    if more.head.epochs != state.head.epochs or more.after != state.head.tail or more.head.base != state.head.base:
        return None
    return replace(state, head=more.head, entries=state.entries + more.entries, marks={**state.marks, **more.marks})


def total_of(state: State) -> Summary:
    return fold(state.entries, state.summary)
