"""The session's reducer: its rules as data, and the same session whatever happens to the frames on their way."""

from __future__ import annotations

import json
from collections import deque
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from everstream.reducer import Frame, Verdict
from everstream.session_reducer import QUEUED, SessionState, session_in

CASES: list[dict[str, Any]] = json.loads((Path(__file__).parent / "session_cases.json").read_text("utf-8"))
SESSION = "s_1"


@pytest.mark.parametrize("case", CASES, ids=[case["name"].replace(" ", "-") for case in CASES])
def test_the_case_of_a_session_comes_out_as_it_says(case: dict[str, Any]) -> None:
    start = case.get("start", {"epoch": None, "offset": 0})
    state = SessionState(case["session"], start["epoch"], start["offset"], case["user"])
    verdicts, actions = [], []
    for frame in case["frames"]:
        verdict = state.apply(frame)
        verdicts.append(verdict.value)
        if verdict is Verdict.HOLE:
            actions.append({"subscribe": {"stream": state.session, "epoch": state.epoch, "offset": state.offset}})
    assert {
        "title": state.title,
        "system": state.system,
        "model": state.model,
        "role": state.role,
        "members": state.members,
        "messages": list(state.messages),
        "path": [message["id"] for message in state.path()],
        "more": state.more,
        "turns": [turn.shown() for turn in state.turns.values() if turn.state != QUEUED],
        "queue": [state.turns[turn].shown() for turn in state.queue],
        "users": [user["id"] for user in state.users],
        "deleted": state.deleted,
        "position": {"epoch": state.epoch, "offset": state.offset},
        "actions": actions,
        "verdicts": verdicts,
    } == case["expect"]


def test_every_case_of_a_session_has_a_name_of_its_own() -> None:
    assert len({case["name"] for case in CASES}) == len(CASES)


# --------------------------------------------------------------------------- a session that could have been


class Play:
    """Chance says what happens next; what it says is something that a server could."""

    def __init__(self, draw: st.DataObject) -> None:
        self.draw = draw
        self.entries: list[Frame] = [self.entry("session", created=1), self.entry("member", user="ann", role="owner")]
        self.messages: list[str] = []
        self.running: list[tuple[str, str, str]] = []  # turn, stream, what it answers
        self.queue: list[tuple[str, str, str]] = []
        self.waiting: list[tuple[str, str, str, list[str]]] = []  # …, calls without a result
        self.names = 0

    def entry(self, kind: str, **fields: Any) -> Frame:
        return {"type": kind, "session": SESSION, **fields}

    def say(self, kind: str, **fields: Any) -> None:
        self.entries.append(self.entry(kind, **fields))

    def name(self, kind: str) -> str:
        self.names += 1
        return f"{kind}_{self.names}"

    def message(self, role: str, parent: str | None, **fields: Any) -> str:
        name = self.name("m")
        said = {"id": name, "parent": parent, "role": role, "author": "ann", "content": name, "created": self.names}
        self.say("message", message={**said, **fields})
        self.messages.append(name)
        return name

    def start(self, turn: str, stream: str, message: str) -> None:
        self.say("turn_start", turn=turn, stream=stream, model="a/b", message=message, user="ann")
        self.running.append((turn, stream, message))

    def ask(self) -> None:
        parent = self.draw.draw(st.sampled_from([None, *self.messages]))
        self.start(self.name("t"), self.name("r"), self.message("user", parent))

    def enqueue(self) -> None:
        turn, stream, message = self.name("t"), self.name("r"), self.name("m")
        at = self.draw.draw(st.sampled_from([0, len(self.queue)]))
        where = {"turn": turn, "stream": stream, "position": at + 1, "message": message, "content": "later"}
        self.say("turn_queued", model="a/b", user="ann", follows=True, **where)
        self.queue.insert(at, (turn, stream, message))

    def take_from_queue(self) -> None:
        if not self.queue:
            return
        if self.draw.draw(st.booleans()):
            turn, stream, message = self.queue.pop(0)
            said = {"id": message, "parent": None, "role": "user", "author": "ann", "content": "later", "created": 1}
            self.say("message", message=said)
            self.messages.append(message)
            self.start(turn, stream, message)
        else:
            turn, stream, _ = self.queue.pop(self.draw.draw(st.integers(0, len(self.queue) - 1)))
            self.say("turn_end", turn=turn, stream=stream, reason="cancelled", message=None)

    def answer(self) -> None:
        if not self.running:
            return
        turn, stream, asked = self.running.pop(self.draw.draw(st.integers(0, len(self.running) - 1)))
        calls = [self.name("c") for _ in range(self.draw.draw(st.integers(0, 2)))]
        made = [{"call_id": call, "name": "f", "arguments": "{}"} for call in calls]
        answer = self.message("assistant", asked, stream=stream, **({"tool_calls": made} if made else {}))
        if calls:
            self.waiting.append((turn, stream, answer, calls))
        else:
            self.say("turn_end", turn=turn, stream=stream, reason="complete", message=answer)

    def give(self) -> None:
        if not self.waiting:
            return
        turn, stream, last, calls = self.waiting.pop()
        if self.draw.draw(st.booleans()):
            self.say("tool_start", turn=turn, stream=stream, call_id=calls[0], user=None)
        result = self.message("tool", last, stream=stream, call_id=calls.pop(0))
        if calls:
            self.waiting.append((turn, stream, result, calls))
        else:
            self.start(turn, self.name("r"), result)

    def change(self) -> None:
        self.say("session", title=self.name("title"))

    def admit(self) -> None:
        user = self.draw.draw(st.sampled_from(["bob", "eve"]))
        self.say("member", user=user, role=self.draw.draw(st.sampled_from(["editor", "viewer", None])))

    def strange(self) -> None:
        self.say("reaction", message="m_1")


