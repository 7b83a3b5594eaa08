"""How a session is erased: readers have been told, then everything ends, then everything goes.

That it is deleted stands in its stream before anything is erased, so a leader that dies in the middle has an heir who
goes on here.  The store fences whatever comes late of what was erased.
"""

from __future__ import annotations

import asyncio
from typing import Protocol

import structlog

from everstream.runtime.hub import Hub
from everstream.runtime.session_index import SessionIndex
from everstream.runtime.session_leader import SessionLeader
from everstream.store.base import Store

logger = structlog.get_logger(__name__)

ENDED_S = 5.0  # for what runs to end
PURGED_AT_ONCE = 500


class Streams(Protocol):
    async def stop_stream(self, stream: str) -> None: ...


async def erase(leader: SessionLeader, node: Streams, store: Store, hub: Hub, index: SessionIndex) -> None:
    """Raises EverstreamError `store.unavailable`; then the rest is to be done again."""
    session = leader.session
    running = [turn.stream for turn in session.turns.values()]
    for stream in running:
        await node.stop_stream(stream)
    try:
        async with asyncio.timeout(ENDED_S):
            for stream in running:
                feed = hub.get(stream)
                if feed is not None and feed.relay is not None:
                    await feed.wait_ended()
    except TimeoutError:
        logger.warning("an answer of a deleted session did not end in time", session=leader.name)
    streams = leader.streams()
    for stream in streams:
        hub.drop(stream)
    for first in range(0, len(streams), PURGED_AT_ONCE):
        await store.purge(streams[first : first + PURGED_AT_ONCE])
    await index.erase(leader.name, session)
    await store.purge([leader.name])
    hub.drop(leader.name)
