"""What a client may send before it is let in, and how long it may take; over real sockets, byte by byte."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from tests.gateway.conftest import MESSAGES, Gateway, serving
from tests.runtime.conftest import HEADERS, text, until
from websockets.exceptions import InvalidStatus

UPGRADE = (
    b"GET /ws HTTP/1.1\r\nhost: 127.0.0.1\r\nconnection: upgrade\r\nupgrade: websocket\r\n"
    b"sec-websocket-version: 13\r\nsec-websocket-key: AAAAAAAAAAAAAAAAAAAAAA==\r\n"
)
WITHIN_S = 10.0


class Raw:
    """A socket, and what comes from it."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    async def say(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    async def answer(self) -> tuple[int, dict[bytes, bytes], bytes]:
        """The next whole answer: its status, headers and body."""
        async with asyncio.timeout(WITHIN_S):
            first, *lines = (await self.reader.readuntil(b"\r\n\r\n")).rstrip().split(b"\r\n")
            headers = dict(line.lower().split(b": ", 1) for line in lines)
            body = await self.reader.readexactly(int(headers.get(b"content-length", 0)))
            return int(first.split()[1]), headers, body

    async def refused(self, status: int, code: str = "request.invalid") -> dict[bytes, bytes]:
        """It is answered with this, and the connection is over."""
        found, headers, body = await self.answer()
        assert (found, json.loads(body)["error"]["code"]) == (status, code)
        assert (headers[b"connection"], headers[b"cache-control"]) == (b"close", b"no-store")
        await self.over()
        return headers

    async def over(self) -> None:
        async with asyncio.timeout(WITHIN_S):
            assert await self.reader.read() == b""


@asynccontextmanager
async def raw(gateway: Gateway) -> AsyncIterator[Raw]:
    reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
    try:
        yield Raw(reader, writer)
    finally:
        writer.transport.abort()


async def serves(gateway: Gateway) -> None:
    async with raw(gateway) as socket:
        await socket.say(b"GET /healthz HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n")
        assert (await socket.answer())[0] == 200


# --------------------------------------------------------------------------- how long it may take


async def test_who_says_nothing_is_hung_up_on() -> None:
    async with serving(head_timeout_s=0.1) as gateway, raw(gateway) as socket:
        await socket.over()
        await serves(gateway)


async def test_a_head_that_trickles_in_is_cut_off_however_often_there_is_more_of_it() -> None:
    async with serving(head_timeout_s=0.3) as gateway, raw(gateway) as socket:
        trickle = asyncio.create_task(trickled(socket, UPGRADE))
        await socket.refused(408)
        trickle.cancel()


async def trickled(socket: Raw, data: bytes) -> None:
    for byte in data * 100:
        await socket.say(bytes([byte]))
        await asyncio.sleep(0.02)  # pause: this client is slow


async def test_the_second_request_of_a_connection_has_to_come_in_time_as_well() -> None:
    async with serving(head_timeout_s=0.3) as gateway, raw(gateway) as socket:
        await socket.say(b"GET /healthz HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n")
        assert (await socket.answer())[0] == 200
        await socket.say(b"GET /hea")
        await socket.refused(408)


async def test_a_body_has_to_come_in_time(gateway: Gateway) -> None:
    async with serving(body_timeout_s=0.2) as gateway, raw(gateway) as socket:
        await socket.say(b"POST /v1/chat/completions HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-length: 100\r\n\r\n{")
        await socket.refused(408)
        await serves(gateway)


async def test_an_answer_may_take_longer_than_its_request() -> None:
    async with serving(head_timeout_s=0.1, body_timeout_s=0.1) as gateway, raw(gateway) as socket:
        body = json.dumps({"model": "hand/any", "messages": MESSAGES}).encode()
        await socket.say(
            b"POST /v1/chat/completions HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-length: %d\r\n\r\n" % len(body) + body
        )
        await until(lambda: gateway.hand.calls)
        await asyncio.sleep(0.3)  # pause: longer than both bounds
        gateway.hand.calls[0].say(HEADERS, *text("late"))
        gateway.hand.calls[0].end()
        status, _, said = await socket.answer()
        assert (status, json.loads(said)["choices"][0]["message"]["content"]) == (200, "late")


# --------------------------------------------------------------------------- how much it may be


@pytest.mark.parametrize("whole", [True, False], ids=["whole", "endless"])
async def test_a_head_that_is_too_long_is_refused(gateway: Gateway, whole: bool) -> None:
    head = b"GET /healthz HTTP/1.1\r\nhost: 127.0.0.1\r\nx-filler: " + b"x" * 20_000
    async with raw(gateway) as socket:
        await socket.say(head + b"\r\n\r\n" if whole else head)
        await socket.refused(431)
    await serves(gateway)


