"""A conversation, folded from its own stream: members, messages, turns.

Messages are a tree by `parent`; a viewer chooses his path through it, and the model is asked with the path that ends
with the message to be answered.  A turn is what one `generate` sets going:

    queued ──▶ running ──▶ ended
                 │  ▲
                 ▼  │ results of tools
               waiting

Nothing is decided here: whatever the entries say is taken as it is, in their order, so that all who read them hold
the same.  What may be said next is for `core.conversation`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import msgspec

from everstream.core.errors import EverstreamError
from everstream.core.events import Event, Message, TextPart, ToolCall
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

Right = Literal["read", "send", "stop", "approve", "update", "invite", "delete"]
TurnState = Literal["queued", "running", "waiting"]

RIGHTS: dict[Role, frozenset[Right]] = {
    "owner": frozenset(("read", "send", "stop", "approve", "update", "invite", "delete")),
    "editor": frozenset(("read", "send", "stop", "approve", "update")),
    "viewer": frozenset(("read",)),
}
REQUESTS_MAX = 10_000  # that a session remembers: more than its messages, in most
_OF_QUEUED = ("content", "parent", "follows", "interrupt")
NOT_RUN = "This tool was not run: the user went on without it."


@dataclass(slots=True)
class Turn:
    """A turn that has not ended.

    `question` is the message it began with, `message` what its stream answers; `calls` are those of its last answer.
    """

    id: str
    stream: str
    model: str
    message: str
    user: str
    state: TurnState
    request_id: str | None = None
    queued: TurnQueued | None = None
    left_out: int = 0
    streams: list[str] = field(default_factory=list)  # all that it has had so far
    answer: str | None = None  # the id of its last answer
    calls: dict[str, CallMade] = field(default_factory=dict)
    results: dict[str, str] = field(default_factory=dict)  # call_id -> the message with its result
    started: dict[str, str | None] = field(default_factory=dict)  # calls that the server began to run, and who let it
    served: bool = False  # the server has run a tool in it
    question: str = ""

    def __post_init__(self) -> None:
        self.question = self.question or self.message

    @property
    def missing(self) -> list[str]:
        """The calls without a result."""
        return [call_id for call_id in self.calls if call_id not in self.results]

    def shown(self) -> dict[str, Any]:
        """As `running` of the protocol has it, but for the stream's epoch."""
        fields: dict[str, Any] = {"turn": self.id, "stream": self.stream, "model": self.model}
        fields |= {"message": self.message, "user": self.user, "state": self.state}
        if self.request_id is not None:
            fields["request_id"] = self.request_id
        if self.left_out:
            fields["left_out"] = self.left_out
        if self.state == "queued" and self.queued is not None:
            told = msgspec.structs.asdict(self.queued)
            fields |= {name: told[name] for name in _OF_QUEUED if told[name]}
        if self.state == "waiting":
            fields |= {"missing": self.missing, "started": sorted(self.started)}
        return fields


@dataclass(frozen=True, slots=True)
class Sent:
    """What a request has set going: the first reply to it, and to all its repetitions."""

    turn: str
    message: str
    stream: str


