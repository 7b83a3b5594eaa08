"""Cohere's chat API: what is asked, and what is made of its events."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
from tests.providers import wires
from tests.providers.wire_server import Reply, WireServer
from tests.providers.wires import Outcome, drain

from everstream.core.events import ImagePart, Message, Params, Request, TextPart, Tool, ToolCall
from everstream.providers.base import Progress, ProviderError
from everstream.providers.cohere import CohereProvider, cohere_body
from everstream.providers.cohere_api import CohereFold

LOOK = Tool("look", "Looks.", {"type": "object", "properties": {"at": {"type": "integer"}}})
FEEL = Tool("feel")
COUNTS = {"tokens": {"input_tokens": 7.0, "output_tokens": 3.0}, "cached_tokens": 2.0}


def event(kind: str, index: int | None = None, **message: Any) -> bytes:
    said: dict[str, Any] = {"type": kind} if index is None else {"type": kind, "index": index}
    if message:
        said["delta"] = {"message": message}
    return f"event: {kind}\ndata: {json.dumps(said, ensure_ascii=False)}\n\n".encode()


def text(piece: str) -> bytes:
    return event("content-delta", 0, content={"text": piece})


def end(reason: str | None = "COMPLETE", **rest: Any) -> bytes:
    said = {"type": "message-end", "delta": {"finish_reason": reason, "usage": COUNTS, **rest}}
    return f"event: message-end\ndata: {json.dumps(said)}\n\n".encode()


DONE = b"data: [DONE]\n\n"
START = event("message-start", role="assistant", content=[], tool_plan="", tool_calls=[], citations=[])


def begin(index: int, call_id: str | None, name: str, arguments: Any = "") -> bytes:
    return event(
        "tool-call-start", index, tool_calls={"id": call_id, "function": {"name": name, "arguments": arguments}}
    )


def more(index: int, arguments: str) -> bytes:
    return event("tool-call-delta", index, tool_calls={"function": {"arguments": arguments}})


def asked(extra: dict[str, Any] | None = None, messages: list[Message] | None = None, **params: Any) -> Request:
    return Request("cohere/command-a-03-2025", messages or [Message("user", "hello")], Params(**params), extra or {})


@pytest.fixture
async def server() -> AsyncIterator[WireServer]:
    async with WireServer() as server:
        yield server


@pytest.fixture
async def provider(server: WireServer) -> AsyncIterator[CohereProvider]:
    provider = CohereProvider("secret", server.url, max_retries=0)
    yield provider
    await provider.aclose()


@pytest.fixture(params=[False, True], ids=["pulled", "poured"])
def poured(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both ways out of a provider."""
    monkeypatch.setattr(wires, "poured", request.param)


def folded(data: bytes) -> tuple[Outcome, CohereFold]:
    fold, outcome = CohereFold("x"), Outcome()
    for said in [*fold.feed(data), *([] if fold.ended else fold.end())]:
        outcome.add(said)
    return outcome, fold


# --------------------------------------------------------------------------- asking


CONVERSATION = [
    Message("system", "Be brief."),
    Message("user", [TextPart("What is this?"), ImagePart(data="QUJD", media_type="image/jpeg")]),
    Message("assistant", "", (ToolCall("c1", "look", '{"at": 1}'),)),
    Message("tool", "a cat", call_id="c1"),
    Message("assistant", "A cat."),
    Message("user", "And now?"),
]


async def test_a_whole_conversation_goes_out(server: WireServer, provider: CohereProvider) -> None:
    server.reply = Reply(START + text("yes") + end() + DONE)
    sampling = {"max_tokens": 9, "temperature": 0.5, "top_p": 0.9, "stop": "x", "seed": 7}
    request = asked(
        {"k": 3, "safety_mode": "STRICT"},
        CONVERSATION,
        system="Be kind.",
        tools=[LOOK],
        tool_choice="required",
        thinking=True,
        **sampling,
    )
    outcome = await drain(provider, request)
    assert (outcome.error, outcome.text, outcome.finish) == (None, "yes", "stop")
    [got] = server.requests
    assert (got.method, got.path) == ("POST", "/v2/chat")
    assert got.headers["authorization"] == "Bearer secret"
    assert got.json == {
        "model": "command-a-03-2025",
        "stream": True,
        "max_tokens": 9,
        "temperature": 0.5,
        "p": 0.9,
        "seed": 7,
        "stop_sequences": ["x"],
        "k": 3,
        "safety_mode": "STRICT",
        "thinking": {"type": "enabled"},
        "tool_choice": "REQUIRED",
        "tools": [
            {"type": "function", "function": {"name": "look", "description": "Looks.", "parameters": LOOK.parameters}}
        ],
        "messages": [
            {"role": "system", "content": "Be kind."},
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
                "tool_calls": [
                    {"id": "c1", "type": "function", "function": {"name": "look", "arguments": '{"at": 1}'}}
                ],
            },
            {"role": "tool", "tool_call_id": "c1", "content": "a cat"},
            {"role": "assistant", "content": "A cat."},
            {"role": "user", "content": "And now?"},
        ],
    }


