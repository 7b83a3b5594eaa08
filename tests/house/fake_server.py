"""A tiny server of the protocol, with the misbehaviour that a test asks for.  It keeps its promises (an entry never
changes, `request_id` starts one generation) and breaks connections, not rules."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from http import HTTPStatus
from typing import Any, TypeVar

import msgspec
from websockets.asyncio.server import ServerConnection, serve
from websockets.exceptions import ConnectionClosed
from websockets.http11 import Request, Response
from websockets.typing import Subprotocol

Frame = dict[str, Any]
AnyServer = TypeVar("AnyServer", bound="FakeServer")
USAGE = {"input_tokens": 3, "output_tokens": 5, "total_tokens": 8, "source": "provider"}
METRICS = {"ttft_ms": 120.0, "stream_ms": 900.0, "total_ms": 1020.0, "tokens_per_s": 5.6}

DENIED: Frame = {"code": "auth.denied", "message": "this token will not do", "retryable": False}


def end(reason: str = "complete", error: Frame | None = None) -> Frame:
    return {
        "type": "stream_end",
        "reason": reason,
        "finish_reason": "stop" if reason == "complete" else None,
        "usage": USAGE,
        "cost": None,
        "metrics": METRICS,
        "error": error,
        "warnings": [],
    }


def text(piece: str) -> Frame:
    return {"type": "delta_text", "text": piece}


def answer(*pieces: str) -> list[Frame]:
    return [{"type": "request_start", "model": "fake/one", "at": 1}, *map(text, pieces), end()]


class FakeStream:
    """A log, and how much of it there is yet: entries beyond `allowed` come when the test lets them."""

    def __init__(self, name: str, entries: list[Frame], allowed: int | None) -> None:
        self.name = name
        self.epoch = 7
        self.entries = entries
        self.allowed = len(entries) if allowed is None else allowed
        self.grown = asyncio.Event()

    @property
    def tail(self) -> int:
        return min(self.allowed, len(self.entries))

    @property
    def ended(self) -> bool:
        return self.tail == len(self.entries) and self.entries[-1]["type"] == "stream_end"

    def allow(self, entries: int = 1_000_000) -> None:
        self.allowed = entries
        self.grown.set()
        self.grown = asyncio.Event()

    def cancel(self) -> int:
        if not self.ended:
            self.entries[self.tail :] = [end("cancelled")]
            self.allow()
        return len(self.entries)


class FakeServer:
    """What tests set:

    `script`      the entries of a generation; `allowed`: how many of them at first
    `lose_reply`  kinds of command that are carried out, but whose connection dies before the reply
    `drop_after`  entry frames, then the connection dies; one number a connection
    `close_with`  a close code for the next hello, with the error to send before
    `refuse_with` HTTP statuses for the next upgrades
    `busy`        kinds of command that are refused once with `limit.rate`, and for how many milliseconds
    `hold`        kinds of command whose reply waits for an event
    `tokens`      the tokens that are good; None: a token is not looked at
    `stale`       kinds of command that are refused with `auth.required` until a good token was sent by `auth`
    """

    def __init__(self) -> None:
        self.url = ""
        self.script: Callable[[Frame], list[Frame]] = lambda _: answer("one", " two", " three")
        self.allowed: int | None = None
        self.models: list[Frame] = [
            {"id": "scripted/count", "usable": True, "continuation": "exact"},
            {"id": "far/away", "usable": False, "why_not": "no key", "continuation": None},
            {"id": "fake/one", "usable": True, "continuation": "exact"},
        ]
        self.heartbeat_ms = 15_000
        self.limits: Frame = {"frame_bytes": 1_048_576, "streams": 64}
        self.lose_reply: list[str] = []
        self.drop_after: list[int] = []
        self.close_with: list[tuple[int, Frame | None]] = []
        self.refuse_with: list[HTTPStatus] = []
        self.busy: list[tuple[str, int]] = []
        self.hold: dict[str, asyncio.Event] = {}
        self.tokens: set[str] | None = None
        self.stale: list[str] = []
        self.streams: dict[str, FakeStream] = {}
        self.commands: list[Frame] = []
        self.connections: set[FakeConnection] = set()
        self.connected = 0  # connections so far
        self._by_request: dict[str, FakeStream] = {}

    def stream_for(self, request: Frame) -> FakeStream:
        stream = self._by_request.get(request["request_id"])
        if stream is None:
            name = f"r_{len(self.streams) + 1}"
            stream = FakeStream(name, self.script(request), self.allowed)
            self.streams[name] = self._by_request[request["request_id"]] = stream
        return stream

    def farewell(self, hello: Frame) -> tuple[int, Frame | None] | None:
        """The close code instead of a welcome, and the error before it."""
        if self.close_with:
            return self.close_with.pop(0)
        return None if self.knows(hello) else (4501, DENIED)

    def knows(self, command: Frame) -> bool:
        return self.tokens is None or command.get("token") in self.tokens

    def said(self, kind: str) -> list[Frame]:
        return [command for command in self.commands if command["type"] == kind]

    def drop_all(self) -> None:
        for connection in list(self.connections):
            connection.socket.transport.abort()

    async def close_all(self, code: int) -> None:
        for connection in list(self.connections):
            await connection.socket.close(code)

    async def send_all(self, frame: Frame) -> None:
        for connection in list(self.connections):
            await connection.send(frame)

    def connection(self, socket: ServerConnection) -> FakeConnection:
        return FakeConnection(self, socket)

    async def handle(self, socket: ServerConnection) -> None:
        self.connected += 1
        connection = self.connection(socket)
        self.connections.add(connection)
        try:
            await connection.run()
        except ConnectionClosed:
            pass
        finally:
            self.connections.discard(connection)
            await connection.aclose()

    def upgrade(self, _socket: ServerConnection, _request: Request) -> Response | None:
        return _socket.respond(self.refuse_with.pop(0), "no\n") if self.refuse_with else None


class FakeConnection:
    def __init__(self, server: FakeServer, socket: ServerConnection) -> None:
        self.server = server
        self.socket = socket
        self.left = server.drop_after.pop(0) if server.drop_after else -1
        self._readers: dict[str, asyncio.Task[None]] = {}
        self._json = socket.subprotocol != "everstream.v1.msgpack"

    async def send(self, frame: Frame) -> None:
        data = msgspec.json.encode(frame) if self._json else msgspec.msgpack.encode(frame)
        await self.socket.send(data, text=self._json)

    async def aclose(self) -> None:
        for reader in self._readers.values():
            reader.cancel()
        await asyncio.gather(*self._readers.values(), return_exceptions=True)

    async def run(self) -> None:
        while True:
            data = await self.socket.recv(decode=False)
            command: Frame = msgspec.json.decode(data) if self._json else msgspec.msgpack.decode(data)
            self.server.commands.append(command)
            if command["type"] == "hello" and (farewell := self.server.farewell(command)) is not None:
                code, error = farewell
                if error is not None:
                    await self.send({"type": "error", "id": command["id"], **error})
                await self.socket.close(code)
                return
            replies = list(self.replies(command))
            if command["type"] in self.server.hold:
                await self.server.hold[command["type"]].wait()
            if command["type"] in self.server.lose_reply:
                self.server.lose_reply.remove(command["type"])
                self.socket.transport.abort()
                return
            for reply in replies:
                await self.send(reply)
            self.read(command, replies)

    def replies(self, command: Frame) -> list[Frame]:
        kind, server, echo = command["type"], self.server, {"id": command.get("id")}
        if server.busy and server.busy[0][0] == kind:
            fault = {"code": "limit.rate", "message": "too much at once", "retryable": True}
            return [{"type": "error", **echo, **fault, "retry_after_ms": server.busy.pop(0)[1]}]
        if kind == "auth" and not server.knows(command):
            return [{"type": "error", **echo, **DENIED}]
        if kind == "auth":
            server.stale.clear()
        if kind in server.stale:
            return [{"type": "error", **echo, **DENIED, "code": "auth.required"}]
        if kind == "hello":
            limits = {"heartbeat_ms": server.heartbeat_ms, "limits": server.limits}
            name = f"c_{server.connected}"
            first = {"type": "welcome", **echo, "protocol": 1, "connection": name, "node": "n_1", **limits}
            return [first, *(self.located(place, {}) for place in command["resume"])]
        if kind == "generate":
            stream = server.stream_for(command)
            return [{"type": "accepted", **echo, "stream": stream.name, "epoch": stream.epoch}]
        if kind == "subscribe":
            return [self.located(command, echo)]
        if kind == "cancel":
            offset = server.streams[command["stream"]].cancel()
            return [{"type": "cancelled", **echo, "streams": [{"stream": command["stream"], "offset": offset}]}]
        if kind == "models":
            return [{"type": "ok", **echo, "models": server.models}]
        return [{"type": "ok", **echo}]

    def located(self, place: Frame, echo: Frame) -> Frame:
        stream = self.server.streams.get(place["stream"])
        if stream is None:
            fault = {"code": "stream.unknown", "message": "no such stream", "retryable": False}
            return {"type": "error", **echo, "stream": place["stream"], **fault}
        offset = place.get("offset", 0)
        status = "ended" if stream.ended else "open"
        found = {"stream": stream.name, "epoch": stream.epoch, "offset": offset, "tail": stream.tail, "status": status}
        return {"type": "subscribed", **echo, **found}

    def read(self, command: Frame, replies: list[Frame]) -> None:
        for reply in replies:
            if reply["type"] in ("accepted", "subscribed"):
                self.begin(self.server.streams[reply["stream"]], reply.get("offset", 0))
        if command["type"] == "unsubscribe":
            self._readers.pop(command["stream"]).cancel()

    def begin(self, stream: FakeStream, offset: int) -> None:
        old = self._readers.pop(stream.name, None)
        if old is not None:
            old.cancel()
        self._readers[stream.name] = asyncio.create_task(self.follow(stream, offset))

    async def follow(self, stream: FakeStream, offset: int) -> None:
        while True:
            grown = stream.grown
            while offset < stream.tail:
                if self.left == 0:
                    self.socket.transport.abort()
                    return
                self.left -= 1
                await self.entry(stream, stream.entries[offset], offset)
                offset += 1
            if stream.ended:
                return
            await grown.wait()

    async def entry(self, stream: FakeStream, entry: Frame, offset: int) -> None:
        await self.send({**entry, "stream": stream.name, "after": offset, "upto": offset + 1})


@asynccontextmanager
async def fake_server(port: int = 0) -> AsyncIterator[FakeServer]:
    async with serving(FakeServer(), port) as fake:
        yield fake


@asynccontextmanager
async def serving(fake: AnyServer, port: int = 0) -> AsyncIterator[AnyServer]:
    protocols = [Subprotocol("everstream.v1.json"), Subprotocol("everstream.v1.msgpack")]
    async with serve(
        fake.handle,
        "127.0.0.1",
        port,
        subprotocols=protocols,
        process_request=fake.upgrade,
        close_timeout=1,
        compression=None,
    ) as server:
        fake.url = f"ws://127.0.0.1:{server.sockets[0].getsockname()[1]}/ws"
        yield fake
        for held in fake.hold.values():
            held.set()
        fake.drop_all()


async def until(condition: Callable[[], Any], seconds: float = 10.0) -> None:
    """Wait for `condition`, with a bound."""
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(0.005)  # pause: between two looks at the condition
