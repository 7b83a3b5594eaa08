"""What a session has to be, said a second time and in the plainest way: for machines that hold the real one to it.

`Audit` reads a session's entries as any client could, in order, and fails where they say what must never be said.
`Model` is told what is asked of a session, says which errors may answer it, and holds what it must look like after.
Neither shares a line of reasoning with `core.session` and `core.conversation`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from everstream.core.asking import Answered, Ask, Bounds
from everstream.core.events import Event
from everstream.core.session_events import (
    CallMade,
    MemberChanged,
    MessageAdded,
    SessionChanged,
    SessionMessage,
    ToolStart,
    TurnEnd,
    TurnQueued,
    TurnStart,
)

SENDERS = ("owner", "editor")


def must(fine: bool, why: str, entry: object) -> None:
    if not fine:
        raise AssertionError(f"{why}: {entry}")


@dataclass
class Course:
    """What became of a turn, as far as its entries tell."""

    state: str = "queued"
    streams: list[str] = field(default_factory=list)
    queued: TurnQueued | None = None
    message: str = ""
    answer: str | None = None
    answered: bool = False  # the stream that runs has its message
    calls: dict[str, CallMade] = field(default_factory=dict)
    results: list[str] = field(default_factory=list)  # calls
    last: str | None = None  # the message with the last result
    started: set[str] = field(default_factory=set)
    ends: int = 0


class Audit:
    def __init__(self, turns_max: int) -> None:
        self.turns_max = turns_max
        self.messages: dict[str, SessionMessage] = {}
        self.turns: dict[str, Course] = {}
        self.queue: list[str] = []
        self.members: dict[str, str] = {}
        self.requests: dict[tuple[str, str], str] = {}
        self.streams: dict[str, str] = {}
        self.due: str | None = None  # a user's message, which the next entry has to start a turn for
        self.deleted = False

    @property
    def busy(self) -> list[Course]:
        return [course for course in self.turns.values() if course.state in ("running", "waiting")]

    @property
    def open(self) -> list[str]:
        return [turn for turn, course in self.turns.items() if not course.ends]

    def take(self, entry: Event) -> None:
        must(not self.deleted, "something is said after the end of all", entry)
        if self.due is not None:
            must(isinstance(entry, TurnStart) and entry.message == self.due, "a message whose turn is lost", entry)
            self.due = None
        getattr(self, "_" + type(entry).__name__)(entry)

    def take_all(self, entries: Any) -> Audit:
        for entry in entries:
            self.take(entry)
        return self

    def _SessionChanged(self, entry: SessionChanged) -> None:
        self.deleted = entry.deleted

    def _MemberChanged(self, entry: MemberChanged) -> None:
        if entry.role is None:
            del self.members[entry.user]
        else:
            self.members[entry.user] = entry.role
        assert "owner" in self.members.values(), "nobody owns it any more"

    def _MessageAdded(self, entry: MessageAdded) -> None:
        said = entry.message
        must(said.id not in self.messages, "a message came twice", said)
        must(said.parent is None or said.parent in self.messages, "a message hangs in the air", said)
        self.messages[said.id] = said
        if said.role == "user":
            self.due = said.id
            return
        assert said.stream is not None
        course = self.turns[self.streams[said.stream]]
        must(course.streams[-1] == said.stream, "a message of a stream that is past", said)
        if said.role == "assistant":
            must(course.state == "running" and not course.answered, "a stream was answered twice", said)
            assert said.parent == course.message
            course.answered, course.answer = True, said.id
            if said.tool_calls and said.reason is None:
                course.state = "waiting"
                course.calls = {call.call_id: call for call in said.tool_calls}
                course.results, course.started, course.last = [], set(), None
        else:
            must(course.state == "waiting" and said.call_id in course.calls, "a result nobody waits for", said)
            must(said.call_id not in course.results, "a second result", said)
            assert said.parent == (course.last or course.answer)
            course.results.append(said.call_id)
            course.last = said.id

    def _remember(self, entry: TurnQueued | TurnStart) -> None:
        if entry.request_id is not None:
            first = self.requests.setdefault((entry.user, entry.request_id), entry.turn)
            must(first == entry.turn, "one request began two turns", entry)

    def _TurnQueued(self, entry: TurnQueued) -> None:
        must(entry.turn not in self.turns and entry.stream not in self.streams, "queued twice", entry)
        must(self.busy, "it waits for nothing", entry)
        assert 1 <= entry.position <= len(self.queue) + 1
        assert (entry.message in self.messages) == (entry.content is None)
        self._remember(entry)
        self.turns[entry.turn] = Course(streams=[entry.stream], queued=entry)
        self.streams[entry.stream] = entry.turn
        self.queue.insert(entry.position - 1, entry.turn)

    def _TurnStart(self, entry: TurnStart) -> None:
        must(self.messages[entry.message].role != "assistant", "an answer cannot be answered", entry)
        self._remember(entry)
        course = self.turns.setdefault(entry.turn, Course(state="new"))
        if course.queued is not None and course.state == "queued":
            must(self.queue[0] == entry.turn and not self.busy, "it was not its turn", entry)
            assert (entry.stream, entry.message) == (course.streams[0], course.queued.message)
            content = course.queued.content
            assert content is None or content == self.messages[entry.message].content
            del self.queue[0]
        else:
            must(entry.stream not in self.streams, "a stream for two", entry)
            course.streams.append(entry.stream)
            self.streams[entry.stream] = entry.turn
            if course.state == "waiting":
                must(
                    set(course.results) == set(course.calls) and entry.message == course.last,
                    "gone on too early",
                    entry,
                )
            else:
                must(course.state == "new", "begun again", entry)
        course.state, course.message, course.answered = "running", entry.message, False
        assert len(self.busy) <= self.turns_max

    def _ToolStart(self, entry: ToolStart) -> None:
        course = self.turns[entry.turn]
        call = course.calls[entry.call_id]
        must(course.state == "waiting" and course.streams[-1] == entry.stream, "a tool of another answer", entry)
        must(call.server and call.approval == (entry.user is not None), "not the server's to run", entry)
        must(entry.call_id not in course.started and entry.call_id not in course.results, "run twice", entry)
        course.started.add(entry.call_id)

    def _TurnEnd(self, entry: TurnEnd) -> None:
        course = self.turns[entry.turn]
        must(not course.ends, "a turn ended twice", entry)
        assert course.streams[-1] == entry.stream
        if course.state == "queued":
            must(entry.message is None and entry.reason == "cancelled", "it had not begun", entry)
            self.queue.remove(entry.turn)
        else:
            must(course.answered and entry.message == course.answer, "a turn ended without its answer", entry)
        course.ends += 1
        course.state = "ended"

    def finish(self) -> None:
        """Everything is quiet now."""
        assert self.due is None
        if not self.deleted:
            assert not self.open, ("turns that never ended", self.open)


@dataclass
class Doing:
    """A turn of the model that has not ended."""

    id: str
    user: str
    state: str
    stream: str
    message: str  # that is answered now
    content: Any = None  # of a queued message
    parent: str | None = None
    follows: bool = False
    hurried: bool = False  # it interrupts
    begun: int = 0  # streams so far
    own: set[str] = field(default_factory=set)  # messages that belong to it
    answer: str | None = None
    calls: dict[str, CallMade] = field(default_factory=dict)
    results: dict[str, str] = field(default_factory=dict)
    started: set[str] = field(default_factory=set)
    served: bool = False


class Model:
    """Expected errors are sets: any reason that holds may be the one that is told.  Empty: it has to be done."""

    def __init__(self, bounds: Bounds) -> None:
        self.bounds = bounds
        self.members: dict[str, str] = {}
        self.messages: dict[str, tuple[str | None, str, Any]] = {}  # parent, role, content; the newest last
        self.doing: dict[str, Doing] = {}
        self.queue: list[Doing] = []
        self.sent: dict[tuple[str, str], tuple[str, str, str]] = {}
        self.deleted = False
        self.titled = False

    @property
    def busy(self) -> list[Doing]:
        return [doing for doing in self.doing.values() if doing.state != "queued"]

    def barred(self, user: str, *roles: str) -> set[str]:
        if self.deleted or user not in self.members:
            return {"session.unknown"}
        return set() if self.members[user] in roles else {"auth.forbidden"}

    # ------------------------------------------------------------------ sending

    def send_errors(self, ask: Ask) -> set[str]:
        barred = self.barred(ask.user, *SENDERS)
        if barred:
            return barred
        wrong = set()
        if ask.content is None and (
            ask.parent is None or self.messages.get(ask.parent, ("", "", ""))[1] == "assistant"
        ):
            wrong.add("request.invalid")
        if ask.content is not None and not str(ask.content).strip():
            wrong.add("request.invalid")
        if ask.parent is not None and ask.parent not in self.messages:
            wrong.add("request.not_found")
        if len(self.messages) >= self.bounds.messages:
            wrong.add("request.invalid")
        if self.busy and ask.on_busy == "reject":
            wrong.add("session.busy")
        if self.busy and ask.on_busy in ("queue", "interrupt") and len(self.queue) >= self.bounds.queue:
            wrong.add("limit.streams")
        if ask.on_busy == "parallel" and len(self.busy) >= self.bounds.turns:
            wrong.add("limit.streams")
        return wrong

    def place(self) -> str | None:
        """Where what follows goes: behind the newest message that belongs to nothing that is under way."""
        name = next(reversed(self.messages), None)
        under_way = set().union(*(doing.own for doing in self.busy))
        while name is not None and name in under_way:
            name = self.messages[name][0]
        return name

    def send(self, ask: Ask, message: str, stream: str) -> None:
        doing = Doing(ask.turn, ask.user, "queued", stream, message, ask.content, ask.parent, ask.follows)
        if ask.request_id is not None:
            self.sent[ask.user, ask.request_id] = (ask.turn, message, stream)
        if self.busy and ask.on_busy != "parallel":
            doing.hurried = ask.on_busy == "interrupt"
            self.queue.insert(0 if doing.hurried else len(self.queue), doing)
        else:
            self._start(doing)
        self.doing[ask.turn] = doing

    def _start(self, doing: Doing) -> None:
        if doing.content is not None:
            self.messages[doing.message] = (self.place() if doing.follows else doing.parent, "user", doing.content)
            self.titled = True
        doing.own.add(doing.message)
        doing.state, doing.begun = "running", doing.begun + 1

    def hurry(self) -> list[str]:
        """Turns that have to end because another one interrupts them: those that were there before it."""
        names = list(self.doing)
        last = max((names.index(doing.id) for doing in self.queue if doing.hurried), default=-1)
        return [name for name in names[: last + 1] if self.doing[name].state != "queued"]

    # ------------------------------------------------------------------ answers and ends

    def answered(self, turn: str, answer: Answered, message: str) -> str | None:
        """The reason with which the turn is over; None: it waits."""
        doing = self.doing[turn]
        self.messages[message] = (doing.message, "assistant", answer.text)
        doing.own.add(message)
        doing.answer = message
        calls = list(answer.calls) if answer.reason == "complete" else []
        if not calls:
            del self.doing[turn]
            return answer.reason
        rounds = self.bounds.messages
        if doing.served or any(call.server for call in calls):
            rounds = self.bounds.tool_rounds
        if doing.begun >= rounds:
            del self.doing[turn]
            return "budget"
        doing.state, doing.calls, doing.results, doing.started = "waiting", {c.call_id: c for c in calls}, {}, set()
        return None

    def end(self, turn: str) -> None:
        doing = self.doing.pop(turn)
        if doing in self.queue:
            self.queue.remove(doing)

    def advance(self) -> None:
        if self.queue and not self.busy and not self.deleted:
            self._start(self.queue.pop(0))

    # ------------------------------------------------------------------ tools

    def waits(self, stream: str) -> Doing | None:
        return next((d for d in self.doing.values() if d.stream == stream and d.state == "waiting"), None)

    def give_errors(self, user: str, stream: str, calls: list[str]) -> set[str]:
        barred = self.barred(user, *SENDERS)
        doing = self.waits(stream)
        if barred or doing is None:
            return barred or {"request.not_found"}
        wrong = {"request.not_found" for call in calls if call not in doing.calls}
        for call in calls:
            if calls.count(call) > 1 or call in doing.results or (call in doing.calls and doing.calls[call].server):
                wrong.add("request.invalid")
        return wrong

    def approve_errors(self, user: str, stream: str, calls: list[str]) -> set[str]:
        barred = self.barred(user, *SENDERS)
        doing = self.waits(stream)
        if barred or doing is None:
            return barred or {"request.not_found"}
        wrong = {"request.not_found" for call in calls if call not in doing.calls}
        wrong |= {
            "request.invalid"
            for call in calls
            if call in doing.calls and not (doing.calls[call].server and doing.calls[call].approval)
        }
        return wrong

    def result(self, doing: Doing, call: str, content: str, message: str) -> None:
        parent = next(reversed(doing.results.values()), doing.answer)
        self.messages[message] = (parent, "tool", content)
        doing.own.add(message)
        doing.results[call] = message

    def start_tool(self, doing: Doing, call: str) -> None:
        doing.started.add(call)
        doing.served = True

    def complete(self, doing: Doing) -> bool:
        return set(doing.results) == set(doing.calls)

    def go_on(self, doing: Doing, stream: str) -> None:
        doing.stream, doing.message = stream, next(reversed(doing.results.values()))
        doing.calls, doing.results, doing.started = {}, {}, set()
        self._again(doing)

    def _again(self, doing: Doing) -> None:
        doing.state, doing.begun = "running", doing.begun + 1

    # ------------------------------------------------------------------ members

    def member_errors(self, user: str, member: str, role: str | None) -> set[str]:
        """`role` None: somebody is to go, which everybody may do of himself."""
        leaves = role is None and member == user
        barred = self.barred(user, *(("owner", "editor", "viewer") if leaves else ("owner",)))
        if barred:
            return barred
        wrong = set()
        owners = [name for name, held in self.members.items() if held == "owner"]
        if role != "owner" and owners == [member]:
            wrong.add("request.invalid")
        if role is None and member not in self.members:
            wrong.add("request.not_found")
        if role is not None and member not in self.members and len(self.members) >= self.bounds.members:
            wrong.add("limit.streams")
        return wrong

    def set_member(self, member: str, role: str | None) -> None:
        if role is None:
            del self.members[member]
        else:
            self.members[member] = role
