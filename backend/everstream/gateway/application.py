"""Everstream in a program of one's own: an ASGI application with the models and tools that the program registers.

    everstream serve module:app    our own server, several processes and a drain included
    uvicorn module:app             any ASGI server; the node starts and stops with the application's lifespan
    Mount("/chat", app)            inside another application, whose lifespan has to be given `app.lifespan`

All three serve the same routes.  Where no lifespan says when to start (a mounted application's is not called), the node
starts with the first connection, and nobody tells it when to stop: what it leads is carried on when its lease runs out.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from contextlib import asynccontextmanager
from typing import Any, TypeVar, overload

import structlog
from starlette.applications import Starlette
from starlette.requests import HTTPConnection
from starlette.responses import JSONResponse
from starlette.types import Receive, Scope, Send
from starlette.websockets import WebSocket

from everstream.config import load
from everstream.core.errors import FAULTS, EverstreamError
from everstream.gateway.app import Site
from everstream.gateway.auth import Authenticate
from everstream.gateway.authenticator import authenticator_of
from everstream.gateway.connections import Connections
from everstream.providers.function import Declared, Function, Model, Models
from everstream.providers.registry import registry_of
from everstream.runtime.node import Node
from everstream.runtime.tools import Approval, Tools
from everstream.runtime.turns import OnTurn
from everstream.settings import Settings
from everstream.store.urls import store_of

logger = structlog.get_logger(__name__)

_F = TypeVar("_F", bound=Function)
_T = TypeVar("_T", bound=Callable[..., Any])


class App(Starlette):
    """An ASGI application that serves chats.

    `settings`: those of the environment and of `everstream.toml` where they are None, read when it starts; a mapping is
    what `Settings` takes.  `models`: functions, or `Model`s, by the name they are to have.  `authenticate` says who a
    client is (`gateway.auth`; without it, what the settings' `auth` asks for does), `on_turn` is told of every answer
    that has ended (`runtime.turns`).  `tools`: functions that models may call, in sessions (`runtime.tools`).
    """

    def __init__(
        self,
        settings: Settings | Mapping[str, Any] | None = None,
        models: Mapping[str, Function | Model] | None = None,
        authenticate: Authenticate | None = None,
        on_turn: OnTurn | None = None,
        tools: Iterable[Callable[..., Any]] = (),
    ) -> None:
        """Raises ValueError or TypeError for settings, models or tools that cannot be."""
        self.settings = Settings(**settings) if isinstance(settings, Mapping) else settings
        self.models = Models()
        for name, model in (models or {}).items():
            self.models.add(name, model if isinstance(model, Model) else Model(model))
        self.tools = Tools()
        for function in tools:
            self.tools.add(function)
        self.authenticate = authenticate
        self.on_turn = on_turn
        self._site = Site(authenticate)
        self._node: Node | None = None  # that was started here
        self._stopped = False
        self._starting: asyncio.Lock | None = None
        super().__init__(routes=self._site.routes(), middleware=self._site.middleware(), lifespan=self.lifespan)

    def model(
        self,
        name: str,
        *,
        continuation: Declared = "restart",
        thinking: bool | None = None,
        tools: bool | None = None,
        images: bool | None = None,
    ) -> Callable[[_F], _F]:
        """Register the function below as the model `app/NAME`.

        `continuation` says how an answer that broke off is taken up; `thinking`, `tools` and `images` are shown to
        clients.  Raises ValueError for a name that is none, or is taken, TypeError for no function of two arguments.
        """

        def register(function: _F) -> _F:
            self.models.add(name, Model(function, continuation, thinking, tools, images))
            return function

        return register

    @overload
    def tool(self, function: _T, /) -> _T: ...

    @overload
    def tool(
        self,
        /,
        *,
        name: str | None = None,
        description: str | None = None,
        parameters: dict[str, Any] | None = None,
        approval: Approval = False,
        timeout_s: float | None = None,
        repeatable: bool = False,
    ) -> Callable[[_T], _T]: ...

    def tool(
        self,
        function: Callable[..., Any] | None = None,
        /,
        *,
        name: str | None = None,
        description: str | None = None,
        parameters: dict[str, Any] | None = None,
        approval: Approval = False,
        timeout_s: float | None = None,
        repeatable: bool = False,
    ) -> Any:
        """Register the function below as a tool: models are offered it in sessions, and the server runs it.

        What is declared, and what is raised, stands at `runtime.tools.Tools.add`.
        """

        def register(function: _T) -> _T:
            self.tools.add(
                function,
                name=name,
                description=description,
                parameters=parameters,
                approval=approval,
                timeout_s=timeout_s,
                repeatable=repeatable,
            )
            return function

        return register if function is None else register(function)

    def serve(self, node: Node, connections: Connections, authenticate: Authenticate | None = None) -> None:
        """Serve a node that somebody else starts and stops.  `authenticate` is what its settings ask for."""
        self._site.open(node, connections, authenticate)

    # ------------------------------------------------------------------ a node of its own

    @asynccontextmanager
    async def lifespan(self, outer: object = None) -> AsyncIterator[None]:
        """From the start of the node to its end, for the `lifespan` of the application that this one is mounted in.

        Raises EverstreamError `store.unavailable`, and `config.ConfigError`.
        """
        self._stopped = False
        await self._start()
        try:
            yield
        finally:
            await self._stop()

    async def _start(self) -> None:
        self._starting = self._starting or asyncio.Lock()
        async with self._starting:
            if self._site.is_open:
                return
            settings = self.settings or load().settings
            store = store_of(settings)
            asked = authenticator_of(settings, store) if self.authenticate is None else None
            node = Node(settings, store, registry_of(settings, store, self.models), self.on_turn, self.tools)
            await node.start()
            self._node = node
            self._site.open(node, authenticate=asked)

    async def _stop(self) -> None:
        node, self._node, self._starting, self._stopped = self._node, None, None, True
        if node is None:
            return
        try:
            await node.drain(node.settings.drain_ms / 1000)
            await node.stop()
        finally:
            self._site.close()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if not self._site.is_open and scope["type"] in ("http", "websocket"):
            try:
                await self._start_late()
            except EverstreamError as error:
                await _refuse(error, scope, receive, send)
                return
        await super().__call__(scope, receive, send)

    async def _start_late(self) -> None:
        """Somebody is there, and nobody has said that it is time to start."""
        if self._stopped:
            raise EverstreamError("node.draining", "this server has stopped")
        if self._starting is None:
            advice = "give app.lifespan to the application that it is mounted in, so that it starts and stops in order"
            logger.warning("everstream starts with its first connection", advice=advice)
        await self._start()


def create_app(
    settings: Settings | Mapping[str, Any] | None = None,
    models: Mapping[str, Function | Model] | None = None,
    authenticate: Authenticate | None = None,
    on_turn: OnTurn | None = None,
    tools: Iterable[Callable[..., Any]] = (),
) -> App:
    """An `App`, in the way that ASGI frameworks spell it."""
    return App(settings, models, authenticate, on_turn, tools)


async def _refuse(error: EverstreamError, scope: Scope, receive: Receive, send: Send) -> None:
    logger.warning("nobody can be served", client=HTTPConnection(scope).client, error=error.message)
    body = {"status": "unavailable", "code": error.code, "message": error.message}
    response = JSONResponse(body, status_code=FAULTS[error.code].http_status)
    if scope["type"] == "http":
        await response(scope, receive, send)
    elif "websocket.http.response" in scope.get("extensions", {}):
        await WebSocket(scope, receive, send).send_denial_response(response)
    else:
        await WebSocket(scope, receive, send).close()
