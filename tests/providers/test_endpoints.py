"""Any service by settings: what a section says is what the service gets, and nobody else gets anything of it."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio
from tests.providers.seams import chat, messages
from tests.providers.wire_server import Asked, Reply, WireServer
from tests.providers.wires import drain

from everstream.core.errors import EverstreamError
from everstream.core.events import Message, Params, Request
from everstream.endpoint_settings import EndpointSettings
from everstream.providers.base import ProviderError
from everstream.providers.presets import PRESETS
from everstream.providers.registry import Registry, registry_of
from everstream.settings import Settings

SAID = chat(["hello"])
VARIABLES = {variable for row in PRESETS.values() for variable in (*row.key_envs, row.address_env) if variable}


@pytest.fixture(autouse=True)
def _no_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in VARIABLES:
        monkeypatch.delenv(variable, raising=False)


@pytest_asyncio.fixture
async def server() -> AsyncIterator[WireServer]:
    async with WireServer() as server:
        server.reply = Reply(SAID)
        yield server


def asked(model: str, **params: Any) -> Request:
    return Request(model, [Message("user", "hello")], Params(**params))


def registry(**sections: Any) -> Registry:
    given = {name: EndpointSettings(**section) for name, section in sections.items()}
    return registry_of(Settings(endpoints=given, discover=False, provider_max_retries=0))


async def sent(providers: Registry, server: WireServer, request: Request) -> Asked:
    """The request as the server got it."""
    outcome = await drain(providers.get(request.model.partition("/")[0]), request)
    await providers.aclose()
    assert outcome.error is None, outcome.error
    assert outcome.text == "hello"
    return server.requests[-1]


async def test_a_section_without_a_preset_is_a_service_of_its_own(server: WireServer) -> None:
    providers = registry(mine={"base_url": server.url + "/v1", "api_key": "sk-mine"})
    got = await sent(providers, server, asked("mine/any-model", max_tokens=9))
    assert (got.path, got.headers["authorization"]) == ("/v1/chat/completions", "Bearer sk-mine")
    assert (got.json["model"], got.json["max_tokens"]) == ("any-model", 9)


async def test_headers_query_and_body_of_a_section_go_with_every_request(server: WireServer) -> None:
    providers = registry(
        gateway={
            "base_url": server.url,
            "headers": {"X-Team": "chat", "authorization": "Basic abc"},
            "query": {"api-version": "preview"},
            "body": {"service_tier": "flex", "temperature": 1},
        }
    )
    got = await sent(providers, server, asked("gateway/m", temperature=0.5))
    assert got.path == "/chat/completions?api-version=preview"
    assert (got.headers["x-team"], got.headers["authorization"]) == ("chat", "Basic abc")
    assert got.json["service_tier"] == "flex"
    assert got.json["temperature"] == 0.5  # what was asked for comes before what a section adds


async def test_what_a_service_does_not_take_is_left_out_and_the_caller_is_told(server: WireServer) -> None:
    providers = registry(odd={"base_url": server.url, "leave_out": ["seed", "stream_options"]})
    outcome = await drain(providers.get("odd"), asked("odd/m", seed=4, top_p=0.5))
    await providers.aclose()
    body = server.requests[-1].json
    assert not {"seed", "stream_options"} & body.keys()
    assert body["top_p"] == 0.5
    assert outcome.warnings == ["seed is not taken by odd and was left out"]


@pytest.mark.parametrize("field", ["max_tokens", "max_completion_tokens"])
async def test_the_bound_on_tokens_has_the_name_that_the_service_knows(field: str, server: WireServer) -> None:
    providers = registry(named={"base_url": server.url, "max_tokens_field": field})
    got = await sent(providers, server, asked("named/m", max_tokens=7))
    assert {key: value for key, value in got.json.items() if key.startswith("max_")} == {field: 7}


@pytest.mark.parametrize(("api", "path", "reply"), [("chat", "/chat/completions", SAID), ("messages", "", b"")])
async def test_the_key_goes_out_once_in_the_header_that_the_service_looks_in(
    api: str, path: str, reply: bytes, server: WireServer
) -> None:
    server.reply = Reply(reply or messages(["hello"]))
    section = {"base_url": server.url, "api": api, "api_key": "sk-mine", "key_header": "api-key"}
    got = await sent(registry(apart=section), server, asked("apart/m"))
    assert got.path == (path or "/v1/messages")
    assert [name for name, value in got.headers.items() if "sk-mine" in value] == ["api-key"]
    assert "authorization" not in got.headers


async def test_the_responses_api_of_another_service_is_spoken(server: WireServer) -> None:
    done = {"type": "response.completed", "response": {"id": "r", "status": "completed"}}
    said = [{"type": "response.output_text.delta", "output_index": 0, "content_index": 0, "delta": "hello"}, done]
    server.reply = Reply(b"".join(f"event: {e['type']}\ndata: {json.dumps(e)}\n\n".encode() for e in said))
    section = {"base_url": server.url, "api": "responses", "body": {"store": False}, "leave_out": ["temperature"]}
    got = await sent(registry(other=section), server, asked("other/m", temperature=0.1))
    assert (got.path, got.json["store"], "temperature" in got.json) == ("/responses", False, False)


async def test_the_messages_api_of_another_service_is_spoken(server: WireServer) -> None:
    server.reply = Reply(messages(["hello"]))
    section = {
        "base_url": server.url,
        "api": "messages",
        "api_key": "k",
        "headers": {"X-Team": "a"},
        "query": {"v": "1"},
    }
    got = await sent(registry(other=section), server, asked("other/m"))
    assert got.path == "/v1/messages?v=1"
    assert (got.headers["x-api-key"], got.headers["x-team"]) == ("k", "a")


@pytest.mark.parametrize("api", ["chat", "messages"])
async def test_what_a_vendors_environment_holds_goes_to_no_other_service(
    api: str, server: WireServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("OPENAI", "ANTHROPIC"):
        monkeypatch.setenv(f"{name}_CUSTOM_HEADERS", "X-Secret: hidden-a\nAuthorization: Bearer hidden-b")
        monkeypatch.setenv(f"{name}_API_KEY", "hidden-c")
    monkeypatch.setenv("OPENAI_ORG_ID", "hidden-d")
    monkeypatch.setenv("OPENAI_PROJECT_ID", "hidden-e")
    server.reply = Reply(SAID if api == "chat" else messages(["hello"]))
    got = await sent(registry(other={"base_url": server.url, "api": api}), server, asked("other/m"))
    assert "hidden" not in str(got.headers)


async def test_a_proxy_of_the_environment_is_not_asked_for_this_machine(
    server: WireServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    for variable in ("HTTP_PROXY", "http_proxy", "ALL_PROXY"):
        monkeypatch.setenv(variable, "http://127.0.0.1:9")
    monkeypatch.delenv("NO_PROXY", raising=False)
    monkeypatch.delenv("no_proxy", raising=False)
    await sent(registry(near={"base_url": server.url}), server, asked("near/m"))


async def test_the_variable_of_the_key_is_named_where_it_is_not_set(
    server: WireServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    providers = registry(mine={"base_url": server.url, "key_env": "MY_KEY", "models": ["m"]})
    with pytest.raises(ProviderError) as caught:
        providers.get("mine").check(asked("mine/m"))
    assert (caught.value.code, caught.value.message) == ("provider.auth", "set MY_KEY")
    shown = [model for model in await providers.models() if model.id == "mine/m"]
    assert [(model.usable, model.why_not) for model in shown] == [(False, "set MY_KEY")]
    monkeypatch.setenv("MY_KEY", "sk-found")
    got = await sent(registry(mine={"base_url": server.url, "key_env": "MY_KEY"}), server, asked("mine/m"))
    assert got.headers["authorization"] == "Bearer sk-found"


async def test_the_models_of_a_section_are_offered_with_what_it_says_of_them() -> None:
    section = {"base_url": "http://127.0.0.1:9", "models": ["a", "b"], "tools": True, "images": False}
    providers = registry(mine={**section, "continuation": "prefill"})
    shown = [model for model in await providers.models() if model.id.startswith("mine/")]
    assert [(model.id, model.usable, model.continuation) for model in shown] == [
        ("mine/a", True, "prefill"),
        ("mine/b", True, "prefill"),
    ]
    assert {(model.thinking, model.tools, model.images) for model in shown} == {(None, True, False)}


async def test_a_service_that_has_a_list_is_asked_for_its_models_that_chat(server: WireServer) -> None:
    rows = [
        {"id": "plain"},
        {"id": "text-embedding-9"},
        {"id": "speaks", "capabilities": {"completion_chat": True, "function_calling": True, "vision": False}},
        {"id": "ranks", "capabilities": {"completion_chat": False}},
        {"id": "paints", "architecture": {"output_modalities": ["image"]}},
        {
            "id": "routed",
            "architecture": {"input_modalities": ["text", "image"], "output_modalities": ["text"]},
            "supported_parameters": ["tools", "reasoning"],
        },
        {"id": "typed", "type": "chat"},
        {"id": "other", "type": "embedding"},
        {"id": 7},
        "odd",
    ]
    told = {"plain": (None, None, None), "speaks": (None, True, False), "routed": (True, True, True)}
    for body in ({"object": "list", "data": rows}, rows):  # and a bare array, as Together has it
        server.reply = Reply(json.dumps(body).encode(), framing="length")
        providers = registry(mine={"base_url": server.url})
        shown = [model for model in await providers.models() if model.id.startswith("mine/")]
        await providers.aclose()
        assert {model.id[5:]: (model.thinking, model.tools, model.images) for model in shown} == told | {
            "typed": (None, None, None)
        }


@pytest.mark.parametrize("body", [b"", b"no json", b"[1]", b'{"data": 3}', b"null"])
async def test_a_service_with_no_list_to_speak_of_offers_nothing_and_can_be_asked(
    body: bytes, server: WireServer
) -> None:
    server.reply = Reply(body, framing="length")
    providers = registry(mine={"base_url": server.url})
    assert not [model for model in await providers.models() if model.id.startswith("mine/")]
    server.reply = Reply(SAID)
    await sent(providers, server, asked("mine/any"))


async def test_a_section_over_a_vendor_keeps_what_it_does_not_say(
    server: WireServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-environment")
    given = Settings(
        endpoints={"openai": EndpointSettings(headers={"X-Team": "a"})}, openai_base_url=server.url, discover=False
    )
    got = await sent(registry_of(given), server, asked("openai/m"))
    assert (got.headers["authorization"], got.headers["x-team"]) == ("Bearer sk-environment", "a")


async def test_the_key_of_one_vendor_does_not_go_to_another_under_its_name(server: WireServer) -> None:
    section = EndpointSettings(preset="mistral", base_url=server.url)
    given = Settings(endpoints={"openai": section}, openai_api_key="sk-openai", discover=False)
    got = await sent(registry_of(given), server, asked("openai/m"))
    assert "sk-openai" not in str(got.headers)


async def test_a_preset_may_have_several_names(server: WireServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MISTRAL_API_KEY", "sk-m")
    providers = registry(eu={"preset": "mistral", "base_url": server.url, "api_key": "sk-eu"})
    got = await sent(providers, server, asked("eu/mistral-small-latest", seed=3))
    assert (got.headers["authorization"], got.json["random_seed"]) == ("Bearer sk-eu", 3)
    assert "stream_options" not in got.json


async def test_an_unknown_name_is_told_from_those_there_are() -> None:
    with pytest.raises(EverstreamError) as caught:
        registry().get("mistrall")
    assert caught.value.code == "model.unknown"
    assert "mistral" in caught.value.message


async def test_no_secret_of_an_endpoint_is_in_what_is_printed_of_it() -> None:
    section = {
        "base_url": "http://127.0.0.1:9",
        "api_key": "hidden",
        "headers": {"X-Key": "hidden"},
        "query": {"k": "hidden"},
    }
    providers = registry(mine=section)
    made: Any = providers.get("mine")
    assert "hidden" not in repr(made._endpoint)
    outcome = await drain(made, asked("mine/m"))
    await providers.aclose()
    assert outcome.error is not None
    assert "hidden" not in str(outcome.error)
    assert "hidden" not in repr(EndpointSettings(**section).api_key)
