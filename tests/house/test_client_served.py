"""The client before the server itself: what the fake server promises for it is kept."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
from tests.gateway.applications import under_ours
from tests.gateway.conftest import Gateway, count_text, serving
from tests.house.fake_server import until

from everstream.client import Client, Stream
from everstream.core.errors import EverstreamError
from everstream.gateway.application import App
from everstream.gateway.auth import Credentials
from everstream.reconnect import Backoff

TOKENS = 120
WAIT_S = 20.0


@pytest.fixture
async def gateway() -> AsyncIterator[Gateway]:
    async with serving() as gateway:
        yield gateway


def cut(client: Client) -> None:
    """End the connection without a word, as a network would."""
    socket = client._link._socket
    assert socket is not None
    socket.transport.abort()


async def text_of(stream: Stream) -> str:
    async with asyncio.timeout(WAIT_S):
        return "".join([text async for text in stream.text_deltas()])


async def test_connections_cut_in_mid_answer_lose_and_double_nothing(gateway: Gateway) -> None:
    cut_off: set[str] = set()
    async with Client(gateway.ws_url, backoff=Backoff(0.01, 0.02)) as client, asyncio.timeout(WAIT_S):
        streams = [await client.generate("scripted/count", "hi", tokens=TOKENS, rate=300) for _ in range(5)]
        reading = [asyncio.create_task(text_of(stream)) for stream in streams]
        for offset in range(10, TOKENS, 20):
            await until(lambda at=offset: streams[0].state.offset >= at and client.welcome["connection"] not in cut_off)
            cut_off.add(client.welcome["connection"])
            cut(client)
        assert await asyncio.gather(*reading) == [count_text(TOKENS)] * 5
        assert {(await stream.result()).text for stream in streams} == {count_text(TOKENS)}
    assert len(cut_off) == 6
    assert gateway.node.counters.connections_total in (6, 7)  # the answers may have ended before the last one


async def test_a_process_that_comes_back_again_and_again_reads_every_piece_once(gateway: Gateway) -> None:
    """Each life of the reader is a client of its own, and ends in the middle of reading."""
    async with Client(gateway.ws_url) as client:
        stream = await client.generate("scripted/count", "hi", tokens=TOKENS, rate=300)
        place, got = stream.position, ""
    lives = 0
    async with asyncio.timeout(WAIT_S):
        while place.characters < len(count_text(TOKENS)):
            async with Client(gateway.ws_url) as client:
                stream = await client.subscribe(place)
                pieces = 0
                async for text in stream.text_deltas():
                    got, pieces = got + text, pieces + 1
                    if pieces == 20:
                        break
                place = stream.position
                lives += 1
    assert got == count_text(TOKENS)
    assert lives > 1


async def test_a_cancelled_answer_ends_at_its_fence_and_keeps_its_part(gateway: Gateway) -> None:
    async with Client(gateway.ws_url) as client, asyncio.timeout(WAIT_S):
        stream = await client.generate("scripted/count", "hi", tokens=100_000, rate=200)
        got = await anext(stream.text_deltas())
        fence = await stream.cancel()
        got += await text_of(stream)
        result = await stream.result()
    assert (result.reason, result.partial) == ("cancelled", True)
    assert stream.position.offset == fence == stream.state.offset
    assert got == result.text == count_text(len(got.split()))
    assert result.usage is not None


async def test_the_servers_own_authentication_takes_and_renews_what_the_client_shows() -> None:
    async def authenticate(shown: Credentials) -> str | None:
        name, _, good = (shown.token or "").partition("-")
        return name if good == "good" else None

    tokens = ["ann-good", "ann-good", "ann-old"]
    async with under_ours(App(authenticate=authenticate)) as address, asyncio.timeout(WAIT_S):
        async with Client(f"ws://{address}", tokens.pop, backoff=Backoff(0.01)) as client:
            assert client.welcome["user"]["id"] == "ann"
            await client.authenticate("ann-good")
            with pytest.raises(EverstreamError) as caught:
                await client.authenticate("bob-good")
            assert caught.value.code == "auth.forbidden"
            with pytest.raises(EverstreamError) as caught:
                await client.authenticate("ann-bad")
            assert caught.value.code == "auth.denied"
            assert await client.models()
            cut(client)
            await until(lambda: not tokens)
            assert await client.models()
        with pytest.raises(EverstreamError) as caught:
            await Client(f"ws://{address}").__aenter__()
        assert caught.value.code == "auth.denied"
