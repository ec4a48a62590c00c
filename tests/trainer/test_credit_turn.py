"""Credit per turn: paid progress, returns, and the baseline at a turn index."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from turnwise.agents.trajectory import Episode

Lab = SimpleNamespace
quick = settings(max_examples=20, deadline=None)


def test_outcome_is_the_score_and_milestones_add_their_share(lab: Lab) -> None:
    table = lab.table(lab.episode("a", "g", 3, 0.5, reached={0: ["found"], 2: ["changed", "sent"]}))
    assert lab.run("outcome", table).step_reward.tolist() == [0, 0, 0.5]
    assert lab.run("milestones", table).step_reward.tolist() == [0.25, 0, 1.0]
    assert lab.run("milestones", table, weight=0.4).step_reward.tolist() == pytest.approx([0.1, 0, 0.7])


@quick
@given(data=st.data(), weight=st.sampled_from([0.0, 0.3, 1.0]))
def test_each_milestone_is_paid_once(lab: Lab, data: st.DataObject, weight: float) -> None:
    episodes: list[Episode] = data.draw(lab.batches())
    table = lab.table(*episodes)
    paid = table.by_episode.sum(lab.run("milestones", table, weight=weight).step_reward - table.reward)
    expected = [weight * len(set(episode.milestones)) / 4 for episode in episodes]
    np.testing.assert_allclose(paid, expected, atol=1e-12)


def test_returns_discount_what_is_to_come(lab: Lab) -> None:
    table = lab.run("outcome", lab.table(lab.episode("a", "g", 3, 1.0)))
    assert lab.run("returns", table, gamma=0.5)["return"].tolist() == [0.25, 0.5, 1.0]
    assert lab.run("returns", table)["return"][0] == pytest.approx(0.95**2)


def reference(episodes: list[Episode], returns: list[list[float]], over: str, std: bool) -> list[float]:
    """The turn baseline loop by loop."""
    result: list[float] = []
    for episode, own in zip(episodes, returns, strict=True):
        peers = [r for e, r in zip(episodes, returns, strict=True) if e.group_id == episode.group_id]
        scale = float(np.std(np.concatenate(peers))) + 1e-4 if std else 1.0
        for index, value in enumerate(own):
            there = [r[index] for r in peers if index < len(r)]
            count = len(peers) if over == "zero" else len(there)
            result.append((value - sum(there) / count) / scale if len(peers) > 1 else 0.0)
    return result


@pytest.mark.parametrize("over", ["zero", "skip"])
@pytest.mark.parametrize("std", [True, False])
@quick
@given(data=st.data())
def test_turn_baseline_is_the_reference(lab: Lab, data: st.DataObject, over: str, std: bool) -> None:
    episodes = data.draw(lab.batches())
    table = lab.run("returns", lab.run("milestones", lab.table(*episodes)))
    returns = [table["return"][table.episode_id == e].tolist() for e in range(table.episodes)]
    advantage = lab.run("turn_baseline", table, over=over, std=std).advantage
    np.testing.assert_allclose(advantage, reference(episodes, returns, over, std), atol=1e-9)


def test_an_episode_that_is_over_counts_as_zero_or_not_at_all(lab: Lab) -> None:
    table = lab.table(lab.episode("a", "g", 2, 1.0), lab.episode("b", "g", 1, 0.0))
    table = lab.run("returns", lab.run("outcome", table), gamma=1.0)
    assert lab.run("turn_baseline", table, std=False).advantage.tolist() == [0.5, 0.5, -0.5]
    assert lab.run("turn_baseline", table, std=False, over="skip").advantage.tolist() == [0.5, 0.0, -0.5]


@pytest.mark.parametrize("over", ["zero", "skip"])
@quick
@given(score=st.floats(0, 1), size=st.integers(1, 7), turns=st.integers(1, 4))
def test_groups_all_alike_and_groups_of_one_give_exactly_zero(
    lab: Lab, over: str, score: float, size: int, turns: int
) -> None:
    table = lab.table(*(lab.episode(f"e{i}", "g", turns, score, reached={0: ["sent"]}) for i in range(size)))
    table = lab.run("returns", lab.run("milestones", table), gamma=0.9)
    assert not lab.run("turn_baseline", table, over=over).advantage.any()


def test_scale_divides_by_the_spread_of_the_batch(lab: Lab) -> None:
    table = lab.table(lab.episode("a", "g", 1, 1.0), lab.episode("b", "h", 1, 0.0))
    assert lab.run("scale", table, of="reward").advantage.tolist() == pytest.approx([2.0, 0.0], rel=1e-3)
    centred = lab.run("scale", table, of="reward", centre=True).advantage
    assert centred.tolist() == pytest.approx([1.0, -1.0], rel=1e-3)
    assert lab.run("scale", table, of="valid").advantage.tolist() == [0.0, 0.0]
