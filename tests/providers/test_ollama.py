"""Ollama by its own API: what is asked, what is made of its lines, which models it has, and how answers go on."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
from tests.providers import wires
from tests.providers.wire_server import Asked, Reply, WireServer
from tests.providers.wires import Outcome, drain

from everstream.core.events import ImagePart, Message, Params, Request, TextPart, Tool, ToolCall
from everstream.providers.base import Progress
from everstream.providers.carry_known import PROBE_SAID
from everstream.providers.endpoint import Endpoint
from everstream.providers.ollama import OllamaProvider
from everstream.providers.ollama_api import OllamaFold
from everstream.providers.ollama_request import chat_body, generate_body

LOOK = Tool("look", "Looks.", {"type": "object", "properties": {"at": {"type": "integer"}}})
HELLO = [Message("user", "hello")]
END = {"message": {"role": "assistant", "content": ""}, "done": True, "done_reason": "stop", "eval_count": 2}


def line(**said: Any) -> bytes:
    return json.dumps(said, ensure_ascii=False).encode() + b"\n"


def say(content: str = "", **rest: Any) -> bytes:
    return line(model="m", message={"role": "assistant", "content": content, **rest}, done=False)


def reply(*texts: str, end: dict[str, Any] | None = None) -> Reply:
    return Reply(b"".join(say(text) for text in texts) + line(**(END if end is None else end)))


def asked(extra: dict[str, Any] | None = None, messages: list[Message] | None = None, **params: Any) -> Request:
    return Request("ollama/llama3.2:1b", messages or HELLO, Params(**params), extra or {})


@pytest.fixture
async def server() -> AsyncIterator[WireServer]:
    async with WireServer() as server:
        yield server


@pytest.fixture
async def provider(server: WireServer) -> AsyncIterator[OllamaProvider]:
    provider = OllamaProvider(None, server.url, max_retries=0)
    yield provider
    await provider.aclose()


@pytest.fixture(params=[False, True], ids=["pulled", "poured"])
def poured(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both ways out of a provider."""
    monkeypatch.setattr(wires, "poured", request.param)


def folded(data: bytes, fold: OllamaFold | None = None) -> tuple[Outcome, OllamaFold]:
    fold = fold or OllamaFold("x")
    outcome = Outcome()
    for event in [*fold.feed(data), *([] if fold.ended else fold.end())]:
        outcome.add(event)
    return outcome, fold


# --------------------------------------------------------------------------- asking


async def test_a_whole_conversation_goes_out_as_chat(server: WireServer, provider: OllamaProvider) -> None:
    server.reply = reply("yes")
    messages = [
        Message("system", "Be brief."),
        Message("user", [TextPart("What is this?"), ImagePart(data="QUJD", media_type="image/jpeg")]),
        Message("assistant", "", (ToolCall("c1", "look", '{"at": 1}'), ToolCall("c2", "look", ""))),
        Message("tool", "a cat", call_id="c1"),
        Message("tool", "a dog", call_id="c2"),
        Message("user", [ImagePart(url="data:image/png;base64,WFla")]),
    ]
    params = {"max_tokens": 9, "temperature": 0.5, "top_p": 0.9, "stop": "x", "seed": 7}
    request = asked(
        {"keep_alive": "5m", "top_k": 3, "options": {"num_ctx": 4096}, "format": "json"},
        messages,
        system="Be kind.",
        tools=[LOOK],
        thinking="high",
        **params,
    )
    await drain(provider, request)
    [got] = server.requests
    assert (got.method, got.path) == ("POST", "/api/chat")
    assert got.json == {
        "model": "llama3.2:1b",
        "stream": True,
        "think": "high",
        "format": "json",
        "keep_alive": "5m",
        "options": {
            "num_predict": 9,
            "temperature": 0.5,
            "top_p": 0.9,
            "stop": ["x"],
            "seed": 7,
            "top_k": 3,
            "num_ctx": 4096,
        },
        "tools": [
            {"type": "function", "function": {"name": "look", "description": "Looks.", "parameters": LOOK.parameters}}
        ],
        "messages": [
            {"role": "system", "content": "Be kind."},
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": "What is this?", "images": ["QUJD"]},
            {
                "role": "assistant",
                "content": "",
                "tool_calls": [
                    {"id": "c1", "function": {"name": "look", "arguments": {"at": 1}}},
                    {"id": "c2", "function": {"name": "look", "arguments": {}}},
                ],
            },
            {"role": "tool", "content": "a cat", "tool_call_id": "c1", "tool_name": "look"},
            {"role": "tool", "content": "a dog", "tool_call_id": "c2", "tool_name": "look"},
            {"role": "user", "content": "", "images": ["WFla"]},
        ],
    }


