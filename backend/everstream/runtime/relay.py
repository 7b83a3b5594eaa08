"""One generation: from a provider into a log, under its cancel event.

    provider ──batches──▶ reading ──▶ log ──▶ committer
                             ▲
      cancel, idle clock ────┘ (both cancel the reading task; the generator closes the provider's connection)

Reading is a task of its own, so that stopping it costs nothing while it runs: no race of two awaitables for each
batch.  Whoever stops it says why, and `run` writes the stream's last entries accordingly.  The idle clock is a timer
that looks at the time of the last batch when it rings; a batch only notes the time.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from contextlib import aclosing
from enum import Enum

import structlog

from everstream.core.errors import EverstreamError
from everstream.core.events import (
    CONTENT,
    Cost,
    DeltaText,
    DeltaToolCall,
    EndReason,
    ErrorInfo,
    Finish,
    FinishReason,
    FirstToken,
    HeadersReceived,
    LastToken,
    Phase,
    Request,
    RequestStart,
    Seam,
    StreamEnd,
    TextPart,
    ToolCall,
    Usage,
)
from everstream.core.meter import CHARS_PER_TOKEN, Meter, estimated_usage
from everstream.core.summary import Summary
from everstream.providers.base import Batch, Progress, Provider, ProviderEvent
from everstream.runtime.committer import Committer
from everstream.runtime.counters import Counters
from everstream.runtime.hub import Feed
from everstream.runtime.idle import IdleClock
from everstream.settings import Settings

logger = structlog.get_logger(__name__)

_PRICED_TOKENS = 1_000_000
CLOSING_S = 1.0  # what a provider's clean-up may take before the stream ends without it

Price = Callable[[str, Usage], Cost | None]


class Stop(Enum):
    """Why the reading was stopped from outside."""

    CANCELLED = "cancelled"
    IDLE = "idle"
    BUDGET = "budget"
    DEPOSED = "deposed"  # this node leads the stream no more: write nothing


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
        shown: Summary | None = None,
        price: Price | None = None,
    ) -> None:
        """`shown` is what an interrupted answer shows already, where this relay carries one on."""
        self.cancelled = asyncio.Event()
        self._feed = feed
        self._log = feed.log  # where another history takes its place, nothing of ours may get into that
        self._request = request
        self._provider = provider
        self._committer = committer
        self._settings = settings
        self._counters = counters
        self._shown = shown
        self._price = price
        self._clock = time.monotonic  # a loop's own clock may stand still for a turn, or count in milliseconds
        self._meter = self._make_meter()
        self._reading: asyncio.Task[None] | None = None
        self._over = asyncio.Event()  # reading is done, or has had its time to clean up
        self._stop: Stop | None = None
        self._answered = False
        self._finished = False
        self._timer: IdleClock | None = None
        self._last_at = self._clock()
        self._finish_reason: FinishReason | None = None
        self._usage: Usage | None = None
        self._warnings: list[str] = []
        self._uncommitted_max = settings.uncommitted_bytes
        tokens = self._affordable()
        chars_max = settings.stream_bytes  # of which none takes less than a byte
        self._chars_max = chars_max if tokens is None else min(chars_max, tokens * CHARS_PER_TOKEN)

    def _make_meter(self) -> Meter:
        if self._shown is None:
            return Meter(self._clock())
        elapsed_s, ttft_ms = 0.0, None
        for entry in self._feed.log.entries:
            if isinstance(entry, RequestStart):
                elapsed_s = max(_now_ms() - entry.at, 0) / 1000
            elif isinstance(entry, FirstToken):
                ttft_ms = entry.ttft_ms
                break
        chars = chars_of(self._shown)
        return Meter(self._clock(), chars_before=chars, elapsed_s=elapsed_s, ttft_ms_before=ttft_ms)

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

    def _halt(self, why: Stop) -> None:
        if self._stop is None:
            self._stop = why
            if self._reading is not None:
                self._halted()

    def _halted(self) -> None:
        assert self._reading is not None
        self._reading.cancel()
        asyncio.get_running_loop().call_later(CLOSING_S, self._over.set)

    # ------------------------------------------------------------------ running

    async def run(self) -> None:
        """Until `stream_end` is in the log.  Cancelling this task stops the provider and writes nothing."""
        log = self._log
        if not log.base and all(isinstance(entry, Seam) for entry in log.entries):
            log.append(RequestStart(self._request.model, _now_ms()))
            self._committer.dirty(self._feed)
        timer = self._timer = IdleClock(self._time_left, lambda: self._halt(Stop.IDLE))
        reading = self._reading = asyncio.create_task(self._read(), name=f"read {self._feed.stream}")
        reading.add_done_callback(lambda _: self._over.set())
        if self._stop is not None:
            self._halted()
        try:
            await self._over.wait()
        except asyncio.CancelledError:
            reading.cancel()
            await asyncio.wait({reading}, timeout=CLOSING_S)
            raise
        finally:
            timer.cancel()
        error = self._outcome(reading)
        if self._stop is not Stop.DEPOSED:
            self._end(error)

    async def _read(self) -> None:
        progress = progress_of(self._shown) if self._shown else None
        pour = getattr(self._provider, "pour", None)
        if pour is not None:
            await pour(self._request, progress, self)
            return
        async with aclosing(self._provider.generate(self._request, progress)) as batches:
            async for batch in batches:
                if not self.take(batch):
                    await self.room()

    def take(self, batch: Batch) -> bool:
        """What the provider said.  False: it is to wait for `room`.  Contract: `base.Sink`."""
        self._last_at = now = self._clock()
        log = self._log
        if len(batch) == 1 and type(batch[0]) is DeltaText and log.phase is Phase.STREAMING and self._stop is None:
            # One more token, which most batches are: what `_take` would do, without looking at anything else.
            text = batch[0]
            log.append(text)
            meter = self._meter
            meter.chars += len(text.text)
            meter.last_at = now
            if meter.chars >= self._chars_max:
                self._spend()
            self._committer.dirty(self._feed)
        elif batch:
            self._committer.dirty(self._feed, urgent=self._take(batch))
        return log.pending_chars < self._uncommitted_max

    async def room(self) -> None:
        """Back-pressure: until the store has caught up."""
        await self._committer.room(self._feed, self._uncommitted_max)
        self._last_at = self._clock()

    def _take(self, batch: Batch) -> bool:
        """Add a batch to the log.  True where somebody waits for it: it is more than further content."""
        if self._stop is not None:
            return False
        log, meter = self._log, self._meter
        rare = False
        for event in batch:
            if log.phase is Phase.STREAMING and isinstance(event, CONTENT):
                log.append(event)
                meter.chars += len(event.arguments if type(event) is DeltaToolCall else event.text)  # type: ignore[union-attr]
            else:
                self._take_rare(event)
                rare = True
        meter.last_at = self._last_at
        if meter.chars >= self._chars_max:
            self._spend()
        return rare

    def _spend(self) -> None:
        """The answer has reached a bound: its budget's, or the largest size of a stream."""
        if self._meter.chars >= self._settings.stream_bytes:
            self._warnings.append("the answer reached the largest size of a stream")
        self._halt(Stop.BUDGET)

    def _take_rare(self, event: ProviderEvent) -> None:
        """Everything but content in mid-answer."""
        log = self._log
        if isinstance(event, Finish):
            self._finished = True
            self._finish_reason = event.finish_reason or self._finish_reason
            self._usage = event.usage or self._usage
            self._warnings += event.warnings
            return
        if not self._answered:
            self._answered = True
            if self._timer is not None:
                self._timer.look_again()  # patience in mid-answer may be less
            if log.phase in (Phase.REQUESTED, Phase.CARRIED):
                log.append(HeadersReceived(_now_ms()))
        if isinstance(event, HeadersReceived):
            return
        if self._meter.first_at is None:
            ttft_ms = self._meter.first(self._last_at)
            if not (self._shown and self._shown.shows_content):
                log.append(FirstToken(ttft_ms))
        log.append(event)
        self._meter.chars += len(event.arguments if isinstance(event, DeltaToolCall) else event.text)

    def _outcome(self, reading: asyncio.Task[None]) -> EverstreamError | None:
        """What the reading ended with; its failure, where it failed by itself.

        Why it was stopped counts, not how: a provider may answer a cancellation with another error, or not at all.
        """
        if not reading.done():
            logger.warning("a provider did not let go in time", stream=self._feed.stream)
        failure = reading.exception() if reading.done() and not reading.cancelled() else None
        if self._stop is Stop.IDLE:
            what = "stopped in mid-answer" if self._answered else "did not answer"
            return EverstreamError("provider.timeout", f"the provider {what}")
        if self._stop is not None:
            return None
        if reading.cancelled():  # something inside the provider was cancelled, and not by us
            return EverstreamError("internal", "the generation was broken off inside the server")
        if failure is None:
            if self._finished:
                return None
            return EverstreamError("provider.connection", "the provider's answer broke off without an end")
        if isinstance(failure, EverstreamError):
            return failure
        logger.error("a generation failed", stream=self._feed.stream, exc_info=failure)
        return EverstreamError("internal", "the generation failed inside the server")

    # ------------------------------------------------------------------ the idle clock

    def _time_left(self) -> float:
        """Seconds until this provider counts as hanging."""
        settings = self._settings
        patience_s = settings.provider_idle_timeout_s if self._answered else settings.provider_headers_timeout_s
        if self._stop is not None or self._feed.room is not None:  # it is over, or it is we who do not read
            return patience_s
        return self._last_at + patience_s - self._clock()

    # ------------------------------------------------------------------ the budget

    def _affordable(self) -> int | None:
        """How many output tokens the request's budget allows, by the estimate; None: any number."""
        budget = self._request.budget
        if budget is None:
            return None
        tokens = budget.output_tokens
        if budget.usd is not None:
            asked = estimated_usage(input_chars(self._request), len(self._request.messages), 0).input_tokens
            whole = Usage(asked, _PRICED_TOKENS, asked + _PRICED_TOKENS, "estimated")
            cost = self._price(self._request.model, whole) if self._price else None
            if cost is None or not cost.output:
                self._warnings.append("budget.usd was not kept: the price of this model is not known")
                return tokens
            bought = int(max(budget.usd - cost.input, 0.0) / cost.output * _PRICED_TOKENS)
            tokens = bought if tokens is None else min(tokens, bought)
        return tokens

    # ------------------------------------------------------------------ the end

    def _end(self, error: EverstreamError | None) -> None:
        log, now = self._log, self._clock()
        reason = self._reason(error)
        usage = self._usage or estimated_usage(
            input_chars(self._request), len(self._request.messages), self._meter.chars
        )
        if reason in ("complete", "budget") and log.phase in (Phase.STREAMING, Phase.CARRIED):
            log.append(LastToken())
        log.append(
            StreamEnd(
                reason=reason,
                finish_reason=self._finish_reason if reason == "complete" else None,
                usage=usage,
                cost=self._price(self._request.model, usage) if self._price else None,
                metrics=self._meter.metrics(now, usage.output_tokens),
                error=None if error is None else error_info(error),
                warnings=self._warnings,
            )
        )
        self._committer.dirty(self._feed, urgent=True)
        self._counters.streams_ended[reason] += 1

    def _reason(self, error: EverstreamError | None) -> EndReason:
        if self._stop is Stop.CANCELLED:
            return "cancelled"
        if self._stop is Stop.BUDGET:
            return "budget"
        return "complete" if error is None else "failed"


def error_info(error: EverstreamError) -> ErrorInfo:
    return ErrorInfo(error.code, error.message, error.retryable, error.retry_after_ms)


def _now_ms() -> int:
    return int(time.time() * 1000)


def progress_of(shown: Summary) -> Progress:
    calls = tuple(ToolCall(call.call_id or "", call.name or "", call.arguments) for call in shown.tool_calls)
    return Progress(shown.text, shown.thinking, calls)


def chars_of(shown: Summary) -> int:
    calls = sum(len(call.arguments) for call in shown.tool_calls)
    return len(shown.text) + len(shown.thinking) + len(shown.refusal) + calls


def input_chars(request: Request) -> int:
    total = len(request.params.system or "")
    for message in request.messages:
        if isinstance(message.content, str):
            total += len(message.content)
        else:
            total += sum(len(part.text) for part in message.content if isinstance(part, TextPart))
    return total
