"""How far an answer may go: its request's budget, and the largest size of a stream.

Three look after a budget, each where it can.  The provider is asked for no more tokens than it allows, and stops by
itself at precisely that many.  What the provider counts on the way is believed.  And the text is measured here, for
providers that do neither: not every delta, but at a number of characters that cannot be too late, and from there at
the next one.  A token of English is four characters, and where a vocabulary is loaded it is known.
"""

from __future__ import annotations

import sys

import msgspec

from everstream.core.attempts import runs_of
from everstream.core.events import Budget, Request, Usage
from everstream.core.meter import CHARS_PER_TOKEN, estimated_usage
from everstream.providers.tokenizer import counts, tokens_in
from everstream.runtime.accounts import Price, input_text
from everstream.runtime.answer import Answer

_PRICED_TOKENS = 1_000_000


class Allowance:
    """`tokens` of output are allowed (`sys.maxsize`: any number); `chars` is where it has to be looked at again."""

    __slots__ = ("_lowered", "_stream_bytes", "chars", "tokens", "warning")

    def __init__(self, request: Request, price: Price | None, stream_bytes: int) -> None:
        """`warning` is what is to be said about a budget that cannot be kept, or None."""
        bought, self.warning = affordable_tokens(request, price)
        self.tokens = sys.maxsize if bought is None else bought
        self._stream_bytes = stream_bytes  # of which no character takes less than one
        self._lowered = False
        self.chars = stream_bytes
        if bought is not None:
            self.chars = min(stream_bytes, bought * (1 if counts() else CHARS_PER_TOKEN))

    def limit(self, tokens: int) -> None:
        """No more than this, whatever the request's own budget says."""
        self.tokens = tokens
        self.chars = min(self._stream_bytes, tokens * (1 if counts() else CHARS_PER_TOKEN))

    def lowered(self, request: Request) -> Request:
        """The request with the bound in it, where its own is higher."""
        params = request.params
        if self.tokens == sys.maxsize or (params.max_tokens is not None and params.max_tokens <= self.tokens):
            return request
        thinking = params.thinking
        if isinstance(thinking, dict) and thinking.get("budget_tokens", 0) >= self.tokens:
            return request  # which would be refused: a model has to be allowed more than it may think
        self._lowered = True
        return msgspec.structs.replace(request, params=msgspec.structs.replace(params, max_tokens=max(self.tokens, 1)))

    def spent(self, answer: Answer) -> bool:
        """Whether nothing is left; to be asked at `chars`, which may be further on afterwards."""
        meter = answer.meter
        if meter.chars >= self._stream_bytes:
            answer.warnings.append("the answer reached the largest size of a stream")
            return True
        used = max(
            sum(tokens_in(run.said) for run in runs_of(answer.log.entries, answer.request.model)), answer.counted_tokens
        )
        if used >= self.tokens or not counts():
            return True
        self.chars = min(self._stream_bytes, meter.chars + self.tokens - used)
        return False

    def ended_by(self, answer: Answer) -> bool:
        """Whether the provider stopped at this bound, and at none of the request's own."""
        return self._lowered and answer.finish_reason == "length"


def affordable_tokens(request: Request, price: Price | None) -> tuple[int | None, str | None]:
    """How many output tokens the request's budget allows, by the estimate (None: any number), and a warning."""
    budget = request.budget or Budget()
    tokens = budget.output_tokens
    if budget.usd is None:
        return tokens, None
    asked = estimated_usage(tokens_in(input_text(request)), len(request.messages), 0).input_tokens
    whole = Usage(asked, _PRICED_TOKENS, asked + _PRICED_TOKENS, "estimated")
    cost = price(request.model, whole) if price else None
    if cost is None or not cost.output:
        return tokens, "budget.usd was not kept: the price of this model is not known"
    bought = int(max(budget.usd - cost.input, 0.0) / cost.output * _PRICED_TOKENS)
    return bought if tokens is None else min(tokens, bought), None
