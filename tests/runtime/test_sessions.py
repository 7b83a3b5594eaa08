"""Sessions on a node: turns begin, wait, stop and end, and everybody who reads the stream reads the same."""

from __future__ import annotations

from typing import Any

import pytest
from tests.runtime.conftest import HEADERS, CountingStore, Hand, running, until

from everstream.core.errors import EverstreamError
from everstream.core.events import DeltaToolCall, Params, Request, Tool
from everstream.core.session import Session
from everstream.core.session_events import SessionChanged
from everstream.providers.base import Finish
from everstream.runtime import session_orders as orders
from everstream.runtime.node import Node
from everstream.store.memory import MemoryStore

ANN, BEN, EVE = "ann", "ben", "eve"


def asking(model: str = "hand/any", **extra: Any) -> Request:
    return Request(model, [], Params(), extra)


async def made(node: Node, **members: Any) -> str:
    return await node.sessions.create(ANN, SessionChanged(), members, None)


async def view(node: Node, session: str) -> Session:
    feed = await node.sessions.find(session, ANN)
    return node.sessions.view(feed)


async def send(
    node: Node, session: str, content: str | None = "hello", user: str = ANN, **given: Any
) -> dict[str, Any]:
    given.setdefault("follows", content is not None and "parent" not in given)
    request = given.pop("request", None) or asking(given.pop("model", "hand/any"))
    return await node.sessions.perform(session, orders.Send(user, request, content, **given))


async def said(hand: Hand, number: int, *words: str) -> None:
    """The provider's call of that number says these words, and ends."""
    await until(lambda: len(hand.calls) > number)
    call = hand.calls[number]
    call.say(HEADERS)
    call.words(*words)
    call.end()


def talk(session: Session) -> list[tuple[str, Any]]:
    return [(message.role, message.content) for message in session.messages.values()]


async def quiet(node: Node, session: str) -> Session:
    """The session once nothing runs in it."""
    feed = await node.sessions.find(session, ANN)
    await until(lambda: not node.sessions.view(feed).turns)
    return node.sessions.view(feed)


async def test_a_message_is_answered_and_the_answer_is_a_message() -> None:
    hand = Hand()
    async with running(MemoryStore(), hand) as node:
        session = await made(node)
        sent = await send(node, session, "What is it?")
        await said(hand, 0, "It ", "is.")
        state = await quiet(node, session)
        assert talk(state) == [("user", "What is it?"), ("assistant", "It is.")]
        assert state.title == "What is it?"
        question, answer = state.messages.values()
        assert (question.parent, answer.parent) == (None, question.id)
        assert (question.id, answer.stream) == (sent["message"], sent["stream"])
        assert [m.content for m in hand.calls[0].request.messages] == ["What is it?"]


async def test_the_model_is_asked_with_the_whole_path() -> None:
    hand = Hand()
    async with running(MemoryStore(), hand) as node:
        session = await made(node)
        await send(node, session, "one")
        await said(hand, 0, "first")
        first = await quiet(node, session)
        await send(node, session, "two")
        await said(hand, 1, "second")
        await quiet(node, session)
        assert [m.content for m in hand.calls[1].request.messages] == ["one", "first", "two"]
        question = next(iter(first.messages.values()))
        await send(node, session, "other", parent=None)
        await said(hand, 2, "third")
        await send(node, session, None, parent=question.id)
        await said(hand, 3, "fourth")
        state = await quiet(node, session)
        assert [m.content for m in hand.calls[2].request.messages] == ["other"]
        assert [m.content for m in hand.calls[3].request.messages] == ["one"]
        assert [m.content for m in state.messages.values() if m.parent == question.id] == ["first", "fourth"]


async def test_the_same_send_again_starts_nothing() -> None:
    hand = Hand()
    async with running(MemoryStore(), hand) as node:
        session = await made(node)
        first = await send(node, session, "hi", request_id="r1")
        again = await send(node, session, "hi", request_id="r1")
        await said(hand, 0, "yes")
        await quiet(node, session)
        later = await send(node, session, "hi", request_id="r1")
        assert first == again == later
        assert len(hand.calls) == 1


async def test_what_is_sent_meanwhile_waits_and_then_follows() -> None:
    hand = Hand()
    async with running(MemoryStore(), hand) as node:
        session = await made(node)
        await send(node, session, "one")
        await send(node, session, "two")
        await send(node, session, "three")
        state = await view(node, session)
        assert [turn.queued.content for turn in state.queue if turn.queued] == ["two", "three"]
        assert talk(state) == [("user", "one")]
        for number, word in enumerate(("a", "b", "c")):
            await said(hand, number, word)
        state = await quiet(node, session)
        assert [content for _, content in talk(state)] == ["one", "a", "two", "b", "three", "c"]
        assert [m.content for m in hand.calls[2].request.messages] == ["one", "a", "two", "b", "three"]


