"""Stored episodes under another recipe's stages of credit, and how the two differ turn by turn.

A run keeps its episodes and what their turns were credited with. Another recipe's stages over the same
episodes say what it would have taught from them, without training the policy. A stage that keeps state
sees the steps in order from the first, as it would have in training; and so does a recipe's scorer, which
starts from the policy that the run's reinforcement began from and learns from the run's episodes.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from turnwise.agents.store import episode_path, read_episodes
from turnwise.envs.env import Env
from turnwise.envs.errors import UsageError
from turnwise.trainer.columns import base_columns
from turnwise.trainer.grouping import Array, Grouping
from turnwise.trainer.pipeline import ADVANTAGE
from turnwise.trainer.recipe import Recipe
from turnwise.trainer.run_folder import stored_recipe
from turnwise.trainer.stage import State
from turnwise.trainer.table import TurnTable

if TYPE_CHECKING:
    from turnwise.trainer.scorers.scorer import Scorer

REWARD = "step_reward"
GATE = "gate:"
MILESTONE = "milestone:"
Stored = Mapping[str, Mapping[str, Sequence[float | None]]]
"""By episode and column, a number for each turn."""


def rescore(
    run: Path, recipe: Recipe, env: Env, group: int, steps: Sequence[int], only: int | None = None
) -> Iterator[tuple[int, TurnTable]]:
    """The turn tables of a run's training steps with the columns of a recipe's stages, by step.

    ``env`` is what the run was trained on, ``group`` its episodes per task, ``steps`` its steps in order;
    with ``only`` no other step is given. A recipe with scorers needs torch. Raises ``UsageError`` for a
    recipe that needs what the environment or the run does not give, and what the stages and scorers raise.
    """
    declared = env.milestone_names(), env.channels()
    pipeline = recipe.override(**{"rollout.group": group}).pipeline(base_columns(*declared))
    scorers = _scorers(run, recipe) if recipe.scorers else {}
    stateful = bool(scorers) or any(node.stage.stateful for node in pipeline.stages.values())
    state: Mapping[str, State] = {}
    for step in steps:
        if only is not None and (step > only or (step < only and not stateful)):
            continue
        table = TurnTable.from_episodes(list(read_episodes(episode_path(run, "step", step))), *declared)
        for scorer in scorers.values():
            table = table.with_columns(scorer.step(table, step).columns)
        try:
            credit = pipeline.run(table, state)
        except UsageError as error:
            raise UsageError(f"recipe {recipe.name}: step {step} of {str(run)!r}: {error}") from None
        state = credit.state
        if only in (None, step):
            yield step, credit.table


def _scorers(run: Path, recipe: Recipe) -> dict[str, Scorer]:
    """A recipe's scorers as they would have been at the run's first step."""
    from turnwise.trainer import checkpoint
    from turnwise.trainer.scorers.scorer import open_scorers

    own, start = stored_recipe(run), checkpoint.first(run) / "model"
    if not start.is_dir():
        raise UsageError(
            f"run {str(run)!r} lacks the checkpoint that its reinforcement began from, which the scorers of "
            f"recipe {recipe.name} start from ({start})"
        )
    temperature = own.rollout.temperature
    return open_scorers(recipe.scorers, start, temperature=temperature, seed=own.seed, device=own.device)


@dataclass(frozen=True, slots=True)
class Turns:
    """Turns under two recipes: an entry a turn in every column. Only turns that the run credited are here."""

    episode: Array
    """Names."""
    index: Array
    old_reward: Array
    """NaN where none was stored; so for ``new_reward``."""
    new_reward: Array
    old_advantage: Array
    new_advantage: Array
    kinds: Mapping[str, Array]
    """Which turns are of a kind: reached a milestone, were invalid, submitted."""
    gates: Mapping[str, Array]
    """1 where a reward of gated accumulation counts, else 0."""

    @classmethod
    def of(cls, table: TurnTable, stored: Stored) -> Self:
        """The turns of one step. Raises ``UsageError`` where what was stored does not fit the episodes."""
        old_advantage = _stored(table, stored, ADVANTAGE)
        known = ~np.isnan(old_advantage)
        nothing = np.full(len(table), np.nan)
        reached = {
            f"reached {name.removeprefix(MILESTONE).replace('_', ' ')}": table[name].astype(bool)
            for name in table.columns
            if name.startswith(MILESTONE)
        }
        kinds = reached | {
            "were invalid": ~table.valid.astype(bool),
            "submitted": table.submitted.astype(bool),
        }
        kinds["did none of these"] = ~np.any(list(kinds.values()), axis=0)
        gates = {name.removeprefix(GATE): table[name] for name in table.columns if name.startswith(GATE)}
        return cls(
            episode=table.names["episode_id"][table.episode_id][known],
            index=table.index[known],
            old_reward=_stored(table, stored, REWARD)[known],
            new_reward=table.columns.get(REWARD, nothing)[known],
            old_advantage=old_advantage[known],
            new_advantage=table[ADVANTAGE][known],
            kinds={name: column[known] for name, column in kinds.items()},
            gates={name: column[known] for name, column in gates.items()},
        )

    @classmethod
    def joined(cls, parts: Sequence[Turns]) -> Self:
        """The turns of several steps as one."""
        columns: dict[str, Any] = {}
        for name in (field.name for field in fields(cls)):
            values = [getattr(part, name) for part in parts]
            columns[name] = (
                {key: np.concatenate([value[key] for value in values]) for key in values[0]}
                if isinstance(values[0], Mapping)
                else np.concatenate(values)
            )
        return cls(**columns)

    def __len__(self) -> int:
        return len(self.episode)

    @property
    def gap(self) -> Array:
        """New minus old advantage, each over its deviation over all turns: what differs beside the scale."""
        return _scaled(self.new_advantage) - _scaled(self.old_advantage)

    def correlation(self) -> float:
        """Of the two advantages (Pearson); NaN where either is the same everywhere."""
        old, new = (a - a.mean() for a in (self.old_advantage, self.new_advantage))
        spread = math.sqrt(float(old @ old) * float(new @ new))
        return float(old @ new) / spread if spread > 0 else math.nan

    def signs(self) -> tuple[float, float, float]:
        """Shares of turns: encouraged by one and discouraged by the other; credited by the old recipe
        only; by the new only."""
        old, new = np.sign(self.old_advantage), np.sign(self.new_advantage)
        opposite, lost, won = old * new < 0, (old != 0) & (new == 0), (old == 0) & (new != 0)
        return float(opposite.mean()), float(lost.mean()), float(won.mean())

    def open_gates(self) -> dict[str, float]:
        """By reward, the share of episodes in which it counts."""
        first = self.index == 0
        return {name: float(column[first].mean()) for name, column in self.gates.items()}

    def by_kind(self) -> list[Difference]:
        """Kinds of turns, those that differ most first; kinds without turns are left out."""
        found = [self._difference(name, mask) for name, mask in self.kinds.items() if mask.any()]
        return sorted(found, key=lambda difference: -abs(difference.gap))

    def by_place(self) -> list[Difference]:
        """Turns by their number in the episode."""
        return [self._difference(f"{i + 1}", self.index == i) for i in np.unique(self.index).tolist()]

    def _difference(self, name: str, mask: Array) -> Difference:
        means = (float(a[mask].mean()) for a in (self.old_advantage, self.new_advantage, self.gap))
        return Difference(name, int(mask.sum()), *means)

    def most_different(self) -> list[str]:
        """Episodes, the one whose turns differ most on average first."""
        names, codes = np.unique(self.episode.astype(str), return_inverse=True)
        mean = Grouping(codes, len(names)).mean(np.abs(self.gap))
        return [str(name) for name in names[np.argsort(-mean, kind="stable")]]


@dataclass(frozen=True, slots=True)
class Difference:
    """Mean advantages of some turns under two recipes."""

    name: str
    turns: int
    old: float
    new: float
    gap: float
    """Mean of :attr:`Turns.gap`, in standard deviations."""


def _stored(table: TurnTable, stored: Stored, column: str) -> Array:
    values: list[float] = []
    names = table.names["episode_id"]
    for name, length in zip(names, table.by_episode.size.tolist(), strict=True):
        own = stored.get(name, {}).get(column, [None] * length)
        if len(own) != length:
            raise UsageError(f"episode {name} has {length} turns, its stored credit {len(own)}")
        values += [math.nan if value is None else value for value in own]
    return np.array(values, dtype=np.float64)


def _scaled(values: Array) -> Array:
    deviation = values.std()
    return values / deviation if deviation > 0 else values
