"""The generate API: one input, one answer, whole or in chunks.

    POST /api/v1/generate/stream     as Server-Sent Events
    POST /api/v1/generate            in one piece

Who asks is known by `X-API-Key`, or by whatever else the door takes.  The stream goes on without its client, and
`GET /v1/streams/{stream}?format=generate` reads it on.  Every model of this server streams: what answers in one piece
comes as one chunk.
"""

from __future__ import annotations

from typing import Any

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from everstream.gateway.generate_format import GenerateChunks, whole
from everstream.gateway.generate_request import asked
from everstream.gateway.http_answers import ClientGone, HttpAnswers, Refused, refused
from everstream.gateway.http_door import HttpDoor, Served
from everstream.gateway.http_streams import HttpStreams


class GenerateApi:
    def __init__(self, served: Served, door: HttpDoor, streams: HttpStreams) -> None:
        self._door = door
        self._streams = streams
        self._answers = HttpAnswers(served, streams)

    def routes(self) -> list[BaseRoute]:
        route = self._door.route
        return [
            Route("/api/v1/generate/stream", route(self._stream), methods=["POST", "OPTIONS"]),
            Route("/api/v1/generate", route(self._whole), methods=["POST", "OPTIONS"]),
        ]

    async def _stream(self, request: Request) -> Response:
        standing, answers = await self._streams.admitted(request)
        try:
            wanted = asked(await self._door.body(request))
            feed = await self._answers.begun(request, wanted, standing.principal.id, whole=False)
            answer = self._streams.answer(request, feed, 0, GenerateChunks(feed), standing)
        except BaseException as error:
            standing.end()
            if isinstance(error, Refused | ClientGone):
                return refused(error)
            raise
        answers.append(answer)
        return answer

    async def _whole(self, request: Request) -> Response:
        user = await self._door.user(request)
        wanted = asked(await self._door.body(request))
        try:
            feed = await self._answers.begun(request, wanted, user, whole=True)
            over = await self._answers.ended(request, feed)
        except (Refused, ClientGone) as fault:
            return refused(fault)
        return _json(whole(feed.stream, feed.log.total(), over), feed.stream)


def _json(body: dict[str, Any], stream: str) -> Response:
    headers = {"x-everstream-stream": stream}
    return Response(msgspec.json.encode(body), media_type="application/json", headers=headers)
