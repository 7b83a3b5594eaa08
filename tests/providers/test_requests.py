"""What is sent: our request, as each API's JSON."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import AsyncIterator
from typing import Any

import pytest
from msgspec import structs
from tests.providers.wire_server import Reply, WireServer
from tests.providers.wires import drain

from everstream.core.events import ImagePart, Message, Params, Request, TextPart, Tool, ToolCall
from everstream.providers.anthropic import AnthropicProvider
from everstream.providers.chat_request import chat_body
from everstream.providers.messages_request import generation, messages_body
from everstream.providers.openai import MODELS, OpenAIProvider
from everstream.providers.registry import registry_of
from everstream.providers.responses_api import responses_body
from everstream.settings import Settings

HISTORY = [
    Message("system", "Be brief."),
    Message("user", [TextPart("What is this?"), ImagePart(data="QUJD", media_type="image/jpeg")]),
    Message("assistant", "", [ToolCall("c1", "look", '{"at": 1}'), ToolCall("c2", "look", "")]),
    Message("tool", "a cat", call_id="c1"),
    Message("tool", "a dog", call_id="c2"),
    Message("user", [ImagePart(url="https://example.org/a.png")]),
]
LOOK = Tool("look", "Looks.", {"type": "object", "properties": {"at": {"type": "integer"}}})


@pytest.fixture
async def server() -> AsyncIterator[WireServer]:
    async with WireServer() as server:
        server.reply = Reply(b"data: [DONE]\n\n")
        yield server


def asked(model: str = "openai/gpt-5.5", extra: dict[str, Any] | None = None, **params: Any) -> Request:
    return Request(model, [Message("user", "hi")], Params(**params), extra or {})


async def sent(server: WireServer, provider: Any, request: Request) -> Any:
    await drain(provider, request)
    await provider.aclose()
    return server.requests[-1]


async def test_a_whole_conversation_goes_out_as_chat_completions(server: WireServer) -> None:
    request = Request("openai/org/name", HISTORY, Params(max_tokens=9, temperature=0.5, stop=["x"], tools=[LOOK]))
    got = await sent(server, OpenAIProvider("secret", server.url), request)
    assert (got.method, got.path) == ("POST", "/chat/completions")
    assert got.headers["authorization"] == "Bearer secret"
    assert got.json == {
        "model": "org/name",
        "stream": True,
        "stream_options": {"include_usage": True},
        "max_tokens": 9,
        "temperature": 0.5,
        "stop": ["x"],
        "tools": [
            {
                "type": "function",
                "function": {"name": "look", "description": "Looks.", "parameters": LOOK.parameters},
            }
        ],
        "messages": [
            {"role": "system", "content": "Be brief."},
            {
                "role": "user",
                "content": [
                    {"type": "text", "text": "What is this?"},
                    {"type": "image_url", "image_url": {"url": "data:image/jpeg;base64,QUJD"}},
                ],
            },
            {
                "role": "assistant",
                "content": None,
                "tool_calls": [
                    {"id": "c1", "type": "function", "function": {"name": "look", "arguments": '{"at": 1}'}},
                    {"id": "c2", "type": "function", "function": {"name": "look", "arguments": ""}},
                ],
            },
            {"role": "tool", "tool_call_id": "c1", "content": "a cat"},
            {"role": "tool", "tool_call_id": "c2", "content": "a dog"},
            {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "https://example.org/a.png"}}]},
        ],
    }


async def test_a_whole_conversation_goes_out_as_responses(server: WireServer) -> None:
    params = Params(max_tokens=9, system="Be kind.", tools=[LOOK], tool_choice="look", thinking="high", seed=1)
    request = Request("openai/gpt-5.5", HISTORY, params, {"api": "responses", "store": False})
    got = await sent(server, OpenAIProvider("secret", server.url), request)
    assert got.path == "/responses"
    assert got.json == {
        "model": "gpt-5.5",
        "stream": True,
        "store": False,
        "instructions": "Be kind.",
        "max_output_tokens": 9,
        "reasoning": {"effort": "high", "summary": "auto"},
        "tool_choice": {"type": "function", "name": "look"},
        "tools": [
            {
                "type": "function",
                "name": "look",
                "description": "Looks.",
                "parameters": LOOK.parameters,
                "strict": False,
            }
        ],
        "input": [
            {"role": "system", "content": "Be brief."},
            {
                "role": "user",
                "content": [
                    {"type": "input_text", "text": "What is this?"},
                    {"type": "input_image", "image_url": "data:image/jpeg;base64,QUJD"},
                ],
            },
            {"type": "function_call", "call_id": "c1", "name": "look", "arguments": '{"at": 1}'},
            {"type": "function_call", "call_id": "c2", "name": "look", "arguments": ""},
            {"type": "function_call_output", "call_id": "c1", "output": "a cat"},
            {"type": "function_call_output", "call_id": "c2", "output": "a dog"},
            {"role": "user", "content": [{"type": "input_image", "image_url": "https://example.org/a.png"}]},
        ],
    }


async def test_a_whole_conversation_goes_out_as_messages(server: WireServer) -> None:
    params = Params(system="Be kind.", tools=[LOOK], tool_choice="required", stop="x")
    request = Request("anthropic/claude-opus-5-5", HISTORY, params)
    got = await sent(server, AnthropicProvider("secret", server.url), request)
    assert got.path == "/v1/messages"
    assert got.headers["authorization"] == "Bearer secret"
    assert got.headers["x-api-key"] == "secret"
    assert got.headers["anthropic-version"] == "2026-10-21"
    assert got.json == {
        "model": "claude-opus-5-5",
        "stream": True,
        "max_tokens": 8192,
        "system": "Be kind.\n\nBe brief.",
        "stop_sequences": ["x"],
        "tool_choice": {"type": "any"},
        "tools": [{"name": "look", "description": "Looks.", "input_schema": LOOK.parameters}],
        "messages": [
            {
                "role": "user",
                "content": [
                    {"type": "text", "text": "What is this?"},
                    {"type": "image", "source": {"type": "base64", "media_type": "image/jpeg", "data": "QUJD"}},
                ],
            },
            {
                "role": "assistant",
                "content": [
                    {"type": "tool_use", "id": "c1", "name": "look", "input": {"at": 1}},
                    {"type": "tool_use", "id": "c2", "name": "look", "input": {}},
                ],
            },
            {
                "role": "user",
                "content": [
                    {"type": "tool_result", "tool_use_id": "c1", "content": "a cat"},
                    {"type": "tool_result", "tool_use_id": "c2", "content": "a dog"},
                    {"type": "image", "source": {"type": "url", "url": "https://example.org/a.png"}},
                ],
            },
        ],
    }


def test_a_result_that_says_what_went_wrong_is_marked_where_the_api_has_a_place_for_it() -> None:
    call = ToolCall("c1", "look", "{}")
    messages = [
        Message("user", "What is there?"),
        Message("assistant", "", [call]),
        Message("tool", "no such file", call_id="c1", is_error=True),
    ]
    request = Request("p/m", messages)
    marked = messages_body(request).body["messages"][-1]["content"]
    assert marked == [{"type": "tool_result", "tool_use_id": "c1", "content": "no such file", "is_error": True}]
    plain = Request("p/m", [*messages[:2], structs.replace(messages[2], is_error=False)])
    for official in (True, False):
        assert chat_body(request, official=official) == chat_body(plain, official=official)
        assert chat_body(request, official=official)[0]["messages"][-1]["content"] == "no such file"
        assert responses_body(request, official=official) == responses_body(plain, official=official)


def test_only_openai_itself_gets_what_only_it_knows() -> None:
    official, _ = chat_body(asked(max_tokens=5), official=True)
    other, _ = chat_body(asked(max_tokens=5), official=False)
    assert official["max_completion_tokens"] == 5
    assert official["stream_options"] == {"include_usage": True, "include_obfuscation": False}
    assert other["max_tokens"] == 5
    assert other["stream_options"] == {"include_usage": True}


def test_parameters_that_only_the_provider_knows_pass_untouched_and_win() -> None:
    extra = {"logit_bias": {"5": 1}, "temperature": 0.1, "stream": False}
    for body in (
        chat_body(asked(extra=extra, temperature=1.0), official=False)[0],
        responses_body(asked(extra=extra, temperature=1.0), official=False)[0],
        messages_body(asked(extra=extra)).body,
    ):
        assert body["logit_bias"] == {"5": 1}
        assert body["temperature"] == 0.1
        assert body["stream"] is True


CHAT_THINKING = [
    ("gpt-5.5", True, True, {"reasoning_effort": "medium"}),
    ("gpt-5.5", False, True, {"reasoning_effort": "none"}),
    ("gpt-5-mini", False, True, {"reasoning_effort": "minimal"}),
    ("o3", False, True, {"reasoning_effort": "low"}),
    ("gpt-4o", False, True, {}),
    ("gpt-5.5", "high", True, {"reasoning_effort": "high"}),
    ("gpt-5.5", {"effort": "low"}, True, {"reasoning_effort": "low"}),
    ("qwen3", {"effort": "low"}, False, {"reasoning": {"effort": "low"}}),
    ("glm-5", {"type": "enabled"}, False, {"thinking": {"type": "enabled"}}),
]


@pytest.mark.parametrize(("model", "thinking", "official", "wanted"), CHAT_THINKING)
def test_thinking_becomes_effort(model: str, thinking: Any, official: bool, wanted: dict[str, Any]) -> None:
    body, _ = chat_body(asked(f"openai/{model}", thinking=thinking), official=official)
    assert {key: body[key] for key in ("reasoning_effort", "reasoning", "thinking") if key in body} == wanted


MESSAGES_THINKING: list[tuple[str, Any, int | None, dict[str, Any]]] = [
    ("claude-opus-5-5", True, None, {"thinking": {"type": "adaptive", "display": "summarized"}}),
    (
        "claude-opus-4-8",
        "high",
        None,
        {"thinking": {"type": "adaptive", "display": "summarized"}, "output_config": {"effort": "high"}},
    ),
    ("claude-sonnet-4-6", True, None, {"thinking": {"type": "adaptive"}}),
    ("claude-haiku-4-5", "low", None, {"thinking": {"type": "enabled", "budget_tokens": 2048}, "max_tokens": 10240}),
    ("claude-haiku-4-5", "high", 4000, {"thinking": {"type": "enabled", "budget_tokens": 2000}, "max_tokens": 4000}),
    ("claude-haiku-4-5", True, 500, {"max_tokens": 500}),
    ("claude-opus-5", False, None, {"thinking": {"type": "disabled"}}),
    ("claude-opus-5", "none", None, {"thinking": {"type": "disabled"}}),
    (
        "claude-opus-5",
        {"type": "enabled", "budget_tokens": 3000},
        None,
        {"thinking": {"type": "enabled", "budget_tokens": 3000, "display": "summarized"}},
    ),
]


@pytest.mark.parametrize(("model", "thinking", "max_tokens", "wanted"), MESSAGES_THINKING)
def test_thinking_follows_the_generation_of_the_model(
    model: str, thinking: Any, max_tokens: int | None, wanted: dict[str, Any]
) -> None:
    body = messages_body(asked(f"anthropic/{model}", thinking=thinking, max_tokens=max_tokens)).body
    got = {key: body[key] for key in ("thinking", "output_config", "max_tokens") if key in body}
    assert got == {"max_tokens": 8192, **wanted}


@pytest.mark.parametrize(
    ("model", "wanted"),
    [
        ("claude-opus-4-7", (4, 7)),
        ("claude-sonnet-4-5-20250929", (4, 5)),
        ("claude-opus-4-20250514", (4, 0)),
        ("claude-3-5-sonnet-20241022", (3, 5)),
        ("anthropic/claude-opus-4.8", (4, 8)),
        ("claude-fable-5", (5, 0)),
        ("deepseek-chat", (0, 0)),
    ],
)
def test_a_name_tells_the_generation(model: str, wanted: tuple[int, int]) -> None:
    assert generation(model) == wanted


async def test_sampling_goes_to_old_models_in_the_old_version_and_to_new_ones_not_at_all(server: WireServer) -> None:
    old = await sent(server, AnthropicProvider("k", server.url), asked("anthropic/claude-haiku-4-5", temperature=0.2))
    assert old.json["temperature"] == 0.2
    assert old.headers["anthropic-version"] == "2023-06-01"
    end = {"type": "message_delta", "delta": {"stop_reason": "end_turn"}}
    server.reply = Reply(b"data: " + json.dumps(end).encode() + b"\n\n")
    provider = AnthropicProvider("k", server.url)
    outcome = await drain(provider, asked("anthropic/claude-opus-4-7", temperature=0.2, top_p=0.9))
    await provider.aclose()
    assert not {"temperature", "top_p"} & set(server.requests[-1].json)
    assert server.requests[-1].headers["anthropic-version"] == "2026-10-21"
    assert [warning.split()[0] for warning in outcome.warnings] == ["temperature", "top_p"]


def test_an_answer_to_be_carried_on_does_not_end_in_white_space() -> None:
    body = messages_body(Request("anthropic/x", [Message("user", "a"), Message("assistant", "b \n")])).body
    assert body["messages"][-1] == {"role": "assistant", "content": "b"}


async def test_a_server_of_ones_own_needs_no_key_and_is_asked_for_its_models(server: WireServer) -> None:
    listed = {"object": "list", "data": [{"id": "llama"}, {"id": "org/qwen"}]}
    server.reply = Reply(json.dumps(listed).encode(), headers={"content-type": "application/json"}, framing="length")
    provider = OpenAIProvider(None, server.url)
    for _ in range(2):
        models = await provider.models()
        assert [(model.id, model.usable, model.continuation) for model in models] == [
            ("openai/llama", True, "prompted"),
            ("openai/org/qwen", True, "prompted"),
        ]
    assert [(got.method, got.path) for got in server.requests] == [("GET", "/models")]
    await provider.aclose()


async def test_a_server_that_lists_no_models_says_how_to_go_on(server: WireServer) -> None:
    server.reply = Reply(b"{}", 404, {"content-type": "application/json"}, framing="length")
    provider = OpenAIProvider(None, server.url)
    models = await provider.models()
    assert models
    assert all(not model.usable and "openai/NAME" in (model.why_not or "") for model in models)
    await provider.aclose()


async def test_the_environment_tells_keys_and_addresses(monkeypatch: pytest.MonkeyPatch, server: WireServer) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "one")
    monkeypatch.setenv("ANTHROPIC_API_KEY", "two")
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)
    monkeypatch.setenv("ANTHROPIC_BASE_URL", server.url)
    registry = registry_of(Settings())
    openai, anthropic = registry.get("openai"), registry.get("anthropic")
    assert [model.id for model in await openai.models()] == [f"openai/{model}" for model in MODELS]
    assert all(model.usable for model in [*await openai.models(), *await anthropic.models()])
    got = await sent(server, anthropic, asked("anthropic/claude-opus-5"))
    assert got.headers["authorization"] == "Bearer two"
    await registry.aclose()


def test_no_package_of_a_vendor_is_imported_before_it_is_used() -> None:
    code = (
        "import sys, everstream.providers.openai, everstream.providers.anthropic, everstream.providers.pricing as p\n"
        "everstream.providers.openai.OpenAIProvider('k')\n"
        "heavy = {'openai', 'anthropic', 'httpx2', 'aiohttp', 'genai_prices'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], check=True, env={"PYTHONPATH": sys.path[0] + ":backend"}, timeout=60)
