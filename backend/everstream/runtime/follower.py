"""Streams led elsewhere: pushed entries in, gaps filled from the store.

A push is a hint.  It may be lost, come twice, or come late: the log says what it is worth.  Where something is
missing the store is read; and every few seconds each followed stream that was silent is compared with the store, so
that even the loss of the last push (the stream's end) is noticed.

After a failover the store may hold less than a followed log.  The leader, who finds that out with its next commit or
probe, sends the rest again.  Where nobody does in time, the store is believed, and the log read anew.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import structlog

from everstream.core.errors import EverstreamError
from everstream.core.log import Offer
from everstream.runtime.ending import end
from everstream.runtime.hub import Feed, Hub
from everstream.runtime.read_back import log_of
from everstream.store.base import Push, State, Store

logger = structlog.get_logger(__name__)

CHECK_S = 2.0


class Follower:
    def __init__(self, store: Store, hub: Hub, clock: Callable[[], float]) -> None:
        self._store = store
        self._hub = hub
        self._clock = clock
        self._healing: dict[Feed, asyncio.Task[None]] = {}
        self._checker: asyncio.Task[None] | None = None

    def start(self) -> None:
        self._checker = asyncio.create_task(self._check(), name="follower")

    async def stop(self) -> None:
        tasks = [*self._healing.values(), *([self._checker] if self._checker else [])]
        await end(tasks)

    def on_push(self, push: Push) -> None:
        feed = self._hub.get(push.stream)
        if feed is None or feed.led:
            return
        offer = feed.log.offer(push.epochs, push.after, push.entries)
        if offer is Offer.APPLIED:
            feed.advanced(self._clock())
        elif offer is not Offer.KNOWN:
            self.heal(feed)

    def heal(self, feed: Feed) -> None:
        """Compare a followed feed with the store, soon."""
        if feed not in self._healing:
            task = self._healing[feed] = asyncio.create_task(self._heal(feed), name=f"heal {feed.stream}")
            task.add_done_callback(lambda _: self._healing.pop(feed, None))

    async def _heal(self, feed: Feed) -> None:
        tail = feed.log.tail
        try:
            await self.refresh(feed)
            if feed.log.tail > tail and not feed.led and not feed.log.ended:
                await self._store.follow(feed.stream)  # a push was lost: the store may have forgotten that we follow
        except EverstreamError as error:
            logger.warning("a followed stream could not be read", stream=feed.stream, error=error.message)

    async def refresh(self, feed: Feed) -> None:
        """Bring a followed feed up to the store.  Raises EverstreamError `store.unavailable`."""
        known = (feed.log.epoch, feed.log.tail)  # before the read: what is pushed meanwhile is not missing in it
        state = await self._store.read(feed.stream, feed.log.tail)
        if feed.led:
            return
        behind = state is None or _place_of(state) < known
        believed = feed.long_behind(behind, self._clock())
        if believed or (state is not None and self._offer(feed, state) is Offer.FORKED):
            whole = await self._store.read(feed.stream)
            if whole is None and believed and not feed.led:  # it was lost with all it had: there is no such stream
                self._hub.drop(feed.stream)
            elif whole is not None and not feed.led:
                feed.replace(log_of(whole), self._clock(), believed=believed and _place_of(whole) < known)

    def _offer(self, feed: Feed, state: State) -> Offer:
        if state.after > feed.log.tail:  # folded since
            return Offer.FORKED
        offer = feed.log.offer(state.head.epochs, state.after, state.entries)
        if offer is Offer.APPLIED:
            feed.advanced(self._clock())
        return offer

    async def _check(self) -> None:
        while True:
            await asyncio.sleep(CHECK_S)
            now = self._clock()
            for feed in self._hub:
                watched = feed.has_readers or not feed.log.ended
                if watched and not feed.led and now - feed.checked_at >= CHECK_S:
                    self.heal(feed)


def _place_of(state: State) -> tuple[int, int]:
    return state.head.epochs[-1][0], state.head.tail
