"""An answer for the browser's `EventSource`, which can send a URL and no more (HTML Living Standard, section 9.2).

    GET /stream?prompt=&provider=&model=

    id: r_…:1                              the stream, and the offset in it; no data, so a page sees nothing of it
    data: {"type":"token","text":…}   …    then {"type":"done"} or {"type":"error","message":…}

A browser that loses the connection asks the same URL again, with the last `id` as `Last-Event-ID`; it does so after
the end as well.  The `id` names the stream, so the repeat reads on and asks no model; after the end the answer is 204,
which tells the browser to come no more.  Before the first `id` only a `request_id` in the URL makes a repeat safe.

This is a GET that costs money.  The door refuses what a browser says is asked by another site; a browser that does not
say it (it does so for https and for this machine alone) tells by `Accept` whether it wants a stream or an image, a page
or something to have at hand, and mostly by `Referer` who asks.
"""

from __future__ import annotations

import re
from typing import Any
from urllib.parse import urlsplit

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from everstream.core.cursor import Run
from everstream.core.errors import EverstreamError
from everstream.core.events import DeltaRefusal, DeltaText, Message, Params, RequestStart, StreamEnd
from everstream.core.events import Request as Wanted
from everstream.core.log import Log
from everstream.gateway.http_door import HttpDoor, Served, paying
from everstream.gateway.http_streams import HttpStreams
from everstream.gateway.outcome import failure_of
from everstream.gateway.sse import HEADERS, RETRY
from everstream.gateway.standing import Standing
from everstream.gateway.tickets import began
from everstream.runtime.hub import Feed

PROMPT_CHARS_MAX = 8_192  # some proxies take no URL that is longer than that
ID_CHARS_MAX = 256
OVER = "over"  # the `id` of an answer that there is no stream of
_PLACE = re.compile(r"(r_[a-z0-9]{1,60}):([0-9]{1,15})")
_NUMBERS = ("max_tokens", "temperature")


class EventSource:
    def __init__(self, served: Served, door: HttpDoor, streams: HttpStreams) -> None:
        self._served = served
        self._door = door
        self._streams = streams

    def routes(self) -> list[BaseRoute]:
        return [Route("/stream", self._door.route(self._stream), methods=["GET", "OPTIONS"])]

    async def _stream(self, request: Request) -> Response:
        if request.method != "GET":  # HEAD would begin an answer that nobody reads
            return Response(status_code=405, headers={"allow": "GET"})
        _check_wanted(request)
        place = request.headers.get("last-event-id", "")
        try:
            return await self._answered(request, place)
        except EverstreamError as error:
            if place and error.retryable:  # any status but 200 would end the browser's coming back
                return _at_once(b"")
            raise

    async def _answered(self, request: Request, place: str) -> Response:
        named = _PLACE.fullmatch(place)
        standing, answers = await self._streams.admitted(request, named[1] if named else "")
        try:
            found = await (self._resumed(place, standing.principal.id) if place else self._begun(request, standing))
            if isinstance(found, Response):
                standing.end()
                return found
            feed, offset = found
            answer = self._streams.answer(request, feed, offset, EventSourceFormat(feed.stream), standing, retry=True)
        except BaseException:
            standing.end()
            raise
        answers.append(answer)
        return answer

    async def _begun(self, request: Request, standing: Standing) -> tuple[Feed, int] | Response:
        node, principal = self._served.node, standing.principal
        wanted, key = asked(request, node.settings.default_model)
        try:
            feed = await node.generate(paying(request, wanted), principal.id, key)
        except EverstreamError as error:  # a page cannot read why a status was no good one
            return _at_once(_said({"type": "error", "message": error.message}, OVER))
        await began(node.store, request, principal, feed.stream)
        return feed, 0

    async def _resumed(self, place: str, user: str) -> tuple[Feed, int] | Response:
        """The stream that a browser has read up to a place, or what ends its coming back."""
        if place == OVER:
            return Response(status_code=204)
        found = _PLACE.fullmatch(place)
        if found is None:
            raise EverstreamError("request.invalid", "`Last-Event-ID` is none of ours")
        offset = int(found[2])
        feed = await self._streams.found(found[1], offset, user)
        if feed.log.ended and offset >= feed.log.committed:
            return Response(status_code=204)
        return feed, offset


