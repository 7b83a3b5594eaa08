"""Arithmetic on timestamps."""

from __future__ import annotations

import pytest

from everstream.core.events import Metrics, Usage
from everstream.core.meter import MESSAGE_OVERHEAD_TOKENS, Meter, estimate_tokens, estimated_usage


@pytest.mark.parametrize(("chars", "tokens"), [(0, 0), (1, 1), (4, 1), (5, 2), (400, 100)])
def test_an_estimate_rounds_up_to_whole_tokens(chars: int, tokens: int) -> None:
    assert estimate_tokens(chars) == tokens


def test_a_whole_answer_is_measured_from_the_request_to_the_last_token() -> None:
    meter = Meter(100.0)
    assert meter.first(100.25) == 250.0
    meter.chars, meter.last_at = 400, 102.25
    assert meter.metrics(103.0, 100) == Metrics(ttft_ms=250.0, stream_ms=2000.0, total_ms=3000.0, tokens_per_s=50.0)


def test_an_answer_without_a_token_has_no_speed() -> None:
    assert Meter(1.0).metrics(1.5, 0) == Metrics(ttft_ms=None, stream_ms=None, total_ms=500.0, tokens_per_s=None)


def test_an_answer_that_came_in_one_piece_has_no_speed() -> None:
    meter = Meter(1.0)
    meter.first(1.5)
    meter.chars = 40
    metrics = meter.metrics(2.0, 10)
    assert (metrics.stream_ms, metrics.tokens_per_s) == (0.0, None)


def test_an_answer_that_was_carried_on_counts_from_its_first_request() -> None:
    meter = Meter(50.0, chars_before=100, elapsed_s=10.0, ttft_ms_before=300.0)
    meter.first(51.0)
    meter.chars, meter.last_at = 200, 53.0
    metrics = meter.metrics(53.0, 50)
    assert (metrics.ttft_ms, metrics.total_ms) == (300.0, 13000.0)
    assert metrics.tokens_per_s == 12.5, "half of the tokens came here, in two seconds"


def test_an_answer_carried_on_before_its_first_token_waited_for_it_all_the_time() -> None:
    meter = Meter(50.0, elapsed_s=10.0)
    assert meter.first(51.0) == 11000.0
    assert meter.metrics(52.0, 1).ttft_ms == 11000.0


def test_usage_is_estimated_from_tokens_and_messages() -> None:
    assert estimated_usage(10, 2, 3) == Usage(
        10 + 2 * MESSAGE_OVERHEAD_TOKENS, 3, 13 + 2 * MESSAGE_OVERHEAD_TOKENS, "estimated"
    )
