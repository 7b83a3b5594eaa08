"""The services that are known by name: what each is sent, what each has answered, and what is made of it."""

from __future__ import annotations

import json
import os
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio
from tests.providers.seams import chat
from tests.providers.wire_server import Asked, Reply, WireServer
from tests.providers.wires import ROOT, Wire, drain, error_bodies, openai_wires, parsed

from everstream.core.events import Message, Params, Request, Resumed, Usage
from everstream.endpoint_settings import PRESET_NAMES, EndpointSettings
from everstream.providers import pricing
from everstream.providers.base import Progress, ProviderError
from everstream.providers.carry_policy import policy_of
from everstream.providers.presets import PRESETS, azure_url, endpoint_of, endpoints_of, ollama_url
from everstream.providers.registry import KINDS, Registry, registry_of
from everstream.settings import Settings

# Where a vendor's wires lie under another name than its preset has.
RECORDED_AS = {"moonshot": "moonshotai", "hf": "huggingface"}
OPENAI_DIALECT = [name for name, row in PRESETS.items() if row.api == "chat" and name != "openai"]
HOSTED = [name for name, row in PRESETS.items() if row.key_envs]
KNOWN_MODELS = {  # of the public list
    "openai": "gpt-5.5",
    "anthropic": "claude-sonnet-5",
    "gemini": "gemini-2.5-flash",
    "mistral": "mistral-small-latest",
    "deepseek": "deepseek-v4-flash",
    "groq": "llama-3.3-70b-versatile",
    "openrouter": "openai/gpt-5.5",
    "together": "MiniMaxAI/MiniMax-M3",
    "xai": "grok-4.5",
    "fireworks": "accounts/fireworks/models/deepseek-v4-flash",
    "cerebras": "gpt-oss-120b",
    "perplexity": "sonar-pro",
    "moonshot": "kimi-k2.5",
    "zai": "GLM-4.7",
    "cohere": "command-r",
    "azure": "o3-mini",
}


@pytest.fixture(autouse=True)
def _no_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    for row in PRESETS.values():
        for variable in (*row.key_envs, row.address_env or "OLLAMA_API_KEY"):
            monkeypatch.delenv(variable, raising=False)


@pytest_asyncio.fixture
async def server() -> AsyncIterator[WireServer]:
    async with WireServer() as server:
        yield server


def behind(server: WireServer, name: str, **more: Any) -> Registry:
    """The preset, at another address."""
    section = EndpointSettings(base_url=server.url, api_key="k", **more)
    return registry_of(Settings(endpoints={name: section}, discover=False, provider_max_retries=0))


def asked(name: str, **params: Any) -> Request:
    return Request(f"{name}/any-model", [Message("user", "hello")], Params(**params))


def wires_of(name: str) -> list[Wire]:
    if not ROOT.is_dir():
        return []
    return [wire for wire in openai_wires() if wire.provider == RECORDED_AS.get(name, name)]


def test_the_settings_know_the_names_of_the_table() -> None:
    assert tuple(PRESETS) == PRESET_NAMES


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_is_a_service_that_can_be_made(name: str) -> None:
    row = PRESETS[name]
    assert row.title
    assert not row.base_url.endswith("/")
    assert row.base_url.startswith("https://" if row.key_envs else "http://127.0.0.1:") or name == "azure"
    assert row.api in KINDS
    endpoint = endpoint_of(name, EndpointSettings(), {})
    assert endpoint.hindrance == (endpoint.why_not if row.key_envs else None)
    kind: Any = KINDS[row.api]
    if name in ("openai", "anthropic", "gemini", "cohere", "ollama"):
        assert row.base_url == kind.address


