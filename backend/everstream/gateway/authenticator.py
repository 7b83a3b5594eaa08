"""Who is there, by the settings: API keys, JSON Web Tokens, both, or nobody is asked.

    hello's token ──▶ es_…        ──▶ Keys        the store knows it, and forgets it when it is revoked
                  └─▶ all else    ──▶ JsonTokens  proves itself, until its exp

A token is looked at by one of the two, told apart by how it begins: a JSON Web Token is `ey…`, a bracket in base64.
This is an `authenticate` like any other (`gateway.auth`), for servers that no application is built around.
"""

from __future__ import annotations

from typing import Final

import structlog

from everstream.core.errors import EverstreamError
from everstream.gateway.auth import Credentials, Principal
from everstream.gateway.json_tokens import JsonTokens
from everstream.gateway.keys import PROOF, Keys
from everstream.settings import Settings
from everstream.store.base import Store

logger = structlog.get_logger(__name__)

KEY_PREFIX: Final = "es_"


class Authenticator:
    """See the module's text.  What is None is no way in."""

    def __init__(self, keys: Keys | None, tokens: JsonTokens | None) -> None:
        self._keys = keys
        self._tokens = tokens

    async def __call__(self, credentials: Credentials) -> Principal | None:
        """Raises EverstreamError `auth.required` without a token, and what the two raise where they cannot tell."""
        token = credentials.token
        if not token:
            raise EverstreamError("auth.required", "a token is needed")
        way = self._keys if token.startswith(KEY_PREFIX) else self._tokens
        found = None if way is None else await way.find(token)
        if found is None and way is not self._tokens:  # which says why
            logger.info("a token is refused", reason="no key, or one that holds no more")
        return found

    async def holds(self, proof: str) -> bool:
        """Whether what somebody came in by has not been taken back.  Only keys can be.

        Raises EverstreamError `store.unavailable` where that cannot be known at present.
        """
        return self._keys is None or not proof.startswith(PROOF) or await self._keys.holds(proof)


def authenticator_of(settings: Settings, store: Store) -> Authenticator | None:
    """What `auth` of the settings asks for; None where nobody is to be asked.  The store need not be open yet."""
    ways = settings.auth.split(",")
    if ways == ["none"]:
        return None
    return Authenticator(Keys(store) if "keys" in ways else None, JsonTokens(settings) if "jwt" in ways else None)
