"""Ollama, by its own API: models on this machine, on another, or on Ollama's own machines.

It is asked without a package (`http_direct`) and answers in lines of JSON (`ollama_api`).  A request's `params.api`
chooses between `/api/chat`, which is the usual one, and `generate`: a prompt without turns, and with `raw` without
even the model's template.

No key is needed at a server of one's own; `OLLAMA_API_KEY` is for ollama.com and for proxies that ask for one.

Whether a model writes on from a turn that was begun depends on its template, so it is asked (`carry_known`).  A raw
prompt has no turns: there the text goes on by itself.
"""

from __future__ import annotations

import asyncio
import re
import time
from typing import Any

import msgspec

from everstream.core.events import Request
from everstream.providers.base import ModelInfo, Progress, ProviderError
from everstream.providers.carry_ladder import Rung
from everstream.providers.carry_policy import Dialect, Policy
from everstream.providers.endpoint import Endpoint
from everstream.providers.http_direct import Direct, DirectProvider
from everstream.providers.http_provider import Asking
from everstream.providers.ollama_api import OllamaFold
from everstream.providers.ollama_request import chat_body, generate_body

BASE_URL = "http://127.0.0.1:11434"
SUGGESTED = "llama3.2"  # where there is no model yet
LIST_TIMEOUT_S = 3.0
LIST_KEPT_S = 10.0  # a model that was just pulled should show up soon
SHOWN_AT_ONCE = 4
MODELS_LISTED_MAX = 500

_CONTEXT = re.compile(r"^num_ctx\s+(\d{1,9})\s*$", re.MULTILINE)


class _Tag(msgspec.Struct):
    name: str = ""
    model: str = ""
    digest: str = ""


class _Tags(msgspec.Struct):
    models: list[_Tag] | None = None


class _Shown(msgspec.Struct):
    """What a server tells of a model, where it does."""

    capabilities: list[str] | None = None  # "completion", "tools", "thinking", "vision"
    parameters: str | None = None  # of the model's own file, a line each

    @property
    def window(self) -> int | None:
        """The context that the model's own file sets.  Without one the server chooses, and does not say here which: how
        far the model could see is another matter."""
        said = _CONTEXT.search(self.parameters or "")
        return int(said[1]) or None if said is not None else None


_SILENT = _Shown()


