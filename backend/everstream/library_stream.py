"""One stream as a program reads it: typed events, in order, from a node in the same process.

    relay ─▶ log ─▶ committer ──advanced──▶ Tap.wake ──▶ whoever waits in `Stream.__anext__`

It reads as every reader does, by a cursor on the log: what it does not read waits in the log and nowhere else.  The
`Tap` is what the node knows of a reader; it notes when content arrives, however late that is read.  The `Stream` is
what the program holds.  The node does not know it, so that a stream nobody holds any more is seen to be dropped, and
is cancelled: nobody pays for an answer that nobody can read.
"""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import time
from collections.abc import Awaitable, Callable, Coroutine, Generator
from types import TracebackType
from typing import Any, Protocol, Self

import structlog

from everstream.core.errors import EverstreamError
from everstream.core.events import CONTENT, ErrorInfo, Event, Metrics, Request, StreamEnd, Usage
from everstream.core.gaps import Gaps
from everstream.core.log import Position
from everstream.library_result import Result, StreamMetrics, metrics_of, result_of
from everstream.runtime.hub import Feed

logger = structlog.get_logger(__name__)

CANCEL_LOOK_S = 0.01  # between two looks at a cancel flag that cannot be waited for
CLOSE_S = 3.0  # for a stream that was cancelled to end; a provider has a second, the store of this process needs none
CLOSE_LOOK_S = 0.05  # between two looks whether there is still anybody who could end it
_FROM_THE_START = Position(0, 0)

OnEvent = Callable[[Event], Any]


class Callback:
    """The `on_event` of one stream.  What it raises breaks nothing; the first is logged, for there may be thousands."""

    def __init__(self, on_event: OnEvent) -> None:
        self._on_event = on_event
        self._failed = False

    def tell(self, event: Event) -> Coroutine[Any, Any, None] | None:
        """Call it; what is to be awaited, where it is asynchronous."""
        try:
            told = self._on_event(event)
        except Exception:
            self._complain(event)
            return None
        return self._awaited(told, event) if inspect.isawaitable(told) else None

    async def _awaited(self, told: Awaitable[Any], event: Event) -> None:
        try:
            await told
        except Exception:
            self._complain(event)

    def _complain(self, event: Event) -> None:
        if not self._failed:
            self._failed = True
            logger.exception("a function that is told of events failed", type=event.type)


class CancelFlag(Protocol):
    """`asyncio.Event`, `threading.Event`, or whatever else can be looked at."""

    def is_set(self) -> bool: ...


class Tap:
    """A node's reader for one stream (see `runtime.hub.Reader`)."""

    __slots__ = ("_noted", "_on_end", "_waiter", "_watch", "cursor", "feed", "gaps")

    def __init__(self, feed: Feed, on_end: Callable[[], None]) -> None:
        """`on_end` is called when the stream has ended, or is read no more."""
        self.feed = feed
        self.gaps = Gaps()
        self._noted = 0
        self._on_end: Callable[[], None] | None = on_end
        self._waiter: asyncio.Future[None] | None = None
        self._watch: asyncio.Task[None] | None = None
        self.cursor = feed.attach(self, _FROM_THE_START)

    def wake(self, feed: Feed) -> None:
        """More is there.  Contract: `runtime.hub.Reader`."""
        log = feed.log
        upto = log.committed
        came = sum(isinstance(entry, CONTENT) for entry in log.slice(self._noted, upto))
        self._noted = upto
        if came:
            self.gaps.arrived(time.monotonic(), came)
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)
        if log.ended:
            asyncio.get_running_loop().call_soon(self.leave)  # not now: the feed is in the middle of waking readers

    def take(self) -> list[Event]:
        """What came since the last time."""
        log, after = self.feed.log, self.cursor.offset
        self.cursor.offset = log.committed
        return log.slice(after, log.committed)

    async def more(self) -> None:
        """Wait until there is something to take."""
        while not self.cursor.lag(self.feed.log):
            waiter = self._waiter = asyncio.get_running_loop().create_future()
            try:
                await waiter
            finally:
                self._waiter = None

    async def ended(self) -> None:
        """Wait until the stream has ended, or nobody is left to end it: where the loop ends, its tasks are gone."""
        feed = self.feed
        while not feed.log.settled and (feed.log.closed or feed.relay is not None):
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(CLOSE_LOOK_S):
                    await feed.wait_ended()

    def cancel(self) -> None:
        if self.feed.relay is not None:
            self.feed.relay.cancel()

    def watch(self, flag: CancelFlag) -> None:
        """Cancel as soon as `flag` is set."""
        if flag.is_set():
            self.cancel()
        elif self._on_end is not None:
            self._watch = asyncio.create_task(self._obey(flag), name=f"watch over {self.feed.stream}")

    async def _obey(self, flag: CancelFlag) -> None:
        if isinstance(flag, asyncio.Event):
            await flag.wait()
        else:
            while not flag.is_set():
                await asyncio.sleep(CANCEL_LOOK_S)
        self.cancel()

    def leave(self) -> None:
        """Read no more of what comes; what has come can still be taken."""
        if self._watch is not None:
            self._watch.cancel()
        self.feed.detach(self)
        if self._on_end is not None:
            self._on_end()
            self._on_end = None


Begin = Callable[[Request], Awaitable[Tap]]