STEPS = ["ask", "enqueue", "take_from_queue", "answer", "give", "change", "admit", "strange"]


def played(draw: st.DataObject) -> list[Frame]:
    play = Play(draw)
    for step in draw.draw(st.lists(st.sampled_from(STEPS), max_size=25)):
        getattr(play, step)()
    return [{**entry, "after": at, "upto": at + 1} for at, entry in enumerate(play.entries)]


def held(state: SessionState) -> Frame:
    """All that it holds; an epoch may be learnt sooner or later."""
    frame = {**state.snapshot(), "epoch": None}
    return {**frame, "branches": {name: [m["id"] for m in state.branches(name)] for name in (None, *state.messages)}}


def folded(entries: list[Frame]) -> SessionState:
    state = SessionState(SESSION, 9, user="ann")
    for entry in entries:
        assert state.apply(entry) is Verdict.APPLIED
    return state


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_doubled_lost_and_reordered_frames_make_the_same_session_once_holes_are_asked_about(
    data: st.DataObject,
) -> None:
    entries = played(data)
    truth = held(folded(entries))
    state = SessionState(SESSION, user="ann")
    road = deque(data.draw(st.lists(st.sampled_from(entries), max_size=40)))
    asked = 0
    while road or state.offset < len(entries):
        if not road:  # all that was under way has come: the connection is lost, and `hello` asks again
            road.extend(answer_to(state, entries, data))
        before = state.offset
        verdict = state.apply(road.popleft())
        assert state.offset >= before or verdict is Verdict.REPLACED
        if verdict is Verdict.HOLE:
            asked += 1
            road.extend(answer_to(state, entries, data))
        assert asked <= 2 * len(entries) + 40
    assert held(state) == truth


def answer_to(state: SessionState, entries: list[Frame], data: st.DataObject) -> list[Frame]:
    """What a server sends to one who subscribes from `state`: what follows, or now and then a snapshot of any place."""
    if data.draw(st.integers(0, 4)) == 0:
        upto = data.draw(st.integers(state.offset, len(entries)))
        return [folded(entries[:upto]).snapshot(), *entries[upto:]]
    subscribed = {"type": "subscribed", "stream": SESSION, "epoch": 9, "offset": state.offset, "tail": len(entries)}
    return [{**subscribed, "status": "open"}, *entries[state.offset :]]


@settings(max_examples=100, deadline=None)
@given(st.data())
def test_a_reply_whose_lists_are_newer_than_its_place_comes_to_the_same_session(data: st.DataObject) -> None:
    """`session.open` with an offset: messages end there, turns and members are as of now, and all entries follow."""
    entries = played(data)
    truth = folded(entries)
    offset = data.draw(st.integers(0, len(entries)))
    now, then = truth.snapshot(), folded(entries[:offset]).snapshot()
    newer = {name: now[name] for name in ("title", "system", "model", "members", "running", "role")}
    state = SessionState(SESSION, user="ann")
    reply = {**then, **newer, "type": "ok", "id": 1}
    assert state.apply(reply) is Verdict.REPLACED
    for entry in entries[offset:]:
        assert state.apply(entry) is Verdict.APPLIED
    found, wanted = held(state), held(truth)
    for frame in (found, wanted):  # lists of turns that run, and of members, are in no order
        frame["running"] = {turn["turn"]: turn for turn in frame["running"]}
        frame["members"] = {member["user"]: member["role"] for member in frame["members"]}
    assert found == wanted
    assert state.queue == truth.queue


@settings(max_examples=100, deadline=None)
@given(st.data())
def test_a_snapshot_of_a_session_is_the_session(data: st.DataObject) -> None:
    state, copy = folded(played(data)), SessionState(SESSION, user="ann")
    assert copy.apply(json.loads(json.dumps(state.snapshot()))) is Verdict.REPLACED
    assert held(copy) == held(state)


def test_pages_of_history_are_put_in_front_and_lengthen_the_path() -> None:
    def message(number: int) -> Frame:
        return {"id": f"m_{number}", "parent": f"m_{number - 1}" if number else None, "role": "user", "content": "x"}

    every = [message(number) for number in range(10)]
    state = SessionState(SESSION)
    state.apply({"type": "ok", "session": SESSION, "offset": 30, "messages": every[6:], "more": True, "running": []})
    assert [m["id"] for m in state.path()] == ["m_6", "m_7", "m_8", "m_9"]
    state.older(every[3:7], more=True)  # one of them is known
    assert [m["id"] for m in state.path("m_8")] == [f"m_{n}" for n in range(3, 9)]
    state.older(every[:3], more=False)
    assert list(state.messages) == [m["id"] for m in every]
    assert [m["id"] for m in state.branches(None)] == ["m_0"]
    assert (state.newest, state.more) == ("m_9", False)
    with pytest.raises(KeyError):
        state.path("m_10")


def test_what_a_frame_is_about_is_told_by_its_own_names() -> None:
    place = {"session": "s_1", "after": 4, "upto": 5}
    assert session_in({"type": "turn_start", "stream": "r_1", **place}) == "s_1"
    assert session_in({"type": "message", "stream": "s_1", **place}) == "s_1"
    assert session_in({"type": "of_a_later_version", "stream": "r_1", **place}) == "s_1"
    assert session_in({"type": "request_start", "stream": "r_1", **place}) is None
    assert session_in({"type": "presence", "session": "s_1"}) == "s_1"
    assert session_in({"type": "snapshot", "stream": "s_1"}) == "s_1"
    assert session_in({"type": "accepted", "session": "s_1", "stream": "r_1"}) is None
    assert session_in({"type": "delta_text", "stream": "r_1"}) is None
    assert session_in({"type": "pong"}) is None
