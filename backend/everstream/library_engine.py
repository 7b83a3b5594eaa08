"""What runs streams for a program without a server: a node on a store in memory, in the program's own event loop.

It is the same path as the server's: providers, time-outs, carrying on, fallback models, budgets and prices are what the
settings say.  Only what several nodes need is different: nobody else reads this store, so a stream is forgotten as soon
as its reader has gone, and the lease that nobody looks at is renewed every few seconds.

Who makes no `Engine` gets an implicit one for each loop and settings, which keeps its connections from one call to the
next and ends with the loop:

    asyncio.run ends ▶ it cancels all tasks, the node's too ▶ shutdown_asyncgens() finalises `_until_the_loop_ends`
                     ▶ what the node would close is closed here, for its tasks are gone
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncGenerator, Mapping, Sequence
from types import TracebackType
from typing import Any, Self

import msgspec
import structlog

from everstream import config
from everstream.core.commands import Generate
from everstream.core.errors import EverstreamError
from everstream.core.events import Budget, Message, Request
from everstream.library_result import Result
from everstream.library_stream import CLOSE_S, CancelFlag, OnEvent, Stream, Tap
from everstream.providers import tokenizer
from everstream.providers.base import ModelInfo
from everstream.providers.function import Function, Model, Models
from everstream.providers.registry import Registry, registry_of
from everstream.runtime.node import Node
from everstream.settings import Settings
from everstream.store.memory import MemoryStore

SETTINGS_MAX = 16  # different ones in a loop that have an implicit engine
ENDED_MAX = 32  # streams that may have ended before the first of them are forgotten
# What several nodes need and one does not: see the module's text.
ALONE: dict[str, Any] = {
    "store": "memory://",
    "lead": True,
    "delivery": "committed",
    "lease_ms": 60_000,
    "lease_renew_ms": 5_000,
    "linger_s": 0.0,
    "fold_after_s": 0,
}
_USER = "library"

Messages = str | Sequence[Mapping[str, Any] | Message]
GivenSettings = Settings | Mapping[str, Any]


class Engine:
    """Runs streams until it is closed.  Use it with `async with`, in one event loop.

    `settings`: those of `everstream.config.load()` where they are None (environment, `everstream.toml`); a mapping is
    what `Settings` takes.  `models`: functions of one's own, or `Model`s: each is asked for as `app/NAME`.  Raises
    ValueError or TypeError for settings or models that cannot be, and `config.ConfigError` when it is entered, or first
    used, where what was found around it cannot be used.
    """

    def __init__(
        self, *, settings: GivenSettings | None = None, models: Mapping[str, Function | Model] | None = None
    ) -> None:
        self._settings = settings_of(settings)
        self._models: Models | None = None if models is None else Models()
        for name, model in (models or {}).items():
            assert self._models is not None
            self._models.add(name, model if isinstance(model, Model) else Model(model))
        self._store = _Passing()
        self._registry: Registry | None = None
        self._node: Node | None = None
        self._opening = asyncio.Lock()
        self._closed = False
        self._ended = 0  # streams, since the last that were forgotten
        self._loop_lives: asyncio.Task[None] | None = None

    # ------------------------------------------------------------------ what it does

    def stream(
        self,
        model: str,
        messages: Messages,
        *,
        system: str | None = None,
        max_tokens: int | None = None,
        budget: Budget | Mapping[str, Any] | None = None,
        cancel: CancelFlag | None = None,
        on_event: OnEvent | None = None,
        **params: Any,
    ) -> Stream:
        """Ask a model; the events of its answer.

        `model` is `provider/name`.  `messages` is what a user says, or the whole conversation.  `params` are those of
        the protocol (`temperature`, `tools`, `thinking`, …) and whatever else the provider knows.  `budget` bounds
        `output_tokens` and `usd`.  Setting `cancel` (an `asyncio.Event`, a `threading.Event`) cancels the stream.
        Raises EverstreamError `request.invalid` for what cannot be a request.
        """
        params |= {"system": system, "max_tokens": max_tokens}
        request = request_of(model, messages, params, budget)
        return Stream(request, self.begin, cancel=cancel, on_event=on_event)

    async def run(self, model: str, messages: Messages, **rest: Any) -> Result:
        """Ask a model and wait for the whole answer.  Takes what `stream` takes, and raises as little."""
        async with self.stream(model, messages, **rest) as stream:
            async for _ in stream:
                pass
        return stream.result

    async def prepare(self, model: str, messages: Messages = "hi", **params: Any) -> None:
        """Do what would hold up the first request to a model, or tell it from the next: imports, clients, a vocabulary.

        Raises EverstreamError where a request with these parameters would be refused unasked.
        """
        request = request_of(model, messages, params, None)
        provider = (await self._started())[1].get(request.provider)
        provider.check(request)
        await provider.prepare()
        await tokenizer.prepare()

    async def models(self) -> list[ModelInfo]:
        """What the providers of these settings offer.  Any other of their models may be asked for by name."""
        return await (await self._started())[1].models()

    # ------------------------------------------------------------------ life

    async def __aenter__(self) -> Self:
        await self._started()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Cancel what runs and close all connections.  Idempotent."""
        self._closed = True
        node, self._node = self._node, None
        if node is None or self._registry is None or self._loop_lives is None:
            return
        if self._loop_lives.done():  # the loop ends and has cancelled all tasks: there is nothing left to be stopped
            await node.hub.close()
            await self._registry.aclose()
            await self._store.close()
        else:
            self._loop_lives.cancel()
            await _cancel_all(node)
            await node.stop()

    async def _started(self) -> tuple[Node, Registry]:
        async with self._opening:
            if self._closed:
                raise RuntimeError("the engine is closed")
            loop = asyncio.get_running_loop()
            if self._loop_lives is not None and self._loop_lives.get_loop() is not loop:
                raise RuntimeError("the engine was opened in another event loop, and works in that one alone")
            if self._node is None or self._registry is None:
                _log_as_a_library()
                settings = self._settings or config.load().settings
                self._registry = registry_of(settings, self._store, self._models)
                # Whoever asks one model has no use for all the others: each is made ready by its first request.
                self._registry.prepare = _not_now  # type: ignore[method-assign]
                node = Node(settings.model_copy(update=ALONE), self._store, self._registry)
                await node.start()
                self._loop_lives = asyncio.create_task(_for_ever(), name="engine")
                self._node = node
            return self._node, self._registry

    # ------------------------------------------------------------------ streams

    async def begin(self, request: Request) -> Tap:
        """Run a request, and read it.  Raises EverstreamError where it is refused."""
        node, _ = await self._started()
        return Tap(await node.generate(request, _USER, None), self._note_end)

    def _note_end(self) -> None:
        """A stream has ended: forget those that nobody reads, once there are some."""
        self._ended += 1
        if self._node is not None and self._ended >= max(ENDED_MAX, len(self._node.hub) // 4):
            self._ended = 0
            for stream in self._node.hub.sweep():
                self._store.forget(stream)


class _Passing(MemoryStore):
    """A store that holds a stream for as long as its node does."""

    async def unfollow(self, stream: str) -> None:
        """The node has forgotten the stream."""
        self.forget(stream)

    def forget(self, stream: str) -> None:
        self.disk.records.pop(stream, None)


def settings_of(given: GivenSettings | None) -> Settings | None:
    return Settings(**given) if isinstance(given, Mapping) else given


async def _cancel_all(node: Node) -> None:
    """Let no reader wait for what will never come: every stream ends with its last event."""
    node.draining = True
    running = [feed for feed in node.hub if feed.relay is not None]
    for feed in running:
        if feed.relay is not None:
            feed.relay.cancel()
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(CLOSE_S):
            await asyncio.gather(*(feed.wait_ended() for feed in running))


async def _for_ever() -> None:
    await asyncio.Event().wait()


async def _not_now() -> None:
    return


def request_of(
    model: str, messages: Messages, params: Mapping[str, Any], budget: Budget | Mapping[str, Any] | None
) -> Request:
    """The request that these amount to, by the rules of the protocol; params that are None are left out.

    Raises EverstreamError `request.invalid`.
    """
    said = [{"role": "user", "content": messages}] if isinstance(messages, str) else list(messages)
    given = {name: value for name, value in params.items() if value is not None}
    try:
        plain = msgspec.to_builtins({"model": model, "messages": said, "params": given, "budget": budget})
        return msgspec.convert(plain, Generate).request()
    except (msgspec.ValidationError, TypeError, ValueError) as error:
        raise EverstreamError("request.invalid", str(error)) from error


# --------------------------------------------------------------------------- the implicit ones


class _Implicit:
    """The engines of one loop."""

    def __init__(self) -> None:
        self.engines: list[tuple[Settings | None, Engine]] = []
        self.life: AsyncGenerator[None, None] | None = None

    def engine(self, settings: Settings | None) -> Engine:
        for known, engine in self.engines:
            if known is settings or (settings is not None and known == settings):
                return engine
        if len(self.engines) >= SETTINGS_MAX:
            raise RuntimeError(f"more than {SETTINGS_MAX} different settings in one loop: use `Engine` for them")
        engine = Engine(settings=settings)
        self.engines.append((settings, engine))
        return engine


_implicit: dict[asyncio.AbstractEventLoop, _Implicit] = {}


async def implicit_engine(given: GivenSettings | None) -> Engine:
    """The running loop's engine for these settings, made with the first request."""
    settings = settings_of(given)
    loop = asyncio.get_running_loop()
    found = _implicit.get(loop)
    if found is None:
        for other in [other for other in list(_implicit) if other.is_closed()]:
            del _implicit[other]
        found = _implicit[loop] = _Implicit()
        found.life = _until_the_loop_ends(loop, found)
        await anext(found.life)
    return found.engine(settings)


async def close_implicit() -> None:
    """Close the running loop's engines.  A later request makes new ones."""
    found = _implicit.get(asyncio.get_running_loop())
    if found is not None and found.life is not None:
        await found.life.aclose()


async def _until_the_loop_ends(loop: asyncio.AbstractEventLoop, implicit: _Implicit) -> AsyncGenerator[None, None]:
    """Held open in a loop, it is what the loop finalises when it ends."""
    try:
        yield
    finally:
        _implicit.pop(loop, None)
        for _, engine in implicit.engines:
            await engine.aclose()


def _log_as_a_library() -> None:
    """Where the program has not said how structlog is to write, diagnostics go to `logging`, as a library's should."""
    if not structlog.is_configured():
        structlog.configure(
            processors=[
                structlog.stdlib.filter_by_level,
                structlog.processors.format_exc_info,
                structlog.processors.KeyValueRenderer(key_order=["event"]),
            ],
            wrapper_class=structlog.make_filtering_bound_logger(logging.NOTSET),
            logger_factory=structlog.stdlib.LoggerFactory(),
        )
