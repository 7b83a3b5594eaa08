"""What is decided in a session: who may say what, which turn starts, which waits, when one ends.

A `Conversation` is a session as its leader holds it.  Each method checks what is asked, and then *says* the entries
that follow from it: they are applied to `session` at once and wait in `take` for whoever writes them to the log.  A
method that raises has said nothing.  So every decision is made on top of all earlier ones, stored or not, and a leader
that is deposed throws the whole conversation away.

A turn that is to run is said (`turn_start`) before its provider is asked, and its stream exists before it is said.  An
adopter finds in the entries alone what has to go on: turns that run have their streams, turns that wait their missing
results, queued ones their place.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import msgspec

from everstream.core.asking import Answered, Ask, Bounds, Content, Given, says_something, title_of
from everstream.core.errors import EverstreamError
from everstream.core.events import Cost, EndReason, Event, Usage
from everstream.core.session import Sent, Session, Turn
from everstream.core.session_events import (
    CallMade,
    MemberChanged,
    MessageAdded,
    Role,
    SessionChanged,
    SessionMessage,
    ToolStart,
    TurnEnd,
    TurnQueued,
    TurnStart,
)

SERVER = "server"  # the author of results that the server has made itself
DENIED = "This tool was not allowed to run."

MakeId = Callable[[str], str]  # of a kind: m for a message, r for a stream
LeftOut = Callable[[Session, Turn], int]  # how many of the oldest messages a turn has no room for
Account = Callable[[], tuple[Usage | None, Cost | None]]  # what all streams of a turn have used


class Conversation:
    def __init__(self, session: Session, bounds: Bounds, make_id: MakeId, left_out: LeftOut) -> None:
        self.session = session
        self._bounds = bounds
        self._make_id = make_id
        self._left_out = left_out
        self._said: list[Event] = []

    def take(self) -> list[Event]:
        """What was said since the last call."""
        said, self._said = self._said, []
        return said

    def _say(self, entry: Event) -> None:
        self.session.apply(entry)
        self._said.append(entry)

    # ------------------------------------------------------------------ the session itself

    def create(self, user: str, changed: SessionChanged, members: Mapping[str, Role]) -> None:
        """Say the first entries.  `changed` has `created`."""
        if len(members) + (user not in members) > self._bounds.members:
            raise EverstreamError("limit.streams", f"a session may have {self._bounds.members} members")
        self._say(changed)
        self._say(MemberChanged(user, "owner"))
        for member, role in members.items():
            if member != user:
                self._say(MemberChanged(member, role, user))

    def update(self, user: str, title: str | None, system: str | None, model: str | None) -> None:
        session = self.session
        session.demand(user, "update")
        changed = SessionChanged(
            title if title != session.title else None,
            system if system != session.system else None,
            model if model != session.model else None,
        )
        if changed != SessionChanged():
            self._say(msgspec.structs.replace(changed, by=user))

    def delete(self, user: str) -> None:
        self.session.demand(user, "delete")
        self._say(SessionChanged(deleted=True, by=user))

    def add_member(self, user: str, member: str, role: Role) -> None:
        session = self.session
        session.demand(user, "invite")
        if member not in session.members and len(session.members) >= self._bounds.members:
            raise EverstreamError("limit.streams", f"a session may have {self._bounds.members} members")
        if session.members.get(member) == role:
            return
        if role != "owner":
            self._keep_an_owner(member)
        self._say(MemberChanged(member, role, user))

    def remove_member(self, user: str, member: str) -> None:
        session = self.session
        session.demand(user, "read" if member == user else "invite")
        if member not in session.members:
            raise EverstreamError("request.not_found", "nobody of that name is a member")
        self._keep_an_owner(member)
        self._say(MemberChanged(member, None, user))

    def _keep_an_owner(self, member: str) -> None:
        if self.session.owners == [member]:
            raise EverstreamError("request.invalid", "a session needs an owner: name another one first")

    # ------------------------------------------------------------------ turns

    def send(self, ask: Ask, now_ms: int) -> Sent:
        """A message, or an old one to be answered anew: it starts a turn, or queues one.  The same again: the same."""
        session = self.session
        session.demand(ask.user, "send")
        before = session.sent(ask.user, ask.request_id)
        if before is not None:
            return before
        model = ask.model or session.model
        if not model:
            raise EverstreamError("request.invalid", "`model` is missing, and the session has none")
        if len(session.messages) >= self._bounds.messages:
            raise EverstreamError("request.invalid", "this session is full: begin a new one")
        self._check_place(ask)
        busy = session.busy
        if busy and ask.on_busy == "reject":
            raise EverstreamError("session.busy", "an answer is under way in this session")
        if busy and ask.on_busy != "parallel":
            return self._enqueue(ask, model)
        if len(busy) >= self._bounds.turns:
            raise EverstreamError("limit.streams", f"a session may run {self._bounds.turns} turns at once")
        parent = self._anchor() if ask.follows else ask.parent
        stream = self._make_id("r")
        message = parent if ask.content is None else self._make_id("m")
        assert message is not None, "a message without content names the one to be answered"
        if ask.content is not None:
            self._add_message(message, parent, ask.user, ask.content, now_ms)
        self._begin(Turn(ask.turn, stream, model, message, ask.user, "running", ask.request_id))
        return Sent(ask.turn, message, stream)

    def _check_place(self, ask: Ask) -> None:
        """Raises EverstreamError where the message cannot go where it is to go."""
        session = self.session
        if ask.content is None:
            if ask.parent is None or ask.follows:
                raise EverstreamError("request.invalid", "`content` is missing, or `parent`: what is to be answered")
        elif not says_something(ask.content):
            raise EverstreamError("request.invalid", "`content` is empty")
        if ask.parent is None:
            return
        there = session.messages.get(ask.parent)
        if there is None:
            raise EverstreamError("request.not_found", "`parent` names no message of this session")
        if ask.content is None and there.role == "assistant":
            raise EverstreamError("request.invalid", "`parent` is an answer: name the message that it answers")

    def _anchor(self) -> str | None:
        """The end of the newest path, but for what belongs to a turn that is under way there."""
        session = self.session
        questions = {turn.question for turn in session.busy}
        streams = {stream for turn in session.busy for stream in turn.streams}
        name = session.head
        while name is not None and (name in questions or session.messages[name].stream in streams):
            name = session.messages[name].parent
        return name

    def _enqueue(self, ask: Ask, model: str) -> Sent:
        queue = self.session.queue
        if len(queue) >= self._bounds.queue:
            raise EverstreamError("limit.streams", f"{self._bounds.queue} turns may wait in a session")
        anew = ask.content is None
        message = ask.parent if anew else self._make_id("m")
        assert message is not None, "a message without content names the one to be answered"
        entry = TurnQueued(
            ask.turn,
            1 if ask.on_busy == "interrupt" else len(queue) + 1,
            self._make_id("r"),
            model,
            ask.user,
            message,
            ask.content,
            None if anew else ask.parent,
            ask.follows,
            ask.on_busy == "interrupt",
            ask.request_id,
        )
        self._say(entry)
        return Sent(entry.turn, message, entry.stream)

    def _add_message(self, name: str, parent: str | None, user: str, content: Content, now_ms: int) -> None:
        session = self.session
        if not session.title:
            title = title_of(content)
            if title:
                self._say(SessionChanged(title=title))
        self._say(MessageAdded(SessionMessage(name, parent, "user", user, content, now_ms)))

    def _begin(self, turn: Turn) -> None:
        """Say that a turn's next stream begins."""
        left_out = self._left_out(self.session, turn)
        entry = TurnStart(turn.id, turn.stream, turn.model, turn.message, turn.user, turn.request_id, left_out)
        self._say(entry)

    def advance(self, now_ms: int) -> Turn | None:
        """Start the next queued turn, where nothing runs; the turn that was started."""
        session = self.session
        if not session.queue or session.busy or session.deleted:
            return None
        turn = session.queue[0]
        queued = turn.queued
        assert queued is not None, "a queued turn has an entry that says so"
        if queued.content is not None:
            parent = self._anchor() if queued.follows else queued.parent
            self._add_message(turn.message, parent, turn.user, queued.content, now_ms)
        self._begin(turn)
        return turn

    def interrupted(self) -> list[tuple[Turn, str]]:
        """Turns that have to end because a queued one interrupts them, and whose that is: those that were there before.

        Whoever adopts the session reads this from its entries too.
        """
        hurried: str | None = None
        found = []
        for turn in reversed(self.session.turns.values()):
            if turn.queued is not None and turn.state == "queued" and turn.queued.interrupt:
                hurried = turn.user
            elif turn.state != "queued" and hurried is not None:
                found.append((turn, hurried))
        return found[::-1]

    def answered(
        self,
        turn: Turn,
        answer: Answered,
        now_ms: int,
        by: str | None,
        account: Account,
    ) -> None:
        """The stream of a turn has ended: its answer is a message now.  `by` has stopped it; `account` is the turn's.

        Where it calls tools the turn waits for their results.
        """
        name = self._make_id("m")
        whole = answer.reason == "complete"
        calls = list(answer.calls) if whole else []
        self._say(
            MessageAdded(
                SessionMessage(
                    name,
                    turn.message,
                    "assistant",
                    turn.model,
                    answer.text,
                    now_ms,
                    stream=turn.stream,
                    tool_calls=calls or None,
                    thinking=answer.thinking or None,
                    reason=None if whole else answer.reason,
                )
            )
        )
        if calls and len(turn.streams) < self._rounds(turn, calls):
            return
        reason: EndReason = "budget" if calls else answer.reason
        usage, cost = account()
        self._say(TurnEnd(turn.id, turn.stream, reason, name, by, answer.finish_reason, usage, cost, answer.error))

    def _rounds(self, turn: Turn, calls: Sequence[CallMade]) -> int:
        """How many answers a turn may have.  Where people give the results, they are bound enough."""
        served = turn.served or any(call.server for call in calls)
        return self._bounds.tool_rounds if served else self._bounds.messages

    def end(self, turn: Turn, reason: EndReason, by: str | None, account: Account) -> None:
        """End a turn that does not run: one that is queued, or waits for results."""
        if turn.state == "queued":
            self._say(TurnEnd(turn.id, turn.stream, reason, None, by))
            return
        usage, cost = account()
        self._say(TurnEnd(turn.id, turn.stream, reason, turn.answer, by, None, usage, cost))

    # ------------------------------------------------------------------ tools

    def give(self, user: str, stream: str, results: Sequence[Given], now_ms: int) -> Turn:
        """Results of tools, from a member.  Raises EverstreamError, and then none of them counts."""
        self.session.demand(user, "approve")
        turn = self._waiting(stream)
        calls = [self._call(turn, given.call_id) for given in results]
        if len({call.call_id for call in calls}) < len(calls):
            raise EverstreamError("request.invalid", "two results for one call")
        for call in calls:
            if call.server:
                raise EverstreamError("request.invalid", "the server runs this tool: it can be approved or not")
            if call.call_id in turn.results:
                raise EverstreamError("request.invalid", "this call has its result already")
        for given in results:
            self._add_result(turn, given, user, now_ms)
        self._go_on(turn)
        return turn

    def approve(self, user: str, stream: str, approvals: Mapping[str, str | None], now_ms: int) -> list[CallMade]:
        """Decide on calls: None allows one, a text forbids it and says why.  Those that are to be run now.

        A repetition changes nothing.
        """
        self.session.demand(user, "approve")
        turn = self._waiting(stream)
        calls = [self._call(turn, call_id) for call_id in approvals]
        for call in calls:
            if not (call.server and call.approval):
                raise EverstreamError("request.invalid", "this call needs nobody's approval")
        run = []
        for call in calls:
            if call.call_id in turn.started or call.call_id in turn.results:
                continue
            why_not = approvals[call.call_id]
            if why_not is None:
                run.append(call)
            else:
                self._add_result(turn, Given(call.call_id, why_not or DENIED, True), user, now_ms)
        for call in run:
            self._say(ToolStart(turn.id, turn.stream, call.call_id, user))
        self._go_on(turn)
        return run

    def begin_tools(self, turn: Turn) -> list[CallMade]:
        """Say that the server runs those tools of a waiting turn that need no approval; which they are."""
        run = [
            call
            for call in turn.calls.values()
            if call.server and not call.approval and call.call_id not in {*turn.started, *turn.results}
        ]
        for call in run:
            self._say(ToolStart(turn.id, turn.stream, call.call_id, None))
        return run

    def ran(self, turn: Turn, result: Given, now_ms: int) -> None:
        """A tool that the server ran has ended."""
        if result.call_id in turn.calls and result.call_id not in turn.results:
            self._add_result(turn, result, SERVER, now_ms)
            self._go_on(turn)

    def _waiting(self, stream: str) -> Turn:
        turn = self.session.turn_of(stream)
        if turn is None or turn.state != "waiting" or turn.stream != stream:
            raise EverstreamError("request.not_found", "no turn of this session waits for results of this stream")
        return turn

    def _call(self, turn: Turn, call_id: str) -> CallMade:
        call = turn.calls.get(call_id)
        if call is None:
            raise EverstreamError("request.not_found", "this answer has no such call")
        return call

    def _add_result(self, turn: Turn, given: Given, author: str, now_ms: int) -> None:
        parent = next(reversed(turn.results.values()), turn.answer)
        message = SessionMessage(
            self._make_id("m"),
            parent,
            "tool",
            author,
            given.content,
            now_ms,
            stream=turn.stream,
            call_id=given.call_id,
            is_error=given.is_error,
        )
        self._say(MessageAdded(message))

    def _go_on(self, turn: Turn) -> None:
        """Where all results are there, the turn's next stream begins."""
        if turn.missing or not turn.results:
            return
        turn.stream, turn.message = self._make_id("r"), next(reversed(turn.results.values()))
        self._begin(turn)
