"""What the providers that are asked over HTTP have in common: a key, a client, a pool, and how an answer is carried on.

A provider of this kind builds requests (`_ask`, `_ask_begun`), opens them with its vendor's package, and says which
policy its models follow.  The order of the ways is `carry_ladder`'s, the joining `carry_join`'s.
"""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, AsyncIterator, Coroutine
from dataclasses import dataclass
from typing import Any, ClassVar

from everstream.core.events import Continuation, Request
from everstream.providers import packages, pricing
from everstream.providers.base import Batch, Memory, Progress, ProviderError, Sink
from everstream.providers.carry_join import Afresh, Astray, Continued, Join, Reattached, echo_of, nothing, repetition_of
from everstream.providers.carry_known import Finding, Known, applied, ask_whether_it_writes_on, probe
from everstream.providers.carry_ladder import LABELS, Rung, rungs
from everstream.providers.carry_policy import Carry, Dialect, Policy, overruled, policy_of, refusal_in
from everstream.providers.carry_request import begun, prompted, stops_of
from everstream.providers.carry_run import Attempt, carry_on
from everstream.providers.endpoint import Api, Endpoint
from everstream.providers.http_answer import Fold, Opener, answer, pour
from everstream.providers.http_body import SETTLE_S

OWED_S = 5.0  # what stopping a run may take that nobody reads


@dataclass(frozen=True, slots=True)
class Asking:
    """A request that is ready to go out, and who reads the answer."""

    open: Opener
    fold: Fold


