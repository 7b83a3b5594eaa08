"""Keeps this node alive in the eyes of the others, and looks after what the dead left behind.

The node's lease is renewed three times in its life.  When the set of living nodes changes, and every few seconds in
case the change went unnoticed, each open stream whose leader is not alive is adopted by the node that rendezvous
hashing names.  Adoption begins a new epoch, so that it does no harm if the leader was only asleep.  After a time in
which the store was away from everybody nobody is taken for dead until all had time to come back.  The store knows of
such a time where all leases ran out in it.  A shorter one lets only some run out: so a node that could not renew its
own for a while takes nobody for dead either, for the length of a lease.  Renewing is a task of its own: nothing that
this node does for others may cost it its own streams.

The store may also name this node where it leads nothing: the reply to an adoption was lost, or a failover forgot that
another took over.  That other one probes, and so gets a while to say so; then this node adopts the stream itself.

It has streams probed that the store has not confirmed for a while, forgets ended streams in memory, and folds them in
the store.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from itertools import islice

import structlog

from everstream.core.errors import EverstreamError
from everstream.core.lease import owner_of, partition_of
from everstream.runtime.ending import end
from everstream.runtime.hub import Feed, Hub
from everstream.runtime.read_back import total_of
from everstream.runtime.resting import Resting
from everstream.settings import Settings
from everstream.store.base import State, Store

logger = structlog.get_logger(__name__)

ORPHAN_SEARCH_S = 5.0
PROBE_S = 2.0  # without a commit: then the store is asked whether it still holds a stream that is led here
PROBES_PER_ROUND = 1024  # a round every `lease_renew_ms`; what is left is due in the next one
CUT_OFF_LEASES = 0.6  # between two renewals: less than it takes for another's lease to run out, of which 1/3 is gone
DISOWNED_S = 4.0  # longer than a probe and a commit's retry take
TO_FOLD_MAX = 100_000
_NO_ENTRIES = 2**53 - 1  # read after that
FOLDS_PER_ROUND = 100

Adopt = Callable[[State], None]
Probe = Callable[[Feed], None]


class Keeper:
    def __init__(
        self,
        store: Store,
        hub: Hub,
        node: str,
        settings: Settings,
        clock: Callable[[], float],
        adopt: Adopt,
        probe: Probe,
        resting: Resting,
    ) -> None:
        self._store = store
        self._hub = hub
        self._node = node
        self._settings = settings
        self._clock = clock
        self._adopt = adopt
        self._probe = probe
        self._others_resting = resting
        self.resting = False  # this node is going: it adopts nothing more
        self._disowned: dict[str, float] = {}  # open streams said to be ours that are not, and since when
        self._alive: set[str] = set()
        self._searched_at = float("-inf")
        self._settled = False  # the store has not been away from everybody lately
        self._renewed_at: float | None = None
        self._doubts_until = float("-inf")  # this node was cut off: till then it takes nobody for dead
        self._to_fold: deque[tuple[float, str, int]] = deque(maxlen=TO_FOLD_MAX)
        self._tasks: list[asyncio.Task[None]] = []

    async def start(self) -> None:
        """Take the lease, and adopt what lies there already.  Raises EverstreamError `store.unavailable`."""
        if self._settings.lead:
            await self._renew()
            self._tasks.append(asyncio.create_task(self._every_round(self._renew), name="lease"))
            try:
                await self._seek_orphans()
            except BaseException:
                await end(self._tasks)
                raise
        self._tasks.append(
            asyncio.create_task(
                self._every_round(self._seek_orphans, self._probe_silent, self._forget, self._fold), name="keeper"
            )
        )

    async def stop(self) -> None:
        await end(self._tasks)
        if not self._settings.lead:
            return
        try:
            await self._store.release()
        except EverstreamError as error:
            logger.warning("the lease could not be given up and will run out", error=error.message)

    def ended(self, feed: Feed) -> None:
        """A stream led here has ended: fold it after a while."""
        self._to_fold.append((self._clock() + self._settings.fold_after_s, feed.stream, feed.log.tail))

    async def _every_round(self, *steps: Callable[[], Awaitable[None]]) -> None:
        while True:
            await asyncio.sleep(self._settings.lease_renew_ms / 1000)
            for step in steps:
                await self._try(step)

    async def _try(self, step: Callable[[], Awaitable[None]]) -> None:
        try:
            await step()
        except EverstreamError as error:
            logger.debug("the store is away", error=error.message)
        except Exception:
            logger.exception("housekeeping failed")

    async def _renew(self) -> None:
        self._settled = await self._store.renew(self._settings.lease_ms)
        now = self._clock()
        if self._cut_off(now):
            self._doubts_until = now + self._settings.lease_ms / 1000
        self._renewed_at = now

    def _cut_off(self, now: float) -> bool:
        """Whether this node has not renewed its lease for so long that others could not have, either."""
        lease_s = self._settings.lease_ms / 1000
        return self._renewed_at is not None and now - self._renewed_at > CUT_OFF_LEASES * lease_s

    def _may_judge(self) -> bool:
        """Whether this node may take another for dead."""
        now = self._clock()
        return self._settled and now >= self._doubts_until and not self._cut_off(now) and not self.resting

    async def _seek_orphans(self) -> None:
        if not self._settings.lead or not self._may_judge():
            return
        alive = await self._store.nodes()
        now = self._clock()
        if self._may_judge() and (alive != self._alive or now - self._searched_at >= ORPHAN_SEARCH_S):
            self._alive, self._searched_at = alive, now
            await self._adopt_orphans(alive)

    async def _adopt_orphans(self, alive: set[str]) -> None:
        before, self._disowned = self._disowned, {}
        able = await self._others_resting.able(alive) | {self._node}
        for stream, leader in await self._store.open_streams():
            try:
                if leader == self._node:
                    if not self._long_disowned(stream, before) and not await self._is_handed(stream):
                        continue
                elif leader in alive or owner_of(partition_of(stream), able) != self._node:
                    continue
                state = await self._store.adopt(stream, leader)
                if state is not None:
                    self._adopt(state)
            except EverstreamError:
                raise
            except Exception:  # it may be of another version; the others need not wait for that
                logger.exception("a stream could not be adopted", stream=stream)

    async def _is_handed(self, stream: str) -> bool:
        """Whether this node was named the leader on purpose, and the hint was lost."""
        if self._at_work(stream):
            return False
        state = await self._store.read(stream, _NO_ENTRIES)
        return state is not None and state.head.handed and state.head.leader == self._node

    def _long_disowned(self, stream: str, before: dict[str, float]) -> bool:
        """Whether the store has called us the leader for long of what we do not lead."""
        if self._at_work(stream):
            return False
        now = self._clock()
        since = self._disowned[stream] = before.get(stream, now)
        return now - since >= DISOWNED_S

    def _at_work(self, stream: str) -> bool:
        """Whether a stream that the store says is led here really is, or is just being made."""
        feed = self._hub.get(stream)
        return (feed is not None and feed.led) or stream in self._hub.being_made

    async def _probe_silent(self) -> None:
        """Ask about streams of ours, ended ones included, of which the store has said nothing for a while."""
        now = self._clock()
        silent = (feed for feed in self._hub if feed.led and now - feed.checked_at >= PROBE_S)
        for feed in islice(silent, PROBES_PER_ROUND):
            feed.checked_at = now
            self._probe(feed)

    async def _forget(self) -> None:
        for stream in self._hub.sweep():
            await self._store.unfollow(stream)

    async def _fold(self) -> None:
        for _ in range(FOLDS_PER_ROUND):
            if not self._to_fold or self._to_fold[0][0] > self._clock():
                return
            _, stream, tail = self._to_fold[0]
            state = await self._store.read(stream)
            if state is not None and state.head.ended:
                await self._store.fold(stream, tail, total_of(state))
            self._to_fold.popleft()
