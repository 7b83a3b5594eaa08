"""What is said to this node: pushes of the streams it follows, and hints from other nodes.

Both come over sharded publish/subscribe, from the server that holds the name's place: one connection a server, made by
redis-py, then taken over as `store.line` does.  They may be lost: followers check their position against the log.

`Listeners` knows which names are wanted and where each lies.  A connection that breaks is made again, and says all its
names again.  When a slot of a cluster moves, its server takes the names back (`sunsubscribe`); they are then said to
whoever has the slot, as soon as that is known.  A connection that has nothing to say is pinged, since a machine that
is gone does not say so.

https://valkey.io/topics/pubsub/
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import hiredis
import structlog

from everstream.store.base import StoreUnavailable
from everstream.store.deployment import Deployment
from everstream.store.line import packed
from everstream.store.server import FAILURES, Server

logger = structlog.get_logger(__name__)

OnSaid = Callable[[bytes, bytes], None]  # the name, and what was said

PING_EVERY_S = 2.0
AGAIN_S = 0.2

_PING = packed(b"PING")


class Ear(asyncio.Protocol):
    """One connection that listens.  `heard` are the names that the server has confirmed."""

    def __init__(
        self,
        transport: asyncio.Transport,
        on_said: OnSaid,
        on_heard: Callable[[bytes], None],
        on_lack: Callable[[], None],
    ) -> None:
        """`on_heard`: a name was confirmed.  `on_lack`: one was refused, or taken back."""
        self.heard: set[bytes] = set()
        self.asked: set[bytes] = set()
        self.refusal = ""
        self.lost = asyncio.Event()
        self.spoke = True  # since it was last looked at
        self._transport = transport
        self._on_said, self._on_heard, self._on_lack = on_said, on_heard, on_lack
        self._reader = hiredis.Reader()
        transport.set_protocol(self)

    def subscribe(self, name: bytes) -> None:
        self.asked.add(name)
        self._write(packed(b"SSUBSCRIBE", name))

    def unsubscribe(self, name: bytes) -> None:
        self.heard.discard(name)
        self.asked.discard(name)
        self._write(packed(b"SUNSUBSCRIBE", name))

    def ping(self) -> None:
        self.spoke = False
        self._write(_PING)

    def _write(self, command: bytes) -> None:
        try:
            self._transport.write(command)
        except RuntimeError:  # uvloop's word for a connection that was reset a moment ago
            self.lost.set()

    def close(self) -> None:
        self._transport.abort()
        self.lost.set()

    def data_received(self, data: bytes) -> None:
        self.spoke = True
        try:
            self._reader.feed(data)
            while (said := self._reader.gets()) is not False:
                self._take(said)
        except hiredis.ProtocolError:
            self.close()

    def connection_lost(self, error: Exception | None) -> None:
        self.lost.set()

    def _take(self, said: Any) -> None:
        if isinstance(said, hiredis.ReplyError):
            # Nobody says which name was refused: those that are not confirmed are said again, perhaps elsewhere.
            self.refusal = str(said)
            self.asked.clear()
            self._on_lack()
        elif isinstance(said, list) and len(said) == 3:
            kind, name, what = said
            if kind == b"smessage":
                self._on_said(name, what)
            elif kind == b"ssubscribe":
                self.asked.discard(name)
                self.heard.add(name)
                self._on_heard(name)
            elif kind == b"sunsubscribe" and name in self.heard:
                self.heard.discard(name)
                self._on_lack()


class Listeners:
    """All names that this node listens to, wherever they lie."""

    def __init__(self, on_said: OnSaid, timeout_s: float) -> None:
        self._on_said = on_said
        self._timeout_s = timeout_s
        self._deployment: Deployment | None = None
        self._places: dict[bytes, int] = {}  # as many as streams are followed, and one
        self._tasks: dict[Server, asyncio.Task[None]] = {}
        self._ears: dict[Server, Ear] = {}
        self._ending: set[asyncio.Task[None]] = set()
        self._lacking = False
        self._waiting: dict[bytes, list[asyncio.Future[None]]] = {}  # until a name is confirmed

    def open(self, deployment: Deployment) -> None:
        self._deployment = deployment

    async def close(self) -> None:
        self._places.clear()
        for server in list(self._tasks):
            self._stop(server)
        while self._ending:
            # A cancellation while redis-py connects is lost in its time-out, so one may not be enough.
            for task in self._ending:
                task.cancel()
            await asyncio.wait(self._ending, timeout=AGAIN_S)
        for waiting in self._waiting.values():
            for future in waiting:
                if not future.done():
                    future.set_exception(StoreUnavailable("the store was closed"))
        self._waiting.clear()

    def _stop(self, server: Server) -> None:
        task = self._tasks.pop(server)
        self._ending.add(task)
        task.add_done_callback(self._ending.discard)
        task.cancel()

    async def add(self, name: bytes, place: int, *, patient: bool = False) -> None:
        """Listen to a name from now on.  Raises StoreUnavailable, and does not, where that is not confirmed in time.

        `patient`: it will be, sooner or later, unless this user may not listen.
        """
        new = name not in self._places
        self._places[name] = place
        if not new and self._is_heard(name):
            return
        confirmed = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(name, []).append(confirmed)
        try:
            self.sync()
            await asyncio.wait_for(confirmed, self._timeout_s)
        except TimeoutError as error:
            refusal = self._refusal(place)
            if patient and not refusal.startswith("NOPERM"):
                return
            if new:
                self.remove(name)
            raise StoreUnavailable(
                f"the store answered: {refusal[:200]}" if refusal else "the store does not answer"
            ) from error
        finally:
            waiting = self._waiting.get(name, [])
            if confirmed in waiting:
                waiting.remove(confirmed)
            if not waiting:
                self._waiting.pop(name, None)

    def remove(self, name: bytes) -> None:
        self._places.pop(name, None)
        for ear in self._ears.values():
            if name in ear.heard or name in ear.asked:
                ear.unsubscribe(name)

    def looked(self, changed: bool) -> None:
        """The map of the servers was made anew."""
        if changed or self._lacking:
            self.sync()

    def sync(self) -> None:
        """Say every name to the server that holds its place, and to no other."""
        assert self._deployment is not None, "the store is not open"
        self._lacking = False
        wanted: dict[Server, set[bytes]] = {}
        for name, place in self._places.items():
            wanted.setdefault(self._deployment.server(place), set()).add(name)
        for server in [server for server in self._tasks if server not in wanted]:
            self._stop(server)
        for server, names in wanted.items():
            if server not in self._tasks:
                self._tasks[server] = asyncio.create_task(self._listen(server), name="store listener")
            elif server in self._ears:
                self._say(self._ears[server], names)

    def _say(self, ear: Ear, names: set[bytes]) -> None:
        for name in names - ear.heard - ear.asked:
            ear.subscribe(name)
        for name in ear.heard - names:
            ear.unsubscribe(name)

    def _is_heard(self, name: bytes) -> bool:
        assert self._deployment is not None
        ear = self._ears.get(self._deployment.server(self._places[name]))
        return ear is not None and name in ear.heard

    def _refusal(self, place: int) -> str:
        assert self._deployment is not None
        ear = self._ears.get(self._deployment.server(place))
        return ear.refusal if ear is not None else ""

    def _confirmed(self, name: bytes) -> None:
        for future in self._waiting.pop(name, ()):
            if not future.done():
                future.set_result(None)

    def _lacks(self, server: Server) -> None:
        """A name is not heard at `server` any more.  Where there is nobody else to ask, it is asked once more."""
        assert self._deployment is not None
        self._lacking = True
        self._deployment.failed(server)
        ear = self._ears.get(server)
        if ear is not None and not self._deployment.spread:
            ear.lost.set()

    async def _listen(self, server: Server) -> None:
        """Keep an ear at a server for as long as names lie there."""
        assert self._deployment is not None
        while self._tasks.get(server) is asyncio.current_task():
            try:
                connection, transport = await server.connect()
            except FAILURES:
                self._deployment.failed(server)
                await asyncio.sleep(AGAIN_S)
                continue
            ear = Ear(transport, self._on_said, self._confirmed, lambda: self._lacks(server))
            self._ears[server] = ear
            try:
                self.sync()
                await self._attend(ear)
                self._deployment.failed(server)
                await asyncio.sleep(AGAIN_S)
            finally:
                if self._ears.get(server) is ear:
                    del self._ears[server]
                ear.close()
                await connection.disconnect(nowait=True)

    async def _attend(self, ear: Ear) -> None:
        """Return when the connection is lost, or silent although it was pinged."""
        while not ear.lost.is_set():
            try:
                await asyncio.wait_for(ear.lost.wait(), PING_EVERY_S if ear.spoke else self._timeout_s)
            except TimeoutError:
                if not ear.spoke:
                    return
                ear.ping()
