"""What the nodes of `session_machine` live in: a clock that does not wait, a bad store, a model, readers."""

from __future__ import annotations

import asyncio
import random
import secrets
import selectors
import time
from collections import Counter
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import contextmanager
from contextvars import Context, ContextVar, copy_context
from random import Random
from typing import Any
from unittest import mock

from tests.runtime.conftest import settings_of

from everstream.core.cursor import Run
from everstream.core.errors import EverstreamError
from everstream.core.events import (
    Continuation,
    DeltaText,
    DeltaToolCall,
    Event,
    Finish,
    HeadersReceived,
    Request,
    Resumed,
)
from everstream.core.log import Position
from everstream.core.session_events import SessionChanged
from everstream.providers import tokenizer
from everstream.providers.base import Batch, ModelInfo, Progress
from everstream.providers.registry import Registry
from everstream.runtime.hub import Feed
from everstream.runtime.node import Node
from everstream.runtime.tools import ToolContext, Tools
from everstream.store.base import OnMessage, OnPush, StoreUnavailable
from everstream.store.memory import Disk, MemoryStore

TURNS_MAX = 3
LONG = 5_000  # words that nobody waits for: somebody has to stop it


class Broken(AssertionError):
    """Something does not hold."""


# --------------------------------------------------------------------------- a clock that does not wait


class Clock:
    def __init__(self) -> None:
        self.now_s = 1_000.0

    def monotonic(self) -> float:
        return self.now_s

    def time(self) -> float:
        return 1_700_000_000.0 + self.now_s


class _Impatient(selectors.DefaultSelector):
    """Where nothing is ready, it is later."""

    clock: Clock

    def select(self, timeout: float | None = None) -> list[Any]:
        ready = super().select(0)
        if not ready and timeout is None:
            raise Broken("everybody waits, and for nothing")
        if not ready and timeout:
            self.clock.now_s += max(timeout, 1e-6)
        return ready


class Loop(asyncio.SelectorEventLoop):
    def __init__(self, clock: Clock) -> None:
        selector = _Impatient()
        selector.clock = clock
        self._clock = clock
        super().__init__(selector)
        self.set_task_factory(_owned)

    def time(self) -> float:
        return self._clock.now_s


OWNER: ContextVar[Host | None] = ContextVar("owner", default=None)


def _owned(loop: asyncio.AbstractEventLoop, work: Any, context: Context | None = None, **given: Any) -> Any:
    """Every task belongs to the node in whose name it was begun, so that it can die with it."""
    task = asyncio.Task(work, loop=loop, context=context, **given)
    host = OWNER.get() if context is None else context.get(OWNER)
    if host is not None:
        host.tasks.add(task)
        task.add_done_callback(host.tasks.discard)
    return task


@contextmanager
def by_chance(seed: int) -> Iterator[tuple[Random, Clock]]:
    """Time and secrets come from the seed."""
    rnd, clock = Random(seed), Clock()
    keys = Random(seed + 1)
    with (
        mock.patch.object(time, "monotonic", clock.monotonic),
        mock.patch.object(time, "time", clock.time),
        mock.patch.object(secrets, "token_bytes", lambda size=32: keys.randbytes(size)),
        mock.patch.object(secrets, "token_hex", lambda size=32: keys.randbytes(size).hex()),
        mock.patch.object(random, "uniform", keys.uniform),
        mock.patch.object(tokenizer, "_there", False),  # a thread would need real time
        mock.patch.object(tokenizer, "_encode", None),
    ):
        yield rnd, clock


# --------------------------------------------------------------------------- the store, and a node on it


class Weather:
    """How often what goes wrong."""

    def __init__(self, rnd: Random, kind: str) -> None:
        self.kind = kind
        bad = kind != "calm"
        self.lost_message = rnd.choice((0.0, 0.1, 0.5)) if bad else 0.0
        self.lost_push = rnd.choice((0.0, 0.1, 0.3)) if bad else 0.0
        self.lost_reply = rnd.choice((0.0, 0.01, 0.05)) if kind in ("outages", "all") else 0.0
        self.outages = kind in ("outages", "all")
        self.deaths = kind in ("deaths", "all")
        self.drains = kind in ("drains", "all")
        self.rests = rnd.choice((0.0, 1.0, 60.0))

    def clears(self) -> None:
        self.lost_message = self.lost_push = self.lost_reply = 0.0
        self.outages = self.deaths = self.drains = False


