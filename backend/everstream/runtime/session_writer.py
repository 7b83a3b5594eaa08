"""A session's decisions on their way into its stream.

    Conversation ──entries──▶ the streams they name are made ──▶ log ──stored──▶ `follow_up`

One decision at a time, under `lock`, until the store has it.  Only then does anything begin that costs money or has an
effect, so whatever a leader has begun, its adopter reads of; and a stream is made before it is named, so whoever reads
of one finds it.  A decision that could not be written was never made: the conversation is folded anew from the log.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Protocol

import msgspec

from everstream.core.asking import Bounds
from everstream.core.conversation import Conversation, LeftOut
from everstream.core.events import Event, Request
from everstream.core.lease import partition_of, stream_id
from everstream.core.log import Log
from everstream.core.session import Session
from everstream.core.session_events import SessionChanged, TurnQueued, TurnStart
from everstream.runtime.hub import Feed, Hub
from everstream.runtime.meta import Meta
from everstream.settings import Settings
from everstream.store.base import Store


class Deposed(Exception):
    """Another node leads the session, or nobody does: find out who."""


class Commits(Protocol):
    def dirty(self, feed: Feed) -> None:
        """Have its log committed at once."""
        ...


class SessionWriter:
    """`asking` is what each turn asks, but for the messages, by the turn's id."""

    def __init__(
        self,
        feed: Feed,
        node: Commits,
        store: Store,
        hub: Hub,
        settings: Settings,
        left_out: LeftOut,
        follow_up: Callable[[Event], None],
    ) -> None:
        self.feed = feed
        self.log = feed.log  # where another history takes its place, nothing of ours may get into that
        self.lock = asyncio.Lock()
        self.asking: dict[str, Request] = {}
        self._node = node
        self._store = store
        self._hub = hub
        self._bounds = Bounds(
            settings.session_messages,
            settings.session_members,
            settings.session_turns,
            settings.session_queue,
            settings.tool_rounds,
        )
        self._left_out = left_out
        self._follow_up = follow_up
        # What an earlier leader said has another epoch, and readers keep the epoch of what they hold.
        self._epoch_is_said = not self.log.tail
        self.conversation = self._fold()

    def _fold(self) -> Conversation:
        return Conversation(Session(self.log.entries), self._bounds, self._make_id, self._left_out)

    def _make_id(self, kind: str) -> str:
        if kind == "r":
            return stream_id(partition_of(self.feed.stream), secrets.token_bytes(17))
        return f"{kind}_{secrets.token_hex(10)}"

    @property
    def session(self) -> Session:
        return self.conversation.session

    @property
    def leads(self) -> bool:
        return self.feed.led and self.feed.log is self.log and not self.log.fenced

    def check(self) -> None:
        """Raises Deposed where this node does not lead the session any more."""
        if not self.leads:
            raise Deposed

    @asynccontextmanager
    async def deciding(self) -> AsyncIterator[None]:
        """What is said in here is written in here: what an error leaves unwritten was never said.  Under `lock`.

        Raises Deposed where this node does not lead the session any more.
        """
        self.check()
        try:
            yield
        except BaseException:
            if self.conversation.take():
                self.conversation = self._fold()
            raise

    async def write(self) -> None:
        """Write what was said, wait until the store has it, and begin what follows.

        Raises Deposed, and EverstreamError where a stream cannot be made; then nothing was said.
        """
        said = self.conversation.take()
        if not said:
            return
        try:
            for entry in said:
                if isinstance(entry, TurnStart | TurnQueued) and entry.stream not in self._made_for(entry):
                    await self._make_stream(entry)
            self.check()
        except BaseException:
            self.conversation = self._fold()
            raise
        if not self._epoch_is_said:
            self._epoch_is_said = True
            self.log.append(SessionChanged(epoch=self.log.epoch))
        for entry in said:
            self.log.append(entry)
        self._node.dirty(self.feed)
        await self.feed.wait_stored()
        self.check()
        for entry in said:
            self._follow_up(entry)

    def _made_for(self, entry: TurnStart | TurnQueued) -> list[str]:
        """The stream that was made when the turn was queued."""
        turn = self.session.turns.get(entry.turn)
        if isinstance(entry, TurnQueued) or turn is None or turn.queued is None:
            return []
        return [turn.queued.stream]

    async def _make_stream(self, entry: TurnStart | TurnQueued) -> None:
        meta = msgspec.msgpack.encode(Meta(self.asking[entry.turn], entry.user, self.feed.stream, entry.turn))
        self._hub.being_made.add(entry.stream)
        try:
            created = await self._store.create(entry.stream, "", meta)
            self._hub.lead(Log(created.stream, created.epochs), meta)
        finally:
            self._hub.being_made.discard(entry.stream)
