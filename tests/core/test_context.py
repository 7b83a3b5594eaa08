"""What is left out of a conversation that does not fit: the oldest turns, whole, and no more of them than must be."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from everstream.core.context import left_out
from everstream.core.events import Message, ToolCall

TURNS = st.lists(  # a user's message and what follows it, with the size of each
    st.tuples(
        st.integers(0, 9), st.lists(st.tuples(st.sampled_from(["assistant", "tool"]), st.integers(0, 9)), max_size=4)
    ),
    min_size=1,
    max_size=8,
)


def size(message: Message) -> int:
    return len(message.content)


def said(role: str, tokens: int = 1) -> Message:
    return Message(role, "x" * tokens)  # type: ignore[arg-type]


def history(turns: list[tuple[int, list[tuple[str, int]]]]) -> list[Message]:
    return [
        message
        for tokens, answers in turns
        for message in (said("user", tokens), *(said(role, length) for role, length in answers))
    ]


def sizes(messages: list[Message]) -> int:
    return sum(map(size, messages))


@given(TURNS, st.integers(-5, 150))
def test_what_is_left_fits_or_is_the_present_turn_and_one_turn_more_would_not_fit(
    turns: list[tuple[int, list[tuple[str, int]]]], room: int
) -> None:
    messages = history(turns)
    starts = [at for at, message in enumerate(messages) if message.role == "user"]
    cut = left_out(messages, room, size)
    assert cut in starts
    assert sizes(messages[cut:]) <= room or cut == starts[-1]
    if cut > 0:
        before = starts[starts.index(cut) - 1]
        assert sizes(messages[before:]) > room


@given(TURNS, st.lists(st.integers(0, 9), max_size=3), st.integers(0, 150))
def test_what_stands_before_the_first_question_is_left_out_with_its_turn_or_stays(
    turns: list[tuple[int, list[tuple[str, int]]]], greeting: list[int], room: int
) -> None:
    messages = [*(said("assistant", length) for length in greeting), *history(turns)]
    cut = left_out(messages, room, size)
    assert cut == 0 or messages[cut].role == "user"
    if sizes(messages) <= room:
        assert cut == 0


@given(TURNS, st.integers(0, 60))
def test_each_message_is_weighed_once_at_most_and_from_the_newest_back(
    turns: list[tuple[int, list[tuple[str, int]]]], room: int
) -> None:
    messages = history(turns)
    weighed: list[Message] = []

    def tokens(message: Message) -> int:
        assert sizes(weighed) <= room, "it was known already that no more fits"
        weighed.append(message)
        return size(message)

    left_out(messages, room, tokens)
    newest = messages[::-1][: len(weighed)]
    assert [id(message) for message in weighed] == [id(message) for message in newest]


def test_a_history_without_end_costs_no_more_than_a_window_full_of_it() -> None:
    messages = [said("user"), said("assistant")] * 100_000
    weighed = 0

    def tokens(message: Message) -> int:
        nonlocal weighed
        weighed += 1
        return 1

    assert left_out(messages, 10, tokens) == len(messages) - 10
    assert weighed == 11


def test_a_round_of_tools_stays_with_the_question_that_began_it() -> None:
    call = ToolCall("c1", "look", "{}")
    messages = [
        said("user"),
        Message("assistant", "x", [call]),
        Message("tool", "x", call_id="c1"),
        said("assistant"),
        said("user"),
        Message("assistant", "x", [call]),
        Message("tool", "x", call_id="c1"),
    ]
    cuts = {room: left_out(messages, room, size) for room in range(9)}
    assert cuts == dict.fromkeys(range(7), 4) | {7: 0, 8: 0}


@pytest.mark.parametrize(
    "messages",
    [[], [said("user", 9)], [said("assistant", 9)], [said("user", 9), said("assistant", 9), said("tool", 9)]],
    ids=["nothing", "a question", "no question", "one turn"],
)
def test_where_no_cut_can_be_made_nothing_is_left_out_nor_weighed(messages: list[Message]) -> None:
    def unasked(message: Message) -> int:
        raise AssertionError("nothing can be left out, whatever it takes")

    assert left_out(messages, 0, unasked) == 0
