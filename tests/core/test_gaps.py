"""Times between arrivals: counted exactly while there are few, and by a sample that stays fair when there are many."""

from __future__ import annotations

import random

import pytest

from everstream.core.gaps import GAPS_MAX, Gaps


def test_nothing_can_be_said_of_one_arrival() -> None:
    gaps = Gaps()
    assert (gaps.arrivals, gaps.span_ms, gaps.max_ms, gaps.percentiles_ms(50)) == (0, None, None, [None])
    gaps.arrived(7.0)
    assert (gaps.arrivals, gaps.span_ms, gaps.max_ms, gaps.percentiles_ms(50)) == (1, 0.0, None, [None])


def test_percentiles_are_those_of_the_nearest_rank() -> None:
    gaps = Gaps()
    now = 0.0
    gaps.arrived(now)
    for number in range(1, 101):  # 1 to 100 ms
        now += number / 1000
        gaps.arrived(now)
    assert gaps.percentiles_ms(50, 90, 99, 100) == [50.0, 90.0, 99.0, 100.0]
    assert (gaps.max_ms, gaps.arrivals) == (100.0, 101)
    assert gaps.span_ms == pytest.approx(5050)


def test_what_arrives_together_has_no_time_between() -> None:
    gaps = Gaps()
    gaps.arrived(1.0, 3)
    gaps.arrived(1.5, 2)
    assert gaps.arrivals == 5
    assert gaps.percentiles_ms(50, 75, 76) == [0.0, 0.0, 500.0]
    assert gaps.max_ms == 500.0


def test_of_very_many_a_fair_sample_is_kept_and_the_longest() -> None:
    draw = random.Random(1)
    gaps = Gaps()
    now = 0.0
    for number in range(10 * GAPS_MAX):
        now += 5.0 if number == 1 else draw.random()
        gaps.arrived(now)
    assert len(gaps._gaps) < GAPS_MAX
    assert gaps.arrivals == 10 * GAPS_MAX
    assert gaps.max_ms == pytest.approx(5000)
    p50, p90 = gaps.percentiles_ms(50, 90)
    assert p50 == pytest.approx(500, rel=0.05)
    assert p90 == pytest.approx(900, rel=0.05)
