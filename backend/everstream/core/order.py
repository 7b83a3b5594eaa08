"""The legal order of entries, as a table: the relay follows it, the tests and the simulator check it.

NEW ▶ REQUESTED ▶ ANSWERED ▶ STREAMING ▶ SPENT ▶ ENDED      a response stream; after a seam it is CARRIED
NEW ▶ TALKING                                               a session's stream
"""

from __future__ import annotations

from enum import Enum

from everstream.core.events import (
    CONTENT,
    Event,
    FirstToken,
    HeadersReceived,
    LastToken,
    RequestStart,
    Seam,
    StreamEnd,
)
from everstream.core.session_events import SESSION_EVENTS, SessionChanged


class Phase(Enum):
    """How far a stream has come.  A session's stream is TALKING from its first entry on."""

    NEW = "new"
    REQUESTED = "requested"
    ANSWERED = "answered"
    STREAMING = "streaming"
    CARRIED = "carried"  # after a seam: the next call may begin anywhere in its answer
    SPENT = "spent"
    ENDED = "ended"
    TALKING = "talking"


_DELTAS = dict.fromkeys(CONTENT, Phase.STREAMING)

ORDER: dict[Phase, dict[type[Event], Phase]] = {
    Phase.NEW: {
        RequestStart: Phase.REQUESTED,
        Seam: Phase.CARRIED,
        StreamEnd: Phase.ENDED,
        SessionChanged: Phase.TALKING,
    },
    Phase.REQUESTED: {HeadersReceived: Phase.ANSWERED, Seam: Phase.CARRIED, StreamEnd: Phase.ENDED},
    Phase.ANSWERED: {FirstToken: Phase.STREAMING, Seam: Phase.CARRIED, StreamEnd: Phase.ENDED},
    Phase.STREAMING: {
        **_DELTAS,
        LastToken: Phase.SPENT,
        Seam: Phase.CARRIED,
        StreamEnd: Phase.ENDED,
    },
    Phase.CARRIED: {
        **_DELTAS,
        RequestStart: Phase.CARRIED,
        HeadersReceived: Phase.CARRIED,
        FirstToken: Phase.STREAMING,
        LastToken: Phase.SPENT,
        Seam: Phase.CARRIED,
        StreamEnd: Phase.ENDED,
    },
    Phase.SPENT: {Seam: Phase.SPENT, StreamEnd: Phase.ENDED},
    Phase.ENDED: {},
    Phase.TALKING: dict.fromkeys(SESSION_EVENTS, Phase.TALKING),
}


def follow(phase: Phase, event: Event) -> Phase:
    """The phase after `event`.  Raises ValueError where the table does not allow it."""
    after = ORDER[phase].get(type(event))
    if after is None:
        raise ValueError(f"{type(event).__name__} cannot follow in phase {phase.value}")
    return after