class HttpProvider(ABC):
    """A provider (see `base.Provider`) but for what is its vendor's.

    `base_url` None means the vendor itself.  `connect_timeout_s` bounds the making of a connection; reading is bounded
    by the relay.  `max_retries` counts new attempts at a request that was not yet answered, never at a broken answer.
    `continuation` is how an answer is carried on at best (`carry_policy`); `memory` keeps what is found out about that.
    `endpoint` says all of that about a service with a name of its own; key, address and continuation are its then.
    """

    name: str
    api: ClassVar[Api]  # what is spoken where an endpoint does not say
    package: ClassVar[str]  # what takes long to import, and is needed for the first request
    address: ClassVar[str]  # the vendor's own
    why_not: ClassVar[str]  # what to do where there is no key

    def __init__(
        self,
        api_key: str | None = None,
        base_url: str | None = None,
        *,
        endpoint: Endpoint | None = None,
        max_connections: int = 4096,
        max_retries: int = 2,
        connect_timeout_s: float = 10.0,
        continuation: Carry = "auto",
        memory: Memory | None = None,
    ) -> None:
        if endpoint is None:
            address = (base_url or self.address).rstrip("/")
            endpoint = Endpoint(
                self.name,
                self.api,
                address,
                api_key or None,
                needs_key=address == self.address,
                why_not=self.why_not,
                continuation=continuation,
            )
        self.name = endpoint.name
        self._endpoint = endpoint
        self._api_key = endpoint.api_key
        self._base_url = endpoint.base_url.rstrip("/")
        self._official = self._base_url == self.address
        self._place = endpoint.rules or self._base_url  # by which the table of policies is asked
        self._max_connections = max_connections
        self._max_retries = max_retries
        self._connect_timeout_s = connect_timeout_s
        self._carry: Carry = endpoint.continuation
        self._known = Known(memory)
        self._owner = ""  # what the server calls itself, where it has said so
        self._client: Any = None
        self._settling: set[asyncio.Task[None]] = set()
        self._owed: set[asyncio.Task[None]] = set()

    # ------------------------------------------------------------------ what is the vendor's

    @abstractmethod
    def _make_client(self, api_key: str | None) -> Any:
        """The package's client.  Importing the package takes a second or two, so it is done here at the earliest."""

    @abstractmethod
    def _ask(self, request: Request) -> Asking:
        """A request as it is."""

    @abstractmethod
    def _ask_begun(self, way: Rung, request: Request, policy: Policy, progress: Progress) -> Asking:
        """A request whose last turn is the assistant's, and not finished; with `tokens`, by their ids."""

    @abstractmethod
    async def abandon(self, request: Request, progress: Progress) -> None:
        """Contract: `base.Provider.abandon`."""

    @abstractmethod
    def _dialect(self, request: Request) -> Dialect:
        """The API that a request is put in."""

    def _reattach(self, request: Request, progress: Progress) -> Asking | None:
        """How to read on what the provider still runs; None: it runs nothing."""
        return None

    async def _identify(self) -> None:
        """Find out what the server calls itself, where that tells something."""
        return

    # ------------------------------------------------------------------ base.Provider

    async def prepare(self) -> None:
        """Import the package in a thread, make the client, load the prices.  Nothing where there is no key."""
        if self._endpoint.hindrance is None:
            await packages.load(self.package)
            if self._client is None:
                self._connect()
                await pricing.prepare()

    def check(self, request: Request) -> None:
        """Raises ProviderError `provider.auth` where there is no key."""
        if self._endpoint.hindrance is not None:
            raise ProviderError("provider.auth", self._endpoint.hindrance)

    def continuation(self, request: Request, progress: Progress) -> Continuation | None:
        """How an answer that broke off after `progress` can be carried on at best, as far as is known unasked."""
        ways = self._rungs(self._policy(request), request, progress)
        return LABELS[ways[0]] if ways else None

    def generate(self, request: Request, progress: Progress | None = None) -> AsyncGenerator[Batch, None]:
        """Ask, and yield batches as they come.  Contract: `base.Provider.generate`."""
        if progress is not None:
            return carry_on(self.name, self._attempts(request, progress), self._settling)
        asking = self._ask(request)
        return answer(self.name, asking.open, asking.fold, self._settling)

    async def pour(self, request: Request, progress: Progress | None, sink: Sink) -> None:
        """Ask, and hand batches on as they come.  Contract: `base.PouringProvider.pour`."""
        if progress is None:
            asking = self._ask(request)
            await pour(self.name, asking.open, asking.fold, self._settling, sink)
            return
        batches = self.generate(request, progress)
        try:
            async for batch in batches:
                if not sink.take(batch):
                    await sink.room()
        finally:
            await batches.aclose()

    async def aclose(self) -> None:
        """Close the pool.  Idempotent; a later request makes a new one."""
        await self._known.aclose()
        if self._owed:
            _, late = await asyncio.wait(tuple(self._owed), timeout=OWED_S)
            for task in late:
                task.cancel()
        if self._settling:
            await asyncio.wait(tuple(self._settling), timeout=SETTLE_S)
        client, self._client = self._client, None
        if client is not None:
            await client.close()

    # ------------------------------------------------------------------ for the vendor's part

    def _connect(self) -> Any:
        if self._client is None:
            if self._endpoint.hindrance is not None:
                raise ProviderError("provider.auth", self._endpoint.hindrance)
            self._client = self._make_client(self._api_key)
        return self._client

    def _owe(self, duty: Coroutine[Any, Any, None]) -> None:
        """Let something be done that nobody waits for, but whoever closes the pool."""
        task = asyncio.get_running_loop().create_task(duty, name="stop what runs at a provider")
        self._owed.add(task)
        task.add_done_callback(self._owed.discard)

    def _expected(self, model: str) -> Continuation | None:
        """How an answer of a model is carried on at best, once its text has begun."""
        if self._carry in ("none", "restart"):
            return None if self._carry == "none" else "restart"
        return self._policy(Request(f"{self.name}/{model}", [])).expected

    # ------------------------------------------------------------------ carrying on

    def _policy(self, request: Request) -> Policy:
        """The policy of the request's model, as far as this node knows it."""
        dialect = self._dialect(request)
        policy = policy_of(dialect, self._place, self._owner, request.model_name)
        if self._carry != "auto":
            return overruled(policy, dialect, self._carry)
        finding = self._known.recalled(self._base_url, _subject(request, policy))
        return policy if finding is None or policy.best == "prompted" else applied(policy, finding)

    async def _settled(self, request: Request) -> Policy:
        """The policy, with what had to be asked for."""
        dialect = self._dialect(request)
        table = policy_of(dialect, self._place, self._owner, request.model_name)
        if dialect == "chat" and table.best == "probe" and self._carry != "prompted":
            await self._identify()
        policy = self._policy(request)
        if self._carry != "auto" or policy.best == "prompted":
            return policy

        async def ask() -> Finding | None:
            asking = self._ask_begun("prefill", probe(request.model), policy, Progress())
            return await ask_whether_it_writes_on(self.name, asking.open, asking.fold)

        return await self._known.settle(policy, self._base_url, _subject(request, policy), ask)

    def _rungs(self, policy: Policy, request: Request, progress: Progress) -> tuple[Rung, ...]:
        alive = progress.cursor is not None and self._reattach(request, progress) is not None
        return rungs(policy, self._carry, request, progress, alive=alive)

    async def _attempts(self, request: Request, progress: Progress) -> AsyncIterator[Attempt]:
        policy = self._policy(request)
        ways = self._rungs(policy, request, progress)
        if ways[:1] == ("exact",):
            yield self._attempt("exact", policy, request, progress)
            ways = ways[1:]
        if ways and progress.cursor is not None:  # another run takes its place: let it not be paid for as well
            self._owe(self.abandon(request, progress))
        if "prompted" in ways:  # the text can be written on: by whom, and how, is worth knowing
            policy = await self._settled(request)
            ways = rungs(policy, self._carry, request, progress, alive=False)
        for way in ways:
            yield self._attempt(way, policy, request, progress)

    def _attempt(self, way: Rung, policy: Policy, request: Request, progress: Progress) -> Attempt:
        async def refused(error: ProviderError) -> bool:
            return await self._refused(way, error, request, progress)

        asking, join = self._way(way, policy, request, progress)
        return Attempt(asking.open, asking.fold, join, refused)

    def _way(self, way: Rung, policy: Policy, request: Request, progress: Progress) -> tuple[Asking, Join]:
        text = progress.text
        if way == "exact":
            again = self._reattach(request, progress)
            assert again is not None
            return again, Reattached(progress.since)
        if way == "restart":
            return self._ask(request), Afresh()
        if way == "tokens":
            return self._ask_begun(way, request, policy, progress), Continued("prefill", text, nothing)
        if way == "prefill":
            asked, sent, white = begun(request, progress)
            # Where a flag in the request says what the turn is, an answer without the echo is none the worse.
            match = echo_of(sent, certain=policy.style != "assistant") if policy.echo else nothing
            asking = self._ask_begun(way, asked, policy, progress)
            return asking, Continued("prefill", text, match, white=white, stops=stops_of(request))
        white = len(text) - len(text.rstrip())
        join = Continued("prompted", text, repetition_of(text), white=white, stops=stops_of(request))
        return self._ask(prompted(request, progress)), join

    async def _refused(self, way: Rung, error: ProviderError, request: Request, progress: Progress) -> bool:
        """Whether `error` refuses this way of carrying on; what lasts of that is remembered."""
        if way in ("restart", "prompted"):
            return False
        known = refusal_in(error.message)
        if way == "exact":
            return error.code in ("provider.invalid", "model.unknown")
        if way == "prefill" and self._carry == "auto" and (isinstance(error, Astray) or (known and known.lasting)):
            subject = _subject(request, self._policy(request))
            await self._known.learn(self._base_url, subject, Finding(prefill=False))
        return known is not None or error.code in ("provider.invalid", "model.unknown")


def _subject(request: Request, policy: Policy) -> str:
    return f"{policy.style} {request.model_name}"
