"""Who may use how much: what an answer claims before its provider is asked, and what is given back when it has ended.

    generate ──check──▶ (refused at once)     its relay ──claim──▶ its allowance     its end ──settle──▶ the rest

An answer is paid for by its user, and by the API key that it was asked with.  Both are accounts in the store
(`core.quota`), with the limits of the settings, or of a row in the table of limits, which is for one user or key.  The
holder of a claim is the answer's stream: so an adopter goes on with what the dead node had claimed.

What an answer will use is not known before.  It claims its question, and as much as it may say: `max_tokens`, or
`ANSWER_TOKENS`.  Where that much is left it is not stopped at it, and what it used beyond is counted; where less is
left it gets that, and ends there (`budget`).  So the accounts of people who ask for ordinary answers are kept to the
token, and an endless one goes over by no more than itself.
"""

from __future__ import annotations

import asyncio
import fnmatch
import math
import time
from dataclasses import dataclass
from typing import Final

import msgspec
import structlog

from everstream.core.errors import EverstreamError
from everstream.core.events import Request, Usage
from everstream.core.meter import estimated_usage
from everstream.core.quota import Claim, Spent
from everstream.providers.tokenizer import tokens_in
from everstream.runtime.accounts import Price, input_text
from everstream.runtime.hub import Feed
from everstream.runtime.meta import is_session, meta_of
from everstream.settings import Settings
from everstream.store.base import Store

logger = structlog.get_logger(__name__)

TABLE: Final = "limits"
KNOWN_S: Final = 5.0  # limits that were changed count by then
ANSWER_TOKENS: Final = 32_768
MINUTE_MS: Final = 60_000
DAY_MS: Final = 86_400_000
MICRO: Final = 1_000_000  # of a dollar
BUSY_MS: Final = 1_000  # nobody knows when an answer ends
KEPT_MS: Final = 600_000  # beyond the longest an answer may take


class Limits(msgspec.Struct, frozen=True, omit_defaults=True):
    """What an account may use.  None: as the settings say for users, and any amount for keys."""

    streams: int | None = None  # at a time
    starts_per_minute: int | None = None
    tokens_per_day: int | None = None
    usd_per_day: float | None = None
    models: tuple[str, ...] | None = None  # `provider/name`, with * for any part


NONE: Final = Limits()
_MESSAGES: Final = {
    "streams": ("limit.streams", "as many answers run as may at a time"),
    "starts": ("limit.rate", "as many answers were begun in this minute as may be"),
    "tokens": ("limit.budget", "the tokens of this day are used"),
    "usd": ("limit.budget", "the money of this day is used"),
}


@dataclass(frozen=True, slots=True)
class Need:
    """What an answer may come to: tokens asked and said, and what they cost in dollars (None: nobody knows)."""

    asked: int
    said: int
    asked_usd: float | None
    said_usd: float | None


