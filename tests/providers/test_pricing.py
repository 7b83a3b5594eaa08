"""Costs come from the public list, or are said to be unknown."""

from __future__ import annotations

import pytest

from everstream.core.events import Usage
from everstream.providers import pricing


async def test_a_cost_is_unknown_until_the_list_is_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pricing, "_calculate", None)
    usage = Usage(1000, 500, 1500, "provider")
    assert pricing.cost_of("openai", "gpt-5.5", usage) is None
    await pricing.prepare()
    assert pricing.cost_of("openai", "gpt-5.5", usage) is not None


async def test_a_cost_adds_up_and_cached_tokens_are_cheaper() -> None:
    await pricing.prepare()
    plain = pricing.cost_of("anthropic", "claude-sonnet-4-6", Usage(10_000, 500, 10_500, "provider"))
    cached = pricing.cost_of("anthropic", "claude-sonnet-4-6", Usage(10_000, 500, 10_500, "provider", None, 9_000))
    assert plain is not None
    assert cached is not None
    assert plain.total == pytest.approx(plain.input + plain.output)
    assert (plain.input, plain.output) == pytest.approx((0.03, 0.0075))
    assert cached.input < plain.input
    assert cached.output == plain.output


@pytest.mark.parametrize(
    ("priced_as", "model"), [("openai", "no-such-model"), ("", "echo"), ("nobody", "gpt-5"), ("openai", "")]
)
async def test_an_unknown_model_has_no_cost(priced_as: str, model: str) -> None:
    await pricing.prepare()
    assert pricing.cost_of(priced_as, model, Usage(10, 10, 20, "provider")) is None
