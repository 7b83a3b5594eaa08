"""OpenAI's API, over our streams: a client of OpenAI's needs another base address, and nothing else.

    POST /v1/chat/completions     one answer, whole or as Server-Sent Events
    GET  /v1/models  /v1/models/{model}

What is new is that the answer outlives the client: `X-Everstream-Stream` names its stream, each event has an `id`, and
`GET /v1/streams/{stream}?format=openai` goes on from there.  `Idempotency-Key` makes a request safe to repeat.
"""

from __future__ import annotations

from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route

from everstream.core.errors import EverstreamError
from everstream.gateway.completions_format import CompletionChunks, failure_of, openai_error, whole
from everstream.gateway.completions_request import CompletionsAsked, asked
from everstream.gateway.http_door import HttpDoor, Served
from everstream.gateway.http_streams import HttpStreams, accepted, begun_at_s
from everstream.gateway.standing import Standing
from everstream.runtime.hub import Feed

KEY_CHARS_MAX = 256


class Completions:
    def __init__(self, served: Served, door: HttpDoor, streams: HttpStreams) -> None:
        self._served = served
        self._door = door
        self._streams = streams

    def routes(self) -> list[BaseRoute]:
        route = self._door.route
        return [
            Route("/v1/chat/completions", route(self._complete, openai_error), methods=["POST", "OPTIONS"]),
            Route("/v1/models", route(self._models, openai_error), methods=["GET", "OPTIONS"]),
            Route("/v1/models/{model:path}", route(self._model, openai_error), methods=["GET", "OPTIONS"]),
        ]

    async def _complete(self, request: Request) -> Response:
        standing, answers = await self._streams.admitted(request)
        try:
            wanted = asked(await self._door.body(request))
            feed = await self._begun(request, wanted, standing)
            if not wanted.streams:
                standing.end()
                return await self._whole(feed, wanted)
            style = CompletionChunks(
                feed.stream, wanted.request.model, begun_at_s(feed), include_usage=wanted.include_usage
            )
            answer = self._streams.answer(request, feed, 0, style, standing)
        except BaseException:
            standing.end()
            raise
        answers.append(answer)
        return answer

    async def _begun(self, request: Request, wanted: CompletionsAsked, standing: Standing) -> Feed:
        """The stream of an answer, once its provider has taken the request.

        Raises EverstreamError where it refuses: then the answer's status says so, as OpenAI's own does.
        """
        key = request.headers.get("idempotency-key")
        if key is not None and not 0 < len(key) <= KEY_CHARS_MAX:
            raise EverstreamError("request.invalid", f"an idempotency key has 1 to {KEY_CHARS_MAX} characters")
        feed = await self._served.node.generate(wanted.request, standing.principal.id, key)
        await accepted(feed)
        total = feed.log.total()
        failed = failure_of(total.end) if total.end is not None and not total.shows_content else None
        if failed is not None:
            raise failed
        return feed

    async def _whole(self, feed: Feed, wanted: CompletionsAsked) -> Response:
        await feed.wait_ended()
        body = whole(feed.log, wanted.request.model, begun_at_s(feed))
        return JSONResponse(body, headers={"x-everstream-stream": feed.stream})

    async def _models(self, request: Request) -> Response:
        await self._door.user(request)
        return JSONResponse({"object": "list", "data": await self._shown()})

    async def _model(self, request: Request) -> Response:
        await self._door.user(request)
        wanted = request.path_params["model"]
        for model in await self._shown():
            if model["id"] == wanted:
                return JSONResponse(model)
        raise EverstreamError("model.unknown", "this server does not list such a model")

    async def _shown(self) -> list[dict[str, Any]]:
        models = await self._served.node.models()
        return [
            {"id": model.id, "object": "model", "created": 0, "owned_by": model.id.partition("/")[0]}
            for model in models
            if model.usable
        ]
