"""A stream as Server-Sent Events (HTML Living Standard, section 9.2): one more reader of the same log.

    feed ──wake──▶ its cursor takes all there is ──▶ a format's bytes ──▶ one body chunk

The `id` of an event is the offset that a reader holds after it, so `Last-Event-ID` is where it comes back to.  While
nothing comes, a comment keeps proxies from closing the connection.  A response that takes nothing holds an offset here,
and no more: the server waits in `send`, and the next chunk is larger.  Whether the stream goes on without its reader is
not decided here.

What belongs to a session is shown for as long as its reader is a member: the session is read beside it, for that alone.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable
from typing import Protocol

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from everstream.core.cursor import Cursor, Run
from everstream.core.errors import EverstreamError
from everstream.core.log import Log, Position
from everstream.core.protocol import snapshot_frame
from everstream.core.wire import Encoding, encode, encode_entry
from everstream.gateway.connections import Connections
from everstream.gateway.standing import Standing
from everstream.runtime.ending import end
from everstream.runtime.hub import Feed
from everstream.runtime.meta import is_session
from everstream.runtime.node import Node

RETRY_MS = 1_000  # after which a browser comes back
# No empty line follows these: OpenAI's package takes one for the end of an event without data, once it has seen an id.
COMMENT = b": still here\n"
RETRY = b"retry: %d\n" % RETRY_MS
HEADERS = {
    "cache-control": "no-store, no-transform",
    "x-accel-buffering": "no",  # nginx: pass on what comes as it comes
}


class Format(Protocol):
    """How entries are written.  One object for all readers of a feed that want the same."""

    def entry(self, stream: str, run: Run) -> bytes: ...

    def snapshot(self, log: Log) -> bytes:
        """All of it at once, for a reader whose place is no history."""
        ...


def event(data: bytes, offset: int | None = None, name: str = "") -> bytes:
    """One event.  `data` has no line breaks."""
    head = b"" if offset is None else b"id: %d\n" % offset
    if name:
        head += b"event: %b\n" % name.encode()
    return b"%bdata: %b\n\n" % (head, data)


class NativeFormat:
    """The protocol's own frames."""

    def entry(self, stream: str, run: Run) -> bytes:
        return event(encode_entry(Encoding.JSON, stream, run.after, run.upto, run.event), run.upto)

    def snapshot(self, log: Log) -> bytes:
        return event(encode(Encoding.JSON, snapshot_frame(log)), log.committed)


NATIVE = NativeFormat()


class SseResponse(Response):
    """The entries of one stream from a place on, until its end.

    `left` is called where the client goes before that.  It is one of the process's connections.
    """

    media_type = "text/event-stream"

    def __init__(
        self,
        node: Node,
        connections: Connections,
        feed: Feed,
        seen: Position,
        style: Format,
        standing: Standing,
        *,
        headers: dict[str, str] | None = None,
        left: Callable[[], None] = lambda: None,
        retry: bool = False,
    ) -> None:
        super().__init__(headers={**HEADERS, **(headers or {}), "x-everstream-stream": feed.stream})
        del self.headers["content-length"]
        self.id = "c_" + secrets.token_hex(8)
        self.standing = standing
        self._node = node
        self._connections = connections
        self._feed = feed
        self._seen = seen
        self._style = style
        self._left = left
        self._retry = retry
        self._more = asyncio.Event()
        self._over = False
        self._gone = False  # the client is, and nobody here has sent it away
        self._leaving: asyncio.TimerHandle | None = None
        self._session: Feed | None = None

    # ------------------------------------------------------------------ as a reader

    def wake(self, feed: Feed) -> None:
        self._more.set()

    # ------------------------------------------------------------------ as a connection

    async def close(self, code: int, reason: str) -> None:
        self.stop()

    def goaway(self, after_ms: int, reason: str) -> None:
        """A client comes back by itself: the connection is closed in time for that."""
        self._leaving = asyncio.get_running_loop().call_later(after_ms / 1000, self.stop)

    def revoked(self) -> None:
        self.stop()

    def stop(self) -> None:
        """Send no more."""
        self._over = True
        self._more.set()

    # ------------------------------------------------------------------ as a response

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        gone = asyncio.create_task(self._watch(receive), name=f"the client of {self.id}")
        try:
            with self._connections.joined(self, self._node):
                await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
                ended = await self._send_all(send)
                await send({"type": "http.response.body", "body": b"", "more_body": False})
        finally:
            self._feed.detach(self)
            if self._session is not None:
                self._session.detach(self)
            self.standing.end()
            if self._leaving is not None:
                self._leaving.cancel()
            await end([gone])
        if self._gone and not ended and not self._node.draining:
            self._left()

    async def _watch(self, receive: Receive) -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
        self._gone = not self._over
        self.stop()

    async def _send_all(self, send: Send) -> bool:
        """Send what there is and what comes.  False where the reader went before the end."""
        feed, beat_s = self._feed, self._node.settings.heartbeat_ms / 1000
        if self._retry:
            await self._send(send, RETRY)
        await self._keep_in_sight()
        feed.attach(self, self._seen)
        while not self._over and self._may_read():
            self._more.clear()
            cursor = feed.cursors.get(self)  # another one where another history has taken the log's place
            said = self._take(cursor) if cursor is not None else b""
            if said:
                await self._send(send, said)
            elif feed.log.ended:
                return True
            else:
                try:
                    async with asyncio.timeout(beat_s):
                        await self._more.wait()
                except TimeoutError:
                    await self._send(send, COMMENT)
        return feed.log.ended

    async def _keep_in_sight(self) -> None:
        """Hear of what happens in the session that the stream belongs to, or is."""
        feed = self._feed
        name = feed.stream if is_session(feed.stream) else feed.owner.session
        if not name:
            return
        try:
            self._session = await self._node.sessions.find(name, self.standing.principal.id)
        except EverstreamError:  # he was put out of it this very moment, or it cannot be found out: he may come back
            self.stop()
            return
        if self._session is not feed:
            self._session.attach(self, Position(0, 0))

    def _may_read(self) -> bool:
        if self._session is None:
            return True
        session = self._node.sessions.view(self._session)
        return session.deleted or session.may(self.standing.principal.id, "read")

    def _take(self, cursor: Cursor) -> bytes:
        log = self._feed.log
        if cursor.lost:
            cursor.offset, cursor.lost = log.committed, False
            self._node.counters.snapshots += 1
            return self._style.snapshot(log)
        if cursor.offset >= log.committed:
            return b""
        return b"".join(self._feed.take(cursor, self._style))

    @staticmethod
    async def _send(send: Send, body: bytes) -> None:
        await send({"type": "http.response.body", "body": body, "more_body": True})
