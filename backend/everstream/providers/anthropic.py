"""Anthropic's models, by the Messages API.

The official package builds the request, signs it, retries it and keeps the pool; the body of the answer is read as
bytes (`http_answer`) and folded by the dialect (`messages_api`).  Its tracing is off: it costs more than the reading.

The key goes out as `Authorization: Bearer`, as the package does it.  Other servers that speak this API often look for
`X-Api-Key` still, so with a base URL of its own the provider sends both.

`anthropic` is imported here and nowhere else, when the first request is made.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncGenerator
from importlib import import_module
from typing import TYPE_CHECKING, Any

from everstream.core.events import Continuation, Request
from everstream.providers import pricing
from everstream.providers.base import Batch, ModelInfo, Progress, ProviderError, Sink
from everstream.providers.http_answer import answer, pour
from everstream.providers.http_body import SETTLE_S, connection_error, make_limits, make_timeout, read_errors
from everstream.providers.http_errors import status_error, tell_of_long_waits
from everstream.providers.messages_api import MessagesFold
from everstream.providers.messages_request import MessagesRequest, messages_body

if TYPE_CHECKING:
    import anthropic as sdk

BASE_URL = "https://api.anthropic.com"
MODELS = (
    "claude-fable-5-2",
    "claude-opus-5-5",
    "claude-sonnet-5-5",
    "claude-haiku-5-5",
    "claude-opus-5",
    "claude-sonnet-5",
    "claude-opus-4-8",
    "claude-sonnet-4-6",
    "claude-haiku-4-5",
)

_NO_KEY = "no-key-needed"
_WHY_NOT = "set ANTHROPIC_API_KEY"


class AnthropicProvider:
    """A provider (see `base.Provider`).

    `base_url` None means Anthropic itself.  `connect_timeout_s` bounds the making of a connection; reading is bounded
    by the relay.  `max_retries` counts new attempts at a request that was not yet answered, never at a broken answer.
    """

    name = "anthropic"

    def __init__(
        self,
        api_key: str | None,
        base_url: str | None = None,
        *,
        max_connections: int = 4096,
        max_retries: int = 2,
        connect_timeout_s: float = 10.0,
    ) -> None:
        self._api_key = api_key or None
        self._base_url = (base_url or BASE_URL).rstrip("/")
        self._official = self._base_url == BASE_URL
        self._max_connections = max_connections
        self._max_retries = max_retries
        self._connect_timeout_s = connect_timeout_s
        self._client: sdk.AsyncAnthropic | None = None
        self._settling: set[asyncio.Task[None]] = set()

    @classmethod
    def from_environment(
        cls, *, api_key: str | None = None, base_url: str | None = None, **settings: Any
    ) -> AnthropicProvider:
        """With ANTHROPIC_API_KEY and ANTHROPIC_BASE_URL for arguments that are None; `settings`: the constructor's."""
        return cls(
            api_key or os.environ.get("ANTHROPIC_API_KEY"), base_url or os.environ.get("ANTHROPIC_BASE_URL"), **settings
        )

    async def models(self) -> list[ModelInfo]:
        """The models worth offering.  Others may be asked for by name all the same."""
        usable = self._api_key is not None or not self._official
        why_not = None if usable else _WHY_NOT
        return [
            ModelInfo(f"{self.name}/{model}", usable, None, why_not, thinking=True, tools=True, images=True)
            for model in MODELS
        ]

    async def prepare(self) -> None:
        """Import the package in a thread, make the client, load the prices.  Nothing where there is no key."""
        if self._client is None and (self._api_key is not None or not self._official):
            await asyncio.to_thread(import_module, "anthropic")
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
        asked = messages_body(request)
        return answer(self.name, lambda: self._open(asked), MessagesFold(self.name, asked.warnings), self._settling)

    async def pour(self, request: Request, progress: Progress | None, sink: Sink) -> None:
        """Ask, and hand batches on as they come.  Contract: `base.PouringProvider.pour`."""
        asked = messages_body(request)
        fold = MessagesFold(self.name, asked.warnings)
        await pour(self.name, lambda: self._open(asked), fold, self._settling, sink)

    async def abandon(self, request: Request, progress: Progress) -> None:
        """Nothing runs on at the provider once its connection is closed."""

    async def aclose(self) -> None:
        """Close the pool.  Idempotent; a later request makes a new one."""
        client, self._client = self._client, None
        if self._settling:
            await asyncio.wait(tuple(self._settling), timeout=SETTLE_S)
        if client is not None:
            await client.close()

    async def _open(self, asked: MessagesRequest) -> Any:
        await self.prepare()
        client = self._connect()
        import anthropic as sdk

        connection_errors: tuple[type[BaseException], ...] = (sdk.APIError, *read_errors())
        try:
            # The whole body travels as "extra": the package then does not walk through the history to check its types.
            return await client.messages.with_streaming_response.create(
                model="",
                max_tokens=1,
                messages=[],
                stream=True,
                extra_body=asked.body,
                extra_headers={"Accept-Encoding": "identity", **asked.headers},
            ).__aenter__()
        except sdk.APIStatusError as error:
            raise status_error(self.name, error.status_code, error.response.headers, error.body) from None
        except connection_errors as error:
            raise connection_error(self.name, error) from None

    def _connect(self) -> sdk.AsyncAnthropic:
        """The client, made when first needed: importing the package takes two seconds."""
        if self._client is None:
            if self._api_key is None and self._official:
                raise ProviderError("provider.auth", _WHY_NOT)
            import anthropic as sdk

            key = self._api_key or _NO_KEY
            self._client = sdk.AsyncAnthropic(
                api_key=key,
                base_url=self._base_url,
                max_retries=self._max_retries,
                timeout=make_timeout(self._connect_timeout_s),
                http_client=sdk.DefaultAioHttpClient(
                    limits=make_limits(self._max_connections), event_hooks={"response": [tell_of_long_waits]}
                ),
                default_headers=None if self._official else {"X-Api-Key": key},
                open_telemetry=False,
            )
        return self._client
