"""Sessions in the client: the same conversation for everybody in it, whatever comes first and whatever is lost."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
from tests.house.fake_server import Frame, answer, text, until
from tests.house.fake_sessions import GONE, SessionServer, session_server

from everstream.client import Client
from everstream.commands import CALLS_MAX
from everstream.core.errors import EverstreamError
from everstream.reader import FRAMES_WAITING_MAX
from everstream.reconnect import Backoff
from everstream.session_client import Session, opening
from everstream.session_reader import STREAMS_KEPT_MAX

WAIT_S = 10.0


@pytest.fixture
async def server() -> AsyncIterator[SessionServer]:
    async with session_server() as fake:
        yield fake


def client_of(server: SessionServer, **more: Any) -> Client:
    return Client(server.url, backoff=Backoff(0.01, 0.05), **more)


def said(session: Session) -> list[str]:
    return [message["content"] for message in session.path()]


async def some_events(session: Session, last: str) -> list[str]:
    """The kinds of all events up to the first one of kind `last`."""
    kinds: list[str] = []
    async with asyncio.timeout(WAIT_S):
        async for event in session.events():
            kinds.append(event["type"])
            if event["type"] == last:
                break
    return kinds


# --------------------------------------------------------------------------- saying something


async def test_a_session_is_made_opened_and_spoken_in(server: SessionServer) -> None:
    async with client_of(server) as client:
        session = await client.create_session(title="About", model="fake/one", members={"bob": "viewer"})
        stream = await session.send("hi", max_tokens=5, budget={"usd": 1})
        assert (await stream.result()).text == "one two three"
        await until(lambda: not session.state.turns and len(session.path()) == 2)
        assert said(session) == ["hi", "one two three"]
        assert (session.state.title, session.state.members) == ("About", {"ann": "owner"})
        assert session.path()[0]["id"] == stream.message
        assert stream.turn == f"t_{stream.id}"
    made, sent = server.said("session.create")[0], server.said("generate")[0]
    assert (made["title"], made["members"]) == ("About", [{"user": "bob", "role": "viewer"}])
    assert (sent["params"], sent["budget"], sent["on_busy"]) == ({"max_tokens": 5}, {"usd": 1}, "queue")
    assert "parent" not in sent
    assert "model" not in sent


async def test_editing_and_regenerating_name_the_message_that_is_branched_from(server: SessionServer) -> None:
    async with client_of(server) as client:
        session = await client.create_session()
        first = await session.send("hi")
        await until(lambda: session.state.answer_by(first.id))
        reply = session.state.answer_by(first.id)
        assert reply is not None
        again = await session.regenerate(reply["id"], model="fake/two")
        other = await session.edit(first.message or "", "hello")
        await session.send("apart", parent=None)
        await until(lambda: session.state.answer_by(other.id) and session.state.answer_by(again.id))
        assert [m["content"] for m in session.state.branches(first.message)] == ["one two three"] * 2
        assert [m["content"] for m in session.state.branches(None)] == ["hi", "hello", "apart"]
        with pytest.raises(EverstreamError, match=r"request\.not_found"):
            await session.edit("m_99", "x")
    sent = server.said("generate")
    assert [command.get("parent", "none") for command in sent] == ["none", first.message, None, None]
    assert "content" not in sent[1]
    assert sent[1]["model"] == "fake/two"


async def test_a_message_whose_reply_was_lost_is_said_once(server: SessionServer) -> None:
    server.lose_reply = ["session.create", "session.open", "generate"]
    async with client_of(server) as client:
        session = await client.create_session(title="Once")
        stream = await session.send("hi")
        assert (await stream.result()).text == "one two three"
        await until(lambda: len(session.path()) == 2)
    assert len(server.sessions) == 1
    assert len({command["request_id"] for command in server.said("generate")}) == 1
    assert [m["content"] for m in server.sessions["s_1"].state().messages.values()] == ["hi", "one two three"]


# --------------------------------------------------------------------------- streams nobody asked for


@pytest.mark.parametrize("streams_first", [False, True])
async def test_another_members_turn_is_read_without_asking(server: SessionServer, streams_first: bool) -> None:
    server.streams_first = streams_first
    server.allowed = 2
    async with client_of(server) as mine, client_of(server) as theirs:
        session = await mine.create_session()
        other = await theirs.open_session(session.id)
        asked = await session.send("hi")
        await until(lambda: other.state.turn_of(asked.id))
        stream = await other.stream(asked.id)
        assert (stream.turn, stream.message) == (asked.turn, asked.message)
        server.finish(server.sessions[session.id], asked.id)
        assert (await stream.result()).text == (await asked.result()).text == "one two three"
        await until(lambda: said(session) == said(other) == ["hi", "one two three"])
    assert not server.said("subscribe")


@pytest.mark.parametrize("streams_first", [False, True])
async def test_a_stream_that_comes_before_the_reply_that_names_it_is_the_same(
    server: SessionServer, streams_first: bool
) -> None:
    server.streams_first = streams_first
    async with client_of(server) as client:
        session = await client.create_session()
        held = server.hold["generate"] = asyncio.Event()
        sending = asyncio.create_task(session.send("hi"))
        await until(lambda: len(session.path()) == 2)
        begun = await session.stream("r_2")
        await until(lambda: begun.over)
        held.set()
        stream = await sending
        assert stream is begun
        assert "".join([piece async for piece in stream.text_deltas()]) == "one two three"
    assert not server.said("subscribe")


async def test_a_stream_whose_first_frame_says_nothing_is_asked_for_once_it_is_named(server: SessionServer) -> None:
    server.streams_first = True
    server.script = lambda _: [text("no start"), *answer("!")]
    async with client_of(server) as client:
        session = await client.create_session()
        stream = await session.send("hi")
        assert (await stream.result()).text == "no start!"


async def test_the_stream_of_a_turn_that_nobody_brought_is_asked_for_later(
    server: SessionServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("everstream.session_reader.LATE_S", 0.02)
    async with client_of(server) as client:
        made = server.new_session()
        session = await client.open_session(made.name)
        server.unbrought = {"r_2"}
        server.turn(made, {"request_id": "q", "content": "hi"})
        await until(lambda: len(session.path()) == 2)
        assert (await (await session.stream("r_2")).result()).text == "one two three"


async def test_a_turn_that_was_over_before_the_client_came_back_is_asked_for_at_once(
    server: SessionServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("everstream.session_reader.LATE_S", 600)
    async with client_of(server) as client:
        made = server.new_session()
        session = await client.open_session(made.name)
        server.unbrought = {"r_2"}
        server.close_with = [(4002, None)] * 3
        server.drop_all()
        server.turn(made, {"request_id": "q", "content": "hi"})
        await until(lambda: len(session.path()) == 2)
        stream = await session.stream("r_2")
        assert (await stream.result()).text == "one two three"
        assert stream.turn == "t_r_2"


async def test_a_stream_that_is_read_no_longer_stays_away(server: SessionServer) -> None:
    server.allowed = 2
    async with client_of(server) as client:
        session = await client.create_session()
        stream = await session.send("hi")
        await until(lambda: stream.state.offset == 2)
        await stream.unsubscribe()
        server.drop_all()
        await until(lambda: server.connected == 2)
        server.finish(server.sessions[session.id], stream.id)
        await until(lambda: len(session.path()) == 2)
        assert stream.state.offset == 2
        again = await session.stream(stream.id)  # now it is wanted
        assert (await again.result()).text == "one two three"
        assert again.message == stream.message


async def test_a_repeated_request_brings_back_a_stream_that_was_left(server: SessionServer) -> None:
    server.allowed = 2
    async with client_of(server) as client:
        session = await client.create_session()
        stream = await session.send("hi", request_id="q")
        await stream.unsubscribe()
        again = await session.send("hi", request_id="q")
        assert (again.id, again.turn) == (stream.id, stream.turn)
        server.finish(server.sessions[session.id], stream.id)
        assert (await again.result()).text == "one two three"


async def test_ended_streams_are_kept_within_bounds(server: SessionServer) -> None:
    async with client_of(server) as client:
        session = await client.create_session()
        for _ in range(STREAMS_KEPT_MAX + 6):
            await (await session.send("hi")).result()
        assert len(session._streams) <= STREAMS_KEPT_MAX + 1
        assert not client._streams
        first = await session.stream("r_2")  # it is read anew
        assert (await first.result()).text == "one two three"


# --------------------------------------------------------------------------- coming back


async def test_one_hello_resumes_a_session_and_its_streams(server: SessionServer) -> None:
    server.allowed = 3
    async with client_of(server) as client:
        session = await client.create_session()
        streams = [await session.send(f"say {n}", on_busy="parallel") for n in range(3)]
        await until(lambda: all(stream.state.offset == 3 for stream in streams))
        server.drop_all()
        await until(lambda: server.connected == 2)
        for stream in streams:
            server.finish(server.sessions[session.id], stream.id)
        assert [(await stream.result()).text for stream in streams] == ["one two three"] * 3
        await until(lambda: len(session.state.messages) == 6)
    resumed = {place["stream"]: (place["epoch"], place["offset"]) for place in server.said("hello")[1]["resume"]}
    assert resumed == {session.id: (7, 8), **{stream.id: (7, 3) for stream in streams}}
    assert len(server.said("session.open")) == 1
    assert not server.said("subscribe")


async def test_a_connection_that_drops_again_and_again_loses_no_message(server: SessionServer) -> None:
    server.script = lambda _: answer(*(f"{n} " for n in range(20)))
    server.drop_after = [7, 5, 9, 1, 30, 2, 11, 4]
    async with client_of(server) as client:
        session = await client.create_session()
        for n in range(4):
            stream = await session.send(f"say {n}")
            assert (await stream.result()).text == "".join(f"{n} " for n in range(20))
        await until(lambda: len(session.path()) == 8 and not session.state.turns)
        truth = server.sessions[session.id].state()
        assert list(session.state.messages.values()) == list(truth.messages.values())


async def test_a_hole_in_a_session_is_asked_about_once(server: SessionServer) -> None:
    async with client_of(server) as client:
        session = await client.create_session()
        held = server.hold["subscribe"] = asyncio.Event()
        late: Frame = {"type": "session", "session": session.id, "title": "wrong", "after": 5, "upto": 6}
        await server.send_all(late)
        await until(lambda: server.said("subscribe"))
        await server.send_all({**late, "after": 2, "upto": 3})
        await server.send_all({"type": "presence", "session": session.id, "users": [{"id": "ann"}]})
        await until(lambda: session.state.users)  # so all that was sent before it has been read
        held.set()
        server.sessions[session.id].say("session", title="right")
        await until(lambda: session.state.title == "right")
    assert [(c["stream"], c["offset"]) for c in server.said("subscribe")] == [(session.id, 2)]


async def test_a_saved_place_is_gone_on_from_by_another_client(server: SessionServer) -> None:
    server.allowed = 3
    async with client_of(server) as client:
        session = await client.create_session()
        stream = await session.send("hi")
        pieces = stream.text_deltas()
        assert [await anext(pieces), await anext(pieces)] == ["one", " two"]
        assert await some_events(session, "turn_start") == ["message", "turn_start"]
        place = json.loads(json.dumps(session.saved()))
    made = server.sessions[session.id]
    made.say("session", title="Meanwhile")
    async with client_of(server) as another:
        again = await another.open_session(place)
        reading = await again.stream(stream.id)
        server.finish(made, stream.id)
        assert "".join([piece async for piece in reading.text_deltas()]) == " three"
        assert await some_events(again, "turn_end") == ["session", "message", "turn_end"]
        assert again.state.title == "Meanwhile"
        saved = again.saved()
    assert place == {
        "session": session.id,
        "epoch": 7,
        "offset": 4,
        "responses": [{"stream": stream.id, "epoch": 7, "offset": 3, "characters": 7}],
    }
    assert server.said("session.open")[1]["responses"] == [{"stream": stream.id, "epoch": 7, "offset": 3}]
    assert (saved["offset"], saved["responses"]) == (7, [])
    assert opening(saved) == (session.id, {"epoch": 7, "offset": 7}, [])


async def test_a_session_that_is_open_is_given_as_it_is(server: SessionServer) -> None:
    made = server.new_session()
    async with client_of(server) as client:
        session = await client.open_session(made.name)
        assert await client.open_session(session.saved()) is session
        one, other = await asyncio.gather(client.open_session("s_1"), client.open_session("s_1"))
        assert one is other is session
    assert len(server.said("session.open")) == 1


# --------------------------------------------------------------------------- events


async def test_events_tell_what_happens_and_who_is_there(server: SessionServer) -> None:
    async with client_of(server) as client:
        session = await client.create_session()
        users = [{"id": "bob", "name": "Bob", "connections": 1}]
        await server.send_all({"type": "presence", "session": session.id, "users": users})
        await server.send_all({"type": "typing", "session": session.id, "user": "bob", "typing": True})
        await session.typing()
        await until(lambda: session.typing_now() == ["bob"])
        await server.send_all({"type": "typing", "session": session.id, "user": "bob", "typing": False})
        await session.send("hi")
        kinds = await some_events(session, "turn_end")
        assert kinds == ["presence", "typing", "typing", "message", "turn_start", "message", "turn_end"]
        assert session.state.users == users
        assert session.typing_now() == []
    assert server.said("typing")[0]["typing"] is True


async def test_a_reader_of_events_who_falls_behind_gets_one_snapshot(server: SessionServer) -> None:
    async with client_of(server) as client:
        session = await client.create_session()
        for n in range(FRAMES_WAITING_MAX + 10):
            server.sessions[session.id].say("session", title=f"title {n}")
        await until(lambda: session.state.title == f"title {FRAMES_WAITING_MAX + 9}")
        server.sessions[session.id].say("member", user="bob", role="viewer")
        await until(lambda: "bob" in session.state.members)
        events = session.events()
        snapshot = await anext(events)
        server.sessions[session.id].say("member", user="bob", role=None)
        assert (snapshot["type"], snapshot["title"]) == ("snapshot", session.state.title)
        assert (await anext(events))["type"] == "member"


async def test_a_snapshot_replaces_the_state_and_brings_what_runs(server: SessionServer) -> None:
    server.allowed = 2
    async with client_of(server) as client:
        session = await client.create_session()
        stream = server.new_stream({})
        running = [
            {
                "turn": "t_9",
                "stream": stream.name,
                "epoch": 7,
                "model": "a/b",
                "message": "m_8",
                "user": "bob",
                "state": "running",
            }
        ]
        whole = {"messages": [], "members": [], "more": True, "title": "Other", "running": running, "role": "viewer"}
        await server.send_all({"type": "snapshot", "stream": session.id, "epoch": 9, "upto": 70, "offset": 70, **whole})
        assert await some_events(session, "snapshot") == ["snapshot"]
        assert (session.state.position, session.state.title) == ((9, 70), "Other")
        reading = await session.stream(stream.name)
        assert (reading.place["offset"], reading.turn) == (0, "t_9")


# --------------------------------------------------------------------------- the end


async def test_who_is_removed_is_told_and_reads_nothing_more(server: SessionServer) -> None:
    server.allowed = 2
    async with client_of(server) as client:
        session = await client.create_session()
        stream = await session.send("hi")
        await server.send_all({"type": "error", "session": session.id, **GONE})
        with pytest.raises(EverstreamError, match=r"session\.unknown"):
            await some_events(session, "never")
        with pytest.raises(EverstreamError, match=r"session\.unknown"):
            await stream.result()
        server.drop_all()
        await until(lambda: server.connected == 2)
        await client.ping()
        await session.close()
    assert server.said("hello")[1]["resume"] == []
    assert not server.said("session.close")


async def test_a_session_that_is_deleted_ends_with_its_last_entry(server: SessionServer) -> None:
    server.allowed = 2
    async with client_of(server) as client:
        session = await client.create_session()
        stream = await session.send("hi")
        made = server.sessions[session.id]
        del server.streams[stream.id]
        made.say("session", deleted=True)
        assert (await some_events(session, "never"))[-1] == "session"
        assert session.over
        with pytest.raises(EverstreamError, match=r"stream\.unknown"):
            await stream.result()


async def test_a_session_that_is_unknown_after_coming_back_raises(server: SessionServer) -> None:
    async with client_of(server) as client:
        session = await client.create_session()
        del server.sessions[session.id], server.streams[session.id]
        server.drop_all()
        with pytest.raises(EverstreamError, match="unknown"):
            await some_events(session, "never")


async def test_closing_ends_events_and_the_streams_of_the_session(server: SessionServer) -> None:
    server.allowed = 2
    async with client_of(server) as client:
        async with await client.create_session() as session:
            stream = await session.send("hi")
            reading = asyncio.create_task(some_events(session, "never"))
        assert (await reading)[-1] == "turn_start"
        with pytest.raises(ConnectionError):
            await stream.result()
        await session.close()
    assert len(server.said("session.close")) == 1


async def test_closing_the_client_ends_whoever_waits_for_events(server: SessionServer) -> None:
    async with client_of(server) as client:
        session = await client.create_session()
        reading = asyncio.create_task(some_events(session, "never"))
        await client.ping()
    with pytest.raises(ConnectionError):
        await reading


async def test_opening_that_is_given_up_leaves_nothing_open(server: SessionServer) -> None:
    made = server.new_session()
    async with client_of(server) as client:
        held = server.hold["session.open"] = asyncio.Event()
        task = asyncio.create_task(client.open_session(made.name))
        await until(lambda: server.said("session.open"))
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        held.set()
        await until(lambda: server.said("session.close"))
        assert not client._sessions
        with pytest.raises(EverstreamError, match=r"session\.unknown"):
            await client.open_session("s_99")


# --------------------------------------------------------------------------- commands


async def test_sessions_are_listed_page_after_page(server: SessionServer) -> None:
    pages = [{"sessions": [{"session": "s_1"}, {"session": "s_2"}], "next": "x"}, {"sessions": [{"session": "s_3"}]}]
    server.given["session.list"] = [{"type": "ok", **page} for page in pages]
    async with client_of(server) as client:
        assert [found["session"] async for found in client.sessions(limit=2)] == ["s_1", "s_2", "s_3"]
    assert [(c["limit"], c.get("before")) for c in server.said("session.list")] == [(2, None), (2, "x")]


async def test_earlier_messages_are_put_in_front(server: SessionServer) -> None:
    made = server.new_session()
    names = [made.message("user", None, f"say {n}") for n in range(5)]
    earlier = list(made.state().messages.values())[:3]
    server.given["session.history"] = [{"type": "ok", "messages": earlier, "more": False}]
    async with client_of(server) as client:
        session = await client.open_session(made.name, history=2)
        assert (list(session.state.messages), session.state.more) == (names[3:], True)
        assert await session.history(limit=3) == earlier
        assert (list(session.state.messages), session.state.more) == (names, False)
    assert server.said("session.history")[0]["before"] == names[3]


async def test_commands_say_what_the_protocol_has_for_them(server: SessionServer) -> None:
    server.given = {
        "session.export": [{"type": "ok", "format": "markdown", "content": "# About"}],
        "cancel": [{"type": "cancelled", "streams": [{"stream": "r_2", "offset": 4}]}],
    }
    async with client_of(server) as client:
        session = await client.create_session()
        await session.update(title="", model="fake/two")
        await session.add_member("bob", "viewer")
        await session.remove_member("bob")
        await session.approve("r_2", "c_1", approved=False, reason="no")
        assert await session.export() == "# About"
        assert await session.cancel() == [{"stream": "r_2", "offset": 4}]
        await session.delete()
    fields = {command["type"]: command for command in server.commands}
    assert (fields["session.update"]["title"], "system" in fields["session.update"]) == ("", False)
    assert fields["member.add"]["role"] == "viewer"
    assert fields["member.remove"]["user"] == "bob"
    assert fields["tool_approval"]["approvals"] == [{"call_id": "c_1", "approved": False, "reason": "no"}]
    assert fields["session.delete"]["session"] == session.id


async def test_results_of_tools_are_given_and_the_turn_goes_on(server: SessionServer) -> None:
    calls = [{"call_id": call_id, "name": "f", "arguments": "{}"} for call_id in ("c_1", "c_2")]
    server.allowed = 2
    async with client_of(server) as client:
        session = await client.create_session()
        stream = await session.send("hi")
        made = server.sessions[session.id]
        server.finish(made, stream.id, tool_calls=calls)
        await until(lambda: session.state.turns[stream.turn or ""].missing == ("c_1", "c_2"))
        later = server.new_stream({})
        server.given["tool_result"] = [
            {"type": "ok", "missing": ["c_2"]},
            {"type": "accepted", "session": session.id, "turn": stream.turn, "stream": later.name, "epoch": 7},
        ]
        assert await session.tool_result(stream, {"c_1": {"found": 4}}) is None
        goes_on = await session.tool_result(stream.id, [{"call_id": "c_2", "content": "no", "is_error": True}])
        assert goes_on is not None
        assert (goes_on.id, goes_on.turn) == (later.name, stream.turn)
    given = [command["results"] for command in server.said("tool_result")]
    assert given == [
        [{"call_id": "c_1", "content": {"found": 4}}],
        [{"call_id": "c_2", "content": "no", "is_error": True}],
    ]


async def test_results_whose_reply_was_lost_are_found_among_the_messages(server: SessionServer) -> None:
    refusal = {"type": "error", "code": "request.not_found", "message": "no such call", "retryable": False}
    server.allowed = 2
    async with client_of(server) as client:
        session = await client.create_session()
        stream = await session.send("hi")
        made = server.sessions[session.id]
        server.finish(made, stream.id, tool_calls=[{"call_id": "c_1", "name": "f", "arguments": "{}"}])
        server.given["tool_result"] = [{"type": "ok"}, refusal, refusal]
        server.lose_reply = ["tool_result"]
        giving = asyncio.create_task(session.tool_result(stream, {"c_1": "42"}))
        await until(lambda: len(server.said("tool_result")) == 2)
        asked = made.message("tool", session.state.newest, "42", stream=stream.id, call_id="c_1")
        later = server.new_stream({}).name
        made.say("turn_start", turn=stream.turn, stream=later, model="fake/one", message=asked, user="ann")
        goes_on = await giving
        assert goes_on is not None
        assert goes_on.id == later
        with pytest.raises(EverstreamError, match=r"request\.not_found"):  # refused for a reason, and not lost
            await session.tool_result(stream, {"c_1": "42"})


async def test_too_many_commands_at_once_are_refused_here(server: SessionServer) -> None:
    async with client_of(server) as client:
        held = server.hold["ping"] = asyncio.Event()
        pings = [asyncio.create_task(client.ping()) for _ in range(CALLS_MAX)]
        await until(lambda: server.said("ping"))
        with pytest.raises(EverstreamError, match=r"limit\.rate"):
            await client.ping()
        held.set()
        async with asyncio.timeout(WAIT_S):
            await asyncio.gather(*pings)
