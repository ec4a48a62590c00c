"""Charts as inline SVG: curves and heat maps that follow the page's colours and need no script.

Colours are CSS classes (``s1`` … for series, ``q0`` … ``q10`` for a diverging scale), so that light and
dark pages share one drawing. Every value can be read off without colour: curves carry their names at
their ends, and each point's figures are the ``<title>`` of an invisible column over it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

from markupsafe import Markup, escape

Point = tuple[float, float]

WIDTH, HEIGHT = 520.0, 270.0
LEFT, TOP, BOTTOM = 46.0, 14.0, 40.0
MAX_POINTS = 200
"""Longer curves are drawn as means over equal stretches of the x axis."""
MOST_DOTS = 40
CLASSES = 11
"""Steps of the diverging scale; the middle one is 0."""


@dataclass(frozen=True, slots=True)
class Curve:
    """One line: its points by x, and where there is one its 95% interval at each of them."""

    label: str
    points: Sequence[Point]
    style: str = "s1"
    band: Sequence[tuple[float, float]] = ()
    """Low and high, one pair a point."""
    dots: bool = False
    """Measured at few places: mark each."""


@dataclass(frozen=True, slots=True)
class Axes:
    """What the axes say."""

    x: str = "training step"
    top: float | None = 1.0
    """Upper end of the y axis; None fits the data. The lower end is always 0."""
    number: Callable[[float], str] = field(default=lambda value: f"{value:.0%}")
    """How a value is written."""
    before: str = ""
    """Names the shaded part left of x = 0."""
    place: Callable[[float], str] = field(default=lambda x: f"step {x:g}")
    """How a place on the x axis is named."""


def curve_chart(name: str, curves: Sequence[Curve], axes: Axes = Axes()) -> Markup:
    """Curves over a common axis. ``name`` says what is shown, for those who cannot see it."""
    drawn = [thin(curve) for curve in curves if curve.points]
    if not drawn:
        return Markup("")
    frame = Frame.around(drawn, axes, room=_room(drawn))
    marks = [*_curves(frame, drawn, axes), *_names(frame, drawn), *_readings(frame, drawn, axes)]
    return _svg(name, WIDTH, HEIGHT, marks)


def side_by_side(name: str, panels: Sequence[tuple[Sequence[Curve], Axes]]) -> Markup:
    """Panels with the same curves over different axes, and one legend for all; ``name`` is the heading."""
    drawn = [([thin(curve) for curve in curves if curve.points], axes) for curves, axes in panels]
    if not drawn[0][0]:
        return Markup("")
    legend, top = _key(drawn[0][0], WIDTH * len(panels))
    parts = [_text(LEFT, 18, name, "title"), *legend]
    for place, (curves, axes) in enumerate(drawn):
        frame = Frame.around(curves, axes, room=18.0)
        marks = Markup("").join([*_curves(frame, curves, axes), *_readings(frame, curves, axes)])
        group = Markup('<g class="many" transform="translate({:.0f} {:.0f})">{}</g>')
        parts.append(group.format(place * WIDTH, top, marks))
    return _svg(name, WIDTH * len(panels), top + HEIGHT, parts)


def difference_bar(mean: float, low: float, high: float, reach: float) -> Markup:
    """A difference with its interval on a line from ``-reach`` to ``reach``, 0 in the middle."""
    width, height = 200.0, 20.0

    def x(value: float) -> float:
        return width / 2 * (1 + max(-1.0, min(1.0, value / reach if reach else 0.0)) * 0.96)

    style = "s6" if low <= 0 <= high else "s1" if mean > 0 else "s2"
    parts = [
        Markup('<path class="zero" d="M{:.1f} 0V{}"/>').format(x(0), height),
        Markup('<path class="{} reach" d="M{:.1f} {}H{:.1f}"/>').format(style, x(low), height / 2, x(high)),
        Markup('<circle class="{} dot" cx="{:.1f}" cy="{}" r="3"/>').format(style, x(mean), height / 2),
    ]
    return _svg("difference with its interval", width, height, parts)


def _key(curves: Sequence[Curve], width: float) -> tuple[list[Markup], float]:
    """A legend below the heading, in as many rows as it needs, and where it ends."""
    parts, x, y = [], LEFT, 41.0
    for curve in curves:
        long = 38 + 6.7 * len(curve.label)
        if x > LEFT and x + long > width:
            x, y = LEFT, y + 20
        parts.append(Markup('<path class="{} line" d="M{:.1f} {:.1f}h26"/>').format(curve.style, x, y - 4))
        parts.append(_text(x + 32, y, curve.label, ""))
        x += long + 14
    return parts, y + 10


def _curves(frame: Frame, curves: Sequence[Curve], axes: Axes) -> list[Markup]:
    """The grid and all that is drawn on it."""
    bands = [_band(frame, curve) for curve in curves]
    return [*_grid(frame, axes), *bands, *(mark for curve in curves for mark in _line(frame, curve))]


def _room(curves: Sequence[Curve]) -> float:
    """What the names of several curves need beside the plot."""
    return 14.0 + 7.4 * (max(len(curve.label) for curve in curves) if len(curves) > 1 else 0)


@dataclass(frozen=True, slots=True)
class Frame:
    """Where data lies on the drawing."""

    low: float
    high: float
    top: float
    right: float
    """Room for names beside the plot."""

    @classmethod
    def around(cls, curves: Sequence[Curve], axes: Axes, room: float) -> Frame:
        """The smallest frame with round ends that holds the curves, with room for names beside it."""
        xs = [x for curve in curves for x, _ in curve.points]
        ys = [y for curve in curves for _, y in curve.points] + [h for curve in curves for _, h in curve.band]
        top = axes.top if axes.top is not None else ticks(max(max(ys), 1e-9))[-1]
        low, high = min(0.0, *xs), max(xs)
        return cls(low, high if high > low else low + 1, top, room)

    def x(self, value: float) -> float:
        """A value of the x axis on the drawing."""
        return LEFT + (value - self.low) / (self.high - self.low) * (WIDTH - LEFT - self.right)

    def y(self, value: float) -> float:
        """A value of the y axis on the drawing."""
        return HEIGHT - BOTTOM - value / self.top * (HEIGHT - TOP - BOTTOM)


def ticks(top: float, count: int = 4) -> list[float]:
    """Round values from 0 to the first at or above ``top``, about ``count`` apart from 0."""
    raw = top / count
    size = 10.0 ** math.floor(math.log10(raw))
    step = next(size * factor for factor in (1, 2, 2.5, 5, 10) if size * factor >= raw * 0.999)
    return [i * step for i in range(math.ceil(top / step - 1e-9) + 1)]


def thin(curve: Curve) -> Curve:
    """At most ``MAX_POINTS`` points: means over equal stretches; curves with a band stay whole."""
    if len(curve.points) <= MAX_POINTS or curve.band:
        return curve
    size = math.ceil(len(curve.points) / MAX_POINTS)
    chunks = [curve.points[i : i + size] for i in range(0, len(curve.points), size)]
    means = [(c[-1][0], sum(y for _, y in c) / len(c)) for c in chunks]
    return Curve(curve.label, means, curve.style, dots=curve.dots)


def _grid(frame: Frame, axes: Axes) -> list[Markup]:
    right = WIDTH - frame.right
    parts = []
    if frame.low < 0:
        parts.append(
            Markup('<rect class="before" x="{:.1f}" y="{}" width="{:.1f}" height="{:.1f}"/>').format(
                LEFT, TOP, frame.x(0) - LEFT, HEIGHT - TOP - BOTTOM
            )
        )
        parts.append(_text(LEFT + 5, TOP + 14, axes.before, "note"))
    for value in ticks(frame.top):
        if value <= frame.top * 1.001:
            y = frame.y(value)
            parts.append(Markup('<path class="grid" d="M{} {:.1f}H{:.1f}"/>').format(LEFT, y, right))
            parts.append(_text(LEFT - 6, y + 4, axes.number(value), "tick end"))
    for value in ticks(frame.high, 5) if frame.high > 0 else [0.0]:
        if value <= frame.high and value == int(value):
            parts.append(_text(frame.x(value), HEIGHT - BOTTOM + 17, f"{value:,.0f}", "tick mid"))
    parts.append(_text((frame.x(0) + right) / 2, HEIGHT - 5, axes.x, "tick mid"))
    return parts


def _band(frame: Frame, curve: Curve) -> Markup:
    if not curve.band:
        return Markup("")
    xs = [frame.x(x) for x, _ in curve.points]
    if len(xs) == 1:
        low, high = (frame.y(value) for value in curve.band[0])
        return Markup('<path class="{} whisker" d="M{:.1f} {:.1f}V{:.1f}"/>').format(
            curve.style, xs[0], low, high
        )
    upper = [f"{x:.1f} {frame.y(high):.1f}" for x, (_, high) in zip(xs, curve.band, strict=True)]
    lower = [f"{x:.1f} {frame.y(low):.1f}" for x, (low, _) in zip(xs, curve.band, strict=True)]
    return Markup('<path class="{} band" d="M{}Z"/>').format(
        curve.style, "L".join([*upper, *reversed(lower)])
    )


def _line(frame: Frame, curve: Curve) -> list[Markup]:
    places = [(frame.x(x), frame.y(y)) for x, y in curve.points]
    path = "L".join(f"{x:.1f} {y:.1f}" for x, y in places)
    parts = [Markup('<path class="{} line" d="M{}"/>').format(curve.style, path)]
    if len(places) == 1 or (curve.dots and len(places) <= MOST_DOTS):
        parts += [
            Markup('<circle class="{} dot" cx="{:.1f}" cy="{:.1f}" r="3.2"/>').format(curve.style, x, y)
            for x, y in places
        ]
    return parts


def _names(frame: Frame, curves: Sequence[Curve]) -> list[Markup]:
    """Each curve's name at its end, moved apart where they would touch; the shaded part has its own."""
    if len(curves) == 1:
        return []
    named = [(curve.points[-1], i) for i, curve in enumerate(curves) if curve.points[0][0] >= 0]
    wanted = sorted((frame.y(y) + 4, i) for (_, y), i in named)
    floor, placed = TOP + 4, []
    for y, i in wanted:
        floor = max(y, floor)
        placed.append((floor, i))
        floor += 15
    excess = max(0.0, floor - 15 - (HEIGHT - BOTTOM + 4))
    x = WIDTH - frame.right + 8
    return [_text(x, y - excess, curves[i].label, f"name {curves[i].style}") for y, i in placed]


