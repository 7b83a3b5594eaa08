"""Everstream in a program, without a server: ask a model, get typed events, text, or a whole result.

    stream ──────────────────▶ Stream: events, as they come          (a loop runs: `async for`)
    run_async, start_async ──▶ Result                                 (the second prints meanwhile)
    iter_stream ─────────────▶ TextStream: text, as it comes          (plain functions, in any thread)
    run, start ──────────────▶ Result

All of them lead to an `Engine`, the implicit one of the event loop.  Plain functions share one loop, in a thread of
their own (`portal`) that begins with the first of them and ends with the program, or with `close`.
"""

from __future__ import annotations

import asyncio
import atexit
import os
import sys
import threading
from collections.abc import Mapping
from types import TracebackType
from typing import Any, Self, TextIO

from everstream.core.events import Budget, DeltaText, Event, Request, Seam, StreamEnd
from everstream.library_engine import GivenSettings, Messages, close_implicit, implicit_engine, request_of
from everstream.library_result import Result, StreamMetrics, raised
from everstream.library_stream import Callback, CancelFlag, OnEvent, Stream, Tap
from everstream.portal import Portal

# --------------------------------------------------------------------------- where a loop runs


def stream(
    model: str,
    messages: Messages,
    *,
    system: str | None = None,
    max_tokens: int | None = None,
    budget: Budget | Mapping[str, Any] | None = None,
    cancel: CancelFlag | None = None,
    on_event: OnEvent | None = None,
    settings: GivenSettings | None = None,
    **params: Any,
) -> Stream:
    """Ask a model; the events of its answer, for `async for`.

    `model` is `provider/name`.  `messages` is what a user says, or the whole conversation as dicts or `Message`s.
    `params` are those of the protocol (`temperature`, `tools`, `thinking`, …) and whatever else the provider knows.
    `budget` bounds `output_tokens` and `usd`.  Setting `cancel` (an `asyncio.Event`, a `threading.Event`) cancels the
    stream.  `on_event` is told of each event before it is given out.  `settings` are those of the environment and of
    `everstream.toml` where they are None.

    Raises EverstreamError `request.invalid` for what cannot be a request.  Nothing that goes wrong later is raised: the
    last event is a `StreamEnd` with an `error`.
    """
    request = request_of(model, messages, params | {"system": system, "max_tokens": max_tokens}, budget)

    async def begin(asked: Request) -> Tap:
        return await (await implicit_engine(settings)).begin(asked)

    return Stream(request, begin, cancel=cancel, on_event=on_event)


async def run_async(model: str, messages: Messages, **rest: Any) -> Result:
    """Ask a model and wait for the whole answer.  Takes what `stream` takes, and raises as little."""
    async with stream(model, messages, **rest) as events:
        async for _ in events:
            pass
    return events.result


async def start_async(model: str, messages: Messages, *, file: TextIO | None = None, **rest: Any) -> Result:
    """Ask a model and print its text as it comes.  Takes what `stream` takes; `file` None is `sys.stdout`."""
    page = _Page(file)
    async with stream(model, messages, **rest) as events:
        async for event in events:
            page.show(event)
    return events.result


async def aclose() -> None:
    """Close what this loop's requests have opened, now and not with the loop.  A later request opens it again."""
    await close_implicit()


# --------------------------------------------------------------------------- plain functions


