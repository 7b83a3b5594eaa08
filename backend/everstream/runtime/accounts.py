"""What a stream has cost, and the words it ends with.

A stream may have had several runs at a provider (`core.attempts`).  Each is accounted for by itself: with the
provider's own numbers where it told them; with what it had counted when it broke off, and the text that came after;
or with an estimate.  Only where all of them are the provider's is the sum called so.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from everstream.core.attempts import runs_of
from everstream.core.errors import EverstreamError
from everstream.core.events import (
    Attempt,
    Cost,
    EndReason,
    ErrorInfo,
    Event,
    Request,
    RequestStart,
    StreamEnd,
    TextPart,
    ToolCall,
    Usage,
)
from everstream.core.log import Log
from everstream.core.meter import Meter, estimated_usage
from everstream.core.summary import Summary, fold
from everstream.providers.base import Progress
from everstream.providers.tokenizer import tokens_in

Price = Callable[[str, Usage], Cost | None]


def attempts_of(
    request: Request, entries: Sequence[Event], told: Mapping[int, Usage], price: Price | None
) -> list[Attempt]:
    """What each run has used.  `told` holds what providers said, by the number of the run; an `estimated` one there
    was counted before the run was over, and falls short by what came after."""
    first = next((entry.model for entry in entries if isinstance(entry, RequestStart)), request.model)
    asked: int | None = None
    attempts, shown = [], 0
    for number, run in enumerate(runs_of(entries, first)):
        said = 0
        usage = told.get(number)
        if usage is None or usage.source == "estimated":
            said = tokens_in(run.said)
            asked = tokens_in(input_text(request)) if asked is None else asked
            # Each run was asked the request, and those after the first what had been said before them.
            usage = _at_least(usage, estimated_usage(asked + shown, len(request.messages), said))
        shown += said or usage.output_tokens
        attempts.append(Attempt(run.model, usage, price(run.model, usage) if price else None))
    return attempts


def _at_least(counted: Usage | None, estimated: Usage) -> Usage:
    if counted is None:
        return estimated
    made = max(counted.output_tokens, estimated.output_tokens)
    return Usage(
        counted.input_tokens,
        made,
        counted.input_tokens + made,
        "estimated",
        counted.thinking_tokens,
        counted.cached_tokens,
    )


def usage_of(attempts: Sequence[Attempt]) -> Usage:
    """The sum."""
    said = [attempt.usage for attempt in attempts]
    if len(said) == 1:
        return said[0]
    return Usage(
        sum(usage.input_tokens for usage in said),
        sum(usage.output_tokens for usage in said),
        sum(usage.total_tokens for usage in said),
        "provider" if all(usage.source == "provider" for usage in said) else "estimated",
        _sum_of_known([usage.thinking_tokens for usage in said]),
        _sum_of_known([usage.cached_tokens for usage in said]),
    )


def cost_of(attempts: Sequence[Attempt]) -> Cost | None:
    """The sum; None where one of the prices is not known."""
    costs = [attempt.cost for attempt in attempts if attempt.cost is not None]
    if len(costs) < len(attempts):
        return None
    return Cost(
        sum(cost.input for cost in costs), sum(cost.output for cost in costs), sum(cost.total for cost in costs)
    )


def _sum_of_known(numbers: Sequence[int | None]) -> int | None:
    known = [number for number in numbers if number is not None]
    return sum(known) if known else None


def last_words(
    log: Log, request: Request, reason: EndReason, price: Price | None, *, error: EverstreamError | None = None
) -> StreamEnd:
    """The end of a stream that nobody carries on."""
    attempts = attempts_of(request, log.entries, {}, price)
    usage = usage_of(attempts)
    return StreamEnd(
        reason=reason,
        finish_reason=None,
        usage=usage,
        cost=cost_of(attempts),
        metrics=Meter(0.0).metrics(0.0, usage.output_tokens),
        error=None if error is None else error_info(error),
        warnings=[],
        attempts=attempts if len(attempts) > 1 else None,
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


def input_text(request: Request) -> str:
    """The text of a request: what is asked, with all that was said before."""
    pieces = [request.params.system or ""]
    for message in request.messages:
        if isinstance(message.content, str):
            pieces.append(message.content)
        else:
            pieces += [part.text for part in message.content if isinstance(part, TextPart)]
    return "\n".join(filter(None, pieces))
