"""One generation: from a provider into a log, under its cancel event, over as many calls as it takes.

    provider ──batches──▶ call ──▶ answer ──▶ log ──▶ committer
                            ▲
     cancel, idle clock ────┘

A call that breaks off, fails or hangs may be followed by another, which gets what the log shows (`Progress`); whether,
of which model and after which pause is for `decide` to say.  Where nothing follows, the last entries are written.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import structlog

from everstream.core.errors import EverstreamError
from everstream.core.events import EndReason, Request, SeamReason
from everstream.providers.base import Provider
from everstream.runtime.accounts import Price, progress_of
from everstream.runtime.allowance import Allowance
from everstream.runtime.answer import Answer
from everstream.runtime.call import Call, Stop
from everstream.runtime.committer import Committer
from everstream.runtime.counters import Counters
from everstream.runtime.hub import Feed
from everstream.settings import Settings

logger = structlog.get_logger(__name__)

AGAIN_S = 0.5  # after the store was away
ABANDON_S = 5.0  # what it may take to have the provider stop a run that outlives its connection
_WRITES_NOTHING = (Stop.DEPOSED, Stop.HANDED)


@dataclass(frozen=True, slots=True)
class Next:
    """Another call: of which model, of which provider, and after which pause."""

    request: Request
    provider: Provider
    pause_s: float = 0.0


# What follows a call of `relay` that failed; None: nothing.
# How many tokens may be said (None: any number); raises EverstreamError where none may.
Claim = Callable[[Feed, Request], Awaitable[int | None]]

Decide = Callable[["Relay", EverstreamError], Next | None]


class Relay:
    """Runs one request into one feed.  `cancelled` is set the moment somebody wants it stopped."""

    def __init__(
        self,
        feed: Feed,
        request: Request,
        provider: Provider,
        committer: Committer,
        settings: Settings,
        counters: Counters,
        *,
        node: str = "",
        seam: SeamReason | None = None,
        decide: Decide | None = None,
        price: Price | None = None,
        claim: Claim | None = None,
    ) -> None:
        """`seam`: why this relay carries on what another began; None: the answer begins here."""
        self.cancelled = asyncio.Event()
        self.provider = provider
        self.in_vain = 0  # calls in a row that brought nothing; whoever decides keeps it
        self._settings = settings
        self._committer = committer
        self._decide = decide
        self._claim = claim
        self._clock = time.monotonic
        self.answer = Answer(feed, request, counters, node=node, seam=seam, price=price, now=self._clock())
        self._allowance = Allowance(request, price, settings.stream_bytes)
        self.answer.request = self._allowance.lowered(request)
        if self._allowance.warning:
            self.answer.warnings.append(self._allowance.warning)
        self._stop: Stop | None = None
        self._stopped = asyncio.Event()
        self._call = self._make_call()

    def _make_call(self) -> Call:
        return Call(self.answer, self._committer, self._settings, self._allowance, self._spend)

    @property
    def request(self) -> Request:
        """What is asked now: another model may have taken over."""
        return self.answer.request

    @property
    def has_time(self) -> bool:
        """Whether the answer has taken less than it may altogether."""
        return self.answer.meter.elapsed_s(self._clock()) < self._settings.provider_total_timeout_s

    # ------------------------------------------------------------------ stopping

    def cancel(self) -> None:
        """Stop the stream for its reader: the provider's connection closes, `stream_end` says cancelled."""
        if not self.cancelled.is_set():
            self.cancelled.set()
            self._halt(Stop.CANCELLED)

    def depose(self) -> None:
        """Stop without a word: another node leads the stream now.  Whatever else stopped it counts no more."""
        self._halt(Stop.DEPOSED)
        self._stop = Stop.DEPOSED

    def hand_over(self) -> bool:
        """Stop without a word, for another to carry on from what the log holds.  False: it is ending anyway."""
        self._halt(Stop.HANDED)
        return self._stop is Stop.HANDED

    def _halt(self, why: Stop) -> None:
        if self._stop is None:
            self._stop = why
            self._stopped.set()
            self._call.halt(why)

    def _spend(self) -> None:
        """The answer has come to where its bounds have to be looked at."""
        if self._stop is None and self._allowance.spent(self.answer):
            self._halt(Stop.BUDGET)

    # ------------------------------------------------------------------ running

    async def run(self) -> None:
        """Until `stream_end` is in the log.  Cancelling this task stops the provider and writes nothing."""
        answer = self.answer
        if answer.start():
            self._committer.dirty(answer.feed)
        error = await self._admitted()
        while error is None:
            progress = progress_of(answer.log) if answer.carries_on else None
            error = await self._call.run(self.provider, progress)
            following = self._following(error)
            if following is None:
                break
            await self._go_on(following)
            if self._stopped.is_set():  # in the pause
                break
            error = None
        if self._stop not in _WRITES_NOTHING:
            await self._finish(error)

    async def _admitted(self) -> EverstreamError | None:
        """Claim what the answer may use; why it may not begin, or None."""
        if self._claim is None:
            return None
        while not self._stopped.is_set():
            try:
                self._allow(await self._claim(self.answer.feed, self.request))
                return None
            except EverstreamError as error:
                if error.code != "store.unavailable" or not self.has_time:
                    return error
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(AGAIN_S):
                    await self._stopped.wait()
        return None

    def _allow(self, tokens: int | None) -> None:
        if tokens is not None and tokens < self._allowance.tokens and not self._stopped.is_set():
            self._allowance.limit(tokens)
            self.answer.new_call(self._allowance.lowered(self.request))
            self._call = self._make_call()

    def _following(self, error: EverstreamError | None) -> Next | None:
        if error is None or self._stop is not None or self._decide is None:
            return None
        return self._decide(self, error)

    async def _go_on(self, following: Next) -> None:
        """Get ready for another call, and wait until it is due or nobody wants it any more."""
        self.provider = following.provider
        self.answer.seam = self.answer.seam or "provider_lost"
        self.answer.new_call(self._allowance.lowered(following.request))
        self._call = self._make_call()
        if following.pause_s > 0:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(following.pause_s):
                    await self._stopped.wait()

    async def _finish(self, error: EverstreamError | None) -> None:
        answer, now = self.answer, self._clock()
        runs_on = answer.log.trail.cursor is not None and not answer.finished
        progress = progress_of(answer.log) if runs_on else None
        answer.end(self._reason(error), None if self._stop is not None else error, now)
        self._committer.dirty(answer.feed, urgent=True)
        if self._settings.delivery == "eager" or self._committer.late:
            answer.feed.reveal(now)
        if progress is not None:  # the provider still runs what nobody reads any more
            try:
                async with asyncio.timeout(ABANDON_S):
                    await self.provider.abandon(answer.request, progress)
            except Exception as failure:
                logger.warning("a provider could not be told to stop", stream=answer.feed.stream, error=repr(failure))

    def _reason(self, error: EverstreamError | None) -> EndReason:
        if self._stop is Stop.CANCELLED:
            return "cancelled"
        if self._stop is Stop.BUDGET:
            return "budget"
        if error is not None:
            return "failed"
        return "budget" if self._allowance.ended_by(self.answer) else "complete"
