"""What can be asked here, as documents: `/openapi.json` and `/asyncapi.json`.  `/docs` is a page of both.

None of it is secret, so nobody is asked for a token.  The documents are made when they are first asked for.
"""

from __future__ import annotations

from functools import lru_cache

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from everstream.gateway import asyncapi, openapi
from everstream.gateway.described import JSON
from everstream.gateway.http_door import HttpDoor

ROOTS_MAX = 8  # paths that the application is mounted at


class Documents:
    def __init__(self, door: HttpDoor) -> None:
        self._door = door

    def routes(self) -> list[BaseRoute]:
        route = self._door.route
        return [
            Route("/openapi.json", route(self._openapi), methods=["GET", "OPTIONS"]),
            Route("/asyncapi.json", route(self._asyncapi), methods=["GET", "OPTIONS"]),
        ]

    async def _openapi(self, request: Request) -> Response:
        return Response(_openapi_of(request.scope.get("root_path", "")), media_type=JSON)

    async def _asyncapi(self, request: Request) -> Response:
        return Response(_asyncapi_of(request.scope.get("root_path", "")), media_type=JSON)


@lru_cache(maxsize=ROOTS_MAX)
def _openapi_of(root: str) -> bytes:
    """As seen under the path that the application is mounted at, which is one of a few."""
    return msgspec.json.encode(openapi.document() | {"servers": [{"url": root or "/"}]})


@lru_cache(maxsize=ROOTS_MAX)
def _asyncapi_of(root: str) -> bytes:
    return msgspec.json.encode(asyncapi.document(root))
