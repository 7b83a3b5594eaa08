"""A real server in this process, on a store in memory, with scripted models and one that the test feeds by hand.

It is put together as `gateway.server` does it, and clients reach it over real sockets.
"""

from __future__ import annotations

import asyncio
import http.client
import itertools
import json
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import msgpack
import pytest
from tests.runtime.conftest import Hand, settings_of
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed
from websockets.typing import Subprotocol

from everstream.core.session_events import SESSION_EVENTS
from everstream.gateway.auth import Authenticate
from everstream.gateway.server import Server, uvicorn_config
from everstream.gateway.websocket import Connections
from everstream.providers.registry import Registry
from everstream.providers.scripted import Scripted
from everstream.runtime.node import Node
from everstream.runtime.tools import Tools
from everstream.settings import Settings
from everstream.store.memory import MemoryStore

WAIT_S = 10.0
OF_SESSIONS = {str(event.__struct_config__.tag) for event in SESSION_EVENTS}
MESSAGES = [{"role": "user", "content": "hello"}]
JSON, MSGPACK = "everstream.v1.json", "everstream.v1.msgpack"


def count_text(tokens: int) -> str:
    return " ".join(str(n) for n in range(1, tokens + 1))


class Gateway:
    """A running server and what is inside."""

    def __init__(self, node: Node, store: MemoryStore, hand: Hand, port: int, server: Server) -> None:
        self.node = node
        self.store = store
        self.hand = hand
        self.port = port
        self.server = server

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def ws_url(self) -> str:
        return f"ws://127.0.0.1:{self.port}/ws"

    @asynccontextmanager
    async def client(self, subprotocol: str | None = None, *, hello: bool = True, **kept: Any) -> AsyncIterator[Client]:
        async with client_of(self.ws_url, subprotocol, hello=hello, **kept) as client:
            yield client


@asynccontextmanager
async def client_of(
    url: str, subprotocol: str | None = None, *, hello: bool = True, **kept: Any
) -> AsyncIterator[Client]:
    offered = [Subprotocol(subprotocol)] if subprotocol else None
    kept = {"max_size": None, "compression": None, "close_timeout": 0.1, "ping_interval": None} | kept
    async with connect(url, subprotocols=offered, **kept) as socket:
        client = Client(socket, subprotocol)
        if hello:
            await client.ask("hello")
        yield client


class Client:
    """One WebSocket, with the frames that came, and every stream kept as the protocol says."""

    def __init__(self, socket: ClientConnection, subprotocol: str | None) -> None:
        self.socket = socket
        self.packed = subprotocol == MSGPACK
        self.frames: list[dict[str, Any]] = []
        self.streams: dict[str, Held] = {}
        self._ids = itertools.count(1)

    async def send(self, **frame: Any) -> None:
        await self.raw(msgpack.packb(frame) if self.packed else json.dumps(frame))

    async def raw(self, data: str | bytes) -> None:
        await self.socket.send(data)

    async def next(self) -> dict[str, Any]:
        """The next frame, applied to its stream."""
        async with asyncio.timeout(WAIT_S):
            data = await self.socket.recv()
        assert isinstance(data, bytes) is self.packed
        frame: dict[str, Any] = msgpack.unpackb(data) if isinstance(data, bytes) else json.loads(data)
        self.frames.append(frame)
        if frame["type"] == "ok" and "running" in frame:  # a session was opened
            self.streams.setdefault(frame["session"], Held()).offset = frame["offset"]
        if frame["type"] in OF_SESSIONS:
            self.streams.setdefault(frame["session"], Held()).apply(frame)
        elif "stream" in frame and frame["type"] != "error":
            self.streams.setdefault(frame["stream"], Held()).apply(frame)
        return frame

    async def until(self, wanted: Callable[[dict[str, Any]], Any]) -> dict[str, Any]:
        while not wanted(frame := await self.next()):
            pass
        return frame

    async def ask(self, command: str, **fields: Any) -> dict[str, Any]:
        """A command's reply."""
        command_id = fields.pop("id", None) or next(self._ids)
        await self.send(type=command, id=command_id, **fields)
        return await self.until(lambda frame: frame.get("id") == command_id)

    async def generate(self, model: str = "scripted/count", **fields: Any) -> str:
        reply = await self.ask("generate", **{"model": model, "messages": MESSAGES} | fields)
        assert reply["type"] == "accepted", reply
        return str(reply["stream"])

    async def ended(self, stream: str) -> dict[str, Any]:
        """The stream's end; frames are read until it is there."""
        while (held := self.streams.get(stream)) is None or held.end is None:
            await self.next()
        return held.end

    async def closed(self) -> int:
        """Read to the end; the close code."""
        try:
            while True:
                await self.next()
        except ConnectionClosed as closed:
            return closed.rcvd.code if closed.rcvd else 1006


