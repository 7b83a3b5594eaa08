"""HTTP without a vendor's package: attempts only before an answer, bounded waits, a cancel that is felt at once."""

from __future__ import annotations

import asyncio
import gzip
import os
import socket
import ssl
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest
import trustme
from tests.providers import wires
from tests.providers.wire_server import Asked, Reply, WireServer
from tests.providers.wires import Outcome, drain

import everstream
from everstream.core.events import Message, Request
from everstream.providers import http_direct
from everstream.providers.base import Provider, ProviderError
from everstream.providers.cohere import CohereProvider
from everstream.providers.endpoint import Endpoint
from everstream.providers.http_body import Body
from everstream.providers.http_direct import Direct
from everstream.providers.ollama import OllamaProvider
from everstream.providers.openai import OpenAIProvider

SAID = Reply(b'{"said":"yes"}', headers={"content-type": "application/json"}, framing="length")


@pytest.fixture
async def server() -> AsyncIterator[WireServer]:
    async with WireServer() as server:
        yield server


@asynccontextmanager
async def direct_to(url: str, key: str | None = None, **rest: Any) -> AsyncIterator[Direct]:
    made = {name: rest.pop(name) for name in ("headers", "query", "key_header") if name in rest}
    direct = Direct(Endpoint("x", "ollama", url, key, **made), **rest)
    try:
        yield direct
    finally:
        await direct.close()


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The waits between attempts, which take no time here."""
    waited: list[float] = []
    real = asyncio.sleep

    async def at_once(seconds: float) -> None:
        if seconds:  # the server's own pauses are of none
            waited.append(seconds)
        await real(0)

    monkeypatch.setattr(http_direct.asyncio, "sleep", at_once)
    monkeypatch.setattr(http_direct.random, "uniform", lambda least, most: most)
    return waited


def one_after_the_other(*replies: Reply) -> Any:
    left = iter(replies)
    return lambda asked: next(left)


async def text_of(body: Body) -> bytes:
    pieces = []
    while data := await body.read():
        pieces.append(data)
    await body.close()
    return b"".join(pieces)


async def test_a_request_says_what_the_endpoint_wants_said(server: WireServer) -> None:
    server.reply = SAID
    async with direct_to(server.url, "key", headers={"X-Of": "theirs"}, query={"v": "1"}) as direct:
        assert await text_of(await direct.open("POST", "/ask", {"a": "é"}, {"X-Once": "1"})) == b'{"said":"yes"}'
        await text_of(await direct.open("GET", "/list"))
    posted, got = server.requests
    assert (posted.method, posted.path, posted.json) == ("POST", "/ask?v=1", {"a": "é"})
    assert posted.headers["authorization"] == "Bearer key"
    assert posted.headers["content-type"] == "application/json"
    assert posted.headers["accept-encoding"] == "identity"
    assert (posted.headers["x-of"], posted.headers["x-once"]) == ("theirs", "1")
    assert (got.method, got.body) == ("GET", b"")
    assert "content-type" not in got.headers
    assert server.connections == 1


async def test_without_a_key_none_is_sent(server: WireServer) -> None:
    server.reply = SAID
    async with direct_to(server.url) as direct:
        await direct.fetch("GET", "/", within_s=5)
    assert "authorization" not in server.requests[0].headers


async def test_a_key_goes_where_the_service_wants_it(server: WireServer) -> None:
    server.reply = SAID
    async with direct_to(server.url, "key", key_header="api-key") as direct:
        await direct.fetch("GET", "/", within_s=5)
    assert server.requests[0].headers["api-key"] == "key"
    assert "authorization" not in server.requests[0].headers


async def test_a_body_of_megabytes_is_sent_whole(server: WireServer) -> None:
    server.reply = SAID
    body = {"image": "A" * 3_000_000}
    async with direct_to(server.url) as direct:
        await direct.fetch("POST", "/", body, within_s=10)
    assert server.requests[0].json == body
    assert server.requests[0].headers["content-length"] == str(len(msgspec.json.encode(body)))


async def test_a_compressed_answer_is_read_all_the_same(server: WireServer) -> None:
    server.reply = Reply(gzip.compress(b"one two three"), headers={"content-encoding": "gzip"}, segments=(1, 3))
    async with direct_to(server.url) as direct:
        assert await direct.fetch("GET", "/", within_s=5) == b"one two three"


@pytest.mark.parametrize("status", [408, 409, 429, 500, 503, 529])
async def test_what_may_pass_is_asked_again_before_any_answer(
    status: int, server: WireServer, waits: list[float]
) -> None:
    failed = Reply(b"{}", status=status, framing="length")
    server.reply = one_after_the_other(failed, failed, SAID)
    async with direct_to(server.url) as direct:
        assert await text_of(await direct.open("GET", "/")) == SAID.body
    assert len(server.requests) == 3
    assert waits == [0.5, 1.0]  # the bounds of the two draws
    assert server.connections == 1  # an error's body is read, so that its connection serves again


@pytest.mark.parametrize("status", [400, 401, 403, 404, 422])
async def test_what_will_not_pass_is_asked_once(status: int, server: WireServer) -> None:
    server.reply = Reply(b'{"error":"no"}', status=status, framing="length")
    async with direct_to(server.url) as direct:
        with pytest.raises(ProviderError, match="no"):
            await direct.open("GET", "/")
    assert len(server.requests) == 1


async def test_the_last_failure_is_told_when_all_attempts_failed(server: WireServer, waits: list[float]) -> None:
    server.reply = Reply(b'{"error":{"message":"full"}}', status=503, framing="length")
    async with direct_to(server.url, max_retries=1) as direct:
        with pytest.raises(ProviderError) as raised:
            await direct.open("POST", "/", {})
    assert (raised.value.code, raised.value.message, raised.value.retryable) == ("provider.overloaded", "full", True)
    assert len(server.requests) == 2


@pytest.mark.parametrize(("said", "waited"), [({"retry-after": "1"}, 1.0), ({"retry-after-ms": "20"}, 0.02)])
async def test_a_short_wait_that_is_asked_for_is_kept(
    said: dict[str, str], waited: float, server: WireServer, waits: list[float]
) -> None:
    server.reply = one_after_the_other(Reply(status=429, headers=said, framing="length"), SAID)
    async with direct_to(server.url) as direct:
        await text_of(await direct.open("GET", "/"))
    assert waits == [waited]


async def test_a_long_wait_is_told_at_once(server: WireServer, waits: list[float]) -> None:
    server.reply = Reply(status=429, headers={"retry-after": "30"}, framing="length")
    async with direct_to(server.url) as direct:
        with pytest.raises(ProviderError) as raised:
            await direct.open("GET", "/")
    assert (raised.value.code, raised.value.retry_after_ms, waits) == ("provider.rate_limit", 30_000, [])


@pytest.mark.parametrize(("status", "wanted", "asked"), [(503, "false", 1), (400, "true", 3)])
async def test_the_service_decides_about_another_attempt_where_it_says_so(
    status: int, wanted: str, asked: int, server: WireServer, waits: list[float]
) -> None:
    server.reply = Reply(status=status, headers={"x-should-retry": wanted}, framing="length")
    async with direct_to(server.url) as direct:
        with pytest.raises(ProviderError):
            await direct.open("GET", "/")
    assert len(server.requests) == asked


async def test_a_connection_that_breaks_before_the_answer_is_made_anew(server: WireServer, waits: list[float]) -> None:
    def reply(asked: Asked) -> Reply:
        if len(server.requests) == 1:
            raise ConnectionResetError  # the server hangs up instead of answering
        return SAID

    server.reply = reply
    async with direct_to(server.url) as direct:
        assert await text_of(await direct.open("POST", "/", {})) == SAID.body
    assert (len(server.requests), len(waits)) == (2, 1)


async def test_nobody_there_is_told_after_the_last_attempt(waits: list[float]) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
    async with direct_to(f"http://127.0.0.1:{port}") as direct:
        with pytest.raises(ProviderError) as raised:
            await direct.open("GET", "/")
    assert (raised.value.code, raised.value.message) == ("provider.connection", "x cannot be reached")
    assert len(waits) == 2


async def test_a_fetch_that_takes_too_long_is_a_time_out_and_closes(server: WireServer) -> None:
    server.reply = Reply(b"half", hang_after=2)
    async with direct_to(server.url) as direct:
        with pytest.raises(ProviderError) as raised:
            await direct.fetch("GET", "/", within_s=0.05)
        assert raised.value.code == "provider.timeout"
        await server.client_closed()


async def test_an_endless_error_body_is_not_read_to_its_end(server: WireServer) -> None:
    server.reply = Reply(b"x" * 200_000, status=400, linger=True)
    async with direct_to(server.url) as direct:
        with pytest.raises(ProviderError) as raised:
            await direct.open("GET", "/")
        assert raised.value.code == "provider.invalid"
        await server.client_closed()


async def test_a_cancel_before_the_headers_closes_the_connection(server: WireServer) -> None:
    server.reply = Reply(hang_after=-1)
    async with direct_to(server.url) as direct:
        asking = asyncio.create_task(direct.open("POST", "/", {}))
        await server.asked()
        asking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asking
        await server.client_closed()


async def test_a_closed_way_can_be_taken_again(server: WireServer) -> None:
    server.reply = SAID
    async with direct_to(server.url) as direct:
        await direct.fetch("GET", "/", within_s=5)
        await direct.close()
        await direct.close()
        await direct.fetch("GET", "/", within_s=5)
    assert server.connections == 2


# --------------------------------------------------------------------------- where it is


@pytest.fixture
def authority(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> trustme.CA:
    authority = trustme.CA()
    authority.cert_pem.write_to_path(tmp_path / "authority.pem")
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "authority.pem"))
    return authority


async def test_a_service_is_reached_over_tls_by_the_systems_roots(authority: trustme.CA) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("localhost").configure_cert(context)
    async with WireServer(context) as server, direct_to(server.url.replace("127.0.0.1", "localhost")) as direct:
        server.reply = SAID
        assert await direct.fetch("GET", "/", within_s=5) == SAID.body


async def test_a_certificate_that_nobody_vouches_for_is_refused(authority: trustme.CA) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    trustme.CA().issue_cert("localhost").configure_cert(context)
    url = ""
    async with WireServer(context) as server:
        url = server.url.replace("127.0.0.1", "localhost")
        async with direct_to(url, max_retries=0) as direct:
            with pytest.raises(ProviderError) as raised:
                await direct.open("GET", "/")
    assert raised.value.code == "provider.connection"
    assert server.requests == []


def test_a_proxy_is_used_for_others_and_never_for_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("everstream.providers.http_direct.getproxies", lambda: {"http": "http://proxy:3128"})
    monkeypatch.setattr("everstream.providers.http_direct.proxy_bypass", lambda host: host == "inside.example")

    def way(url: str) -> Any:
        return http_direct._surroundings(Endpoint("x", "ollama", url))

    assert way("http://far.example/v1") == (None, "http://proxy:3128")
    assert way("http://inside.example") == (None, None)
    for here in ("http://127.0.0.1:11434", "http://localhost:11434", "http://[::1]:11434"):
        assert way(here) == (None, None)


# --------------------------------------------------------------------------- cancels

CANCELS = 200
P99_S = 0.05  # what is promised
SLACK = 10  # what a machine with other work to do is forgiven

KINDS: dict[str, tuple[Callable[[str], Provider], dict[str, str], bytes]] = {  # maker, parameters, a first piece
    "ollama": (
        lambda url: OllamaProvider(None, url),
        {},
        b'{"message":{"role":"assistant","content":"one"},"done":false}\n',
    ),
    "ollama generate": (
        lambda url: OllamaProvider(None, url),
        {"api": "generate"},
        b'{"response":"one","done":false}\n',
    ),
    "cohere": (
        lambda url: CohereProvider("k", url),
        {},
        b'data: {"type":"content-delta","index":0,"delta":{"message":{"content":{"text":"one"}}}}\n\n',
    ),
    "completions": (
        lambda url: OpenAIProvider("k", url, api="completions"),
        {},
        b'data: {"choices":[{"index":0,"text":"one","finish_reason":null}]}\n\n',
    ),
}


@pytest.mark.parametrize("poured", [False, True], ids=["pulled", "poured"])
@pytest.mark.parametrize("kind", KINDS)
async def test_a_cancel_closes_the_connection_at_the_service(
    kind: str, poured: bool, server: WireServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    make, extra, first = KINDS[kind]
    provider, loop = make(server.url), asyncio.get_running_loop()
    request = Request("any/model", [Message("user", "hello")], extra=extra)
    server.reply = Reply(first * 2, hang_after=len(first))
    monkeypatch.setattr(wires, "poured", poured)
    late = []
    for count in range(1, CANCELS + 1):
        outcome = Outcome()
        task = asyncio.create_task(drain(provider, request, outcome))
        async with asyncio.timeout(5):
            await outcome.shown.wait()
        at = loop.time()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        late.append(await server.client_closed(count) - at)
    await provider.aclose()
    p99 = sorted(late)[int(0.99 * len(late))]
    print(f"{kind}: the service saw the end {1000 * p99:.2f} ms after the cancel (p99 of {CANCELS})")
    assert p99 < P99_S * SLACK
    assert len(server.requests) == CANCELS


async def test_what_a_provider_imports_comes_with_its_first_use() -> None:
    script = (
        "import sys\n"
        "import everstream.providers.ollama, everstream.providers.cohere\n"
        "found = {'aiohttp', 'httpx2', 'openai'} & set(sys.modules)\n"
        "assert not found, found\n"
    )
    env = {**os.environ, "PYTHONPATH": str(Path(everstream.__file__).parents[1])}
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", script, env=env)
    assert await asyncio.wait_for(process.wait(), 30) == 0
