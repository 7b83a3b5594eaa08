"""Everything without a WebSocket: commands by POST, and what they bring as Server-Sent Events.

    GET  /v1/events?at=STREAM[,EPOCH,OFFSET]&at=…    many streams from their places on, in the protocol's own frames
    POST /v1/tickets                                  what stands in an address where no header can be sent
    POST /v1/commands                                 a command, a list of them, or {connection, commands}

An event connection is a `Subscriber` like a WebSocket's, but for the way its commands come.  With its id (`connection`
of its `welcome`) commands are carried out on it: replies and streams come as events, as they would on a socket.
Without one the replies are the answer, and nothing is subscribed: for who holds no events, or holds them elsewhere.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route
from starlette.types import Receive, Scope, Send

from everstream.core import commands
from everstream.core.commands import Command, Resume
from everstream.core.cursor import Run
from everstream.core.errors import FAULTS, EverstreamError
from everstream.core.log import Position
from everstream.core.protocol import ClientProtocol, Refuse
from everstream.core.wire import Encoding, encode, encode_entry
from everstream.gateway.frames import PlainEncoder
from everstream.gateway.http_door import HttpDoor, Served
from everstream.gateway.sse import COMMENT, HEADERS
from everstream.gateway.subscriber import Subscriber
from everstream.gateway.tickets import TICKET_S, made
from everstream.runtime.ending import end
from everstream.runtime.hub import Feed

COMMANDS_MAX = 64  # in one request
PLACES_MAX = 1_024
_DIGITS_MAX = 16


class EventEncoder(PlainEncoder):
    """The protocol's JSON frames, an event each.  One object for all who read that way."""

    def __init__(self) -> None:
        super().__init__(Encoding.JSON)

    def entry(self, stream: str, run: Run) -> bytes:
        return b"data: %b\n\n" % encode_entry(Encoding.JSON, stream, run.after, run.upto, run.event)

    def frame(self, frame: Any) -> bytes:
        return b"data: %b\n\n" % encode(Encoding.JSON, frame)


_ENCODER = EventEncoder()


class EventOutlet:
    """Keeps what was written until the response sends it."""

    def __init__(self, high_water_bytes: int) -> None:
        self.encoder: PlainEncoder = _ENCODER
        self.written = asyncio.Event()
        self.over = False
        self._high_water_bytes = high_water_bytes
        self._unsent: list[bytes] = []
        self._unsent_bytes = 0
        self._on_room: Callable[[], None] = lambda: None

    @property
    def full(self) -> bool:
        return self._unsent_bytes >= self._high_water_bytes

    def open(self, on_room: Callable[[], None], on_stuck: Callable[[], None]) -> None:
        self._on_room = on_room

    async def room(self) -> None:
        """Commands come by another way, and are answered whether there is room or not."""

    def write(self, frames: list[bytes]) -> None:
        self._unsent += frames
        self._unsent_bytes += sum(map(len, frames))
        self.written.set()

    def take(self) -> bytes:
        """What was written since the last time."""
        was_full = self.full
        said, self._unsent, self._unsent_bytes = b"".join(self._unsent), [], 0
        self.written.clear()
        if was_full:
            self._on_room()
        return said

    async def close(self, code: int, reason: str) -> None:
        self.shut()

    def shut(self) -> None:
        self.over = True
        self.written.set()


class EventConnection(Subscriber):
    """What one `GET /v1/events` reads."""

    def __init__(self, served: Served) -> None:
        self._events = EventOutlet(served.node.settings.write_high_water_bytes)
        super().__init__(served.node, served.connections, self._events)

    async def close(self, code: int, reason: str) -> None:
        self.stop()

    def revoked(self) -> None:
        self._node.counters.connections_revoked += 1
        self.stop()

    def stop(self) -> None:
        """Say no more."""
        self.free_place()
        self._closing = True
        self._events.shut()

    async def enter(self) -> None:
        """Take a place among the user's connections.  Raises EverstreamError `limit.rate`."""
        await self._connections.headcount(self._node).enter(self.user.id, self.id)

    def free_place(self) -> None:
        self._connections.headcount(self._node).leave(self.id)

    async def run(self, places: list[Resume], send: Callable[[bytes], Any]) -> None:
        """Say who is there, and all that comes, until nobody listens any more."""
        events = self._events
        events.open(self._on_room, self.stop)
        beat_s = self._settings.heartbeat_ms / 1000
        try:
            await self.start(commands.Hello(resume=places))
            while not events.over:
                try:
                    async with asyncio.timeout(beat_s):
                        await events.written.wait()
                except TimeoutError:
                    await send(COMMENT)
                else:
                    await send(events.take())
        finally:
            self._closing = True
            await self._end()


class EventsResponse(Response):
    media_type = "text/event-stream"

    def __init__(self, connection: EventConnection, served: Served, places: list[Resume]) -> None:
        super().__init__(headers=HEADERS)
        del self.headers["content-length"]
        self._connection = connection
        self._served = served
        self._places = places

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        connection = self._connection

        async def watch() -> None:
            while (await receive())["type"] != "http.disconnect":
                pass
            connection.stop()

        async def body(said: bytes) -> None:
            await send({"type": "http.response.body", "body": said, "more_body": True})

        gone = asyncio.create_task(watch(), name=f"the client of {connection.id}")
        try:
            with self._served.connections.joined(connection, self._served.node):
                await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
                await connection.run(self._places, body)
            await send({"type": "http.response.body", "body": b"", "more_body": False})
        finally:
            connection.free_place()
            await end([gone])


