"""Group commit: whatever arrived while the last round trip was under way goes in the next.

One call is in flight for each lane of the store, so commits of a stream never overtake each other.  An idle
committer sends at the end of the turn of the loop in which the first entry arrived.  A busy one (more than
`BUSY_STREAMS_PER_S` writes a second) waits a moment for company: until `COMPANY` streams have something to say, or
`GATHER_S` at most.  A call costs the store and this process several times what one more stream in it costs.  What
somebody waits for, a first token or an end, is *urgent* and never waits for a batch.

A call of unknown outcome is simply sent again: the base of each write makes it idempotent, and the store's answer
says where it stands.  While the store is away, logs grow up to a bound; then their relays stop reading.

A stream that has nothing to say is *probed* now and then with a commit of no entries: a store that forgot a suffix in
a failover answers `GAP` and gets it again, an old leader learns that it is fenced, and a cancel mark is heard.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Coroutine
from itertools import islice
from typing import Any, Protocol

import structlog

from everstream.core.errors import EverstreamError
from everstream.core.events import Mark
from everstream.core.log import Verdict
from everstream.core.order import Phase
from everstream.runtime.counters import Counters
from everstream.runtime.ending import end
from everstream.runtime.hub import Feed
from everstream.store.base import Store, Write

logger = structlog.get_logger(__name__)

STREAMS_PER_COMMIT_MAX = 1024
BUSY_STREAMS_PER_S = 2_000
COMPANY = 16
GATHER_S = 0.003  # unseen in a running answer; at 5000 tokens a second each costs a fifth less than with 0.001
PACE_WINDOW_S = 0.05
PROBES_PER_CALL = 128  # they must not keep those waiting that have something to say
RETRY_FIRST_S = 0.02
RETRY_MAX_S = 0.5
_NO_MARKS: dict[int, Mark] = {}


class Steward(Protocol):
    """Whoever must know what else the store said."""

    def fenced(self, feed: Feed) -> None:
        """A newer epoch reigns: this node leads the stream no more."""
        ...

    def cancel_marked(self, feed: Feed) -> None:
        """Somebody, on whatever node, wants the stream stopped."""
        ...


class Committer:
    """Commits the streams of one lane."""

    def __init__(
        self,
        store: Store,
        node: str,
        steward: Steward,
        counters: Counters,
        clock: Callable[[], float],
        patience_s: float | None = None,
    ) -> None:
        """`patience_s`: how late a commit may be before readers go on without it; None: they always wait."""
        self._store = store
        self._node = node
        self._steward = steward
        self._counters = counters
        self._clock = clock
        self._dirty: dict[Feed, None] = {}
        self._probed: dict[Feed, None] = {}  # to be committed even without entries
        self._wake = asyncio.Event()
        self._idle = asyncio.Event()
        self._go = asyncio.Event()  # enough has gathered, or something urgent came
        self._urgent = False
        self._busy = False
        self._window_began = 0.0
        self._window_writes = 0
        self._task: asyncio.Task[None] | None = None
        self._batch_max = STREAMS_PER_COMMIT_MAX
        self._patience_s = patience_s
        self._patience: asyncio.TimerHandle | None = None
        self._under_way: list[Feed] = []
        self.late = False  # the store is, and readers do not wait for it
        self.store_is_away = False

    def start(self) -> None:
        self._task = asyncio.create_task(self._run(), name="committer")

    async def stop(self, timeout_s: float) -> None:
        """Commit what is left, for at most `timeout_s`, and stop."""
        self._wake.set()
        if self._task is not None and not self._task.done():  # or there is nobody left to commit anything
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(timeout_s):
                    await self._idle.wait()
        if self._task is not None:
            await end([self._task])
        if self._patience is not None:
            self._patience.cancel()

    def dirty(self, feed: Feed, *, urgent: bool = False) -> None:
        """The feed's log has entries that the store has not.  `urgent`: somebody waits for them."""
        dirty = self._dirty
        if not dirty:
            self._idle.clear()
            self._wake.set()
        dirty[feed] = None
        if urgent:
            self._urgent = True
            self._go.set()
        elif len(dirty) == COMPANY:
            self._go.set()

    def probe(self, feed: Feed) -> None:
        """Ask the store, with the next commit, whether it still holds what it has acknowledged."""
        self._probed[feed] = None
        self._idle.clear()
        self._wake.set()

    async def room(self, feed: Feed, bound_chars: int) -> None:
        """Wait until less than `bound_chars` of the feed is uncommitted: back-pressure for its relay."""
        while feed.log.pending_chars >= bound_chars and not feed.log.fenced:
            feed.room = asyncio.Event()
            await feed.room.wait()

    async def _run(self) -> None:
        retry_s = RETRY_FIRST_S
        while True:
            await self._wake.wait()
            self._wake.clear()
            while self._dirty or self._probed:
                if self._busy and not self._urgent and len(self._dirty) < COMPANY:
                    await self._gather()
                try:
                    await self._patiently(self._round_trip())
                    retry_s = RETRY_FIRST_S
                    if self.store_is_away:
                        self.store_is_away = False
                        logger.info("the store is back")
                except EverstreamError as error:
                    self._counters.commit_failures += 1
                    self._batch_max = STREAMS_PER_COMMIT_MAX
                    if not self.store_is_away:
                        self.store_is_away = True
                        logger.warning("a commit failed; streams wait", error=error.message)
                    await asyncio.sleep(retry_s)
                    retry_s = min(retry_s * 2, RETRY_MAX_S)
                except Exception:
                    # One stream has what cannot be written.  The others must not wait for it: find it, one by one.
                    logger.exception("a commit could not be made")
                    self._batch_max = 1
            self._batch_max = STREAMS_PER_COMMIT_MAX
            self._idle.set()

    async def _patiently(self, round_trip: Coroutine[Any, Any, None]) -> None:
        """Do it; but where it takes too long, counted from the first try, readers are let go on."""
        if self._patience_s is not None and self._patience is None:
            self._patience = asyncio.get_running_loop().call_later(self._patience_s, self._lose_patience)
        await round_trip
        self.late = False
        if self._patience is not None:
            self._patience.cancel()
            self._patience = None

    def _lose_patience(self) -> None:
        self.late = True
        now = self._clock()
        for feed in (*self._under_way, *self._dirty):
            feed.reveal(now)

    async def _gather(self) -> None:
        """Wait for company."""
        self._go.clear()
        timer = asyncio.get_running_loop().call_later(GATHER_S, self._go.set)
        await self._go.wait()
        timer.cancel()

    def _note_pace(self, writes: int, now: float) -> None:
        self._window_writes += writes
        passed_s = now - self._window_began
        if passed_s >= PACE_WINDOW_S:
            self._busy = self._window_writes > BUSY_STREAMS_PER_S * passed_s
            self._window_began, self._window_writes = now, 0

    async def _round_trip(self) -> None:
        batch, self._dirty = self._dirty, {}
        self._urgent = False
        if len(batch) > self._batch_max:
            feeds = list(batch)
            batch = dict.fromkeys(feeds[: self._batch_max])
            self._dirty = dict.fromkeys(feeds[self._batch_max :])
        sent = [(feed, self._write(feed)) for feed in batch if feed.led and feed.log.dirty]
        probed = self._take_probed() if self._probed and (self._batch_max > 1 or not batch) else []
        sent += [(feed, self._write(feed)) for feed in probed]
        if not sent:
            return
        self._under_way = [feed for feed, _ in sent]
        try:
            replies = await self._store.commit([write for _, write in sent])
        except Exception as error:
            if len(sent) > 1 or isinstance(error, EverstreamError):
                self._dirty = batch | self._dirty
                self._probed = dict.fromkeys(probed) | self._probed
            else:
                sent[0][0].log.fenced = True
                self._steward.fenced(sent[0][0])
            raise
        counters, now = self._counters, self._clock()
        counters.commits += 1
        self._note_pace(len(sent) - len(probed), now)
        for (feed, write), reply in zip(sent, replies, strict=True):
            log = feed.log
            if log.epochs is not write.epochs:  # the log was replaced while the call was under way
                continue
            moved = log.on_reply(reply.verdict, reply.tail)
            if reply.verdict is Verdict.OK:
                counters.entries_committed += len(write.entries)
            elif reply.verdict is Verdict.FENCED:
                counters.fenced += 1
                self._steward.fenced(feed)
            else:
                counters.gaps_repaired += 1
            if reply.cancelled and not log.closed:
                self._steward.cancel_marked(feed)
            if not reply.copied:
                counters.uncopied += 1
                feed.copied = False
            if moved:
                feed.advanced(now)
            elif reply.verdict is Verdict.OK:
                feed.stored(now)
            if log.dirty:
                self._dirty[feed] = None
            if feed.room is not None:
                feed.room.set()
                feed.room = None

    def _take_probed(self) -> list[Feed]:
        """The next streams to be probed, but for those that are committed anyway or are ours no more."""
        probed = list(islice(self._probed, min(PROBES_PER_CALL, self._batch_max)))
        for feed in probed:
            del self._probed[feed]
        return [feed for feed in probed if feed.led and not feed.log.fenced and not feed.log.dirty]

    def _write(self, feed: Feed) -> Write:
        log = feed.log
        base, entries = log.acked, log.pending()
        upto = base + len(entries)
        marks = {at: mark for at, mark in log.marks.items() if base < at <= upto} if log.marks else _NO_MARKS
        ends = log.phase is Phase.ENDED and 0 < len(entries) == log.tail - base
        return Write(feed.stream, log.epochs, base, entries, ends, self._node, b"" if base else feed.meta, marks)
