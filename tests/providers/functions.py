"""Functions as models, and a relay that keeps what they say."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

from everstream.core.events import (
    DeltaText,
    Finish,
    HeadersReceived,
    Mark,
    Message,
    Request,
    Resumed,
)
from everstream.providers.base import Batch, Progress
from everstream.providers.function import FunctionProvider, Model, Models
from everstream.providers.function_stream import ModelStream

WAIT_S = 10.0
REQUEST = Request("app/mine", [Message("user", "hello")])
WORDS = ("one ", "two ", "three")


class Taken:
    """A relay that keeps what it is given."""

    def __init__(self) -> None:
        self.batches: list[Batch] = []
        self.roomy = asyncio.Event()
        self.roomy.set()
        self.waited = 0

    def take(self, batch: Batch) -> bool:
        self.batches.append(list(batch))
        return self.roomy.is_set()

    async def room(self) -> None:
        self.waited += 1
        await self.roomy.wait()

    @property
    def events(self) -> list[Any]:
        return [event for batch in self.batches for event in batch]

    @property
    def content(self) -> list[Any]:
        return [event for event in self.events if not isinstance(event, HeadersReceived | Finish | Resumed | Mark)]

    @property
    def text(self) -> str:
        return "".join(event.text for event in self.events if isinstance(event, DeltaText))


def provider_of(function: Callable[..., Any], **declared: Any) -> FunctionProvider:
    models = Models()
    models.add("mine", Model(function, **declared))
    return FunctionProvider(models)


async def pour(function: Callable[..., Any], progress: Progress | None = None, **declared: Any) -> Taken:
    taken = Taken()
    async with asyncio.timeout(WAIT_S):
        await provider_of(function, **declared).pour(REQUEST, progress, taken)
    return taken


async def words(request: Request, stream: ModelStream) -> AsyncIterator[str]:
    for word in WORDS:
        yield word
        await asyncio.sleep(0)
