"""One value for a whole episode, relative to the other episodes of its task.

Both stages judge an episode's total reward. Groups whose totals are all alike, and groups of one, carry
no comparison and get exactly 0.
"""

from __future__ import annotations

from typing import Annotated, Literal

import numpy as np
from pydantic import Field

from turnwise.trainer.stage import Columns, credit
from turnwise.trainer.table import TurnTable


@credit("grpo", scope="group", needs=["{of}"], provides=["{into}"])
def grpo(
    t: TurnTable,
    of: str = "step_reward",
    into: str = "advantage",
    std: bool = True,
    ddof: Literal[0, 1] = 1,
    eps: Annotated[float, Field(gt=0)] = 1e-6,
) -> Columns:
    """``(R - mean) / (std + eps)`` of the group, on every turn (GRPO, arXiv 2402.03300, eq. 3).

    Without ``std`` it is Dr.GRPO's (arXiv 2503.20783). ``ddof`` 1 is the sample deviation that common
    trainers divide by; 0 is the population's.
    """
    groups, total = t.episodes_by_group, t.by_episode.sum(t[of])
    advantage = groups.centre(total)
    if std:
        advantage = advantage / (groups.spread(groups.std(total, ddof)) + eps)
    return {into: t.by_episode.spread(advantage)}


@credit("rloo", scope="group", needs=["{of}"], provides=["{into}"])
def rloo(t: TurnTable, of: str = "step_reward", into: str = "advantage") -> Columns:
    """``R`` minus the mean of the group's others, on every turn (RLOO, arXiv 2402.14740).

    The same as ``G / (G - 1) * (R - mean)`` in a group of G.
    """
    groups, total = t.episodes_by_group, t.by_episode.sum(t[of])
    size = groups.spread(groups.size)
    return {into: t.by_episode.spread(groups.centre(total) * size / np.maximum(size - 1, 1))}
