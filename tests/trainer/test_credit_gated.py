"""Gated accumulation: what counts, what is silenced, and what was never scored."""

from __future__ import annotations

import logging
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from turnwise.agents.trajectory import Episode
from turnwise.envs.errors import UsageError
from turnwise.envs.types import EndReason
from turnwise.trainer.columns import base_columns
from turnwise.trainer.credit.gated import PATIENCE
from turnwise.trainer.recipe import Recipe
from turnwise.trainer.stage import State, find_stage
from turnwise.trainer.table import TurnTable

Lab = SimpleNamespace
quick = settings(max_examples=20, deadline=None)

TURN_LIMIT = EndReason.TURN_LIMIT
VALID = {"validity": 1.0}
THREE: dict[str, dict[str, Any]] = {
    "reward": {"level": 0, "threshold": 0.3},
    "channel:validity": {"level": 1, "weight": 0.15, "threshold": 2},
    "progress": {"level": 2},
}
"""Outcome over validity over milestones."""


def step_reward(lab: Lab, table: TurnTable, rewards: dict[str, Any]) -> list[float]:
    column: list[float] = lab.run("gated", table, rewards=rewards).step_reward.tolist()
    return column


def opened(rewards: dict[str, Any]) -> dict[str, Any]:
    """The same rewards without thresholds."""
    return {name: reward | {"threshold": None} for name, reward in rewards.items()}


# ---------------------------------------------------------------- by hand


def test_the_two_level_instance_by_hand(lab: Lab) -> None:
    """R = R_out + 1[R_out >= 0.2] * sum of 0.15 per valid turn, each at its turn."""
    valid: dict[int, dict[str, float]] = {i: VALID for i in range(3)}
    table = lab.table(
        lab.episode("farmed", "g", 3, 0.0, TURN_LIMIT, scored=valid),
        lab.episode("unchanged", "g", 3, 0.0, scored=valid | {2: VALID | {"modified": 0.0}}),
        lab.episode(
            "wrong", "g", 3, 0.0, scored=valid | {1: {"validity": 0.0}, 2: VALID | {"modified": 1.0}}
        ),
        lab.episode("solved", "g", 3, 1.0, scored=valid | {2: VALID | {"modified": 1.0}}),
    )
    table = lab.run("outcome_levels", table)
    assert table.outcome_level.reshape(4, 3).tolist() == [[0, 0, 0], [0, 0, 0.1], [0, 0, 0.2], [0, 0, 1]]
    rewards: dict[str, Any] = {
        "outcome_level": {"level": 0, "threshold": 0.2},
        "channel:validity": {"weight": 0.15},
    }
    counted = np.array([[0, 0, 0], [0, 0, 0.1], [0.15, 0, 0.35], [0.15, 0.15, 1.15]])
    assert step_reward(lab, table, rewards) == pytest.approx(counted.ravel())
    counted[:2] = [[0.15, 0.15, 0.15], [0.15, 0.15, 0.25]]
    assert step_reward(lab, table, opened(rewards)) == pytest.approx(counted.ravel())


@pytest.mark.parametrize(
    ("end", "score", "changed", "worth"),
    [
        (TURN_LIMIT, 0.0, 1.0, 0.0),
        (TURN_LIMIT, 1.0, 1.0, 0.0),
        (EndReason.AGENT_FAULT, 0.0, None, 0.0),
        (EndReason.SUBMITTED, 0.0, 0.0, 0.1),
        (EndReason.SUBMITTED, 0.5, 1.0, 0.2),
        (EndReason.SUBMITTED, 1.0, 0.0, 1.0),
        (EndReason.SUBMITTED, 1.0, None, 1.0),
    ],
)
def test_an_outcome_is_worth_its_level(
    lab: Lab, end: EndReason, score: float, changed: float | None, worth: float
) -> None:
    scored = {} if changed is None else {1: {"modified": changed}}
    table = lab.run("outcome_levels", lab.table(lab.episode("a", "g", 2, score, end, scored=scored)))
    assert table.outcome_level.tolist() == [0.0, worth]


def test_a_submission_nobody_looked_at_is_not_taken_for_unchanged(lab: Lab) -> None:
    table = lab.table(lab.episode("fine", "g", 1, 1.0), lab.episode("b", "g", 2, 0.0))
    with pytest.raises(UsageError, match=r"channel 'modified' is not scored where 1 episodes .* b; score it"):
        lab.run("outcome_levels", table)


def test_rewards_of_one_level_do_not_gate_one_another(lab: Lab) -> None:
    table = lab.table(lab.episode("a", "g", 1, 0.0, reached={0: ["found"]}, scored={0: VALID}))
    same = {name: reward | {"level": 0} for name, reward in THREE.items()}
    assert step_reward(lab, table, same) == [0.15 + 0.25]
    assert step_reward(lab, table, THREE) == [0.0]


