"""What goes out to Gemini: turns and steps, tools and their results, thinking, parameters, addresses."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
from tests.providers.wire_server import Reply, WireServer
from tests.providers.wires import drain

from everstream.core.events import ImagePart, Message, Params, Request, TextPart, Tool, ToolCall
from everstream.providers.endpoint import Endpoint
from everstream.providers.gemini import GeminiProvider
from everstream.providers.gemini_request import SIGNATURE_LOST, generate_body
from everstream.providers.interactions_request import interaction_body

HI = [Message("user", "hi")]


def asked(model: str = "gemini-3.8-flash", **extra: Any) -> Request:
    return Request(f"gemini/{model}", HI, extra=extra)


def chunk(part: dict[str, Any]) -> bytes:
    said = {"candidates": [{"content": {"parts": [part]}, "finishReason": "STOP"}]}
    return b"data: " + json.dumps(said).encode() + b"\r\n\r\n"


WHOLE = chunk({"text": "onetwo"})


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


def body_of(request: Request, signatures: dict[str, str] | None = None) -> Any:
    return generate_body(request, (signatures or {}).get)[0]


def test_messages_become_turns_of_two_sides() -> None:
    png = ImagePart(data="aGk=", media_type="image/webp")
    messages = [
        Message("system", "be brief"),
        Message("user", [TextPart("what is"), png, ImagePart(url="https://x.org/a.jpg?b=1"), TextPart("")]),
        Message("assistant", "a cat"),
        Message("user", ""),
        Message("user", [ImagePart(url="data:image/png;base64,aGk="), ImagePart(url="https://x.org/a")]),
        Message("user", "and this?"),
    ]
    body = body_of(Request("gemini/gemini-3.8-flash", messages, Params(system="you see")))
    assert body == {
        "systemInstruction": {"parts": [{"text": "you see\n\nbe brief"}]},
        "contents": [
            {
                "role": "user",
                "parts": [
                    {"text": "what is"},
                    {"inlineData": {"mimeType": "image/webp", "data": "aGk="}},
                    {"fileData": {"mimeType": "image/jpeg", "fileUri": "https://x.org/a.jpg?b=1"}},
                ],
            },
            {"role": "model", "parts": [{"text": "a cat"}]},
            {
                "role": "user",
                "parts": [
                    {"inlineData": {"mimeType": "image/png", "data": "aGk="}},
                    {"fileData": {"fileUri": "https://x.org/a"}},
                    {"text": "and this?"},
                ],
            },
        ],
    }


TOOL_TURN = [
    Message("user", "weather?"),
    Message("assistant", "", [ToolCall("c1", "look", '{"at":"Rome"}'), ToolCall("c2", "look", "no json")]),
    Message("tool", '{"sun":true}', call_id="c1"),
    Message("tool", [TextPart("rain"), ImagePart(data="aGk=")], call_id="c2"),
]


def test_a_result_names_its_call_and_belongs_to_the_users_turn() -> None:
    contents = body_of(Request("gemini/gemini-2.5-flash", TOOL_TURN))["contents"]
    assert [turn["role"] for turn in contents] == ["user", "model", "user"]
    assert contents[1]["parts"] == [
        {"functionCall": {"name": "look", "args": {"at": "Rome"}}},
        {"functionCall": {"name": "look", "args": {"arguments": "no json"}}},
    ]
    assert contents[2]["parts"] == [
        {"functionResponse": {"name": "look", "response": {"sun": True}}},
        {"functionResponse": {"name": "look", "response": {"result": "rain"}}},
        {"inlineData": {"mimeType": "image/png", "data": "aGk="}},
    ]


@pytest.mark.parametrize(
    ("text", "response"),
    [
        ("no such file", {"error": "no such file"}),
        ('{"code": 404}', {"error": {"code": 404}}),
        ('{"error": "gone"}', {"error": "gone"}),
        ("[1]", {"error": [1]}),
    ],
)
def test_a_function_that_failed_answers_with_an_error(text: str, response: dict[str, Any]) -> None:
    messages = [*TOOL_TURN[:2], Message("tool", text, call_id="c1", is_error=True)]
    body = body_of(Request("gemini/gemini-2.5-flash", messages))
    assert body["contents"][2]["parts"] == [{"functionResponse": {"name": "look", "response": response}}]
    steps = interaction_body(Request("gemini/gemini-3.8-flash", messages), agent=False)[0]["input"]
    assert steps[-1] == {
        "type": "function_result",
        "call_id": "c1",
        "name": "look",
        "result": text,
        "is_error": True,
    }


@pytest.mark.parametrize(
    ("signatures", "expected"),
    [({}, [SIGNATURE_LOST, None]), ({"c1": "s1"}, ["s1", None]), ({"c1": "s1", "c2": "s2"}, ["s1", "s2"])],
)
def test_from_gemini_3_on_the_first_call_of_a_turn_has_a_signature(
    signatures: dict[str, str], expected: list[str | None]
) -> None:
    contents = body_of(Request("gemini/gemini-3-pro-preview", TOOL_TURN), signatures)["contents"]
    assert [part.get("thoughtSignature") for part in contents[1]["parts"]] == expected
    assert [part["functionCall"]["id"] for part in contents[1]["parts"]] == ["c1", "c2"]
    assert contents[2]["parts"][0]["functionResponse"]["id"] == "c1"


async def test_a_signature_comes_back_with_its_call(server: WireServer, provider: GeminiProvider) -> None:
    server.reply = Reply(chunk({"functionCall": {"name": "look", "args": {}, "id": "c1"}, "thoughtSignature": "sign"}))
    await drain(provider, asked())
    server.reply = Reply(WHOLE)
    await drain(provider, Request("gemini/gemini-3.8-flash", TOOL_TURN))
    assert server.requests[1].json["contents"][1]["parts"][0]["thoughtSignature"] == "sign"


CHOICES = [
    ("auto", {"mode": "AUTO"}),
    ("none", {"mode": "NONE"}),
    ("required", {"mode": "ANY"}),
    ("any", {"mode": "ANY"}),
    ("look", {"mode": "ANY", "allowedFunctionNames": ["look"]}),
    ({"type": "function", "function": {"name": "look"}}, {"mode": "ANY", "allowedFunctionNames": ["look"]}),
    ({"mode": "VALIDATED"}, {"mode": "VALIDATED"}),
]


@pytest.mark.parametrize(("choice", "expected"), CHOICES)
def test_tools_and_the_choice_among_them(choice: Any, expected: Any) -> None:
    schema = {"type": "object", "properties": {"at": {"type": "string"}}, "additionalProperties": False}
    params = Params(tools=[Tool("look", "looks", schema), Tool("wait")], tool_choice=choice)
    body = body_of(Request("gemini/gemini-3.8-flash", HI, params, {"tools": [{"googleSearch": {}}]}))
    assert body["toolConfig"] == {"functionCallingConfig": expected}
    assert body["tools"] == [
        {
            "functionDeclarations": [
                {"name": "look", "description": "looks", "parametersJsonSchema": schema},
                {"name": "wait", "parametersJsonSchema": {"type": "object", "properties": {}}},
            ]
        },
        {"googleSearch": {}},
    ]


THINKING = [
    ("gemini-3.8-flash", True, {"includeThoughts": True}),
    ("gemini-3.8-flash", "high", {"includeThoughts": True, "thinkingLevel": "HIGH"}),
    ("gemini-flash-latest", "max", {"includeThoughts": True, "thinkingLevel": "XHIGH"}),
    ("gemini-3.8-flash", False, {"thinkingLevel": "MINIMAL"}),
    ("gemini-3-pro-preview", "none", {"thinkingLevel": "LOW"}),
    ("gemini-3.8-flash", {"effort": "low"}, {"includeThoughts": True, "thinkingLevel": "LOW"}),
    ("gemini-3.8-flash", {"thinking_level": "low"}, {"includeThoughts": True, "thinkingLevel": "LOW"}),
    ("gemini-2.5-flash", True, {"includeThoughts": True, "thinkingBudget": -1}),
    ("gemini-2.5-flash", "low", {"includeThoughts": True, "thinkingBudget": 1024}),
    ("gemini-2.5-flash", False, {"thinkingBudget": 0}),
    ("gemini-2.5-pro", "off", {"thinkingBudget": 128}),
    ("gemini-2.5-pro", {"type": "enabled", "budget_tokens": 99}, {"includeThoughts": True, "thinkingBudget": 99}),
    ("gemini-2.5-flash", {"type": "disabled"}, {"thinkingBudget": 0}),
    ("gemini-2.0-flash", False, None),
]


@pytest.mark.parametrize(("model", "thinking", "expected"), THINKING)
def test_thinking_is_told_by_level_or_by_budget(model: str, thinking: Any, expected: Any) -> None:
    body, warnings = generate_body(Request(f"gemini/{model}", HI, Params(thinking=thinking)), {}.get)
    assert body.get("generationConfig", {}).get("thinkingConfig") == expected
    assert warnings == ()


def test_what_a_model_does_not_know_of_thinking_is_left_out_with_a_warning() -> None:
    for model, thinking in (("gemini-2.0-flash", True), ("gemini-3.8-flash", "a lot")):
        assert len(generate_body(Request(f"gemini/{model}", HI, Params(thinking=thinking)), {}.get)[1]) == 1


def test_parameters_and_what_only_the_provider_knows() -> None:
    params = Params(max_tokens=5, temperature=0.5, top_p=0.9, stop="END", seed=7)
    schema = {"type": "object"}
    extra = {
        "top_k": 3,
        "n": 2,
        "safety_settings": [{"category": "x"}],
        "generation_config": {"presence_penalty": 1},
        "response_format": {"type": "json_schema", "json_schema": {"name": "n", "schema": schema}},
        "api": "gemini",
        "background": False,
        "stream": True,
        "seed": 8,
    }
    assert body_of(Request("gemini/gemini-3.8-flash", HI, params, extra)) == {
        "contents": [{"role": "user", "parts": [{"text": "hi"}]}],
        "safetySettings": [{"category": "x"}],
        "generationConfig": {
            "maxOutputTokens": 5,
            "temperature": 0.5,
            "topP": 0.9,
            "stopSequences": ["END"],
            "seed": 8,
            "topK": 3,
            "candidateCount": 2,
            "presencePenalty": 1,
            "responseMimeType": "application/json",
            "responseJsonSchema": schema,
        },
    }


def test_an_interaction_is_asked_for_in_steps() -> None:
    params = Params(
        max_tokens=5, stop=["END"], system="s", tools=[Tool("look")], tool_choice="required", thinking="low"
    )
    messages = [*TOOL_TURN, Message("assistant", "done"), Message("user", [ImagePart(url="https://x.org/a.png")])]
    body, warnings = interaction_body(
        Request("gemini/gemini-3.8-flash", messages, params, {"api": "interactions", "store": False}), agent=False
    )
    assert warnings == ()
    assert body == {
        "model": "gemini-3.8-flash",
        "system_instruction": "s",
        "input": [
            {"type": "user_input", "content": [{"type": "text", "text": "weather?"}]},
            {"type": "function_call", "id": "c1", "name": "look", "arguments": {"at": "Rome"}},
            {"type": "function_call", "id": "c2", "name": "look", "arguments": {"arguments": "no json"}},
            {"type": "function_result", "call_id": "c1", "name": "look", "result": '{"sun":true}'},
            {
                "type": "function_result",
                "call_id": "c2",
                "name": "look",
                "result": [
                    {"type": "text", "text": "rain"},
                    {"type": "image", "mime_type": "image/png", "data": "aGk="},
                ],
            },
            {"type": "model_output", "content": [{"type": "text", "text": "done"}]},
            {
                "type": "user_input",
                "content": [{"type": "image", "mime_type": "image/png", "uri": "https://x.org/a.png"}],
            },
        ],
        "tools": [{"type": "function", "name": "look", "parameters": {"type": "object", "properties": {}}}],
        "generation_config": {
            "max_output_tokens": 5,
            "stop_sequences": ["END"],
            "tool_choice": "any",
            "thinking_level": "low",
            "thinking_summaries": "auto",
        },
        "store": False,
        "stream": True,
    }


def test_an_agent_takes_no_parameters_and_says_so() -> None:
    request = Request("gemini/deep-research-preview-04-2026", HI, Params(temperature=1.0))
    body, warnings = interaction_body(request, agent=True)
    assert (body["agent"], "model" in body, "generation_config" in body, len(warnings)) == (
        "deep-research-preview-04-2026",
        False,
        False,
        1,
    )


ADDRESSES = [
    ("", "gemini-3.8-flash", {}, "/v1/models/gemini-3.8-flash:streamGenerateContent?alt=sse"),
    ("", "gemini-flash-latest", {}, "/v1beta/models/gemini-flash-latest:streamGenerateContent?alt=sse"),
    ("", "gemini-3-pro-preview", {}, "/v1beta/models/gemini-3-pro-preview:streamGenerateContent?alt=sse"),
    ("/v1alpha", "gemini-3-pro-preview", {}, "/v1alpha/models/gemini-3-pro-preview:streamGenerateContent?alt=sse"),
    ("/at/home/", "gemini-2.5-pro", {}, "/at/home/v1/models/gemini-2.5-pro:streamGenerateContent?alt=sse"),
    ("", "tunedModels/mine", {}, "/v1/tunedModels/mine:streamGenerateContent?alt=sse"),
    ("", "gemini-3.8-flash", {"api": "interactions"}, "/v1/interactions"),
    ("", "gemini-3-pro-preview", {"api": "interactions"}, "/v1beta/interactions"),
    ("/at/home/v1", "gemini-3.8-flash", {"api": "interactions"}, "/at/home/v1/interactions"),
    ("", "deep-research-preview-04-2026", {}, "/v1beta/interactions"),
]


@pytest.mark.parametrize(("base", "model", "extra", "expected"), ADDRESSES)
async def test_where_a_request_goes(
    base: str, model: str, extra: dict[str, Any], expected: str, server: WireServer
) -> None:
    provider = GeminiProvider("secret", server.url + base, max_retries=0)
    await drain(provider, asked(model, **extra))
    got = server.requests[0]
    assert (got.method, got.path) == ("POST", expected)
    assert got.headers["x-goog-api-key"] == "secret"
    assert "authorization" not in got.headers
    await provider.aclose()


async def test_an_endpoint_of_ones_own_has_its_headers_and_its_body(server: WireServer) -> None:
    endpoint = Endpoint(
        "mine",
        "gemini",
        server.url,
        needs_key=False,
        headers={"x-team": "7"},
        query={"q": "1"},
        body={"labels": {"a": "b"}},
        leave_out=frozenset({"tools"}),
    )
    provider = GeminiProvider(endpoint=endpoint)
    outcome = await drain(provider, Request("mine/gemini-2.5-flash", HI, Params(tools=[Tool("t")])))
    got = server.requests[0]
    assert outcome.warnings == ["tools is not taken by mine and was left out"]
    assert (outcome.text, got.headers["x-team"], got.path.endswith("?alt=sse&q=1")) == ("onetwo", "7", True)
    assert sorted(got.json) == ["contents", "labels"]
    await provider.aclose()
