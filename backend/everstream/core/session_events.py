"""What a session's stream says: messages, turns, members, and what was changed about it.

A session is folded from these entries and from nothing else (`core.session`).  An entry says what has been decided,
never what is wanted: whoever reads it need not know any rule to follow.  Times are Unix time in milliseconds.
"""

from __future__ import annotations

from typing import Literal

import msgspec

from everstream.core.events import Cost, EndReason, ErrorInfo, Event, FinishReason, ImagePart, TextPart, Usage

Role = Literal["owner", "editor", "viewer"]


class CallMade(msgspec.Struct, frozen=True, omit_defaults=True):
    """A tool call of an answer.  `server`: the server runs it; `approval`: somebody has to allow it first."""

    call_id: str
    name: str
    arguments: str
    server: bool = False
    approval: bool = False


class SessionMessage(msgspec.Struct, frozen=True, omit_defaults=True):
    """A message of the tree.  `parent` None: a first one.  `author`: a user's id, a model's, or who gave a result.

    An answer has the `stream` it came by, and a `reason` where it is not whole.
    """

    id: str
    parent: str | None
    role: Literal["user", "assistant", "tool"]
    author: str
    content: str | list[TextPart | ImagePart]
    created: int
    stream: str | None = None
    tool_calls: list[CallMade] | None = None
    call_id: str | None = None
    is_error: bool = False
    thinking: str | None = None
    reason: EndReason | None = None


class SessionChanged(Event, frozen=True, gc=False, tag="session"):
    """The first entry of a session (`created`), and each change of what it says about itself.  "" clears a field.

    `epoch`: another leader says what follows, and this is its reign.
    """

    title: str | None = None
    system: str | None = None
    model: str | None = None
    created: int | None = None
    deleted: bool = False
    epoch: int | None = None
    by: str | None = None


class MemberChanged(Event, frozen=True, gc=False, tag="member"):
    """Somebody has this role from now on; None: he is no member."""

    user: str
    role: Role | None
    by: str | None = None


class MessageAdded(Event, frozen=True, tag="message"):
    message: SessionMessage


class TurnQueued(Event, frozen=True, tag="turn_queued"):
    """A turn waits for others to end.  Its message becomes an entry when it starts.

    `content` None: it answers `message` anew, which is there already.  `parent` is where the message is to go; with
    `follows` it goes behind whatever is the end of the newest path by then.
    """

    turn: str
    position: int
    stream: str
    model: str
    user: str
    message: str
    content: str | list[TextPart | ImagePart] | None = None
    parent: str | None = None
    follows: bool = False
    interrupt: bool = False
    request_id: str | None = None


class TurnStart(Event, frozen=True, gc=False, tag="turn_start"):
    """A stream begins to answer `message`: the first of its turn, or one that goes on after results of tools."""

    turn: str
    stream: str
    model: str
    message: str
    user: str
    request_id: str | None = None
    left_out: int = 0  # of the oldest messages of the path


class ToolStart(Event, frozen=True, gc=False, tag="tool_start"):
    """The server begins to run a tool; `user` has approved it, or None."""

    turn: str
    stream: str
    call_id: str
    user: str | None


class TurnEnd(Event, frozen=True, gc=False, tag="turn_end"):
    """`message` is the answer's; None where the turn had not begun."""

    turn: str
    stream: str
    reason: EndReason
    message: str | None
    by: str | None = None
    finish_reason: FinishReason | None = None
    usage: Usage | None = None
    cost: Cost | None = None
    error: ErrorInfo | None = None


SessionEntry = SessionChanged | MemberChanged | MessageAdded | TurnQueued | TurnStart | ToolStart | TurnEnd
SESSION_EVENTS: tuple[type[Event], ...] = (
    SessionChanged,
    MemberChanged,
    MessageAdded,
    TurnQueued,
    TurnStart,
    ToolStart,
    TurnEnd,
)
