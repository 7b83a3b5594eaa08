"""How tasks are ended: asked again until they are gone.

One `cancel()` is not enough on Python 3.11: redis-py waits inside a time-out there, and a cancellation that meets the
reply is swallowed (python/cpython#86296).  A loop around such a call would then go on for ever, and so would whoever
waits for its end.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Any

ASK_AGAIN_S = 0.2


async def end(tasks: Iterable[asyncio.Task[Any]]) -> None:
    """Cancel the tasks and wait until they are done; what they failed with is dropped."""
    left = {task for task in tasks if not task.done()}
    while left:
        for task in left:
            task.cancel()
        done, left = await asyncio.wait(left, timeout=ASK_AGAIN_S)
        for task in done:
            if not task.cancelled():
                task.exception()  # said to be seen
