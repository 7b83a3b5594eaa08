"""Servers of this machine are found by what they say, kept for a while, and forgotten when they go."""

from __future__ import annotations

import asyncio
import json
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tests.providers.seams import chat
from tests.providers.wire_server import Asked, Reply, WireServer
from tests.providers.wires import drain

import everstream
from everstream.core.events import Message, Request
from everstream.endpoint_settings import EndpointSettings
from everstream.providers import discovery
from everstream.providers.discovery import USUAL, WITHIN_S, Discovery, Usual
from everstream.providers.presets import PRESETS
from everstream.providers.registry import registry_of
from everstream.settings import Settings

HEADERS = {"content-type": "application/json"}
OWNED = {"vllm": "vllm", "llamacpp": "llamacpp"}


@pytest.fixture(autouse=True)
def _no_settings_of_ollama(monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in ("OLLAMA_HOST", "OLLAMA_API_KEY", "OPENAI_BASE_URL"):
        monkeypatch.delenv(variable, raising=False)


def told(body: Any, status: int = 200) -> Reply:
    return Reply(json.dumps(body).encode(), status, HEADERS, framing="length")


def replies(name: str) -> Callable[[Asked], Reply]:
    """A server of this kind with one model, `m`."""

    def reply(got: Asked) -> Reply:
        if got.method == "POST":
            return told({"capabilities": ["completion"]}) if got.path == "/api/show" else Reply(chat(["hello"]))
        if name == "ollama":
            return told(
                {"version": "0.14.1"} if got.path == "/api/version" else {"models": [{"name": "m", "model": "m"}]}
            )
        if name == "lmstudio" and got.path == "/api/v0/models":
            return told({"data": [{"id": "m", "type": "llm", "state": "loaded"}]})
        if got.path == "/v1/models":
            return told({"data": [{"id": "m", "owned_by": OWNED.get(name, "organization_owner")}]})
        return told({"error": "there is nothing"}, 404)

    return reply


def place_of(name: str, server: WireServer) -> Usual:
    usual = next(place for place in USUAL if place.name == name)
    return replace(usual, base_url=server.url + usual.base_url.partition("/v1")[1])


@asynccontextmanager
async def running(*names: str) -> AsyncIterator[list[tuple[Usual, WireServer]]]:
    servers = [WireServer() for _ in names]
    for server, name in zip(servers, names, strict=True):
        await server.__aenter__()
        server.reply = replies(name)
    try:
        yield [(place_of(name, server), server) for name, server in zip(names, servers, strict=True)]
    finally:
        for server in servers:
            await server.__aexit__()


def free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port: int = taken.getsockname()[1]
    return port


def test_what_is_looked_for_lies_where_its_preset_says() -> None:
    assert {place.name: place.base_url for place in USUAL} == {
        place.name: PRESETS[place.name].base_url for place in USUAL
    }


@pytest.mark.parametrize("name", [place.name for place in USUAL])
async def test_each_kind_is_found_by_what_it_says_and_is_usable_at_once(name: str) -> None:
    async with running(name) as [(place, server)]:
        registry = registry_of(Settings(provider_max_retries=0), places=[place])
        try:
            shown = [model for model in await registry.models() if model.id.startswith(f"{name}/")]
            assert [(model.id, model.usable) for model in shown] == [(f"{name}/m", True)]
            if name != "ollama":  # whose own API has tests of its own
                outcome = await drain(registry.get(name), Request(f"{name}/m", [Message("user", "hello")]))
                assert outcome.text == "hello"
            assert all("authorization" not in got.headers or name != "ollama" for got in server.requests)
        finally:
            await registry.aclose()


async def test_no_kind_is_taken_for_another_nor_any_server_for_one_of_them() -> None:
    async with running("ollama", "lmstudio", "vllm", "llamacpp") as there:
        for place, _ in there:
            for _, other in there:
                at = replace(place, base_url=other.url + "/v1")
                assert await Discovery([at]).found() == ({place.name} if other is dict(there)[place] else set())


@pytest.mark.parametrize(
    "reply",
    [
        told({"data": []}),
        told({"data": [{"id": "scripted/lorem", "owned_by": "everstream"}]}),
        told({"data": [{"id": "m", "owned_by": "vllm"}]}, 401),
        told(["vllm"]),
        Reply(b"<html>", 200),
        Reply(b'{"data": [{"owned_by": "vllm"}]', framing="close"),
        Reply(b'{"data": [{"owned_by": "vllm"}]}', cut_after=9, framing="length"),
        Reply(b"", hang_after=-1),
    ],
    ids=["empty", "ourselves", "refused", "array", "page", "broken", "cut", "silent"],
)
async def test_what_answers_otherwise_is_not_found_and_not_waited_for(reply: Reply) -> None:
    async with WireServer() as server:
        server.reply = reply
        loop = asyncio.get_running_loop()
        began = loop.time()
        assert await Discovery([place_of("vllm", server)]).found() == frozenset()
        assert loop.time() - began < WITHIN_S + 2.0
        assert len(server.requests) == 1


async def test_a_body_without_a_length_is_read_to_its_end() -> None:
    async with WireServer() as server:
        body = json.dumps({"data": [{"id": "m" * 200_000, "owned_by": "vllm"}]}).encode()
        server.reply = Reply(body, segments=(1000, 60_000), framing="close")
        assert await Discovery([place_of("vllm", server)]).found() == {"vllm"}


async def test_all_are_asked_at_once_and_many_askers_share_one_answer() -> None:
    async with running("ollama", "vllm") as there:
        found = Discovery([place for place, _ in there])
        assert set(await asyncio.gather(*(found.found() for _ in range(20)))) == {frozenset({"ollama", "vllm"})}
        assert [len(server.requests) for _, server in there] == [1, 1]


async def test_one_that_goes_away_disappears_and_one_that_comes_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1000.0
    monkeypatch.setattr(discovery.time, "monotonic", lambda: now)
    async with running("vllm") as [(place, server)]:
        found = Discovery([place])
        server.reply = told({"data": []})
        assert await found.found() == frozenset()
        server.reply = replies("vllm")
        assert await found.found() == frozenset()  # kept
        now += discovery.KEPT_S
        assert await found.found() == {"vllm"}
    assert await found.found() == {"vllm"}  # kept
    now += discovery.KEPT_S
    assert await found.found() == frozenset()


@pytest.mark.parametrize(
    "given",
    [
        {"discover": False},
        {"endpoints": {"vllm": EndpointSettings(base_url="http://127.0.0.1:9/v1")}},
    ],
)
async def test_nothing_is_asked_where_the_settings_have_spoken(given: dict[str, Any]) -> None:
    async with running("vllm") as [(place, server)]:
        registry = registry_of(Settings(provider_max_retries=0, **given), places=[place])
        assert not [model for model in await registry.models() if model.id == "vllm/m"]
        await registry.aclose()
        assert server.requests == []


async def test_a_server_does_not_ask_itself() -> None:
    async with running("vllm") as [(place, server)]:
        port = int(server.url.rpartition(":")[2])
        assert await Discovery([place], own_port=port).found() == frozenset()
        assert server.requests == []
        assert await Discovery([place], own_port=port + 1).found() == {"vllm"}


async def test_what_is_found_is_made_ready_before_the_first_request() -> None:
    async with running("llamacpp") as [(place, _)]:
        registry = registry_of(Settings(), places=[place])
        await registry.prepare()
        made: Any = registry.get("llamacpp")
        assert made._client is not None
        other: Any = registry.get("lmstudio")
        assert other._client is None
        await registry.aclose()


async def test_no_proxy_of_the_environment_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(variable, "http://127.0.0.1:9")
    async with running("vllm") as [(place, _)]:
        assert await Discovery([place]).found() == {"vllm"}


def test_looking_where_nothing_runs_imports_no_client() -> None:
    script = (
        "import asyncio, sys\n"
        "from everstream.providers.discovery import Discovery, Usual\n"
        "place = Usual('vllm', sys.argv[1], '/v1/models', lambda answer: True)\n"
        "assert asyncio.run(Discovery([place]).found()) == frozenset()\n"
        "print(sorted({'aiohttp', 'openai', 'httpx2'} & set(sys.modules)))"
    )
    run = subprocess.run(
        [sys.executable, "-c", script, f"http://127.0.0.1:{free_port()}/v1"],
        env={"PYTHONPATH": str(Path(everstream.__file__).parents[1])},
        capture_output=True,
        text=True,
        timeout=30,
    )
    assert (run.stdout, run.stderr) == ("[]\n", "")
