"""Who may open a WebSocket from a browser (RFC 6455 section 10.2)."""

from __future__ import annotations

import pytest
from tests.gateway.conftest import serving
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus

from everstream.gateway.app import may_connect

HOST = "chat.example.com"


@pytest.mark.parametrize(
    ("origin", "allowed", "may"),
    [
        (None, (), True),
        ("https://chat.example.com", (), True),
        ("http://CHAT.example.com", (), True),
        ("https://chat.example.com.evil.com", (), False),
        ("https://evil.com", (), False),
        ("https://chat.example.com:8443", (), False),
        ("null", (), False),
        ("", (), False),
        ("https://app.example.com", ("https://app.example.com",), True),
        ("http://app.example.com", ("https://app.example.com",), False),
        ("https://anything.example", ("*",), True),
    ],
)
def test_only_our_pages_and_those_named_may_connect(origin: str | None, allowed: tuple[str, ...], may: bool) -> None:
    assert may_connect(origin, HOST, allowed) is may


async def test_a_page_of_another_site_is_refused_before_anything_runs() -> None:
    async with serving() as server:
        with pytest.raises(InvalidStatus) as refused:
            await connect(f"ws://127.0.0.1:{server.port}/ws", proxy=None, origin="https://evil.example")  # type: ignore[arg-type]
        assert refused.value.response.status_code == 403
        assert server.node.counters.connections_total == 0
