"""The streams that this node knows, and the readers on each.

A `Feed` is a log together with its readers' cursors and the frames made for them.  A frame is encoded once for
all readers that stand at the same offset and speak the same encoding.  When `committed` moves, every reader is
woken: it takes what is new in its own time, by its cursor.  Nothing is queued for anybody.

A reader may be *ahead*: it saw on another node, or before the store failed over, what this log does not hold yet.
It waits, without a cursor, until the log has caught up; after `CATCH_UP_S` the store is believed: a snapshot.

The hub finds a feed by its stream: in memory, or by reading the store.  Ended feeds linger for a while, because
readers come back, and leave the memory when nobody reads them.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterator
from typing import Any, Protocol

from everstream.core.cursor import Cursor, Run, runs
from everstream.core.log import Log, Position
from everstream.core.order import Phase
from everstream.runtime.counters import Counters
from everstream.runtime.meta import Owner, is_session, owner_in
from everstream.runtime.read_back import extended, log_of
from everstream.store.base import Store

FRAME_CHARS_MAX = 128 * 1024  # of text in one run: a reader far behind gets several frames
FRAMES_CACHED_MAX = 64  # a feed; readers in step need one
ASK_AGAIN_S = 0.5
CATCH_UP_S = 3.0  # for a leader to notice that the store forgot something (it probes every 2 s), and to send it again


class Encoder(Protocol):
    """Makes a run of entries into the bytes of one wire.  One object for all readers of that wire."""

    def entry(self, stream: str, run: Run) -> bytes: ...


class Reader(Protocol):
    """Whoever reads a feed: a connection, a response over HTTP."""

    def wake(self, feed: Feed) -> None:
        """There is more to take.  Called on the loop; must not raise and must not take long."""
        ...


class Generation(Protocol):
    """What fills a feed that this node leads."""

    def cancel(self) -> None:
        """A reader wants it stopped."""
        ...

    def depose(self) -> None:
        """Another node leads the stream: stop without a word."""
        ...


class Feed:
    """One stream on this node."""

    __slots__ = (
        "_believing",
        "_frames",
        "_moved",
        "_owner",
        "ahead",
        "behind_since",
        "checked_at",
        "copied",
        "counters",
        "cursors",
        "ended_at",
        "led",
        "log",
        "meta",
        "relay",
        "room",
        "shown_early",
        "stream",
        "unread_since",
        "view",
    )

    def __init__(self, log: Log, meta: bytes, counters: Counters) -> None:
        self.stream = log.stream
        self.counters = counters
        self.shown_early = False  # some entries were shown before the store had them
        self.copied = True  # False: some entries were not confirmed by a replica in time
        self.log = log
        self.meta = meta
        self._owner: Owner | None = None  # until somebody asks
        self.view: Any = None  # what is folded from the log, for whoever folds it
        self.led = False
        self.relay: Generation | None = None
        self.cursors: dict[Reader, Cursor] = {}
        self.ahead: dict[Reader, Position] = {}  # readers that know more than the log: they wait
        self.room: asyncio.Event | None = None  # set while somebody waits for the commit to catch up
        self.ended_at: float | None = None  # loop time
        self.unread_since: float | None = None  # loop time, of a session that is led elsewhere
        self.checked_at = 0.0  # loop time at which the store was last known to hold what we do, or was asked
        self.behind_since: float | None = None  # loop time since when the store holds less than this followed log
        self._frames: dict[tuple[int, Encoder], tuple[list[bytes], int]] = {}
        self._moved: asyncio.Event | None = None
        self._believing: asyncio.TimerHandle | None = None

    @property
    def owner(self) -> Owner:
        """Whose the stream is."""
        if self._owner is None:
            self._owner = owner_in(self.meta)
        return self._owner

    # ------------------------------------------------------------------ readers

    def attach(self, reader: Reader, seen: Position) -> Cursor:
        """Read on from `seen`; a reader that reads already begins anew from there."""
        self.ahead.pop(reader, None)
        cursor = self.cursors[reader] = self._place(seen)
        if cursor.lost or cursor.lag(self.log):
            reader.wake(self)
        return cursor

    def _place(self, seen: Position) -> Cursor:
        cursor = Cursor.at(self.log, seen)
        if cursor.lost and seen.offset > self.log.base:  # before that it was only folded
            self.counters.readers_rewound += 1
        return cursor

    def detach(self, reader: Reader) -> None:
        self.cursors.pop(reader, None)
        self.ahead.pop(reader, None)

    @property
    def has_readers(self) -> bool:
        return bool(self.cursors or self.ahead)

    def take(self, cursor: Cursor, encoder: Encoder) -> list[bytes]:
        """The frames after the cursor, which moves with them; at most about FRAME_CHARS_MAX of text."""
        log, after = self.log, cursor.offset
        if log.committed == after + 1 and len(self.cursors) == 1:  # one new token, and nobody to share its frame with
            cursor.offset = log.committed
            return [encoder.entry(self.stream, Run(after, log.committed, log.entries[after - log.base]))]
        key = (cursor.offset, encoder)
        made = self._frames.get(key)
        if made is None:
            found = runs(self.log, cursor.offset, FRAME_CHARS_MAX)
            made = ([encoder.entry(self.stream, run) for run in found], found[-1].upto)
            if len(self._frames) >= FRAMES_CACHED_MAX:
                self._frames.clear()
            self._frames[key] = made
        cursor.offset = made[1]
        return made[0]

    # ------------------------------------------------------------------ changes

    def reveal(self, now: float) -> None:
        """Show all there is, although the store may not have it yet: the delivery that was asked for."""
        before = self.log.committed
        if self.led and self.log.reveal():
            self.shown_early = True
            self.counters.shown_early += self.log.committed - before
            self.advanced(now)

    def warnings(self) -> list[str]:
        """What a reader of the end should know of how the stream was kept."""
        told = []
        if self.shown_early:
            told.append("some of the answer was shown before it was stored")
        if not self.copied:
            told.append("some of the answer was stored without a replica's confirmation")
        return told

    def advanced(self, now: float) -> None:
        """`committed` moved: wake every reader."""
        if self._frames:
            self._frames.clear()
        self.checked_at = now
        for reader in self.cursors:
            reader.wake(self)
        if self.log.phase is Phase.ENDED:
            self._note_end(now)
        if self._moved is not None:
            self._moved.set()
        if self.ahead:
            self._place_ahead()

    def replace(self, log: Log, now: float, *, believed: bool = False) -> None:
        """Another history took this one's place; readers whose place is not in it get a snapshot.

        Readers that are merely ahead of it wait for the rest, unless the store is `believed` to have no more.
        """
        before, self.log = self.log, log
        self.behind_since = None
        for reader, cursor in list(self.cursors.items()):
            if cursor.lost:
                continue
            seen = before.position(cursor.offset)
            if log.knows_less_than(seen) and not believed:
                del self.cursors[reader]
                self.ahead[reader] = seen
            else:
                self.cursors[reader] = self._place(seen)
        if self.ahead and self._believing is None:
            self._believing = asyncio.get_running_loop().call_later(CATCH_UP_S, self._believe)
        self.advanced(now)
        if believed:
            self._believe()

    def close(self) -> None:
        """Forget who waits."""
        if self._believing is not None:
            self._believing.cancel()

    def _place_ahead(self) -> None:
        """Readers with which the log has caught up, or whose history it has left, read on."""
        for reader, seen in list(self.ahead.items()):
            if not self.log.knows_less_than(seen):
                self.attach(reader, seen)

    def _believe(self) -> None:
        """Nobody has sent what these readers know: it is lost, and a snapshot says so."""
        self._believing = None
        for reader, seen in list(self.ahead.items()):
            self.attach(reader, seen)

    async def catch_up(self, seen: Position, ask: Callable[[], None]) -> None:
        """Wait until the log is no longer behind a reader at `seen`, for at most CATCH_UP_S.

        `ask` is called where nothing moves, every ASK_AGAIN_S.
        """
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(CATCH_UP_S):
                while self.log.knows_less_than(seen) and not self._wrote_less_than(seen):
                    try:
                        async with asyncio.timeout(ASK_AGAIN_S):
                            await self._move()
                    except TimeoutError:
                        ask()

    def waits_for_store(self, seen: Position) -> bool:
        """Whether a reader at `seen` saw an entry of our own that the store took, and did not tell us so yet."""
        return self.log.knows_less_than(seen) and seen.epoch == self.log.epoch and seen.offset <= self.log.tail

    def _wrote_less_than(self, seen: Position) -> bool:
        """Whether `seen` lies beyond all that was ever written in our own reign: waiting cannot help."""
        return self.led and seen.epoch == self.log.epoch and seen.offset > self.log.tail

    def long_behind(self, behind: bool, now: float) -> bool:
        """Note whether the store holds less than this followed log.  True once it has for longer than CATCH_UP_S."""
        if not behind:
            self.behind_since = None
        elif self.behind_since is None:
            self.behind_since = now
        return self.behind_since is not None and now - self.behind_since > CATCH_UP_S

    def _note_end(self, now: float) -> None:
        if self.ended_at is None and self.log.settled:
            self.ended_at = now

    def stored(self, now: float) -> None:
        """The store has acknowledged what readers saw before: whoever waits for that goes on."""
        self._note_end(now)
        if self._moved is not None:
            self._moved.set()

    async def wait_stored(self) -> None:
        """Until the store has all there is."""
        while self.log.dirty:
            await self._move()

    async def _move(self) -> None:
        """Wait until the log moves."""
        if self._moved is None or self._moved.is_set():
            self._moved = asyncio.Event()
        await self._moved.wait()

    async def wait_beyond(self, offset: int) -> None:
        """Until readers may see more than `offset`, or the stream has ended."""
        while self.log.committed <= offset and not self.log.ended:
            await self._move()

    async def wait_ended(self) -> int:
        """The offset of `stream_end`, once it is stored."""
        while not self.log.settled:
            await self._move()
        return self.log.tail


class Hub:
    def __init__(
        self, store: Store, clock: Callable[[], float], counters: Counters, *, linger_s: float, feeds_max: int
    ) -> None:
        self._store = store
        self._counters = counters
        self._clock = clock
        self._linger_s = linger_s
        self._feeds_max = feeds_max
        self._feeds: dict[str, Feed] = {}
        self._loading: dict[str, asyncio.Task[Feed | None]] = {}
        self.being_made: set[str] = set()  # in the store perhaps already, but not yet here

    def __iter__(self) -> Iterator[Feed]:
        return iter(list(self._feeds.values()))

    def __len__(self) -> int:
        return len(self._feeds)

    def get(self, stream: str) -> Feed | None:
        return self._feeds.get(stream)

    def lead(self, log: Log, meta: bytes) -> Feed:
        """The feed of a stream that this node leads from now on."""
        feed = self._feeds.get(log.stream)
        if feed is None:
            feed = self._feeds[log.stream] = Feed(log, meta, self._counters)
            feed.checked_at = self._clock()
        else:
            feed.replace(log, self._clock())
            feed.meta = meta
        feed.led = True
        return feed

    async def find(self, stream: str) -> Feed | None:
        """The stream's feed, read from the store where it is not in memory.  None: there is no such stream.

        Raises EverstreamError `store.unavailable`.
        """
        feed = self._feeds.get(stream)
        if feed is not None:
            feed.unread_since = None
            return feed
        task = self._loading.get(stream)
        if task is None:
            task = self._loading[stream] = asyncio.create_task(self._load(stream), name=f"load {stream}")
            task.add_done_callback(lambda _: self._loading.pop(stream, None))
        # Whoever waits may be cancelled; the others still want it.
        return await asyncio.shield(task)

    async def _load(self, stream: str) -> Feed | None:
        state = await self._store.read(stream)
        if state is None:
            return None
        if not state.head.ended:
            await self._store.follow(stream)
            if (more := await self._store.read(stream, state.head.tail)) is not None:  # what came before the first push
                state = extended(state, more) or await self._store.read(stream) or state
        present = self._feeds.get(stream)
        if present is not None:  # it was adopted meanwhile
            return present
        feed = self._feeds[stream] = Feed(log_of(state), state.head.meta, self._counters)
        if feed.log.ended:
            feed.ended_at = self._clock()
        return feed

    async def confirmed(self, feed: Feed) -> bool:
        """Whether the store has the end of a feed.  Where a failover has lost that, what was read is forgotten."""
        state = None if feed.led else await self._store.read(feed.stream, feed.log.tail)
        held = feed.led or (state is not None and state.head.ended and state.head.epochs == feed.log.epochs)
        if not (held or feed.led) and self._feeds.get(feed.stream) is feed:
            self.drop(feed.stream)
        return held

    def sweep(self) -> list[str]:
        """Forget ended feeds that nobody reads, the oldest first where there are too many; returns their streams."""
        now = self._clock()
        idle = [feed for feed in self._feeds.values() if not feed.has_readers and feed.relay is None]
        gone = [feed for feed in idle if self._lingered(feed, now)]
        surplus = len(self._feeds) - len(gone) - self._feeds_max
        if surplus > 0:
            rest = [feed for feed in idle if feed not in gone and not feed.led]
            gone += sorted(rest, key=lambda feed: feed.ended_at or now)[:surplus]
        for feed in gone:
            del self._feeds[feed.stream]
        return [feed.stream for feed in gone]

    def _lingered(self, feed: Feed, now: float) -> bool:
        """Whether a feed that nobody reads has been kept for long enough."""
        if feed.ended_at is None and is_session(feed.stream) and not feed.led:  # which never ends
            feed.unread_since = feed.unread_since or now
        since = feed.ended_at or feed.unread_since
        return since is not None and now - since >= self._linger_s

    def drop(self, stream: str) -> None:
        """Forget a stream that is to be no more; nobody is told."""
        feed = self._feeds.pop(stream, None)
        if feed is not None:
            feed.led = False
            feed.log.fenced = True
            feed.close()

    async def close(self) -> None:
        for task in list(self._loading.values()):
            task.cancel()
        await asyncio.gather(*self._loading.values(), return_exceptions=True)
        for feed in self._feeds.values():
            feed.close()
        self._feeds.clear()
