"""What holds for every built-in way of giving credit, on batches drawn at random."""

from __future__ import annotations

import random
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from turnwise.agents.trajectory import Episode
from turnwise.trainer.columns import base_columns
from turnwise.trainer.pipeline import Pipeline
from turnwise.trainer.recipe import Recipe
from turnwise.trainer.stage import stages
from turnwise.trainer.table import TurnTable

Lab = SimpleNamespace
quick = settings(max_examples=20, deadline=None)
CREDIT: dict[str, list[Any]] = {
    "outcome + grpo": ["outcome", "grpo"],
    "milestones + rloo": ["milestones", "rloo"],
    "milestones + turn_baseline": ["milestones", "returns", "turn_baseline"],
    "gated + grpo": [
        "outcome_levels",
        {
            "kind": "gated",
            "rewards": {
                "outcome_level": {"level": 0, "threshold": 0.2},
                "channel:validity": {"weight": 0.15, "threshold": 2},
                "progress": {"level": 2},
            },
        },
        "grpo",
    ],
    "shaped + critic": [
        "outcome",
        "shaping",
        {"kind": "critic", "of": "shaped_reward"},
        {"kind": "gae", "of": "shaped_reward"},
        "scale",
    ],
    "implicit": [
        "outcome",
        {"kind": "grpo", "into": "episode_advantage"},
        {"kind": "group_norm", "of": "implicit"},
        {"kind": "fuse", "of": {"episode_advantage": 1.0, "step_advantage": 0.3}},
    ],
    "implicit within states": [
        "outcome",
        {"kind": "grpo", "into": "episode_advantage"},
        {"kind": "group_norm", "of": "implicit", "over": "states"},
        {"kind": "fuse", "of": {"episode_advantage": 1.0, "step_advantage": 0.3}},
    ],
    "implicit as released": [
        "outcome",
        {"kind": "rloo", "into": "episode_advantage"},
        {"kind": "batch_norm", "of": "implicit", "into": "scaled"},
        {"kind": "group_norm", "of": "scaled", "over": "first_turns"},
        {"kind": "fuse", "of": {"episode_advantage": 1.0, "step_advantage": 1.0}},
    ],
    "prime": ["prime"],
    "mira": [
        "outcome",
        {"kind": "shaping", "potential": "predicted_potential"},
        "doubly_robust",
        "scale",
    ],
}


def compares_within_groups(name: str) -> bool:
    """Whether no stage of it looks beyond a group."""
    kinds = [part if isinstance(part, str) else part["kind"] for part in CREDIT[name]]
    return not any(stages()[kind].scope == "batch" for kind in kinds)


WITHIN_GROUPS = [name for name in CREDIT if compares_within_groups(name)]
each = pytest.mark.parametrize("name", CREDIT)


def with_scores(table: TurnTable, mixed_only: bool = False) -> TurnTable:
    """With what scorers give: critics that see a state's place and milestones, and an implicit reward that
    depends on a token and its turn's place alone; some turns have none, and with ``mixed_only`` neither has
    a group whose episodes all have one score."""
    place, ids = table.index[table.tokens.row], table.tokens.ids
    mixed = ~table.by_group.alike(table.outcome)[table.group_id[table.tokens.row]]
    reward = np.where((place % 7 == 3) | (mixed_only & ~mixed), np.nan, np.sin(3.0 * place + ids))
    columns = {"token:implicit": reward, "implicit": table.gather(reward)}
    following = np.where(table.last, np.arange(len(table)), np.arange(len(table)) + 1)
    for name, pitch in (("success", 2.0), ("predicted_potential", 5.0)):
        before = np.sin(pitch * table.index + table.potential_before) ** 2
        columns |= {f"{name}_before": before, f"{name}_after": before[following]}
    return table.with_columns(columns)


