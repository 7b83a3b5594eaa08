"""A developer's own function as a model: the provider `app`.

    relay ──pour──▶ a task that runs the function ──says──▶ function_stream.Outbox ──▶ relay

The function runs in a task of its own, from its first line to the end of its `finally`: what it keeps by context
stays, and it learns that it is cancelled before its task is.  One that is not asynchronous runs in a thread.

How an answer is taken up that broke off is for the developer to declare, since only he knows:

    exact, prefill, prompted   the function reads `resume_from`, and says what follows; the label is his word
    replay                     the same request gives the same answer: run again, compared with what is shown; `exact`
    restart                    run again, where nothing of the text was shown
    none                       never run twice

Where nothing at all was shown, running it again is what all but the last amount to, and what it is called.
"""

from __future__ import annotations

import asyncio
import contextlib
import difflib
import inspect
import re
import time
from collections.abc import AsyncGenerator, AsyncIterable, Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import structlog

from everstream.core.events import Continuation, Finish, HeadersReceived, Mark, Request, Resumed
from everstream.providers.base import Batch, ModelInfo, Progress, ProviderError, Sink
from everstream.providers.function_stream import EVENTS, ModelStream, Outbox, Replayed, Saved, resume_of
from everstream.providers.function_thread import Threads

logger = structlog.get_logger(__name__)

PROVIDER = "app"
THREADS_MAX = 64  # functions that are not asynchronous, at a time
LET_GO_S = 5.0  # after which a function that does not stop is left to itself
BATCHES_WAITING_MAX = 16  # of a `generate` that is not asked for the next

# It is given the request and the stream; what it yields, or returns, is the answer.
Function = Callable[[Request, ModelStream], Any]
Declared = Literal["exact", "prefill", "prompted", "replay", "restart", "none"]
DECLARED: tuple[Declared, ...] = ("exact", "prefill", "prompted", "replay", "restart", "none")
_READS_RESUME = ("exact", "prefill", "prompted")
_LABELS: dict[Declared, Continuation | None] = {
    "exact": "exact",
    "prefill": "prefill",
    "prompted": "prompted",
    "replay": "exact",
    "restart": "restart",
    "none": None,
}
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:-]{0,63}")
_END = object()


@dataclass(frozen=True, slots=True)
class Model:
    """A registered function, and what was declared of it."""

    function: Function
    continuation: Declared = "restart"
    thinking: bool | None = None
    tools: bool | None = None
    images: bool | None = None


class Models(dict[str, Model]):
    """The functions of one application, by name."""

    def add(self, name: str, model: Model) -> None:
        """Raises ValueError for a name or a continuation that cannot be, TypeError for what cannot be called."""
        if not isinstance(name, str) or not _NAME.fullmatch(name):
            raise ValueError(f"{name!r} is no name for a model: 1 to 64 letters, digits and . _ : - are wanted")
        if name in self:
            raise ValueError(f"there is a model {name!r} already")
        if model.continuation not in DECLARED:
            raise ValueError(f"continuation must be one of {', '.join(DECLARED)}, not {model.continuation!r}")
        if not callable(model.function):
            raise TypeError(f"the model {name!r} must be a function of the request and the stream")
        with contextlib.suppress(ValueError):  # some callables have no signature to be looked at
            try:
                inspect.signature(model.function).bind(None, None)
            except TypeError:
                raise TypeError(f"the model {name!r} must take two arguments: the request and the stream") from None
        self[name] = model


