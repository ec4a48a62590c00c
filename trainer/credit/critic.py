"""A critic without a network: the value of a state is that of its number of milestones reached.

Every batch gives each level the mean return-to-go observed from it; the table of values keeps a running
average over batches. A level counts as worth what the one below it is until it has been seen. The
batch's own returns enter its values: with many episodes per level that is a small bias, and it is what
lets the first batch have a critic at all.

Terminal states are worth 0. An episode that was cut off is worth, from there, what its level was worth
before this batch; both what it is trained towards and what it is compared with use that.
"""

from __future__ import annotations

from typing import Annotated

import numpy as np
from pydantic import Field

from turnwise.envs.errors import UsageError
from turnwise.trainer.grouping import Array, Grouping
from turnwise.trainer.stage import Columns, State, credit
from turnwise.trainer.table import TurnTable


@credit(
    "critic",
    scope="batch",
    needs=["{of}", "potential_before", "potential_after", "terminal", "truncated"],
    provides=["value:{of}", "next_value:{of}"],
    agree=["gamma"],
)
def critic(
    t: TurnTable,
    state: State,
    of: str = "step_reward",
    gamma: Annotated[float, Field(ge=0, le=1)] = 0.95,
    newest: Annotated[float, Field(gt=0, le=1)] = 0.5,
) -> tuple[Columns, State]:
    """The value of the milestone level before and after each turn, learned across batches.

    ``newest`` is the weight of this batch's mean in the running average of a level.
    """
    levels = len(t.milestones) + 1
    known = np.array(state.get("value", [None] * levels), dtype=np.float64)
    if len(known) != levels:
        raise UsageError(f"the critic's state has {len(known)} levels, the environment {levels}")
    before = np.rint(t.potential_before * (levels - 1)).astype(np.int64)
    after = np.rint(t.potential_after * (levels - 1)).astype(np.int64)
    beyond = np.where(t.truncated, _filled(known)[after], 0.0)
    observed = Grouping(before, levels).mean(t.return_to_go(t[of] + gamma * beyond, gamma))
    mixed = (1 - newest) * known + newest * observed
    value = np.where(np.isnan(known), observed, np.where(np.isnan(observed), known, mixed))
    by_level = _filled(value)
    columns = {
        f"value:{of}": by_level[before],
        f"next_value:{of}": np.where(t.terminal, 0.0, by_level[after]),
    }
    return columns, {"value": [None if np.isnan(v) else float(v) for v in value]}


def _filled(value: Array) -> Array:
    """Levels not seen yet take the value of the nearest seen one below, else 0."""
    seen = np.where(np.isnan(value), -1, np.arange(len(value)))
    nearest = np.maximum.accumulate(seen)
    return np.where(nearest >= 0, value[nearest], 0.0)
