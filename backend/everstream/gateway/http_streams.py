"""Any stream over HTTP: read on from wherever, in whichever format; and stopped.

GET  /v1/streams/{stream}            SSE; `Last-Event-ID` or `?offset=` resumes; `?format=native|openai|ui|generate`
POST /v1/streams/{stream}/cancel     the stop fence
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route

from everstream.core.errors import EverstreamError
from everstream.core.events import RequestStart
from everstream.core.log import Position
from everstream.gateway.completions_format import CompletionChunks
from everstream.gateway.generate_format import GenerateChunks
from everstream.gateway.http_door import HttpDoor, Served
from everstream.gateway.sse import NATIVE, Format, SseResponse
from everstream.gateway.standing import Standing
from everstream.gateway.ui_format import HEADERS, UiMessageStream, declared
from everstream.runtime.hub import Feed
from everstream.runtime.meta import is_session, meta_of

ON_DISCONNECT = "x-everstream-on-disconnect"
_OFFSET_DIGITS_MAX = 15


def place_in(request: Request) -> int:
    """The offset that a client holds: `Last-Event-ID`, which a browser sends by itself, else `?offset=`.

    Raises EverstreamError `request.invalid`.
    """
    given = request.headers.get("last-event-id") or request.query_params.get("offset") or "0"
    if not (given.isascii() and given.isdecimal() and len(given) <= _OFFSET_DIGITS_MAX):
        raise EverstreamError("request.invalid", "an offset is a whole number")
    return int(given)


def begun_at_s(feed: Feed) -> int:
    """When a stream began, Unix time in seconds; 0 where that is no longer known."""
    first = feed.log.entries[0] if feed.log.entries and not feed.log.base else None
    return first.at // 1000 if isinstance(first, RequestStart) else 0


class HttpStreams:
    """Reading and stopping, for all routes that answer with a stream."""

    def __init__(self, served: Served, door: HttpDoor) -> None:
        self._served = served
        self._door = door

    def routes(self) -> list[BaseRoute]:
        return [
            Route("/v1/streams/{stream}", self._door.route(self._read), methods=["GET", "OPTIONS"]),
            Route("/v1/streams/{stream}/cancel", self._door.route(self._cancel), methods=["POST", "OPTIONS"]),
        ]

    def answer(
        self,
        request: Request,
        feed: Feed,
        offset: int,
        style: Format,
        standing: Standing,
        *,
        headers: dict[str, str] | None = None,
        retry: bool = False,
    ) -> SseResponse:
        """A stream as the answer to a request, from an offset of its present history on."""
        node = self._served.node
        seen = feed.log.position(offset)
        left = self._canceller(feed) if self.cancels(request) else lambda: None
        return SseResponse(
            node, self._served.connections, feed, seen, style, standing, headers=headers, left=left, retry=retry
        )

    def cancels(self, request: Request) -> bool:
        """Whether an answer is to be stopped where its client goes.  Raises EverstreamError `request.invalid`."""
        said = request.headers.get(ON_DISCONNECT, self._served.node.settings.on_disconnect)
        if said not in ("continue", "cancel"):
            raise EverstreamError("request.invalid", f"{ON_DISCONNECT} is `continue` or `cancel`")
        return said == "cancel"

    def _canceller(self, feed: Feed) -> Callable[[], None]:
        node = self._served.node
        return lambda: node.do(node.stop_stream(feed.stream), f"stop {feed.stream}")

    async def admitted(self, request: Request, reads: str | None = None) -> tuple[Standing, list[SseResponse]]:
        """Who asks for a stream, and a list for the answer: it is ended when what was shown holds no more.

        `reads` is as for the door's `admit`.
        """
        answers: list[SseResponse] = []

        def expire() -> None:
            for answer in answers:
                answer.stop()

        return await self._door.admit(request, expire, reads), answers

    async def found(self, stream: str, offset: int, user: str) -> Feed:
        """A stream, as far as a reader at this offset holds it.  Raises EverstreamError `stream.unknown`."""
        node = self._served.node
        feed = await node.find(stream, user)
        return await node.find_for(stream, Position(feed.log.epoch, offset), user) if offset else feed

    async def _read(self, request: Request) -> Response:
        standing, answers = await self.admitted(request, request.path_params["stream"])
        try:
            offset = place_in(request)
            feed = await self.found(request.path_params["stream"], offset, standing.principal.id)
            style, headers = self._style(request, feed), None
            if isinstance(style, UiMessageStream):  # what a piece belongs to follows from all before it
                offset, headers = 0, HEADERS
            answer = self.answer(request, feed, offset, style, standing, headers=headers, retry=True)
        except BaseException:
            standing.end()
            raise
        answers.append(answer)
        return answer

    @staticmethod
    def _style(request: Request, feed: Feed) -> Format:
        wanted = request.query_params.get("format", "native")
        if wanted == "native":
            return NATIVE
        if is_session(feed.stream):
            raise EverstreamError("request.invalid", "a session is no answer: its `format` is native")
        if wanted == "openai":
            model = meta_of(feed.meta).request.model
            include = request.query_params.get("include_usage", "") in ("1", "true")
            return CompletionChunks(feed.stream, model, begun_at_s(feed), include_usage=include)
        if wanted == "ui":
            return UiMessageStream(feed.stream, tools=declared(meta_of(feed.meta).request))
        if wanted == "generate":
            return GenerateChunks(feed)
        raise EverstreamError("request.invalid", "`format` is native, openai, ui or generate")

    async def _cancel(self, request: Request) -> Response:
        user = await self._door.user(request)
        stream = request.path_params["stream"]
        offset = await self._served.node.cancel(stream, user)
        return JSONResponse({"stream": stream, "offset": offset})


async def accepted(feed: Feed) -> None:
    """Until a provider has taken a request, or the stream has ended: before, there is nothing to be shown."""
    while feed.log.committed < 2 and not feed.log.ended:
        await feed.wait_beyond(feed.log.committed)
        await asyncio.sleep(0)
