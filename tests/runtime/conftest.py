"""A node on a store in memory, and a provider that says what the test tells it to, when the test tells it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest

from everstream.core.cursor import Run
from everstream.core.events import Continuation, DeltaText, Event, Finish, HeadersReceived, Message, Request, Resumed
from everstream.core.log import Position
from everstream.core.order import ORDER, Phase
from everstream.providers.base import Batch, ModelInfo, Progress
from everstream.providers.registry import Registry
from everstream.providers.scripted import Scripted
from everstream.runtime.hub import Feed
from everstream.runtime.node import Node
from everstream.settings import Settings
from everstream.store.memory import MemoryStore

WAIT_S = 10.0
HEADERS = HeadersReceived(at=1)
FINISH = Finish("stop", None)


async def until(condition: Callable[[], Any], within_s: float = WAIT_S) -> None:
    async with asyncio.timeout(within_s):
        while not condition():
            await asyncio.sleep(0.001)  # pause: between two looks at a condition


def text(*words: str) -> list[DeltaText]:
    return [DeltaText(word) for word in words]


class Call:
    """One call of the hand-made provider: what it is to say, and what became of it."""

    def __init__(self, request: Request, progress: Progress | None) -> None:
        self.request = request
        self.progress = progress
        self.closed = False
        self.taken = 0  # batches that the relay came back for
        self._queue: asyncio.Queue[Batch | BaseException | None] = asyncio.Queue()

    def say(self, *batch: Any) -> None:
        self._queue.put_nowait(list(batch))

    def words(self, *words: str) -> None:
        self.say(*text(*words))

    def fail(self, error: BaseException) -> None:
        self._queue.put_nowait(error)

    def end(self, finish: Finish | None = FINISH) -> None:
        if finish is not None:
            self.say(finish)
        self._queue.put_nowait(None)

    async def batches(self) -> AsyncGenerator[Batch, None]:
        try:
            while (said := await self._queue.get()) is not None:
                if isinstance(said, BaseException):
                    raise said
                yield said
                self.taken += 1
        finally:
            self.closed = True


class Hand:
    """The provider `hand`."""

    name = "hand"

    def __init__(self, how: Continuation | None = None) -> None:
        self.calls: list[Call] = []
        self.how = how
        self.takes_up = True  # says so at once, when it is asked to carry on
        self.abandoned: list[Progress] = []

    async def prepare(self) -> None:
        """There is nothing to prepare."""

    async def models(self) -> list[ModelInfo]:
        return []

    def check(self, request: Request) -> None:
        """Everything is fine."""

    def continuation(self, request: Request, progress: Progress) -> Continuation | None:
        return self.how

    def generate(self, request: Request, progress: Progress | None = None) -> AsyncGenerator[Batch, None]:
        call = Call(request, progress)
        self.calls.append(call)
        if progress is not None and self.how is not None and self.takes_up:
            call.say(HEADERS, Resumed(self.how, "verified" if self.how == "exact" else None))
        return call.batches()

    async def abandon(self, request: Request, progress: Progress) -> None:
        self.abandoned.append(progress)

    async def aclose(self) -> None:
        """There is nothing to close."""


class CountingStore(MemoryStore):
    """A store whose commits can be counted, held, and refused."""

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self.sizes: list[int] = []  # of each commit that was tried
        self.open_gate = asyncio.Event()
        self.open_gate.set()

    async def commit(self, writes: Any) -> Any:
        self.sizes.append(sum(len(write.entries) for write in writes))
        await self.open_gate.wait()
        return await super().commit(writes)

    def beside(self) -> CountingStore:
        store = CountingStore(self.disk)
        store.peers = self.peers
        return store


class Encoder:
    """Keeps the runs as they are."""

    def __init__(self) -> None:
        self.runs: list[Run] = []

    def entry(self, stream: str, run: Run) -> bytes:
        self.runs.append(run)
        return b"."


class Reading:
    """A reader that takes all there is at once, and holds a position as a client does."""

    def __init__(self, feed: Feed, seen: Position = Position(0, 0)) -> None:  # noqa: B008
        self.feed = feed
        self.text = ""
        self.offset = seen.offset
        self.lost = False
        self.cursor = feed.attach(self, seen)
        self.take()

    def wake(self, feed: Feed) -> None:
        asyncio.get_running_loop().call_soon(self.take)

    def take(self) -> None:
        cursor = self.feed.cursors.get(self)
        if cursor is None:
            return
        if cursor.lost:
            self.lost = True
            return
        while cursor.offset < self.feed.log.committed:
            encoder = Encoder()
            self.feed.take(cursor, encoder)
            for run in encoder.runs:
                assert run.after == self.offset, "an entry was left out or came twice"
                self.offset = run.upto
                if isinstance(run.event, DeltaText):
                    self.text += run.event.text


def settings_of(**given: Any) -> Settings:
    return Settings(store="memory://", **given)


@asynccontextmanager
async def running(store: MemoryStore, *providers: Any, **given: Any) -> AsyncIterator[Node]:
    makers = {provider.name: (lambda provider=provider: provider) for provider in (*providers, Scripted())}
    node = Node(settings_of(**given), store, Registry(makers))
    await node.start()
    try:
        yield node
    finally:
        await node.stop()


def request(model: str = "hand/any", **extra: Any) -> Request:
    return Request(model, [Message("user", "hello")], extra=extra)


async def started(node: Node, hand: Hand, **given: Any) -> tuple[Feed, Call]:
    """A stream whose provider was called."""
    before = len(hand.calls)
    feed = await node.generate(request(), "anonymous", given.get("request_id"))
    await until(lambda: len(hand.calls) > before)
    return feed, hand.calls[-1]


async def answering(node: Node, hand: Hand, *words: str) -> tuple[Feed, Call]:
    """A stream in mid-answer, its beginning committed."""
    feed, call = await started(node, hand)
    call.say(HEADERS)
    call.words(*words)
    await until(lambda: feed.log.committed == 3 + len(words))
    return feed, call


def kinds(feed: Feed) -> list[str]:
    return [type(entry).__name__ for entry in feed.log.entries]


def assert_legal(entries: list[Event]) -> None:
    phase = Phase.NEW
    for entry in entries:
        assert type(entry) in ORDER[phase], (entry, phase)
        phase = ORDER[phase][type(entry)]


@pytest.fixture
def hand() -> Hand:
    return Hand()


@pytest.fixture
async def store() -> CountingStore:
    return CountingStore()


@pytest.fixture
async def node(store: CountingStore, hand: Hand) -> AsyncIterator[Node]:
    tasks_before = asyncio.all_tasks()
    async with running(store, hand) as node:
        yield node
    await until(lambda: not asyncio.all_tasks() - tasks_before - {asyncio.current_task()})
