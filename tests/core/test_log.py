"""One stream as a node knows it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.core.streams import OPENING, end, legal_streams, text

from everstream.core.events import (
    DeltaText,
    DeltaToolCall,
    Event,
    FirstToken,
    HeadersReceived,
    LastToken,
    RequestStart,
    Seam,
)
from everstream.core.lease import Epochs
from everstream.core.log import COMMIT_ENTRIES_MAX, Log, Offer, Position, Verdict
from everstream.core.order import Phase, follow
from everstream.core.summary import NOTHING, fold

FIRST: Epochs = ((10, 0),)
SECOND: Epochs = ((10, 0), (20, 5))
SEAM = Seam(20, 2, "node_lost", "prefill", None, "n_b")


def led(*pieces: str) -> Log:
    """A log of the first reign with its opening stored and `pieces` not yet."""
    log = Log("r_x", FIRST, OPENING)
    for piece in pieces:
        log.append(DeltaText(piece))
    return log


# --------------------------------------------------------------------------- leading


def test_nothing_is_shown_before_it_is_stored() -> None:
    log = led("a", "b")
    assert (log.tail, log.acked, log.committed) == (5, 3, 3)
    assert log.total() == NOTHING
    assert log.pending() == text("a", "b")
    assert log.on_reply(Verdict.OK, 5)
    assert (log.acked, log.committed, log.dirty) == (5, 5, False)
    assert log.total().text == "ab"


def test_a_gap_makes_the_leader_send_again_and_takes_nothing_back() -> None:
    log = led("a", "b")
    log.on_reply(Verdict.OK, 5)
    assert not log.on_reply(Verdict.GAP, 2)
    assert (log.acked, log.committed) == (2, 5)
    assert log.pending() == [OPENING[2], *text("a", "b")]
    assert not log.on_reply(Verdict.OK, 5)  # nobody sees more than before


def test_a_fenced_leader_never_commits() -> None:
    log = led("a")
    assert not log.on_reply(Verdict.FENCED, 9)
    assert (log.fenced, log.dirty, log.committed) == (True, False, 3)


def test_a_commit_is_bounded_and_the_rest_follows() -> None:
    log = led(*["x"] * (COMMIT_ENTRIES_MAX + 1))
    assert len(log.pending()) == COMMIT_ENTRIES_MAX
    log.on_reply(Verdict.OK, 3 + COMMIT_ENTRIES_MAX)
    assert log.pending() == text("x")


def test_uncommitted_text_is_counted_until_it_is_stored() -> None:
    log = led("four")
    log.pending()
    log.append(DeltaText("five5"))
    assert log.pending_chars == 9
    log.on_reply(Verdict.OK, 4)
    assert log.pending_chars == 5
    log.pending()
    log.on_reply(Verdict.OK, 5)
    assert log.pending_chars == 0


def test_the_arguments_of_a_tool_call_are_counted_too() -> None:
    log = led()
    log.append(DeltaToolCall(0, "x" * 1_000, "c0", "f"))
    assert log.pending_chars == 1_000


def test_what_the_order_forbids_is_not_appended() -> None:
    log = led()
    with pytest.raises(ValueError, match="HeadersReceived cannot follow"):
        log.append(HeadersReceived(1))
    assert log.tail == 3


@given(legal_streams())
def test_every_legal_stream_can_be_appended_and_read_back(entries: list[Event]) -> None:
    log, phase = Log("r_x", FIRST), Phase.NEW
    for offset, entry in enumerate(entries, 1):
        assert log.append(entry) == offset
        phase = follow(phase, entry)
    assert log.phase is phase
    assert Log("r_x", FIRST, entries).phase is phase


def test_an_end_is_closed_at_once_and_ended_when_stored() -> None:
    log = led()
    log.append(LastToken())
    log.append(end())
    assert (log.closed, log.ended) == (True, False)
    log.pending()
    log.on_reply(Verdict.OK, 5)
    assert log.ended


def test_a_new_reign_begins_with_what_was_committed() -> None:
    log = led("a", "b")
    log.on_reply(Verdict.OK, 4)
    log.reign(20)
    assert (log.epochs, log.tail, log.acked) == (((10, 0), (20, 4)), 4, 4)
    assert (log.fenced, log.pending_chars, log.phase) == (False, 0, Phase.STREAMING)
    assert log.append(SEAM) == 5


def test_a_folded_log_is_its_summary() -> None:
    summary = fold([*OPENING, *text("ab"), LastToken(), end()])
    log = Log("r_x", FIRST, base=6, summary=summary)
    assert (log.tail, log.committed, log.ended, log.total()) == (6, 6, True, summary)
    assert log.locate(Position(10, 4)) is None
    assert log.locate(Position(10, 6)) == 6
    assert log.locate(Position(0, 0)) is None


# --------------------------------------------------------------------------- places


def test_a_reader_goes_on_where_it_was() -> None:
    log = Log("r_x", SECOND, [*OPENING, *text("a", "b"), SEAM, *text("c")])
    assert [log.locate(Position(10, offset)) for offset in range(6)] == [0, 1, 2, 3, 4, 5]
    assert [log.locate(Position(20, offset)) for offset in (5, 6, 7)] == [5, 6, 7]
    assert all(log.locate(log.position(offset)) == offset for offset in range(8))


def test_a_reader_whose_last_entry_is_no_history_has_no_place() -> None:
    log = Log("r_x", SECOND, [*OPENING, *text("a", "b"), SEAM])
    assert log.locate(Position(10, 6)) is None  # the first reign ended at 5
    assert log.locate(Position(20, 4)) is None  # the second had not begun
    assert log.locate(Position(15, 3)) is None  # nobody knows this reign
    assert log.locate(Position(20, 7)) is None  # nobody wrote this yet


def test_a_newcomer_begins_at_the_start() -> None:
    assert Log("r_x", FIRST, OPENING).locate(Position(0, 0)) == 0


def test_a_reader_that_saw_more_sends_the_node_to_the_store() -> None:
    log = Log("r_x", SECOND, [*OPENING, *text("a", "b"), SEAM])
    assert log.knows_less_than(Position(30, 1))
    assert log.knows_less_than(Position(20, 7))
    assert not log.knows_less_than(Position(20, 6))
    assert not log.knows_less_than(Position(10, 3))
    assert not log.knows_less_than(Position(10, 6))  # not more, but other: a snapshot helps, the store does not


def test_no_reader_is_placed_past_what_the_store_holds() -> None:
    """A leader is making good what a failover lost: its table is there before the entries are.

    If it died now, the next reign would begin at 3, and a reader placed at 4 would go on in it without a word.
    """
    log = Log("r_x", SECOND, OPENING)
    assert log.locate(Position(10, 4)) is None
    assert log.knows_less_than(Position(10, 4))
    assert log.locate(Position(10, 3)) == 3


# --------------------------------------------------------------------------- following


@given(legal_streams(), st.data())
def test_a_follower_ends_with_the_leaders_log_however_pushes_arrive(entries: list[Event], data: st.DataObject) -> None:
    log = Log("r_x", FIRST)
    cuts = data.draw(st.lists(st.tuples(st.integers(0, len(entries)), st.integers(0, len(entries))), max_size=12))
    for after, upto in cuts:
        offered = entries[after:upto]
        tail = log.tail
        verdict = log.offer(FIRST, after, offered)
        assert (verdict is Offer.HOLE) == (after > tail)
        assert log.entries == entries[: log.tail]
        assert log.committed == log.tail
    log.offer(FIRST, log.tail, entries[log.tail :])
    assert log.entries == entries


def test_entries_of_a_reign_that_is_over_are_nothing_new() -> None:
    log = Log("r_x", SECOND, [*OPENING, *text("a", "b"), SEAM])
    assert log.offer(FIRST, 5, text("zombie")) is Offer.KNOWN
    assert log.tail == 6


class Looked(Sequence[Event]):
    """Entries that count how often one of them is looked at."""

    def __init__(self, entries: list[Event]) -> None:
        self._entries = entries
        self.looks = 0

    def __len__(self) -> int:
        return len(self._entries)

    def __getitem__(self, at: Any) -> Any:
        self.looks += 1
        return self._entries[at]

    def extend(self, more: Sequence[Event]) -> None:
        self._entries.extend(more)


def test_a_push_looks_at_what_it_brings_and_not_at_all_that_came_before() -> None:
    log = Log("r_x", FIRST, OPENING)
    held = Looked(OPENING + text("a") * 1000)
    log.entries = held  # type: ignore[assignment]
    assert log.offer(FIRST, len(held), text("b")) is Offer.APPLIED
    assert held.looks == 0


@given(legal_streams())
def test_pushed_one_by_one_or_read_at_once_a_log_has_come_as_far(entries: list[Event]) -> None:
    pushed = Log("r_x", FIRST)
    for after, entry in enumerate(entries):
        assert pushed.offer(FIRST, after, [entry]) is Offer.APPLIED
        assert pushed.phase is Log("r_x", FIRST, entries[: after + 1]).phase


def test_a_newer_reign_goes_on_where_its_adopter_found_the_log() -> None:
    log = Log("r_x", FIRST, [*OPENING, *text("a", "b")])
    assert log.offer(SECOND, 5, [SEAM]) is Offer.APPLIED
    assert (log.epoch, log.tail) == (20, 6)


def test_entries_that_a_newer_reign_has_cut_away_are_a_fork() -> None:
    log = Log("r_x", FIRST, [*OPENING, *text("a", "b", "c")])
    assert log.offer(SECOND, 5, [SEAM]) is Offer.FORKED
    assert log.tail == 6


def test_entries_of_a_reign_that_history_forgot_are_a_fork() -> None:
    """We hold 6 of reign 20, which a failover forgot; reign 10 wrote on to 8, where reign 30 began."""
    log = Log("r_x", SECOND, [*OPENING, *text("a", "b"), SEAM])
    assert log.offer(((10, 0), (30, 8)), 6, [*text("g", "h"), SEAM]) is Offer.FORKED


def test_a_reign_without_entries_is_no_fork() -> None:
    log = Log("r_x", SECOND, [*OPENING, *text("a", "b")])
    assert log.offer(((10, 0), (20, 5), (30, 5)), 5, [SEAM]) is Offer.APPLIED


def test_a_log_of_another_stream_altogether_is_a_fork() -> None:
    log = Log("r_x", FIRST, [RequestStart("scripted/any", 1), HeadersReceived(2), FirstToken(3.0)])
    assert log.offer(((40, 0),), 0, OPENING) is Offer.FORKED
