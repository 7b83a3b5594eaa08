"""What a stream came to: the answer, whether it is all of it, what it cost, and how fast it came.

A `Result` is made of a stream's entries and can be made in mid-answer too; then it says that it is `partial`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

from everstream.core.attempts import model_now
from everstream.core.errors import EverstreamError
from everstream.core.events import (
    Cost,
    EndReason,
    ErrorInfo,
    Event,
    FinishReason,
    FirstToken,
    HeadersReceived,
    StreamEnd,
    Usage,
)
from everstream.core.gaps import Gaps
from everstream.core.summary import CalledTool, fold

# What a provider's answer that just stops is called: a line that broke, and silence.
_BROKE_OFF = ("provider.connection", "provider.timeout")


@dataclass(frozen=True, slots=True)
class StreamMetrics:
    """Times in milliseconds; None: not known, or there was nothing to measure.

    `ttft_ms` is from the request to the first content, `stream_ms` from the first to the last, `total_ms` from the
    request to the end, or to now.  `tokens_per_s` counts from the first token.  `chunks` is how many pieces of content
    came, and the gaps are the times between them as they arrived, however late they were read; the percentiles are by
    nearest rank.
    """

    ttft_ms: float | None
    stream_ms: float | None
    total_ms: float
    tokens_per_s: float | None
    chunks: int
    gap_p50_ms: float | None
    gap_p90_ms: float | None
    gap_p99_ms: float | None
    gap_max_ms: float | None


@dataclass(frozen=True, slots=True)
class Result:
    """What came of a request.

    `partial`: the answer is not complete, whatever the reason; what is there of it is kept.  `truncated`: it broke off,
    in that the provider had begun to answer and then ended without its own last word, and nobody here stopped it.
    `reason` is how the stream ended (None: it runs still), `finish_reason` is the model's own.  `model` is the one that
    spoke last, where others were to carry on.
    """

    text: str
    thinking: str
    tool_calls: tuple[CalledTool, ...]
    refusal: str
    partial: bool
    truncated: bool
    error: ErrorInfo | None
    reason: EndReason | None
    finish_reason: FinishReason | None
    usage: Usage | None
    cost: Cost | None
    warnings: tuple[str, ...]
    metrics: StreamMetrics
    model: str

    def raise_for_error(self) -> Self:
        """The result itself; raises EverstreamError where the stream has failed."""
        if self.error is not None:
            raise raised(self.error)
        return self

    def __str__(self) -> str:
        return self.text


def raised(error: ErrorInfo) -> EverstreamError:
    """What a stream's end says of its failure, as an exception."""
    return EverstreamError(error.code, error.message, retryable=error.retryable, retry_after_ms=error.retry_after_ms)


def result_of(entries: Sequence[Event], model: str, metrics: StreamMetrics) -> Result:
    """The result of a stream so far.  `model` is the one that was asked."""
    shown = fold(entries)
    end = shown.end
    return Result(
        text=shown.text,
        thinking=shown.thinking,
        tool_calls=shown.tool_calls,
        refusal=shown.refusal,
        partial=end is None or end.reason != "complete",
        truncated=end is not None and _broke_off(end, entries),
        error=None if end is None else end.error,
        reason=None if end is None else end.reason,
        finish_reason=None if end is None else end.finish_reason,
        usage=None if end is None else end.usage,
        cost=None if end is None else end.cost,
        warnings=() if end is None else tuple(end.warnings),
        metrics=metrics,
        model=model_now(entries, model),
    )


def metrics_of(entries: Sequence[Event], gaps: Gaps, elapsed_s: float) -> StreamMetrics:
    """`elapsed_s` is the time since the request, which counts where the stream has not ended."""
    end = entries[-1] if entries and isinstance(entries[-1], StreamEnd) else None
    told = None if end is None else end.metrics
    ttft_ms = next((entry.ttft_ms for entry in entries if isinstance(entry, FirstToken)), None)
    p50, p90, p99 = gaps.percentiles_ms(50, 90, 99)
    return StreamMetrics(
        ttft_ms=ttft_ms if told is None else told.ttft_ms,
        stream_ms=gaps.span_ms if told is None else told.stream_ms,
        total_ms=round(elapsed_s * 1000, 3) if told is None else told.total_ms,
        tokens_per_s=None if told is None else told.tokens_per_s,
        chunks=gaps.arrivals,
        gap_p50_ms=p50,
        gap_p90_ms=p90,
        gap_p99_ms=p99,
        gap_max_ms=gaps.max_ms,
    )


def _broke_off(end: StreamEnd, entries: Sequence[Event]) -> bool:
    if end.reason not in ("failed", "interrupted") or (end.error is not None and end.error.code not in _BROKE_OFF):
        return False
    return any(isinstance(entry, HeadersReceived) for entry in entries)
