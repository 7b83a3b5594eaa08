"""One call of a provider: a task that reads, a clock that rings when nothing comes, and whoever stops it.

Reading is a task of its own, so that stopping it costs nothing while it runs: no race of two awaitables for each
batch.  Whoever stops it says why.  The idle clock is a timer that looks at the time of the last batch when it rings; a
batch only notes the time.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from contextlib import aclosing
from enum import Enum

import structlog

from everstream.core.errors import EverstreamError
from everstream.core.events import DeltaText
from everstream.core.order import Phase
from everstream.providers.base import Batch, Progress, Provider
from everstream.runtime.allowance import Allowance
from everstream.runtime.answer import Answer
from everstream.runtime.committer import Committer
from everstream.runtime.idle import IdleClock
from everstream.settings import Settings

logger = structlog.get_logger(__name__)

CLOSING_S = 1.0  # what a provider's clean-up may take before the stream goes on without it


class Stop(Enum):
    """Why the reading was stopped from outside."""

    CANCELLED = "cancelled"
    IDLE = "idle"
    OVERDUE = "overdue"  # longer than an answer may take, however well it goes
    BUDGET = "budget"
    DEPOSED = "deposed"  # this node leads the stream no more: write nothing
    HANDED = "handed"  # it will be carried on elsewhere: what is there stays, nothing follows


class Call:
    """Reads one provider's answer into `answer`.  It is the provider's `base.Sink`."""

    __slots__ = (
        "_allowance",
        "_answer",
        "_answered_at",
        "_chars_max",
        "_clock",
        "_committer",
        "_eager",
        "_last_at",
        "_log",
        "_over",
        "_reading",
        "_settings",
        "_spend",
        "_timer",
        "_uncommitted_max",
        "stop",
    )

    def __init__(
        self, answer: Answer, committer: Committer, settings: Settings, allowance: Allowance, spend: Callable[[], None]
    ) -> None:
        """`spend` is called when the answer has come to where its allowance has to be looked at."""
        self._answer = answer
        self._log = answer.log
        self._committer = committer
        self._settings = settings
        self._uncommitted_max = settings.uncommitted_bytes
        self._eager = settings.delivery == "eager"
        self._allowance = allowance
        self._chars_max = allowance.chars
        self._spend = spend
        self._clock = time.monotonic  # a loop's own clock may stand still for a turn, or count in milliseconds
        self._last_at = self._answered_at = self._clock()
        self._over = asyncio.Event()  # reading is done, or has had its time to clean up
        self._reading: asyncio.Task[None] | None = None
        self._timer: IdleClock | None = None
        self.stop: Stop | None = None

    def halt(self, why: Stop) -> None:
        """Stop reading; the first who says so counts."""
        if self.stop is None:
            self.stop = why
            if self._reading is not None:
                self._halted(self._reading)

    def _halted(self, reading: asyncio.Task[None]) -> None:
        reading.cancel()
        asyncio.get_running_loop().call_later(CLOSING_S, self._over.set)

    # ------------------------------------------------------------------ running

    async def run(self, provider: Provider, progress: Progress | None) -> EverstreamError | None:
        """Read to the end; returns the failure, where it failed by itself.  Cancelling this stops the provider."""
        timer = self._timer = IdleClock(self._time_left, self._ring)
        reading = self._reading = asyncio.create_task(
            self._read(provider, progress), name=f"read {self._answer.feed.stream}"
        )
        reading.add_done_callback(lambda _: self._over.set())
        if self.stop is not None:
            self._halted(reading)
        try:
            await self._over.wait()
        except asyncio.CancelledError:
            reading.cancel()
            await asyncio.wait({reading}, timeout=CLOSING_S)
            raise
        finally:
            timer.cancel()
            self._reading = None
        return self._outcome(reading)

    async def _read(self, provider: Provider, progress: Progress | None) -> None:
        request = self._answer.request
        pour = getattr(provider, "pour", None)
        if pour is not None:
            await pour(request, progress, self)
            return
        async with aclosing(provider.generate(request, progress)) as batches:
            async for batch in batches:
                if not self.take(batch):
                    await self.room()

    def take(self, batch: Batch) -> bool:
        """What the provider said.  False: it is to wait for `room`.  Contract: `base.Sink`."""
        self._last_at = now = self._clock()
        log, answer = self._log, self._answer
        if len(batch) == 1 and type(batch[0]) is DeltaText and log.phase is Phase.STREAMING and self.stop is None:
            # One more token, which most batches are: what `Answer.add` would do, without looking at anything else.
            text = batch[0]
            log.append(text)
            answer.progressed = True
            meter = answer.meter
            meter.chars += len(text.text)
            meter.last_at = now
            self._committer.dirty(answer.feed)
        elif batch and self.stop is None and not self._over.is_set():
            before = answer.answered
            urgent = answer.add(batch, now)
            if answer.answered and not before and self._timer is not None:
                self._answered_at = now
                self._timer.look_again()  # patience in mid-answer may be less
            self._committer.dirty(answer.feed, urgent=urgent)
            if answer.counted_tokens >= self._allowance.tokens:
                self._spend()
        if answer.meter.chars >= self._chars_max:
            self._spend()
            self._chars_max = self._allowance.chars
        if self._eager or self._committer.late:
            answer.feed.reveal(now)
        return log.pending_chars < self._uncommitted_max

    async def room(self) -> None:
        """Back-pressure: until the store has caught up."""
        await self._committer.room(self._answer.feed, self._uncommitted_max)
        self._last_at = self._clock()

    def _outcome(self, reading: asyncio.Task[None]) -> EverstreamError | None:
        """What the reading ended with; its failure, where it failed by itself.

        Why it was stopped counts, not how: a provider may answer a cancellation with another error, or not at all.
        """
        stream = self._answer.feed.stream
        if not reading.done():
            logger.warning("a provider did not let go in time", stream=stream)
        failure = reading.exception() if reading.done() and not reading.cancelled() else None
        if self.stop is Stop.IDLE:
            answer = self._answer
            what = (
                "stopped in mid-answer"
                if answer.progressed
                else "said nothing"
                if answer.answered
                else "did not answer"
            )
            return EverstreamError("provider.timeout", f"the provider {what}")
        if self.stop is Stop.OVERDUE:
            return EverstreamError("provider.timeout", "the answer took longer than it may altogether", retryable=False)
        if self.stop is not None:
            return None
        if reading.cancelled():  # something inside the provider was cancelled, and not by us
            return EverstreamError("internal", "the generation was broken off inside the server")
        if failure is None:
            if self._answer.finished:
                return None
            return EverstreamError("provider.connection", "the provider's answer broke off without an end")
        if isinstance(failure, EverstreamError):
            return failure
        logger.error("a generation failed", stream=stream, exc_info=failure)
        return EverstreamError("internal", "the generation failed inside the server")

    def _time_left(self) -> float:
        """Seconds until this provider counts as hanging, or the answer as too long."""
        settings, answer, now = self._settings, self._answer, self._clock()
        altogether_s = settings.provider_total_timeout_s - answer.meter.elapsed_s(now)
        patience_s = settings.provider_idle_timeout_s if answer.answered else settings.provider_headers_timeout_s
        if self.stop is not None or answer.feed.room is not None:  # it is over, or it is we who do not read
            return patience_s
        left_s = self._last_at + patience_s - now
        if answer.answered and not answer.progressed:  # signs of life are no answer
            left_s = min(left_s, self._answered_at + settings.provider_first_token_timeout_s - now)
        return min(left_s, altogether_s)

    def _ring(self) -> None:
        overdue = self._answer.meter.elapsed_s(self._clock()) >= self._settings.provider_total_timeout_s
        self.halt(Stop.OVERDUE if overdue else Stop.IDLE)
