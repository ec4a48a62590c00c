"""What a reward per turn says of the decision that made the difference, and what of the turns that follow it.

    python benchmarks/parting.py RUN… [--model NAME=JSON …] [--pretrain RECIPE …] [--first-step 6]

A success and a failure of one task go together up to a turn in which the agent has read the same and writes
something else: there they part. What is paid differently in that turn judges the decision; what is paid
differently later judges what the decision led to, which an agent need not be taught again. Over stored runs
(folders of ``turnwise train`` or of a comparison's recipe) reward models are trained as a run would have
trained them (with ``--pretrain`` on the episodes of a comparison's other recipes with the same seed first),
and for each is printed: how often it ranks the success above the failure in all (AUC), how
often at the parting, and which part of the gap between the two lies there. Paid milestones stand beside
them, as a reward that is known to judge decisions. Means over runs with Student's 95% intervals.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch

from turnwise.agents.store import episode_path, read_episodes
from turnwise.envs.env import Env
from turnwise.trainer import checkpoint
from turnwise.trainer.compare.statistics import estimate
from turnwise.trainer.grouping import Array
from turnwise.trainer.recipe import Recipe
from turnwise.trainer.run_folder import stored_recipe
from turnwise.trainer.scorers.scorer import open_scorers
from turnwise.trainer.table import TurnTable

RECIPE = "quickstart-implicit"
MODELS: dict[str, Mapping[str, object]] = {
    "the recipe's": {},
    "4 updates a step": {"optimizer_steps": 4},
    "8 larger updates, scored after": {"optimizer_steps": 8, "minibatch": 8, "score": "after_update"},
    "4 updates, the initial reference": {"optimizer_steps": 4, "reference": "initial"},
}
"""Changes to the recipe's reward model."""


def partings(table: TurnTable) -> Iterator[tuple[Array, Array]]:
    """The rows of a success and of a failure of its group from the turn on in which they part."""
    state = table.by_state.codes
    succeeded = table.by_episode.max(table.outcome) >= 1.0
    rows = np.split(np.arange(len(table)), np.flatnonzero(table.first)[1:])
    for group in range(table.by_group.count):
        own = np.flatnonzero(table.episode_group == group)
        for good in own[succeeded[own]]:
            for bad in own[~succeeded[own]]:
                together = min(len(rows[good]), len(rows[bad]))
                same = state[rows[good][:together]] == state[rows[bad][:together]]
                if same.any():
                    parted = int(np.flatnonzero(same)[-1])
                    yield rows[good][parted:], rows[bad][parted:]


def gaps(table: TurnTable, reward: Array) -> Iterator[tuple[float, float]]:
    """Of every scored pair, what the success got more than the failure: at the parting, and later."""
    for good, bad in partings(table):
        at = float(reward[good[0]] - reward[bad[0]])
        later = float(reward[good[1:]].sum() - reward[bad[1:]].sum())
        if not np.isnan(at + later):
            yield at, later


def figures(found: list[tuple[float, float]]) -> tuple[float, float, float]:
    """AUC, the share ranked right at the parting, and the part of the mean gap that lies there."""
    at, later = np.array(found).T
    right = [float(np.mean(x > 0) + np.mean(x == 0) / 2) for x in (at + later, at)]
    return right[0], right[1], float(at.mean() / (at + later).mean())


def tables(run: Path, env: Env, steps: int) -> list[TurnTable]:
    declared = env.milestone_names(), env.channels()
    stored = (read_episodes(episode_path(run, "step", step)) for step in range(1, steps + 1))
    return [TurnTable.from_episodes(list(episodes), *declared) for episodes in stored]


def measure(
    run: Path, models: Mapping[str, Mapping[str, object]], others: Sequence[str], first: int
) -> dict[str, tuple[float, float, float]]:
    """The figures of one run, by kind of reward."""
    own = stored_recipe(run)
    env = own.env.make()
    steps = tables(run, env, own.steps)
    earlier = [t for name in others for t in tables(run.parent.parent / name / run.name, env, own.steps)]
    listened = steps[first - 1 :]
    reached = [np.sum([t[f"milestone:{m}"] for m in t.milestones], axis=0) for t in listened]
    paid = [pair for t, reward in zip(listened, reached, strict=True) for pair in gaps(t, reward)]
    result = {"paid milestones": figures(paid)}
    recipe, start = Recipe.load(RECIPE), checkpoint.first(run) / "model"
    base = recipe.scorers[0].model_dump() | {"warm_up": 0}
    for name, change in models.items():
        sections = recipe.override(scorers=[{**base, **change}]).scorers
        scorer = open_scorers(sections, start, temperature=own.rollout.temperature, seed=own.seed)["implicit"]
        found: list[tuple[float, float]] = []
        for number, table in enumerate([*earlier, *steps], 1 - len(earlier)):
            reward = scorer.step(table, number + len(earlier)).columns["implicit"]
            found += gaps(table, reward) if number >= first else ()
        result[name] = figures(found)
    return result


def shown(values: Sequence[float]) -> str:
    """A mean and half its interval."""
    found = estimate(values)
    if found is None or found.high is None:
        return f"{values[0]:.2f}"
    return f"{found.mean:.2f} ± {found.high - found.mean:.2f}"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("runs", nargs="+", type=Path)
    parser.add_argument("--model", action="append", default=[], help="NAME=JSON of settings, instead of ours")
    parser.add_argument("--pretrain", action="append", default=[], help="recipe of the same comparison")
    parser.add_argument("--first-step", type=int, default=6)
    options = parser.parse_args()
    torch.set_num_threads(1)
    models = dict(model.split("=", 1) for model in options.model)
    chosen = {name: json.loads(text) for name, text in models.items()} or MODELS
    found: list[dict[str, tuple[float, float, float]]] = []
    for run in options.runs:
        found.append(measure(run, chosen, options.pretrain, options.first_step))
        print(run, {k: [round(x, 2) for x in v] for k, v in found[-1].items()}, flush=True)
    print(f"{'reward':32}  {'AUC':>12}  {'right there':>12}  {'gap there':>12}   {len(found)} runs")
    for name in found[0]:
        columns = zip(*(one[name] for one in found), strict=True)
        print(f"{name:32}  " + "  ".join(f"{shown(column):>12}" for column in columns))


if __name__ == "__main__":
    main()
