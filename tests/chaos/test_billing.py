"""A cancel reaches the provider at once: its connection closes, and with it the bill.

From the client's `cancel` on a WebSocket, through the server, to a provider on a local HTTP server that sees its
client hang up: for every language that providers are spoken to in, each in the midst of a recorded answer.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from tests.gateway.conftest import client_of
from tests.providers.wire_server import Reply, WireServer
from tests.providers.wires import (
    ASKED_OF,
    ROOT,
    Wire,
    anthropic_wires,
    cohere_wires,
    fold_of,
    ollama_wires,
    openai_wires,
    vendors_at,
)
from tests.providers.wires_gemini import gemini_wires
from tests.server import ServerProcess, running_server

pytestmark = pytest.mark.skipif(not ROOT.is_dir(), reason="the recorded wires are not beside this checkout")

CANCELS = 100
P99_S = 0.05  # what is promised
SLACK = 10  # what a machine with other work to do is forgiven

WIRES = (*openai_wires(), *anthropic_wires(), *gemini_wires(), *ollama_wires(), *cohere_wires())


def half(wire: Wire) -> int:
    """So many bytes of a wire that some of its text is told."""
    ends = (place for place in range(len(wire.body)) if wire.body[place] == ord("\n"))
    return next((end + 2 for end in ends if fold_of(wire, end + 2).text), 0)


def hanging(api: str) -> Reply:
    """The beginning of a recorded answer, and nothing more."""
    wires = (wire for wire in WIRES if wire.api == api and wire.text and wire.error is None)
    wire, size = next((wire, size) for wire in wires if (size := half(wire)) < len(wire.body))
    assert size
    return Reply(wire.body, hang_after=size)


@pytest.fixture
async def provider() -> AsyncIterator[WireServer]:
    async with WireServer() as provider:
        yield provider


@pytest.fixture
async def server(tmp_path: Path, provider: WireServer) -> AsyncIterator[ServerProcess]:
    settings = vendors_at(provider.url) | {"goaway_spread_ms": 0, "drain_ms": 0}
    args = [f"--no-{name}".replace("_", "-") for name, value in settings.items() if value is False]
    for name, value in settings.items():
        if value is not False:
            args += [f"--{name}".replace("_", "-"), value if isinstance(value, str) else json.dumps(value)]
    async with running_server(tmp_path / "data", *args) as server:
        yield server


@pytest.mark.parametrize("api", ASKED_OF)
async def test_a_cancel_closes_the_providers_connection_within_milliseconds(
    api: str, server: ServerProcess, provider: WireServer
) -> None:
    name, params = ASKED_OF[api]
    provider.reply = hanging(api)
    loop, late_s = asyncio.get_running_loop(), []
    async with client_of(server.ws_url) as client:
        for count in range(1, CANCELS + 1):
            stream = await client.generate(f"{name}/m", params=params)
            await client.until(lambda frame: frame["type"] == "delta_text")
            began = loop.time()
            await client.send(type="cancel", id=f"c{count}", stream=stream)
            late_s.append(await provider.client_closed(count) - began)
            end = await client.ended(stream)
            assert end["reason"] == "cancelled"
            assert client.streams[stream].text
    late_s.sort()
    p50, p99 = late_s[CANCELS // 2], late_s[CANCELS * 99 // 100]
    print(f"\n{api}: the connection closed after {p50 * 1000:.1f} ms (half) and {p99 * 1000:.1f} ms (99 in 100)")
    assert p99 < P99_S * SLACK
