"""Sessions over HTTP: what the commands of the WebSocket do, as resources.

    request ──path, query or body──▶ the command's own type ──▶ what carries that command out ──▶ JSON

So one row of the table below says what is asked with, who does it, what is answered, and what is described
(`openapi`).  Nothing is read along: an answer is a stream, and read where streams are read.  Who asks here is a
connection that says one thing and reads nothing.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import msgspec
from starlette.convertors import Convertor, register_url_convertor
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from everstream.core import commands
from everstream.core.commands import Command, Id
from everstream.core.errors import EverstreamError
from everstream.core.log import Log, Position
from everstream.core.protocol import snapshot_frame
from everstream.core.session import Session
from everstream.gateway import http_replies, replies
from everstream.gateway.conversing import OpenSessions
from everstream.gateway.described import (
    BODY,
    IDEMPOTENCY_KEY,
    IN_QUERY,
    JSON,
    LIMITED,
    PROVIDER,
    STORE,
    Answer,
    Described,
)
from everstream.gateway.http_door import HttpDoor, Served
from everstream.gateway.session_replies import opened
from everstream.gateway.session_usage import used
from everstream.gateway.standing import Standing
from everstream.runtime.hub import Feed
from everstream.runtime.node import Node
from everstream.runtime.presence import Person

MARKDOWN = "text/markdown"
_KEY = IDEMPOTENCY_KEY.name.lower()


class Asker:
    """Somebody who asks one thing over HTTP, as a connection that has nothing open.  `sent` is what it was told."""

    def __init__(self, node: Node, standing: Standing) -> None:
        self.id = ""
        self.standing = standing
        self.user = Person(standing.principal.id, standing.principal.name)
        self.reading: list[Feed] = []
        self.sent: list[dict[str, Any]] = []
        self.node = node
        self.sessions = OpenSessions(self, node)

    async def session(self, name: str) -> tuple[Feed, Session]:
        """Raises EverstreamError `session.unknown`."""
        feed = await self.node.sessions.find(name, self.user.id)
        return feed, self.node.sessions.view(feed)

    def told(self) -> dict[str, Any]:
        """The reply to what was asked, without what only a connection needs."""
        return {name: value for name, value in self.sent[-1].items() if name not in ("type", "id")}

    # ------------------------------------------------------------------ as a connection

    def send(self, frame: dict[str, Any]) -> None:
        self.sent.append(frame)

    def wake(self, feed: Feed) -> None:
        """Nothing is read here."""

    def attach(self, feed: Feed, seen: Position, *, brought: bool = False) -> None:
        """Nothing is read here."""

    def room(self) -> AbstractContextManager[None]:
        return nullcontext()

    def snapshot(self, log: Log, command_id: Id = None) -> dict[str, Any]:
        return snapshot_frame(log, command_id)

    def goaway(self, after_ms: int, reason: str) -> None:
        """It goes by itself."""

    def leave(self, feed: Feed) -> None:
        """Nothing is read here."""

    def reads(self, feed: Feed) -> bool:
        return False

    def soon(self, work: Any) -> None:
        work.close()

    def presence(self, session: str, users: list[dict[str, Any]]) -> None:
        """Nothing is open here."""

    def typing(self, session: str, user: str, typing: bool) -> None:
        """Nothing is open here."""


Carried = Callable[[Asker, Any], Awaitable[Any]]  # out: the fields of the answer, or the answer


@dataclass(frozen=True, slots=True)
class RestRoute:
    row: Described
    carry_out: Carried


# --------------------------------------------------------------------------- what is done


async def _create(asker: Asker, command: commands.SessionCreate) -> Any:
    return await asker.sessions.create(command)


async def _list(asker: Asker, command: commands.SessionList) -> Any:
    return await asker.sessions.list(command)


async def _show(asker: Asker, command: commands.SessionOpen) -> Any:
    feed, session = await asker.session(command.session)
    return await opened(feed, session, None, asker.user.id, command.history, asker.node.hub)


async def _update(asker: Asker, command: commands.SessionUpdate) -> Any:
    await asker.sessions.update(command)


async def _delete(asker: Asker, command: commands.SessionDelete) -> Any:
    await asker.sessions.delete(command)


async def _messages(asker: Asker, command: commands.SessionHistory) -> Any:
    return await asker.sessions.history(command)


async def _send(asker: Asker, command: commands.Generate) -> Response:
    await asker.sessions.generate(command)
    return _accepted(asker.told())


async def _cancel(asker: Asker, command: commands.Cancel) -> Any:
    assert command.session is not None, "it is in the path"
    streams = await asker.sessions.cancel(command.session)
    offsets = await asyncio.gather(*(asker.node.cancel(stream) for stream in streams))
    return {"streams": [{"stream": stream, "offset": at} for stream, at in zip(streams, offsets, strict=True)]}


async def _give_results(asker: Asker, command: commands.ToolResult) -> Any:
    await asker.sessions.tool_result(command)
    told = asker.told()
    return told if "missing" in told else _accepted(told)


async def _approve(asker: Asker, command: commands.ToolApproval) -> Any:
    await asker.sessions.tool_approval(command)


async def _export(asker: Asker, command: commands.SessionExport) -> Response:
    document = await asker.sessions.export(command)
    return Response(document["content"], media_type=JSON if command.format == "json" else MARKDOWN)


async def _usage(asker: Asker, command: commands.SessionClose) -> http_replies.SessionUsage:
    feed, session = await asker.session(command.session)
    models = used(feed.log.slice(0, feed.log.committed))
    turns, running = sum(model.turns for model in models), len(session.busy)
    return http_replies.SessionUsage(session=command.session, turns=turns, running=running, models=models)


async def _members(asker: Asker, command: commands.SessionClose) -> Any:
    _, session = await asker.session(command.session)
    members = [{"user": user, "role": role} for user, role in session.members.items()]
    return {"session": command.session, "members": members}


async def _add_member(asker: Asker, command: commands.MemberAdd) -> Any:
    await asker.sessions.add_member(command)


async def _remove_member(asker: Asker, command: commands.MemberRemove) -> Any:
    await asker.sessions.remove_member(command)


def _accepted(told: dict[str, Any]) -> Response:
    return answer_of(told, 202, {"x-everstream-stream": told["stream"]})


# --------------------------------------------------------------------------- the table

_SESSION = "/v1/sessions/{session}"
_DONE = Answer(204, "It is done.")
_ACCEPTED = Answer(
    202,
    "A turn was set going: read its answer at `/v1/streams/{stream}`.",
    replies.TurnAccepted,
    headers=("X-Everstream-Stream",),
)
_ASKED = (*STORE, *BODY, "session.unknown")
_RUN = (*_ASKED, *PROVIDER, "request.not_found", "session.busy", *LIMITED)
_CHOSEN = ("model.unknown", "provider.auth", "provider.overloaded")
_SAFE = (IDEMPOTENCY_KEY,)
_REPEATED = "With a `request_id`, or that header, it may be repeated: the answer is the first one's."
_COUNTED = (
    "Counted from the `turn_end` entries of the session: each has the tokens and the cost of all streams of its turn, "
    "also of those that were stopped or carried on. A turn counts for the model that it began with."
)

REST: tuple[RestRoute, ...] = (
    RestRoute(Described(
        "POST", "/v1/sessions", "create_session", "sessions", "Make a session",
        (Answer(201, "It was made; whoever asked is its owner.", replies.SessionMade),),
        (*STORE, *BODY, *_CHOSEN, "session.unknown", "limit.streams"), commands.SessionCreate,
        headers=_SAFE, more=_REPEATED,
    ), _create),
    RestRoute(Described(
        "GET", "/v1/sessions", "list_sessions", "sessions", "The sessions of whoever asks",
        (Answer(200, "A page, the session that was last used first.", replies.SessionsListed),),
        (*STORE, "request.invalid"), commands.SessionList,
    ), _list),
    RestRoute(Described(
        "GET", _SESSION, "get_session", "sessions", "A session as of now, with its last messages",
        (Answer(200, "The session.", replies.SessionShown),),
        (*STORE, "request.invalid", "session.unknown"), commands.SessionOpen,
        frozenset(("epoch", "offset", "responses")),
    ), _show),
    RestRoute(Described(
        "PATCH", _SESSION, "update_session", "sessions", "Change title, system prompt or model",
        (_DONE,), (*_ASKED, *_CHOSEN), commands.SessionUpdate, more="An empty text clears a field.",
    ), _update),
    RestRoute(Described(
        "DELETE", _SESSION, "delete_session", "sessions", "Erase a session, and all that was said in it",
        (_DONE,), (*STORE, "request.invalid", "session.unknown"), commands.SessionDelete,
    ), _delete),
    RestRoute(Described(
        "GET", f"{_SESSION}/messages", "list_messages", "sessions", "Messages, of all branches",
        (Answer(200, "A page, oldest first.", replies.MessagesListed),),
        (*STORE, "request.invalid", "request.not_found", "session.unknown"), commands.SessionHistory,
    ), _messages),
    RestRoute(Described(
        "POST", f"{_SESSION}/messages", "send_message", "sessions", "Send a message, or have one answered anew",
        (_ACCEPTED,), _RUN, commands.Generate, frozenset(("messages",)), _SAFE,
        more="Without `content`, the message that `parent` names is answered anew. " + _REPEATED,
    ), _send),
    RestRoute(Described(
        "POST", f"{_SESSION}/cancel", "cancel_session", "sessions", "Stop all that runs or waits for results",
        (Answer(200, "Where each stream ends.", replies.Cancelled),),
        (*STORE, "request.invalid", "session.unknown", "stream.unknown"), commands.Cancel, frozenset(("stream",)),
    ), _cancel),
    RestRoute(Described(
        "POST", f"{_SESSION}/tool_results", "give_tool_results", "sessions", "Give results of tool calls",
        (Answer(200, "Some are still missing.", replies.ResultsMissing), _ACCEPTED),
        (*_RUN, "stream.unknown"), commands.ToolResult,
    ), _give_results),
    RestRoute(Described(
        "POST", f"{_SESSION}/approvals", "give_approvals", "sessions", "Allow tool calls, or forbid them",
        (_DONE,), (*_ASKED, "request.not_found", "stream.unknown"), commands.ToolApproval,
    ), _approve),
    RestRoute(Described(
        "GET", f"{_SESSION}/export", "export_session", "sessions", "A session as a document",
        (Answer(200, "The document.", replies.SessionDocument, (JSON, MARKDOWN)),),
        (*STORE, "request.invalid", "request.not_found", "session.unknown"), commands.SessionExport,
    ), _export),
    RestRoute(Described(
        "GET", f"{_SESSION}/usage", "get_usage", "sessions", "Tokens and cost of the turns that have ended, by model",
        (Answer(200, "The sums.", http_replies.SessionUsage),),
        (*STORE, "request.invalid", "session.unknown"), commands.SessionClose, more=_COUNTED,
    ), _usage),
    RestRoute(Described(
        "GET", f"{_SESSION}/members", "list_members", "members", "Who is in a session",
        (Answer(200, "All of them.", replies.MembersListed),),
        (*STORE, "request.invalid", "session.unknown"), commands.SessionClose,
    ), _members),
    RestRoute(Described(
        "PUT", f"{_SESSION}/members/{{user}}", "put_member", "members", "Add somebody, or change the role",
        (_DONE,), (*_ASKED, "limit.streams"), commands.MemberAdd,
    ), _add_member),
    RestRoute(Described(
        "DELETE", f"{_SESSION}/members/{{user}}", "remove_member", "members", "Put somebody out, or leave",
        (_DONE,), (*STORE, "request.invalid", "request.not_found", "session.unknown"), commands.MemberRemove,
    ), _remove_member),
)  # fmt: skip


# --------------------------------------------------------------------------- as routes


class Anything(Convertor[str]):
    """The rest of a path, whatever is in it: a user's id may have slashes, and lines."""

    regex = "(?s:.+)"

    def convert(self, value: str) -> str:
        return value

    def to_string(self, value: str) -> str:
        return value


