"""One generation over HTTP, whatever the dialect: ask, read, fold, end in good order.

    open() -> Body --read()--> bytes --fold.feed()--> one batch --yield--> relay

This is the only generator between the socket and the relay, and there is one `read` a batch.  A fold knows a
dialect and does no I/O; this module knows I/O and no dialect.

Where there is a `Sink`, the middle of the answer does not even take that way: the tap of the connection calls the
fold and the sink in the turn in which the bytes arrived.  The beginning and the end are the generator's all the same.

An answer is whole when its fold says so (`finished`), never because the body ended.  Three ends are told apart:
the terminal event was seen (`ended`: nothing more is read), the answer is whole but the provider may still have
something to say, such as its usage (read on, but not for longer than `LINGER_S`), and everything else, which is a cut.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from typing import Any, Protocol

from everstream.core.events import HeadersReceived
from everstream.providers.base import Batch, ProviderError, ProviderEvent, Sink
from everstream.providers.http_body import Body, connection_error, read_errors
from everstream.providers.http_errors import cut_off

LINGER_S = 10.0


class Fold(Protocol):
    """A dialect as a state machine: bytes in, events out."""

    finished: bool  # the provider has said why the answer stopped: it is whole
    ended: bool  # the terminal event: nothing follows
    trouble: ProviderError | None  # to be raised once the events before it were given out

    def feed(self, data: bytes) -> list[ProviderEvent]:
        """The events in the bytes of one read; may be none."""
        ...

    def end(self) -> list[ProviderEvent]:
        """The events that the end of the body completes."""
        ...


Opener = Callable[[], Awaitable[Any]]  # gives the SDK's response, or a body that was begun; raises ProviderError


async def pour(name: str, open_response: Opener, fold: Fold, settling: set[asyncio.Task[None]], sink: Sink) -> None:
    """One answer into a sink.  Contract: `base.PouringProvider.pour`; otherwise as `answer`."""
    async with aclosing(answer(name, open_response, fold, settling, sink)) as batches:
        async for batch in batches:
            if not sink.take(batch):
                await sink.room()


async def answer(
    name: str, open_response: Opener, fold: Fold, settling: set[asyncio.Task[None]], sink: Sink | None = None
) -> AsyncGenerator[Batch, None]:
    """The batches of one answer.  Contract: `base.Provider.generate`.

    `settling` holds the tasks that read the last bytes of finished answers; who closes the pool waits for them.
    What could be handed to a `sink` at once is not yielded.
    """
    opened = await open_response()
    body = opened if isinstance(opened, Body) else Body(opened)
    in_order = False
    try:
        headers = HeadersReceived(at=time.time_ns() // 1_000_000)
        broken: ProviderError | None = None
        feed, read = fold.feed, body.read
        yield (headers, *feed(body.first)) if body.first else (headers,)
        if sink is not None and not (fold.finished or fold.ended or fold.trouble is not None):
            await _flow(body, fold, sink)
        while not (fold.ended or fold.trouble is not None or broken is not None):
            try:
                data = await read() if not fold.finished else await asyncio.wait_for(read(), LINGER_S)
            except read_errors() as error:
                broken = connection_error(name, error)
                data = body.remainder()
            if not data:
                break
            yield feed(data)
        if fold.trouble is None and not fold.ended:
            tail = fold.end()
            if tail:
                yield tail
        if fold.trouble is not None:
            raise fold.trouble
        if not fold.finished:
            raise broken or cut_off(name)
        in_order = broken is None
    finally:
        if in_order and not body.at_end():
            body.settle(settling)
        else:
            await body.close()


async def _flow(body: Body, fold: Fold, sink: Sink) -> None:
    """The middle of an answer, up to the first sign of its end."""
    feed, take = fold.feed, sink.take

    def pass_on(data: bytes) -> bool:
        return take(feed(data)) and not (fold.finished or fold.ended or fold.trouble is not None)

    while await body.flow(pass_on) and not (fold.finished or fold.ended or fold.trouble is not None):
        await sink.room()
