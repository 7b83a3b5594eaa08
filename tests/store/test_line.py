"""A line answers each caller with its own reply, whoever gives up, and whatever breaks."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import hiredis
import pytest
from tests.server import HOST

from everstream.store.line import Line, packed

WAIT_S = 10.0


class Peer:
    """A server that answers when it is told to."""

    def __init__(self) -> None:
        self.heard = hiredis.Reader()
        self.commands: list[list[bytes]] = []
        self.came = asyncio.Event()
        self.writer: asyncio.StreamWriter | None = None

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.writer = writer
        try:
            while data := await reader.read(65_536):
                self.heard.feed(data)
                while (command := self.heard.gets()) is not False:
                    self.commands.append(command)
                self.came.set()
        except OSError:
            pass
        finally:
            writer.close()

    async def has(self, count: int) -> None:
        async with asyncio.timeout(WAIT_S):
            while len(self.commands) < count:
                self.came.clear()
                await self.came.wait()

    def say(self, data: bytes) -> None:
        assert self.writer is not None
        self.writer.write(data)


@pytest.fixture
async def ends() -> AsyncIterator[tuple[Line, Peer]]:
    peer = Peer()
    server = await asyncio.start_server(peer.serve, HOST, 0)
    port = server.sockets[0].getsockname()[1]
    transport, _ = await asyncio.get_running_loop().create_connection(asyncio.Protocol, HOST, port)
    line = Line(transport, 0.2)
    yield line, peer
    line.close()
    server.close()
    await server.wait_closed()


async def test_calls_under_way_are_answered_in_their_order(ends: tuple[Line, Peer]) -> None:
    line, peer = ends
    calls = [line.call(packed(b"GET", b"%d" % n)) for n in range(5)]
    await peer.has(5)
    peer.say(b":0\r\n:1\r\n:2\r")
    assert await asyncio.wait_for(calls[1], WAIT_S) == 1
    assert not calls[2].done()
    peer.say(b"\n-ERR three\r\n:4\r\n")
    assert await asyncio.wait_for(calls[4], WAIT_S) == 4
    assert calls[2].result() == 2
    assert isinstance(calls[3].result(), hiredis.ReplyError)


async def test_several_commands_of_one_call_are_answered_together(ends: tuple[Line, Peer]) -> None:
    line, peer = ends
    pair = line.call(packed(b"SET") + packed(b"WAIT"), 2)
    single = line.call(packed(b"PING"))
    await peer.has(3)
    peer.say(b"+OK\r\n")
    peer.say(b":1\r\n+PONG\r\n")
    assert await asyncio.wait_for(single, WAIT_S) == b"PONG"
    assert pair.result() == [b"OK", 1]


async def test_the_reply_to_a_caller_who_gave_up_goes_to_nobody_else(ends: tuple[Line, Peer]) -> None:
    line, peer = ends
    given_up, other = line.call(packed(b"A")), line.call(packed(b"B"))
    given_up.cancel()
    await peer.has(2)
    peer.say(b":1\r\n:2\r\n")
    assert await asyncio.wait_for(other, WAIT_S) == 2
    assert line.lost is None


async def test_when_the_oldest_call_takes_too_long_all_fail(ends: tuple[Line, Peer]) -> None:
    line, peer = ends
    calls = [line.call(packed(b"A")) for _ in range(3)]
    for call in calls:
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(call, WAIT_S)
    with pytest.raises(TimeoutError):
        await line.call(packed(b"B"))
    await peer.has(3)


async def test_a_server_that_hangs_up_fails_all(ends: tuple[Line, Peer]) -> None:
    line, peer = ends
    calls = [line.call(packed(b"A")) for _ in range(2)]
    await peer.has(2)
    peer.say(b":1\r\n")
    assert await asyncio.wait_for(calls[0], WAIT_S) == 1
    assert peer.writer is not None
    peer.writer.close()
    with pytest.raises(OSError, match="closed"):
        await asyncio.wait_for(calls[1], WAIT_S)


@pytest.mark.parametrize("data", [b"what is this\r\n", b":1\r\n:2\r\n:3\r\n"])
async def test_what_nobody_asked_for_ends_the_line(ends: tuple[Line, Peer], data: bytes) -> None:
    """Whose the next reply is, nobody could say."""
    line, peer = ends
    call = line.call(packed(b"A"))
    await peer.has(1)
    peer.say(data)
    await asyncio.wait({call}, timeout=WAIT_S)
    async with asyncio.timeout(WAIT_S):
        while line.lost is None:
            await asyncio.sleep(0.002)  # pause: between two looks at a condition
    assert call.done()
    assert call.exception() is not None or call.result() == 1
