"""The Starlette application: what is served where.

/ws                    the protocol (one Connection each)
/  /docs  /assets/…    the web page
/v1/…                  the same streams over HTTP: OpenAI's API, Server-Sent Events
/healthz  /readyz      liveness; readiness (the store answers, the server is not draining)
/metrics               Prometheus
"""

from __future__ import annotations

from collections.abc import Collection
from urllib.parse import urlsplit

import structlog
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import BaseRoute, Route, WebSocketRoute
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from starlette.websockets import WebSocket

from everstream.core.errors import FAULTS, EverstreamError
from everstream.core.wire import SUBPROTOCOLS, Encoding
from everstream.gateway.auth import Authenticate
from everstream.gateway.completions import Completions
from everstream.gateway.connections import Connections
from everstream.gateway.documents import Documents
from everstream.gateway.event_source import EventSource
from everstream.gateway.events import Events
from everstream.gateway.generate_api import GenerateApi
from everstream.gateway.hosts import OwnNames, names_of
from everstream.gateway.http_door import ORIGIN_CHARS_MAX, HttpDoor
from everstream.gateway.http_streams import HttpStreams
from everstream.gateway.metrics import exposition
from everstream.gateway.page import Page, web_folder
from everstream.gateway.rest import Rest
from everstream.gateway.revocation import watch_proofs
from everstream.gateway.ui_chat import UiChat
from everstream.gateway.websocket import Connection
from everstream.runtime.node import Node

logger = structlog.get_logger(__name__)

# A page may load and run what this server serves, and nothing else.  No text becomes HTML or script anywhere in it
# (trusted types: no sink takes a string, and no policy may be made that would).
CONTENT_SECURITY_POLICY = (
    "default-src 'self'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; connect-src 'self' ws: wss:; "
    "object-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
    "require-trusted-types-for 'script'; trusted-types 'none'"
)
SAFE_HEADERS = [
    (b"content-security-policy", CONTENT_SECURITY_POLICY.encode()),
    (b"permissions-policy", b"camera=(), display-capture=(), geolocation=(), microphone=(), payment=(), usb=()"),
    (b"cross-origin-opener-policy", b"same-origin"),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
]


class SafeHeaders:
    """Headers that every HTTP answer carries.  What does not say how long it may be kept, nobody keeps."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                own = message["headers"]
                kept = any(name == b"cache-control" for name, _ in own)
                message["headers"] = [*own, *SAFE_HEADERS, *(() if kept else ((b"cache-control", b"no-store"),))]
            await send(message)

        await self._app(scope, receive, send_with_headers)


def may_connect(origin: str | None, host: str | None, allowed: Collection[str]) -> bool:
    """Whether a page of `origin` may open a WebSocket here: our own pages, and those that the settings name.

    Browsers let any page connect anywhere and say where the page came from (RFC 6455 section 10.2); without this
    check any site could spend the keys of a server on its visitor's machine.  What is no browser sends no origin.
    """
    if origin is None or origin in allowed or "*" in allowed:
        return True
    return bool(host) and urlsplit(origin).netloc.lower() == str(host).lower()


class Site:
    """What the routes serve: a node, once it runs, its connections, and who may come in.

    `authenticate` is the application's own; without it, it is what the settings ask for.
    """

    def __init__(self, authenticate: Authenticate | None = None) -> None:
        self._own = authenticate
        self.authenticate = authenticate
        self.connections = Connections()
        self._node: Node | None = None
        self.allowed_origins: frozenset[str] = frozenset()
        self.allowed_hosts: frozenset[str] | None = None

    def open(
        self, node: Node, connections: Connections | None = None, authenticate: Authenticate | None = None
    ) -> None:
        """Serve this node, which runs.  `authenticate` is what its settings ask for."""
        origins = node.settings.allowed_origins.split(",")
        self.allowed_origins = frozenset(part.strip() for part in origins if part.strip())
        self.connections = Connections() if connections is None else connections
        self.authenticate = self._own or authenticate
        self.allowed_hosts = names_of(node.settings.allowed_hosts, anybody=self.authenticate is None)
        watch_proofs(node, self.connections, self.authenticate)
        self._node = node

    def close(self) -> None:
        """Serve nobody any more."""
        self._node = None

    @property
    def is_open(self) -> bool:
        return self._node is not None

    @property
    def node(self) -> Node:
        """Raises EverstreamError `node.draining` while none runs."""
        if self._node is None:
            raise EverstreamError("node.draining", "this server does not run")
        return self._node

    # ------------------------------------------------------------------ what is served

    def middleware(self) -> list[Middleware]:
        """What everything goes through that is asked and answered."""
        return [Middleware(SafeHeaders), Middleware(OwnNames, served=self)]

    def routes(self) -> list[BaseRoute]:
        door = HttpDoor(self)
        return [
            *Rest(self, door).routes(),
            *Documents(door).routes(),
            WebSocketRoute("/ws", self._websocket),
            Route("/healthz", self._healthz),
            Route("/readyz", self._readyz),
            Route("/metrics", self._metrics),
            *self._http_routes(),
            *Page(web_folder()).routes(),
        ]

    def _http_routes(self) -> list[BaseRoute]:
        """The same streams without a WebSocket."""
        door = HttpDoor(self)
        streams = HttpStreams(self, door)
        completions, chats = Completions(self, door, streams), UiChat(self, door, streams)
        generate, sources = GenerateApi(self, door, streams), EventSource(self, door, streams)
        others = (*completions.routes(), *chats.routes(), *generate.routes(), *sources.routes())
        return [*streams.routes(), *Events(self, door).routes(), *others]

    async def _websocket(self, websocket: WebSocket) -> None:
        if not may_connect(websocket.headers.get("origin"), websocket.headers.get("host"), self.allowed_origins):
            origin, address = websocket.headers["origin"][:ORIGIN_CHARS_MAX], websocket.client and websocket.client.host
            logger.warning("a page of another site was refused", origin=origin, address=address)
            await websocket.send_denial_response(PlainTextResponse("this origin may not connect\n", status_code=403))
            return
        offered = websocket.scope["subprotocols"]
        chosen = next((name for name in offered if name in SUBPROTOCOLS), None)
        if offered and chosen is None:
            known = ", ".join(SUBPROTOCOLS)
            await websocket.send_denial_response(PlainTextResponse(f"subprotocols: {known}\n", status_code=400))
            return
        node, connections = self.node, self.connections
        await websocket.accept(subprotocol=chosen)
        encoding = SUBPROTOCOLS[chosen] if chosen else Encoding.JSON
        connection = Connection(websocket, encoding, node, connections, self.authenticate)
        with connections.joined(connection, node):
            await connection.run()

    async def _healthz(self, request: Request) -> Response:
        return JSONResponse({"status": "ok", "node": self.node.id})

    async def _readyz(self, request: Request) -> Response:
        try:
            await self.node.ready()
        except EverstreamError as error:
            body = {"status": "unavailable", "code": error.code, "message": error.message}
            return JSONResponse(body, status_code=FAULTS[error.code].http_status)
        return JSONResponse({"status": "ready", "node": self.node.id})

    async def _metrics(self, request: Request) -> Response:
        body, content_type = exposition(self.node)
        return Response(body, headers={"content-type": content_type})


def app_around(node: Node, connections: Connections, authenticate: Authenticate | None = None) -> Starlette:
    """The application around a node that is running."""
    site = Site()
    site.open(node, connections, authenticate)
    return Starlette(routes=site.routes(), middleware=site.middleware())
