"""A run's episodes under another recipe: the same credit for the same recipe, and what differs by hand."""

from __future__ import annotations

import json
import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from turnwise.agents.store import episode_path, write_episodes
from turnwise.agents.trajectory import Episode
from turnwise.envs.env import Env
from turnwise.envs.errors import UsageError
from turnwise.envs.tool import milestone, reward
from turnwise.envs.types import EndReason
from turnwise.trainer.recipe import Recipe
from turnwise.trainer.rescore import Stored, Turns, rescore
from turnwise.trainer.run_folder import write_credit

Lab = SimpleNamespace


class Desk(Env):
    """Declares what the episodes of these tests hold."""

    name = "test/desk"

    @milestone
    def found(self) -> bool:
        return False

    @milestone
    def changed(self) -> bool:
        return False

    @milestone
    def checked(self) -> bool:
        return False

    @milestone
    def sent(self) -> bool:
        return False

    @reward("modified", level=1)
    def modified(self) -> float:
        return 0.0


def under(run: Path, recipe: Recipe, steps: int, only: int | None = None, group: int = 4) -> dict[int, Any]:
    return dict(rescore(run, recipe, Desk(), group, range(1, steps + 1), only))


def stored(run: Path, step: int) -> Stored:
    lines = (run / f"credit/step-{step:06d}.jsonl").read_text().splitlines()
    return {row["episode_id"]: row["columns"] for row in map(json.loads, lines)}


def train(lab: Lab, run: Path, recipe: Recipe, *steps: list[Episode]) -> None:
    """What training leaves behind: episodes, and their credit under a recipe."""
    state: Any = {}
    pipeline = recipe.pipeline(lab.table(*steps[0]).columns)
    for step, episodes in enumerate(steps, start=1):
        write_episodes(episode_path(run, "step", step), episodes)
        credit = pipeline.run(lab.table(*episodes), state)
        write_credit(run, step, credit.table)
        state = credit.state


