"""What goes wrong between a provider and us: each fault has its code, keeps its part, and leaves nothing behind."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Any

import pytest
from tests.providers import wires
from tests.providers.wire_server import Reply, WireServer
from tests.providers.wires import Outcome, drain

from everstream.core.events import DeltaText, Message, Request
from everstream.providers.anthropic import AnthropicProvider
from everstream.providers.base import Provider, ProviderError
from everstream.providers.openai import OpenAIProvider

CLOSE_S = 0.05
REQUEST = Request("any/model", [Message("user", "hello")])


@dataclass(frozen=True)
class Dialect:
    """One API, and how it says things."""

    name: str
    make: Callable[..., Provider]
    say: Callable[[str], bytes]
    end: bytes
    last: bytes  # the terminal event alone

    def body(self, *texts: str) -> bytes:
        return b"".join(self.say(text) for text in texts) + self.end


def event(data: Any) -> bytes:
    return b"data: " + json.dumps(data, ensure_ascii=False).encode() + b"\n\n"


def chat(content: str | None = None, **rest: Any) -> bytes:
    finish = rest.pop("finish_reason", None)
    delta = {"content": content, **rest} if content is not None else rest
    return event({"choices": [{"index": 0, "delta": delta, "finish_reason": finish}]})


def block(text: str) -> bytes:
    return event({"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": text}})


DIALECTS = [
    Dialect(
        "chat",
        lambda url, **rest: OpenAIProvider("k", url, **{"max_retries": 0, **rest}),
        chat,
        chat("", finish_reason="stop") + b"data: [DONE]\n\n",
        b"data: [DONE]\n\n",
    ),
    Dialect(
        "responses",
        lambda url, **rest: OpenAIProvider("k", url, api="responses", **{"max_retries": 0, **rest}),
        lambda text: event({"type": "response.output_text.delta", "output_index": 0, "delta": text}),
        event({"type": "response.completed", "response": {"status": "completed"}}),
        event({"type": "response.completed", "response": {"status": "completed"}}),
    ),
    Dialect(
        "messages",
        lambda url, **rest: AnthropicProvider("k", url, **{"max_retries": 0, **rest}),
        block,
        event({"type": "message_delta", "delta": {"stop_reason": "end_turn"}}) + event({"type": "message_stop"}),
        event({"type": "message_stop"}),
    ),
]
CHAT = DIALECTS[0]


@pytest.fixture
async def server() -> AsyncIterator[WireServer]:
    async with WireServer() as server:
        yield server


@pytest.fixture(params=DIALECTS, ids=lambda dialect: dialect.name)
def dialect(request: pytest.FixtureRequest) -> Dialect:
    assert isinstance(request.param, Dialect)
    return request.param


@pytest.fixture(params=[False, True], ids=["pulled", "poured"], autouse=True)
def poured(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both ways out of a provider."""
    monkeypatch.setattr(wires, "poured", request.param)


# --------------------------------------------------------------------------- stopping


async def until_text(batches: Any) -> None:
    async for batch in batches:
        if any(isinstance(said, DeltaText) for said in batch):
            return


async def test_closing_the_generator_closes_the_providers_connection(dialect: Dialect, server: WireServer) -> None:
    server.reply = Reply(dialect.body("one", "two"), hang_after=len(dialect.say("one")))
    provider = dialect.make(server.url)
    late = []
    for count in range(1, 21):
        batches = provider.generate(REQUEST)
        await until_text(batches)
        at = asyncio.get_running_loop().time()
        await batches.aclose()
        late.append(await server.client_closed(count) - at)
    assert sorted(late)[-1] < CLOSE_S
    await provider.aclose()


async def test_cancelling_the_task_closes_the_providers_connection(dialect: Dialect, server: WireServer) -> None:
    server.reply = Reply(dialect.body("one", "two"), hang_after=len(dialect.say("one")))
    provider = dialect.make(server.url)
    for count in range(1, 6):
        outcome = Outcome()
        task = asyncio.create_task(drain(provider, REQUEST, outcome))
        await asyncio.wait_for(outcome.shown.wait(), 5)
        at = asyncio.get_running_loop().time()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert await server.client_closed(count) - at < CLOSE_S
    await provider.aclose()


