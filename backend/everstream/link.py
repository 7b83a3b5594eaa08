"""A client's connection that comes back by itself.

It goes round a small circle, and tells its listener of every step:

    CONNECTING ──welcome──▶ OPEN ──lost──▶ WAITING ──back-off──▶ CONNECTING …
         ▲                   │ └─ `goaway`: at a time of our own ──▶ CONNECTING
         └───────────────────┴──── a final refusal: CLOSED

`hello` names what the listener wants resumed, so first connect and reconnect are the same path.  The link looks after
`hello`, `welcome`, `goaway`, heartbeats and close codes; every other frame is the listener's.  It promises nothing of
frames sent while the connection goes: whoever needs a reply sends again when told of OPEN.

A token that expires comes from a function, which is asked before every connection.  So a close with 4005 needs nothing
but coming back, and a refusal (4501) is final only when a token that was fetched because of it is refused too.
"""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import itertools
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass
from enum import Enum
from typing import Any, Protocol
from urllib.parse import urlsplit, urlunsplit

import msgspec
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidStatus
from websockets.typing import Subprotocol

from everstream import __version__
from everstream.core.errors import EverstreamError
from everstream.core.wire import Encoding, encode
from everstream.reconnect import CODE_OF_CLOSE, CODE_OF_STATUS, Backoff, Fate, fate, fate_of_status
from everstream.reducer import Frame

RECEIVED_BYTES_MAX = 256 * 1024 * 1024  # a snapshot carries a whole answer
OPEN_TIMEOUT_S = 10.0  # to connect, and to be welcomed
CLOSE_TIMEOUT_S = 1.0
HEARTBEAT_MS = 15_000  # where the server does not say
SETTLED_S = 1.0  # a connection that lived less is not left without back-off, `goaway` or not
LOST = 1006  # the close code of a connection that went without one
LOOPBACK = ("localhost", "127.0.0.1", "::1")
ABOUT = frozenset(("stream", "session"))  # an error that has one of these belongs to that alone
STALE = ("auth.required", "auth.denied")  # errors that a fresh token can mend

# What a server knows a client by.  A function gives a fresh one each time; if it takes long it had better be async.
Token = str | Callable[[], str | Awaitable[str]] | None


class LinkState(Enum):
    CONNECTING = "connecting"
    OPEN = "open"
    WAITING = "waiting"
    CLOSED = "closed"


class Listener(Protocol):
    """Who the link works for.  None of these may raise or wait."""

    def places(self) -> list[Frame]:
        """Where it reads: {stream, epoch, offset} each, for `hello` to resume."""
        ...

    def received(self, kind: str, frame: Frame) -> None: ...

    def entered(self, state: LinkState, detail: str) -> None: ...


@dataclass(frozen=True, slots=True)
class _Parting:
    """How a connection ended: for good with `error`, by plan, or else by accident."""

    why: str
    error: EverstreamError | None = None
    planned: bool = False
    at_least_s: float = 0.0