def test_the_environment_gives_a_channel_its_level_and_the_order_of_the_recipe_does_not_matter(
    lab: Lab,
) -> None:
    table = lab.table(lab.episode("a", "g", 2, 0.0, scored={0: VALID, 1: {"outcome": 0.0}}))
    rewards = {"channel:validity": {}, "channel:outcome": {"threshold": 0.5}}
    assert step_reward(lab, table, rewards) == [0.0, 0.0]
    assert step_reward(lab, table, rewards | {"channel:validity": {"level": 0}}) == [1.0, 0.0]


def test_a_threshold_is_reached_in_spite_of_rounding(lab: Lab) -> None:
    parts = {i: {"outcome": value} for i, value in enumerate([0.7, 0.1, 0.1])}
    table = lab.table(lab.episode("a", "g", 3, scored=parts, reached={0: ["found"]}))
    assert 0.7 + 0.1 + 0.1 < 0.9
    rewards = {"channel:outcome": {"threshold": 0.9}, "progress": {"level": 1}}
    assert lab.run("gated", table, rewards=rewards)["gate:progress"].tolist() == [1, 1, 1]


# ---------------------------------------------------------------- what always holds


def reference(episodes: list[Episode], rewards: dict[str, Any], table: TurnTable) -> list[float]:
    """The definition, loop by loop."""
    result: list[float] = []
    for number, episode in enumerate(episodes):
        own = np.flatnonzero(table.episode_id == number)
        turns = [0.0] * len(episode.turns)
        for name, reward in rewards.items():
            above = [n for n, r in rewards.items() if r["level"] < reward["level"] and "threshold" in r]
            scores = {n: [v for v in table[n][own].tolist() if v == v] for n in above}
            if all(not s or sum(s) >= rewards[n]["threshold"] - 1e-6 for n, s in scores.items()):
                for place, value in enumerate(table[name][own].tolist()):
                    turns[place] += reward.get("weight", 1.0) * value if value == value else 0.0
        result += turns
    return result


@quick
@given(data=st.data(), bars=st.tuples(st.sampled_from([-1, 0, 0.3, 1]), st.sampled_from([0, 1, 2.5, 9])))
def test_gated_is_the_definition(lab: Lab, data: st.DataObject, bars: tuple[float, float]) -> None:
    episodes = data.draw(lab.batches())
    table = lab.table(*episodes)
    rewards: dict[str, Any] = {name: dict(reward) for name, reward in THREE.items()}
    rewards["reward"]["threshold"], rewards["channel:validity"]["threshold"] = bars
    expected = reference(episodes, rewards, table)
    np.testing.assert_allclose(step_reward(lab, table, rewards), expected, atol=1e-12)


@quick
@given(data=st.data())
def test_with_all_gates_open_it_is_the_weighted_sum(lab: Lab, data: st.DataObject) -> None:
    table = lab.table(*data.draw(lab.batches()))
    easy = THREE["channel:validity"]["weight"] * np.nan_to_num(table["channel:validity"])
    plain = table.reward + easy + table.progress
    np.testing.assert_allclose(step_reward(lab, table, opened(THREE)), plain, atol=1e-12)
    low = {name: reward | {"threshold": -1} for name, reward in THREE.items()}
    np.testing.assert_allclose(step_reward(lab, table, low), plain, atol=1e-12)


@quick
@given(data=st.data())
def test_a_missed_threshold_silences_exactly_the_levels_below(lab: Lab, data: st.DataObject) -> None:
    table = lab.table(*data.draw(lab.batches()))
    result = lab.run("gated", table, rewards=THREE)
    missed = table.outcome < 0.3
    assert result["gate:reward"].all()
    assert not result["gate:channel:validity"][missed].any()
    assert not result["gate:progress"][missed].any()
    assert result["gate:channel:validity"][~missed].all()
    assert result.step_reward[missed].tolist() == table.reward[missed].tolist()
    others = opened(THREE) | {"channel:validity": THREE["channel:validity"]}
    assert (
        result["gate:progress"][~missed] == lab.run("gated", table, rewards=others)["gate:progress"][~missed]
    ).all()


@quick
@given(data=st.data(), bar=st.sampled_from([-1.0, 0.0, 0.5]))
def test_a_reward_never_scored_is_as_if_it_were_not_there(lab: Lab, data: st.DataObject, bar: float) -> None:
    table = lab.table(*data.draw(lab.batches()))
    silent = table.with_columns({"channel:validity": np.full(len(table), np.nan)})
    rewards = THREE | {"channel:validity": {"level": 1, "threshold": bar}}
    without = {name: reward for name, reward in rewards.items() if name != "channel:validity"}
    assert step_reward(lab, silent, rewards) == step_reward(lab, table, without)