async def test_a_cancel_before_the_first_byte_closes_the_connection_too(dialect: Dialect, server: WireServer) -> None:
    server.reply = Reply(hang_after=-1)
    provider = dialect.make(server.url)
    task = asyncio.create_task(drain(provider, REQUEST))
    await server.asked()
    at = asyncio.get_running_loop().time()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await server.client_closed() - at < CLOSE_S
    await provider.aclose()


async def test_a_finished_answer_gives_its_connection_back(dialect: Dialect, server: WireServer) -> None:
    server.reply = Reply(dialect.body("one", "two"), segments=(1, 40))
    provider = dialect.make(server.url)
    for _ in range(5):
        assert (await drain(provider, REQUEST)).text == "onetwo"
        await asyncio.wait_for(settled(provider), 5)
    assert server.connections == 1
    await provider.aclose()


async def settled(provider: Any) -> None:
    while provider._settling:
        await asyncio.wait(tuple(provider._settling))


async def test_the_end_is_told_at_the_terminal_event_and_not_at_the_end_of_the_body(
    dialect: Dialect, server: WireServer
) -> None:
    server.reply = Reply(dialect.body("one"), linger=True)
    provider = dialect.make(server.url)
    began = time.monotonic()
    outcome = await drain(provider, REQUEST)
    assert outcome.error is None
    assert outcome.finish == "stop"
    assert time.monotonic() - began < 2.0
    await provider.aclose()
    await server.client_closed()


# --------------------------------------------------------------------------- cuts


@pytest.mark.parametrize("framing", ["chunked", "length", "close"])
@pytest.mark.parametrize("reset", [False, True])
async def test_a_cut_answer_is_never_called_complete(
    dialect: Dialect, server: WireServer, framing: str, reset: bool
) -> None:
    body = dialect.body("one ", "two ", "three")
    server.reply = Reply(body, cut_after=len(dialect.say("one ") + dialect.say("two ")), framing=framing, reset=reset)
    provider = dialect.make(server.url)
    outcome = await drain(provider, REQUEST)
    assert outcome.text == "one two "
    assert outcome.error is not None
    assert outcome.error.code == "provider.connection"
    assert outcome.error.retryable
    await provider.aclose()


async def test_a_body_that_ends_in_order_but_without_a_terminal_event_is_a_cut(
    dialect: Dialect, server: WireServer
) -> None:
    server.reply = Reply(dialect.say("one"))
    provider = dialect.make(server.url)
    outcome = await drain(provider, REQUEST)
    assert outcome.text == "one"
    assert outcome.error is not None
    assert outcome.error.code == "provider.connection"
    await provider.aclose()


@pytest.mark.parametrize("framing", ["chunked", "close"])
async def test_a_finish_reason_without_a_terminal_event_is_complete(server: WireServer, framing: str) -> None:
    for make, body in (
        (CHAT.make, chat("one") + chat("", finish_reason="length")),
        (DIALECTS[2].make, block("one") + event({"type": "message_delta", "delta": {"stop_reason": "max_tokens"}})),
    ):
        server.reply = Reply(body, cut_after=len(body), framing=framing)
        provider = make(server.url)
        outcome = await drain(provider, REQUEST)
        assert outcome.error is None
        assert (outcome.text, outcome.finish) == ("one", "length")
        await provider.aclose()


async def test_done_without_a_finish_reason_is_complete_without_a_reason(server: WireServer) -> None:
    server.reply = Reply(chat("4") + b"data: [DONE]\n\n")
    provider = CHAT.make(server.url)
    outcome = await drain(provider, REQUEST)
    assert outcome.error is None
    assert len(outcome.finishes) == 1
    assert outcome.finish is None
    await provider.aclose()


async def test_a_last_event_without_its_line_end_counts(dialect: Dialect, server: WireServer) -> None:
    server.reply = Reply(dialect.body("one").rstrip(b"\n"), segments=(1, 9))
    provider = dialect.make(server.url)
    outcome = await drain(provider, REQUEST)
    assert outcome.error is None
    assert (outcome.text, outcome.finish) == ("one", "stop")
    await provider.aclose()


