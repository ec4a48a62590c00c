"""The turn table: what each column holds, what never enters, and how turns and tokens hang together."""

from __future__ import annotations

from itertools import pairwise
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from turnwise.agents.trajectory import Episode
from turnwise.envs.errors import UsageError
from turnwise.envs.types import EndReason, RewardTerm, StepRecord
from turnwise.trainer.columns import base_columns
from turnwise.trainer.table import TurnTable

Lab = SimpleNamespace
quick = settings(max_examples=20, deadline=None)


def scored(turn: int, **values: float | None) -> StepRecord:
    levels = {"outcome": 0, "validity": 1}
    terms = tuple(RewardTerm(channel=c, level=levels[c], value=v) for c, v in values.items())
    return StepRecord(turn=turn, terms=terms)


@pytest.fixture
def two(lab: Lab) -> TurnTable:
    """A submitted episode of three turns and one of two turns that ran out of them."""
    reached = {0: ["found"], 2: ["changed", "checked"]}
    return lab.table(
        lab.episode("a", "g", 3, 1.0, EndReason.SUBMITTED, reached),
        lab.episode("b", "g", 2, 0.5, EndReason.TURN_LIMIT, {1: ["sent"]}),
    )


def test_what_the_environment_said_stands_at_its_turns(two: TurnTable) -> None:
    expected = {
        "index": [0, 1, 2, 0, 1],
        "reward": [0, 0, 1, 0, 0.5],
        "outcome": [1, 1, 1, 0.5, 0.5],
        "progress": [0.25, 0, 0.5, 0, 0.25],
        "potential_before": [0, 0.25, 0.25, 0, 0],
        "potential_after": [0.25, 0.25, 0.75, 0, 0.25],
        "milestone:checked": [False, False, True, False, False],
        "valid": [True] * 5,
        "terminal": [False, False, True, False, False],
        "truncated": [False, False, False, False, True],
        "submitted": [False, False, True, False, False],
        "weight": [1] * 5,
    }
    for name, column in expected.items():
        assert two[name].tolist() == column, name
    assert two.reward is two["reward"]
    assert two.first.tolist() == [True, False, False, True, False]
    assert two.last.tolist() == [False, False, True, False, True]


def test_keys_are_codes_with_names(two: TurnTable) -> None:
    assert two.names["episode_id"][two.episode_id].tolist() == ["a", "a", "a", "b", "b"]
    assert two.names["group_id"][two.episode_group].tolist() == ["g", "g"]
    assert two.names["turn_id"][two.turn_id].tolist() == ["a.0", "a.1", "a.2", "b.0", "b.1"]
    assert two.parent_id.tolist() == [-1, 0, 1, -1, 3]


@pytest.mark.parametrize("milestones", [(), ("found", "changed", "checked", "sent")])
def test_the_columns_are_those_a_recipe_is_checked_against(lab: Lab, milestones: tuple[str, ...]) -> None:
    table = TurnTable.from_episodes([lab.episode("a", "g", 2)], milestones, lab.channels)
    assert set(table.columns) == set(base_columns(milestones, lab.channels))


def test_a_fault_of_the_machine_never_enters_and_is_counted(lab: Lab) -> None:
    table = lab.table(
        lab.episode("a", "g", 2, 1.0),
        lab.episode("b", "g", 3, None, EndReason.INFRA_ERROR),
        lab.episode("c", "g", 1, None, EndReason.ENV_ERROR),
        lab.episode("d", "g", 0, 0.0, EndReason.CONTEXT_LIMIT),
        lab.episode("e", "h", 1, None, EndReason.INFRA_ERROR),
    )
    assert len(table) == 2
    assert table.episodes == 1
    assert table.names["group_id"].tolist() == ["g"]
    assert table.excluded.by_reason == {"infra_error": 2, "env_error": 1, "no_turns": 1}
    assert (table.excluded.kept, table.excluded.excluded, table.excluded.share) == (1, 4, 0.8)


def test_a_batch_may_come_out_empty(lab: Lab) -> None:
    table = lab.table(lab.episode("a", "g", 2, None, EndReason.INFRA_ERROR))
    assert (len(table), table.episodes) == (0, 0)
    assert table.return_to_go(table.reward, 0.9).tolist() == []
    assert table.expand(table.reward).tolist() == []
    assert table.sequences().offsets.tolist() == [0]


def test_unscored_is_not_zero(lab: Lab) -> None:
    turns = [
        lab.turn("a", "g", 0, record=scored(0, validity=0.0)),
        lab.turn("a", "g", 1, record=scored(1, validity=None)),
        lab.turn("a", "g", 2, record=scored(2, validity=1.0, outcome=0.5)),
    ]
    table = lab.table(lab.episode("a", "g", turns))
    np.testing.assert_array_equal(table["channel:validity"], [0.0, np.nan, 1.0])
    np.testing.assert_array_equal(table["channel:outcome"], [np.nan, np.nan, 0.5])
    assert table.channels == lab.channels


