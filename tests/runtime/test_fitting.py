"""What fits into a window beside the answer, the system prompt and the tools; and what is counted to find that out."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from everstream.core.events import ImagePart, Message, Params, Request, TextPart, Tool, ToolCall
from everstream.providers import tokenizer
from everstream.runtime import fitting
from everstream.runtime.fitting import COUNTED_CHARS, left_out_of

WORD = "word "  # a token, with a vocabulary of one token a word


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A vocabulary of one token a word; the texts that it was asked about."""
    asked: list[str] = []

    def tokens_in(text: str) -> int:
        asked.append(text)
        return len(text.split())

    monkeypatch.setattr(fitting, "tokens_in", tokens_in)
    monkeypatch.setattr(fitting, "counts", lambda: True)
    return asked


@pytest.fixture
def uncounted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fitting, "counts", lambda: False)


def talk(turns: int, words: int = 100, **params: object) -> Request:
    turn = [Message("user", WORD * words), Message("assistant", WORD * words)]
    return Request("p/m", [*(turn * turns), Message("user", WORD)], Params(**params))  # type: ignore[arg-type]


def kept(request: Request, window: int | None) -> int:
    return len(request.messages) - left_out_of(request, window)


def test_of_a_model_whose_window_nobody_knows_nothing_is_left_out(counted: list[str]) -> None:
    assert left_out_of(talk(1_000), None) == 0
    assert counted == []


def test_what_has_fewer_bytes_than_there_is_room_is_not_counted(counted: list[str]) -> None:
    assert left_out_of(talk(10), 100_000) == 0
    assert counted == []


def test_the_newest_turns_that_fit_beside_the_answer_are_kept(counted: list[str]) -> None:
    # 10,000 less 1,000 for the answer, less a tenth: 8,100; less 8 beside; a turn takes 208, and the last question 5.
    assert kept(talk(200, max_tokens=1_000), 10_000) == (8_092 - 5) // 208 * 2 + 1


def test_without_a_bound_an_answer_has_a_fourth_of_a_small_window_and_4096_of_a_large_one(counted: list[str]) -> None:
    for window, answer in ((4_000, 1_000), (16_384, 4_096), (100_000, 4_096)):
        assert kept(talk(1_000), window) == kept(talk(1_000, max_tokens=answer), window)


def test_a_bound_as_large_as_the_window_is_none(counted: list[str]) -> None:
    assert kept(talk(200, max_tokens=8_000), 8_000) == kept(talk(200), 8_000) > 1


def test_a_system_prompt_and_tools_take_their_room(counted: list[str]) -> None:
    plain = kept(talk(200), 10_000)
    tool = Tool("look", WORD * 1_000, {"type": "object"})
    for beside in ({"system": WORD * 1_000}, {"tools": [tool]}):
        assert 8 <= plain - kept(talk(200, **beside), 10_000) <= 12  # four to six turns of 208


def test_where_nothing_fits_the_present_turn_is_kept_all_the_same(counted: list[str]) -> None:
    assert kept(talk(5, system=WORD * 10_000), 2_000) == 1
    present = [Message("user", WORD * 5_000), Message("assistant", WORD * 5_000)]
    assert left_out_of(Request("p/m", [*talk(3).messages, *present]), 2_000) == 7


def test_calls_of_tools_and_images_take_room_too(counted: list[str]) -> None:
    before = [Message("user", WORD), Message("assistant", WORD)]
    call = ToolCall("c1", "look", WORD * 3_000)
    image = ImagePart(data="A" * 1_000_000)
    for message in (Message("assistant", "", [call]), Message("user", [image, TextPart(WORD), image])):
        request = Request("p/m", [*before, Message("user", WORD), message, Message("user", WORD * 100)])
        assert left_out_of(request, 4_500) > 0
        assert left_out_of(request, 6_000) == 0
    assert not any("AAAA" in text for text in counted)


def test_a_long_history_is_counted_in_part_and_the_rest_taken_to_be_like_it(counted: list[str]) -> None:
    request = talk(1_000, words=1_000)
    whole = kept(talk(1_000, words=1_000), 1_000_000)
    assert sum(map(len, counted)) == COUNTED_CHARS
    assert whole == pytest.approx((1_000_000 - 4_096) * 0.9 / 1_004, rel=0.01)
    counted.clear()
    left_out_of(Request("p/m", [*request.messages, Message("user", WORD * 1_000_000)]), 100_000)
    assert sum(map(len, counted)) == COUNTED_CHARS


@pytest.mark.usefixtures("uncounted")
def test_without_a_vocabulary_four_bytes_are_a_token() -> None:
    def turns(text: str) -> int:
        turn = [Message("user", text * 100), Message("assistant", text * 100)]
        return kept(Request("p/m", [*(turn * 200), Message("user", "?")]), 10_000)

    assert turns("abcd") == pytest.approx(turns("你a"), abs=2)
    assert turns("你好世界") < turns("abcd") / 2


async def test_what_the_vocabulary_counts_is_about_what_is_kept() -> None:
    pytest.importorskip("bpe_openai")
    await tokenizer.prepare()
    text = "Streams outlive their clients, their connections and their nodes. "
    turn = [Message("user", text * 20), Message("assistant", text * 50)]
    request = Request("p/m", [*(turn * 300), Message("user", "Go on.")], Params(system="Be brief."))
    rest = request.messages[left_out_of(request, 32_000) :]
    taken = sum(tokenizer.tokens_in(str(message.content)) + 4 for message in rest)
    room = (32_000 - 4_096) * 0.9
    assert room - 2_000 < taken <= room


@given(
    st.lists(st.tuples(st.text(max_size=300), st.text(max_size=300)), max_size=12),
    st.integers(1, 3_000),
    st.none() | st.integers(1, 3_000),
)
def test_a_cut_is_in_front_of_a_question_whatever_was_said(
    turns: list[tuple[str, str]], window: int, max_tokens: int | None
) -> None:
    messages = [
        message for asked, answered in turns for message in (Message("user", asked), Message("assistant", answered))
    ]
    request = Request("p/m", [*messages, Message("user", "?")], Params(max_tokens=max_tokens))
    cut = left_out_of(request, window)
    assert request.messages[cut].role == "user"
    if sum(len(str(message.content).encode()) + 4 for message in request.messages) + 8 <= (window * 3 // 4) * 0.89:
        assert cut == 0 or max_tokens is not None
