"""How sure a mean over a few seeds is: Student's t-interval, without a package for it.

With whole degrees of freedom the distribution is a finite sum (Abramowitz and Stegun 26.7.3 and 26.7.4),
and its quantile is found by halving an interval.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import fmean, stdev

from turnwise.envs.types import Model

LEVEL = 0.95


class Estimate(Model):
    """A mean with its 95% interval over seeds; one value alone has no interval."""

    mean: float
    low: float | None
    high: float | None
    n: int


def estimate(values: Sequence[float]) -> Estimate | None:
    """The mean of independent values with Student's interval; None where there are none."""
    if not values:
        return None
    mean, n = fmean(values), len(values)
    if n == 1:
        return Estimate(mean=mean, low=None, high=None, n=1)
    half = t_quantile(n - 1) * stdev(values) / math.sqrt(n)
    return Estimate(mean=mean, low=mean - half, high=mean + half, n=n)


def t_quantile(freedom: int, level: float = LEVEL) -> float:
    """The t within which ``level`` of Student's distribution lies, on both sides of 0."""
    low, high = 0.0, 1.0
    while t_within(high, freedom) < level:
        high *= 2
    for _ in range(80):
        middle = (low + high) / 2
        low, high = (middle, high) if t_within(middle, freedom) < level else (low, middle)
    return high


def t_within(t: float, freedom: int) -> float:
    """The share of Student's distribution between ``-t`` and ``t``."""
    angle = math.atan(t / math.sqrt(freedom))
    odd = freedom % 2
    term, total = (math.cos(angle), 0.0) if odd else (1.0, 0.0)
    for k in range(odd, freedom - 1, 2):
        total += term
        term *= math.cos(angle) ** 2 * (k + 1) / (k + 2)
    share = math.sin(angle) * total
    return 2 / math.pi * (angle + share) if odd else share
