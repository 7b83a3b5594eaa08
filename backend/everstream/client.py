"""A WebSocket client for Everstream: ask, read, cancel; it comes back by itself and loses nothing.

    async with Client("ws://127.0.0.1:8000/ws") as client:
        stream = await client.generate("scripted/count", "hi")
        async for text in stream.text_deltas():
            print(text, end="", flush=True)

`Link` keeps the connection, `Stream` (in `reader.py`) what was read.  Coming back is one `hello` that names every open
stream and its position; the server goes on after it.  Every command here may be sent twice without harm (`generate`
carries a `request_id`, the others say what shall be, not what to add), so whatever had no reply when the connection
went is simply sent again.
"""

from __future__ import annotations

import asyncio
import time
import uuid
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from everstream.core.errors import EverstreamError
from everstream.core.wire import Encoding
from everstream.link import STALE, Link, LinkState, Token, error_in
from everstream.reader import Position, Result, Stream, TextWithdrawn
from everstream.reconnect import Backoff
from everstream.reducer import Frame, Verdict

__all__ = ["Client", "Position", "Result", "Stream", "TextWithdrawn"]

CALLS_MAX = 1024  # commands without a reply
STRAYS_MAX = 64  # streams remembered whose frames came before the reply that names them
SUBSCRIBE_AGAIN_MS = 500  # at most, where a server could not serve a stream just now

BUSY_MS_MAX = 1000  # a server that wants a command again within this time gets it without asking the caller
BUSY_TRIES = 5

OnState = Callable[[LinkState, str], None]


@dataclass(slots=True)
class _Call:
    """A command on its way.  Without `done` nobody waits; `about` is the stream a subscription is about."""

    frame: Frame
    done: asyncio.Future[Frame] | None = None
    about: Stream | None = None
    sent: int = 0  # times
    renewed: bool = False  # a fresh token was sent because of it

    def finish(self, reply: Frame) -> None:
        if self.done is not None and not self.done.done():
            self.done.set_result(reply)

    def fail(self, error: Exception) -> None:
        if self.done is not None and not self.done.done():
            self.done.set_exception(error)


