"""The client for plain functions: the asynchronous one, in a thread of its own.

    with SyncClient("ws://127.0.0.1:8000/ws") as client:
        for text in client.generate("scripted/count", "hi"):
            print(text, end="", flush=True)

All that is said in `client.py` and `reader.py` holds here.  What is different: iterating a stream gives its text, and
`frames()` its frames; both may be left and taken up again.  Frames are read ahead in the client's thread, so a
stream's `position` is that of the last thing it has given, and not of what has come.

Sessions have the same nouns: what `Session` has and is not written out here is asked by `SyncSession.call`.

Every method may be called from any thread, one that runs an event loop included (which then stands still); a stream
is iterated by one thread, and cancelled by whichever wants to.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Mapping, Sequence
from types import TracebackType
from typing import Any, Literal, Self, TypeVar

from everstream.client import Client, OnState
from everstream.link import LinkState, Token
from everstream.portal import Iteration, Portal
from everstream.reader import Position, Result, Step, Stream, TextWithdrawn
from everstream.reconnect import Backoff
from everstream.reducer import Frame
from everstream.session_client import UNSET, OnBusy, Session, Unset
from everstream.session_reducer import SessionState

__all__ = ["UNSET", "Position", "Result", "SyncClient", "SyncSession", "SyncStream", "TextWithdrawn"]

T = TypeVar("T")


class _Steps:
    """What a stream gives, as an iterator for the portal's thread."""

    def __init__(self, stream: Stream) -> None:
        self._stream = stream

    def __aiter__(self) -> _Steps:
        return self

    async def __anext__(self) -> Step:
        return await self._stream.step()


class _Thread:
    """The thread that an open client runs in."""

    def __init__(self) -> None:
        self._portal = Portal("everstream client")

    def call(self, work: Coroutine[Any, Any, T]) -> T:
        """Raises ConnectionError where the client was closed, RuntimeError where it would wait for itself."""
        if not self._portal.alive:
            work.close()
            raise ConnectionError("the client was closed")
        return self._portal.call(work)

    def steps(self, stream: Stream) -> Iteration[Step]:
        return self.iterate(_Steps(stream))

    def iterate(self, given: AsyncIterator[T]) -> Iteration[T]:
        if not self._portal.alive:
            raise ConnectionError("the client was closed")
        return self._portal.iterate(given)

    def close(self) -> None:
        self._portal.close()


class SyncStream:
    """One response stream: iterate it for its text, `frames()` for its frames, or wait for its `result()`."""

    def __init__(self, thread: _Thread, stream: Stream) -> None:
        self.id = stream.id
        self.position = stream.position  # behind the last thing given: what to save
        self._thread = thread
        self._stream = stream
        self._steps: Iteration[Step] | None = None

    def __iter__(self) -> Iterator[str]:
        """The answer's text, piece by piece.  Raises TextWithdrawn, EverstreamError, ConnectionError."""
        for step in self._taken():
            if step.withdrawn:
                raise TextWithdrawn(step.text)
            if step.text:
                yield step.text

    def frames(self) -> Iterator[Frame]:
        """The frames that were applied.  Raises EverstreamError or ConnectionError where no more can come."""
        for step in self._taken():
            yield step.frame

    def result(self, timeout_s: float | None = None) -> Result:
        """Wait for the end; the whole answer.  Raises TimeoutError, and what `Stream.result` does."""
        return self._thread.call(_result(self._stream, timeout_s))

    def cancel(self) -> int:
        """Stop the generation, from any thread.  Returns the fence.  Raises EverstreamError."""
        return self._thread.call(self._stream.cancel())

    def unsubscribe(self) -> None:
        """Stop reading; the generation goes on.  Iteration ends behind what has been read ahead."""
        self._thread.call(self._stream.unsubscribe())

    def _taken(self) -> Iterator[Step]:
        if self._steps is None:  # one for all: what was read ahead must not be lost with an iterator that was dropped
            self._steps = self._thread.steps(self._stream)
        for step in self._steps:
            self.position = step.position
            yield step


