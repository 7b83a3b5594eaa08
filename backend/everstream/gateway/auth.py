"""Who is there: from what a client shows to a principal.

    hello's token, or `Authorization: Bearer`, and the upgrade's headers and cookies ──▶ `authenticate` ──▶ Principal

`authenticate` is a function of whoever runs the server: a table of keys, a JWT, a session's cookie, a question to
another service.  Everything that lets somebody in goes through `principal_of`, so that other ways in, and other ways to
prove who one is, have one place to join.  Without a function everybody is the same anonymous user, and the server
refuses to listen to other machines unless it is told that this is meant.
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field

import structlog
from starlette.concurrency import run_in_threadpool
from starlette.requests import HTTPConnection

from everstream.core.errors import EverstreamError
from everstream.gateway.quiet import told_of

logger = structlog.get_logger(__name__)

ID_CHARS_MAX = 256
_BEARER = "bearer "


@dataclass(frozen=True, slots=True)
class Principal:
    """Somebody who may do things: `id` is what streams and requests belong to.

    `expires_at` (Unix time in seconds) is when the proof holds no more; None: it lasts.  `proof` names what was shown,
    for whoever takes it back: `key:ID`, or "" for what cannot be told apart.
    """

    id: str
    name: str
    expires_at: float | None = None
    proof: str = ""


@dataclass(frozen=True, slots=True)
class Credentials:
    """What a client shows.  Its `repr` tells no secrets.

    `token` is that of `hello` (or of `auth`), else what came as `Authorization: Bearer` with the upgrade; `headers`
    are the upgrade's, their names in lower case; `client` is the address that the connection comes from, which behind
    a proxy is the proxy's.
    """

    token: str | None = field(default=None, repr=False)
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    cookies: Mapping[str, str] = field(default_factory=dict, repr=False)
    client: str | None = None


# Who somebody is: a Principal, or the id of one; None: nobody who may come in.
Verdict = Principal | str | None
Authenticate = Callable[[Credentials], Verdict | Awaitable[Verdict]]

ANONYMOUS = Principal("anonymous", "Anonymous")


def credentials_of(connection: HTTPConnection, token: str | None = None) -> Credentials:
    """What came with a connection; `token`, where there is one, is what was said on it."""
    headers = dict(connection.headers)
    said = headers.get("authorization", "")
    if token is None and said[: len(_BEARER)].lower() == _BEARER:
        token = said[len(_BEARER) :].strip() or None
    return Credentials(token, headers, connection.cookies, connection.client.host if connection.client else None)


async def principal_of(authenticate: Authenticate | None, credentials: Credentials, timeout_s: float) -> Principal:
    """The principal behind what was shown.  A plain function is called in a thread: it may ask a database.

    Raises EverstreamError `auth.denied` for nobody, and `internal` where `authenticate` fails or takes too long.
    """
    if authenticate is None:
        return ANONYMOUS
    try:
        async with asyncio.timeout(timeout_s):
            verdict = await _asked(authenticate, credentials)
        if verdict is not None:
            return _principal(verdict)
    except EverstreamError:
        raise
    except Exception as error:
        # As text: a traceback that is laid out elsewhere may show variables, and tokens are among them.
        logger.error("nobody can be let in: authenticate failed", client=credentials.client, traceback=told_of(error))
        raise EverstreamError("internal", "the server could not find out who you are") from None
    raise EverstreamError("auth.denied", "this token is not accepted" if credentials.token else "a token is needed")


async def _asked(authenticate: Authenticate, credentials: Credentials) -> Verdict:
    if inspect.iscoroutinefunction(authenticate) or inspect.iscoroutinefunction(
        getattr(authenticate, "__call__", None)  # noqa: B004  an object may be callable by a coroutine function
    ):
        said = authenticate(credentials)
    else:
        said = await run_in_threadpool(authenticate, credentials)
    return await said if inspect.isawaitable(said) else said


def _principal(verdict: object) -> Principal:
    if isinstance(verdict, str):
        verdict = Principal(verdict, verdict)
    if not isinstance(verdict, Principal):
        raise TypeError(f"authenticate returned {type(verdict).__name__}: a Principal, a user's id or None is wanted")
    if not (isinstance(verdict.id, str) and 0 < len(verdict.id) <= ID_CHARS_MAX):
        raise ValueError(f"a user's id must be text of 1 to {ID_CHARS_MAX} characters")
    if verdict.expires_at is not None and not isinstance(verdict.expires_at, int | float):
        raise TypeError("a Principal's expires_at is a Unix time in seconds, or None")
    return verdict