class FunctionProvider:
    """The provider `app`.  `models` may grow while it works."""

    name = PROVIDER

    def __init__(self, models: Mapping[str, Model]) -> None:
        self._models = models
        self._threads = Threads(THREADS_MAX)
        self._left: set[asyncio.Task[None]] = set()  # functions that did not stop when they were told to

    async def models(self) -> list[ModelInfo]:
        return [
            ModelInfo(
                f"{PROVIDER}/{name}",
                usable=True,
                continuation=_LABELS[model.continuation],
                thinking=model.thinking,
                tools=model.tools,
                images=model.images,
            )
            for name, model in self._models.items()
        ]

    async def prepare(self) -> None:
        """There is nothing to prepare."""

    def check(self, request: Request) -> None:
        """Raises ProviderError `model.unknown`."""
        self._model(request)

    def _model(self, request: Request) -> Model:
        model = self._models.get(request.model_name)
        if model is None:
            near = difflib.get_close_matches(request.model_name[:64], self._models, n=1)
            hint = f"; did you mean {near[0]}?" if near else f"; it has {', '.join(self._models) or 'none'}"
            raise ProviderError("model.unknown", f"this application has no model {request.model_name[:64]}{hint}")
        return model

    def continuation(self, request: Request, progress: Progress) -> Continuation | None:
        declared = self._model(request).continuation
        if declared == "none":
            return None
        if not progress.shows_content:
            return "restart"
        if declared == "restart" and (progress.text or progress.refusal):
            return None
        return _LABELS[declared]

    async def abandon(self, request: Request, progress: Progress) -> None:
        """A function that nobody listens to has stopped."""

    async def aclose(self) -> None:
        for task in self._left:
            task.cancel()

    async def generate(self, request: Request, progress: Progress | None = None) -> AsyncGenerator[Batch, None]:
        """As `pour`, for who would rather ask.  Contract: `base.Provider`."""
        queue = _Queue()
        pouring = asyncio.create_task(self.pour(request, progress, queue), name=f"generate {request.model}")
        pouring.add_done_callback(lambda _: queue.batches.put_nowait(None))
        try:
            while (batch := await queue.batches.get()) is not None:
                queue.taken()
                yield batch
            await pouring
        finally:
            pouring.cancel()
            await asyncio.wait((pouring,))
            _seen(pouring)

    async def pour(self, request: Request, progress: Progress | None, sink: Sink) -> None:
        """Run the function.  Raises what it raises, and ProviderError where it cannot be carried on.

        Cancelling this sets `stream.cancelled`, then cancels the function and waits for its clean-up.
        """
        model = self._model(request)
        recital = Recital(request, model, progress, self.continuation(request, progress) if progress else None, sink)
        task = asyncio.create_task(recital.run(self._threads), name=f"function {request.model}")
        recital.outbox_failed = task.cancel
        try:
            await asyncio.wait((task,))
        except asyncio.CancelledError:
            await self._stop(recital, task)
            raise
        finally:
            recital.outbox.close()
        recital.judge(task)

    async def _stop(self, recital: Recital, task: asyncio.Task[None]) -> None:
        recital.stream.cancelled.set()
        recital.outbox.close()
        task.cancel()
        try:
            await asyncio.wait((task,), timeout=LET_GO_S)
        finally:
            if not task.done():
                logger.warning("a model's function does not stop", model=recital.stream.model)
                self._left.add(task)
                task.add_done_callback(self._left.discard)
            task.add_done_callback(_seen)