async def test_a_queued_turn_is_removed_by_a_cancel_of_its_stream() -> None:
    hand = Hand()
    async with running(MemoryStore(), hand) as node:
        session = await made(node)
        await send(node, session, "one")
        queued = await send(node, session, "two")
        assert await node.cancel(queued["stream"], ANN) == 1
        assert not (await view(node, session)).queue
        await said(hand, 0, "a")
        state = await quiet(node, session)
        assert [content for _, content in talk(state)] == ["one", "a"]
        assert len(hand.calls) == 1


async def test_an_interruption_stops_what_runs_and_goes_first() -> None:
    hand = Hand()
    async with running(MemoryStore(), hand) as node:
        session = await made(node)
        await send(node, session, "one")
        await send(node, session, "later")
        await until(lambda: hand.calls)
        hand.calls[0].say(HEADERS)
        hand.calls[0].words("half")
        feed = next(feed for feed in node.hub if feed.relay is not None)
        await until(lambda: feed.log.committed > 3)
        await send(node, session, "stop", on_busy="interrupt")
        await said(hand, 1, "now")
        await said(hand, 2, "last")
        state = await quiet(node, session)
        assert [content for _, content in talk(state)] == ["one", "half", "stop", "now", "later", "last"]
        assert [m.reason for m in state.messages.values() if m.role == "assistant"] == ["cancelled", None, None]


async def test_a_busy_session_refuses_or_runs_beside() -> None:
    hand = Hand()
    async with running(MemoryStore(), hand, session_turns=2) as node:
        session = await made(node)
        await send(node, session, "one")
        with pytest.raises(EverstreamError, match=r"session\.busy"):
            await send(node, session, "two", on_busy="reject")
        await send(node, session, "beside", on_busy="parallel")
        with pytest.raises(EverstreamError, match=r"limit\.streams"):
            await send(node, session, "three", on_busy="parallel")
        await said(hand, 1, "b")
        await said(hand, 0, "a")
        state = await quiet(node, session)
        roots = [m.content for m in state.messages.values() if m.parent is None]
        assert roots == ["one", "beside"]


async def test_an_answer_that_calls_tools_waits_for_all_results() -> None:
    hand = Hand()
    async with running(MemoryStore(), hand) as node:
        session = await made(node, ben="viewer")
        sent = await send(node, session, "weather?", request=Request("hand/any", [], Params(tools=[Tool("w")])))
        await until(lambda: hand.calls)
        hand.calls[0].say(HEADERS)
        hand.calls[0].say(DeltaToolCall(0, "{}", "c1", "w"), DeltaToolCall(1, "{}", "c2", "w"))
        hand.calls[0].end(Finish("tool_calls"))
        feed = await node.sessions.find(session, ANN)
        await until(lambda: any(t.state == "waiting" for t in node.sessions.view(feed).turns.values()))
        stream = sent["stream"]
        with pytest.raises(EverstreamError, match=r"auth\.forbidden"):
            await node.sessions.perform(session, orders.Results(BEN, stream, [orders.Given("c1", "x")]))
        half = await node.sessions.perform(session, orders.Results(ANN, stream, [orders.Given("c1", "sun")]))
        assert half["missing"] == ["c2"]
        whole = await node.sessions.perform(session, orders.Results(ANN, stream, [orders.Given("c2", "rain", True)]))
        assert whole["turn"] == sent["turn"]
        assert whole["stream"] != stream
        await said(hand, 1, "Both.")
        state = await quiet(node, session)
        assert [role for role, _ in talk(state)] == ["user", "assistant", "tool", "tool", "assistant"]
        asked = hand.calls[1].request.messages
        assert [(m.role, m.call_id, m.is_error) for m in asked[2:]] == [("tool", "c1", False), ("tool", "c2", True)]
        assert [call.call_id for call in asked[1].tool_calls or []] == ["c1", "c2"]


async def test_another_node_has_its_orders_carried_out_by_the_leader() -> None:
    hand, other = Hand(), Hand()
    store = CountingStore()
    async with running(store, hand) as node, running(store.beside(), other) as far:
        session = await made(node)
        await send(far, session, "from afar", request_id="x")
        assert await send(node, session, "from afar", request_id="x") == await send(
            far, session, "from afar", request_id="x"
        )
        await said(hand, 0, "yes")
        near, there = await quiet(node, session), await quiet(far, session)
        assert talk(near) == talk(there) == [("user", "from afar"), ("assistant", "yes")]
        assert not other.calls
        with pytest.raises(EverstreamError, match=r"session\.unknown"):
            await send(far, session, "me too", user=EVE)


