"""A thread with an event loop of its own: how plain functions use what is asynchronous.

    caller's thread                              the portal's thread
    call(work) ───────── call_soon_threadsafe ──▶ a task runs `work`
        waits on a future ◀────────────────────── its outcome
    for item in iterate(source)  ◀── a queue ──── a task runs `async for`, and stops reading where nobody takes

It works in whatever thread it is called, one that runs an event loop (a notebook's) included: that loop stands still
meanwhile, as with any plain function.  What runs in the portal must not call it, for it would wait for itself.

An interrupt (Ctrl-C) of a caller that waits cancels what it waited for, and lets it clean up, before it goes on.
The thread is a daemon: a portal that nobody closed does not keep a program from ending, but what runs in it then ends
unasked.  A process that forked has no thread behind its copy: `alive` says so.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import threading
from collections.abc import AsyncIterator, Coroutine
from concurrent import futures
from queue import SimpleQueue
from types import TracebackType
from typing import Any, Generic, Self, TypeVar

ITEMS_WAITING_MAX = 1024  # of one iteration, for whoever takes them
CLEAN_UP_S = 10.0  # what was cancelled may take so long to end before its caller goes on

T = TypeVar("T")


class Portal:
    """Open from its making until `close`.  Its methods may be called from any thread but its own."""

    def __init__(self, name: str = "everstream portal") -> None:
        self._begun: futures.Future[tuple[asyncio.AbstractEventLoop, asyncio.Event]] = futures.Future()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()
        self._loop, self._over = self._begun.result()

    @property
    def alive(self) -> bool:
        return self._thread.is_alive() and not self._over.is_set()

    @property
    def inside(self) -> bool:
        """Whether the caller runs in the portal's own thread."""
        return threading.current_thread() is self._thread

    def call(self, work: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine in the portal; its result, or what it raises.

        Raises RuntimeError where the portal is closed, or is closed before the work is done, and where it is called
        from within.
        """
        try:
            self._check()
        except RuntimeError:
            work.close()
            raise
        task = _Task(self._loop, work)
        try:
            task.begin()
            return task.outcome.result()
        except BaseException:
            if not task.outcome.done():  # it is the caller that was interrupted
                task.end()
            raise

    def iterate(self, source: AsyncIterator[T]) -> Iteration[T]:
        """What an asynchronous iterator gives, in order.  It is read ahead by `ITEMS_WAITING_MAX` at most.

        Raises as `call` does; what the source raises is raised behind its last item.
        """
        self._check()
        return Iteration(self, self._loop, source)

    def close(self) -> None:
        """Cancel what still runs, close the loop as `asyncio.run` does, and end the thread.  Idempotent."""
        if self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._over.set)
            if not self.inside:
                self._thread.join()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def _check(self) -> None:
        if self.inside:
            raise RuntimeError("a plain function would wait for its own thread: await its asynchronous twin instead")
        if not self.alive:
            raise RuntimeError("the portal is closed")

    def _run(self) -> None:
        try:
            asyncio.run(self._serve())
        except BaseException as error:
            if self._begun.done():
                raise
            self._begun.set_exception(error)

    async def _serve(self) -> None:
        over = asyncio.Event()
        self._begun.set_result((asyncio.get_running_loop(), over))
        await over.wait()


class _Task(Generic[T]):
    """Work in a portal as its caller sees it, with the caller's context variables."""

    def __init__(self, loop: asyncio.AbstractEventLoop, work: Coroutine[Any, Any, T]) -> None:
        self.outcome: futures.Future[T] = futures.Future()
        self._loop = loop
        self._work = work
        self._task: asyncio.Task[T] | None = None

    def begin(self) -> None:
        """Raises RuntimeError where the loop has just been closed."""
        try:
            self._loop.call_soon_threadsafe(self._begin, context=contextvars.copy_context())
        except RuntimeError:
            self._work.close()
            self.outcome.set_exception(RuntimeError("the portal is closed"))
            raise RuntimeError("the portal is closed") from None

    def cancel(self) -> None:
        """Ask it to end.  Does not wait; may be called from any thread, the garbage collector's turn included."""
        with contextlib.suppress(RuntimeError):  # the loop is closed, and has cancelled it
            self._loop.call_soon_threadsafe(self._stop)

    def end(self) -> None:
        """Have it end, and wait for that, for at most CLEAN_UP_S."""
        self.cancel()
        futures.wait([self.outcome], CLEAN_UP_S)

    def _begin(self) -> None:
        self._task = self._loop.create_task(self._work)
        self._task.add_done_callback(self._settle)

    def _stop(self) -> None:
        if self._task is not None:
            self._task.cancel()

    def _settle(self, task: asyncio.Task[T]) -> None:
        if task.cancelled():
            self.outcome.set_exception(RuntimeError("the portal was closed before this was done"))
        elif (error := task.exception()) is not None:
            self.outcome.set_exception(error)
        else:
            self.outcome.set_result(task.result())


class _End:
    """Behind the last item: what the source raised, if it did."""

    __slots__ = ("error",)

    def __init__(self, error: BaseException | None) -> None:
        self.error = error


class _Feed(Generic[T]):
    """The portal's side of an iteration.  It does not know the caller's side, which may be dropped at any time."""

    def __init__(self, source: AsyncIterator[T]) -> None:
        self.items: SimpleQueue[T | _End] = SimpleQueue()
        self.full = False  # the reading stands still until half has been taken
        self.room = asyncio.Event()
        self._source = source

    async def run(self) -> None:
        error: BaseException | None = None
        try:
            async for item in self._source:
                self.items.put(item)
                if self.items.qsize() >= ITEMS_WAITING_MAX:
                    await self._wait()
        except asyncio.CancelledError:
            error = RuntimeError("the portal was closed before this was done")
            raise
        except BaseException as raised:
            error = raised
        finally:
            aclose = getattr(self._source, "aclose", None)
            try:
                if aclose is not None:
                    await aclose()
            finally:
                self.items.put(_End(error))

    async def _wait(self) -> None:
        self.room.clear()
        self.full = True  # before the look: whoever takes looks at it after taking
        if self.items.qsize() > ITEMS_WAITING_MAX // 2:
            await self.room.wait()
        self.full = False


class Iteration(Generic[T]):
    """An iterator over what runs in a portal; one thread takes from it.  Dropping it ends what it reads from."""

    def __init__(self, portal: Portal, loop: asyncio.AbstractEventLoop, source: AsyncIterator[T]) -> None:
        self._portal = portal
        self._loop = loop
        self._feed = _Feed(source)
        self._done = False
        self._task = _Task(loop, self._feed.run())
        self._task.begin()

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> T:
        if self._done:
            raise StopIteration
        item = self._feed.items.get()
        if isinstance(item, _End):
            self._done = True
            if item.error is not None:
                raise item.error
            raise StopIteration
        if self._feed.full and self._feed.items.qsize() <= ITEMS_WAITING_MAX // 2:
            self._loop.call_soon_threadsafe(self._feed.room.set)
        return item

    def close(self) -> None:
        """Stop reading: the source is cancelled and closed, which is waited for.  Idempotent."""
        self._done = True
        if self._portal.inside:
            self._task.cancel()
        elif not self._task.outcome.done():
            self._task.end()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def __del__(self) -> None:
        if not self._done:
            self._task.cancel()
