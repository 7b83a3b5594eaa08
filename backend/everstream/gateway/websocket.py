"""A WebSocket's shell: `core.protocol` reads its frames, a `Subscriber` answers them.

The reading loop never waits for a command, so a `cancel` is heard while anything else is under way.
"""

from __future__ import annotations

import contextlib

from starlette.websockets import WebSocket, WebSocketDisconnect, WebSocketState

from everstream.core import commands
from everstream.core.errors import CLOSE_EXPIRED, CLOSE_RATE, FAULTS, EverstreamError
from everstream.core.protocol import ClientProtocol, Refuse, error_frame, error_of
from everstream.core.wire import Encoding
from everstream.gateway.auth import Authenticate
from everstream.gateway.connections import Connections
from everstream.gateway.standing import Standing
from everstream.gateway.subscriber import Subscriber
from everstream.gateway.transport import outlet_of
from everstream.runtime.idle import IdleClock
from everstream.runtime.node import Node

CLOSE_INTERNAL = 1011  # RFC 6455 section 7.4.1: the server failed; a client may come back


class Connection(Subscriber):
    def __init__(
        self,
        websocket: WebSocket,
        encoding: Encoding,
        node: Node,
        connections: Connections,
        authenticate: Authenticate | None = None,
    ) -> None:
        settings = node.settings
        outlet = outlet_of(websocket, encoding, settings.write_high_water_bytes, settings.write_timeout_s)
        super().__init__(node, connections, outlet)
        self._websocket = websocket
        self._protocol = ClientProtocol(encoding, settings.frame_bytes)
        self.standing = Standing(websocket, authenticate, settings.hello_timeout_s, self._expires_soon, self._expired)

    # ------------------------------------------------------------------ life

    async def run(self) -> None:
        """From the accepted upgrade until the socket is gone."""
        settings = self._settings
        self._outlet.open(self._on_room, self._on_stuck)
        hello = self._loop.call_later(settings.hello_timeout_s, self._hello_timed_out)
        heartbeat = IdleClock(self._quiet_left, lambda: self.send({"type": "heartbeat"}))
        try:
            while (data := await self._receive()) is not None and not self._closing:
                # Who does not take replies is asked for no more commands, or the replies would pile up.
                await self._outlet.room()
                action = self._protocol.receive(data)
                if isinstance(action, Refuse):
                    await self._refuse(action)
                elif type(action.command) is not commands.Hello or await self._admit(action.command):
                    await self.start(action.command)
        finally:
            hello.cancel()
            heartbeat.cancel()
            self._free_place()
            await self._end()

    async def _receive(self) -> str | bytes | None:
        message = await self._websocket.receive()
        if message["type"] == "websocket.disconnect":
            return None
        data: str | bytes | None = message.get("text")
        return message["bytes"] if data is None else data

    async def close(self, code: int, reason: str) -> None:
        self._free_place()  # a client that is sent away may come back before this one is over
        if not self._closing:
            self._closing = True
            if self._websocket.application_state is WebSocketState.CONNECTED:
                with contextlib.suppress(WebSocketDisconnect):  # the peer was faster
                    await self._outlet.close(code, reason)

    def _hello_timed_out(self) -> None:
        refusal = self._protocol.hello_timed_out()
        if refusal is not None:
            self._spawn(self._refuse(refusal))

    async def _admit(self, command: commands.Hello) -> bool:
        """Whether somebody may come in.  Nothing more is read until that is known: nobody does anything before."""
        try:
            await self.standing.admit(command.token)
        except EverstreamError as error:
            self._node.counters.connections_refused += 1
            await self._refuse(Refuse(error_of(error, command.id), FAULTS[error.code].close_code or CLOSE_INTERNAL))
            return False
        return await self._is_counted(command)

    async def _is_counted(self, command: commands.Hello) -> bool:
        """Whether there is a place for one more connection of this user."""
        try:
            await self._connections.headcount(self._node).enter(self.user.id, self.id)
        except EverstreamError as error:
            self._node.counters.connections_refused += 1
            await self._refuse(Refuse(error_of(error, command.id), CLOSE_RATE))
            return False
        return True

    def _free_place(self) -> None:
        self._connections.headcount(self._node).leave(self.id)

    def _expires_soon(self) -> None:
        self.send(error_frame("auth.required", "this token expires soon: renew it with `auth`", retryable=True))

    def _expired(self) -> None:
        self._node.counters.connections_expired += 1
        self._spawn(self.close(CLOSE_EXPIRED, "authentication expired"))

    def revoked(self) -> None:
        """What it stands on was taken back."""
        if not self._closing:
            self._node.counters.connections_revoked += 1
            frame = error_frame("auth.denied", "this token was taken back")
            self._spawn(self._refuse(Refuse(frame, FAULTS["auth.denied"].close_code)))

    async def _refuse(self, refusal: Refuse) -> None:
        self.send(refusal.frame)
        if refusal.close_code is not None:
            await self.close(refusal.close_code, refusal.frame["code"])