def _check_wanted(request: Request) -> None:
    """Refuse what was not meant to begin an answer.  Raises EverstreamError `request.invalid`, `auth.forbidden`."""
    accept = request.headers.get("accept", "*/*")
    if accept != "*/*" and "text/event-stream" not in accept:
        raise EverstreamError("request.invalid", "this is for `EventSource`: it accepts text/event-stream")
    if "origin" in request.headers or "sec-fetch-site" in request.headers:
        return  # the door has looked at these
    referer = request.headers.get("referer")
    if referer and urlsplit(referer).netloc.lower() != request.headers.get("host", "").lower():
        raise EverstreamError("auth.forbidden", "this origin may not ask")


def asked(request: Request, default_model: str) -> tuple[Wanted, str | None]:
    """What a URL asks for, and the key that makes it safe to repeat.  Raises EverstreamError `request.invalid`."""
    given = request.query_params
    prompt, key = given.get("prompt", ""), given.get("request_id")
    if not prompt.strip():
        raise EverstreamError("request.invalid", "`prompt` is missing or empty")
    if len(prompt) > PROMPT_CHARS_MAX:
        raise EverstreamError(
            "request.invalid", f"`prompt` may have {PROMPT_CHARS_MAX} characters here: POST what is longer"
        )
    if key is not None and not 0 < len(key) <= ID_CHARS_MAX:
        raise EverstreamError("request.invalid", f"`request_id` has 1 to {ID_CHARS_MAX} characters")
    values: dict[str, Any] = {name: given[name] for name in (*_NUMBERS, "system") if given.get(name)}
    try:
        params = msgspec.convert(values, Params, strict=False)
    except msgspec.ValidationError as error:
        raise EverstreamError("request.invalid", str(error)) from error
    model = _model(given.get("provider", ""), given.get("model", ""), default_model)
    return Wanted(model, [Message("user", prompt)], params), key


def _model(provider: str, model: str, default_model: str) -> str:
    if not provider and not model:
        return default_model
    if provider and not model:
        raise EverstreamError("request.invalid", "`model` is missing")
    whole = model if not provider or model.startswith(f"{provider}/") else f"{provider}/{model}"
    if "/" not in whole:
        raise EverstreamError("request.invalid", "`provider` is missing")
    return whole


class EventSourceFormat:
    """The tokens of one stream.  They follow from its entries alone, so a reader that comes back gets the same."""

    def __init__(self, stream: str) -> None:
        self._stream = stream

    def entry(self, stream: str, run: Run) -> bytes:
        said = run.event
        if isinstance(said, DeltaText | DeltaRefusal):
            return self._event({"type": "token", "text": said.text}, run.upto)
        if isinstance(said, RequestStart):
            return b"id: %b:%d\n\n" % (self._stream.encode(), run.upto)
        return self._end(said, run.upto) if isinstance(said, StreamEnd) else b""

    def snapshot(self, log: Log) -> bytes:
        """All of it at once, in place of what the page shows."""
        total = log.total()
        text = {"type": "snapshot", "text": total.text + total.refusal}
        if total.end is None:
            return self._event(text, log.committed)
        return self._event(text, log.committed - 1) + self._end(total.end, log.committed)

    def _end(self, over: StreamEnd, offset: int) -> bytes:
        failed = failure_of(over)
        if failed is not None:
            return self._event({"type": "error", "message": failed.message, "code": failed.code}, offset)
        return self._event({"type": "done", "reason": over.reason, "usage": over.usage, "cost": over.cost}, offset)

    def _event(self, said: dict[str, Any], offset: int) -> bytes:
        return _said(said, f"{self._stream}:{offset}")


def _said(said: dict[str, Any], name: str) -> bytes:
    return b"id: %b\ndata: %b\n\n" % (name.encode(), msgspec.json.encode(said))


def _at_once(body: bytes) -> Response:
    """A stream that is over as soon as it has begun."""
    return Response(RETRY + b"\n" + body, media_type="text/event-stream", headers=HEADERS)
