"""Gemini: keys and models, odd answers, what goes wrong, and that a cancel closes the connection.

What goes out is in `test_gemini_requests`, what comes back in `test_gemini_wires`.
"""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from pydantic import SecretStr
from tests.providers import wires
from tests.providers.wire_server import Asked, Reply, WireServer
from tests.providers.wires import Outcome, drain

from everstream.core.events import (
    Counted,
    DeltaText,
    DeltaToolCall,
    Message,
    Request,
)
from everstream.providers.base import Progress
from everstream.providers.gemini import MODELS, GeminiProvider
from everstream.providers.gemini_api import GenerateFold
from everstream.providers.gemini_request import generation
from everstream.providers.registry import registry_of
from everstream.settings import Settings

CANCELS = 200
P99_S = 0.05  # what is promised
SLACK = 10  # what a machine with other work to do is forgiven
HI = [Message("user", "hi")]
JSON = {"content-type": "application/json"}


def asked(model: str = "gemini-3.8-flash", **extra: Any) -> Request:
    return Request(f"gemini/{model}", HI, extra=extra)


def chunk(*parts: dict[str, Any], finish: str | None = None, **rest: Any) -> bytes:
    candidate = {"content": {"parts": list(parts), "role": "model"}, **({"finishReason": finish} if finish else {})}
    return line({"candidates": [candidate], **rest})


def line(data: Any) -> bytes:
    return b"data: " + json.dumps(data).encode() + b"\r\n\r\n"


WHOLE = chunk({"text": "one"}) + chunk({"text": "two"}, finish="STOP")


@pytest.fixture
async def server() -> AsyncIterator[WireServer]:
    async with WireServer() as server:
        server.reply = Reply(WHOLE)
        yield server


@pytest.fixture
async def provider(server: WireServer) -> AsyncIterator[GeminiProvider]:
    provider = GeminiProvider("secret", server.url, max_retries=0)
    yield provider
    await provider.aclose()


@pytest.fixture(autouse=True)
def no_google_here(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith(("GEMINI_", "GOOGLE_"))]:
        monkeypatch.delenv(name)


# --------------------------------------------------------------------------- Vertex AI, and keys


async def test_on_vertex_the_package_says_where_and_who(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GOOGLE_GENAI_USE_VERTEXAI", "true")
    provider = GeminiProvider("express")
    assert [model.why_not for model in await provider.models()] == [None] * len(MODELS)
    at = await provider._address("gemini-2.5-flash")
    path = "/v1beta1/publishers/google/models/gemini-2.5-flash:streamGenerateContent?alt=sse"
    assert (at.origin, at.path) == ("https://aiplatform.googleapis.com", path)
    assert at.headers["x-goog-api-key"] == "express"
    assert (await provider._beside_models("interactions", "gemini-2.5-flash")).path == "/v1beta1/interactions"
    await provider.aclose()


async def test_on_vertex_without_credentials_the_key_is_what_is_missing(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Any
) -> None:
    monkeypatch.setenv("GOOGLE_GENAI_USE_VERTEXAI", "true")
    monkeypatch.setenv("GOOGLE_CLOUD_PROJECT", "p")
    monkeypatch.setenv("GOOGLE_CLOUD_LOCATION", "l")
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(tmp_path / "none.json"))
    provider = GeminiProvider()
    outcome = await drain(provider, asked())
    assert outcome.error is not None
    assert (outcome.error.code, outcome.error.retryable) == ("provider.auth", False)
    await provider.aclose()


@pytest.mark.parametrize("name", ["../x", "a?b", "a&b", "", "a\nb"])
async def test_a_name_that_would_lead_elsewhere_is_no_model(
    name: str, server: WireServer, provider: GeminiProvider
) -> None:
    outcome = await drain(provider, asked(name))
    assert outcome.error is not None
    assert outcome.error.code == "model.unknown"
    assert server.requests == []


