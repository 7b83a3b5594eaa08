"""A TCP proxy of our own, to stand between nodes and store, or clients and nodes, and to do what networks do.

    reset()      both sides get a RST
    refuse()     nobody gets in any more, until `accept()`
    stall(...)   bytes of one direction, or both, are taken no further, and nobody is told: a half-open connection
    delay_s      each piece of each direction is that late

A stall keeps what it has, and goes on with it when it ends, as a network that comes back does; but a connection that
either side has given up meanwhile is gone on both.
"""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

from tests.server import HOST

PIECE_BYTES_MAX = 65_536
_LINGER_NOT = struct.pack("ii", 1, 0)  # closing sends a RST


class _Pair:
    """One connection from a client, and ours to the target for it."""

    def __init__(self, *writers: asyncio.StreamWriter) -> None:
        self._writers = writers

    def reset(self) -> None:
        for writer in self._writers:
            handle = writer.get_extra_info("socket")
            if handle is not None and handle.fileno() >= 0:
                handle.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER_NOT)
            writer.transport.abort()


class Proxy:
    """Between whoever connects to `port` and the target."""

    def __init__(self, port: int, host: str = HOST) -> None:
        self.delay_s = 0.0
        self.connections_total = 0
        self._target = (host, port)
        self._accepting = True
        self._up, self._down = asyncio.Event(), asyncio.Event()
        self._up.set()
        self._down.set()
        self._pairs: set[_Pair] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None

    async def start(self) -> Proxy:
        self._server = await asyncio.start_server(self._accepted, HOST, 0)
        return self

    async def close(self) -> None:
        if self._server is not None:
            self._server.close()
        self.reset()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    @property
    def port(self) -> int:
        assert self._server is not None
        return int(self._server.sockets[0].getsockname()[1])

    @property
    def url(self) -> str:
        """Where it stands in front of a store."""
        return f"redis://{HOST}:{self.port}/0"

    # ------------------------------------------------------------------ faults

    def reset(self) -> None:
        for pair in list(self._pairs):
            pair.reset()

    def refuse(self) -> None:
        self._accepting = False
        self.reset()

    def accept(self) -> None:
        self._accepting = True

    def stall(self, *, up: bool = True, down: bool = True) -> None:
        """`up` is from the client to the target."""
        if up:
            self._up.clear()
        if down:
            self._down.clear()

    def flow(self) -> None:
        self._up.set()
        self._down.set()

    # ------------------------------------------------------------------ how

    async def _accepted(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        self.connections_total += 1
        with suppress(asyncio.CancelledError):  # asyncio's streams would call it an error
            await self._join(reader, writer)

    async def _join(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if not self._accepting:
            _Pair(writer).reset()
            return
        try:
            there, back = await asyncio.open_connection(*self._target)
        except OSError:
            _Pair(writer).reset()
            return
        pair = _Pair(writer, back)
        self._pairs.add(pair)
        ways = [
            asyncio.create_task(self._carry(reader, back, self._up)),
            asyncio.create_task(self._carry(there, writer, self._down)),
        ]
        try:
            await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for way in ways:
                way.cancel()
            await asyncio.gather(*ways, return_exceptions=True)
            self._pairs.discard(pair)
            writer.close()
            back.close()

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, way: asyncio.Event) -> None:
        try:
            while piece := await reader.read(PIECE_BYTES_MAX):
                if self.delay_s:
                    await asyncio.sleep(self.delay_s)  # pause: the fault that was asked for
                await way.wait()
                writer.write(piece)
                await writer.drain()
        except OSError:
            return


@asynccontextmanager
async def proxied(port: int) -> AsyncIterator[Proxy]:
    proxy = Proxy(port)
    await proxy.start()
    try:
        yield proxy
    finally:
        await proxy.close()
