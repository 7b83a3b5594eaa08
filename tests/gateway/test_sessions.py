"""Sessions over the wire: one reply opens them, their streams come along, and all who read them hold the same."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from tests.gateway.conftest import OF_SESSIONS, Client, Gateway, serving
from tests.gateway.people import Door, person
from tests.runtime.conftest import until

from everstream.store.memory import MemoryStore

DOOR = Door(ann=person("ann"), ben=person("ben"), eve=person("eve"))


@asynccontextmanager
async def as_user(gateway: Gateway, token: str) -> AsyncIterator[Client]:
    async with gateway.client(hello=False) as client:
        assert (await client.ask("hello", token=token))["type"] == "welcome"
        yield client


async def answer(gateway: Gateway, number: int, *words: str) -> None:
    await until(lambda: len(gateway.hand.calls) > number)
    call = gateway.hand.calls[number]
    call.words(*words)
    call.end()


async def made(client: Client, **fields: Any) -> str:
    reply = await client.ask("session.create", **fields)
    assert reply["type"] == "ok", reply
    return str(reply["session"])


def of_kind(client: Client, kind: str) -> list[dict[str, Any]]:
    return [frame for frame in client.frames if frame["type"] == kind]


async def present(client: Client, *users: str) -> None:
    """Until the client has been told that these are there."""
    while [[user["id"] for user in told["users"]] for told in of_kind(client, "presence")][-1:] != [list(users)]:
        await client.next()


async def test_a_first_message_makes_a_session_that_can_be_opened() -> None:
    async with serving() as gateway, gateway.client() as client:
        accepted = await client.ask("generate", model="scripted/count", content="Count, please", request_id="a")
        assert accepted["type"] == "accepted"
        end = await client.ended(accepted["stream"])
        assert end["reason"] == "complete"
        session = accepted["session"]
        await until(lambda: not _view(gateway, session).turns)
        reply = await client.ask("session.open", session=session)
        assert reply["title"] == "Count, please"
        assert reply["role"] == "owner"
        assert reply["model"] == "scripted/count"
        question, said = reply["messages"]
        assert (question["role"], question["content"], question["parent"]) == ("user", "Count, please", None)
        assert (said["role"], said["parent"], said["stream"]) == ("assistant", question["id"], accepted["stream"])
        assert said["content"] == client.streams[accepted["stream"]].text
        assert reply["running"] == []
        assert reply["users"] == [{"id": "anonymous", "name": "Anonymous", "connections": 1}]
        again = await client.ask("generate", model="scripted/count", content="Count, please", request_id="a")
        assert {**again, "id": 0} == {**accepted, "id": 0}


def _view(gateway: Gateway, session: str) -> Any:
    feed = gateway.node.hub.get(session)
    assert feed is not None
    return gateway.node.sessions.view(feed)


async def test_what_one_asks_everybody_in_the_session_reads() -> None:
    async with (
        serving(authenticate=DOOR) as gateway,
        as_user(gateway, "ann") as ann,
        as_user(gateway, "ben") as ben,
    ):
        session = await made(ann, members=[{"user": "ben", "role": "editor"}])
        await ann.ask("session.open", session=session)
        place = await ben.ask("session.open", session=session)
        accepted = await ann.ask("generate", session=session, model="hand/any", content="hello")
        await answer(gateway, 0, "one ", "two")
        stream = accepted["stream"]
        for client in (ann, ben):
            end = await client.until(lambda frame: frame["type"] == "turn_end")
            assert (end["turn"], end["stream"], end["reason"]) == (accepted["turn"], stream, "complete")
            assert (await client.ended(stream))["reason"] == "complete"
            assert client.streams[stream].text == "one two"
            assert client.frames.index(end) > client.frames.index(of_kind(client, "turn_start")[0])
        entries = [frame for frame in ben.frames if frame.get("session") == session and frame["type"] in OF_SESSIONS]
        assert [frame["after"] - place["offset"] for frame in entries] == [0, 1, 2, 3, 4]
        starts = [f for f in ann.frames if f["type"] == "request_start"]
        assert (starts[0]["session"], starts[0]["turn"]) == (session, accepted["turn"])


async def test_one_hello_resumes_a_session_and_what_runs_in_it() -> None:
    async with serving() as gateway:
        async with gateway.client() as client:
            session = await made(client)
            reply = await client.ask("session.open", session=session)
            accepted = await client.ask("generate", session=session, model="hand/any", content="hello")
            stream = accepted["stream"]
            await until(lambda: gateway.hand.calls)
            gateway.hand.calls[0].words("one ")
            await client.until(lambda frame: frame["type"] == "delta_text")
            held = client.streams[stream].offset, client.streams[session].offset
        second = await _other_turn(gateway, session)
        gateway.hand.calls[0].words("two")
        gateway.hand.calls[0].end()
        async with gateway.client(hello=False) as client:
            places = [
                {"stream": session, "epoch": reply["epoch"], "offset": held[1]},
                {"stream": stream, "epoch": accepted["epoch"], "offset": held[0]},
            ]
            client.streams = {}
            await client.ask("hello", resume=places)
            await client.ended(stream)
            assert client.streams[stream].text == "two"
            await answer(gateway, 1, "other")
            await client.ended(second)
            assert client.streams[second].text == "other"
            ends = [await client.until(lambda frame: frame["type"] == "turn_end") for _ in range(1)]
            assert ends


async def _other_turn(gateway: Gateway, session: str) -> str:
    async with gateway.client() as other:
        accepted = await other.ask(
            "generate", session=session, model="hand/any", content="more", on_busy="parallel", parent=None
        )
        await until(lambda: len(gateway.hand.calls) == 2)
        return str(accepted["stream"])


async def test_who_is_put_out_of_a_session_receives_nothing_more() -> None:
    async with (
        serving(authenticate=DOOR) as gateway,
        as_user(gateway, "ann") as ann,
        as_user(gateway, "ben") as ben,
    ):
        session = await made(ann, members=[{"user": "ben", "role": "viewer"}])
        for client in (ann, ben):
            await client.ask("session.open", session=session)
        await present(ann, "ann", "ben")
        await ann.ask("generate", session=session, model="hand/any", content="hello")
        await until(lambda: gateway.hand.calls)
        gateway.hand.calls[0].words("seen")
        await ben.until(lambda frame: frame["type"] == "delta_text")
        assert (await ann.ask("member.remove", session=session, user="ben"))["type"] == "ok"
        told = await ben.until(lambda frame: frame["type"] == "error")
        assert (told["code"], told["session"], "id" in told) == ("session.unknown", session, False)
        gateway.hand.calls[0].words("secret")
        gateway.hand.calls[0].end()
        await ann.until(lambda frame: frame["type"] == "turn_end")
        before = len(ben.frames)
        assert (await ben.ask("session.open", session=session))["code"] == "session.unknown"
        assert len(ben.frames) == before + 1
        await present(ann, "ann")


async def test_who_stopped_it_is_told_to_all() -> None:
    async with (
        serving(authenticate=DOOR) as gateway,
        as_user(gateway, "ann") as ann,
        as_user(gateway, "ben") as ben,
    ):
        session = await made(ann, members=[{"user": "ben", "role": "editor"}])
        for client in (ann, ben):
            await client.ask("session.open", session=session)
        accepted = await ann.ask("generate", session=session, model="hand/any", content="hello")
        await until(lambda: gateway.hand.calls)
        gateway.hand.calls[0].words("half")
        await ben.until(lambda frame: frame["type"] == "delta_text")
        fence = await ben.ask("cancel", session=session)
        assert fence["streams"] == [{"stream": accepted["stream"], "offset": ben.streams[accepted["stream"]].offset}]
        end = await ann.until(lambda frame: frame["type"] == "turn_end")
        assert (end["reason"], end["by"]) == ("cancelled", "ben")


async def test_two_nodes_serve_one_session() -> None:
    store = MemoryStore()
    async with (
        serving(store, authenticate=DOOR) as one,
        serving(store.beside(), authenticate=DOOR) as two,
        as_user(one, "ann") as ann,
        as_user(two, "ben") as ben,
    ):
        session = await made(ann, members=[{"user": "ben", "role": "editor"}])
        await ann.ask("session.open", session=session)
        await ben.ask("session.open", session=session)
        here = await ann.until(lambda f: f["type"] == "presence" and len(f["users"]) == 2)
        assert [user["id"] for user in here["users"]] == ["ann", "ben"]
        accepted = await ben.ask("generate", session=session, model="hand/any", content="from two")
        await answer(one, 0, "yes")
        for client in (ann, ben):
            await client.until(lambda frame: frame["type"] == "turn_end")
            await client.ended(accepted["stream"])
            assert client.streams[accepted["stream"]].text == "yes"
        await ben.send(type="typing", session=session, typing=True)
        said = await ann.until(lambda frame: frame["type"] == "typing")
        assert (said["user"], said["typing"]) == ("ben", True)
        assert not two.hand.calls


async def test_a_deleted_session_is_gone_for_all() -> None:
    async with (
        serving(authenticate=DOOR) as gateway,
        as_user(gateway, "ann") as ann,
        as_user(gateway, "ben") as ben,
    ):
        session = await made(ann, members=[{"user": "ben", "role": "editor"}])
        await ben.ask("session.open", session=session)
        await ann.ask("generate", session=session, model="scripted/count", content="hello")
        assert (await ann.ask("session.delete", session=session))["type"] == "ok"
        last = await ben.until(lambda frame: frame["type"] == "session" and frame.get("deleted"))
        assert last["stream"] == session
        for client in (ann, ben):
            assert (await client.ask("session.open", session=session))["code"] == "session.unknown"
            assert (await client.ask("session.list"))["sessions"] == []


async def test_fifty_sessions_are_listed_in_pages_and_searched_by_nobody_else() -> None:
    async with serving(authenticate=DOOR) as gateway, as_user(gateway, "ann") as ann, as_user(gateway, "eve") as eve:
        made_here = [await made(ann, title=f"Chat {n}") for n in range(50)]
        seen: list[str] = []
        before = None
        while True:
            page = await ann.ask("session.list", limit=20, **({"before": before} if before else {}))
            seen += [card["session"] for card in page["sessions"]]
            before = page["next"]
            if before is None:
                break
        assert sorted(seen) == sorted(made_here)
        assert (await eve.ask("session.list"))["sessions"] == []
        await asyncio.gather(*(ann.send(type="session.open", id=f"o{n}", session=s) for n, s in enumerate(seen)))
        replies = set()
        while len(replies) < 50:
            frame = await ann.next()
            if str(frame.get("id", "")).startswith("o"):
                assert frame["type"] == "ok"
                replies.add(frame["id"])


async def test_a_first_message_that_cannot_be_sent_leaves_no_session() -> None:
    store = MemoryStore()
    async with serving(store) as leader, serving(store.beside(), lead=False) as other:
        for gateway in (leader, other):
            async with gateway.client() as client:
                made_before = await made(client, request_id="once")
                for wrong in ({"model": "no/model"}, {"content": " "}, {"parent": "m_1"}, {"params": {"tokens": -1}}):
                    asked = {"model": "scripted/count", "content": "hi", "request_id": "once"} | wrong
                    assert (await client.ask("generate", **asked))["type"] == "error"
                listed = (await client.ask("session.list"))["sessions"]
                assert [card["session"] for card in listed] == [made_before]
                await client.ask("session.delete", session=made_before)
        assert not store.disk.records
