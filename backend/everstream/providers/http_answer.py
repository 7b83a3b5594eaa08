"""One generation over HTTP, whatever the dialect: ask, read, fold, end in good order.

    open() -> Body --read()--> bytes --fold.feed()--> one batch --yield--> relay

This is the only generator between the socket and the relay, and there is one `read` a batch.  A fold knows a
dialect and does no I/O; this module knows I/O and no dialect.

An answer is whole when its fold says so (`finished`), never because the body ended.  Three ends are told apart:
the terminal event was seen (`ended`: nothing more is read), the answer is whole but the provider may still have
something to say, such as its usage (read on, but not for longer than `LINGER_S`), and everything else, which is a cut.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from typing import Any, Protocol

from everstream.core.events import HeadersReceived
from everstream.providers.base import Batch, ProviderError, ProviderEvent
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


Opener = Callable[[], Awaitable[Any]]  # gives the SDK's response; raises ProviderError


async def answer(
    name: str, open_response: Opener, fold: Fold, settling: set[asyncio.Task[None]]
) -> AsyncGenerator[Batch, None]:
    """The batches of one answer.  Contract: `base.Provider.generate`.

    `settling` holds the tasks that read the last bytes of finished answers; who closes the pool waits for them.
    """
    body = Body(await open_response())
    in_order = False
    try:
        yield (HeadersReceived(at=time.time_ns() // 1_000_000),)
        broken: ProviderError | None = None
        feed, read = fold.feed, body.read
        while True:
            try:
                data = await read() if not fold.finished else await asyncio.wait_for(read(), LINGER_S)
            except read_errors() as error:
                broken = connection_error(name, error)
                data = body.remainder()
            if not data:
                break
            yield feed(data)
            if fold.ended or fold.trouble is not None or broken is not None:
                break
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
