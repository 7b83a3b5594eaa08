"""Commands on their way: sent, sent again after every reconnection, until their reply has come.

Two kinds are told apart.  A command that somebody waits for is kept until it has its reply.  A subscription that was
made again by the client itself is `about` a reader and nobody waits for it: if the connection goes, the next `hello`
names the reader's place, which asks the same.  While one is under way, the reader listens to nothing but its reply.

A server that is too busy for a moment is asked again here, and so is one that wants a fresh token first.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterator
from dataclasses import dataclass
from typing import Any, Protocol

from everstream.core.errors import EverstreamError
from everstream.link import STALE, Link, LinkState
from everstream.reducer import Frame, Verdict

CALLS_MAX = 1024  # commands without a reply
BUSY_MS_MAX = 1000  # a server that wants a command again within this time gets it without asking the caller
BUSY_TRIES = 5

Heard = Callable[[Frame], None]


class Reader(Protocol):
    """Whoever reads a stream: it takes frames, and has a place to go on from."""

    @property
    def id(self) -> str: ...

    @property
    def place(self) -> Frame:
        """How far it has come, as commands name it: {stream, epoch, offset}, or {stream} for the start."""
        ...

    @property
    def over(self) -> bool:
        """Whether all has been read that there will ever be."""
        ...

    def take(self, frame: Frame) -> Verdict: ...

    def leave(self, why: Exception | None) -> None:
        """Nothing more will come; None: because the reader wants no more."""
        ...


@dataclass(slots=True, eq=False)
class Call:
    """A command.  Without `done` nobody waits; `about` is the reader that a subscription is about.

    `heard` is told the reply at once: what follows it in the same connection is read only then.
    """

    frame: Frame
    done: asyncio.Future[Frame] | None = None
    about: Reader | None = None
    heard: Heard | None = None
    sent: int = 0  # times
    renewed: bool = False  # a fresh token was sent because of it

    @property
    def awaited(self) -> bool:
        return self.done is not None and not self.done.done()

    def finish(self, reply: Frame) -> None:
        if self.done is not None and not self.done.done():
            if self.heard is not None:
                self.heard(reply)
            self.done.set_result(reply)

    def fail(self, error: Exception) -> None:
        if self.done is not None and not self.done.done():
            self.done.set_exception(error)


class Calls:
    """All commands of one client.  `authenticate` sends a fresh token."""

    def __init__(self, link: Link, authenticate: Callable[[], Coroutine[Any, Any, None]]) -> None:
        self._link = link
        self._authenticate = authenticate
        self._waiting: dict[int, Call] = {}
        self._renewal: asyncio.Task[None] | None = None

    def of(self, command: object) -> Call | None:
        """The command with this id."""
        return self._waiting.get(command) if isinstance(command, int) else None

    async def make(self, kind: str, about: Reader | None, heard: Heard | None, fields: Frame) -> Frame:
        """Send a command until its reply comes.  Raises EverstreamError."""
        if len(self._waiting) >= CALLS_MAX:
            raise EverstreamError("limit.rate", f"{CALLS_MAX} commands wait for their reply already")
        call_id = next(self._link.ids)
        done: asyncio.Future[Frame] = asyncio.get_running_loop().create_future()
        call = self._waiting[call_id] = Call({"type": kind, "id": call_id, **fields}, done, about, heard)
        try:
            await self._send(call)
            return await done
        finally:
            self._waiting.pop(call_id, None)

    def subscribe_again(self, reader: Reader) -> None:
        """Ask for what follows the reader's place.  If the connection goes, the next `hello` asks."""
        if self._link.state is LinkState.OPEN:
            call_id = next(self._link.ids)
            call = Call({"type": "subscribe", "id": call_id, **reader.place}, None, reader)
            self._waiting[call_id] = call
            self._link.spawn(self._send(call))

    def asked_again(self, reader: Reader, otherwise: object) -> object:
        """The id of the newest subscription that was made again: what comes before its reply is not meant for us."""
        again = [call_id for call_id, call in self._waiting.items() if call.about is reader and call.done is None]
        return max(again, default=otherwise)

    def settle(self, reader: Reader, reply: Frame) -> None:
        """Every subscription of `reader` that waited has its answer: replies to `hello` name no command."""
        for call in self._drop(reader):
            call.finish(reply)

    def fail(self, reader: Reader, error: Exception) -> None:
        """No subscription of `reader` will have an answer."""
        for call in self._drop(reader):
            call.fail(error)

    def forget(self, call: Call) -> None:
        """A command that nobody waits for has been refused."""
        if call.done is None:
            self._waiting.pop(call.frame["id"], None)

    def opened(self) -> None:
        """There is a new connection, and `hello` has named the places of readers: send all else again."""
        for call in [call for call in self._waiting.values() if call.about is None]:
            self._link.spawn(self._send(call))

    def lost(self) -> None:
        """The connection has gone."""
        self._waiting = {call_id: call for call_id, call in self._waiting.items() if call.done is not None}

    def end(self, why: Exception) -> None:
        if self._renewal is not None:
            self._renewal.cancel()
        for call in self._waiting.values():
            call.fail(why)

    def refuse(self, error: EverstreamError, call: Call) -> None:
        """A command has failed, unless the server wants it again in a moment."""
        after_ms = error.retry_after_ms
        if error.code != "limit.rate" or after_ms is None or after_ms > BUSY_MS_MAX or call.sent > BUSY_TRIES:
            call.fail(error)
            return
        wait_s = after_ms / 1000 + self._link.chance_s(after_ms)
        asyncio.get_running_loop().call_later(wait_s, self._send_again, call)

    def _drop(self, reader: Reader) -> Iterator[Call]:
        for call_id, call in list(self._waiting.items()):
            if call.about is reader:
                del self._waiting[call_id]
                yield call

    async def _send(self, call: Call) -> None:
        try:
            call.sent += await self._link.send(call.frame)
        except EverstreamError as error:
            call.fail(error)

    def _send_again(self, call: Call) -> None:
        if call.awaited:
            self._link.spawn(self._send(call))

    # ------------------------------------------------------------------ a token that will not do any more

    def renews(self, error: EverstreamError, call: Call | None, refused: Callable[[], None]) -> bool:
        """Whether a fresh token is sent because of this error, and the command again, once, behind it.

        `refused` is called where that does not help.
        """
        if error.code not in STALE or not callable(self._link.token):
            return False
        if call is not None:
            if call.renewed or call.frame["type"] == "auth":
                return False
            call.renewed = True
        self._link.spawn(self._renew_for(call, refused))
        return True

    async def _renew_for(self, call: Call | None, refused: Callable[[], None]) -> None:
        if self._renewal is None or self._renewal.done():
            self._renewal = asyncio.create_task(self._authenticate())
        await asyncio.wait({self._renewal})
        failed = self._renewal.cancelled() or self._renewal.exception() is not None
        if call is not None and failed:
            refused()
        elif call is not None:
            await self._send(call)
