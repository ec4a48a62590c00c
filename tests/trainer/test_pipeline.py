"""The graph of stages: in which order it runs, and what is refused before anything starts."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from turnwise.envs.errors import UsageError
from turnwise.trainer.columns import base_columns
from turnwise.trainer.pipeline import Pipeline
from turnwise.trainer.sections import StageRef
from turnwise.trainer.stage import credit
from turnwise.trainer.table import TurnTable

Lab = SimpleNamespace
pytestmark = pytest.mark.usefixtures("fresh_registry")
WITH = base_columns(("found", "changed", "checked", "sent"), {"outcome": 0, "validity": 1})
WITHOUT = base_columns((), {"outcome": 0, "validity": 1})
TD = {"kind": "gae", "into": "advantage"}


def build(*stages: Any, columns: tuple[str, ...] = WITH, group: int = 8) -> Pipeline:
    bound = [StageRef.model_validate(stage).bind() for stage in stages]
    return Pipeline.build(bound, columns, group)


def test_needs_decide_the_order() -> None:
    assert list(build("turn_baseline", "returns", "milestones").stages) == [
        "milestones",
        "returns",
        "turn_baseline",
    ]


def test_a_stage_may_come_twice() -> None:
    pipeline = build("outcome", {"kind": "grpo", "into": "a"}, "grpo")
    assert list(pipeline.stages) == ["outcome", "grpo", "grpo#2"]


REFUSED: list[tuple[tuple[Any, ...], dict[str, Any], str]] = [
    (("outcome", "returns"), {}, "no stage provides 'advantage'.*add one of: .*grpo.*rloo"),
    (("grpo",), {}, "stage 'grpo' needs column 'step_reward'.*add one of: gated, milestones, outcome"),
    (("outcome", "milestones", "grpo"), {}, "'outcome' and 'milestones' both provide column 'step_reward'"),
    (("outcome", {"kind": "grpo", "into": "valid"}), {}, "'grpo' provides column 'valid', which the env"),
    (("milestones", "grpo"), {"columns": WITHOUT}, "'milestones' needs .*environment declares no milestones"),
    (({"kind": "grpo", "of": "channel:x"},), {}, "declares channel:outcome, channel:validity"),
    (({"kind": "grpo", "of": "milestone:x"},), {"columns": WITHOUT}, "environment declares no milestones"),
    (({"kind": "grpo", "of": "rewrad"},), {}, "'rewrad', which nothing provides; did you mean 'reward'"),
    (("outcome", TD), {}, "'gae' needs column 'value:step_reward', which nothing.*add one of: critic"),
    (
        ("outcome", "critic", {**TD, "gamma": 0.5}),
        {},
        "'critic' and 'gae' must agree on gamma: 0.95 is not 0.5",
    ),
    (("outcome", "grpo"), {"group": 1}, "'grpo' compares episodes of one task, and rollout.group is 1"),
    (("milestones", "returns", "turn_baseline"), {"group": 1}, "'turn_baseline' compares episodes"),
]


@pytest.mark.parametrize(("stages", "options", "message"), REFUSED)
def test_what_cannot_work_is_refused(stages: tuple[Any, ...], options: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message) as error:
        build(*stages, **options)
    assert "\n" not in str(error.value)


def test_a_circle_is_named() -> None:
    credit("hen", scope="turn", needs=["egg"], provides=["bird"])(lambda t: {})
    credit("chick", scope="turn", needs=["bird"], provides=["egg"])(lambda t: {})
    with pytest.raises(UsageError, match=r"in a circle: hen -> chick -> hen|chick -> hen -> chick"):
        build("outcome", "hen", "chick", "grpo")


@pytest.mark.parametrize(
    "stages",
    [
        ("outcome", "shaping", {**TD, "of": "shaped_reward"}),
        ("outcome", "shaping", {"kind": "returns", "of": "shaped_reward"}, "turn_baseline"),
        ("outcome", "critic", "shaping", {**TD, "of": "shaped_reward"}),
    ],
    ids=["differences", "monte carlo", "a critic of the unshaped reward"],
)
def test_shaping_without_its_critic_is_refused_with_the_reason(stages: tuple[Any, ...]) -> None:
    with pytest.raises(UsageError, match=r"punished in proportion.*collapsed in 5 of 5 seeds") as error:
        build(*stages)
    assert "value:shaped_reward' (critic, doubly_robust)" in str(error.value)


def test_any_channel_will_do_where_all_are_read() -> None:
    @credit("lowest", scope="turn", needs=["channel:*"], provides=["step_reward"])
    def lowest(t: TurnTable) -> Any: ...

    assert list(build("lowest", "grpo").stages) == ["lowest", "grpo"]
    with pytest.raises(UsageError, match="the environment declares no channels"):
        build("lowest", "grpo", columns=base_columns((), ()))


def test_a_run_gives_credit_and_counts_groups_that_teach_nothing(lab: Lab) -> None:
    table = lab.table(
        lab.episode("a", "mixed", 2, 1.0),
        lab.episode("b", "mixed", 1, 0.0),
        lab.episode("c", "alike", 2, 0.3),
        lab.episode("d", "alike", 3, 0.3),
        lab.episode("e", "alone", 2, 1.0),
    )
    result = build("outcome", "rloo").run(table, {})
    assert result.advantage.tolist() == [1, 1, -1, 0, 0, 0, 0, 0, 0, 0]
    assert result.table.step_reward.tolist() == table.reward.tolist()
    assert (result.groups, result.groups_of_one, result.groups_without_signal) == (3, 1, 2)
    assert result.state == {}


def test_an_empty_batch_passes_through(lab: Lab) -> None:
    empty = TurnTable.from_episodes([], lab.milestones, lab.channels)
    pipelines = [
        build("milestones", "returns", "turn_baseline"),
        build("outcome", "grpo"),
        build("outcome", "critic", "gae", "scale"),
    ]
    for pipeline in pipelines:
        assert len(pipeline.run(empty, {}).advantage) == 0


def test_state_is_kept_by_stage_and_belongs_to_its_recipe(lab: Lab) -> None:
    table = lab.table(lab.episode("a", "g", 2, 1.0), lab.episode("b", "g", 2, 0.0))
    pipeline = build("outcome", "critic", TD)
    first = pipeline.run(table, {})
    assert first.state == {"critic": {"value": [pytest.approx(0.4875), None, None, None, None]}}
    assert pipeline.run(table, first.state).state == first.state
    with pytest.raises(UsageError, match="state of stages that this recipe lacks: critic"):
        build("outcome", "grpo").run(table, first.state)
    with pytest.raises(UsageError, match="state has 5 levels, the environment 3"):
        pipeline.run(TurnTable.from_episodes([lab.episode("c", "g", 1)], ("x", "y"), {}), first.state)


def test_a_failing_stage_leaves_the_table_as_it_was(lab: Lab) -> None:
    @credit("fails", scope="turn", needs=["step_reward"], provides=["advantage"])
    def fails(t: TurnTable) -> Any:
        raise ZeroDivisionError("no")

    table = lab.table(lab.episode("a", "g", 2, 1.0))
    before = dict(table.columns)
    with pytest.raises(ZeroDivisionError) as error:
        build("outcome", "fails").run(table, {})
    assert error.value.__notes__ == ["in credit stage 'fails', on 2 turns"]
    assert table.columns.keys() == before.keys()
    assert all(np.array_equal(table[name], before[name], equal_nan=True) for name in before)