def test_a_milestone_counts_once_however_often_it_is_reported(lab: Lab) -> None:
    table = lab.table(lab.episode("a", "g", 3, reached={0: ["found"], 1: ["found", "sent"], 2: ["found"]}))
    assert table.progress.tolist() == [0.25, 0.25, 0.0]
    assert table["milestone:found"].tolist() == [True, False, False]


@pytest.mark.parametrize(
    ("record", "message"),
    [
        (StepRecord(turn=0, milestones=("foudn",)), "unknown milestone 'foudn'; did you mean 'found'"),
        (
            StepRecord(turn=0, terms=(RewardTerm(channel="valid", level=1, value=1.0),)),
            "unknown reward channel 'valid'; did you mean 'validity'",
        ),
        (
            StepRecord(turn=0, terms=(RewardTerm(channel="validity", level=2, value=1.0),)),
            "turn a.0: channel 'validity' must come once, at level 1; got level 2",
        ),
        (
            StepRecord(turn=0, terms=(RewardTerm(channel="validity", level=1, value=1.0),) * 2),
            "turn a.0: channel 'validity' must come once",
        ),
    ],
)
def test_what_was_not_declared_is_refused(lab: Lab, record: StepRecord, message: str) -> None:
    episode = lab.episode("a", "g", [lab.turn("a", "g", 0, record=record)])
    with pytest.raises(UsageError, match=message):
        lab.table(episode)


def test_an_episode_cannot_come_twice(lab: Lab) -> None:
    with pytest.raises(UsageError, match="episode 'a' appears more than once"):
        lab.table(lab.episode("a", "g", 1), lab.episode("a", "g", 2))


def test_only_what_the_learner_sampled_is_trainable(lab: Lab) -> None:
    spans = (lab.env_span(1, 2), lab.policy_span(3), lab.policy_span(4, author="opponent"), lab.env_span(5))
    table = lab.table(lab.episode("a", "g", [lab.turn("a", "g", 0, spans=spans)]))
    tokens = table.tokens
    assert tokens.ids.tolist() == [1, 2, 3, 4, 5]
    assert tokens.trainable.tolist() == [False, False, True, False, False]
    sampled = np.array([np.nan, np.nan, -1, -1, np.nan], dtype=np.float32)
    np.testing.assert_array_equal(tokens.logprobs, sampled)
    assert tokens.version.tolist() == [-1, -1, 3, 3, -1]


def test_a_learner_that_wrote_nothing_is_a_mistake(lab: Lab) -> None:
    with pytest.raises(UsageError, match="learner 'lerner': the authors are learner"):
        TurnTable.from_episodes([lab.episode("a", "g", 1)], lab.milestones, lab.channels, learner="lerner")


def test_episodes_without_tokens_make_a_table(lab: Lab) -> None:
    table = lab.table(lab.episode("a", "g", [lab.turn("a", "g", 0, spans=())]))
    assert len(table) == 1
    assert table.expand(table.index).tolist() == []
    assert table.sequences().offsets.tolist() == [0]


def test_expand_puts_a_turns_value_on_its_own_tokens_only(two: TurnTable) -> None:
    value = np.array([1.0, 2.0, 3.0, 4.0, 5.0])
    expected = [0, 0, 1, 0, 0, 2, 2, 0, 0, 3, 3, 3, 0, 0, 4, 0, 0, 5, 5]
    assert two.expand(value).tolist() == expected
    assert two.expand(value.astype(np.float32)).dtype == np.float32
    assert two.tokens.row.tolist() == np.repeat([0, 1, 2, 3, 4], [3, 4, 5, 3, 4]).tolist()
    with pytest.raises(ValueError, match=r"a value per turn, shape \(5,\)"):
        two.expand(np.zeros(4))


@quick
@given(data=st.data())
def test_masks_never_leak(lab: Lab, data: st.DataObject) -> None:
    episodes: list[Episode] = data.draw(lab.batches())
    table = lab.table(*episodes)
    spread = table.expand(np.arange(1.0, len(table) + 1))
    written = [s for e in episodes for t in e.turns for s in t.spans]
    learned = np.concatenate([np.full(len(s.ids), s.source == "policy") for s in written])
    np.testing.assert_array_equal(spread != 0, learned)
    np.testing.assert_array_equal(spread[learned], table.tokens.row[learned] + 1.0)


@quick
@given(data=st.data(), gamma=st.sampled_from([0.0, 0.5, 0.95, 1.0]))
def test_return_to_go_is_the_plain_recursion(lab: Lab, data: st.DataObject, gamma: float) -> None:
    table = lab.table(*data.draw(lab.batches()))
    finite = st.floats(-5, 5, allow_subnormal=False)
    values = data.draw(st.lists(finite, min_size=len(table), max_size=len(table)))
    expected = list(values)
    for row in range(len(table) - 2, -1, -1):
        if table.episode_id[row] == table.episode_id[row + 1]:
            expected[row] += gamma * expected[row + 1]
    assert table.return_to_go(np.array(values), gamma).tolist() == expected