def _readings(frame: Frame, curves: Sequence[Curve], axes: Axes) -> list[Markup]:
    """Invisible columns, one for each x with points, whose titles are the figures there."""
    xs = sorted({x for curve in curves for x, _ in curve.points})
    edges = [frame.x(xs[0]) - 6, *((frame.x(a) + frame.x(b)) / 2 for a, b in pairwise(xs))]
    edges.append(frame.x(xs[-1]) + 6)
    lines: dict[float, list[str]] = {x: [axes.place(x)] for x in xs}
    for curve in curves:
        for i, (x, y) in enumerate(curve.points):
            interval = " ({} to {})".format(*map(axes.number, curve.band[i])) if curve.band else ""
            lines[x].append(f"{curve.label}: {axes.number(y)}{interval}")
    return [
        Markup(
            '<rect class="hit" x="{:.1f}" y="{}" width="{:.1f}" height="{:.1f}"><title>{}</title></rect>'
        ).format(left, TOP, right - left, HEIGHT - TOP - BOTTOM, "\n".join(lines[x]))
        for x, (left, right) in zip(xs, pairwise(edges), strict=True)
    ]


# ---------------------------------------------------------------- heat maps


@dataclass(frozen=True, slots=True)
class Cell:
    """A figure and over how many turns it was taken; None where there was none."""

    value: float | None
    count: int


