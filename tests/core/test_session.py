"""A session folded from its entries: what a model is asked, what a page shows, what is remembered."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from everstream.core import session as session_module
from everstream.core.asking import TITLE_CHARS_MAX, Answered, Ask, Bounds, Given, says_something, title_of
from everstream.core.conversation import Conversation
from everstream.core.errors import EverstreamError
from everstream.core.events import ImagePart, TextPart
from everstream.core.session import NOT_RUN, Sent, Session, Turn
from everstream.core.session_events import (
    CallMade,
    MemberChanged,
    MessageAdded,
    SessionChanged,
    SessionMessage,
    TurnStart,
)

BOUNDS = Bounds(messages=100, members=4, turns=4, queue=4, tool_rounds=4)
CALLS = [CallMade("c1", "look", "{}"), CallMade("c2", "look", "{}")]


class Talk:
    """A conversation of `ann`, in few words."""

    def __init__(self, left_out: int = 0) -> None:
        self.ids = 0
        self.left_out = left_out
        self.conversation = Conversation(Session(), BOUNDS, self.make_id, lambda session, turn: self.left_out)
        self.conversation.create("ann", SessionChanged(created=1), {})

    def make_id(self, kind: str) -> str:
        self.ids += 1
        return f"{kind}{self.ids}"

    @property
    def session(self) -> Session:
        return self.conversation.session

    def send(self, content: str | None = "hello", on_busy: str = "queue", **given: Any) -> Sent:
        parent, follows = given.get("parent"), "parent" not in given
        turn = self.make_id("t")
        return self.conversation.send(
            Ask(turn, "ann", "p/m", content, parent, follows, on_busy, given.get("request_id")), 2
        )

    def answer(self, sent: Sent, text: str = "", calls: Any = (), reason: Any = "complete") -> None:
        turn = self.session.turns[sent.turn]
        self.conversation.answered(turn, Answered(text, "", calls, reason), 3, None, lambda: (None, None))

    def asked(self, message: str | None) -> list[tuple[str, Any, str | None]]:
        return [(m.role, m.content, m.call_id) for m in self.session.asked(message or "")]


def parent_of(talk: Talk, sent: Sent) -> str | None:
    return talk.session.messages[sent.message].parent


# --------------------------------------------------------------------------- what a model is asked


def test_answers_that_say_nothing_are_not_told() -> None:
    talk = Talk()
    talk.answer(talk.send("one"), "", reason="failed")
    sent = talk.send("two")
    assert [said[:2] for said in talk.asked(sent.message)] == [("user", "one"), ("user", "two")]


def test_calls_without_a_result_are_told_as_not_run() -> None:
    talk = Talk()
    first = talk.send("one")
    talk.answer(first, "let me see", CALLS)
    talk.conversation.give("ann", first.stream, [Given("c2", "rain")], 4)
    answer = next(m.id for m in talk.session.messages.values() if m.role == "assistant")
    beside = talk.send("never mind", "parallel", parent=answer)
    assert talk.asked(beside.message)[2:] == [
        ("tool", NOT_RUN, "c1"),
        ("tool", NOT_RUN, "c2"),
        ("user", "never mind", None),
    ]


def test_calls_without_a_result_are_told_as_not_run_at_the_end_of_a_path_too() -> None:
    talk = Talk()
    first = talk.send("one")
    talk.answer(first, "let me see", CALLS)
    talk.conversation.give("ann", first.stream, [Given("c2", "rain")], 4)
    result = talk.session.head
    anew = talk.send(None, "parallel", parent=result)
    assert anew.message == result
    assert talk.asked(result)[2:] == [("tool", "rain", "c2"), ("tool", NOT_RUN, "c1")]


def test_a_turn_says_how_much_its_model_is_not_shown() -> None:
    talk = Talk(left_out=3)
    sent = talk.send("one")
    assert talk.session.turns[sent.turn].shown()["left_out"] == 3
    talk.answer(sent, "let me see", CALLS[:1])
    talk.left_out = 0
    turn = talk.conversation.give("ann", sent.stream, [Given("c1", "rain")], 4)
    starts = [entry.left_out for entry in talk.conversation.take() if isinstance(entry, TurnStart)]
    assert starts == [3, 0]
    assert "left_out" not in turn.shown()


# --------------------------------------------------------------------------- where things go


def test_what_runs_beside_a_turn_does_not_go_behind_its_question() -> None:
    talk = Talk()
    talk.answer(talk.send("one"), "first")
    whole = talk.session.head
    talk.send("two")
    assert parent_of(talk, talk.send("three", "parallel")) == whole


@pytest.mark.parametrize("results", [["c1"], ["c1", "c2"]], ids=["while-one-is-missing", "when-all-are-there"])
def test_what_runs_beside_a_turn_does_not_go_between_its_results(results: list[str]) -> None:
    talk = Talk()
    talk.answer(talk.send("one"), "first")
    whole = talk.session.head
    sent = talk.send("two")
    talk.answer(sent, "let me see", CALLS)
    talk.conversation.give("ann", sent.stream, [Given(call, "rain") for call in results], 4)
    assert parent_of(talk, talk.send("three", "parallel")) == whole


def test_what_waited_follows_what_it_waited_for() -> None:
    talk = Talk()
    first, second = talk.send("one"), talk.send("two")
    talk.answer(first, "first")
    answer = talk.session.head
    talk.conversation.advance(5)
    assert parent_of(talk, second) == answer


def test_an_interruption_is_of_what_was_there_before_it() -> None:
    talk = Talk()
    first = talk.send("one")
    beside = talk.send("two", "parallel")
    talk.send("now", "interrupt")
    talk.send("three", "parallel")
    for conversation in (talk.conversation, Conversation(talk.session, BOUNDS, talk.make_id, lambda s, t: 0)):
        assert [(turn.id, by) for turn, by in conversation.interrupted()] == [(first.turn, "ann"), (beside.turn, "ann")]


# --------------------------------------------------------------------------- pages and memory


def test_a_page_ends_before_a_message_and_says_whether_there_is_more() -> None:
    talk = Talk()
    for word in "abc":
        talk.answer(talk.send(word), word * 2)
    names = list(talk.session.messages)
    for before, limit, shown, more in (
        (None, 2, names[4:], True),
        (names[2], 5, names[:2], False),
        (None, 6, names, False),
    ):
        page, there_is = talk.session.page(before, limit)
        assert ([message.id for message in page], there_is) == (shown, more)
    with pytest.raises(EverstreamError, match=r"request\.not_found"):
        talk.session.page("m_none", 5)


def test_a_request_is_remembered_until_many_others_came(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session_module, "REQUESTS_MAX", 2)
    talk = Talk()
    for name in ("q1", "q2", "q3"):
        talk.answer(talk.send("one", request_id=name), "first")
    remembered = [talk.session.sent("ann", name) is not None for name in ("q1", "q2", "q3")]
    assert remembered == [False, True, True]
    assert talk.session.sent("ben", "q3") is None
    assert talk.session.sent("ann", None) is None


def test_a_result_that_comes_too_late_changes_nothing() -> None:
    talk = Talk()
    sent = talk.send("one")
    talk.answer(sent, "let me see", [CallMade("c1", "look", "{}", server=True)])
    turn: Turn = talk.session.turns[sent.turn]
    talk.conversation.begin_tools(turn)
    talk.conversation.ran(turn, Given("c1", "rain"), 4)
    talk.conversation.take()
    talk.conversation.ran(turn, Given("c1", "sun"), 5)
    assert talk.conversation.take() == []


def test_who_is_no_member_any_more_may_do_nothing_and_is_told_nothing() -> None:
    session = Session([SessionChanged(created=1), MemberChanged("ann", "owner"), MemberChanged("ben", "editor")])
    session.demand("ben", "send")
    session.apply(MemberChanged("ben", None))
    with pytest.raises(EverstreamError, match=r"session\.unknown"):
        session.demand("ben", "read")
    session.apply(SessionChanged(deleted=True))
    with pytest.raises(EverstreamError, match=r"session\.unknown"):
        session.demand("ann", "read")


def test_a_message_is_not_older_than_the_last_use() -> None:
    session = Session([SessionChanged(created=10)])
    session.apply(MessageAdded(SessionMessage("m1", None, "user", "ann", "hello", 7)))
    assert (session.created, session.updated) == (10, 10)
    assert session.path("m_none") == []


# --------------------------------------------------------------------------- titles


@given(st.text(max_size=300))
def test_a_title_is_one_short_line(content: str) -> None:
    title = title_of(content)
    assert len(title) <= TITLE_CHARS_MAX
    assert " ".join(title.split()) == title
    if len(" ".join(content.split())) <= TITLE_CHARS_MAX:
        assert title == " ".join(content.split())


def test_a_long_title_is_cut_at_a_word_where_that_leaves_most_of_it() -> None:
    assert title_of("word, " * 40) == ("word, " * 13)[: 13 * 6 - 2] + "…"
    assert title_of("x" * 200) == "x" * (TITLE_CHARS_MAX - 1) + "…"


def test_the_text_among_pictures_makes_the_title() -> None:
    picture = ImagePart(url="https://example.org/a.png")
    assert title_of([picture, TextPart("what is\nthis?"), picture]) == "what is this?"
    assert title_of([picture]) == ""


def test_a_picture_says_something_and_white_space_does_not() -> None:
    assert says_something([ImagePart(url="https://example.org/a.png")])
    assert says_something([TextPart(" "), TextPart("x")])
    for nothing in ("", " \n", [], [TextPart(" ")]):
        assert not says_something(nothing)
