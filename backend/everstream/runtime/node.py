"""One process: starts and stops everything below it, in order, and carries out what clients ask.

    start   store ▶ committer ▶ follower ▶ keeper (lease, orphans)
    stop    no new streams ▶ short answers finish, long ones are handed over ▶ relays stop ▶ last commits
            ▶ lease released ▶ store closed

What is still open at a stop is not lost: whoever starts or lives on adopts it and carries it on.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
from collections.abc import Callable, Coroutine
from typing import Any

import structlog

from everstream.core.errors import EverstreamError
from everstream.core.events import EndReason, Request, SeamReason
from everstream.core.lease import partition_of
from everstream.core.log import Position
from everstream.providers import tokenizer
from everstream.providers.base import ModelInfo
from everstream.providers.registry import Registry
from everstream.runtime.calls import Calls
from everstream.runtime.committer import Committer
from everstream.runtime.counters import Counters
from everstream.runtime.ending import end
from everstream.runtime.follower import Follower
from everstream.runtime.hub import Feed, Hub
from everstream.runtime.keeper import Keeper
from everstream.runtime.making import Making
from everstream.runtime.meta import is_session, meta_of
from everstream.runtime.presence import Presence
from everstream.runtime.quotas import Quotas
from everstream.runtime.read_back import log_of
from everstream.runtime.relay import Relay
from everstream.runtime.resting import Resting
from everstream.runtime.revoking import REVOKED, tell_revoked
from everstream.runtime.sessions import NOTHING, Sessions
from everstream.runtime.stopping import CANCEL, Stopping
from everstream.runtime.succession import LEAD, Succession
from everstream.runtime.tools import Tools
from everstream.runtime.turns import OnTurn, Turns
from everstream.runtime.wholly import Wholly
from everstream.settings import Settings
from everstream.store.base import State, Store

logger = structlog.get_logger(__name__)

LAST_COMMITS_S = 2.0
LOOK = b"look "
TEND_S = 1.0  # between two looks at which sessions are still in use


class Node:
    def __init__(
        self,
        settings: Settings,
        store: Store,
        providers: Registry,
        on_turn: OnTurn | None = None,
        tools: Tools | None = None,
    ) -> None:
        """`on_turn` is told of every answer that ended here."""
        self.id = "n_" + secrets.token_hex(8)
        self.settings = settings
        self.tools = Tools() if tools is None else tools  # an empty one is false, and may yet grow
        self.counters = Counters()
        self.draining = False
        self.on_revoked: Callable[[str], None] = lambda proof: None  # for whoever let somebody in by that proof
        self._store = store
        self._providers = providers
        self._clock = asyncio.get_running_loop().time
        self._tasks: set[asyncio.Task[None]] = set()
        self._wholly = Wholly()
        self._relays: set[Relay] = set()
        self._committers: dict[int, Committer] = {}
        self.hub = Hub(
            store, self._clock, self.counters, linger_s=settings.linger_s, feeds_max=settings.streams_in_memory
        )
        self.quotas = Quotas(store, settings, providers.price)
        self._follower = Follower(store, self.hub, self._clock)
        resting = Resting(store, self._clock)
        self._keeper = Keeper(store, self.hub, self.id, settings, self._clock, self.adopted, self.probe, resting)
        self._succession = Succession(self, store, self.hub, providers, settings, self.counters, resting)
        self._calls = Calls(store, self.id, self._answer)
        self.presence = Presence(store, self.id, self._clock)
        self.sessions = Sessions(
            self,
            store,
            self.hub,
            providers,
            settings,
            self._calls,
            self.tools,
            self._succession.heirs,
            self.counters,
            self._wholly,
        )
        self._making = Making(self, store, self.hub, providers, settings, self._succession.heirs, self._wholly)
        self._stopping = Stopping(store, self.hub, self.find, self.sessions, self._clock)
        self._turns = Turns(on_turn, self.sessions.asked) if on_turn is not None else None

    # ------------------------------------------------------------------ life

    async def start(self) -> None:
        """Raises EverstreamError `store.unavailable` where there is no store to work with."""
        await self._store.open(self.id, self._follower.on_push, self._on_message)
        try:
            self._follower.start()
            await self._keeper.start()
            self.presence.start()
        except BaseException:
            await self._follower.stop()
            await self._store.close()
            raise
        self.do(self._providers.prepare(), "prepare providers")
        self.do(self._tend_sessions(), "tend sessions")

    async def drain(self, timeout_s: float) -> None:
        """Take no new streams; give those that run time to end by themselves, and hand the others over."""
        self.draining = self._keeper.resting = True
        with contextlib.suppress(EverstreamError):
            await self.sessions.drain()
        await self._succession.drain(self._clock() + timeout_s, self._clock)

    async def stop(self) -> None:
        self.draining = True
        await self.sessions.give_up()
        await self.presence.stop()
        await self._calls.stop()
        await self._wholly.stop()
        await end(self._tasks)
        for committer in self._committers.values():
            await committer.stop(LAST_COMMITS_S)
        if self._turns is not None:
            await self._turns.stop()
        await self._follower.stop()
        await self._keeper.stop()
        await self.hub.close()
        await self._providers.aclose()
        await self._store.close()

    async def ready(self) -> None:
        """Raises EverstreamError where this node should get no new clients."""
        if self.draining:
            raise EverstreamError("node.draining", "this server is going away")
        await self._store.ping()

    @property
    def store(self) -> Store:
        return self._store

    @property
    def generating(self) -> int:
        """Generations under way here."""
        return len(self._relays)

    # ------------------------------------------------------------------ what clients ask

    async def models(self) -> list[ModelInfo]:
        return await self._providers.models()

    async def generate(self, request: Request, user: str, request_id: str | None) -> Feed:
        """Start a generation, or find the one that this request has started before."""
        if self.draining:
            raise EverstreamError("node.draining", "this server is going away: connect again")
        if len(self._relays) >= self.settings.streams_in_memory:
            raise EverstreamError("limit.streams", "this server runs as many streams as it can")
        try:
            await self.quotas.check(user, request)
        except EverstreamError:
            made = await self._making.known(user, request_id)  # what was accepted before, is
            if made is None:
                raise
        else:
            made = await self._making.generate(request, user, request_id)
        return await self.find(made, user)

    async def find(self, stream: str, user: str | None = None) -> Feed:
        """The feed of a stream that belongs to `user`; None: whoever's it is, for the node's own ends.

        Raises EverstreamError `stream.unknown`, also for a stream of somebody else, and `store.unavailable`.
        """
        try:
            partition_of(stream)
        except ValueError as error:
            raise EverstreamError("stream.unknown", "there is no such stream") from error
        feed = await self.hub.find(stream)
        if feed is None or (user is not None and not await self._may_read(feed, user)):
            raise EverstreamError("stream.unknown", "there is no such stream")
        return feed

    async def _may_read(self, feed: Feed, user: str) -> bool:
        if is_session(feed.stream):
            return self.sessions.view(feed).may(user, "read")
        return await self.sessions.may_read(feed.owner, user)

    async def find_for(self, stream: str, seen: Position, user: str | None = None) -> Feed:
        """The feed for a reader at `seen`; of which user, as for `find`.

        If the reader knows more than this node, the store is asked.  If that knows no more, it may have lost what the
        leader still holds, or our own commit is under way: the reader waits for that a while.
        """
        feed = await self.find(stream, user)
        if not feed.log.knows_less_than(seen):
            return feed
        if feed.led and seen.epoch > feed.log.epoch:
            state = await self._store.read(stream)
            if state is not None and state.head.epochs[-1][0] > feed.log.epoch:
                await self._step_down(feed)
        elif not feed.led:
            await self._follower.refresh(feed)
        await feed.catch_up(seen, lambda: self._follower.heal(feed))
        while feed.led and feed.waits_for_store(seen):  # what the reader saw is here, and not lost
            await feed.catch_up(seen, lambda: self.probe(feed))
        return await self.find(stream, user)  # it may have left the memory meanwhile, and he the session

    async def cancel(self, stream: str, user: str | None = None) -> int:
        """Stop a stream, wherever it is led; the offset of its `stream_end`, after which nothing comes.

        Of which user, as for `find`.
        """
        return await self._stopping.cancel(stream, user)

    async def stop_stream(self, stream: str) -> None:
        await self._stopping.stop_stream(stream)

    async def note(self, name: str, value: bytes) -> None:
        """Keep a small value about a stream for all nodes, for as long as streams are kept."""
        await self._store.remember(name, value, self.settings.stream_ttl_s)

    async def noted(self, name: str) -> bytes | None:
        return await self._store.recall(name)

    async def revoke(self, proof: str) -> int:
        """Tell every living node, this one too, that a proof holds no more; how many were told.

        Each calls its `on_revoked`.  Raises EverstreamError `store.unavailable`.
        """
        told, _ = await tell_revoked(self._store, proof)
        return told

    # ------------------------------------------------------------------ what the store says

    def fenced(self, feed: Feed) -> None:
        logger.warning("another node leads a stream of ours", stream=feed.stream)
        self.do(self._step_down(feed), f"step down {feed.stream}")

    def cancel_marked(self, feed: Feed) -> None:
        if feed.relay is not None:
            feed.relay.cancel()

    def _on_message(self, message: bytes) -> None:
        if self._calls.on_message(message) or self.presence.on_message(message):
            return
        if message.startswith(CANCEL):
            feed = self.hub.get(message[len(CANCEL) :].decode())
            if feed is not None and feed.led:
                self.cancel_marked(feed)
        elif message.startswith(LEAD):
            stream = message[len(LEAD) :].decode()
            self.do(self._succession.lead(stream), f"lead {stream}")
        elif message.startswith(LOOK):
            stream = message[len(LOOK) :].decode()
            self.do(self.sessions.look(stream), f"look at {stream}")
        elif message.startswith(REVOKED):
            self.on_revoked(message[len(REVOKED) :].decode())

    async def _step_down(self, feed: Feed) -> None:
        """Lead no more: drop what was not committed, read on as a follower."""
        if feed.relay is not None:
            feed.relay.depose()
        feed.led = False
        feed.log.fenced = True
        try:
            await self._store.follow(feed.stream)
            state = await self._store.read(feed.stream)
        except EverstreamError as error:
            logger.warning("what another leads now cannot be read yet", stream=feed.stream, error=error.message)
            self._follower.heal(feed)
            return
        if state is None:  # it was erased
            self.hub.drop(feed.stream)
        elif not feed.led:
            feed.replace(log_of(state), self._clock())

    def adopted(self, state: State) -> None:
        """Go on with a stream that this node has just adopted."""
        if is_session(state.head.stream):
            self.sessions.adopted(state)
        elif meta_of(state.head.meta).session:
            self.do(self.sessions.carry_on_turn(state), f"carry on {state.head.stream}")
        else:
            self._succession.carry_on(state, None)

    def take_up(self, state: State, request: Request | None) -> None:
        """Go on with a response stream of a session; None: nobody knows of it, so it ends."""
        self._succession.carry_on(state, request, wanted=request is not None)

    def end_unbegun(self, feed: Feed, reason: EndReason, error: EverstreamError | None = None) -> None:
        self._succession.end_unbegun(feed, reason, error)

    async def tell_leader(self, stream: str) -> None:
        """Have the leader of a response stream look at what its turn has come to.  A hint: it may be lost."""
        state = await self._store.read(stream, NOTHING)
        if state is not None and not state.head.ended:
            await self._store.send(state.head.leader, LOOK + stream.encode())

    async def _answer(self, question: bytes) -> bytes:
        return await self.sessions.answer(question)

    async def _tend_sessions(self) -> None:
        while True:
            await asyncio.sleep(TEND_S)
            try:
                await self.sessions.rest()
            except EverstreamError as error:
                logger.debug("the store is away", error=error.message)

    def probe(self, feed: Feed) -> None:
        self._committer(feed.stream).probe(feed)

    # ------------------------------------------------------------------ generations

    def _committer(self, stream: str) -> Committer:
        lane = self._store.lane(partition_of(stream))
        committer = self._committers.get(lane)
        if committer is None:
            patience_s = self.settings.commit_patience_ms / 1000 if self.settings.delivery == "available" else None
            committer = Committer(self._store, self.id, self, self.counters, self._clock, patience_s)
            self._committers[lane] = committer
            committer.start()
        return committer

    def start_relay(self, feed: Feed, request: Request, seam: SeamReason | None) -> None:
        self.counters.streams_started += seam is None
        relay = feed.relay = Relay(
            feed,
            request,
            self._providers.get(request.provider),
            self._committer(feed.stream),
            self.settings,
            self.counters,
            node=self.id,
            seam=seam,
            decide=self._succession.decide,
            price=self._providers.price,
            claim=self.quotas.claim,
        )
        self._relays.add(relay)
        self.do(self._run(feed, relay), f"relay {feed.stream}")

    def dirty(self, feed: Feed) -> None:
        self._committer(feed.stream).dirty(feed, urgent=True)

    def ended(self, feed: Feed) -> None:
        self._keeper.ended(feed)
        if self.quotas.kept:
            self.do(self.quotas.settle(feed), f"settle {feed.stream}")
        if self._turns is not None:
            self._turns.ended(feed)

    async def _run(self, feed: Feed, relay: Relay) -> None:
        try:
            await relay.run()
        finally:
            self._relays.discard(relay)
            if feed.relay is relay:
                feed.relay = None
            if feed.log.closed:
                self.ended(feed)
            if tokenizer.wanted() and not self.draining:
                self.do(tokenizer.prepare(), "load the vocabulary")

    def do(self, work: Coroutine[Any, Any, None], name: str) -> None:
        """Do it beside everything else; a failure is logged."""
        task = asyncio.create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._spent)

    def _spent(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        failure = None if task.cancelled() else task.exception()
        if isinstance(failure, EverstreamError):  # the store is away: whatever it was is found and done later
            logger.warning("a task of the node was given up", task=task.get_name(), error=failure.message)
        elif failure is not None:
            logger.error("a task of the node failed", task=task.get_name(), exc_info=failure)