async def test_a_prompt_goes_out_to_generate(server: WireServer, provider: OllamaProvider) -> None:
    server.reply = Reply(line(response="yes", done=False) + line(response="", done=True, done_reason="stop"))
    outcome = await drain(provider, asked({"api": "generate", "keep_alive": 0}, system="Be kind.", max_tokens=3))
    assert (outcome.error, outcome.text, outcome.finish) == (None, "yes", "stop")
    [got] = server.requests
    assert got.path == "/api/generate"
    assert got.json == {
        "model": "llama3.2:1b",
        "prompt": "hello",
        "system": "Be kind.",
        "stream": True,
        "keep_alive": 0,
        "options": {"num_predict": 3},
    }


@pytest.mark.parametrize(
    ("asked_for", "sent"),
    [
        (True, True),
        (False, False),
        ("low", "low"),
        ("minimal", "low"),
        ("max", "high"),
        ("none", False),
        ({"type": "enabled", "budget_tokens": 1024}, True),
        ({"type": "disabled"}, False),
        ({"effort": "medium"}, "medium"),
    ],
)
def test_thinking_is_asked_for_as_ollama_knows_it(asked_for: Any, sent: bool | str) -> None:
    assert chat_body(asked(thinking=asked_for))[0]["think"] == sent
    assert "think" not in chat_body(asked())[0]


@pytest.mark.parametrize(
    ("wanted", "sent"),
    [
        ({"type": "json_object"}, "json"),
        ({"type": "json_schema", "json_schema": {"name": "n", "schema": {"type": "object"}}}, {"type": "object"}),
        ({"type": "text"}, None),
    ],
)
def test_a_response_format_becomes_ollamas(wanted: Any, sent: Any) -> None:
    body, _ = chat_body(asked({"response_format": wanted}))
    assert body.get("format") == sent
    assert "response_format" not in body


def test_what_ollama_cannot_be_told_is_a_warning() -> None:
    picture = [Message("user", [TextPart("what?"), ImagePart(url="https://example.org/a.png")])]
    body, warnings = chat_body(asked(messages=picture))
    assert body["messages"] == [{"role": "user", "content": "what?"}]
    assert ["image" in warning for warning in warnings] == [True]
    assert len(chat_body(asked(tools=[LOOK], tool_choice="required"))[1]) == 1
    assert len(generate_body(asked(tools=[LOOK]))[1]) == 1
    assert chat_body(asked(tools=[LOOK], tool_choice="auto"))[1] == ()
    body, warnings = chat_body(asked(tools=[LOOK], tool_choice="none"))
    assert (warnings, "tools" in body) == ((), False)


async def test_a_key_is_sent_where_there_is_one(server: WireServer) -> None:
    server.reply = reply("yes")
    provider = OllamaProvider("secret", server.url)
    await drain(provider, asked())
    assert server.requests[0].headers["authorization"] == "Bearer secret"
    await provider.aclose()


# --------------------------------------------------------------------------- its lines

