"""By which names a server may be asked, where nobody is asked who he is.

A site can have its own name resolve to an address of its visitor's machine or network, after its page was loaded (DNS
rebinding).  For the browser that server is then the page's own: `Origin` and `Host` agree, and the page may read what
it answers.  What gives it away is the name: it is the site's.  So a server that lets in whoever reaches it
answers to addresses, which nobody can have resolve to another one, to the names of the machine itself, which no name
server is asked for, and to those that the settings give.

Where everybody has to say who he is, a page without a token gets nothing, and names are looked at only where the
settings give some.  A request without `Host` is let through: no browser sends one.
"""

from __future__ import annotations

from collections.abc import Collection
from ipaddress import ip_address
from typing import Protocol

import structlog
from starlette.datastructures import Headers
from starlette.requests import HTTPConnection
from starlette.types import ASGIApp, Receive, Scope, Send
from starlette.websockets import WebSocket

from everstream.core.errors import EverstreamError
from everstream.gateway.http_door import refusal

logger = structlog.get_logger(__name__)

ANY = "*"
HOST_CHARS_MAX = 200  # that are logged


class Named(Protocol):
    """What is served, and by which names: None where all are good."""

    allowed_hosts: frozenset[str] | None


def names_of(allowed_hosts: str, *, anybody: bool) -> frozenset[str] | None:
    """The names that the settings give; None where no name is looked at.  `anybody`: nobody is asked who he is."""
    names = frozenset(part.strip().lower() for part in allowed_hosts.split(",") if part.strip())
    return None if ANY in names or not (names or anybody) else names


def may_be_asked(host: str, names: Collection[str]) -> bool:
    """Whether `Host: host` may be answered: an address, this machine's own name, or one of `names`; with any port."""
    host = host.strip().lower()
    name = host[1:].partition("]")[0] if host.startswith("[") else host.partition(":")[0].removesuffix(".")
    if name in names or name == "localhost" or name.endswith(".localhost"):
        return True
    try:
        ip_address(name)
    except ValueError:
        return False
    return True


class OwnNames:
    """Refuses what is asked by a name that is none of ours, before anything else looks at it."""

    def __init__(self, app: ASGIApp, served: Named) -> None:
        self._app = app
        self._served = served

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        names = self._served.allowed_hosts
        if names is not None and scope["type"] in ("http", "websocket"):
            hosts = Headers(scope=scope).getlist("host")
            if not all(may_be_asked(host, names) for host in hosts):
                await _refuse(hosts, scope, receive, send)
                return
        await self._app(scope, receive, send)


async def _refuse(hosts: list[str], scope: Scope, receive: Receive, send: Send) -> None:
    connection = HTTPConnection(scope)
    address = connection.client.host if connection.client else None
    logger.warning("a request for another host was refused", host=",".join(hosts)[:HOST_CHARS_MAX], address=address)
    message = "this server does not answer to that name: EVERSTREAM_ALLOWED_HOSTS is where it can be named"
    response = refusal(EverstreamError("auth.forbidden", message))
    if scope["type"] == "http":
        await response(scope, receive, send)
    elif "websocket.http.response" in scope.get("extensions", {}):
        await WebSocket(scope, receive, send).send_denial_response(response)
    else:
        await WebSocket(scope, receive, send).close()
