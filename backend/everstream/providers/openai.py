"""OpenAI, and every server that speaks its API.

The official package builds the request, signs it, retries it and keeps the pool; the body of the answer is read as
bytes (`http_answer`) and folded by the dialect: chat completions, or the Responses API or plain completions where
`api` says so, for the whole provider or in one request's `params.api`.

A response may run in the background: then it goes on whatever becomes of the connection, and can be read on from any
place, by any node.  It also goes on when nobody wants it any more, so from the moment it is asked for it is either
handed over by its name, or cancelled: `abandon`, and `Runs` where the name was not known yet.

With a base URL of its own the provider is a door to any compatible server: it asks that server which models it has,
sends only what all of them understand, and needs no key.  Any model may be asked for as `openai/NAME`, listed or not.

`openai` is imported here and nowhere else, when the first request is made.
"""

from __future__ import annotations

import asyncio
import re
import time
from typing import Any, Literal

import msgspec

from everstream.core.events import Continuation, Request
from everstream.providers.base import ModelInfo, Progress
from everstream.providers.carry_ladder import Rung, tokens_head
from everstream.providers.carry_policy import Dialect, Policy
from everstream.providers.carry_request import completions_body, mark_unfinished, tells_tokens
from everstream.providers.chat_completions import ChatFold
from everstream.providers.chat_request import chat_body, thinks_always
from everstream.providers.completions_request import plain_body
from everstream.providers.endpoint import Endpoint
from everstream.providers.http_body import Body, connection_error, make_limits, make_timeout, read_errors
from everstream.providers.http_errors import status_error, tell_of_long_waits
from everstream.providers.http_headers import environment_headers, own_headers, without_authorization
from everstream.providers.http_provider import Asking, HttpProvider
from everstream.providers.http_runs import Begun, Runs
from everstream.providers.model_list import Listed, listed_models
from everstream.providers.responses_api import ResponsesFold, Run, responses_body

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
LIST_TIMEOUT_S = 3.0
LIST_KEPT_S = 60.0


Chosen = Literal["chat", "responses"]
Background = Literal["auto", "on", "off"]
Route = Literal["chat", "responses", "completions"]
_NO_KEY = "no-key-needed"  # servers of one's own ask for none, but the package insists
_MINUTES = re.compile(r"(?:^|-)(?:pro|deep-research)(?:-|$)")  # models that think for so long


