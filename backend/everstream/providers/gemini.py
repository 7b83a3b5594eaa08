"""Google's Gemini models: by generateContent, or by the Interactions API where `api` says so.

Where a request goes and what identifies us the official package says (`gemini_address`); the body is written here
(`gemini_request`, `interactions_request`), and the answer is read as bytes like everybody's (`http_answer`).

Interactions may run in the background and be read on by any node, as OpenAI's responses: from the moment one is asked
for it is either handed over by its name or cancelled.  Agents such as Deep Research run in no other way.

Names that end in `-latest` and previews are only known to the API's version v1beta; a version in the base URL or in
GOOGLE_GENAI_API_VERSION comes before that.
"""

from __future__ import annotations

import asyncio
import os
import re
import time
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Literal
from urllib.parse import quote, urlencode

import msgspec
import structlog

from everstream.core.events import Continuation, Request
from everstream.providers import packages, pricing
from everstream.providers.base import ModelInfo, Progress, ProviderError
from everstream.providers.carry_ladder import Rung
from everstream.providers.carry_policy import Dialect, Policy
from everstream.providers.endpoint import Endpoint
from everstream.providers.gemini_address import Address, Google, is_about_credentials, make_package, on_vertex
from everstream.providers.gemini_api import GenerateFold, google_error
from everstream.providers.gemini_interactions import InteractionsFold, Run
from everstream.providers.gemini_request import generate_body, generation
from everstream.providers.http_body import Body, read_errors
from everstream.providers.http_direct import Direct
from everstream.providers.http_provider import Asking, HttpProvider
from everstream.providers.http_runs import Begun, Runs
from everstream.providers.interactions_request import interaction_body

logger = structlog.get_logger(__name__)

BASE_URL = "https://generativelanguage.googleapis.com"
MODELS = (
    "gemini-4-argon",
    "gemini-3.8-flash",
    "gemini-3.7-flash",
    "gemini-3.5-flash",
    "gemini-3.5-flash-lite",
    "gemini-3.1-pro-preview",
    "gemini-2.5-pro",
    "gemini-2.5-flash",
    "gemini-pro-latest",
    "gemini-flash-latest",
)
MODELS_LISTED_MAX = 500
LIST_TIMEOUT_S = 3.0
LIST_KEPT_S = 60.0
SIGNATURES_MAX = 4096  # of tool calls; some kilobytes each at most
SIGNATURE_CHARACTERS_MAX = 16_384

Background = Literal["auto", "on", "off"]
_NO_KEY = "no-key-needed"  # proxies of one's own ask for none, but the package insists
_KEYS = ("GEMINI_API_KEY", "GOOGLE_API_KEY")
_VERSION = re.compile(r"/(v\d+(?:(?:alpha|beta)\d*)?)$")
_BETA = re.compile(r"latest|preview|exp")
_AGENT = re.compile(r"^(?:deep-research|antigravity)-")  # which work alone, for minutes, and only in the background
_NO_CHAT = re.compile(r"embed|tts|image|audio|live|transcribe|robotics|computer-use|nano-banana|omni|aqa")


class _Listed(msgspec.Struct, rename="camel"):
    name: str
    supported_generation_methods: list[str] | None = None
    input_token_limit: int | None = None

    @property
    def model(self) -> str:
        return self.name.removeprefix("models/")


class _Listing(msgspec.Struct):
    models: list[_Listed] = []


