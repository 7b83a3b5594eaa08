"""How much a model sees at a time: who is believed first, and what each of them tells."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from pydantic import ValidationError
from tests.providers.wire_server import Asked, Reply, WireServer

from everstream.endpoint_settings import EndpointSettings
from everstream.providers import pricing, windows
from everstream.providers.base import ModelInfo
from everstream.providers.function import Model
from everstream.providers.gemini import GeminiProvider
from everstream.providers.huggingface import HuggingFaceProvider
from everstream.providers.local import LocalProvider
from everstream.providers.local_child import Child, Shape
from everstream.providers.local_models import LocalModel
from everstream.providers.model_list import listed_models
from everstream.providers.ollama import OllamaProvider
from everstream.providers.presets import PRESETS
from everstream.providers.registry import Registry, registry_of
from everstream.providers.scripted import Scripted
from everstream.providers.windows import Windows
from everstream.settings import Settings

JSON = {"content-type": "application/json"}
OTHERWISE = 12_345  # the setting context_tokens


@pytest.fixture(autouse=True)
def _no_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    for row in PRESETS.values():
        for variable in (*row.key_envs, row.address_env or "OLLAMA_API_KEY"):
            monkeypatch.delenv(variable, raising=False)


@pytest.fixture
async def server() -> AsyncIterator[WireServer]:
    async with WireServer() as server:
        yield server


def told(body: Any) -> Reply:
    return Reply(json.dumps(body).encode(), headers=JSON, framing="length")


def registry(otherwise: int = 0, **sections: Any) -> Registry:
    given = {name: EndpointSettings(**section) for name, section in sections.items()}
    return registry_of(Settings(endpoints=given, discover=False, context_tokens=otherwise, provider_max_retries=0))


# --------------------------------------------------------------------------- the public list


def listed_as(service: str, model: str) -> Any:
    """The row of the installed list."""
    from genai_prices.data_snapshot import get_snapshot

    listed = get_snapshot()
    (found,) = [row for row in listed.find_provider(None, service, None).models if row.id == model]
    return found.context_window


@pytest.mark.parametrize(
    ("model", "service", "least", "most"),
    [
        ("anthropic/claude-sonnet-4-5", "anthropic", 200_000, 1_000_000),
        ("openai/gpt-4o", "openai", 128_000, 128_000),
        ("openai/gpt-5", "openai", 272_000, 400_000),
        ("gemini/gemini-2.5-flash", "google", 1_000_000, 1_048_576),
        ("deepseek/deepseek-v4-flash", "deepseek", 128_000, 1_048_576),
    ],
)
async def test_the_public_list_knows_well_known_models(model: str, service: str, least: int, most: int) -> None:
    await pricing.prepare()
    window = registry(OTHERWISE).window(model)
    assert window is not None
    assert least <= window <= most
    assert window == listed_as(service, model.partition("/")[2])


async def test_a_dated_name_is_the_model_that_it_dates() -> None:
    await pricing.prepare()
    assert registry().window("openai/gpt-4o-2024-08-06") == registry().window("openai/gpt-4o")
    assert registry().window("anthropic/claude-sonnet-4-5-20250929") == registry().window("anthropic/claude-sonnet-4-5")


@pytest.mark.parametrize(
    "model",
    ["openai/no-such-model", "gemini/embedding-x", "ollama/llama3.2", "nobody/gpt-5", "gpt-5", "openai/", "/", ""],
)
async def test_what_nobody_knows_is_as_the_settings_say_or_unknown(model: str) -> None:
    await pricing.prepare()
    assert registry().window(model) is None
    assert registry(OTHERWISE).window(model) == OTHERWISE


async def test_the_list_is_not_loaded_for_a_window(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pricing, "_look_up", None)
    assert registry(OTHERWISE).window("openai/gpt-4o") == OTHERWISE


async def test_names_that_clients_make_up_are_not_kept_without_bound() -> None:
    await pricing.prepare()
    look_up: Any = pricing._look_up
    for number in range(pricing.WINDOWS_KEPT_MAX + 10):
        look_up("deepseek", f"made-up-{number}")
    assert look_up.cache_info().currsize == pricing.WINDOWS_KEPT_MAX


# --------------------------------------------------------------------------- who is believed first


async def test_a_section_comes_before_the_services_own_list_and_that_before_the_public_one(server: WireServer) -> None:
    await pricing.prepare()
    server.reply = told({"data": [{"id": "gpt-4o", "max_model_len": 5_000}, {"id": "gpt-5"}, {"id": "own"}]})
    given: dict[str, Any] = {"base_url": server.url, "priced_as": "openai"}
    providers = registry(OTHERWISE, said={**given, "context_tokens": 777}, lists=given)
    models = ("gpt-4o", "gpt-5", "own")
    public = [listed_as("openai", model) for model in models[:2]]
    assert [providers.window(f"lists/{model}") for model in models] == [*public, OTHERWISE]
    shown = {model.id: model.window for model in await providers.models()}
    assert [providers.window(f"lists/{model}") for model in models] == [5_000, public[1], OTHERWISE]
    assert [providers.window(f"said/{model}") for model in models] == [777, 777, 777]
    assert {id: providers.window(id) for id in shown} == shown  # and clients are told the same
    await providers.aclose()


async def test_functions_of_the_application_and_scripted_models_have_the_window_of_the_settings() -> None:
    async def function(request: Any, stream: Any) -> None: ...

    for otherwise, window in ((0, None), (OTHERWISE, OTHERWISE)):
        settings = Settings(discover=False, context_tokens=otherwise)
        providers = registry_of(settings, None, {"gpt-4o": Model(function)})
        assert providers.window("app/gpt-4o") == providers.window("scripted/echo") == window
        await providers.aclose()


def test_a_provider_that_knows_unasked_comes_before_lists_and_after_the_settings() -> None:
    said, unsaid = Windows({"p": 9}), Windows(otherwise=9)
    for known in (said, unsaid):
        known.learn([ModelInfo("p/m", True, None, window=7)])
    assert (said.of("p/m", 5), unsaid.of("p/m", 5), unsaid.of("p/m"), unsaid.of("p/other")) == (9, 5, 7, 9)


def test_a_section_cannot_say_that_its_models_see_nothing() -> None:
    with pytest.raises(ValidationError):
        EndpointSettings(base_url="http://127.0.0.1:9", context_tokens=0)


def test_what_lists_tell_is_bounded_and_the_newest_word_holds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(windows, "TOLD_MAX", 2)
    known = Windows()
    for tokens in (100, 200):
        known.learn([ModelInfo(f"p/{name}", True, None, window=tokens) for name in "abc"])
    known.learn([ModelInfo("p/a", True, None)])  # a list that does not say takes nothing back
    assert [known.of(f"p/{name}") for name in "abc"] == [200, 200, None]


async def test_a_registry_without_settings_knows_no_window() -> None:
    assert Registry({"scripted": Scripted}).window("scripted/echo") is None


# --------------------------------------------------------------------------- what providers tell


@pytest.mark.parametrize(
    ("row", "window"),
    [
        ({"max_model_len": 32_768}, 32_768),  # vLLM, SGLang
        ({"meta": {"n_ctx": 8_192, "n_ctx_train": 131_072}}, 8_192),  # llama.cpp
        ({"meta": {"n_ctx_train": 131_072}}, None),
        ({"context_length": 262_144, "max_model_len": 16_384}, 16_384),
        ({"context_length": 200_000}, 200_000),  # OpenRouter
        ({"context_window": 131_072}, 131_072),  # Groq
        ({"max_context_length": 128_000}, 128_000),  # Mistral
        ({"max_model_len": None, "context_length": 0}, None),
        ({"max_model_len": "4096", "context_length": True}, None),
        ({"meta": 3}, None),
        ({}, None),
    ],
)
def test_a_row_of_a_list_tells_a_window_in_its_servers_words(row: dict[str, Any], window: int | None) -> None:
    (listed,) = listed_models(msgspec.json.encode({"data": [{"id": "m", **row}]}))
    assert listed.window == window


async def test_gemini_tells_the_limit_of_each_model(server: WireServer) -> None:
    methods = {"supportedGenerationMethods": ["generateContent"]}
    rows = [{"name": "models/gemini-9-pro", "inputTokenLimit": 1_048_576}, {"name": "models/gemini-9-flash"}]
    server.reply = told({"models": [{**row, **methods} for row in rows]})
    provider = GeminiProvider("secret", server.url, max_retries=0)
    shown = {model.id: model.window for model in await provider.models()}
    await provider.aclose()
    assert shown == {"gemini/gemini-9-pro": 1_048_576, "gemini/gemini-9-flash": None}


@pytest.mark.parametrize(
    ("parameters", "window"),
    [
        ('stop                           "<|eot|>"\nnum_ctx                        8192\ntemperature 1', 8_192),
        ("num_ctx 0", None),
        ("temperature 0.7", None),
        ("", None),
        (None, None),
    ],
)
async def test_ollama_tells_the_context_of_a_modelfile_and_not_what_it_chooses_itself(
    server: WireServer, parameters: str | None, window: int | None
) -> None:
    def answer(asked: Asked) -> Reply:
        if asked.path == "/api/show":
            info = {"llama.context_length": 131_072}
            return told({"capabilities": ["completion"], "parameters": parameters, "model_info": info})
        return told({"models": [{"name": "m", "model": "m", "digest": "d"}]})

    server.reply = answer
    provider = OllamaProvider(None, server.url, max_retries=0)
    for _ in range(2):  # what was told is kept
        (model,) = await provider.models()
        assert (model.id, model.window) == ("ollama/m", window)
        provider._listed_until_s = 0.0
    await provider.aclose()


async def test_a_local_model_sees_what_it_was_given_and_less_where_it_was_trained_for_less(tmp_path: Path) -> None:
    provider = LocalProvider(tmp_path, Shape(context_tokens=4_096))
    assert [model.window for model in await provider.models()] == [4_096]
    child = Child(LocalModel("small", tmp_path / "small.gguf", 4, 1), Shape(context_tokens=4_096))
    provider._children["small"] = child
    assert provider.window("small") == 4_096
    child.context_tokens = 2_048  # as its process says once it runs
    assert (provider.window("small"), provider.window("other")) == (2_048, 4_096)
    providers = registry(OTHERWISE)
    assert providers.window("local/smollm2") == Settings().local_context_tokens


async def test_a_model_of_this_process_tells_its_window_once_it_is_loaded() -> None:
    class Loaded:
        context_tokens = 256

    provider = HuggingFaceProvider("owner/name")
    assert provider.window("owner/name") is None
    held = provider._hold("owner/name")
    assert provider.window("owner/name") is None
    held._model = Loaded()
    assert provider.window("owner/name") == 256
    await provider.aclose()
