"""Credit of whole episodes against references written out by hand, loop by loop."""

from __future__ import annotations

from statistics import fmean, pstdev, stdev
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from turnwise.agents.trajectory import Episode

Lab = SimpleNamespace
quick = settings(max_examples=20, deadline=None)


def by_group(episodes: list[Episode]) -> dict[str, list[float]]:
    scores: dict[str, list[float]] = {}
    for episode in episodes:
        scores.setdefault(episode.group_id, []).append(episode.score or 0.0)
    return scores


def grpo_by_hand(episodes: list[Episode], std: bool, ddof: int) -> list[float]:
    groups, result = by_group(episodes), []
    for episode in episodes:
        scores = groups[episode.group_id]
        value = 0.0
        if len(set(scores)) > 1:
            value = (episode.score or 0.0) - fmean(scores)
            value /= (stdev(scores) if ddof else pstdev(scores)) + 1e-6 if std else 1.0
        result += [value] * len(episode.turns)
    return result


def rloo_by_hand(episodes: list[Episode]) -> list[float]:
    result = []
    for episode in episodes:
        others = [e.score or 0.0 for e in episodes if e.group_id == episode.group_id and e is not episode]
        result += [(episode.score or 0.0) - fmean(others) if others else 0.0] * len(episode.turns)
    return result


@pytest.mark.parametrize(("std", "ddof"), [(True, 1), (True, 0), (False, 1)])
@quick
@given(data=st.data())
def test_grpo_is_the_reference(lab: Lab, data: st.DataObject, std: bool, ddof: int) -> None:
    episodes = data.draw(lab.batches())
    table = lab.run("grpo", lab.table(*episodes), of="reward", std=std, ddof=ddof)
    np.testing.assert_allclose(table.advantage, grpo_by_hand(episodes, std, ddof), atol=1e-9)


@quick
@given(data=st.data())
def test_rloo_is_the_reference(lab: Lab, data: st.DataObject) -> None:
    episodes = data.draw(lab.batches())
    table = lab.run("rloo", lab.table(*episodes), of="reward")
    np.testing.assert_allclose(table.advantage, rloo_by_hand(episodes), atol=1e-12)


def test_published_figures_of_one_group(lab: Lab) -> None:
    scores = [1.0, 0.0, 0.0, 0.0]
    table = lab.table(*(lab.episode(f"e{i}", "g", 1, s) for i, s in enumerate(scores)))
    grpo = lab.run("grpo", table, of="reward").advantage
    np.testing.assert_allclose(grpo, [1.5, -0.5, -0.5, -0.5], atol=1e-5)
    assert lab.run("grpo", table, of="reward", std=False).advantage.tolist() == [0.75, -0.25, -0.25, -0.25]
    np.testing.assert_allclose(lab.run("rloo", table, of="reward").advantage, [1, -1 / 3, -1 / 3, -1 / 3])


@pytest.mark.parametrize("name", ["grpo", "rloo"])
@quick
@given(score=st.floats(0, 1), size=st.integers(1, 7))
def test_groups_all_alike_and_groups_of_one_give_exactly_zero(
    lab: Lab, name: str, score: float, size: int
) -> None:
    table = lab.table(*(lab.episode(f"e{i}", "g", 1 + i % 3, score) for i in range(size)))
    assert not lab.run(name, table, of="reward").advantage.any()


def test_the_total_of_an_episode_is_judged_not_its_last_reward(lab: Lab) -> None:
    table = lab.table(
        lab.episode("a", "g", 3, 0.0, reached={0: ["found"], 1: ["sent"]}),
        lab.episode("b", "g", 1, 0.0),
    )
    table = lab.run("rloo", lab.run("milestones", table))
    assert table.advantage.tolist() == [0.5, 0.5, 0.5, -0.5]
