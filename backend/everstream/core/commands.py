"""What a client can ask for: the commands of the protocol, and what is in them."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec

from everstream.core.errors import EverstreamError
from everstream.core.events import Budget, ImagePart, Message, Params, Request, TextPart
from everstream.core.log import Position
from everstream.core.session_events import Role

NAME_CHARS_MAX = 256

HISTORY_MAX = 500  # messages in a reply
LIST_MAX = 200  # sessions in a reply
RESPONSES_MAX = 1024

Id = str | int | None
Name = Annotated[str, msgspec.Meta(min_length=1, max_length=NAME_CHARS_MAX)]
Title = Annotated[str, msgspec.Meta(max_length=1_024)]
Offset = Annotated[int, msgspec.Meta(ge=0)]


class Resume(msgspec.Struct, frozen=True):
    """A place in a stream that the client holds already."""

    stream: Name
    epoch: Offset | None = None
    offset: Offset | None = None

    @property
    def position(self) -> Position:
        return Position(self.epoch or 0, self.offset or 0)


class Command(msgspec.Struct, frozen=True, kw_only=True):
    id: Id = None


class Hello(Command, frozen=True, kw_only=True):
    token: str | None = None
    client: str | None = None
    resume: list[Resume] = []


class Generate(Command, frozen=True, kw_only=True):
    """Of a whole history (`messages`), or in a session.  `parent` null is not the same as none."""

    request_id: Name | None = None
    model: Name | None = None
    messages: list[Message] | None = None
    session: Name | None = None
    content: str | list[TextPart | ImagePart] | None = None
    parent: Name | msgspec.UnsetType | None = msgspec.UNSET
    params: dict[str, Any] | None = None
    budget: Budget | None = None
    on_busy: Literal["queue", "interrupt", "reject", "parallel"] = "queue"

    @property
    def in_session(self) -> bool:
        return self.session is not None or self.content is not None

    def request(self) -> Request:
        """The generation asked for; in a session without messages, and without model where the session's is meant.

        Raises EverstreamError `request.invalid`.
        """
        if self.in_session and self.messages is not None:
            raise EverstreamError("request.invalid", "`messages` is the whole history: a session keeps its own")
        if self.model is None and self.session is None:
            raise EverstreamError("request.invalid", "`model` is missing")
        if self.model is not None:
            check_model(self.model)
        if not self.in_session and not self.messages:
            raise EverstreamError("request.invalid", "`messages` is missing or empty")
        given = self.params or {}
        known = {name: value for name, value in given.items() if name in Params.__struct_fields__}
        try:
            params = msgspec.convert(known, Params)
        except msgspec.ValidationError as error:
            raise EverstreamError("request.invalid", f"params: {error}") from error
        extra = {name: value for name, value in given.items() if name not in known}
        wanted = extra.get("app_tools") or []
        if not (isinstance(wanted, list) and all(isinstance(name, str) for name in wanted)):
            raise EverstreamError("request.invalid", "params: `app_tools` must be a list of names, or false")
        if not self.in_session:
            extra.pop("app_tools", None)  # only a turn can run them
        return Request(self.model or "", self.messages or [], params, extra, self.budget)


class Cancel(Command, frozen=True, kw_only=True):
    stream: Name | None = None
    session: Name | None = None


class Subscribe(Command, frozen=True, kw_only=True):
    stream: Name
    epoch: Offset | None = None
    offset: Offset | None = None

    @property
    def position(self) -> Position:
        return Position(self.epoch or 0, self.offset or 0)


class Unsubscribe(Command, frozen=True, kw_only=True):
    stream: Name


class Auth(Command, frozen=True, kw_only=True):
    token: str


class Models(Command, frozen=True, kw_only=True):
    pass


class Ping(Command, frozen=True, kw_only=True):
    """`fields` is all the client sent, to be sent back."""

    fields: dict[str, Any] = {}


class MemberGiven(msgspec.Struct, frozen=True):
    user: Name
    role: Role


class SessionCreate(Command, frozen=True, kw_only=True):
    title: Title | None = None
    system: str | None = None
    model: Name | None = None
    members: list[MemberGiven] = []
    request_id: Name | None = None


class SessionOpen(Command, frozen=True, kw_only=True):
    session: Name
    epoch: Offset | None = None
    offset: Offset | None = None
    history: Annotated[int, msgspec.Meta(ge=0, le=HISTORY_MAX)] = 50
    responses: Annotated[list[Resume], msgspec.Meta(max_length=RESPONSES_MAX)] = []


class SessionClose(Command, frozen=True, kw_only=True):
    session: Name


class SessionUpdate(Command, frozen=True, kw_only=True):
    session: Name
    title: Title | None = None
    system: str | None = None
    model: Annotated[str, msgspec.Meta(max_length=NAME_CHARS_MAX)] | None = None


class SessionDelete(Command, frozen=True, kw_only=True):
    session: Name


class SessionList(Command, frozen=True, kw_only=True):
    limit: Annotated[int, msgspec.Meta(ge=1, le=LIST_MAX)] = 50
    before: Name | None = None


class SessionHistory(Command, frozen=True, kw_only=True):
    session: Name
    before: Name | None = None
    limit: Annotated[int, msgspec.Meta(ge=1, le=HISTORY_MAX)] = 50


class SessionExport(Command, frozen=True, kw_only=True):
    session: Name
    format: Literal["json", "markdown"] = "markdown"
    message: Name | None = None


class MemberAdd(Command, frozen=True, kw_only=True):
    session: Name
    user: Name
    role: Role = "editor"


class MemberRemove(Command, frozen=True, kw_only=True):
    session: Name
    user: Name


class ResultGiven(msgspec.Struct, frozen=True):
    """`content` is text, or any JSON."""

    call_id: Name
    content: Any
    is_error: bool = False


class ToolResult(Command, frozen=True, kw_only=True):
    session: Name
    stream: Name
    results: Annotated[list[ResultGiven], msgspec.Meta(min_length=1)]


class ApprovalGiven(msgspec.Struct, frozen=True):
    call_id: Name
    approved: bool
    reason: str | None = None


class ToolApproval(Command, frozen=True, kw_only=True):
    session: Name
    stream: Name
    approvals: Annotated[list[ApprovalGiven], msgspec.Meta(min_length=1)]


class Typing(Command, frozen=True, kw_only=True):
    session: Name
    typing: bool


COMMANDS: dict[str, type[Command]] = {
    "hello": Hello,
    "generate": Generate,
    "cancel": Cancel,
    "subscribe": Subscribe,
    "unsubscribe": Unsubscribe,
    "session.create": SessionCreate,
    "session.open": SessionOpen,
    "session.close": SessionClose,
    "session.update": SessionUpdate,
    "session.delete": SessionDelete,
    "session.list": SessionList,
    "session.history": SessionHistory,
    "session.export": SessionExport,
    "member.add": MemberAdd,
    "member.remove": MemberRemove,
    "tool_result": ToolResult,
    "tool_approval": ToolApproval,
    "typing": Typing,
    "auth": Auth,
    "models": Models,
    "ping": Ping,
}


def check_model(name: str) -> None:
    """Raises EverstreamError `request.invalid` for what is no model's id."""
    provider, slash, rest = name.partition("/")
    if not (provider and slash and rest):
        raise EverstreamError("request.invalid", "`model` must be `provider/name`")