class Detached(Subscriber):
    """Carries commands out for somebody who is not connected: it keeps the replies, and reads nothing."""

    def __init__(self, served: Served) -> None:
        super().__init__(served.node, served.connections, EventOutlet(1))
        self.replies: list[dict[str, Any]] = []

    def send(self, frame: dict[str, Any]) -> None:
        self.replies.append(frame)

    def attach(self, feed: Feed, seen: Position, *, brought: bool = False) -> None:
        """There is nowhere to send it."""

    async def carry_out(self, command: Command) -> None:
        await self._answer(command)

    async def close(self, code: int, reason: str) -> None:
        """There is nothing that could be closed."""

    async def end(self) -> None:
        await self._end()


class Events:
    def __init__(self, served: Served, door: HttpDoor) -> None:
        self._served = served
        self._door = door

    def routes(self) -> list[BaseRoute]:
        return [
            Route("/v1/events", self._door.route(self._listen), methods=["GET", "OPTIONS"]),
            Route("/v1/tickets", self._door.route(self._ticket), methods=["POST", "OPTIONS"]),
            Route("/v1/commands", self._door.route(self._command), methods=["POST", "OPTIONS"]),
        ]

    async def _listen(self, request: Request) -> Response:
        places = [_place(given) for given in request.query_params.getlist("at")]
        if len(places) > PLACES_MAX:
            raise EverstreamError("request.invalid", f"{PLACES_MAX} places at once")
        connection = EventConnection(self._served)
        connection.standing = await self._door.admit(request, connection.stop, "")
        try:
            await connection.enter()
        except BaseException:
            connection.standing.end()
            raise
        return EventsResponse(connection, self._served, places)

    async def _ticket(self, request: Request) -> Response:
        """A ticket, in place of what was shown here."""
        standing = await self._door.admit(request)
        standing.end()
        ticket = await made(self._served.node.store, standing.principal)
        answer = _json({"ticket": ticket, "expires_ms": TICKET_S * 1000})
        answer.headers["cache-control"] = "no-store"
        return answer

    async def _command(self, request: Request) -> Response:
        standing = await self._door.admit(request)
        try:
            body = await self._door.body(request, lists=True)
            wanted = body.get("connection") if isinstance(body, dict) else None
            given = body["commands"] if isinstance(body, dict) and "commands" in body else body
            frames = given if isinstance(given, list) else [given]
            if len(frames) > COMMANDS_MAX or not all(isinstance(frame, dict) for frame in frames):
                raise EverstreamError("request.invalid", f"a command, or a list of up to {COMMANDS_MAX}")
            if wanted is not None:
                return await self._on(wanted, standing.principal.id, frames)
            detached = Detached(self._served)
            detached.standing = standing
            try:
                for frame in frames:
                    await self._carry_out(detached, frame)
            finally:
                await detached.end()
        finally:
            standing.end()
        if isinstance(given, list):
            return _json({"replies": detached.replies})
        first = detached.replies[0] if detached.replies else {"type": "ok"}
        return _json(first, FAULTS[first["code"]].http_status if first["type"] == "error" else 200)

    async def _carry_out(self, detached: Detached, frame: dict[str, Any]) -> None:
        action = _protocol(self._served).command(frame)
        if isinstance(action, Refuse):
            detached.send(action.frame)
        else:
            await detached.carry_out(action.command)

    async def _on(self, wanted: object, user: str, frames: list[dict[str, Any]]) -> Response:
        """Carry commands out on an event connection of the same user, which hears the replies."""
        for connection in self._served.connections:
            if not isinstance(connection, EventConnection) or connection.id != wanted or connection.user.id != user:
                continue
            for frame in frames:
                action = _protocol(self._served).command(frame)
                if isinstance(action, Refuse):
                    connection.send(action.frame)
                else:
                    await connection.start(action.command)
            return _json({"connection": connection.id}, 202)
        raise EverstreamError("request.not_found", "no such event connection on this server: leave `connection` out")


def _protocol(served: Served) -> ClientProtocol:
    """Reads commands as a connection's would, after its `hello`."""
    return ClientProtocol(Encoding.JSON, served.node.settings.frame_bytes, ready=True)


def _place(given: str) -> Resume:
    """`STREAM` or `STREAM,EPOCH,OFFSET`.  Raises EverstreamError `request.invalid`."""
    stream, *numbers = given.split(",")
    whole = all(part.isascii() and part.isdecimal() and len(part) <= _DIGITS_MAX for part in numbers)
    if not stream or len(numbers) not in (0, 2) or not whole:
        raise EverstreamError("request.invalid", "`at` is STREAM or STREAM,EPOCH,OFFSET")
    return Resume(stream, *(int(part) for part in numbers))


def _json(body: object, status: int = 200) -> Response:
    return Response(encode(Encoding.JSON, body), status, media_type="application/json")