class Quotas:
    """Every method may raise EverstreamError `store.unavailable`."""

    def __init__(self, store: Store, settings: Settings, price: Price) -> None:
        self._store = store
        self._price = price
        self._ttl_ms = int(settings.provider_total_timeout_s * 1000) + KEPT_MS
        self._of_users = Limits(
            settings.user_streams or None,
            settings.user_starts_per_minute or None,
            settings.user_tokens_per_day or None,
            settings.user_usd_per_day or None,
        )
        self._rows: dict[str, Limits] = {}
        self._known_until = 0.0
        self._reading = asyncio.Lock()

    # ------------------------------------------------------------------ limits

    @property
    def kept(self) -> bool:
        """Whether anybody has limits, as far as is known here."""
        return bool(self._rows) or self._of_users != NONE

    async def _limits(self, user: str, key: str) -> list[tuple[str, Limits]]:
        """The accounts that pay, with their limits, but for those that have none."""
        if time.monotonic() >= self._known_until:
            async with self._reading:
                if time.monotonic() >= self._known_until:
                    rows = await self._store.rows(TABLE)
                    self._rows = {name: limits_of(packed) for name, packed in rows.items()}
                    self._known_until = time.monotonic() + KNOWN_S
        account = f"user:{user}"
        own = _over(self._rows.get(account, NONE), self._of_users)
        paying = [(account, own), (key, self._rows.get(key, NONE))] if key else [(account, own)]
        return [(name, limits) for name, limits in paying if limits != NONE]

    # ------------------------------------------------------------------ beginning

    async def check(self, user: str, request: Request) -> None:
        """Raises EverstreamError `auth.forbidden`, `limit.…` where an answer could not even begin."""
        for account, limits in await self._limits(user, request.paid_by):
            _demand_model(limits, request.model)
            said = await self._store.claim(account, "", self._claims(limits, request), self._ttl_ms)
            if isinstance(said, Spent):
                raise _refusal(said)

    async def claim(self, feed: Feed, request: Request) -> int | None:
        """How many tokens an answer may say; None: any number.

        Raises EverstreamError as `check`; then nothing is claimed.
        """
        allowed: int | None = None
        held: list[str] = []
        for account, limits in await self._limits(feed.owner.user, request.paid_by):
            try:
                _demand_model(limits, request.model)
                claims = self._claims(limits, request)
                said = await self._store.claim(account, feed.stream, claims, self._ttl_ms)
                if isinstance(said, Spent):
                    raise _refusal(said)
            except EverstreamError:
                for other in held:
                    await self._store.settle(other, feed.stream, dict.fromkeys(_MESSAGES, 0))
                raise
            held.append(account)
            if len(said) != len(claims):  # claimed by a node that has died, under limits that were others
                continue
            for claim, granted in zip(claims, said, strict=True):
                if granted < claim.amount:
                    said_tokens = self._tokens_for(claim, granted, request)
                    allowed = said_tokens if allowed is None else min(allowed, said_tokens)
        return allowed

    def _claims(self, limits: Limits, request: Request) -> list[Claim]:
        claims = []
        if limits.streams is not None:
            claims.append(Claim("streams", 1, 1, limits.streams, 0))
        if limits.starts_per_minute is not None:
            claims.append(Claim("starts", 1, 1, limits.starts_per_minute, MINUTE_MS))
        if limits.tokens_per_day is None and limits.usd_per_day is None:
            return claims
        need = self._need(request)
        if limits.tokens_per_day is not None:
            claims.append(Claim("tokens", need.asked + need.said, need.asked + 1, limits.tokens_per_day, DAY_MS))
        if limits.usd_per_day is not None and need.asked_usd is not None and need.said_usd is not None:
            whole, least = need.asked_usd + need.said_usd, need.asked_usd + need.said_usd / need.said
            most = int(limits.usd_per_day * MICRO)
            claims.append(Claim("usd", _micro(whole), _micro(least), most, DAY_MS))
        return claims

    def _need(self, request: Request) -> Need:
        asked = estimated_usage(tokens_in(input_text(request)), len(request.messages), 0).input_tokens
        said = max(min(request.params.max_tokens or ANSWER_TOKENS, ANSWER_TOKENS), 1)
        cost = self._price(request.model, Usage(asked, said, asked + said, "estimated"))
        return Need(asked, said, None, None) if cost is None else Need(asked, said, cost.input, cost.output)

    def _tokens_for(self, claim: Claim, granted: int, request: Request) -> int:
        need = self._need(request)
        if claim.name == "tokens":
            return max(granted - need.asked, 1)
        if not need.said_usd or need.asked_usd is None:
            return need.said
        return max(int((granted / MICRO - need.asked_usd) / need.said_usd * need.said), 1)

    # ------------------------------------------------------------------ ending

    async def settle(self, feed: Feed) -> None:
        """Count what an answer has used that has ended."""
        over = feed.log.total().end
        if is_session(feed.stream) or over is None:
            return
        usd = 0 if over.cost is None else _micro(over.cost.total)
        used = {"tokens": over.usage.total_tokens, "usd": usd}
        for account, _ in await self._limits(feed.owner.user, meta_of(feed.meta).request.paid_by):
            await self._store.settle(account, feed.stream, used)


def limits_of(packed: bytes) -> Limits:
    """A row of the table of limits.  One that cannot be read allows nothing: it was meant to limit."""
    try:
        return msgspec.msgpack.decode(packed, type=Limits)
    except msgspec.DecodeError:
        logger.error("a row of the table of limits cannot be read, and allows nothing")
        return Limits(streams=0)


def _over(own: Limits, general: Limits) -> Limits:
    """Where somebody's own limits say nothing, the general ones count."""
    said = {name: getattr(own, name) for name in Limits.__struct_fields__ if getattr(own, name) is not None}
    return msgspec.structs.replace(general, **said)


def _demand_model(limits: Limits, model: str) -> None:
    if limits.models is not None and not any(fnmatch.fnmatchcase(model, pattern) for pattern in limits.models):
        raise EverstreamError("auth.forbidden", "this model may not be asked by you, or not with this key")


def _refusal(spent: Spent) -> EverstreamError:
    code, message = _MESSAGES[spent.name]
    return EverstreamError(code, message, retry_after_ms=spent.retry_after_ms or BUSY_MS)


def _micro(usd: float) -> int:
    return math.ceil(usd * MICRO)
