"""`python -m tests.bench.crowd PORT`: very many clients in one process, each a socket and next to nothing else.

It is told what to do by lines of JSON on stdin, `{"do": NAME, …}`, and answers each with one line when it is done:

    live    so many connections, one stream each, read for ever; answered when each has begun
    gaps    the times between two reads with text in them, over all live streams, since the last `gaps`
    idle    so many connections more, which say hello and answer pings
    state   what the idle ones have met so far
    leave   the live streams' connections are closed

and by the names in `besiege.ATTACKS`.  Frames are made by hand: the mask is zero, which leaves the payload as it is.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import Awaitable, Callable
from typing import Any

import uvloop

from tests.bench import besiege
from tests.bench.besiege import PING, UPGRADE, address_of, frame, percentiles
from tests.bench.process import allow_files

AT_ONCE = 100  # connections that are being made
CONNECT_LIMIT_S = 30.0
CLOSE, PONG = 0x8, 0xA
LINE_BYTES = 1 << 20


class Client(asyncio.Protocol):
    """One WebSocket.  It says hello and `then` as soon as it can, and answers pings."""

    def __init__(self, then: bytes = b"") -> None:
        self._then = then
        self._unread = b""
        self._upgraded = False
        self.welcomed = asyncio.get_running_loop().create_future()
        self.told = self.pings = 0  # frames of text, and pings
        self.lost = False

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        self.transport = transport
        transport.write(UPGRADE)

    def connection_lost(self, exc: Exception | None) -> None:
        self.lost = True
        if not self.welcomed.done():
            self.welcomed.set_result(False)

    def data_received(self, data: bytes) -> None:
        self._unread += data
        if not self._upgraded:
            head, end, rest = self._unread.partition(b"\r\n\r\n")
            if not end:
                return
            if b" 101 " not in head.partition(b"\r\n")[0]:
                self.transport.abort()
                return
            self._upgraded, self._unread = True, rest
            self.transport.write(frame(b'{"type":"hello"}') + self._then)
        self._take()

    def _take(self) -> None:
        data, at = self._unread, 0
        while len(data) - at >= 2:
            size, start = data[at + 1] & 0x7F, at + 2
            if size > 125:
                width = 2 if size == 126 else 8
                size, start = int.from_bytes(data[start : start + width], "big"), start + width
            if len(data) < start + size:
                break
            self._frame(data[at] & 0xF, data[start : start + size])
            at = start + size
        self._unread = data[at:]

    def _frame(self, opcode: int, payload: bytes) -> None:
        if opcode == PING:
            self.pings += 1
            self.transport.write(frame(payload, PONG))
        elif opcode == CLOSE:
            self.transport.close()
        else:
            self.told += 1
            if not self.welcomed.done():
                self.welcomed.set_result(True)


class Listener(Client):
    """One that starts a stream, and looks at the clock when text comes."""

    def __init__(self, then: bytes, gaps_s: list[float]) -> None:
        super().__init__(then)
        self._gaps_s = gaps_s
        self._last = 0.0
        self.begun = asyncio.Event()

    def data_received(self, data: bytes) -> None:
        if b'"delta_text"' in data:
            now = time.monotonic()
            if self._last:
                self._gaps_s.append(now - self._last)
            self._last = now
            self.begun.set()
        super().data_received(data)


class Crowd:
    """All clients of one process."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._idle: list[Client] = []
        self._live: list[Listener] = []
        self._gaps_s: list[float] = []

    async def answer(self, do: str, **fields: Any) -> dict[str, Any]:
        if do in besiege.ATTACKS:
            return await besiege.ATTACKS[do](self._port, **fields)
        asked: dict[str, Callable[..., Awaitable[dict[str, Any]]]] = {
            "live": self.live,
            "gaps": self.gaps,
            "idle": self.idle,
            "state": self.state,
            "leave": self.leave,
        }
        return await asked[do](**fields)

    async def live(self, count: int, per_s: float) -> dict[str, Any]:
        command = besiege.generate(tokens=10_000_000, rate=per_s)
        made = [Listener(frame(command), self._gaps_s) for _ in range(count)]
        await self._connect(made)
        await asyncio.gather(*(listener.begun.wait() for listener in made))
        self._live += made
        return {"begun": len(made)}

    async def gaps(self) -> dict[str, Any]:
        gaps_us = [gap * 1e6 for gap in self._gaps_s]
        self._gaps_s.clear()
        return {"count": len(gaps_us), "us": percentiles(gaps_us), "lost": sum(one.lost for one in self._live)}

    async def idle(self, count: int) -> dict[str, Any]:
        made = [Client() for _ in range(count)]
        start = time.monotonic()
        await self._connect(made)
        welcomed = await asyncio.gather(*(client.welcomed for client in made))
        self._idle += made
        return {"welcomed": sum(welcomed), "taken_s": time.monotonic() - start}

    async def state(self) -> dict[str, Any]:
        return {
            "open": sum(not client.lost for client in self._idle),
            "pings": sum(client.pings for client in self._idle),
            "frames": sum(client.told for client in self._idle),
        }

    async def leave(self) -> dict[str, Any]:
        for listener in self._live:
            listener.transport.abort()
        self._live.clear()
        return {}

    async def _connect(self, clients: list[Any]) -> None:
        room = asyncio.Semaphore(AT_ONCE)
        loop = asyncio.get_running_loop()

        async def connect(number: int, client: Client) -> None:
            async with room:
                source = (address_of(len(self._idle) + number), 0)
                await loop.create_connection(lambda: client, "127.0.0.1", self._port, local_addr=source)
                await client.welcomed

        async with asyncio.timeout(CONNECT_LIMIT_S + len(clients) / 50):
            await asyncio.gather(*(connect(number, client) for number, client in enumerate(clients)))


async def serve(port: int) -> None:
    """Do what stdin says, line by line, until it ends."""
    lines = asyncio.StreamReader(LINE_BYTES)
    loop = asyncio.get_running_loop()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(lines), sys.stdin)
    crowd = Crowd(port)
    while line := await lines.readline():
        print(json.dumps(await crowd.answer(**json.loads(line))), flush=True)


def main(words: list[str]) -> int:
    allow_files(int(words[1]))
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(serve(int(words[0])))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
