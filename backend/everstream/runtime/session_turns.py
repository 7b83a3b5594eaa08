"""What follows from a session's entries: providers are asked, ends awaited, tools run, the next turn begun.

    turn_start ──▶ relay ──▶ its stream's end ──▶ message ──▶ turn_end ──▶ the next in the queue
                                                     │
                                                     └──▶ tool_start ──▶ the tool ──▶ message ──▶ turn_start

The leader of a session need not lead the streams of its turns: it waits for their ends wherever they are led.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Coroutine, Sequence
from dataclasses import replace
from typing import Any, Protocol

import msgspec
import structlog

from everstream.core.asking import Answered, Given
from everstream.core.errors import EverstreamError
from everstream.core.events import Attempt, Cost, EndReason, Event, Request, StreamEnd, Usage
from everstream.core.session import Session, Turn
from everstream.core.session_events import CallMade, ToolStart, TurnEnd, TurnStart
from everstream.core.summary import NOTHING, Summary
from everstream.providers.registry import Registry
from everstream.runtime.accounts import cost_of, usage_of
from everstream.runtime.counters import Counters
from everstream.runtime.ending import end
from everstream.runtime.fitting import left_out_of
from everstream.runtime.hub import Feed, Hub
from everstream.runtime.meta import meta_of
from everstream.runtime.session_writer import Deposed, SessionWriter
from everstream.runtime.tools import ToolContext, ToolOutcome, ToolRunner, Tools

logger = structlog.get_logger(__name__)

LOOKED_S = 5.0  # for the end of a stream, before it is looked for anew
LOST_S = 4.0  # a stream that is not there for so long is lost: its leader would have sent it again by then
AGAIN_S = 0.5  # after the store was away
OUTCOME_UNKNOWN = "The server stopped while this tool ran: whether it had any effect is not known."


class Streams(Protocol):
    """What is needed of the node."""

    def start_relay(self, feed: Feed, request: Request, seam: None) -> None: ...

    def end_unbegun(self, feed: Feed, reason: EndReason, error: EverstreamError | None = None) -> None:
        """End a stream that this node leads, and for which no provider was asked."""
        ...

    async def tell_leader(self, stream: str) -> None:
        """Have the leader of a stream look at what its turn has come to."""
        ...

    async def stop_stream(self, stream: str) -> None:
        """Have it stopped, wherever it is led, without waiting for its end."""
        ...


class SessionTurns:
    """`writer` is set by the leader, whose other half this is."""

    writer: SessionWriter

    def __init__(
        self, node: Streams, hub: Hub, providers: Registry, runner: ToolRunner, tools: Tools, counters: Counters
    ) -> None:
        self._node = node
        self._hub = hub
        self._providers = providers
        self._runner = runner
        self._tools = tools
        self._counters = counters
        self._tasks: set[asyncio.Task[None]] = set()
        self._watched: set[str] = set()
        self._stopped_by: dict[str, str] = {}  # by stream
        self._running: dict[tuple[str, str], asyncio.Task[None]] = {}  # tools, by turn and call

    @property
    def session(self) -> Session:
        return self.writer.session

    async def stop(self) -> None:
        await end(self._tasks)

    def spawn(self, work: Coroutine[Any, Any, None], name: str) -> asyncio.Task[None]:
        task = asyncio.create_task(self._guarded(work), name=f"{name} in {self.writer.feed.stream}")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def _guarded(self, work: Coroutine[Any, Any, None]) -> None:
        try:
            await work
        except Deposed:
            return
        except EverstreamError as error:
            logger.warning("a session has to wait", session=self.writer.feed.stream, error=error.message)
        except Exception:
            logger.exception("a session could not go on", session=self.writer.feed.stream)

    # ------------------------------------------------------------------ beginning

    async def carry_on(self) -> None:
        """Go on with what an earlier leader has left, before any order is carried out.  Raises Deposed.

        While the store is away it is tried again: nobody else would.
        """
        async with self.writer.lock:
            while True:
                try:
                    async with self.writer.deciding():
                        await self._carry_on()
                    return
                except EverstreamError as error:
                    logger.debug("a session waits for the store", session=self.writer.feed.stream, error=error.message)
                await asyncio.sleep(AGAIN_S)

    async def _carry_on(self) -> None:
        turns = list(self.session.turns.values())
        for turn in turns:
            await self._recall(turn)
        for turn in turns:
            if turn.state == "running":
                self._watch(turn.stream)
            for call_id in turn.started.keys() - turn.results.keys():
                self._take_up(turn, turn.calls[call_id])
        await self.settle()

    async def _recall(self, turn: Turn) -> None:
        """Find out what a turn asks."""
        feed = await self._hub.find(turn.streams[-1] if turn.streams else turn.stream)
        # Results may come after the stream that asked for them has gone: then its parameters have, too.
        request = meta_of(feed.meta).request if feed is not None else Request(turn.model, [])
        self.writer.asking[turn.id] = request

    def follow_up(self, entry: Event) -> None:
        """What an entry that is stored sets going."""
        if isinstance(entry, TurnStart):
            self._watch(entry.stream)
            self._begin(entry.stream)
        elif isinstance(entry, TurnEnd):
            self._counters.turns_ended[entry.reason] += 1
            self.writer.asking.pop(entry.turn, None)
            for (turn_id, _), running in self._running.items():
                if turn_id == entry.turn:  # nobody waits for it any more
                    running.cancel()
            if entry.message is None:
                self._begin(entry.stream)
        elif isinstance(entry, ToolStart):
            turn = self.session.turns.get(entry.turn)
            if turn is not None and entry.call_id in turn.calls:
                self._run(turn, turn.calls[entry.call_id], entry.user)

    @property
    def quiet(self) -> bool:
        """Nothing is under way: what there is waits for people."""
        return not self._running and all(turn.state == "waiting" for turn in self.session.turns.values())

    def _begin(self, stream: str) -> None:
        """Have a turn's stream begun, or ended where the turn is over, by whoever leads it."""
        feed = self._hub.get(stream)
        if feed is not None and feed.led:
            if stream in self._stopped_by and feed.relay is None and not feed.log.tail:  # while it was being written
                self._node.end_unbegun(feed, "cancelled")
            look_at_turn(self._node, self.session, feed, self._tools)
        else:
            self.spawn(self._node.tell_leader(stream), "a stream that is led elsewhere")

    def left_out(self, session: Session, turn: Turn) -> int:
        """How many of the oldest messages a turn's model has no room for."""
        template = self.writer.asking.get(turn.id)
        if template is None:
            return 0
        whole = replace(turn, left_out=0)  # whatever its last answer had room for
        request = request_of(session, whole, template, self._tools)
        return left_out_of(request, self._providers.window(request.model))

    # ------------------------------------------------------------------ stopping

    async def halt(self, turn: Turn, user: str) -> None:
        """Stop a turn in whatever state it is.  Under the lock; what was said is written by the caller."""
        if turn.id not in self.session.turns or self.session.deleted:
            return
        if turn.state == "running":
            await self.halt_stream(turn.stream, user)
            return
        account = await self._account(turn)
        self.writer.conversation.end(turn, "cancelled", user, lambda: account)
        self.writer.conversation.advance(now_ms())

    async def halt_stream(self, stream: str, user: str) -> None:
        """Stop a stream that runs; its end says that `user` did."""
        self._stopped_by.setdefault(stream, user)
        await self._node.stop_stream(stream)

    # ------------------------------------------------------------------ ending

    def _watch(self, stream: str) -> None:
        if stream not in self._watched:
            self._watched.add(stream)
            self.spawn(self._await_end(stream), "an answer")

    async def _await_end(self, stream: str) -> None:
        feed = await self._ended(stream)
        while not await self._try(lambda: self._conclude(stream, feed)):
            pass
        self._watched.discard(stream)

    async def _try(self, work: Any) -> bool:
        """Do it under the lock.  False where the store was away: nothing was decided."""
        try:
            async with self.writer.lock, self.writer.deciding():
                await work()
            return True
        except EverstreamError as error:
            logger.debug("a session waits for the store", session=self.writer.feed.stream, error=error.message)
        await asyncio.sleep(AGAIN_S)
        return False

    async def _ended(self, stream: str) -> Feed | None:
        """The feed of a stream that has ended; None where it is lost."""
        sought_at = time.monotonic()
        while time.monotonic() - sought_at < LOST_S:
            try:
                feed = await self._hub.find(stream)
                if feed is not None:
                    async with asyncio.timeout(LOOKED_S):
                        await feed.wait_ended()
                    if await self._hub.confirmed(feed):
                        return feed
                    sought_at = time.monotonic()
            except TimeoutError:
                sought_at = time.monotonic()
                if feed is not None and not feed.log.tail:  # its leader has not heard that it is to begin
                    self._begin(stream)
                continue
            except EverstreamError:
                sought_at = time.monotonic()
            await asyncio.sleep(AGAIN_S)
        return None

    async def _conclude(self, stream: str, feed: Feed | None) -> None:
        """A turn's stream has ended, or is lost: its answer becomes a message."""
        turn = self.session.turn_of(stream)
        if turn is None or turn.state != "running" or turn.stream != stream or self.session.deleted:
            return
        total = feed.log.total() if feed is not None else NOTHING
        over = total.end
        account = await self._account(turn)
        answer = Answered(
            total.text or total.refusal,
            total.thinking,
            self._calls_of(turn, total),
            over.reason if over is not None else "interrupted",
            over.finish_reason if over is not None else None,
            over.error if over is not None else None,
        )
        stopped_by = self._stopped_by.get(stream)
        by = stopped_by if answer.reason == "cancelled" else None
        self.writer.conversation.answered(turn, answer, now_ms(), by, lambda: account)
        still = self.session.turns.get(turn.id)
        if still is not None and stopped_by is not None:  # its stream was faster
            self.writer.conversation.end(still, "cancelled", stopped_by, lambda: account)
        await self.settle()
        self._stopped_by.pop(stream, None)

    async def settle(self) -> None:
        """Say what is due, turns to be stopped or started and tools to be run, and write it."""
        for turn, by in self.writer.conversation.interrupted():
            await self.halt(turn, by)
        for turn in self.session.busy:
            if turn.state == "waiting":
                self.writer.conversation.begin_tools(turn)
        self.writer.conversation.advance(now_ms())
        await self.writer.write()

    async def _account(self, turn: Turn) -> tuple[Usage | None, Cost | None]:
        """What all streams of a turn have used."""
        ends: list[StreamEnd] = []
        for stream in turn.streams:
            feed = await self._hub.find(stream)
            over = feed.log.total().end if feed is not None else None
            if over is not None:
                ends.append(over)
        attempts = [Attempt(turn.model, over.usage, over.cost) for over in ends]
        return (usage_of(attempts), cost_of(attempts)) if attempts else (None, None)

    # ------------------------------------------------------------------ tools

    def _calls_of(self, turn: Turn, total: Summary) -> list[CallMade]:
        """The calls of an answer, and for each whether the server runs it.

        A name that nobody has offered is the server's too, where it has offered any: it tells the model so.
        """
        template = self._template(turn)
        offered = tools_offered(template, self._tools)
        clients = {tool.name for tool in template.params.tools or ()}
        made: dict[str, CallMade] = {}
        for called in total.tool_calls:
            name = called.name or ""
            tool = self._tools.get(name) if name in offered else None
            call_id = called.call_id
            if not call_id or call_id in made:  # some models give none, or all the same
                call_id = f"call_{turn.stream[-8:]}_{called.index}"
            asks = tool is not None and tool.needs_approval(called.arguments)
            served = bool(offered) and name not in clients
            made[call_id] = CallMade(call_id, name, called.arguments, served, asks)
        return list(made.values())

    def _template(self, turn: Turn) -> Request:
        return self.writer.asking.get(turn.id) or Request(turn.model, [])

    def _take_up(self, turn: Turn, call: CallMade) -> None:
        """An earlier leader began to run a tool: run it again where that does no harm, or say that nobody knows."""
        tool = self._tools.get(call.name)
        if tool is not None and tool.repeatable:
            self._run(turn, call, turn.started.get(call.call_id))
        else:
            self.writer.conversation.ran(turn, Given(call.call_id, OUTCOME_UNKNOWN, True), now_ms())

    def _run(self, turn: Turn, call: CallMade, approved_by: str | None) -> None:
        if (turn.id, call.call_id) not in self._running:
            running = self.spawn(self._run_tool(turn, call, approved_by), f"the tool {call.name}")
            self._running[turn.id, call.call_id] = running
            running.add_done_callback(lambda _: self._running.pop((turn.id, call.call_id), None))

    async def _run_tool(self, turn: Turn, call: CallMade, approved_by: str | None) -> None:
        context = ToolContext(self.writer.feed.stream, turn.id, call.call_id, turn.user, approved_by)
        if call.name in tools_offered(self._template(turn), self._tools):
            self._counters.tools_run += 1
            outcome = await self._runner.run(call.name, call.arguments, context)
        else:
            outcome = ToolOutcome(f"there is no tool {call.name}", is_error=True)
        given = Given(call.call_id, outcome.content, outcome.is_error)
        while not await self._try(lambda: self._ran(turn.id, given)):
            pass

    async def _ran(self, turn_id: str, given: Given) -> None:
        turn = self.session.turns.get(turn_id)
        if turn is not None and not self.session.deleted:
            self.writer.conversation.ran(turn, given, now_ms())
            await self.writer.write()


