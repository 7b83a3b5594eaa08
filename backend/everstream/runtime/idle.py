"""A clock for silence that costs nothing while there is none.

Whoever is watched only notes the time of its last sign of life.  The timer rings when the silence *could* have lasted
long enough, looks how much is left, and sets itself again: two timers a minute instead of one a token.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable


class IdleClock:
    """Calls `ring` when `time_left` (seconds) has run out, again and again until it is cancelled."""

    __slots__ = ("_handle", "_loop", "_ring", "_time_left")

    def __init__(self, time_left: Callable[[], float], ring: Callable[[], None]) -> None:
        self._time_left = time_left
        self._ring = ring
        self._loop = asyncio.get_running_loop()
        self._handle = self._loop.call_later(max(time_left(), 0.0), self._look)

    def _look(self) -> None:
        if self._time_left() <= 0:
            self._ring()
        self._handle = self._loop.call_later(max(self._time_left(), 0.001), self._look)

    def look_again(self) -> None:
        """There may be less time left than there was: set the timer anew."""
        self._handle.cancel()
        self._handle = self._loop.call_later(max(self._time_left(), 0.0), self._look)

    def cancel(self) -> None:
        self._handle.cancel()
