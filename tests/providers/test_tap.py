"""The tap: whatever the segments, every byte of a body comes once and in order, and the connection stays usable."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest
from aiohttp.client_proto import ResponseHandler
from hypothesis import given
from hypothesis import strategies as st

from everstream.providers.http_tap import Tap, tap_on, whole_chunks

HEAD = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"
LAST = b"0\r\n\r\n"


class Transport:
    """A transport without a socket."""

    def __init__(self, protocol: Any) -> None:
        self.protocol = protocol
        self.reading = True
        self.closed = False

    def set_protocol(self, protocol: Any) -> None:
        self.protocol = protocol

    def get_protocol(self) -> Any:
        return self.protocol

    def pause_reading(self) -> None:
        self.reading = False

    def resume_reading(self) -> None:
        self.reading = True

    def get_extra_info(self, name: str) -> None:
        """There is nothing to tell."""

    def is_closing(self) -> bool:
        return self.closed

    def close(self) -> None:
        self.closed = True

    def segment(self, data: bytes) -> None:
        if data:
            self.protocol.data_received(data)


async def answered(beginning: bytes = HEAD) -> tuple[Transport, SimpleNamespace]:
    """aiohttp's own protocol and parser, once the head has come."""
    handler = ResponseHandler(asyncio.get_running_loop())
    transport = Transport(handler)
    handler.connection_made(transport)  # type: ignore[arg-type]
    handler.set_response_params(read_until_eof=True)
    transport.segment(beginning)
    message, content = await handler.read()
    connection = SimpleNamespace(transport=transport, protocol=handler)
    return transport, SimpleNamespace(connection=connection, content=content, headers=message.headers)


def tapped(response: Any) -> Tap:
    tap = tap_on(response)
    assert tap is not None
    return tap


def chunk(payload: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(payload), payload)


# What looks like framing is what could put the tap out of step.
NASTY = st.sampled_from([b"\r\n", b"\n", b"1\r\n", b"5\r\nhello\r\n", LAST, b"a\r\nXX", b"data: {}\n\n", b"0", b"\r"])
PAYLOADS = st.lists(st.lists(NASTY | st.binary(min_size=1, max_size=40), min_size=1).map(b"".join), max_size=12)
CUTS = st.lists(st.integers(0, 400), max_size=30)


def cut(data: bytes, places: list[int], ends: list[int]) -> list[bytes]:
    """`data` in segments: at some of its chunks' ends, and anywhere."""
    where = sorted({place for place in (*places, *ends) if 0 < place < len(data)})
    return [data[a:b] for a, b in zip([0, *where], [*where, len(data)], strict=True)]


@given(PAYLOADS, CUTS, st.sets(st.integers(0, 11)), st.integers(1, 9), st.booleans())
def test_any_segments_of_any_chunked_body_give_the_same_bytes(
    payloads: list[bytes], places: list[int], joined: set[int], stop_each: int, cold: bool
) -> None:
    asyncio.run(_any_segments(payloads, places, joined, stop_each, cold))


async def _any_segments(payloads: list[bytes], places: list[int], joined: set[int], stop_each: int, cold: bool) -> None:
    wire, ends = b"", []
    for number, payload in enumerate(payloads):
        wire += chunk(payload)
        if number not in joined:
            ends.append(len(wire))
    wire += LAST
    pieces = cut(wire, [] if cold else places, ends)
    transport, response = await answered()
    got: list[bytes] = []

    def take(data: bytes) -> bool:
        assert data
        got.append(data)
        return len(got) % stop_each != 0

    async def read() -> None:
        while await tapped(response).flow(take):
            assert transport.protocol is response.connection.protocol

    reading = asyncio.create_task(read())
    for number, piece in enumerate(pieces):
        if number % 3:
            await asyncio.sleep(0)
        transport.segment(piece)
    await asyncio.wait_for(reading, 5)
    got.append(response.content.read_nowait())  # what came after the last stop
    assert b"".join(got) == b"".join(payloads)
    assert response.content.is_eof()
    assert transport.protocol is response.connection.protocol
    assert not response.connection.protocol.should_close  # the next request may use the connection


@given(st.binary(max_size=60) | PAYLOADS.map(lambda payloads: b"".join(map(chunk, payloads))))
def test_whole_chunks_are_what_the_parser_would_make_of_them(data: bytes) -> None:
    payload = whole_chunks(data)
    if payload:
        assert asyncio.run(_parsed(data)) == payload