CALL = {"function": {"name": "look", "arguments": {"at": 1}}}
CALLS = {
    "no index": [CALL, {"function": {"name": "look", "arguments": {"at": 2}}}],
    "one index for both": [
        {"function": {"index": 0, **CALL["function"]}},
        {"function": {"index": 0, "name": "look", "arguments": {"at": 2}}},
    ],
    "with ids": [{"id": "call_1", **CALL}, {"id": "call_2", "function": {"name": "look", "arguments": {"at": 2}}}],
    "arguments as text": [
        {"function": {"name": "look", "arguments": '{"at":1}'}},
        {"function": {"name": "look", "arguments": '{"at":2}'}},
    ],
}


@pytest.mark.parametrize("shape", CALLS)
@pytest.mark.parametrize("together", [True, False], ids=["in one line", "in two lines"])
def test_tool_calls_of_every_shape_are_told_apart(shape: str, together: bool) -> None:
    first, second = CALLS[shape]
    lines = [[first, second]] if together else [[first], [second]]
    outcome, _ = folded(b"".join(say(tool_calls=calls) for calls in lines) + line(**END))
    assert [[name, arguments] for _, name, arguments in outcome.calls.values()] == [
        ["look", '{"at":1}'],
        ["look", '{"at":2}'],
    ]
    assert [call[0] for call in outcome.calls.values()] == [str(call.get("id", "")) for call in (first, second)]
    assert outcome.finish == "tool_calls"


def test_a_call_without_arguments_has_an_empty_object() -> None:
    outcome, _ = folded(say(tool_calls=[{"function": {"name": "look", "arguments": None}}]) + line(**END))
    assert outcome.calls[0] == ["", "look", "{}"]


FRAMINGS = {
    "as it is": lambda body: body,
    "with carriage returns": lambda body: body.replace(b"\n", b"\r\n"),
    "with blank lines": lambda body: b"\n" + body.replace(b"\n", b"\n\n"),
    "without the last line feed": lambda body: body[:-1],
    "as server-sent events": lambda body: b"".join(b"data: " + row + b"\n\n" for row in body.splitlines()),
}


@pytest.mark.parametrize("framing", FRAMINGS)
@pytest.mark.parametrize("size", [1, 7, 10_000])
def test_lines_are_read_however_they_are_framed(framing: str, size: int) -> None:
    body = FRAMINGS[framing](say("", thinking="hm ") + say("one ") + say("twö 😊") + line(**END))
    fold, outcome = OllamaFold("x"), Outcome()
    for at in range(0, len(body), size):
        for event in fold.feed(body[at : at + size]):
            outcome.add(event)
        if fold.ended:
            break
    if not fold.ended:
        for event in fold.end():
            outcome.add(event)
    assert fold.ended
    assert (outcome.thinking, outcome.text, outcome.finish) == ("hm ", "one twö 😊", "stop")


def test_nulls_and_fields_that_nobody_knows_are_no_matter() -> None:
    body = line(message=None, done=None, response=None, error=None, logprobs=[{"x": 1}])
    body += say("yes", thinking=None, tool_calls=None, images=None) + line(**END | {"prompt_eval_count": None})
    outcome, fold = folded(body)
    assert (fold.trouble, outcome.text, outcome.finish) == (None, "yes", "stop")
    assert outcome.usage is not None
    assert (outcome.usage.input_tokens, outcome.usage.output_tokens) == (0, 2)


@pytest.mark.parametrize(
    ("end", "finish", "warned"),
    [
        ({"done": True}, None, 0),
        ({"done": True, "done_reason": "length"}, "length", 0),
        ({"done": True, "done_reason": "load"}, "stop", 0),
        ({"done": True, "done_reason": "moonrise"}, "stop", 1),
    ],
)
def test_the_reasons_of_an_end(end: dict[str, Any], finish: str | None, warned: int) -> None:
    outcome, fold = folded(say("yes") + line(**end))
    assert (fold.ended, outcome.finish, len(outcome.warnings)) == (True, finish, warned)
    assert outcome.usage is None


def test_an_answer_that_was_not_streamed_is_read_all_the_same() -> None:
    body = {"message": {"content": "yes"}, "done": True, "done_reason": "stop"}
    for text in (json.dumps(body), json.dumps(body, indent=1)):
        outcome, fold = folded(text.encode())
        assert (fold.ended, outcome.text, outcome.finish) == (True, "yes", "stop")


