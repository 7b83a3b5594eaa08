"""How a stream changes its leader, and how one that broke off is carried on.

    a node dies     ▶ its lease runs out ▶ the keeper adopts ▶ `carry_on`, with a seam "node_lost"
    a node goes     ▶ `drain`: reading stops, all is committed, an heir is named ▶ "lead" ▶ it adopts, seam "drain"
    a gateway asks  ▶ the stream is made with a leader named ▶ "lead" ▶ it adopts, and begins
    a provider dies ▶ `decide`: the same again, the next model, or the end

A hint to lead may be lost: the heir that the store names then finds the stream itself when it next looks for orphans.
Whatever happens here, the store's epochs decide who writes.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Coroutine
from typing import Any, Protocol

import msgspec
import structlog

from everstream.core.attempts import model_now, vain_attempts
from everstream.core.errors import EverstreamError
from everstream.core.events import Continuation, EndReason, Request, Seam, SeamReason
from everstream.core.lease import owner_of, partition_of
from everstream.core.order import Phase
from everstream.providers.base import Progress
from everstream.providers.registry import Registry
from everstream.runtime.accounts import last_words, progress_of
from everstream.runtime.counters import Counters
from everstream.runtime.hub import Feed, Hub
from everstream.runtime.meta import meta_of
from everstream.runtime.read_back import log_of
from everstream.runtime.relay import Next, Relay
from everstream.runtime.resting import Resting
from everstream.settings import Settings
from everstream.store.base import State, Store

logger = structlog.get_logger(__name__)

LEAD = b"lead "
SEAMS_MAX = 200  # of one stream, however much it says between them
PAUSE_FIRST_S = 0.25  # before another call; doubled each time
PAUSE_MAX_S = 10.0
HAND_OVERS_AT_ONCE = 16  # each stands still for a few calls of the store, so not all at the same time
LAST_WORDS_S = 2.0  # what handing over everything may take at the end of a drain
AGAIN_S = 1.0  # after which what could not be handed over is tried again
PROBED_S = 0.02  # between two questions whether the store holds all of a stream
STORED_S = 2.0  # for the store to take what is there, before a stream is handed over

RESTING_TTL_S = 60

_LOST = (
    "provider.connection",
    "provider.timeout",
    "provider.overloaded",
    "provider.rate_limit",
    "provider.invalid",
)
_NEXT_MODEL_TOO = (*_LOST, "provider.auth", "provider.unknown", "model.unknown")


class Household(Protocol):
    """What is needed of the node."""

    id: str
    draining: bool

    def start_relay(self, feed: Feed, request: Request, seam: SeamReason | None) -> None: ...

    def dirty(self, feed: Feed) -> None:
        """Have its log committed at once."""
        ...

    def probe(self, feed: Feed) -> None:
        """Have the store asked whether it still holds what it has acknowledged."""
        ...

    def ended(self, feed: Feed) -> None: ...

    def adopted(self, state: State) -> None:
        """Go on with what was adopted."""
        ...

    def do(self, work: Coroutine[Any, Any, None], name: str) -> None: ...


class Succession:
    def __init__(
        self,
        node: Household,
        store: Store,
        hub: Hub,
        providers: Registry,
        settings: Settings,
        counters: Counters,
        resting: Resting,
    ) -> None:
        self._node = node
        self._store = store
        self._hub = hub
        self._providers = providers
        self._settings = settings
        self._counters = counters
        self._resting = resting
        self._halted: set[Feed] = set()  # stopped to be handed over, which could not be done yet
        self._fallbacks = tuple(model.strip() for model in settings.fallback_models.split(",") if model.strip())

    # ------------------------------------------------------------------ taking over

    async def lead(self, stream: str) -> None:
        """This node was named the leader of a stream.  Safe to repeat; nothing where that is not so."""
        feed = self._hub.get(stream)
        if feed is not None and feed.led:
            return
        if self._node.draining or not self._settings.lead:
            await self._pass_on(stream)
            return
        state = await self._store.adopt(stream, self._node.id)
        if state is not None:
            self._node.adopted(state)

    async def _pass_on(self, stream: str) -> None:
        """Named the leader of a stream by a node that did not know that this one goes, too."""
        heirs = await self.heirs()
        state = await self._store.read(stream)
        if heirs and state is not None and state.head.leader == self._node.id:
            heir = self._heir(stream, heirs)
            if await self._store.hand_over(stream, state.head.epochs[-1][0], state.head.tail, heir):
                await self._hint(heir, stream)

    def carry_on(self, state: State, request: Request | None, *, wanted: bool = True) -> None:
        """Go on with a response stream that this node has just adopted.

        `request` is what is asked where that is more than stands beside it; one that is not `wanted` ends.
        """
        meta = meta_of(state.head.meta)
        before = self._hub.get(state.head.stream)
        if before is not None and before.relay is not None:  # it was ours, lost while we were away, and comes back
            before.relay.depose()
        feed = self._hub.lead(log_of(state), state.head.meta)
        log = feed.log
        self._counters.streams_adopted += 1
        request = _asking(request or meta.request, model_now(log.entries, meta.request.model))
        reason: SeamReason = "drain" if state.head.handed else "node_lost"
        if state.head.cancelled or log.phase is Phase.SPENT or not wanted:
            self._end_at_once(feed, request, reason, cancelled=state.head.cancelled)
        elif not log.tail and (state.head.handed or meta.session):
            self._node.start_relay(feed, request, None)  # it has only just been made, or waited for its turn
        elif self._may_carry_on(feed) and (following := self._first_able(request, feed)) is not None:
            self._node.start_relay(feed, following.request, reason)
        else:
            self._end_at_once(feed, request, reason, cancelled=False)

    def end_unbegun(self, feed: Feed, reason: EndReason, error: EverstreamError | None) -> None:
        """End a stream that this node leads, and for which no provider was asked."""
        if feed.led and not feed.log.closed and feed.relay is None:
            feed.log.append(last_words(feed.log, meta_of(feed.meta).request, reason, None, error=error))
            self._counters.streams_ended[reason] += 1
            self._node.ended(feed)
            self._node.dirty(feed)

    def _may_carry_on(self, feed: Feed) -> bool:
        log = feed.log
        seams = sum(isinstance(entry, Seam) for entry in log.entries)
        vain = vain_attempts(log.entries, log.base, log.epochs)
        return vain <= self._settings.carry_on_attempts and seams < SEAMS_MAX

    def _end_at_once(self, feed: Feed, request: Request, reason: SeamReason, *, cancelled: bool) -> None:
        """Nobody carries it on: say that another leads, and that this is the end."""
        log = feed.log
        attempt = log.total().attempts + 1
        log.append(Seam(log.epoch, attempt, reason, None, None, self._node.id))
        self._counters.seams["none"] += 1
        how = "cancelled" if cancelled else "complete" if log.phase is Phase.SPENT else "interrupted"
        progress = progress_of(log)
        log.append(last_words(log, request, how, self._providers.price))  # type: ignore[arg-type]
        self._counters.streams_ended[how] += 1
        self._node.ended(feed)
        self._node.dirty(feed)
        if progress.cursor is not None:  # it may still run at the provider
            self._node.do(self._abandon(request, progress), f"abandon {feed.stream}")

    async def _abandon(self, request: Request, progress: Progress) -> None:
        await self._providers.get(request.provider).abandon(request, progress)

    # ------------------------------------------------------------------ what follows a call that failed

    def decide(self, relay: Relay, error: EverstreamError) -> Next | None:
        """Another call of the same model, where it broke off in mid-answer; or the next model; or None."""
        if not self._settings.carry_on or not relay.has_time:
            return None
        answer = relay.answer
        begun = answer.answered or answer.seam is not None or relay.in_vain > 0
        relay.in_vain = 0 if answer.progressed else relay.in_vain + 1
        if sum(isinstance(entry, Seam) for entry in answer.log.entries) >= SEAMS_MAX:
            return None
        again = error.code in _LOST and begun and relay.in_vain < self._settings.carry_on_attempts
        if again and self._continuation(relay.request, answer.feed) is not None:
            return Next(relay.request, relay.provider, self._pause_s(relay.in_vain, error))
        if error.code not in _NEXT_MODEL_TOO:
            return None
        following = self._first_able(relay.request, answer.feed, after=True)
        relay.in_vain = 0
        if following is not None and answer.log.trail.cursor is not None and following.provider is not relay.provider:
            # It may still run there, and the next provider knows nothing of it.
            self._node.do(self._abandon(relay.request, progress_of(answer.log)), f"abandon {answer.feed.stream}")
        return following

    @staticmethod
    def _pause_s(in_vain: int, error: EverstreamError) -> float:
        """No pause where the answer was growing; then longer each time, each of many streams by itself."""
        if error.retry_after_ms is not None:
            return min(error.retry_after_ms / 1000, PAUSE_MAX_S)
        if not in_vain:
            return 0.0
        return random.uniform(0.5, 1.0) * min(PAUSE_FIRST_S * float(2**in_vain), PAUSE_MAX_S)

    def _first_able(self, request: Request, feed: Feed, *, after: bool = False) -> Next | None:
        """The first model that can carry the stream on: its own, then those that were named to take over."""
        models = [request.model, *self._fallbacks]
        if request.model in self._fallbacks:  # it has come this far down the list
            models = [request.model, *self._fallbacks[self._fallbacks.index(request.model) + 1 :]]
        for model in models[1:] if after else models:
            asking = _asking(request, model)
            if self._continuation(asking, feed) is not None:
                return Next(asking, self._providers.get(asking.provider))
        return None

    def _continuation(self, request: Request, feed: Feed) -> Continuation | None:
        try:
            provider = self._providers.get(request.provider)
            provider.check(request)
            return provider.continuation(request, progress_of(feed.log))
        except EverstreamError:  # a provider that this node does not have, or has no key for
            return None

    # ------------------------------------------------------------------ handing over

    async def heirs(self) -> set[str]:
        """The other nodes that could lead a stream."""
        return await self._resting.able(await self._store.nodes() - {self._node.id})

    async def drain(self, deadline: float, clock: Callable[[], float]) -> None:
        """Until nothing is generated here any more: short answers end, the others are handed over.

        What carries on exactly goes at once.  For the rest a hand-over is visible, so it may end by itself meanwhile.
        Where there is nobody to take a stream, whoever starts next is its heir.
        """
        try:
            await self._resting.rest(self._node.id, RESTING_TTL_S + int(deadline - clock()))
        except EverstreamError:
            logger.warning("the others could not be told that this node goes")
        await self._hand_over_all(self._exactly, deadline, clock)
        while (left_s := deadline - LAST_WORDS_S - clock()) > 0 and (self._running() or self._waiting()):
            await self._some_ended(min(left_s, AGAIN_S))
            if self._waiting():
                await self._hand_over_all(lambda feed: False, deadline, clock)
        await self._hand_over_all(lambda feed: True, deadline, clock, to_nobody=True)
        while self._waiting() and clock() < deadline:
            await asyncio.sleep(PROBED_S)
            await self._hand_over_all(lambda feed: False, deadline, clock, to_nobody=True)

    async def _some_ended(self, timeout_s: float) -> None:
        """Until the answers that run now have ended, or the time is over."""
        ending = [asyncio.create_task(feed.wait_ended(), name="drain") for feed in self._running()]
        if not ending:
            await asyncio.sleep(PROBED_S)
            return
        await asyncio.wait(ending, timeout=timeout_s)
        for task in ending:
            task.cancel()
        await asyncio.gather(*ending, return_exceptions=True)

    def _waiting(self) -> list[Feed]:
        """Stopped to be handed over, which could not be done yet."""
        return [feed for feed in self._halted if feed.led]

    def _running(self) -> list[Feed]:
        return [feed for feed in self._hub if feed.led and feed.relay is not None]

    def _exactly(self, feed: Feed) -> bool:
        relay = feed.relay
        return isinstance(relay, Relay) and self._continuation(relay.request, feed) == "exact"

    async def _hand_over_all(
        self, which: Callable[[Feed], bool], deadline: float, clock: Callable[[], float], *, to_nobody: bool = False
    ) -> None:
        try:
            heirs = await self.heirs()
        except EverstreamError:
            heirs = set()
        if not heirs and not to_nobody:
            return
        going = [feed for feed in self._running() if which(feed)] + self._waiting()
        turn = asyncio.Semaphore(HAND_OVERS_AT_ONCE)

        async def go(feed: Feed) -> None:
            async with turn:
                await self.hand_over(feed, heirs)

        tasks = [asyncio.create_task(go(feed), name=f"hand over {feed.stream}") for feed in going]
        if tasks:
            _, late = await asyncio.wait(tasks, timeout=max(deadline - clock(), LAST_WORDS_S))
            for task in late:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def hand_over(self, feed: Feed, heirs: set[str]) -> None:
        """Stop leading a stream by consent: commit what is there, then name the heir.  Never raises."""
        relay = feed.relay
        if feed not in self._halted and (not isinstance(relay, Relay) or not relay.hand_over()):
            return
        self._halted.add(feed)
        try:
            async with asyncio.timeout(STORED_S):
                await self._store.follow(feed.stream)  # those who read it here go on reading
                while feed.led and not feed.log.fenced and not await self._stored_and_named(feed, heirs):
                    pass
            self._halted.discard(feed)
        except (EverstreamError, TimeoutError) as error:
            logger.warning("a stream could not be handed over", stream=feed.stream, why=repr(error))

    async def _stored_and_named(self, feed: Feed, heirs: set[str]) -> bool:
        """False where the store turned out to hold less than it had said: then it is being sent again."""
        await feed.wait_stored()
        heir = self._heir(feed.stream, heirs)
        if not await self._store.hand_over(feed.stream, feed.log.epoch, feed.log.tail, heir):
            self._node.probe(feed)
            await asyncio.sleep(PROBED_S)
            return False
        feed.led = False  # before the heir can say a word: it comes as a push
        await self._hint(heir, feed.stream)
        return True

    @staticmethod
    def _heir(stream: str, heirs: set[str]) -> str:
        return owner_of(partition_of(stream), heirs) or ""

    async def _hint(self, heir: str, stream: str) -> None:
        self._counters.handed_over += 1
        if heir:
            await self._store.send(heir, LEAD + stream.encode())


def _asking(request: Request, model: str) -> Request:
    """The same request, of another model; what only the other provider knows is left out."""
    if request.model == model:
        return request
    extra = request.extra if model.partition("/")[0] == request.provider else {}
    return msgspec.structs.replace(request, model=model, extra=extra)
