"""Streams for the tests of the core: any event, any legal order of them, any two histories with a common past."""

from __future__ import annotations

from hypothesis import strategies as st

from everstream.core.events import (
    Cost,
    DeltaRefusal,
    DeltaText,
    DeltaThinking,
    DeltaToolCall,
    EndReason,
    ErrorInfo,
    Event,
    FirstToken,
    HeadersReceived,
    LastToken,
    Metrics,
    RequestStart,
    Seam,
    StreamEnd,
    Usage,
)
from everstream.core.lease import Epochs
from everstream.core.order import ORDER, Phase
from everstream.core.session_events import SESSION_EVENTS

USAGE = Usage(3, 5, 8, "estimated")
METRICS = Metrics(1.5, 2.0, 4.0, None)
FRAME_INTEGERS = st.integers(0, 2**53 - 1)
_names = st.text(max_size=8)
_times = st.floats(0, 1e9, allow_nan=False)


def end(reason: EndReason = "complete") -> StreamEnd:
    return StreamEnd(reason, "stop" if reason == "complete" else None, USAGE, None, METRICS, None, [])


OPENING: list[Event] = [RequestStart("scripted/any", 1), HeadersReceived(2), FirstToken(3.0)]


def text(*pieces: str) -> list[Event]:
    return [DeltaText(piece) for piece in pieces]


OF_KIND: dict[type[Event], st.SearchStrategy[Event]] = {
    RequestStart: st.builds(RequestStart, _names, FRAME_INTEGERS, st.none() | _names, st.none() | _names),
    HeadersReceived: st.builds(HeadersReceived, FRAME_INTEGERS),
    FirstToken: st.builds(FirstToken, _times),
    DeltaText: st.builds(DeltaText, st.text(max_size=40)),
    DeltaThinking: st.builds(DeltaThinking, st.text(max_size=40)),
    DeltaToolCall: st.builds(
        DeltaToolCall, st.integers(0, 3), st.text(max_size=20), st.none() | _names, st.none() | _names
    ),
    DeltaRefusal: st.builds(DeltaRefusal, st.text(max_size=20)),
    Seam: st.builds(
        Seam,
        FRAME_INTEGERS,
        st.integers(1, 9),
        st.sampled_from(["node_lost", "drain", "provider_lost"]),
        st.none() | st.sampled_from(["exact", "prefill", "prompted", "restart"]),
        st.none() | st.sampled_from(["verified", "heuristic", "unverified"]),
        _names,
    ),
    LastToken: st.just(LastToken()),
    StreamEnd: st.builds(
        StreamEnd,
        st.sampled_from(["complete", "cancelled", "failed", "interrupted", "budget"]),
        st.none() | st.sampled_from(["stop", "length", "tool_calls", "content_filter"]),
        st.builds(Usage, FRAME_INTEGERS, FRAME_INTEGERS, FRAME_INTEGERS, st.sampled_from(["provider", "estimated"])),
        st.none() | st.builds(Cost, _times, _times, _times),
        st.builds(Metrics, st.none() | _times, st.none() | _times, _times, st.none() | _times),
        st.none() | st.builds(ErrorInfo, _names, _names, st.booleans(), st.none() | FRAME_INTEGERS),
        st.lists(_names, max_size=2),
    ),
}
# What `from_type` makes of numbers: those of the wire, where no price or time is infinite (JSON has no such number).
st.register_type_strategy(int, FRAME_INTEGERS)
st.register_type_strategy(float, _times)
OF_KIND |= {kind: st.from_type(kind) for kind in SESSION_EVENTS}
EVENT = st.one_of(list(OF_KIND.values()))


@st.composite
def legal_streams(draw: st.DrawFn, max_size: int = 30) -> list[Event]:
    """A walk over the table of `core.events`."""
    phase, entries = Phase.NEW, []
    for _ in range(draw(st.integers(0, max_size))):
        if not ORDER[phase]:
            break
        kind = draw(st.sampled_from(list(ORDER[phase])))
        entries.append(draw(OF_KIND[kind]))
        phase = ORDER[phase][kind]
    return entries


History = tuple[Epochs, list[int]]  # a table, and for each entry the epoch that wrote it


@st.composite
def two_histories(draw: st.DrawFn) -> tuple[History, History]:
    """Two copies of one stream after failovers: leaders appended, adopters took over, somewhere the two parted.

    A leader may write on in both copies: then it wrote the same into both, as far as both go.
    """
    epoch = 1
    one: History = (((1, 0),), [1] * draw(st.integers(0, 3)))
    other: History | None = None
    for _ in range(draw(st.integers(0, 6))):
        step = draw(st.sampled_from(["append", "adopt", "part", "swap"]))
        epochs, entries = one
        if step == "append":
            one = (epochs, entries + [epochs[-1][0]] * draw(st.integers(1, 3)))
        elif step == "adopt":
            epoch += 1
            one = ((*epochs, (epoch, len(entries))), entries)
        elif other is None:
            kept = draw(st.integers(epochs[-1][1], len(entries)))
            other = (epochs, entries[:kept])
        if step == "swap" and other is not None:
            one, other = other, one
    return one, other or one