@pytest.mark.parametrize(
    ("said", "code"),
    [
        ("model runner has unexpectedly stopped", "provider.unknown"),
        ({"message": "slow down", "code": 429}, "provider.rate_limit"),
        ("model 'x' not found", "model.unknown"),
    ],
)
@pytest.mark.usefixtures("poured")
async def test_an_error_in_the_middle_keeps_what_came_before(
    said: Any, code: str, server: WireServer, provider: OllamaProvider
) -> None:
    server.reply = Reply(say("one ") + line(error=said) + say("two"), segments=(1, 9))
    outcome = await drain(provider, asked())
    assert outcome.error is not None
    assert (outcome.text, outcome.error.code, outcome.finish) == ("one ", code, None)


@pytest.mark.usefixtures("poured")
async def test_an_answer_without_its_last_line_is_a_cut(server: WireServer, provider: OllamaProvider) -> None:
    server.reply = Reply(say("one ") + say("two"))
    outcome = await drain(provider, asked())
    assert outcome.error is not None
    assert (outcome.text, outcome.error.code, outcome.error.retryable) == ("one two", "provider.connection", True)


def test_what_is_no_line_of_ollamas_is_told() -> None:
    outcome, fold = folded(say("one ") + line(message={"content": 7}))
    assert fold.trouble is not None
    assert (outcome.text, fold.trouble.code) == ("one ", "provider.invalid")


# --------------------------------------------------------------------------- models


def having(*models: str, can: dict[str, list[str] | None] | None = None) -> Any:
    """A server with these models; `can` is what it says that they are able to."""

    def answer(asked: Asked) -> Reply:
        said: Any = {"models": [{"name": name, "model": name, "digest": f"d-{name}"} for name in models]}
        if asked.path == "/api/show":
            said = {"capabilities": (can or {}).get(asked.json["model"])}
        return Reply(json.dumps(said).encode(), headers={"content-type": "application/json"}, framing="length")

    return answer


async def test_the_models_are_those_that_the_server_has(server: WireServer, provider: OllamaProvider) -> None:
    server.reply = having(
        "qwen3:4b",
        "all-minilm:latest",
        "old",
        can={"qwen3:4b": ["completion", "tools"], "all-minilm:latest": ["embedding"]},
    )
    found = await provider.models()
    assert [(model.id, model.usable, model.tools, model.images) for model in found] == [
        ("ollama/qwen3:4b", True, True, False),
        ("ollama/old", True, None, None),
    ]
    asked_before = len(server.requests)
    assert await provider.models() == found
    assert len(server.requests) == asked_before


async def test_what_a_model_is_able_to_is_asked_once(server: WireServer, provider: OllamaProvider) -> None:
    server.reply = having("a", "b", can={"a": ["completion"], "b": ["completion", "vision"]})
    for _ in range(2):
        await provider.models()
        provider._listed_until_s = 0.0
    assert [got.path for got in server.requests].count("/api/show") == 2
    assert [got.path for got in server.requests].count("/api/tags") == 2


async def test_a_server_that_is_not_there_is_told_with_what_to_do() -> None:
    provider = OllamaProvider(None, "http://somebody:secret@127.0.0.1:9")
    [model] = await provider.models()
    assert not model.usable
    assert model.why_not == "Ollama does not answer at http://127.0.0.1:9: start it with `ollama serve`"
    await provider.aclose()


async def test_a_key_that_is_missing_is_told_before_anybody_is_asked(server: WireServer) -> None:
    endpoint = Endpoint("far", "ollama", server.url, why_not="set FAR_KEY", models=("a",))
    provider = OllamaProvider(endpoint=endpoint)
    assert [(model.id, model.why_not) for model in await provider.models()] == [("far/a", "set FAR_KEY")]
    assert server.requests == []
    await provider.aclose()


async def test_a_server_without_models_is_told_with_what_to_do(server: WireServer, provider: OllamaProvider) -> None:
    server.reply = having()
    [model] = await provider.models()
    assert not model.usable
    assert "ollama pull" in (model.why_not or "")


