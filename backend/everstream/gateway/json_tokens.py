"""JSON Web Tokens: what somebody else has signed about who a client is (RFC 7519), checked here.

    token ──▶ its header: which algorithm, which key ──▶ signature ──▶ exp, nbf, iat, aud, iss ──▶ Principal

The configuration decides what may vouch for a token, never the token: with `jwt_secret` what HS256 made with it, with
`jwt_jwks_url` what a published key made.  A token only chooses among these, and each comes with its own algorithms; so
a public key is never taken for a secret, and `none` is no algorithm at all.

Published keys (a JSON Web Key Set, RFC 7517) are fetched when the first token needs one and hold for five minutes.  A
key that is not among them may be a new one, so they are fetched again, but once in ten seconds at most: whoever makes
up names of keys must not make us ask their publisher each time.  While the publisher cannot be reached, the keys of the
last answer go on vouching, for a day; of a key that is not among them nothing is known, which is no refusal.

PyJWT is known here alone, and imported where tokens are in use: it costs a tenth of a second.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Final, TypeGuard

import structlog

from everstream.core.errors import EverstreamError
from everstream.display import mask_url
from everstream.gateway.auth import ID_CHARS_MAX, Principal
from everstream.settings import Settings

if TYPE_CHECKING:
    from jwt import PyJWK

logger = structlog.get_logger(__name__)

BY_SECRET: Final = ("HS256",)
BY_PUBLISHED_KEY: Final = ("RS256", "PS256", "ES256", "EdDSA")
TOKEN_CHARS_MAX: Final = 16_384  # more than any header of HTTP may have; reading one costs its length
LATEST_S: Final = 253_402_300_800  # the year 10000: a later time is one in milliseconds, or no time

FETCH_S: Final = 5.0  # for all of the keys
HOLD_S: Final = 300.0  # that keys hold before they are asked for again
PAUSE_S: Final = 10.0  # between two fetches, whatever is asked for
OUTLIVE_S: Final = 86_400.0  # that keys hold where they cannot be asked for


class Unfit(Exception):
    """A token that says what cannot be used.  The text is ours and for the log: nothing of the token is in it."""


class JsonTokens:
    """See the module's text.  One for a server; `clock` is in seconds, and only measures."""

    def __init__(self, settings: Settings, clock: Callable[[], float] = time.monotonic) -> None:
        import jwt  # now, and not with the first client

        self._errors = (jwt.PyJWTError, Unfit)
        self._settings = settings
        self._secret = settings.jwt_secret.get_secret_value().encode() if settings.jwt_secret else None
        url = settings.jwt_jwks_url
        # Whoever waits for keys has to be told of it before the time of his hello is over.
        patience_s = min(FETCH_S, settings.hello_timeout_s / 2)
        self._published = PublishedKeys(url, patience_s, clock) if url else None

    async def find(self, token: str) -> Principal | None:
        """Whose token this is; None where it is not to be accepted: why is logged, and nobody else's business.

        Raises EverstreamError `internal`, to be tried again, where the key cannot be looked up at present.
        """
        try:
            return await self._found(token)
        except self._errors as error:
            reason = str(error) if isinstance(error, Unfit) else type(error).__name__
            logger.info("a token is refused", reason=reason)
            return None

    async def _found(self, token: str) -> Principal:
        import jwt

        if len(token) > TOKEN_CHARS_MAX or not token.isascii():
            raise Unfit("it is no token")
        key, algorithms = await self._vouching(jwt.get_unverified_header(token))
        claims = jwt.decode(
            token,
            key,
            algorithms,
            options={"require": ["exp", self._settings.jwt_user_claim], "enforce_minimum_key_length": True},
            audience=self._settings.jwt_audience,
            issuer=self._settings.jwt_issuer,
            leeway=self._settings.jwt_leeway_s,
        )
        return self._principal(claims)

    async def _vouching(self, header: Mapping[str, Any]) -> tuple[bytes | PyJWK, tuple[str, ...]]:
        """What the signature is to be checked with, and by which algorithms."""
        algorithm, kid = header.get("alg"), header.get("kid")
        if algorithm in BY_SECRET and self._secret is not None:
            return self._secret, BY_SECRET
        if algorithm not in BY_PUBLISHED_KEY or self._published is None:
            raise Unfit("its algorithm is not one of those in use")
        key = await self._published.find(kid) if isinstance(kid, str) else None
        if key is None:
            raise Unfit("its key is not among the published ones")
        return key, BY_PUBLISHED_KEY

    def _principal(self, claims: Mapping[str, Any]) -> Principal:
        user, expires_at = claims[self._settings.jwt_user_claim], claims["exp"]
        if not can_be_shown(user):
            raise Unfit("its user is no text of a sane length")
        if not isinstance(expires_at, int | float) or not expires_at < LATEST_S:
            raise Unfit("its exp is no time in seconds")
        name = claims.get(self._settings.jwt_name_claim)
        return Principal(user, name if can_be_shown(name) else user, float(expires_at))


