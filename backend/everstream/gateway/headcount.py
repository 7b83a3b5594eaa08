"""How many connections a user has, over all nodes.

    hello ──▶ enter ──claim──▶ account "connections:USER" of the store ──▶ in, or `limit.rate`
              every RENEW_S: each holder claims again, and is kept for TTL_S from then on
              leave ──settle─▶ the place is free

The account is one as for answers (`core.quota`), whose holders are connections: so twenty that come at the same
moment, on whatever nodes, get together no more places than there are.  A node that dies renews nothing, and its
connections are forgotten.

This keeps one user from taking what is there for all; it is not what keeps strangers out.  So where the store does not
answer people are let in, and counted when it does again: then there may be more of them than may be, until some go.
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import Final

import structlog

from everstream.core.errors import EverstreamError
from everstream.core.quota import Claim, Spent
from everstream.runtime.node import Node

logger = structlog.get_logger(__name__)

TTL_S: Final = 90.0  # three renewals, of which two may be lost
RENEW_S: Final = 30.0
BATCH: Final = 64  # renewals at a time: a node with ten thousand connections is not to fill the store's line with them
RETRY_MS: Final = 5_000  # nobody knows when a connection ends


class Headcount:
    """The connections of this process that are counted, and the means to count them."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._most = node.settings.user_connections
        self._held: dict[str, str] = {}  # connection -> its user
        self._begun = False

    async def enter(self, user: str, connection: str) -> None:
        """Take a place for a connection, which has to `leave`.  Without a limit nothing is counted.

        Raises EverstreamError `limit.rate` where the user has as many as he may.
        """
        if not self._most:
            return
        if not self._begun:
            self._begun = True
            self._node.do(self._renewing(), "renew connections")
        self._held[connection] = user
        try:
            taken = await self._claim(user, connection)
        except EverstreamError as error:
            logger.warning("a connection is let in without being counted", connection=connection, error=error.message)
            return
        except BaseException:
            self.leave(connection)
            raise
        if not taken:
            self._held.pop(connection, None)
            message = "this user has as many connections as he may"
            raise EverstreamError("limit.rate", message, retry_after_ms=RETRY_MS)

    def leave(self, connection: str) -> None:
        """Free its place, at once; safe to repeat."""
        user = self._held.pop(connection, None)
        if user is not None:
            self._node.do(self._free(user, connection), f"free the place of {connection}")

    async def _claim(self, user: str, connection: str) -> bool:
        wanted = [Claim("connections", 1, 1, self._most, 0)]
        said = await self._node.store.claim(_account(user), connection, wanted, int(TTL_S * 1000))
        if connection not in self._held:  # it left meanwhile, and its place may have been freed before it was taken
            await self._free(user, connection)
        return not isinstance(said, Spent)

    async def _free(self, user: str, connection: str) -> None:
        with contextlib.suppress(EverstreamError):  # the store is away, and forgets it in time
            await self._node.store.settle(_account(user), connection, {})

    async def _renewing(self) -> None:
        while True:
            await asyncio.sleep(RENEW_S)
            held = list(self._held.items())
            for first in range(0, len(held), BATCH):
                batch = held[first : first + BATCH]
                claims = (self._claim(user, connection) for connection, user in batch if connection in self._held)
                outcomes = await asyncio.gather(*claims, return_exceptions=True)
                for outcome in outcomes:
                    if isinstance(outcome, BaseException) and not isinstance(outcome, EverstreamError):
                        logger.error("a connection could not be counted", exc_info=outcome)


def _account(user: str) -> str:
    return f"connections:{user}"
