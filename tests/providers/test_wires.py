"""Every recorded wire, through a real server and the vendor's client, gives what it should; cut anywhere, its part."""

from __future__ import annotations

import gzip
import json
import random
import zlib
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio
from tests.providers.wire_server import Reply, WireServer
from tests.providers.wires import ROOT, ErrorBody, Outcome, Wire, anthropic_wires, drain, error_bodies, openai_wires

from everstream.core.events import Message, Request
from everstream.providers.anthropic import AnthropicProvider
from everstream.providers.base import Provider
from everstream.providers.chat_completions import ChatFold
from everstream.providers.http_answer import Fold
from everstream.providers.messages_api import MessagesFold
from everstream.providers.openai import OpenAIProvider
from everstream.providers.responses_api import ResponsesFold

pytestmark = [
    pytest.mark.skipif(not ROOT.is_dir(), reason="the recorded wires are not beside this checkout"),
    pytest.mark.asyncio(loop_scope="module"),  # one server and three clients for all: a client takes 50 ms to make
]

KILLS = 10
WIRES = [*openai_wires(), *anthropic_wires()]


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def server() -> AsyncIterator[WireServer]:
    async with WireServer() as server:
        yield server


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def providers(server: WireServer) -> AsyncIterator[dict[str, Provider]]:
    providers: dict[str, Provider] = {
        "chat": OpenAIProvider("k", server.url, max_retries=0),
        "responses": OpenAIProvider("k", server.url, api="responses", max_retries=0),
        "messages": AnthropicProvider("k", server.url, max_retries=0),
    }
    yield providers
    for provider in providers.values():
        await provider.aclose()


@pytest.fixture(autouse=True)
def no_leaks() -> None:
    """Instead of the check of every test: the pools of these providers keep connections from one to the next."""


def asked() -> Request:
    return Request("any/model", [Message("user", "hello")])


