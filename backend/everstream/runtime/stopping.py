"""How a stream is stopped, wherever it is led, and what is waited for: the fence.

here        its relay's cancel event
elsewhere   a mark in the store, which its leader sees with its next commit, or an heir finds; and a hint
in a turn   the session's leader is told who it was, and ends what has not begun, or waits
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable

import structlog

from everstream.core.errors import EverstreamError
from everstream.runtime.hub import Feed, Hub
from everstream.runtime.session_orders import Stop
from everstream.runtime.sessions import Sessions
from everstream.store.base import Store

logger = structlog.get_logger(__name__)

FENCE_WAIT_S = 10.0  # for `stream_end` to be stored after a cancel
CANCEL_AGAIN_S = 1.0
CANCEL = b"cancel "

Find = Callable[[str, str | None], Awaitable[Feed]]  # raises EverstreamError where the user may not read it


class Stopping:
    def __init__(self, store: Store, hub: Hub, find: Find, sessions: Sessions, clock: Callable[[], float]) -> None:
        self._store = store
        self._hub = hub
        self._find = find
        self._sessions = sessions
        self._clock = clock

    async def cancel(self, stream: str, user: str | None = None) -> int:
        """Stop a stream, wherever it is led; the offset of its `stream_end`, after which nothing comes.

        Of which user, as for `find`.  In a session this ends a turn that has yet to begin, or waits for results, too.
        """
        feed = await self._find(stream, user)
        if user is not None and feed.owner.session:
            await self._stop_turn(feed, user)
        await self._ask_to_stop(feed)
        deadline = self._clock() + FENCE_WAIT_S
        while (left_s := deadline - self._clock()) > 0:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(min(left_s, CANCEL_AGAIN_S)):
                    return await feed.wait_ended()
            # The leader may have gone, or the store failed over and forgot the mark.
            with contextlib.suppress(EverstreamError):
                feed = await self._find(stream, None)
                await self._ask_to_stop(feed)
        raise EverstreamError("store.unavailable", "the stream stops; its end is not stored yet")

    async def _stop_turn(self, feed: Feed, user: str) -> None:
        """Tell the session's leader who stops a turn, and so which.  What runs stops all the same if that is away."""
        session = await self._sessions.find(feed.owner.session, user)
        self._sessions.view(session).demand(user, "stop")
        try:
            await self._sessions.perform(session.stream, Stop(user, feed.stream))
        except EverstreamError as error:
            if error.code != "store.unavailable":
                raise

    async def stop_stream(self, stream: str) -> None:
        """Have a stream stopped, wherever it is led, without waiting for its end.  Raises nothing."""
        try:
            feed = await self._hub.find(stream)
            if feed is not None:
                await self._ask_to_stop(feed)
        except EverstreamError as error:
            logger.warning("a stream could not be told to stop", stream=stream, error=error.message)

    async def _ask_to_stop(self, feed: Feed) -> None:
        """Cancel a stream here, or leave word where it is led.  Safe to repeat."""
        if feed.log.ended:
            return
        if feed.led:
            if feed.relay is not None:
                feed.relay.cancel()
            return
        head = await self._store.mark_cancelled(feed.stream)
        if head is not None and not head.ended:
            await self._store.send(head.leader, CANCEL + feed.stream.encode())