async def test_the_registry_makes_it_as_the_settings_say(server: WireServer) -> None:
    settings = Settings(
        gemini_api_key=SecretStr("set"), gemini_base_url=server.url, gemini_background="on", gemini_continuation="none"
    )
    provider = registry_of(settings).get("gemini")
    assert isinstance(provider, GeminiProvider)
    assert provider.continuation(asked(), Progress("x")) is None
    await drain(provider, asked())
    assert server.requests[0].path == "/v1/interactions"
    assert server.requests[0].headers["x-goog-api-key"] == "set"
    await provider.aclose()


async def test_without_a_key_it_says_what_to_do() -> None:
    provider = GeminiProvider()
    shown = await provider.models()
    assert {model.why_not for model in shown} == {"set GEMINI_API_KEY"}
    assert [model.id for model in shown] == [f"gemini/{model}" for model in MODELS]
    outcome = await drain(provider, asked())
    assert outcome.error is not None
    assert outcome.error.code == "provider.auth"
    await provider.aclose()


@pytest.mark.parametrize("name", ["GEMINI_API_KEY", "GOOGLE_API_KEY"])
async def test_the_environment_has_the_key(name: str, server: WireServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, "from outside")
    provider = registry_of(Settings(gemini_base_url=server.url)).get("gemini")
    await drain(provider, asked())
    assert server.requests[0].headers["x-goog-api-key"] == "from outside"
    await provider.aclose()


def test_nothing_of_googles_is_imported_before_it_is_needed() -> None:
    code = (
        "import sys, everstream.providers.registry, everstream.providers.gemini;"
        "sys.exit(any(name.startswith(('google', 'httpx', 'aiohttp')) for name in sys.modules))"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=30)


# --------------------------------------------------------------------------- models


async def test_with_a_key_the_service_is_asked_for_its_models_once_a_minute(
    server: WireServer, provider: GeminiProvider
) -> None:
    told = [
        {"name": "models/gemini-9-flash", "supportedGenerationMethods": ["generateContent", "countTokens"]},
        {"name": "models/gemini-2.5-flash", "supportedGenerationMethods": ["generateContent"]},
        {"name": "models/gemini-9-flash-tts", "supportedGenerationMethods": ["generateContent"]},
        {"name": "models/gemini-embedding-001", "supportedGenerationMethods": ["embedContent"]},
    ]
    server.reply = Reply(json.dumps({"models": told}).encode(), headers=JSON, framing="length")
    for _ in range(3):
        shown = await provider.models()
        assert [model.id for model in shown] == ["gemini/gemini-2.5-flash", "gemini/gemini-9-flash"]
    assert [model.continuation for model in shown] == ["prefill", "prompted"]
    assert [got.path for got in server.requests] == ["/v1beta/models?pageSize=1000"]


@pytest.mark.parametrize("reply", [Reply(b"{}", 500, framing="length"), Reply(b"<html>", framing="length")])
async def test_a_service_that_lists_nothing_has_the_known_models(
    reply: Reply, server: WireServer, provider: GeminiProvider
) -> None:
    server.reply = reply
    assert [model.id for model in await provider.models()] == [f"gemini/{model}" for model in MODELS]


def test_a_models_generation_is_in_its_name() -> None:
    names = ("gemini-3.5-flash-lite", "models/gemini-4-argon", "gemini-pro-latest", "gemma-4-31b-it")
    assert [generation(name) for name in names] == [(3, 5), (4, 0), (99, 0), (0, 0)]


# --------------------------------------------------------------------------- what comes back of odd answers


def folded(*lines: bytes) -> Outcome:
    fold = GenerateFold("x")
    outcome = Outcome()
    outcome.headers = 1
    for event in [*(event for one in lines for event in fold.feed(one)), *fold.end()]:
        outcome.add(event)
    outcome.error = fold.trouble
    return outcome