def look_at_turn(node: Streams, session: Session, feed: Feed, tools: Tools) -> None:
    """Begin a stream that this node leads, where its turn runs; end it where the turn is over; else let it wait."""
    if not feed.led or feed.relay is not None or feed.log.tail:
        return
    turn = session.turn_of(feed.stream)
    if turn is None:
        node.end_unbegun(feed, "cancelled")
    elif turn.state == "running":
        try:
            node.start_relay(feed, request_of(session, turn, meta_of(feed.meta).request, tools), None)
        except EverstreamError as error:  # what was queued may be possible no more
            logger.info("a turn cannot begin", stream=feed.stream, error=error.message)
            node.end_unbegun(feed, "failed", error)
        except Exception:
            logger.exception("a turn could not begin", stream=feed.stream)
            node.end_unbegun(feed, "failed", EverstreamError("internal", "the server failed to begin this answer"))


def tools_offered(template: Request, tools: Tools) -> Sequence[str]:
    """The server's tools that a request offers its model: `params.app_tools`, but for names that the client uses."""
    wanted = template.extra.get("app_tools")
    own = {tool.name for tool in template.params.tools or ()}
    if wanted is False:
        return []
    return [name for name in tools if name not in own and (not isinstance(wanted, list) or name in wanted)]


def request_of(session: Session, turn: Turn, template: Request, tools: Tools) -> Request:
    """What is asked with a turn's stream: the path to its message, the system prompt, the tools on offer."""
    offered = [*(template.params.tools or ()), *(tools[name].described() for name in tools_offered(template, tools))]
    params = msgspec.structs.replace(
        template.params, system=template.params.system or session.system or None, tools=offered or None
    )
    extra = {name: value for name, value in template.extra.items() if name != "app_tools"}
    messages = session.asked(turn.message)[turn.left_out :]
    return msgspec.structs.replace(template, messages=messages, params=params, extra=extra)


def now_ms() -> int:
    return int(time.time() * 1000)