def scale_of(values: Sequence[float]) -> float:
    """The value at the ends of the diverging scale: the 90th percentile of magnitudes, so that a few
    extremes do not wash out the rest; what lies beyond has the colour of the end."""
    magnitudes = sorted(abs(value) for value in values)
    return magnitudes[int(0.9 * (len(magnitudes) - 1))] if magnitudes else 0.0


def shade(value: float | None, scale: float) -> str:
    """The class of a value on a diverging scale from -scale to scale, centred on 0."""
    if value is None:
        return "none"
    share = 0.0 if scale <= 0 else max(-1.0, min(1.0, value / scale))
    return f"q{round((share + 1) / 2 * (CLASSES - 1))}"


def heat_map(name: str, rows: Sequence[tuple[str, Sequence[Cell]]], *, signed: bool) -> Markup:
    """A row for each stretch of steps, from the first on top, and a column for each turn."""
    columns = max((len(cells) for _, cells in rows), default=0)
    left, top, width = 92.0, 8.0, 900.0
    tall = max(11.0, min(26.0, 420.0 / len(rows)))
    wide = min(76.0, (width - left - 10) / columns)
    scale = scale_of([c.value for _, cells in rows for c in cells if c.value is not None])
    parts = [_text(8, top + 13, "step", "tick")]
    for r, (label, cells) in enumerate(rows):
        y = top + r * tall
        if r % math.ceil(15.0 / tall) == 0:
            parts.append(_text(left - 8, y + tall / 2 + 4, label, "tick end"))
        for c, cell in enumerate(cells):
            box = (left + c * wide, y, wide - 1, tall - 1)
            parts.append(_cell(box, cell, scale, f"step {label}, turn {c + 1}", name.lower()))
    bottom = top + len(rows) * tall
    for c in range(0, columns, math.ceil(24.0 / wide)):
        parts.append(_text(left + (c + 0.5) * wide, bottom + 17, str(c + 1), "tick mid"))
    parts.append(_text(left + columns * wide / 2, bottom + 36, "turn", "tick mid"))
    parts += _legend(left, bottom + 52, scale, signed)
    return _svg(name, width, bottom + 86, parts)


