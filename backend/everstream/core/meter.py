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
    """The clock of one generation.  Cheap enough to be told of every batch.

    An answer that is carried on has a beginning elsewhere: `chars_before` it showed already, `elapsed_s` ago it was
    asked for, and `ttft_ms_before` is how long its first token took, where that came.
    """

    __slots__ = ("_chars_before", "_elapsed_s", "_ttft_ms", "chars", "first_at", "last_at", "started_at")

    def __init__(
        self, now: float, *, chars_before: int = 0, elapsed_s: float = 0.0, ttft_ms_before: float | None = None
    ) -> None:
        self.started_at = now
        self.first_at: float | None = None
        self.last_at: float | None = None
        self.chars = self._chars_before = chars_before
        self._elapsed_s = elapsed_s  # before
        self._ttft_ms = ttft_ms_before

    def first(self, now: float) -> float:
        """The first content came; returns the time to it in milliseconds, from when the answer was asked for."""
        self.first_at = self.last_at = now
        return round(self.elapsed_s(now) * 1000, 3)

    def elapsed_s(self, now: float) -> float:
        """Seconds since the answer was asked for."""
        return now - self.started_at + self._elapsed_s

    def metrics(self, now: float, output_tokens: int) -> Metrics:
        """Speed is that of the part generated here: before it lies a pause that no model made."""
        first, last = self.first_at, self.last_at
        ttft_ms = self._ttft_ms
        if ttft_ms is None and first is not None:
            ttft_ms = round((first - self.started_at + self._elapsed_s) * 1000, 3)
        stream_s = 0.0 if first is None or last is None else last - first
        tokens = output_tokens * (self.chars - self._chars_before) / self.chars if self.chars else 0.0
        return Metrics(
            ttft_ms=ttft_ms,
            stream_ms=None if first is None else round(stream_s * 1000, 3),
            total_ms=round(self.elapsed_s(now) * 1000, 3),
            tokens_per_s=round(tokens / stream_s, 2) if stream_s > 0 and tokens > 1 else None,
        )


def estimated_usage(input_tokens: int, messages: int, output_tokens: int) -> Usage:
    """Usage for a call whose provider told none, because it was cut off or never tells."""
    input_tokens += MESSAGE_OVERHEAD_TOKENS * messages
    return Usage(input_tokens, output_tokens, input_tokens + output_tokens, "estimated")
