"""The credit of a run by turn and step: what the report's heat maps show.

Training steps are put into at most ``BINS`` rows of equal length, and of each row a few steps are read,
spread evenly, so that a long run costs no more to look at than a short one.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from turnwise.viewer.charts import Cell
from turnwise.viewer.run_folder import RunFolder

BINS = 30
STEPS_READ = 4
"""Steps read of a row that stands for more."""


@dataclass(frozen=True, slots=True)
class CreditMap:
    """Means by turn, a row for each stretch of steps."""

    column: str
    rows: Sequence[tuple[str, Sequence[Cell]]]
    steps_read: int
    steps_stored: int


def credit_maps(run: RunFolder, columns: Sequence[str]) -> list[CreditMap]:
    """A map for each of ``columns`` that the run has stored."""
    steps = run.credited_steps()
    size = math.ceil(len(steps) / BINS) if steps else 1
    bins = [steps[i : i + size] for i in range(0, len(steps), size)]
    read = [_spread(steps_of_bin) for steps_of_bin in bins]
    means = [_means(run, chosen, columns) for chosen in read]
    labels = [f"{b[0]}–{b[-1]}" if len(b) > 1 else f"{b[0]}" for b in bins]
    maps = []
    for column in columns:
        rows = [(label, cells.get(column, [])) for label, cells in zip(labels, means, strict=True)]
        width = max((len(cells) for _, cells in rows), default=0)
        if width:
            padded = [(label, [*cells, *[Cell(None, 0)] * (width - len(cells))]) for label, cells in rows]
            maps.append(CreditMap(column, padded, sum(map(len, read)), len(steps)))
    return maps


def _spread(steps: Sequence[int]) -> list[int]:
    """At most ``STEPS_READ`` of the steps, the first and the last among them."""
    if len(steps) <= STEPS_READ:
        return list(steps)
    return [steps[round(i * (len(steps) - 1) / (STEPS_READ - 1))] for i in range(STEPS_READ)]


def _means(run: RunFolder, steps: Sequence[int], columns: Sequence[str]) -> dict[str, list[Cell]]:
    sums: dict[str, defaultdict[int, list[float]]] = {c: defaultdict(list) for c in columns}
    for step in steps:
        for credit in run.credit(step).values():
            for column in columns:
                for turn, value in enumerate(credit.get(column, ())):
                    if value is not None:
                        sums[column][turn].append(value)
    return {
        column: [_cell(values.get(t, [])) for t in range(max(values, default=-1) + 1)]
        for column, values in sums.items()
    }


def _cell(values: Sequence[float]) -> Cell:
    return Cell(sum(values) / len(values) if values else None, len(values))