class Session:
    """The sum of a session's entries, in order."""

    __slots__ = (
        "_after_results",
        "_requests",
        "_turn_of",
        "created",
        "deleted",
        "head",
        "members",
        "messages",
        "model",
        "queue",
        "system",
        "title",
        "turns",
        "updated",
    )

    def __init__(self, entries: Iterable[Event] = ()) -> None:
        self.title = ""
        self.system = ""
        self.model = ""
        self.created = 0  # ms; 0: nothing was said yet
        self.updated = 0  # ms, of the last message
        self.deleted = False
        self.members: dict[str, Role] = {}
        self.messages: dict[str, SessionMessage] = {}
        self.head: str | None = None  # the end of the newest path
        self.turns: dict[str, Turn] = {}  # that have not ended
        self.queue: list[Turn] = []  # those of them that wait for others, the next first
        self._turn_of: dict[str, Turn] = {}  # by each stream of a turn that has not ended
        self._requests: dict[tuple[str, str], Sent] = {}
        self._after_results: dict[str, Sent] = {}  # by stream: what went on with the results of its calls
        for entry in entries:
            self.apply(entry)

    # ------------------------------------------------------------------ who may what

    def may(self, user: str, right: Right) -> bool:
        role = self.members.get(user)
        return role is not None and right in RIGHTS[role] and not self.deleted

    def demand(self, user: str, right: Right) -> None:
        """Raises EverstreamError `session.unknown` for who is no member, `auth.forbidden` for one who may not."""
        if not self.may(user, "read"):
            raise unknown()
        if not self.may(user, right):
            raise EverstreamError("auth.forbidden", f"as {self.members[user]} of this session you may not do this")

    # ------------------------------------------------------------------ what is there

    def sent(self, user: str, request_id: str | None) -> Sent | None:
        """What this request of this user has set going before."""
        return None if request_id is None else self._requests.get((user, request_id))

    def gone_on(self, stream: str, results: Mapping[str, tuple[Any, bool]]) -> Sent | None:
        """What went on with these very results (content, is_error) of a stream's calls, where something has."""
        sent = self._after_results.get(stream)
        if sent is None:
            return None
        known = {
            message.call_id: (message.content, message.is_error)
            for message in self.messages.values()
            if message.stream == stream and message.role == "tool"
        }
        return sent if all(known.get(call_id) == result for call_id, result in results.items()) else None

    def turn_of(self, stream: str) -> Turn | None:
        """The turn that a stream belongs to, where that has not ended."""
        return self._turn_of.get(stream)

    @property
    def busy(self) -> list[Turn]:
        """Turns that run, or wait for results."""
        return [turn for turn in self.turns.values() if turn.state != "queued"]

    @property
    def owners(self) -> list[str]:
        return [user for user, role in self.members.items() if role == "owner"]

    def path(self, message: str | None) -> list[SessionMessage]:
        """The messages from the first one to this one."""
        found = []
        while message is not None and (there := self.messages.get(message)) is not None:
            found.append(there)
            message = there.parent
        return found[::-1]

    def page(self, before: str | None, limit: int) -> tuple[list[SessionMessage], bool]:
        """The last messages (before one), in their order, and whether there are earlier ones.

        Raises EverstreamError `request.not_found` for a message that is not there.
        """
        every = list(self.messages)
        end = len(every)
        if before is not None:
            if before not in self.messages:
                raise EverstreamError("request.not_found", "`before` names no message of this session")
            end = every.index(before)
        first = max(end - limit, 0)
        return [self.messages[name] for name in every[first:end]], first > 0

    def asked(self, message: str) -> list[Message]:
        """What a model is asked to answer this message: the path to it, in the protocol's messages.

        Answers that say nothing are left out, and calls that nobody has given a result for get one that says so.
        """
        path = self.path(message)
        said: list[Message] = []
        open_calls: dict[str, None] = {}
        for item in path:
            if item.role != "tool":
                said += not_run(open_calls)
                open_calls = {}
            if item.role == "assistant":
                if not item.content and not item.tool_calls:
                    continue
                calls = [ToolCall(call.call_id, call.name, call.arguments) for call in item.tool_calls or ()]
                open_calls = dict.fromkeys(call.call_id for call in calls)
                said.append(Message("assistant", item.content, calls or None))
            elif item.role == "tool":
                open_calls.pop(item.call_id or "", None)
                said.append(Message("tool", item.content, call_id=item.call_id, is_error=item.is_error))
            else:
                said.append(Message("user", item.content))
        return said + not_run(open_calls)

    # ------------------------------------------------------------------ the fold

    def apply(self, entry: Event) -> None:
        """Take the next entry."""
        if isinstance(entry, MessageAdded):
            self._message(entry.message)
        elif isinstance(entry, TurnStart):
            self._start(entry)
        elif isinstance(entry, TurnEnd):
            self._end(entry)
        elif isinstance(entry, TurnQueued):
            self._queue(entry)
        elif isinstance(entry, ToolStart):
            turn = self.turns.get(entry.turn)
            if turn is not None:
                turn.started[entry.call_id] = entry.user
                turn.served = True
        elif isinstance(entry, MemberChanged):
            if entry.role is None:
                self.members.pop(entry.user, None)
            else:
                self.members[entry.user] = entry.role
        elif isinstance(entry, SessionChanged):
            self._change(entry)

    def _change(self, entry: SessionChanged) -> None:
        self.title = self.title if entry.title is None else entry.title
        self.system = self.system if entry.system is None else entry.system
        self.model = self.model if entry.model is None else entry.model
        if entry.created is not None:
            self.created = entry.created
            self.updated = max(self.updated, entry.created)
        self.deleted = self.deleted or entry.deleted

    def _message(self, message: SessionMessage) -> None:
        self.messages[message.id] = message
        self.head = message.id
        self.updated = max(self.updated, message.created)
        turn = self._turn_of.get(message.stream) if message.stream is not None else None
        if turn is None:
            return
        if message.role == "assistant":
            turn.answer = message.id
            if message.tool_calls and message.reason is None:
                turn.state = "waiting"
                turn.calls = {call.call_id: call for call in message.tool_calls}
                turn.results, turn.started = {}, {}
        elif message.role == "tool" and message.call_id is not None:
            turn.results[message.call_id] = message.id

    def _remember(self, user: str, request_id: str | None, sent: Sent) -> None:
        if request_id is None or (user, request_id) in self._requests:
            return
        if len(self._requests) >= REQUESTS_MAX:
            del self._requests[next(iter(self._requests))]
        self._requests[user, request_id] = sent

    def _queue(self, entry: TurnQueued) -> None:
        turn = Turn(entry.turn, entry.stream, entry.model, entry.message, entry.user, "queued", entry.request_id, entry)
        self.turns[turn.id] = self._turn_of[turn.stream] = turn
        self.queue.insert(entry.position - 1, turn)
        self._remember(entry.user, entry.request_id, Sent(entry.turn, entry.message, entry.stream))

    def _start(self, entry: TurnStart) -> None:
        turn = self.turns.get(entry.turn)
        if turn is None:
            turn = Turn(entry.turn, entry.stream, entry.model, entry.message, entry.user, "running", entry.request_id)
            self.turns[turn.id] = turn
            self._remember(entry.user, entry.request_id, Sent(entry.turn, entry.message, entry.stream))
        elif turn.state == "queued":
            self.queue.remove(turn)
        elif turn.streams:
            self._after_results[turn.streams[-1]] = Sent(entry.turn, entry.message, entry.stream)
        turn.state = "running"
        turn.stream, turn.message, turn.left_out = entry.stream, entry.message, entry.left_out
        turn.streams.append(entry.stream)
        turn.calls, turn.results, turn.started = {}, {}, {}
        self._turn_of[entry.stream] = turn

    def _end(self, entry: TurnEnd) -> None:
        turn = self.turns.pop(entry.turn, None)
        if turn is None:
            return
        if turn.state == "queued":
            self.queue.remove(turn)
        for stream in (*turn.streams, turn.stream):
            self._turn_of.pop(stream, None)


def unknown() -> EverstreamError:
    """There is no such session, or not for whoever asks: nobody can tell which."""
    return EverstreamError("session.unknown", "there is no such session")


def not_run(calls: Iterable[str]) -> list[Message]:
    """What a model is told of calls that nobody has given a result for."""
    return [Message("tool", NOT_RUN, call_id=call, is_error=True) for call in calls]


def text_of(content: str | list[Any]) -> str:
    """The text of a message's content."""
    if isinstance(content, str):
        return content
    return "\n".join(part.text for part in content if isinstance(part, TextPart))
