"""From the table to padded batches: which tokens are trained, where they stand, and in how many places."""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Literal

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from turnwise.agents.trajectory import Episode, Span
from turnwise.trainer.batch import TokenBatch, TrainingData
from turnwise.trainer.table import TurnTable

CPU = torch.device("cpu")


def with_advantages(table: TurnTable, values: Sequence[float] | None = None) -> TurnTable:
    """Every turn's advantage: these, or 1, 2, 3 …"""
    column = np.arange(1.0, len(table) + 1) if values is None else np.array(values, dtype=float)
    return table.with_columns({"advantage": column})


def all_batches(data: TrainingData, max_tokens: int = 10_000) -> list[TokenBatch]:
    return list(data.batches(data.chosen, max_tokens, CPU))


def taught(batch: TokenBatch) -> list[int]:
    """The ids that the places of a batch stand for: a place speaks of the token after it."""
    following = batch.ids[:, 1:].flatten()
    return following[batch.places].tolist()


def test_one_episode_by_hand(lab: SimpleNamespace) -> None:
    """Turns read 1 2 and write 10, then 10 11: places 1, then 4 and 5 of the six that have a next token."""
    data = TrainingData.of(with_advantages(lab.table(lab.episode("a", "g", 2)), [3.0, -4.0]))
    (batch,) = all_batches(data)
    assert batch.ids.tolist() == [[1, 2, 10, 1, 2, 10, 11]]
    assert batch.places.tolist() == [1, 4, 5]
    assert batch.advantages.tolist() == [3.0, -4.0, -4.0]
    assert batch.turns.tolist() == [0, 1, 1]
    assert batch.old_logprobs.tolist() == [-1.0, -1.0, -1.0]
    assert data.trainable_tokens(data.chosen) == len(batch) == 3


def test_only_what_the_learner_sampled_is_trained(lab: SimpleNamespace) -> None:
    spans = (
        lab.env_span(1),
        lab.policy_span(20, 21),
        Span((22,), "forced"),
        lab.policy_span(23, author="teacher"),
        Span((24,), "demo"),
        lab.env_span(25),
    )
    table = lab.table(lab.episode("a", "g", [lab.turn("a", "g", 0, spans=spans)]))
    (batch,) = all_batches(TrainingData.of(with_advantages(table)))
    assert taught(batch) == [20, 21]


def test_padding_is_never_trained_and_places_are_the_rows_own(lab: SimpleNamespace) -> None:
    table = lab.table(lab.episode("a", "g", 1), lab.episode("b", "g", 3))
    (batch,) = all_batches(TrainingData.of(with_advantages(table)))
    assert batch.ids.shape == (2, 12)
    assert batch.ids[0, 3:].tolist() == [0] * 9
    assert batch.places.tolist() == [1] + [11 + p for p in (1, 4, 5, 8, 9, 10)]
    assert taught(batch) == [10, 10, 10, 11, 10, 11, 12]
    assert batch.turns.tolist() == [0, 1, 2, 2, 3, 3, 3]


def test_a_sequence_without_advantages_is_left_out(lab: SimpleNamespace) -> None:
    table = lab.table(lab.episode("a", "g", 2), lab.episode("b", "g", 1), lab.episode("c", "g", 1))
    data = TrainingData.of(with_advantages(table, [0, 0, 5, 0]))
    assert data.chosen.tolist() == [1]
    assert TrainingData.of(with_advantages(table, [0, 1, 0, 0])).chosen.tolist() == [0]
    assert TrainingData.of(with_advantages(table, [0] * 4)).chosen.tolist() == []


def test_a_sequence_without_advantages_stays_where_zeros_teach(lab: SimpleNamespace) -> None:
    forced = lab.turn("c", "g", 0, spans=(lab.env_span(1), Span((22,), "forced"), lab.env_span(1)))
    table = lab.table(lab.episode("a", "g", 2), lab.episode("b", "g", 1), lab.episode("c", "g", [forced]))
    data = TrainingData.of(with_advantages(table, [0] * 4), zeros=True)
    assert data.chosen.tolist() == [0, 1]
    assert data.trainable_turns(data.chosen) == 3
    assert data.trainable_turns(data.chosen[1:]) == 1


def test_an_empty_table_has_nothing_to_teach(lab: SimpleNamespace) -> None:
    assert TrainingData.of(with_advantages(lab.table())).chosen.tolist() == []