def segments(body: bytes) -> tuple[int, int]:
    """Pieces of 1 to 9 bytes; larger ones for large wires, so that each is read in about a thousand pieces."""
    return (1, max(9, len(body) // 400))


def calls_of(outcome: Outcome) -> list[tuple[str, str, object]]:
    return [(call_id, name, parsed(arguments)) for call_id, name, arguments in outcome.calls.values()]


def parsed(arguments: str) -> object:
    try:
        return json.loads(arguments)
    except ValueError:
        return arguments


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
        usage = outcome.usage
        got = usage and (
            usage.input_tokens,
            usage.output_tokens,
            usage.total_tokens,
            usage.thinking_tokens,
            usage.cached_tokens,
        )
        assert got == wire.usage


@pytest.mark.parametrize("wire", WIRES, ids=lambda wire: wire.key)
async def test_a_wire_in_random_pieces_gives_the_whole_answer(
    wire: Wire, server: WireServer, providers: dict[str, Provider]
) -> None:
    server.reply = Reply(wire.body, segments=segments(wire.body), seed=zlib.crc32(wire.key.encode()))
    provider = providers[wire.api]
    check(await drain(provider, asked()), wire)


@pytest.mark.parametrize("wire", WIRES, ids=lambda wire: wire.key)
async def test_a_wire_in_one_piece_gives_the_whole_answer_in_few_entries(
    wire: Wire, server: WireServer, providers: dict[str, Provider]
) -> None:
    server.reply = Reply(wire.body, framing="length")
    provider = providers[wire.api]
    outcome = await drain(provider, asked())
    check(outcome, wire)
    assert outcome.batches <= 2 + len(wire.body) // 4096


@pytest.mark.parametrize("wire", WIRES, ids=lambda wire: wire.key)
async def test_a_wire_cut_anywhere_keeps_its_part_and_is_never_called_complete(
    wire: Wire, server: WireServer, providers: dict[str, Provider]
) -> None:
    draw = random.Random(wire.key)
    provider = providers[wire.api]
    for _ in range(KILLS):
        # The answer may be whole before the last bytes (usage, [DONE]); those cuts have a test of their own.
        cut = draw.randrange(1, max(2, last_place(wire)))
        server.reply = Reply(wire.body, segments=(1, max(9, len(wire.body) // 20)), seed=cut, cut_after=cut)
        outcome = await drain(provider, asked())
        whole = await fold_of(wire.body[: cut - cut_tail(wire.body, cut)], wire)
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


def last_place(wire: Wire) -> int:
    """Where the event begins that tells the end: no cut before it may pass for an end."""
    body = wire.body
    marks = [
        b'"finish_reason":"',
        b'"finish_reason": "',
        b'"stop_reason":"',
        b'"type":"response.completed"',
        b'"type":"response.incomplete"',
        b'"type":"response.failed"',
        b'"type": "response.completed"',
        b"[DONE]",
    ]
    if wire.error is not None:
        marks += [b'"error":{', b'{"type":"error"', b"\nerror:"]
    places = [place for place in (body.find(mark) for mark in marks) if place >= 0]
    if wire.key.endswith("spliced-message-start"):
        places.append(body.rfind(b"event: message_start"))
    first = min(places)
    return max(1, body.rfind(b"\n", 0, first))


def cut_tail(body: bytes, cut: int) -> int:
    """How many bytes before the cut belong to an incomplete event."""
    return cut - (body.rfind(b"\n", 0, cut) + 1)


async def fold_of(part: bytes, wire: Wire) -> Outcome:
    """What the complete events in `part` hold, by folding them in one piece."""
    kinds: dict[str, type[ChatFold] | type[ResponsesFold] | type[MessagesFold]] = {
        "chat": ChatFold,
        "responses": ResponsesFold,
        "messages": MessagesFold,
    }
    fold: Fold = kinds[wire.api]("x")
    outcome = Outcome()
    for event in fold.feed(part):
        outcome.add(event)
    return outcome


ERROR_CODES = {400: "provider.invalid", 401: "provider.auth", 404: "model.unknown"}
ODD_ERROR_BODIES = {
    # What the vendor names is more exact than the status it sends.
    "openai/http-400-responses--otel--responses-create-api-error-content-mode0": "model.unknown",
    "xai/http-400-responses--ruby_llm--dling-with-xai-grok-4-1-fast-non-reasoning-raises-appropriate-auth-error": (
        "provider.auth"
    ),
    "azure/http-404-chat--crewAI--openai-is-default-provider-without-explicit-llm-set-on-agent": "provider.invalid",
}


@pytest.mark.parametrize("recorded", error_bodies(), ids=lambda recorded: recorded.key)
async def test_a_recorded_error_body_gets_its_code(
    recorded: ErrorBody, server: WireServer, providers: dict[str, Provider]
) -> None:
    server.reply = Reply(
        recorded.body, recorded.status, {"content-type": "application/json"}, framing="length", segments=(1, 9)
    )
    provider = providers[recorded.api]
    outcome = await drain(provider, asked())
    assert outcome.error is not None
    assert outcome.error.code == ODD_ERROR_BODIES.get(recorded.key, ERROR_CODES[recorded.status])
    assert not outcome.error.retryable
    assert 0 < len(outcome.error.message) <= 500
    assert outcome.headers == 0


async def test_a_compressed_body_is_read_all_the_same(server: WireServer, providers: dict[str, Provider]) -> None:
    wire = next(wire for wire in openai_wires() if wire.api == "chat" and wire.text and wire.error is None)
    body = gzip.compress(wire.body)
    server.reply = Reply(body, headers={"content-encoding": "gzip"}, segments=(1, 400))
    provider = providers[wire.api]
    check(await drain(provider, asked()), wire)


async def test_an_answer_is_whole_where_nothing_below_the_package_can_be_found(
    server: WireServer, providers: dict[str, Provider], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("everstream.providers.http_body._aiohttp_response", lambda response: None)
    for wire in (openai_wires()[0], anthropic_wires()[0]):
        server.reply = Reply(wire.body, segments=(1, 900))
        provider = providers[wire.api]
        check(await drain(provider, asked()), wire)
