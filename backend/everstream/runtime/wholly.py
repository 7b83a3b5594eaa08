"""What must not be left half done where whoever asked for it goes.

A stream that the store has made, or given to this node, is to be in this node's memory too.  A client's command is
cancelled when its connection closes, and that may be in between: then nobody would look after the stream until the
keeper finds it, seconds later.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from everstream.runtime.ending import end

_T = TypeVar("_T")


class Wholly:
    """Does things to their end; `stop` ends those that still go on."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[Any]] = set()

    async def do(
        self, work: Coroutine[Any, Any, _T], name: str, left: Callable[[_T | None], None] = lambda _: None
    ) -> _T:
        """What `work` returns or raises.

        If the caller is cancelled, it goes on all the same, and `left` is called with what it has returned, or None
        where it raised.
        """
        task = asyncio.create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._done)
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            task.add_done_callback(lambda done: left(_result(done)))
            raise

    def _done(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled():
            task.exception()  # whoever waited has seen it, or is gone

    async def stop(self) -> None:
        await end(self._tasks)


def _result(task: asyncio.Task[_T]) -> _T | None:
    return None if task.cancelled() or task.exception() is not None else task.result()
