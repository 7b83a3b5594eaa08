"""What is answered to each command of a connection.

A handler raises EverstreamError for what cannot be; whoever called it says so to the client.
"""

from __future__ import annotations

import asyncio
from typing import Any

from everstream.core import commands, protocol
from everstream.core.commands import Command
from everstream.core.errors import EverstreamError
from everstream.core.protocol import error_of, reply
from everstream.gateway.connections import Connections
from everstream.gateway.conversing import OpenSessions
from everstream.gateway.reading import read_stream
from everstream.gateway.shell import START, Shell
from everstream.runtime.meta import is_session
from everstream.runtime.node import Node


class Answering:
    def __init__(self, shell: Shell, node: Node, connections: Connections, sessions: OpenSessions) -> None:
        self.sessions = sessions
        self._shell = shell
        self._node = node
        self._connections = connections

    async def answer(self, command: Command) -> None:
        """Carry a command out and send its reply.  Raises EverstreamError."""
        await _ANSWERS[type(command)](self, command)

    async def _hello(self, command: commands.Hello) -> None:
        settings = self._node.settings
        self._shell.send(
            reply(
                "welcome",
                command.id,
                protocol=protocol.PROTOCOL_VERSION,
                connection=self._shell.id,
                node=self._node.id,
                user={"id": self._shell.user.id, "name": self._shell.user.name},
                heartbeat_ms=settings.heartbeat_ms,
                limits={
                    "frame_bytes": settings.frame_bytes,
                    "streams": settings.streams_per_connection,
                    "sessions": settings.sessions_per_connection,
                    "commands": settings.commands_in_flight,
                },
            )
        )
        if self._node.draining:  # it came late, and is told what is left
            leave_by = self._connections.leave_by
            left_ms = (
                settings.goaway_spread_ms
                if leave_by is None
                else int((leave_by - asyncio.get_running_loop().time()) * 1000)
            )
            self._shell.goaway(max(left_ms, 0), "draining")
        streams = [place for place in command.resume if not is_session(place.stream)]
        await asyncio.gather(*(self._resume(place) for place in streams))
        read = [place.stream for place in streams]
        await asyncio.gather(*(self._reopen(place, read) for place in command.resume if is_session(place.stream)))

    async def _resume(self, place: commands.Resume) -> None:
        try:
            await read_stream(self._shell, self._node, place.stream, place.position, None)
        except EverstreamError as error:
            self._shell.send(error_of(error, stream=place.stream))

    async def _reopen(self, place: commands.Resume, read: list[str]) -> None:
        try:
            await self.sessions.resume(place.stream, place.position, None, read)
        except EverstreamError as error:
            self._shell.send(error_of(error, stream=place.stream))

    async def _generate(self, command: commands.Generate) -> None:
        request = self._shell.standing.paying(command.request())
        if command.in_session:
            await self.sessions.generate(command)
            return
        with self._shell.room():
            feed = await self._node.generate(request, self._shell.user.id, command.request_id)
        self._shell.send(reply("accepted", command.id, stream=feed.stream, epoch=feed.log.position(0).epoch))
        self._shell.attach(feed, START)

    async def _cancel(self, command: commands.Cancel) -> None:
        if command.session is not None:
            streams = await self.sessions.cancel(command.session)
            offsets = await asyncio.gather(*(self._node.cancel(stream) for stream in streams))
        elif command.stream is not None:
            if is_session(command.stream):
                raise EverstreamError("request.invalid", "to stop what runs in a session, name it as `session`")
            streams = [command.stream]
            offsets = [await self._node.cancel(command.stream, self._shell.user.id)]
        else:
            raise EverstreamError("request.invalid", "`stream` or `session` is missing")
        ends = [{"stream": stream, "offset": offset} for stream, offset in zip(streams, offsets, strict=True)]
        self._shell.send(reply("cancelled", command.id, streams=ends))

    async def _subscribe(self, command: commands.Subscribe) -> None:
        if is_session(command.stream):
            reading = [feed.stream for feed in self._shell.reading]
            await self.sessions.resume(command.stream, command.position, command.id, reading)
        else:
            await read_stream(self._shell, self._node, command.stream, command.position, command.id)

    async def _unsubscribe(self, command: commands.Unsubscribe) -> None:
        feed = self._node.hub.get(command.stream)
        if is_session(command.stream):
            self.sessions.close(command.stream)
        elif feed is not None:
            self._shell.leave(feed)
        self._shell.send(reply("ok", command.id))

    async def _auth(self, command: commands.Auth) -> None:
        await self._shell.standing.renew(command.token)
        self._shell.send(reply("ok", command.id))

    async def _models(self, command: commands.Models) -> None:
        self._shell.send(reply("ok", command.id, models=await self._node.models()))

    async def _session_close(self, command: commands.SessionClose) -> None:
        self.sessions.close(command.session)
        self._shell.send(reply("ok", command.id))

    async def _in_session(self, command: Command) -> None:
        """A command whose reply is `ok` and what it has found out."""
        self._shell.send(reply("ok", command.id, **await _OF_SESSIONS[type(command)](self.sessions, command)))

    async def _ping(self, command: commands.Ping) -> None:
        self._shell.send({"type": "pong"} | command.fields)


_OF_SESSIONS: dict[type[Command], Any] = {
    commands.SessionCreate: OpenSessions.create,
    commands.SessionUpdate: OpenSessions.update,
    commands.SessionDelete: OpenSessions.delete,
    commands.SessionList: OpenSessions.list,
    commands.SessionHistory: OpenSessions.history,
    commands.SessionExport: OpenSessions.export,
    commands.MemberAdd: OpenSessions.add_member,
    commands.MemberRemove: OpenSessions.remove_member,
    commands.ToolApproval: OpenSessions.tool_approval,
}

_ANSWERS: dict[type[Command], Any] = {
    commands.Hello: Answering._hello,
    commands.Generate: Answering._generate,
    commands.Cancel: Answering._cancel,
    commands.Subscribe: Answering._subscribe,
    commands.Unsubscribe: Answering._unsubscribe,
    commands.SessionOpen: lambda answering, command: answering.sessions.open(command),
    commands.SessionClose: Answering._session_close,
    commands.ToolResult: lambda answering, command: answering.sessions.tool_result(command),
    commands.Typing: lambda answering, command: answering.sessions.typing(command),
    **dict.fromkeys(_OF_SESSIONS, Answering._in_session),
    commands.Auth: Answering._auth,
    commands.Models: Answering._models,
    commands.Ping: Answering._ping,
}