class Link:
    """One connection after another to one server address.

    `welcome` is the last one received, `why` says how the last connection ended.  `token` may be set anew.
    """

    def __init__(
        self,
        url: str,
        token: Token,
        encoding: Encoding,
        backoff: Backoff,
        listener: Listener,
    ) -> None:
        self.url = websocket_url(url)
        self.state = LinkState.WAITING
        self.welcome: Frame = {}
        self.why = ""
        self.ids = itertools.count(1)
        self.token = token
        self._encoding = encoding
        self._backoff = backoff
        self._listener = listener
        self._socket: ClientConnection | None = None  # only while OPEN
        self._complaint: EverstreamError | None = None  # the last error that belonged to no command
        self._refreshed = False  # the token was asked for anew because of a refusal
        self._spawned: set[asyncio.Task[None]] = set()

    async def run(self) -> Exception:
        """Go round until a server says never to come back.  Returns why.

        Raises what the token's function raises, where that is no passing failure: see `_connection`.
        """
        loop = asyncio.get_running_loop()
        while True:
            self._enter(LinkState.CONNECTING, self.url)
            begun_s = loop.time()
            try:
                parting = await self._connection()
            finally:
                self._socket = None
            self.why = parting.why
            if parting.error is not None and not self._may_refresh(parting.error):
                self._enter(LinkState.CLOSED, parting.why)
                return parting.error
            if parting.planned and loop.time() - begun_s >= SETTLED_S:
                continue
            wait_s = self._backoff.next_s(parting.at_least_s)
            self._enter(LinkState.WAITING, parting.why)
            await asyncio.sleep(wait_s)

    async def aclose(self) -> None:
        """After `run` has ended: wait until sockets are closed."""
        self._enter(LinkState.CLOSED, "")
        await asyncio.gather(*self._spawned, return_exceptions=True)

    async def send(self, frame: Frame) -> bool:
        """Send if OPEN; False where it cannot have gone.  Raises EverstreamError `protocol.too_large`."""
        socket = self._socket
        if socket is None:
            return False
        data = encode(self._encoding, frame)
        most = self.welcome.get("limits", {}).get("frame_bytes")
        if most is not None and len(data) > most:
            raise EverstreamError("protocol.too_large", f"the command has {len(data)} bytes, allowed are {most}")
        with contextlib.suppress(ConnectionClosed):
            await socket.send(data, text=self._encoding is Encoding.JSON)
            return True
        return False

    def spawn(self, work: Coroutine[Any, Any, None]) -> None:
        """Run something short beside the reading."""
        task = asyncio.create_task(work)
        self._spawned.add(task)
        task.add_done_callback(self._spawned.discard)

    async def fresh_token(self) -> str | None:
        """The token, asked for anew where it comes from a function.  Raises what that raises, or TimeoutError."""
        if not callable(self.token):
            return self.token
        async with asyncio.timeout(OPEN_TIMEOUT_S):
            given = self.token()
            return await given if inspect.isawaitable(given) else given

    def chance_s(self, most_ms: float) -> float:
        """A random time within `most_ms`, in seconds."""
        return self._backoff.within_s(most_ms)

    # ------------------------------------------------------------------ one connection

    def _may_refresh(self, refusal: EverstreamError) -> bool:
        """Whether a fresh token may help: once, until a connection has been of use again."""
        helps = callable(self.token) and refusal.code in STALE and not self._refreshed
        self._refreshed |= helps
        return helps

    async def _connection(self) -> _Parting:
        self._complaint = None
        try:
            token = await self.fresh_token()
        except Exception as error:
            # A service that is away for a moment costs no stream.  What is wrong from the start is a mistake.
            final = isinstance(error, EverstreamError) and not error.retryable
            if final or not (self.welcome or isinstance(error, OSError)):
                self._enter(LinkState.CLOSED, f"no token: {type(error).__name__}")
                raise
            return _Parting(f"no token: {type(error).__name__}")
        try:
            socket = await connect(
                self.url,
                subprotocols=[Subprotocol(self._encoding.value)],
                compression=None,
                proxy=None if urlsplit(self.url).hostname in LOOPBACK else True,
                open_timeout=OPEN_TIMEOUT_S,
                close_timeout=CLOSE_TIMEOUT_S,
                ping_interval=None,  # the server pings, and heartbeats are watched
                max_size=RECEIVED_BYTES_MAX,
            )
        except InvalidStatus as refused:
            return _refused(refused)
        except (OSError, InvalidHandshake, EOFError) as error:
            return _Parting(f"cannot connect: {type(error).__name__}")
        try:
            return await self._conversation(socket, token)
        except ConnectionClosed:
            return self._parted(socket.close_code or LOST)
        finally:
            self.spawn(socket.close())

    async def _conversation(self, socket: ClientConnection, token: str | None) -> _Parting:
        loop = asyncio.get_running_loop()
        silence_s, leave_s = OPEN_TIMEOUT_S, float("inf")
        hello = self._hello(token)
        await socket.send(encode(self._encoding, hello), text=self._encoding is Encoding.JSON)
        try:
            async with asyncio.timeout(silence_s) as watch:
                while True:
                    frame = self._decode(await socket.recv(decode=False))
                    kind = frame["type"] if frame is not None else None
                    if frame is None or not isinstance(kind, str):
                        socket.transport.abort()
                        return _Parting("the server sent an unreadable frame")
                    if kind == "welcome":
                        silence_s = 2 * frame.get("heartbeat_ms", HEARTBEAT_MS) / 1000
                        self.welcome, self._socket = frame, socket
                        self._enter(LinkState.OPEN, str(frame.get("node", "")))
                    elif kind == "goaway":
                        leave_s = min(leave_s, loop.time() + self._backoff.within_s(frame.get("after_ms", 0)))
                    elif kind == "error" and not ABOUT & frame.keys() and frame.get("id") in (None, hello["id"]):
                        self._complaint = error_in(frame)
                        if self._socket is not None and self._complaint.code in STALE:
                            self._listener.received(kind, frame)
                    else:
                        self._backoff.reset()
                        self._refreshed = False
                        self._listener.received(kind, frame)
                    watch.reschedule(min(loop.time() + silence_s, leave_s))
        except TimeoutError:
            if loop.time() >= leave_s:
                return _Parting("the server asked to move", planned=True)
            socket.transport.abort()
            return _Parting("the server fell silent")

    def _hello(self, token: str | None) -> Frame:
        hello: Frame = {"type": "hello", "id": next(self.ids), "client": f"everstream-python/{__version__}"}
        if token is not None:
            hello["token"] = token
        return {**hello, "resume": self._listener.places()}

    def _decode(self, data: bytes) -> Frame | None:
        """None for what is no frame."""
        try:
            frame = msgspec.json.decode(data) if self._encoding is Encoding.JSON else msgspec.msgpack.decode(data)
        except msgspec.DecodeError:
            return None
        return frame if isinstance(frame, dict) and "type" in frame else None

    def _parted(self, close_code: int) -> _Parting:
        why = f"the connection closed with {close_code}"
        complaint = self._complaint
        if fate(close_code) is Fate.STAY_AWAY:
            code = CODE_OF_CLOSE.get(close_code, "protocol.bad_frame")
            return _Parting(why, complaint or EverstreamError(code, why, retryable=False))
        after_ms = complaint.retry_after_ms if complaint is not None else None
        return _Parting(why, at_least_s=(after_ms or 0) / 1000)

    def _enter(self, state: LinkState, detail: str) -> None:
        if state is not self.state:
            self.state = state
            self._listener.entered(state, detail)