# --------------------------------------------------------------------------- errors


STATUSES = [
    (400, {"error": {"message": "bad", "type": "invalid_request_error"}}, "provider.invalid", False),
    (400, {"error": {"message": "no", "code": "content_policy_violation"}}, "provider.content_filter", False),
    (400, {"error": {"message": "x", "code": "context_length_exceeded"}}, "provider.invalid", False),
    (401, {"error": {"message": "no"}}, "provider.auth", False),
    (403, {"error": {"message": "no"}}, "provider.auth", False),
    (404, {"error": {"message": "The model `x` does not exist"}}, "model.unknown", False),
    (404, {"error": {"message": "no such route"}}, "provider.invalid", False),
    (408, {"error": {"message": "slow"}}, "provider.timeout", True),
    (422, {"detail": "wrong"}, "provider.invalid", False),
    (429, {"error": {"message": "slow down", "type": "rate_limit_error"}}, "provider.rate_limit", True),
    (429, {"error": {"message": "pay", "code": "insufficient_quota"}}, "provider.rate_limit", False),
    (500, {"error": {"message": "oops", "type": "api_error"}}, "provider.unknown", True),
    (502, "<html>bad gateway</html>", "provider.overloaded", True),
    (503, "", "provider.overloaded", True),
    (504, "", "provider.overloaded", True),
    (529, {"type": "error", "error": {"type": "overloaded_error", "message": "busy"}}, "provider.overloaded", True),
]


@pytest.mark.parametrize(("status", "said", "code", "retryable"), STATUSES)
async def test_an_error_status_gets_its_code(
    dialect: Dialect, server: WireServer, status: int, said: Any, code: str, retryable: bool
) -> None:
    body = said.encode() if isinstance(said, str) else json.dumps(said).encode()
    kind = "text/html" if isinstance(said, str) else "application/json"
    server.reply = Reply(body, status, {"content-type": kind, "retry-after": "7"}, framing="length")
    provider = dialect.make(server.url)
    error = (await drain(provider, REQUEST)).error
    assert error is not None
    assert (error.code, error.retryable) == (code, retryable)
    assert error.message
    assert error.retry_after_ms == 7000
    await provider.aclose()


async def test_milliseconds_to_wait_win_over_seconds(server: WireServer) -> None:
    server.reply = Reply(b"{}", 429, {"retry-after-ms": "1500", "retry-after": "9"}, framing="length")
    provider = CHAT.make(server.url)
    error = (await drain(provider, REQUEST)).error
    assert error is not None
    assert error.retry_after_ms == 1500
    await provider.aclose()


@pytest.mark.parametrize(
    "secret", ["sk-proj-abcDEF123456789", "Bearer abcdefgh12345", "sk-ant-api03-AAAABBBBCCCC", "gsk_0123456789abcdef"]
)
async def test_a_message_never_shows_a_key(dialect: Dialect, server: WireServer, secret: str) -> None:
    body = {"error": {"message": f"Incorrect API key provided: {secret}. " + "Look here. " * 200}}
    server.reply = Reply(json.dumps(body).encode(), 401, {"content-type": "application/json"}, framing="length")
    provider = dialect.make(server.url)
    error = (await drain(provider, REQUEST)).error
    assert error is not None
    assert secret.split()[-1] not in error.message
    assert len(error.message) <= 500
    await provider.aclose()


async def breaks_after_one(provider: Provider, code: str) -> None:
    """The answer is `one` and then the error, and nothing passes for its end."""
    outcome = await drain(provider, REQUEST)
    assert outcome.text == "one"
    assert outcome.error is not None
    assert outcome.error.code == code
    assert outcome.finish is None


IN_BAND = [
    (b'event: error\ndata: {"error": {"message": "no", "type": "server_error"}}\n\n', "provider.unknown"),
    (b'data: {"error": {"message": "slow", "code": 429}}\n\n', "provider.rate_limit"),
    (b'error: {"error": {"message": "failed to decode"}}\n\n', "provider.unknown"),
    (b"event: error\ndata: upstream is gone\n\n", "provider.unknown"),
    (b'{"error": {"message": "busy", "type": "overloaded_error"}}\n', "provider.overloaded"),
]