FINISHES = [
    ("STOP", "stop", 0),
    ("MAX_TOKENS", "length", 0),
    ("CONTINUATION", "length", 1),
    ("SAFETY", "content_filter", 1),
    ("PROHIBITED_CONTENT", "content_filter", 1),
    ("MODEL_ARMOR", "content_filter", 1),
    ("MALFORMED_FUNCTION_CALL", "stop", 1),
    ("NEVER_HEARD_OF", "stop", 1),
]


@pytest.mark.parametrize(("said", "expected", "warnings"), FINISHES)
def test_a_finish_reason_is_ours_and_an_odd_one_is_told(said: str, expected: str, warnings: int) -> None:
    every = chunk({"text": "a"}, finish="STOP")  # as some models do, in every chunk
    outcome = folded(every, chunk({"text": "b"}, finish=said), chunk({"text": "c"}, finish=said))
    assert (outcome.text, outcome.finish, len(outcome.warnings)) == ("abc", expected, warnings)
    assert all(said in warning for warning in outcome.warnings if said != "CONTINUATION")


def test_a_refused_prompt_is_an_answer_of_nothing() -> None:
    outcome = folded(line({"promptFeedback": {"blockReason": "SAFETY"}, "usageMetadata": {"promptTokenCount": 3}}))
    assert (outcome.text, outcome.finish, outcome.error) == ("", "content_filter", None)
    assert outcome.usage is not None
    assert outcome.usage.input_tokens == 3
    assert len(outcome.warnings) == 1


TOLERATED: list[Any] = [
    {},
    {"candidates": None, "usageMetadata": None, "promptFeedback": None, "error": None},
    {"candidates": []},
    {"candidates": [None]},
    {"candidates": [{}]},
    {"candidates": [{"content": None, "finishReason": None, "index": None}]},
    {"candidates": [{"content": {}}]},
    {"candidates": [{"content": {"parts": None}}]},
    {"candidates": [{"content": {"parts": [None, {}, {"text": None}, {"text": ""}]}}]},
    {"candidates": [{"content": {"parts": [{"functionCall": {}}]}}]},
    {"candidates": [{"content": {"parts": [{"functionCall": {"partialArgs": [None, {}]}}]}}]},
    {"candidates": [{"content": {"parts": [{"text": "not the first", "thought": True}]}, "index": 1}]},
    {"usageMetadata": {"trafficType": "ON_DEMAND"}},
    {"promptFeedback": {"safetyRatings": []}},
]


@pytest.mark.parametrize("odd", TOLERATED, ids=str)
def test_a_chunk_without_the_usual_parts_changes_nothing(odd: Any) -> None:
    outcome = folded(chunk({"text": "a"}), line(odd), chunk({"text": "b"}, finish="STOP"), line(odd))
    assert (outcome.text, outcome.thinking, outcome.calls, outcome.finish) == ("ab", "", {}, "stop")
    assert (outcome.error, outcome.warnings) == (None, [])


def test_counts_are_told_as_they_grow_and_once() -> None:
    fold = GenerateFold("x")
    counts = [{"promptTokenCount": 3}, {"promptTokenCount": 3}, {"promptTokenCount": 3, "thoughtsTokenCount": 4}]
    told = [fold.feed(chunk({"text": "a"}, usageMetadata=count)) for count in counts]
    assert [[type(event) for event in batch] for batch in told] == [
        [DeltaText, Counted],
        [DeltaText],
        [DeltaText, Counted],
    ]
    assert told[2][1] == Counted(fold._usage)  # type: ignore[arg-type]
    assert fold._usage is not None
    assert (fold._usage.output_tokens, fold._usage.thinking_tokens) == (4, 4)


