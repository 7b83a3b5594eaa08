"""An interrupted answer, taken up again: one way after the other, until a provider takes one.

    ladder ──▶ attempt: open ─▶ fold ─▶ join ──▶ relay
                  │ refused
                  ▼
               the next worse one

A way is left for the next only where the provider refuses it, or where what comes does not fit, and only before
anything of it was given out.  A provider that is overloaded, or cannot be reached, has refused nothing: that is told,
and whoever asked may ask again.

The usage in `Finish` is the provider's own count of the call that ended: for `exact` of the whole run, which is the
same one; for all others of the last run alone, whose input holds what was said before.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterable, Awaitable, Callable
from contextlib import aclosing
from dataclasses import dataclass

from everstream.core.events import HeadersReceived
from everstream.providers.base import Batch, ProviderError
from everstream.providers.carry_join import Join
from everstream.providers.http_answer import Fold, Opener, answer


@dataclass(frozen=True, slots=True)
class Attempt:
    """One way.  `refused` learns from a failure, and says whether it was this way that was refused."""

    open: Opener
    fold: Fold
    join: Join
    refused: Callable[[ProviderError], Awaitable[bool]]


async def carry_on(
    name: str, attempts: AsyncIterable[Attempt], settling: set[asyncio.Task[None]]
) -> AsyncGenerator[Batch, None]:
    """The batches of an answer that is carried on.  Contract: `base.Provider.generate`, with progress.

    Raises ProviderError of the last attempt, or of the first that failed without having been refused.
    """
    greeted = False
    refusal = ProviderError("provider.connection", f"the answer of {name} cannot be carried on", retryable=False)
    async for attempt in attempts:
        try:
            async with aclosing(_joined(answer(name, attempt.open, attempt.fold, settling), attempt.join)) as batches:
                async for batch in batches:
                    if greeted:
                        batch = [event for event in batch if not isinstance(event, HeadersReceived)]
                    greeted = True
                    yield batch
            return
        except ProviderError as error:
            if attempt.join.decided or not await attempt.refused(error):
                raise
            refusal = error
    raise refusal


async def _joined(batches: AsyncGenerator[Batch, None], join: Join) -> AsyncGenerator[Batch, None]:
    async with aclosing(batches):
        while not join.decided:
            coming = asyncio.ensure_future(_next(batches))
            try:
                wait_s = join.wait_s
                if wait_s is not None and not (await asyncio.wait((coming,), timeout=wait_s))[0]:
                    yield join.release()
                batch = await coming
            finally:
                if not coming.done():
                    coming.cancel()
                    await asyncio.wait((coming,))
                if not coming.cancelled():
                    coming.exception()  # seen: whoever stops us does not want to know
            if batch is None:
                return
            yield join.take(batch)
        while not join.over:
            batch = await _next(batches)
            if batch is None:
                return
            yield join.take(batch)


async def _next(batches: AsyncGenerator[Batch, None]) -> Batch | None:
    """The next batch; None at the end."""
    return await anext(batches, None)
