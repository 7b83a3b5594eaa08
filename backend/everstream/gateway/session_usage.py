"""What the ended turns of a session used, added up by model.

It is counted from the session's own stream: each `turn_end` has the sum of all streams of its turn, whatever provider
calls that took.  A turn counts for the model that it began with, also where another one carried it on.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass

from everstream.core.events import Cost, Event
from everstream.core.session_events import TurnEnd, TurnStart
from everstream.gateway.http_replies import ModelUsage


@dataclass(slots=True)
class _Sum:
    turns: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    total_tokens: int = 0
    thinking_tokens: int = 0
    cached_tokens: int = 0
    estimated: int = 0
    unknown: int = 0
    unpriced: int = 0
    cost: Cost | None = None

    def take(self, ended: TurnEnd) -> None:
        self.turns += 1
        usage = ended.usage
        if usage is None:
            self.unknown += 1
        else:
            self.input_tokens += usage.input_tokens
            self.output_tokens += usage.output_tokens
            self.total_tokens += usage.total_tokens
            self.thinking_tokens += usage.thinking_tokens or 0
            self.cached_tokens += usage.cached_tokens or 0
            self.estimated += usage.source == "estimated"
        if ended.cost is None:
            self.unpriced += 1
        elif self.cost is None:
            self.cost = ended.cost
        else:
            known, more = self.cost, ended.cost
            self.cost = Cost(
                known.input + more.input, known.output + more.output, known.total + more.total, known.currency
            )


def used(entries: Iterable[Event]) -> list[ModelUsage]:
    """What a session's entries tell, the model that was asked first coming first.

    A turn that was taken out of the queue before it began used nothing, and is not counted.
    """
    models: dict[str, str] = {}  # of turns that have begun
    sums: dict[str, _Sum] = {}
    for entry in entries:
        if isinstance(entry, TurnStart):
            models.setdefault(entry.turn, entry.model)
        elif isinstance(entry, TurnEnd) and entry.turn in models:
            sums.setdefault(models.pop(entry.turn), _Sum()).take(entry)
    return [ModelUsage(model=model, **asdict(found)) for model, found in sums.items()]