def test_a_call_in_pieces_is_told_in_pieces_that_make_json() -> None:
    def piece(path: str, **value: Any) -> bytes:
        return chunk({"functionCall": {"partialArgs": [{"jsonPath": path, **value}], "willContinue": True}})

    fold = GenerateFold("x")
    said = [
        chunk({"functionCall": {"name": "f", "id": "c", "willContinue": True}}),
        piece("$.a", stringValue='say "', willContinue=True),
        piece("$.a", stringValue='hi"', willContinue=True),
        piece("$.b[0].c", numberValue=1),
        piece("$.b[1]['d e']", boolValue=True),
        piece("$.f", nullValue="NULL_VALUE"),
        chunk({"functionCall": {}}),
        chunk({"functionCall": {"name": "g", "args": {"x": 1}}}, finish="STOP"),
    ]
    told = [[event for event in fold.feed(one) if isinstance(event, DeltaToolCall)] for one in said]
    assert [[event.arguments for event in batch] for batch in told] == [
        [""],
        ['{"a":"say \\"'],
        ['hi\\"'],
        ['","b":[{"c":1'],
        ['},{"d e":true'],
        ['}],"f":null'],
        ["}"],
        ['{"x":1}'],
    ]
    assert [(batch[0].index, batch[0].name) for batch in (told[0], told[-1])] == [(0, "f"), (1, "g")]


def test_a_call_that_the_end_cuts_is_closed() -> None:
    for finish in ("STOP", "MAX_TOKENS"):
        outcome = folded(chunk({"functionCall": {"name": "f", "willContinue": True}}), chunk(finish=finish))
        assert outcome.calls[0][1:] == ["f", "{}"]


IN_BAND: list[tuple[bytes, str, bool]] = [
    (
        line({"error": {"code": 503, "message": "The model is overloaded.", "status": "UNAVAILABLE"}}),
        "overloaded",
        True,
    ),
    (line({"error": {"code": 429, "message": "no", "status": "RESOURCE_EXHAUSTED"}}), "rate_limit", True),
    (line({"error": {"code": 500, "message": "An internal error", "status": "INTERNAL"}}), "unknown", True),
    (line({"error": {"status": "DEADLINE_EXCEEDED", "message": "late"}}), "overloaded", True),
    (
        b'{\n  "error": {\n    "code": 499,\n    "message": "x",\n    "status": "CANCELLED"\n  }\n}\n',
        "connection",
        True,
    ),
    (b"data: {broken\r\n\r\n", "invalid", True),
    (b'data: {"candidates": "many"}\r\n\r\n', "invalid", True),
]


