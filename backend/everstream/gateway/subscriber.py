"""Somebody who reads many streams and gives commands, over whatever wire.

    feeds ──wake──▶ ready ──(next turn of the loop)──▶ flush ──▶ outlet
    commands ──▶ a task each ──replies─────────────────────────▶ outlet

Feeds only say that there is more; the flush takes it by cursor, all ready streams joined in one write.  While the
outlet is full nothing is taken: a slow client costs its cursors and what the outlet holds, and its next frames are
larger.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import secrets
from abc import ABC, abstractmethod
from collections.abc import Coroutine, Iterator
from typing import Any

import structlog

from everstream.core import protocol
from everstream.core.commands import Cancel, Command, Id
from everstream.core.cursor import Cursor
from everstream.core.errors import CLOSE_RATE, CLOSE_TOO_SLOW, EverstreamError
from everstream.core.log import Log, Position
from everstream.core.order import Phase
from everstream.core.pace import Bucket
from everstream.core.protocol import error_frame, error_of
from everstream.gateway.answering import Answering
from everstream.gateway.connections import Connections
from everstream.gateway.conversing import OpenSessions
from everstream.gateway.standing import Standing
from everstream.gateway.transport import Outlet
from everstream.runtime.ending import end
from everstream.runtime.hub import Feed
from everstream.runtime.node import Node
from everstream.runtime.presence import Person
from everstream.settings import Settings

logger = structlog.get_logger(__name__)

COMMANDS_AT_ONCE_S = 10  # so many seconds' worth of commands may come at once
FLUSH_BYTES_MAX = 256 * 1024  # of one turn, over all streams


class Subscriber(ABC):
    """`standing`, whose it is, is set by whoever makes one."""

    standing: Standing

    def __init__(self, node: Node, connections: Connections, outlet: Outlet) -> None:
        self.id = "c_" + secrets.token_hex(8)
        self._node = node
        self._connections = connections
        self._settings: Settings = node.settings
        self._loop = asyncio.get_running_loop()
        self._outlet = outlet
        self.sessions = OpenSessions(self, node)
        self._answering = Answering(self, node, connections, self.sessions)
        self._feeds: dict[Feed, None] = {}
        self._brought: set[Feed] = set()  # sessions, and streams that came with them
        self._ready: dict[Feed, None] = {}
        self._flushing = False
        self._starting = 0  # streams asked for and not yet read
        self._tasks: set[asyncio.Task[None]] = set()
        self._last_sent = now = self._loop.time()
        commands_per_s = self._settings.commands_per_s
        self._pace = Bucket(COMMANDS_AT_ONCE_S * commands_per_s, commands_per_s, now)
        self._hurried = 0  # commands in a row that came too fast
        self._closing = False

    @property
    def user(self) -> Person:
        return Person(self.standing.principal.id, self.standing.principal.name)

    def goaway(self, after_ms: int, reason: str) -> None:
        self.send({"type": "goaway", "after_ms": after_ms, "reason": reason})

    @abstractmethod
    async def close(self, code: int, reason: str) -> None:
        """Say no more, with this close code where the wire has one."""

    async def _end(self) -> None:
        """The connection is over."""
        self.standing.end()
        self._outlet.shut()
        self.sessions.end()
        for feed in self._feeds:
            feed.detach(self)
        await end(self._tasks)

    # ------------------------------------------------------------------ writing

    def send(self, frame: dict[str, Any]) -> None:
        """A frame that is no entry; at once, in front of entries not taken yet."""
        if not self._closing:
            self._last_sent = self._loop.time()
            self._outlet.write([self._outlet.encoder.frame(frame)])

    def wake(self, feed: Feed) -> None:
        self._ready[feed] = None
        if not self._flushing and not self._outlet.full:
            self._flushing = True
            self._loop.call_soon(self._flush)

    def _on_room(self) -> None:
        if self._ready and not self._flushing:
            self._flushing = True
            self._loop.call_soon(self._flush)

    def _on_stuck(self) -> None:
        self._closing = True
        self._node.counters.slow_readers += 1
        logger.info("a client took nothing for too long", connection=self.id, close_code=CLOSE_TOO_SLOW)

    def _flush(self) -> None:
        self._flushing = False
        if self._closing or self._outlet.full:
            return
        ready, self._ready = self._ready, {}
        if self.sessions.any:
            self.sessions.look(ready)
        frames: list[bytes] = []
        size = 0
        for feed in ready:
            if size >= FLUSH_BYTES_MAX:
                self._ready[feed] = None
                continue
            new = self._take(feed)
            frames += new
            size += len(new[0]) if len(new) == 1 else sum(map(len, new))
        if frames:
            self._last_sent = self._loop.time()
            self._outlet.write(frames)
        if self._ready and not self._outlet.full:
            self._on_room()

    def _take(self, feed: Feed) -> list[bytes]:
        """What is new on a feed, by this connection's cursor."""
        cursor = feed.cursors.get(self)
        if cursor is None:
            return []
        if self.sessions.opened and feed in self.sessions.opened:
            return self._take_of_session(feed, cursor)
        log = feed.log
        encoder = self._outlet.encoder
        if cursor.lost:
            frames = [encoder.frame(self.snapshot(log))]
            cursor.offset, cursor.lost = log.committed, False
        elif cursor.offset < log.committed:
            frames = feed.take(cursor, encoder)
        else:
            frames = []
        if cursor.offset < log.committed:
            self._ready[feed] = None
        elif log.phase is Phase.ENDED and log.ended:  # nothing will ever follow
            self.leave(feed)
        return frames

    def _take_of_session(self, feed: Feed, cursor: Cursor) -> list[bytes]:
        self.sessions.notice(feed)
        if cursor.lost:  # the place that it was at is no history any more: open it anew
            self.soon(self.sessions.resume(feed.stream, Position(0, cursor.offset + 1), None, ()))
            feed.detach(self)
            return []
        frames = feed.take(cursor, self._outlet.encoder) if cursor.offset < feed.log.committed else []
        if cursor.offset < feed.log.committed:
            self._ready[feed] = None
        else:
            self.sessions.shown(feed)
        return frames

    def snapshot(self, log: Log, command_id: Id = None) -> dict[str, Any]:
        self._node.counters.snapshots += 1
        return protocol.snapshot_frame(log, command_id)

    def _quiet_left(self) -> float:
        return self._last_sent + self._settings.heartbeat_ms / 1000 - self._loop.time()

    # ------------------------------------------------------------------ commands

    async def start(self, command: Command) -> None:
        """Have a command carried out beside whatever else is."""
        wait_s = self._pace.take(self._loop.time())
        if wait_s and not isinstance(command, Cancel):  # to stop something is never too much
            await self._too_fast(command, wait_s)
            return
        self._hurried = 0
        if len(self._tasks) >= self._settings.commands_in_flight:
            # Many came in one read of the socket: those that need not wait have answered two turns from now.
            await asyncio.sleep(0)
            await asyncio.sleep(0)
        if len(self._tasks) >= self._settings.commands_in_flight:
            self.send(error_frame("limit.rate", "too many commands at once", command.id, retry_after_ms=100))
            return
        self._spawn(self._answer(command))

    async def _too_fast(self, command: Command, wait_s: float) -> None:
        self._hurried += 1
        error = EverstreamError("limit.rate", "too many commands: slower", retry_after_ms=math.ceil(wait_s * 1000))
        self.send(error_of(error, command.id))
        if self._hurried >= self._pace.capacity:  # as many again, and it does not hear
            await self.close(CLOSE_RATE, error.code)

    def soon(self, work: Coroutine[Any, Any, None]) -> None:
        """Do what nobody has asked for; what fails is said without an id."""
        self._spawn(self._said(work)).add_done_callback(lambda _: work.close())  # it may have ended before it began

    async def _said(self, work: Coroutine[Any, Any, None]) -> None:
        try:
            await work
        except EverstreamError as error:
            self.send(error_of(error))

    def _spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = self._loop.create_task(work, name=f"command of {self.id}")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def _answer(self, command: Command) -> None:
        try:
            await self._answering.answer(command)
        except EverstreamError as error:
            self.send(error_of(error, command.id))
        except Exception:
            logger.exception("a command failed", connection=self.id, command=type(command).__name__)
            self.send(error_frame("internal", "the server failed to carry this out", command.id))

    def presence(self, session: str, users: list[dict[str, Any]]) -> None:
        self.send({"type": "presence", "session": session, "users": users})

    def typing(self, session: str, user: str, typing: bool) -> None:
        self.send({"type": "typing", "session": session, "user": user, "typing": typing})

    # ------------------------------------------------------------------ subscriptions

    @contextlib.contextmanager
    def room(self) -> Iterator[None]:
        """Room for one more stream while it is being found.  Raises EverstreamError `limit.streams`."""
        if len(self._feeds) - len(self._brought) + self._starting >= self._settings.streams_per_connection:
            raise EverstreamError("limit.streams", "this connection reads as many streams as it may")
        self._starting += 1
        try:
            yield
        finally:
            self._starting -= 1

    def attach(self, feed: Feed, seen: Position, *, brought: bool = False) -> None:
        if self._closing:
            return
        self._feeds[feed] = None
        if brought:
            self._brought.add(feed)
        if feed.owner.session:
            self.sessions.keep_in_sight(feed.owner.session)
        feed.attach(self, seen)
        if feed.log.ended:
            self.wake(feed)  # to leave again, where nothing is left to read

    def reads(self, feed: Feed) -> bool:
        return feed in self._feeds

    @property
    def reading(self) -> list[Feed]:
        return list(self._feeds)

    def leave(self, feed: Feed) -> None:
        self._feeds.pop(feed, None)
        self._brought.discard(feed)
        feed.detach(self)
        if feed.owner.session:
            self.sessions.sight.left(feed.owner.session)
