"""Which way is open, who knows it, and how it is found out."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from tests.providers.seams import Brain
from tests.providers.wire_server import Asked, Reply, WireServer
from tests.providers.wires import drain

from everstream.core.errors import EverstreamError
from everstream.core.events import Message, Params, Request, Resumed, Tool, ToolCall
from everstream.providers.anthropic import MODELS as CLAUDES
from everstream.providers.anthropic import AnthropicProvider
from everstream.providers.base import Progress
from everstream.providers.carry_known import FOUND_MAX, FOUND_S, Finding, Known
from everstream.providers.carry_ladder import rungs, tokens_head
from everstream.providers.carry_policy import PROMPTED, REFUSALS, Policy, overruled, policy_of, refusal_in
from everstream.providers.http_errors import status_error
from everstream.providers.messages_request import generation
from everstream.providers.openai import OpenAIProvider
from everstream.providers.registry import registry_of
from everstream.settings import Settings

TEXT = "The first line stands here.\nThe second one is a little longer than the first, and the third ends it."
SHOWN = TEXT[:60]
OWN = Policy("prefill")
TOKENS = Policy("prefill", tokens=True)


class DictMemory:
    def __init__(self) -> None:
        self.kept: dict[str, tuple[bytes, int]] = {}

    async def remember(self, name: str, value: bytes, ttl_s: int) -> None:
        self.kept[name] = (value, ttl_s)

    async def recall(self, name: str) -> bytes | None:
        kept = self.kept.get(name)
        return None if kept is None else kept[0]


class BrokenMemory:
    async def remember(self, name: str, value: bytes, ttl_s: int) -> None:
        raise EverstreamError("store.unavailable", "gone")

    async def recall(self, name: str) -> bytes | None:
        raise EverstreamError("store.unavailable", "gone")


def asked(model: str = "openai/any", extra: dict[str, Any] | None = None, **params: Any) -> Request:
    return Request(model, [Message("user", "hello")], Params(**params), extra or {})


# --------------------------------------------------------------------------- the order


CALL = (ToolCall("c", "look", "{}"),)
LOOK = Tool("look")
IDS = (tokens_head("openai/any"), 1)


@pytest.mark.parametrize(
    ("policy", "request_", "progress", "expected"),
    [
        (PROMPTED, asked(), Progress("x"), ("prompted",)),
        (OWN, asked(), Progress("x"), ("prefill", "prompted")),
        (TOKENS, asked(), Progress("x", tokens=IDS), ("tokens", "prefill", "prompted")),
        (TOKENS, asked(), Progress("x", "thought", tokens=IDS), ("tokens", "prompted")),
        (TOKENS, asked("openai/other"), Progress("x", tokens=IDS), ("prefill", "prompted")),
        (OWN, asked(extra={"conversation": "conv_1"}), Progress("x"), ()),
        (TOKENS, asked(), Progress("x"), ("prefill", "prompted")),
        (TOKENS, asked(tools=[LOOK]), Progress("x", tokens=IDS), ("prefill", "prompted")),
        (OWN, asked(), Progress(), ("restart",)),
        (OWN, asked(), Progress("", "thought"), ("restart",)),
        (OWN, asked(), Progress("", tool_calls=CALL), ("restart",)),
        (OWN, asked(), Progress("x", tool_calls=CALL), ()),
        (OWN, asked(extra={"response_format": {"type": "json_schema"}}), Progress("x"), ()),
        (OWN, asked(extra={"response_format": {"type": "json_schema"}}), Progress(""), ("restart",)),
        (OWN, asked(extra={"response_format": {"type": "text"}}), Progress("x"), ("prefill", "prompted")),
        (OWN, asked(extra={"text": {"format": {"type": "json_object"}}}), Progress("x"), ()),
        (OWN, asked(extra={"output_config": {"format": {"type": "json_schema"}}}), Progress("x"), ()),
        (OWN, asked(extra={"output_config": {"effort": "low"}}), Progress("x"), ("prefill", "prompted")),
        (OWN, asked(extra={"n": 2}), Progress("x"), ()),
        (OWN, asked(), Progress("x", refusal="I must not"), ()),
        (OWN, asked(), Progress("", refusal="I must not"), ()),
        (OWN, asked(extra={"tools": [{"type": "mcp"}]}), Progress(""), ()),
        (OWN, asked(extra={"mcp_servers": [{}]}), Progress("x"), ()),
        (OWN, asked(thinking=True), Progress("x"), ("prompted",)),
        (OWN, asked(thinking={"type": "disabled"}), Progress("x"), ("prefill", "prompted")),
        (OWN, asked(), Progress("x", "thought"), ("prompted",)),
        (Policy("prefill", thought="reasoning_content"), asked(), Progress("x", "t"), ("prefill", "prompted")),
        (Policy("probe"), asked(), Progress("x"), ("prompted",)),
    ],
)
def test_the_ways_that_are_open_come_in_this_order(
    policy: Policy, request_: Request, progress: Progress, expected: tuple[str, ...]
) -> None:
    assert rungs(policy, "auto", request_, progress, alive=False) == expected
    assert rungs(policy, "auto", request_, progress, alive=True) == ("exact", *expected)
    assert rungs(policy, "none", request_, progress, alive=True) == ()
    only = rungs(policy, "restart", request_, progress, alive=False)
    assert only == (expected if expected == ("restart",) else ())


# --------------------------------------------------------------------------- the table


@pytest.mark.parametrize(
    "model",
    [*CLAUDES, "claude-opus-4-20250514", "claude-sonnet-4@20250514", "claude-3-7-sonnet-latest", "claude-opus-4-10"],
)
def test_claude_writes_on_up_to_generation_4_5(model: str) -> None:
    expected = "prefill" if generation(model) <= (4, 5) else "prompted"
    assert policy_of("messages", "https://api.anthropic.com", "", model).best == expected


@pytest.mark.parametrize(
    ("address", "owner", "model", "best", "style", "echo"),
    [
        ("https://api.openai.com/v1", "", "gpt-5.5", "prompted", "assistant", False),
        ("https://x.openai.azure.com/openai/v1", "", "gpt-5.5", "prompted", "assistant", False),
        ("https://api.mistral.ai/v1", "", "mistral-large", "prefill", "prefix", True),
        ("https://api.deepseek.com/beta", "", "deepseek-v4", "prefill", "prefix", False),
        ("https://api.deepseek.com", "", "deepseek-v4", "prompted", "assistant", False),
        ("https://api.moonshot.cn/v1", "", "kimi-k3", "prefill", "partial", False),
        ("https://dashscope.aliyuncs.com/compatible-mode/v1", "", "qwen", "prefill", "partial", False),
        ("http://10.0.0.1:8000/v1", "vllm", "qwen", "prefill", "continue_final_message", False),
        ("http://10.0.0.1:8000/v1", "sglang", "qwen", "prefill", "continue_final_message", False),
        ("http://10.0.0.1:8000/v1", "llamacpp", "qwen", "prefill", "assistant", False),
        ("http://10.0.0.1:11434/v1", "library", "qwen", "probe", "assistant", False),
        ("https://api.groq.com/openai/v1", "", "any", "probe", "assistant", False),
        ("https://openrouter.ai/api/v1", "", "anthropic/claude-sonnet-4.6", "prompted", "assistant", False),
        ("https://openrouter.ai/api/v1", "", "anthropic/claude-sonnet-4.5", "probe", "assistant", False),
        ("https://not-api.mistral.ai.example.org/v1", "", "any", "probe", "assistant", False),
    ],
)
def test_the_table_knows_the_kinds_of_servers(
    address: str, owner: str, model: str, best: str, style: str, echo: bool
) -> None:
    policy = policy_of("chat", address, owner, model)
    assert (policy.best, policy.style, policy.echo) == (best, style, echo)
    assert policy_of("responses", address, owner, model) == PROMPTED


def test_the_operator_has_the_last_word_where_the_api_can_follow() -> None:
    assert overruled(PROMPTED, "chat", "prefill").best == "prefill"
    assert overruled(PROMPTED, "chat", "prefill_echo").echo
    assert overruled(OWN, "chat", "prompted").best == "prompted"
    assert overruled(PROMPTED, "responses", "prefill").best == "prompted"
    assert overruled(TOKENS, "chat", "prefill").tokens


async def test_models_tell_how_they_are_carried_on() -> None:
    told = {model.id: model.continuation for model in await AnthropicProvider("k").models()}
    assert told["anthropic/claude-haiku-4-5"] == "prefill"
    assert told["anthropic/claude-opus-5-5"] == "prompted"
    for carry, expected in (("auto", "prompted"), ("restart", "restart"), ("none", None), ("prefill", "prefill")):
        for model in await OpenAIProvider("k", continuation=carry).models():  # type: ignore[arg-type]
            assert model.continuation == expected
    assert {model.continuation for model in await OpenAIProvider("k", background="on").models()} == {"exact"}


@pytest.mark.parametrize("refusal", REFUSALS, ids=lambda refusal: refusal.words)
def test_a_refusal_is_known_by_its_words_however_it_is_sent(refusal: Any) -> None:
    told = status_error("x", 400, {}, {"error": {"message": f"Sorry: this {refusal.words}, dear."}})
    assert refusal_in(told.message) == refusal
    assert refusal_in("something else is wrong") is None


# --------------------------------------------------------------------------- finding out


@pytest.mark.parametrize(
    ("kind", "finding", "label"),
    [
        ({}, Finding(True), Resumed("prefill")),
        ({"echo": True}, Finding(True, True), Resumed("prefill", "verified")),
        ({"turn": True}, Finding(False), Resumed("prompted", "verified")),
        ({"refuses": {"error": {"message": "no such thing here"}}}, Finding(False), Resumed("prompted", "verified")),
    ],
    ids=["writes on", "repeats", "begins a new turn", "refuses"],
)
async def test_an_unknown_model_is_asked_once_and_all_nodes_know(
    kind: dict[str, Any], finding: Finding, label: Resumed
) -> None:
    """One that begins a new turn recites the alphabet too, and is not taken for one that repeats the turn."""
    brain, memory = Brain(TEXT), DictMemory()
    brain.shown, brain.repeats = SHOWN, 40
    for name, value in kind.items():
        setattr(brain, name, value)
    async with WireServer() as server:
        server.reply = brain.reply
        for node in range(2):
            provider = OpenAIProvider("k", server.url, max_retries=0, memory=memory)
            for call in range(2):
                rest = await drain(provider, asked(), None, Progress(SHOWN))
                assert (rest.resumed, SHOWN + rest.text) == (label, TEXT)
                asks = [got for got in server.requests if b"4711" in got.body]
                assert len(asks) == 1, f"node {node}, call {call}"
            assert provider.continuation(asked(), Progress(SHOWN)) == label.continuation
            assert provider._known.recalled(server.url, "assistant any") == finding
            await provider.aclose()
        assert asks[0].json["max_tokens"] == 24
        assert [ttl_s for _, ttl_s in memory.kept.values()] == [FOUND_S]
        assert all(server.url not in name for name in memory.kept)


async def test_a_model_behind_anothers_api_is_asked_in_that_api() -> None:
    brain = Brain(TEXT)
    async with WireServer() as server:
        server.reply = brain.reply
        provider = AnthropicProvider("k", server.url, max_retries=0)
        for _ in range(2):
            rest = await drain(provider, asked("anthropic/kimi-k3"), None, Progress(SHOWN))
            assert (rest.resumed, SHOWN + rest.text) == (Resumed("prefill"), TEXT)
        assert brain.probes == 1
        await provider.aclose()


async def test_another_model_of_the_same_server_is_another_question() -> None:
    brain = Brain(TEXT)
    async with WireServer() as server:
        server.reply = brain.reply
        provider = OpenAIProvider("k", server.url, max_retries=0)
        for model in ("openai/one", "openai/two", "openai/one"):
            await drain(provider, asked(model), None, Progress(SHOWN))
        assert brain.probes == 2
        await provider.aclose()


async def test_without_a_memory_that_works_a_node_knows_what_it_found_itself() -> None:
    brain = Brain(TEXT)
    async with WireServer() as server:
        server.reply = brain.reply
        provider = OpenAIProvider("k", server.url, max_retries=0, memory=BrokenMemory())
        for _ in range(2):
            assert (await drain(provider, asked(), None, Progress(SHOWN))).resumed == Resumed("prefill")
        assert brain.probes == 1
        await provider.aclose()


async def test_many_who_want_to_know_at_once_ask_once() -> None:
    """As after the death of a node: all of its streams are carried on in the same moment."""
    brain = Brain(TEXT)
    async with WireServer() as server:
        server.reply = brain.reply
        provider = OpenAIProvider("k", server.url, max_retries=0)
        outcomes = await asyncio.gather(*(drain(provider, asked(), None, Progress(SHOWN)) for _ in range(20)))
        assert {outcome.text for outcome in outcomes} == {TEXT[60:]}
        assert brain.probes == 1
        await provider.aclose()


async def test_one_who_no_longer_waits_does_not_take_the_answer_from_the_others() -> None:
    asked_for, answer = asyncio.Event(), asyncio.Event()

    async def ask() -> Finding:
        asked_for.set()
        await answer.wait()
        return Finding(True)

    known = Known(None)
    first = asyncio.create_task(known.settle(Policy("probe"), "a", "m", ask))
    second = asyncio.create_task(known.settle(Policy("probe"), "a", "m", ask))
    await asyncio.wait_for(asked_for.wait(), 5)
    first.cancel()
    answer.set()
    assert (await asyncio.wait_for(second, 5)).best == "prefill"
    await known.aclose()


async def test_a_failure_is_no_finding() -> None:
    brain = Brain(TEXT)
    brain.shown, brain.repeats = SHOWN, 40
    async with WireServer() as server:

        def reply(got: Asked) -> Reply:
            overloaded = b"4711" in got.body
            return Reply(b"{}", 503, framing="length") if overloaded else brain.reply(got)

        server.reply = reply
        provider = OpenAIProvider("k", server.url, max_retries=0)
        assert (await drain(provider, asked(), None, Progress(SHOWN))).resumed == Resumed("prompted", "verified")
        server.reply = brain.reply
        assert (await drain(provider, asked(), None, Progress(SHOWN))).resumed == Resumed("prefill")
        await provider.aclose()


async def test_the_findings_of_a_node_are_bounded() -> None:
    known = Known(None)
    for number in range(FOUND_MAX + 5):
        await known.learn("a", str(number), Finding(True))
    assert known.recalled("a", "4") is None
    assert known.recalled("a", "5") == Finding(True)
    assert len(known._found) == FOUND_MAX


async def test_the_settings_reach_the_providers() -> None:
    memory = DictMemory()
    settings = Settings(
        openai_api_key="k", anthropic_api_key="k", openai_background="on", anthropic_continuation="prompted"
    )
    registry = registry_of(settings, memory)
    assert {model.continuation for model in await registry.get("openai").models()} == {"exact"}
    assert {model.continuation for model in await registry.get("anthropic").models()} == {"prompted"}
    for name in ("openai", "anthropic"):
        assert registry.get(name)._known._memory is memory  # type: ignore[attr-defined]
    await registry.aclose()
