"""Streams of turns that this node leads and that have not begun: they were made before anything was said of them.

Whoever leads the session says what becomes of each: its turn starts, or it is removed from the queue, or it was never
said at all, since the store went away in between, and nobody knows of it but us.  Mostly that is this node, which then
acts at once.  Where another leads the session, it sends a word, which may be lost.  So what has not begun is looked at
now and then, too.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping

from everstream.core.session import Session
from everstream.core.session_events import TurnQueued, TurnStart
from everstream.runtime.hub import Feed, Hub
from everstream.runtime.meta import is_session
from everstream.runtime.session_leader import SessionLeader
from everstream.runtime.session_turns import Streams, look_at_turn
from everstream.runtime.tools import Tools
from everstream.store.base import Store

AGAIN_S = 0.1
KNOWN_S = 3.0  # for word of a turn to come here, too
TENDED_S = 3.0  # between two looks at everything that has not begun


class Unbegun:
    def __init__(
        self,
        node: Streams,
        store: Store,
        hub: Hub,
        tools: Tools,
        leaders: Mapping[str, SessionLeader],
        view: Callable[[Feed], Session],
    ) -> None:
        """`view` folds a session's feed as far as it may be seen here."""
        self._node = node
        self._store = store
        self._hub = hub
        self._tools = tools
        self._leaders = leaders
        self._view = view
        self._tended_at = time.monotonic()

    async def look(self, stream: str) -> None:
        """The turn of a stream that this node leads has come to something: begin the stream, or end it."""
        deadline = time.monotonic() + KNOWN_S
        while time.monotonic() < deadline:
            feed = self._hub.get(stream)
            if feed is None or not _waits(feed):
                return
            session = await self._hub.find(feed.owner.session)
            if session is None:
                return
            if any(getattr(entry, "stream", None) == stream for entry in session.log.entries):
                look_at_turn(self._node, self._view(session), feed, self._tools)
            await asyncio.sleep(AGAIN_S)  # word of the turn, or of its start, may still be on its way

    async def tend(self) -> None:
        """Look at all of them, if that was a while ago.  Raises EverstreamError `store.unavailable`."""
        if time.monotonic() - self._tended_at < TENDED_S:
            return
        self._tended_at = time.monotonic()
        for feed in self._hub:
            if _waits(feed) and not is_session(feed.stream) and feed.owner.session:
                await self._look_at(feed)

    async def _look_at(self, feed: Feed) -> None:
        stream, name = feed.stream, feed.owner.session
        leader = self._leader(name)
        if leader is not None:
            if leader.writer.lock.locked():  # the stream may be about to be named
                return
            if stream in leader.streams():
                look_at_turn(self._node, leader.session, feed, self._tools)
            else:
                await self._purge(stream)
            return
        followed = await self._hub.find(name)
        session: Session | None = self._view(followed) if followed is not None else None
        if session is None or session.turn_of(stream) is None:
            session = await self.naming(stream, name)
        if session is not None and self._leader(name) is None:
            look_at_turn(self._node, session, feed, self._tools)

    async def naming(self, stream: str, session: str) -> Session | None:
        """The session that has named a stream, which has no entry yet.  None: it never did, so the stream is purged.

        Only the store can say so: a reign of ours that is over can add nothing to what it holds.
        """
        state = await self._store.read(session)
        entries = state.entries if state is not None else []
        if any(isinstance(entry, TurnStart | TurnQueued) and entry.stream == stream for entry in entries):
            return Session(entries)
        await self._purge(stream)
        return None

    async def _purge(self, stream: str) -> None:
        await self._store.purge([stream])
        self._hub.drop(stream)

    def _leader(self, session: str) -> SessionLeader | None:
        leader = self._leaders.get(session)
        return leader if leader is not None and leader.writer.leads else None


def _waits(feed: Feed) -> bool:
    return feed.led and feed.relay is None and not feed.log.tail
