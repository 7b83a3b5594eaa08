"""What entries add up to."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from tests.core.streams import OPENING, end, legal_streams, text

from everstream.core.events import DeltaRefusal, DeltaText, DeltaThinking, DeltaToolCall, Event, Seam
from everstream.core.summary import NOTHING, CalledTool, fold
from everstream.core.wire import pack_summary, unpack_summary

RESTART = Seam(2, 2, "node_lost", "restart", None, "n_b")
PREFILL = Seam(2, 2, "node_lost", "prefill", "unverified", "n_b")


@given(legal_streams(), st.data())
def test_a_sum_is_the_same_wherever_it_was_interrupted(entries: list[Event], data: st.DataObject) -> None:
    at = data.draw(st.integers(0, len(entries)))
    assert fold(entries[at:], fold(entries[:at])) == fold(entries)


@given(legal_streams())
def test_a_sum_survives_the_store(entries: list[Event]) -> None:
    summary = fold(entries)
    assert unpack_summary(pack_summary(summary)) == summary


def test_kinds_of_content_are_kept_apart() -> None:
    entries = [*OPENING, DeltaThinking("hm"), *text("a", "b"), DeltaRefusal("no"), end()]
    summary = fold(entries)
    assert (summary.text, summary.thinking, summary.refusal) == ("ab", "hm", "no")
    assert summary.end == end()


def test_the_pieces_of_a_tool_call_belong_together_by_index() -> None:
    pieces = [
        DeltaToolCall(1, "", "c1", "f"),
        DeltaToolCall(0, "{", "c0", "g"),
        DeltaToolCall(1, "[]"),
        DeltaToolCall(0, "}"),
    ]
    assert fold(pieces).tool_calls == (CalledTool(0, "c0", "g", "{}"), CalledTool(1, "c1", "f", "[]"))


def test_a_restart_withdraws_what_was_shown() -> None:
    before = [DeltaThinking("hm"), DeltaToolCall(0, "{", "c0", "g")]
    summary = fold([*before, RESTART, DeltaText("a")])
    assert (summary.text, summary.thinking, summary.tool_calls) == ("a", "", ())
    assert summary.attempts == 2


def test_any_other_seam_withdraws_nothing() -> None:
    assert fold([*text("a"), PREFILL, *text("b")]).text == "ab"


def test_nothing_shows_no_content() -> None:
    assert not NOTHING.shows_content
    assert not fold(OPENING).shows_content
    assert fold(text("a")).shows_content