class Store(MemoryStore):
    """A node's store: every call takes its time, may fail, and may be done although it fails."""

    def __init__(self, world: Surroundings, host: Host) -> None:
        super().__init__(world.disk)
        self.peers = world.peers
        self._world, self._host = world, host

    async def ping(self) -> None:
        await self._way()

    async def _way(self) -> None:
        await asyncio.sleep(self._world.rnd.uniform(0.0002, 0.004))  # pause: the way to the store
        if self._host.dead or self._world.away or self._host.cut_off:
            raise StoreUnavailable()

    async def _back(self) -> None:
        await self._way()
        if self._world.chance(self._world.weather.lost_reply):
            raise StoreUnavailable("the reply is lost")

    async def open(self, node: str, on_push: OnPush, on_message: OnMessage) -> None:
        weather = self._world.weather
        push = self._arriving(on_push, lambda: weather.lost_push)
        await super().open(node, push, self._arriving(on_message, lambda: weather.lost_message))

    def _arriving(self, take: Callable[[Any], None], loss: Callable[[], float]) -> Callable[[Any], None]:
        def arrives(what: Any) -> None:
            if not self._host.dead:
                take(what)

        def sent(what: Any) -> None:
            if not self._world.chance(loss()):
                late_s = self._world.rnd.uniform(0.0, 0.01)
                asyncio.get_running_loop().call_later(late_s, arrives, what, context=self._host.context)

        return sent


def _answering(name: str) -> Any:
    async def call(self: Store, *arguments: Any) -> Any:
        done = await getattr(MemoryStore, name)(self, *arguments)
        await self._back()
        return done

    return call


for _name in ("create", "commit", "read", "adopt", "hand_over", "rest", "mark_cancelled", "follow", "purge"):
    setattr(Store, _name, _answering(_name))


class Host:
    """A node, from its start to its death."""

    def __init__(self, world: Surroundings, name: str) -> None:
        self.name = name
        self.dead = False
        self.cut_off = False
        self.going = False  # it drains
        self.tasks: set[asyncio.Task[Any]] = set()
        self.context = copy_context()
        self.context.run(OWNER.set, self)
        self.store = Store(world, self)
        self.speaker = Speaker(world)
        settings = settings_of(session_rest_s=world.weather.rests, session_turns=TURNS_MAX, session_queue=4)
        self.node: Node = self.context.run(
            Node, settings, self.store, Registry({"hand": lambda: self.speaker}), None, world.tools()
        )

    def run(self, work: Any) -> asyncio.Task[Any]:
        return asyncio.get_running_loop().create_task(work, context=self.context)

    async def die(self) -> None:
        """Everything stops where it is: what is on its way to the store may yet arrive."""
        self.dead = True
        self.store.peers.pop(self.node.id, None)
        while self.tasks:
            for task in list(self.tasks):
                task.cancel()
            await asyncio.wait(list(self.tasks), timeout=1.0)
        for feed in self.node.hub:
            feed.close()


class Speaker:
    """A model that numbers its words, so that a lost, a doubled and a moved one can be told."""

    name = "hand"

    def __init__(self, world: Surroundings) -> None:
        self._world = world

    async def prepare(self) -> None:
        """There is nothing to prepare."""

    async def models(self) -> list[ModelInfo]:
        return []

    def check(self, request: Request) -> None:
        """Everything is fine."""

    def continuation(self, request: Request, progress: Progress) -> Continuation | None:
        if not progress.shows_content:
            return "restart"
        return None if progress.tool_calls else "prefill"

    async def generate(self, request: Request, progress: Progress | None = None) -> AsyncGenerator[Batch, None]:
        world, rnd = self._world, self._world.rnd
        tag, place = request.extra["tag"], len(request.messages)
        world.calls[tag, place] += 1
        await asyncio.sleep(rnd.uniform(0.0, 0.3))  # pause: the model thinks
        yield [HeadersReceived(at=1)]
        said = 0
        if progress is not None:
            how = self.continuation(request, progress)
            assert how is not None
            said = progress.text.count(" ")
            yield [Resumed(how, "verified" if how == "prefill" else None)]
        for number in range(said, said + rnd.choice((0, 1, 2, 3, 4, 5, 6, 6, 5, LONG))):
            await asyncio.sleep(rnd.choice((0.0, 0.01, 0.2, 1.0)))  # pause: so fast does it speak
            yield [DeltaText(f"{tag}/{place}.{number} ")]
            if world.chance(world.failures):
                world.broke_off[tag, place] += 1
                raise EverstreamError("provider.connection", "it broke off")
        if world.chance(world.failures / 2):
            raise EverstreamError("provider.unknown", "it failed")
        calls = rnd.randint(1, 3) if not world.calm and world.chance(0.3) else 0
        for index in range(calls):
            name = rnd.choice(("theirs", "look", "act", "ask"))
            yield [DeltaToolCall(index, "{}", f"{tag}.{place}.{index}", name)]
        yield [Finish("tool_calls" if calls else "stop", None)]

    async def abandon(self, request: Request, progress: Progress) -> None:
        """Nothing runs on."""

    async def aclose(self) -> None:
        """There is nothing to close."""


