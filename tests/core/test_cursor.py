"""A reader's place, and the frames that bring it up to date."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from tests.core.streams import OPENING, legal_streams, text

from everstream.core.cursor import Cursor, Run, coalesce, runs
from everstream.core.events import DeltaText, DeltaThinking, DeltaToolCall, Event
from everstream.core.log import Log, Position, Verdict
from everstream.core.summary import fold

EPOCHS = ((7, 0),)
NO_LIMIT = 1 << 40


@given(legal_streams(), st.integers(1, 120))
def test_frames_add_up_to_the_stream_whatever_their_size(entries: list[Event], limit_chars: int) -> None:
    log = Log("r_x", EPOCHS, entries)
    shown: list[Run] = []
    offset = 0
    while offset < log.committed:
        for run in runs(log, offset, limit_chars):
            assert (run.after, run.upto > run.after) == (offset, True)
            shown.append(run)
            offset = run.upto
    assert offset == len(entries)
    assert fold(run.event for run in shown) == fold(entries)


@given(legal_streams(), st.integers(0, 30))
def test_a_reader_may_begin_anywhere(entries: list[Event], after: int) -> None:
    after = min(after, len(entries))
    rest = runs(Log("r_x", EPOCHS, entries), after, NO_LIMIT)
    assert fold([run.event for run in rest], fold(entries[:after])) == fold(entries)


def test_a_slow_reader_gets_one_frame_for_many_tokens() -> None:
    log = Log("r_x", EPOCHS, [*OPENING, *text("a", "b", "c")])
    assert runs(log, 3, NO_LIMIT) == [Run(3, 6, DeltaText("abc"))]


def test_kinds_are_not_merged_across() -> None:
    entries = [DeltaThinking("hm"), *text("a", "b"), DeltaThinking("hm")]
    assert [run.upto for run in coalesce(entries, 0, NO_LIMIT)] == [1, 3, 4]


def test_a_new_tool_call_begins_a_new_frame() -> None:
    entries = [
        DeltaToolCall(0, "{", "c0", "f"),
        DeltaToolCall(0, "}"),
        DeltaToolCall(1, "", "c1", "g"),
        DeltaToolCall(0, ""),
    ]
    merged = coalesce(entries, 0, NO_LIMIT)
    assert merged[0] == Run(0, 2, DeltaToolCall(0, "{}", "c0", "f"))
    assert [run.upto for run in merged] == [2, 3, 4]


def test_a_limit_smaller_than_a_token_still_makes_progress() -> None:
    assert coalesce(text("long enough"), 4, 1) == [Run(4, 5, DeltaText("long enough"))]


def test_what_is_not_committed_is_not_shown() -> None:
    log = Log("r_x", EPOCHS, OPENING)
    log.append(DeltaText("a"))
    assert runs(log, 3, NO_LIMIT) == []
    log.pending()
    log.on_reply(Verdict.OK, 4)
    assert runs(log, 3, NO_LIMIT) == [Run(3, 4, DeltaText("a"))]


def test_a_cursor_lags_by_what_is_committed() -> None:
    log = Log("r_x", EPOCHS, OPENING)
    cursor = Cursor.at(log, Position(7, 1))
    assert (cursor.offset, cursor.lost, cursor.lag(log)) == (1, False, 2)


def test_a_cursor_without_a_place_is_lost() -> None:
    log = Log("r_x", EPOCHS, OPENING)
    assert Cursor.at(log, Position(6, 1)).lost
