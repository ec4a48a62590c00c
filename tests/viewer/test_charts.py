"""Charts: honest axes, a scale centred on 0, and nothing lost in thinning."""

from __future__ import annotations

import re
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from turnwise.viewer.charts import MAX_POINTS, Axes, Cell, Curve, curve_chart, heat_map, shade, thin, ticks


@given(st.floats(1e-6, 1e9))
def test_ticks_are_even_start_at_0_and_reach_the_top(top: float) -> None:
    marks = ticks(top)
    assert marks[0] == 0
    assert marks[-1] >= top * (1 - 1e-6)
    assert marks[-2] < top
    assert 2 <= len(marks) <= 7
    assert all(b - a == pytest.approx(marks[1]) for a, b in pairwise(marks))


@given(st.floats(-10, 10), st.floats(0.01, 10))
def test_a_shade_and_its_opposite_are_as_far_from_the_middle(value: float, scale: float) -> None:
    place, opposite = int(shade(value, scale)[1:]), int(shade(-value, scale)[1:])
    assert place + opposite == 10
    assert (place - 5) * value >= 0


@given(st.lists(st.floats(0, 1), min_size=1, max_size=1500))
def test_thinning_keeps_the_ends_and_the_range(values: list[float]) -> None:
    curve = Curve("c", [(float(i + 1), v) for i, v in enumerate(values)])
    points = thin(curve).points
    assert len(points) <= MAX_POINTS
    assert points[-1][0] == len(values)
    assert min(values) - 1e-9 <= min(y for _, y in points)
    assert max(y for _, y in points) <= max(values) + 1e-9


def test_the_y_axis_starts_at_0_and_holds_the_interval() -> None:
    drawing = curve_chart(
        "seconds", [Curve("a", [(1, 90.0), (2, 95.0)], band=[(80.0, 99.0)] * 2)], Axes(top=None, number=str)
    )
    ys = [float(y) for y in re.findall(r"[ML][\d.]+ ([\d.]+)", drawing)]
    assert ">0.0<" in drawing
    assert ">100.0<" in drawing
    assert min(ys) > 0


def test_a_curve_without_points_leaves_no_trace() -> None:
    assert curve_chart("nothing", [Curve("a", [])]) == ""
    assert "absent" not in curve_chart("one", [Curve("a", [(1, 0.5)]), Curve("absent", [])])


def test_names_at_the_ends_do_not_touch() -> None:
    curves = [Curve(f"c{i}", [(1, 0.5), (2, 0.9)]) for i in range(5)]
    drawing = curve_chart("five", curves)
    heights = sorted(float(y) for y in re.findall(r'class="name s1" x="[\d.]+" y="([\d.]+)"', drawing))
    assert len(heights) == 5
    assert all(b - a >= 14 for a, b in pairwise(heights))


def test_a_label_is_escaped() -> None:
    assert "<b>" not in curve_chart("x", [Curve("<b>", [(1, 0.5)]), Curve("d", [(1, 0.4)])])


def test_a_map_tells_negative_positive_and_absent_apart() -> None:
    drawing = heat_map("Mean advantage", [("1", [Cell(-2.0, 3), Cell(2.0, 3), Cell(None, 0)])], signed=True)
    cells = re.findall(r'class="cell (\w+)"[^>]*><title>([^<]+)<', drawing)
    assert cells == [
        ("q0", "step 1, turn 1\nmean advantage -2.000, 3 turns"),
        ("q10", "step 1, turn 2\nmean advantage +2.000, 3 turns"),
        ("none", "step 1, turn 3\nno turns"),
    ]
