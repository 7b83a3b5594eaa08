"""Plain completions: a conversation as one text, and an answer that goes on by itself."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
from tests.providers.wire_server import Reply, WireServer
from tests.providers.wires import drain

from everstream.core.events import ImagePart, Message, Params, Request, TextPart, Tool
from everstream.providers.base import Progress
from everstream.providers.completions_request import plain_body, prompt_of
from everstream.providers.endpoint import Endpoint
from everstream.providers.openai import OpenAIProvider

ONE = [Message("user", "Once upon")]
MANY = [
    Message("system", "Be brief."),
    Message("user", "Who?"),
    Message("assistant", "A cat."),
    Message("user", [TextPart("Where"), TextPart("?")]),
]


def asked(messages: list[Message] = ONE, extra: dict[str, Any] | None = None, **params: Any) -> Request:
    return Request("plain/davinci-002", messages, Params(**params), extra or {})


def say(text: str, finish: str | None = None, **rest: Any) -> bytes:
    return (
        b"data: "
        + json.dumps({"choices": [{"index": 0, "text": text, "finish_reason": finish}], **rest}).encode()
        + b"\n\n"
    )


@pytest.fixture
async def server() -> AsyncIterator[WireServer]:
    async with WireServer() as server:
        yield server


@pytest.fixture
async def provider(server: WireServer) -> AsyncIterator[OpenAIProvider]:
    endpoint = Endpoint("plain", "completions", server.url, needs_key=False)
    provider = OpenAIProvider(endpoint=endpoint, max_retries=0)
    yield provider
    await provider.aclose()


@pytest.mark.parametrize(
    ("messages", "system", "prompt"),
    [
        (ONE, None, "Once upon"),
        (ONE, "Tell a tale.", "Tell a tale.\n\nOnce upon"),
        ([*ONE, Message("assistant", " a time")], None, "Once upon a time"),
        (MANY, None, "Be brief.\n\nUser: Who?\n\nAssistant: A cat.\n\nUser: Where?\n\nAssistant:"),
        (
            [*MANY, Message("assistant", "On the")],
            "Be kind.",
            "Be kind.\n\nBe brief.\n\nUser: Who?\n\nAssistant: A cat.\n\nUser: Where?\n\nAssistant: On the",
        ),
    ],
)
def test_a_conversation_is_one_text(messages: list[Message], system: str | None, prompt: str) -> None:
    assert prompt_of(asked(messages), system=system) == (prompt, ())


def test_a_prompt_of_ones_own_is_taken_as_it_is() -> None:
    body, _ = plain_body(asked(extra={"prompt": "<s>Once", "api": "completions", "echo": False}, system="Be brief."))
    assert (body["prompt"], body["echo"], "api" in body) == ("<s>Once", False, False)


def test_what_cannot_be_said_is_a_warning() -> None:
    picture = [Message("user", [TextPart("what?"), ImagePart(url="https://example.org/a.png")])]
    body, warnings = plain_body(asked(picture, tools=[Tool("look")], thinking=True))
    assert (body["prompt"], len(warnings)) == ("what?", 3)


async def test_a_request_goes_out_and_its_answer_comes_back(server: WireServer, provider: OpenAIProvider) -> None:
    usage = {"prompt_tokens": 2, "completion_tokens": 3, "total_tokens": 5}
    last = b"data: " + json.dumps({"choices": [], "usage": usage}).encode() + b"\n\ndata: [DONE]\n\n"
    server.reply = Reply(say(" a") + say(" time", "stop", usage=None) + last, segments=(1, 9))
    outcome = await drain(provider, asked(max_tokens=9, temperature=0.5, stop=["x"], seed=7))
    assert (outcome.error, outcome.text, outcome.finish) == (None, " a time", "stop")
    assert outcome.usage is not None
    assert outcome.usage.total_tokens == 5
    [got] = server.requests
    assert got.path == "/completions"
    assert got.json == {
        "model": "davinci-002",
        "prompt": "Once upon",
        "max_tokens": 9,
        "temperature": 0.5,
        "stop": ["x"],
        "seed": 7,
        "stream": True,
        "stream_options": {"include_usage": True},
    }


async def test_one_request_may_ask_for_it(server: WireServer) -> None:
    server.reply = Reply(say(" a time", "length") + b"data: [DONE]\n\n")
    provider = OpenAIProvider("k", server.url)
    outcome = await drain(provider, asked(extra={"api": "completions"}))
    assert (outcome.text, outcome.finish, server.requests[0].path) == (" a time", "length", "/completions")
    await provider.aclose()


async def test_an_answer_goes_on_from_its_text(server: WireServer, provider: OpenAIProvider) -> None:
    server.reply = Reply(say(" there was", "stop") + b"data: [DONE]\n\n")
    assert provider.continuation(asked(), Progress(" a time")) == "prefill"
    outcome = await drain(provider, asked(max_tokens=50), progress=Progress(" a time "))
    assert outcome.resumed is not None
    assert (outcome.resumed.continuation, outcome.text) == ("prefill", "there was")
    [got] = server.requests  # nobody has to be asked whether a plain completion writes on
    assert (got.json["prompt"], got.json["max_tokens"]) == ("Once upon a time", 48)


async def test_an_error_in_the_middle_keeps_what_came_before(server: WireServer, provider: OpenAIProvider) -> None:
    failure = b'data: {"error":{"message":"the engine died","type":"InternalServerError","code":500}}\n\n'
    server.reply = Reply(say(" a") + failure + b"data: [DONE]\n\n", segments=(1, 9))
    outcome = await drain(provider, asked())
    assert outcome.error is not None
    assert (outcome.text, outcome.error.code, outcome.error.message) == (" a", "provider.unknown", "the engine died")
