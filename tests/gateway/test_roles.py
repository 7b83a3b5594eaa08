"""Who may do what in a session: every command tried by every role, and by those who are no members.

To them a session and its streams do not exist.  So what they are told of one is, byte for byte, what they are told of
one that was never made; only the names that they gave differ.  How long the answer takes is not compared.  (What no
server has in memory costs a question to the store, what one has does not.  Ids hold 130 random bits, so this helps only
somebody who has known the id before.)
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import aiohttp
import pytest
from tests.gateway.conftest import WAIT_S, Client, Gateway, Held, serving
from tests.gateway.people import Door, person
from tests.runtime.conftest import CountingStore, until

from everstream.core.commands import COMMANDS
from everstream.core.events import DeltaToolCall
from everstream.providers.base import Finish
from everstream.runtime.read_back import total_of
from everstream.runtime.tools import Tools
from everstream.store.memory import MemoryStore

ANN, ED, VIC, EVE, REX = "ann", "ed", "vic", "eve", "rex"  # owner, editor, viewer, stranger, removed
DOOR = Door(**{name: person(name) for name in (ANN, ED, VIC, EVE, REX, "new")})
MEMBERS, OTHERS = (ANN, ED, VIC), (EVE, REX)
NODES = ("leader", "follower", "gateway")


@dataclass(frozen=True)
class Names:
    """A session and streams of it; as they are not there, unless they were made."""

    session: str = "s_00" + "a" * 26
    ended: str = "r_00" + "a" * 26
    folded: str = "r_00" + "b" * 26
    running: str = "r_00" + "c" * 26
    queued: str = "r_00" + "d" * 26
    waiting: str = "r_00" + "e" * 26

    def hidden(self, said: str) -> str:
        """A frame without these names."""
        for name, value in vars(self).items():
            said = said.replace(value, f"<{name}>")
        return said


NOTHING = Names()
NO_SESSION, NO_STREAM, FORBIDDEN = "session.unknown", "stream.unknown", "auth.forbidden"


@dataclass(frozen=True)
class Row:
    """What is answered: a frame's type, or an error's code.  `members`: to owner, editor, viewer."""

    command: str
    fields: Callable[[Names], dict[str, Any]]
    members: tuple[str | None, str | None, str | None]
    others: str
    resumes: list[str] = field(default_factory=list)


def of_session(**more: Any) -> Callable[[Names], dict[str, Any]]:
    return lambda names: {"session": names.session, **more}


def stream(which: str, **more: Any) -> Callable[[Names], dict[str, Any]]:
    return lambda names: {"stream": getattr(names, which), **more}


def waiting(**more: Any) -> Callable[[Names], dict[str, Any]]:
    return lambda names: {"session": names.session, "stream": names.waiting, **more}


def nothing(**fields: Any) -> Callable[[Names], dict[str, Any]]:
    return lambda _: fields


FAR = {"epoch": 2**52, "offset": 5}  # which a server waits for, where it knows the stream
STRANGE = {"epoch": 1, "offset": 1}  # no history of anything
ALL_MAY, EDITORS_MAY = ("ok",) * 3, ("ok", "ok", FORBIDDEN)
OWNERS_MAY = ("ok", FORBIDDEN, FORBIDDEN)
STOPPED = ("cancelled", "cancelled", FORBIDDEN)
READ, SHOWN = ("subscribed",) * 3, ("snapshot",) * 3
NOT_AGAIN = ("request.invalid",) * 3

TABLE = [  # in an order in which each is possible after those before it
    Row("hello", nothing(), NOT_AGAIN, "request.invalid"),
    Row("ping", nothing(), ("pong",) * 3, "pong"),
    Row("models", nothing(), ALL_MAY, "ok"),
    Row("auth", nothing(token=""), ("auth.denied",) * 3, "auth.denied"),
    Row("session.open", of_session(), ALL_MAY, NO_SESSION),
    Row("session.open", of_session(**STRANGE), ALL_MAY, NO_SESSION),
    Row("session.history", of_session(limit=10), ALL_MAY, NO_SESSION),
    Row("session.history", of_session(before="m_no"), ("request.not_found",) * 3, NO_SESSION),
    Row("session.export", of_session(format="json"), ALL_MAY, NO_SESSION),
    Row("session.export", of_session(message="m_no"), ("request.not_found",) * 3, NO_SESSION),
    Row("subscribe", stream("session"), READ, NO_SESSION),
    Row("subscribe", stream("session", **STRANGE), SHOWN, NO_SESSION),
    Row("subscribe", stream("running"), READ, NO_STREAM),
    Row("subscribe", stream("queued"), READ, NO_STREAM),
    Row("subscribe", stream("waiting"), READ, NO_STREAM),
    Row("subscribe", stream("ended"), READ, NO_STREAM),
    Row("subscribe", stream("ended", **STRANGE), SHOWN, NO_STREAM),
    Row("subscribe", stream("folded"), SHOWN, NO_STREAM),
    Row("typing", of_session(typing=True), (None, None, FORBIDDEN), NO_SESSION),
    Row("session.update", of_session(title="Ours"), EDITORS_MAY, NO_SESSION),
    Row("session.update", of_session(model="no/model"), ("model.unknown", "model.unknown", FORBIDDEN), NO_SESSION),
    Row("member.add", of_session(user="new", role="viewer"), OWNERS_MAY, NO_SESSION),
    Row("member.add", of_session(user=ED, role="owner"), OWNERS_MAY, NO_SESSION),
    Row("member.add", of_session(user=ED, role="editor"), OWNERS_MAY, NO_SESSION),
    Row("member.remove", of_session(user="new"), OWNERS_MAY, NO_SESSION),
    Row("member.remove", of_session(user="nobody"), ("request.not_found", FORBIDDEN, FORBIDDEN), NO_SESSION),
    Row("member.remove", of_session(user=ANN), ("request.invalid", FORBIDDEN, FORBIDDEN), NO_SESSION),
    Row("member.add", of_session(user=ANN, role="viewer"), ("request.invalid", FORBIDDEN, FORBIDDEN), NO_SESSION),
    Row("tool_approval", waiting(approvals=[{"call_id": "c_server", "approved": False}]), EDITORS_MAY, NO_SESSION),
    Row("tool_approval", waiting(approvals=[{"call_id": "c_no", "approved": True}]),
        ("request.not_found", "request.not_found", FORBIDDEN), NO_SESSION),
    Row("tool_result", waiting(results=[{"call_id": "c_one", "content": 1}]), EDITORS_MAY, NO_SESSION),
    Row("tool_result", waiting(results=[{"call_id": "c_no", "content": 1}]),
        ("request.not_found", "request.not_found", FORBIDDEN), NO_SESSION),
    Row("generate", of_session(content="more"), ("accepted", "accepted", FORBIDDEN), NO_SESSION),
    Row("generate", of_session(content="more", request_id="of-rex"), ("accepted", "accepted", FORBIDDEN), NO_SESSION),
    Row("generate", of_session(content=" "), ("request.invalid", "request.invalid", FORBIDDEN), NO_SESSION),
    Row("generate", of_session(parent="m_no", content="x"), ("request.not_found", "request.not_found", FORBIDDEN),
        NO_SESSION),
    Row("generate", of_session(content="more", on_busy="reject"), ("session.busy", "session.busy", FORBIDDEN),
        NO_SESSION),
    Row("generate", of_session(model="no/model", content="x"), ("model.unknown", "model.unknown", FORBIDDEN),
        NO_SESSION),
    Row("cancel", stream("session"), ("request.invalid",) * 3, "request.invalid"),
    Row("cancel", stream("queued"), STOPPED, NO_STREAM),
    Row("cancel", stream("ended"), STOPPED, NO_STREAM),
    Row("cancel", stream("folded"), STOPPED, NO_STREAM),
    Row("cancel", stream("waiting"), STOPPED, NO_STREAM),
    Row("cancel", stream("running"), STOPPED, NO_STREAM),
    Row("cancel", of_session(), STOPPED, NO_SESSION),
    Row("unsubscribe", stream("session"), ALL_MAY, "ok"),  # it says nothing: `ok` for any stream
    Row("unsubscribe", stream("running"), ALL_MAY, "ok"),
    Row("session.close", of_session(), ALL_MAY, "ok"),
    Row("session.list", nothing(), ALL_MAY, "ok"),
    Row("session.delete", of_session(), OWNERS_MAY, NO_SESSION),
    Row("session.create", nothing(), ALL_MAY, "ok"),
]  # fmt: skip


def test_every_command_is_in_the_table() -> None:
    assert {row.command for row in TABLE} == set(COMMANDS)


# ------------------------------------------------------------------------------ a world to try it in


def tools() -> Tools:
    found = Tools()
    found.add(lambda: None, name="server", approval=True)
    return found


class World:
    """Three servers, and on them a session with streams of every kind."""

    def __init__(self, store: CountingStore, gateways: dict[str, Gateway]) -> None:
        self.store = store
        self.gateways = gateways
        self.one = gateways["leader"]
        self.names = NOTHING

    @asynccontextmanager
    async def client(self, who: str, where: str = "leader") -> AsyncIterator[Client]:
        async with self.gateways[where].client(hello=False) as client:
            assert (await client.ask("hello", token=who))["type"] == "welcome"
            yield client

    async def fill(self) -> None:
        hand = self.one.hand
        async with self.client(ANN) as ann, self.client(REX) as rex:
            roles = {ED: "editor", VIC: "viewer", REX: "editor"}
            members = [{"user": user, "role": role} for user, role in roles.items()]
            session = (await ann.ask("session.create", model="hand/any", members=members))["session"]
            ended = await self._sent(rex, session, request_id="of-rex")
            folded = await self._sent(ann, session)
            for number in range(2):
                await until(lambda number=number: len(hand.calls) > number)
                hand.calls[number].words("secret")
                hand.calls[number].end()
            await until(lambda: not self.view(session).turns)
            state = await self.store.read(folded)
            assert state is not None
            assert await self.store.fold(folded, state.head.tail, total_of(state))
            feed = self.one.node.hub.get(folded)
            if feed is not None:
                self.one.node.hub.drop(folded)
            client_tool = {"name": "client", "parameters": {"type": "object"}}
            waits = await self._sent(ann, session, params={"tools": [client_tool]})
            await until(lambda: len(hand.calls) > 2)
            calls = [("c_server", "server"), ("c_one", "client"), ("c_two", "client")]
            hand.calls[2].say(*(DeltaToolCall(n, "{}", *call) for n, call in enumerate(calls)))
            hand.calls[2].end(Finish("tool_calls"))
            await until(lambda: any(turn.state == "waiting" for turn in self.view(session).turns.values()))
            running = await self._sent(ann, session, on_busy="parallel")
            await until(lambda: len(hand.calls) > 3)
            hand.calls[3].words("secret")
            await until(lambda: self.one.node.hub.get(running).log.committed >= 2)  # type: ignore[union-attr]
            queued = await self._sent(ann, session)
            assert (await ann.ask("member.remove", session=session, user=REX))["type"] == "ok"
            self.names = Names(session, ended, folded, running, queued, waits)

    @staticmethod
    async def _sent(client: Client, session: str, **more: Any) -> str:
        accepted = await client.ask("generate", session=session, content="hello", **more)
        assert accepted["type"] == "accepted", accepted
        return str(accepted["stream"])

    def view(self, session: str = "") -> Any:
        feed = self.one.node.hub.get(session or self.names.session)
        assert feed is not None
        return self.one.node.sessions.view(feed)

    def kept(self) -> dict[str, Any]:
        """All that the store holds, but for who lives and who follows what."""
        disk = self.store.disk
        streams = {
            name: (r.epochs, r.leader, r.base, r.tail, r.ended, r.cancelled, r.handed, r.rests)
            for name, r in disk.records.items()
        }
        return {"streams": streams, "requests": dict(disk.requests), "lists": repr((disk.rankings, disk.tables))}


@asynccontextmanager
async def world(*where: str, **given: Any) -> AsyncIterator[World]:
    store = CountingStore()
    async with AsyncExitStack() as stack:
        gateways = {
            "leader": await stack.enter_async_context(serving(store, authenticate=DOOR, tools=tools(), **given))
        }
        for name in {*where} - {"leader"}:
            gateways[name] = await stack.enter_async_context(
                serving(store.beside(), authenticate=DOOR, tools=tools(), lead=name != "gateway", **given)
            )
        yield World(store, gateways)


async def all_said(client: Client, command: str, fields: dict[str, Any]) -> list[str]:
    """All frames that come until a command is answered, and a `ping` after it."""
    await client.send(type=command, id="asked", **fields)
    await client.send(type="ping", id="after")
    said: list[str] = []
    open_ids = {"asked", "after"}
    while open_ids:
        async with asyncio.timeout(WAIT_S):
            data = await client.socket.recv()
        assert isinstance(data, str)
        said.append(data)
        open_ids.discard(json.loads(data).get("id"))
    return sorted(said)


def outcome(frame: dict[str, Any]) -> str:
    return str(frame["code"] if frame["type"] == "error" else frame["type"])


# ------------------------------------------------------------------------------ the table, tried


@pytest.mark.parametrize("where", NODES)
async def test_who_is_no_member_cannot_tell_forbidden_from_not_there(where: str) -> None:
    async with world(where) as place:
        await place.fill()
        for who in OTHERS:
            async with place.client(who, where) as client:
                for row in TABLE:
                    before = place.kept()
                    told = await all_said(client, row.command, row.fields(place.names))
                    assert len(told) == 2, (row.command, "one reply, and the pong")
                    frame = next(frame for frame in map(json.loads, told) if frame["id"] == "asked")
                    assert outcome(frame) == row.others, (who, row.command, frame)
                    if row.command == "session.create":
                        continue
                    assert place.kept() == before, (who, row.command)
                    of_none = await all_said(client, row.command, row.fields(NOTHING))
                    hidden = [place.names.hidden(said) for said in told]
                    assert hidden == [NOTHING.hidden(said) for said in of_none], (who, row.command)
        assert place.view().members == {ANN: "owner", ED: "editor", VIC: "viewer"}
        assert not place.one.hand.calls[3].closed, "nobody has stopped it"


@pytest.mark.parametrize("where", NODES)
async def test_a_hello_that_resumes_tells_who_is_no_member_nothing(where: str) -> None:
    async with world(where) as place:
        await place.fill()
        for who in OTHERS:
            told = [await resumed(place, who, where, names) for names in (place.names, NOTHING)]
            hidden = [sorted(map(n.hidden, said)) for n, said in zip((place.names, NOTHING), told, strict=True)]
            assert hidden[0] == hidden[1]
            codes = [json.loads(said).get("code") for said in told[0]]
            assert codes.count(NO_SESSION) == 3
            assert codes.count(NO_STREAM) == 15


async def resumed(place: World, who: str, where: str, names: Names) -> list[str]:
    streams = [{"stream": name, **at} for name in vars(names).values() for at in ({}, FAR, STRANGE)]
    async with place.gateways[where].client(hello=False) as client:
        told = await all_said(client, "hello", {"token": who, "resume": streams})
        while len(told) < 2 + len(streams):
            async with asyncio.timeout(WAIT_S):
                told.append(str(await client.socket.recv()))
        return [said for said in told if json.loads(said)["type"] not in ("welcome", "pong")]


@pytest.mark.parametrize("where", NODES)
@pytest.mark.parametrize("who", MEMBERS)
async def test_a_member_may_what_his_role_allows(who: str, where: str) -> None:
    async with world(where) as place:
        await place.fill()
        async with place.client(who, where) as client:
            for row in TABLE:
                expected = row.members[MEMBERS.index(who)]
                before = place.kept()
                told = await client.ask(row.command, **row.fields(place.names)) if expected else None
                if told is None:
                    await client.send(type=row.command, **row.fields(place.names))
                    continue
                assert outcome(told) == expected, (row.command, told)
                if expected == FORBIDDEN:
                    assert place.kept() == before, row.command
            for row in TABLE:
                told = await client.ask(row.command, **row.fields(NOTHING))
                assert outcome(told) == row.others, (row.command, told)
        assert place.one.hand.calls[3].closed is (who != VIC)


# ------------------------------------------------------------------------------ what else must not be


async def test_who_is_no_member_does_not_wake_a_session_that_rests() -> None:
    async with world("follower", session_rest_s=0.0) as place:
        async with place.client(ANN) as ann:
            session = (await ann.ask("session.create"))["session"]
        await until(lambda: not len(place.one.node.sessions))
        names, before = Names(session), place.kept()
        for where in ("leader", "follower"):
            async with place.client(EVE, where) as eve:
                for row in TABLE:
                    if row.others == NO_SESSION:
                        assert outcome(await eve.ask(row.command, **row.fields(names))) == NO_SESSION
        assert place.kept() == before


@pytest.mark.parametrize("where", ["leader", "follower"])
async def test_a_refused_typing_reaches_nobody(where: str) -> None:
    async with world("leader", where) as place:
        await place.fill()
        session = place.names.session
        async with place.client(ED) as ed, place.client(ANN, where) as ann:
            for client in (ed, ann):
                await client.ask("session.open", session=session)
            await ed.until(lambda f: f["type"] == "presence" and {u["id"] for u in f["users"]} == {ANN, ED})
            for who in (VIC, EVE, REX):
                async with place.client(who, where) as client:
                    reply = await client.ask("typing", session=session, typing=True)
                    assert outcome(reply) == (FORBIDDEN if who == VIC else NO_SESSION)
            await ann.send(type="typing", session=session, typing=True)
            told = await ed.until(lambda frame: frame["type"] == "typing")
            assert told["user"] == ANN


@asynccontextmanager
async def audience(place: World, who: str) -> AsyncIterator[list[Client]]:
    """Devices of one person: on each server one that has the session open, one that reads the stream alone, one that
    came back to it by `hello`, and one that has both."""
    names = place.names
    async with AsyncExitStack() as stack:
        devices = []
        for where in NODES:
            clients = [await stack.enter_async_context(place.client(who, where)) for _ in range(3)]
            for client in (clients[0], clients[2]):
                assert (await client.ask("session.open", session=names.session))["type"] == "ok"
            for client in clients[1:]:
                assert (await client.ask("subscribe", stream=names.running))["type"] == "subscribed"
            back = await stack.enter_async_context(place.gateways[where].client(hello=False))
            await back.ask("hello", token=who, resume=[{"stream": names.running}])
            devices += [*clients, back]
        for client in devices:
            while "secret" not in client.streams.setdefault(names.running, Held()).text:
                await client.next()
        yield devices


async def nothing_more(client: Client, session: str) -> None:
    """The client is told that there is no such session, and nothing after that."""
    told = await client.until(lambda frame: frame["type"] == "error")
    assert (told["code"], told["session"], "id" in told) == (NO_SESSION, session, False)
    heard = len(client.frames)
    await client.ask("ping")
    assert len(client.frames) == heard + 1, client.frames[heard:]


async def test_who_is_removed_in_mid_stream_gets_not_one_more_entry_anywhere() -> None:
    async with world(*NODES) as place:
        await place.fill()
        names, call = place.names, place.one.hand.calls[3]
        async with place.client(ANN) as ann, audience(place, VIC) as devices:
            assert (await ann.ask("member.remove", session=names.session, user=VIC))["type"] == "ok"
            call.words("too late")
            call.end()
            await ann.ask("subscribe", stream=names.running)
            await ann.ended(names.running)
            assert ann.streams[names.running].text.endswith("too late")
            for client in devices:
                await nothing_more(client, names.session)
                assert "too late" not in json.dumps(client.frames)
                assert (await client.ask("subscribe", stream=names.running))["code"] == NO_STREAM


@pytest.mark.parametrize("path", ["/v1/streams/{running}", "/v1/streams/{session}", "/v1/events?at={running}"])
async def test_who_is_removed_in_mid_stream_gets_not_one_more_event_over_http(path: str) -> None:
    async with world(*NODES) as place, AsyncExitStack() as stack:
        await place.fill()
        names, call = place.names, place.one.hand.calls[3]
        answers = []
        for where in NODES:
            session = await stack.enter_async_context(aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(WAIT_S)))
            url = place.gateways[where].url + path.format(**vars(names))
            answers.append(await session.get(url, headers={"authorization": f"Bearer {VIC}"}))
            assert answers[-1].status == 200
            async for line in answers[-1].content:
                if b"secret" in line:
                    break
        async with place.client(ANN) as ann:
            assert (await ann.ask("member.remove", session=names.session, user=VIC))["type"] == "ok"
            call.words("too late")
            call.end()
            await ann.ask("subscribe", stream=names.running)
            await ann.ended(names.running)
        for answer in answers:
            if path.startswith("/v1/streams"):
                assert b"late" not in await answer.read(), "and it is over"
            else:
                rest = b""
                while b"session.unknown" not in rest:
                    rest += await answer.content.readany()
                assert b"late" not in rest
                answer.close()


async def test_what_is_stored_together_with_a_removal_is_not_shown_to_who_is_removed() -> None:
    async with world() as place:
        await place.fill()
        names, call = place.names, place.one.hand.calls[3]
        hub = place.one.node.hub
        stream, session = hub.get(names.running), hub.get(names.session)
        assert stream is not None
        assert session is not None
        async with place.client(ANN) as ann, place.client(VIC) as reads, place.client(VIC) as opens:
            await reads.ask("subscribe", stream=names.running)
            await opens.ask("session.open", session=names.session)
            tails = stream.log.tail, session.log.tail
            place.store.open_gate.clear()
            call.words("first")
            await until(lambda: stream.log.tail == tails[0] + 1)  # its commit is under way, and held
            call.words("second")
            await ann.send(type="member.remove", id="removed", session=names.session, user=VIC)
            await until(lambda: stream.log.tail == tails[0] + 2 and session.log.tail == tails[1] + 1)
            place.store.open_gate.set()
            assert (await ann.until(lambda frame: frame.get("id") == "removed"))["type"] == "ok"
            for client in (reads, opens):
                await nothing_more(client, names.session)
                assert "second" not in json.dumps(client.frames)


async def test_roles_take_effect_at_once() -> None:
    async with world("follower") as place:
        await place.fill()
        session = place.names.session
        async with place.client(ANN) as ann, place.client(VIC, "follower") as vic:
            say = {"session": session, "content": "me too"}
            assert outcome(await vic.ask("generate", **say)) == FORBIDDEN
            await ann.ask("member.add", session=session, user=VIC, role="editor")
            assert outcome(await vic.ask("generate", **say)) == "accepted"
            await ann.ask("member.add", session=session, user=VIC, role="viewer")
            assert outcome(await vic.ask("generate", **say)) == FORBIDDEN
            assert outcome(await vic.ask("session.history", session=session)) == "ok"


async def test_a_viewer_may_leave_and_the_last_owner_may_not() -> None:
    async with world("follower") as place:
        await place.fill()
        session = place.names.session
        async with place.client(ANN) as ann, place.client(VIC, "follower") as vic:
            await vic.ask("session.open", session=session)
            assert outcome(await vic.ask("member.remove", session=session, user=VIC)) == "ok"
            assert outcome(await vic.ask("session.history", session=session)) == NO_SESSION
            assert (await vic.ask("session.list"))["sessions"] == []
            assert outcome(await ann.ask("member.remove", session=session, user=ANN)) == "request.invalid"
            assert outcome(await ann.ask("member.add", session=session, user=ANN, role="editor")) == "request.invalid"
            await ann.ask("member.add", session=session, user=ED, role="owner")
            assert outcome(await ann.ask("member.remove", session=session, user=ANN)) == "ok"
            assert outcome(await ann.ask("session.history", session=session)) == NO_SESSION
            assert place.view().members == {ED: "owner"}


async def test_a_request_that_is_repeated_by_who_was_removed_shows_him_nothing() -> None:
    """He has started that turn himself, and might ask for it again while it runs."""
    store = MemoryStore()
    async with serving(store, authenticate=DOOR) as gateway:
        place = World(store, {"leader": gateway})  # type: ignore[arg-type]
        async with place.client(ANN) as ann, place.client(REX) as rex:
            session = (await ann.ask("session.create", members=[{"user": REX, "role": "editor"}]))["session"]
            asked = {"session": session, "model": "hand/any", "content": "hello", "request_id": "once"}
            assert outcome(await rex.ask("generate", **asked)) == "accepted"
            await until(lambda: gateway.hand.calls)
            await ann.ask("member.remove", session=session, user=REX)
            await rex.until(lambda frame: frame["type"] == "error")
            assert outcome(await rex.ask("generate", **asked)) == NO_SESSION
            gateway.hand.calls[0].words("secret")
            await rex.ask("ping")
            assert "secret" not in json.dumps(rex.frames)