@pytest.mark.parametrize("poured", [False, True], ids=["pulled", "poured"])
@pytest.mark.parametrize(("said", "code", "retryable"), IN_BAND)
async def test_an_error_inside_the_stream_keeps_what_came_before(
    said: bytes,
    code: str,
    retryable: bool,
    poured: bool,
    server: WireServer,
    provider: GeminiProvider,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(wires, "poured", poured)
    server.reply = Reply(chunk({"text": "one"}) + said + WHOLE, segments=(1, 9))
    outcome = await drain(provider, asked())
    assert outcome.error is not None
    assert (outcome.text, outcome.finish) == ("one", None)
    assert (outcome.error.code, outcome.error.retryable) == (f"provider.{code}", retryable)


STATUSES: list[tuple[int, Any, str, bool, int | None]] = [
    (400, "API key not valid. Please pass a valid API key.", "provider.auth", False, None),
    (400, "API key expired. Please renew the API key.", "provider.auth", False, None),
    (400, "Invalid value at 'contents'", "provider.invalid", False, None),
    (403, "Permission denied on resource project x.", "provider.auth", False, None),
    (404, "models/gemini-x is not found for API version v1, or is not supported", "model.unknown", False, None),
    (429, "Resource has been exhausted (e.g. check quota).", "provider.rate_limit", True, None),
    (
        429,
        "You exceeded your current quota, please check your plan.\nPlease retry in 34.07s.",
        "provider.rate_limit",
        True,
        34070,
    ),
    (429, "You exceeded your current quota, please check your plan.", "provider.rate_limit", False, None),
    (500, "An internal error has occurred.", "provider.unknown", True, None),
    (503, "The model is overloaded. Please try again later.", "provider.overloaded", True, None),
    (504, "Deadline expired", "provider.overloaded", True, None),
]


@pytest.mark.parametrize(("status", "message", "code", "retryable", "wait_ms"), STATUSES)
async def test_an_error_status_gets_its_code(
    status: int,
    message: str,
    code: str,
    retryable: bool,
    wait_ms: int | None,
    server: WireServer,
    provider: GeminiProvider,
) -> None:
    body = json.dumps([{"error": {"code": status, "message": message, "status": "SAID"}}]).encode()
    server.reply = Reply(body, status, JSON, framing="length")
    error = (await drain(provider, asked())).error
    assert error is not None
    assert (error.code, error.retryable, error.retry_after_ms) == (code, retryable, wait_ms)


async def test_a_failed_request_is_tried_again_and_a_begun_answer_never(server: WireServer) -> None:
    provider = GeminiProvider("k", server.url, max_retries=1)
    replies = [Reply(b"{}", 503, {**JSON, "retry-after-ms": "1"}, framing="length"), Reply(WHOLE)]
    server.reply = lambda got: replies[len(server.requests) - 1]
    assert (await drain(provider, asked())).text == "onetwo"
    server.reply = Reply(WHOLE, cut_after=len(WHOLE) // 3)
    assert (await drain(provider, asked())).error is not None
    assert len(server.requests) == 3
    await provider.aclose()


async def test_a_service_that_is_not_there_is_told_at_once(server: WireServer) -> None:
    provider = GeminiProvider("k", "http://127.0.0.1:1", max_retries=0)
    async with asyncio.timeout(2):
        outcome = await drain(provider, asked())
    assert outcome.error is not None
    assert (outcome.error.code, outcome.error.retryable) == ("provider.connection", True)
    await provider.aclose()


# --------------------------------------------------------------------------- stopping


async def test_a_cancel_closes_the_connection(
    server: WireServer, provider: GeminiProvider, capsys: pytest.CaptureFixture[str]
) -> None:
    server.reply = Reply(WHOLE, hang_after=len(WHOLE) // 2)
    late: list[float] = []
    for count in range(1, CANCELS + 1):
        outcome = Outcome()
        ways: list[Callable[[], Any]] = [
            lambda into=outcome: drain(provider, asked(), into),
            lambda into=outcome: provider.pour(asked(), None, into),
        ]
        task = asyncio.create_task(ways[count % 2]())
        await asyncio.wait_for(outcome.shown.wait(), 5)
        at = asyncio.get_running_loop().time()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        late.append(await server.client_closed(count) - at)
    p99 = sorted(late)[len(late) * 99 // 100 - 1]
    with capsys.disabled():
        print(f"\n  gemini: {CANCELS} cancels, p50 {sorted(late)[100] * 1e3:.2f} ms, p99 {p99 * 1e3:.2f} ms")
    assert p99 < P99_S * SLACK


async def test_a_cancel_before_the_first_byte_closes_the_connection_too(
    server: WireServer, provider: GeminiProvider
) -> None:
    server.reply = Reply(hang_after=-1)
    task = asyncio.create_task(drain(provider, asked()))
    await server.asked()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await server.client_closed()


async def test_a_finished_answer_gives_its_connection_back(server: WireServer, provider: GeminiProvider) -> None:
    server.reply = Reply(WHOLE, segments=(1, 40))
    for _ in range(5):
        assert (await drain(provider, asked())).text == "onetwo"
        if provider._settling:
            await asyncio.wait(tuple(provider._settling), timeout=5)
    assert server.connections == 1


async def test_many_ask_at_once_and_none_gets_anothers_address(server: WireServer, provider: GeminiProvider) -> None:
    def reply(got: Asked) -> Reply:
        return Reply(chunk({"text": got.path.split("/")[3].partition(":")[0]}, finish="STOP"))

    server.reply = reply
    names = [f"gemini-{n}-flash" for n in range(40)]
    outcomes = await asyncio.gather(*(drain(provider, asked(name)) for name in names))
    assert [outcome.text for outcome in outcomes] == names