def test_an_unscored_value_is_not_zero(lab: Lab) -> None:
    rewards = {"channel:validity": {"level": 0, "threshold": 1}, "progress": {"level": 1}}
    for scored, expected in (({}, 0.25), ({0: {"validity": 0.0}}, 0.0), ({1: VALID}, 0.25)):
        table = lab.table(lab.episode("a", "g", 2, reached={0: ["found"]}, scored=scored))
        assert step_reward(lab, table, rewards)[0] == expected


# ---------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    ("rewards", "message"),
    [
        ({"reward": {"level": 0, "threshold": 1.5}}, "no episode can reach the threshold 1.5 of 'reward'"),
        ({"channel:outcome": {"threshold": 2}}, "no episode can reach the threshold 2 of 'channel:outcome'"),
        ({"milestone:found": {"level": 0, "threshold": 2}}, "no episode can reach the threshold 2"),
        ({"outcome": {"level": 0}}, "'outcome' repeats the score on every turn; name 'reward' instead"),
        ({"progress": {"threshold": 1}}, "'progress' is no channel, so the environment gives it no level"),
        ({}, "should have at least 1 item"),
        ({"reward": {"level": 0, "treshold": 1}}, "'treshold'; did you mean 'threshold'"),
    ],
)
def test_what_cannot_work_is_refused(rewards: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        find_stage("gated").bind({"rewards": rewards})


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"modified": 0.05}, "modified = 0.05 is less than unchanged = 0.1, a worse outcome"),
        ({"solved": 2}, "values.solved = 2: Input should be less than or equal to 1"),
    ],
)
def test_outcomes_that_are_out_of_order_are_refused(values: dict[str, float], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        find_stage("outcome_levels").bind({"values": values})


def test_a_channel_the_environment_lacks_is_refused_before_the_start() -> None:
    recipe = Recipe.load("quickstart-gated")
    with pytest.raises(
        UsageError, match=r"'outcome_levels' needs column 'channel:modified', but .* channel:v"
    ):
        recipe.pipeline(base_columns((), {"outcome": 0, "validity": 1}))
    misspelt = recipe.override(credit=[{"kind": "gated", "rewards": {"channel:validty": {}}}, "grpo"])
    with pytest.raises(
        UsageError, match="'gated' needs column 'channel:validty', but the environment declares"
    ):
        misspelt.pipeline(base_columns((), {"outcome": 0, "validity": 1}))


def test_a_threshold_that_is_never_reached_is_told_once(lab: Lab, caplog: pytest.LogCaptureFixture) -> None:
    bar = {"channel:validity": {"threshold": 1}}
    never, once = (lab.table(lab.episode("a", "g", 1, scored={0: {"validity": v}})) for v in (0.0, 1.0))
    unscored = lab.table(lab.episode("a", "g", 1))
    node = find_stage("gated").bind({"rewards": bar})
    state: State = {}
    batches = [never] * (PATIENCE - 1) + [once] + [never, unscored] * (PATIENCE + 2)
    with caplog.at_level(logging.WARNING):
        for seen, table in enumerate(batches):
            _, state = node.apply(table, state)
            assert len(caplog.records) == (seen >= 3 * PATIENCE - 2)
    told = caplog.records[0].getMessage()
    assert "no episode reached the threshold 1 of 'channel:validity', so rewards of lower levels" in told


# ---------------------------------------------------------------- the recipes


def test_the_baseline_differs_in_the_gate_alone() -> None:
    gated, direct = (
        Recipe.load(f"quickstart-{name}").model_dump(mode="json") for name in ("gated", "direct")
    )
    level = gated["credit"][1]["rewards"]["outcome_level"]
    assert level == direct["credit"][1]["rewards"]["outcome_level"] | {"threshold": 0.2}
    level["threshold"] = None
    assert [key for key in gated if gated[key] != direct[key]] == ["name", "description"]


def test_farming_pays_with_direct_accumulation_only(lab: Lab) -> None:
    """Twelve valid turns without submitting, against a wrong submission after four."""
    farmed = lab.episode("farmed", "g", 12, 0.0, TURN_LIMIT, scored={i: VALID for i in range(12)})
    scored: dict[int, dict[str, float]] = {i: dict(VALID) for i in range(4)}
    scored[3]["modified"] = 1.0
    table = lab.table(farmed, lab.episode("tried", "g", 4, 0.0, scored=scored))
    first = {}
    for name in ("gated", "direct"):
        pipeline = Recipe.load(f"quickstart-{name}").pipeline(table.columns)
        first[name] = pipeline.run(table, {}).advantage[[0, 12]].tolist()
    assert first["direct"][0] > 0 > first["direct"][1]
    assert first["gated"][0] < 0 < first["gated"][1]
