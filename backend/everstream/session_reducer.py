"""A client's copy of one session, folded from frames.  Pure: no socket, no clock.

A session is a stream like any other, so the rules of `reducer.py` about ranges, holes and snapshots hold here word for
word.  What replaces the state is the reply to `session.open`, or a `snapshot` of the session's stream: both have the
same fields.  Who is there now (`presence`) is told beside the entries, and lies in no range.

Messages are a tree by `parent`; which path through it is shown is the viewer's matter.  They are kept in the order of
their entries, so the last one is the end of the newest path.  A reply brings only the last messages: a path ends where
the first known message is, and `older` puts a page of earlier ones in front.

A turn goes round this circle, as its entries say:

    queued ──turn_start──▶ running ──a message with calls──▶ waiting ──turn_start──▶ running …
       └──────────────────────┴─────────── turn_end ──────────────┘

The cases in `tests/conformance/session_cases.json` hold these rules for clients in any language.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

from everstream.reducer import Frame, Verdict, whole_number

QUEUED, RUNNING, WAITING = "queued", "running", "waiting"
PASSING = ("presence", "typing")  # frames about a session that are no entries, and may be lost


def session_in(frame: Frame) -> str | None:
    """The session that a frame is about; None where it is about a response stream, or about neither.

    In an entry of a session `stream` may be the response stream that it tells of, and `session` is its own.  Of the
    entries of a response stream only the first names a session; replies have no range.
    """
    session, stream = frame.get("session"), frame.get("stream")
    if isinstance(session, str) and (stream is None or ("after" in frame and frame["type"] != "request_start")):
        return session
    return stream if isinstance(stream, str) and stream.startswith("s_") else None


@dataclass(frozen=True, slots=True)
class Turn:
    """A turn that has not ended.

    `stream` is the one it answers by now, `message` what that answers.  A queued one has `content`: what is asked, or
    None where `message` is there already.  `missing` are the calls that a waiting one has no result for, `started`
    those of them that the server has begun to run; `left_out`: how many of the oldest messages the model was not sent.
    """

    turn: str
    stream: str
    model: str | None
    message: str
    user: str | None
    state: str
    request_id: str | None = None
    left_out: int = 0
    content: Any = None
    missing: tuple[str, ...] = ()
    started: tuple[str, ...] = ()

    def shown(self) -> Frame:
        """As `running` of the protocol has it."""
        fields: Frame = {"turn": self.turn, "stream": self.stream, "model": self.model, "message": self.message}
        fields |= {"user": self.user, "state": self.state}
        more: Frame = {"request_id": self.request_id, "left_out": self.left_out, "content": self.content}
        if self.state == WAITING:
            fields |= {"missing": list(self.missing), "started": list(self.started)}
        return fields | {name: value for name, value in more.items() if value}


class SessionState:
    """What a client holds of one session.

    `epoch` is None until a server has named it; `role` is what `user` is here: owner, editor, viewer or None.
    `messages` are by their ids, `more` whether there are earlier ones; `turns` are those that have not ended, `queue`
    the ids of those that wait for others, the next one first.
    """

    __slots__ = (
        "_children",
        "_waiting",
        "created",
        "deleted",
        "epoch",
        "members",
        "messages",
        "model",
        "more",
        "offset",
        "queue",
        "role",
        "session",
        "system",
        "title",
        "turns",
        "user",
        "users",
    )

    def __init__(self, session: str, epoch: int | None = None, offset: int = 0, user: str | None = None) -> None:
        self.session = session
        self.epoch = epoch
        self.offset = offset
        self.user = user
        self._waiting = False  # a hole has been asked about
        self._clear()

    def _clear(self) -> None:
        self.title = self.system = self.model = ""
        self.created = 0
        self.deleted = False
        self.more = False
        self.role: str | None = None
        self.members: dict[str, str] = {}
        self.messages: dict[str, Frame] = {}
        self.turns: dict[str, Turn] = {}
        self.queue: list[str] = []
        self.users: list[Frame] = []  # who has it open now: {id, name, connections}
        self._children: dict[str | None, list[str]] = {}

    # ------------------------------------------------------------------ what it amounts to

    @property
    def position(self) -> tuple[int | None, int]:
        """(epoch, offset) of the last entry applied."""
        return self.epoch, self.offset

    @property
    def newest(self) -> str | None:
        """The end of the newest path."""
        return next(reversed(self.messages), None)

    def path(self, leaf: str | None = None) -> list[Frame]:
        """The messages from the first known one to `leaf`, or to the newest one.  Raises KeyError for an unknown id."""
        at = self.newest if leaf is None else leaf
        found = [] if at is None else [self.messages[at]]
        while found and (parent := self.messages.get(found[-1].get("parent") or "")) is not None:
            found.append(parent)
        return found[::-1]

    def branches(self, message: str | None = None) -> list[Frame]:
        """The messages that follow `message` (None: the first ones), oldest first; among several a viewer chooses."""
        return [self.messages[name] for name in self._children.get(message, ())]

    def answer_by(self, stream: str) -> Frame | None:
        """The answer that came by this stream, where it is a message already."""
        return next((m for m in reversed(self.messages.values()) if _is_answer(m) and m.get("stream") == stream), None)

    def result_of(self, stream: str, call_id: str) -> Frame | None:
        """The result that a call of this stream's answer was given."""
        of_stream = (m for m in reversed(self.messages.values()) if m.get("stream") == stream)
        return next((m for m in of_stream if m["role"] == "tool" and m.get("call_id") == call_id), None)

    def turn_of(self, stream: str) -> Turn | None:
        """The turn that answers by this stream now."""
        return next((turn for turn in self.turns.values() if turn.stream == stream), None)

    def snapshot(self) -> Frame:
        """The state as a frame, for a reader who fell behind."""
        queued = [self.turns[name].shown() for name in self.queue]
        return {
            "type": "snapshot",
            "stream": self.session,
            "session": self.session,
            "epoch": self.epoch,
            "offset": self.offset,
            "upto": self.offset,
            "title": self.title,
            "system": self.system,
            "model": self.model,
            "created": self.created,
            "role": self.role,
            "members": [{"user": user, "role": role} for user, role in self.members.items()],
            "messages": list(self.messages.values()),
            "more": self.more,
            "running": [turn.shown() for turn in self.turns.values() if turn.state != QUEUED] + queued,
            "users": list(self.users),
        } | ({"deleted": True} if self.deleted else {})

    # ------------------------------------------------------------------ frames

    def apply(self, frame: Frame) -> Verdict:
        """Fold one frame in.  Frames of other kinds, streams and sessions are ignored."""
        kind = frame.get("type")
        if session_in(frame) != self.session:
            return Verdict.IGNORED
        if kind in PASSING or kind == "ok":
            return self._told(kind, frame)
        if kind == "snapshot":
            return self._replace(frame)
        if kind == "subscribed":
            self._grow(frame.get("epoch"))
            self._waiting = False
            return Verdict.NOTED
        after, upto = whole_number(frame.get("after")), whole_number(frame.get("upto"))
        if after is None or upto is None or after >= upto:
            return Verdict.IGNORED
        if self._waiting or upto <= self.offset or self.deleted:
            return Verdict.IGNORED
        if after != self.offset:
            self._waiting = True
            return Verdict.HOLE
        self.offset = upto
        self._grow(frame.get("epoch"))
        self._enter(kind, frame)
        return Verdict.APPLIED

    def older(self, messages: Iterable[Frame], more: bool) -> None:
        """Put a page of messages in front that lie before the first known one; `more`: whether others do before it."""
        found = {message["id"]: message for message in messages}
        self.messages = found | {name: m for name, m in self.messages.items() if name not in found}
        self.more = more
        self._index()

    def _told(self, kind: Any, frame: Frame) -> Verdict:
        """What is said of the session beside its entries."""
        if kind == "ok":
            return self._replace(frame) if "messages" in frame and "running" in frame else Verdict.IGNORED
        if kind == "presence":
            self.users = list(frame.get("users") or ())
        return Verdict.NOTED

    def _enter(self, kind: Any, frame: Frame) -> None:
        """Entries of a kind that is not known count, and say nothing."""
        if kind == "message":
            self._message(frame["message"])
        elif kind == "turn_start":
            self._start(frame)
        elif kind == "turn_end":
            self._unqueue(frame["turn"])
            self.turns.pop(frame["turn"], None)
        elif kind == "turn_queued":
            self._queue(frame)
        elif kind == "tool_start":
            turn = self.turns.get(frame["turn"])
            if turn is not None and frame["call_id"] not in turn.started:
                self.turns[turn.turn] = replace(turn, started=tuple(sorted((*turn.started, frame["call_id"]))))
        elif kind == "member":
            if frame.get("role") is None:
                self.members.pop(frame["user"], None)
            else:
                self.members[frame["user"]] = frame["role"]
            if frame["user"] == self.user:
                self.role = frame.get("role")
        elif kind == "session":
            self._change(frame)

    def _change(self, frame: Frame) -> None:
        for name in ("title", "system", "model", "created"):
            value = frame.get(name)
            if value is not None:
                setattr(self, name, value)
        self.deleted |= frame.get("deleted") is True

    def _message(self, message: Frame) -> None:
        name, stream = message["id"], message.get("stream")
        if name not in self.messages:
            self._children.setdefault(message.get("parent"), []).append(name)
        self.messages[name] = message
        turn = self.turn_of(stream) if stream is not None else None
        if turn is None:
            return
        if _is_answer(message) and message.get("tool_calls") and message.get("reason") is None:
            missing = tuple(call["call_id"] for call in message["tool_calls"])
            self.turns[turn.turn] = replace(turn, state=WAITING, missing=missing, started=())
        elif message["role"] == "tool":
            missing = tuple(call_id for call_id in turn.missing if call_id != message.get("call_id"))
            self.turns[turn.turn] = replace(turn, missing=missing)

    def _queue(self, frame: Frame) -> None:
        turn = _turn(frame, QUEUED)
        self.turns[turn.turn] = turn
        if turn.turn in self.queue:  # from a state that is newer than this entry: its order is, too
            return
        self.queue.insert(max(0, int(frame.get("position", len(self.queue) + 1)) - 1), turn.turn)

    def _unqueue(self, turn: str) -> None:
        if turn in self.queue:
            self.queue.remove(turn)

    def _start(self, frame: Frame) -> None:
        turn, before = _turn(frame, RUNNING), self.turns.pop(frame["turn"], None)
        if before is not None and turn.request_id is None:
            turn = replace(turn, request_id=before.request_id)
        self._unqueue(turn.turn)
        self.turns[turn.turn] = replace(turn, content=None)

    def _replace(self, frame: Frame) -> Verdict:
        offset = whole_number(frame.get("offset", frame.get("upto")))
        if offset is None:
            return Verdict.IGNORED
        users = self.users
        self._clear()
        self._waiting = False
        self.epoch = frame.get("epoch")
        self.offset = offset
        self._change(frame)
        self.role = frame.get("role")
        self.more = bool(frame.get("more"))
        self.members = {member["user"]: member["role"] for member in frame.get("members") or ()}
        self.messages = {message["id"]: message for message in frame.get("messages") or ()}
        turns = [_turn(item, item.get("state", RUNNING)) for item in frame.get("running") or ()]
        self.turns = {turn.turn: turn for turn in turns}
        self.queue = [turn.turn for turn in turns if turn.state == QUEUED]
        self.users = list(frame["users"]) if frame.get("users") is not None else users
        self._index()
        return Verdict.REPLACED

    def _index(self) -> None:
        self._children = {}
        for name, message in self.messages.items():
            self._children.setdefault(message.get("parent"), []).append(name)

    def _grow(self, epoch: Any) -> None:
        named = whole_number(epoch)
        if named is not None and (self.epoch is None or named > self.epoch):
            self.epoch = named


def _is_answer(message: Frame) -> bool:
    return message.get("role") == "assistant"


def _turn(item: Frame, state: str) -> Turn:
    """Of an entry, or of an item of `running`."""
    return Turn(
        item["turn"],
        item["stream"],
        item.get("model"),
        item["message"],
        item.get("user"),
        state,
        item.get("request_id"),
        item.get("left_out") or 0,
        item.get("content"),
        tuple(item.get("missing") or ()),
        tuple(item.get("started") or ()),
    )
