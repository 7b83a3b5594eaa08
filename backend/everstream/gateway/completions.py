"""OpenAI's API, over our streams: a client of OpenAI's needs another base address, and nothing else.

    POST /v1/chat/completions     one answer, whole or as Server-Sent Events
    GET  /v1/models  /v1/models/{model}

What is new is that the answer outlives the client: `X-Everstream-Stream` names its stream, each event has an `id`, and
`GET /v1/streams/{stream}?format=openai` goes on from there.  `Idempotency-Key` makes a request safe to repeat: OpenAI's
packages repeat by themselves what timed out or failed, and send no key unless they are given one.
"""

from __future__ import annotations

from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route

from everstream.core.errors import EverstreamError
from everstream.gateway.completions_format import CompletionChunks, openai_error, whole
from everstream.gateway.completions_request import asked
from everstream.gateway.http_answers import ClientGone, HttpAnswers, Refused, refused
from everstream.gateway.http_door import Handler, HttpDoor, Served, refusal
from everstream.gateway.http_streams import HttpStreams, begun_at_s


class Completions:
    def __init__(self, served: Served, door: HttpDoor, streams: HttpStreams) -> None:
        self._served = served
        self._door = door
        self._streams = streams
        self._answers = HttpAnswers(served, streams)

    def routes(self) -> list[BaseRoute]:
        return [
            self._route("/v1/chat/completions", self._complete, "POST"),
            self._route("/v1/models", self._models, "GET"),
            self._route("/v1/models/{model:path}", self._model, "GET"),
        ]

    def _route(self, path: str, handler: Handler, method: str) -> Route:
        return Route(path, self._door.route(_advising(handler), openai_error), methods=[method, "OPTIONS"])

    async def _complete(self, request: Request) -> Response:
        standing, answers = await self._streams.admitted(request)
        try:
            wanted = asked(await self._door.body(request))
            feed = await self._answers.begun(request, wanted.request, standing.principal.id, whole=not wanted.streams)
            model = wanted.request.model
            if not wanted.streams:
                over = await self._answers.ended(request, feed)
                standing.end()
                body = whole(feed.log, over, model, begun_at_s(feed))
                return JSONResponse(body, headers={"x-everstream-stream": feed.stream})
            style = CompletionChunks(feed.stream, model, begun_at_s(feed), include_usage=wanted.include_usage)
            answer = self._streams.answer(request, feed, 0, style, standing)
        except BaseException:
            standing.end()
            raise
        answers.append(answer)
        return answer

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


def _advising(handler: Handler) -> Handler:
    """A handler whose refusals say whether OpenAI's packages are to try again, which else go by the status alone."""

    async def advised(request: Request) -> Response:
        try:
            return await handler(request)
        except EverstreamError as error:
            answer, retryable = refusal(error, openai_error), error.retryable
        except Refused as fault:
            answer, retryable = refused(fault, openai_error), fault.error.retryable
        except ClientGone as fault:
            return refused(fault)
        answer.headers["x-should-retry"] = "true" if retryable else "false"
        return answer

    return advised
