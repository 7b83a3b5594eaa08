"""A cancel reaches the provider at once: its connection closes, and with it the bill.

From the client's `cancel` on a WebSocket, through the server, to a provider on a local HTTP server that sees its
client hang up.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from tests.gateway.conftest import client_of
from tests.providers.wire_server import Reply, WireServer
from tests.server import ServerProcess, running_server

CANCELS = 100
P99_S = 0.05  # what is promised
SLACK = 10  # what a machine with other work to do is forgiven

CHUNK = (
    b'data: {"id":"c","object":"chat.completion.chunk","created":1,"model":"m",'
    b'"choices":[{"index":0,"delta":{"role":"assistant","content":"word"},"finish_reason":null}]}\n\n'
)


@pytest.fixture
async def provider() -> AsyncIterator[WireServer]:
    async with WireServer() as provider:
        provider.reply = Reply(CHUNK, hang_after=len(CHUNK))
        yield provider


@pytest.fixture
async def server(tmp_path: Path, provider: WireServer) -> AsyncIterator[ServerProcess]:
    args = ("--openai-base-url", provider.url, "--openai-api-key", "k", "--goaway-spread-ms", "0", "--drain-ms", "0")
    async with running_server(tmp_path / "data", *args) as server:
        yield server


async def test_a_cancel_closes_the_providers_connection_within_milliseconds(
    server: ServerProcess, provider: WireServer
) -> None:
    loop, late_s = asyncio.get_running_loop(), []
    async with client_of(server.ws_url) as client:
        for count in range(1, CANCELS + 1):
            stream = await client.generate("openai/m")
            await client.until(lambda frame: frame["type"] == "delta_text")
            began = loop.time()
            await client.send(type="cancel", id=f"c{count}", stream=stream)
            late_s.append(await provider.client_closed(count) - began)
            end = await client.ended(stream)
            assert (end["reason"], client.streams[stream].text) == ("cancelled", "word")
    late_s.sort()
    p50, p99 = late_s[CANCELS // 2], late_s[CANCELS * 99 // 100]
    print(f"\nthe provider's connection closed after {p50 * 1000:.1f} ms (half) and {p99 * 1000:.1f} ms (99 in 100)")
    assert p99 < P99_S * SLACK
