"""Who may ask over HTTP, what may be sent, and how a refusal is written.

Browsers let any page send some requests anywhere, with whatever the visitor's machine can reach, and say where the page
came from (Fetch standard, "Origin" and "Sec-Fetch-Site").  Pages of other sites are refused unless the settings name
them: else each could spend the keys of a server on its visitor's machine.  What is no browser says neither.
"""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable
from typing import Any, Protocol
from urllib.parse import urlsplit

import msgspec
import structlog
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from everstream.core.errors import FAULTS, EverstreamError
from everstream.core.events import Request as Generation
from everstream.core.wire import shallow
from everstream.gateway.auth import Authenticate
from everstream.gateway.connections import Connections
from everstream.gateway.standing import Standing
from everstream.gateway.tickets import redeeming, ticket_in
from everstream.runtime.node import Node

logger = structlog.get_logger(__name__)

Shape = Callable[[EverstreamError], dict[str, Any]]  # an error as the body of an answer
Handler = Callable[[Request], Awaitable[Response]]
ORIGIN_CHARS_MAX = 200  # that are logged
CORS_AGE_S = 600
CORS_HEADERS = "authorization, content-type, idempotency-key, last-event-id, x-api-key, x-everstream-on-disconnect"
CORS_SHOWN = "x-everstream-stream, x-everstream-error, retry-after"


class Served(Protocol):
    """What is served, and for whom."""

    authenticate: Authenticate | None
    connections: Connections
    allowed_origins: frozenset[str]

    @property
    def node(self) -> Node: ...


def native_error(error: EverstreamError) -> dict[str, Any]:
    """The protocol's error, as a body."""
    fields: dict[str, Any] = {"code": error.code, "message": error.message, "retryable": error.retryable}
    if error.retry_after_ms is not None:
        fields["retry_after_ms"] = error.retry_after_ms
    return {"error": fields}


def refusal(error: EverstreamError, shape: Shape = native_error) -> Response:
    headers = {}
    if error.retry_after_ms is not None:
        headers["retry-after"] = str(max(math.ceil(error.retry_after_ms / 1000), 1))
    if error.code in ("auth.required", "auth.denied"):
        headers["www-authenticate"] = "Bearer"
    return JSONResponse(shape(error), FAULTS[error.code].http_status, headers)


class HttpDoor:
    """Lets requests in to the handlers behind it."""

    def __init__(self, served: Served) -> None:
        self._served = served

    def route(self, handler: Handler, shape: Shape = native_error) -> Handler:
        """A handler behind the door: what it raises is an answer in the given shape."""

        async def endpoint(request: Request) -> Response:
            allowed = self._allowed(request)
            if request.method == "OPTIONS":
                answer = _preflight(request) if allowed else Response(status_code=403)
            elif not allowed:
                said, client = request.headers.get("origin", "")[:ORIGIN_CHARS_MAX], request.client
                logger.warning("a page of another site was refused", origin=said, address=client and client.host)
                answer = refusal(EverstreamError("auth.forbidden", "this origin may not ask"), shape)
            else:
                answer = await _answer(handler, request, shape)
            origin = request.headers.get("origin")
            if allowed and origin is not None:
                answer.headers["access-control-allow-origin"] = origin
                answer.headers["access-control-expose-headers"] = CORS_SHOWN
                answer.headers["vary"] = "origin"
            return answer

        return endpoint

    def _allowed(self, request: Request) -> bool:
        origin, allowed = request.headers.get("origin"), self._served.allowed_origins
        if origin is not None:
            own = urlsplit(origin).netloc.lower() == request.headers.get("host", "").lower()
            return own or origin in allowed or "*" in allowed
        return request.headers.get("sec-fetch-site") not in ("cross-site", "same-site") or "*" in allowed

    async def admit(
        self, request: Request, expire: Callable[[], None] = lambda: None, reads: str | None = None
    ) -> Standing:
        """Who asks.  `expire` is called when what was shown holds no more.  Raises EverstreamError `auth.…`.

        The token is `X-API-Key`, or `Authorization: Bearer`; where `reads` is given (a stream that is read, "" for
        another use) a ticket may take its place.
        """
        node, authenticate = self._served.node, self._served.authenticate
        ticket = ticket_in(request) if reads is not None and request.method == "GET" else None
        if reads is not None and ticket is not None:
            authenticate = redeeming(node.store, authenticate, ticket, reads)
        standing = Standing(request, authenticate, node.settings.hello_timeout_s, lambda: None, expire)
        try:
            await standing.admit(request.headers.get("x-api-key"))
        except EverstreamError:
            node.counters.connections_refused += 1
            raise
        request.state.standing = standing
        return standing

    async def user(self, request: Request) -> str:
        """The id of who asks, for what is answered at once.  Raises EverstreamError `auth.…`."""
        standing = await self.admit(request)
        standing.end()
        return standing.principal.id

    async def body(self, request: Request, *, lists: bool = False) -> Any:
        """The JSON map that was sent, or list.  Raises EverstreamError `protocol.too_large` and `request.invalid`."""
        limit = self._served.node.settings.frame_bytes
        received = bytearray()
        async for chunk in request.stream():
            received += chunk
            if len(received) > limit:
                raise EverstreamError("protocol.too_large", f"a body may have {limit} bytes")
        try:
            body = msgspec.json.decode(bytes(received))
        except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
            raise EverstreamError("request.invalid", "the body is no valid JSON") from error
        if not isinstance(body, dict | list if lists else dict) or not shallow(body):
            raise EverstreamError("request.invalid", "the body must be a JSON object, not nested too deeply")
        return body


async def _answer(handler: Handler, request: Request, shape: Shape) -> Response:
    try:
        return await handler(request)
    except EverstreamError as error:
        return refusal(error, shape)
    except Exception:
        logger.exception("a request failed", path=request.url.path)
        return refusal(EverstreamError("internal", "the server failed to carry this out"), shape)


def _preflight(request: Request) -> Response:
    headers = {
        "access-control-allow-methods": "GET, POST, PUT, PATCH, DELETE",
        # Packages add names of their own; the page is one that may ask, whatever it calls its headers.
        "access-control-allow-headers": request.headers.get("access-control-request-headers") or CORS_HEADERS,
        "access-control-max-age": str(CORS_AGE_S),
    }
    return Response(status_code=204, headers=headers)


def paying(request: Request, wanted: Generation) -> Generation:
    """What is asked, as of the one who was admitted with this request."""
    standing: Standing = request.state.standing
    return standing.paying(wanted)
