"""How evenly something arrives: the times between arrivals, and what most of them stay below.

Times are seconds of a monotonic clock, passed in; what comes out is milliseconds.
"""

from __future__ import annotations

from math import ceil

GAPS_MAX = 16_384  # remembered; of more, every second is kept, again and again


class Gaps:
    """Cheap enough to be told of every token.  What arrives together has no time between."""

    __slots__ = ("_every", "_gaps", "_last_at", "_longest_s", "_skipped", "arrivals", "first_at")

    def __init__(self) -> None:
        self.arrivals = 0
        self.first_at: float | None = None
        self._last_at = 0.0
        self._longest_s = 0.0
        self._gaps: list[float] = []
        self._every = 1  # of so many gaps one is remembered
        self._skipped = 0

    def arrived(self, now: float, count: int = 1) -> None:
        """`count` things came, now."""
        if self.first_at is None:
            self.first_at = now
        else:
            gap_s = now - self._last_at
            self._longest_s = max(self._longest_s, gap_s)
            self._note(gap_s)
        for _ in range(count - 1):
            self._note(0.0)
        self.arrivals += count
        self._last_at = now

    @property
    def span_ms(self) -> float | None:
        """From the first arrival to the last; None: there was none."""
        return None if self.first_at is None else _ms(self._last_at - self.first_at)

    @property
    def max_ms(self) -> float | None:
        """The longest; None: nothing came after the first."""
        return _ms(self._longest_s) if self.arrivals > 1 else None

    def percentiles_ms(self, *percents: float) -> list[float | None]:
        """What so many in a hundred do not exceed (nearest rank), for each; None: nothing came after the first."""
        ordered = sorted(self._gaps)
        return [_rank_ms(ordered, percent) for percent in percents]

    def _note(self, gap_s: float) -> None:
        self._skipped += 1
        if self._skipped < self._every:
            return
        self._skipped = 0
        self._gaps.append(gap_s)
        if len(self._gaps) >= GAPS_MAX:
            del self._gaps[::2]
            self._every *= 2


def _rank_ms(ordered: list[float], percent: float) -> float | None:
    if not ordered:
        return None
    return _ms(ordered[max(ceil(len(ordered) * percent / 100), 1) - 1])


def _ms(seconds: float) -> float:
    return round(seconds * 1000, 3)
