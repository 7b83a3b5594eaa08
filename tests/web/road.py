"""The road from a browser to its servers: a TCP proxy that loses connections, moves them over, or lets no WebSocket by.

    cut()               every connection gets a RST
    broken = True       and nobody gets in
    ports = [...]       where new connections go: the first of these ports that takes them, as before a load balancer
    websockets = ...    "through", "refused" (403, as some company's proxies do), or "silent" (no answer, for ever)

It looks at the first request of each connection only; browsers give a WebSocket a connection of its own.  All of it
runs in a thread of its own, because the browser's interface blocks the test's.  `Line` in `browser.py` is a fault of
frames, in the browser; this is one of bytes, which the browser's own network code sees.
"""

from __future__ import annotations

import asyncio
import socket
import struct
import threading
from collections.abc import Coroutine
from contextlib import suppress
from typing import Any, Literal

from tests.server import HOST

PIECE_BYTES_MAX = 65_536
WITHIN_S = 10.0
_LINGER_NOT = struct.pack("ii", 1, 0)  # closing sends a RST
_REFUSAL = b"HTTP/1.1 403 Forbidden\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"


class Road:
    """A context manager; `url` is where the browser goes."""

    def __init__(self, *ports: int) -> None:
        self.ports = list(ports)
        self.broken = False
        self.websockets: Literal["through", "refused", "silent"] = "through"
        self.turned_away = 0  # connections that came while it was broken
        self.websockets_asked = 0
        self._writers: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="road")
        self._server: asyncio.Server | None = None

    def __enter__(self) -> Road:
        self._thread.start()
        self._run(self._start())
        return self

    def __exit__(self, *_: object) -> None:
        self._run(self._close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(WITHIN_S)
        self._loop.close()

    @property
    def url(self) -> str:
        assert self._server is not None
        return f"http://{HOST}:{self._server.sockets[0].getsockname()[1]}"

    def cut(self) -> None:
        self._run(self._cut())

    # ------------------------------------------------------------------ how

    def _run(self, what: Coroutine[Any, Any, None]) -> None:
        asyncio.run_coroutine_threadsafe(what, self._loop).result(WITHIN_S)

    async def _start(self) -> None:
        self._server = await asyncio.start_server(self._accepted, HOST, 0)

    async def _close(self) -> None:
        assert self._server is not None
        self._server.close()
        await self._cut()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _cut(self) -> None:
        for writer in list(self._writers):
            _reset(writer)

    async def _accepted(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        self._writers.add(writer)
        # A browser that is closed, or a server that dies, breaks off in the middle of anything.
        with suppress(asyncio.CancelledError, asyncio.IncompleteReadError, asyncio.LimitOverrunError, OSError):
            await self._serve(reader, writer)
        self._writers.discard(writer)
        writer.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self.broken:
            self.turned_away += 1
            _reset(writer)
            return
        head = await reader.readuntil(b"\r\n\r\n")
        if b"upgrade: websocket" in head.lower():
            self.websockets_asked += 1
            if self.websockets == "refused":
                writer.write(_REFUSAL)
                await writer.drain()
                return
            if self.websockets == "silent":
                await reader.read()  # until the browser gives it up
                return
        there, back = await self._connected()
        self._writers.add(back)
        back.write(head)
        ways = [asyncio.create_task(_carry(reader, back)), asyncio.create_task(_carry(there, writer))]
        try:
            await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for way in ways:
                way.cancel()
            await asyncio.gather(*ways, return_exceptions=True)
            self._writers.discard(back)
            back.close()

    async def _connected(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """Raises OSError where no port takes it."""
        for port in self.ports:
            with suppress(OSError):
                return await asyncio.open_connection(HOST, port)
        raise OSError("nobody is there")


async def _carry(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with suppress(OSError):
        while piece := await reader.read(PIECE_BYTES_MAX):
            writer.write(piece)
            await writer.drain()


def _reset(writer: asyncio.StreamWriter) -> None:
    handle = writer.get_extra_info("socket")
    if handle is not None and handle.fileno() >= 0:
        handle.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER_NOT)
    writer.transport.abort()