@pytest.mark.parametrize(("said", "code"), IN_BAND)
async def test_an_error_inside_the_stream_keeps_what_came_before(
    dialect: Dialect, server: WireServer, said: bytes, code: str
) -> None:
    for pieces in (None, (1, 9)):
        server.reply = Reply(dialect.say("one") + said + dialect.end, segments=pieces)
        provider = dialect.make(server.url)
        await breaks_after_one(provider, code)
        await provider.aclose()


async def test_typed_errors_inside_the_stream_are_raised(server: WireServer) -> None:
    cases = [
        (DIALECTS[1], {"type": "error", "code": "server_error", "message": "no"}, "provider.unknown"),
        (
            DIALECTS[1],
            {"type": "response.failed", "response": {"error": {"code": "rate_limit_exceeded", "message": "no"}}},
            "provider.rate_limit",
        ),
        (DIALECTS[1], {"type": "response.cancelled", "response": {}}, "provider.connection"),
        (
            DIALECTS[2],
            {"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}},
            "provider.overloaded",
        ),
    ]
    for dialect, said, code in cases:
        server.reply = Reply(dialect.say("one") + event(said))
        provider = dialect.make(server.url)
        await breaks_after_one(provider, code)
        await provider.aclose()


@pytest.mark.parametrize("reason", ["max_output_tokens", "content_filter"])
async def test_an_incomplete_response_is_an_end_with_a_reason(server: WireServer, reason: str) -> None:
    said = {"type": "response.incomplete", "response": {"incomplete_details": {"reason": reason}}}
    server.reply = Reply(DIALECTS[1].say("one") + event(said))
    provider = DIALECTS[1].make(server.url)
    outcome = await drain(provider, REQUEST)
    assert outcome.error is None
    assert outcome.finish == ("length" if reason == "max_output_tokens" else "content_filter")
    await provider.aclose()


@pytest.mark.parametrize(
    "garbage", [b"data: {not json}\n\n", b'data: {"choices": 7, "type": 7}\n\n', b'data: "\xff\xfe"\n\n']
)
async def test_garbage_in_the_stream_keeps_what_came_before(
    dialect: Dialect, server: WireServer, garbage: bytes
) -> None:
    server.reply = Reply(dialect.say("one") + garbage + dialect.end, segments=(1, 9))
    provider = dialect.make(server.url)
    outcome = await drain(provider, REQUEST)
    assert outcome.text == "one"
    assert outcome.error is not None
    assert outcome.error.code == "provider.invalid"
    assert outcome.error.retryable
    await provider.aclose()


async def test_a_refused_connection_is_a_connection_error(dialect: Dialect) -> None:
    async with WireServer() as gone:
        url = gone.url
    provider = dialect.make(url)
    error = (await drain(provider, REQUEST)).error
    assert error is not None
    assert error.code == "provider.connection"
    assert "reached" in error.message
    await provider.aclose()


async def test_a_connection_lost_before_the_answer_is_no_timeout(dialect: Dialect) -> None:
    async def drop(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.transport.abort()

    async with await asyncio.start_server(drop, "127.0.0.1", 0) as rude:
        provider = dialect.make(f"http://127.0.0.1:{rude.sockets[0].getsockname()[1]}")
        error = (await drain(provider, REQUEST)).error
        await provider.aclose()
    assert error is not None
    assert error.code == "provider.connection"


async def test_a_request_is_tried_again_but_an_answer_never(dialect: Dialect, server: WireServer) -> None:
    replies = iter([Reply(b"{}", 503, {"retry-after-ms": "1"}, framing="length"), Reply(dialect.body("one"))])
    server.reply = lambda asked: next(replies)
    provider = dialect.make(server.url, max_retries=2)
    assert (await drain(provider, REQUEST)).text == "one"
    assert len(server.requests) == 2
    server.reply = Reply(dialect.say("one"))
    assert (await drain(provider, REQUEST)).error is not None
    assert len(server.requests) == 3
    await provider.aclose()


@pytest.mark.parametrize("status", [429, 503, 529])
async def test_a_long_wait_is_told_and_not_sat_out(dialect: Dialect, server: WireServer, status: int) -> None:
    server.reply = Reply(b"{}", status, {"retry-after": "30"}, framing="length")
    provider = dialect.make(server.url, max_retries=2)
    async with asyncio.timeout(5):
        error = (await drain(provider, REQUEST)).error
    assert error is not None
    assert error.retry_after_ms == 30_000
    assert len(server.requests) == 1
    await provider.aclose()


async def test_without_a_key_nothing_is_sent(dialect: Dialect) -> None:
    kind = type(dialect.make("http://127.0.0.1:1"))
    provider = kind(None)  # type: ignore[call-arg]
    error = (await drain(provider, REQUEST)).error
    assert error is not None
    assert error.code == "provider.auth"
    assert "_API_KEY" in error.message
    assert all(not model.usable and model.why_not for model in await provider.models())
    await provider.aclose()


# --------------------------------------------------------------------------- shapes


async def test_comments_and_pings_are_life_signs_without_content(dialect: Dialect, server: WireServer) -> None:
    quiet = b": PROCESSING\n\n" * 3 + b'event: ping\ndata: {"type": "ping"}\n\n'
    server.reply = lambda asked: Reply(quiet + dialect.body("one"), segments=(5, 5), pause_s=0.0005)
    provider = dialect.make(server.url)
    outcome = await drain(provider, REQUEST)
    assert outcome.text == "one"
    assert outcome.empty_batches >= 3
    await provider.aclose()


async def test_line_ends_of_windows_and_split_characters_change_nothing(dialect: Dialect, server: WireServer) -> None:
    text = "Grüße, 世界 👋🏽"
    body = dialect.body(text, text).replace(b"\n", b"\r\n")
    provider = dialect.make(server.url)
    for seed in range(5):
        server.reply = Reply(body, segments=(1, 3), seed=seed)
        outcome = await drain(provider, REQUEST)
        assert outcome.error is None
        assert outcome.text == text * 2
    await provider.aclose()


async def test_a_line_of_ten_megabytes_arrives_whole(dialect: Dialect, server: WireServer) -> None:
    text = "x" * 10_000_000
    server.reply = Reply(dialect.body(text), segments=(10_000, 200_000))
    provider = dialect.make(server.url)
    outcome = await drain(provider, REQUEST)
    assert outcome.error is None
    assert outcome.text == text
    await provider.aclose()


async def test_deltas_of_one_read_are_one_entry(dialect: Dialect, server: WireServer) -> None:
    server.reply = Reply(dialect.body(*(f"{n} " for n in range(50))), framing="length")
    provider = dialect.make(server.url)
    entries = [said async for batch in provider.generate(REQUEST) for said in batch if isinstance(said, DeltaText)]
    assert "".join(entry.text for entry in entries) == "".join(f"{n} " for n in range(50))
    assert len(entries) <= 2
    await provider.aclose()


async def test_data_over_two_lines_is_one_event(dialect: Dialect, server: WireServer) -> None:
    whole = dialect.say("one")
    split = whole.replace(b'": ', b'":\ndata: ', 1)
    assert split != whole
    server.reply = Reply(split + dialect.end, segments=(1, 9))
    provider = dialect.make(server.url)
    outcome = await drain(provider, REQUEST)
    assert (outcome.error, outcome.text) == (None, "one")
    await provider.aclose()


def call(index: int | None, call_id: str | None, name: str | None, arguments: Any) -> bytes:
    piece: dict[str, Any] = {"function": {"name": name, "arguments": arguments}}
    if index is not None:
        piece["index"] = index
    if call_id is not None:
        piece["id"] = call_id
    return chat(None, tool_calls=[piece])


TOOL_CALLS = {
    "parallel": call(0, "a", "f", "{") + call(1, "b", "g", "{") + call(0, None, None, "}") + call(1, None, None, "}"),
    "no index": call(None, "a", "f", "{}") + call(None, "b", "g", "{}"),
    "no index, in pieces": call(None, "a", "f", "{")
    + call(None, None, None, "}")
    + call(None, "b", "g", "{")
    + call(None, "", None, "}"),
    "repeated": call(0, "a", "f", "{") + call(0, "a", "f", "}") + call(1, "b", "g", "{") + call(1, "b", "g", "}"),
    "null": call(0, "a", "f", None) + call(0, None, None, "{}") + call(1, "b", "g", None) + call(1, "", "", "{}"),
    "an object": call(0, "a", "f", {}) + call(1, "b", "g", "{}"),
    "one index for all": call(0, "a", "f", "{}") + call(0, "b", "g", "{}"),
    "a new id in every piece": call(0, "a", "f", "{") + call(0, "z", "f", "}") + call(1, "b", "g", "{}"),
}


@pytest.mark.parametrize("shape", TOOL_CALLS)
async def test_tool_calls_of_every_shape_are_put_together(server: WireServer, shape: str) -> None:
    provider = CHAT.make(server.url)
    for pieces in (None, (1, 9)):
        server.reply = Reply(TOOL_CALLS[shape] + chat("", finish_reason="stop"), segments=pieces)
        outcome = await drain(provider, REQUEST)
        wanted = [["a", "f", "{}"], ["b", "g", "{}"]]
        if shape == "an object":
            wanted[0][2] = ""  # an empty object without text is a call that has not begun to say its arguments
        assert list(outcome.calls.values()) == wanted
        assert outcome.finish == "tool_calls"
    await provider.aclose()


async def test_an_answer_that_was_not_streamed_is_read_all_the_same(server: WireServer) -> None:
    body = {"choices": [{"index": 0, "message": {"content": "hello"}, "finish_reason": "stop"}]}
    for text in (json.dumps(body), json.dumps(body, indent=1)):
        server.reply = Reply(text.encode(), headers={"content-type": "application/json"}, framing="length")
        provider = CHAT.make(server.url)
        outcome = await drain(provider, REQUEST)
        assert (outcome.error, outcome.text, outcome.finish) == (None, "hello", "stop")
        await provider.aclose()


@pytest.mark.parametrize(("said", "code"), [("abort", "provider.connection"), ("error", "provider.unknown")])
async def test_a_finish_reason_that_is_a_failure_is_raised(server: WireServer, said: str, code: str) -> None:
    server.reply = Reply(chat("one") + chat("", finish_reason=said) + b"data: [DONE]\n\n")
    provider = CHAT.make(server.url)
    await breaks_after_one(provider, code)
    await provider.aclose()


async def test_a_refusal_of_the_messages_api_is_a_content_filter(server: WireServer) -> None:
    stop = {"stop_reason": "refusal", "stop_details": {"category": "cyber"}}
    server.reply = Reply(block("one") + event({"type": "message_delta", "delta": stop}) + DIALECTS[2].last)
    provider = DIALECTS[2].make(server.url)
    outcome = await drain(provider, REQUEST)
    assert outcome.finish == "content_filter"
    assert any("cyber" in warning for warning in outcome.warnings)
    await provider.aclose()


async def test_what_arrived_before_a_reset_is_kept_even_when_nobody_had_read_it_yet(
    dialect: Dialect, server: WireServer
) -> None:
    said = dialect.say("one ") + dialect.say("two ")
    server.reply = Reply(dialect.body("one ", "two "), cut_after=len(said), reset=True, segments=(20, 60))
    provider = dialect.make(server.url)
    batches = provider.generate(REQUEST)
    assert await anext(batches)  # the headers; from here on nobody reads until the reset is here
    raw = None
    async with asyncio.timeout(5):
        while raw is None or raw.content.exception() is None:
            raw = raw or _below(batches)
            await asyncio.sleep(0.001)  # pause: between two looks at what the socket has met
    text = ""
    error: ProviderError | None = None
    try:
        async for batch in batches:
            text += "".join(said.text for said in batch if isinstance(said, DeltaText))
    except ProviderError as raised:
        error = raised
    assert error is not None
    assert (error.code, text) == ("provider.connection", "one two ")
    await provider.aclose()


def _below(batches: Any) -> Any:
    return batches.ag_frame.f_locals["body"]._raw