class Recital:
    """One run of a function."""

    def __init__(
        self, request: Request, model: Model, progress: Progress | None, how: Continuation | None, sink: Sink
    ) -> None:
        """`how`: in which way it is carried on.  Raises ProviderError where it is, and cannot be."""
        if progress is not None and how is None:
            raise ProviderError("provider.connection", f"{request.model} is not run twice", retryable=False)
        replays = how == "exact" and model.continuation == "replay"
        reads = how in _READS_RESUME and not replays
        saved = Saved.of(progress, request.model) if progress is not None and reads else None
        self._request = request
        self._function = model.function
        self._opening = _opening(how, replays=replays, saved=saved)
        self.outbox_failed: Callable[[], Any] = lambda: None
        self.outbox = Outbox(sink, Replayed(progress) if replays and progress else None, lambda: self.outbox_failed())
        self.stream = ModelStream(
            request.model,
            self.outbox,
            resume_of(progress, saved) if progress is not None and reads else None,
            keeps=model.continuation in _READS_RESUME,
            mark_of_call=len(request.messages),
        )

    async def run(self, threads: Threads) -> None:
        """From the first word to the last."""
        self.outbox.give(self._opening)
        try:
            await self._recite(threads)
        except (SystemExit, KeyboardInterrupt) as error:  # which would end the server
            raise RuntimeError(f"a model's function raised {type(error).__name__}") from error
        self.outbox.flush()
        end = self.outbox.finish
        reason = end.finish_reason or ("tool_calls" if self.stream.calls_tools else "stop")
        self.outbox.give((Finish(reason, end.usage, end.warnings),))

    async def _recite(self, threads: Threads) -> None:
        function = self._function
        if _asynchronous(function):
            await self._follow(function(self._request, self.stream))
            return
        attending = asyncio.create_task(self.outbox.attend(), name=f"attend {self.stream.model}")
        try:
            rest = await threads.run(self._in_thread, f"function {self.stream.model}")
        finally:
            attending.cancel()
        await self._follow(rest)

    def _in_thread(self) -> Any:
        """Call a plain function, and say what it returns; what turns out to be asynchronous is returned."""
        result = self._function(self._request, self.stream)
        if not isinstance(result, Iterator | list | tuple):
            return result
        try:
            for item in result:
                self._say(item)
                if not self.outbox.open:
                    break
        finally:
            close = getattr(result, "close", None)
            if close is not None:
                close()
        return None

    async def _follow(self, result: Any) -> None:
        """Say what an asynchronous function gives: words as they come, or all at once."""
        if inspect.isawaitable(result):
            result = await result
        if not isinstance(result, AsyncIterable):
            if result is not None:
                self._say(result)
            return
        words = aiter(result)
        try:
            async for item in words:
                self._say(item)
                if self.outbox.crowded:
                    await self.outbox.drain()
        finally:
            close = getattr(words, "aclose", None)
            if close is not None:
                await close()

    def _say(self, item: Any) -> None:
        if isinstance(item, str):
            self.stream.text(item)
        elif isinstance(item, EVENTS):
            self.stream.event(item)
        else:
            kind = type(item).__name__
            raise TypeError(
                f"{self.stream.model} said a {kind}: text (str) is wanted, or an event such as DeltaThinking"
            )

    def judge(self, task: asyncio.Task[None]) -> None:
        """Raise what the run ended with."""
        if self.outbox.failure is not None:
            _seen(task)
            raise self.outbox.failure
        if task.cancelled():
            raise RuntimeError(f"the function of {self.stream.model} was cancelled from inside")
        task.result()


class _Queue:
    """A sink for whoever asks for the next batch."""

    def __init__(self) -> None:
        self.batches: asyncio.Queue[Batch | None] = asyncio.Queue()
        self._room = asyncio.Event()
        self._room.set()

    def take(self, batch: Batch) -> bool:
        self.batches.put_nowait(batch)
        if self.batches.qsize() >= BATCHES_WAITING_MAX:
            self._room.clear()
        return self._room.is_set()

    async def room(self) -> None:
        await self._room.wait()

    def taken(self) -> None:
        if self.batches.qsize() < BATCHES_WAITING_MAX:
            self._room.set()


def _opening(how: Continuation | None, *, replays: bool, saved: Saved | None) -> Batch:
    """What comes before the first word.  A replay says how it goes on when it has come so far."""
    headers = HeadersReceived(at=int(time.time() * 1000))
    if how is None or replays:
        return (headers,)
    resumed = Resumed(how, None if how == "restart" else "unverified")
    if saved is None:
        return headers, resumed
    # A seam begins another run and forgets the marks before it: this one is still true.
    cursor = {"model": saved.model, "text_chars": saved.text_chars, "data": saved.data}
    return headers, resumed, Mark(cursor=cursor)


def _asynchronous(function: Function) -> bool:
    """Whether calling it takes no time, since it only makes a generator or a coroutine."""
    made_by = (function, getattr(function, "__call__", None))  # noqa: B004  an object may be called like a function
    return any(inspect.isasyncgenfunction(maker) or inspect.iscoroutinefunction(maker) for maker in made_by)


def _seen(task: asyncio.Task[None]) -> None:
    """Nobody wants to know what it failed with."""
    if not task.cancelled():
        task.exception()
