"""A stream's answer as it grows in the log, over all calls that it takes: which entry comes when.

`add` is called for all but the plainest batch.  It keeps the legal order, tells the first token from the others, puts
marks beside entries, and writes the `seam` when a provider says that it has taken the answer up, and how; not before,
so that it is true.  `end` writes the last entries.
"""

from __future__ import annotations

import time

import msgspec

from everstream.core.attempts import runs_begun
from everstream.core.errors import EverstreamError
from everstream.core.events import (
    CONTENT,
    Counted,
    DeltaToolCall,
    EndReason,
    Finish,
    FinishReason,
    FirstToken,
    HeadersReceived,
    LastToken,
    Mark,
    Request,
    RequestStart,
    Resumed,
    Seam,
    SeamReason,
    StreamEnd,
    Usage,
)
from everstream.core.meter import Meter
from everstream.core.order import Phase
from everstream.providers.base import Batch, ProviderEvent
from everstream.runtime.accounts import Price, attempts_of, chars_of, cost_of, error_info, usage_of
from everstream.runtime.counters import Counters
from everstream.runtime.hub import Feed

TRUNCATED = "truncated: the provider's answer stopped without its end"


class Answer:
    """`answered`, `progressed` and `finished` are of the call under way, or of the last one."""

    __slots__ = (
        "_attempt",
        "_counted",
        "_counters",
        "_model",
        "_node",
        "_price",
        "_run",
        "_told",
        "answered",
        "counted_tokens",
        "feed",
        "finish_reason",
        "finished",
        "log",
        "meter",
        "progressed",
        "request",
        "seam",
        "shows",
        "warnings",
    )

    def __init__(
        self,
        feed: Feed,
        request: Request,
        counters: Counters,
        *,
        node: str,
        seam: SeamReason | None,
        price: Price | None,
        now: float,
    ) -> None:
        """`seam`: why what another began is carried on here; None: it begins here."""
        self.feed = feed
        self.log = feed.log  # where another history takes its place, nothing of ours may get into that
        self.request = request
        self.seam = seam  # due, and not written yet
        self.warnings: list[str] = []
        self._counters = counters
        self._node = node
        self._price = price
        self._model = request.model
        self._run = runs_begun(self.log.entries) - 1
        self._told: dict[int, Usage] = {}  # by the number of the run
        self._counted: tuple[Usage, int] | None = None  # in mid-answer, and at how many characters
        self.counted_tokens = 0  # of output, by the provider, so far
        shown = self.log.total()
        self.shows = shown.shows_content
        self._attempt = shown.attempts
        self.meter = self._make_meter(now, chars_of(shown))
        self.new_call(request)

    def _make_meter(self, now: float, chars: int) -> Meter:
        elapsed_s, ttft_ms = 0.0, None
        for entry in self.log.entries:
            if isinstance(entry, RequestStart):
                elapsed_s = max(_now_ms() - entry.at, 0) / 1000
            elif isinstance(entry, FirstToken):
                ttft_ms = entry.ttft_ms
                break
        return Meter(now, chars_before=chars, elapsed_s=elapsed_s, ttft_ms_before=ttft_ms)

    @property
    def carries_on(self) -> bool:
        """Whether the next call goes on with what is there."""
        return self.seam is not None

    def start(self) -> bool:
        """Write `request_start`, where nothing stands yet.  False: there is more already."""
        log = self.log
        if log.base or not all(isinstance(entry, Seam) for entry in log.entries):
            return False
        owner = self.feed.owner
        log.append(
            RequestStart(self.request.model, _now_ms(), owner.session or None, owner.turn or None, epoch=log.epoch)
        )
        return True

    def new_call(self, request: Request) -> None:
        self.request = request
        self.answered = self.progressed = self.finished = False
        self.finish_reason: FinishReason | None = None

    # ------------------------------------------------------------------ what the provider says

    def add(self, batch: Batch, now: float) -> bool:
        """Add a batch to the log.  True where somebody waits for it: it is more than further content."""
        log, meter = self.log, self.meter
        rare = False
        for event in batch:
            if log.phase is Phase.STREAMING and isinstance(event, CONTENT):
                log.append(event)
                self.progressed = True
                meter.chars += len(event.arguments if type(event) is DeltaToolCall else event.text)  # type: ignore[union-attr]
            elif type(event) is Mark:
                log.mark(event)
            elif type(event) is Counted:
                self._counted = (event.usage, meter.chars)
                self.counted_tokens = event.usage.output_tokens
            else:
                self._add_rare(event, now)
                rare = True
        meter.last_at = now
        return rare

    def _add_rare(self, event: ProviderEvent, now: float) -> None:
        """Everything but content in mid-answer."""
        log = self.log
        if isinstance(event, Finish):
            self.finished = True
            self.finish_reason = event.finish_reason or self.finish_reason
            if event.usage is not None:
                self._told[self._run] = event.usage
            self.warnings += event.warnings
            return
        if not self.answered:
            self.answered = True
            if log.phase is Phase.REQUESTED and self.seam is None:
                log.append(HeadersReceived(_now_ms()))
        if isinstance(event, Resumed):
            self._join(event)
        if isinstance(event, HeadersReceived | Resumed | Mark | Counted):
            return
        if self.seam is not None:
            raise EverstreamError("internal", "the provider carried on without saying how")
        if not self.shows:
            self.shows = True
            log.append(FirstToken(self.meter.first(now)))
        elif self.meter.first_at is None:
            self.meter.first(now)
        log.append(event)
        self.progressed = True
        self.meter.chars += len(event.arguments if isinstance(event, DeltaToolCall) else event.text)

    def _join(self, resumed: Resumed) -> None:
        """The provider has taken the answer up: say so."""
        self.write_seam(resumed)
        if resumed.continuation != "exact":
            self._close_run()
            self._run += 1
        if resumed.continuation == "restart":
            self.shows = False
        self.log.append(HeadersReceived(_now_ms()))

    def write_seam(self, resumed: Resumed | None) -> None:
        """None: only the end follows."""
        self._attempt += 1
        before, self._model = self._model, self.request.model
        how = None if resumed is None else resumed.continuation
        self.log.append(
            Seam(
                epoch=self.log.epoch,
                attempt=self._attempt,
                reason=self.seam or "provider_lost",
                continuation=how,
                check=None if resumed is None else resumed.check,
                node=self._node,
                model=self._model if self._model != before else None,
            )
        )
        self._counters.seams[how or "none"] += 1
        self.seam = None

    # ------------------------------------------------------------------ the end

    def end(self, reason: EndReason, error: EverstreamError | None, now: float) -> None:
        """Write the last entries.  Contract: the stream has not ended."""
        log = self.log
        if self.seam in ("node_lost", "drain"):
            self.write_seam(None)  # a change of leader is always said, also where only the end follows
        if error is not None and error.code == "provider.connection" and self.answered and not self.finished:
            self.warnings.append(TRUNCATED)
        self._close_run()
        attempts = attempts_of(self.request, log.entries, self._told, self._price)
        usage = usage_of(attempts)
        if reason in ("complete", "budget") and log.phase in (Phase.STREAMING, Phase.CARRIED):
            log.append(LastToken())
        log.append(
            StreamEnd(
                reason=reason,
                finish_reason=self.finish_reason if reason == "complete" else None,
                usage=usage,
                cost=cost_of(attempts),
                metrics=self.meter.metrics(now, usage.output_tokens),
                error=None if error is None else error_info(error),
                warnings=[*self.warnings, *self.feed.warnings()],
                attempts=attempts if len(attempts) > 1 else None,
            )
        )
        self._counters.streams_ended[reason] += 1

    def _close_run(self) -> None:
        """Make the best of what was counted of a run that is over: short of what was said after that, if anything."""
        if self._counted is not None and self._run not in self._told:
            usage, chars = self._counted
            whole = chars == self.meter.chars
            self._told[self._run] = usage if whole else msgspec.structs.replace(usage, source="estimated")
        self._counted = None


def _now_ms() -> int:
    return int(time.time() * 1000)