register_url_convertor("anything", Anything())


def answer_of(fields: Any, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    """An answer in JSON; None: one without a body."""
    if fields is None:
        return Response(status_code=204, headers=headers)
    return Response(msgspec.json.encode(fields), status, headers, JSON)


class Rest:
    def __init__(self, served: Served, door: HttpDoor) -> None:
        self._served = served
        self._door = door

    def routes(self) -> list[BaseRoute]:
        """One for each path: so what is answered to another method names all that there are."""
        paths: dict[str, dict[str, RestRoute]] = {}
        for route in REST:
            paths.setdefault(route.row.path, {})[route.row.method] = route
        return [
            Route(
                path.replace("{user}", "{user:anything}"),
                self._door.route(self._handler(methods)),
                methods=[*methods, "OPTIONS"],
            )
            for path, methods in paths.items()
        ]

    def _handler(self, methods: dict[str, RestRoute]) -> Callable[[Request], Awaitable[Response]]:
        async def handler(request: Request) -> Response:
            route = methods["GET" if request.method == "HEAD" else request.method]
            standing = await self._door.admit(request)
            standing.end()
            command = read(route.row, request, await self._given(route.row, request))
            told = await route.carry_out(Asker(self._served.node, standing), command)
            return told if isinstance(told, Response) else answer_of(told, route.row.answers[0].status)

        return handler

    async def _given(self, row: Described, request: Request) -> dict[str, Any]:
        """The fields beside the path, as they were sent."""
        if row.method in IN_QUERY:
            return query_of(request)
        return await self._door.body(request) if row.in_body else {}


def query_of(request: Request) -> dict[str, str]:
    """Raises EverstreamError `request.invalid` for what is said twice."""
    said = request.query_params.multi_items()
    if len(said) != len(dict(said)):
        raise EverstreamError("request.invalid", "a field of the query stands there twice")
    return dict(said)


def read(row: Described, request: Request, given: dict[str, Any]) -> Command:
    """The command that a request stands for.  Raises EverstreamError `request.invalid`."""
    assert row.asked is not None
    assert issubclass(row.asked, Command)
    fields = {name: value for name, value in given.items() if name in row.fields} | request.path_params
    key = request.headers.get(_KEY)
    if key is not None and "request_id" in row.fields and fields.get("request_id") is None:
        fields["request_id"] = key
    try:
        return msgspec.convert(fields, row.asked, strict=row.method not in IN_QUERY)
    except msgspec.ValidationError as error:
        raise EverstreamError("request.invalid", str(error)) from error
