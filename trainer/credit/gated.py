"""Gated accumulation (G-RA, arXiv 2508.10548): a reward counts only where those above it were earned.

Rewards have levels, 0 being the highest priority. A reward may have a threshold; an episode passes it
when the reward's sum over the episode reaches it. A reward counts in the episodes that pass every
threshold of every higher level, and stays at its turn:

    step_reward_t = sum over k of  weight_k * gate_k * r_k,t
    gate_k        = 1 if  sum over t of r_j,t >= threshold_j  for all j of a higher level, else 0

Without thresholds all gates are open: direct accumulation (D-RA), the baseline. There an easy reward of
every turn can be farmed, and the outcome is given up for it.

What was not scored (NaN) is not 0. It adds nothing at its turn, and a reward that was scored in no turn
of an episode neither passes nor fails there: it is as if the recipe did not name it. Where not acting
must count as failing, the environment has to score it.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from fnmatch import fnmatchcase
from itertools import groupby
from typing import Annotated, cast

import numpy as np
from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from turnwise.envs.errors import UsageError
from turnwise.trainer.stage import Columns, State, credit
from turnwise.trainer.table import TurnTable

logger = logging.getLogger(__name__)

AT_MOST_ONE = ("reward", "channel:outcome", "outcome_level", "progress", "milestone:*", "submitted")
"""Columns whose sum over an episode is never above 1."""
ROUNDING = 1e-6
"""A sum that misses a threshold by no more reaches it: 0.7 + 0.1 + 0.1 is to reach 0.9."""
PATIENCE = 10
"""Batches in a row in which no episode reached a threshold, before there is a warning."""


class Reward(BaseModel):
    """One of the rewards that are accumulated."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, use_attribute_docstrings=True)

    level: int | None = Field(default=None, ge=0)
    """Its priority, 0 the highest; None takes the level that the environment gives a channel."""
    weight: float = 1.0
    """What a unit of it counts; thresholds are about the reward itself."""
    threshold: float | None = None
    """What its sum over an episode must reach for lower levels to count; None asks for nothing."""


def _consistent(rewards: dict[str, Reward]) -> dict[str, Reward]:
    """Refuse what is known to be wrong whatever the episodes will be."""
    for column, reward in rewards.items():
        if column == "outcome":
            raise UsageError("column 'outcome' repeats the score on every turn; name 'reward' instead")
        if reward.level is None and not column.startswith("channel:"):
            raise UsageError(f"{column!r} is no channel, so the environment gives it no level; add one")
        limited = any(fnmatchcase(column, pattern) for pattern in AT_MOST_ONE)
        if limited and reward.threshold is not None and reward.threshold > 1:
            raise UsageError(
                f"no episode can reach the threshold {reward.threshold:g} of {column!r}: it sums to 1 at most"
            )
    return rewards


Rewards = Annotated[dict[str, Reward], Field(min_length=1), AfterValidator(_consistent)]


@credit("gated", scope="episode", needs=["{rewards}"], provides=["step_reward", "gate:{rewards}"])
def gated(t: TurnTable, state: State, rewards: Rewards) -> tuple[Columns, State]:
    """Rewards by priority: each counts where every higher level reached its threshold.

    ``gate:NAME`` is 1 on the turns of the episodes in which the reward counts, else 0. Rewards of one
    level do not gate one another.
    """
    levels = {name: _level(t, name, reward) for name, reward in rewards.items()}
    step_reward, gates = np.zeros(len(t)), {}
    is_open, missed = np.ones(t.episodes, dtype=bool), {}
    for _, names in groupby(sorted(levels, key=levels.__getitem__), key=levels.__getitem__):
        passed = is_open
        for name in names:
            scored = ~np.isnan(t[name])
            values = np.where(scored, t[name], 0.0)
            gates[f"gate:{name}"] = t.by_episode.spread(is_open.astype(np.float64))
            step_reward += rewards[name].weight * gates[f"gate:{name}"] * values
            if (threshold := rewards[name].threshold) is not None:
                asked = t.by_episode.sum(scored) > 0
                reached = t.by_episode.sum(values) >= threshold - ROUNDING
                passed = passed & (reached | ~asked)
                if asked.any():
                    missed[name] = not (reached & asked).any()
        is_open = passed
    return {"step_reward": step_reward, **gates}, _watched(missed, state, rewards)


def _level(t: TurnTable, name: str, reward: Reward) -> int:
    return t.channels[name.removeprefix("channel:")] if reward.level is None else reward.level


def _watched(missed: Mapping[str, bool], state: State, rewards: Rewards) -> State:
    """By reward, in how many batches in a row no episode reached its threshold; a warning when that has
    become a habit."""
    after = dict(cast("Mapping[str, int]", state))
    for name, now in missed.items():
        after[name] = batches = after.get(name, 0) + 1 if now else 0
        if batches == PATIENCE:
            logger.warning(
                "credit stage gated: in %d batches in a row no episode reached the threshold %g of %r, so "
                "rewards of lower levels did not count",
                batches,
                rewards[name].threshold,
                name,
            )
    return cast("State", after)
