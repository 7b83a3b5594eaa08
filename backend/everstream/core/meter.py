"""Arithmetic on timestamps: time to first token, speed, and usage where a provider tells none.

Times are seconds of a monotonic clock, passed in.
"""

from __future__ import annotations

from everstream.core.events import Metrics, Usage

CHARS_PER_TOKEN = 4  # the customary estimate for English text
MESSAGE_OVERHEAD_TOKENS = 4


def estimate_tokens(chars: int) -> int:
    return (chars + CHARS_PER_TOKEN - 1) // CHARS_PER_TOKEN


class Meter:
    """The clock of one generation.  Cheap enough to be told of every batch."""

    __slots__ = ("chars", "first_at", "last_at", "started_at")

    def __init__(self, now: float) -> None:
        self.started_at = now
        self.first_at: float | None = None
        self.last_at: float | None = None
        self.chars = 0

    def first(self, now: float) -> float:
        """The first content came; returns the time to it in milliseconds."""
        self.first_at = self.last_at = now
        return round((now - self.started_at) * 1000, 3)

    def metrics(self, now: float, output_tokens: int) -> Metrics:
        first, last = self.first_at, self.last_at
        ttft_ms = None if first is None else round((first - self.started_at) * 1000, 3)
        stream_s = 0.0 if first is None or last is None else last - first
        speed = round(output_tokens / stream_s, 2) if stream_s > 0 and output_tokens > 1 else None
        return Metrics(
            ttft_ms=ttft_ms,
            stream_ms=None if first is None else round(stream_s * 1000, 3),
            total_ms=round((now - self.started_at) * 1000, 3),
            tokens_per_s=speed,
        )


def estimated_usage(input_chars: int, messages: int, output_chars: int) -> Usage:
    """Usage for a call whose provider told none, because it was cut off or never tells."""
    input_tokens = estimate_tokens(input_chars) + MESSAGE_OVERHEAD_TOKENS * messages
    output_tokens = estimate_tokens(output_chars)
    return Usage(input_tokens, output_tokens, input_tokens + output_tokens, "estimated")