class Follower:
    """Somebody who reads the session, and goes from node to node with his place in it."""

    def __init__(self, world: Surroundings) -> None:
        self.world = world
        self.entries: list[Event] = []
        self.epoch = 0
        self.host: Host | None = None
        self.feed: Feed | None = None
        self.moving = False

    @property
    def placed(self) -> bool:
        return self.feed is not None and self.host is not None and not self.host.dead and not self.host.going

    async def go(self, host: Host) -> None:
        if self.moving:
            return
        self.moving = True
        self.leave()
        try:
            await host.run(self._enter(host))
        except (EverstreamError, asyncio.CancelledError):
            self.leave()
        finally:
            self.moving = False

    async def _enter(self, host: Host) -> None:
        seen = Position(self.epoch, len(self.entries))
        feed = await host.node.find_for(self.world.session, seen, "ann")
        self.host, self.feed = host, feed
        feed.attach(self, seen)
        self.epoch = feed.log.position(seen.offset).epoch
        self.take()

    def leave(self) -> None:
        if self.feed is not None:
            self.feed.detach(self)
        self.host = self.feed = None

    def wake(self, feed: Feed) -> None:
        asyncio.get_running_loop().call_soon(self.take)

    def take(self) -> None:
        feed = self.feed
        cursor = feed.cursors.get(self) if feed is not None else None
        if feed is None or cursor is None:
            return
        if cursor.lost:
            self._begin_anew(feed)
            return
        while cursor.offset < feed.log.committed:
            feed.take(cursor, self)

    def _begin_anew(self, feed: Feed) -> None:
        """Its place is not known here, and did not become so in time: a snapshot says what is."""
        self.world.happened["snapshot"] += 1
        if not self.world.storms:
            self.world.broken(f"a reader at {(self.epoch, len(self.entries))} lost its place in {feed.log.epochs}")
        here = feed.log.position(feed.log.committed)
        self.entries, self.epoch = feed.log.slice(0, here.offset), here.epoch
        feed.attach(self, here)

    def entry(self, stream: str, run: Run) -> bytes:
        if run.after != len(self.entries) or run.upto != run.after + 1:
            self.world.broken(f"a reader at {len(self.entries)} was given {(run.after, run.upto)}")
        self.entries.append(run.event)
        if isinstance(run.event, SessionChanged) and run.event.epoch is not None:
            self.epoch = run.event.epoch
        return b"."


# --------------------------------------------------------------------------- what all of them are in


class Surroundings:
    """What nodes, their stores and the model have around them, and what they leave behind."""

    session = ""

    def __init__(self, rnd: Random, clock: Clock, kind: str) -> None:
        self.rnd, self.clock = rnd, clock
        self.weather = Weather(rnd, kind)
        self.storms = self.weather.outages
        self.failures = rnd.choice((0.0, 0.02, 0.1))
        self.calm = False
        self.away = False
        self.disk = Disk(lambda: int(clock.time() * 1000))
        self.peers: dict[str, MemoryStore] = {}
        self.calls: Counter[tuple[str, int]] = Counter()  # of the model: by request, and by how long the path was
        self.broke_off: Counter[tuple[str, int]] = Counter()  # those of them that failed by themselves
        self.runs: Counter[tuple[str, str]] = Counter()  # of tools, by their calls
        self.happened: Counter[str] = Counter()
        self.faults: list[str] = []
        self.trace: list[str] = []

    def chance(self, p: float) -> bool:
        return p > 0 and self.rnd.random() < p

    def broken(self, what: str) -> None:
        self.faults.append(what)
        self.say("BROKEN " + what)

    def say(self, what: str) -> None:
        self.trace.append(f"{self.clock.now_s - 1000:8.2f}  {what}")

    def tools(self) -> Tools:
        tools = Tools()

        async def run(context: ToolContext, name: str) -> str:
            self.runs[name, context.call_id] += 1
            await asyncio.sleep(self.rnd.choice((0.0, 0.3, 3.0)))  # pause: the tool works
            return f"{name} is done"

        async def look(context: ToolContext) -> str:
            return await run(context, "look")

        async def act(context: ToolContext) -> str:
            return await run(context, "act")

        async def ask(context: ToolContext) -> str:
            return await run(context, "ask")

        tools.add(look, repeatable=True)
        tools.add(act)
        tools.add(ask, approval=True)
        return tools
