"""The states in which an agent acts: where a critic reads them, and what it is taught about them.

The state before a turn is everything up to the last token before the learner's first in that turn. It is
told whether the episode succeeded and how far it had come. Progress between two turns that reached
milestones is interpolated: a turn that brings the next milestone nearer is progress, though nothing is
reached yet (MiRA, arXiv 2603.19685).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from turnwise.trainer.grouping import Array
from turnwise.trainer.table import TurnTable


def interpolated_progress(t: TurnTable) -> Array:
    """Progress of the state before every turn, in [0, 1]: the share of milestones reached, on a straight
    line between the episode's beginning and the states right after turns that reached one or more.

    After the last of these it stays what it is, also where the episode was cut off: nothing that
    followed is known to be progress. An episode without milestones has none.
    """
    if not len(t):
        return np.zeros(0)
    size = t.by_episode.size
    before = (
        t.by_episode.spread(np.cumsum(size + 1) - (size + 1)) + t.index
    )  # an episode of n has n + 1 states
    known = (t.potential_after > t.potential_before) | t.last
    state = np.concatenate([before[t.first], before[known] + 1])
    share = np.concatenate([t.potential_before[t.first], t.potential_after[known]])
    order = np.argsort(state)
    progress: Array = np.interp(before, state[order], share[order])
    return progress


@dataclass(frozen=True, slots=True)
class States:
    """The states of one context, as a critic reads them."""

    ids: Array
    """The tokens, up to the last that is read."""
    places: Array
    """Places in ``ids`` at which a state is read."""
    rows: Array
    """The turn in the table that each state is before; empty where the states are remembered."""
    success: Array
    """What each is taught, float32: 1 where the episode succeeded, else 0."""
    progress: Array
    """And how far it had come, float32; empty where that is not taught."""


def states_of(table: TurnTable, success: float, progress: Array | None) -> list[States]:
    """The states of a table, context by context, with the labels that belong to them; an episode whose score
    is at least ``success`` is a success. Turns in which the learner wrote nothing have none."""
    order = table.sequences()
    written = np.flatnonzero(table.tokens.trainable[order.tokens])
    _, first = np.unique(order.rows[written], return_index=True)
    entries = np.sort(written[first])
    context = np.searchsorted(order.offsets, entries, side="right") - 1
    places = entries - order.offsets[context] - 1
    read = places >= 0  # nothing is before the first token of all
    rows, context, places = order.rows[entries[read]], context[read], places[read]
    succeeded = (table.outcome >= success).astype(np.float32)
    taught = np.zeros(0, dtype=np.float32) if progress is None else progress.astype(np.float32)
    begins = np.flatnonzero(np.diff(context, prepend=-1))
    found = []
    for own in np.split(np.arange(len(rows)), begins[1:]) if len(rows) else ():
        start = order.offsets[context[own[0]]]
        found.append(
            States(
                ids=table.tokens.ids[order.tokens[start : start + places[own[-1]] + 1]],
                places=places[own],
                rows=rows[own],
                success=succeeded[rows[own]],
                progress=taught[rows[own]] if len(taught) else taught,
            )
        )
    return found


def before_and_after(table: TurnTable, rows: Array, values: Array) -> tuple[Array, Array]:
    """What was read before some turns, as columns: of the states before and after every turn.

    A turn that was not read has the state of the turn before it, and 0 where there is none. The state after
    a turn is that before the next; after the last turn no state was read, and it stays what it was.
    """
    place = np.arange(len(table))
    known = np.full(len(table), -1)
    known[rows] = rows
    latest = np.maximum.accumulate(known)
    begun = table.by_episode.spread(np.flatnonzero(table.first))
    column = np.zeros(len(table))
    column[rows] = values
    before = np.where(latest >= begun, column[latest], 0.0)
    return before, before[np.where(table.last, place, place + 1)]
