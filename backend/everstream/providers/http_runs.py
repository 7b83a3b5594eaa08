"""Runs that a provider keeps going in the background, whatever becomes of the connection.

Such a run also goes on when nobody wants it any more.  So from the moment it is asked for it is either handed over by
its name, or cancelled: asking is shielded from whoever stops waiting, until the provider has said what the run is
called.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass
from typing import Any

import structlog

from everstream.providers.base import ProviderError
from everstream.providers.http_answer import Fold
from everstream.providers.http_body import Body, read_errors

logger = structlog.get_logger(__name__)

DISOWN_S = 10.0  # for a run that was asked for to say its name, so that it can be cancelled
CANCEL_S = 4.0
FAILED_MAX = 1024


@dataclass(frozen=True, slots=True)
class Begun:
    """A run about to begin: how it is asked for, what reads its name, the name once it was read, and how it ends."""

    open: Callable[[], Awaitable[Body]]
    namer: Fold
    named: Callable[[], str]
    cancel: Callable[[str], Awaitable[None]]


class Runs:
    """The runs of one provider.  `owe` has something done that nobody waits for."""

    def __init__(self, owe: Callable[[Coroutine[Any, Any, None]], None]) -> None:
        self._owe = owe
        self._failed: dict[str, None] = {}  # that the provider itself gave up; the oldest are forgotten

    def note_failed(self, run: str) -> None:
        self._failed[run] = None
        if len(self._failed) > FAILED_MAX:
            del self._failed[next(iter(self._failed))]

    def has_failed(self, run: str) -> bool:
        return run in self._failed

    async def begin(self, begun: Begun) -> Body:
        """The body of a new run, begun as far as its name.  Whoever stops waiting for it has it cancelled."""
        naming = asyncio.create_task(self._named(begun), name="name a run")
        try:
            return await asyncio.shield(naming)
        except asyncio.CancelledError:
            self._owe(self._disown(begun, naming))
            raise

    @staticmethod
    async def _named(begun: Begun) -> Body:
        opened, namer = await begun.open(), begun.namer
        try:
            while not (begun.named() or namer.ended or namer.trouble is not None):
                data = await opened.read()
                if not data:
                    break
                opened.first += data
                if namer.feed(data):
                    break  # the answer has begun: a server that gives it no name
        except read_errors():
            pass  # whoever reads on meets the same failure, behind the headers that have come
        except BaseException:
            opened.abort()
            raise
        return opened

    async def _disown(self, begun: Begun, naming: asyncio.Task[Body]) -> None:
        try:
            opened = await asyncio.wait_for(naming, DISOWN_S)
        except (ProviderError, TimeoutError):
            return
        await opened.close()
        if begun.named():
            await self.cancel(begun.named(), begun.cancel)

    @staticmethod
    async def cancel(run: str, cancel: Callable[[str], Awaitable[None]]) -> None:
        """Have a run cancelled.  Never raises; bounded in time."""
        try:
            async with asyncio.timeout(CANCEL_S):
                await cancel(run)
        except Exception as error:  # whatever it is, there is nobody who could do anything about it
            logger.warning("a run in the background could not be cancelled", run=run, error=repr(error))