class TextStream:
    """The text of an answer, piece by piece, as it comes.  Closing or dropping it cancels the stream.

    Where the stream fails, EverstreamError is raised behind the last piece, so that a part is never taken for the
    whole; `result` has what was said before it, too.
    """

    def __init__(self, events: Stream, on_event: OnEvent | None = None) -> None:
        self._portal = _portal()
        self._stream = events
        self._on_event = None if on_event is None else Callback(on_event)
        self._iteration = self._portal.iterate(events)

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> str:
        for event in self._iteration:
            self._tell(event)
            if isinstance(event, DeltaText):
                return event.text
            if isinstance(event, StreamEnd) and event.error is not None:
                self.close()
                raise raised(event.error)
        raise StopIteration

    @property
    def result(self) -> Result:
        """What has come so far; everything, after the last piece."""
        return self._stream.result

    @property
    def metrics(self) -> StreamMetrics:
        return self._stream.metrics

    def cancel(self) -> None:
        """Stop: the provider's connection closes, and what has come already is given out."""
        self._stream.cancel()

    def close(self) -> None:
        """Cancel it, if it runs, and wait until it has ended.  Idempotent."""
        self._iteration.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def events(self, page: _Page | None = None) -> Result:
        """Read to the end, whatever that is; the result."""
        with self:
            for event in self._iteration:
                self._tell(event)
                if page is not None:
                    page.show(event)
        return self.result

    def _tell(self, event: Event) -> None:
        if self._on_event is not None and (telling := self._on_event.tell(event)) is not None:
            self._portal.call(telling)


def iter_stream(
    model: str,
    messages: Messages,
    *,
    cancel: CancelFlag | None = None,
    on_event: OnEvent | None = None,
    **rest: Any,
) -> TextStream:
    """Ask a model; its text, for `for`.  Takes what `stream` takes.

    `on_event` is called in the thread that iterates; where it is asynchronous it runs in the library's own.
    """
    return TextStream(stream(model, messages, cancel=_looked_at(cancel), **rest), on_event)


def run(model: str, messages: Messages, **rest: Any) -> Result:
    """Ask a model and wait for the whole answer.  Takes what `stream` takes, and raises as little."""
    return iter_stream(model, messages, **rest).events()


def start(model: str, messages: Messages, *, file: TextIO | None = None, **rest: Any) -> Result:
    """Ask a model and print its text as it comes.  Takes what `stream` takes; `file` None is `sys.stdout`."""
    return iter_stream(model, messages, **rest).events(_Page(file))


def close() -> None:
    """Close what the plain functions have opened, their thread included.  A later call opens it again."""
    global _shared
    with _sharing:
        portal, _shared = _shared, None
    if portal is not None:
        portal.close()


_shared: Portal | None = None
_sharing = threading.Lock()


def _portal() -> Portal:
    """The loop of all plain functions."""
    global _shared
    with _sharing:
        if _shared is None or not _shared.alive:  # none yet, or this process was forked from the one that had it
            _shared = Portal("everstream")
        return _shared


def _after_fork() -> None:
    global _sharing
    _sharing = threading.Lock()  # another thread may have held it when the process was copied


atexit.register(close)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


class _LookedAt:
    """A flag of whatever kind, as one that is looked at now and then: it belongs to another thread."""

    def __init__(self, flag: CancelFlag) -> None:
        self._flag = flag

    def is_set(self) -> bool:
        return self._flag.is_set()


def _looked_at(flag: CancelFlag | None) -> CancelFlag | None:
    return _LookedAt(flag) if isinstance(flag, asyncio.Event) else flag


class _Page:
    """Where an answer is printed: its text to `file`, and why there is no more of it to standard error."""

    def __init__(self, file: TextIO | None) -> None:
        self._file = sys.stdout if file is None else file
        self._last = "\n"

    def show(self, event: Event) -> None:
        if isinstance(event, DeltaText):
            self._write(event.text)
        elif isinstance(event, Seam) and event.continuation == "restart":
            self._end_line()  # what was shown does not count any more: the answer begins anew
        elif isinstance(event, StreamEnd):
            self._end_line()
            if event.error is not None:
                print(f"everstream: {event.error.code}: {event.error.message}", file=sys.stderr)

    def _write(self, text: str) -> None:
        if text:
            self._file.write(text)
            self._file.flush()
            self._last = text[-1]

    def _end_line(self) -> None:
        if self._last != "\n":
            self._write("\n")