@pytest.mark.parametrize("name", HOSTED)
async def test_a_service_without_a_key_says_which_variable_to_set_and_is_not_listed(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    registry = registry_of(Settings(discover=False))
    with pytest.raises(ProviderError) as caught:
        registry.get(name).check(asked(name))
    assert caught.value.code == "provider.auth"
    assert PRESETS[name].key_envs[0] in caught.value.message
    listed = {model.id.partition("/")[0] for model in await registry.models()}
    assert (name in listed) == PRESETS[name].listed
    monkeypatch.setenv(PRESETS[name].key_envs[0], "sk-found")
    monkeypatch.setenv("AZURE_OPENAI_ENDPOINT", "https://mine.openai.azure.com/")
    found = endpoints_of(Settings(), os.environ, {})[name]
    assert (found.api_key, found.hindrance, found.offered) == ("sk-found", None, True)


def test_azure_needs_a_resource_and_a_key_and_says_so() -> None:
    row = EndpointSettings()
    assert endpoint_of("azure", row, {}).hindrance == "set AZURE_OPENAI_ENDPOINT and AZURE_OPENAI_API_KEY"
    assert endpoint_of("azure", row, {"AZURE_OPENAI_API_KEY": "k"}).hindrance == "set AZURE_OPENAI_ENDPOINT"
    there = {"AZURE_OPENAI_ENDPOINT": "https://mine.openai.azure.com"}
    assert endpoint_of("azure", row, there).hindrance == "set AZURE_OPENAI_API_KEY"
    found = endpoint_of("azure", row, {**there, "AZURE_OPENAI_API_KEY": "k"})
    assert (found.hindrance, found.base_url) == (None, "https://mine.openai.azure.com/openai/v1")
    assert (
        azure_url("https://m.openai.azure.com/openai/deployments/d")
        == "https://m.openai.azure.com/openai/deployments/d"
    )


@pytest.mark.parametrize(
    ("host", "url"),
    [
        ("", "http://127.0.0.1:11434"),
        ("gpu", "http://gpu:11434"),
        ("gpu:1234", "http://gpu:1234"),
        ("0.0.0.0", "http://127.0.0.1:11434"),
        ("0.0.0.0:9", "http://127.0.0.1:9"),
        ("[::1]:9", "http://[::1]:9"),
        ("[::]", "http://[::1]:11434"),
        ("http://gpu", "http://gpu:80"),
        ("https://ollama.com/", "https://ollama.com:443"),
        ("https://proxy:8443/ollama", "https://proxy:8443/ollama"),
    ],
)
def test_ollamas_variable_is_read_as_its_own_client_reads_it(host: str, url: str) -> None:
    assert ollama_url(host) == url


def test_ollamas_key_is_for_an_address_that_somebody_chose() -> None:
    key = {"OLLAMA_API_KEY": "k"}
    assert endpoint_of("ollama", EndpointSettings(), key).api_key is None
    assert endpoint_of("ollama", EndpointSettings(), {**key, "OLLAMA_HOST": "https://ollama.com"}).api_key == "k"


@pytest.mark.parametrize("name", OPENAI_DIALECT)
def test_every_service_has_a_row_in_the_table_of_policies(name: str) -> None:
    endpoint = endpoint_of(name, EndpointSettings(), {})
    policy = policy_of("chat", endpoint.rules or endpoint.base_url, "", "any-model")
    expected = {
        "mistral": ("prefill", "prefix", True),
        "deepseek": ("prefill", "prefix", False),
        "moonshot": ("prefill", "partial", False),
        "alibaba": ("prefill", "partial", False),
        "perplexity": ("prompted", "assistant", False),
        "azure": ("prompted", "assistant", False),
    }
    assert (policy.best, policy.style, policy.echo) == expected.get(name, ("probe", "assistant", False))


@pytest.mark.parametrize("name", [name for name in OPENAI_DIALECT if wires_of(name)])
async def test_what_a_vendor_has_answered_is_read_through_its_preset(name: str, server: WireServer) -> None:
    for wire in wires_of(name)[:3]:
        server.reply = Reply(wire.body, segments=(1, max(9, len(wire.body) // 50)), seed=1)
        registry = behind(server, name, api=wire.api)
        outcome = await drain(registry.get(name), asked(name))
        await registry.aclose()
        assert (outcome.error.code if outcome.error else None) == wire.error
        assert (outcome.text, outcome.thinking) == (wire.text, wire.thinking)
        assert [(n, parsed(a)) for _, n, a in outcome.calls.values()] == [(n, parsed(a)) for _, n, a in wire.calls]


@pytest.mark.skipif(not ROOT.is_dir(), reason="the recorded wires are not beside this checkout")
def test_most_vendors_have_a_wire() -> None:
    assert len([name for name in OPENAI_DIALECT if wires_of(name)]) >= 12


@pytest.mark.skipif(not ROOT.is_dir(), reason="the recorded wires are not beside this checkout")
async def test_a_failure_that_groq_tells_in_the_middle_keeps_what_came_before(server: WireServer) -> None:
    wire = next(wire for wire in wires_of("groq") if wire.error is not None)
    server.reply = Reply(wire.body)
    registry = behind(server, "groq")
    outcome = await drain(registry.get("groq"), asked("groq"))
    await registry.aclose()
    assert outcome.error is not None
    assert (outcome.error.code, outcome.thinking) == ("provider.invalid", wire.thinking)


@pytest.mark.parametrize(
    "recorded", [body for body in error_bodies() if body.provider in OPENAI_DIALECT], ids=lambda body: body.key
)
async def test_a_vendors_refusal_gets_its_code_through_its_preset(recorded: Any, server: WireServer) -> None:
    server.reply = recorded.reply()
    registry = behind(server, recorded.provider, api=recorded.api)
    outcome = await drain(registry.get(recorded.provider), asked(recorded.provider))
    await registry.aclose()
    assert outcome.error is not None
    assert outcome.error.code == recorded.code


async def carried_on(name: str, server: WireServer, progress: Progress) -> tuple[Any, dict[str, Any]]:
    registry = behind(server, name)
    outcome = await drain(registry.get(name), asked(name), None, progress)
    await registry.aclose()
    posts = [got for got in server.requests if got.method == "POST"]
    return outcome, posts[-1].json["messages"][-1]


async def test_mistral_is_asked_with_a_prefix_and_its_echo_is_not_shown(server: WireServer) -> None:
    begun = "The three primary colours are red, yellow"
    server.reply = Reply(chat([begun, " and blue."]))
    outcome, last = await carried_on("mistral", server, Progress(begun))
    assert last == {"role": "assistant", "content": begun, "prefix": True}
    assert (outcome.text, outcome.resumed) == (" and blue.", Resumed("prefill", "verified"))


async def test_deepseek_is_asked_with_the_text_and_with_its_thinking(server: WireServer) -> None:
    server.reply = Reply(chat([" and blue."]))
    outcome, last = await carried_on("deepseek", server, Progress("Red, yellow", thinking="Primary colours."))
    assert last == {
        "role": "assistant",
        "content": "Red, yellow",
        "prefix": True,
        "reasoning_content": "Primary colours.",
    }
    assert (outcome.text, outcome.resumed) == (" and blue.", Resumed("prefill"))


@pytest.mark.parametrize("name", ["moonshot", "alibaba"])
async def test_kimi_and_qwen_are_asked_for_the_rest_of_a_partial_turn(name: str, server: WireServer) -> None:
    server.reply = Reply(chat([" and blue."]))
    outcome, last = await carried_on(name, server, Progress("Red, yellow"))
    assert last == {"role": "assistant", "content": "Red, yellow", "partial": True}
    assert outcome.text == " and blue."


async def test_mistral_gets_nothing_that_it_would_refuse(server: WireServer) -> None:
    server.reply = Reply(chat(["hello"]))
    registry = behind(server, "mistral")
    outcome = await drain(registry.get("mistral"), asked("mistral", seed=3, max_tokens=5, temperature=0.5))
    await registry.aclose()
    body = server.requests[-1].json
    assert set(body) == {"model", "messages", "stream", "random_seed", "max_tokens", "temperature"}
    assert outcome.warnings == []


async def test_azure_gets_its_key_in_its_own_header_and_a_version_in_the_address(server: WireServer) -> None:
    server.reply = Reply(chat(["hello"]))
    registry = behind(server, "azure", query={"api-version": "preview"}, models=["my-deployment"])
    assert [model.id for model in await registry.models() if model.id.startswith("azure/")] == ["azure/my-deployment"]
    await drain(registry.get("azure"), asked("azure", max_tokens=5))
    await registry.aclose()
    got: Asked = server.requests[-1]
    assert got.path == "/chat/completions?api-version=preview"
    assert (got.headers["api-key"], "authorization" in got.headers) == ("k", False)
    assert got.json["max_completion_tokens"] == 5


async def test_a_service_whose_list_means_something_else_is_not_asked_for_it(server: WireServer) -> None:
    server.reply = Reply(json.dumps({"data": [{"id": "gpt-99"}]}).encode(), framing="length")
    registry = behind(server, "azure")
    assert not [model for model in await registry.models() if model.id.startswith("azure/")]
    await registry.aclose()
    assert server.requests == []


@pytest.mark.parametrize("name", KNOWN_MODELS)
async def test_a_model_of_each_vendor_has_a_price_in_the_public_list(name: str) -> None:
    await pricing.prepare()
    registry = registry_of(Settings(discover=False))
    usage = Usage(1000, 1000, 2000, "provider")
    cost = registry.price(f"{name}/{KNOWN_MODELS[name]}", usage)
    assert cost is not None
    assert cost.total > 0
    assert registry.price(f"{name}/no-such-model", usage) is None


async def test_a_price_follows_the_name_that_a_section_gives() -> None:
    await pricing.prepare()
    sections = {
        "gateway": EndpointSettings(base_url="http://127.0.0.1:9", priced_as="openai"),
        "plain": EndpointSettings(base_url="http://127.0.0.1:9"),
        "eu": EndpointSettings(preset="mistral", base_url="http://127.0.0.1:9"),
    }
    registry = registry_of(Settings(endpoints=sections, discover=False))
    usage = Usage(1000, 1000, 2000, "provider")
    assert registry.price("gateway/gpt-5.5", usage) == registry.price("openai/gpt-5.5", usage) is not None
    assert registry.price("plain/gpt-5.5", usage) is None
    assert registry.price("eu/mistral-small-latest", usage) is not None
    assert registry.price("vllm/gpt-5.5", usage) is None
