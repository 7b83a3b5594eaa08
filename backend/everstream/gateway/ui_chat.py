"""The AI SDK's chat: `useChat` needs this server's address, and nothing else.

    POST   /api/chat                 an answer, as a UI message stream
    GET    /api/chat/{id}/stream     the chat's answer that runs, from its beginning on; 204 where none does
    POST   /api/chat/{id}/stop       the stop fence            (or DELETE /api/chat/{id}/stream)

A client names its chat, not the stream of an answer.  Which stream a chat's last answer is stands in the store, under
the user's name: so any node finds it, after a restart too, and nobody finds another's.

The same thing asked again while its answer runs (a client that has heard nothing tries once more) is answered with that
answer.  Two such requests may reach two nodes at once: each begins the stream under a `request_id` made of what is
asked and of the answer before it, of which the store lets one begin.  After its end the same words are a new question.

A client shows the body of a refusal as it is, so that is plain text; its code is a header.
"""

from __future__ import annotations

from hashlib import blake2b
from typing import Any

import msgspec
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import BaseRoute, Route

from everstream.core.errors import EverstreamError
from everstream.gateway.http_answers import ClientGone, HttpAnswers, Refused, refused
from everstream.gateway.http_door import Handler, HttpDoor, Served, paying, refusal
from everstream.gateway.http_streams import HttpStreams
from everstream.gateway.sse import SseResponse
from everstream.gateway.standing import Standing
from everstream.gateway.ui_format import HEADERS, UiMessageStream, declared
from everstream.gateway.ui_request import UiAsked, asked
from everstream.runtime.hub import Feed
from everstream.runtime.meta import meta_of

KEPT_HEADERS = ("retry-after", "www-authenticate", "x-everstream-stream")


class ChatNote(msgspec.Struct, frozen=True, array_like=True):
    """Of a chat's last answer: its stream, what was asked, and what was in the message that it continues."""

    stream: str
    likeness: str
    message: str = ""
    earlier: tuple[dict[str, Any], ...] = ()


_note_decoder = msgspec.msgpack.Decoder(ChatNote)


class UiChat:
    def __init__(self, served: Served, door: HttpDoor, streams: HttpStreams) -> None:
        self._served = served
        self._door = door
        self._streams = streams
        self._answers = HttpAnswers(served, streams)

    def routes(self) -> list[BaseRoute]:
        return [
            self._route("/api/chat", self._answer, "POST"),
            self._route("/api/chat/{chat:path}/stream", self._resume_or_stop, "GET", "DELETE"),
            self._route("/api/chat/{chat:path}/stop", self._stop, "POST"),
        ]

    def _route(self, path: str, handler: Handler, *methods: str) -> Route:
        return Route(path, self._door.route(_told_plainly(handler)), methods=[*methods, "OPTIONS"])

    # ------------------------------------------------------------------ an answer

    async def _answer(self, request: Request) -> Response:
        standing, answers = await self._streams.admitted(request)
        try:
            model = request.query_params.get("model") or self._served.node.settings.default_model
            wanted = asked(await self._door.body(request), model)
            self._streams.cancels(request)  # refused before anything costs money
            feed = await self._answers.taken(request, await self._begun(request, wanted, standing.principal.id))
            style = UiMessageStream(feed.stream, wanted.message, declared(wanted.request))
            answer = self._shown(request, feed, style, standing)
        except BaseException:
            standing.end()
            raise
        answers.append(answer)
        return answer

    async def _begun(self, request: Request, wanted: UiAsked, user: str) -> Feed:
        """The stream of an answer, and the note of it."""
        node, asks = self._served.node, paying(request, wanted.request)
        if not wanted.chat:
            return await node.generate(asks, user, None)
        before = await self._noted(wanted.chat, user)
        running = await self._running(before, user) if before and before.likeness == wanted.likeness else None
        if running is not None:
            return running
        once = f"ui {wanted.likeness} {before.stream if before else ''}"
        feed = await node.generate(asks, user, once)
        note = ChatNote(feed.stream, wanted.likeness, wanted.message, wanted.earlier)
        await node.note(_name(wanted.chat, user), msgspec.msgpack.encode(note))
        return feed

    def _shown(self, request: Request, feed: Feed, style: UiMessageStream, standing: Standing) -> SseResponse:
        return self._streams.answer(request, feed, 0, style, standing, headers=HEADERS)

    # ------------------------------------------------------------------ which one it is

    async def _noted(self, chat: str, user: str) -> ChatNote | None:
        packed = await self._served.node.noted(_name(chat, user))
        return _note_decoder.decode(packed) if packed else None

    async def _running(self, note: ChatNote | None, user: str, *, ended: bool = False) -> Feed | None:
        """The stream of a note, where it runs; or, with `ended`, also where it does not."""
        if note is None:
            return None
        try:
            feed = await self._served.node.find(note.stream, user)
        except EverstreamError as error:
            if error.code != "stream.unknown":
                raise
            return None
        return feed if ended or not feed.log.ended else None

    # ------------------------------------------------------------------ come back, and stop

    async def _resume_or_stop(self, request: Request) -> Response:
        return await (self._stop(request) if request.method == "DELETE" else self._resume(request))

    async def _resume(self, request: Request) -> Response:
        standing, answers = await self._streams.admitted(request, "")
        try:
            user = standing.principal.id
            note = await self._noted(request.path_params["chat"], user)
            wants_ended = request.query_params.get("ended", "") in ("1", "true")
            feed = await self._running(note, user, ended=wants_ended)
            if note is None or feed is None:
                standing.end()
                return Response(status_code=204, headers=HEADERS)
            style = UiMessageStream(
                feed.stream, note.message, declared(meta_of(feed.meta).request), earlier=note.earlier
            )
            answer = self._shown(request, feed, style, standing)
        except BaseException:
            standing.end()
            raise
        answers.append(answer)
        return answer

    async def _stop(self, request: Request) -> Response:
        """Stop the answer that runs; where the client names the one it means, no other."""
        user = await self._door.user(request)
        has_body = request.headers.get("content-length", "0") != "0" or "transfer-encoding" in request.headers
        meant = (await self._door.body(request)).get("activeStreamId") if has_body else None
        note = await self._noted(request.path_params["chat"], user)
        feed = await self._running(note, user)
        if feed is None or (meant is not None and meant != feed.stream):
            return JSONResponse({"success": True, "stream": None, "offset": None})
        offset = await self._served.node.cancel(feed.stream, user)
        return JSONResponse({"success": True, "stream": feed.stream, "offset": offset})


def _name(chat: str, user: str) -> str:
    return "chat " + blake2b(f"{user}\0{chat}".encode(), digest_size=16).hexdigest()


def _told_plainly(handler: Handler) -> Handler:
    async def told(request: Request) -> Response:
        try:
            return await handler(request)
        except EverstreamError as error:
            answer, fault = refusal(error), error
        except Refused as failed:
            answer, fault = refused(failed), failed.error
        except ClientGone as gone:
            return refused(gone)
        plain = PlainTextResponse(fault.message, answer.status_code, {"x-everstream-error": fault.code})
        for name in KEPT_HEADERS:
            if name in answer.headers:
                plain.headers[name] = answer.headers[name]
        return plain

    return told
