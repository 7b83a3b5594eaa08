"""Which providers there are, which are shown, and that a request has no say in any of it."""

from __future__ import annotations

from typing import Any

import pytest
from tests.providers.seams import chat
from tests.providers.wire_server import Reply, WireServer
from tests.providers.wires import drain

from everstream.core.errors import EverstreamError
from everstream.core.events import Message, Params, Request, Usage
from everstream.endpoint_settings import PRESET_NAMES, TAKEN_NAMES, EndpointSettings
from everstream.providers.base import ModelInfo
from everstream.providers.function import Model
from everstream.providers.presets import PRESETS
from everstream.providers.registry import Registry, registry_of
from everstream.providers.scripted import Scripted
from everstream.settings import Settings


@pytest.fixture(autouse=True)
def _no_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    for row in PRESETS.values():
        for variable in (*row.key_envs, row.address_env or "OLLAMA_API_KEY"):
            monkeypatch.delenv(variable, raising=False)


class Broken(Scripted):
    """A provider whose list cannot be had."""

    name = "broken"

    async def models(self) -> list[ModelInfo]:
        raise RuntimeError("a bug")


def shown_by(models: list[ModelInfo]) -> list[str]:
    return list(dict.fromkeys(model.id.partition("/")[0] for model in models))


async def test_without_a_key_the_three_great_vendors_are_shown_with_what_to_do_and_scripted_works() -> None:
    registry = registry_of(Settings(discover=False))
    models = await registry.models()
    shown = shown_by(models)
    assert [name for name in shown if name not in TAKEN_NAMES] == ["openai", "anthropic", "gemini"]
    told = {model.id.partition("/")[0]: model.why_not for model in models}
    assert told["openai"] == "set OPENAI_API_KEY"
    assert told["anthropic"] == "set ANTHROPIC_API_KEY"
    assert told["gemini"] == "set GEMINI_API_KEY or GOOGLE_API_KEY"
    assert any(model.usable for model in models if model.id.startswith("scripted/"))
    await registry.aclose()


async def test_every_preset_can_be_asked_for_by_name_and_is_made_only_then() -> None:
    registry = registry_of(Settings(discover=False))
    await registry.prepare()
    made = set(registry._made)
    assert not made & (set(PRESET_NAMES) - {"openai", "anthropic", "gemini"})
    for name in PRESET_NAMES:
        assert registry.get(name) is registry.get(name)
        assert registry.get(name).name == name
    await registry.aclose()


async def test_functions_of_the_application_come_first_and_sections_before_what_is_only_known(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("DEEPSEEK_API_KEY", "k")
    sections = {"lab": EndpointSettings(base_url="http://127.0.0.1:9", models=("m",))}

    async def function(request: Request, stream: Any) -> None: ...

    registry = registry_of(Settings(endpoints=sections, discover=False), None, {"mine": Model(function)})
    shown = shown_by(await registry.models())
    assert shown[:6] == ["app", "openai", "anthropic", "gemini", "lab", "deepseek"]
    await registry.aclose()


async def test_a_provider_that_fails_to_list_its_models_hides_no_other() -> None:
    registry = Registry({"broken": Broken, "scripted": Scripted})
    assert shown_by(await registry.models()) == ["scripted"]


async def test_what_is_quiet_is_not_shown_and_can_be_asked() -> None:
    registry = Registry({"scripted": Scripted}, quiet=["scripted"])
    assert await registry.models() == []
    assert registry.get("scripted").name == "scripted"
    with pytest.raises(EverstreamError, match="no provider `other`"):
        registry.get("other")


async def test_a_registry_without_prices_prices_nothing() -> None:
    assert Registry({"openai": Scripted}).price("openai/gpt-5.5", Usage(1, 1, 2, "provider")) is None


async def test_a_request_has_no_say_in_addresses_headers_or_keys() -> None:
    async with WireServer() as server, WireServer() as elsewhere:
        server.reply = Reply(chat(["hello"]))
        section = EndpointSettings(base_url=server.url, api_key="sk-mine")
        registry = registry_of(Settings(endpoints={"lab": section}, discover=False, provider_max_retries=0))
        wish = {
            "base_url": elsewhere.url,
            "api_key": "sk-other",
            "headers": {"X-Evil": "1"},
            "extra_headers": {"X-Evil": "1"},
            "extra_query": {"evil": "1"},
            "extra_body": {"evil": "1"},
        }
        request = Request("lab/m", [Message("user", "hello")], Params(), extra=wish)
        outcome = await drain(registry.get("lab"), request)
        await registry.aclose()
        assert outcome.text == "hello"
        (got,) = server.requests
        assert (got.path, got.headers["authorization"]) == ("/chat/completions", "Bearer sk-mine")
        assert "x-evil" not in got.headers
        assert elsewhere.requests == []


async def test_a_provider_that_cannot_be_made_ready_does_not_hold_up_the_others() -> None:
    class Unready(Scripted):
        async def prepare(self) -> None:
            raise RuntimeError("a bug")

    class Ready(Scripted):
        prepared = False

        async def prepare(self) -> None:
            self.prepared = True

    ready = Ready()
    await Registry({"one": Unready, "two": lambda: ready}).prepare()
    assert ready.prepared