class OpenAIProvider(HttpProvider):
    """A provider (see `base.Provider`).  Its further arguments, `settings` too, are those of `HttpProvider`.

    `background`: run responses in the background; `auto`: where the model thinks for minutes.
    """

    name = "openai"
    api = "chat"
    package = "openai"
    address = BASE_URL
    why_not = "set OPENAI_API_KEY"

    def __init__(
        self,
        api_key: str | None = None,
        base_url: str | None = None,
        *,
        api: Chosen = "chat",
        background: Background = "auto",
        endpoint: Endpoint | None = None,
        **settings: Any,
    ) -> None:
        super().__init__(api_key, base_url, endpoint=endpoint, **settings)
        self._api = api if endpoint is None else endpoint.api
        self._background = background
        self._runs = Runs(self._owe)
        self._listed: list[Listed] = []
        self._listed_until_s = 0.0  # on the monotonic clock
        self._listing = asyncio.Lock()

    # ------------------------------------------------------------------ models

    async def models(self) -> list[ModelInfo]:
        """The models worth offering.  A service that has a list is asked, at most once in `LIST_KEPT_S`."""
        endpoint = self._endpoint
        if endpoint.models:
            return [self._info(Listed(model)) for model in endpoint.models]
        if self._official:
            return [self._info(Listed(model, "", thinks_always(model), True, True)) for model in MODELS]
        if endpoint.hindrance is not None or not endpoint.lists:
            return []
        await self._identify()
        if self._listed or self.name != OpenAIProvider.name:
            return [self._info(model) for model in self._listed]
        why = "the server at OPENAI_BASE_URL does not list its models; any name may be asked for as openai/NAME"
        return [ModelInfo(f"{self.name}/{model}", False, self._expected(model), why) for model in MODELS]

    async def _identify(self) -> None:
        async with self._listing:  # many may want to know at once, and none is to go on without
            await self._list()

    async def _list(self) -> None:
        if time.monotonic() >= self._listed_until_s:
            self._listed = await self._ask_for_models() or self._listed
            self._listed_until_s = time.monotonic() + LIST_KEPT_S
            self._owner = next((model.owner for model in self._listed if model.owner), "")

    async def _ask_for_models(self) -> list[Listed]:
        await self.prepare()
        client = self._connect()
        import openai as sdk

        try:
            found = await client.with_options(max_retries=0, timeout=LIST_TIMEOUT_S).models.with_raw_response.list()
            return listed_models(found.content)
        except (sdk.APIError, OSError, msgspec.DecodeError):
            return []

    def _info(self, model: Listed) -> ModelInfo:
        endpoint = self._endpoint
        return ModelInfo(
            f"{self.name}/{model.id}",
            endpoint.hindrance is None,
            self._expected(model.id),
            endpoint.hindrance,
            thinking=model.thinking if endpoint.thinking is None else endpoint.thinking,
            tools=model.tools if endpoint.tools is None else endpoint.tools,
            images=model.images if endpoint.images is None else endpoint.images,
            window=model.window,
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
            return self._official and _MINUTES.search(request.model_name) is not None
        return self._background == "on"

    def _dialect(self, request: Request) -> Dialect:
        said = request.extra.get("api", self._api)
        if said == "completions":
            return "completions"
        return "responses" if said == "responses" or self._in_background(request) else "chat"

    def _ask(self, request: Request) -> Asking:
        dialect = self._dialect(request)
        if dialect == "chat":
            return self._ask_chat(request)
        if dialect == "completions":
            return self._ask_plain(request)
        body, warnings = responses_body(request, official=self._official)
        warnings += self._endpoint.untaken(body)
        if not self._in_background(request):
            return Asking(lambda: self._open(body, "responses"), ResponsesFold(self.name, warnings))
        body["background"] = True
        body.setdefault("store", True)
        return Asking(lambda: self._open_run(body), self._fold_run(Run(request.model_name), warnings))

    def _ask_chat(self, request: Request) -> Asking:
        body, warnings = self._chat_body(request)
        tokens = None
        if self._owner and tells_tokens(request) and self._policy(request).tokens:
            body["return_token_ids"] = True
            tokens = tokens_head(request.model)
        return Asking(lambda: self._open(body, "chat"), ChatFold(self.name, warnings, tokens=tokens))

    def _ask_plain(self, request: Request) -> Asking:
        body, warnings = plain_body(request)
        warnings += self._endpoint.untaken(body)
        return Asking(lambda: self._open(body, "completions"), ChatFold(self.name, warnings, plain=True))

    def _ask_begun(self, way: Rung, request: Request, policy: Policy, progress: Progress) -> Asking:
        if self._dialect(request) == "completions":
            return self._ask_plain(request)  # whose prompt ends with what was said
        body, warnings = self._chat_body(request)
        if way == "tokens":
            plain = completions_body(body, progress)
            fold = ChatFold(self.name, warnings, tokens=0, plain=True)
            return Asking(lambda: self._open(plain, "completions"), fold)
        mark_unfinished(body, policy, progress)
        return Asking(lambda: self._open(body, "chat"), ChatFold(self.name, warnings))

    def _chat_body(self, request: Request) -> tuple[dict[str, Any], tuple[str, ...]]:
        body, warnings = chat_body(request, official=self._official)
        body.pop("api", None)
        body.pop("background", None)
        return body, (*warnings, *self._endpoint.untaken(body))

    async def _open(self, body: dict[str, Any], route: Route) -> Any:
        await self.prepare()
        client = self._connect()
        model, body = body["model"], self._endpoint.fitted(body)
        # The whole body travels as "extra": the package then does not walk through the history to check its types.
        rest: dict[str, Any] = {"stream": True, "extra_body": body, "extra_headers": {"Accept-Encoding": "identity"}}
        if route == "responses":
            return await self._opened(client.responses.with_streaming_response.create(model=model, **rest))
        if route == "completions":
            return await self._opened(client.completions.with_streaming_response.create(model=model, prompt=[], **rest))
        asking = client.chat.completions.with_streaming_response.create(model=model, messages=[], **rest)
        return await self._opened(asking)

    async def _opened(self, asking: Any) -> Any:
        import openai as sdk

        connection_errors: tuple[type[BaseException], ...] = (sdk.APIError, *read_errors())
        try:
            return await asking.__aenter__()
        except sdk.APIStatusError as error:
            raise status_error(self.name, error.status_code, error.response.headers, error.body) from None
        except connection_errors as error:
            raise connection_error(self.name, error) from None

    def _make_client(self, api_key: str | None) -> Any:
        import openai as sdk

        key = api_key or _NO_KEY
        omit = sdk.Omit()
        headers = own_headers(self._endpoint, key, usual=("Authorization",), foreign=self._foreign_headers(), omit=omit)
        hooks: dict[str, list[Any]] = {"response": [tell_of_long_waits]}
        if headers.get("Authorization") is omit:  # which the package allows for single requests only
            del headers["Authorization"]
            hooks["request"] = [without_authorization]
        return sdk.AsyncOpenAI(
            api_key=key,
            base_url=self._base_url,
            max_retries=self._max_retries,
            timeout=make_timeout(self._connect_timeout_s),
            default_headers=headers,
            default_query=dict(self._endpoint.query),
            http_client=sdk.DefaultAioHttpClient(
                limits=make_limits(self._max_connections),
                event_hooks=hooks,
                trust_env=self._endpoint.trusts_environment,
            ),
        )

    def _foreign_headers(self) -> list[str] | None:
        if self.name == OpenAIProvider.name:
            return None
        return ["OpenAI-Organization", "OpenAI-Project", *environment_headers("OPENAI_CUSTOM_HEADERS")]

    # ------------------------------------------------------------------ runs in the background

    def _fold_run(self, run: Run, warnings: tuple[str, ...] = ()) -> ResponsesFold:
        return ResponsesFold(self.name, warnings, run, self._runs.note_failed)

    def _reattach(self, request: Request, progress: Progress) -> Asking | None:
        run = Run.of(progress.cursor)
        if run is None or self._runs.has_failed(run.response) or run.model not in ("", request.model_name):
            return None
        return Asking(lambda: self._open_again(run), self._fold_run(run))

    async def _open_again(self, run: Run) -> Any:
        await self.prepare()
        rest: dict[str, Any] = {"include_obfuscation": False} if self._official else {}
        return await self._opened(
            self._connect().responses.with_streaming_response.retrieve(
                run.response,
                stream=True,
                starting_after=run.after,
                extra_headers={"Accept-Encoding": "identity"},
                **rest,
            )
        )

    async def _open_run(self, body: dict[str, Any]) -> Body:
        async def opened() -> Body:
            return Body(await self._open(body, "responses"))

        run = Run()
        return await self._runs.begin(
            Begun(opened, ResponsesFold(self.name, run=run), lambda: run.response, self._cancel)
        )

    async def abandon(self, request: Request, progress: Progress) -> None:
        """Cancel what runs in the background.  Contract: `base.Provider.abandon`."""
        run = Run.of(progress.cursor)
        if run is not None:
            await self._runs.cancel(run.response, self._cancel)

    async def _cancel(self, response: str) -> None:
        """Cancelling is idempotent at OpenAI, so the package may try it again."""
        await self.prepare()
        await self._connect().responses.with_raw_response.cancel(response)
