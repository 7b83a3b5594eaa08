"""What somebody may use: so much at a time, so much in a span of time.

    claim:   wanted at the start, of an answer say: a place beside the others, a start, tokens, money
    holder:  who claims; a second claim of the same holder is the first one, and prolongs its time
    settle:  what was really used; the rest is given back

An *account* keeps, for every name, what was used in the span that is under way, and what its holders hold.  Spans are
fixed ones of the store's clock (a day of UTC begins at midnight), since "so much a day" can then be explained in a
sentence, and the time when there is more again be told.  Of what may be held at a time (`span_ms` 0) nothing stays when
its holder has settled.  A holder who never does (its node died, and nobody carried its answer on) is forgotten after a
while; what it claimed of a span stays used.

Everything is decided in one step, so that a hundred who ask at once get together no more than there is.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Claim:
    """`amount` of `name` is wanted and `least` will do, where `most` is allowed in each `span_ms` (0: at a time).

    Names are of a-z.  Amounts are whole numbers below 2**53.
    """

    name: str
    amount: int
    least: int
    most: int
    span_ms: int


@dataclass(frozen=True, slots=True)
class Spent:
    """There is not so much left of `name`.  `retry_after_ms`: when there is again; 0: as soon as a holder settles."""

    name: str
    retry_after_ms: int


Grant = tuple[str, int, int]  # name, the span it is of (its beginning in ms; -1: at a time), amount


@dataclass(slots=True)
class Account:
    """The rules, for a store that keeps accounts in a dict; `everstream.lua` has the same."""

    used: dict[str, tuple[int, int]] = field(default_factory=dict)  # name -> the span's beginning, amount
    holders: dict[str, tuple[int, list[Grant]]] = field(default_factory=dict)  # holder -> forgotten at ms, its grants

    def claim(self, holder: str, claims: Sequence[Claim], now_ms: int, ttl_ms: int) -> Spent | list[int]:
        """What of each claim was granted; `Spent`: nothing was.  An empty `holder` only asks, and holds nothing.

        A holder that is known keeps what it was granted, whatever is claimed now, for `ttl_ms` from now at least.
        """
        for name in [name for name, (until, _) in self.holders.items() if until <= now_ms]:
            del self.holders[name]
        if holder in self.holders:
            until, grants = self.holders[holder]
            self.holders[holder] = (max(until, now_ms + ttl_ms), grants)
            return [amount for _, _, amount in grants]
        held: dict[str, int] = {}
        for _, grants in self.holders.values():
            for name, span, amount in grants:
                if span == -1:
                    held[name] = held.get(name, 0) + amount
        granted: list[Grant] = []
        for claim in claims:
            span = now_ms - now_ms % claim.span_ms if claim.span_ms else -1
            before = held.get(claim.name, 0) if span == -1 else self._used(claim.name, span)
            amount = max(0, min(claim.amount, claim.most - before))
            if amount < claim.least:
                return Spent(claim.name, span + claim.span_ms - now_ms if claim.span_ms else 0)
            granted.append((claim.name, span, amount))
        if holder:
            for name, span, amount in granted:
                if span != -1:
                    self.used[name] = (span, self._used(name, span) + amount)
            self.holders[holder] = (now_ms + ttl_ms, granted)
        return [amount for _, _, amount in granted]

    def settle(self, holder: str, used: Mapping[str, int]) -> bool:
        """The holder has used this much (of what is not named: all it was granted).  False where nobody knows it."""
        known = self.holders.pop(holder, None)
        if known is None:
            return False
        for name, span, amount in known[1]:
            if span != -1 and self.used.get(name, (-1, 0))[0] == span:  # else that span is over
                self.used[name] = (span, max(0, self._used(name, span) - amount + used.get(name, amount)))
        return True

    def _used(self, name: str, span: int) -> int:
        began, amount = self.used.get(name, (-1, 0))
        return amount if began == span else 0