@pytest.mark.parametrize("name", ["quickstart", "quickstart-gated", "quickstart-shaped"])
@settings(
    max_examples=8,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(data=st.data())
def test_a_runs_own_recipe_gives_what_it_was_trained_with(
    lab: Lab, tmp_path: Path, name: str, data: st.DataObject
) -> None:
    """Also one step alone, whose critic has seen the steps before it."""
    recipe = Recipe.load(name)
    steps = [data.draw(lab.batches(tag=f"s{i}e")) for i in range(3)]
    train(lab, tmp_path, recipe, *steps)
    for tables in (under(tmp_path, recipe, 3), under(tmp_path, recipe, 3, only=3)):
        turns = Turns.of(tables[3], stored(tmp_path, 3))
        assert len(turns) == sum(len(episode.turns) for episode in steps[2])
        np.testing.assert_allclose(turns.new_advantage, turns.old_advantage, atol=1e-6)
        np.testing.assert_allclose(turns.new_reward, turns.old_reward, atol=1e-6)
    assert list(under(tmp_path, recipe, 3)) == [1, 2, 3]
    assert list(under(tmp_path, recipe, 3, only=2)) == [2]


def pair(lab: Lab) -> list[Episode]:
    """A solved episode of two turns, and an unsolved one of three that made as much progress."""
    valid = {"validity": 1.0}
    return [
        lab.episode("a", "g", 2, 1.0, reached={0: ["found"]}, scored={1: {"modified": 1.0} | valid}),
        lab.episode("b", "g", 3, 0.0, EndReason.TURN_LIMIT, {2: ["found"]}, {1: valid}),
    ]


def test_differences_by_hand(lab: Lab, tmp_path: Path) -> None:
    old = Recipe.load("quickstart").override(credit=["outcome", {"kind": "grpo", "std": False}])
    train(lab, tmp_path, old, pair(lab))
    flat = {"kind": "turn_baseline", "std": False}
    new = old.override(credit=["milestones", {"kind": "returns", "gamma": 1}, flat])
    turns = Turns.of(under(tmp_path, new, 1)[1], stored(tmp_path, 1))
    assert turns.old_advantage.tolist() == [0.5, 0.5, -0.5, -0.5, -0.5]
    assert turns.new_advantage.tolist() == [0.5, 0.375, -0.5, -0.375, 0.125]
    assert turns.old_reward.tolist() == [0, 1, 0, 0, 0]
    assert turns.new_reward.tolist() == [0.25, 1, 0, 0, 0.25]
    assert turns.signs() == (0.2, 0.0, 0.0)
    assert turns.correlation() == pytest.approx(np.corrcoef(turns.old_advantage, turns.new_advantage)[0, 1])
    scale = np.std(turns.old_advantage), np.std(turns.new_advantage)
    found = next(d for d in turns.by_kind() if d.name == "reached found")
    assert (found.turns, found.old, found.new) == (2, 0.0, 0.3125)
    assert found.gap == pytest.approx(0.3125 / scale[1])
    assert [(d.name, d.turns) for d in turns.by_place()] == [("1", 2), ("2", 2), ("3", 1)]
    assert max(turns.by_place(), key=lambda d: abs(d.gap)).name == "3"
    assert turns.most_different() == ["b", "a"]


def test_gates_are_counted_by_episode(lab: Lab, tmp_path: Path) -> None:
    train(lab, tmp_path, Recipe.load("quickstart-outcome"), pair(lab))
    turns = Turns.of(under(tmp_path, Recipe.load("quickstart-gated"), 1)[1], stored(tmp_path, 1))
    assert turns.open_gates() == {"outcome_level": 1.0, "channel:validity": 0.5}


def test_recipes_that_tell_turns_apart_in_nothing_do_not_correlate(lab: Lab, tmp_path: Path) -> None:
    recipe = Recipe.load("quickstart-outcome")
    train(lab, tmp_path, recipe, [lab.episode("a", "g", 2, 1.0)])
    turns = Turns.of(under(tmp_path, recipe, 1)[1], stored(tmp_path, 1))
    assert math.isnan(turns.correlation())
    assert not turns.gap.any()


def test_steps_are_joined(lab: Lab, tmp_path: Path) -> None:
    recipe = Recipe.load("quickstart-gated")
    train(lab, tmp_path, recipe, pair(lab), [lab.episode("c", "h", 1, 1.0)])
    parts = [Turns.of(table, stored(tmp_path, step)) for step, table in under(tmp_path, recipe, 2).items()]
    whole = Turns.joined(parts)
    assert whole.episode.tolist() == ["a"] * 2 + ["b"] * 3 + ["c"]
    assert whole.kinds["submitted"].tolist() == [False, True, False, False, False, True]
    assert whole.open_gates()["channel:validity"] == pytest.approx(2 / 3)


def test_only_what_was_trained_on_is_compared(lab: Lab, tmp_path: Path) -> None:
    broken = lab.episode("broken", "g", 2, None, EndReason.INFRA_ERROR)
    recipe = Recipe.load("quickstart-outcome")
    train(lab, tmp_path, recipe, [*pair(lab), broken])
    kept = {name: columns for name, columns in stored(tmp_path, 1).items() if name != "a"}
    assert set(Turns.of(under(tmp_path, recipe, 1)[1], kept).episode) == {"b"}


def test_the_groups_are_the_runs(lab: Lab, tmp_path: Path) -> None:
    recipe = Recipe.load("quickstart-outcome")
    train(lab, tmp_path, recipe, pair(lab))
    alone = recipe.override(rollout={"group": 1})
    assert under(tmp_path, alone, 1, group=2)[1].advantage.any()
    with pytest.raises(UsageError, match="compares episodes of one task"):
        under(tmp_path, recipe, 1, group=1)


def test_what_does_not_fit_is_refused(lab: Lab, tmp_path: Path) -> None:
    recipe = Recipe.load("quickstart-gated")
    train(lab, tmp_path, Recipe.load("quickstart-outcome"), [lab.episode("a", "g", 2, 0.0)])
    with pytest.raises(
        UsageError, match=r"quickstart-gated: step 1 of '.*': channel 'modified' is not scored"
    ):
        under(tmp_path, recipe, 1)
    other = recipe.override(credit=[{"kind": "gated", "rewards": {"channel:beauty": {}}}, "grpo"])
    with pytest.raises(UsageError, match="needs column 'channel:beauty', but the environment declares"):
        under(tmp_path, other, 1)
    table = lab.table(lab.episode("a", "g", 2, 0.0)).with_columns({"advantage": np.zeros(2)})
    with pytest.raises(UsageError, match="episode a has 2 turns, its stored credit 3"):
        Turns.of(table, {"a": {"advantage": [0.0] * 3}})
