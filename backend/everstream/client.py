"""A WebSocket client for Everstream: ask, read, cancel; it comes back by itself and loses nothing.

    async with Client("ws://127.0.0.1:8000/ws") as client:
        stream = await client.generate("scripted/count", "hi")
        async for text in stream.text_deltas():
            print(text, end="", flush=True)

`Link` keeps the connection, `Stream` (in `reader.py`) what was read, and so does `Session` of the stream that a session
is.  Coming back is one `hello` that names every open stream and its position; the server goes on after it.  Every
command here may be sent twice without harm (`generate` carries a `request_id`, the others say what shall be, not what
to add), so whatever had no reply when the connection went is simply sent again, by `Calls`.
"""

from __future__ import annotations

import asyncio
import time
import uuid
from collections import deque
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from typing import Any, Literal

from everstream.commands import Call, Calls, Heard, Reader
from everstream.core.errors import EverstreamError
from everstream.core.wire import Encoding
from everstream.link import Link, LinkState, Token, error_in
from everstream.reader import Position, Result, Stream, TextWithdrawn
from everstream.reconnect import Backoff
from everstream.reducer import Frame, Verdict
from everstream.session_client import UNSET, Session, opening
from everstream.session_reducer import session_in

__all__ = ["UNSET", "Client", "Position", "Result", "Session", "Stream", "TextWithdrawn"]

STRAYS_MAX = 64  # streams remembered whose frames came before the reply that names them
SUBSCRIBE_AGAIN_MS = 500  # at most, where a server could not serve a stream just now

