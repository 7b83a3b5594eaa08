"""What a generation costs, by the public price list that `genai-prices` carries.

The list takes a quarter of a second to load, so nothing here loads it on the event loop: `prepare` loads it in a
thread, once, and a node calls it when it starts.  Until then `cost_of` answers None, as it does for a model that is
not in the list: an unknown cost is said to be unknown, never guessed.

Tokens written to a prompt cache are counted as plain input, for our `Usage` does not tell them apart; Anthropic charges
a quarter more for them.  The list is as old as the installed package; it is not fetched from the network.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from everstream.core.events import Cost, Usage

_calculate: Callable[..., Any] | None = None


async def prepare() -> None:
    """Load the price list, without blocking the loop.  Idempotent."""
    if _calculate is None:
        await asyncio.to_thread(_load)


def cost_of(priced_as: str, model: str, usage: Usage) -> Cost | None:
    """The cost in US dollars of `usage` with a model of the service that the list calls `priced_as`.

    None: it is not known, or `prepare` has not ended.
    """
    if _calculate is None or not priced_as or not model:
        return None
    return _priced(_calculate, priced_as, model, usage)


def _load() -> None:
    global _calculate
    import genai_prices

    def calculate(usage: Usage, provider: str, model: str) -> Any:
        said = genai_prices.Usage(
            input_tokens=usage.input_tokens,
            output_tokens=usage.output_tokens,
            cache_read_tokens=min(usage.cached_tokens or 0, usage.input_tokens),
        )
        return genai_prices.calc_price(said, model_ref=model, provider_id=provider)

    _priced(calculate, "openai", "gpt-5", Usage(1, 1, 2, "provider"))  # the first use parses the list
    _calculate = calculate


def _priced(calculate: Callable[..., Any], provider: str, model: str, usage: Usage) -> Cost | None:
    try:
        price = calculate(usage, provider, model)
    except LookupError:
        return None
    return Cost(float(price.input_price), float(price.output_price), float(price.total_price))
