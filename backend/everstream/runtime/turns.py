"""Tells the application of every answer that ended here: its `on_turn`.

Told is what the store holds: after `stream_end` was stored, by the node that led the stream, in a task of its own, so
that no stream waits.  That makes it once for each answer in all but two cases.  A node that dies after the end was
stored and before the function has done its work has nobody to tell it again.  And where a store loses, in a failover,
an end that it had acknowledged, another node may end the stream once more and tell of that, too.
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace

import structlog

from everstream.core.events import Request, StreamEnd, ToolCall
from everstream.core.summary import Summary
from everstream.providers.function_thread import Threads
from everstream.runtime.ending import end
from everstream.runtime.hub import Feed
from everstream.runtime.meta import Owner, meta_of

logger = structlog.get_logger(__name__)

AT_ONCE_MAX = 64
THREADS_MAX = 8
LAST_S = 5.0  # for what is being told when the node stops


@dataclass(frozen=True, slots=True)
class Turn:
    """A question and its answer, as they are stored."""

    stream: str
    user: str  # the id of the principal who asked
    request: Request
    text: str
    thinking: str
    tool_calls: tuple[ToolCall, ...]
    end: StreamEnd  # why it ended, usage, cost, metrics, error
    session: str = ""  # where it was asked in one


OnTurn = Callable[[Turn], Awaitable[None] | None]
Asked = Callable[[Owner, str, Request], Awaitable[Request]]


class Turns:
    def __init__(self, on_turn: OnTurn, asked: Asked) -> None:
        """A plain function is called in a thread: it may wait for a database.

        `asked` finds the messages behind a stream of a session.
        """
        self._on_turn = on_turn
        self._asked = asked
        self._plain = not inspect.iscoroutinefunction(on_turn)
        self._threads = Threads(THREADS_MAX)
        self._at_once = asyncio.Semaphore(AT_ONCE_MAX)
        self._tasks: set[asyncio.Task[None]] = set()

    def ended(self, feed: Feed) -> None:
        """A stream that this node leads has its last entry, which may not be stored yet."""
        task = asyncio.create_task(self._tell(feed), name=f"tell of {feed.stream}")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def stop(self) -> None:
        """Give what is being told a little time to end."""
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=LAST_S)
        await end(self._tasks)

    async def _tell(self, feed: Feed) -> None:
        await feed.wait_ended()
        if not feed.led:  # it was another's to end
            return
        turn = _turn_of(feed, feed.log.total())
        if turn is None:
            return
        try:
            if turn.session:
                request = await self._asked(feed.owner, feed.stream, turn.request)
                turn = replace(turn, request=request)
            async with self._at_once:
                await self._call(turn)
        except Exception:
            logger.exception("on_turn failed", stream=feed.stream)

    async def _call(self, turn: Turn) -> None:
        if self._plain:
            said = await self._threads.run(lambda: self._on_turn(turn), f"on_turn {turn.stream}")
        else:
            said = self._on_turn(turn)
        if inspect.isawaitable(said):
            await said


def _turn_of(feed: Feed, total: Summary) -> Turn | None:
    if total.end is None:
        return None
    meta = meta_of(feed.meta)
    calls = tuple(ToolCall(call.call_id or "", call.name or "", call.arguments) for call in total.tool_calls)
    return Turn(feed.stream, meta.user, meta.request, total.text, total.thinking, calls, total.end, meta.session)
