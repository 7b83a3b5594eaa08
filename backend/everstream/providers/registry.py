"""Which providers there are.  Each is made when it is first asked for, so that an SDK nobody uses is never imported.

Every service of the table of presets can be asked for by name, and every section `[endpoints.NAME]`.  Shown to people,
and made ready before the first request, is what can be used: what has its key, what the settings name, and what was
found on this machine (`discovery`).  Which service a name leads to is the operator's word alone; no request has any
say in addresses, headers or keys.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import msgspec
import structlog

from everstream.core.errors import EverstreamError
from everstream.core.events import Cost, Usage
from everstream.providers.anthropic import AnthropicProvider
from everstream.providers.base import Memory, ModelInfo, Provider
from everstream.providers.cohere import CohereProvider
from everstream.providers.discovery import USUAL, Discovery, Usual
from everstream.providers.endpoint import Api, Endpoint
from everstream.providers.function import PROVIDER, FunctionProvider, Model
from everstream.providers.gemini import GeminiProvider
from everstream.providers.huggingface import HuggingFaceProvider
from everstream.providers.local import LocalProvider
from everstream.providers.local_child import Shape
from everstream.providers.ollama import OllamaProvider
from everstream.providers.openai import OpenAIProvider
from everstream.providers.presets import endpoints_of
from everstream.providers.pricing import cost_of
from everstream.providers.scripted import Scripted
from everstream.providers.windows import Windows
from everstream.settings import Settings

logger = structlog.get_logger(__name__)

Maker = Callable[[], Provider]

KINDS: dict[Api, Callable[..., Provider]] = {  # who speaks it
    "chat": OpenAIProvider,
    "responses": OpenAIProvider,
    "completions": OpenAIProvider,
    "messages": AnthropicProvider,
    "ollama": OllamaProvider,
    "cohere": CohereProvider,
    "gemini": GeminiProvider,
    "interactions": GeminiProvider,
}


class Registry:
    """`quiet` providers answer who asks for them, and are neither shown nor made ready, unless `discovery` finds them.
    `priced_as` is what the public price list calls each, and `windows` what is known of how much their models see."""

    def __init__(
        self,
        makers: Mapping[str, Maker],
        *,
        quiet: Collection[str] = (),
        discovery: Discovery | None = None,
        priced_as: Mapping[str, str] | None = None,
        windows: Windows | None = None,
    ) -> None:
        self._makers = makers
        self._quiet = frozenset(quiet)
        self._discovery = discovery
        self._priced_as = priced_as or {}
        self._windows = windows or Windows()
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
        """Make ready what is configured, so that the first request need not wait.  Who fails does not stop others."""
        for name in await self._offered():
            try:
                await self.get(name).prepare()
            except Exception:
                logger.exception("a provider cannot be made ready", provider=name)

    async def models(self) -> list[ModelInfo]:
        """What every provider offers; one that fails to say so offers nothing."""
        names = await self._offered()
        answers = await asyncio.gather(*(self.get(name).models() for name in names), return_exceptions=True)
        models = [model for answer in answers if not isinstance(answer, BaseException) for model in answer]
        self._windows.learn(models)
        return [msgspec.structs.replace(model, window=self.window(model.id)) for model in models]

    def price(self, model: str, usage: Usage) -> Cost | None:
        """What `usage` of a model `provider/name` costs; None: it is not known."""
        provider, _, name = model.partition("/")
        return cost_of(self._priced_as.get(provider, ""), name, usage)

    def window(self, model: str) -> int | None:
        """The tokens that a model `provider/name` sees at a time, question and answer together; None: not known.

        What is known grows as providers list their models and load them.  Nobody is asked, and nothing raised.
        """
        provider, _, name = model.partition("/")
        knows = getattr(self.get(provider), "window", None) if provider in self._makers else None
        return self._windows.of(model, knows(name) if knows is not None else None)

    async def aclose(self) -> None:
        for provider in self._made.values():
            await provider.aclose()

    async def _offered(self) -> list[str]:
        found = await self._discovery.found() if self._discovery is not None else ()
        return [name for name in self._makers if name not in self._quiet or name in found]


def registry_of(
    settings: Settings,
    memory: Memory | None = None,
    models: Mapping[str, Model] | None = None,
    *,
    places: Sequence[Usual] = USUAL,
) -> Registry:
    """The providers that these settings configure; `memory` is where they keep what they find out.

    `models` are functions of the application that runs the server: the provider `app`.  `places` is where servers of
    this machine are looked for.
    """
    endpoints = endpoints_of(settings, os.environ, {place.name: place.base_url for place in places})
    makers: dict[str, Maker] = {name: _maker(endpoint, settings, memory) for name, endpoint in endpoints.items()}
    makers["huggingface"] = lambda: HuggingFaceProvider(settings.huggingface_models)
    makers["local"] = lambda: LocalProvider(settings.data_dir, _shape(settings))
    makers["scripted"] = Scripted
    if models is not None:  # first, as what this server was written for
        makers = {PROVIDER: lambda: FunctionProvider(models), **makers}
    quiet = {name for name, endpoint in endpoints.items() if not endpoint.offered}
    spoken_of = endpoints.keys() - quiet
    discovery = Discovery(places, left_alone=spoken_of, own_port=settings.port) if settings.discover else None
    priced_as = {name: endpoint.priced_as for name, endpoint in endpoints.items()}
    said = {name: endpoint.context_tokens for name, endpoint in endpoints.items()}
    windows = Windows(said, priced_as, settings.context_tokens)
    return Registry(makers, quiet=quiet, discovery=discovery, priced_as=priced_as, windows=windows)


def _shape(settings: Settings) -> Shape:
    return Shape(settings.local_threads, settings.local_parallel, settings.local_context_tokens, settings.local_idle_s)


def _maker(endpoint: Endpoint, settings: Settings, memory: Memory | None) -> Maker:
    shared: dict[str, Any] = {
        "endpoint": endpoint,
        "max_connections": settings.provider_max_connections,
        "max_retries": settings.provider_max_retries,
        "connect_timeout_s": settings.provider_connect_timeout_s,
        "memory": memory,
    }
    kind = KINDS[endpoint.api]
    if kind is OpenAIProvider and endpoint.name == "openai":  # the settings' word about OpenAI, not about its API
        shared["background"] = settings.openai_background
    elif kind is GeminiProvider:
        shared["background"] = settings.gemini_background
    return lambda: kind(**shared)
