"""What a stream has cost, what it may cost, and the words it ends with.

A stream may have had several runs at a provider (`core.attempts`).  The provider's own numbers are those of its last
run; earlier ones were cut off before they told any, so they are estimated and the sum is called estimated too.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from everstream.core.attempts import chars_of_runs
from everstream.core.errors import EverstreamError
from everstream.core.events import Cost, EndReason, ErrorInfo, Event, Request, StreamEnd, TextPart, ToolCall, Usage
from everstream.core.log import Log
from everstream.core.meter import Meter, estimated_usage
from everstream.core.summary import Summary, fold
from everstream.providers.base import Progress

Price = Callable[[str, Usage], Cost | None]
_PRICED_TOKENS = 1_000_000


def usage_of(request: Request, entries: Sequence[Event], told: Usage | None) -> Usage:
    """The usage of all runs; `told` is what the provider said of the last one."""
    *before, last = chars_of_runs(entries)
    asked = input_chars(request)
    usage = told or estimated_usage(asked, len(request.messages), last)
    shown = 0
    for chars in before:
        # Each run was asked the request, and those after the first what had been said before them.
        part = estimated_usage(asked + shown, len(request.messages), chars)
        shown += chars
        usage = _sum(usage, part)
    return usage


def _sum(a: Usage, b: Usage) -> Usage:
    return Usage(
        a.input_tokens + b.input_tokens,
        a.output_tokens + b.output_tokens,
        a.total_tokens + b.total_tokens,
        "estimated",
        a.thinking_tokens,
        a.cached_tokens,
    )


def affordable_tokens(request: Request, price: Price | None) -> tuple[int | None, str | None]:
    """How many output tokens the request's budget allows, by the estimate (None: any number), and a warning."""
    budget = request.budget
    if budget is None:
        return None, None
    tokens = budget.output_tokens
    if budget.usd is None:
        return tokens, None
    asked = estimated_usage(input_chars(request), len(request.messages), 0).input_tokens
    whole = Usage(asked, _PRICED_TOKENS, asked + _PRICED_TOKENS, "estimated")
    cost = price(request.model, whole) if price else None
    if cost is None or not cost.output:
        return tokens, "budget.usd was not kept: the price of this model is not known"
    bought = int(max(budget.usd - cost.input, 0.0) / cost.output * _PRICED_TOKENS)
    return bought if tokens is None else min(tokens, bought), None


def last_words(
    log: Log, request: Request, reason: EndReason, price: Price | None, *, error: EverstreamError | None = None
) -> StreamEnd:
    """The end of a stream that nobody carries on."""
    usage = usage_of(request, log.entries, None)
    return StreamEnd(
        reason=reason,
        finish_reason=None,
        usage=usage,
        cost=price(request.model, usage) if price else None,
        metrics=Meter(0.0).metrics(0.0, usage.output_tokens),
        error=None if error is None else error_info(error),
        warnings=[],
    )


def error_info(error: EverstreamError) -> ErrorInfo:
    return ErrorInfo(error.code, error.message, error.retryable, error.retry_after_ms)


def progress_of(log: Log) -> Progress:
    """What a log shows, and what its provider left beside it, for a call that carries it on."""
    shown = fold(log.entries, log.summary)
    trail = log.trail
    since = fold(log.entries[trail.cursor_at - log.base :]) if trail.cursor is not None else Summary()
    return Progress(
        shown.text,
        shown.thinking,
        _calls(shown),
        shown.refusal,
        trail.cursor,
        since,
        trail.tokens_of(log.content_at()),
    )


def _calls(shown: Summary) -> tuple[ToolCall, ...]:
    return tuple(ToolCall(call.call_id or "", call.name or "", call.arguments) for call in shown.tool_calls)


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
