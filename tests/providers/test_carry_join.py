"""Where new words meet old ones: what is cut, what is kept, what is held back, and what it is called."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from everstream.core.events import (
    DeltaText,
    DeltaThinking,
    DeltaToolCall,
    Finish,
    HeadersReceived,
    Mark,
    Resumed,
)
from everstream.core.summary import CalledTool, Summary
from everstream.providers.base import Batch, ProviderError
from everstream.providers.carry_join import (
    HELD_CHARACTERS_MAX,
    HELD_S_MAX,
    Afresh,
    Astray,
    Continued,
    Reattached,
    echo_of,
    in_open_fence,
    nothing,
    repetition_of,
)
from everstream.providers.carry_run import _joined

HEADERS = HeadersReceived(1)
SHOWN = "It was a bright cold day in April, and the clocks were striking thir"  # 68 characters, half a word
ANCHOR = SHOWN[-40:]


def said(join: Any, *batches: Batch) -> tuple[str, Resumed | None]:
    """The text that gets through, and the label, which comes before it."""
    text, label = "", None
    for batch in batches:
        for event in join.take(batch):
            if isinstance(event, Resumed):
                assert text == ""
                label = event
            elif isinstance(event, DeltaText):
                assert label is not None
                text += event.text
    return text, label


def prompted(shown: str, reply: str, size: int = 7) -> tuple[str, str | None]:
    white = len(shown) - len(shown.rstrip())
    join = Continued("prompted", shown, repetition_of(shown), white=white)
    pieces = [[DeltaText(reply[at : at + size])] for at in range(0, len(reply), size)]
    text, label = said(join, [HEADERS], *pieces, [Finish("stop")])
    assert label is not None
    assert label.continuation == "prompted"
    return text, label.check


@pytest.mark.parametrize(
    ("reply", "text", "check"),
    [
        (ANCHOR + "teen.", "teen.", "verified"),
        (SHOWN + "teen.", "teen.", "verified"),
        ("Sure! Here is the rest:\n\n" + ANCHOR + "teen.", "teen.", "verified"),
        ("\n" + ANCHOR + "teen.", "teen.", "verified"),
        (SHOWN[-25:] + "teen.", "teen.", "heuristic"),
        (SHOWN[-16:] + "teen.", "teen.", "heuristic"),
        (" " + SHOWN[-20:] + "teen.", "teen.", "heuristic"),
        ("thirteen.", "teen.", "unverified"),  # the half word, completed
        ("teen.", "teen.", "unverified"),
        ("A new sentence.", "A new sentence.", "unverified"),
        ("ir conditioning", "ir conditioning", "unverified"),  # two characters alike are chance
        ("", "", "unverified"),
    ],
)
@pytest.mark.parametrize("size", [1, 7, 1000])
def test_what_a_prompted_model_repeats_is_cut_and_called_by_what_is_known(
    reply: str, text: str, check: str, size: int
) -> None:
    assert prompted(SHOWN, reply, size) == (text, check)


def test_a_repetition_that_may_be_of_two_places_is_not_called_verified() -> None:
    row = "| one | two | three | four | five | six | seven |\n"
    assert prompted(row * 3, row * 2 + "end")[1] == "heuristic"
    assert prompted("ab" * 40, "ab" * 20 + "c") == ("c", "heuristic")


def test_a_whole_text_shorter_than_an_anchor_is_at_best_a_guess() -> None:
    assert prompted("A short beginning, ", "A short beginning, and an end") == ("and an end", "heuristic")
    assert prompted("The", "The end") == (" end", "unverified")


@pytest.mark.parametrize(
    ("reply", "text"),
    [
        ("```python\n    return 2\n```", "    return 2\n```"),
        ("\n```py\nreturn 2\n```", "return 2\n```"),
        ("```\nDone.", "```\nDone."),  # this one closes it
    ],
)
def test_a_block_of_code_that_is_open_is_not_opened_again(reply: str, text: str) -> None:
    shown = "Here it is:\n\n```python\ndef f():\n    x = a_rather_long_name_for_one\n"
    assert in_open_fence(shown)
    # The line feed at the end has been shown: one white space at the beginning is dropped for it.
    assert prompted(shown, reply)[0] in (text, text[1:] if text[0].isspace() else text)
    assert prompted("Closed.\n```\nx\n```\n", "```python\ny\n```")[0] == "```python\ny\n```"


def test_a_prompted_models_thoughts_of_the_break_are_not_shown() -> None:
    join = Continued("prompted", SHOWN, repetition_of(SHOWN))
    events = join.take([HEADERS, DeltaThinking("I was interrupted"), DeltaText(ANCHOR + "teen")])
    events += join.take([DeltaThinking("and so on")])
    assert [type(event) for event in events] == [HeadersReceived, Resumed, DeltaText]


def test_a_tool_call_ends_the_holding_back() -> None:
    join = Continued("prompted", SHOWN, repetition_of(SHOWN))
    assert join.take([DeltaText("teen.")]) == []
    call = DeltaToolCall(0, "{}", "c", "look")
    assert join.take([call]) == [Resumed("prompted", "unverified"), DeltaText("teen."), call]


def test_no_more_than_so_many_characters_are_held_back() -> None:
    join = Continued("prompted", SHOWN, repetition_of(SHOWN))
    assert join.take([DeltaText("x" * (HELD_CHARACTERS_MAX - 1))]) == []
    assert len(join.take([DeltaText("x")])) == 2


async def test_nothing_is_held_back_for_longer_than_that(monkeypatch: pytest.MonkeyPatch) -> None:
    now_s = 5.0
    join = Continued("prompted", SHOWN, repetition_of(SHOWN), clock=lambda: now_s)
    go_on = asyncio.Event()

    async def slow() -> AsyncIterator[Batch]:
        yield [HEADERS]
        yield [DeltaText("teen")]
        await go_on.wait()
        yield [DeltaText(".")]

    batches = _joined(slow(), join)  # type: ignore[arg-type]
    assert await anext(batches) == [HEADERS]
    assert await anext(batches) == []
    assert join.wait_s == HELD_S_MAX
    now_s += 2
    assert await anext(batches) == [Resumed("prompted", "unverified"), DeltaText("teen")]
    go_on.set()
    assert await anext(batches) == [DeltaText(".")]
    await batches.aclose()


async def test_closing_while_something_is_held_back_closes_the_answer() -> None:
    closed = asyncio.Event()

    async def hanging() -> AsyncIterator[Batch]:
        try:
            yield [HEADERS]
            await asyncio.Event().wait()
        finally:
            closed.set()

    batches = _joined(hanging(), Continued("prompted", SHOWN, repetition_of(SHOWN)))  # type: ignore[arg-type]
    await anext(batches)
    waiting = asyncio.ensure_future(anext(batches))
    await asyncio.sleep(0)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    await asyncio.wait_for(closed.wait(), 5)


# --------------------------------------------------------------------------- prefill


def test_an_echo_is_cut_once_and_only_if_it_is_exact() -> None:
    shown = "ab ab "
    for reply, text, check in (
        ("ab ab ab", "ab", "verified"),  # the rest is like what was before: it stays
        ("ab abab ab", "ab ab", "verified"),
        ("ab ba", "ab ba", None),
        ("ab", "ab", None),
    ):
        for size in (1, 3, 100):
            join = Continued("prefill", shown, echo_of("ab ab", certain=True), white=1)
            pieces = [[DeltaText(reply[at : at + size])] for at in range(0, len(reply), size)]
            assert said(join, *pieces, [Finish("stop")]) == (text, Resumed("prefill", check))


def test_an_echo_that_does_not_come_is_a_doubt_where_nothing_else_speaks_for_it() -> None:
    join = Continued("prefill", SHOWN, echo_of(SHOWN, certain=False))
    with pytest.raises(Astray):
        join.take([DeltaText("A new turn.")])


@pytest.mark.parametrize(
    ("white", "reply", "text"),
    [
        (0, " next", " next"),
        (1, " next", "next"),
        (1, "next", "next"),
        (2, " next", "next"),
        (1, "\n\nnext", "\nnext"),
        (2, "\n\n- a", "- a"),
        (3, "a b", "a b"),
    ],
)
def test_as_much_white_space_is_dropped_as_was_shown_and_not_sent(white: int, reply: str, text: str) -> None:
    for size in (1, 100):
        join = Continued("prefill", "x" + " " * white, nothing, white=white)
        pieces = [[DeltaText(reply[at : at + size])] for at in range(0, len(reply), size)]
        assert said(join, *pieces, [Finish("stop")])[0] == text


@given(
    st.text(alphabet="ab\n", max_size=12), st.text(alphabet="ab\n", max_size=12), st.text("ab", min_size=1, max_size=4)
)
@settings(max_examples=300)
def test_a_stop_sequence_across_the_seam_stops_and_no_other_does(shown: str, reply: str, stop: str) -> None:
    join = Continued("prefill", shown, nothing, stops=[stop])
    text, events = "", []
    for character in reply:
        events += join.take([DeltaText(character)])
        if join.over:
            break
    else:
        events += join.take([Finish("length")])
    text = "".join(event.text for event in events if isinstance(event, DeltaText))
    whole, seam = shown + reply, len(shown)
    parted = any(whole.startswith(stop, at) for at in range(max(0, seam - len(stop) + 1), seam))
    assert text == ("" if parted else reply)
    assert [event for event in events if isinstance(event, Finish)] == [Finish("stop" if parted else "length")]


def test_thinking_in_the_place_of_the_rest_is_no_continuation() -> None:
    with pytest.raises(Astray):
        Continued("prefill", SHOWN, nothing).take([HEADERS, DeltaThinking("teen")])


# --------------------------------------------------------------------------- restart, exact


def test_a_new_beginning_is_called_one_before_anything_else() -> None:
    join = Afresh()
    assert join.take([HEADERS]) == [HEADERS, Resumed("restart")]
    assert join.take([DeltaThinking("hm")]) == [DeltaThinking("hm")]


def test_what_is_shown_already_is_skipped_kind_by_kind() -> None:
    calls = (CalledTool(0, "c", "look", '{"a":1}'), CalledTool(1, None, None, '{"b'))
    join = Reattached(Summary("text", "thought", "", calls))
    assert join.take([HEADERS]) == [HEADERS]
    assert join.take([DeltaThinking("tho"), DeltaThinking("ught")]) == []
    assert join.take([DeltaText("text")]) == []
    assert join.take([DeltaToolCall(0, "", "c", "look"), DeltaToolCall(0, '{"a":1}')]) == []
    assert join.take([DeltaToolCall(1, "{"), Mark(cursor=1)]) == [], "no entry is new that a mark could stand beside"
    events = join.take([DeltaToolCall(1, '"b":2}'), DeltaToolCall(2, "", "d", "look"), Finish("tool_calls")])
    assert events == [
        Resumed("exact", "verified"),
        DeltaToolCall(1, '":2}'),
        DeltaToolCall(2, "", "d", "look"),
        Finish("tool_calls"),
    ]


@pytest.mark.parametrize("batch", [[DeltaText("tex!")], [DeltaText("te"), Finish("stop")], [DeltaThinking("new")]])
def test_a_run_that_says_something_else_is_not_read_on(batch: Batch) -> None:
    with pytest.raises(ProviderError):
        Reattached(Summary("text")).take(batch)