def test_long_episodes_do_not_overflow(lab: Lab) -> None:
    table = lab.table(lab.episode("a", "g", [lab.turn("a", "g", i, spans=()) for i in range(2000)], 1.0))
    returns = table.return_to_go(table.reward, 0.5)
    assert returns[-1] == 1.0
    assert returns[0] == 0.0
    assert np.isfinite(returns).all()


def test_columns_are_read_only_and_others_can_be_added(two: TurnTable) -> None:
    with pytest.raises(ValueError, match="read-only"):
        two.reward[0] = 1.0
    more = two.with_columns({"double": two.reward * 2})
    assert more.double.tolist() == [0, 0, 2, 0, 1]
    assert "double" not in two
    with pytest.raises(AttributeError, match=r"no column 'double' here.*reward"):
        _ = two.double
    with pytest.raises(KeyError, match="no column 'milestone:nope'"):
        _ = two["milestone:nope"]
    with pytest.raises(ValueError, match="another length than the table's 5 rows"):
        two.with_columns({"short": np.zeros(4)})


def test_rows_out_of_order_are_refused(two: TurnTable) -> None:
    for codes in ([0, 1, 0, 1, 1], [0, 0, 0, 0, 0], [1, 1, 1, 0, 0], [0, 0, 2, 2, 2]):
        with pytest.raises(ValueError, match="must be adjacent"):
            two.with_columns({"episode_id": np.array(codes)})


# ---------------------------------------------------------------- trees and threads


@pytest.fixture
def forked(lab: Lab) -> list[Episode]:
    """Two episodes that share their first turn, and a third of the same group apart from them."""
    shared = lab.turn("a", "g", 0)
    branch = lab.turn("b", "g", 1, parent_id="a.0")
    return [
        lab.episode("a", "g", [shared, lab.turn("a", "g", 1)], 1.0),
        lab.episode("b", "g", [shared, branch], 0.0),
        lab.episode("c", "g", 2, 0.0),
    ]


def test_a_shared_turn_is_trained_once_with_the_mean_of_its_leaves(lab: Lab, forked: list[Episode]) -> None:
    table = lab.table(*forked)
    assert table.turn_id.tolist() == [0, 1, 0, 2, 3, 4]
    assert table.parent_id.tolist() == [-1, 0, -1, 0, -1, 3]
    assert len(table.tokens.ids) == 3 + 4 + 4 + 3 + 4
    spread = table.expand(table.return_to_go(table.reward, 1.0))
    trained = table.tokens.trainable
    assert spread[trained].tolist() == [0.5, 1, 1, 0, 0, 0, 0, 0]


def test_the_weight_of_a_shared_turn_is_named(lab: Lab, forked: list[Episode]) -> None:
    assert lab.table(*forked).weight.tolist() == [1] * 6
    leaves = TurnTable.from_episodes(forked, lab.milestones, lab.channels, shared_weight="leaves")
    assert leaves.weight.tolist() == [2, 1, 2, 1, 1, 1]


def test_every_episode_reads_its_shared_tokens_and_one_owns_them(lab: Lab, forked: list[Episode]) -> None:
    table = lab.table(*forked)
    order = table.sequences()
    read = [table.tokens.ids[order.tokens[a:b]].tolist() for a, b in pairwise(order.offsets)]
    assert read == [[t for turn in e.turns for s in turn.spans for t in s.ids] for e in forked]
    assert order.owned.tolist() == [True] * 7 + [False] * 3 + [True] * 4 + [True] * 7
    assert order.rows.tolist() == [0] * 3 + [1] * 4 + [2] * 3 + [3] * 4 + [4] * 3 + [5] * 4
    assert order.episode.tolist() == [0, 1, 2]


def test_one_id_for_two_turns_is_refused(lab: Lab) -> None:
    other = lab.turn("b", "g", 0, turn_id="a.0", spans=(lab.policy_span(99),))
    with pytest.raises(UsageError, match=r"turn id 'a\.0' names two turns"):
        lab.table(lab.episode("a", "g", 1), lab.episode("b", "g", [other]))


def test_a_sub_agent_reads_its_own_sequence(lab: Lab) -> None:
    turns = [lab.turn("a", "g", i, thread_id=thread) for i, thread in enumerate(["main", "sub", "main"])]
    table = lab.table(lab.episode("a", "g", turns, 1.0))
    order = table.sequences()
    assert table.tokens.row[order.tokens].tolist() == [0] * 3 + [2] * 5 + [1] * 4
    assert order.rows.tolist() == table.tokens.row[order.tokens].tolist()
    assert order.offsets.tolist() == [0, 8, 12]
    assert table.return_to_go(table.reward, 0.5).tolist() == [0.25, 0.5, 1.0]