class Held:
    """A stream as a client holds it.  Strict: a frame that overlaps or leaves a hole fails the test."""

    def __init__(self) -> None:
        self.offset = 0
        self.text = ""
        self.end: dict[str, Any] | None = None
        self.snapshots = 0
        self.frames: list[dict[str, Any]] = []

    def apply(self, frame: dict[str, Any]) -> None:
        kind = frame["type"]
        if kind == "snapshot":
            self.offset, self.text, self.end = frame["upto"], frame.get("text", ""), frame.get("end")
            self.snapshots += 1
        elif "after" in frame:
            assert frame["after"] == self.offset, f"at {self.offset}: {frame}"
            assert frame["upto"] > frame["after"]
            assert self.end is None, f"after the end: {frame}"
            self.frames.append(frame)
            self.offset = frame["upto"]
            if kind == "delta_text":
                self.text += frame["text"]
            elif kind == "stream_end":
                self.end = frame
        elif kind == "subscribed":
            self.offset = frame["offset"]


@asynccontextmanager
async def serving(
    store: MemoryStore | None = None,
    registry: Callable[[Settings], Registry] | None = None,
    authenticate: Authenticate | None = None,
    tools: Tools | None = None,
    **given: Any,
) -> AsyncIterator[Gateway]:
    """`registry` makes the providers; without it they are `hand` and `scripted`."""
    store = store or MemoryStore()
    hand = Hand()
    settings: Settings = settings_of(**{"goaway_spread_ms": 0, "drain_ms": 0} | given)
    providers = registry(settings) if registry else Registry({"hand": lambda: hand, "scripted": Scripted})
    node = Node(settings, store, providers, tools=tools)
    await node.start()
    connections = Connections()
    config = uvicorn_config(node, connections, authenticate=authenticate)
    server = Server(config, node, connections)
    # Only where the listener names its protocol does asyncio switch Nagle's algorithm off, as it is in our server.
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP) as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(128)
        running = asyncio.create_task(server.serve([listener]))
        try:
            yield Gateway(node, store, hand, listener.getsockname()[1], server)
        finally:
            server.should_exit = True
            await running
            await node.stop()


@pytest.fixture
async def gateway() -> AsyncIterator[Gateway]:
    async with serving() as gateway:
        yield gateway


@asynccontextmanager
async def raw_frames(gateway: Gateway) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    """A WebSocket whose frames are written by hand; its handshake is over, and nothing was said."""
    reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
    writer.write(
        b"GET /ws HTTP/1.1\r\nhost: 127.0.0.1\r\nconnection: upgrade\r\nupgrade: websocket\r\n"
        b"sec-websocket-version: 13\r\nsec-websocket-key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
    )
    assert b" 101 " in await reader.readuntil(b"\r\n\r\n")
    try:
        yield reader, writer
    finally:
        writer.transport.abort()


async def get(gateway: Gateway, path: str) -> tuple[int, dict[str, str], bytes]:
    """A page's status, headers (their names in lower case) and body."""

    def fetch() -> tuple[int, dict[str, str], bytes]:
        connection = http.client.HTTPConnection("127.0.0.1", gateway.port, timeout=10)
        try:
            connection.request("GET", path)
            response = connection.getresponse()
            return response.status, {k.lower(): v for k, v in response.getheaders()}, response.read()
        finally:
            connection.close()

    return await asyncio.to_thread(fetch)
