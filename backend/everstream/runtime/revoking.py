"""A proof that was taken back: word of it for every node, so that whoever came in by it goes.

The word is a hint, and may be lost like any other.  What counts is in the store: nodes look there again from time to
time (`auth_recheck_s`), and at every proof that is shown anew.
"""

from __future__ import annotations

import asyncio

from everstream.core.errors import EverstreamError
from everstream.store.base import Store

REVOKED = b"revoked "


async def tell_revoked(store: Store, proof: str) -> tuple[int, int]:
    """Tell every living node that `proof` holds no more: how many were told, and how many there are.

    Raises EverstreamError `store.unavailable` where it is not known who lives.
    """
    nodes = sorted(await store.nodes())
    message = REVOKED + proof.encode()
    outcomes = await asyncio.gather(*(store.send(node, message) for node in nodes), return_exceptions=True)
    for outcome in outcomes:
        if isinstance(outcome, BaseException) and not isinstance(outcome, EverstreamError):
            raise outcome
    return sum(outcome is None for outcome in outcomes), len(nodes)
