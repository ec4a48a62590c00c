"""Potential-based shaping, the critic and temporal differences: the identities that define them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from turnwise.agents.trajectory import Episode
from turnwise.envs.types import EndReason
from turnwise.trainer.columns import base_columns
from turnwise.trainer.pipeline import Pipeline
from turnwise.trainer.recipe import Recipe
from turnwise.trainer.stage import State
from turnwise.trainer.table import TurnTable

Lab = SimpleNamespace
quick = settings(max_examples=20, deadline=None)
FINISHED = st.just(EndReason.SUBMITTED)
gammas = st.sampled_from([0.0, 0.5, 0.95, 1.0])


POTENTIALS = st.sampled_from([("potential", 1.0), ("predicted_potential", 1.0), ("predicted_potential", 0.3)])
"""Which potential, and its weight."""


def shaped(
    lab: Lab, table: TurnTable, gamma: float, potential: tuple[str, float] = ("potential", 1.0)
) -> TurnTable:
    name, weight = potential
    return lab.run("shaping", lab.run("outcome", table), gamma=gamma, potential=name, weight=weight)


def predicted(table: TurnTable) -> TurnTable:
    """With what a model says of progress: some number for every state, the same after a turn as before the
    next."""
    before = np.sin(3.0 * np.arange(len(table)) + table.potential_before) ** 2
    after = np.where(table.last, 0.4, np.append(before[1:], 0.0))
    return table.with_columns({"predicted_potential_before": before, "predicted_potential_after": after})


def with_value(table: TurnTable, of: str, value: Any, after: Any) -> TurnTable:
    zero = np.zeros(len(table))
    return table.with_columns({f"value:{of}": zero + value, f"next_value:{of}": zero + after})


@quick
@given(data=st.data(), gamma=gammas, potential=POTENTIALS)
def test_shaped_return_is_the_raw_one_minus_the_potential(
    lab: Lab, data: st.DataObject, gamma: float, potential: tuple[str, float]
) -> None:
    table = shaped(lab, predicted(lab.table(*data.draw(lab.batches(FINISHED)))), gamma, potential)
    raw = table.return_to_go(table.reward, gamma)
    left = table.return_to_go(table.shaped_reward, gamma)
    name, weight = potential
    np.testing.assert_allclose(left, raw - weight * table[f"{name}_before"], atol=1e-12)


@quick
@given(data=st.data(), gamma=gammas, lam=st.sampled_from([0.0, 0.9, 1.0]), potential=POTENTIALS)
def test_shaped_differences_without_value_are_raw_ones_with_the_potential_as_value(
    lab: Lab, data: st.DataObject, gamma: float, lam: float, potential: tuple[str, float]
) -> None:
    """Also for episodes that were cut off, where both bootstrap from the same state."""
    table = shaped(lab, predicted(lab.table(*data.draw(lab.batches()))), gamma, potential)
    nothing = with_value(table, "shaped_reward", 0.0, 0.0)
    name, weight = potential
    before, after = (weight * table[f"{name}_{side}"] for side in ("before", "after"))
    as_value = with_value(table, "step_reward", before, np.where(table.terminal, 0.0, after))
    options = {"gamma": gamma, "lam": lam, "into": "advantage"}
    left = lab.run("gae", nothing, of="shaped_reward", **options).advantage
    right = lab.run("gae", as_value, of="step_reward", **options).advantage
    np.testing.assert_allclose(left, right, atol=1e-12)


def test_a_terminal_state_has_no_potential_and_one_cut_off_keeps_its_own(lab: Lab) -> None:
    reached = {0: ["found", "changed"]}
    table = lab.table(
        lab.episode("a", "g", 2, 1.0, EndReason.SUBMITTED, reached),
        lab.episode("b", "g", 2, 0.0, EndReason.AGENT_FAULT, reached),
        lab.episode("c", "g", 2, 0.0, EndReason.TURN_LIMIT, reached),
    )
    rewards = shaped(lab, table, 1.0).shaped_reward
    assert rewards.tolist() == [0.5, 0.5, 0.5, -0.5, 0.5, 0.0]


def test_gae_between_its_two_ends(lab: Lab) -> None:
    table = lab.run("outcome", lab.table(lab.episode("a", "g", 2, 1.0)))
    table = with_value(table, "step_reward", [0.25, 0.5], [0.5, 0.0])
    advantage = {
        lam: lab.run("gae", table, gamma=1.0, lam=lam).td_advantage.tolist() for lam in (0.0, 0.5, 1.0)
    }
    assert advantage == {0.0: [0.25, 0.5], 0.5: [0.5, 0.5], 1.0: [0.75, 0.5]}


# ---------------------------------------------------------------- the critic


def pipeline(lab: Lab, *credit: Any) -> Pipeline:
    recipe = Recipe.load("quickstart").override(credit=list(credit))
    return recipe.pipeline(base_columns(lab.milestones, lab.channels))


def test_the_critic_averages_returns_by_level_and_over_batches(lab: Lab) -> None:
    stages = pipeline(
        lab, "outcome", {"kind": "critic", "gamma": 0.5}, {"kind": "gae", "gamma": 0.5, "into": "advantage"}
    )
    first = lab.table(
        lab.episode("a", "g", 2, 1.0, reached={0: ["found"]}),
        lab.episode("b", "g", 2, 0.0, reached={0: ["found"]}),
    )
    one = stages.run(first, {})
    assert one.state == {"critic": {"value": [0.25, 0.5, None, None, None]}}
    assert one.table["value:step_reward"].tolist() == [0.25, 0.5, 0.25, 0.5]
    assert one.table["next_value:step_reward"].tolist() == [0.5, 0.0, 0.5, 0.0]
    two = stages.run(lab.table(lab.episode("c", "g", 1, 1.0)), one.state)
    assert two.state == {"critic": {"value": [0.625, 0.5, None, None, None]}}


def test_an_episode_cut_off_goes_on_at_what_its_level_was_worth(lab: Lab) -> None:
    table = lab.run("outcome", lab.table(lab.episode("a", "g", 1, 0.0, EndReason.TURN_LIMIT, {0: ["sent"]})))
    table = lab.run("critic", table, {"value": [0.5, 1.0, None, None, None]}, gamma=0.5)
    assert table["value:step_reward"].tolist() == [0.5]
    assert table["next_value:step_reward"].tolist() == [1.0]


def test_a_level_never_seen_is_worth_what_the_one_below_is(lab: Lab) -> None:
    reached = {0: ["found", "changed", "sent"]}
    table = lab.run("outcome", lab.table(lab.episode("a", "g", 1, 0.0, EndReason.TURN_LIMIT, reached)))
    table = lab.run("critic", table, {"value": [0.5, 0.25, None, None, 1.0]})
    assert table["next_value:step_reward"].tolist() == [0.25]


class ByHand:
    """Temporal differences with a value per milestone level, loop by loop, on raw rewards."""

    def __init__(self, gamma: float, lam: float) -> None:
        self.gamma, self.lam = gamma, lam
        self.value: dict[int, float] = {}

    def advantages(self, episodes: list[Episode]) -> np.ndarray:
        returns: dict[int, list[float]] = {}
        levels = [
            [sum(len(t.record.milestones) for t in e.turns[:k]) for k in range(len(e.turns))]
            for e in episodes
        ]
        for episode, level in zip(episodes, levels, strict=True):
            for k in range(len(level)):
                remaining = len(level) - 1 - k
                returns.setdefault(level[k], []).append(self.gamma**remaining * (episode.score or 0.0))
        for key, seen in returns.items():
            mean = float(np.mean(seen))
            self.value[key] = 0.5 * self.value[key] + 0.5 * mean if key in self.value else mean
        result: list[float] = []
        for episode, level in zip(episodes, levels, strict=True):
            values = [self.value[key] for key in level] + [0.0]
            running, own = 0.0, []
            for k in reversed(range(len(level))):
                reward = (episode.score or 0.0) if k == len(level) - 1 else 0.0
                running = reward + self.gamma * values[k + 1] - values[k] + self.gamma * self.lam * running
                own.append(running)
            result += own[::-1]
        return np.array(result)


@quick
@given(data=st.data())
def test_shaping_with_a_critic_is_a_critic_without_shaping(lab: Lab, data: st.DataObject) -> None:
    """A critic that can represent the potential takes it up whole: over finished episodes the built-in
    recipe equals plain temporal differences, batch after batch."""
    recipe = Recipe.load("quickstart-shaped")
    stages = recipe.pipeline(base_columns(lab.milestones, lab.channels))
    by_hand = ByHand(0.95, 0.9)
    state: Mapping[str, State] = {}
    for tag in ("x", "y"):
        episodes = data.draw(lab.batches(FINISHED, tag))
        result = stages.run(lab.table(*episodes), state)
        state = result.state
        np.testing.assert_allclose(result.table.td_advantage, by_hand.advantages(episodes), atol=1e-12)


def test_a_resumed_critic_goes_on_as_an_unbroken_one(lab: Lab) -> None:
    stages = Recipe.load("quickstart-shaped").pipeline(base_columns(lab.milestones, lab.channels))
    batches = [
        lab.table(
            lab.episode(f"{i}a", "g", 3, 0.1, reached={0: ["found"], 1: ["sent", "changed"]}),
            lab.episode(f"{i}b", "g", 1 + i, 1 / 3, reached={0: ["changed"]}),
        )
        for i in range(3)
    ]
    state: Any = {}
    for table in batches:
        unbroken = stages.run(table, state)
        resumed = stages.run(table, json.loads(json.dumps(state)))
        assert resumed.advantage.tolist() == unbroken.advantage.tolist()
        assert resumed.state == unbroken.state
        state = unbroken.state