class Stream:
    """A request, and the events that come of it: iterate it once, with `async for`.  It begins with the first step, or
    with `async with`, which ends it as well: what still runs when the block is left is cancelled.

    Nothing that goes wrong with the answer is raised: the last event is `StreamEnd`, with an `error`, and `result`
    keeps what was said before.  `on_event` is called (and awaited, where it is asynchronous) with each event before it
    is given out; an exception of it is logged.  A stream is used in the loop in which it began; only `cancel` may be
    called from elsewhere.
    """

    def __init__(
        self,
        request: Request,
        begin: Begin,
        *,
        cancel: CancelFlag | None = None,
        on_event: OnEvent | None = None,
    ) -> None:
        """`begin` has a node run the request, and reads it.  It may raise EverstreamError: that is the answer then."""
        self.request = request
        self._begin = begin
        self._flag = cancel
        self._on_event = None if on_event is None else Callback(on_event)
        self._tap: Tap | None = None
        self._refused: StreamEnd | None = None  # it could not even begin
        self._cancelled = False  # before it began
        self._loop: asyncio.AbstractEventLoop | None = None
        self._events: list[Event] = []  # taken, the first of them to be given out next
        self._given = 0
        self._started_at = 0.0
        self._over = False

    # ------------------------------------------------------------------ reading

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Event:
        while self._given >= len(self._events):
            if self._over:
                raise StopAsyncIteration
            await self._more()
        event = self._events[self._given]
        self._given += 1
        if isinstance(event, StreamEnd):
            self._over = True
        if self._on_event is not None and (telling := self._on_event.tell(event)) is not None:
            await telling
        return event

    async def _more(self) -> None:
        if self._loop is None:
            await self.start()
        if self._tap is None:
            self._events = [self._refused] if self._refused is not None else []
        else:
            await self._tap.more()
            self._events = self._tap.take()
        self._given = 0

    # ------------------------------------------------------------------ begin and end

    async def start(self) -> None:
        """Send the request, if that is not done yet.  `async for` and `async with` do this."""
        if self._loop is not None:
            return
        self._loop = asyncio.get_running_loop()
        self._started_at = time.monotonic()
        try:
            self._tap = await self._begin(self.request)
        except EverstreamError as error:
            self._refused = _refusal(error)
            return
        if self._cancelled:
            self._tap.cancel()
        elif self._flag is not None:
            self._tap.watch(self._flag)

    def cancel(self) -> Ending:
        """Stop: the provider's connection closes, and the events end with a `StreamEnd` that says so.

        May be called at any time, from any thread, and more than once.  What it returns may be awaited, in the
        stream's loop, for the result.
        """
        self._cancelled = True
        if self._tap is not None and self._loop is not None:
            _in_loop(self._loop, self._tap.cancel)
        return Ending(self)

    async def aclose(self) -> None:
        """Cancel it, if it runs, and wait until it has ended.  Idempotent."""
        self.cancel()
        if self._tap is not None:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(CLOSE_S):
                    await self._tap.ended()
            self._tap.leave()

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        await self.aclose()

    def __del__(self) -> None:
        tap, loop = getattr(self, "_tap", None), getattr(self, "_loop", None)
        if tap is not None and loop is not None and not tap.feed.log.closed:
            with contextlib.suppress(RuntimeError):  # the loop is closed, and nothing runs in it any more
                loop.call_soon_threadsafe(tap.cancel)

    # ------------------------------------------------------------------ what it comes to

    @property
    def result(self) -> Result:
        """What has come so far, read or not; everything, where the stream has ended."""
        return result_of(self._entries(), self.request.model, self.metrics)

    @property
    def metrics(self) -> StreamMetrics:
        elapsed_s = time.monotonic() - self._started_at if self._loop is not None else 0.0
        gaps = self._tap.gaps if self._tap is not None else Gaps()
        return metrics_of(self._entries(), gaps, elapsed_s)

    def _entries(self) -> list[Event]:
        if self._tap is not None:
            log = self._tap.feed.log
            return log.slice(log.base, log.committed)
        return [self._refused] if self._refused is not None else []


class Ending:
    """Awaited, it is the result of a stream that was told to stop, once that has ended."""

    def __init__(self, stream: Stream) -> None:
        self._stream = stream

    def __await__(self) -> Generator[Any, None, Result]:
        return self._ended().__await__()

    async def _ended(self) -> Result:
        await self._stream.aclose()
        return self._stream.result


def _in_loop(loop: asyncio.AbstractEventLoop, act: Callable[[], None]) -> None:
    """Do it now, where this is the loop's own thread, or have the loop do it."""
    try:
        here = asyncio.get_running_loop() is loop
    except RuntimeError:
        here = False
    if here:
        act()
    else:
        with contextlib.suppress(RuntimeError):  # the loop is closed
            loop.call_soon_threadsafe(act)


def _refusal(error: EverstreamError) -> StreamEnd:
    """The only event of a request that was refused before anything was sent."""
    return StreamEnd(
        reason="failed",
        finish_reason=None,
        usage=Usage(0, 0, 0, "estimated"),
        cost=None,
        metrics=Metrics(ttft_ms=None, stream_ms=None, total_ms=0.0, tokens_per_s=None),
        error=ErrorInfo(error.code, error.message, error.retryable, error.retry_after_ms),
        warnings=[],
    )
