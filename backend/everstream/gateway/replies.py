"""What is answered, as types: the fields of each reply and of each frame that is no entry of a stream.

Replies are put together as maps, where they come about.  These types say what is in them: the descriptions of the API
(`openapi`, `asyncapi`) are made from them, and the tests hold what is really answered to those.  A field without a
default is always there; one with a default may be left out.
"""

from __future__ import annotations

from typing import Literal

import msgspec

from everstream.core.events import ImagePart, StreamEnd, TextPart
from everstream.core.session_events import Role, SessionMessage
from everstream.core.summary import CalledTool
from everstream.providers.base import ModelInfo

StreamStatus = Literal["open", "ended"]


class Reply(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    pass


# --------------------------------------------------------------------------- what is wrong


class Failure(Reply, frozen=True, kw_only=True):
    """`code` is one of the table of error codes; `retryable`: trying the same again can help."""

    code: str
    message: str
    retryable: bool
    retry_after_ms: int | None = None


# --------------------------------------------------------------------------- sessions


class MemberShown(Reply, frozen=True, kw_only=True):
    user: str
    role: Role


class UserPresent(Reply, frozen=True, kw_only=True):
    """Somebody who has a session open; `connections` counts devices."""

    id: str
    name: str
    connections: int


class TurnShown(Reply, frozen=True, kw_only=True):
    """A turn that has not ended."""

    turn: str
    stream: str
    epoch: int
    model: str
    message: str
    user: str
    state: Literal["running", "waiting", "queued"]
    request_id: str | None = None
    left_out: int = 0
    content: str | list[TextPart | ImagePart] | None = None
    parent: str | None = None
    follows: bool = False
    interrupt: bool = False
    missing: list[str] = []
    started: list[str] = []


class SessionShown(Reply, frozen=True, kw_only=True):
    """A session as of now; `messages` are the last ones, oldest first, and `more`: there are earlier ones."""

    session: str
    title: str
    system: str
    model: str
    created: int
    role: Role | None
    members: list[MemberShown]
    messages: list[SessionMessage]
    more: bool
    running: list[TurnShown]
    epoch: int
    offset: int


class SessionOpened(SessionShown, frozen=True, kw_only=True):
    """A session as of now, and who has it open."""

    users: list[UserPresent]


class SessionMade(Reply, frozen=True, kw_only=True):
    session: str


class SessionCard(Reply, frozen=True, kw_only=True):
    """A session in a list; `members` counts them."""

    session: str
    title: str
    model: str
    role: Role
    created: int
    updated: int
    members: int


class SessionsListed(Reply, frozen=True, kw_only=True):
    """The session that was last used first; `next` is the `before` of the next page, or null."""

    sessions: list[SessionCard]
    next: str | None


class MessagesListed(Reply, frozen=True, kw_only=True):
    """Oldest first; `more`: there are earlier ones."""

    session: str
    messages: list[SessionMessage]
    more: bool


class MembersListed(Reply, frozen=True, kw_only=True):
    session: str
    members: list[MemberShown]


class SessionExported(Reply, frozen=True, kw_only=True):
    session: str
    format: Literal["json", "markdown"]
    content: str


class SessionDocument(Reply, frozen=True, kw_only=True):
    """A session as JSON, with all its branches."""

    session: str
    title: str
    system: str
    model: str
    created: int
    members: list[MemberShown]
    messages: list[SessionMessage]


# --------------------------------------------------------------------------- turns and streams


class Accepted(Reply, frozen=True, kw_only=True):
    """Something was set going: read it in `stream`."""

    stream: str
    epoch: int
    session: str | None = None
    turn: str | None = None
    message: str | None = None


class TurnAccepted(Reply, frozen=True, kw_only=True):
    """A turn was set going, or goes on: its answer is read in `stream`."""

    session: str
    turn: str
    message: str
    stream: str
    epoch: int


class ResultsMissing(Reply, frozen=True, kw_only=True):
    """Results were taken; these calls have none yet."""

    session: str
    turn: str
    missing: list[str]


class Fence(Reply, frozen=True, kw_only=True):
    """The offset of a stream's end: no entry after it exists, or will."""

    stream: str
    offset: int


class Cancelled(Reply, frozen=True, kw_only=True):
    streams: list[Fence]


class Subscribed(Reply, frozen=True, kw_only=True):
    """The reader's place, how far the stream goes, and whether it has ended."""

    stream: str
    epoch: int
    offset: int
    tail: int
    status: StreamStatus


class Snapshot(Reply, frozen=True, kw_only=True):
    """All of a stream up to `upto`: it replaces what the client holds."""

    stream: str
    epoch: int
    upto: int
    status: StreamStatus
    text: str
    thinking: str
    tool_calls: list[CalledTool]
    end: StreamEnd | None
    refusal: str | None = None


class SessionSnapshot(SessionOpened, frozen=True, kw_only=True):
    """A session as of `upto`: it replaces what the client holds."""

    stream: str
    upto: int
    status: StreamStatus


# --------------------------------------------------------------------------- a connection


class Limits(Reply, frozen=True, kw_only=True):
    frame_bytes: int
    streams: int
    sessions: int
    commands: int


class UserShown(Reply, frozen=True, kw_only=True):
    id: str
    name: str


class Welcome(Reply, frozen=True, kw_only=True):
    protocol: int
    connection: str
    node: str
    user: UserShown
    heartbeat_ms: int
    limits: Limits


class Done(Reply, frozen=True, kw_only=True):
    """It was done, and there is no more to be said of it."""


class Anything(Reply, frozen=True, kw_only=True):
    """Whatever fields a client likes: the answer has the same."""


class ModelsListed(Reply, frozen=True, kw_only=True):
    models: list[ModelInfo]


class ErrorFrame(Failure, frozen=True, kw_only=True):
    """`stream` or `session`: what could not be read."""

    stream: str | None = None
    session: str | None = None


class Goaway(Reply, frozen=True, kw_only=True):
    """Connect anew at a time of your own within `after_ms`."""

    after_ms: int
    reason: str


class Presence(Reply, frozen=True, kw_only=True):
    session: str
    users: list[UserPresent]


class TypingShown(Reply, frozen=True, kw_only=True):
    session: str
    user: str
    typing: bool
