"""What is decided in a session, held to a model of it by whatever sequence of demands chance thinks of.

Everything that is decided is decided twice: by the conversation that went on, and by one that was folded anew from the
entries stored so far.  They have to say the same.  What is said and then not stored must leave no trace.

The long form: EVERSTREAM_TEST_EXAMPLES=5000 pytest tests/core/test_conversation.py
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from copy import deepcopy
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from tests.core.session_model import Audit, Doing, Model

from everstream.core.asking import Answered, Ask, Bounds, Given
from everstream.core.conversation import Conversation
from everstream.core.errors import EverstreamError
from everstream.core.events import Event
from everstream.core.session import Sent, Session, Turn
from everstream.core.session_events import CallMade, MessageAdded, SessionChanged, TurnEnd, TurnStart

BOUNDS = Bounds(messages=60, members=4, turns=3, queue=3, tool_rounds=2)
USERS = ("ann", "ben", "cyd", "dan", "eve")
REASONS = ("complete", "complete", "complete", "cancelled", "failed", "interrupted", "budget")
NOW_MS = 1_700_000_000_000
KINDS = (
    (False, False),
    (False, False),
    (True, False),
    (True, True),
)  # who runs a tool, and whether it is allowed first

users = st.sampled_from(USERS[:1] * 3 + USERS)
seldom = st.sampled_from((False,) * 9 + (True,))
number = st.integers(0, 1000)


def account() -> tuple[None, None]:
    return None, None


def left_out(session: Session, turn: Turn) -> int:
    return len(session.path(turn.message)) // 3


def settle(conversation: Conversation) -> None:
    """What a leader does after each step: end what is interrupted, run what may run, start what may start."""
    session = conversation.session
    for turn, by in conversation.interrupted():
        if turn.state == "waiting":
            conversation.end(turn, "cancelled", by, account)
    for turn in session.busy:
        if turn.state == "waiting":
            conversation.begin_tools(turn)
    conversation.advance(NOW_MS)


class Demands(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.entries: list[Event] = []
        self.model = Model(BOUNDS)
        self.audit = Audit(BOUNDS.turns)
        self.ids = self.next_id = 0
        self.said: list[Event] = []
        self.refused = ""
        self.sound = True
        self.turns = self.calls = 0
        self.conversation = self.fold()

    def fold(self) -> Conversation:
        return Conversation(Session(self.entries), BOUNDS, self.make_id, left_out)

    def make_id(self, kind: str) -> str:
        self.next_id += 1
        return f"{kind}_{self.next_id}"

    # ------------------------------------------------------------------ how anything is decided

    @contextmanager
    def deciding(self, lost: bool) -> Iterator[None]:
        """What is decided in here is stored, or `lost`: then it never was."""
        before = deepcopy(self.model) if lost else None
        self.sound, self.said = False, []
        yield
        if before is not None:
            self.model = before
            self.conversation = self.fold()
        else:
            self.entries += self.said
            self.audit.take_all(self.said)

    def decide(self, ask: Callable[[Conversation], Any], errors: set[str] | None = None) -> Any:
        """The outcome; None where one of the expected errors was the answer."""
        outcomes = []
        for conversation in (self.fold_so_far(), self.conversation):
            self.next_id = self.ids
            try:
                outcome, refused = ask(conversation), ""
            except EverstreamError as error:
                outcome, refused = None, error.code
            outcomes.append((outcome, refused, conversation.take()))
        assert outcomes[0] == outcomes[1], "an adopter decides otherwise"
        outcome, refused, said = outcomes[1]
        assert (refused in errors) if errors else not refused, (refused, errors)
        assert not (refused and said), "an error that says something"
        self.ids = self.next_id
        self.said += said
        self.refused = refused
        return outcome

    def fold_so_far(self) -> Conversation:
        return Conversation(Session([*self.entries, *self.said]), BOUNDS, self.make_id, left_out)

    def settle(self) -> None:
        model = self.model
        hurried = [(turn.id, by) for turn, by in self.conversation.interrupted()]
        assert [turn for turn, _ in hurried] == model.hurry()
        self.decide(settle)
        for turn, _ in hurried:
            if model.doing[turn].state == "waiting":
                model.end(turn)
        for doing in model.busy:
            for call in doing.calls.values():
                if call.server and not call.approval and call.call_id not in {*doing.results, *doing.started}:
                    model.start_tool(doing, call.call_id)
        model.advance()

    def any_of(self, things: Any, at: int) -> Any:
        found = list(things)
        return found[at % len(found)] if found else None

    # ------------------------------------------------------------------ demands

    @initialize(role=st.sampled_from(("owner", "editor", "viewer")))
    def create(self, role: Any) -> None:
        with self.deciding(lost=False):
            self.decide(lambda c: c.create("ann", SessionChanged(created=1), {"ben": role, "cyd": "viewer"}))
            self.model.members = {"ann": "owner", "ben": role, "cyd": "viewer"}

    @rule(
        user=users,
        content=st.sampled_from(("hello", "hello", "and now?", " ", None)),
        place=st.sampled_from(("follow", "follow", "root", "somewhere", "nowhere")),
        at=number,
        on_busy=st.sampled_from(("queue", "queue", "interrupt", "reject", "parallel")),
        request_id=st.sampled_from((None, None, "q1", "q2", "q3")),
        model=st.sampled_from(("p/m", "p/m", "p/m", None)),
        lost=seldom,
    )
    def send(
        self,
        user: str,
        content: Any,
        place: str,
        at: int,
        on_busy: str,
        request_id: str | None,
        model: str | None,
        lost: bool,
    ) -> None:
        follows = place == "follow" and content is not None
        parent = {"somewhere": self.any_of(self.model.messages, at), "nowhere": "m_none"}.get(place)
        if place == "follow" and content is None:
            parent = self.any_of(self.model.messages, at)
        self.turns += 1
        ask = Ask(f"t_{self.turns}", user, model, content, parent, follows, on_busy, request_id)
        before = self.model.sent.get((user, request_id or ""))
        barred = self.model.barred(user, "owner", "editor")
        with self.deciding(lost):
            if before is not None and not barred:
                assert self.decide(lambda c: c.send(ask, NOW_MS)) == Sent(*before)
                assert not self.said
                return
            errors = self.model.send_errors(ask)
            if model is None and not barred and not self.conversation.session.model:
                errors = errors | {"request.invalid"}
            sent = self.decide(lambda c: c.send(ask, NOW_MS), errors)
            if sent is not None:
                self.model.send(ask, sent.message, sent.stream)
                self.settle()

    @precondition(lambda self: any(doing.state == "running" for doing in self.model.busy))
    @rule(at=number, reason=st.sampled_from(REASONS), calls=st.lists(st.sampled_from(KINDS), max_size=3), lost=seldom)
    def answer(self, at: int, reason: Any, calls: list[tuple[bool, bool]], lost: bool) -> None:
        doing = self.any_of((doing for doing in self.model.busy if doing.state == "running"), at)
        made = [CallMade(f"c{self.calls + n}", "tool", "{}", *kind) for n, kind in enumerate(calls)]
        self.calls += len(made)
        text = "" if at % 5 == 0 else f"answer {at}"
        answer = Answered(text, "", made, reason)
        with self.deciding(lost):
            self.decide(lambda c: c.answered(c.session.turns[doing.id], answer, NOW_MS, None, account))
            message, *over = self.said
            assert isinstance(message, MessageAdded)
            ended = self.model.answered(doing.id, answer, message.message.id)
            assert [entry.reason for entry in over if isinstance(entry, TurnEnd)] == ([ended] if ended else [])
            self.settle()

    @precondition(lambda self: any(doing.state != "running" for doing in self.model.doing.values()))
    @rule(at=number, lost=seldom)
    def stop(self, at: int, lost: bool) -> None:
        doing = self.any_of((doing for doing in self.model.doing.values() if doing.state != "running"), at)
        with self.deciding(lost):
            self.decide(lambda c: c.end(c.session.turns[doing.id], "cancelled", "ann", account))
            self.model.end(doing.id)
            self.settle()

    # ------------------------------------------------------------------ tools

    def drawn_calls(self, at: int, count: int) -> tuple[str, list[str]]:
        """A stream that waits, mostly, and some calls, mostly of it."""
        waiting = [doing for doing in self.model.busy if doing.state == "waiting"]
        doing = self.any_of(waiting, at)
        if doing is None or at % 11 == 0:
            return next((d.stream for d in self.model.doing.values()), "r_none"), ["c0"]
        open_calls = [call for call in doing.calls if call not in doing.results] if at % 7 else list(doing.calls)
        calls = [self.any_of(open_calls, at + n) for n in range(count)] if open_calls else []
        return doing.stream, ["c_none" if at % 13 == 0 else call for call in calls]

    def took(self, doing: Doing) -> None:
        """Results came: their messages are in what was said, and perhaps the turn goes on."""
        results = [e.message for e in self.said if isinstance(e, MessageAdded) and e.message.role == "tool"]
        for message in results:
            assert message.call_id is not None
            self.model.result(doing, message.call_id, message.content, message.id)
        starts = [entry for entry in self.said if isinstance(entry, TurnStart)]
        assert bool(starts) == bool(results and self.model.complete(doing))
        if starts:
            self.model.go_on(doing, starts[0].stream)
            assert starts[0].message == doing.message

    @rule(user=users, at=number, count=st.integers(1, 3), lost=seldom)
    def give(self, user: str, at: int, count: int, lost: bool) -> None:
        stream, calls = self.drawn_calls(at, count)
        given = [Given(call, f"result of {call}") for call in calls]
        errors = self.model.give_errors(user, stream, calls)
        doing = self.model.waits(stream)
        with self.deciding(lost):
            self.decide(lambda c: c.give(user, stream, given, NOW_MS), errors)
            if not errors and doing is not None:
                assert len([entry for entry in self.said if isinstance(entry, MessageAdded)]) == len(calls)
                self.took(doing)
                self.settle()

    @rule(user=users, at=number, count=st.integers(1, 3), why_not=st.sampled_from((None, None, "no", "")), lost=seldom)
    def approve(self, user: str, at: int, count: int, why_not: str | None, lost: bool) -> None:
        stream, calls = self.drawn_calls(at, count)
        doing = self.model.waits(stream)
        if doing is not None and at % 4:
            calls = [c.call_id for c in doing.calls.values() if c.server and c.approval] or calls
        errors = self.model.approve_errors(user, stream, calls)
        with self.deciding(lost):
            run = self.decide(lambda c: c.approve(user, stream, dict.fromkeys(calls, why_not), NOW_MS), errors)
            if errors or doing is None:
                return
            new = [call for call in dict.fromkeys(calls) if call not in {*doing.started, *doing.results}]
            assert [call.call_id for call in run] == (new if why_not is None else [])
            for call in run:
                self.model.start_tool(doing, call.call_id)
            self.took(doing)
            self.settle()

    @precondition(lambda self: any(doing.started for doing in self.model.busy))
    @rule(at=number, lost=seldom)
    def a_tool_ends(self, at: int, lost: bool) -> None:
        doing = self.any_of((doing for doing in self.model.busy if doing.started), at)
        call = self.any_of(sorted(doing.started), at)
        with self.deciding(lost):
            self.decide(lambda c: c.ran(c.session.turns[doing.id], Given(call, "done"), NOW_MS))
            assert bool(self.said) == (call not in doing.results)
            self.took(doing)
            self.settle()

    # ------------------------------------------------------------------ the session itself

    @rule(user=users, member=users, role=st.sampled_from(("owner", "editor", "viewer", None)), lost=seldom)
    def change_member(self, user: str, member: str, role: Any, lost: bool) -> None:
        errors = self.model.member_errors(user, member, role)
        with self.deciding(lost):
            if role is None:
                self.decide(lambda c: c.remove_member(user, member), errors)
            else:
                if self.model.members.get(member) == role and not self.model.barred(user, "owner"):
                    errors = set()  # nothing changes
                self.decide(lambda c: c.add_member(user, member, role), errors)
            if not errors:
                self.model.set_member(member, role)

    @rule(
        user=users, title=st.sampled_from((None, "", "a title")), model=st.sampled_from((None, "", "p/n")), lost=seldom
    )
    def update(self, user: str, title: str | None, model: str | None, lost: bool) -> None:
        errors = self.model.barred(user, "owner", "editor")
        with self.deciding(lost):
            self.decide(lambda c: c.update(user, title, None, model), errors)
            if not errors:
                changed = {"title": title, "model": model}
                session = self.conversation.session
                assert all(getattr(session, name) == said for name, said in changed.items() if said is not None)

    @precondition(lambda self: len(self.entries) > 40)
    @rule(user=users, sure=number, lost=seldom)
    def delete(self, user: str, sure: int, lost: bool) -> None:
        if sure % 8:
            return
        errors = self.model.barred(user, "owner")
        with self.deciding(lost):
            self.decide(lambda c: c.delete(user), errors)
            self.model.deleted = self.model.deleted or not errors

    @rule()
    def somebody_else_leads(self) -> None:
        self.conversation = self.fold()

    # ------------------------------------------------------------------ what always holds

    @invariant()
    def it_is_as_the_model_says(self) -> None:
        session, model = self.conversation.session, self.model
        assert seen(Session(self.entries)) == seen(session)
        assert session.members == model.members
        assert [(m.id, m.parent, m.role, m.content) for m in session.messages.values()] == [
            (name, *said) for name, said in model.messages.items()
        ]
        assert session.head == next(reversed(model.messages), None)
        assert [turn.id for turn in session.queue] == [doing.id for doing in model.queue]
        assert {t.id: (t.state, t.stream, t.message, set(t.missing)) for t in session.turns.values()} == {
            d.id: (d.state, d.stream, d.message, set(d.calls) - set(d.results)) for d in model.doing.values()
        }
        for key, sent in model.sent.items():
            assert session.sent(*key) == Sent(*sent)
        for name in session.messages:
            path = session.path(name)
            assert (path[0].parent, path[-1].id) == (None, name), "a message that nobody can reach"
        self.sound = True

    def teardown(self) -> None:
        if not self.sound or self.model.deleted:
            return
        for _ in range(100):
            if any(doing.state == "running" for doing in self.model.busy):
                self.answer(0, "complete", [], False)
            elif self.model.doing:
                self.stop(0, False)
        self.audit.finish()


def seen(session: Session) -> dict[str, Any]:
    """All that there is to a session."""
    return {name: getattr(session, name) for name in Session.__slots__}


Demands.TestCase.settings = settings(
    max_examples=int(os.environ.get("EVERSTREAM_TEST_EXAMPLES", "100")), stateful_step_count=40, print_blob=True
)


class TestDemands(Demands.TestCase):  # type: ignore[misc]
    """No lost, doubled or misplaced message; no turn that ends twice or never; no word from who has no right to it."""
