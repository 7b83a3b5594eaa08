"""A small HTTP server on loopback that answers as a provider would: with given bytes, in pieces, or badly.

    async with WireServer() as server:
        server.reply = Reply(body, segments=(1, 9), seed=7)
        …ask server.url…
        server.requests[0].json
        await server.client_closed()

It serves whatever `reply` is at the moment a request arrives (a `Reply`, or a function of the request), on any path
and with any method.  It keeps connections alive, so that a test can count them (`server.connections`).
"""

from __future__ import annotations

import asyncio
import json
import random
import socket
import ssl
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

WAIT_S = 5.0


@dataclass(frozen=True)
class Reply:
    """One answer.  All counts of bytes are of the body.

    `segments` is the smallest and largest piece that is written at once, drawn from `seed`; None writes all at once.
    `cut_after` ends the connection after so many bytes: with a FIN, or with a RST where `reset` is set.
    `hang_after` stops there and waits for the client to go away; -1 hangs before the status line.
    `framing` is `chunked`, `length`, or `close` (the body ends with the connection).
    `linger` keeps a chunked body open after its last byte: the terminating chunk never comes.
    """

    body: bytes = b""
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    segments: tuple[int, int] | None = None
    seed: int = 0
    pause_s: float = 0.0
    cut_after: int | None = None
    reset: bool = False
    hang_after: int | None = None
    framing: str = "chunked"
    linger: bool = False

    def pieces(self) -> Iterator[bytes]:
        body = self.body if self.cut_after is None else self.body[: self.cut_after]
        if self.hang_after is not None:
            body = body[: self.hang_after]
        if self.segments is None:
            if body:
                yield body
            return
        draw = random.Random(self.seed)
        at = 0
        while at < len(body):
            step = draw.randint(*self.segments)
            yield body[at : at + step]
            at += step


@dataclass(frozen=True)
class Asked:
    """A request as it arrived; header names in lower case."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


class WireServer:
    """See the module's text.  `closed_at` holds the loop's time of each disconnect by a client."""

    def __init__(self, tls: ssl.SSLContext | None = None) -> None:
        self._tls = tls
        self.reply: Reply | Callable[[Asked], Reply] = Reply()
        self.requests: list[Asked] = []
        self.connections = 0
        self.closed_at: list[float] = []
        self._closed = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None
        self.url = ""

    async def __aenter__(self) -> WireServer:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0, backlog=512, ssl=self._tls)
        port = self._server.sockets[0].getsockname()[1]
        self.url = f"{'https' if self._tls else 'http'}://127.0.0.1:{port}"
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._server is not None
        self._server.close()
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)
        await self._server.wait_closed()

    async def client_closed(self, count: int = 1) -> float:
        """Wait until `count` clients have gone; returns when the last of them went."""
        async with asyncio.timeout(WAIT_S):
            while len(self.closed_at) < count:
                self._closed.clear()
                await self._closed.wait()
        return self.closed_at[count - 1]

    async def asked(self, count: int = 1) -> None:
        """Wait until `count` requests have arrived."""
        async with asyncio.timeout(WAIT_S):
            while len(self.requests) < count:
                await asyncio.sleep(0.001)  # pause: between two looks at what was asked

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        self.connections += 1
        try:
            while await self._serve(reader, writer):
                pass
        except (OSError, asyncio.IncompleteReadError):
            self._note_closed()
        except asyncio.CancelledError:
            pass  # the server is being closed
        finally:
            writer.close()

    def _note_closed(self) -> None:
        self.closed_at.append(asyncio.get_running_loop().time())
        self._closed.set()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """One request; whether the connection lives on."""
        asked = await _read(reader)
        self.requests.append(asked)
        reply = self.reply if isinstance(self.reply, Reply) else self.reply(asked)
        if reply.hang_after == -1:
            return await self._hang(reader)
        chunked = reply.framing == "chunked"
        writer.write(_head(reply))
        for piece in reply.pieces():
            writer.write(b"%x\r\n%b\r\n" % (len(piece), piece) if chunked else piece)
            await writer.drain()
            await asyncio.sleep(reply.pause_s)  # pause: as slow a provider as the test ordered
        if reply.cut_after is not None:
            if reply.reset:
                _reset(writer)
            return False
        if reply.hang_after is not None or reply.linger:
            return await self._hang(reader)
        if chunked:
            writer.write(b"0\r\n\r\n")
            await writer.drain()
        return reply.framing != "close"

    async def _hang(self, reader: asyncio.StreamReader) -> bool:
        assert await reader.read(1) == b"", "a client sent bytes in the middle of an answer"
        self._note_closed()
        return False


def _head(reply: Reply) -> bytes:
    headers = {"content-type": "text/event-stream", **reply.headers}
    if reply.framing == "chunked":
        headers["transfer-encoding"] = "chunked"
    elif reply.framing == "length":
        headers["content-length"] = str(len(reply.body))
    else:
        headers["connection"] = "close"
    lines = [f"HTTP/1.1 {reply.status} Said", *(f"{name}: {value}" for name, value in headers.items())]
    return ("\r\n".join(lines) + "\r\n\r\n").encode()


def _reset(writer: asyncio.StreamWriter) -> None:
    sock = writer.get_extra_info("socket")
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


async def _read(reader: asyncio.StreamReader) -> Asked:
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
    method, path, _ = head[0].split(" ", 2)
    headers = {}
    for line in head[1:]:
        if line:
            name, _, value = line.partition(":")
            headers[name.strip().lower()] = value.strip()
    body = await reader.readexactly(int(headers.get("content-length", "0")))
    return Asked(method, path, headers, body)
