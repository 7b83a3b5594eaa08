"""Sessions in the client before the server itself: several people, one conversation, connections that do not last."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import pytest
from tests.gateway.applications import under_ours
from tests.gateway.conftest import count_text
from tests.house.fake_server import until

from everstream.client import Client
from everstream.core.errors import EverstreamError
from everstream.gateway.application import App
from everstream.gateway.auth import Credentials
from everstream.reconnect import Backoff
from everstream.session_client import Session
from everstream.session_reducer import SessionState

WAIT_S = 20.0
MODEL = "scripted/count"
SLOW: dict[str, Any] = {"tokens": 60, "rate": 150}
QUICK: dict[str, Any] = {"tokens": 5, "rate": 0}


@pytest.fixture
async def address() -> AsyncIterator[str]:
    async def authenticate(shown: Credentials) -> str | None:
        return shown.token

    async with under_ours(App(authenticate=authenticate)) as address:
        yield address


@asynccontextmanager
async def people(address: str, *names: str) -> AsyncIterator[list[Client]]:
    async with AsyncExitStack() as stack, asyncio.timeout(WAIT_S):
        yield [
            await stack.enter_async_context(
                Client(f"ws://{address}", name, "msgpack" if name == "eve" else "json", backoff=Backoff(0.01, 0.05))
            )
            for name in names
        ]


def cut(client: Client) -> None:
    socket = client._link._socket
    if socket is not None:
        socket.transport.abort()


def held(state: SessionState) -> Any:
    """What all members hold alike."""
    return state.title, state.members, state.messages, state.turns, state.queue, state.offset


def contents(session: Session) -> list[Any]:
    return [message["content"] for message in session.path()]


async def test_people_whose_connections_are_cut_hold_the_same_conversation(address: str) -> None:
    async with people(address, "ann", "bob", "eve") as clients:
        session = await clients[0].create_session(model=MODEL, members={"bob": "editor", "eve": "viewer"})
        sessions = [session, *[await client.open_session(session.id) for client in clients[1:]]]
        for n in range(4):
            stream = await sessions[n % 2].send(f"say {n}", **SLOW)
            for offset in (10, 30):
                await until(lambda at=offset, read=stream: read.state.offset >= at)
                cut(clients[n % 3])
                cut(clients[(n + offset) % 3])
            assert (await stream.result()).text == count_text(60)
            for other in sessions:
                assert (await (await other.stream(stream.id)).result()).text == count_text(60)
        await until(lambda: all(held(s.state) == held(session.state) for s in sessions) and not session.state.turns)
        assert contents(session) == [text for n in range(4) for text in (f"say {n}", count_text(60))]
        assert [other.state.role for other in sessions] == ["owner", "editor", "viewer"]
        with pytest.raises(EverstreamError, match=r"auth\.forbidden"):
            await sessions[2].send("me too")


async def test_what_waits_in_the_queue_comes_in_its_turn_and_may_be_taken_out(address: str) -> None:
    async with people(address, "ann") as (client,):
        session = await client.create_session(model=MODEL)
        first = await session.send("first", **SLOW)
        second = await session.send("second", **QUICK)
        third = await session.send("third", **QUICK)
        await until(lambda: len(session.state.queue) == 2)
        await second.cancel()
        assert (await second.result()).reason == "cancelled"
        urgent = await session.send("urgent", on_busy="interrupt", **QUICK)
        assert (await first.result()).reason == "cancelled"
        assert (await urgent.result()).text == (await third.result()).text == count_text(5)
        await until(lambda: not session.state.turns)
        path = session.path()
        assert [m["content"] for m in path if m["role"] == "user"] == ["first", "urgent", "third"]
        assert path[1]["reason"] == "cancelled"


async def test_branches_are_made_and_walked(address: str) -> None:
    async with people(address, "ann") as (client,):
        session = await client.create_session(model=MODEL)
        first = await session.send("one", **QUICK)
        await first.result()
        await until(lambda: session.state.answer_by(first.id))
        again = await session.regenerate(session.path()[-1]["id"], tokens=3, rate=0)
        assert (await again.result()).text == count_text(3)
        edited = await session.edit(first.message or "", "two", **QUICK)
        await edited.result()
        await until(lambda: len(session.state.messages) == 5)
        assert contents(session) == ["two", count_text(5)]
        answers = session.state.branches(first.message)
        assert [m["content"] for m in answers] == [count_text(5), count_text(3)]
        assert [m["content"] for m in session.path(answers[0]["id"])] == ["one", count_text(5)]
        assert "two" in await session.export()
        assert len(json.loads(await session.export("json"))["messages"]) == 5


async def test_results_of_a_clients_tools_carry_the_turn_on(address: str) -> None:
    tool = {"name": "look", "description": "", "parameters": {}}
    async with people(address, "ann") as (client,):
        session = await client.create_session(model=MODEL)
        call = {"name": "look", "arguments": {"at": "it"}}
        stream = await session.send("look", tools=[tool], tool_call=call, **QUICK)
        result = await stream.result()
        assert result.finish_reason == "tool_calls"
        await until(lambda: session.state.turns[stream.turn or ""].state == "waiting")
        [call_id] = session.state.turns[stream.turn or ""].missing
        cut(client)
        goes_on = await session.tool_result(stream, {call_id: {"seen": True}})
        assert goes_on is not None
        assert goes_on.turn == stream.turn
        assert (await goes_on.result()).finish_reason == "stop"
        await until(lambda: not session.state.turns)
        assert [m["role"] for m in session.path()] == ["user", "assistant", "tool", "assistant"]
        assert session.path()[2]["content"] == '{"seen":true}'


async def test_the_rounds_of_a_turn_are_read_one_after_the_other(address: str) -> None:
    tool = {"name": "look", "description": "", "parameters": {}}
    async with people(address, "ann", "bob") as (ann, bob):
        session = await ann.create_session(model=MODEL, members={"bob": "editor"})
        other = await bob.open_session(session.id)
        call = {"name": "look", "arguments": {}}
        first = await session.send("look", tools=[tool], tool_call=call, **QUICK)
        seen, given = [], None
        async for stream in session.rounds(first):
            result = await stream.result()
            seen.append(result.finish_reason)
            if result.tool_calls:
                theirs = await other.stream(stream.id)
                calls = (await theirs.result()).tool_calls
                await until(lambda: other.state.answer_by(first.id))
                given = await other.tool_result(theirs, {call["call_id"]: "six" for call in calls})
        assert seen == ["tool_calls", "stop"]
        assert given is not None
        assert given.id == stream.id
        # Who comes to a turn that waits has its stream, and what follows.
        waiting = await session.send("look", tools=[tool], tool_call=call, **QUICK)
        await until(lambda: session.state.turns[waiting.turn or ""].state == "waiting")
        async with people(address, "eve") as (eve,):
            await session.add_member("eve", "editor")
            later = await eve.open_session(session.id)
            [turn] = later.state.turns.values()
            seen = []
            async for stream in later.rounds(await later.stream(turn.stream)):
                seen.append((await stream.result()).finish_reason)
                if turn.stream == stream.id:
                    assert await session.tool_result(waiting, {turn.missing[0]: "six"})
            assert seen == ["tool_calls", "stop"]
        stopped = await session.send("look", tools=[tool], tool_call=call, **QUICK)
        rounds = session.rounds(stopped)
        assert await anext(rounds) is stopped
        await until(lambda: session.state.turns[stopped.turn or ""].state == "waiting")
        await session.cancel()
        assert [stream async for stream in rounds] == []


async def test_another_process_goes_on_from_a_saved_place(address: str) -> None:
    async with people(address, "ann") as (client,):
        session = await client.create_session(model=MODEL)
        stream = await session.send("hi", **SLOW)
        got, events = "", []
        async for piece in stream.text_deltas():
            got += piece
            if len(got) > 40:
                break
        async for event in session.events():
            events.append(event["type"])
            if event["type"] == "turn_start":
                break
        place = json.loads(json.dumps(session.saved()))
    async with people(address, "ann") as (client,):
        session = await client.open_session(place)
        stream = await session.stream(stream.id)
        got += "".join([piece async for piece in stream.text_deltas()])
        async for event in session.events():
            events.append(event["type"])
            if event["type"] == "turn_end":
                break
        assert contents(session) == ["hi", count_text(60)]
    assert got == count_text(60)
    kinds = [kind for kind in events if kind != "presence"]
    assert kinds == ["session", "message", "turn_start", "message", "turn_end"]


async def test_who_comes_late_reads_what_runs_from_its_start_and_older_pages(address: str) -> None:
    async with people(address, "ann", "ann") as (mine, later):
        session = await mine.create_session(model=MODEL)
        for n in range(3):
            await (await session.send(f"say {n}", **QUICK)).result()
        await until(lambda: len(session.state.messages) == 6 and not session.state.turns)
        running = await session.send("at length", **SLOW)
        await until(lambda: running.state.offset > 10)
        other = await later.open_session(session.id, history=2)
        assert (len(other.state.messages), other.state.more) == (2, True)
        stream = await other.stream(running.id)
        assert (stream.turn, (await stream.result()).text) == (running.turn, count_text(60))
        await other.history(limit=3)
        assert (await other.history())[0]["content"] == "say 0"
        assert not other.state.more
        await until(lambda: held(session.state) == held(other.state))
        assert [found["session"] async for found in later.sessions(limit=1)] == [session.id]


async def test_who_is_removed_is_put_out_and_the_others_go_on(address: str) -> None:
    async with people(address, "ann", "bob") as (ann, bob):
        session = await ann.create_session(model=MODEL)
        await session.add_member("bob", "editor")
        other = await bob.open_session(session.id)
        await until(lambda: len(session.state.users) == 2)
        await other.typing()
        await until(lambda: session.typing_now() == ["bob"])
        stream = await other.send("hi", **SLOW)
        await until(lambda: stream.state.offset > 5)
        await session.remove_member("bob")
        with pytest.raises(EverstreamError, match=r"session\.unknown"):
            await stream.result()
        with pytest.raises(EverstreamError, match=r"session\.unknown"):
            _ = [event async for event in other.events()]
        with pytest.raises(EverstreamError, match=r"session\.unknown"):
            await bob.open_session(session.id)
        assert (await (await session.stream(stream.id)).result()).text == count_text(60)
        await until(lambda: [user["id"] for user in session.state.users] == ["ann"])


async def test_deleting_ends_the_session_for_everybody(address: str) -> None:
    async with people(address, "ann", "bob") as (ann, bob):
        session = await ann.create_session(model=MODEL, members={"bob": "viewer"})
        other = await bob.open_session(session.id)
        stream = await session.send("hi", **SLOW)
        await until(lambda: other.state.turn_of(stream.id))
        await session.delete()
        for reader in (session, other):
            *_, last = [event async for event in reader.events()]
            assert last["deleted"]
        with contextlib.suppress(EverstreamError):  # its end came, or it is erased
            assert (await stream.result()).partial
        with pytest.raises(EverstreamError, match=r"session\.unknown"):
            await session.send("still there?")
        assert [found async for found in bob.sessions()] == []