OnState = Callable[[LinkState, str], None]


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
        self._calls = Calls(self._link, self.authenticate)
        self._streams: dict[str, Stream] = {}  # the open ones
        self._sessions: dict[str, Session] = {}  # likewise
        self._named: set[str] = set()  # what the last `hello` resumed
        self._strays: deque[str] = deque(maxlen=STRAYS_MAX)
        self._ready = asyncio.Event()  # once open, or closed for good
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
        self._calls.end(why)
        for reader in self._readers():
            self.detach(reader, why)
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
            self.detach(stream, None)
            await self.call("unsubscribe", stream=stream.id)

    async def call(self, kind: str, *, about: Reader | None = None, heard: Heard | None = None, **fields: Any) -> Frame:
        """Send a command, again after every reconnection, until its reply comes.  Raises EverstreamError.

        `heard` is told the reply before anything is read that follows it.
        """
        if self._closed is not None:
            raise self._closed
        return await self._calls.make(kind, about, heard, fields)

    async def tell(self, kind: str, **fields: Any) -> None:
        """Send a command that has no reply, if there is a connection just now."""
        await self._link.send({"type": kind, "id": next(self._link.ids), **fields})

    # ------------------------------------------------------------------ sessions

    async def create_session(
        self,
        *,
        title: str | None = None,
        system: str | None = None,
        model: str | None = None,
        members: Mapping[str, str] | Sequence[Frame] = (),
        request_id: str | None = None,
    ) -> Session:
        """Make a session, and open it.  `members` are {user: role}, or [{user, role}].  Raises EverstreamError.

        With the same `request_id` it is the session of the first time.
        """
        every = [{"user": u, "role": r} for u, r in members.items()] if isinstance(members, Mapping) else [*members]
        given: Frame = {"title": title, "system": system, "model": model, "members": every or None}
        fields = {name: value for name, value in given.items() if value is not None}
        made = await self.call("session.create", request_id=request_id or uuid.uuid4().hex, **fields)
        return await self.open_session(made["session"])

    async def open_session(self, place: str | Mapping[str, Any], *, history: int = 50) -> Session:
        """Read a session: an id with its last `history` messages, or a place that `Session.saved` gave from there on.

        One that this client has open is given as it is.  Raises EverstreamError (`session.unknown`, …).
        """
        name, fields, starts = opening(place)
        if name in self._sessions:
            return self._sessions[name]
        session = Session(self, name, self.welcome.get("user", {}).get("id"))

        def opened(reply: Frame) -> None:
            there = self._sessions.setdefault(name, session)
            for start in starts:
                there.begin(start)
            there.take(reply)

        try:
            await self.call("session.open", heard=opened, session=name, history=history, **fields)
        except asyncio.CancelledError:
            if name not in self._sessions:  # the reply is under way
                self._link.spawn(self.tell("session.close", session=name))
            raise
        return self._sessions.get(name, session)

    async def sessions(self, *, limit: int = 50) -> AsyncIterator[Frame]:
        """The sessions of this user, the one last used first, read `limit` at a time: {session, title, role, …}."""
        page = await self.call("session.list", limit=limit)
        while True:
            for found in page["sessions"]:
                yield found
            if page.get("next") is None:
                return
            page = await self.call("session.list", limit=limit, before=page["next"])

    # ------------------------------------------------------------------ what is read

    def begin(self, start: Position) -> Stream:
        """Read what the server sends of this stream, from `start` on if it was not read before."""
        stream = self._streams.get(start.stream)
        if stream is None:
            stream = self._streams[start.stream] = Stream(self, start)
            if start.stream in self._strays:  # entries of it have come already
                self.ask_for(stream)
        return stream

    def ask_for(self, reader: Reader) -> None:
        """Subscribe again from where this reader stands, if it is still one of ours."""
        if self._reader(reader.id) is reader:
            self._calls.subscribe_again(reader)

    def detach(self, reader: Reader, why: Exception | None) -> None:
        """Read it no longer: `why`, or because nobody wants to."""
        if self._reader(reader.id) is reader:
            self._drop(reader)
            reader.leave(why)

    def _reader(self, name: str) -> Reader | None:
        return self._sessions.get(name) or self._streams.get(name)

    def _readers(self) -> list[Reader]:
        return [*self._sessions.values(), *self._streams.values()]

    def _drop(self, reader: Reader) -> None:
        self._sessions.pop(reader.id, None)
        self._streams.pop(reader.id, None)

    # ------------------------------------------------------------------ what the link says

    def places(self) -> list[Frame]:
        """Of all that is read, but for streams whose epoch no server has named yet."""
        places = [place for reader in self._readers() if "epoch" in (place := reader.place)]
        self._named = {place["stream"] for place in places}
        return places

    def entered(self, state: LinkState, detail: str) -> None:
        if state is LinkState.OPEN:
            self._calls.opened()
            for reader in self._readers():
                if reader.id not in self._named:
                    self._calls.subscribe_again(reader)
            self._ready.set()
        else:
            self._calls.lost()
        if self.on_state is not None:
            self.on_state(state, detail)

    def received(self, kind: str, frame: Frame) -> None:
        session, command = session_in(frame), frame.get("id")
        name = session or frame.get("stream")
        reader = self._reader(name) if isinstance(name, str) else None
        call = self._calls.of(command)
        if kind == "error":
            if call is not None or command is None:  # else nobody waits for it any more
                self._refuse(error_in(frame), call, reader)
        elif kind == "accepted":
            self._accept(frame, call)
        elif kind in ("subscribed", "snapshot") and reader is not None:
            if command == self._calls.asked_again(reader, command):
                self._calls.settle(reader, frame)
                self._take(reader, frame)
        elif call is not None:
            call.finish(frame)
        elif reader is not None or (reader := self._unasked(kind, frame)) is not None:
            self._take(reader, frame)
        elif session is None and isinstance(name, str) and name not in self._strays:
            self._strays.append(name)

    def _take(self, reader: Reader, frame: Frame) -> None:
        if reader.take(frame) is Verdict.HOLE:
            self.ask_for(reader)
        if reader.over:
            self._drop(reader)

    def _unasked(self, kind: str, frame: Frame) -> Stream | None:
        """The stream of a turn whose first entry has come before whatever else names it."""
        whose = self._sessions.get(frame.get("session", "")) if kind == "request_start" else None
        begun = whose.begin(Position(frame["stream"]), frame.get("turn")) if whose is not None else None
        return begun if begun is not None and self._reader(begun.id) is begun else None

    def _accept(self, frame: Frame, call: Call | None) -> None:
        name, whose = frame["stream"], self._sessions.get(frame.get("session", ""))
        stream, known = self._streams.get(name), name in self._streams
        if call is not None and call.awaited:
            start, turn, message = Position(name), frame.get("turn"), frame.get("message")
            stream = whose.begin(start, turn, message, wanted=True) if whose is not None else self.begin(start)
            if not known and call.sent > 1:
                self.ask_for(stream)  # its entries may have gone to a connection that is no more
            call.finish({**frame, "opened": stream})
        elif stream is None and whose is None:  # whoever asked has gone
            self._link.spawn(self.tell("unsubscribe", stream=name))
        if stream is not None:
            stream.take(frame)

    def _refuse(self, error: EverstreamError, call: Call | None, reader: Reader | None) -> None:
        commanded = call is not None or reader is None  # else it is `hello` that was refused, for one stream
        if not (commanded and self._calls.renews(error, call, lambda: self._refused(error, call, reader))):
            self._refused(error, call, reader)

    def _refused(self, error: EverstreamError, call: Call | None, reader: Reader | None) -> None:
        about = call.about if call is not None else reader
        if call is not None and call.about is None:
            self._calls.refuse(error, call)
        elif about is not None:
            self._unreadable(about, error, call)

    def _unreadable(self, reader: Reader, error: EverstreamError, call: Call | None) -> None:
        if call is not None:
            self._calls.forget(call)
        if error.retryable:
            wait_s = (error.retry_after_ms or 0) / 1000 + self._link.chance_s(SUBSCRIBE_AGAIN_MS)
            asyncio.get_running_loop().call_later(wait_s, self.ask_for, reader)
            return
        self.detach(reader, error)
        self._calls.fail(reader, error)
