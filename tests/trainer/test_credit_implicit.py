"""Step advantages, their fusion, and PRIME's token advantages: cases computed by hand."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from turnwise.envs.errors import UsageError
from turnwise.trainer.recipe import Recipe
from turnwise.trainer.table import TurnTable

Lab = SimpleNamespace
NAN = math.nan


def rewarded(lab: Lab, turns: dict[str, list[float]], scores: dict[str, float] | None = None) -> TurnTable:
    """Episodes of one group with an implicit reward per turn."""
    episodes = [
        lab.episode(name, "g", len(values), (scores or {}).get(name, 0.0)) for name, values in turns.items()
    ]
    table: TurnTable = lab.table(*episodes)
    return table.with_columns({"implicit": np.array([v for values in turns.values() for v in values])})


def written(lab: Lab, turns: dict[str, list[int]], groups: str = "ggg") -> TurnTable:
    """Episodes in whose turns the same is read and these tokens are written."""
    episodes = []
    for (name, tokens), group in zip(turns.items(), groups, strict=False):
        spans = [(lab.env_span(1, 2), lab.policy_span(token)) for token in tokens]
        own = [lab.turn(name, group, i, spans=pair) for i, pair in enumerate(spans)]
        episodes.append(lab.episode(name, group, own))
    table: TurnTable = lab.table(*episodes)
    return table


def test_group_norm_is_over_all_turns_of_the_group(lab: Lab) -> None:
    """Mean 3 and sample deviation sqrt(((-2)^2 + 0 + 2^2 + 0) / 3) of 1, 3, 5, 3."""
    table = lab.run("group_norm", rewarded(lab, {"a": [1, 3], "b": [5, 3]}), of="implicit")
    deviation = math.sqrt(8 / 3)
    assert table.step_advantage == pytest.approx([-2 / deviation, 0, 2 / deviation, 0], abs=1e-5)
    plain = lab.run("group_norm", rewarded(lab, {"a": [1, 3], "b": [5, 3]}), of="implicit", std=False)
    assert plain.step_advantage.tolist() == [-2, 0, 2, 0]


def test_group_norm_as_released_takes_one_turn_of_each_episode(lab: Lab) -> None:
    """The first turns are 1 and 5: mean 3, whatever the later ones are."""
    table = rewarded(lab, {"a": [1, 9], "b": [5, 3]})
    plain = lab.run("group_norm", table, of="implicit", over="first_turns", std=False)
    assert plain.step_advantage.tolist() == [-2, 6, 2, 0]


def test_over_states_compares_what_was_done_in_one_state(lab: Lab) -> None:
    """Turn 0 of all three is one state. After it a and b go on from the same text, c from another: its turn 1
    is alone, however large its reward."""
    table = written(lab, {"a": [3, 4], "b": [3, 5], "c": [6, 7]}).with_columns(
        {"implicit": np.array([1.0, 2.0, 2.0, 6.0, 3.0, 100.0])}
    )
    plain = lab.run("group_norm", table, of="implicit", over="states", std=False)
    assert plain.step_advantage.tolist() == [-1, -2, 0, 2, 1, 0]


def test_states_of_different_groups_are_not_compared(lab: Lab) -> None:
    table = written(lab, {"a": [3], "b": [4]}, groups="gh").with_columns({"implicit": np.array([1.0, 2.0])})
    assert not lab.run("group_norm", table, of="implicit", over="states").step_advantage.any()


def test_an_unscored_turn_is_not_0(lab: Lab) -> None:
    """It gets nothing, and the mean is that of the others: 4, not 2."""
    table = rewarded(lab, {"a": [NAN, 3], "b": [5, NAN]})
    assert lab.run("group_norm", table, of="implicit", std=False).step_advantage.tolist() == [0, -1, 1, 0]


def test_turns_of_one_episode_alone_are_not_compared(lab: Lab) -> None:
    table = rewarded(lab, {"a": [1, 3], "b": [NAN, NAN]})
    assert not lab.run("group_norm", table, of="implicit").step_advantage.any()


def test_batch_norm_divides_by_the_largest_return_to_go(lab: Lab) -> None:
    """Of a: -1 and 1, so 2 - 3 = -1 and -3; of b: 2. The largest in size is 3."""
    table = lab.run("batch_norm", rewarded(lab, {"a": [2, -3], "b": [2]}), of="implicit", into="scaled")
    assert table.scaled == pytest.approx([2 / 3, -1, 2 / 3], abs=1e-5)


def test_fuse_adds_advantages_by_weight(lab: Lab) -> None:
    table = lab.table(lab.episode("a", "g", 2)).with_columns(
        {"episode_advantage": np.array([1.0, 1.0]), "step_advantage": np.array([2.0, -2.0])}
    )
    fused = lab.run("fuse", table, of={"episode_advantage": 1.0, "step_advantage": 0.25})
    assert fused.advantage.tolist() == [1.5, 0.5]


# ---------------------------------------------------------------- PRIME


def token_rewarded(lab: Lab, tokens: dict[str, list[float]], scores: dict[str, float]) -> TurnTable:
    """Episodes of one group of two turns, which write one and two tokens, with a reward per token."""
    table: TurnTable = lab.table(*(lab.episode(name, "g", 2, scores[name]) for name in tokens))
    reward = np.full(len(table.tokens.ids), NAN)
    reward[table.tokens.trainable] = [value for values in tokens.values() for value in values]
    return table.with_columns({"token:implicit": reward, "implicit": table.gather(reward)})


def test_prime_by_hand(lab: Lab) -> None:
    """Token rewards of a: 1 2 3 (mean 2), of b: 0 0 3 (mean 1). Against the other's mean a has 0 1 2, to go
    3 3 2, and its outcome 1 - 0; b has -2 -2 1, to go -3 -1 1, and -1."""
    table = token_rewarded(lab, {"a": [1, 2, 3], "b": [0, 0, 3]}, {"a": 1.0, "b": 0.0})
    result = lab.run("prime", table, whiten=False)
    written = result["token:advantage"][table.tokens.trainable]
    assert written.tolist() == [4, 4, 3, -4, -2, 0]
    assert not result["token:advantage"][~table.tokens.trainable].any()
    assert result.advantage.tolist() == [4, 3.5, -4, -1], "the mean over a turn's tokens"
    assert result.step_reward.tolist() == [1, 6, 0, 3], "process reward, and the score at the end"


def test_prime_weighs_and_whitens(lab: Lab) -> None:
    table = token_rewarded(lab, {"a": [1, 2, 3], "b": [0, 0, 3]}, {"a": 1.0, "b": 0.0})
    outcome = lab.run("prime", table, process=0.0, whiten=False)
    assert outcome["token:advantage"][table.tokens.trainable].tolist() == [1, 1, 1, -1, -1, -1]
    white = lab.run("prime", table)["token:advantage"][table.tokens.trainable]
    assert white.mean() == pytest.approx(0, abs=1e-9)
    assert white.std() == pytest.approx(1)


def test_prime_leaves_out_groups_too_easy_or_too_hard(lab: Lab) -> None:
    table = token_rewarded(lab, {"a": [1, 2, 3], "b": [0, 0, 3]}, {"a": 1.0, "b": 1.0})
    assert not lab.run("prime", table).advantage.any()
    assert lab.run("prime", table, accuracy=(0.2, 1.0)).advantage.any()


def test_an_episode_that_was_not_scored_enters_nothing(lab: Lab) -> None:
    """Of three one has no token rewards: the two others are compared with each other, as above."""
    scores = {"a": 1.0, "b": 0.0, "c": 1.0}
    table = token_rewarded(lab, {"a": [1, 2, 3], "b": [0, 0, 3], "c": [NAN] * 3}, scores)
    written = lab.run("prime", table, whiten=False)["token:advantage"][table.tokens.trainable]
    assert written.tolist() == [4, 4, 3, -4, -2, 0, 0, 0, 0]


def test_prime_refuses_shared_turns(lab: Lab) -> None:
    shared = lab.turn("a", "g", 0)
    episodes = [lab.episode(name, "g", [shared, lab.turn(name, "g", 1)]) for name in ("a", "b")]
    table = lab.table(*episodes)
    blank = np.zeros(len(table.tokens.ids))
    with pytest.raises(UsageError, match="cannot where episodes share turns"):
        lab.run("prime", table.with_columns({"token:implicit": blank}))


# ---------------------------------------------------------------- the table


def test_gather_sums_over_what_was_written(lab: Lab) -> None:
    """Turns write 1 and 2 tokens; a NaN is no value, and a turn of none has no sum."""
    table = lab.table(lab.episode("a", "g", 2), lab.episode("b", "g", 1))
    values = np.full(len(table.tokens.ids), 100.0)
    values[table.tokens.trainable] = [1.0, 2.0, NAN, NAN]
    gathered = table.gather(values)
    assert gathered[:2].tolist() == [1.0, 2.0]
    assert math.isnan(gathered[2])


def test_gather_gives_a_shared_turn_to_all_its_episodes(lab: Lab) -> None:
    shared = lab.turn("a", "g", 0)
    episodes = [lab.episode(name, "g", [shared, lab.turn(name, "g", 1)]) for name in ("a", "b")]
    table = lab.table(*episodes)
    assert table.gather(np.ones(len(table.tokens.ids))).tolist() == [1, 2, 1, 2]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"scorers": []}, "needs column 'implicit'"),
        ({"scorers": [{"kind": "implicit"}] * 2}, "two of them give 'implicit'; keep one"),
        ({"scorers": [{"kind": "implicit", "accuracy": [0.8, 0.2]}]}, "the lower bound comes first"),
        ({"scorers": [{"kind": "implicit", "replay": 8}]}, "replay needs minibatch"),
        ({"scorers": [{"kind": "implict"}]}, "implict"),
        ({"rollout.group": 1}, "rollout.group is 1"),
    ],
)
def test_what_cannot_work_is_refused_before_the_start(lab: Lab, change: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        Recipe.load("quickstart-implicit").override(**change).pipeline(["reward", "outcome"])