def _cell(
    box: tuple[float, float, float, float], cell: Cell, scale: float, where: str, quantity: str
) -> Markup:
    figure = "no turns"
    if cell.value is not None:
        figure = f"{quantity} {cell.value:+.3f}, {cell.count} turns"
    return Markup(
        '<rect class="cell {}" x="{:.1f}" y="{:.1f}" width="{:.1f}" height="{:.1f}"><title>{}</title></rect>'
    ).format(shade(cell.value, scale), *box, f"{where}\n{figure}")


def _legend(x: float, y: float, scale: float, signed: bool) -> list[Markup]:
    """The scale; of a quantity without sign its upper half."""
    middle = CLASSES // 2
    shown = range(0 if signed else middle, CLASSES)
    marks = {shown[0]: f"≤ {-scale:.2g}", shown[-1]: f"≥ {scale:+.2g}"} if scale else {}
    marks[middle] = "0"
    parts = []
    for place, i in enumerate(shown):
        box = (x + 22 * place, y)
        parts.append(
            Markup('<rect class="cell q{}" x="{:.1f}" y="{:.1f}" width="21" height="10"/>').format(i, *box)
        )
        if i in marks:
            parts.append(_text(box[0] + 11, y + 26, marks[i], "tick mid"))
    return parts


# ---------------------------------------------------------------- SVG


def _text(x: float, y: float, content: str, style: str) -> Markup:
    return Markup('<text class="{}" x="{:.1f}" y="{:.1f}">{}</text>').format(style, x, y, content)


def _svg(name: str, width: float, height: float, parts: Sequence[Markup]) -> Markup:
    head = Markup('<svg viewBox="0 0 {:.0f} {:.0f}" role="img" aria-label="{}">').format(
        width, height, escape(name)
    )
    return head + Markup("").join(parts) + Markup("</svg>")
