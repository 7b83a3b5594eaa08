"""The way from a provider's socket to the relay on the loops and transports that a server has: plain and TLS, asyncio's
loop and uvloop's.  The tap stands in the middle of all of them."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import trustme
import uvloop
from tests.providers.test_faults import REQUEST, chat
from tests.providers.wire_server import Reply, WireServer

from everstream.core.events import DeltaText
from everstream.providers import http_tap
from everstream.providers.base import Batch
from everstream.providers.openai import OpenAIProvider

LOOPS = {"asyncio": asyncio.new_event_loop, "uvloop": uvloop.new_event_loop}
TOKENS = [f"token {number} " for number in range(300)]
BODY = b"".join(chat(token) for token in TOKENS) + chat("", finish_reason="stop") + b"data: [DONE]\n\n"


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Iterator[trustme.CA]:
    authority = trustme.CA()
    bundle = tmp_path_factory.mktemp("authority") / "bundle.pem"
    authority.cert_pem.write_to_path(str(bundle))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SSL_CERT_FILE", str(Path(bundle)))
        yield authority


def tls_of(authority: trustme.CA) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    return context


class Taken:
    """A sink that is never full."""

    def __init__(self) -> None:
        self.text: list[str] = []

    def take(self, batch: Batch) -> bool:
        self.text += [event.text for event in batch if isinstance(event, DeltaText)]
        return True

    async def room(self) -> None:
        raise AssertionError("never full")


@pytest.mark.parametrize("secure", [False, True], ids=["plain", "tls"])
@pytest.mark.parametrize("loop", LOOPS)
def test_every_loop_and_transport_gives_the_same_answer_and_keeps_the_connection(
    loop: str, secure: bool, authority: trustme.CA, monkeypatch: pytest.MonkeyPatch
) -> None:
    taps: list[Any] = []
    monkeypatch.setattr(
        "everstream.providers.http_body.tap_on", lambda raw: taps.append(http_tap.tap_on(raw)) or taps[-1]
    )

    async def twice() -> tuple[list[str], int]:
        async with WireServer(tls_of(authority) if secure else None) as server:
            # One event a write, with time between: as a paced model sends.
            server.reply = Reply(BODY, segments=(len(chat(TOKENS[0])), len(chat(TOKENS[0]))), pause_s=0.0005)
            provider = OpenAIProvider("k", server.url, max_retries=0)
            said = []
            for _ in range(2):
                taken = Taken()
                await provider.pour(REQUEST, None, taken)
                said.append("".join(taken.text))
                while provider._settling:
                    await asyncio.sleep(0.001)  # pause: between two looks whether the last bytes were read
            await provider.aclose()
            return said, server.connections

    with asyncio.Runner(loop_factory=LOOPS[loop]) as runner:
        said, connections = runner.run(twice())
    assert said == ["".join(TOKENS)] * 2
    assert connections == 1, "the second request went over the connection of the first"
    assert len(taps) == 2
    assert all(tap is not None for tap in taps)


@pytest.mark.parametrize("loop", LOOPS)
def test_a_cancelled_answer_closes_its_tls_connection_at_once(loop: str, authority: trustme.CA) -> None:
    async def cancelled() -> None:
        async with WireServer(tls_of(authority)) as server:
            server.reply = Reply(BODY, hang_after=len(BODY) // 2)
            provider = OpenAIProvider("k", server.url, max_retries=0)
            taken = Taken()
            pouring = asyncio.create_task(provider.pour(REQUEST, None, taken))
            async with asyncio.timeout(5):
                while not taken.text:
                    await asyncio.sleep(0.001)  # pause: between two looks for the first token
                pouring.cancel()
                await asyncio.gather(pouring, return_exceptions=True)
                await server.client_closed()
            await provider.aclose()

    make: Callable[[], asyncio.AbstractEventLoop] = LOOPS[loop]
    with asyncio.Runner(loop_factory=make) as runner:
        runner.run(cancelled())