class OllamaProvider(DirectProvider):
    """A provider (see `base.Provider`).  Its arguments are those of `HttpProvider`."""

    name = "ollama"
    api = "ollama"
    address = BASE_URL
    why_not = "start Ollama"

    def __init__(
        self,
        api_key: str | None = None,
        base_url: str | None = None,
        *,
        endpoint: Endpoint | None = None,
        **settings: Any,
    ) -> None:
        if endpoint is None:
            continuation = settings.pop("continuation", "auto")
            endpoint = Endpoint(
                self.name,
                self.api,
                (base_url or BASE_URL).rstrip("/"),
                api_key or None,
                needs_key=False,
                continuation=continuation,
            )
        super().__init__(endpoint=endpoint, **settings)
        self._listed: list[ModelInfo] = []
        self._listed_until_s = 0.0  # on the monotonic clock
        self._listing = asyncio.Lock()
        self._shown: dict[tuple[str, str], _Shown] = {}  # by name and digest: what is told of a model

    # ------------------------------------------------------------------ models

    async def models(self) -> list[ModelInfo]:
        """The models that the server has and that answer; asked at most once in `LIST_KEPT_S`."""
        async with self._listing:  # many may want to know at once
            if time.monotonic() >= self._listed_until_s:
                self._listed = await self._ask_for_models()
                self._listed_until_s = time.monotonic() + LIST_KEPT_S
            return self._listed

    async def _ask_for_models(self) -> list[ModelInfo]:
        wanted = self._endpoint.models
        try:
            await self.prepare()
            told = msgspec.json.decode(await self._fetch("GET", "/api/tags"), type=_Tags)
        except (ProviderError, msgspec.DecodeError):
            place = re.sub(r"//[^/@]*@", "//", self._base_url)
            why = self._endpoint.hindrance or f"Ollama does not answer at {place}: start it with `ollama serve`"
            return [self._info(model, _SILENT, why) for model in wanted or (SUGGESTED,)]
        tags = [tag for tag in told.models or () if tag.model or tag.name][:MODELS_LISTED_MAX]
        keys = {_key(tag) for tag in tags}
        self._shown = {key: shown for key, shown in self._shown.items() if key in keys}
        free = asyncio.Semaphore(SHOWN_AT_ONCE)

        async def learn(tag: _Tag) -> None:
            async with free:
                self._shown[_key(tag)] = await self._show(tag)

        await asyncio.gather(*(learn(tag) for tag in tags if self._shown.get(_key(tag), _SILENT).capabilities is None))
        if wanted:
            known = {name: self._shown[_key(tag)] for tag in tags for name in (tag.model, tag.name)}
            return [self._info(model, known.get(model, _SILENT)) for model in wanted]
        if not tags:
            why = f"Ollama has no model yet: `ollama pull {SUGGESTED}`"
            return [self._info(SUGGESTED, _SILENT, why)]
        found = [(tag.model or tag.name, self._shown[_key(tag)]) for tag in tags]
        return [
            self._info(model, shown)
            for model, shown in found
            if shown.capabilities is None or "completion" in shown.capabilities
        ]

    async def _show(self, tag: _Tag) -> _Shown:
        try:
            shown = await self._fetch("POST", "/api/show", {"model": tag.model or tag.name})
            return msgspec.json.decode(shown, type=_Shown)
        except (ProviderError, msgspec.DecodeError):
            return _SILENT

    async def _fetch(self, method: str, path: str, body: dict[str, Any] | None = None) -> bytes:
        direct: Direct = self._connect()
        return await direct.fetch(method, path, body, within_s=LIST_TIMEOUT_S)

    def _info(self, model: str, shown: _Shown, why_not: str | None = None) -> ModelInfo:
        endpoint, can = self._endpoint, shown.capabilities

        def able(word: str, said: bool | None) -> bool | None:
            return said if said is not None else None if can is None else word in can

        return ModelInfo(
            f"{self.name}/{model}",
            why_not is None,
            self._expected(model),
            why_not,
            thinking=able("thinking", endpoint.thinking),
            tools=able("tools", endpoint.tools),
            images=able("vision", endpoint.images),
            window=shown.window,
        )

    # ------------------------------------------------------------------ asking

    def _dialect(self, request: Request) -> Dialect:
        return "completions" if _generates(request) and request.extra.get("raw") else "ollama"

    def _ask(self, request: Request) -> Asking:
        generates = _generates(request)
        body, warnings = generate_body(request) if generates else chat_body(request)
        path = "/api/generate" if generates else "/api/chat"
        warnings += self._endpoint.untaken(body)
        return Asking(lambda: self._open(path, body), OllamaFold(self.name, warnings))

    def _rungs(self, policy: Policy, request: Request, progress: Progress) -> tuple[Rung, ...]:
        wanted = request.extra.get("format")
        if wanted:  # a grammar begins anew with each call, so an answer in it cannot be written on
            extra = {**request.extra, "response_format": {"type": "json_object"}}
            request = msgspec.structs.replace(request, extra=extra)
        return super()._rungs(policy, request, progress)

    def _ask_begun(self, way: Rung, request: Request, policy: Policy, progress: Progress) -> Asking:
        if _generates(request) and not request.extra.get("raw"):
            # The template makes a turn of a prompt; one that was begun needs the API that knows turns.
            extra = {key: value for key, value in request.extra.items() if key not in ("api", "template", "suffix")}
            request = msgspec.structs.replace(request, extra=extra)
        return self._ask(request)  # a last turn of the assistant's is one that is not finished


def _generates(request: Request) -> bool:
    return request.extra.get("api") == "generate"


def _key(tag: _Tag) -> tuple[str, str]:
    return tag.model or tag.name, tag.digest
