"""Every recorded wire, through a real server and its provider, gives what it should; cut anywhere, its part.

Gemini's are tried in `test_gemini_wires`."""

from __future__ import annotations

import gzip
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio
from tests.providers import wires
from tests.providers.wire_server import Reply, WireServer
from tests.providers.wires import (
    ROOT,
    ErrorBody,
    Outcome,
    Wire,
    anthropic_wires,
    cohere_wires,
    cut_short,
    cuts,
    drain,
    error_bodies,
    fold_of,
    in_pieces,
    manifest,
    ollama_wires,
    openai_wires,
    parsed,
    usage_told,
)

from everstream.core.events import Message, Request
from everstream.providers.anthropic import AnthropicProvider
from everstream.providers.base import Provider
from everstream.providers.cohere import CohereProvider
from everstream.providers.ollama import OllamaProvider
from everstream.providers.openai import OpenAIProvider

pytestmark = [
    pytest.mark.skipif(not ROOT.is_dir(), reason="the recorded wires are not beside this checkout"),
    pytest.mark.asyncio(loop_scope="module"),  # one server and three clients for all: a client takes 50 ms to make
]

WIRES = [*openai_wires(), *anthropic_wires(), *ollama_wires(), *cohere_wires()]


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def server() -> AsyncIterator[WireServer]:
    async with WireServer() as server:
        yield server


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def providers(server: WireServer) -> AsyncIterator[dict[str, Provider]]:
    providers: dict[str, Provider] = {
        "chat": OpenAIProvider("k", server.url, max_retries=0),
        "responses": OpenAIProvider("k", server.url, api="responses", max_retries=0),
        "completions": OpenAIProvider("k", server.url, api="completions", max_retries=0),
        "messages": AnthropicProvider("k", server.url, max_retries=0),
        "ollama": OllamaProvider("k", server.url, max_retries=0),
        "cohere": CohereProvider("k", server.url, max_retries=0),
    }
    providers["ollama-generate"] = providers["ollama"]
    yield providers
    for provider in providers.values():
        await provider.aclose()


@pytest.fixture(autouse=True)
def no_leaks() -> None:
    """Instead of the check of every test: the pools of these providers keep connections from one to the next."""


def asked(api: str) -> Request:
    extra = {"api": "generate"} if api == "ollama-generate" else {}
    return Request("any/model", [Message("user", "hello")], extra=extra)


def calls_of(outcome: Outcome) -> list[tuple[str, str, object]]:
    return [(call_id, name, parsed(arguments)) for call_id, name, arguments in outcome.calls.values()]


def check(outcome: Outcome, wire: Wire) -> None:
    assert (outcome.error.code if outcome.error else None) == wire.error
    assert outcome.text == wire.text
    assert outcome.thinking == wire.thinking
    assert outcome.refusal == wire.refusal
    assert [(i or None, n, a) for i, n, a in calls_of(outcome)] == [(i, n, parsed(a)) for i, n, a in wire.calls]
    assert outcome.finish == wire.finish
    assert outcome.headers == 1
    if wire.error is None:
        assert outcome.finishes
        assert (usage_told(outcome.usage) if outcome.usage else None) == wire.usage


async def test_no_file_of_the_corpus_is_left_out() -> None:
    tried = {wire.key for wire in WIRES} | {recorded.key for recorded in error_bodies()}
    assert tried == {key for key in manifest() if not key.startswith("gemini/")}
    assert len(tried) == 222


@pytest.mark.parametrize("poured", [False, True], ids=["pulled", "poured"])
@pytest.mark.parametrize("wire", WIRES, ids=lambda wire: wire.key)
async def test_a_wire_in_random_pieces_gives_the_whole_answer(
    wire: Wire, poured: bool, server: WireServer, providers: dict[str, Provider], monkeypatch: pytest.MonkeyPatch
) -> None:
    server.reply = in_pieces(wire)
    provider = providers[wire.api]
    monkeypatch.setattr(wires, "poured", poured)
    check(await drain(provider, asked(wire.api)), wire)


@pytest.mark.parametrize("wire", WIRES, ids=lambda wire: wire.key)
async def test_a_wire_in_one_piece_gives_the_whole_answer_in_few_entries(
    wire: Wire, server: WireServer, providers: dict[str, Provider]
) -> None:
    server.reply = Reply(wire.body, framing="length")
    provider = providers[wire.api]
    outcome = await drain(provider, asked(wire.api))
    check(outcome, wire)
    assert outcome.batches <= 2 + len(wire.body) // 4096


@pytest.mark.parametrize("wire", WIRES, ids=lambda wire: wire.key)
async def test_a_wire_cut_anywhere_keeps_its_part_and_is_never_called_complete(
    wire: Wire, server: WireServer, providers: dict[str, Provider], monkeypatch: pytest.MonkeyPatch
) -> None:
    provider = providers[wire.api]
    for number, cut in enumerate(cuts(wire)):
        server.reply = cut_short(wire, cut)
        monkeypatch.setattr(wires, "poured", number % 2 == 1)
        outcome = await drain(provider, asked(wire.api))
        whole = fold_of(wire, cut)
        assert outcome.error is not None, f"cut after {cut} of {len(wire.body)} bytes"
        assert outcome.error.code == "provider.connection"
        assert outcome.error.retryable
        assert outcome.finish is None
        assert wire.text.startswith(outcome.text)
        assert outcome.text.startswith(whole.text)
        assert wire.thinking.startswith(outcome.thinking)
        assert outcome.thinking.startswith(whole.thinking)
        for at, call in whole.calls.items():
            assert outcome.calls[at][2].startswith(call[2])


@pytest.mark.parametrize("recorded", error_bodies(), ids=lambda recorded: recorded.key)
async def test_a_recorded_error_body_gets_its_code(
    recorded: ErrorBody, server: WireServer, providers: dict[str, Provider]
) -> None:
    server.reply = recorded.reply()
    provider = providers[recorded.api]
    outcome = await drain(provider, asked(recorded.api))
    assert outcome.error is not None
    assert outcome.error.code == recorded.code
    assert not outcome.error.retryable
    assert 0 < len(outcome.error.message) <= 500
    assert outcome.headers == 0


async def test_a_compressed_body_is_read_all_the_same(server: WireServer, providers: dict[str, Provider]) -> None:
    wire = next(wire for wire in openai_wires() if wire.api == "chat" and wire.text and wire.error is None)
    body = gzip.compress(wire.body)
    server.reply = Reply(body, headers={"content-encoding": "gzip"}, segments=(1, 400))
    provider = providers[wire.api]
    check(await drain(provider, asked(wire.api)), wire)


async def test_an_answer_is_whole_where_nothing_below_the_package_can_be_found(
    server: WireServer, providers: dict[str, Provider], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("everstream.providers.http_body._aiohttp_response", lambda response: None)
    for wire in (openai_wires()[0], anthropic_wires()[0]):
        server.reply = Reply(wire.body, segments=(1, 900))
        provider = providers[wire.api]
        check(await drain(provider, asked(wire.api)), wire)