def websocket_url(url: str) -> str:
    """The address of the WebSocket: `http` is `ws`, and no path is `/ws`.  Raises ValueError for other schemes."""
    parts = urlsplit(url if "://" in url else f"ws://{url}")
    scheme = {"http": "ws", "https": "wss"}.get(parts.scheme, parts.scheme)
    if scheme not in ("ws", "wss") or not parts.hostname:
        raise ValueError(f"not the address of a server: {url!r}")
    return urlunsplit((scheme, parts.netloc, parts.path if parts.path.strip("/") else "/ws", parts.query, ""))


def error_in(frame: Frame) -> EverstreamError:
    """What an `error` frame says.  A code that this version does not know is kept as it is."""
    return EverstreamError(
        str(frame.get("code", "internal")),
        str(frame.get("message", "")),
        retryable=bool(frame.get("retryable", False)),
        retry_after_ms=frame.get("retry_after_ms"),
    )


def _refused(refused: InvalidStatus) -> _Parting:
    status = refused.response.status_code
    why = f"the server answered {status} instead of opening a WebSocket"
    if fate_of_status(status) is Fate.STAY_AWAY:
        code = CODE_OF_STATUS.get(status, "request.invalid")
        return _Parting(why, EverstreamError(code, why, retryable=False))
    after = refused.response.headers.get("Retry-After", "")
    return _Parting(why, at_least_s=float(after) if after.isdigit() else 0.0)
