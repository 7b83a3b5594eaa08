"""The reducer: the frozen rules as data, and the same text whatever happens to the frames on their way."""

from __future__ import annotations

import json
from collections import deque
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from everstream.reducer import Frame, StreamState, Verdict

CASES: list[dict[str, Any]] = json.loads((Path(__file__).parent / "cases.json").read_text("utf-8"))
STREAM = "r_1"


@pytest.mark.parametrize("case", CASES, ids=[case["name"].replace(" ", "-") for case in CASES])
def test_the_case_comes_out_as_it_says(case: dict[str, Any]) -> None:
    start = case.get("start", {"epoch": None, "offset": 0})
    state = StreamState(case["stream"], start["epoch"], start["offset"])
    verdicts, actions = [], []
    for frame in case["frames"]:
        verdict = state.apply(frame)
        verdicts.append(verdict.value)
        if verdict is Verdict.HOLE:
            actions.append({"subscribe": {"stream": state.stream, "epoch": state.epoch, "offset": state.offset}})
    assert {
        "text": state.text,
        "thinking": state.thinking,
        "refusal": state.refusal,
        "tool_calls": state.tool_calls,
        "position": {"epoch": state.epoch, "offset": state.offset},
        "ended": state.ended,
        "end_reason": state.end["reason"] if state.end else None,
        "actions": actions,
        "verdicts": verdicts,
    } == case["expect"]


def test_every_case_has_a_name_of_its_own() -> None:
    assert len({case["name"] for case in CASES}) == len(CASES)


# --------------------------------------------------------------------------- any split, any order

_pieces = st.text(alphabet="ab c🙂é", max_size=4)
_entries = st.lists(
    st.one_of(
        st.builds(lambda t: {"type": "delta_text", "text": t}, _pieces),
        st.builds(lambda t: {"type": "delta_thinking", "text": t}, _pieces),
        st.builds(
            lambda i, t, n: {"type": "delta_tool_call", "index": i, "arguments": t, **({"name": n} if n else {})},
            st.integers(0, 2),
            _pieces,
            st.sampled_from(["", "f", "g"]),
        ),
        st.just({"type": "delta_smell"}),
        st.builds(
            lambda c: {"type": "seam", "epoch": 9, "attempt": 2, "continuation": c},
            st.sampled_from(["exact", "restart", None]),
        ),
    ),
    max_size=30,
).map(lambda entries: [*entries, {"type": "stream_end", "reason": "complete"}])


def merged(entries: list[Frame], after: int) -> Frame:
    """One frame for entries of one kind."""
    frame = {**entries[0], "stream": STREAM, "after": after, "upto": after + len(entries)}
    key = "arguments" if frame["type"] == "delta_tool_call" else "text"
    if key in frame:
        frame[key] = "".join(entry[key] for entry in entries)
    return frame


def alike(one: Frame, other: Frame) -> bool:
    """Whether a server may merge these two."""
    if one["type"] not in ("delta_text", "delta_thinking", "delta_tool_call") or one["type"] != other["type"]:
        return False
    return one.get("index") == other.get("index") and (
        other.get("name") is None or other.get("name") == one.get("name")
    )


def frames_after(entries: list[Frame], after: int, draw: st.DataObject) -> list[Frame]:
    """The entries after `after`, merged as chance will."""
    frames, at = [], after
    while at < len(entries):
        upto = at + 1
        while upto < len(entries) and alike(entries[at], entries[upto]) and draw.draw(st.booleans()):
            upto += 1
        frames.append(merged(entries[at:upto], at))
        at = upto
    return frames


def held(state: StreamState) -> tuple[Any, ...]:
    return state.text, state.thinking, state.tool_calls, state.offset, state.end


@settings(max_examples=300, deadline=None)
@given(_entries, st.data())
def test_split_doubled_lost_and_reordered_frames_make_the_same_text_once_holes_are_asked_about(
    entries: list[Frame], data: st.DataObject
) -> None:
    truth = StreamState(STREAM)
    for at, entry in enumerate(entries):
        assert truth.apply(merged([entry], at)) is Verdict.APPLIED

    state = StreamState(STREAM)
    sent = frames_after(entries, 0, data) + frames_after(entries, 0, data)
    road = deque(data.draw(st.lists(st.sampled_from(sent), max_size=60)))
    asked = 0
    while road or not state.ended:
        if not road:  # all that was under way has come: the connection is lost, and `hello` asks again
            road.extend(answer_to(state, entries, data))
        before = state.offset
        verdict = state.apply(road.popleft())
        assert state.offset >= before or verdict is Verdict.REPLACED
        if verdict is Verdict.HOLE:
            asked += 1
            road.extend(answer_to(state, entries, data))
        assert asked <= 2 * len(entries) + 60
    assert held(state) == held(truth)


def answer_to(state: StreamState, entries: list[Frame], data: st.DataObject) -> list[Frame]:
    """What a server sends to one who subscribes from `state`: from there on, or now and then a snapshot."""
    if data.draw(st.integers(0, 9)) == 0:
        whole = StreamState(STREAM, 9)
        for at, entry in enumerate(entries[: data.draw(st.integers(state.offset, len(entries)))]):
            whole.apply(merged([entry], at))
        return [whole.snapshot(), *frames_after(entries, whole.offset, data)]
    place = {"offset": state.offset, "tail": len(entries), "status": "ended"}
    subscribed = {"type": "subscribed", "stream": STREAM, "epoch": 9, **place}
    return [subscribed, *frames_after(entries, state.offset, data)]


@given(_entries)
def test_a_snapshot_of_the_state_is_the_state(entries: list[Frame]) -> None:
    state, copy = StreamState(STREAM), StreamState(STREAM)
    for at, entry in enumerate(entries):
        state.apply(merged([entry], at))
    assert copy.apply(state.snapshot()) is Verdict.REPLACED
    assert held(copy) == held(state)
