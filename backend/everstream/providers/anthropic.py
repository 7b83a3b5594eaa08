"""Anthropic's models, by the Messages API.

The official package builds the request, signs it, retries it and keeps the pool; the body of the answer is read as
bytes (`http_answer`) and folded by the dialect (`messages_api`).  Its tracing is off: it costs more than the reading.

The key goes out as `Authorization: Bearer`, as the package does it.  Other servers that speak this API often look for
`X-Api-Key` still, so with a base URL of its own the provider sends both.

`anthropic` is imported here and nowhere else, when the first request is made.
"""

from __future__ import annotations

from typing import Any

from everstream.core.events import Request
from everstream.providers.base import ModelInfo, Progress
from everstream.providers.carry_ladder import Rung
from everstream.providers.carry_policy import Dialect, Policy
from everstream.providers.http_body import connection_error, make_limits, make_timeout, read_errors
from everstream.providers.http_errors import status_error, tell_of_long_waits
from everstream.providers.http_headers import environment_headers, own_headers
from everstream.providers.http_provider import Asking, HttpProvider
from everstream.providers.messages_api import MessagesFold
from everstream.providers.messages_request import MessagesRequest, messages_body

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


class AnthropicProvider(HttpProvider):
    """A provider (see `base.Provider`).  Its arguments are those of `HttpProvider`."""

    name = "anthropic"
    api = "messages"
    package = "anthropic"
    address = BASE_URL
    why_not = "set ANTHROPIC_API_KEY"

    async def models(self) -> list[ModelInfo]:
        """The models worth offering.  Others may be asked for by name all the same."""
        endpoint = self._endpoint
        own = self._official or self.name == AnthropicProvider.name
        return [
            ModelInfo(
                f"{self.name}/{model}",
                endpoint.hindrance is None,
                self._expected(model),
                endpoint.hindrance,
                thinking=own or None if endpoint.thinking is None else endpoint.thinking,
                tools=own or None if endpoint.tools is None else endpoint.tools,
                images=own or None if endpoint.images is None else endpoint.images,
            )
            for model in endpoint.models or (MODELS if own else ())
        ]

    async def abandon(self, request: Request, progress: Progress) -> None:
        """Nothing runs on once its connection is closed."""

    def _dialect(self, request: Request) -> Dialect:
        return "messages"

    def _ask(self, request: Request) -> Asking:
        asked = messages_body(request)
        warnings = (*asked.warnings, *self._endpoint.untaken(asked.body))
        return Asking(lambda: self._open(asked), MessagesFold(self.name, warnings))

    def _ask_begun(self, way: Rung, request: Request, policy: Policy, progress: Progress) -> Asking:
        return self._ask(request)  # a last turn of the assistant's is one that is not finished

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
                extra_body=self._endpoint.fitted(asked.body),
                extra_headers={"Accept-Encoding": "identity", **asked.headers},
            ).__aenter__()
        except sdk.APIStatusError as error:
            raise status_error(self.name, error.status_code, error.response.headers, error.body) from None
        except connection_errors as error:
            raise connection_error(self.name, error) from None

    def _make_client(self, api_key: str | None) -> Any:
        import anthropic as sdk

        key = api_key or _NO_KEY
        return sdk.AsyncAnthropic(
            api_key=key,
            base_url=self._base_url,
            max_retries=self._max_retries,
            timeout=make_timeout(self._connect_timeout_s),
            http_client=sdk.DefaultAioHttpClient(
                limits=make_limits(self._max_connections),
                event_hooks={"response": [tell_of_long_waits]},
                trust_env=self._endpoint.trusts_environment,
            ),
            default_headers=own_headers(
                self._endpoint,
                key,
                usual=("Authorization",) if self._official else ("Authorization", "X-Api-Key"),
                foreign=None
                if self.name == AnthropicProvider.name
                else environment_headers("ANTHROPIC_CUSTOM_HEADERS"),
                omit=sdk.Omit(),
            ),
            default_query=dict(self._endpoint.query),
            open_telemetry=False,
        )