async def test_a_head_of_too_many_headers_is_refused(gateway: Gateway) -> None:
    async with raw(gateway) as socket:
        await socket.say(b"GET /healthz HTTP/1.1\r\nhost: 127.0.0.1\r\n" + b"a: b\r\n" * 200 + b"\r\n")
        await socket.refused(431)


@pytest.mark.parametrize("rest", [b" HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n", b""], ids=["whole", "endless"])
async def test_an_address_that_is_too_long_is_refused(gateway: Gateway, rest: bytes) -> None:
    async with raw(gateway) as socket:
        await socket.say(b"GET /stream?prompt=" + b"x" * 70_000 + rest)
        await socket.refused(414)


async def test_a_long_body_behind_a_short_head_is_no_long_head(gateway: Gateway) -> None:
    async with raw(gateway) as socket:
        await socket.say(
            b"POST /v1/commands HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-length: 60000\r\n\r\n" + b" " * 60_000
        )
        assert (await socket.answer())[0] == 400


async def test_what_comes_behind_a_refusal_is_not_read(gateway: Gateway) -> None:
    async with raw(gateway) as socket:
        await socket.say(
            b"GET /" + b"x" * 70_000 + b" HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n" + b"GET /healthz HTTP/1.1\r\n\r\n" * 9
        )
        await socket.refused(414)


# --------------------------------------------------------------------------- how many may be there


@pytest.mark.parametrize("last", ["request", "upgrade"])
async def test_a_full_server_says_so_and_takes_who_comes_when_somebody_has_gone(last: str) -> None:
    async with serving(connections=2) as gateway:
        async with gateway.client(), gateway.client() as second:
            if last == "request":
                async with raw(gateway) as socket:
                    await socket.say(b"GET /healthz HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n")
                    headers = await socket.refused(503, "limit.rate")
                    assert int(headers[b"retry-after"]) > 0
            else:
                with pytest.raises(InvalidStatus) as refused:
                    async with gateway.client():
                        pass
                assert refused.value.response.status_code == 503
                assert refused.value.response.headers["retry-after"]
            assert (await second.ask("ping"))["type"] == "pong"
        await served_again(gateway)


async def served_again(gateway: Gateway) -> None:
    async with asyncio.timeout(WITHIN_S):
        while True:
            async with raw(gateway) as socket:
                await socket.say(b"GET /healthz HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n")
                if (await socket.answer())[0] == 200:
                    return


async def test_an_address_has_its_share_and_others_have_theirs() -> None:
    def of(address: str) -> bytes:
        return b"GET /healthz HTTP/1.1\r\nhost: 127.0.0.1\r\nx-forwarded-for: " + address.encode() + b"\r\n\r\n"

    async with serving(connections_per_address=2) as gateway, raw(gateway) as one, raw(gateway) as two:
        for socket in (one, two):
            await socket.say(of("192.0.2.1"))
            assert (await socket.answer())[0] == 200
        async with raw(gateway) as third, raw(gateway) as other:
            await third.say(of("192.0.2.1"))
            headers = await third.refused(429, "limit.rate")
            assert int(headers[b"retry-after"]) > 0
            await other.say(of("192.0.2.2"))
            assert (await other.answer())[0] == 200
        await one.say(of("192.0.2.3"))  # a proxy's next request on a connection that it keeps is another client's
        assert (await one.answer())[0] == 200
        async with raw(gateway) as fourth:
            await fourth.say(of("192.0.2.1"))
            assert (await fourth.answer())[0] == 200


async def test_a_websocket_counts_until_it_is_gone() -> None:
    async with serving(connections_per_address=1) as gateway:
        from_there = {"additional_headers": {"X-Forwarded-For": "192.0.2.1"}}
        async with gateway.client(**from_there):
            with pytest.raises(InvalidStatus) as refused:
                async with gateway.client(**from_there):
                    pass
            assert refused.value.response.status_code == 429
        async with asyncio.timeout(WITHIN_S):
            while True:
                try:
                    async with gateway.client(**from_there) as client:
                        assert (await client.ask("ping"))["type"] == "pong"
                        break
                except InvalidStatus:
                    continue


# --------------------------------------------------------------------------- how little may be taken


async def test_who_takes_nothing_of_an_answer_over_http_is_cut_off_and_the_answer_goes_on() -> None:
    async with serving(write_timeout_s=0.3) as gateway, gateway.client() as client:
        sockets = gateway.server.server_state.connections
        stream = await client.generate(params={"tokens": 1_000_000, "rate": 50_000})
        await client.ask("unsubscribe", stream=stream)
        async with raw(gateway) as socket:
            socket.writer.transport.pause_reading()  # type: ignore[attr-defined]
            await socket.say(b"GET /v1/streams/%b HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n" % stream.encode())
            await until(lambda: len(sockets) == 2)
            await until(lambda: len(sockets) == 1, 60)  # the kernel takes some of it first
        assert (await client.ask("cancel", stream=stream))["type"] == "cancelled"