def pipeline(lab: Lab, name: str) -> Pipeline:
    recipe = Recipe.load("quickstart").override(
        credit=CREDIT[name], scorers=[{"kind": "implicit"}, {"kind": "critics"}]
    )
    return recipe.pipeline(base_columns(lab.milestones, lab.channels))


def credit_by_turn(lab: Lab, name: str, table: TurnTable) -> dict[str, float]:
    advantage = pipeline(lab, name).run(with_scores(table), {}).advantage
    return dict(zip(table.names["turn_id"][table.turn_id], advantage.tolist(), strict=True))


def test_every_built_in_stage_is_among_them() -> None:
    used = {part if isinstance(part, str) else part["kind"] for parts in CREDIT.values() for part in parts}
    built_in = {
        n for n, stage in stages().items() if stage.function.__module__.startswith("turnwise.trainer.credit.")
    }
    assert used == built_in


@each
@quick
@given(data=st.data(), seed=st.integers(0, 99))
def test_the_order_of_episodes_does_not_matter(lab: Lab, name: str, data: st.DataObject, seed: int) -> None:
    episodes: list[Episode] = data.draw(lab.batches())
    shuffled = random.Random(seed).sample(episodes, len(episodes))
    before, after = (credit_by_turn(lab, name, lab.table(*e)) for e in (episodes, shuffled))
    assert before.keys() == after.keys()
    for turn, value in before.items():
        assert after[turn] == pytest.approx(value, abs=1e-9)


@pytest.mark.parametrize("name", WITHIN_GROUPS)
@quick
@given(data=st.data())
def test_one_groups_credit_does_not_depend_on_another(lab: Lab, name: str, data: st.DataObject) -> None:
    episodes: list[Episode] = data.draw(lab.batches())
    alone = [e for e in episodes if e.group_id == episodes[0].group_id]
    together = credit_by_turn(lab, name, lab.table(*episodes))
    for turn, value in credit_by_turn(lab, name, lab.table(*alone)).items():
        assert together[turn] == pytest.approx(value, abs=1e-9)


@pytest.mark.parametrize("name", WITHIN_GROUPS)
@quick
@given(data=st.data(), size=st.integers(1, 5))
def test_a_group_all_alike_gets_exactly_nothing(lab: Lab, name: str, data: st.DataObject, size: int) -> None:
    model: Episode = data.draw(lab.batches())[0]
    reached = {turn.index: turn.record.milestones for turn in model.turns}
    scored = {turn.index: {term.channel: term.value for term in turn.record.terms} for turn in model.turns}
    like = (len(model.turns), model.score, model.end, reached, scored)
    copies = [lab.episode(f"c{i}", "c", *like) for i in range(size)]
    table = with_scores(lab.table(*copies), mixed_only=True)
    result = pipeline(lab, name).run(table, {})
    assert not result.advantage.any()
    assert not table.expand(result.advantage).any()
    assert result.groups_without_signal == 1


@each
@quick
@given(data=st.data())
def test_single_precision_gives_the_same_credit(lab: Lab, name: str, data: st.DataObject) -> None:
    table = with_scores(lab.table(*data.draw(lab.batches())))
    narrow = {n: c.astype(np.float32) for n, c in table.columns.items() if c.dtype == np.float64}
    wide = pipeline(lab, name).run(table, {}).advantage
    np.testing.assert_allclose(
        pipeline(lab, name).run(table.with_columns(narrow), {}).advantage, wide, rtol=1e-3, atol=1e-3
    )


@each
@quick
@given(data=st.data())
def test_credit_reaches_the_learners_tokens_and_no_others(lab: Lab, name: str, data: st.DataObject) -> None:
    table = with_scores(lab.table(*data.draw(lab.batches())))
    advantage = pipeline(lab, name).run(table, {}).advantage
    tokens, trainable = table.expand(advantage), table.tokens.trainable
    assert not tokens[~trainable].any()
    assert tokens[trainable].tolist() == advantage[table.tokens.row[trainable]].tolist()
