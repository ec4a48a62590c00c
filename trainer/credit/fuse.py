"""Credit from several sources, each made an advantage first and only then added.

Rewards of different sources differ in scale and in what they are relative to; summed before they are
normalised, the larger drowns the smaller. Summed as advantages they do not: in iStar's ablation (arXiv
2509.19199) adding rewards scored 81.3, adding advantages 89.1.
"""

from __future__ import annotations

from typing import Annotated, Literal

import numpy as np
from pydantic import Field

from turnwise.trainer.grouping import Grouping
from turnwise.trainer.stage import Columns, credit
from turnwise.trainer.table import TurnTable


@credit("group_norm", scope="group", needs=["{of}"], provides=["{into}"])
def group_norm(
    t: TurnTable,
    of: str,
    into: str = "step_advantage",
    over: Literal["turns", "first_turns", "states"] = "turns",
    std: bool = True,
    eps: Annotated[float, Field(gt=0)] = 1e-6,
) -> Columns:
    """``(r - mean) / (std + eps)`` of each turn's own reward over all scored turns of its group.

    This is iStar's step advantage. ``first_turns`` is the baseline of its released code, which takes the
    mean and deviation over one turn of each episode, the first scored. ``states`` compares what was done in
    one state only (:attr:`TurnTable.by_state`), as GiGPO does (arXiv 2505.10978): then a reward for what
    merely follows from an earlier decision teaches nothing. A turn without a reward (NaN) gets
    0 and enters nothing; where all that enter are alike, or of one episode, there is no comparison, and they
    get 0. Episodes that are all the same still differ from turn to turn: score mixed groups only
    where that should teach nothing.
    """
    reward, advantage = t[of], np.zeros(len(t))
    rows = np.flatnonzero(~np.isnan(reward))
    episode = t.episode_id[rows]
    compared = t.by_state if over == "states" else t.by_group
    entering = rows[np.diff(episode, prepend=-1) != 0] if over == "first_turns" else rows
    values, groups = reward[entering], Grouping(compared.codes[entering], compared.count)
    mean, deviation = groups.mean(values), groups.std(values, ddof=1)
    code = compared.codes[rows]
    alike = groups.alike(values) | Grouping(code, compared.count).alike(episode)
    scale = deviation[code] + eps if std else 1.0
    advantage[rows] = np.where(alike[code], 0.0, (reward[rows] - mean[code]) / scale)
    return {into: advantage}


@credit("batch_norm", scope="batch", needs=["{of}"], provides=["{into}"])
def batch_norm(t: TurnTable, of: str, into: str, eps: Annotated[float, Field(gt=0)] = 1e-6) -> Columns:
    """Each turn's reward over the largest absolute return-to-go in the batch: the scaling of iStar's and
    PRIME's released code. A turn without a reward (NaN) gets 0."""
    reward = np.nan_to_num(t[of])
    largest = np.abs(t.return_to_go(reward, 1.0)).max(initial=0.0)
    return {into: reward / (largest + eps)}


@credit("fuse", scope="turn", needs=["{of}"], provides=["{into}"])
def fuse(
    t: TurnTable, of: Annotated[dict[str, float], Field(min_length=1)], into: str = "advantage"
) -> Columns:
    """The weighted sum of advantages: ``A = A_episode + alpha * A_step`` (iStar, arXiv 2509.19199)."""
    total = np.zeros(len(t))
    for name, weight in of.items():
        total += weight * t[name]
    return {into: total}
