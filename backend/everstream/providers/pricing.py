"""What a generation costs, and how much a model sees, by the public price list that `genai-prices` carries.

The list takes a quarter of a second to load, so nothing here loads it on the event loop: `prepare` loads it in a
thread, once, and a node calls it when it starts.  Until then `cost_of` answers None, as it does for a model that is
not in the list: an unknown cost is said to be unknown, never guessed.

Tokens written to a prompt cache are counted as plain input, for our `Usage` does not tell them apart; Anthropic charges
a quarter more for them.  The list is as old as the installed package; it is not fetched from the network.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import lru_cache
from typing import Any, Final

from everstream.core.events import Cost, Usage

WINDOWS_KEPT_MAX: Final = 2_048  # of names that were asked for: looking for one in a long list takes 0.2 ms

_calculate: Callable[..., Any] | None = None
_look_up: Callable[[str, str], int | None] | None = None


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


def window_of(priced_as: str, model: str) -> int | None:
    """The tokens that a model of the service that the list calls `priced_as` sees at a time.

    None: it is not known, or `prepare` has not ended.
    """
    return _look_up(priced_as, model) if _look_up is not None and priced_as and model else None


def _load() -> None:
    global _calculate, _look_up
    import genai_prices
    from genai_prices import data_snapshot

    def calculate(usage: Usage, provider: str, model: str) -> Any:
        said = genai_prices.Usage(
            input_tokens=usage.input_tokens,
            output_tokens=usage.output_tokens,
            cache_read_tokens=min(usage.cached_tokens or 0, usage.input_tokens),
        )
        return genai_prices.calc_price(said, model_ref=model, provider_id=provider)

    @lru_cache(WINDOWS_KEPT_MAX)
    def look_up(priced_as: str, model: str) -> int | None:
        listed = data_snapshot.get_snapshot()
        try:
            service = listed.find_provider(None, priced_as, None)
        except LookupError:
            return None
        found = service.find_model(model, all_providers=listed.providers)
        return found.context_window if found is not None else None

    _priced(calculate, "openai", "gpt-5", Usage(1, 1, 2, "provider"))  # the first use parses the list
    _calculate, _look_up = calculate, look_up


def _priced(calculate: Callable[..., Any], provider: str, model: str, usage: Usage) -> Cost | None:
    try:
        price = calculate(usage, provider, model)
    except LookupError:
        return None
    return Cost(float(price.input_price), float(price.output_price), float(price.total_price))
