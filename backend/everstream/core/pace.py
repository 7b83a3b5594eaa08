"""How fast somebody may do something: a bucket of tokens that fills again with time.

`capacity` may be taken at once, and `per_s` a second for as long as one likes.  The bucket is looked at only when
something is taken: how much has come since is arithmetic.
"""

from __future__ import annotations


class Bucket:
    """Full at first.  Times are in seconds, of whatever clock, as long as it is the same one."""

    __slots__ = ("_at", "_left", "capacity", "per_s")

    def __init__(self, capacity: float, per_s: float, now: float) -> None:
        self.capacity, self.per_s = capacity, per_s
        self._left, self._at = capacity, now

    def take(self, now: float, amount: float = 1.0) -> float:
        """0.0 where it was taken; else how long it is, in seconds, until so much is there, and nothing is taken."""
        if now > self._at:
            self._left = min(self.capacity, self._left + (now - self._at) * self.per_s)
            self._at = now
        if self._left >= amount:
            self._left -= amount
            return 0.0
        return (amount - self._left) / self.per_s
