"""Proofs that are taken back while somebody stands on them.

    `everstream key revoke` ──message──▶ every node ──▶ `revoked` ──▶ its connections close
    every auth_recheck_s    ──holds?──▶ the store   ──▶ `revoked`

A message reaches all nodes at once, and may be lost.  So each distinct proof of those who are connected is asked after
from time to time: one question for all connections of a key, however many they are.  A store that does not answer
says nothing against anybody.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import structlog

from everstream.core.errors import EverstreamError
from everstream.gateway.auth import Authenticate
from everstream.gateway.connections import Connections
from everstream.runtime.node import Node

logger = structlog.get_logger(__name__)

# Whether a proof still holds.  Raises EverstreamError `store.unavailable` where that cannot be known now.
Holds = Callable[[str], Awaitable[bool]]


def watch_proofs(node: Node, connections: Connections, authenticate: Authenticate | None) -> None:
    """Close the connections of proofs that are taken back, until the node stops.

    What can be taken back has a method `holds` beside its being called.
    """
    node.on_revoked = connections.revoked
    holds: Holds | None = getattr(authenticate, "holds", None)
    if holds is not None:
        node.do(_recheck(node, connections, holds), "recheck proofs")


async def _recheck(node: Node, connections: Connections, holds: Holds) -> None:
    while True:
        await asyncio.sleep(node.settings.auth_recheck_s)
        for proof in connections.proofs():
            try:
                async with asyncio.timeout(node.settings.hello_timeout_s):
                    held = await holds(proof)
            except (EverstreamError, TimeoutError) as error:
                logger.warning("it cannot be known now whether keys still hold", error=str(error))
                break
            except Exception:
                logger.exception("it could not be found out whether a proof holds")
                continue
            if not held:
                connections.revoked(proof)
