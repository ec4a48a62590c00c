"""Success, intervals and pass@k against what can be worked out by hand."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from turnwise.agents.metrics import Evaluation, failure_classes, milestone_rates, rates, wilson
from turnwise.agents.trajectory import Episode, Turn
from turnwise.envs.types import EndReason, FinishAction, RewardTerm, StepRecord, TaskRef, text


def episode(task: int, score: float | None, end: EndReason = EndReason.SUBMITTED, name: str = "e") -> Episode:
    ref = TaskRef(env="demo/x", id=f"test/{task}", seed=task)
    return Episode(name, "g", ref, "p", text(""), (), end, score)


def evaluation(*episodes: Episode) -> Evaluation:
    return Evaluation("demo/x", "p", "test", "h", episodes, 1.0)


def test_success_leaves_failures_of_the_machine_out() -> None:
    result = evaluation(episode(0, 1.0), episode(1, 0.0), episode(2, None, EndReason.INFRA_ERROR))
    assert result.success == 0.5
    assert result.excluded == {"infra_error": 1}


def test_an_evaluation_prints_as_a_line() -> None:
    lost = episode(3, None, EndReason.INFRA_ERROR)
    assert str(evaluation(episode(0, 1.0), episode(1, 0.0))) == (
        "p on demo/x, test: success 50.0%, 95% interval 9.5% to 90.5% (n = 2)"
    )
    assert str(evaluation(episode(0, 1.0), episode(1, 0.0), lost)).endswith("(n = 2, 1 more excluded)")
    assert str(evaluation(lost)) == "p on demo/x, test: nothing scored (n = 0, 1 more excluded)"


def test_nothing_scored_is_not_zero() -> None:
    result = evaluation(episode(0, None, EndReason.ENV_ERROR))
    assert math.isnan(result.success)
    assert all(math.isnan(bound) for bound in result.interval)


def test_wilson_by_hand() -> None:
    low, high = wilson(8, 10)
    assert low == pytest.approx(0.4901625, abs=1e-6)
    assert high == pytest.approx(0.9433178, abs=1e-6)


@pytest.mark.parametrize("count", [4, 64, 127])
def test_no_success_and_no_failure_are_ends_of_the_scale(count: int) -> None:
    assert wilson(0, count)[0] == 0.0
    assert wilson(count, count)[1] == 1.0


def test_pass_at_k_by_hand() -> None:
    result = evaluation(*(episode(0, s) for s in (1.0, 0.0, 0.0, 0.0)), *(episode(1, 0.0) for _ in range(4)))
    assert result.pass_at(1) == pytest.approx(0.125)
    assert result.pass_at(2) == pytest.approx((1 - 3 / 6) / 2)
    with pytest.raises(ValueError, match="needs 5"):
        result.pass_at(5)


@given(st.lists(st.lists(st.booleans(), min_size=3, max_size=3), min_size=1, max_size=8))
def test_pass_at_one_is_success_and_grows_with_k(tries: list[list[bool]]) -> None:
    result = evaluation(*(episode(i, float(s)) for i, group in enumerate(tries) for s in group))
    assert result.pass_at(1) == pytest.approx(result.success)
    assert result.pass_at(1) <= result.pass_at(2) + 1e-12 <= result.pass_at(3) + 2e-12
    low, high = result.interval
    assert low <= result.success + 1e-9
    assert high >= result.success - 1e-9


def test_rates_count_completion_and_exclusion() -> None:
    episodes = [episode(0, 1.0), episode(1, 0.0, EndReason.TURN_LIMIT), episode(2, None, EndReason.ENV_ERROR)]
    found = rates(episodes)
    assert found["success"] == 0.5
    assert found["completion"] == 0.5
    assert found["excluded"] == pytest.approx(1 / 3)
    assert milestone_rates(episodes, ["a"]) == {"a": 0.0}


def acted(score: float, end: EndReason, *modified: float | None) -> Episode:
    """An episode with a turn for each value of the channel ``modified``."""
    ref = TaskRef(env="demo/x", id="test/0", seed=0)
    turns = tuple(
        Turn(
            turn_id=f"e.{i}",
            parent_id=None,
            episode_id="e",
            group_id="g",
            index=i,
            spans=(),
            action=FinishAction(),
            record=StepRecord(turn=i, terms=(RewardTerm(channel="modified", level=1, value=value),)),
            observation=text(""),
        )
        for i, value in enumerate(modified)
    )
    return Episode("e", "g", ref, "p", text(""), turns, end, score)


def test_how_far_episodes_came_is_told_apart() -> None:
    episodes = [
        acted(1.0, EndReason.SUBMITTED, 0.0, 1.0),
        acted(0.0, EndReason.SUBMITTED, 1.0, 1.0),
        acted(0.0, EndReason.SUBMITTED, 1.0, 0.0),
        acted(0.0, EndReason.TURN_LIMIT, 1.0, 1.0),
        acted(0.0, EndReason.AGENT_FAULT, 1.0),
        episode(0, None, EndReason.ENV_ERROR),
    ]
    found = rates(episodes)
    assert found["completion"] == 3 / 5
    assert found["modified"] == 2 / 5
    assert found["resolved"] == 1 / 5
    assert failure_classes(episodes) == {"wrong": 1, "unchanged": 1, "turn_limit": 1, "agent_fault": 1}


def test_modification_is_not_told_where_the_environment_does_not_say() -> None:
    assert "modified" not in rates([episode(0, 0.0)])
    assert failure_classes([episode(0, 0.0)]) == {"wrong": 1}