def can_be_shown(text: object) -> TypeGuard[str]:
    """Whether this can be a user's id, or name: text of 1 to 256 characters that can be shown in one line."""
    return isinstance(text, str) and 0 < len(text) <= ID_CHARS_MAX and text.isprintable() and text.strip() == text


def signed(claims: Mapping[str, Any], secret: str) -> str:
    """A token with these claims, by HS256.  Raises TypeError or ValueError for claims that no token can carry."""
    import jwt

    return jwt.encode(dict(claims), secret.encode(), BY_SECRET[0])


class PublishedKeys:
    """The keys that somebody publishes, as they were when he was last asked.  Fetched by one caller at a time."""

    def __init__(self, url: str, patience_s: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._url = url
        self._patience_s = patience_s
        self._clock = clock
        self._lock = asyncio.Lock()
        self._keys: dict[str, PyJWK] = {}
        self._fetched_at = self._tried_at = -math.inf
        self._failed = True  # the last try, or there was none

    async def find(self, kid: str) -> PyJWK | None:
        """The key of this name; None where the publisher has none.

        Raises EverstreamError `internal`, to be tried again, where he cannot be asked.
        """
        if self._is_wanting(kid):
            async with self._lock:  # whoever is asking asks for us too
                if self._is_wanting(kid) and self._clock() - self._tried_at >= PAUSE_S:
                    await self._ask()
        key = self._keys.get(kid)
        if key is not None and self._clock() - self._fetched_at < OUTLIVE_S:
            return key
        if self._failed:
            wait_ms = int(PAUSE_S * 1_000)
            text = "the keys that tokens are checked with cannot be had at present"
            raise EverstreamError("internal", text, retryable=True, retry_after_ms=wait_ms)
        return None

    def _is_wanting(self, kid: str) -> bool:
        return kid not in self._keys or self._clock() - self._fetched_at >= HOLD_S

    async def _ask(self) -> None:
        self._tried_at, self._failed = self._clock(), True
        try:
            async with asyncio.timeout(self._patience_s):
                self._keys = await asyncio.to_thread(fetched, self._url, self._patience_s)
        except Exception as error:  # whatever a foreign server's answer makes of it
            logger.warning(
                "the keys that tokens are checked with cannot be fetched",
                url=mask_url(self._url),
                error=str(error) or type(error).__name__,
                known=len(self._keys),
            )
            return
        self._fetched_at, self._failed = self._clock(), False


def fetched(url: str, timeout_s: float) -> dict[str, PyJWK]:
    """The public keys behind an address, by their names.  Blocks; `timeout_s` is for each of its waits.

    Keys without a name are left out, and so are those that are not for signatures or of a kind that is not known.
    Raises PyJWTError, OSError or ValueError where there are none.
    """
    import jwt

    client = jwt.PyJWKClient(url, cache_jwk_set=False, timeout=timeout_s)
    return {str(key.key_id): key for key in client.get_signing_keys() if key.algorithm_name in BY_PUBLISHED_KEY}