async def test_a_session_that_rests_is_woken_by_whoever_needs_it() -> None:
    hand, other = Hand(), Hand()
    store = CountingStore()
    async with running(store, hand, session_rest_s=0.0) as node, running(store.beside(), other) as far:
        session = await made(node)
        await until(lambda: not len(node.sessions))
        assert await store.open_streams() == []
        await send(far, session, "wake up")
        await said(other, 0, "good morning")
        assert talk(await quiet(far, session)) == talk(await quiet(node, session))


async def test_a_session_that_is_deleted_leaves_nothing() -> None:
    hand = Hand()
    store = MemoryStore()
    async with running(store, hand) as node:
        session = await made(node, ben="editor")
        await send(node, session, "one")
        await until(lambda: hand.calls)
        with pytest.raises(EverstreamError, match=r"auth\.forbidden"):
            await node.sessions.perform(session, orders.Delete(BEN))
        await node.sessions.perform(session, orders.Delete(ANN))
        with pytest.raises(EverstreamError, match=r"session\.unknown"):
            await node.sessions.find(session, ANN)
        assert not store.disk.records
        assert hand.calls[0].closed
        assert await node.sessions.index.page(ANN, None, 10) == ([], None)


async def test_the_list_shows_what_was_used_last_first_in_pages() -> None:
    async with running(MemoryStore(), Hand()) as node:
        names = [await node.sessions.create(ANN, SessionChanged(title=str(n)), {}, None) for n in range(5)]
        seen: list[str] = []
        below = None
        while True:
            page, below = await node.sessions.index.page(ANN, below, 2)
            seen += [card["session"] for card in page]
            if below is None:
                break
        assert sorted(seen) == sorted(names)
        assert len(seen) == 5


async def test_the_same_results_again_are_answered_as_the_first_time() -> None:
    hand = Hand()
    async with running(MemoryStore(), hand) as node:
        session = await made(node)
        sent = await send(node, session, "weather?")
        await until(lambda: hand.calls)
        hand.calls[0].say(HEADERS)
        hand.calls[0].say(DeltaToolCall(0, "{}", "c1", "w"))
        hand.calls[0].end(Finish("tool_calls"))
        feed = await node.sessions.find(session, ANN)
        await until(lambda: any(t.state == "waiting" for t in node.sessions.view(feed).turns.values()))
        results = orders.Results(ANN, sent["stream"], [orders.Given("c1", "sun")])
        first = await node.sessions.perform(session, results)
        assert await node.sessions.perform(session, results) == first
        await said(hand, 1, "Sunny.")
        await quiet(node, session)
        assert await node.sessions.perform(session, results) == first
        with pytest.raises(EverstreamError, match=r"request\.not_found"):
            await node.sessions.perform(session, orders.Results(ANN, sent["stream"], [orders.Given("c1", "rain")]))
        assert len(hand.calls) == 2


async def test_a_turn_waits_for_its_results_while_the_session_rests() -> None:
    hand, other = Hand(), Hand()
    store = CountingStore()
    async with running(store, hand, session_rest_s=0.0) as node, running(store.beside(), other) as far:
        session = await made(node)
        request = Request("hand/any", [], Params(tools=[Tool("w")], temperature=0.5))
        sent = await send(node, session, "weather?", request=request)
        await until(lambda: hand.calls)
        hand.calls[0].say(HEADERS)
        hand.calls[0].say(DeltaToolCall(0, "{}", "c1", "w"))
        hand.calls[0].end(Finish("tool_calls"))
        await until(lambda: not len(node.sessions))
        results = orders.Results(ANN, sent["stream"], [orders.Given("c1", "sun")])
        await far.sessions.perform(session, results)
        await said(other, 0, "Sunny.")
        state = await quiet(far, session)
        assert [content for _, content in talk(state)][-2:] == ["sun", "Sunny."]
        assert other.calls[0].request.params == request.params


async def test_a_reader_that_stayed_knows_the_epoch_of_what_it_holds() -> None:
    hand, other = Hand(), Hand()
    store = CountingStore()
    async with running(store, hand, session_rest_s=0.0) as node, running(store.beside(), other) as far:
        session = await made(node)
        await until(lambda: not len(node.sessions))
        await send(far, session, "wake up")
        await said(other, 0, "good morning")
        await quiet(far, session)
        feed = await node.sessions.find(session, ANN)
        await until(lambda: feed.log.committed >= 8)
        epochs = [entry.epoch for entry in feed.log.entries if isinstance(entry, SessionChanged) and entry.epoch]
        assert epochs == [feed.log.epoch]


async def test_a_session_that_rests_is_woken_without_a_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    hand = Hand()
    async with running(MemoryStore(), hand, session_rest_s=0.0) as node:
        session = await made(node)
        await until(lambda: not len(node.sessions))
        monkeypatch.setattr("everstream.runtime.sessions.AGAIN_S", 3_600)
        await send(node, session, "wake up")
        await said(hand, 0, "good morning")
        assert talk(await quiet(node, session))[-1] == ("assistant", "good morning")
