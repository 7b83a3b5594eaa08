"""Sessions on three nodes through whatever chance does to them: see `session_machine`.

A seed that fails says so, with what happened last.  To see it again, to the letter:

    PYTHONHASHSEED=0 python -m tests.runtime.session_machine --first 42 --seeds 1

and the long form, with another first seed each time: `python -m tests.runtime.session_machine --seeds 2000`.
"""

from __future__ import annotations

from collections import Counter

import pytest
from tests.runtime.session_machine import KINDS, history

SEEDS = 84
CHUNKS = 6


@pytest.mark.parametrize("chunk", range(CHUNKS))
def test_nothing_is_lost_doubled_or_moved_and_every_turn_ends_once(chunk: int) -> None:
    for seed in range(chunk, SEEDS, CHUNKS):
        history(seed)


def test_what_chance_can_do_it_does() -> None:
    happened: Counter[str] = Counter()
    for seed in range(SEEDS, SEEDS + 3 * len(KINDS)):
        happened += history(seed).happened
    for what in ("send", "stop", "results", "member", "kill", "drain", "outage", "move"):
        assert happened[what] > len(KINDS), what
    for what in ("turn_queued", "turn_start", "tool_start", "interrupted", "carried on", "again", "refused"):
        assert happened[what], what