@pytest.mark.parametrize(
    ("choice", "sent", "offered"),
    [
        (None, None, ["look", "feel"]),
        ("auto", None, ["look", "feel"]),
        ("none", "NONE", ["look", "feel"]),
        ("any", "REQUIRED", ["look", "feel"]),
        ("feel", "REQUIRED", ["feel"]),
        ({"type": "function", "function": {"name": "look"}}, "REQUIRED", ["look"]),
    ],
)
def test_a_chosen_function_is_the_only_one_offered(choice: Any, sent: str | None, offered: list[str]) -> None:
    body = cohere_body(asked(tools=[LOOK, FEEL], tool_choice=choice))
    assert body.get("tool_choice") == sent
    assert [tool["function"]["name"] for tool in body["tools"]] == offered


@pytest.mark.parametrize(
    ("wanted", "sent"),
    [
        (True, {"type": "enabled"}),
        (False, {"type": "disabled"}),
        ("none", {"type": "disabled"}),
        ("low", {"type": "enabled", "token_budget": 1024}),
        ({"effort": "high"}, {"type": "enabled", "token_budget": 16384}),
        ({"type": "enabled", "token_budget": 5}, {"type": "enabled", "token_budget": 5}),
    ],
)
def test_thinking_is_asked_for_with_a_budget(wanted: Any, sent: dict[str, Any]) -> None:
    assert cohere_body(asked(thinking=wanted))["thinking"] == sent


def test_without_a_key_nothing_is_asked() -> None:
    provider = CohereProvider()
    with pytest.raises(ProviderError) as raised:
        provider.check(asked())
    assert (raised.value.code, raised.value.message) == ("provider.auth", "set COHERE_API_KEY")


async def test_the_models_say_why_they_cannot_be_used() -> None:
    assert {model.why_not for model in await CohereProvider().models()} == {"set COHERE_API_KEY"}
    assert all(model.usable and model.continuation == "prompted" for model in await CohereProvider("k").models())


async def test_an_answer_is_carried_on_by_asking(server: WireServer, provider: CohereProvider) -> None:
    server.reply = Reply(START + text("the end of it all.") + end() + DONE)
    outcome = await drain(provider, asked(), progress=Progress("This is the end"))
    assert outcome.resumed is not None
    assert outcome.resumed.continuation == "prompted"
    assert [turn["role"] for turn in server.requests[0].json["messages"]] == ["user", "assistant", "user"]
    own_word = CohereProvider("k", continuation="prefill")
    assert own_word.continuation(asked(), Progress("This")) == "prompted", "it has no unfinished turns to begin"


# --------------------------------------------------------------------------- its events


def test_a_plan_is_thinking_and_citations_are_not_shown() -> None:
    body = START + event("tool-plan-delta", tool_plan="I will look") + begin(0, "c1", "look") + more(0, '{"at":1}')
    body += event("tool-call-end", 0) + event("citation-start", 0, citations={"start": 0, "end": 1, "text": "no"})
    outcome, fold = folded(body + event("citation-end", 0) + end("TOOL_CALL") + DONE)
    assert (outcome.text, outcome.thinking) == ("", "I will look")
    assert (outcome.calls, outcome.finish, fold.trouble) == ({0: ["c1", "look", '{"at":1}']}, "tool_calls", None)


SHAPES = {
    "in pieces": begin(0, "a", "f") + more(0, "{") + more(0, "}") + begin(1, "b", "g") + more(1, "{}"),
    "side by side": begin(0, "a", "f") + begin(1, "b", "g") + more(0, "{}") + more(1, "{}"),
    "whole in the start": begin(0, "a", "f", "{}") + begin(1, "b", "g", "{}"),
    "one index": begin(0, "a", "f") + more(0, "{}") + begin(0, "b", "g") + more(0, "{}"),
    "no index": event("tool-call-start", None, tool_calls={"id": "a", "function": {"name": "f", "arguments": "{"}})
    + event("tool-call-delta", None, tool_calls={"function": {"arguments": "}"}})
    + event("tool-call-start", None, tool_calls={"id": "b", "function": {"name": "g", "arguments": "{}"}}),
    "name and id in every piece": begin(0, "a", "f")
    + event("tool-call-delta", 0, tool_calls={"id": "a", "function": {"name": "f", "arguments": "{}"}})
    + begin(1, "b", "g", "{}"),
    "a start that comes twice": begin(0, "a", "f") + begin(0, "a", "f") + more(0, "{}") + begin(1, "b", "g", "{}"),
    "a list": event(
        "tool-call-start",
        0,
        tool_calls=[
            {"id": "a", "function": {"name": "f", "arguments": "{}"}},
            {"id": "b", "function": {"name": "g", "arguments": "{}"}},
        ],
    ),
}


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("size", [3, 100_000])
def test_tool_calls_of_every_shape_are_put_together(shape: str, size: int) -> None:
    body = START + SHAPES[shape] + end("TOOL_CALL")
    fold, outcome = CohereFold("x"), Outcome()
    for at in range(0, len(body), size):
        if not fold.ended:
            for said in fold.feed(body[at : at + size]):
                outcome.add(said)
    assert list(outcome.calls.values()) == [["a", "f", "{}"], ["b", "g", "{}"]]
    assert outcome.finish == "tool_calls"


