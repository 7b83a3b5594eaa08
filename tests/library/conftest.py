"""Engines whose providers are ours: a wire server on loopback, or what the test says by hand."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import structlog
from tests.providers.wire_server import WireServer
from tests.runtime.conftest import Hand

import everstream
from everstream import library_engine
from everstream.library import close
from everstream.library_engine import Engine
from everstream.providers.registry import Registry, registry_of

WAIT_S = 10.0


@pytest.fixture(autouse=True)
def _quiet_surroundings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    for name in [name for name in os.environ if name.upper().startswith("EVERSTREAM_") or name.endswith("_API_KEY")]:
        monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)
    yield
    close()
    structlog.reset_defaults()


@pytest.fixture
async def engine() -> AsyncIterator[Engine]:
    async with Engine(settings=everstream.Settings()) as engine:
        yield engine


@pytest.fixture
async def wires() -> AsyncIterator[WireServer]:
    async with WireServer() as server:
        yield server


@pytest.fixture
def settings_for() -> Callable[..., everstream.Settings]:
    """Settings whose OpenAI and Anthropic are a wire server."""

    def settings(server: WireServer, **given: Any) -> everstream.Settings:
        addresses = {"openai_base_url": server.url, "anthropic_base_url": server.url}
        keys = {"openai_api_key": "k", "anthropic_api_key": "k"}
        return everstream.Settings(**{"provider_max_retries": 0, **addresses, **keys, **given})

    return settings


@pytest.fixture
def hand(monkeypatch: pytest.MonkeyPatch) -> Hand:
    """The provider `hand`, in every engine of the test."""
    hand = Hand()

    def with_hand(*given: Any, **named: Any) -> Registry:
        registry = registry_of(*given, **named)
        found = registry.get
        registry.get = lambda name: hand if name == "hand" else found(name)  # type: ignore[assignment, method-assign, return-value]
        return registry

    monkeypatch.setattr(library_engine, "registry_of", with_hand)
    return hand