def test_a_turn_that_nothing_comes_before_is_not_trained(lab: SimpleNamespace) -> None:
    first = lab.turn("a", "g", 0, spans=(lab.policy_span(10),))
    assert TrainingData.of(with_advantages(lab.table(lab.episode("a", "g", [first])))).chosen.tolist() == []
    table = lab.table(lab.episode("a", "g", [first, lab.turn("a", "g", 1)]))
    data = TrainingData.of(with_advantages(table))
    (batch,) = all_batches(data)
    assert batch.places.tolist() == [2, 3]
    assert data.trainable_tokens(data.chosen) == 2


def test_a_shared_turn_is_trained_in_one_sequence(lab: SimpleNamespace) -> None:
    """Both episodes read it; its advantage is the mean over them, times its weight."""
    shared = lab.turn("a", "g", 0)
    episodes = [
        lab.episode("a", "g", [shared, lab.turn("a", "g", 1)]),
        lab.episode("b", "g", [shared, lab.turn("b", "g", 1, parent_id="a.0")]),
    ]
    cases: list[tuple[Literal["one", "leaves"], float]] = [("one", 2.0), ("leaves", 4.0)]
    for weight, expected in cases:
        table = TurnTable.from_episodes(episodes, lab.milestones, lab.channels, shared_weight=weight)
        (batch,) = all_batches(TrainingData.of(with_advantages(table, [1.0, 7.0, 3.0, 9.0])))
        assert batch.ids.tolist() == [[1, 2, 10, 1, 2, 10, 11]] * 2
        assert batch.places.tolist() == [1, 4, 5, 6 + 4, 6 + 5]
        assert batch.advantages.tolist() == [expected, 7.0, 7.0, 9.0, 9.0]


def test_the_weight_of_a_turn_multiplies_its_advantage(lab: SimpleNamespace) -> None:
    table = lab.table(lab.episode("a", "g", 2)).with_columns({"weight": np.array([0.5, 0.0])})
    (batch,) = all_batches(TrainingData.of(with_advantages(table, [4.0, 4.0])))
    assert batch.advantages.tolist() == [2.0, 0.0, 0.0]


def test_minibatches_are_a_partition_in_an_order_of_the_seed(lab: SimpleNamespace) -> None:
    table = lab.table(*(lab.episode(f"e{i}", "g", 1) for i in range(10)))
    data = TrainingData.of(with_advantages(table))

    def drawn(seed: int) -> list[list[int]]:
        return [part.tolist() for part in data.minibatches(4, np.random.default_rng(seed))]

    assert [len(part) for part in drawn(0)] == [4, 4, 2]
    assert sorted(s for part in drawn(0) for s in part) == list(range(10))
    assert drawn(0) == drawn(0) != drawn(1)


@given(st.data())
def test_every_token_once_whatever_the_division(lab: SimpleNamespace, data: st.DataObject) -> None:
    """However many places a forward may have, the same tokens are trained with the same numbers."""
    episodes: list[Episode] = data.draw(lab.batches())
    max_tokens = data.draw(st.integers(1, 200))
    table = with_advantages(lab.table(*episodes))
    training = TrainingData.of(table)
    seen: list[tuple[int, float]] = []
    for batch in training.batches(training.chosen, max_tokens, CPU):
        rows, width = batch.ids.shape
        assert rows == 1 or rows * width <= max_tokens
        assert sorted(set(batch.turns.tolist())) == list(range(int(batch.turns.max()) + 1))
        seen += zip(taught(batch), batch.advantages.tolist(), strict=True)
    trained = table.tokens.trainable
    expected = zip(table.tokens.ids[trained], table.expand(table["advantage"])[trained], strict=True)
    assert sorted(seen) == sorted((int(i), float(a)) for i, a in expected)


@pytest.mark.parametrize("max_tokens", [1, 7, 10, 14, 1000])
def test_the_bound_on_places_is_used_up(lab: SimpleNamespace, max_tokens: int) -> None:
    """Ten sequences of seven: as many to a batch as fit, one at least."""
    data = TrainingData.of(with_advantages(lab.table(*(lab.episode(f"e{i}", "g", 2) for i in range(10)))))
    sizes = [len(batch.ids) for batch in all_batches(data, max_tokens)]
    assert set(sizes[:-1]) <= {max(1, max_tokens // 7)}
    assert sum(sizes) == 10