async def test_an_endpoint_says_which_models_are_offered_and_what_they_take(server: WireServer) -> None:
    server.reply = having("a", "b", can={"a": ["completion", "tools"], "b": ["completion"]})
    endpoint = Endpoint("big", "ollama", server.url, needs_key=False, models=("a", "c"), images=True)
    provider = OllamaProvider(endpoint=endpoint)
    found = await provider.models()
    assert [(model.id, model.tools, model.images) for model in found] == [("big/a", True, True), ("big/c", None, True)]
    await provider.aclose()


# --------------------------------------------------------------------------- carrying on


def carrying(writes_on: bool) -> Any:
    """A server whose template leaves a last turn of the assistant's open, or closes it."""

    def answer(asked: Asked) -> Reply:
        last = asked.json["messages"][-1] if "messages" in asked.json else {}
        if last.get("content") == PROBE_SAID:
            return reply("nopqrs" if writes_on else "The alphabet is")
        return reply(" and on.") if last.get("role") == "assistant" else reply("he end", " and on.")

    return answer


async def test_a_model_that_writes_on_is_given_its_own_words(server: WireServer, provider: OllamaProvider) -> None:
    server.reply = carrying(True)
    outcome = await drain(provider, asked(max_tokens=50), progress=Progress("This is the end"))
    assert outcome.resumed is not None
    assert (outcome.resumed.continuation, outcome.text, outcome.error) == ("prefill", " and on.", None)
    probe, got = server.requests
    assert probe.json["messages"][-1] == {"role": "assistant", "content": PROBE_SAID}
    assert got.json["messages"] == [
        {"role": "user", "content": "hello"},
        {"role": "assistant", "content": "This is the end"},
    ]
    assert got.json["options"] == {"num_predict": 46}
    await drain(provider, asked(), progress=Progress("This is the end"))
    assert len(server.requests) == 3, "a model is asked once how it takes a turn that was begun"


async def test_a_model_that_begins_anew_is_asked_to_go_on(server: WireServer, provider: OllamaProvider) -> None:
    server.reply = carrying(False)
    outcome = await drain(provider, asked(), progress=Progress("This is the end"))
    assert outcome.resumed is not None
    assert outcome.resumed.continuation == "prompted"
    assert [turn["role"] for turn in server.requests[-1].json["messages"]] == ["user", "assistant", "user"]


async def test_a_prompt_is_carried_on_as_turns(server: WireServer, provider: OllamaProvider) -> None:
    server.reply = carrying(True)
    request = asked({"api": "generate", "template": "{{ .Prompt }}"})
    outcome = await drain(provider, request, progress=Progress("This is the end"))
    assert (outcome.text, outcome.error) == (" and on.", None)
    got = server.requests[-1]
    assert (got.path, "template" in got.json) == ("/api/chat", False)


async def test_a_raw_prompt_is_carried_on_by_its_text(server: WireServer, provider: OllamaProvider) -> None:
    server.reply = Reply(line(response=" and on.", done=False) + line(done=True, done_reason="stop"))
    request = asked({"api": "generate", "raw": True}, [Message("user", "<s>Once")])
    assert provider.continuation(request, Progress(" upon")) == "prefill"
    outcome = await drain(provider, request, progress=Progress(" upon "))
    assert outcome.resumed is not None
    assert (outcome.resumed.continuation, outcome.text) == ("prefill", "and on.")
    [got] = server.requests
    assert (got.path, got.json["prompt"], got.json["raw"]) == ("/api/generate", "<s>Once upon", True)


def test_an_answer_in_a_format_is_not_written_on() -> None:
    provider = OllamaProvider()
    for extra in ({"format": "json"}, {"response_format": {"type": "json_object"}}):
        assert provider.continuation(asked(extra), Progress('{"a')) is None
        assert provider.continuation(asked(extra), Progress()) == "restart"
    assert provider.continuation(asked(), Progress("a")) == "prompted"