@pytest.mark.parametrize(
    ("reason", "finish"),
    [
        ("COMPLETE", "stop"),
        ("complete", "stop"),
        ("STOP_SEQUENCE", "stop"),
        ("MAX_TOKENS", "length"),
        ("CONTENT_BLOCKED", "content_filter"),
        (None, None),
    ],
)
def test_the_reasons_of_an_end(reason: str | None, finish: str | None) -> None:
    outcome, fold = folded(START + text("yes") + end(reason) + DONE)
    assert (fold.ended, fold.trouble, outcome.finish, outcome.text) == (True, None, finish, "yes")
    assert outcome.usage is not None
    assert (outcome.usage.input_tokens, outcome.usage.output_tokens, outcome.usage.cached_tokens) == (7, 3, 2)
    assert len(outcome.finishes) == 1


def test_billed_units_count_where_nothing_else_does() -> None:
    said = {"type": "message-end", "delta": {"usage": {"billed_units": {"input_tokens": 5, "output_tokens": 1}}}}
    outcome, _ = folded(text("yes") + b"data: " + json.dumps(said).encode() + b"\n\n")
    assert outcome.usage is not None
    assert (outcome.usage.input_tokens, outcome.usage.output_tokens) == (5, 1)


FAILURES = [
    (end("ERROR"), "provider.unknown"),
    (end("TIMEOUT"), "provider.timeout"),
    (end("ERROR", error="model overloaded, too many requests"), "provider.unknown"),
    (b'data: {"message":"too many tokens"}\n\n', "provider.unknown"),
    (b'event: error\ndata: {"message":"invalid api token","status_code":401}\n\n', "provider.auth"),
    (b'{"message":"slow down","status":429,"error":{"status":429,"message":"slow down"}}\n', "provider.rate_limit"),
    (b'data: {"delta":\n\n', "provider.invalid"),
]


@pytest.mark.parametrize(("failure", "code"), FAILURES)
@pytest.mark.usefixtures("poured")
async def test_a_failure_in_the_middle_keeps_what_came_before(
    failure: bytes, code: str, server: WireServer, provider: CohereProvider
) -> None:
    server.reply = Reply(START + text("one ") + failure + DONE, segments=(1, 9))
    outcome = await drain(provider, asked())
    assert outcome.error is not None
    assert (outcome.text, outcome.error.code, outcome.finish) == ("one ", code, None)


@pytest.mark.usefixtures("poured")
async def test_a_message_without_an_end_is_a_cut(server: WireServer, provider: CohereProvider) -> None:
    server.reply = Reply(START + text("one ") + text("two") + event("content-end", 0))
    outcome = await drain(provider, asked())
    assert outcome.error is not None
    assert (outcome.text, outcome.error.code, outcome.error.retryable) == ("one two", "provider.connection", True)


def test_done_alone_is_an_end_too() -> None:
    outcome, fold = folded(START + text("yes") + DONE)
    assert (fold.ended, fold.trouble, outcome.text, outcome.finish) == (True, None, "yes", None)


def test_comments_carriage_returns_nulls_and_missing_blank_lines_are_no_matter() -> None:
    body = b": alive\n\n" + START + text("one ").replace(b"\n\n", b"\n") + text("two").replace(b"\n", b"\r\n")
    body += event("content-delta", 0, content=None) + event("content-delta", 0, content={"text": None})
    body += b'data: {"type":"debug","prompt":"x","delta":null}\n\n' + end()[:-2]
    outcome, fold = folded(body)
    assert (fold.trouble, outcome.text, outcome.finish) == (None, "one two", "stop")


def test_an_answer_that_was_not_streamed_is_read_all_the_same() -> None:
    body = {
        "id": "x",
        "finish_reason": "TOOL_CALL",
        "usage": COUNTS,
        "message": {
            "role": "assistant",
            "tool_plan": "I will look",
            "content": [{"type": "thinking", "thinking": ", then say"}, {"type": "text", "text": "yes"}],
            "tool_calls": [{"id": "a", "type": "function", "function": {"name": "look", "arguments": "{}"}}],
        },
    }
    for said in (json.dumps(body), json.dumps(body, indent=1)):
        outcome, fold = folded(said.encode())
        assert fold.trouble is None
        assert (outcome.text, outcome.thinking, outcome.finish) == ("yes", "I will look, then say", "tool_calls")
        assert outcome.calls == {0: ["a", "look", "{}"]}
