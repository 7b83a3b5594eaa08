"""Whose a connection is, and how long that holds.

    hello, auth ──token──▶ authenticate ──▶ Principal ──expires_at──▶ one timer ──▶ warn ──▶ expire

A proof ends in two ways.  It runs out: the client is warned some time before, so that it can send a new token and stay,
and is sent away at the time.  Or somebody takes it back: that is heard of while the connection stands, and may also
be heard of while `authenticate` is still being asked, whose answer then comes too late to let anybody in.

The time is that of the wall, which can be set, and the loop's timers know nothing of it: when one rings, the clock is
looked at again.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

import msgspec
import structlog
from starlette.requests import HTTPConnection

from everstream.core.errors import EverstreamError
from everstream.core.events import Request
from everstream.gateway.auth import ANONYMOUS, Authenticate, Principal, credentials_of, principal_of

ORIGIN_CHARS_MAX = 200  # that are logged
WARN_S = 30.0  # before the end, at most
KEY = "key:"  # how the proof of an API key begins
WARN_SHARE = 0.1  # of what was left at the start, at most
TIMER_S_MAX = 86_400.0  # no event loop counts for years
TIMER_S_MIN = 0.001  # timers may ring that much too early
NEVER_S = 100 * 365 * TIMER_S_MAX  # what lasts longer lasts that long: a claim may be any number


class Standing:
    """The principal of one connection.

    `warn` is called once for each time of expiry, some time before; `expire` when it has come.  Both are called on the
    loop, and must not raise.
    """

    __slots__ = (
        "_asking",
        "_authenticate",
        "_connection",
        "_ends_at",
        "_expire",
        "_taken_back",
        "_timeout_s",
        "_timer",
        "_warn",
        "_warn_at",
        "_warned_until",
        "principal",
    )

    def __init__(
        self,
        connection: HTTPConnection,
        authenticate: Authenticate | None,
        timeout_s: float,
        warn: Callable[[], None],
        expire: Callable[[], None],
    ) -> None:
        self.principal: Principal = ANONYMOUS
        self._connection = connection
        self._authenticate = authenticate
        self._timeout_s = timeout_s
        self._warn = warn
        self._expire = expire
        self._asking = 0
        self._taken_back: set[str] = set()  # proofs, while it is being asked who is there
        self._timer: asyncio.TimerHandle | None = None
        self._ends_at = self._warn_at = self._warned_until = 0.0  # Unix time

    async def admit(self, token: str | None) -> None:
        """Find out who is there.  Raises EverstreamError: as `principal_of`, and `auth.denied` for what has ended."""
        self._take(await self._proved(token))

    async def renew(self, token: str) -> None:
        """Take a new token of the same user; it counts as it says, also where it ends earlier than the old one.

        Raises EverstreamError: as `admit`, and `auth.forbidden` for somebody else's.  Then nothing has changed.
        """
        principal = await self._proved(token)
        if principal.id != self.principal.id:
            raise EverstreamError("auth.forbidden", "this token is somebody else's: connect anew with it")
        self._take(principal)

    def paying(self, request: Request) -> Request:
        """The request as this connection's: it says which key it was asked with."""
        proof = self.principal.proof
        return msgspec.structs.replace(request, paid_by=proof) if proof.startswith(KEY) else request

    def taken_back(self, proof: str) -> bool:
        """Somebody took a proof back.  True where it is what this connection stands on."""
        if self._asking:
            self._taken_back.add(proof)
        return proof != "" and proof == self.principal.proof

    def end(self) -> None:
        """The connection is over."""
        if self._timer is not None:
            self._timer.cancel()

    # ------------------------------------------------------------------ what is shown

    async def _proved(self, token: str | None) -> Principal:
        self._asking += 1
        try:
            credentials = credentials_of(self._connection, token)
            with structlog.contextvars.bound_contextvars(**_whence(self._connection)):
                principal = await principal_of(self._authenticate, credentials, self._timeout_s)
            if principal.proof and principal.proof in self._taken_back:
                raise EverstreamError("auth.denied", "this token was taken back")
        finally:
            self._asking -= 1
            if not self._asking:
                self._taken_back.clear()
        # Only what is surely later has not come: NaN is no time.
        if principal.expires_at is not None and not principal.expires_at > time.time():
            raise EverstreamError("auth.denied", "this token has expired")
        return principal

    # ------------------------------------------------------------------ its time

    def _take(self, principal: Principal) -> None:
        self.principal = principal
        self.end()
        if principal.expires_at is None:
            return
        now = time.time()
        self._ends_at = min(principal.expires_at, now + NEVER_S)
        # Who sends the same token again has heard of its end.
        known = self._ends_at <= self._warned_until
        self._warn_at = self._ends_at - (0.0 if known else min(WARN_S, (self._ends_at - now) * WARN_SHARE))
        self._set_timer(now)

    def _set_timer(self, now: float) -> None:
        due = self._warn_at if self._warn_at > now else self._ends_at
        left_s = min(max(due - now, TIMER_S_MIN), TIMER_S_MAX)
        self._timer = asyncio.get_running_loop().call_later(left_s, self._look)

    def _look(self) -> None:
        now = time.time()
        if now >= self._ends_at:
            self._expire()
            return
        if now >= self._warn_at and self._warned_until < self._ends_at:
            self._warned_until = self._ends_at
            self._warn()
        self._set_timer(now)


def _whence(connection: HTTPConnection) -> dict[str, str]:
    """What a log line about a token says of who showed it."""
    origin = connection.headers.get("origin", "")[:ORIGIN_CHARS_MAX]
    return {"address": connection.client.host if connection.client else "", **({"origin": origin} if origin else {})}
