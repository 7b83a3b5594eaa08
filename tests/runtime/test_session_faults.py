"""Sessions where something goes wrong at the worst moment: each claim is one that chance has refuted once."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

import msgspec
import pytest
from tests.runtime.conftest import HEADERS, CountingStore, Hand, running, until

from everstream.core.errors import EverstreamError
from everstream.core.events import DeltaToolCall, Params, Request
from everstream.core.lease import stream_id
from everstream.core.log import Log
from everstream.core.session import Session
from everstream.core.session_events import SessionChanged
from everstream.providers.base import Finish
from everstream.runtime import session_orders as orders
from everstream.runtime import session_turns, session_unbegun
from everstream.runtime.meta import Meta
from everstream.runtime.node import Node
from everstream.runtime.session_leader import SessionLeader
from everstream.runtime.session_turns import SessionTurns
from everstream.store.base import StoreUnavailable

ANN = "ann"


class House:
    """A node, its model, and a session of `ann` on it."""

    def __init__(self, node: Node, hand: Hand, store: CountingStore, session: str) -> None:
        self.node, self.hand, self.store, self.session = node, hand, store, session

    @property
    def leader(self) -> SessionLeader:
        return self.node.sessions._leaders[self.session]

    @property
    def stored(self) -> Session:
        return Session(self.store.disk.records[self.session].entries)

    async def perform(self, order: Any, node: Node | None = None) -> dict[str, Any]:
        return await (node or self.node).sessions.perform(self.session, order)

    async def send(self, content: str = "hello", on_busy: Any = "queue", **given: Any) -> dict[str, Any]:
        order = orders.Send(ANN, Request("hand/any", [], Params()), content, None, True, on_busy, **given)
        return await self.perform(order)

    async def calls_a_tool(self, number: int) -> None:
        """The model's answer of that number calls a tool of the client's."""
        await until(lambda: len(self.hand.calls) > number)
        self.hand.calls[number].say(HEADERS)
        self.hand.calls[number].say(DeltaToolCall(0, "{}", f"c{number}", "theirs"))
        self.hand.calls[number].end(Finish("tool_calls"))

    async def waits(self, count: int = 1) -> None:
        await until(lambda: [turn.state for turn in self.stored.turns.values()].count("waiting") == count)

    async def answers(self, number: int, *words: str) -> None:
        await until(lambda: len(self.hand.calls) > number)
        self.hand.calls[number].say(HEADERS)
        self.hand.calls[number].words(*words)
        self.hand.calls[number].end()


@contextlib.asynccontextmanager
async def housing(**given: Any) -> AsyncIterator[House]:
    hand, store = Hand(), CountingStore()
    async with running(store, hand, **given) as node:
        session = await node.sessions.create(ANN, SessionChanged(), {}, None)
        yield House(node, hand, store, session)


@pytest.fixture(autouse=True)
def often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session_turns, "AGAIN_S", 0.01)


async def test_an_adopter_carries_on_although_the_store_goes_away_meanwhile(monkeypatch: pytest.MonkeyPatch) -> None:
    recall = SessionTurns._recall
    tries: list[str] = []

    async def at_the_second_try(self: SessionTurns, turn: Any) -> None:
        tries.append(turn.id)
        if len(tries) == 1:
            raise StoreUnavailable()
        await recall(self, turn)

    async with housing() as house:
        sent = await house.send()
        await house.calls_a_tool(0)
        await house.waits()
        await house.node.sessions._let_go(house.leader, None)
        monkeypatch.setattr(SessionTurns, "_recall", at_the_second_try)
        await house.perform(orders.Results(ANN, sent["stream"], [orders.Given("c0", "sun")]))
        await house.answers(1, "sunny")
        await until(lambda: not house.stored.turns)
        assert [message.content for message in house.stored.messages.values()] == ["hello", "", "sun", "sunny"]
        assert len(tries) == 2


async def test_who_asks_while_a_session_is_let_go_of_is_answered_by_whoever_leads_it_then(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with housing() as house:
        leader, rest = house.leader, house.store.rest

        async def slowly(*arguments: Any) -> bool:
            await until(lambda: leader._under_way)
            return await rest(*arguments)

        monkeypatch.setattr(house.store, "rest", slowly)
        letting_go = asyncio.create_task(house.node.sessions._let_go(leader, None))
        await until(leader.writer.lock.locked)
        sent = await house.send()
        await letting_go
        monkeypatch.setattr(house.store, "rest", rest)
        await house.answers(0, "here")
        await until(lambda: not house.stored.turns)
        assert house.leader is not leader
        assert sent["message"] in house.stored.messages


async def test_a_send_without_an_id_is_carried_out_once_though_its_reply_is_lost(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with housing() as house, running(house.store.beside(), Hand()) as far:
        ask = far._calls.ask
        asked: list[bytes] = []

        async def lost(node: str, question: bytes, timeout_s: float) -> bytes:
            asked.append(question)
            answer = await ask(node, question, timeout_s)
            if len(asked) == 1:
                raise TimeoutError
            return answer

        monkeypatch.setattr(far._calls, "ask", lost)
        order = orders.Send(ANN, Request("hand/any", [], Params()), "once", None, True)
        sent = await house.perform(order, far)
        assert len(asked) == 2
        assert list(house.stored.messages) == [sent["message"]]
        assert list(house.stored.turns) == [sent["turn"]]


async def test_a_stop_that_comes_with_the_calls_of_an_answer_ends_its_turn() -> None:
    async with housing() as house:
        sent = await house.send()
        feed = house.node.hub.get(sent["stream"])
        assert feed is not None
        async with house.leader.writer.lock:  # nobody can conclude it yet
            await house.calls_a_tool(0)
            await until(lambda: feed.log.settled)
            await house.perform(orders.Stop(ANN, sent["stream"]))
            assert house.stored.turns
        await until(lambda: not house.stored.turns)


async def test_an_interruption_whose_stop_failed_is_made_good_when_it_is_sent_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with housing() as house:
        await house.send("one")
        await house.calls_a_tool(0)
        await house.waits()
        account = SessionTurns._account

        async def away(self: SessionTurns, turn: Any) -> Any:
            raise StoreUnavailable()

        monkeypatch.setattr(SessionTurns, "_account", away)
        with pytest.raises(EverstreamError, match=r"store\.unavailable"):
            await house.send("now", "interrupt", request_id="q1")
        assert [turn.state for turn in house.stored.turns.values()] == ["waiting", "queued"]
        monkeypatch.setattr(SessionTurns, "_account", account)
        await house.send("now", "interrupt", request_id="q1")
        await house.answers(1, "here")
        await until(lambda: not house.stored.turns)
        assert [m.content for m in house.stored.messages.values() if m.role == "user"] == ["one", "now"]


async def test_what_was_said_before_an_error_is_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    async with housing() as house:
        for number, on_busy in enumerate(("queue", "parallel")):
            await house.send("hello", on_busy)
            await house.calls_a_tool(number)
        await house.waits(2)
        account = SessionTurns._account
        left = 1

        async def away_later(self: SessionTurns, turn: Any) -> Any:
            nonlocal left
            left -= 1
            if left < 0:
                raise StoreUnavailable()
            return await account(self, turn)

        monkeypatch.setattr(SessionTurns, "_account", away_later)
        with pytest.raises(EverstreamError, match=r"store\.unavailable"):
            await house.perform(orders.Stop(ANN))
        assert len(house.leader.session.turns) == len(house.stored.turns) == 2
        assert house.leader.writer.conversation.take() == []


async def test_a_stream_that_was_made_and_never_named_does_not_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session_unbegun, "TENDED_S", 0.0)
    async with housing() as house:
        name = stream_id(1, b"x" * 17)
        meta = msgspec.msgpack.encode(Meta(Request("hand/any", []), ANN, house.session, "t_1"))
        made = await house.store.create(name, "", meta)
        house.node.hub.lead(Log(name, made.epochs), meta)
        await house.node.sessions.rest()
        assert name not in house.store.disk.records
        assert house.node.hub.get(name) is None


async def test_a_queued_stream_stays_until_its_turn_comes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session_unbegun, "TENDED_S", 0.0)
    async with housing() as house:
        await house.send("one")
        queued = await house.send("two")
        await house.node.sessions.rest()
        assert not house.store.disk.records[queued["stream"]].entries
        await house.answers(0, "a")
        await house.answers(1, "b")
        await until(lambda: not house.stored.turns)


async def test_nothing_is_erased_before_it_is_stored_that_it_is_to_be() -> None:
    async with housing() as house:
        house.store.open_gate.clear()
        deleting = asyncio.create_task(house.perform(orders.Delete(ANN)))
        await until(lambda: house.leader.session.deleted)
        await house.node.sessions.rest()
        assert house.session in house.store.disk.records
        house.store.open_gate.set()
        await deleting
        assert house.store.disk.records == {}
