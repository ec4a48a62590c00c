"""PRIME's advantages, token by token: leave-one-out process rewards and outcomes, summed (arXiv 2502.01456).

    A_j = sum over s >= j of [ r(y_s) - mean over the others of their mean token reward ]
          + [ R - mean over the others of R ]

where the sum runs over the written tokens of the episode from token j on. The process baseline is per
token: what the others' tokens get on average. The result is whitened over the batch's written tokens.
"""

from __future__ import annotations

from typing import Annotated

import numpy as np
from pydantic import AfterValidator, Field

from turnwise.envs.errors import UsageError
from turnwise.trainer.grouping import Array, Grouping
from turnwise.trainer.stage import Columns, credit
from turnwise.trainer.table import TurnTable

ROUNDING = 1e-6
"""Slack at the bounds of the accuracy."""


def _ordered(band: tuple[float, float]) -> tuple[float, float]:
    if not 0 <= band[0] <= band[1] <= 1:
        raise UsageError(f"accuracy={list(band)}: two shares, the lower first")
    return band


Band = Annotated[tuple[float, float], AfterValidator(_ordered)]


@credit(
    "prime",
    scope="batch",
    needs=["token:implicit", "reward", "outcome"],
    provides=["token:advantage", "advantage", "step_reward"],
)
def prime(
    t: TurnTable,
    process: Annotated[float, Field(ge=0)] = 1.0,
    outcome: Annotated[float, Field(ge=0)] = 1.0,
    accuracy: Band = (0.2, 0.8),
    whiten: bool = True,
    eps: Annotated[float, Field(gt=0)] = 1e-8,
) -> Columns:
    """Advantages of every written token; ``advantage`` is their mean over a turn.

    ``process`` and ``outcome`` weigh the two sources. Groups whose mean score lies outside ``accuracy``
    train nothing. An episode alone in its group, and one with tokens that were not scored, has no
    comparison and gets 0. ``step_reward`` is what a turn earned: its process reward and its score.
    Raises ``UsageError`` for episodes that share turns.
    """
    if len(t.names["turn_id"]) < len(t):
        raise UsageError("stage 'prime' credits tokens, and cannot where episodes share turns; use 'fuse'")
    learned = np.flatnonzero(t.tokens.trainable)
    written = learned[~np.isnan(t["token:implicit"][learned])]
    reward, by_turn = t["token:implicit"][written], Grouping(t.tokens.row[written], len(t))
    episode = t.episode_id[by_turn.codes]
    by_episode = Grouping(episode, t.episodes)
    scored = by_episode.size > 0
    score = t.by_episode.max(t.outcome)
    relative = process * (reward - _others(t, np.nan_to_num(by_episode.mean(reward)), scored)[episode])
    to_go = by_episode.sum(relative)[episode] - _before(relative, by_episode)
    centred = outcome * (score - _others(t, score, scored))
    groups = t.episodes_by_group
    share = groups.sum(np.where(scored, score, 0.0)) / np.maximum(groups.sum(scored), 1)
    within = (share >= accuracy[0] - ROUNDING) & (share <= accuracy[1] + ROUNDING)
    usable = (groups.sum(scored) > 1) & within
    kept = usable[t.episode_group[episode]]
    values = np.where(kept, to_go + centred[episode], 0.0)
    if whiten and kept.any():
        values[kept] = (values[kept] - values[kept].mean()) / (values[kept].std() + eps)
    tokens = np.zeros(len(t.tokens.ids))
    tokens[written] = values
    length = np.bincount(t.tokens.row[learned], minlength=len(t))
    mean = by_turn.sum(values) / np.maximum(length, 1)
    earned = process * by_turn.sum(reward) + outcome * t.reward
    return {"token:advantage": tokens, "advantage": mean, "step_reward": earned}


def _others(t: TurnTable, values: Array, scored: Array) -> Array:
    """Per episode, the mean over the other scored episodes of its group."""
    groups = t.episodes_by_group
    entering = np.where(scored, values, 0.0)
    total, count = groups.spread(groups.sum(entering)), groups.spread(groups.sum(scored))
    mean: Array = (total - entering) / np.maximum(count - scored, 1)
    return mean


def _before(values: Array, by_episode: Grouping) -> Array:
    """The sum of the values before each within its episode, whose entries are adjacent."""
    sums = np.cumsum(np.append(0.0, values))
    begin = np.cumsum(by_episode.size) - by_episode.size
    before: Array = sums[:-1] - sums[begin][by_episode.codes]
    return before
