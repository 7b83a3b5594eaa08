"""When a client comes back after its connection went, and whether it does at all.  Pure: chance is passed in.

The close code says whether (`fate`), full jitter says when (`Backoff`): a random time between nought and a ceiling
that starts at 0.25 s and doubles to 15 s.  Random from nought on, so that ten thousand clients of a dead node do not
come back in step; and back at the start as soon as a server has said anything after its welcome, so that a client
that lives through many deploys does not grow slower with each.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum
from random import random

FIRST_CEILING_S = 0.25
LAST_CEILING_S = 15.0
CLOSE_TOO_BIG = 1009  # WebSocket's own word for 4509
NEVER_AGAIN = range(4500, 5000)

# The error a final close code stands for; any other code of `NEVER_AGAIN` is `protocol.bad_frame`.
CODE_OF_CLOSE: dict[int, str] = {
    4500: "protocol.bad_frame",
    4501: "auth.denied",
    4503: "auth.forbidden",
    4509: "protocol.too_large",
    4510: "protocol.hello_expected",
    CLOSE_TOO_BIG: "protocol.too_large",
}

# The error a refused upgrade stands for.  Other statuses below 500 (but 408, 425 and 429) are `request.invalid`.
CODE_OF_STATUS: dict[int, str] = {
    400: "protocol.bad_frame",
    401: "auth.required",
    403: "auth.forbidden",
    404: "request.not_found",
}
_STATUS_PASSES = (408, 425, 429)


class Fate(Enum):
    COME_BACK = "come_back"
    STAY_AWAY = "stay_away"


def fate(close_code: int) -> Fate:
    """What a client does after this close code (1006: the connection was lost without one)."""
    final = close_code in NEVER_AGAIN or close_code == CLOSE_TOO_BIG
    return Fate.STAY_AWAY if final else Fate.COME_BACK


def fate_of_status(http_status: int) -> Fate:
    """What a client does after an upgrade that was refused with this status."""
    final = 400 <= http_status < 500 and http_status not in _STATUS_PASSES
    return Fate.STAY_AWAY if final else Fate.COME_BACK


class Backoff:
    """How long to wait before each attempt.  `chance` gives a number in [0, 1)."""

    __slots__ = ("_ceiling_s", "_chance", "_first_s", "_last_s")

    def __init__(
        self,
        first_s: float = FIRST_CEILING_S,
        last_s: float = LAST_CEILING_S,
        chance: Callable[[], float] = random,
    ) -> None:
        self._first_s = first_s
        self._last_s = last_s
        self._chance = chance
        self._ceiling_s = first_s

    def reset(self) -> None:
        self._ceiling_s = self._first_s

    def next_s(self, at_least_s: float = 0.0) -> float:
        """Seconds to wait now; `at_least_s` where the server said so."""
        wait_s = self._chance() * self._ceiling_s
        self._ceiling_s = min(self._ceiling_s * 2, self._last_s)
        return at_least_s + wait_s if at_least_s > 0 else wait_s

    def within_s(self, most_ms: float) -> float:
        """A time of one's own within `most_ms`, as `goaway` asks for."""
        return self._chance() * max(0.0, most_ms) / 1000