class Client:
    """A connection that is always there, as far as the world allows.

    `url` may be `ws(s)://` or `http(s)://`, with or without `/ws`.  `on_state` hears of every step of the connection,
    from within: it must not wait.  Raises EverstreamError (final refusals, failed commands) or ConnectionError (no
    server within `connect_timeout_s`; the client was closed), ValueError for what is no address.

    `token`, for tokens that expire, is a function, async or not, that gives a fresh one.  It is asked before every
    connection, and where a server says that the one it has will not do any more.  If it fails with an OSError (no
    connection, a timeout), or with whatever else once the client has been connected, it is asked again after the
    back-off; an EverstreamError that is not retryable ends the client.
    """

    def __init__(
        self,
        url: str,
        token: Token = None,
        encoding: Literal["json", "msgpack"] = "json",
        *,
        on_state: OnState | None = None,
        backoff: Backoff | None = None,
        connect_timeout_s: float = 30.0,
    ) -> None:
        self.on_state = on_state
        self._link = Link(url, token, Encoding[encoding.upper()], backoff or Backoff(), self)
        self._connect_timeout_s = connect_timeout_s
        self._calls: dict[int, _Call] = {}
        self._streams: dict[str, Stream] = {}  # the open ones
        self._strays: deque[str] = deque(maxlen=STRAYS_MAX)
        self._ready = asyncio.Event()  # once open, or closed for good
        self._renewal: asyncio.Task[None] | None = None
        self._closed: Exception | None = None
        self._task: asyncio.Task[None] | None = None

    @property
    def url(self) -> str:
        return self._link.url

    @property
    def link_state(self) -> LinkState:
        return self._link.state

    @property
    def welcome(self) -> Frame:
        """The server's last `welcome`: node, user, limits."""
        return self._link.welcome

    async def __aenter__(self) -> Client:
        self._task = asyncio.create_task(self._run())
        try:
            async with asyncio.timeout(self._connect_timeout_s):
                await self._ready.wait()
        except TimeoutError:
            await self.aclose()
            raise ConnectionError(
                f"no server at {self.url} within {self._connect_timeout_s:g} s ({self._link.why or 'no answer'})"
            ) from None
        except asyncio.CancelledError:
            await self.aclose()
            raise
        if self._closed is not None:
            await self.aclose()
            raise self._closed
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Leave.  Generations go on without this client.  Idempotent."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        if self._renewal is not None:
            self._renewal.cancel()
        self._finish(ConnectionError("the client was closed"))
        await self._link.aclose()

    async def _run(self) -> None:
        try:
            self._finish(await self._link.run())
        except Exception as error:
            self._finish(error)

    def _finish(self, why: Exception) -> None:
        if self._closed is not None:
            return
        self._closed = why
        for call in self._calls.values():
            call.fail(why)
        for stream in self._streams.values():
            stream.leave(why)
        self._streams.clear()
        self._ready.set()

    # ------------------------------------------------------------------ commands

    async def generate(
        self,
        model: str,
        messages: str | Sequence[Frame],
        *,
        params: Frame | None = None,
        budget: Frame | None = None,
        request_id: str | None = None,
        **more: Any,
    ) -> Stream:
        """Start a generation and read it from its first entry.  Raises EverstreamError.

        `messages` is the conversation, or what the user says.  `budget` is {output_tokens, usd}, either or both;
        `params` and all further keywords are the request's parameters (`max_tokens`, `temperature`, `system`, …).
        With the same `request_id` the server starts nothing new, and the stream is the one of the first time.
        """
        said = [{"role": "user", "content": messages}] if isinstance(messages, str) else list(messages)
        fields: Frame = {"request_id": request_id or uuid.uuid4().hex, "model": model, "messages": said}
        if every := {**(params or {}), **more}:
            fields["params"] = every
        if budget is not None:
            fields["budget"] = budget
        reply = await self.call("generate", **fields)
        stream: Stream = reply["opened"]
        return stream

    async def subscribe(self, stream: str | Position, /, epoch: int | None = None, offset: int | None = None) -> Stream:
        """Read a stream: an id from its start or from (epoch, offset), a saved Position from there on.

        A stream that this client reads already is given as it is.  Raises EverstreamError (`stream.unknown`, …).
        """
        start = stream if isinstance(stream, Position) else Position(stream, epoch, offset or 0)
        opened = self._streams.get(start.stream)
        if opened is not None:
            return opened
        opened = self._streams[start.stream] = Stream(self, start)
        try:
            await self.call("subscribe", about=opened, **opened.place)
        except BaseException:
            self._streams.pop(start.stream, None)
            raise
        return opened

    async def authenticate(self, token: str | None = None) -> None:
        """Renew this connection's authentication without leaving it; without `token` with a fresh one of the client's.

        Where the client has no function for tokens, `token` is also what it comes back with.  Raises EverstreamError
        (`auth.denied`, …; the old token then stays), or what the function raises.
        """
        before, fixed = self._link.token, not callable(self._link.token)
        given = await self._link.fresh_token() if token is None else token
        if fixed:
            self._link.token = given
        try:
            await self.call("auth", token=given)
        except EverstreamError:
            if fixed:
                self._link.token = before
            raise

    async def ping(self) -> float:
        """The seconds from here to the server and back, reconnections included."""
        begun_s = time.monotonic()
        await self.call("ping")
        return time.monotonic() - begun_s

    async def models(self) -> list[Frame]:
        """The models on offer, as the protocol has them.  Raises EverstreamError."""
        models: list[Frame] = (await self.call("models"))["models"]
        return models

    async def forget(self, stream: Stream) -> None:
        """Read this stream no longer."""
        if self._streams.get(stream.id) is stream:
            del self._streams[stream.id]
            stream.leave(None)
            await self.call("unsubscribe", stream=stream.id)

    async def call(self, kind: str, *, about: Stream | None = None, **fields: Any) -> Frame:
        """Send a command, again after every reconnection, until its reply comes.  Raises EverstreamError."""
        if self._closed is not None:
            raise self._closed
        if len(self._calls) >= CALLS_MAX:
            raise EverstreamError("limit.rate", f"{CALLS_MAX} commands wait for their reply already")
        call_id = next(self._link.ids)
        done: asyncio.Future[Frame] = asyncio.get_running_loop().create_future()
        call = self._calls[call_id] = _Call({"type": kind, "id": call_id, **fields}, done, about)
        try:
            await self._send(call)
            return await done
        finally:
            self._calls.pop(call_id, None)

    async def _send(self, call: _Call) -> None:
        try:
            call.sent += await self._link.send(call.frame)
        except EverstreamError as error:
            call.fail(error)

    def _subscribe_again(self, stream: Stream) -> None:
        """Ask for what follows the stream's position.  If the connection goes, the next `hello` asks."""
        if self._streams.get(stream.id) is stream and self._link.state is LinkState.OPEN:
            call_id = next(self._link.ids)
            call = _Call({"type": "subscribe", "id": call_id, **stream.place}, None, stream)
            self._calls[call_id] = call
            self._link.spawn(self._send(call))

    async def _unsubscribe(self, stream_id: str) -> None:
        await self._link.send({"type": "unsubscribe", "stream": stream_id})

    # ------------------------------------------------------------------ what the link says

    def places(self) -> list[Frame]:
        return [stream.place for stream in self._streams.values() if stream.state.epoch is not None]

    def entered(self, state: LinkState, detail: str) -> None:
        if state is LinkState.OPEN:
            # Subscriptions were renewed by `hello`, but for streams whose epoch no server has named yet.
            for call in [call for call in self._calls.values() if call.about is None]:
                self._link.spawn(self._send(call))
            for stream in [stream for stream in self._streams.values() if stream.state.epoch is None]:
                self._subscribe_again(stream)
            self._ready.set()
        else:
            self._calls = {call_id: call for call_id, call in self._calls.items() if call.done is not None}
        if self.on_state is not None:
            self.on_state(state, detail)

    def received(self, kind: str, frame: Frame) -> None:
        name, command = frame.get("stream"), frame.get("id")
        stream = self._streams.get(name) if isinstance(name, str) else None
        call = self._calls.get(command) if isinstance(command, int) else None
        if kind == "error":
            self._refuse(error_in(frame), call, stream)
            return
        if kind == "accepted" and isinstance(name, str):
            stream = self._accept(name, frame, call)
        elif kind in ("subscribed", "snapshot") and stream is not None:
            if command != self._asked_again(stream, command):
                return
            self._settle(stream, frame)
        elif call is not None:
            call.finish(frame)
        elif stream is None and isinstance(name, str) and name not in self._strays:
            self._strays.append(name)
        if stream is not None:
            if stream.take(frame) is Verdict.HOLE:
                self._subscribe_again(stream)
            if stream.over:
                self._streams.pop(stream.id, None)

    def _accept(self, name: str, frame: Frame, call: _Call | None) -> Stream | None:
        stream = self._streams.get(name)
        if call is None or call.done is None or call.done.done():
            if stream is None:  # whoever asked has gone
                self._link.spawn(self._unsubscribe(name))
            return stream
        if stream is None:
            stream = self._streams[name] = Stream(self, Position(name))
            if call.sent > 1 or name in self._strays:
                # Its entries may have come already, or go to a connection that is no more.
                self._subscribe_again(stream)
        call.finish({**frame, "opened": stream})
        return stream

    def _asked_again(self, stream: Stream, otherwise: object) -> object:
        """The id of the newest subscription that was made again: what comes before its reply is not meant for us."""
        again = [call_id for call_id, call in self._calls.items() if call.about is stream and call.done is None]
        return max(again, default=otherwise)

    def _settle(self, stream: Stream, reply: Frame) -> None:
        """Every subscription to `stream` that waited has its answer: replies to `hello` name no command."""
        for call_id, call in list(self._calls.items()):
            if call.about is stream:
                call.finish(reply)
                del self._calls[call_id]

    def _refuse(self, error: EverstreamError, call: _Call | None, stream: Stream | None) -> None:
        if error.code in STALE and callable(self._link.token) and self._renews(error, call, stream):
            return
        if call is not None and call.about is None:
            self._refuse_call(error, call)
        else:
            self._refuse_reading(error, call, stream)

    def _refuse_call(self, error: EverstreamError, call: _Call) -> None:
        after_ms = error.retry_after_ms
        if error.code != "limit.rate" or after_ms is None or after_ms > BUSY_MS_MAX or call.sent > BUSY_TRIES:
            call.fail(error)
            return
        wait_s = after_ms / 1000 + self._link.chance_s(after_ms)
        asyncio.get_running_loop().call_later(wait_s, self._send_again, call)

    def _send_again(self, call: _Call) -> None:
        if call.done is not None and not call.done.done():
            self._link.spawn(self._send(call))

    def _refuse_reading(self, error: EverstreamError, call: _Call | None, stream: Stream | None) -> None:
        about = stream or (call.about if call is not None else None)
        if call is not None and call.done is None:
            self._calls.pop(call.frame["id"], None)
        if about is None:
            return
        if error.retryable:
            wait_s = (error.retry_after_ms or 0) / 1000 + self._link.chance_s(SUBSCRIBE_AGAIN_MS)
            asyncio.get_running_loop().call_later(wait_s, self._subscribe_again, about)
            return
        self._streams.pop(about.id, None)
        about.leave(error)
        for call_id, waiting in list(self._calls.items()):
            if waiting.about is about:
                waiting.fail(error)
                del self._calls[call_id]

    # ------------------------------------------------------------------ a token that will not do any more

    def _renews(self, error: EverstreamError, call: _Call | None, stream: Stream | None) -> bool:
        """Whether a fresh token is sent because of this error, and the command again, once, behind it."""
        if call is None and stream is not None:  # it is `hello` that was refused, for one stream
            return False
        if call is not None:
            if call.renewed or call.frame["type"] == "auth":
                return False
            call.renewed = True
        self._link.spawn(self._renew_for(error, call))
        return True

    async def _renew_for(self, error: EverstreamError, call: _Call | None) -> None:
        if self._renewal is None or self._renewal.done():
            self._renewal = asyncio.create_task(self.authenticate())
        await asyncio.wait({self._renewal})
        failed = self._renewal.cancelled() or self._renewal.exception() is not None
        if call is not None and failed:
            self._refuse(error, call, call.about)
        elif call is not None:
            await self._send(call)
