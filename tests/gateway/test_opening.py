"""What a reply to `session.open` says is of one moment, and nothing that begins around that moment is left out."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from tests.gateway.conftest import Client, Gateway, serving
from tests.runtime.conftest import until

from everstream.core.log import Log
from everstream.core.session import Session
from everstream.core.session_events import MemberChanged, SessionChanged, TurnEnd, TurnQueued, TurnStart
from everstream.gateway.session_replies import opened
from everstream.runtime.counters import Counters
from everstream.runtime.hub import Feed

STREAM = "r_00aaaaaaaaaaaaaaaaaaaaaaaaa{}"
ENTRIES = [
    SessionChanged(title="T", created=1),
    MemberChanged("ann", "owner"),
    TurnStart("t_1", STREAM.format(1), "m/x", "m_1", "ann"),
    TurnStart("t_2", STREAM.format(2), "m/x", "m_2", "ann"),
    TurnQueued("t_3", 1, STREAM.format(3), "m/x", "ann", "m_3", "later"),
    TurnQueued("t_4", 1, STREAM.format(4), "m/x", "ann", "m_4", "sooner", interrupt=True),
]


@dataclass
class Scene:
    gateway: Gateway
    ann: Client
    late: Client
    session: str
    first: str  # the stream that runs
    go_on: asyncio.Event


class Elsewhere:
    """A hub for which every stream has to be looked for, while the session goes on."""

    def __init__(self, session: Session) -> None:
        self._session = session

    async def find(self, stream: str) -> None:
        await asyncio.sleep(0)  # pause: as a read of the store takes
        for turn in list(self._session.busy):
            self._session.apply(TurnEnd(turn.id, turn.stream, "complete", None))


async def opening() -> dict[str, Any]:
    session = Session(ENTRIES)
    feed = Feed(Log("s_00aaaaaaaaaaaaaaaaaaaaaaaaaa", ((1, 0),), ENTRIES), b"", Counters())
    return await opened(feed, session, None, "ann", 50, Elsewhere(session))  # type: ignore[arg-type]


async def test_a_reply_is_of_one_moment_though_turns_end_while_their_streams_are_looked_for() -> None:
    reply = await opening()
    assert reply["offset"] == len(ENTRIES)
    assert {turn["turn"] for turn in reply["running"]} == {"t_1", "t_2", "t_3", "t_4"}


async def test_queued_turns_are_listed_in_the_order_in_which_they_start() -> None:
    reply = await opening()
    assert [turn["turn"] for turn in reply["running"]] == ["t_1", "t_2", "t_4", "t_3"]


@asynccontextmanager
async def being_opened() -> AsyncIterator[Scene]:
    """A session with a turn, which `late` has asked to open; the server is just looking for the turn's stream."""
    async with serving() as gateway, gateway.client() as ann, gateway.client() as late:
        session = (await ann.ask("session.create"))["session"]
        first = (await ann.ask("generate", session=session, model="hand/any", content="one"))["stream"]
        await until(lambda: len(gateway.hand.calls) == 1)
        find, looked, go_on = gateway.node.hub.find, asyncio.Event(), asyncio.Event()

        async def slow(stream: str) -> Feed | None:
            if stream == first and not looked.is_set():
                looked.set()
                await go_on.wait()
            return await find(stream)

        gateway.node.hub.find = slow  # type: ignore[method-assign]
        await late.send(type="session.open", id="late", session=session)
        async with asyncio.timeout(5):
            await looked.wait()
        yield Scene(gateway, ann, late, session, first, go_on)


async def test_a_turn_that_begins_while_a_session_is_being_opened_brings_its_stream_along() -> None:
    async with being_opened() as scene:
        calls = scene.gateway.hand.calls
        more = {"session": scene.session, "model": "hand/any", "content": "two", "on_busy": "parallel"}
        second = (await scene.ann.ask("generate", **more, parent=None))["stream"]
        await until(lambda: len(calls) == 2)
        scene.go_on.set()
        for call, word in zip(calls, ("first", "second"), strict=True):
            call.words(word)
            call.end()
        for stream, word in ((scene.first, "first"), (second, "second")):
            await scene.late.ended(stream)
            assert scene.late.streams[stream].text == word


async def test_a_turn_that_ends_while_a_session_is_being_opened_brings_its_stream_along() -> None:
    """The reply says that it runs, so it is read."""
    async with being_opened() as scene:
        (call,) = scene.gateway.hand.calls
        call.words("first")
        call.end()
        await scene.ann.until(lambda frame: frame["type"] == "stream_end")
        feed = scene.gateway.node.hub.get(scene.session)
        assert feed is not None
        await until(lambda: not scene.gateway.node.sessions.view(feed).turns)
        scene.go_on.set()
        await scene.late.ended(scene.first)
        assert scene.late.streams[scene.first].text == "first"