class GeminiProvider(HttpProvider):
    """A provider (see `base.Provider`).  Its further arguments, `settings` too, are those of `HttpProvider`.

    `background`: run interactions in the background, and ask for nothing else; `auto`: where the model is an agent that
    works for minutes.
    """

    name = "gemini"
    api = "gemini"
    package = "google.genai"
    address = BASE_URL
    why_not = "set GEMINI_API_KEY"

    def __init__(
        self,
        api_key: str | None = None,
        base_url: str | None = None,
        *,
        background: Background = "auto",
        endpoint: Endpoint | None = None,
        **settings: Any,
    ) -> None:
        super().__init__(api_key, base_url, endpoint=endpoint, **settings)
        self._on_vertex = self._official and on_vertex()
        if self._on_vertex:
            self._endpoint = replace(self._endpoint, needs_key=False)
        version = _VERSION.search(self._base_url)
        self._version = version[1] if version is not None else None
        self._root = self._base_url[: version.start()] if version is not None else self._base_url
        self._official = self._root == self.address
        self._background = background
        self._signatures: dict[str, str] = {}  # of tool calls, by id; the oldest are forgotten
        self._runs = Runs(self._owe)
        self._listed: list[str] = []
        self._windows: dict[str, int | None] = {}  # of those that are listed
        self._listed_until_s = 0.0  # on the monotonic clock
        self._listing = asyncio.Lock()
        self._making = asyncio.Lock()

    async def prepare(self) -> None:
        """Import the package and make its client in a thread, for on Vertex AI that looks for credentials."""
        async with self._making:
            if self._client is None and self._endpoint.hindrance is None:
                await packages.load("google.genai")
                client = await asyncio.to_thread(self._make_client, self._api_key)
                if not self._on_vertex:  # where the address is known beforehand
                    await client.prepare(self._root)
                self._client = client
                await pricing.prepare()

    def _make_client(self, api_key: str | None) -> Google:
        if self._on_vertex:  # a key that is only in the environment is the package's to weigh against a project
            said = api_key if api_key not in {os.environ.get(name) for name in _KEYS} else None
        else:
            said = api_key or _NO_KEY
        try:
            package = make_package(said, None if self._on_vertex else self._root, self._version, vertex=self._on_vertex)
        except Exception as error:  # of the package's, or of whatever it asks for credentials
            raise self._without_credentials(error) from None
        return Google(package, self._direct_to)

    def _direct_to(self, origin: str) -> Direct:
        return Direct(
            replace(self._endpoint, base_url=origin, api_key=None),
            max_connections=self._max_connections,
            max_retries=self._max_retries,
            connect_timeout_s=self._connect_timeout_s,
        )

    def _without_credentials(self, error: Exception) -> ProviderError:
        logger.warning("no credentials for Gemini", provider=self.name, error=repr(error))
        return ProviderError("provider.auth", f"{self.name} has no credentials ({type(error).__name__})")

    # ------------------------------------------------------------------ models

    async def models(self) -> list[ModelInfo]:
        """The models worth offering.  With a key the service is asked for more, at most once in `LIST_KEPT_S`."""
        why_not = self._endpoint.hindrance
        known = self._endpoint.models or MODELS
        if why_not is None and not self._endpoint.models and not self._on_vertex and self._endpoint.lists:
            async with self._listing:  # many may want to know at once
                if time.monotonic() >= self._listed_until_s:
                    self._listed = await self._ask_for_models() or self._listed
                    self._listed_until_s = time.monotonic() + LIST_KEPT_S
            if self._listed:
                known = tuple(sorted(self._listed, key=lambda model: MODELS.index(model) if model in MODELS else 99))
        return [self._info(model, why_not) for model in known]

    async def _ask_for_models(self) -> list[str]:
        failures: tuple[type[BaseException], ...] = (ProviderError, msgspec.DecodeError, *read_errors())
        try:
            async with asyncio.timeout(LIST_TIMEOUT_S):
                body = await self._open("GET", await self._beside_models("models?pageSize=1000", "preview"), None, 0)
                try:
                    text = b""
                    while data := await body.read():
                        text += data
                finally:
                    await body.close()
            found = msgspec.json.decode(text, type=_Listing).models
        except failures:
            return []
        self._windows = {one.model: one.input_token_limit for one in found[:MODELS_LISTED_MAX]}
        chatty = [one.model for one in found if "generateContent" in (one.supported_generation_methods or ())]
        return [model for model in chatty if not _NO_CHAT.search(model)][:MODELS_LISTED_MAX]

    def _info(self, model: str, why_not: str | None) -> ModelInfo:
        said = self._endpoint
        return ModelInfo(
            f"{self.name}/{model}",
            why_not is None,
            self._expected(model),
            why_not,
            thinking=generation(model) >= (2, 5) if said.thinking is None else said.thinking,
            tools=True if said.tools is None else said.tools,
            images=True if said.images is None else said.images,
            window=self._windows.get(model),
        )

    def _expected(self, model: str) -> Continuation | None:
        if self._carry != "none" and self._in_background(Request(f"{self.name}/{model}", [])):
            return "exact"
        return super()._expected(model)

    # ------------------------------------------------------------------ asking

    def _in_background(self, request: Request) -> bool:
        asked = request.extra.get("background")
        if isinstance(asked, bool):
            return asked
        if self._background == "auto":
            return _AGENT.search(request.model_name) is not None
        return self._background == "on"

    def _dialect(self, request: Request) -> Dialect:
        said = request.extra.get("api", self._endpoint.api)
        return "interactions" if said == "interactions" or self._in_background(request) else "gemini"

    def _ask(self, request: Request) -> Asking:
        if self._dialect(request) == "gemini":
            return self._ask_model(request)
        body, warnings = interaction_body(request, agent=_AGENT.search(request.model_name) is not None)
        warnings += self._endpoint.untaken(body)
        if not self._in_background(request):
            return Asking(lambda: self._open_interaction(request, body), InteractionsFold(self.name, warnings))
        body["background"] = True
        body.setdefault("store", True)
        run = Run(request.model_name)
        return Asking(lambda: self._open_run(request, body), self._fold_run(run, warnings))

    def _ask_begun(self, way: Rung, request: Request, policy: Policy, progress: Progress) -> Asking:
        return self._ask_model(request)  # a last turn of the model's is one that is not finished

    def _ask_model(self, request: Request) -> Asking:
        body, warnings = generate_body(request, self._signatures.get)
        warnings += self._endpoint.untaken(body)
        model = request.model_name
        return Asking(lambda: self._open_model(model, body), GenerateFold(self.name, warnings, self._keep))

    def _keep(self, call: str, signature: str) -> None:
        if len(signature) <= SIGNATURE_CHARACTERS_MAX:
            self._signatures[call] = signature
            if len(self._signatures) > SIGNATURES_MAX:
                del self._signatures[next(iter(self._signatures))]

    async def _open_model(self, model: str, body: Mapping[str, Any]) -> Body:
        return await self._open("POST", await self._address(model), self._endpoint.fitted(body))

    async def _open_interaction(self, request: Request, body: Mapping[str, Any]) -> Body:
        at = await self._beside_models("interactions", request.model_name)
        return await self._open("POST", at, self._endpoint.fitted(body))

    async def _address(self, model: str, named: str | None = None) -> Address:
        """`named` is the model whose API version counts, where that is another one."""
        await self.prepare()
        client: Google = self._connect()
        version = self._version
        if version is None and not self._on_vertex and not os.environ.get("GOOGLE_GENAI_API_VERSION"):
            version = "v1beta" if _BETA.search(named or model) else None
        try:
            return await client.address(model, version)
        except Exception as error:
            if is_about_credentials(error):
                raise self._without_credentials(error) from None
            raise ProviderError("model.unknown", f"{self.name} takes no such name for a model") from None

    async def _beside_models(self, path: str, model: str) -> Address:
        """The address of something that lies where the models do."""
        return (await self._address("gemini", model)).beside("gemini", path)

    async def _open(
        self, method: str, at: Address, body: Mapping[str, Any] | None, max_retries: int | None = None
    ) -> Body:
        client: Google = self._connect()
        try:
            return await client.open(method, at, body, max_retries)
        except ProviderError as error:
            raise google_error(error) from None

    # ------------------------------------------------------------------ runs in the background

    def _fold_run(self, run: Run, warnings: tuple[str, ...] = ()) -> InteractionsFold:
        return InteractionsFold(self.name, warnings, run, self._runs.note_failed)

    def _reattach(self, request: Request, progress: Progress) -> Asking | None:
        run = Run.of(progress.cursor)
        if run is None or not run.after or self._runs.has_failed(run.interaction):
            return None
        if run.model not in ("", request.model_name):
            return None
        return Asking(lambda: self._open_again(run), self._fold_run(run))

    async def _open_again(self, run: Run) -> Body:
        place = urlencode({"stream": "true", "last_event_id": run.after})
        at = await self._beside_models(f"interactions/{quote(run.interaction, safe='')}?{place}", run.model)
        return await self._open("GET", at, None)

    async def _open_run(self, request: Request, body: Mapping[str, Any]) -> Body:
        run = Run()
        return await self._runs.begin(
            Begun(
                lambda: self._open_interaction(request, body),
                InteractionsFold(self.name, run=run),
                lambda: run.interaction,
                lambda interaction: self._cancel(interaction, request.model_name),
            )
        )

    async def abandon(self, request: Request, progress: Progress) -> None:
        """Cancel what runs in the background.  Contract: `base.Provider.abandon`."""
        run = Run.of(progress.cursor)
        if run is not None:
            model = run.model or request.model_name
            await self._runs.cancel(run.interaction, lambda interaction: self._cancel(interaction, model))

    async def _cancel(self, interaction: str, model: str) -> None:
        at = await self._beside_models(f"interactions/{quote(interaction, safe='')}/cancel", model)
        await (await self._open("POST", at, None)).close()
