"""How an answer came out, for those who are told in other words than the protocol's."""

from __future__ import annotations

from everstream.core.errors import EverstreamError
from everstream.core.events import StreamEnd
from everstream.core.summary import Summary


def failure_of(over: StreamEnd) -> EverstreamError | None:
    """What made an answer less than whole; None where nothing did, or somebody stopped it."""
    if over.error is not None:
        return EverstreamError(
            over.error.code,
            over.error.message,
            retryable=over.error.retryable,
            retry_after_ms=over.error.retry_after_ms,
        )
    if over.reason == "interrupted":
        return EverstreamError("provider.connection", "the answer broke off and could not be carried on")
    return None


def warnings_of(over: StreamEnd, total: Summary) -> list[str]:
    """The warnings of an answer's end, and what else its stream knows that its reader may want to be warned of."""
    told = list(over.warnings)
    if total.attempts > 1:
        told.append(f"the answer was interrupted and carried on (runs: {total.attempts})")
    if over.error is not None and over.error.code in ("provider.rate_limit", "limit.rate"):
        after_ms = over.error.retry_after_ms
        told.append("rate limit" if after_ms is None else f"rate limit: try again after {after_ms / 1000:g} s")
    return told
