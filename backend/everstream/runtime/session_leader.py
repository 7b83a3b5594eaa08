"""A session as the node holds it that leads it: one order after the other, and what they set going.

What people ask for comes here from whatever node they are connected to (`runtime.sessions`).  An order is carried out
to its end even if who gave it has gone meanwhile: half of one would be a turn that nobody runs.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import msgspec
import structlog

from everstream.core.asking import Ask
from everstream.core.errors import EverstreamError
from everstream.core.events import Request
from everstream.core.session import Sent, Session
from everstream.core.session_events import TurnQueued, TurnStart
from everstream.providers.registry import Registry
from everstream.runtime import session_orders as orders
from everstream.runtime.hub import Feed, Hub
from everstream.runtime.session_index import SessionIndex
from everstream.runtime.session_turns import SessionTurns, now_ms
from everstream.runtime.session_writer import Deposed, SessionWriter

logger = structlog.get_logger(__name__)

ORDER_S = 10.0  # for an order to be carried out, before whoever gave it is told that the store is away


class SessionLeader:
    def __init__(
        self,
        writer: SessionWriter,
        turns: SessionTurns,
        hub: Hub,
        providers: Registry,
        index: SessionIndex,
        check: Callable[[str, Request], Awaitable[None]],
    ) -> None:
        """`check(user, request)` raises EverstreamError where somebody may use no more."""
        self.writer = writer
        self.turns = turns
        self.used_at = time.monotonic()
        self._hub = hub
        self._providers = providers
        self._index = index
        self._check = check
        self._under_way: set[asyncio.Task[dict[str, Any]]] = set()
        self._noting = False

    @property
    def name(self) -> str:
        return self.writer.feed.stream

    @property
    def feed(self) -> Feed:
        return self.writer.feed

    @property
    def session(self) -> Session:
        return self.writer.session

    @property
    def idle(self) -> bool:
        """Nothing is under way and nothing is due."""
        writer = self.writer
        return self.turns.quiet and not (self._under_way or writer.lock.locked() or writer.log.dirty)

    async def stop(self) -> None:
        for task in list(self._under_way):
            task.cancel()
        await asyncio.gather(*self._under_way, return_exceptions=True)
        await self.turns.stop()

    def carry_on(self) -> None:
        """Go on with what an earlier leader has left."""
        self.turns.spawn(self._carry_on(), "what was begun")

    async def _carry_on(self) -> None:
        if self.session.turns:
            await self.turns.carry_on()
        self.note()

    def note(self) -> None:
        """Put the session in its place in the lists of its members, beside everything else."""
        if not self._noting:
            self._noting = True
            self.turns.spawn(self._note(), "its place in the lists")

    async def _note(self) -> None:
        self._noting = False
        await self._index.note(self.name, self.session)

    async def _list(self, gone: Sequence[str] = ()) -> None:
        """The same at once, and out of the lists of who has gone.  What was decided is done, also where this fails."""
        try:
            await self._index.drop(self.name, *gone)
            await self._index.note(self.name, self.session)
        except EverstreamError as error:
            logger.warning("a session's place in the lists is not up to date", session=self.name, error=error.message)

    # ------------------------------------------------------------------ orders

    async def perform(self, order: orders.Order) -> dict[str, Any]:
        """Carry an order out; fields of its reply.

        Raises Deposed, and EverstreamError: `store.unavailable` where it takes too long, though it will be done.
        """
        task = asyncio.create_task(self._perform(order), name=f"order in {self.name}")
        self._under_way.add(task)
        task.add_done_callback(self._under_way.discard)
        task.add_done_callback(_seen)
        done, _ = await asyncio.wait({task}, timeout=ORDER_S)
        if not done:
            raise EverstreamError("store.unavailable", "the store does not answer; what was asked may be done later")
        if task.cancelled():  # as its leader was let go of: that is no concern of whoever waits here
            raise Deposed
        return task.result()

    async def _perform(self, order: orders.Order) -> dict[str, Any]:
        self.used_at = time.monotonic()
        if isinstance(order, orders.Stop):
            return await self._stop(order)
        async with self.writer.lock, self.writer.deciding():
            fields: dict[str, Any] = await _PERFORM[type(order)](self, order)
            return fields

    async def _create(self, order: orders.Create) -> dict[str, Any]:
        if not self.session.created:
            self.writer.conversation.create(order.user, order.changed, order.members)
            await self.writer.write()
            await self._list()
        return {}

    async def _send(self, order: orders.Send) -> dict[str, Any]:
        writer, session = self.writer, self.session
        session.demand(order.user, "read")  # what he was told before is not for him any more once he was put out
        before = session.sent(order.user, order.request_id)
        if before is not None:
            await self.turns.settle()  # it may interrupt what could not be stopped at the first try
            return await self._sent(before)
        session.demand(order.user, "send")
        request = self._asking(order)
        await self._check(order.user, request)
        turn = "t_" + secrets.token_hex(10)
        writer.asking[turn] = request
        try:
            sent = writer.conversation.send(
                Ask(
                    turn,
                    order.user,
                    request.model or None,
                    order.content,
                    order.parent,
                    order.follows,
                    order.on_busy,
                    order.request_id,
                ),
                now_ms(),
            )
            await writer.write()
        except BaseException:
            writer.asking.pop(turn, None)
            raise
        if order.on_busy == "interrupt":
            await self.turns.settle()
        self.note()
        return await self._sent(sent)

    def _asking(self, order: orders.Send) -> Request:
        """What is asked, of which model; refused where that can be known without asking."""
        request = order.request
        if not request.model and self.session.model:
            request = msgspec.structs.replace(request, model=self.session.model)
        if request.model:
            self._providers.get(request.provider).check(request)
        return request

    async def _sent(self, sent: Sent) -> dict[str, Any]:
        feed = await self._hub.find(sent.stream)
        epoch = feed.log.position(0).epoch if feed is not None else 0
        return {"turn": sent.turn, "message": sent.message, "stream": sent.stream, "epoch": epoch}

    async def _stop(self, order: orders.Stop) -> dict[str, Any]:
        """To stop what runs nothing has to be decided: it is done at once, also while the store is away."""
        self.writer.check()
        session = self.session
        session.demand(order.user, "stop")
        one = None if order.stream is None else session.turn_of(order.stream)
        turns = session.busy if order.stream is None else [] if one is None else [one]
        streams = [turn.stream for turn in turns]
        for turn in turns:
            if turn.state == "running" and order.stream in (None, turn.stream):
                await self.turns.halt_stream(turn.stream, order.user)
        quiet = [turn.id for turn in turns if turn.state != "running"]
        if quiet:
            async with self.writer.lock, self.writer.deciding():
                for turn_id in quiet:
                    still = self.session.turns.get(turn_id)
                    if still is not None and (order.stream is None or still.stream == order.stream):
                        await self.turns.halt(still, order.user)
                await self.writer.write()
        return {"streams": streams}

    async def _results(self, order: orders.Results) -> dict[str, Any]:
        before = self.session.gone_on(
            order.stream, {given.call_id: (given.content, given.is_error) for given in order.results}
        )
        if before is not None:
            self.session.demand(order.user, "approve")
            return await self._sent(before)
        turn = self.writer.conversation.give(order.user, order.stream, order.results, now_ms())
        await self.writer.write()
        if turn.state == "waiting":
            return {"turn": turn.id, "missing": turn.missing}
        return await self._sent(Sent(turn.id, turn.message, turn.stream))

    async def _approve(self, order: orders.Approve) -> dict[str, Any]:
        self.writer.conversation.approve(order.user, order.stream, order.approvals, now_ms())
        await self.writer.write()
        return {}

    async def _update(self, order: orders.Update) -> dict[str, Any]:
        self.session.demand(order.user, "update")
        if order.model:
            asked = Request(order.model, [])
            self._providers.get(asked.provider).check(asked)
        self.writer.conversation.update(order.user, order.title, order.system, order.model)
        await self.writer.write()
        await self._list()
        return {}

    async def _member(self, order: orders.Member) -> dict[str, Any]:
        conversation = self.writer.conversation
        if order.role is None:
            conversation.remove_member(order.user, order.member)
        else:
            conversation.add_member(order.user, order.member, order.role)
        await self.writer.write()
        await self._list(() if order.role is not None else (order.member,))
        return {}

    async def _delete(self, order: orders.Delete) -> dict[str, Any]:
        self.writer.conversation.delete(order.user)
        await self.writer.write()
        return {}

    def streams(self) -> list[str]:
        """All response streams that the session has ever had."""
        named = (entry.stream for entry in self.writer.log.entries if isinstance(entry, TurnStart | TurnQueued))
        return list(dict.fromkeys(named))


_PERFORM: dict[type[orders.Order], Any] = {
    orders.Create: SessionLeader._create,
    orders.Send: SessionLeader._send,
    orders.Results: SessionLeader._results,
    orders.Approve: SessionLeader._approve,
    orders.Update: SessionLeader._update,
    orders.Member: SessionLeader._member,
    orders.Delete: SessionLeader._delete,
}


def _seen(task: asyncio.Task[Any]) -> None:
    """Whoever waited may have gone: its failure was said to nobody, and that is all right."""
    if not task.cancelled():
        task.exception()
