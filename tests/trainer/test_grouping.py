"""Groups of entries: their statistics, and exact zeros where there is nothing to compare."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from turnwise.trainer.grouping import Grouping

quick = settings(max_examples=20, deadline=None)
values = st.lists(st.tuples(st.integers(0, 3), st.floats(-10, 10)), min_size=1, max_size=20)


@quick
@given(values)
def test_statistics_are_numpys_group_by_group(entries: list[tuple[int, float]]) -> None:
    codes, x = np.array([code for code, _ in entries]), np.array([value for _, value in entries])
    groups = Grouping(codes, 5)
    for code in range(5):
        mine = x[codes == code]
        assert groups.size[code] == len(mine)
        if not len(mine):
            assert np.isnan(groups.mean(x)[code])
            continue
        assert groups.sum(x)[code] == pytest.approx(mine.sum(), abs=1e-12)
        assert groups.mean(x)[code] == pytest.approx(mine.mean(), abs=1e-12)
        assert groups.std(x)[code] == pytest.approx(mine.std(), abs=1e-12)
        if len(mine) > 1:
            assert groups.std(x, ddof=1)[code] == pytest.approx(mine.std(ddof=1), abs=1e-12)
        assert (groups.max(x)[code], groups.min(x)[code]) == (mine.max(), mine.min())


@quick
@given(st.floats(-1e6, 1e6), st.integers(1, 9))
def test_alike_is_exactly_zero_whatever_the_rounding(value: float, size: int) -> None:
    groups = Grouping(np.zeros(size, dtype=int), 1)
    assert groups.centre(np.full(size, value)).tolist() == [0.0] * size
    assert groups.std(np.full(size, value)).tolist() == [0.0]


def test_several_keys_make_one_grouping() -> None:
    groups = Grouping.of(np.array([0, 0, 1, 1, 0]), np.array([0, 1, 0, 0, 0]))
    assert groups.count == 3
    assert groups.spread(groups.size).tolist() == [2, 1, 2, 2, 2]
    assert Grouping.of(np.array([], dtype=int)).count == 0
