"""All sessions of a node: those it leads, and those it only reads.

    read      anywhere: the session's stream is followed here, and folded as far as it is stored
    order     here, where this node leads the session ── SessionLeader
              else at its leader, by a question ── Calls
              nobody leads it: this node wakes it, by adopting it
    rest      a session of which nothing has been heard for a while is led by nobody, and nobody looks after it

Who is no member of a session is told that it does not exist.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import time
from collections.abc import Callable, Mapping
from hashlib import blake2b
from typing import Any, Protocol

import msgspec
import structlog

from everstream.core.errors import EverstreamError
from everstream.core.events import EndReason, Request, SeamReason
from everstream.core.lease import owner_of, partition_for, partition_of, stream_id
from everstream.core.log import Log
from everstream.core.session import Session, unknown
from everstream.core.session_events import Role, SessionChanged
from everstream.providers.registry import Registry
from everstream.runtime import session_orders as orders
from everstream.runtime.calls import Calls
from everstream.runtime.counters import Counters
from everstream.runtime.hub import Feed, Hub
from everstream.runtime.meta import Owner, meta_of
from everstream.runtime.quotas import Quotas
from everstream.runtime.read_back import log_of
from everstream.runtime.session_eraser import erase
from everstream.runtime.session_index import SessionIndex
from everstream.runtime.session_leader import SessionLeader
from everstream.runtime.session_turns import SessionTurns, now_ms, request_of
from everstream.runtime.session_unbegun import Unbegun
from everstream.runtime.session_view import View, may_be_session
from everstream.runtime.session_writer import Deposed, SessionWriter
from everstream.runtime.succession import LEAD
from everstream.runtime.tools import ToolRunner, Tools
from everstream.runtime.wholly import Wholly
from everstream.settings import Settings
from everstream.store.base import Created, State, Store, StoreUnavailable

logger = structlog.get_logger(__name__)

ORDER_S = 12.0  # to find the leader of a session, and to have an order carried out: a dead leader's lease included
ASK_S = 3.0  # for one leader to answer, before it is asked anew who leads
AGAIN_S = 0.1  # between two looks for a leader
OWN = "own_"  # requests that were sent without an id get one that begins so
NOTHING = 2**53 - 1  # read after that: the head alone
KNOWN_S = 3.0  # for a turn to be named by its session, whose leader may just be saying it


class Household(Protocol):
    """What is needed of the node."""

    id: str
    draining: bool
    quotas: Quotas

    def start_relay(self, feed: Feed, request: Request, seam: SeamReason | None) -> None: ...

    def end_unbegun(self, feed: Feed, reason: EndReason, error: EverstreamError | None = None) -> None: ...

    async def stop_stream(self, stream: str) -> None: ...

    async def tell_leader(self, stream: str) -> None: ...

    def dirty(self, feed: Feed) -> None: ...

    def take_up(self, state: State, request: Request | None) -> None:
        """Go on with a response stream that this node has adopted; None: nobody knows it, so it ends."""
        ...


class Sessions:
    def __init__(
        self,
        node: Household,
        store: Store,
        hub: Hub,
        providers: Registry,
        settings: Settings,
        calls: Calls,
        tools: Tools,
        heirs: Callable[[], Any],
        counters: Counters,
        wholly: Wholly,
    ) -> None:
        self.index = SessionIndex(store, settings.session_ttl_s)
        self._node = node
        self._store = store
        self._hub = hub
        self._providers = providers
        self._settings = settings
        self._calls = calls
        self._tools = tools
        self._runner = ToolRunner(tools, settings.tool_timeout_s)
        self._heirs = heirs
        self._wholly = wholly
        self._counters = counters
        self._leaders: dict[str, SessionLeader] = {}
        self._unbegun = Unbegun(node, store, hub, tools, self._leaders, self.view)

    def __len__(self) -> int:
        return len(self._leaders)

    # ------------------------------------------------------------------ reading

    async def find(self, session: str, user: str) -> Feed:
        """The feed of a session that this user is a member of.

        Raises EverstreamError `session.unknown`, and `store.unavailable`.
        """
        if not may_be_session(session):
            raise unknown()
        feed = await self._hub.find(session)
        if feed is None or not self.view(feed).may(user, "read"):
            raise unknown()
        return feed

    @staticmethod
    def view(feed: Feed) -> Session:
        """What a session's readers may see of it."""
        seen = feed.view
        if not isinstance(seen, View) or seen.log is not feed.log:
            seen = feed.view = View(feed.log)
        seen.catch_up()
        return seen.session

    async def may_read(self, owner: Owner, user: str) -> bool:
        """Whether a user may read a stream of this owner."""
        if not owner.session:
            return owner.user == user
        try:
            await self.find(owner.session, user)
        except EverstreamError as error:
            if error.code != "session.unknown":
                raise
            return False
        return True

    # ------------------------------------------------------------------ making

    async def create(
        self, user: str, changed: SessionChanged, members: Mapping[str, Role], request_id: str | None
    ) -> str:
        """Make a session, or find the one that this request has made before; its id."""
        known_as = ""
        if request_id is not None:
            known_as = blake2b(f"session\0{user}\0{request_id}".encode(), digest_size=16).hexdigest()
        partition = partition_for(known_as or secrets.token_hex(8))
        name = stream_id(partition, secrets.token_bytes(17), "s")
        meta = msgspec.msgpack.encode(Owner(user))
        leads = self._settings.lead and not self._node.draining
        leader = "" if leads else owner_of(partition, await self._heirs()) or ""
        if not leads and not leader:
            raise EverstreamError("provider.overloaded", "no server that runs models is there", retry_after_ms=1000)
        created = await self._wholly.do(self._make(name, known_as, meta, leader), f"make {name}")
        order = orders.Create(user, msgspec.structs.replace(changed, created=now_ms(), by=user), dict(members))
        await self.perform(created.stream, order)
        return created.stream

    async def _make(self, name: str, known_as: str, meta: bytes, leader: str) -> Created:
        """Make a session in the store, led by `leader`, or else here."""
        self._hub.being_made.add(name)
        try:
            created = await self._store.create(name, known_as, meta, leader)
            if created.fresh and not leader:
                self._lead(self._hub.lead(Log(created.stream, created.epochs), meta))
        finally:
            self._hub.being_made.discard(name)
        if created.fresh and leader:
            await self._store.send(leader, LEAD + created.stream.encode())
        return created

    def _lead(self, feed: Feed) -> SessionLeader:
        """Lead a session from now on."""
        turns = SessionTurns(self._node, self._hub, self._providers, self._runner, self._tools, self._counters)
        writer = SessionWriter(
            feed, self._node, self._store, self._hub, self._settings, turns.left_out, turns.follow_up
        )
        turns.writer = writer
        leader = SessionLeader(writer, turns, self._hub, self._providers, self.index, self._node.quotas.check)
        before = self._leaders.get(feed.stream)
        if before is not None:
            turns.spawn(before.stop(), "the end of an earlier reign")
        self._leaders[feed.stream] = leader
        return leader

    # ------------------------------------------------------------------ orders

    async def perform(self, session: str, order: orders.Order) -> dict[str, Any]:
        """Have an order carried out by the session's leader, whoever that is; the fields of the reply.

        Raises EverstreamError, `session.unknown` among them.  Safe to repeat where the order is.
        """
        if not may_be_session(session):
            raise unknown()
        if isinstance(order, orders.Send) and order.request_id is None:
            # It may have to be given anew below, although it was carried out: a leader can die before it says so.
            order = msgspec.structs.replace(order, request_id=OWN + secrets.token_hex(10))
        deadline = time.monotonic() + ORDER_S
        while time.monotonic() < deadline:
            outcome = await self._here(session, order)
            if outcome is None:
                outcome = await self._elsewhere(session, order)
            if outcome is not None and not outcome.moved:
                return orders.fields_of(outcome)
            await asyncio.sleep(AGAIN_S)
        raise StoreUnavailable("nobody leads this session yet: try again")

    async def _here(self, session: str, order: orders.Order) -> orders.Outcome | None:
        """Carry an order out here; None where this node does not lead the session."""
        leader = self._leaders.get(session)
        if leader is None or not leader.writer.leads:
            return None
        try:
            fields = await leader.perform(order)
        except Deposed:
            return orders.Outcome(moved=True)
        except EverstreamError as error:
            return orders.failure(error)
        if isinstance(order, orders.Delete):
            with contextlib.suppress(StoreUnavailable):  # it is said, and `rest` goes on with it
                await self._erase(leader)
        return orders.Outcome(fields)

    async def _elsewhere(self, session: str, order: orders.Order) -> orders.Outcome | None:
        """Have somebody else do it, or wake the session.  None: look again."""
        state = await self._store.read(session, NOTHING)
        if state is None:
            raise unknown()
        leader = state.head.leader
        if not leader:
            if self._settings.lead and not self._node.draining:
                await self._wake(session, order)
                return await self._here(session, order)
            leader = owner_of(partition_of(session), await self._heirs()) or ""
        if not leader or leader == self._node.id:
            return None
        question = msgspec.msgpack.encode(orders.Question(session, order))  # type: ignore[arg-type]
        with contextlib.suppress(TimeoutError):
            return orders.outcome_decoder.decode(await self._calls.ask(leader, question, ASK_S))
        return None

    async def _wake(self, session: str, order: orders.Order) -> None:
        """Lead a session that rests; not for who is no member.  Raises EverstreamError `session.unknown`."""
        if not isinstance(order, orders.Create):
            await self.find(session, order.user)
        await self._wholly.do(self._adopt(session), f"wake {session}")

    async def _adopt(self, session: str) -> None:
        state = await self._store.adopt(session, "")
        if state is not None:
            self.adopted(state)

    async def answer(self, question: bytes) -> bytes:
        """Carry out what another node asks.  Never raises."""
        try:
            asked = orders.question_decoder.decode(question)
            outcome = await self._here(asked.session, asked.order)
            if outcome is None and self._settings.lead and not self._node.draining:
                await self._wake(asked.session, asked.order)
                outcome = await self._here(asked.session, asked.order)
        except EverstreamError as error:
            outcome = orders.failure(error)
        except Exception:
            logger.exception("another node's order could not be carried out")
            outcome = orders.failure(EverstreamError("internal", "the server failed to carry this out"))
        return msgspec.msgpack.encode(outcome or orders.Outcome(moved=True))

    # ------------------------------------------------------------------ taking over

    def adopted(self, state: State) -> None:
        """This node leads a session that it has not led, or has lost."""
        leader = self._lead(self._hub.lead(log_of(state), state.head.meta))
        if leader.session.deleted:
            leader.turns.spawn(self._erase(leader), "what was left of it")
        else:
            leader.carry_on()

    async def carry_on_turn(self, state: State) -> None:
        """Go on with a response stream of a session, which this node has adopted."""
        meta = meta_of(state.head.meta)
        deadline = time.monotonic() + KNOWN_S
        while True:
            feed = await self._hub.find(meta.session)
            session = self.view(feed) if feed is not None else Session()
            turn = session.turn_of(state.head.stream)
            if turn is not None or feed is None or time.monotonic() > deadline:
                break
            await asyncio.sleep(AGAIN_S)
        if turn is None and not state.head.tail:
            named = await self._unbegun.naming(state.head.stream, meta.session)
            if named is None:
                return
            session, turn = named, named.turn_of(state.head.stream)
        unbegun = turn is not None and turn.state == "queued" and not state.head.tail
        if unbegun and not state.head.cancelled:
            self._hub.lead(log_of(state), state.head.meta)  # its turn has yet to come
            return
        request = request_of(session, turn, meta.request, self._tools) if turn is not None else None
        self._node.take_up(state, request)

    async def look(self, stream: str) -> None:
        """The turn of a stream that this node leads has come to something: begin the stream, or end it."""
        await self._unbegun.look(stream)

    async def asked(self, owner: Owner, stream: str, template: Request) -> Request:
        """The whole request behind a stream of a session, as far as its messages are still there."""
        feed = await self._hub.find(owner.session)
        if feed is None:
            return template
        session = self.view(feed)
        turn = session.turn_of(stream)
        if turn is not None:
            return request_of(session, turn, template, self._tools)
        answer = next((m for m in reversed(session.messages.values()) if m.stream == stream and m.parent), None)
        messages = session.asked(answer.parent) if answer is not None and answer.parent else []
        return msgspec.structs.replace(template, messages=messages)

    # ------------------------------------------------------------------ letting go

    async def _erase(self, leader: SessionLeader) -> None:
        """Erase a session that was deleted, and all that belongs to it."""
        await erase(leader, self._node, self._store, self._hub, self.index)
        self._leaders.pop(leader.name, None)
        await leader.stop()

    async def rest(self) -> None:
        """Let go of sessions of which nothing was heard for a while, and see to what was not begun."""
        await self._unbegun.tend()
        now = time.monotonic()
        for name, leader in list(self._leaders.items()):
            if not leader.writer.leads:
                if self._leaders.get(name) is leader:  # and none that came after it
                    del self._leaders[name]
                await leader.stop()
            elif leader.session.deleted and not leader.writer.log.dirty:  # and another may lead it while it is
                await self._erase(leader)
            elif leader.idle and now - leader.used_at >= self._settings.session_rest_s:
                await self._let_go(leader, None)

    async def drain(self) -> None:
        """Give all sessions to others: what runs in them can end here all the same."""
        heirs = await self._heirs()
        for leader in list(self._leaders.values()):
            heir = owner_of(partition_of(leader.name), heirs)
            if heir is not None or leader.idle:
                await self._let_go(leader, heir)

    async def give_up(self) -> None:
        """The node stops: whoever comes next leads what was led here."""
        for leader in list(self._leaders.values()):
            with contextlib.suppress(EverstreamError):
                await self._let_go(leader, None if leader.idle else "")
        for leader in list(self._leaders.values()):
            await leader.stop()
        await self._runner.stop()

    async def _let_go(self, leader: SessionLeader, heir: str | None) -> None:
        """Stop leading a session, and name who is next; None: nobody, until somebody needs it."""
        feed = leader.feed
        async with leader.writer.lock:
            if not leader.writer.leads or leader.writer.log.dirty or (heir is None and not leader.turns.quiet):
                return
            log = leader.writer.log
            await self._store.follow(leader.name)  # those who read it here go on reading
            if heir is None:
                gone = await self._store.rest(leader.name, log.epoch, log.tail)
            else:
                gone = await self._store.hand_over(leader.name, log.epoch, log.tail, heir or "")
            if not gone:
                return
            feed.led = False
        self._leaders.pop(leader.name, None)
        if heir:
            await self._store.send(heir, LEAD + leader.name.encode())
        await leader.stop()