async def _parsed(data: bytes) -> bytes:
    transport, response = await answered()
    transport.segment(data + LAST)
    assert response.content.is_eof()
    return bytes(response.content.read_nowait())


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\r\n",
        LAST,
        b"5\r\nhell\r\n",
        b"5;x=y\r\nhello\r\n",
        b"+5\r\nhello\r\n",
        b" 5\r\nhello\r\n",
        b"0x5\r\nhello\r\n",
        b"5\r\nhello",
        b"5\r\nhello\r\n" + LAST,
        b"5\r\nhello\r\n3",
        b"5\nhello\r\n",
        b"1_0\r\n" + b"x" * 16 + b"\r\n",
    ],
)
def test_what_is_not_plainly_whole_chunks_is_left_to_the_parser(data: bytes) -> None:
    assert whole_chunks(data) == b""


@pytest.mark.parametrize("data", [b"5\r\nhello\r\n", b"A\r\n" + b"x" * 10 + b"\r\n", b"005\r\nhello\r\n"])
def test_one_whole_chunk_is_unwrapped(data: bytes) -> None:
    assert whole_chunks(data) == data.partition(b"\r\n")[2][:-2]
    assert whole_chunks(data * 3) == data.partition(b"\r\n")[2][:-2] * 3


async def test_data_that_looks_like_a_chunk_is_data() -> None:
    transport, response = await answered()
    inner = chunk(b"a\r\nXX")
    got: list[bytes] = []
    reading = asyncio.create_task(tapped(response).flow(lambda data: not got.append(data)))
    await asyncio.sleep(0)
    transport.segment(chunk(b"first"))
    transport.segment(b"%x\r\n" % (len(inner) * 3))
    for _ in range(3):
        transport.segment(inner)
    transport.segment(b"\r\n")
    transport.segment(chunk(b"last"))
    transport.segment(LAST)
    assert await reading is False
    assert b"".join(got) == b"first" + inner * 3 + b"last"


async def test_a_paced_body_does_not_go_through_the_parser() -> None:
    transport, response = await answered()
    seen: list[bytes] = []
    handler = response.connection.protocol
    real, handler.data_received = handler.data_received, lambda data: (seen.append(data), real(data))
    got: list[bytes] = []
    reading = asyncio.create_task(tapped(response).flow(lambda data: not got.append(data)))
    await asyncio.sleep(0)
    for _ in range(100):
        transport.segment(chunk(b"data: {}\n\n"))
    assert len(got) == 100
    assert b"".join(seen) == chunk(b"data: {}\n\n")
    transport.segment(LAST)
    assert await reading is False


async def test_a_lost_connection_ends_the_flow_with_everything_that_came() -> None:
    transport, response = await answered(HEAD + b"5\r\nhel")
    got: list[bytes] = []
    reading = asyncio.create_task(tapped(response).flow(lambda data: not got.append(data)))
    await asyncio.sleep(0)
    transport.segment(b"lo\r\n5\r\nwor")
    transport.protocol.connection_lost(ConnectionResetError())
    assert await reading is False
    assert b"".join(got) == b"hellowor"
    assert response.content.exception() is not None


async def test_what_the_taker_raises_is_the_readers_and_the_transport_lives_on() -> None:
    transport, response = await answered()

    def take(data: bytes) -> bool:
        raise ValueError("no")

    reading = asyncio.create_task(tapped(response).flow(take))
    await asyncio.sleep(0)
    transport.segment(chunk(b"one"))
    transport.segment(chunk(b"two"))
    with pytest.raises(ValueError, match="no"):
        await reading
    assert transport.protocol is response.connection.protocol
    assert response.content.read_nowait() == b"two"


async def test_a_cancelled_flow_gives_the_connection_back() -> None:
    transport, response = await answered()
    reading = asyncio.create_task(tapped(response).flow(lambda data: True))
    await asyncio.sleep(0)
    assert transport.protocol is not response.connection.protocol
    reading.cancel()
    with pytest.raises(asyncio.CancelledError):
        await reading
    assert transport.protocol is response.connection.protocol


async def test_there_is_no_tap_where_the_bytes_are_not_the_body() -> None:
    for head in (
        b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\ncontent-encoding: gzip\r\n\r\n",
    ):
        _, response = await answered(head)
        assert tap_on(response) is None
    _, response = await answered()
    response.connection = None
    assert tap_on(response) is None
    assert tap_on(None) is None
