"""Student's interval against printed tables and a worked example."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from turnwise.trainer.compare.statistics import Estimate, estimate, t_quantile, t_within


@pytest.mark.parametrize(
    ("freedom", "level", "expected"),
    [
        (1, 0.95, 12.7062),
        (2, 0.95, 4.30265),
        (3, 0.95, 3.18245),
        (4, 0.95, 2.77645),
        (9, 0.95, 2.26216),
        (10, 0.95, 2.22814),
        (9, 0.99, 3.24984),
        (2, 0.90, 2.91999),
        (30, 0.95, 2.04227),
        (120, 0.95, 1.97993),
        (999, 0.95, 1.96234),
    ],
)
def test_quantiles_are_those_of_the_tables(freedom: int, level: float, expected: float) -> None:
    assert t_quantile(freedom, level) == pytest.approx(expected, rel=3e-6)


@given(st.floats(0, 50), st.integers(1, 60))
def test_the_distribution_narrows_with_more_degrees_of_freedom(t: float, freedom: int) -> None:
    assert 0 <= t_within(t, freedom) <= t_within(t, freedom + 1) + 1e-12 <= 1 + 2e-12


def test_an_interval_worked_by_hand() -> None:
    """Mean 0.6, deviation sqrt(0.02/2) = 0.1, so 0.6 ± 4.30265 · 0.1 / sqrt(3)."""
    found = estimate([0.5, 0.6, 0.7])
    half = 4.30265273 * 0.1 / math.sqrt(3)
    assert found is not None
    assert found.n == 3
    assert found.mean == pytest.approx(0.6)
    assert found.low == pytest.approx(0.6 - half)
    assert found.high == pytest.approx(0.6 + half)


def test_one_value_has_no_interval_and_none_no_mean() -> None:
    assert estimate([0.25]) == Estimate(mean=0.25, low=None, high=None, n=1)
    assert estimate([]) is None
