"""Half observation, half prediction: the doubly-robust advantage by hand, and what it comes down to."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from turnwise.envs.types import EndReason
from turnwise.trainer.table import TurnTable

Lab = SimpleNamespace
quick = settings(max_examples=20, deadline=None)


def criticised(table: TurnTable, before: list[float], beyond: float = 0.9) -> TurnTable:
    """With a critic that says this of the states before the turns, and ``beyond`` after last ones."""
    success = np.array(before)
    after = np.where(table.last, beyond, np.append(success[1:], 0.0))
    return table.with_columns({"success_before": success, "success_after": after})


def finished_and_cut_off(lab: Lab) -> TurnTable:
    return lab.run(
        "outcome",
        lab.table(
            lab.episode("a", "g", 3, 1.0),
            lab.episode("b", "g", 2, 0.0),
            lab.episode("c", "g", 2, 0.0, EndReason.TURN_LIMIT),
        ),
    )


def test_by_hand(lab: Lab) -> None:
    """A success, a failure, and one cut off, where the critic's word of the state left counts."""
    table = criticised(finished_and_cut_off(lab), [0.5, 0.625, 0.75, 0.5, 0.25, 0.5, 0.25], beyond=0.125)
    result = lab.run("doubly_robust", table, of="step_reward", lam=0.75)
    assert result.td_advantage.tolist() == [
        0.75 * (1 - 0.5) + 0.25 * (0.625 - 0.5),
        0.75 * (1 - 0.625) + 0.25 * (0.75 - 0.625),
        0.75 * (1 - 0.75) + 0.25 * (1 - 0.75),
        0.75 * (0 - 0.5) + 0.25 * (0.25 - 0.5),
        0.75 * (0 - 0.25) + 0.25 * (0 - 0.25),
        0.75 * (0 - 0.5) + 0.25 * (0.25 - 0.5),
        0.75 * (0 - 0.25) + 0.25 * (0.125 - 0.25),
    ]
    assert result["value:step_reward"].tolist() == table.success_before.tolist()


def test_only_the_difference_feels_shaping(lab: Lab) -> None:
    """Potential 0, then 0.25: the first turn's reward is 0.25 and the last one's the score minus 0.25."""
    table = lab.run("outcome", lab.table(lab.episode("a", "g", 2, 1.0, reached={0: ["found"]})))
    table = criticised(lab.run("shaping", table, gamma=1.0), [0.5, 0.5])
    advantage = {
        lam: lab.run("doubly_robust", table, lam=lam).td_advantage.tolist() for lam in (0.0, 0.5, 1.0)
    }
    assert advantage == {0.0: [0.25, 0.25], 0.5: [0.375, 0.375], 1.0: [0.5, 0.5]}


@quick
@given(data=st.data(), lam=st.sampled_from([0.0, 0.25, 1.0]))
def test_a_critic_that_is_never_wrong_leaves_nothing_to_credit(
    lab: Lab, data: st.DataObject, lam: float
) -> None:
    """Where V is the outcome itself, both parts are 0 on finished episodes, whatever their mix."""
    episodes = data.draw(lab.batches(st.just(EndReason.SUBMITTED)))
    table = lab.run("outcome", lab.table(*episodes))
    table = criticised(table, table.outcome.tolist())
    result = lab.run("doubly_robust", table, of="step_reward", lam=lam)
    np.testing.assert_allclose(result.td_advantage, 0.0, atol=1e-12)


@quick
@given(data=st.data(), value=st.floats(0, 1))
def test_differences_add_up_to_the_observed_outcome(lab: Lab, data: st.DataObject, value: float) -> None:
    """Over a finished episode the second part telescopes to the first one of its first turn."""
    episodes = data.draw(lab.batches(st.just(EndReason.SUBMITTED)))
    table = lab.run("outcome", lab.table(*episodes))
    says = np.sin(np.arange(len(table)) + value) ** 2
    table = criticised(table, says.tolist())
    parts = [lab.run("doubly_robust", table, of="step_reward", lam=lam).td_advantage for lam in (0.0, 1.0)]
    np.testing.assert_allclose(table.by_episode.sum(parts[0]), parts[1][table.first], atol=1e-12)


def test_the_mix_is_a_share(lab: Lab) -> None:
    with pytest.raises(ValueError, match="lam = 2"):
        lab.run("doubly_robust", finished_and_cut_off(lab), lam=2)
