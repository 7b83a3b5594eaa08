"""Which providers there are.  Each is made when it is first asked for, so that an SDK nobody uses is never imported."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from typing import Any

from everstream.core.errors import EverstreamError
from everstream.core.events import Cost, Usage
from everstream.providers.anthropic import AnthropicProvider
from everstream.providers.base import Memory, ModelInfo, Provider
from everstream.providers.openai import OpenAIProvider
from everstream.providers.pricing import cost_of
from everstream.providers.scripted import Scripted
from everstream.settings import Settings


class Registry:
    def __init__(self, makers: dict[str, Callable[[], Provider]]) -> None:
        self._makers = makers
        self._made: dict[str, Provider] = {}

    def get(self, name: str) -> Provider:
        """Raises EverstreamError `model.unknown` where no provider has this name."""
        provider = self._made.get(name)
        if provider is None:
            maker = self._makers.get(name)
            if maker is None:
                known = ", ".join(sorted(self._makers))
                raise EverstreamError("model.unknown", f"no provider `{name[:64]}`; there are: {known}")
            provider = self._made[name] = maker()
        return provider

    async def prepare(self) -> None:
        """Make ready what is configured, so that the first request need not wait."""
        for name in self._makers:
            await self.get(name).prepare()

    async def models(self) -> list[ModelInfo]:
        """What every provider offers; one that fails to say so offers nothing."""
        answers = await asyncio.gather(*(self.get(name).models() for name in self._makers), return_exceptions=True)
        return [model for answer in answers if not isinstance(answer, BaseException) for model in answer]

    def price(self, model: str, usage: Usage) -> Cost | None:
        return cost_of(model, usage)

    async def aclose(self) -> None:
        for provider in self._made.values():
            await provider.aclose()


def registry_of(settings: Settings, memory: Memory | None = None) -> Registry:
    """The providers that these settings configure; `memory` is where they keep what they find out."""

    shared: dict[str, Any] = {
        "max_connections": settings.provider_max_connections,
        "max_retries": settings.provider_max_retries,
        "connect_timeout_s": settings.provider_connect_timeout_s,
        "memory": memory,
    }

    def openai() -> Provider:
        key = settings.openai_api_key
        return OpenAIProvider(
            key.get_secret_value() if key else os.environ.get("OPENAI_API_KEY"),
            settings.openai_base_url or os.environ.get("OPENAI_BASE_URL"),
            api=settings.openai_api,
            background=settings.openai_background,
            continuation=settings.openai_continuation,
            **shared,
        )

    def anthropic() -> Provider:
        key = settings.anthropic_api_key
        return AnthropicProvider(
            key.get_secret_value() if key else os.environ.get("ANTHROPIC_API_KEY"),
            settings.anthropic_base_url or os.environ.get("ANTHROPIC_BASE_URL"),
            continuation=settings.anthropic_continuation,
            **shared,
        )

    return Registry({"anthropic": anthropic, "openai": openai, "scripted": Scripted})
