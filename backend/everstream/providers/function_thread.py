"""Plain functions of the developer's, in threads of their own: they may block, and nothing of ours stands still.

A thread a call, so that what a library keeps by thread (a database connection, say) stays in one.  The threads are
daemons: a function that never comes back does not keep the process from ending, and what it would have said is lost.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import threading
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


class Threads:
    """At most `most` at a time; who comes later waits."""

    def __init__(self, most: int) -> None:
        self._turn = asyncio.Semaphore(most)

    async def run(self, work: Callable[[], T], name: str) -> T:
        """What `work` returns or raises.

        Cancelling this waits for the thread all the same: it is for whoever cancels to have told `work`.  A second
        cancellation leaves it behind.  A place is free again only when the thread has ended.
        """
        await self._turn.acquire()
        loop = asyncio.get_running_loop()
        ended: asyncio.Future[None] = loop.create_future()
        outcome: list[T] = []
        failure: list[BaseException] = []

        def end() -> None:
            self._turn.release()
            if not ended.done():
                ended.set_result(None)

        def begin() -> None:
            try:
                outcome.append(work())
            except BaseException as error:  # SystemExit too: it is for the caller, not for this thread, to judge
                failure.append(error)
            with contextlib.suppress(RuntimeError):  # the loop has closed: nobody waits any more
                loop.call_soon_threadsafe(end)

        context = contextvars.copy_context()
        threading.Thread(target=context.run, args=(begin,), name=name, daemon=True).start()
        try:
            await asyncio.shield(ended)
        except asyncio.CancelledError:
            await asyncio.wait((ended,))
            raise
        if failure:
            raise failure[0]
        return outcome[0]
