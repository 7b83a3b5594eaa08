"""OpenAI, and every server that speaks its API.

The official package builds the request, signs it, retries it and keeps the pool; the body of the answer is read as
bytes (`http_answer`) and folded by the dialect: chat completions, or the Responses API where `api` says so, for the
whole provider or in one request's `params.api`.

With a base URL of its own the provider is a door to any compatible server: it asks that server which models it has,
sends only what all of them understand, and needs no key.  Any model may be asked for as `openai/NAME`, listed or not.

`openai` is imported here and nowhere else, when the first request is made.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncGenerator
from importlib import import_module
from typing import TYPE_CHECKING, Any, Literal

import msgspec

from everstream.core.events import Continuation, Request
from everstream.providers import pricing
from everstream.providers.base import Batch, ModelInfo, Progress, ProviderError, Sink
from everstream.providers.chat_completions import ChatFold
from everstream.providers.chat_request import chat_body, thinks_always
from everstream.providers.http_answer import Fold, Opener, answer, pour
from everstream.providers.http_body import SETTLE_S, connection_error, make_limits, make_timeout, read_errors
from everstream.providers.http_errors import status_error, tell_of_long_waits
from everstream.providers.responses_api import ResponsesFold, responses_body

if TYPE_CHECKING:
    import openai as sdk

BASE_URL = "https://api.openai.com/v1"
MODELS = (
    "gpt-6-astra",
    "gpt-6.1-sol",
    "gpt-6.1-terra",
    "gpt-6-luna",
    "gpt-5.6-sol",
    "gpt-5.6-terra",
    "gpt-5.6-luna",
    "gpt-5.5",
    "gpt-5.4-mini",
    "gpt-5.4-nano",
)
MODELS_LISTED_MAX = 500
LIST_TIMEOUT_S = 3.0
LIST_KEPT_S = 60.0

Api = Literal["chat", "responses"]
_NO_KEY = "no-key-needed"  # servers of one's own ask for none, but the package insists
_WHY_NOT = "set OPENAI_API_KEY"


class _Model(msgspec.Struct):
    id: str


class _ModelList(msgspec.Struct):
    data: list[_Model] = []


class OpenAIProvider:
    """A provider (see `base.Provider`).

    `base_url` None means OpenAI itself.  `connect_timeout_s` bounds the making of a connection; reading is bounded by
    the relay.  `max_retries` counts new attempts at a request that was not yet answered, never at a broken answer.
    """

    name = "openai"

    def __init__(
        self,
        api_key: str | None,
        base_url: str | None = None,
        *,
        api: Api = "chat",
        max_connections: int = 4096,
        max_retries: int = 2,
        connect_timeout_s: float = 10.0,
    ) -> None:
        self._api_key = api_key or None
        self._base_url = (base_url or BASE_URL).rstrip("/")
        self._official = self._base_url == BASE_URL
        self._api = api
        self._max_connections = max_connections
        self._max_retries = max_retries
        self._connect_timeout_s = connect_timeout_s
        self._client: sdk.AsyncOpenAI | None = None
        self._settling: set[asyncio.Task[None]] = set()
        self._listed: list[ModelInfo] = []
        self._listed_until_s = 0.0  # on the monotonic clock

    @classmethod
    def from_environment(
        cls, *, api_key: str | None = None, base_url: str | None = None, **settings: Any
    ) -> OpenAIProvider:
        """With OPENAI_API_KEY and OPENAI_BASE_URL where the arguments are None; `settings` are the constructor's."""
        return cls(
            api_key or os.environ.get("OPENAI_API_KEY"), base_url or os.environ.get("OPENAI_BASE_URL"), **settings
        )

    async def models(self) -> list[ModelInfo]:
        """The models worth offering.  A server of one's own is asked, at most once in `LIST_KEPT_S`."""
        if self._official:
            return [self._info(model) for model in MODELS]
        if time.monotonic() >= self._listed_until_s:
            self._listed = await self._ask_for_models()
            self._listed_until_s = time.monotonic() + LIST_KEPT_S
        return self._listed

    async def prepare(self) -> None:
        """Import the package in a thread, make the client, load the prices.  Nothing where there is no key."""
        if self._client is None and (self._api_key is not None or not self._official):
            await asyncio.to_thread(import_module, "openai")
            self._connect()
            await pricing.prepare()

    def check(self, request: Request) -> None:
        """Raises ProviderError `provider.auth` where there is no key."""
        if self._api_key is None and self._official:
            raise ProviderError("provider.auth", _WHY_NOT)

    def continuation(self, request: Request, progress: Progress) -> Continuation | None:
        """None: an answer that broke off is not carried on."""
        return None

    def generate(self, request: Request, progress: Progress | None = None) -> AsyncGenerator[Batch, None]:
        """Ask, and yield batches as they come.  Contract: `base.Provider.generate`."""
        opener, fold = self._ask(request)
        return answer(self.name, opener, fold, self._settling)

    async def pour(self, request: Request, progress: Progress | None, sink: Sink) -> None:
        """Ask, and hand batches on as they come.  Contract: `base.PouringProvider.pour`."""
        opener, fold = self._ask(request)
        await pour(self.name, opener, fold, self._settling, sink)

    def _ask(self, request: Request) -> tuple[Opener, Fold]:
        fold: Fold
        responses = request.extra.get("api", self._api) == "responses"
        if responses:
            body, warnings = responses_body(request, official=self._official)
            fold = ResponsesFold(self.name, warnings)
        else:
            body, warnings = chat_body(request, official=self._official)
            body.pop("api", None)
            fold = ChatFold(self.name, warnings)
        return lambda: self._open(body, responses), fold

    async def abandon(self, request: Request, progress: Progress) -> None:
        """Nothing runs on at the provider once its connection is closed."""

    async def aclose(self) -> None:
        """Close the pool.  Idempotent; a later request makes a new one."""
        client, self._client = self._client, None
        if self._settling:
            await asyncio.wait(tuple(self._settling), timeout=SETTLE_S)
        if client is not None:
            await client.close()

    async def _open(self, body: dict[str, Any], responses: bool) -> Any:
        await self.prepare()
        client = self._connect()
        import openai as sdk

        connection_errors: tuple[type[BaseException], ...] = (sdk.APIError, *read_errors())
        # The whole body travels as "extra": the package then does not walk through the history to check its types.
        rest: dict[str, Any] = {"extra_body": body, "extra_headers": {"Accept-Encoding": "identity"}}
        model = body["model"]
        try:
            if responses:
                asking: Any = client.responses.with_streaming_response.create(model=model, stream=True, **rest)
            else:
                asking = client.chat.completions.with_streaming_response.create(
                    model=model, messages=[], stream=True, **rest
                )
            return await asking.__aenter__()
        except sdk.APIStatusError as error:
            raise status_error(self.name, error.status_code, error.response.headers, error.body) from None
        except connection_errors as error:
            raise connection_error(self.name, error) from None

    def _connect(self) -> sdk.AsyncOpenAI:
        """The client, made when first needed: importing the package takes most of a second."""
        if self._client is None:
            if self._api_key is None and self._official:
                raise ProviderError("provider.auth", _WHY_NOT)
            import openai as sdk

            self._client = sdk.AsyncOpenAI(
                api_key=self._api_key or _NO_KEY,
                base_url=self._base_url,
                max_retries=self._max_retries,
                timeout=make_timeout(self._connect_timeout_s),
                http_client=sdk.DefaultAioHttpClient(
                    limits=make_limits(self._max_connections), event_hooks={"response": [tell_of_long_waits]}
                ),
            )
        return self._client

    async def _ask_for_models(self) -> list[ModelInfo]:
        await self.prepare()
        client = self._connect()
        import openai as sdk

        try:
            found = await client.with_options(max_retries=0, timeout=LIST_TIMEOUT_S).models.with_raw_response.list()
            listed = msgspec.json.decode(found.content, type=_ModelList).data[:MODELS_LISTED_MAX]
        except (sdk.APIError, OSError, msgspec.DecodeError):
            listed = []
        if listed:
            return [ModelInfo(f"{self.name}/{model.id}", True, None) for model in listed]
        if self._listed:
            return self._listed
        why = "the server at OPENAI_BASE_URL does not list its models; any name may be asked for as openai/NAME"
        return [ModelInfo(f"{self.name}/{model}", False, None, why) for model in MODELS]

    def _info(self, model: str) -> ModelInfo:
        usable = self._api_key is not None
        return ModelInfo(
            f"{self.name}/{model}",
            usable,
            None,
            None if usable else _WHY_NOT,
            thinking=thinks_always(model),
            tools=True,
            images=True,
        )
