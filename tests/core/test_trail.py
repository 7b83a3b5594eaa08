"""What marks add up to, and what a stream has been through."""

from __future__ import annotations

from everstream.core.attempts import Run, model_now, runs_begun, runs_of, vain_attempts
from everstream.core.events import (
    Continuation,
    DeltaText,
    Event,
    FirstToken,
    HeadersReceived,
    Mark,
    RequestStart,
    Seam,
    SeamReason,
)
from everstream.core.log import Log, Verdict
from everstream.core.trail import trail_of

STREAM = "r_00" + "a" * 26


def seam(how: Continuation | None, reason: SeamReason = "node_lost", model: str | None = None) -> Seam:
    return Seam(2, 2, reason, how, None, "n_b", model)


def begun(*words: str) -> list[Event]:
    return [RequestStart("p/m", 1), HeadersReceived(1), FirstToken(1.0), *map(DeltaText, words)]


def led(*words: str) -> Log:
    log = Log(STREAM, ((1, 0),))
    for entry in begun(*words):
        log.append(entry)
    return log


# --------------------------------------------------------------------------- marks


def test_the_last_cursor_counts_and_token_ids_add_up() -> None:
    log = led("a")
    log.mark(Mark({"at": 1}, (10, 11)))
    log.append(DeltaText("b"))
    log.mark(Mark({"at": 2}, (12,)))
    assert (log.trail.cursor, log.trail.cursor_at) == ({"at": 2}, 5)
    assert log.trail.tokens_of(log.content_at()) == (10, 11, 12)


def test_the_trail_of_what_was_stored_is_that_of_the_leader() -> None:
    log = led("a", "b")
    log.mark(Mark({"at": 2}, (1, 2)))
    log.append(DeltaText("c"))
    log.mark(Mark(None, (3,)))
    again = trail_of(log.entries, 0, log.marks)
    assert (again.cursor, again.cursor_at, again.tokens, again.whole) == ({"at": 2}, 5, [1, 2, 3], True)


def test_content_without_token_ids_leaves_none_known() -> None:
    log = led("a")
    log.mark(Mark(None, (1,)))
    log.append(DeltaText("b"))
    assert log.trail.tokens_of(log.content_at()) is None


def test_another_run_forgets_the_cursor_and_an_exact_one_keeps_it() -> None:
    for how, kept in (("exact", True), (None, True), ("prefill", False), ("prompted", False), ("restart", False)):
        log = led("a")
        log.mark(Mark({"at": 1}))
        log.append(seam(how))  # type: ignore[arg-type]
        assert (log.trail.cursor is not None) is kept, how


def test_token_ids_outlive_a_prefill_and_nothing_else() -> None:
    for how, kept in (("prefill", True), ("prompted", False), ("restart", False)):
        log = led("a")
        log.mark(Mark(None, (1,)))
        log.append(seam(how))  # type: ignore[arg-type]
        log.append(DeltaText("b"))
        log.mark(Mark(None, (2,)))
        assert log.trail.tokens_of(log.content_at()) == ((1, 2) if kept else (2,) if how == "restart" else None), how


def test_another_model_knows_neither_cursor_nor_token_ids() -> None:
    for how in ("exact", "prefill"):
        log = led("a")
        log.mark(Mark({"at": 1}, (1,)))
        log.append(seam(how, model="q/n"))  # type: ignore[arg-type]
        assert log.trail.cursor is None
        assert log.trail.tokens_of(log.content_at()) is None


def test_marks_are_sent_with_their_entry_and_the_cursor_again_after_a_gap() -> None:
    log = led("a")
    log.mark(Mark({"at": 1}))
    assert set(log.marks) == {4}
    assert log.on_reply(Verdict.OK, 4)
    assert not log.marks
    log.on_reply(Verdict.GAP, 2)  # a failover took both
    assert log.marks == {4: Mark({"at": 1})}
    log.on_reply(Verdict.OK, 4)
    assert not log.marks


def test_token_ids_that_a_failover_took_are_missed() -> None:
    log = led("a")
    log.mark(Mark(None, (1,)))
    log.on_reply(Verdict.OK, 4)
    log.append(DeltaText("b"))
    log.mark(Mark(None, (2,)))
    stored = trail_of(log.entries, 0, log.marks)  # all that a store has which lost the first mark
    assert stored.tokens_of(5) is None


# --------------------------------------------------------------------------- attempts


def test_reigns_and_seams_without_a_word_count_and_content_resets() -> None:
    entries = begun("a")
    assert vain_attempts(entries, 0, ((1, 0),)) == 0
    assert vain_attempts(entries, 0, ((1, 0), (2, 4))) == 1  # it died before it could write its seam
    assert vain_attempts(entries, 0, ((1, 0), (2, 4), (3, 4))) == 2
    entries += [seam("exact"), HeadersReceived(2)]
    assert vain_attempts(entries, 0, ((1, 0), (2, 4), (3, 6))) == 2
    entries += [DeltaText("b")]
    assert vain_attempts(entries, 0, ((1, 0), (2, 4))) == 0
    assert vain_attempts(entries, 0, ((1, 0), (2, 4), (3, 7))) == 1


def test_calls_of_the_same_reign_count_too() -> None:
    entries = [*begun("a"), seam("prefill", "provider_lost"), seam("prompted", "provider_lost")]
    assert vain_attempts(entries, 0, ((1, 0),)) == 2


def test_a_hand_over_on_purpose_does_not_count() -> None:
    entries = [*begun("a"), seam("exact", "drain")]
    assert vain_attempts(entries, 0, ((1, 0), (2, 4))) == 0
    assert vain_attempts([*entries, seam("exact", "drain")], 0, ((1, 0), (2, 4), (3, 5))) == 0


def test_a_stream_that_never_spoke_counts_from_its_second_reign() -> None:
    assert vain_attempts([], 0, ((1, 0),)) == 0
    assert vain_attempts([], 0, ((1, 0), (2, 0), (3, 0))) == 2


def test_the_model_is_the_one_that_took_over_last() -> None:
    entries = begun("a")
    assert model_now(entries, "p/m") == "p/m"
    entries += [seam("prompted", model="q/n"), seam("prefill")]
    assert model_now(entries, "p/m") == "q/n"


def test_only_an_exact_continuation_is_the_same_run() -> None:
    entries = [*begun("ab"), seam("exact"), DeltaText("c"), seam("prefill"), DeltaText("d"), seam("restart")]
    assert [len(run.said) for run in runs_of(entries, "a/b")] == [3, 1, 0]
    assert runs_begun(entries) == 3
    assert runs_of([], "a/b") == [Run("a/b", "")]
    assert runs_begun([]) == 1
