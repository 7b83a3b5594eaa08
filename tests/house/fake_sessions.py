"""The tiny server with sessions: they are streams, and bring the streams of their turns along.

A turn answers as `script` says; once all of its answer may be read, the session says so.  Entries are sent as the
server does, or, where a test asks for it, in the most awkward order that the protocol allows.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from tests.house.fake_server import FakeConnection, FakeServer, FakeStream, Frame, serving
from websockets.asyncio.server import ServerConnection

from everstream.session_reducer import RUNNING, SessionState

GONE: Frame = {"code": "session.unknown", "message": "there is no such session", "retryable": False}


class FakeSession(FakeStream):
    """A log of a session's entries."""

    def __init__(self, name: str) -> None:
        super().__init__(name, [], None)
        self.allowed = 1_000_000

    @property
    def ended(self) -> bool:
        return False

    def say(self, kind: str, **fields: Any) -> None:
        self.entries.append({"type": kind, **fields})
        self.allow()

    def message(self, role: str, parent: str | None, content: str, **more: Any) -> str:
        name = f"m_{len(self.entries)}"
        said = {"id": name, "parent": parent, "role": role, "author": "ann", "content": content, "created": 1}
        self.say("message", message={**said, **more})
        return name

    def state(self, upto: int | None = None) -> SessionState:
        state = SessionState(self.name, self.epoch, user="ann")
        for at, entry in enumerate(self.entries[:upto]):
            state.apply({**entry, "session": self.name, "after": at, "upto": at + 1})
        return state


class SessionServer(FakeServer):
    """Besides what its kind has, tests set:

    `given`         replies to other commands by their kind, one after the other
    `streams_first` all there is of a turn's stream is sent before the entry that names it
    `unbrought`     streams of turns that are not brought along
    """

    def __init__(self) -> None:
        super().__init__()
        self.sessions: dict[str, FakeSession] = {}
        self.given: dict[str, list[Frame]] = {}
        self.streams_first = False
        self.unbrought: set[str] = set()
        self._made: dict[str, Frame] = {}

    def connection(self, socket: ServerConnection) -> FakeConnection:
        return SessionConnection(self, socket)

    def new_session(self, **fields: Any) -> FakeSession:
        session = FakeSession(f"s_{len(self.sessions) + 1}")
        self.sessions[session.name] = self.streams[session.name] = session  # type: ignore[assignment]
        session.say("session", created=1, **fields)
        session.say("member", user="ann", role="owner")
        return session

    def turn(self, session: FakeSession, command: Frame) -> Frame:
        """Say what follows from a `generate`; its reply."""
        made = self._made.get(command["request_id"])
        if made is not None:
            return made
        parent = command.get("parent", session.state().newest)
        message = session.message("user", parent, command["content"]) if "content" in command else parent
        stream = self.new_stream(command, session=session.name, turn=f"t_r_{len(self.streams) + 1}")
        session.say(
            "turn_start", turn=f"t_{stream.name}", stream=stream.name, model="fake/one", message=message, user="ann"
        )
        if stream.ended:
            self.finish(session, stream.name)
        made = {"session": session.name, "turn": f"t_{stream.name}", "message": message, "stream": stream.name}
        self._made[command["request_id"]] = made
        return made

    def new_stream(self, command: Frame, **named: str) -> FakeStream:
        """A stream whose first entry says whose it is."""
        script = [{**entry, **named} if entry["type"] == "request_start" else entry for entry in self.script(command)]
        stream = FakeStream(f"r_{len(self.streams) + 1}", script, self.allowed)
        self.streams[stream.name] = stream
        return stream

    def finish(self, session: FakeSession, stream: str, **more: Any) -> None:
        """Let all of a turn's stream be read, and say that it has ended."""
        self.streams[stream].allow()
        turn = session.state().turn_of(stream)
        assert turn is not None
        said = "".join(entry.get("text", "") for entry in self.streams[stream].entries)
        name = session.message("assistant", turn.message, said, stream=stream, **more)
        if not more.get("tool_calls"):
            session.say("turn_end", turn=turn.turn, stream=stream, reason="complete", message=name)


class SessionConnection(FakeConnection):
    server: SessionServer

    def replies(self, command: Frame) -> list[Frame]:
        kind, server, echo = command["type"], self.server, {"id": command.get("id")}
        session = server.sessions.get(command.get("session", ""))
        if server.given.get(kind):
            return [{**server.given[kind].pop(0), **echo}]
        if kind == "session.create":
            made = server._made.setdefault(command["request_id"], {})
            if not made:
                made["session"] = server.new_session(**{k: command[k] for k in ("title", "model") if k in command}).name
            return [{"type": "ok", **echo, **made}]
        if "session" in command and session is None:
            return [{"type": "error", **echo, **GONE}]
        if session is None:
            return super().replies(command)
        if kind == "session.open":
            upto = command.get("offset", len(session.entries))
            reply = {**session.state(upto).snapshot(), "type": "ok", **echo}
            reply["messages"] = reply["messages"][-command["history"] :]
            reply["more"] = len(session.state(upto).messages) > command["history"]
            reply["running"] = session.state().snapshot()["running"]
            return [reply, *(self.located(place, {}) for place in command.get("responses", ()))]
        if kind == "generate":
            return [{"type": "accepted", **echo, **server.turn(session, command), "epoch": 7}]
        if kind == "typing":
            return []
        return [{"type": "ok", **echo}]

    def read(self, command: Frame, replies: list[Frame]) -> None:
        super().read(command, replies)
        for reply in replies:
            name = reply.get("session", reply.get("stream"))
            session = self.server.sessions.get(name)
            if command["type"] == "session.open" and session is not None and reply["type"] == "ok":
                self.begin(session, reply["offset"])
            if session is not None and reply["type"] in ("ok", "subscribed"):
                for turn in session.state().turns.values():
                    if turn.state == RUNNING:
                        self.bring(turn.stream)

    def bring(self, name: str) -> None:
        if name not in self._readers and name not in self.server.unbrought:
            self.begin(self.server.streams[name], 0)

    async def entry(self, stream: FakeStream, entry: Frame, offset: int) -> None:
        if not isinstance(stream, FakeSession):
            await super().entry(stream, entry, offset)
            return
        brought = entry["type"] == "turn_start"
        if brought and self.server.streams_first:
            await self.all_of(entry["stream"])
        await self.send({**entry, "session": stream.name, "after": offset, "upto": offset + 1})
        if brought:
            self.bring(entry["stream"])

    async def all_of(self, name: str) -> None:
        stream = self.server.streams[name]
        for offset, entry in enumerate(stream.entries[: stream.tail]):
            await super().entry(stream, entry, offset)
        self.begin(stream, stream.tail)


@asynccontextmanager
async def session_server() -> AsyncIterator[SessionServer]:
    async with serving(SessionServer()) as server:
        yield server
