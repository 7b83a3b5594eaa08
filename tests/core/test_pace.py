"""A bucket gives what it holds at once, and then as much as comes in."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from everstream.core.pace import Bucket


def test_what_is_there_may_be_taken_at_once_and_then_only_what_comes() -> None:
    bucket = Bucket(3, 2.0, now=10.0)
    assert [bucket.take(10.0) for _ in range(4)] == [0.0, 0.0, 0.0, 0.5]
    assert bucket.take(10.25) == pytest.approx(0.25)
    assert bucket.take(10.5) == 0.0
    assert bucket.take(10.5) == 0.5
    assert [bucket.take(1000.0) for _ in range(4)] == [0.0, 0.0, 0.0, 0.5]


@given(
    st.integers(1, 9),
    st.floats(0.5, 20),
    st.lists(st.tuples(st.floats(0, 3), st.booleans()), max_size=80),
)
def test_in_no_span_is_more_taken_than_fits_and_who_waits_as_long_as_he_is_told_gets_it(
    capacity: int, per_s: float, steps: list[tuple[float, bool]]
) -> None:
    bucket, now, wait, taken = Bucket(capacity, per_s, 0.0), 0.0, 0.0, []
    for pause, obeys in steps:
        obeyed = obeys and wait > 0
        now += wait + 1e-6 if obeyed else pause
        wait = bucket.take(now)
        if wait == 0.0:
            taken.append(now)
        assert not (obeyed and wait)
    for first in range(len(taken)):
        for last in range(first, len(taken)):
            assert last - first + 1 <= capacity + (taken[last] - taken[first]) * per_s + 1e-6


def test_a_clock_that_goes_back_gives_nothing() -> None:
    bucket = Bucket(1, 1.0, now=5.0)
    assert bucket.take(5.0) == 0.0
    assert bucket.take(4.0) == 1.0
    assert bucket.take(5.5) == 0.5
