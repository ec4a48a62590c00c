"""The credit of a run by turn and step: what the report's heat maps show.

Training steps are put into at most ``BINS`` rows of equal length, and of each row a few steps are read,
spread evenly, so that a long run costs no more to look at than a short one.

Advantages are measured against other episodes, so over all of them they cancel, by rounding alone where a
method compares the same turn. What a method credits is seen in the episodes that were paid more than their
group; a map on which nothing differs from 0 is left out.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, pstdev

from markupsafe import Markup

from turnwise.viewer.charts import Cell, heat_map
from turnwise.viewer.run_folder import Columns, RunFolder

BINS = 30
STEPS_READ = 4
"""Steps read of a row that stands for more."""

ROUNDING = 1e-5
"""Credit is stored with six decimals: less than this is 0."""
BETTER = "advantage, better episodes"

Values = Mapping[str, Mapping[int, Sequence[float]]]
"""A column's numbers by turn."""


@dataclass(frozen=True, slots=True)
class Quantity:
    """What the cells of a map say of the turns behind them."""

    title: str
    column: str
    measure: Callable[[Sequence[float]], float]
    signed: bool
    caption: str


QUANTITIES = (
    Quantity(
        "Advantage, better episodes",
        BETTER,
        fmean,
        True,
        "Mean over the episodes that were paid more than their group's average. Blue is above 0: what these "
        "did at this turn is made more likely; orange is below.",
    ),
    Quantity("Advantage, all episodes", "advantage", fmean, True, "Mean. Blue is above 0, orange below."),
    Quantity(
        "Spread of advantage",
        "advantage",
        pstdev,
        False,
        "Standard deviation: the darker, the further turns at this place were told apart.",
    ),
    Quantity("Mean reward", "step_reward", fmean, True, "Blue is above 0, orange below."),
)


@dataclass(frozen=True, slots=True)
class CreditMap:
    """A heat map with what is said about it."""

    title: str
    drawing: Markup
    caption: str


def credit_maps(run: RunFolder) -> Iterator[CreditMap]:
    """A map for each quantity that the run has stored."""
    steps = run.credited_steps()
    size = math.ceil(len(steps) / BINS) if steps else 1
    bins = [steps[i : i + size] for i in range(0, len(steps), size)]
    chosen = [_spread_evenly(steps_of_bin) for steps_of_bin in bins]
    values = [_read(run, some) for some in chosen]
    labels = [f"{b[0]}–{b[-1]}" if len(b) > 1 else f"{b[0]}" for b in bins]
    read = sum(map(len, chosen))
    sampled = f" Drawn from {read:,} of {len(steps):,} steps." if read < len(steps) else ""
    for quantity in QUANTITIES:
        columns = [by_column.get(quantity.column, {}) for by_column in values]
        turns = max((turn + 1 for by_turn in columns for turn in by_turn), default=0)
        rows = [
            (label, [_cell(by_turn.get(turn, ()), quantity) for turn in range(turns)])
            for label, by_turn in zip(labels, columns, strict=True)
        ]
        if any(cell.value for _, cells in rows for cell in cells):
            drawing = heat_map(quantity.title, rows, signed=quantity.signed)
            yield CreditMap(quantity.title, drawing, quantity.caption + sampled)


def _spread_evenly(steps: Sequence[int]) -> list[int]:
    """At most ``STEPS_READ`` of the steps, the first and the last among them."""
    if len(steps) <= STEPS_READ:
        return list(steps)
    return [steps[round(i * (len(steps) - 1) / (STEPS_READ - 1))] for i in range(STEPS_READ)]


def _read(run: RunFolder, steps: Sequence[int]) -> Values:
    """The numbers of some steps' episodes, by column and turn; advantages of the better ones once more."""
    values: defaultdict[str, defaultdict[int, list[float]]] = defaultdict(lambda: defaultdict(list))
    for step in steps:
        credit = run.credit(step)
        better = _better(credit)
        for episode_id, columns in credit.items():
            parts = {BETTER: columns.get("advantage", ())} if episode_id in better else {}
            for column, numbers in {**columns, **parts}.items():
                for turn, number in enumerate(numbers):
                    if number is not None:
                        values[column][turn].append(number)
    return values


def _better(credit: Mapping[str, Columns]) -> set[str]:
    """The episodes that were paid more than the mean of their group, of those whose pay was stored."""
    paid = {
        name: sum(number or 0.0 for number in columns["step_reward"])
        for name, columns in credit.items()
        if "step_reward" in columns
    }
    groups: defaultdict[str, list[float]] = defaultdict(list)
    for name, total in paid.items():
        groups[_group(name)].append(total)
    return {name for name, total in paid.items() if total > fmean(groups[_group(name)]) + ROUNDING}


def _group(episode_id: str) -> str:
    """``train-12/3-1`` is of the group ``train-12/3``."""
    return episode_id.rpartition("-")[0]


def _cell(values: Sequence[float], quantity: Quantity) -> Cell:
    if not values:
        return Cell(None, 0)
    value = quantity.measure(values)
    return Cell(value if abs(value) >= ROUNDING else 0.0, len(values))