class SyncSession:
    """One open session.  Its `state` grows in the client's thread: read it at once, or take what `path` gives."""

    def __init__(self, thread: _Thread, session: Session) -> None:
        self.id = session.id
        self._thread = thread
        self._session = session
        self._events: Iteration[Frame] | None = None

    @property
    def state(self) -> SessionState:
        return self._session.state

    def path(self, leaf: str | None = None) -> list[Frame]:
        """The messages of a branch, as they are now.  Raises KeyError for an unknown id."""

        async def path() -> list[Frame]:
            return self._session.path(leaf)

        return self._thread.call(path())

    def send(
        self,
        content: str | Sequence[Frame] | None,
        *,
        model: str | None = None,
        parent: str | Unset | None = UNSET,
        on_busy: OnBusy = "queue",
        **more: Any,
    ) -> SyncStream:
        """As `Session.send`."""
        asked = self._session.send(content, model=model, parent=parent, on_busy=on_busy, **more)
        return SyncStream(self._thread, self._thread.call(asked))

    def edit(self, message: str, content: str | Sequence[Frame], **more: Any) -> SyncStream:
        """As `Session.edit`."""
        return SyncStream(self._thread, self._thread.call(self._session.edit(message, content, **more)))

    def regenerate(self, message: str, **more: Any) -> SyncStream:
        """As `Session.regenerate`."""
        return SyncStream(self._thread, self._thread.call(self._session.regenerate(message, **more)))

    def stream(self, stream_id: str) -> SyncStream:
        """As `Session.stream`.  Of one stream, one SyncStream should be read."""
        return SyncStream(self._thread, self._thread.call(self._session.stream(stream_id)))

    def cancel(self) -> list[Frame]:
        """Stop what runs, from any thread.  Returns the fences."""
        return self._thread.call(self._session.cancel())

    def call(self, ask: Callable[[Session], Coroutine[Any, Any, T]]) -> T:
        """Ask anything else of the session: `session.call(lambda s: s.add_member("bob", "viewer"))`."""
        return self._thread.call(ask(self._session))

    def events(self) -> Iterator[Frame]:
        """As `Session.events`; it may be left and taken up again."""
        if self._events is None:
            self._events = self._thread.iterate(self._session.events())
        return iter(self._events)

    def close(self) -> None:
        """Read it no longer.  What runs goes on.  Idempotent."""
        self._thread.call(self._session.close())


class SyncClient:
    """As `Client`, with the same arguments.  `on_state`, and a `token` that is a function, run in the client's thread,
    and must not call the client.

    Use it in a `with`, or `open` and `close` it.  Closing ends waits in other threads with ConnectionError.
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
        self._client = Client(
            url, token, encoding, on_state=on_state, backoff=backoff, connect_timeout_s=connect_timeout_s
        )
        self._opened: _Thread | None = None

    @property
    def url(self) -> str:
        return self._client.url

    @property
    def link_state(self) -> LinkState:
        return self._client.link_state

    @property
    def welcome(self) -> Frame:
        """The server's last `welcome`: node, user, limits."""
        return self._client.welcome

    def open(self) -> Self:
        """Connect.  Raises as `Client` does, and RuntimeError the second time: a closed client stays closed."""
        if self._opened is not None:
            raise RuntimeError("a client is opened once")
        self._opened = _Thread()
        try:
            self._opened.call(self._client.__aenter__())
        except BaseException:
            self.close()
            raise
        return self

    def close(self) -> None:
        """Leave, and end the thread.  Generations go on without this client.  Idempotent."""
        if self._opened is not None:
            with contextlib.suppress(ConnectionError):  # closed before
                self._opened.call(self._client.aclose())
            self._opened.close()

    def __enter__(self) -> Self:
        return self.open()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def generate(
        self,
        model: str,
        messages: str | Sequence[Frame],
        *,
        params: Frame | None = None,
        budget: Frame | None = None,
        request_id: str | None = None,
        **more: Any,
    ) -> SyncStream:
        """As `Client.generate`."""
        asked = self._client.generate(model, messages, params=params, budget=budget, request_id=request_id, **more)
        return self._stream(asked)

    def subscribe(self, stream: str | Position, /, epoch: int | None = None, offset: int | None = None) -> SyncStream:
        """As `Client.subscribe`.  Of one stream, one SyncStream should be read."""
        return self._stream(self._client.subscribe(stream, epoch, offset))

    def create_session(self, **fields: Any) -> SyncSession:
        """As `Client.create_session`."""
        return self._session(self._client.create_session(**fields))

    def open_session(self, place: str | Mapping[str, Any], *, history: int = 50) -> SyncSession:
        """As `Client.open_session`."""
        return self._session(self._client.open_session(place, history=history))

    def sessions(self, *, limit: int = 50) -> Iterator[Frame]:
        """As `Client.sessions`."""
        return iter(self._thread.iterate(self._client.sessions(limit=limit)))

    def models(self) -> list[Frame]:
        """The models on offer, as the protocol has them.  Raises EverstreamError."""
        return self._thread.call(self._client.models())

    def ping(self) -> float:
        """The seconds from here to the server and back, reconnections included."""
        return self._thread.call(self._client.ping())

    def authenticate(self, token: str | None = None) -> None:
        """As `Client.authenticate`."""
        self._thread.call(self._client.authenticate(token))

    def _stream(self, asked: Coroutine[Any, Any, Stream]) -> SyncStream:
        return SyncStream(*self._asked(asked))

    def _session(self, asked: Coroutine[Any, Any, Session]) -> SyncSession:
        return SyncSession(*self._asked(asked))

    def _asked(self, asked: Coroutine[Any, Any, T]) -> tuple[_Thread, T]:
        try:
            thread = self._thread
        except ConnectionError:
            asked.close()
            raise
        return thread, thread.call(asked)

    @property
    def _thread(self) -> _Thread:
        if self._opened is None:
            raise ConnectionError("the client is not open: use it in a `with`")
        return self._opened


async def _result(stream: Stream, timeout_s: float | None) -> Result:
    async with asyncio.timeout(timeout_s):
        return await stream.result()
